"""Projections → how much the image's noise is at every voxel, and projections with more noise to try it on.

Even and odd views alone give two images with independent noise, each of twice the variance of the whole image; half
their difference therefore has the whole image's variance, and what they have in common, the object, is gone:

    var[(I_even − I_odd)/2] = (2v + 2v)/4 = v.

The whole image minus one half would have the same variance only where rays are not interpolated between views: after
the rebinning of a helix it is up to 44 % too large 200 mm off the axis (docs/decisions/0081). Halves of a scan are
Wunderlich and Noo's estimator (2008, Phys. Med. Biol. 53:2471, [check]).
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from lampyris.model import (
    Bool,
    Float32,
    Float64,
    Grid,
    GridRequest,
    InputError,
    Orbit,
    Progress,
    Projections,
    Step,
    Volume,
    silent,
)
from lampyris.recon.analytic.rebinning import spots
from lampyris.recon.field import lean_of

BLOCKS = 32
"""Blocks across the field of view in which squares are pooled: 12 … 15 mm in a trunk."""
MATRIX_OF_STACK, MATRIX_OF_FEW, FEW_SLICES = 96, 192, 8
"""Points of the noise field a side; more of them where there are too few slices to pool over."""
CLIP = 3.0
"""Squares beyond this many local standard deviations are streaks of the halved views, not noise."""
CLIPPED_SQUARE = 0.9950
"""E[min(z², 9)] of a standard normal z."""
NORMAL_MEDIAN_SQUARE = 0.4549
"""Median of z²."""
FLOOR = {"HU": 0.01, "1/mm": 2e-7}
"""Least standard deviation told, so that a weight made of it stays finite."""
FEWEST_VIEWS = 8
LINEAR_METHODS = ("auto", "fbp", "fdk", "wfbp")
LINEAR_SETTINGS = {"flat_share"}
NEIGHBOURS = 9
"""Columns over which the mean count is taken, of which added noise depends."""
BATCH_VIEWS = 64

Views: TypeAlias = NDArray[np.int64]


class Reconstruct(Protocol):
    """An analytic reconstruction, such as `recon.reconstruct`."""

    def __call__(
        self, projections: Projections, method: Step, kernel: str, grid: GridRequest, *, progress: Progress = silent
    ) -> Volume: ...


def is_linear(method: Step) -> bool:
    """Whether the image is linear in the integrals, so that half scans tell its noise: analytic and nothing else."""
    return method.name in LINEAR_METHODS and {name for name, _ in method.settings} <= LINEAR_SETTINGS


def deviation(
    projections: Projections,
    method: Step,
    kernel: str,
    grid: GridRequest,
    like: Grid,
    *,
    reconstruct: Reconstruct,
    progress: Progress = silent,
) -> Float32:
    """Standard deviation of the analytic image at every voxel of `like`, in the image's unit, never 0.

    Half the difference of the images of even and odd views (of each focal spot), on 96² points of every slice's field
    of view (192² where there are fewer than 8 slices): noise at a point does not depend on how far the next one is.
    Squares are pooled over 1/32 of the field of view a side, as deep as it is wide, edges dropped, and
    interpolated. `method`, `kernel` and `grid` are those that made the image; `like` is its grid, `reconstruct` what
    made it. Noise of neighbouring views must be independent.

    Raises InputError for fewer than 8 views to each half, and what `reconstruct` raises.
    """
    even, odd = halves(projections)
    request = _points(projections, grid, like)
    images = []
    for i, views in enumerate((even, odd)):

        def part(done: float, begun: int = i) -> None:
            progress((begun + done) / 2)

        images.append(reconstruct(_subset(projections, views), method, kernel, request, progress=part))
    first, second = images
    known = np.ones(first.grid.shape, np.bool_)
    for one in images:
        if one.valid is not None:
            known &= one.valid
    variance, size = pooled((first.values - second.values) / np.float32(2), known, _depth(first.grid))
    return np.maximum(_spread(np.sqrt(variance), size, first.grid, like), np.float32(FLOOR[first.quantity]))


def halves(projections: Projections) -> tuple[Views, Views]:
    """Indices of the even and of the odd views, counted by cycles of a flying focal spot so that spots are balanced.

    A scan with the table at rest and an odd number of cycles lends its last cycle to both halves: each then closes
    the orbit, or covers the same short scan.
    """
    geometry = projections.geometry
    orbit = None if geometry.parallel else Orbit.of(geometry)
    cycle = 1 if orbit is None else len(spots(orbit))
    turn = np.arange(geometry.views) // cycle
    even, odd = np.flatnonzero(turn % 2 == 0), np.flatnonzero(turn % 2 == 1)
    if min(len(even), len(odd)) < FEWEST_VIEWS * cycle:
        raise InputError(
            f"{geometry.views} views of {cycle} focal spots: noise needs two halves of at least"
            f" {FEWEST_VIEWS} views to each spot"
        )
    resting = orbit is None or float(np.ptp(orbit.axial_mm)) < 1e-3
    if resting and turn[-1] % 2 == 0:
        odd = np.append(odd, np.flatnonzero(turn == turn[-1]))
    return even, odd


def perturbed(projections: Projections, rng: np.random.Generator, *, share: float) -> Projections:
    """The scan with `share` times its own noise added once more, independent of the noise that it has.

    The integral of weight w gains share·z/√w, z standard normal; counts, where they are kept, move the opposite way
    by the same z, share·z·√(count + electronic) of a mean over neighbouring columns. A ray of weight 0 stays. The
    image x of any method then moves by share times its noise to first order, so that |x' − x|/share shows it: the
    parametric bootstrap (Efron 1979) linearised, for methods to which no half-scan rule applies.

    Raises InputError where the scan's noise is not known (weights are relative), for a share not above 0 and for
    weights that are negative or not finite.
    """
    if not 0 < share < np.inf:
        raise InputError(f"a share of {share} of the noise is to be added: expected above 0, 0.3 … 1")
    if not noise_known(projections):
        raise InputError(
            "the weights are relative: the scan's noise was not told (gain and electronic counts), so that noise of the"
            " right amount cannot be added; a half-scan passport needs no such knowledge"
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
    spread = _spread(np.sqrt(variance), found[0][1], points, like)
    return np.maximum(spread, np.float32(FLOOR[image.quantity]))


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

    Each block's squares are clipped at 9 times its own variance as told by their median and averaged. The median of
    3³ blocks then drops those in which edges of the object remain, and [1 2 1]/4 along every axis smoothes: noise
    changes over centimetres. Points that are not `known` count nothing.
    """
    slices, rows, columns = difference.shape
    size = (min(depth, slices), max(1, rows // BLOCKS), max(1, columns // BLOCKS))
    squares = _blocks(np.where(known, difference, np.nan).astype(np.float32) ** 2, size)
    count = np.isfinite(squares).sum(axis=-1).astype(np.float64)
    if not count.any():
        raise InputError("no voxel of the image was measured whole: there is nothing to tell the noise from")
    with np.errstate(invalid="ignore"):
        middle = np.zeros(count.shape)
        middle[count > 0] = np.nanmedian(squares[count > 0], axis=-1)
        total = np.nansum(np.minimum(squares, (CLIP**2 / NORMAL_MEDIAN_SQUARE * middle)[..., None]), axis=-1)
    variance = total.astype(np.float64) / CLIPPED_SQUARE / np.maximum(count, 1)
    variance[count == 0] = float(np.median(variance[count > 0]))
    return _smooth(ndimage.median_filter(variance, 3, mode="nearest")), size


def _points(projections: Projections, grid: GridRequest, like: Grid) -> GridRequest:
    """The same slices on a coarse lattice of points over the field of view of `like`.

    A moving table lets the outermost slices move inwards by what four views of each spot travel: a half ends earlier.
    """
    geometry = projections.geometry
    side = max(like.shape[1] * like.spacing_mm[1], like.shape[2] * like.spacing_mm[2])
    lean, rest, travel, cycle = lean_of(geometry), 0.0, np.zeros(2), 1
    if not geometry.parallel:
        orbit = Orbit.of(geometry)
        rest, travel, cycle = float(orbit.axial_mm.mean()), orbit.axial_mm, len(spots(orbit))
    ends = np.stack([like.position_mm((end, 0.0, 0.0)) for end in (0.0, like.shape[0] - 1.0)])
    middle = like.centre_mm - (0.0, rest, 0.0)
    centre = middle @ lean
    low, high = np.sort((ends - (0.0, rest, 0.0)) @ lean[:, 1]) + rest
    inwards = 4 * cycle * float(np.abs(np.diff(travel)).max())
    if like.shape[0] == 1:
        low = high = low + inwards * np.sign(rest - low)
    else:
        low, high = low + inwards, high - inwards
    matrix = MATRIX_OF_FEW if like.shape[0] < FEW_SLICES else MATRIX_OF_STACK
    return replace(
        grid,
        matrix=matrix,
        field_of_view_mm=side,
        centre_mm=(float(centre[0]), float(centre[2])),
        slice_increment_mm=like.spacing_mm[0],
        first_mm=float(low),
        last_mm=float(high),
    )


def noise_known(projections: Projections) -> bool:
    """Whether the logarithm worked with the scan's own noise, so that weights are inverse variances."""
    settings = [dict(step.settings) for step in projections.history if step.name == "log"]
    return any(each.get("noise") == "of the scan" for each in settings)


def _subset(projections: Projections, views: Views) -> Projections:
    """Some of the views; noise needs no weights."""
    integrals = np.ascontiguousarray(projections.integrals[views])
    return Projections(
        integrals,
        np.broadcast_to(np.float32(1), integrals.shape),
        projections.geometry.subset(views.tolist()),
        projections.water_per_mm,
        projections.spectrum,
        projections.acquisition,
    )


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


def _spread(blocks: Float64, size: tuple[int, int, int], points: Grid, like: Grid) -> Float32:
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
    along, down, across = mixes
    values = np.empty(like.shape, np.float32)
    plane = np.einsum("rb,kbc,dc->krd", down, blocks.astype(np.float32), across, optimize=True)
    for i in range(like.shape[0]):
        near = np.flatnonzero(along[i])
        values[i] = np.tensordot(along[i, near], plane[near], 1)
    return values
