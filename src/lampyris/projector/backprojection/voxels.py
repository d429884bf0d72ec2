"""Filtered projections, geometry and grid → image: for every voxel, the weighted sum of what its rays measured.

Voxel-driven: the middle of each voxel is followed to the detector and the projections are interpolated there, linearly
between cell middles. The detector is the union of its cells: a ray that arrives beyond the outer edge of an outer cell
adds nothing; between that edge and the middle of the outer cell the cell's own value holds.
"""

from collections.abc import Iterator
from typing import Any, Literal, NamedTuple

import numba as nb
import numpy as np
from array_api_compat import array_namespace

from lampyris.model import Float32, Float64, Geometry, GeometryError, Grid, InputError, Progress, silent
from lampyris.projector import ray, simd
from lampyris.projector.engine import VoxelSum, load, name_of, voxel_sum
from lampyris.projector.plan import Plan

Weighting = Literal["fdk", "none"]

TILE = 16
"""Voxel columns a side that one thread finishes for a batch of views: their image and detector parts stay in cache."""
BATCH_BYTES = 48 << 20
"""Projections turned (axial index last) at a time: the only copy that is made of them."""
MARGIN = 48
"""Entries before and behind a detector column in its buffer: what look-ups may read, in whole cache lines."""


class Backprojector:
    """A running sum over views, for scans whose filtered projections need not all be in memory at once.

    On the processor it holds one float32 image (axial index last) and copies of at most `BATCH_BYTES` of projections.
    """

    def __init__(self, geometry: Geometry, grid: Grid, *, weighting: Weighting = "fdk", engine: str = "cpu") -> None:
        """Raises GeometryError where detector rows do not run along the grid's slices or the source is in the grid,
        EngineUnavailable where the engine cannot run here.
        """
        if weighting not in ("fdk", "none"):
            raise InputError(f"weighting {weighting!r} is none of 'fdk', 'none'")
        self.grid = grid
        self._plan = Plan.of(geometry, grid)
        weight_mm = _weight_distances_mm(self._plan, grid) if weighting == "fdk" else np.zeros(geometry.views)
        self._sum: VoxelSum = (_VoxelSum if engine == "cpu" else voxel_sum(engine))(self._plan, weight_mm)
        self._engine, self._stays = engine, False

    def add(self, projections: Any, first: int = 0, *, progress: Progress = silent) -> None:
        """Add the views [first, first + len(projections)) of the geometry; projections (views, rows, columns).

        The CUDA engine takes them on the card too, and then leaves the image there.
        Raises InputError for another shape or type than float32, or NaN.
        """
        self._stays = self._engine != "cpu" and name_of(projections) == self._engine
        views = _checked(projections, self._plan.projections_shape, first, look=not self._stays)
        for done in self._sum.add(projections, first):
            progress(done / views)

    def image(self) -> Any:
        """The sum so far, (slices, rows, columns) float32, where the projections were.

        Raises InputError where projections on the card held NaN: they are not looked at before.
        """
        image = self._sum.image()
        if not self._stays:
            return load(self._engine).memory.down(image)
        if not bool(array_namespace(image).isfinite(image.sum())):
            raise InputError("the image holds NaN or infinite values: so did the projections; a 0/0 upstream?")
        return image


class _VoxelSum:
    """The sum on all cores of the processor."""

    def __init__(self, plan: Plan, weight_mm: Float64) -> None:
        self._plan, self._weight_mm = plan, weight_mm
        self._walk = Walk.of(plan.rows, plan.columns, plan.shape, plan.spacing_mm)
        self._image = simd.aligned(self._walk.rows * self._walk.columns * self._walk.stride)

    def add(self, projections: Float32, first: int) -> Iterator[int]:
        walk, views = self._walk, len(projections)
        batch = max(1, BATCH_BYTES // (4 * walk.cell_columns * walk.cell_stride))
        turned = simd.aligned((min(batch, views), walk.cell_columns, walk.cell_stride))
        buffers = simd.aligned(nb.get_num_threads() * walk.room)
        for start in range(0, views, batch):
            stop = min(start + batch, views)
            which = slice(first + start, first + stop)
            turn(projections[start:stop], self._plan.mirrored[which], turned)
            _accumulate(
                self._plan.kind, self._plan.views[which], self._weight_mm[which], turned.ravel(), walk, buffers,
                self._image,
            )  # fmt: skip
            yield stop

    def image(self) -> Float32:
        image = np.empty(self._plan.shape, np.float32)
        _turn_back(self._image, self._walk, image)
        return image


def backproject(
    projections: Any,
    geometry: Geometry,
    grid: Grid,
    *,
    weighting: Weighting = "fdk",
    engine: str | None = None,
    progress: Progress = silent,
) -> Any:
    """The image (slices, rows, columns) float32 whose voxel x is Σ_view weight(x)·p(view, the cell that x falls on).

    `projections` (views, rows, columns) float32. Every geometry whose detector rows run along the grid's slices: flat
    and curved cone beam, fan, parallel, any source position from view to view, flying focal spot, detector offsets.

    `weighting` "fdk": (R/ℓ)², where for a flat detector ℓ is the distance of the voxel from the source along the
    detector's normal and R that of the isocentre (Feldkamp, Davis, Kress 1984, JOSA A 1:612, eq. 28), and for a curved
    detector ℓ and R are the in-plane distances of voxel and isocentre from the source (Kak and Slaney 1988, eq. 3.136:
    equiangular fans); 1 for parallel rays. "none": 1 throughout. Angular steps, cosine and redundancy weights are in
    `projections`. Unit: that of `projections`.

    Without an `engine` the one is taken whose arrays the projections are: NumPy's are summed on the processor, CuPy's
    on the card, and the image is there too.

    Raises GeometryError for a geometry that is none of these (the message says why), InputError for projections that do
    not belong to it and EngineUnavailable for an engine that cannot run here.

    >>> from lampyris.model import Geometry, Grid
    >>> beam = Geometry.parallel_beam(np.array([0.0]), rows=1, columns=4, cell_mm=(2.0, 1.0))
    >>> p = np.array([[[1.0, 2.0, 4.0, 8.0]]], np.float32)
    >>> backproject(p, beam, Grid.centred((1, 1, 4), (1.0, 1.0, 1.0), (0.25, 0.0, 0.0)))
    array([[[1.25, 2.5 , 5.  , 8.  ]]], dtype=float32)
    """
    chosen = name_of(projections) if engine is None else engine
    sum_of_views = Backprojector(geometry, grid, weighting=weighting, engine=chosen)
    if len(projections) != geometry.views:
        raise InputError(f"projections have {len(projections)} views, the geometry has {geometry.views}")
    sum_of_views.add(projections, progress=progress)
    return sum_of_views.image()


# ---- what the loops need to know


class Walk(NamedTuple):
    """Cells and voxels, and what their columns take in memory; spacings in mm."""

    cell_rows: int
    cell_columns: int
    cell_stride: int
    slices: int
    rows: int
    columns: int
    stride: int
    slice_mm: float
    row_mm: float
    column_mm: float
    room: int
    """One thread's buffer: a detector column between margins."""

    @staticmethod
    def of(
        cell_rows: int, cell_columns: int, shape: tuple[int, int, int], spacing_mm: tuple[float, float, float]
    ) -> "Walk":
        slices, rows, columns = shape
        cell_stride = simd.padded(cell_rows)
        return Walk(
            cell_rows, cell_columns, cell_stride, slices, rows, columns, simd.padded(slices), *spacing_mm,
            cell_stride + 2 * MARGIN,
        )  # fmt: skip


def _weight_distances_mm(plan: Plan, grid: Grid) -> Float64:
    """R of every view, mm: source to isocentre, along the normal (flat) or in the plane (curved); 0 where parallel."""
    if plan.kind == ray.PARALLEL:
        return np.zeros(len(plan.views))
    isocentre = -grid.axes @ grid.first_voxel_mm
    r, c = isocentre[1] - plan.views["source_r"], isocentre[2] - plan.views["source_c"]
    along = r * plan.views["normal_r"] + c * plan.views["normal_c"]
    distance = along if plan.kind == ray.FLAT else np.hypot(r, c)
    if along.min() <= 0:
        raise GeometryError(
            f"the isocentre lies {-along.min():.1f} mm behind the source in view {int(along.argmin())}:"
            " distance weighting has no meaning there; use weighting='none'"
        )
    return np.asarray(distance, np.float64)


def _checked(projections: Any, expected: tuple[int, int, int], first: int, *, look: bool) -> int:
    """How many views there are, or a refusal; `look` at the values too."""
    there = isinstance(projections, np.ndarray) or not look
    if not there or projections.dtype != np.float32:
        found = f"{projections.dtype} array" if there else type(projections).__name__
        raise InputError(f"projections: found {found}, expected a float32 array; .astype(np.float32) first")
    if projections.ndim != 3 or projections.shape[1:] != expected[1:] or first + len(projections) > expected[0]:
        raise InputError(
            f"projections have shape {projections.shape}, from view {first} on; the geometry is {expected}:"
            " axes swapped, or another scan's?"
        )
    if not look:
        return len(projections)
    total = float(projections.sum(dtype=np.float64))
    if not np.isfinite(total):
        bad = int(projections.size - np.isfinite(projections).sum())
        raise InputError(f"projections hold {bad} NaN or infinite of {projections.size} values: a 0/0 upstream?")
    return len(projections)


# ---- loops; the mathematics is in `ray`


@nb.njit(parallel=True, cache=True)
def turn(projections, mirrored, turned):  # type: ignore[no-untyped-def]
    """Write projections (views, rows, columns) into turned (views, columns, ≥ rows), rows along the slices' axis."""
    views, rows, columns = projections.shape
    blocks = (columns + 15) // 16
    for work in nb.prange(views * blocks):
        view, left = work // blocks, work % blocks * 16
        for row in range(rows):
            source = rows - 1 - row if mirrored[view] else row
            for column in range(left, min(left + 16, columns)):
                turned[view, column, row] = projections[view, source, column]


@nb.njit(parallel=True, cache=True)
def _turn_back(columns, walk, image):  # type: ignore[no-untyped-def]
    """Write voxel columns, axial index last, into image (slices, rows, columns)."""
    blocks = (walk.columns + 15) // 16
    for work in nb.prange(walk.rows * blocks):
        row, left = work // blocks, work % blocks * 16
        for piece in range(walk.slices):
            for column in range(left, min(left + 16, walk.columns)):
                image[piece, row, column] = columns[(row * walk.columns + column) * walk.stride + piece]


@nb.njit(parallel=True, cache=True, error_model="numpy")
def _accumulate(kind, views, weight_mm, turned, walk, buffers, image):  # type: ignore[no-untyped-def]
    """Add a batch of views to the image, tile by tile of voxel columns.

    Each view is aimed at a whole row of a tile first: the divisions of 16 voxel columns overlap, while those of one
    column at a time would all be waited for (a seventh of the time).
    """
    across = (walk.columns + TILE - 1) // TILE
    for tile in nb.prange(across * ((walk.rows + TILE - 1) // TILE)):
        top, left = tile // across * TILE, tile % across * TILE
        spot = nb.get_thread_id() * walk.room + MARGIN
        aims = np.empty((6, TILE))
        for v in range(len(views)):
            for row in range(top, min(top + TILE, walk.rows)):
                columns = min(TILE, walk.columns - left)
                for j in range(columns):
                    _aim(kind, views[v], weight_mm[v], row * walk.row_mm, (left + j) * walk.column_mm, walk, aims, j)
                for j in range(columns):
                    start, stop = int(aims[0, j]), int(aims[1, j])
                    if start < stop:
                        edge, row0, step = aims[2, j], aims[3, j], aims[4, j]
                        first, last = row0 - 0.5 + start * step, row0 - 0.5 + (stop - 1) * step
                        fill(walk, buffers, spot, turned, v, edge, aims[5, j], first, last)
                        at = (row * walk.columns + left + j) * walk.stride
                        simd.interpolate_add(image, (at,), start, stop, buffers, (spot - 1,), row0 + 0.5, step)


@nb.njit(forceinline=True, cache=True, error_model="numpy")
def _aim(kind, view, weight_mm, r, c, walk, aims, j):  # type: ignore[no-untyped-def]
    """Write to aims[:, j]: slices reached [start, stop), column and row (edge coordinates), rows per slice, weight."""
    magnification = ray.magnification(kind, view, r, c)
    edge = ray.column(kind, view, magnification, r, c)
    row0, rows_per_mm = ray.axial(kind, view, magnification, r, c)
    step = rows_per_mm * walk.slice_mm
    aims[0, j], aims[1, j] = reached(walk, edge, row0, 1.0 / step)
    aims[2, j], aims[3, j], aims[4, j] = edge, row0, step
    aims[5, j] = _distance_weight(kind, view, weight_mm, r, c)


@nb.njit(forceinline=True, cache=True, error_model="numpy")
def reached(walk, edge, row0, pitch):  # type: ignore[no-untyped-def]
    """The slices [start, stop) that land on the detector, column `edge`, row row0 + k/pitch (edge coordinates)."""
    start = max(0.0, np.ceil(-row0 * pitch))
    stop = min(float(walk.slices), np.ceil((walk.cell_rows - row0) * pitch))
    return start, (stop if 0.0 <= edge < walk.cell_columns else start)


@nb.njit(forceinline=True, cache=True)
def fill(walk, buffers, spot, turned, view, edge, weight, first, last):  # type: ignore[no-untyped-def]
    """Write weight·(the detector column at `edge`) to buffers[spot:], rows `first` … `last`, outer cells continued."""
    middle = min(max(edge - 0.5, 0.0), walk.cell_columns - 1.0)
    left = int(middle)
    right = min(left + 1, walk.cell_columns - 1)
    share = np.float32(weight * (middle - left))
    at_left, at_right = (view * walk.cell_columns + left, view * walk.cell_columns + right)
    start = max(int(first), 0) // 16 * 16
    stop = min((int(last) + 17) // 16 * 16, walk.cell_stride)
    simd.blend(
        buffers, spot, start, stop, turned, at_left * walk.cell_stride, at_right * walk.cell_stride,
        np.float32(weight) - share, share,
    )  # fmt: skip
    buffers[spot - 1] = buffers[spot]
    buffers[spot + walk.cell_rows] = buffers[spot + walk.cell_rows - 1]


@nb.njit(forceinline=True, cache=True)
def _distance_weight(kind, view, weight_mm, r, c):  # type: ignore[no-untyped-def]
    """(R/ℓ)², see `backproject`; 1 where R is 0."""
    if weight_mm == 0.0:
        return 1.0
    r, c = r - view.source_r, c - view.source_c
    if kind == ray.FLAT:
        return (weight_mm / (r * view.normal_r + c * view.normal_c)) ** 2
    return weight_mm * weight_mm / (r * r + c * c)
