"""Filtered cone-parallel data of a helical scan and a grid → image, and how much of the half turn each voxel was seen.

Weighted filtered backprojection (Stierstorfer, Rauscher, Boese, Bruder, Schaller, Flohr 2004, Phys. Med. Biol. 49:2209,
section 2.3). A parallel ray (θ, ξ) runs, in the transaxial plane, along −(sin θ, cos θ) in (x, z), at the signed
distance ξ = x·cos θ − z·sin θ from the axis of rotation. The voxel (x, y, z) lies ℓ = ahead(ξ) − s from the focal spot
in that plane, s = x·sin θ + z·cos θ. The gantry took the ray at the angle θ + lag(ξ), when the table was at
t = axial(θ) + feed·lag(ξ) and the focal spot at t + spot_axial; the ray through the voxel met the row

    q = (spot_axial + (y − t − spot_axial)·cell(ξ)/ℓ − first_row)/row_mm.

On an arc of radius D about a focal spot on a circle of radius R: lag = asin(ξ/R), ahead = √(R² − ξ²), cell = D. All
rows that saw the voxel in one of the directions θ + kπ, from any focal spot, are averaged with weights W(q), and the
averages are integrated over the half turn:

    f(x, y, z) = Δθ · Σ_{θ in half a turn} [Σ_k Σ_spots W(q)·p(θ + kπ, ±ξ, q)] / [Σ_k Σ_spots W(q)]

Directions are summed in an order that is fixed in space, so that a voxel's value depends, bit for bit, on the views
that show it and on nothing else of the scan.
"""

from dataclasses import dataclass
from typing import Any, NamedTuple

import numba as nb
import numpy as np

from lampyris.model import Float32, Float64, GeometryError, Grid, InputError, Progress, silent
from lampyris.model.arrays import frozen
from lampyris.projector import simd
from lampyris.projector.backprojection.voxels import MARGIN, TILE, Walk, fill, reached, turn
from lampyris.projector.engine import ConeParallelViews, cone_parallel


@dataclass(frozen=True, slots=True, eq=False)
class ConeParallelScan:
    """Where cone-parallel rays were taken; see the module's formula. All spots share the lattice of θ and ξ.

    View i has θ = first_angle_rad + i·π/half_turn, column j has ξ = first_xi_mm + j·xi_step_mm; detector rows
    are `row_mm` high. `axial_mm` (views,) is the table's position at gantry angle θ, `feed_mm_per_rad` its travel per
    rad of rising gantry angle (signed). `lag_rad`, `ahead_mm`, `cell_mm` (spots, columns); `spot_axial_mm` and
    `first_row_mm` (the middle of row 0), both relative to the table's position, (spots,).
    """

    first_angle_rad: float
    half_turn: int
    axial_mm: Float64
    feed_mm_per_rad: float
    first_xi_mm: float
    xi_step_mm: float
    rows: int
    row_mm: float
    lag_rad: Float64
    ahead_mm: Float64
    cell_mm: Float64
    spot_axial_mm: Float64
    first_row_mm: Float64

    def __post_init__(self) -> None:
        spots, columns = np.shape(self.lag_rad)
        for name, shape in (
            ("axial_mm", (None,)), ("lag_rad", (spots, columns)), ("ahead_mm", (spots, columns)),
            ("cell_mm", (spots, columns)), ("spot_axial_mm", (spots,)), ("first_row_mm", (spots,)),
        ):  # fmt: skip
            object.__setattr__(self, name, frozen(getattr(self, name), np.float64, name, shape))
        if not 1 <= self.half_turn <= self.views:
            raise GeometryError(
                f"{self.views} views, {self.half_turn} to the half turn: less than half a turn shows no slice whole"
            )
        if min(self.xi_step_mm, self.row_mm) <= 0 or self.rows < 1:
            raise GeometryError(f"{self.rows} rows of {self.row_mm} mm, ξ every {self.xi_step_mm} mm: expected > 0")

    @property
    def views(self) -> int:
        return len(self.axial_mm)

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """(spots, views, rows, columns)."""
        return self.lag_rad.shape[0], self.views, self.rows, self.lag_rad.shape[1]

    def showing(self, low_mm: float, high_mm: float, reach_mm: float) -> tuple[int, int]:
        """First and last direction, counted from θ = 0, that can show a slab within `reach_mm` of the axis.

        They may lie beyond the scan. A row more than is seen is reckoned with on either side. The table must move.
        """
        lattice = self.first_xi_mm + np.arange(self.shape[3], dtype=np.float64) * self.xi_step_mm
        xi = lattice[np.abs(lattice) <= reach_mm + self.xi_step_mm]
        lag, ahead, cell = (
            np.stack([np.interp(xi, lattice, one) for one in each])
            for each in (self.lag_rad, self.ahead_mm, self.cell_mm)
        )
        deep = np.sqrt(np.maximum((reach_mm + self.xi_step_mm) ** 2 - xi**2, 0.0))
        travel = self.feed_mm_per_rad * lag + self.spot_axial_mm[:, None]
        edge = (self.first_row_mm - self.spot_axial_mm)[:, None] - 1.5 * self.row_mm
        far, near = (ahead + deep) / cell, (ahead - deep) / cell
        bottom = np.minimum(edge * far, edge * near)
        edge = edge + (self.rows + 2) * self.row_mm
        top = np.maximum(edge * far, edge * near)
        from_mm, to_mm = low_mm - float((travel + top).max()), high_mm - float((travel + bottom).min())
        table = self.axial_mm[0] - self.feed_mm_per_rad * self.first_angle_rad
        step_rad = np.pi / self.half_turn
        ends = sorted((end - table) / self.feed_mm_per_rad / step_rad for end in (from_mm, to_mm))
        return int(np.floor(ends[0])), int(np.ceil(ends[1]))


class ConeParallelData:
    """Filtered cone-parallel views, weighted by row, stored piece by piece where the engine's arrays live.

    The one copy of the data that backprojection needs: 4·spots·views·columns·rows bytes, on the processor turned (axial
    index last) and with rows rounded up to 16.
    """

    def __init__(self, scan: ConeParallelScan, row_weight: Float32, *, engine: str = "cpu") -> None:
        """`row_weight` (rows,) is W(q), 0 … 1, of every row; sums up to `simd.FAINTEST` count as unseen.

        Raises InputError, and EngineUnavailable where the engine cannot run here.
        """
        self.row_weight = frozen(row_weight, np.float32, "row_weight", (scan.rows,))
        if self.row_weight.min() < 0 or not simd.FAINTEST < self.row_weight.max() <= 1:
            raise InputError(
                f"row weights are {self.row_weight.min():.3g} … {self.row_weight.max():.3g}: expected 0 … 1, not all 0"
            )
        self.scan = scan
        self.views: ConeParallelViews = (_Turned if engine == "cpu" else cone_parallel(engine))(scan, self.row_weight)

    def store(self, filtered: Any, first: int = 0, spot: int = 0) -> None:
        """Set the views [first, first + len(filtered)) of a spot; (views, rows, columns) float32, not yet weighted.

        The CUDA engine takes them on the card too. Raises InputError for others, and for NaN; the CUDA engine finds NaN
        when the image is made.
        """
        spots, views, rows, columns = self.scan.shape
        if filtered.dtype != np.float32 or filtered.ndim != 3 or filtered.shape[1:] != (rows, columns):
            raise InputError(
                f"filtered views are {filtered.dtype} {filtered.shape}, expected float32 (views, {rows}, {columns})"
            )
        if not (first >= 0 and first + len(filtered) <= views and 0 <= spot < spots):
            raise InputError(
                f"views {first} to {first + len(filtered)} of spot {spot}: the scan has {views} views of {spots} spots"
            )
        self.views.store(filtered, first, spot)


class _Turned:
    """The views on the processor, turned; NaN until they are stored."""

    def __init__(self, scan: ConeParallelScan, row_weight: Float32) -> None:
        spots, views, rows, columns = scan.shape
        self._scan, self._weight = scan, row_weight
        self._turned = simd.aligned((spots, views, columns, simd.padded(rows)))
        self._turned[..., :rows] = np.nan

    def store(self, filtered: Float32, first: int, spot: int) -> None:
        if not np.isfinite(filtered.sum(dtype=np.float64)):
            raise InputError(f"filtered views from {first} on hold NaN or infinite values: a 0/0 upstream?")
        part = self._turned[spot, first : first + len(filtered)]
        turn(filtered, np.zeros(len(filtered), np.bool_), part)
        part[:, :, : self._scan.rows] *= self._weight

    def image(self, grid: Grid, progress: Progress) -> tuple[Float32, Any]:
        scan, beam = self._scan, beam_of(self._scan, grid)
        walk = Walk.of(scan.rows, scan.shape[3], grid.shape, grid.spacing_mm)
        values, seen = np.empty(grid.shape, np.float32), np.empty(grid.shape, np.uint16)
        threads = nb.get_num_threads()
        buffers = simd.aligned(threads * beam.buffers * walk.room)
        for thread in range(threads):
            start = thread * beam.buffers * walk.room + MARGIN
            buffers[start - 1 : start + scan.rows + 1] = np.pad(self._weight, 1, mode="edge")
        sums = simd.aligned(threads * 2 * walk.stride)
        tiles = simd.aligned(threads * 2 * TILE * TILE * walk.stride)
        turned, rays = self._turned.ravel(), rays_of(scan)
        for top in range(0, walk.rows, TILE):
            _band(walk, beam, rays, scan.axial_mm, turned, buffers, sums, tiles, top, values, seen)
            progress(min(1.0, (top + TILE) / walk.rows))
        return values, seen


@dataclass(frozen=True, slots=True, eq=False)
class HelicalImage:
    """`values` (slices, rows, columns) float32, in the unit of the filtered data times rad, and `seen` uint16 of the
    same shape: in how many of the `half_turn` directions the voxel was measured. Complete where in all of them. Both
    are where the data were.
    """

    values: Any
    seen: Any
    half_turn: int


def backproject_helical(data: ConeParallelData, grid: Grid, *, progress: Progress = silent) -> HelicalImage:
    """The image of the module's formula on a grid whose slices run along +y. Directions not seen add nothing.

    Between columns and between rows the data are interpolated linearly; beyond the outer edge of an outer cell nothing
    is seen, between that edge and the middle of the cell its own value holds.

    Raises GeometryError for slices along another axis and for a grid that reaches the focal spots.
    """
    values, seen = data.views.image(grid, progress)
    return HelicalImage(values, seen, data.scan.half_turn)


class Beam(NamedTuple):
    """The lattice of rays and of voxels: x, z of the first voxel column and the steps to the next row and column.

    View `lowest_view`, counted modulo a turn, has the direction `lowest_angle`: the one nearest to 0 on the lattice.
    """

    spots: int
    views: int
    half_turn: int
    buffers: int
    lowest_angle: float
    lowest_view: int
    first_edge: float
    columns_per_mm: float
    y: float
    x: float
    z: float
    row_x: float
    row_z: float
    column_x: float
    column_z: float


def rays_of(scan: ConeParallelScan) -> Float64:
    """(spots, columns, 4): of every ray the focal spot's y less the table's at angle θ, `ahead`, rows per mm if not
    magnified, and the row in the focal spot's plane."""
    rays = np.empty((*scan.lag_rad.shape, 4))
    rays[..., 0] = scan.lag_rad * scan.feed_mm_per_rad + scan.spot_axial_mm[:, None]
    rays[..., 1], rays[..., 2] = scan.ahead_mm, scan.cell_mm / scan.row_mm
    rays[..., 3] = ((scan.spot_axial_mm - scan.first_row_mm) / scan.row_mm)[:, None]
    return rays


def beam_of(scan: ConeParallelScan, grid: Grid) -> Beam:
    """The lattices of rays and voxels. Raises GeometryError as `backproject_helical`."""
    if not np.allclose(grid.axes[0], (0.0, 1.0, 0.0), atol=1e-6):
        raise GeometryError(f"slices run along {grid.axes[0].tolist()}; helical data need +y, the table's axis")
    corners = [grid.position_mm((0, r, c)) for r in (0, grid.shape[1] - 1) for c in (0, grid.shape[2] - 1)]
    farthest, nearest = max(float(np.hypot(p[0], p[2])) for p in corners), float(scan.ahead_mm.min())
    if farthest + max(grid.spacing_mm[1:]) > nearest:
        raise GeometryError(
            f"the grid reaches {farthest:.1f} mm from the axis of rotation, the focal spot comes as near as"
            f" {nearest:.1f} mm: choose a smaller field of view"
        )
    (_, row, column), first = grid.steps_mm, grid.first_voxel_mm
    spots, views, _, _ = scan.shape
    step = np.pi / scan.half_turn
    steps = round(scan.first_angle_rad / step)
    return Beam(
        spots, views, scan.half_turn, 2 + views // (2 * scan.half_turn), scan.first_angle_rad - steps * step,
        -steps % (2 * scan.half_turn),
        0.5 - scan.first_xi_mm / scan.xi_step_mm, 1 / scan.xi_step_mm, float(first[1]), float(first[0]),
        float(first[2]), float(row[0]), float(row[2]), float(column[0]), float(column[2]),
    )  # fmt: skip


@nb.njit(parallel=True, cache=True, error_model="numpy")
def _band(walk, beam, rays, axial, turned, buffers, sums, tiles, top, values, seen):  # type: ignore[no-untyped-def]
    """One band of tiles: every direction of the half turn into the tile's voxel columns, then into the image.

    Memory of each thread: `buffers` the row weights and blended detector columns; `sums` Σ W·p and Σ W of a voxel
    column; `tiles` value and count of the voxel columns of a tile.
    """
    size = 2 * TILE * TILE * walk.stride
    angle_step = np.pi / beam.half_turn
    for tile in nb.prange((walk.columns + TILE - 1) // TILE):
        left, thread = tile * TILE, nb.get_thread_id()
        right, bottom = min(left + TILE, walk.columns), min(top + TILE, walk.rows)
        here, total = thread * size, thread * 2 * walk.stride
        tiles[here : here + size] = 0
        for i in range(beam.half_turn):
            angle = beam.lowest_angle + i * angle_step
            sine, cosine = np.sin(angle), np.cos(angle)
            for row in range(top, bottom):
                for column in range(left, right):
                    x = beam.x + row * beam.row_x + column * beam.column_x
                    z = beam.z + row * beam.row_z + column * beam.column_z
                    _sum_views(
                        walk, beam, rays, axial, turned, buffers, sums, thread, i, x * cosine - z * sine,
                        x * sine + z * cosine,
                    )  # fmt: skip
                    at = here + 2 * ((row - top) * TILE + column - left) * walk.stride
                    simd.average_add(tiles, at, at + walk.stride, walk.slices, sums, total, total + walk.stride)
        for piece in range(walk.slices):
            for row in range(top, bottom):
                for column in range(left, right):
                    at = here + 2 * ((row - top) * TILE + column - left) * walk.stride + piece
                    values[piece, row, column] = tiles[at] * np.float32(angle_step)
                    seen[piece, row, column] = np.uint16(tiles[at + walk.stride])


@nb.njit(forceinline=True, cache=True, error_model="numpy")
def _sum_views(walk, beam, rays, axial, turned, buffers, sums, thread, i, xi, s):  # type: ignore[no-untyped-def]
    """Add W·p and W of the views of direction i, i + half a turn, … of all spots to the thread's two sums, for the
    column (ξ, s).

    Views a whole turn apart differ by the table's position alone. All of them are blended before the first is read
    again: a look-up across two vectors that were just written would wait for them to reach the cache.
    """
    home, total = thread * beam.buffers * walk.room + MARGIN, thread * 2 * walk.stride
    for spot in range(beam.spots):
        for turned_by_pi in range(2):
            sign = 1.0 - 2.0 * turned_by_pi
            edge = beam.first_edge + sign * xi * beam.columns_per_mm
            travel, ahead, rows, row = _ray(rays, spot, edge - 0.5)
            rows_per_mm = rows / (ahead - sign * s)
            row += (beam.y - travel) * rows_per_mm
            step = rows_per_mm * walk.slice_mm
            pitch = 1.0 / step
            first = (beam.lowest_view + i + turned_by_pi * beam.half_turn) % (2 * beam.half_turn)
            for at, view in enumerate(range(first, beam.views, 2 * beam.half_turn)):
                row0 = row - axial[view] * rows_per_mm
                start, stop = reached(walk, edge, row0 + 0.5, pitch)
                if start < stop:
                    low, high = row0 + start * step, row0 + (stop - 1.0) * step
                    place = spot * beam.views + view
                    fill(walk, buffers, home + (1 + at) * walk.room, turned, place, edge, 1.0, low, high)
            for at, view in enumerate(range(first, beam.views, 2 * beam.half_turn)):
                row0 = row - axial[view] * rows_per_mm
                start, stop = reached(walk, edge, row0 + 0.5, pitch)
                if start < stop:
                    simd.interpolate_add(
                        sums, (total, total + walk.stride), int(start), int(stop), buffers,
                        (home + (1 + at) * walk.room - 1, home - 1), row0 + 1.0, step,
                    )  # fmt: skip


@nb.njit(forceinline=True, cache=True)
def _ray(rays, spot, place):  # type: ignore[no-untyped-def]
    """At a fractional column: the focal spot's y less the table's at angle θ, `ahead`, rows per mm if not magnified,
    and the row in the focal spot's plane."""
    last = rays.shape[1] - 1
    place = min(max(place, 0.0), float(last))
    left = int(place)
    right, share = min(left + 1, last), place - left
    travel = rays[spot, left, 0] + share * (rays[spot, right, 0] - rays[spot, left, 0])
    ahead = rays[spot, left, 1] + share * (rays[spot, right, 1] - rays[spot, left, 1])
    rows = rays[spot, left, 2] + share * (rays[spot, right, 2] - rays[spot, left, 2])
    return travel, ahead, rows, rays[spot, 0, 3]
