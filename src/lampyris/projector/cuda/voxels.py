"""Filtered projections, a plan and distance weights → the sum over views of what every voxel's rays measured, on the
card.

Where a voxel column lands is worked out once a view in float64, as whole numbers and float32 remainders; the sum over
views, slice by slice, is float32 alone. The image stays on the card until it is asked for.
"""

import math
from collections.abc import Iterator
from typing import Any

import numpy as np
from numba import cuda, float32, int32, uint32

from lampyris.model import Float64
from lampyris.projector import ray
from lampyris.projector.cuda.card import room, to_kernels, up, xp
from lampyris.projector.cuda.feet import LAYERS, launch, records, view_of
from lampyris.projector.plan import Plan

PARTS = 4
"""Fields of an aim beside the detector column left of the landing (−1 where it misses): share of the column to the
right, row of slice 0 (the middle of a cell is whole), rows a slice, weight."""
SLICES = 8
"""Slices of a thread."""
BATCH_BYTES, SHARE = 1 << 28, 1 / 8
"""Aims held at a time, and no more than that share of what is free."""
_ZERO, _HALF = np.float32(0.0), np.float32(0.5)


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
        most = max(1, min(LAYERS, min(BATCH_BYTES, room(SHARE)) // (4 * (1 + PARTS) * high * wide)))
        for start in range(0, len(projections), most):
            stop = min(start + most, len(projections))
            views, which = stop - start, slice(first + start, first + stop)
            numbers, weights, mirrored, cells, image = to_kernels(
                self._numbers[which], self._weight_mm[which], self._mirrored[which],
                up(projections[start:stop]).reshape(-1),
                self._image,
            )  # fmt: skip
            wholes, parts = to_kernels(
                xp().empty((views, high, wide), dtype=np.int32),
                xp().empty((views, PARTS, high, wide), dtype=np.float32),
            )
            grid, block = launch(wide, high, views)
            aim[grid, block](plan.kind, numbers, weights, plan.spacing_mm, plan.columns, wholes, parts)
            grid, block = launch(wide, high, -(-slices // SLICES))
            sum_views[grid, block]((views, plan.rows, plan.columns), wholes, parts, mirrored, cells, image)
            yield stop

    def image(self) -> Any:
        """The sum so far, (slices, rows, columns) float32, on the card."""
        return self._image


@cuda.jit
def aim(kind, numbers, weight_mm, spacing, columns, wholes, parts):  # type: ignore[no-untyped-def]
    """Where every voxel column (grid x, y) lands in every view of a batch (grid z)."""
    c, r, v = cuda.grid(3)
    if v >= wholes.shape[0] or r >= wholes.shape[1] or c >= wholes.shape[2]:
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
    left = math.floor(middle)
    wholes[v, r, c] = int32(left) if 0.0 <= edge < columns else int32(-1)
    parts[v, 0, r, c], parts[v, 1, r, c] = float32(middle - left), float32(top - 0.5)
    parts[v, 2, r, c], parts[v, 3, r, c] = float32(slope * thickness), float32(weight)


@cuda.jit
def sum_views(shape, wholes, parts, mirrored, cells, image):  # type: ignore[no-untyped-def]
    """Add a batch of views to `SLICES` slices of a voxel column (grid: column, row, slices); `shape` is that of
    `cells`, a single run. Unsigned numbers of 32 bits: an index that may be negative costs as much as the sum."""
    c, r, chunk = cuda.grid(3)
    if chunk * SLICES >= image.shape[0] or r >= image.shape[1] or c >= image.shape[2]:
        return
    sums = cuda.local.array(SLICES, float32)
    for i in range(SLICES):  # on from the views before, one by one: no bit depends on how many a batch has
        sums[i] = image[min(chunk * SLICES + i, image.shape[0] - 1), r, c]
    views, rows, columns = shape
    size, last, high = rows * columns, float32(rows - 1), float32(rows) - _HALF
    highest = int32(max(rows - 2, 0))
    for v in range(views):
        left = wholes[v, r, c]
        if left >= 0:
            beside, view = int32(min(columns - 1 - left, 1)), cells[v * size : (v + 1) * size]
            share, step, weight = parts[v, 0, r, c], parts[v, 2, r, c], parts[v, 3, r, c]
            place = parts[v, 1, r, c] + float32(chunk * SLICES) * step
            origin, pitch = int32(left), int32(columns)
            if mirrored[v]:
                origin, pitch = int32(left + size - columns), int32(-columns)
            lift = int32(pitch * min(rows - 1, 1))
            for i in range(SLICES):
                here = place + float32(i) * step
                if -_HALF <= here < high:
                    here = min(max(here, _ZERO), last)
                    row = min(int32(here), highest)
                    at = int32(origin + row * pitch)
                    low = view[uint32(at)]
                    low += share * (view[uint32(at + beside)] - low)
                    at = int32(at + lift)
                    top = view[uint32(at)]
                    top += share * (view[uint32(at + beside)] - top)
                    sums[i] += weight * (low + (here - float32(row)) * (top - low))
    for i in range(SLICES):
        if chunk * SLICES + i < image.shape[0]:
            image[chunk * SLICES + i, r, c] = sums[i]
