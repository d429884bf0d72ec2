"""Projected images beside what was measured → how far they are apart, with slope and a bound on the curvature.

`WeightedSquares` asks of line integrals, `ShiftedPoisson` of counts (`counted` has its mathematics).
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeAlias

from array_api_compat import array_namespace, device

from lampyris.model import InputError, Quanta
from lampyris.recon.iterative.blocks import Up, Views, as_it_is, at_a_time, of_views
from lampyris.recon.iterative.counted import Counted, RayBlock

CELLS_PER_BLOCK = 500_000
"""Bounds the temporaries in a processor's memory: some ten arrays of so many values."""


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
        _refuse_squares(self.integrals, self.weights, as_it_is)

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
        return of_views(self.weights, views)

    def _apart(self, xp: Any, projected: Any, views: Views) -> tuple[Any, Any]:
        w = of_views(self.weights, views)
        return xp.where(w > 0, projected - of_views(self.integrals, views), 0 * projected), w


WINDOW = (3, 3, 7)
"""Views, rows and columns over which weights are averaged."""


def expected_squares(integrals: Any, weights: Any, up: Up = as_it_is) -> Likelihood:
    """Weighted squares, with `expected_weights` made for the views that are asked for: no second copy of a whole scan.

    `up` takes views to where they are worked on. Raises InputError as `WeightedSquares`, for the whole scan at once.
    """
    _refuse_squares(integrals, weights, up)

    def likelihood(views: slice) -> WeightedSquares:
        begin, end, _ = views.indices(integrals.shape[0])
        low, high = max(begin - WINDOW[0] // 2, 0), min(end + WINDOW[0] // 2, integrals.shape[0])
        around = up(weights[low:high])
        return WeightedSquares(up(integrals[begin:end]), expected_weights(around, slice(begin - low, end - low)))

    return likelihood


def expected_weights(weights: Any, views: slice = slice(None)) -> Any:
    """Weights of consecutive views that no longer follow the noise of their own ray: means over `WINDOW` neighbours.

    A weight taken from a noisy count is high where the count is too high, that is where the integral is too low: the
    weighted mean of rays of n quanta each is then too low by 1/n (cov(N, −ln N)/⟨N⟩). A mean over 63 rays leaves 1/63
    of that. Rays of weight 0 stay so and count nothing; views beside those asked for count. Raises InputError as
    `WeightedSquares`.
    """
    xp = array_namespace(weights)
    begin, end, _ = views.indices(weights.shape[0])
    found = xp.empty((end - begin, *weights.shape[1:]), dtype=weights.dtype, device=device(weights))
    halo = WINDOW[0] // 2
    for part in _parts(found.shape, found):  # in blocks: their copies are small
        low, high = max(begin + part.start - halo, 0), min(begin + part.stop + halo, weights.shape[0])
        block = weights[low:high, ...]
        _refuse(~(xp.isfinite(block) & (block >= 0)), part, "weights are negative, NaN or infinite")
        passed = block > 0
        share, mean = _sums(xp.astype(passed, block.dtype)), _sums(block)
        mean = xp.where(passed, mean / xp.where(passed, share, xp.ones_like(share)), xp.zeros_like(mean))
        first = begin + part.start - low
        found[part, ...] = mean[first : first + part.stop - part.start, ...]
    return found


def _sums(values: Any) -> Any:
    """Sums over `WINDOW`; beyond the ends stand the outermost values."""
    xp = array_namespace(values)
    for axis, width in enumerate(WINDOW):
        n = values.shape[axis]
        ends = [_along(values, axis, slice(0, 1)), _along(values, axis, slice(n - 1, n))]
        half = width // 2
        padded = xp.concat([*ends[:1] * half, values, *ends[1:] * half], axis=axis)
        values = _along(padded, axis, slice(0, n)) + _along(padded, axis, slice(1, n + 1))
        for shift in range(2, width):
            values += _along(padded, axis, slice(shift, shift + n))
    return values


def _along(values: Any, axis: int, part: slice) -> Any:
    return values[tuple(part if each == axis else slice(None) for each in range(3))]


@dataclass(frozen=True, slots=True, eq=False)
class ShiftedPoisson:
    """Σ h(P(q − offset)) over the rays of `quanta`; the misfit is relative to that of projections that fit every count.

    `up` takes the quanta's arrays to where they are worked on, which tells the kind of the curvature. `projected` may
    be of any array type: counts of another kind follow it block by block. Raises InputError for negative counts where
    the scan claims to have no electronic noise.
    """

    quanta: Quanta
    up: Up = as_it_is
    _counted: Counted = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_counted", Counted.of(self.quanta, self.up))
        if self.quanta.electronic > 0:
            return
        for part in _parts(self.shape, self._counted.measured):
            bad = (self._counted.measured[part, ...] < 0) & (self._counted.open_beam(part) > 0)
            _refuse(bad, part, "counts are below zero though the scan's electronic noise is 0; what is it really?")

    @property
    def shape(self) -> tuple[int, int, int]:
        return self.quanta.shape

    def misfit(self, projected: Any, views: Views) -> float:
        xp = array_namespace(projected)
        total = 0.0
        for part, chosen in _blocks(projected, views, self.shape):
            rays = RayBlock.of(self._counted, chosen, projected)
            integral, _ = rays.behind(projected[part, ...])
            total += float(xp.sum(rays.misfit(integral), dtype=xp.float64))
        return total

    def slope(self, projected: Any, views: Views) -> Any:
        xp = array_namespace(projected)
        found = xp.empty_like(projected)
        for part, chosen in _blocks(projected, views, self.shape):
            rays = RayBlock.of(self._counted, chosen, projected)
            integral, steepness = rays.behind(projected[part, ...])
            found[part, ...] = rays.slope(integral) * steepness
        return found

    def curvature(self, views: Views) -> Any:
        measured = of_views(self._counted.measured, views)
        found = array_namespace(measured).empty_like(measured)
        for part, chosen in _blocks(found, views, self.shape):
            found[part, ...] = RayBlock.of(self._counted, chosen, found).curvature()
        return found


def _parts(shape: tuple[int, int, int], like: Any) -> Iterator[slice]:
    """Slices of views (views, rows, columns) that keep temporaries where `like` is small."""
    views, rows, columns = shape
    size = max(1, at_a_time(like, CELLS_PER_BLOCK) // max(1, rows * columns))
    for first in range(0, views, size):
        yield slice(first, min(first + size, views))


def _blocks(projected: Any, views: Views, shape: tuple[int, int, int]) -> Iterator[tuple[slice, Views]]:
    """Slices of `projected` beside the views of the scan that they are; refuses projections of other views."""
    chosen: Sequence[int] = range(shape[0])[views] if isinstance(views, slice) else views
    if tuple(projected.shape) != (len(chosen), *shape[1:]):
        raise InputError(f"projected is {tuple(projected.shape)}, the views ask for {(len(chosen), *shape[1:])}")
    for part in _parts(projected.shape, projected):
        some = chosen[part]
        if isinstance(some, range):
            yield part, slice(some.start, min(some.stop, shape[0]) if some.stop >= 0 else None, some.step)
        else:
            yield part, some


def _refuse_squares(integrals: Any, weights: Any, up: Up) -> None:
    """Refuse other axes than (views, rows, columns), weights negative or NaN, and NaN integrals that have a weight."""
    if len(integrals.shape) != 3 or integrals.shape != weights.shape:
        raise InputError(f"integrals {integrals.shape}, weights {weights.shape}: expected both (views, rows, columns)")
    for part in _parts(integrals.shape, up(integrals[:1, ...])):
        p, w = up(integrals[part, ...]), up(weights[part, ...])
        xp = array_namespace(p, w)
        _refuse(~(xp.isfinite(w) & (w >= 0)), part, "weights are negative, NaN or infinite")
        _refuse(~xp.isfinite(p) & (w > 0), part, "integrals with a weight are NaN or infinite")


def _refuse(bad: Any, part: slice, what: str) -> None:
    """InputError with the number of bad values of this block and the first place, if there is any."""
    xp = array_namespace(bad)
    if not bool(xp.any(bad)):
        return
    view, row, column = (int(axis[0]) for axis in xp.nonzero(bad))
    count = int(xp.sum(xp.astype(bad, xp.int64)))
    raise InputError(f"{count} {what}; first at view, row, column {(view + part.start, row, column)}")
