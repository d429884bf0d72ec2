"""Filtered cone-parallel views on the card → image and how much of the half turn each voxel was seen, as
`backprojection.helical` has it.

Where a voxel column lies in the rays of a direction is worked out once in float64: the column left of it, and the row
of slice 0 for a table that is level with it. Views of one direction differ by the table's position alone, which is
kept in slices, as a whole number and a float32 remainder: the sum over views is float32 alone, and loses nothing.
"""

import math
from typing import Any

import numpy as np
from numba import cuda, float32, int32, uint32

from lampyris.model import Float32, Float64, Grid, InputError, Progress
from lampyris.projector import simd
from lampyris.projector.backprojection.helical import ConeParallelScan, beam_of, rays_of
from lampyris.projector.cuda.card import room, to_kernels, up, xp
from lampyris.projector.cuda.feet import LAYERS, launch

PARTS = 3
"""Fields of an aim beside the column left of it (−1: beside the detector): share of the column to the right, row of
slice 0 for a table level with it, rows a slice."""
SLICES = 8
"""Slices of a thread."""
BATCH_BYTES, SHARE = 1 << 28, 1 / 8
"""Aims held at a time, and no more than that share of what is free."""
_ZERO, _HALF = np.float32(0.0), np.float32(0.5)
_FAINTEST = np.float32(simd.FAINTEST)


class ConeParallelViews:
    """Filtered views (spots, views, rows, columns) weighted by row, on the card; NaN until they are stored."""

    def __init__(self, scan: ConeParallelScan, row_weight: Float32) -> None:
        self._scan, self._weight = scan, up(row_weight)
        self._values = xp().full(scan.shape, np.nan, dtype=np.float32)
        self._total = xp().zeros((), dtype=np.float32)

    def store(self, filtered: Any, first: int, spot: int) -> None:
        """Set views from `first` on of a spot; what is stored is looked at when the sum is made."""
        there = up(filtered)
        self._total = self._total + there.sum()
        self._values[spot, first : first + len(filtered)] = there * self._weight[:, None]

    def image(self, grid: Grid, progress: Progress) -> tuple[Any, Any]:
        """The image, and in how many directions each voxel was seen, on the card.

        Raises InputError where NaN was stored.
        """
        if not bool(xp().isfinite(self._total)):
            raise InputError("filtered views hold NaN or infinite values: a 0/0 upstream?")
        scan, (slices, high, wide) = self._scan, grid.shape
        beam, (rays, lattice, turns) = beam_of(scan, grid), _numbers(scan, grid)
        wholes, parts = _tables(scan, grid)
        windows, first_of = up(_windows(scan, grid)), beam.lowest_view
        image, seen = xp().zeros(grid.shape, dtype=np.float32), xp().zeros(grid.shape, dtype=np.uint16)
        each = 2 * scan.shape[0]
        held = min(BATCH_BYTES, room(SHARE)) // (4 * (1 + PARTS) * high * wide)
        most = max(1, min(held, LAYERS) // each)
        fixed = to_kernels(wholes, parts, windows, self._values.reshape(-1), self._weight, image, seen)
        for first in range(0, scan.half_turn, most):
            count = min(most, scan.half_turn - first)
            columns = xp().empty((count * each, high, wide), dtype=np.int32)
            aims = xp().empty((count * each, PARTS, high, wide), dtype=np.float32)
            ours = to_kernels(columns, aims)
            grid_, block = launch(wide, high, count * each)
            aim_turns[grid_, block](first, *to_kernels(rays, lattice, turns), scan.shape[3], *ours)
            grid_, block = launch(wide, high, -(-slices // SLICES))
            sum_turns[grid_, block](first_of + first, scan.half_turn, scan.shape, *ours, *fixed)
            progress((first + count) / scan.half_turn)
        image *= np.float32(np.pi / scan.half_turn)
        return image, seen


def _numbers(scan: ConeParallelScan, grid: Grid) -> tuple[Any, Any, Any]:
    """On the card: the rays (spots, columns, 4); what `aim` knows of the lattices; cosine and sine of directions."""
    beam = beam_of(scan, grid)
    lattice = np.array(
        [
            beam.x, beam.z, beam.row_x, beam.row_z, beam.column_x, beam.column_z, beam.first_edge, beam.columns_per_mm,
            grid.spacing_mm[0],
        ]
    )  # fmt: skip
    angles = beam.lowest_angle + np.arange(scan.half_turn) * np.pi / scan.half_turn
    return up(rays_of(scan)), up(lattice), up(np.stack([np.cos(angles), np.sin(angles)], 1))


def _tables(scan: ConeParallelScan, grid: Grid) -> tuple[Any, Any]:
    """Where the table was in every view, in slices of the grid: whole numbers, and what is left of them."""
    places = (scan.axial_mm - float(grid.first_voxel_mm[1])) / grid.spacing_mm[0]
    whole = np.floor(places)
    return up(whole.astype(np.int32)), up((places - whole).astype(np.float32))


def _windows(scan: ConeParallelScan, grid: Grid) -> Any:
    """(chunks, 2): first and last view, exclusive, that can show the slices of a thread, whichever voxel it is."""
    corners = [grid.position_mm((0, r, c)) for r in (0, grid.shape[1] - 1) for c in (0, grid.shape[2] - 1)]
    reach = max(float(np.hypot(corner[0], corner[2])) for corner in corners)
    starts = range(0, grid.shape[0], SLICES)
    if scan.feed_mm_per_rad == 0.0:
        return np.array([(0, scan.views)] * len(starts), np.int32)
    bottom, thickness = float(grid.first_voxel_mm[1]), grid.spacing_mm[0]
    steps = round(scan.first_angle_rad * scan.half_turn / np.pi)
    shown: list[Float64] = [
        np.array(scan.showing(bottom + start * thickness, bottom + (start + SLICES - 1) * thickness, reach)) - steps
        for start in starts
    ]
    return np.clip(np.array(shown) + np.array([0, 1]), 0, scan.views).astype(np.int32)


@cuda.jit
def aim_turns(first, rays, lattice, turns, columns, wholes, parts):  # type: ignore[no-untyped-def]
    """Where every voxel column (grid x, y) lies in the rays of a direction, of a spot, of either side (grid z)."""
    c, r, a = cuda.grid(3)
    if a >= wholes.shape[0] or r >= wholes.shape[1] or c >= wholes.shape[2]:
        return
    spots = rays.shape[0]
    i, spot, sign = first + a // (2 * spots), a // 2 % spots, 1.0 - 2.0 * (a % 2)
    x = lattice[0] + r * lattice[2] + c * lattice[4]
    z = lattice[1] + r * lattice[3] + c * lattice[5]
    xi = sign * (x * turns[i, 0] - z * turns[i, 1])
    s = sign * (x * turns[i, 1] + z * turns[i, 0])
    edge = lattice[6] + xi * lattice[7]
    place = min(max(edge - 0.5, 0.0), columns - 1.0)
    left = int32(math.floor(place))
    right, share = min(left + 1, columns - 1), place - left
    travel = rays[spot, left, 0] + share * (rays[spot, right, 0] - rays[spot, left, 0])
    ahead = rays[spot, left, 1] + share * (rays[spot, right, 1] - rays[spot, left, 1])
    rows = rays[spot, left, 2] + share * (rays[spot, right, 2] - rays[spot, left, 2])
    rows_per_mm = rows / (ahead - s)
    wholes[a, r, c] = left if 0.0 <= edge < columns else int32(-1)
    parts[a, 0, r, c] = float32(share)
    parts[a, 1, r, c] = float32(rays[spot, 0, 3] - travel * rows_per_mm)
    parts[a, 2, r, c] = float32(rows_per_mm * lattice[8])


@cuda.jit
def sum_turns(  # type: ignore[no-untyped-def]
    first, half_turn, shape, lefts, aims, wholes, parts, windows, values, weight, image, seen
):
    """Add a batch of directions, each the mean of all views that saw the voxel, to `SLICES` slices of a voxel column
    (grid: column, row, slices); `first` is the view of the first direction, modulo a turn, `shape` that of `values`, a
    single run."""
    c, r, chunk = cuda.grid(3)
    if chunk * SLICES >= image.shape[0] or r >= image.shape[1] or c >= image.shape[2]:
        return
    sums, counts = cuda.local.array(SLICES, float32), cuda.local.array(SLICES, int32)
    above, below = cuda.local.array(SLICES, float32), cuda.local.array(SLICES, float32)
    for j in range(SLICES):  # on from the directions before, one by one: no bit depends on how many a batch has
        sums[j] = image[min(chunk * SLICES + j, image.shape[0] - 1), r, c]
        counts[j] = 0
    spots, views, rows, columns = shape
    turn, size = 2 * half_turn, rows * columns
    begin, end = windows[chunk, 0], windows[chunk, 1]
    for i in range(lefts.shape[0] // (2 * spots)):
        for j in range(SLICES):
            above[j], below[j] = _ZERO, _ZERO
        for side in range(2 * spots):
            a = i * 2 * spots + side
            left = lefts[a, r, c]
            view = (first + i + side % 2 * half_turn) % turn
            view += (max(begin - view, 0) + turn - 1) // turn * turn
            while left >= 0 and view < end:
                level = float32(chunk * SLICES - wholes[view]) - parts[view]
                at = (side // 2 * views + view) * size
                _add_rows(
                    values[at : at + size], weight, rows, columns, left, aims[a, 0, r, c],
                    aims[a, 1, r, c] + level * aims[a, 2, r, c], aims[a, 2, r, c], above, below,
                )  # fmt: skip
                view += turn
        for j in range(SLICES):
            if below[j] > _FAINTEST:
                sums[j] += above[j] / below[j]
                counts[j] += 1
    for j in range(SLICES):
        if chunk * SLICES + j < image.shape[0]:
            image[chunk * SLICES + j, r, c] = sums[j]
            seen[chunk * SLICES + j, r, c] += counts[j]


@cuda.jit(device=True)
def _add_rows(cells, weight, rows, columns, left, share, place, step, above, below):  # type: ignore[no-untyped-def]
    """Add W·p and W of one view to the two sums of `SLICES` slices, of which the first lands on the row `place`.

    Unsigned numbers of 32 bits: an index that may be negative costs as much as the sum.
    """
    last, high = float32(rows - 1), float32(rows) - _HALF
    highest, rise = int32(max(rows - 2, 0)), int32(min(rows - 1, 1))
    beside, pitch = int32(min(columns - 1 - left, 1)), int32(columns)
    lift = int32(rise * pitch)
    for j in range(SLICES):
        here = place + float32(j) * step
        if -_HALF <= here < high:
            here = min(max(here, _ZERO), last)
            row = min(int32(here), highest)
            part = here - float32(row)
            at = int32(row * pitch + left)
            low = cells[uint32(at)]
            low += share * (cells[uint32(at + beside)] - low)
            at = int32(at + lift)
            top = cells[uint32(at)]
            top += share * (cells[uint32(at + beside)] - top)
            above[j] += low + part * (top - low)
            low = weight[uint32(row)]
            below[j] += low + part * (weight[uint32(row + rise)] - low)
