"""Noisy line integrals and the quanta behind them → the integrals that explain those quanta and their neighbours best.

A ray of n₀·e^(−p) expected quanta shows y, with that variance and the electronics' r more: y + r is nearly a Poisson
number (shifted Poisson; Snyder et al. 1993, J. Opt. Soc. Am. A 10:1014; Yavuz & Fessler 1998, Med. Image Anal. 2:363).
The restored sinogram minimises, over all rays at once,

    Σ ȳ + r − (y + r)·ln(ȳ + r) + b·p   +   strength · Σ ψ(p − p′),      ȳ = n₀·e^(−p),

The slope of a ray's term, ȳ·(y − ȳ)/(ȳ + r), is linear in its count: zero and negative counts enter as what they are
and nothing is clipped. ψ(d) = δ²·(√(1 + d²/δ²) − 1) over neighbours along views, rows and columns: quadratic below δ,
`edge` standard deviations of the difference by counting noise alone, and linear beyond it, so that what the noise
cannot explain stays an edge (Charbonnier et al. 1997, IEEE Trans. Image Process. 6:298). Unlike a filter it smooths a
ray as far as its quanta are few: a ray of as many quanta as `strength` spreads over about one cell, of a hundred times
as many over a tenth, and none over more than `reach` cells, lest a shadow behind which hardly anything is left lose its
depth: between two rays of weights w, w′ it is 1/(1/strength + (1/w + 1/w′)/(2·reach²)). Penalised likelihood on
sinograms: La Rivière & Billmire 2005, IEEE Trans. Med. Imaging 24:105; from the noise-generating mechanism: Xie et al.
2017, IEEE Trans. Med. Imaging 36:2487.

Bias. To second order, the estimate that solves Σ slopes = 0 is off by ½v − (r/V)·(g − v), with V = ȳ + r the variance
of the count, g = [(W + strength·L)⁻¹]ᵢᵢ, v = [(W + strength·L)⁻¹ W (W + strength·L)⁻¹]ᵢᵢ its own variance, W the rays'
weights and L the Laplacian of the lattice (expand the slope to second order about the truth, as Cox & Snell 1968, J. R.
Stat. Soc. B 30:248, do). A lone ray has g = v = 1/w: the bias of the logarithm. b = w·(½v − (r/V)·(g − v)) takes it out
(Firth 1993, Biometrika 80:27), g and v being those of an even field of such rays:
strength·g = ∫₀^∞ e^(−xt)·Π e^(−2st)·I₀(2st) dt with x = w/strength + 1/reach² and s the three shares.

Solved in place by descent over a chessboard of lines: each step goes to the least of a parabola that lies above the
objective. The curvature of a ray's term grows with ȳ and is taken at 2ȳ, which holds for steps down to p − ln 2; no
step goes further.
"""

from dataclasses import dataclass
from typing import Any

import numba as nb
import numpy as np
from scipy.special import ive

from lampyris.correct.block import settings
from lampyris.model import Applied, Float32, Float64, Geometry, Progress, Quanta, RecipeError, Step, silent

OVER = 1.4
"""Over-relaxation; any value below 2 keeps the descent."""
BRIGHT = 300.0
"""A ray of so many times `strength` quanta would move by a hundredth of its noise: it is left as it is."""
FAINT = np.float32(1e-6)
"""Least weight that the noise of a difference is reckoned with."""
LONGEST_SPOT_CYCLE = 4
LOG_2 = 0.6931472
OCTAVES = 14
"""Spreads are tabulated for weights of 2^−14 … 2^14 times `strength`, four to the octave."""


@dataclass(slots=True)
class Restoration:
    """The penalty, how far apart views of the same focal spot lie, and what was found."""

    strength: float
    edge: float
    shares: tuple[float, float, float]
    reach: float
    sweeps: int
    cycle: int
    restored: int = 0
    rays: int = 0
    last_move: float = 0.0

    @staticmethod
    def of(geometry: Geometry, step: Step) -> "Restoration":
        """Settings: `strength` in quanta (3), `edge` in standard deviations (3), `reach` in cells (3), `shares` of
        the strength along views, rows and columns ([1, 0.25, 1]), `sweeps` (8)."""
        chosen = settings(step, strength=3.0, edge=3.0, reach=3.0, shares=(1.0, 0.25, 1.0), sweeps=8)
        shares = tuple(float(each) for each in chosen["shares"])
        if len(shares) != 3 or min(shares) < 0 or not max(shares) > 0:
            raise RecipeError(f"restore: shares {shares}: expected three, ≥ 0, for views, rows and columns")
        strength, edge, reach = (float(chosen[name]) for name in ("strength", "edge", "reach"))
        sweeps = int(chosen["sweeps"])
        if not min(strength, edge, reach, sweeps) > 0:
            raise RecipeError(
                f"restore: strength {strength}, edge {edge}, reach {reach}, sweeps {sweeps}: expected all above 0"
            )
        return Restoration(strength, edge, (shares[0], shares[1], shares[2]), reach, sweeps, spot_cycle(geometry))

    def apply(self, integrals: Float32, weights: Float32, quanta: Quanta, progress: Progress = silent) -> None:
        """Restore (views, rows, columns) in place.

        `weights` come in as inverse variances of the rays' own integrals and leave as the same at the restored
        expectation, ȳ²/(ȳ + r): what a ray's count can tell, no longer correlated with that count's own noise. They
        are not the inverse variances of the restored integrals, whose errors neighbours share.
        """
        facts = np.array(
            [
                quanta.electronic, *self.shares, self.edge**2, OVER, BRIGHT * self.strength,
                1 / self.strength, 0.5 / self.reach**2,
            ],
            np.float32,
        )  # fmt: skip
        beam = (quanta.measured, quanta.air, quanta.exposure.astype(np.float32), quanta.spot)
        tilt = np.empty_like(integrals)
        _prepare(weights, tilt, spreads(self.shares), facts)
        moved = np.zeros(len(integrals))
        for sweep in range(self.sweeps):
            moved[:] = 0
            for colour in (0, 1):
                _sweep(integrals, weights, tilt, beam, facts, self.cycle, colour, moved)
            progress((sweep + 1) / self.sweeps)
        restored = _reweigh(integrals, weights, beam, facts[0], facts[6])
        self.rays += integrals.size
        self.restored += int(restored.sum())
        self.last_move = float(np.sqrt(moved.sum() / max(self.restored, 1)))

    def record(self) -> Applied:
        return Applied.of(
            "restore",
            strength=self.strength,
            edge=self.edge,
            reach=self.reach,
            shares=list(self.shares),
            sweeps=self.sweeps,
            focal_spot_cycle=self.cycle,
            rays=self.rays,
            restored_rays=self.restored,
            rms_last_move_in_noise=self.last_move,
        )


def spot_cycle(geometry: Geometry) -> int:
    """After how many views the focal spot stands again where it stood over the detector: 1 if it does not fly.

    Of cycles up to four the shortest is taken that leaves it within 0.05 mm; if none does, the one that comes nearest.
    """
    if geometry.parallel:
        return 1
    away = geometry.source - geometry.detector
    across = geometry.u / np.linalg.norm(geometry.u, axis=1, keepdims=True)
    axial = geometry.v / np.linalg.norm(geometry.v, axis=1, keepdims=True)
    seen = np.stack([np.einsum("vi,vi->v", away, each) for each in (across, axial, np.cross(across, axial))], 1)
    cycles = range(1, min(LONGEST_SPOT_CYCLE, len(seen) - 1) + 1)
    moved = [float(np.abs(seen[cycle:] - seen[:-cycle]).max()) for cycle in cycles]
    return next(
        (cycle for cycle, by in zip(cycles, moved, strict=True) if by < 0.05), int(np.argmin([*moved, 1e30])) + 1
    )


def spreads(shares: tuple[float, float, float]) -> Float64:
    """(2, nodes): w·g and w·v of an even field of rays at x = w/strength = 2^−14 … 2^14, four nodes to the octave."""
    x = 2.0 ** (np.arange(8 * OCTAVES + 1) / 4 - OCTAVES)
    log_t = np.linspace(np.log(1e-7), np.log(1e7), 2001)
    t = np.exp(log_t)
    walk = np.prod([ive(0, 2 * share * t) for share in shares], axis=0) * t  # ∫ f(t) dt = ∫ f(t)·t d(ln t)
    decay = np.exp(-x[:, None] * t)
    step = log_t[1] - log_t[0]
    return np.asarray(np.stack([x * (decay @ walk), x**2 * (decay @ (walk * t))]) * step, np.float64)


@nb.njit(cache=True, parallel=True, error_model="numpy")
def _prepare(weights: Any, tilt: Any, table: Any, facts: Any) -> None:
    """Weights become variances, in place; `tilt` is what each ray's slope needs to be without bias."""
    electronic = facts[0]
    for view in nb.prange(len(weights)):
        for row in range(weights.shape[1]):
            for column in range(weights.shape[2]):
                weight = max(weights[view, row, column], FAINT)
                ratio = weight * facts[7] + 2 * facts[8]
                place = min(max((np.log2(ratio) + OCTAVES) * 4, 0.0), table.shape[1] - 1.001)
                node = int(place)
                share = place - node
                own = (1 - share) * table[0, node] + share * table[0, node + 1]
                spread = (1 - share) * table[1, node] + share * table[1, node + 1]
                mean = 0.5 * (weight + np.sqrt(weight * weight + 4 * weight * electronic))
                tilt[view, row, column] = 0.5 * spread - electronic / (mean + electronic) * (own - spread)
                weights[view, row, column] = 1 / weight


@nb.njit(cache=True, parallel=True, error_model="numpy", fastmath={"contract", "nsz", "arcp"})
def _sweep(integrals: Any, spread: Any, tilt: Any, beam: Any, facts: Any, cycle: int, colour: int, moved: Any) -> None:
    """One step of every second line of cells; the lines beside it stand still meanwhile, whatever the threads do."""
    measured, air, exposure, spot = beam
    views, rows, columns = integrals.shape
    for at in nb.prange(views):
        view = np.int64(at)
        slope, bend = np.empty(columns, np.float32), np.empty(columns, np.float32)
        kept, open_ = np.empty(columns, np.float32), np.empty(columns, np.float32)
        for row in range((view // cycle + colour) % 2, rows, 2):
            here, own = integrals[view, row], spread[view, row]
            if own.max() * facts[6] < 1:
                continue
            slope[:] = np.float32(0)
            bend[:] = np.float32(0)
            for way in range(-1, 2, 2):
                if 0 <= view + way * cycle < views:
                    other = view + way * cycle
                    _pull(here, own, integrals[other, row], spread[other, row], facts[1], facts, slope, bend)
                if 0 <= row + way < rows:
                    beside = row + way
                    _pull(here, own, integrals[view, beside], spread[view, beside], facts[2], facts, slope, bend)
            _pull_along(here, own, facts[3], facts, slope, bend, kept)
            for i in range(columns):
                open_[i] = exposure[view] * air[spot[view], row, i]
            _push(here, measured[view, row], open_, tilt[view, row], facts[0], slope, bend)
            moved[view] += _step(here, own, slope, bend, facts)


@nb.njit(cache=True, error_model="numpy", fastmath={"contract", "nsz", "arcp"})
def _pull(here: Any, own: Any, there: Any, other: Any, share: Any, facts: Any, slope: Any, bend: Any) -> None:
    """Add slope and curvature of the penalty on differences from the line beside; `own`, `other` variances."""
    for i in range(len(here)):
        apart = here[i] - there[i]
        both = own[i] + other[i]
        limit = facts[4] * both
        pull = share * np.sqrt(limit / (limit + apart * apart)) / (facts[7] + facts[8] * both)
        slope[i] += pull * apart
        bend[i] += pull


@nb.njit(cache=True, error_model="numpy", fastmath={"contract", "nsz", "arcp"})
def _pull_along(here: Any, own: Any, share: Any, facts: Any, slope: Any, bend: Any, kept: Any) -> None:
    """The same between neighbours in the line; they move together, for which twice the curvature is enough."""
    last = len(here) - 1
    for i in range(last):
        apart = here[i] - here[i + 1]
        both = own[i] + own[i + 1]
        limit = facts[4] * both
        pull = share * np.sqrt(limit / (limit + apart * apart)) / (facts[7] + facts[8] * both)
        kept[i] = pull
        slope[i] += pull * apart
        bend[i] += np.float32(2) * pull
    for i in range(last):
        slope[i + 1] -= kept[i] * (here[i] - here[i + 1])
        bend[i + 1] += np.float32(2) * kept[i]


@nb.njit(cache=True, error_model="numpy", fastmath={"contract", "nsz", "arcp"})
def _push(here: Any, counts: Any, open_: Any, tilt: Any, electronic: Any, slope: Any, bend: Any) -> None:
    """Add slope and curvature of the rays' own terms, the curvature as large as it gets down to p − ln 2."""
    nothing, quarter = np.float32(0), np.float32(0.25)
    for i in range(len(here)):
        mean = open_[i] * np.exp(-here[i])
        count, twice = counts[i], mean + mean
        shifted, total = count + electronic, twice + electronic
        if open_[i] > nothing:
            slope[i] += mean * (count - mean) / (mean + electronic) + tilt[i]
            less = twice * electronic * shifted / (total * total) if shifted >= nothing else quarter * shifted
            bend[i] += max(twice - less, nothing)


@nb.njit(cache=True, error_model="numpy", fastmath={"contract", "nsz", "arcp"})
def _step(here: Any, own: Any, slope: Any, bend: Any, facts: Any) -> Any:
    """Move a line in place but for its bright rays; the sum of squared moves over noise."""
    total = np.float32(0)
    for i in range(len(here)):
        active = own[i] * facts[6] >= np.float32(1) and bend[i] > np.float32(0)
        step = min(facts[5] * slope[i] / bend[i], np.float32(LOG_2)) if active else np.float32(0)
        here[i] -= step
        total += step * step / own[i]
    return total


@nb.njit(cache=True, parallel=True)
def _reweigh(integrals: Any, spread: Any, beam: Any, electronic: Any, bright: Any) -> Any:
    """Variances become weights at the restored expectation, in place; how many rays of each view were restored."""
    _, air, exposure, spot = beam
    restored = np.zeros(len(integrals), np.int64)
    for view in nb.prange(len(integrals)):
        for row in range(integrals.shape[1]):
            for column in range(integrals.shape[2]):
                weight = 1 / spread[view, row, column]
                open_ = exposure[view] * air[spot[view], row, column]
                if weight <= bright:
                    restored[view] += 1
                    mean = open_ * np.exp(-integrals[view, row, column])
                    weight = mean * mean / (mean + electronic) if open_ > 0 else 0.0
                spread[view, row, column] = weight
    return restored
