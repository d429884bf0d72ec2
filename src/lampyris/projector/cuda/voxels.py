"""Filtered projections, a plan and distance weights → the sum over views of what every voxel's rays measured, on the
card.

Where a voxel column lands is worked out once a view in float64, as whole numbers and float32 remainders; the sum over
views, slice by slice, is float32 alone. The image stays on the card until it is asked for.
"""

import math
from collections.abc import Iterator
from typing import Any

import numpy as np
from numba import cuda, float32, int32

from lampyris.model import Float64
from lampyris.projector import ray
from lampyris.projector.cuda.card import room, to_kernels, up, xp
from lampyris.projector.cuda.feet import launch, records, view_of
from lampyris.projector.plan import Plan

WHOLES, PARTS = 2, 4
"""Fields of an aim. Wholes: the detector column left of the landing, −1 where it misses; row below slice 0. Parts:
share of the column to the right, row of slice 0 from that row on, rows a slice, weight."""
SLICES = 8
"""Slices of a thread."""
BATCH_BYTES, SHARE = 1 << 28, 1 / 8
"""Aims held at a time, and no more than that share of what is free."""
_ZERO, _HALF, _ONE = np.float32(0.0), np.float32(0.5), np.float32(1.0)


class VoxelSum:
    """A running sum over views on the card; `weight_mm` (views,) is R of `backprojection.backproject`, 0 = weight 1."""

    def __init__(self, plan: Plan, weight_mm: Float64) -> None:
        self._plan = plan
        self._numbers, self._weight_mm = up(records(plan)), up(np.asarray(weight_mm, np.float64))
        self._mirrored = up(plan.mirrored)
        self._image = xp().zeros(plan.shape, dtype=np.float32)

    def add(self, projections: Any, first: int) -> Iterator[int]:
        """Add the views [first, first + len(projections)), on the host or on the card; gives how many are done after
        every batch.
        """
        plan = self._plan
        slices, high, wide = plan.shape
        most = max(1, min(BATCH_BYTES, room(SHARE)) // (4 * (WHOLES + PARTS) * high * wide))
        for start in range(0, len(projections), most):
            stop = min(start + most, len(projections))
            views, which = stop - start, slice(first + start, first + stop)
            numbers, weights, mirrored, cells, image = to_kernels(
                self._numbers[which], self._weight_mm[which], self._mirrored[which], up(projections[start:stop]),
                self._image,
            )  # fmt: skip
            wholes, parts = to_kernels(
                xp().empty((views, WHOLES, high, wide), dtype=np.int32),
                xp().empty((views, PARTS, high, wide), dtype=np.float32),
            )
            grid, block = launch(wide, high, views)
            aim[grid, block](plan.kind, numbers, weights, plan.spacing_mm, plan.columns, wholes, parts)
            grid, block = launch(wide, high, -(-slices // SLICES))
            sum_views[grid, block](wholes, parts, mirrored, cells, image)
            yield stop

    def image(self) -> Any:
        """The sum so far, (slices, rows, columns) float32, on the card."""
        return self._image


@cuda.jit
def aim(kind, numbers, weight_mm, spacing, columns, wholes, parts):  # type: ignore[no-untyped-def]
    """Where every voxel column (grid x, y) lands in every view of a batch (grid z)."""
    c, r, v = cuda.grid(3)
    if v >= wholes.shape[0] or r >= wholes.shape[2] or c >= wholes.shape[3]:
        return
    view = view_of(numbers[v])
    thickness, height, width = spacing
    at_r, at_c = r * height, c * width
    magnified = ray.magnification(kind, view, at_r, at_c)
    edge = ray.column(kind, view, magnified, at_r, at_c)
    top, slope = ray.axial(kind, view, magnified, at_r, at_c)
    weight = 1.0
    if weight_mm[v] != 0.0:
        off_r, off_c = at_r - view.source_r, at_c - view.source_c
        if kind == ray.FLAT:
            weight = (weight_mm[v] / (off_r * view.normal_r + off_c * view.normal_c)) ** 2
        else:
            weight = weight_mm[v] * weight_mm[v] / (off_r * off_r + off_c * off_c)
    middle = min(max(edge - 0.5, 0.0), columns - 1.0)
    left, row = math.floor(middle), math.floor(top)
    wholes[v, 0, r, c] = int32(left) if 0.0 <= edge < columns else int32(-1)
    wholes[v, 1, r, c] = int32(row)
    parts[v, 0, r, c], parts[v, 1, r, c] = float32(middle - left), float32(top - row)
    parts[v, 2, r, c], parts[v, 3, r, c] = float32(slope * thickness), float32(weight)


@cuda.jit
def sum_views(wholes, parts, mirrored, cells, image):  # type: ignore[no-untyped-def]
    """Add a batch of views to `SLICES` slices of a voxel column (grid: column, row, slices)."""
    c, r, chunk = cuda.grid(3)
    if chunk * SLICES >= image.shape[0] or r >= image.shape[1] or c >= image.shape[2]:
        return
    sums = cuda.local.array(SLICES, float32)
    for i in range(SLICES):  # on from the views before, one by one: no bit depends on how many a batch has
        sums[i] = image[min(chunk * SLICES + i, image.shape[0] - 1), r, c]
    rows = cells.shape[1]
    for v in range(cells.shape[0]):
        left = wholes[v, 0, r, c]
        if left >= 0:
            right = min(left + 1, cells.shape[2] - 1)
            share, weight = parts[v, 0, r, c], parts[v, 3, r, c]
            base = wholes[v, 1, r, c]
            for i in range(SLICES):
                place = parts[v, 1, r, c] + float32(chunk * SLICES + i) * parts[v, 2, r, c]
                whole = int32(math.floor(place))
                if 0 <= whole + base < rows:
                    low = place - float32(whole) - _HALF
                    row = whole + base - int32(low < _ZERO)
                    low += _ONE if low < _ZERO else _ZERO
                    above, under = min(row + 1, rows - 1), max(row, 0)
                    if mirrored[v]:
                        above, under = rows - 1 - above, rows - 1 - under
                    at_left = cells[v, under, left] + low * (cells[v, above, left] - cells[v, under, left])
                    at_right = cells[v, under, right] + low * (cells[v, above, right] - cells[v, under, right])
                    sums[i] += weight * (at_left + share * (at_right - at_left))
    for i in range(SLICES):
        if chunk * SLICES + i < image.shape[0]:
            image[chunk * SLICES + i, r, c] = sums[i]
