"""Projections → how much the image's noise is at every voxel, and projections with more noise to try it on.

What a view differs by from its neighbours is noise: the fourth difference along the views of each focal spot,

    d_k = (p_{k−2} − 4p_{k−1} + 6p_k − 4p_{k+1} + p_{k+2})/√70,

has the variance of p_k where noise of neighbouring views is independent and alike, and of the object only what changes
within the width of a cell from view to view. With a random sign s_k = ±1 to every view, s_k·d_k is as independent from
view to view as the noise itself, and correlated within a view as it is, so that the image of s·d has the variance of
the image of p for any method that is linear: the wild bootstrap (Wu 1986, Ann. Stat. 14:1261), of measured noise. No
model of the noise is needed and no view is left out (docs/decisions/0081 tells what half scans lose).
"""

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Protocol, cast

import numba as nb
import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from lampyris.model import (
    Above,
    Bool,
    Float32,
    Float64,
    Geometry,
    Grid,
    GridRequest,
    InputError,
    Orbit,
    Progress,
    Projections,
    Shelf,
    Step,
    Volume,
    silent,
)
from lampyris.projector import HOST, Memory
from lampyris.recon.analytic.rebinning import spots
from lampyris.recon.field import lean_of

BLOCKS = 32
"""Blocks across the field of view in which squares are pooled: 12 … 15 mm in a trunk."""
MATRIX_OF_STACK, MATRIX_OF_FEW, FEW_SLICES = 96, 192, 8
"""Points of the noise field a side; more of them where there are too few slices to pool over."""
CLIP = 3.0
"""Squares beyond this many local standard deviations are of edges, not of noise."""
OUTLIER = 2.5
CLIPPED_SQUARE = 0.9950
"""E[min(z², 9)] of a standard normal z."""
NORMAL_MEDIAN_SQUARE = 0.4549
"""Median of z²."""
FLOOR = {"HU": 0.01, "1/mm": 2e-7}
"""Least standard deviation told, so that a weight made of it stays finite."""
FEWEST_VIEWS = 8
SHAKE, SIGNS = 0.2, 1986
"""How much of the noise is added, little enough that the body's shadow stays as it is; seed of the signs."""
LINEAR_METHODS = ("auto", "fbp", "fdk", "wfbp")
LINEAR_SETTINGS = {"flat_share"}
NEIGHBOURS = 9
"""Columns over which the mean count is taken, of which added noise depends."""
BATCH_VIEWS, COLUMNS = 64, 16
HELD_BYTES = 2**30
"""Integrals of a scan with noise added that are held as a whole."""
FOURTH_DIFFERENCE = (1, -4, 6, -4, 1)


class Reconstruct(Protocol):
    """An analytic reconstruction, such as `recon.reconstruct`."""

    def __call__(
        self,
        projections: Projections,
        method: Step,
        kernel: str,
        grid: GridRequest,
        *,
        progress: Progress = silent,
        shelf: Shelf | None = None,
    ) -> Volume: ...


def is_linear(method: Step) -> bool:
    """Whether the image is linear in the integrals, so that `deviation` tells its noise: analytic and nothing else."""
    return method.name in LINEAR_METHODS and {name for name, _ in method.settings} <= LINEAR_SETTINGS


def deviation(
    projections: Projections,
    method: Step,
    kernel: str,
    grid: GridRequest,
    like: Grid,
    *,
    reconstruct: Reconstruct,
    image: Volume | None = None,
    progress: Progress = silent,
    shelf: Shelf | None = None,
    memory: Memory = HOST,
) -> Any:
    """Standard deviation of the analytic image at every voxel of `like`, in the image's unit, never 0.

    The image is made again with measured noise added to the scan (`shaken`), on some 96² points of every slice (192²
    where there are fewer than 8 slices): noise at a point does not depend on how far the next one is. Squares are
    pooled over 1/32 of the field of view a side, as deep as it is wide, edges dropped, and interpolated. `method`,
    `kernel` and `grid` are those that made the image, `reconstruct` what made it; `image` is that image, where it is
    there: without it the points are made a second time. Points that were made while the scan arrived are taken from the
    `shelf`. The map is made in `memory`, and stays there.

    Raises InputError for fewer than 8 views to a focal spot, and what `reconstruct` raises.
    """
    points, every = _thinned(like if image is None else image.grid)
    if image is None:
        points, every = _square(like), (slice(None), slice(None), slice(None))
    request = _request(projections.geometry, grid, points)
    begun = 0.5 if image is None else 0.0
    if image is None:
        image = reconstruct(projections, method, kernel, request, progress=lambda done: progress(done / 2))

    def rest(done: float) -> None:
        progress(begun + (1 - begun) * done)

    above = None if shelf is None else shaken_above(shelf, projections.geometry)
    again = reconstruct(shaken(projections), method, kernel, request, progress=rest, shelf=above)
    known = np.ones(again.grid.shape, np.bool_) if again.valid is None else again.valid
    if image.valid is not None:
        known = known & image.valid[every]
    moved = (again.values - image.values[every]) / np.float32(SHAKE)
    variance, size = pooled(moved, known, _depth(points))
    return _spread(np.maximum(np.sqrt(variance), FLOOR[again.quantity]), size, points, like, memory)


def shaken(projections: Projections) -> Projections:
    """The scan with a fifth of its own noise, as views differ from their neighbours, added with random signs.

    The signs are those of a fixed generator: a scan is always shaken alike. A long scan is not held a second time: its
    integrals are made when views of them are asked for.
    """
    geometry = projections.geometry
    cycle = _cycle(geometry)
    if geometry.views < FEWEST_VIEWS * cycle:
        raise InputError(
            f"{geometry.views} views of {cycle} focal spots: noise needs at least {FEWEST_VIEWS} views to each spot"
        )
    made = _Shaken(projections.integrals, cycle)
    held = 4 * math.prod(geometry.shape) <= HELD_BYTES
    return Projections(
        made[:] if held else cast(Float32, made),
        np.broadcast_to(np.float32(1), geometry.shape),
        geometry,
        projections.water_per_mm,
        projections.spectrum,
        projections.acquisition,
    )


class _Shaken:
    """Integrals (views, rows, columns) with signed noise added; sliced or indexed by views it gives them as an array.

    Where a view's noise is cut off is told by the batch of views it is in, whichever of them are asked for.
    """

    dtype, ndim = np.dtype(np.float32), 3

    def __init__(self, integrals: Float32, cycle: int) -> None:
        self.shape = integrals.shape
        self._integrals, self._cycle = integrals, cycle
        sign = np.where(np.random.default_rng(SIGNS).random(len(integrals)) < 0.5, -1.0, 1.0).astype(np.float32)
        self._sign = sign * np.float32(SHAKE / np.sqrt(70.0))

    def __len__(self) -> int:
        return len(self._integrals)

    def __getitem__(self, views: slice | NDArray[np.int64]) -> Float32:
        if isinstance(views, slice):
            first, last, step = views.indices(len(self))
            return self._span(first, max(first, last))[::step]
        return np.concatenate([self._span(view, view + 1) for view in views.tolist()])

    def __array__(self, dtype: object = None, copy: bool | None = None) -> Float32:
        return self[:]

    def _span(self, first: int, last: int) -> Float32:
        result = np.empty((last - first, *self.shape[1:]), np.float32)
        for spot in range(self._cycle):
            mine = np.arange(spot, len(self), self._cycle)
            middle = np.clip(np.arange(len(mine)), 2, len(mine) - 3)
            start, stop = np.searchsorted(mine, (first, last)).tolist()
            for low in range(start // BATCH_VIEWS * BATCH_VIEWS, stop, BATCH_VIEWS):
                beside = mine[middle[low : low + BATCH_VIEWS, None] + np.arange(-2, 3)]
                asked = slice(max(start - low, 0), stop - low)
                bounds, views = _bounds(self._integrals, beside), mine[low : low + BATCH_VIEWS][asked]
                _shake(self._integrals, views, beside[asked], bounds, self._sign, first, result)
        return result


def shaken_views(views: int, geometry: Geometry) -> int:
    """How many first views of a scan `shaken` are determined by its first `views` views."""
    cycle, total = _cycle(geometry), geometry.views
    known = []
    for spot in range(cycle):
        here, mine = len(range(spot, views, cycle)), len(range(spot, total, cycle))
        batches = (max(here - 2, 0)) // BATCH_VIEWS * BATCH_VIEWS
        known.append(total if here == mine else spot + cycle * batches)
    return min(known)


def shaken_above(shelf: Shelf, geometry: Geometry) -> Shelf:
    """A shelf for what is made of the scan `shaken`."""
    cycle, total = _cycle(geometry), geometry.views

    def below(views: int) -> int:
        last = [0]
        for spot in range(cycle):
            mine, batches = len(range(spot, total, cycle)), -(-len(range(spot, views, cycle)) // BATCH_VIEWS)
            last.append(min(spot + cycle * min(batches * BATCH_VIEWS + 1, mine - 1) + 1, total) if batches else 0)
        return max(last)

    return Above(shelf, "shaken", below)


def _cycle(geometry: Geometry) -> int:
    """How many views apart the focal spot stands in the same place again."""
    return 1 if geometry.parallel else len(spots(Orbit.of(geometry)))


def _bounds(integrals: Float32, beside: NDArray[np.int64]) -> Float32:
    """Four standard deviations of each column (columns,), as the median of its neighbourhood in these views tells them.

    `beside` (views, 5): every view of the batch between the two before and the two after it. Beyond the bounds are
    edges of the object that move by about a cell from view to view.
    """
    _, rows, columns = integrals.shape
    some = integrals[:, :: max(1, rows // 8)]
    far = np.abs(sum(np.float32(share) * some[beside[::4, i]] for i, share in enumerate(FOURTH_DIFFERENCE)))
    bound = np.zeros(columns, np.float32)
    for chunk in range(-(-columns // COLUMNS)):
        part = slice(chunk * COLUMNS, (chunk + 1) * COLUMNS)
        bound[part] = 4.0 * np.median(far[..., part]) / np.sqrt(NORMAL_MEDIAN_SQUARE)
    return bound


@nb.njit(parallel=True, cache=True)
def _shake(integrals, views, beside, bound, sign, first, result):  # type: ignore[no-untyped-def]
    """result[view − first] = integrals[view] + sign[view] · its fourth difference, held within ± its column's bound."""
    _, rows, columns = integrals.shape
    for i in nb.prange(len(views)):
        view = views[i]
        a, b, c, d, e = beside[i]
        for r in range(rows):
            for k in range(columns):
                outer = integrals[a, r, k] + integrals[e, r, k]
                inner = integrals[b, r, k] + integrals[d, r, k]
                difference = np.float32(6) * integrals[c, r, k] - np.float32(4) * inner + outer
                held = min(max(difference, -bound[k]), bound[k])
                result[view - first, r, k] = integrals[view, r, k] + sign[view] * held


def perturbed(projections: Projections, rng: np.random.Generator, *, share: float) -> Projections:
    """The scan with `share` times its own noise added once more, independent of the noise that it has.

    The integral of weight w gains share·z/√w, z standard normal; counts, where they are kept, move the opposite way
    by the same z, share·z·√(count + electronic) of a mean over neighbouring columns. A ray of weight 0 stays. The
    image x of any method then moves by share times its noise to first order, so that |x' − x|/share shows it: the
    parametric bootstrap (Efron 1979) linearised, for methods to which `deviation` does not apply.

    Raises InputError where the scan's noise is not known (weights are relative), for a share not above 0 and for
    weights that are negative or not finite.
    """
    if not 0 < share < np.inf:
        raise InputError(f"a share of {share} of the noise is to be added: expected above 0, 0.3 … 1")
    if not noise_known(projections):
        raise InputError(
            "the weights are relative: the scan's noise was not told (gain and electronic counts), so that noise of the"
            " right amount cannot be added; an analytic image's passport needs no such knowledge"
        )
    integrals = np.array(projections.integrals)
    quanta = projections.quanta
    measured = None if quanta is None else np.array(quanta.measured)
    for first in range(0, len(integrals), BATCH_VIEWS):
        part = slice(first, first + BATCH_VIEWS)
        weights = projections.weights[part]
        if not (np.isfinite(weights).all() and weights.min() >= 0):
            bad = int((~np.isfinite(weights) | (weights < 0)).sum())
            raise InputError(f"{bad} weights in views {first} … are negative or not finite: expected inverse variances")
        normal = rng.standard_normal(weights.shape, np.float32) * np.float32(share)
        seen = weights > 0
        integrals[part] += np.where(seen, normal / np.sqrt(np.where(seen, weights, 1)), 0)
        if quanta is not None and measured is not None:
            mean = ndimage.uniform_filter1d(quanta.measured[part], NEIGHBOURS, axis=2, mode="nearest")
            spread = np.sqrt(np.maximum(mean, 0) + np.float32(quanta.electronic))
            measured[part] -= np.where(seen, normal * spread, 0)
    if quanta is not None and measured is not None:
        quanta = replace(quanta, measured=measured)
    return replace(projections, integrals=integrals, quanta=quanta)


def deviation_of_replicates(image: Volume, replicates: Sequence[Volume], share: float, like: Grid) -> Float32:
    """Standard deviation of an image at every voxel of `like`, from images of the scan `perturbed` by this share.

    Root of the mean over replicates of (x' − x)²/share², pooled as in `deviation`. InputError without replicates, or
    where one lies on another grid or in another unit.
    """
    if not replicates:
        raise InputError("no replicate of the image: at least one is needed to tell its noise")
    for one in replicates:
        if one.quantity != image.quantity or one.grid.shape != image.grid.shape:
            raise InputError(
                f"a replicate is {one.grid.shape} in {one.quantity}, the image {image.grid.shape} in {image.quantity}"
            )
    points, every = _thinned(image.grid)
    known = np.ones(points.shape, np.bool_) if image.valid is None else image.valid[every]
    moved = [(one.values[every] - image.values[every]) / np.float32(share) for one in replicates]
    depth = _depth(points)
    found = [pooled(each, known, depth) for each in moved]
    variance = np.mean([variance for variance, _ in found], axis=0)
    told = np.maximum(np.sqrt(variance), FLOOR[image.quantity])
    return np.asarray(_spread(told, found[0][1], points, like, HOST), np.float32)


def _thinned(grid: Grid) -> tuple[Grid, tuple[slice, slice, slice]]:
    """Every so many pixels of the lattice, so that as many points are left as `deviation` takes."""
    wanted = MATRIX_OF_FEW if grid.shape[0] < FEW_SLICES else MATRIX_OF_STACK
    step = max(1, min(grid.shape[1:]) // wanted)
    shape = (grid.shape[0], -(-grid.shape[1] // step), -(-grid.shape[2] // step))
    spacing = (grid.spacing_mm[0], step * grid.spacing_mm[1], step * grid.spacing_mm[2])
    return replace(grid, shape=shape, spacing_mm=spacing), (
        slice(None),
        slice(None, None, step),
        slice(None, None, step),
    )


def pooled(difference: Float32, known: Bool, depth: int) -> tuple[Float64, tuple[int, int, int]]:
    """Variance (blocks, blocks, blocks) of noise of mean 0, and how many (slices, rows, columns) a block has.

    Squares are clipped at 9 times the variance that the median of squares in 3³ blocks tells, averaged, the averages
    clipped at 2.5 times their median over 3³ blocks, so that edges of the object drop out, and smoothed by [1 2 1]/4
    along every axis: noise changes over centimetres. Points that are not `known` count nothing.
    """
    slices, rows, columns = difference.shape
    size = (min(depth, slices), max(1, rows // BLOCKS), max(1, columns // BLOCKS))
    squares = _blocks(np.where(known, difference, np.nan).astype(np.float32) ** 2, size)
    count = np.isfinite(squares).sum(axis=-1).astype(np.float64)
    if not count.any():
        raise InputError("no voxel of the image was measured whole: there is nothing to tell the noise from")
    middle = np.full(count.shape, np.nan)
    middle[count > 0] = np.nanmedian(squares[count > 0], axis=-1)
    middle = ndimage.median_filter(_filled(middle), 3, mode="nearest")
    with np.errstate(invalid="ignore"):
        total = np.nansum(np.minimum(squares, (CLIP**2 / NORMAL_MEDIAN_SQUARE * middle)[..., None]), axis=-1)
    variance = _filled(total.astype(np.float64) / CLIPPED_SQUARE / np.where(count > 0, count, np.nan))
    around = ndimage.median_filter(variance, 3, mode="nearest")
    return _smooth(np.minimum(variance, OUTLIER * around)), size


def _filled(values: Float64) -> Float64:
    """NaN replaced by the median of what is known."""
    return np.where(np.isnan(values), np.nanmedian(values), values)


def _square(like: Grid) -> Grid:
    """Points on a square lattice over the field of view of `like`, in the same slices."""
    matrix = MATRIX_OF_FEW if like.shape[0] < FEW_SLICES else MATRIX_OF_STACK
    step = max(like.shape[1] * like.spacing_mm[1], like.shape[2] * like.spacing_mm[2]) / matrix
    spacing = (like.spacing_mm[0], step, step)
    half = np.array([(like.shape[0] - 1) / 2, (matrix - 1) / 2, (matrix - 1) / 2]) * spacing
    return Grid((like.shape[0], matrix, matrix), spacing, like.centre_mm - half @ like.axes, like.axes)


def request_of_noise(geometry: Geometry, grid: GridRequest, image: Grid) -> GridRequest:
    """The image that `deviation` asks for of a scan `shaken`, to tell the noise of one on the grid `image`."""
    return _request(geometry, grid, _thinned(image)[0])


def _request(geometry: Geometry, grid: GridRequest, points: Grid) -> GridRequest:
    """What to ask for, so that the voxels are these points; counted along the axis of a tilted gantry."""
    lean = lean_of(geometry)
    rest = 0.0 if geometry.parallel else float(Orbit.of(geometry).axial_mm.mean())
    matrix = max(points.shape[1:])
    middle = points.position_mm(((points.shape[0] - 1) / 2, (matrix - 1) / 2, (matrix - 1) / 2))
    ends = np.stack([points.position_mm((end, 0.0, 0.0)) for end in (0.0, points.shape[0] - 1.0)])
    centre = (middle - (0.0, rest, 0.0)) @ lean
    low, high = (ends - (0.0, rest, 0.0)) @ lean[:, 1] + rest
    return replace(
        grid,
        matrix=matrix,
        field_of_view_mm=matrix * points.spacing_mm[2],
        centre_mm=(float(centre[0]), float(centre[2])),
        slice_increment_mm=points.spacing_mm[0],
        first_mm=float(low),
        last_mm=float(high),
    )


def noise_known(projections: Projections) -> bool:
    """Whether the logarithm worked with the scan's own noise, so that weights are inverse variances."""
    settings = [dict(step.settings) for step in projections.history if step.name == "log"]
    return any(each.get("noise") == "of the scan" for each in settings)


def _depth(grid: Grid) -> int:
    """Slices that are as deep together as a block is wide."""
    return max(1, round(grid.shape[1] * grid.spacing_mm[1] / BLOCKS / grid.spacing_mm[0]))


def _blocks(values: Float32, size: tuple[int, int, int]) -> Float32:
    """(blocks, blocks, blocks, values of one block), NaN where the last ones stand over."""
    counts = [-(-length // each) for length, each in zip(values.shape, size, strict=True)]
    over = [(0, n * each - length) for n, each, length in zip(counts, size, values.shape, strict=True)]
    whole = np.pad(values, over, constant_values=np.nan)
    parted = whole.reshape(counts[0], size[0], counts[1], size[1], counts[2], size[2])
    return parted.transpose(0, 2, 4, 1, 3, 5).reshape(*counts, -1)


def _smooth(values: Float64) -> Float64:
    """[1 2 1]/4 along every axis, the ends repeated."""
    for axis in range(values.ndim):
        values = ndimage.correlate1d(values, [0.25, 0.5, 0.25], axis, mode="nearest")
    return values


def _spread(blocks: Float64, size: tuple[int, int, int], points: Grid, like: Grid, memory: Memory) -> Any:
    """Trilinear interpolation of blocks of points at the voxels of `like`; beyond the outermost, as there."""
    mixes = []
    for axis in range(3):
        index = np.zeros((like.shape[axis], 3))
        index[:, axis] = np.arange(like.shape[axis])
        place = points.index(like.position_mm(index))[:, axis]
        number = blocks.shape[axis]
        middles = (np.arange(number) + 0.5) * size[axis] - 0.5
        eye = np.eye(number)
        mixes.append(np.stack([np.interp(place, middles, eye[each]) for each in range(number)], 1).astype(np.float32))
    xp, (along, down, across) = memory.xp, mixes
    plane = memory.up(down) @ (memory.up(blocks.astype(np.float32)) @ memory.up(np.ascontiguousarray(across.T)))
    values, shares = xp.empty(like.shape, dtype=xp.float32), memory.up(along)
    for i, mix in enumerate(along):
        near = np.flatnonzero(mix)  # one block, or two that are neighbours
        some = slice(int(near[0]), int(near[-1]) + 1)
        values[i, ...] = xp.tensordot(shares[i, some], plane[some, ...], axes=1)
    return values
