"""Plan and image → projections, and back, on the card: both directions gather, so that nothing is added at random.

`forward`: each thread owns some rows of one detector column in one view and walks the lines of voxels that its beam
crosses. `adjoint`: each thread owns some slices of one voxel column and walks the views. Both take the same numbers of
the same footprints (`feet`) through the same functions, in float32.
"""

import math
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
from numba import cuda, float32, int32, uint32

from lampyris.projector.cuda.card import SIMULATED, down, to_kernels, up, xp
from lampyris.projector.cuda.feet import (
    EDGE,
    LAYERS,
    PARTS,
    WHOLES,
    find_edges,
    find_feet,
    launch,
    records,
    weigh_cells,
)
from lampyris.projector.plan import Plan

ROWS, SLICES = 8, 8
"""Detector rows of a thread of `forward`, slices of one of `adjoint`."""
BATCH_BYTES = 1 << 28
"""Footprints held at a time."""
_SLACK = np.float32(0.01)
"""Voxels by which the walk goes beyond the beam: float32 knows a place to some 1e-4."""
_ZERO, _HALF, _ONE, _LEAST = np.float32(0.0), np.float32(0.5), np.float32(1.0), np.float32(1e-12)


class _Batch(NamedTuple):
    """Some views on the card: their records as numbers, and the footprints of all voxel columns in them."""

    views: slice
    numbers: Any
    mirrored: Any
    wholes: Any
    parts: Any


def forward(plan: Plan, image: Any) -> Any:
    """Line integrals (views, rows, columns) of an image (slices, rows, columns), in its unit times mm.

    Those of an image on the card stay there; those of an image on the host come back a batch of views at a time.
    """
    space, on_card = xp(), _on_card(image)
    projections = (space if on_card else np).empty(plan.projections_shape, dtype=np.float32)
    (there,) = to_kernels(space.ascontiguousarray(up(image)))
    for batch in _batches(space, plan):
        views = batch.views.stop - batch.views.start
        made, edges = _empty(space, (views, plan.rows, plan.columns)), _empty(space, (views, plan.columns + 1, EDGE))
        weighted = projections[batch.views] if on_card else _empty(space, made.shape)
        for_edges, for_cells = to_kernels(edges, made)
        grid, block = launch(plan.columns + 1, views)
        find_edges[grid, block](plan.kind, batch.numbers, plan.spacing_mm, for_edges)
        grid, block = launch(plan.columns, -(-plan.rows // ROWS), views)
        gather_cells[grid, block](batch.wholes, batch.parts, for_edges, there, for_cells)
        _weigh(plan, batch, made, weighted, back=True)
        if not on_card:
            projections[batch.views] = down(weighted)
    return projections


def adjoint(plan: Plan, projections: Any) -> Any:
    """The transpose of `forward`: projections (views, rows, columns) → image (slices, rows, columns), there too."""
    space, on_card = xp(), _on_card(projections)
    slices, high, wide = plan.shape
    image = space.zeros(plan.shape, dtype=np.float32)
    for batch in _batches(space, plan):
        cells = space.ascontiguousarray(up(projections[batch.views]))
        weighted = _empty(space, cells.shape)
        _weigh(plan, batch, cells, weighted, back=False)
        grid, block = launch(wide, high, -(-slices // SLICES))
        gather_voxels[grid, block](batch.wholes, batch.parts, *to_kernels(weighted, image))
    return image if on_card else down(image)


def _on_card(array: Any) -> bool:
    """Whether an array is worked on where it is, as the simulator does with NumPy's."""
    return SIMULATED or hasattr(array, "__cuda_array_interface__")


def _empty(space: Any, shape: tuple[int, ...]) -> Any:
    return space.empty(shape, dtype=np.float32)


def _batches(space: Any, plan: Plan) -> Iterator[_Batch]:
    """The views in turn, as many at a time as their footprints may take memory."""
    _, high, wide = plan.shape
    numbers = records(plan)
    most = max(1, min(LAYERS, BATCH_BYTES // (4 * (WHOLES + PARTS) * high * wide)))
    for first in range(0, len(numbers), most):
        part = slice(first, min(first + most, len(numbers)))
        views = part.stop - part.start
        wholes, parts = (
            space.empty((views, WHOLES, high, wide), dtype=np.int32),
            _empty(space, (views, PARTS, high, wide)),
        )
        batch = _Batch(part, *to_kernels(up(numbers[part]), up(plan.mirrored[part]), wholes, parts))
        grid, block = launch(wide, high, views)
        find_feet[grid, block](plan.kind, batch.numbers, plan.spacing_mm, batch.wholes, batch.parts)
        yield batch


def _weigh(plan: Plan, batch: _Batch, cells: Any, weighted: Any, *, back: bool) -> None:
    grid, block = launch(plan.columns, plan.rows, cells.shape[0])
    weigh_cells[grid, block](plan.kind, batch.numbers, batch.mirrored, back, *to_kernels(cells, weighted))


@cuda.jit(device=True)
def _below(x, p, q, s, t):  # type: ignore[no-untyped-def]
    """Area of the trapezoid over p, q, s, t (height 1) below x: `ray.trapezoid_below` in float32."""
    rise, fall = max(q - p, _LEAST), max(t - s, _LEAST)
    up = min(max(x - p, _ZERO), rise)
    flat = min(max(x - q, _ZERO), s - q)
    down = min(max(x - s, _ZERO), fall)
    return _HALF * up * up / rise + flat + down * (_ONE - _HALF * down / fall)


@cuda.jit(device=True)
def _share(parts, v, r, c, at):  # type: ignore[no-untyped-def]
    """The part of the voxel column's shadow that falls on the `at`-th detector column from its first on."""
    p, q, s, t = parts[v, 0, r, c], parts[v, 1, r, c], parts[v, 2, r, c], parts[v, 3, r, c]
    left = float32(at)
    return _below(left + _ONE, p, q, s, t) - _below(left, p, q, s, t)


@cuda.jit(device=True)
def _reached(first, move, line, other, step):  # type: ignore[no-untyped-def]
    """Voxels [low, high] of a line that the beam between two edges crosses: (first, move) of one, (other, step)."""
    above, under = float32(line) - _HALF, float32(line) + _HALF
    a, b = first + move * above, first + move * under
    c, d = other + step * above, other + step * under
    low, high = min(min(a, b), min(c, d)), max(max(a, b), max(c, d))
    return int32(math.floor(max(low + _HALF - _SLACK, -_ONE))), int32(math.floor(min(high + _HALF + _SLACK, _MANY)))


_MANY = np.float32(1 << 24)


@cuda.jit
def gather_cells(wholes, parts, edges, image, cells):  # type: ignore[no-untyped-def]
    """cells[view, row, column] = Σ chord · share · overlap · image, `ROWS` rows a thread (grid: column, rows, view)."""
    column, chunk, v = cuda.grid(3)
    if v >= cells.shape[0] or chunk * ROWS >= cells.shape[1] or column >= cells.shape[2]:
        return
    sums = cuda.local.array(ROWS, float32)
    for i in range(ROWS):
        sums[i] = _ZERO
    down = abs(edges[v, column, 1]) + abs(edges[v, column + 1, 1])
    over = abs(edges[v, column, 3]) + abs(edges[v, column + 1, 3])
    by_rows = down <= over
    at = 0 if by_rows else 2
    first, move = edges[v, column, at], edges[v, column, at + 1]
    other, step = edges[v, column + 1, at], edges[v, column + 1, at + 1]
    lines, length = (image.shape[1], image.shape[2]) if by_rows else (image.shape[2], image.shape[1])
    for line in range(lines):
        low, high = _reached(first, move, line, other, step)
        for place in range(max(low, 0), min(high + 1, length)):
            r, c = (line, place) if by_rows else (place, line)
            weight = _share(parts, v, r, c, column - wholes[v, 0, r, c])
            if weight > _ZERO:
                row = int32(chunk * ROWS - wholes[v, 1, r, c])
                _add_rows(image[:, r, c], parts[v, 4, r, c], parts[v, 5, r, c], row, weight * parts[v, 6, r, c], sums)
    for i in range(ROWS):
        if chunk * ROWS + i < cells.shape[1]:
            cells[v, chunk * ROWS + i, column] = sums[i]


@cuda.jit(device=True)
def _add_rows(line, top, step, row, weight, sums):  # type: ignore[no-untyped-def]
    """Add the slices of one voxel column to `ROWS` detector rows from `row` on, each by how much it covers of a row.

    Indexed with 32 bits that are never negative: checked and multiplied with 64, an index costs more than the sum.
    """
    slices, each = int32(line.shape[0]), _ONE / step
    for i in range(ROWS):
        under = float32(row + i)
        k = int32(max(int32(math.floor((under - top) * each - _SLACK)), 0))
        while k < slices:
            lower = top + float32(k) * step
            if lower >= under + _ONE:
                break
            covered = min(lower + step, under + _ONE) - max(lower, under)
            if covered > _ZERO:
                sums[i] += weight * covered * line[uint32(k)]
            k = int32(k + 1)


@cuda.jit
def gather_voxels(wholes, parts, cells, image):  # type: ignore[no-untyped-def]
    """image[k, r, c] += Σ chord · share · overlap · cells, `SLICES` slices a thread (grid: column, row, slices)."""
    c, r, chunk = cuda.grid(3)
    if chunk * SLICES >= image.shape[0] or r >= image.shape[1] or c >= image.shape[2]:
        return
    sums = cuda.local.array(SLICES, float32)
    for i in range(SLICES):
        sums[i] = _ZERO
    for v in range(cells.shape[0]):
        lowest = parts[v, 4, r, c] + float32(chunk * SLICES) * parts[v, 5, r, c] + float32(wholes[v, 1, r, c])
        if lowest > float32(cells.shape[1]) + _ONE or lowest + float32(SLICES) * parts[v, 5, r, c] < -_ONE:
            continue  # the slices lie above or below the detector, as in a helix most do in most views
        first, corner = wholes[v, 0, r, c], parts[v, 3, r, c]
        for column in range(max(first, 0), min(first + int32(math.ceil(corner)), cells.shape[2])):
            weight = _share(parts, v, r, c, column - first) * parts[v, 6, r, c]
            if weight > _ZERO:
                top, step = parts[v, 4, r, c], parts[v, 5, r, c]
                _add_slices(cells[v, :, column], top, step, wholes[v, 1, r, c], chunk * SLICES, weight, sums)
    for i in range(SLICES):
        if chunk * SLICES + i < image.shape[0]:
            image[chunk * SLICES + i, r, c] += sums[i]


@cuda.jit(device=True)
def _add_slices(line, top, step, base, k, weight, sums):  # type: ignore[no-untyped-def]
    """Add one detector column to `SLICES` slices from `k` on, each by how much it covers of a row; as `_add_rows`."""
    rows = int32(line.shape[0])
    for i in range(SLICES):
        lower = top + float32(k + i) * step
        row = int32(max(int32(math.floor(lower)) + base, 0))
        while row < rows:
            under = float32(int32(row - base))
            if under >= lower + step:
                break
            covered = min(lower + step, under + _ONE) - max(lower, under)
            if covered > _ZERO:
                sums[i] += weight * covered * line[uint32(row)]
            row = int32(row + 1)
