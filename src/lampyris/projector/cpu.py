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
EDGES = TILE + 8
"""Corners worked out along c: TILE + 1, rounded up to whole vectors."""
FIRST, LAST, TOP, STEP, CHORD, SHARE_1, SHARE_2, SHARE_3, SHARE_4 = (TILE * k for k in range(9))
CORNER_1, CORNER_2, CORNER_3, CORNER_4 = (TILE * k for k in range(9, 13))
"""Where, in the footprints of a row of voxel columns, each field begins: first detector column and the one after the
last, first edge in detector rows and rows per slice, chord in mm, shares of the first `MAX_COLUMNS` detector columns,
and the four corners that they come from."""
FIELDS = 13


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
    line_run: int
    """A row of detector columns blended into one, with room for whole vectors before and behind."""
    piece_run: int
    """A voxel column of a tile under way."""
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
        image_lead, _odd(image_lead + slices), row_lead, _odd(plan.rows),
        _odd(2 * row_lead + plan.rows + 2 * LANES), _odd(slices), finest,
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
def _feet(walk, view, r0, c0, edges, feet):  # type: ignore[no-untyped-def]
    """Footprints of a tile's voxel columns, compiled for each kind of beam: its loops then hold no branch on it."""
    if walk.kind == ray.PARALLEL:
        _feet_of(ray.PARALLEL, walk, view, r0, c0, edges, feet)
    elif walk.kind == ray.FLAT:
        _feet_of(ray.FLAT, walk, view, r0, c0, edges, feet)
    else:
        _feet_of(ray.CURVED, walk, view, r0, c0, edges, feet)


@nb.njit(forceinline=True, cache=True, error_model="numpy", fastmath={"contract", "arcp"})
def _feet_of(kind, walk, view, r0, c0, edges, feet):  # type: ignore[no-untyped-def]
    """Field by field and a whole tile at a time, so that the compiler makes vectors of it; see `FIELDS` for `feet`.

    Columns of the tile beyond the grid are worked out too, and never used.
    """
    columns = float(walk.columns)
    for i in range(TILE + 1):
        r = (r0 + i - 0.5) * walk.height
        for j in range(EDGES):
            c = (c0 + j - 0.5) * walk.width
            edges[i * EDGES + j] = ray.column(kind, view, ray.magnification(kind, view, r, c), r, c)
    for i in range(TILE):
        r = (r0 + i) * walk.height
        for j in range(TILE):
            c = (c0 + j) * walk.width
            e = i * EDGES + j
            p, q, s, t = ray.ascending(edges[e], edges[e + 1], edges[e + EDGES], edges[e + EDGES + 1])
            first = float(np.int32(min(max(p, 0.0), columns)))
            origin, slope = ray.axial(kind, view, ray.magnification(kind, view, r, c), r, c)
            step = slope * walk.thickness
            n = i * TILE * FIELDS + j
            feet[n + FIRST] = first
            feet[n + LAST] = columns - float(np.int32(columns - min(max(t, 0.0), columns)))
            feet[n + TOP], feet[n + STEP] = origin - 0.5 * step, step
            feet[n + CHORD] = ray.chord(kind, view, r, c, walk.height, walk.width)
            corners = p, q, s, t
            zero = ray.trapezoid_below(first, corners)
            one = ray.trapezoid_below(first + 1.0, corners)
            two = ray.trapezoid_below(first + 2.0, corners)
            three = ray.trapezoid_below(first + 3.0, corners)
            four = ray.trapezoid_below(first + 4.0, corners)
            feet[n + SHARE_1], feet[n + SHARE_2] = one - zero, two - one
            feet[n + SHARE_3], feet[n + SHARE_4] = three - two, four - three
            feet[n + CORNER_1], feet[n + CORNER_2], feet[n + CORNER_3], feet[n + CORNER_4] = p, q, s, t


@nb.njit(forceinline=True, cache=True, error_model="numpy", fastmath={"contract", "arcp"})
def _weights(feet, n, begun, factor):  # type: ignore[no-untyped-def]
    """Shares of up to four detector columns, from the `begun`-th of the shadow on, times `factor`."""
    if begun == 0:
        one, two, three, four = feet[n + SHARE_1], feet[n + SHARE_2], feet[n + SHARE_3], feet[n + SHARE_4]
    else:
        first = feet[n + FIRST] + begun
        corners = feet[n + CORNER_1], feet[n + CORNER_2], feet[n + CORNER_3], feet[n + CORNER_4]
        zero = ray.trapezoid_below(first, corners)
        one = ray.trapezoid_below(first + 1.0, corners)
        two = ray.trapezoid_below(first + 2.0, corners)
        three = ray.trapezoid_below(first + 3.0, corners)
        four = ray.trapezoid_below(first + 4.0, corners) - three
        one, two, three = one - zero, two - one, three - two
    return np.float32(one * factor), np.float32(two * factor), np.float32(three * factor), np.float32(four * factor)


@nb.njit(forceinline=True, cache=True, error_model="numpy", fastmath={"contract", "arcp"})
def _grouped(fine, parts, count):  # type: ignore[no-untyped-def]
    """fine[n] = sum of the `parts` entries from n·parts on, for n < count."""
    for n in range(count):
        total = np.float32(0.0)
        for part in range(parts):
            total += fine[n * parts + part]
        fine[n] = total


@nb.njit(forceinline=True, cache=True, error_model="numpy", fastmath={"contract", "arcp"})
def _spread_row(walk, feet, wide, runs, run, out, out_at, fine):  # type: ignore[no-untyped-def]
    """Add one row of a tile's voxel columns, from runs[run] on, to the projections of one view at out[out_at]."""
    for j in range(wide):
        top, step, factor = feet[j + TOP], feet[j + STEP], feet[j + CHORD] * feet[j + STEP]
        begin, end = max(0, math.floor(top)), min(walk.rows, math.ceil(top + walk.slices * step))
        if feet[j + FIRST] >= feet[j + LAST] or begin >= end:
            continue
        first, last = np.int64(feet[j + FIRST]), np.int64(feet[j + LAST])
        begin = begin // LANES * LANES
        width = 1.0 / step
        place = np.int64((walk.image_lead + (begin - top) * width) * ONE)
        column = run + j * walk.image_run
        parts = math.ceil(width / MAX_WIDTH)
        if parts > 1:
            count = -(-(end - begin) // LANES) * LANES
            boxes(fine, 0, 0, count * parts, runs, column, place, np.int64(width / parts * ONE))
            _grouped(fine, parts, count)
        for begun in range(0, last - first, MAX_COLUMNS):
            some = min(last - first - begun, MAX_COLUMNS)
            weights = _weights(feet, j, begun, factor)
            at = out_at + (first + begun) * walk.row_run
            if parts == 1:
                spread(out, at, begin, end, walk.row_run, some, weights, runs, column, place, np.int64(width * ONE))
            else:
                spread(out, at, begin, end, walk.row_run, some, weights, fine, 0, 0, np.int64(ONE))


@nb.njit(forceinline=True, cache=True, error_model="numpy", fastmath={"contract", "arcp"})
def _blend_columns(walk, feet, wide, begun, runs, run, lines, spans):  # type: ignore[no-untyped-def]
    """For each of `wide` voxel columns: up to four detector columns, from the `begun`-th of its shadow on, into a line.

    runs[run] is the first cell of the view; `spans` gets the slices that the line reaches and the place in it where
    they begin. Gives whether a shadow is wider than that.
    """
    more = False
    for j in range(wide):
        top, step = feet[j + TOP], feet[j + STEP]
        first, last = np.int64(feet[j + FIRST]) + begun, np.int64(feet[j + LAST])
        begin, end = max(0, math.floor(-top / step)), min(walk.slices, math.ceil((walk.rows - top) / step))
        if first >= last or begin >= end:
            spans[j], spans[TILE + j] = 0, 0
            continue
        begin = begin // LANES * LANES
        spans[j], spans[TILE + j] = begin, end
        spans[2 * TILE + j] = np.int64((walk.row_lead + top + begin * step) * ONE)
        row, last_row = max(0, math.floor(top + begin * step)), min(walk.rows, math.ceil(top + end * step))
        some = min(last - first, MAX_COLUMNS)
        more |= last - first > MAX_COLUMNS
        weights = _weights(feet, j, begun, feet[j + CHORD])
        at = j * walk.line_run + walk.row_lead
        blend(lines, at, row // LANES * LANES, last_row, walk.row_run, some, weights, runs, run + first * walk.row_run)
    return more


@nb.njit(forceinline=True, cache=True, error_model="numpy", fastmath={"contract", "arcp"})
def _gather_row(walk, feet, wide, out, out_at, runs, run, lines, spans, fine):  # type: ignore[no-untyped-def]
    """Add to one row of a tile's voxel columns, from out[out_at] on, what one view gives back.

    All lines are blended before the first is summed along the axis: a sum that reads what was written a moment ago
    would wait for it.
    """
    begun, more = 0, True
    while more:
        more = _blend_columns(walk, feet, wide, begun, runs, run, lines, spans)
        for j in range(wide):
            begin, end, place = spans[j], spans[TILE + j], spans[2 * TILE + j]
            if begin >= end:
                continue
            step, at, line = feet[j + STEP], out_at + j * walk.piece_run, j * walk.line_run
            parts = math.ceil(step / MAX_WIDTH)
            if parts == 1:
                boxes_add(out, at, begin, end, lines, line, place, np.int64(step * ONE))
            else:
                count = -(-(end - begin) // LANES) * LANES
                boxes(fine, 0, 0, count * parts, lines, line, place, np.int64(step / parts * ONE))
                _grouped(fine, parts, count)
                for k in range(count):
                    out[at + begin + k] += fine[k]
        begun += MAX_COLUMNS


@nb.njit(cache=True)
def _on_cache_line(array):  # type: ignore[no-untyped-def]
    """The array from its first entry on a cache line on: vectors across two lines cost twice."""
    return array[(-array.ctypes.data % 64) // 4 :]


@nb.njit(parallel=True, cache=True, error_model="numpy", fastmath={"contract", "arcp"})
def _forward(walk, numbers, mirrored, runs, projections, block):  # type: ignore[no-untyped-def]
    per_view = walk.columns * walk.row_run
    for b in nb.prange((len(numbers) + block - 1) // block):
        first, last = b * block, min(len(numbers), b * block + block)
        out = _on_cache_line(np.zeros(block * per_view + 16, np.float32))
        fine = np.zeros(walk.finest * (walk.row_run + LANES), np.float32)
        edges, feet = np.empty((TILE + 1) * EDGES), np.empty(TILE * FIELDS * TILE)
        for r0 in range(0, walk.high, TILE):
            for c0 in range(0, walk.wide, TILE):
                high, wide = min(TILE, walk.high - r0), min(TILE, walk.wide - c0)
                for v in range(first, last):
                    _feet(walk, _view(numbers[v]), r0, c0, edges, feet)
                    for i in range(high):
                        run = ((r0 + i) * walk.wide + c0) * walk.image_run
                        at = (v - first) * per_view
                        _spread_row(walk, feet[i * TILE * FIELDS :], wide, runs, run, out, at, fine)
        for v in range(first, last):
            _view_out(walk, _view(numbers[v]), mirrored[v], out[(v - first) * per_view :], projections[v])


@nb.njit(parallel=True, cache=True, error_model="numpy", fastmath={"contract", "arcp"})
def _adjoint(walk, numbers, runs, image):  # type: ignore[no-untyped-def]
    per_view = walk.columns * walk.row_run
    tiles_r, tiles_c = (walk.high + TILE - 1) // TILE, (walk.wide + TILE - 1) // TILE
    for tile in nb.prange(tiles_r * tiles_c):
        r0, c0 = tile // tiles_c * TILE, tile % tiles_c * TILE
        high, wide = min(TILE, walk.high - r0), min(TILE, walk.wide - c0)
        out = _on_cache_line(np.zeros(TILE * TILE * walk.piece_run + 16, np.float32))
        lines = _on_cache_line(np.zeros(TILE * walk.line_run + 16, np.float32))
        spans = np.zeros(3 * TILE, np.int64)
        fine = np.zeros(walk.finest * (walk.piece_run + LANES), np.float32)
        edges, feet = np.empty((TILE + 1) * EDGES), np.empty(TILE * FIELDS * TILE)
        for v in range(len(numbers)):
            _feet(walk, _view(numbers[v]), r0, c0, edges, feet)
            for i in range(high):
                at = i * TILE * walk.piece_run
                _gather_row(walk, feet[i * TILE * FIELDS :], wide, out, at, runs, v * per_view, lines, spans, fine)
        for i in range(high):
            for k in range(walk.slices):
                for j in range(wide):
                    image[k, r0 + i, c0 + j] += out[(i * TILE + j) * walk.piece_run + k]


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
