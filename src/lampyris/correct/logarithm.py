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
window allows at four standard deviations, so that a shadow beside bright air is not smeared into it (Lepski 1990).
Rays above the threshold are the ordinary logarithm with the same bias term. Related: Hsieh 1998, Med. Phys. 25:2139.
"""

from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import uniform_filter1d

from lampyris.correct.block import Block, settings
from lampyris.correct.dark_air import OpenBeam
from lampyris.model import Applied, Float32, Noise, RawScan, Step

Real: TypeAlias = NDArray[np.floating[Any]]

WINDOWS = ((1, 1, 1), (1, 3, 3), (3, 3, 7), (5, 7, 15), (9, 15, 31))
"""Views, rows and columns over which the local mean is taken."""
HALO = WINDOWS[-1][0] // 2
AGREE = 4.0
DARKEST = 3.0
"""A mean below so many of its own standard deviations is no signal: it is set there and counted, its weight is tiny."""


@dataclass(slots=True)
class Logarithm:
    """The step with the noise that it works with, counting what it found."""

    noise: Noise
    assumed: bool
    quanta: float
    structure: float
    rays: int = 0
    starved: int = 0
    negative: int = 0
    dark: int = 0

    @staticmethod
    def of(scan: RawScan, beam: OpenBeam, step: Step) -> "Logarithm":
        """Settings: `quanta` below which a ray is starved (100), `structure` the relative detail kept among starved
        neighbours (0.5), `quanta_in_air` assumed where the scan does not know its noise (100 000)."""
        chosen = settings(step, quanta=100.0, structure=0.5, quanta_in_air=1e5)
        noise = scan.noise
        if noise is None:
            exposure = float(np.median(scan.exposure_mas) / scan.air_exposure_mas)
            in_air = float(np.median(beam.net_air[:, beam.working])) * exposure
            noise = Noise(in_air / chosen["quanta_in_air"], 0.0)
        return Logarithm(noise, scan.noise is None, float(chosen["quanta"]), float(chosen["structure"]))

    def apply(self, block: Block, inner: slice) -> tuple[Float32, Float32]:
        """Integrals and weights of the block's views `inner`; the others are there as neighbours."""
        net, open_ = block.net[inner], np.maximum(block.open_[inner], 1e-30)
        mean: Real = np.maximum(net, 1e-30)
        enough = self._information(mean, 1.0) * (net > 0)
        integrals: Real = -np.log(mean / open_) - 0.5 / np.maximum(enough, self.quanta / 4)
        self.rays += net.size
        self.negative += int((net <= 0).sum())
        if (enough < self.quanta).any():
            starved = enough < self.quanta
            self.starved += int(starved.sum())
            integrals, mean = self._expand(block, inner, integrals, enough)
        variance = self.noise.gain_counts * mean + self.noise.electronic_counts**2
        weights = mean * mean / variance
        return np.asarray(integrals, np.float32), np.asarray(weights, np.float32)

    def record(self) -> Applied:
        return Applied.of(
            "log",
            quanta=self.quanta,
            structure=self.structure,
            gain_counts=self.noise.gain_counts,
            electronic_counts=self.noise.electronic_counts,
            noise="assumed" if self.assumed else "of the scan",
            rays=self.rays,
            starved_rays=self.starved,
            rays_not_above_zero=self.negative,
            rays_without_signal=self.dark,
        )

    def _information(self, mean: Real, share: float | Real) -> Real:
        """Squared signal to noise of a mean over 1/share rays: its noise-equivalent quanta."""
        variance = (self.noise.gain_counts * mean + self.noise.electronic_counts**2) * share
        return np.asarray(mean * mean / variance)

    def _expand(self, block: Block, inner: slice, integrals: Real, enough: Real) -> tuple[Real, Real]:
        """Blend in the expansion about the local mean where a ray itself does not hold enough quanta."""
        net, open_ = block.net[inner], np.maximum(block.open_[inner], 1e-30)
        open_beam = block.open_.astype(np.float64)
        counts = np.where(block.open_ > 0, block.net, 0).astype(np.float64)
        finer: Real = net
        finer_share: Real = np.ones_like(net)
        left = 1.0 - _step(enough / self.quanta)
        total, centre = integrals * (1 - left), np.maximum(net, 0) * (1 - left)
        for window in WINDOWS[1:]:
            beam = _summed(open_beam, window)[inner]
            share = open_ / np.maximum(beam, open_)
            mean: Real = np.clip(share * _summed(counts, window)[inner], *self._agreeing(finer, finer_share))
            last = window is WINDOWS[-1]
            if last:
                mean = self._floored(mean, share, left)
            quanta = self._information(np.maximum(mean, 1e-30), share) * (mean > 0)
            part = left if last else left * _step(quanta / self.quanta)
            total += part * self._about(np.maximum(mean, 1e-30), share, net, open_)
            centre += part * mean
            left, finer, finer_share = left - part, mean, share
            if not left.any():
                break
        return np.asarray(total, np.float32), np.asarray(centre, np.float32)

    def _about(self, mean: Real, share: Real, net: Real, open_: Real) -> Real:
        """The expansion of −ln(N/n₀) about `mean`, held finite where it will not be used."""
        variance = self.noise.gain_counts * mean + self.noise.electronic_counts**2
        relative = variance / mean**2
        kept = 1 / (1 + relative / self.structure**2)
        bias = 0.5 * np.minimum(relative * share, 4 / self.quanta)
        return np.asarray(-np.log(mean / open_) - kept * (net - mean) / mean - bias, np.float64)

    def _agreeing(self, mean: Real, share: Real) -> tuple[Real, Real]:
        """Range of true means for which a window's mean would lie within four standard deviations."""
        gain, dark = self.noise.gain_counts * share, self.noise.electronic_counts**2 * share
        middle = mean + AGREE**2 * gain / 2
        half = AGREE * np.sqrt(np.maximum(gain * mean + dark + AGREE**2 * gain**2 / 4, 0))
        return middle - half, middle + half

    def _floored(self, mean: Real, share: Real, left: Real) -> Real:
        """The mean, not below three of the standard deviations that it would have at nothing."""
        gain, dark = self.noise.gain_counts * share, self.noise.electronic_counts**2 * share
        floor = DARKEST**2 * gain / 2 + DARKEST * np.sqrt(dark + DARKEST**2 * gain**2 / 4)
        self.dark += int(((mean < floor) & (left > 0)).sum())
        return np.asarray(np.maximum(mean, floor))


def _summed(values: Real, window: tuple[int, int, int]) -> Real:
    """Sums over a box around every cell; beyond the edges there is nothing."""
    for axis, size in enumerate(window):
        reach = min(size, 2 * values.shape[axis] - 1)
        if reach > 1:
            values = uniform_filter1d(values, reach, axis=axis, mode="constant") * reach
    return values


def _step(ratio: Real) -> Real:
    """0 below a half, 1 above one and a half, smooth between: no ray jumps from one estimate to the other."""
    x = np.clip(ratio - 0.5, 0, 1)
    return np.asarray(x * x * (3 - 2 * x), np.float32)
