"""Projections of a helix, or of an axial scan with a flying focal spot → slices in 1/mm: weighted FBP.

Cone-parallel rebinning row by row, ramp filter along ξ, and for every direction the mean of all rows and turns that
see a voxel, weighted with W(q): 1 up to `flat_share` of the detector's half height, falling as cos² to 0 at its edge.
Stierstorfer, Rauscher, Boese, Bruder, Schaller, Flohr 2004 (Phys. Med. Biol. 49:2209). The positions of a flying focal
spot enter as further measurements of the same direction: what each undersamples cancels in the mean.

Slices are made slab by slab, each of the views that show it. Where the field of view and the range along y are asked
for, a slab does not depend on what the other views hold (but for whether the body was truncated), not in the last bit:
so it can be made while those are still coming (`ahead`).
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from array_api_compat import array_namespace

from lampyris.model import (
    CardFullError,
    Float32,
    GeometryError,
    Grid,
    GridRequest,
    Orbit,
    ProgramError,
    Progress,
    Projections,
    Shelf,
    silent,
)
from lampyris.model.arrays import canonical_json
from lampyris.projector import Engine
from lampyris.projector.backprojection import ConeParallelData, backproject_helical
from lampyris.recon.analytic import filtering
from lampyris.recon.analytic.directions import Lattice, cosine, coverage, lattice_of
from lampyris.recon.analytic.fdk import REST_MM, TRUNCATED_VIEWS
from lampyris.recon.analytic.filtering import filter_rows, ramp_filter
from lampyris.recon.analytic.rebinning import resampler, resampling, views_read
from lampyris.recon.analytic.redundancy import half_fan
from lampyris.recon.field import Circle, Field, choose_field, measured_reach, shadow
from lampyris.recon.kernels import Kernel
from lampyris.recon.slices import Coverage, SlicePlan, average_slabs, averaged, plan_slices, slabs

FLAT_SHARE = 0.6
BATCH_BYTES = 64 * 2**20
"""Cone-parallel views made and filtered at a time."""
DATA_BYTES = 3 * 2**29
"""Filtered views held at once. A longer helix is filtered in parts, the turns between two of them twice: of a chest of
600 mm, 64 rows and pitch 1 about half as much again of a tenth of the work."""
CARD_DATA, CARD_BATCH, MOST_BATCH_BYTES = 0.35, 1 / 64, 4 * BATCH_BYTES
"""Of a card's free memory for the data and for a batch; no batch is larger than pinned memory is quickly had for."""
MOST_DIRECTIONS = 1 << 15
"""Of a batch, whatever their size: what a kernel takes in one of its three directions."""
FILTERED = 0.15
"""Share of a slab's work, as progress tells it, that is done when backprojection begins."""
THICKEST_SLAB = 128
"""Thin slices of a slab of an image that is planned: few enough that slabs are settled while the scan still arrives."""


@dataclass(frozen=True, slots=True, eq=False)
class Slab:
    """Slices [start, stop) of a plan, and of how many views, from the first on, they are made; None = it needs all."""

    start: int
    stop: int
    views: int | None


def image(
    projections: Projections,
    orbit: Orbit,
    kernel: Kernel,
    request: GridRequest,
    progress: Progress,
    *,
    engine: Engine,
    flat_share: float = FLAT_SHARE,
    shelf: Shelf | None = None,
) -> tuple[Float32, Grid]:
    """Slices (1/mm) and their grid; NaN where a voxel outside the body was not seen from all directions.

    Slabs that `ahead` put on the `shelf` are taken from there. Raises GeometryError for less than half a turn, an
    uneven table, a pitch too high for the detector.
    """
    seen = shadow(projections)
    reach = measured_reach(projections.geometry)
    _refuse(orbit, reach, seen.body)
    field = choose_field(request, seen.body)
    lattice = lattice_of(orbit, min(*reach, seen.body.reach_mm))
    covered = coverage(lattice.scan, seen.body.reach_mm)
    plan = plan_slices(request, orbit.gantry.row_at_isocentre_mm, Coverage(covered, covered))
    maker = _Maker(projections, orbit, lattice, kernel, engine, flat_share, seen.truncated > TRUNCATED_VIEWS)
    known = {} if shelf is None else {(one.start, one.stop): one.views for one in settled(orbit, request, reach)}

    def ready(start: int, stop: int) -> Float32 | None:
        views = known.get((start, stop))
        made = None if shelf is None or views is None else shelf.load(maker.name(request, start, stop), views)
        return None if made is None else made["values"]

    held = lattice.thin_slices_at_once(field, plan.thin_step_mm, engine.memory.room(CARD_DATA, DATA_BYTES))
    most = THICKEST_SLAB if is_planned(request) else held
    values = average_slabs(plan, field, maker.thin, progress, memory=engine.memory, most=most, ready=ready)
    return values, plan.grid(field)


def ahead(
    projections: Callable[[], Projections],
    orbit: Orbit,
    kernel: Kernel,
    request: GridRequest,
    views: tuple[int, int],
    shelf: Shelf,
    *,
    engine: Engine,
    reach_mm: tuple[float, float],
    flat_share: float = FLAT_SHARE,
) -> Iterator[tuple[int, int]]:
    """Make the slabs that the first `views[1]` views determine, and put those on the shelf that it lacks; gives each.

    Slabs that the first `views[0]` determined were made before. `projections` are called for when there is a slab to
    make; views from `views[1]` on may hold NaN. Whether the body is truncated is told from the views that are here:
    should all of them tell otherwise, `image` finds no slab.
    """
    known = [(one, one.views) for one in settled(orbit, request, reach_mm) if one.views is not None]
    due = [(one, count) for one, count in known if views[0] < count <= views[1]]
    if not due:
        return
    given = projections()
    truncated = shadow(given, views[1]).truncated > TRUNCATED_VIEWS
    maker = _Maker(given, orbit, lattice_of(orbit, min(reach_mm)), kernel, engine, flat_share, truncated)
    plan, field = _planned(orbit, request)
    for one, count in due:
        name = maker.name(request, one.start, one.stop)
        if not shelf.holds(name, count):
            with engine.memory.refused(f"slices {one.start} to {one.stop - 1}"):
                made = engine.memory.down(averaged(plan, field, (one.start, one.stop), maker.thin, silent))
            shelf.keep(name, count, {"values": made})
            yield one.start, one.stop


def is_planned(request: GridRequest) -> bool:
    """Whether the lattice of the image is known before the scan: field of view, first and last slice are asked for."""
    return None not in (request.field_of_view_mm, request.first_mm, request.last_mm)


def planned_grid(orbit: Orbit, request: GridRequest) -> Grid:
    """The grid of an image that is planned."""
    plan, field = _planned(orbit, request)
    return plan.grid(field)


def settled(orbit: Orbit, request: GridRequest, reach_mm: tuple[float, float]) -> list[Slab]:
    """The slabs of an image that is planned, and the views that each needs, whatever they and all others show.

    The directions at the ends of a scan are taken in or left out as the body is wide, so that the outer slabs need all
    views: those whose directions reach beyond the ones that are measured across the whole detector, with the groups in
    which these are filtered. No slab where the image is not planned or the table is at rest.
    """
    if not is_planned(request) or float(np.ptp(orbit.axial_mm)) < REST_MM:
        return []
    try:
        lattice = lattice_of(orbit, min(reach_mm))
    except GeometryError:  # too short for a body as wide as the detector: whether it will do, the body tells
        return []
    (plan, field), lowest = _planned(orbit, request), lattice.lowest
    found = []
    for start, stop in slabs(plan, field, THICKEST_SLAB):
        first, last = lattice.groups_of(plan.slab_grid(field, start, stop))
        inside = lowest <= first and last < lowest + len(lattice.theta_rad)
        ends = np.array([first, last]) * lattice.step_rad
        found.append(Slab(start, stop, int(views_read(orbit, lattice.found, ends).max()) if inside else None))
    return found


class _Maker:
    """Makes slabs of one scan; the cone-parallel views that show them are made when they are first needed."""

    def __init__(
        self, projections: Projections, orbit: Orbit, lattice: Lattice, kernel: Kernel, engine: Engine,
        flat_share: float, truncated: bool,
    ) -> None:  # fmt: skip
        self._integrals, self._lattice, self._engine = projections.integrals, lattice, engine
        self._how = {"kernel": kernel.name, "flat_share": flat_share, "truncated": truncated}
        scan = lattice.scan
        self._ramp = ramp_filter(scan.shape[3], scan.xi_step_mm, kernel)
        self._continuation = scan.shape[3] // 4 if truncated else 0
        self._where = [
            resampling(orbit, fan, lattice.theta_rad, lattice.xi_mm, wraps=lattice.wraps) for fan in lattice.bundles
        ]
        self._resample = [resampler(where, engine) for where in self._where]
        self._cosines = [engine.memory.up(cosine(scan, spot)) for spot in range(len(self._where))]
        self._weight = row_weight(scan.rows, flat_share)
        lead = -lattice.lowest % lattice.group
        self._borders = np.unique(np.clip([0, *range(lead, scan.views, lattice.group), scan.views], 0, scan.views))
        self._part: _Part | None = None

    def name(self, request: GridRequest, start: int, stop: int) -> str:
        """What a slab is made of beside the integrals of its views."""
        asked = {name: getattr(request, name) for name in GridRequest.__slots__}
        return f"slices {start} to {stop} {canonical_json(self._how | asked)}"

    def thin(self, grid: Grid, progress: Progress) -> Any:
        """Thin slices of one slab, 1/mm, where the engine's arrays live; NaN where not every direction saw a voxel."""
        part = self._prepared(grid)
        progress(FILTERED)
        found = backproject_helical(part.data, grid, progress=lambda done: progress(FILTERED + (1 - FILTERED) * done))
        xp = array_namespace(found.values)
        if bool(xp.any(xp.isnan(found.values))):
            raise ProgramError("a slab was made of directions that were not prepared, or of views that were not there")
        found.values[found.seen < found.half_turn] = np.nan
        return found.values

    def _prepared(self, grid: Grid) -> "_Part":
        """The part in hand, or another one, with all directions made that can show the grid."""
        lattice, views = self._lattice, self._lattice.scan.views
        first, last = (0, views - 1) if lattice.wraps else lattice.groups_of(grid)
        if not lattice.wraps:
            first, last = (min(max(each - lattice.lowest, 0), views - 1) for each in (first, last))
        start, stop = (int(np.searchsorted(self._borders, each, side="right")) for each in (first, last))
        span = (start - 1, stop)
        part = self._part if self._part is not None and self._part.holds(span) else self._another(span)
        self._fill(part, span)
        return part

    def _another(self, span: tuple[int, int]) -> "_Part":
        """An empty part that holds these groups; with half as many beside them where the card is full."""
        memory, scan, self._part = self._engine.memory, self._lattice.scan, None  # before the next one takes memory
        each = 4 * scan.shape[0] * scan.rows * scan.shape[3]
        held, least = memory.room(CARD_DATA, DATA_BYTES) // each, int(self._borders[span[1]] - self._borders[span[0]])
        while self._part is None:
            try:
                with memory.refused(f"{held} of {scan.views} directions, {each / 2**20:.1f} MiB each"):
                    self._part = self._empty(span, held)
            except CardFullError:
                if held <= least:
                    raise
            if self._part is None:
                memory.release()
                held //= 2
        return self._part

    def _empty(self, span: tuple[int, int], most: int) -> "_Part":
        """A part of the scan, of `most` directions where it may, that begins or ends with these, as the table goes."""
        scan, borders = self._lattice.scan, self._borders
        low, high = span
        while int(borders[high] - borders[low]) < scan.half_turn:
            low, high = max(low - 1, 0), min(high + 1, len(borders) - 1)
        if scan.feed_mm_per_rad >= 0:
            high = max(high, int(np.searchsorted(borders, borders[low] + most, side="right")) - 1)
        if scan.feed_mm_per_rad <= 0:
            low = min(low, int(np.searchsorted(borders, borders[high] - most)))
        begin, end = int(borders[low]), int(borders[high])
        angle = (self._lattice.lowest + begin) * self._lattice.step_rad
        cut = replace(scan, first_angle_rad=angle, axial_mm=scan.axial_mm[begin:end])
        return _Part(low, high, ConeParallelData(cut, self._weight, engine=self._engine.name), set())

    def _fill(self, part: "_Part", span: tuple[int, int]) -> None:
        """Rebin and filter every fan in these groups, where that was not done."""
        scan, memory = self._lattice.scan, self._engine.memory
        held = min(memory.room(CARD_BATCH, BATCH_BYTES), MOST_BATCH_BYTES)
        most = min(held // (4 * scan.rows * scan.shape[3]), MOST_DIRECTIONS)
        batch = max(1, most // self._lattice.group)
        begin = int(self._borders[part.low])
        runs = list(_runs([group for group in range(*span) if group not in part.made], batch))
        parts = [slice(int(self._borders[run[0]]), int(self._borders[run[-1] + 1])) for run in runs]
        spans = [self._read(views) for views in parts]
        for views, (first, _), integrals in zip(parts, spans, memory.pieces(self._integrals, spans), strict=True):
            for spot, resample in enumerate(self._resample):
                parallel = resample(integrals, first, views)
                filter_rows(
                    parallel, self._ramp, weights=(self._cosines[spot],), continuation=self._continuation, out=parallel,
                    chunk_bytes=memory.room(CARD_BATCH, filtering.CHUNK_BYTES),
                )  # fmt: skip
                part.data.store(parallel, views.start - begin, spot)
        for run in runs:
            part.made.update(run)

    def _read(self, directions: slice) -> tuple[int, int]:
        """The views [begin, end) that these directions are made of, of whatever spot."""
        ends = [where.read(directions) for where in self._where]
        return min(first for first, _ in ends), max(last for _, last in ends)


@dataclass(frozen=True, slots=True, eq=False)
class _Part:
    """Cone-parallel views of the groups [low, high), NaN but for those that are `made`."""

    low: int
    high: int
    data: ConeParallelData
    made: set[int]

    def holds(self, span: tuple[int, int]) -> bool:
        return self.low <= span[0] and span[1] <= self.high


def _runs(numbers: list[int], longest: int) -> Iterator[list[int]]:
    """Numbers that follow one another, together; the first group of a lattice may be a part, and stays alone."""
    run: list[int] = []
    for number in numbers:
        if run and (number != run[-1] + 1 or len(run) == longest or run[0] == 0):
            yield run
            run = []
        run.append(number)
    if run:
        yield run


def _planned(orbit: Orbit, request: GridRequest) -> tuple[SlicePlan, Field]:
    """The lattice of an image that is planned: neither the body nor what the scan covers moves it."""
    everything = (-np.inf, np.inf)
    plan = plan_slices(request, orbit.gantry.row_at_isocentre_mm, Coverage(everything, everything))
    return plan, choose_field(request, Circle(0.0, 0.0, 0.0))


def row_weight(rows: int, flat_share: float) -> Float32:
    """W of every row (rows,): 1 for |q| ≤ Q, cos²(π/2·(|q| − Q)/(1 − Q)) beyond; q = ±1 at the edges."""
    q = np.abs((2 * np.arange(rows) + 1) / rows - 1)
    fall = np.clip((q - flat_share) / (1 - flat_share), 0, 1)
    return np.asarray(np.cos(np.pi / 2 * fall) ** 2, np.float32)


def _refuse(orbit: Orbit, reach_mm: tuple[float, float], body: Circle) -> None:
    if orbit.views < 3:
        raise GeometryError(f"{orbit.views} views are no helix")
    if half_fan(reach_mm, body.reach_mm):
        raise GeometryError(
            f"wfbp needs both sides of the detector to hold the body: they reach {reach_mm[0]:.1f} and"
            f" {reach_mm[1]:.1f} mm from the axis, the body {body.reach_mm:.1f} mm"
        )
