"""Projected images beside what was measured → how far they are apart, with slope and a bound on the curvature.

`WeightedSquares` asks of line integrals, `ShiftedPoisson` of counts. For counts y of mean ȳ = n₀·e^(−p) and variance
ȳ + r, r the electronics' share, y + r has the mean and variance of a Poisson number (Snyder et al. 1993, J. Opt. Soc.
Am. A 10:1014; Yavuz & Fessler 1998, Med. Image Anal. 2:363), which makes the misfit of a ray, up to a constant,

    h(p) = ȳ + r − (y + r)·ln(ȳ + r),        h′(p) = ȳ·(y − ȳ)/(ȳ + r).

h′ is also the quasi-score of any y of that mean and variance (Wedderburn 1974, Biometrika 61:439): it is linear in y,
so that its mean at the truth is 0 whatever y's distribution. That is why y + r < 0, which no Poisson number can be and
electronics make now and then, is kept as it is: h then only falls with p, down to |y + r|·ln r, and the rare low count
balances the rare high one. Setting it to 0 would thicken what starved rays passed. Without electronics (r = 0) a
negative count has no likelihood and is refused.

Curvature. h″(p) = ȳ·(ȳ² + 2rȳ − r·y)/(ȳ + r)² grows with ȳ without end, so that a bound for all p ≥ 0 is near n₀,
thousands of times too high behind a body. Let most be the mean of which y is `FAR` standard deviations short,
most − y = FAR·√(most + r). Where ȳ(p) > most, h goes on as its own parabola of curvature c,

    c = most − r·most·(y + r)/(most + r)²   if y + r ≥ 0,         c = most − (y + r)/4   else.

For y + r ≥ 0 h″ changes sign once at most and grows with ȳ thereafter, so that h″ ≤ c below most; for y + r < 0
h″ = ȳ·[1 + r·|y + r|/(ȳ + r)²] ≤ most + |y + r|/4, because rȳ ≤ (ȳ + r)²/4. So a parabola of curvature c that
touches h anywhere lies above it everywhere, and steps to the least of a separable sum of such parabolas never raise
the misfit: descent is certain when all views are used at once, and with subsets as far as subsets balance. What the
parabola changes has a chance of 3·10⁻⁵ a ray at the truth. Behind many energies p = P(q), P concave (`model.Quanta`):

    |d²h/dq²| ≤ P′(0)²·c + max|P″|·(most·(most − y)/(most + r) + c·max(p_most, 0))       for q ≥ 0,

the largest slope that h can have there; true to the spacing of the table's nodes, between which P is straight.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeAlias

import numpy as np
from array_api_compat import array_namespace, device
from scipy import ndimage

from lampyris.model import Float32, InputError, Quanta

Views: TypeAlias = slice | Sequence[int]
"""Which views of the scan: a slice, or indices in any order."""

FAR = 4.0
"""Standard deviations beyond which a count's misfit is its own parabola."""
TINY = 1e-30
"""A mean that is no longer told from nothing, where its logarithm must exist."""
CELLS_PER_BLOCK = 500_000
"""Bounds the temporaries: some ten arrays of so many values."""


class Fidelity(Protocol):
    """How well projected images explain a scan of `shape` (views, rows, columns); `projected` are those of `views`."""

    @property
    def shape(self) -> tuple[int, int, int]: ...

    def misfit(self, projected: Any, views: Views) -> float:
        """The sum over the views' rays, ≥ 0 or relative to a constant."""
        ...

    def slope(self, projected: Any, views: Views) -> Any:
        """Its derivative by every projected value, of the kind and shape of `projected`."""
        ...

    def curvature(self, views: Views) -> Any:
        """Curvature of parabolas above it, (views, rows, columns), ≥ 0; 0 = the ray has no say."""
        ...


Likelihood: TypeAlias = Callable[[slice], Fidelity]
"""Consecutive views of a scan → the fidelity of these alone, made when a slab is at work on them."""


@dataclass(frozen=True, slots=True, eq=False)
class WeightedSquares:
    """½ Σ w·(q − p)² with integrals p and weights w (views, rows, columns) of one array type; w is its own curvature.

    Raises InputError for weights that are negative or NaN, and for NaN integrals that have a weight.
    """

    integrals: Any
    weights: Any

    def __post_init__(self) -> None:
        if len(self.integrals.shape) != 3 or self.integrals.shape != self.weights.shape:
            raise InputError(
                f"integrals {self.integrals.shape}, weights {self.weights.shape}: expected both (views, rows, columns)"
            )
        xp = array_namespace(self.integrals, self.weights)
        for part in _parts(self.integrals.shape):
            p, w = self.integrals[part, ...], self.weights[part, ...]
            _refuse(xp, ~(xp.isfinite(w) & (w >= 0)), part, "weights are negative, NaN or infinite")
            _refuse(xp, ~xp.isfinite(p) & (w > 0), part, "integrals with a weight are NaN or infinite")

    @property
    def shape(self) -> tuple[int, int, int]:
        views, rows, columns = self.integrals.shape
        return views, rows, columns

    def misfit(self, projected: Any, views: Views) -> float:
        xp = array_namespace(projected)
        total = 0.0
        for part, chosen in _blocks(projected, views, self.shape):
            apart, w = self._apart(xp, projected[part, ...], chosen)
            total += float(xp.sum(w * apart * apart, dtype=xp.float64))
        return 0.5 * total

    def slope(self, projected: Any, views: Views) -> Any:
        xp = array_namespace(projected)
        found = xp.empty_like(projected)
        for part, chosen in _blocks(projected, views, self.shape):
            apart, w = self._apart(xp, projected[part, ...], chosen)
            found[part, ...] = w * apart
        return found

    def curvature(self, views: Views) -> Any:
        return _of_views(self.weights, views)

    def _apart(self, xp: Any, projected: Any, views: Views) -> tuple[Any, Any]:
        w = _of_views(self.weights, views)
        return xp.where(w > 0, projected - _of_views(self.integrals, views), 0 * projected), w


WINDOW = (3, 3, 7)
"""Views, rows and columns over which weights are averaged."""


def expected_squares(integrals: Float32, weights: Float32) -> Likelihood:
    """Weighted squares, with `expected_weights` made for the views that are asked for: no second copy of a whole scan.

    Raises InputError as `WeightedSquares`, for the whole scan at once.
    """
    WeightedSquares(integrals, weights)
    return lambda views: WeightedSquares(integrals[views], expected_weights(weights, views))


def expected_weights(weights: Float32, views: slice = slice(None)) -> Float32:
    """Weights of consecutive views that no longer follow the noise of their own ray: means over `WINDOW` neighbours.

    A weight taken from a noisy count is high where the count is too high, that is where the integral is too low: the
    weighted mean of rays of n quanta each is then too low by 1/n (cov(N, −ln N)/⟨N⟩). A mean over 63 rays leaves 1/63
    of that. Rays of weight 0 stay so and count nothing; views beside those asked for count. Raises InputError as
    `WeightedSquares`.
    """
    begin, end, _ = views.indices(len(weights))
    found = np.empty((end - begin, *weights.shape[1:]), np.float32)
    halo = WINDOW[0] // 2
    for part in _parts(found.shape):  # in blocks: their copies are small
        low = max(begin + part.start - halo, 0)
        block = weights[low : begin + part.stop + halo]
        _refuse(np, ~(np.isfinite(block) & (block >= 0)), part, "weights are negative, NaN or infinite")
        share = ndimage.uniform_filter((block > 0).astype(np.float32), WINDOW, mode="nearest")
        mean = ndimage.uniform_filter(block, WINDOW, mode="nearest")
        mean = np.where(block > 0, mean / np.maximum(share, np.float32(1e-6)), np.float32(0))
        found[part] = mean[begin + part.start - low :][: part.stop - part.start]
    return found


@dataclass(frozen=True, slots=True, eq=False)
class ShiftedPoisson:
    """Σ h(P(q − offset)) over the rays of `quanta`; the misfit is relative to that of projections that fit every count.

    `projected` may be of any array type: quanta follow it block by block. The curvature is NumPy's.
    Raises InputError for negative counts where the scan claims to have no electronic noise.
    """

    quanta: Quanta

    def __post_init__(self) -> None:
        if self.quanta.electronic > 0:
            return
        for part in _parts(self.quanta.shape):
            bad = (self.quanta.measured[part] < 0) & (self.quanta.open_beam(part) > 0)
            _refuse(np, bad, part, "counts are below zero though the scan's electronic noise is 0; what is it really?")

    @property
    def shape(self) -> tuple[int, int, int]:
        return self.quanta.shape

    def misfit(self, projected: Any, views: Views) -> float:
        xp = array_namespace(projected)
        total = 0.0
        for part, chosen in _blocks(projected, views, self.shape):
            rays = _Rays.of(xp, self.quanta, chosen, projected)
            integral, _ = rays.behind(projected[part, ...])
            total += float(xp.sum(rays.misfit(integral), dtype=xp.float64))
        return total

    def slope(self, projected: Any, views: Views) -> Any:
        xp = array_namespace(projected)
        found = xp.empty_like(projected)
        for part, chosen in _blocks(projected, views, self.shape):
            rays = _Rays.of(xp, self.quanta, chosen, projected)
            integral, steepness = rays.behind(projected[part, ...])
            found[part, ...] = rays.slope(integral) * steepness
        return found

    def curvature(self, views: Views) -> Any:
        chosen = self.quanta.of_views(views)
        found = np.empty(chosen.shape, np.float32)
        for part in _parts(chosen.shape):
            found[part] = _Rays.of(np, chosen, part, found).curvature()
        return found


@dataclass(frozen=True, slots=True, eq=False)
class _Rays:
    """A block of rays: counts y, open beam (1 where there is none, `lit` False), electronic variance r, most and c."""

    xp: Any
    quanta: Quanta
    lit: Any
    count: Any
    beam: Any
    most: Any
    bound: Any
    offset: Any

    @staticmethod
    def of(xp: Any, quanta: Quanta, views: Views, like: Any) -> "_Rays":
        """The views' rays as arrays of `like`'s kind and type."""

        def bring(values: Any) -> Any:
            return xp.asarray(values, dtype=like.dtype, device=device(like))

        count, beam = bring(quanta.measured[views]), bring(quanta.open_beam(views))
        lit = beam > 0
        positive, r = xp.where(count > 0, count, 0 * count), quanta.electronic
        most = positive + FAR**2 / 2 + FAR * xp.sqrt(positive + (r + FAR**2 / 4))
        shifted = count + r
        bound = most - xp.where(shifted >= 0, r * most * shifted / (most + r) ** 2, shifted / 4)
        offset = None if quanta.offset is None else bring(quanta.offset[views])
        return _Rays(xp, quanta, lit, count, xp.where(lit, beam, 0 * beam + 1), most, bound, offset)

    def behind(self, projected: Any) -> tuple[Any, Any]:
        """P(q − offset) and its derivative."""
        xp, table = self.xp, self.quanta.hardening
        corrected = projected if self.offset is None else projected - self.offset
        if table is None:
            return corrected, 1.0
        nodes, per_unit = table.shape[1], self.quanta.nodes_per_unit
        place = corrected * per_unit
        low = xp.clip(xp.floor(place), 0, nodes - 2)
        columns = xp.arange(table.shape[0], dtype=xp.int64, device=device(projected)) * nodes
        index = xp.reshape(xp.astype(low, xp.int64) + columns, (-1,))
        flat = xp.asarray(np.ravel(table), dtype=projected.dtype, device=device(projected))
        here = xp.reshape(xp.take(flat, index), low.shape)
        step = xp.reshape(xp.take(flat, index + 1), low.shape) - here
        return here + (place - low) * step, step * per_unit

    def misfit(self, integral: Any) -> Any:
        """h less its least value, or less h at ȳ = 0 where the count is below −r."""
        xp, r = self.xp, self.quanta.electronic
        mean = self._mean(integral)
        shifted = self.count + r
        scale = xp.where(shifted > 0, shifted, 0 * shifted + (r or 1.0))
        excess = (mean + r - scale) / scale
        seen = xp.where(mean + r > TINY, mean + r, 0 * mean + TINY)
        away = xp.where(excess > -0.5, xp.log1p(xp.where(excess > -0.5, excess, 0 * excess)), xp.log(seen / scale))
        inner = xp.where(shifted > 0, shifted * (excess - away), mean - shifted * away)
        beyond = self._beyond(integral)
        return xp.where(self.lit, inner + beyond * (self._steepest() + 0.5 * self.bound * beyond), 0 * inner)

    def slope(self, integral: Any) -> Any:
        """h′ by the integral P."""
        xp, mean = self.xp, self._mean(integral)
        found = mean * (self.count - mean) / (mean + self.quanta.electronic) + self.bound * self._beyond(integral)
        return xp.where(self.lit, found, 0 * found)

    def curvature(self) -> Any:
        """The bound of h″ by the projected value q ≥ 0."""
        xp, table = self.xp, self.quanta.hardening
        found = self.bound
        if table is not None:
            per_unit = self.quanta.nodes_per_unit
            steps = np.diff(table, axis=1) * per_unit
            bend = np.abs(np.diff(steps, axis=1)).max(axis=1) * per_unit
            farthest = xp.log(self.beam / self.most)
            steepest = self.bound * xp.where(farthest > 0, farthest, 0 * farthest) - self._steepest()
            found = found * xp.asarray(steps[:, 0] ** 2) + steepest * xp.asarray(bend)
        return xp.where(self.lit, found, 0 * found)

    def _mean(self, integral: Any) -> Any:
        """ȳ, held at most."""
        mean = self.beam * self.xp.exp(-integral)
        return self.xp.where(mean < self.most, mean, self.most)

    def _beyond(self, integral: Any) -> Any:
        """How far the integral lies below that of most: ≤ 0."""
        short = integral - self.xp.log(self.beam / self.most)
        return self.xp.where(short < 0, short, 0 * short)

    def _steepest(self) -> Any:
        """h′ at most: < 0."""
        return self.most * (self.count - self.most) / (self.most + self.quanta.electronic)


def _parts(shape: tuple[int, ...]) -> Iterator[slice]:
    """Slices of views that keep temporaries small."""
    size = max(1, CELLS_PER_BLOCK // max(1, shape[1] * shape[2]))
    for first in range(0, shape[0], size):
        yield slice(first, min(first + size, shape[0]))


def _blocks(projected: Any, views: Views, shape: tuple[int, int, int]) -> Iterator[tuple[slice, Views]]:
    """Slices of `projected` beside the views of the scan that they are; refuses projections of other views."""
    chosen: Sequence[int] = range(shape[0])[views] if isinstance(views, slice) else views
    if tuple(projected.shape) != (len(chosen), *shape[1:]):
        raise InputError(f"projected is {tuple(projected.shape)}, the views ask for {(len(chosen), *shape[1:])}")
    for part in _parts(projected.shape):
        some = chosen[part]
        yield (
            part,
            slice(some.start, some.stop if some.stop >= 0 else None, some.step) if isinstance(some, range) else some,
        )


def _of_views(values: Any, views: Views) -> Any:
    """Some views of an array of any kind; a view of it where `views` is a slice."""
    if isinstance(views, slice):
        return values[views, ...]
    xp = array_namespace(values)
    return xp.take(values, xp.asarray(list(views), dtype=xp.int64, device=device(values)), axis=0)


def _refuse(xp: Any, bad: Any, part: slice, what: str) -> None:
    """InputError with the number of bad values of this block and the first place, if there is any."""
    if not bool(xp.any(bad)):
        return
    place = np.argwhere(np.from_dlpack(bad) if not isinstance(bad, np.ndarray) else bad)[0]
    where = (int(place[0]) + part.start, int(place[1]), int(place[2]))
    raise InputError(f"{int(xp.sum(xp.astype(bad, xp.int64)))} {what}; first at view, row, column {where}")
