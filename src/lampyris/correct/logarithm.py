"""Net counts and open beam → line integrals −ln t and their weights, without bias where rays are starved.

Naive logarithms lie twice at low counts: ⟨−ln N⟩ exceeds −ln⟨N⟩ by var/(2⟨N⟩²), and zero or negative net counts have
none, so that clipping them makes the object denser or thinner than it is. Here a ray with fewer than `quanta`
noise-equivalent quanta is expanded about a local mean m of itself and its neighbours,

    p = −ln(m/n₀) − λ·(N − m)/m − var(m)/(2m²),     λ = 1/(1 + var(N)/(m·structure)²),

which is linear in the noisy count N: zero and negative counts enter as what they are. var(m)/(2m²) is what is left
of the bias for any λ when m is a mean of equal weights that holds the ray itself (second-order delta method). λ keeps
the ray's own detail as far as it exceeds the detail expected among neighbours; it bounds the noise of a ray to
structure/2 and, since N − m has mean 0, moves no mean. m is the ratio estimator Σ N / Σ n₀ over the smallest of five
nested windows (views × rows × columns) that holds enough quanta, and never leaves the range that the next smaller
window allows at three standard deviations, so that a shadow beside bright air is not smeared into it (Lepski 1990).
This is done twice: the second time n₀ is replaced by the counts that a smoothed first estimate expects, so that what
a window averages is nearly constant and a rod's shadow keeps its depth. Rays above the threshold are the ordinary
logarithm with the same bias term. Related: Hsieh 1998, Med. Phys. 25:2139.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numba as nb
import numpy as np
from scipy.ndimage import uniform_filter

from lampyris.correct.block import Block, settings
from lampyris.correct.dark_air import OpenBeam
from lampyris.model import Applied, Float32, Float64, Noise, RawScan, RecipeError, Step

WINDOWS = ((1, 1, 1), (1, 3, 3), (3, 3, 7), (5, 7, 15), (9, 15, 31))
"""Views, rows and columns over which the local mean is taken."""
GUIDE = (3, 3, 7)
"""Over which a first estimate is smoothed to say how counts vary within a window."""
HALO = WINDOWS[-1][0] // 2 + GUIDE[0] // 2 + WINDOWS[-1][0] // 2
AGREE = 3.0
DARKEST = 3.0
"""A mean below so many of its own standard deviations is no signal: it is set there and counted, its weight is tiny."""

_REACH = np.array([[size // 2 for size in window] for window in WINDOWS[1:]])


@dataclass(slots=True)
class Logarithm:
    """The step with the noise that it works with, counting what it found."""

    noise: Noise
    assumed: bool
    quanta: float
    structure: float
    keeps_quanta: bool = False
    rays: int = 0
    starved: int = 0
    negative: int = 0
    dark: int = 0

    @staticmethod
    def of(scan: RawScan, beam: OpenBeam, step: Step) -> "Logarithm":
        """Settings: `quanta` below which a ray is starved (100), `structure` the relative detail kept among starved
        neighbours (0.5), `quanta_in_air` assumed where the scan does not know its noise (100 000), `keep_quanta` beside
        the integrals for a likelihood (false)."""
        chosen = settings(step, quanta=100.0, structure=0.5, quanta_in_air=1e5, keep_quanta=False)
        keeps = chosen.pop("keep_quanta")
        if not isinstance(keeps, bool):
            raise RecipeError(f"log: keep_quanta is {keeps!r}, expected true or false")
        if not min(chosen.values()) > 0:
            raise RecipeError(f"log: {chosen}: expected all above 0")
        noise = scan.noise
        if noise is None:
            exposure = float(np.median(scan.exposure_mas) / scan.air_exposure_mas)
            in_air = float(np.median(beam.net_air[:, beam.working])) * exposure
            noise = Noise(in_air / chosen["quanta_in_air"], 0.0)
        return Logarithm(noise, scan.noise is None, float(chosen["quanta"]), float(chosen["structure"]), keeps)

    def apply(self, block: Block, inner: slice) -> tuple[Float32, Float32]:
        """Integrals and weights of the block's views `inner`; the others are there as neighbours."""
        gain, dark = self.noise.gain_counts, self.noise.electronic_counts**2
        limits = np.array([gain, dark, self.quanta, self.structure, AGREE, DARKEST])
        integrals, weights = np.empty_like(block.net), np.empty_like(block.net)
        _ordinary(block.net, block.open_, integrals, weights, limits)
        starved = np.isnan(integrals)
        self.rays += starved[inner].size
        self.starved += int(starved[inner].sum())
        self.negative += int((block.net[inner] <= 0).sum())
        if starved.any():
            counts = _cumulative(np.where(block.open_ > 0, block.net, 0))
            _expand(block.net, block.open_, counts, _cumulative(block.open_), integrals, weights, limits, _REACH)
            guide = uniform_filter(integrals, GUIDE, mode="nearest")
            expected = block.open_ * np.exp(-guide)
            integrals[starved] = np.nan
            lost = _expand(block.net, expected, counts, _cumulative(expected), integrals, weights, limits, _REACH)
            integrals[starved] += guide[starved]
            self.dark += int(lost[inner].sum())
        return integrals[inner], weights[inner]

    def fresh(self) -> "Logarithm":
        """The same step that has counted nothing."""
        return replace(self, rays=0, starved=0, negative=0, dark=0)

    @property
    def counted(self) -> list[float]:
        """What it found, for `add`."""
        return [self.rays, self.starved, self.negative, self.dark]

    def add(self, counted: Sequence[float]) -> None:
        """Count what the same step found in other views."""
        rays, starved, negative, dark = (int(each) for each in counted)
        self.rays, self.starved = self.rays + rays, self.starved + starved
        self.negative, self.dark = self.negative + negative, self.dark + dark

    def record(self) -> Applied:
        return Applied.of(
            "log",
            quanta=self.quanta,
            structure=self.structure,
            keep_quanta=self.keeps_quanta,
            gain_counts=self.noise.gain_counts,
            electronic_counts=self.noise.electronic_counts,
            noise="assumed" if self.assumed else "of the scan",
            rays=self.rays,
            starved_rays=self.starved,
            rays_not_above_zero=self.negative,
            rays_without_signal=self.dark,
        )


def _cumulative(values: Float32) -> Float64:
    """Summed-volume table with a layer of zeros before each axis: any box sum is eight look-ups."""
    table = np.zeros(tuple(n + 1 for n in values.shape))
    inner = table[1:, 1:, 1:]
    inner[...] = values
    for axis in range(3):
        np.cumsum(inner, axis=axis, out=inner)
    return table


@nb.njit(cache=True, parallel=True)
def _ordinary(net: Any, open_: Any, integrals: Any, weights: Any, limits: Any) -> None:
    """The logarithm with its own bias taken out, NaN for starved rays; 0 and weight 0 where a cell sees no beam."""
    gain, dark, wanted = limits[0], limits[1], limits[2]
    for view in nb.prange(net.shape[0]):
        for row in range(net.shape[1]):
            for column in range(net.shape[2]):
                n, beam = float(net[view, row, column]), float(open_[view, row, column])
                quanta = n * n / (gain * n + dark) if n > 0 else 0.0
                if beam <= 0:
                    integrals[view, row, column] = 0.0
                    weights[view, row, column] = 0.0
                elif quanta >= 1.5 * wanted:
                    integrals[view, row, column] = -np.log(n / beam) - 0.5 / quanta
                    weights[view, row, column] = quanta
                else:
                    integrals[view, row, column] = np.nan


@nb.njit(cache=True, parallel=True)
def _expand(
    net: Any, open_: Any, counts: Any, beams: Any, integrals: Any, weights: Any, limits: Any, reach: Any
) -> Any:
    """Fill in the starved rays, marked NaN, from expansions about local means; rays without signal in each view.

    `counts`, `beams` are the summed-volume tables of `net` and `open_`.
    """
    gain, dark = limits[0], limits[1]
    lost = np.zeros(integrals.shape[0], np.int64)
    for view in nb.prange(integrals.shape[0]):
        for row in range(integrals.shape[1]):
            for column in range(integrals.shape[2]):
                if np.isnan(integrals[view, row, column]):
                    place = (view, row, column)
                    integral, centre, floored = _about_means(
                        net[place], open_[place], counts, beams, place, limits, reach
                    )
                    integrals[view, row, column] = integral
                    weights[view, row, column] = centre * centre / (gain * centre + dark)
                    lost[view] += floored
    return lost


@nb.njit(cache=True)
def _about_means(n: Any, beam: Any, counts: Any, beams: Any, place: Any, limits: Any, reach: Any) -> Any:
    """Integral of one ray, the mean that it was expanded about, and whether that had to be held above nothing.

    Walks from the ray itself to the largest window until windows with enough quanta have taken all of the weight.
    """
    gain, dark, wanted, structure, agree, darkest = limits
    left, total, centre = 1.0, 0.0, 0.0
    mean, share = float(n), 1.0
    if n > 0:
        quanta = mean * mean / (gain * mean + dark)
        left = 1.0 - _onset(quanta / wanted)
        total = (1 - left) * (-np.log(mean / beam) - 0.5 / quanta)
        centre = (1 - left) * mean
    floored = 0
    for level in range(len(reach)):
        low, high = _agreeing(mean, share * gain, share * dark, agree)
        share = beam / max(_box(beams, place, reach[level]), beam)
        mean = min(max(share * _box(counts, place, reach[level]), low), high)
        last = level == len(reach) - 1
        if last:
            floor = _agreeing(0.0, share * gain, share * dark, darkest)[1]
            floored = 1 if mean < floor else 0
            mean = max(mean, floor)
        if mean > 0:
            relative = (gain * mean + dark) / mean**2
            part = left if last else left * _onset(1 / (relative * share * wanted))
            kept = 1 / (1 + relative / structure**2)
            total += part * (-np.log(mean / beam) - kept * (n - mean) / mean - relative * share / 2)
            centre += part * mean
            left -= part
        if left <= 0:
            break
    return total, centre, floored


@nb.njit(cache=True)
def _agreeing(mean: Any, gain: Any, dark: Any, deviations: Any) -> Any:
    """Range of true means for which the one found lies within so many standard deviations √(gain·mean + dark)."""
    middle = mean + deviations**2 * gain / 2
    half = deviations * np.sqrt(max(gain * mean + dark + (deviations * gain) ** 2 / 4, 0.0))
    return middle - half, middle + half


@nb.njit(cache=True)
def _box(table: Any, place: Any, reach: Any) -> Any:
    """Sum over the box about a ray, cut at the borders of the block."""
    view, row, column = place
    a, b = max(view - reach[0], 0), min(view + reach[0] + 1, table.shape[0] - 1)
    c, d = max(row - reach[1], 0), min(row + reach[1] + 1, table.shape[1] - 1)
    e, f = max(column - reach[2], 0), min(column + reach[2] + 1, table.shape[2] - 1)
    upper = table[b, d, f] - table[b, d, e] - table[b, c, f] + table[b, c, e]
    lower = table[a, d, f] - table[a, d, e] - table[a, c, f] + table[a, c, e]
    return upper - lower


@nb.njit(cache=True)
def _onset(ratio: Any) -> Any:
    """0 below a half, 1 above one and a half, smooth between: no ray jumps from one estimate to the other."""
    x = min(max(ratio - 0.5, 0.0), 1.0)
    return x * x * (3 - 2 * x)
