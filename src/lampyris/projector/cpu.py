"""Plan and image → projections, and back, on all cores: the walk of the separable footprint.

Both directions go through tiles of voxel columns and, for each view, resample along the axis and blend across two or
three detector columns with the same weights. Forward runs parallel over blocks of views, each with its own projections;
the adjoint over tiles, each with its own piece of image: nobody writes where another does, and the result does not
depend on the number of threads. Memory beside input and output: forward one copy of the image with a little padding and
a block of views per thread; adjoint a copy of at most `CHUNK_BYTES` of projections.
"""

import math
from typing import NamedTuple

import numba as nb
import numpy as np
from numba.np.unsafe.ndarray import to_fixed_tuple

from lampyris.model import Float32, Float64
from lampyris.projector import ray
from lampyris.projector.footprint import MAX_COLUMNS, MAX_WIDTH, ONE, blend, boxes, boxes_add, spread
from lampyris.projector.plan import Plan
from lampyris.projector.simd import LANES, aligned, padded

TILE = 16
"""Voxel columns along r and c that are walked together, so that they and their shadow stay in the cache."""
BLOCK = 8
"""Views that forward walks over one tile before it goes to the next."""
CHUNK_BYTES = 1 << 28
"""Most memory for projections laid out anew at one time."""
_FIELDS = len(ray.View._fields)


class Walk(NamedTuple):
    """Sizes that the compiled loops need. Runs of float32 along the axis: `lead` zeros stand before each."""

    kind: int
    slices: int
    high: int
    wide: int
    thickness: float
    height: float
    width: float
    rows: int
    columns: int
    image_lead: int
    image_run: int
    row_lead: int
    row_run: int
    finest: int
    """Most boxes that one row or one slice is cut into."""


def forward(plan: Plan, image: Float32) -> Float32:
    """Line integrals (views, rows, columns) of an image (slices, rows, columns), in its unit times mm."""
    walk = _walk(plan)
    runs = aligned(walk.high * walk.wide * walk.image_run + walk.image_lead)
    _image_in(walk, image, runs)
    projections = np.empty(plan.projections_shape, np.float32)
    block = min(BLOCK, max(1, -(-len(plan.views) // (2 * nb.get_num_threads()))))
    _forward(walk, _numbers(plan), plan.mirrored, runs, projections, block)
    return projections


def adjoint(plan: Plan, projections: Float32) -> Float32:
    """The transpose of `forward`: projections (views, rows, columns) → image (slices, rows, columns)."""
    walk = _walk(plan)
    image = np.zeros(plan.shape, np.float32)
    per_view = walk.columns * walk.row_run
    chunk = max(1, min(len(plan.views), CHUNK_BYTES // (4 * per_view)))
    runs = aligned(chunk * per_view)
    numbers = _numbers(plan)
    for first in range(0, len(numbers), chunk):
        part = slice(first, first + chunk)
        _projections_in(walk, numbers[part], plan.mirrored[part], projections[part], runs)
        _adjoint(walk, numbers[part], runs, image)
    return image


def _walk(plan: Plan) -> Walk:
    """Runs start on whole vectors, so the boxes of up to LANES rows or slices may lie before the first entry."""
    least, most = plan.rows_per_slice
    slices, high, wide = plan.shape
    image_lead = padded(math.ceil(LANES / least) + 3)
    row_lead = padded(math.ceil(LANES * most) + 3)
    finest = max(math.ceil(1 / least / MAX_WIDTH), math.ceil(most / MAX_WIDTH))
    return Walk(
        plan.kind, slices, high, wide, *plan.spacing_mm, plan.rows, plan.columns,
        image_lead, _odd(image_lead + slices), row_lead, _odd(plan.rows), finest,
    )  # fmt: skip


def _odd(count: int) -> int:
    """An odd number of cache lines: neighbouring runs then fall into different sets of the cache."""
    return padded(count) | 16


def _numbers(plan: Plan) -> Float64:
    """(views, len(ray.View._fields)): the records as plain numbers."""
    return np.ascontiguousarray(plan.views).view(np.float64).reshape(len(plan.views), -1)


# ---- the walk over voxel columns


@nb.njit(cache=True, error_model="numpy", fastmath={"contract", "arcp"})
def _view(numbers):  # type: ignore[no-untyped-def]
    return ray.View(*to_fixed_tuple(numbers, _FIELDS))


@nb.njit(cache=True, error_model="numpy", fastmath={"contract", "arcp"})
def _corners(walk, view, r0, c0, edges):  # type: ignore[no-untyped-def]
    """Column coordinates of the (TILE + 1)² corners of a tile's voxels."""
    for i in range(min(TILE, walk.high - r0) + 1):
        r = (r0 + i - 0.5) * walk.height
        for j in range(min(TILE, walk.wide - c0) + 1):
            c = (c0 + j - 0.5) * walk.width
            edges[i, j] = ray.column(walk.kind, view, ray.magnification(walk.kind, view, r, c), r, c)


@nb.njit(cache=True, error_model="numpy", fastmath={"contract", "arcp"})
def _meeting(walk, view, edges, r0, c0, i, j):  # type: ignore[no-untyped-def]
    """How the voxel column (i, j) of a tile meets the detector: corners in columns, chord, first edge in rows, step."""
    corners = ray.ascending(edges[i, j], edges[i, j + 1], edges[i + 1, j], edges[i + 1, j + 1])
    r, c = (r0 + i) * walk.height, (c0 + j) * walk.width
    origin, slope = ray.axial(walk.kind, view, ray.magnification(walk.kind, view, r, c), r, c)
    step = slope * walk.thickness
    return corners, ray.chord(walk.kind, view, r, c, walk.height, walk.width), origin - 0.5 * step, step


@nb.njit(cache=True, error_model="numpy", fastmath={"contract", "arcp"})
def _weights(corners, first, factor):  # type: ignore[no-untyped-def]
    """Shares of up to four detector columns in the voxel's shadow, times `factor`."""
    at = ray.trapezoid_below(first, corners)
    one = ray.trapezoid_below(first + 1.0, corners)
    two = ray.trapezoid_below(first + 2.0, corners)
    three = ray.trapezoid_below(first + 3.0, corners)
    four = ray.trapezoid_below(first + 4.0, corners)
    return (
        np.float32((one - at) * factor),
        np.float32((two - one) * factor),
        np.float32((three - two) * factor),
        np.float32((four - three) * factor),
    )


@nb.njit(cache=True, error_model="numpy", fastmath={"contract", "arcp"})
def _grouped(fine, parts, count):  # type: ignore[no-untyped-def]
    """fine[n] = sum of the `parts` entries from n·parts on, for n < count."""
    for n in range(count):
        total = np.float32(0.0)
        for part in range(parts):
            total += fine[n * parts + part]
        fine[n] = total


@nb.njit(cache=True, error_model="numpy", fastmath={"contract", "arcp"})
def _spread_column(walk, meeting, runs, run, out, out_at, fine):  # type: ignore[no-untyped-def]
    """Add one voxel column, whose values begin at runs[run], to the projections of one view at out[out_at]."""
    corners, chord, top, step = meeting
    first, last = max(0, math.floor(corners[0])), min(walk.columns, math.ceil(corners[3]))
    begin, end = max(0, math.floor(top)), min(walk.rows, math.ceil(top + walk.slices * step))
    if begin >= end or first >= last:
        return
    begin = begin // LANES * LANES
    width = 1.0 / step
    place = np.int64((walk.image_lead + (begin - top) * width) * ONE)
    run -= walk.image_lead
    parts = math.ceil(width / MAX_WIDTH)
    if parts > 1:
        count = -(-(end - begin) // LANES) * LANES
        boxes(fine, 0, 0, count * parts, runs, run, place, np.int64(width / parts * ONE))
        _grouped(fine, parts, count)
    while first < last:
        some = min(last - first, MAX_COLUMNS)
        weights = _weights(corners, float(first), chord * step)
        at = out_at + first * walk.row_run
        if parts == 1:
            spread(out, at, begin, end, walk.row_run, some, weights, runs, run, place, np.int64(width * ONE))
        else:
            spread(out, at, begin, end, walk.row_run, some, weights, fine, 0, 0, np.int64(ONE))
        first += some


@nb.njit(cache=True, error_model="numpy", fastmath={"contract", "arcp"})
def _gather_column(walk, meeting, out, out_at, runs, run, line, fine):  # type: ignore[no-untyped-def]
    """Add to one voxel column at out[out_at] what one view, whose rows begin at runs[run], gives back."""
    corners, chord, top, step = meeting
    first, last = max(0, math.floor(corners[0])), min(walk.columns, math.ceil(corners[3]))
    begin, end = max(0, math.floor(-top / step)), min(walk.slices, math.ceil((walk.rows - top) / step))
    if begin >= end or first >= last:
        return
    begin = begin // LANES * LANES
    row, last_row = max(0, math.floor(top + begin * step)), min(walk.rows, math.ceil(top + end * step))
    row = row // LANES * LANES
    parts = math.ceil(step / MAX_WIDTH)
    place = np.int64((walk.row_lead + top + begin * step) * ONE)
    while first < last:
        some = min(last - first, MAX_COLUMNS)
        weights = _weights(corners, float(first), chord)
        blend(line, walk.row_lead, row, last_row, walk.row_run, some, weights, runs, run + first * walk.row_run)
        if parts == 1:
            boxes_add(out, out_at, begin, end, line, 0, place, np.int64(step * ONE))
        else:
            count = -(-(end - begin) // LANES) * LANES
            boxes(fine, 0, 0, count * parts, line, 0, place, np.int64(step / parts * ONE))
            _grouped(fine, parts, count)
            for k in range(count):
                out[out_at + begin + k] += fine[k]
        first += some


@nb.njit(parallel=True, cache=True, error_model="numpy", fastmath={"contract", "arcp"})
def _forward(walk, numbers, mirrored, runs, projections, block):  # type: ignore[no-untyped-def]
    per_view = walk.columns * walk.row_run
    for b in nb.prange((len(numbers) + block - 1) // block):
        first, last = b * block, min(len(numbers), b * block + block)
        out = np.zeros(block * per_view, np.float32)
        fine = np.zeros(walk.finest * (walk.row_run + LANES), np.float32)
        edges = np.empty((TILE + 1, TILE + 1))
        for r0 in range(0, walk.high, TILE):
            for c0 in range(0, walk.wide, TILE):
                for v in range(first, last):
                    view = _view(numbers[v])
                    _corners(walk, view, r0, c0, edges)
                    for i in range(min(TILE, walk.high - r0)):
                        for j in range(min(TILE, walk.wide - c0)):
                            meeting = _meeting(walk, view, edges, r0, c0, i, j)
                            run = ((r0 + i) * walk.wide + c0 + j) * walk.image_run + walk.image_lead
                            _spread_column(walk, meeting, runs, run, out, (v - first) * per_view, fine)
        for v in range(first, last):
            _view_out(walk, _view(numbers[v]), mirrored[v], out[(v - first) * per_view :], projections[v])


@nb.njit(parallel=True, cache=True, error_model="numpy", fastmath={"contract", "arcp"})
def _adjoint(walk, numbers, runs, image):  # type: ignore[no-untyped-def]
    per_view = walk.columns * walk.row_run
    tiles_r, tiles_c = (walk.high + TILE - 1) // TILE, (walk.wide + TILE - 1) // TILE
    image_run = (walk.slices + 15) // 16 * 16 | 16
    for tile in nb.prange(tiles_r * tiles_c):
        r0, c0 = tile // tiles_c * TILE, tile % tiles_c * TILE
        out = np.zeros(TILE * TILE * image_run, np.float32)
        line = np.zeros(2 * walk.row_lead + walk.row_run + 2 * LANES, np.float32)
        fine = np.zeros(walk.finest * (image_run + LANES), np.float32)
        edges = np.empty((TILE + 1, TILE + 1))
        for v in range(len(numbers)):
            view = _view(numbers[v])
            _corners(walk, view, r0, c0, edges)
            for i in range(min(TILE, walk.high - r0)):
                for j in range(min(TILE, walk.wide - c0)):
                    meeting = _meeting(walk, view, edges, r0, c0, i, j)
                    _gather_column(walk, meeting, out, (i * TILE + j) * image_run, runs, v * per_view, line, fine)
        for i in range(min(TILE, walk.high - r0)):
            for k in range(walk.slices):
                for j in range(min(TILE, walk.wide - c0)):
                    image[k, r0 + i, c0 + j] += out[(i * TILE + j) * image_run + k]


# ---- between arrays as everybody knows them and runs along the axis: read along, write across


@nb.njit(parallel=True, cache=True, error_model="numpy", fastmath={"contract", "arcp"})
def _image_in(walk, image, runs):  # type: ignore[no-untyped-def]
    """Image (slices, rows, columns) → runs of slices, the padding between them left zero."""
    for r in nb.prange(walk.high):
        first = r * walk.wide * walk.image_run + walk.image_lead
        for k in range(walk.slices):
            for c in range(walk.wide):
                runs[first + c * walk.image_run + k] = image[k, r, c]


@nb.njit(parallel=True, cache=True, error_model="numpy", fastmath={"contract", "arcp"})
def _projections_in(walk, numbers, mirrored, projections, runs):  # type: ignore[no-untyped-def]
    """Projections (views, rows, columns) → runs of rows, times 1/cos θ."""
    for v in nb.prange(len(numbers)):
        view = _view(numbers[v])
        lengths = _lengths(walk, view)
        for row in range(walk.rows):
            source = projections[v, walk.rows - 1 - row if mirrored[v] else row]
            first = v * walk.columns * walk.row_run + row
            for c in range(walk.columns):
                factor = np.float32(ray.obliquity(walk.kind, view, row + 0.5, lengths[c]))
                runs[first + c * walk.row_run] = source[c] * factor


@nb.njit(cache=True, error_model="numpy", fastmath={"contract", "arcp"})
def _view_out(walk, view, mirrored, runs, projection):  # type: ignore[no-untyped-def]
    """Runs of rows → one projection (rows, columns), times 1/cos θ."""
    lengths = _lengths(walk, view)
    for row in range(walk.rows):
        target = projection[walk.rows - 1 - row if mirrored else row]
        for c in range(walk.columns):
            factor = np.float32(ray.obliquity(walk.kind, view, row + 0.5, lengths[c]))
            target[c] = runs[c * walk.row_run + row] * factor


@nb.njit(cache=True, error_model="numpy", fastmath={"contract", "arcp"})
def _lengths(walk, view):  # type: ignore[no-untyped-def]
    """Transaxial length of the rays to every column's middle."""
    lengths = np.empty(walk.columns)
    for c in range(walk.columns):
        lengths[c] = ray.ground(walk.kind, view, c + 0.5)
    return lengths
