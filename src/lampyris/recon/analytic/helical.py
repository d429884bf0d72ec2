"""Projections of a helix, or of an axial scan with a flying focal spot → slices in 1/mm: weighted FBP.

Cone-parallel rebinning row by row, ramp filter along ξ, and for every direction the mean of all rows and turns that
see a voxel, weighted with W(q): 1 up to `flat_share` of the detector's half height, falling as cos² to 0 at its edge.
Stierstorfer, Rauscher, Boese, Bruder, Schaller, Flohr 2004 (Phys. Med. Biol. 49:2209). The positions of a flying focal
spot enter as further measurements of the same direction: what each undersamples cancels in the mean.
"""

from dataclasses import dataclass, replace

import numpy as np

from lampyris.model import Float32, Float64, GeometryError, Grid, GridRequest, Orbit, Progress, Projections
from lampyris.projector.backprojection import ConeParallelData, ConeParallelScan, backproject_helical
from lampyris.recon.analytic.fdk import REST_MM, TRUNCATED_VIEWS
from lampyris.recon.analytic.filtering import RampFilter, filter_rows, ramp_filter
from lampyris.recon.analytic.rebinning import Fan, Resampling, fans, resample, resampling, spots, theta_range
from lampyris.recon.analytic.redundancy import FULL_TURN, coverage_rad, half_fan
from lampyris.recon.field import Circle, Field, choose_field, measured_reach, shadow
from lampyris.recon.kernels import Kernel
from lampyris.recon.slices import Coverage, average_slabs, plan_slices

FLAT_SHARE = 0.6
BATCH_BYTES = 64 * 2**20
"""Cone-parallel views made and filtered at a time."""
DATA_BYTES = 3 * 2**29
"""Filtered views held at once. A longer helix is filtered in parts, the turns between two of them twice: of a chest of
600 mm, 64 rows and pitch 1 about half as much again of a tenth of the work."""
FILTERED = 0.15
"""Share of a slab's work, as progress tells it, that is done when backprojection begins."""
UNEVEN_ROWS = 0.1
"""How far, in rows, the table may lie from an even feed."""


@dataclass(frozen=True, slots=True, eq=False)
class _Plan:
    """A scan ready to be rebinned: per fan where its rays lie among the measured ones, and their cosines."""

    scan: ConeParallelScan
    where: tuple[Resampling, ...]
    cosine: tuple[Float32, ...]


def image(
    projections: Projections,
    orbit: Orbit,
    kernel: Kernel,
    request: GridRequest,
    progress: Progress,
    *,
    flat_share: float = FLAT_SHARE,
) -> tuple[Float32, Grid]:
    """Slices (1/mm) and their grid; NaN where a voxel outside the body was not seen from all directions.

    Raises GeometryError for less than half a turn, an uneven table, a pitch too high for the detector.
    """
    seen = shadow(projections)
    reach = measured_reach(projections.geometry)
    _refuse(orbit, reach, seen.body)
    field = choose_field(request, seen.body)
    plan = _plan(orbit, min(*reach, seen.body.reach_mm))
    covered = coverage(plan.scan, seen.body.reach_mm)
    slices = plan_slices(request, orbit.gantry.row_at_isocentre_mm, Coverage(covered, covered))
    ramp = ramp_filter(plan.scan.shape[3], plan.scan.xi_step_mm, kernel)
    continuation = plan.scan.shape[3] // 4 if seen.truncated > TRUNCATED_VIEWS else 0
    weight = row_weight(orbit.gantry.rows, flat_share)
    prepared: dict[tuple[int, int], ConeParallelData] = {}

    def thin(grid: Grid, progress: Progress) -> Float32:
        views = turns_reaching(plan.scan, grid)
        if views not in prepared:
            prepared.clear()
            prepared[views] = _filled(projections.integrals, plan, views, weight, ramp, continuation)
            progress(FILTERED)
        found = backproject_helical(
            prepared[views], grid, progress=lambda done: progress(FILTERED + (1 - FILTERED) * done)
        )
        found.values[found.seen < found.half_turn] = np.nan
        return found.values

    most = thin_slices_at_once(plan.scan, field, slices.thin_step_mm)
    return average_slabs(slices, field, thin, progress, most=most), slices.grid(field)


def turns_reaching(scan: ConeParallelScan, grid: Grid) -> tuple[int, int]:
    """First view and the one past the last of the whole turns, counted from the scan's start, that see the grid.

    Beginning with a turn, a part has the angles of the whole. A scan of up to `DATA_BYTES` is taken whole.
    """
    _, views, rows, columns = scan.shape
    if 4 * scan.shape[0] * views * rows * columns <= DATA_BYTES:
        return 0, views
    corners = [grid.position_mm((0, r, c)) for r in (0, grid.shape[1] - 1) for c in (0, grid.shape[2] - 1)]
    reach = _reach_mm(scan, max(float(np.hypot(p[0], p[2])) for p in corners))
    low = float(grid.first_voxel_mm[1]) - reach
    high = low + (grid.shape[0] - 1) * grid.spacing_mm[0] + 2 * reach
    meets = np.flatnonzero((scan.axial_mm >= low) & (scan.axial_mm <= high))
    if not len(meets):
        return 0, views
    turn = 2 * scan.half_turn
    first = int(meets[0]) // turn * turn
    return min(first, max(0, (views - scan.half_turn) // turn * turn)), max(int(meets[-1]) + 1, first + scan.half_turn)


def thin_slices_at_once(scan: ConeParallelScan, field: Field, step_mm: float) -> int:
    """How many slices, `step_mm` apart, the turns of `DATA_BYTES` reach; at least those of one turn's feed."""
    spots, views, rows, columns = scan.shape
    turn_bytes = 8 * spots * scan.half_turn * rows * columns
    feed = 2 * np.pi * abs(scan.feed_mm_per_rad)
    if 4 * spots * views * rows * columns <= DATA_BYTES or feed == 0:
        return max(1, views)
    radius = float(np.hypot(*field.centre_mm)) + field.side_mm / np.sqrt(2)
    kept = (DATA_BYTES / turn_bytes - 1) * feed - 2 * _reach_mm(scan, radius)
    return max(1, int(max(kept, feed) / step_mm))


def _reach_mm(scan: ConeParallelScan, radius_mm: float) -> float:
    """How far along y from the table's position a view sees voxels up to `radius_mm` from the axis, at most."""
    lowest = scan.first_row_mm - scan.spot_axial_mm - scan.row_mm
    half_height = float(np.abs(np.stack([lowest, lowest + (scan.rows + 1) * scan.row_mm])).max())
    magnified = float(((scan.ahead_mm + radius_mm) / scan.cell_mm).max())
    lag = abs(scan.feed_mm_per_rad) * float(np.abs(scan.lag_rad).max())
    return half_height * magnified + lag + float(np.abs(scan.spot_axial_mm).max())


def row_weight(rows: int, flat_share: float) -> Float32:
    """W of every row (rows,): 1 for |q| ≤ Q, cos²(π/2·(|q| − Q)/(1 − Q)) beyond; q = ±1 at the edges."""
    q = np.abs((2 * np.arange(rows) + 1) / rows - 1)
    fall = np.clip((q - flat_share) / (1 - flat_share), 0, 1)
    return np.asarray(np.cos(np.pi / 2 * fall) ** 2, np.float32)


def coverage(scan: ConeParallelScan, reach_mm: float) -> tuple[float, float]:
    """Slab [low, high] mm along y that is seen from every direction of the half turn everywhere within `reach_mm`.

    For points on circles up to that radius and directions θ the detector's shadow is an interval of y; those of the
    views half a turn apart must join. Raises GeometryError with the gap where they do not: the pitch is too high.
    """
    xi = scan.first_xi_mm + np.arange(scan.shape[3], dtype=np.float64) * scan.xi_step_mm
    reach = min(reach_mm, float(np.abs(xi).max()))
    around = np.linspace(0, 2 * np.pi, 36, endpoint=False)
    ring = np.stack([np.cos(around), np.sin(around)], 1)
    points = np.asarray(np.concatenate([np.zeros((1, 2)), reach / 2 * ring, reach * ring]), np.float64)
    low, high = -np.inf, np.inf
    for first in np.unique(np.linspace(0, scan.half_turn - 1, 72).astype(int)):
        lower, upper = _shadows(scan, xi, points, np.arange(first, scan.views, scan.half_turn, dtype=np.float64))
        gap = (lower[1:] - np.maximum.accumulate(upper, axis=0)[:-1]).max(initial=-np.inf)
        if gap > 1e-6:
            raise GeometryError(
                f"the pitch is too high for the detector: {reach:.0f} mm from the axis, {gap:.2f} mm along y are not"
                f" seen from some direction (feed {abs(scan.feed_mm_per_rad) * 2 * np.pi:.2f} mm per turn,"
                f" {scan.rows} rows of {scan.row_mm:.3f} mm at the detector)"
            )
        low, high = max(low, float(lower.min(0).max())), min(high, float(upper.max(0).min()))
    if low >= high:
        raise GeometryError(
            f"no slice is seen from all directions (complete from {low:.2f} mm on, only up to {high:.2f} mm): the helix"
            " needs more than half a turn over the same place"
        )
    return low, high


def _shadows(scan: ConeParallelScan, xi: Float64, points: Float64, views: Float64) -> tuple[Float64, Float64]:
    """Lower and upper end in y, ascending, of what the detector sees at every point (x, z): (views·spots, points)."""
    theta = scan.first_angle_rad + views * np.pi / scan.half_turn
    at = points[:, 0] * np.cos(theta)[:, None] - points[:, 1] * np.sin(theta)[:, None]
    along = points[:, 0] * np.sin(theta)[:, None] + points[:, 1] * np.cos(theta)[:, None]
    table = scan.axial_mm[views.astype(int)][:, None]
    lowers, uppers = [], []
    for spot in range(scan.shape[0]):
        lag, ahead, cell = (np.interp(at, xi, each[spot]) for each in (scan.lag_rad, scan.ahead_mm, scan.cell_mm))
        source = table + scan.feed_mm_per_rad * lag + scan.spot_axial_mm[spot]
        bottom = scan.first_row_mm[spot] - scan.spot_axial_mm[spot] - scan.row_mm / 2
        lowers.append(source + bottom * (ahead - along) / cell)
        uppers.append(source + (bottom + scan.rows * scan.row_mm) * (ahead - along) / cell)
    lower, upper = np.concatenate(lowers), np.concatenate(uppers)
    order = np.argsort(lower, axis=0)
    return np.take_along_axis(lower, order, 0), np.take_along_axis(upper, order, 0)


def _plan(orbit: Orbit, reach_mm: float) -> _Plan:
    """The lattice of directions (whole multiples of a step that divides π) and distances, common to all spots."""
    gantry, found = orbit.gantry, spots(orbit)
    phi = orbit.gantry_angle_rad[found[0].views]
    wraps = bool(np.ptp(orbit.axial_mm) < REST_MM and abs(coverage_rad(phi) - FULL_TURN) < 1e-3)
    half_turn = round(np.pi / abs(float(phi[-1] - phi[0])) * (len(phi) - 1))
    step = np.pi / half_turn
    ranges = [theta_range(orbit, spot, reach_mm) for spot in found]
    low, high = max(each[0] for each in ranges), min(each[1] for each in ranges)
    if wraps:
        low, high = float(phi.min()), float(phi.min()) + FULL_TURN - step
    theta = np.arange(np.ceil(low / step - 1e-9), np.floor(high / step + 1e-9) + 1) * step
    if len(theta) < half_turn:
        raise GeometryError(
            f"wfbp needs 180° of parallel rays, the views give {len(theta) * 180 / half_turn:.1f}°: scan at least half"
            " a turn and the fan"
        )
    bundles = fans(found)
    cells = len(bundles[0].xi_mm) // gantry.columns
    xi = _distances(bundles, gantry.cell_mm[1] * gantry.source_to_isocentre_mm / gantry.source_to_detector_mm / cells)

    def per_column(name: str) -> Float64:
        return np.stack([np.interp(xi, fan.xi_mm, getattr(fan, name)) for fan in bundles])

    table, feed = even_feed(orbit)
    heights = [fan.spots[0].axial_mm for fan in bundles], [fan.spots[0].first_row_mm for fan in bundles]
    scan = ConeParallelScan(
        float(theta[0]), half_turn, table + feed * (theta - orbit.gantry_angle_rad[0]), feed, float(xi[0]),
        float(xi[1] - xi[0]), gantry.rows, gantry.cell_mm[0], per_column("lag_rad"), per_column("ahead_mm"),
        per_column("cell_mm"), np.array(heights[0]), np.array(heights[1]),
    )  # fmt: skip
    where = tuple(resampling(orbit, fan, theta, xi, wraps=wraps) for fan in bundles)
    return _Plan(scan, where, tuple(_cosine(scan, i) for i in range(len(bundles))))


def _distances(bundles: tuple[Fan, ...], step_mm: float) -> Float64:
    """ξ of the common lattice: through a ray in the middle, from where every fan has rays."""
    first = bundles[0].xi_mm
    anchor = float(first[int(np.abs(first).argmin())])
    low = max(fan.xi_mm[0] for fan in bundles)
    high = min(fan.xi_mm[-1] for fan in bundles)
    return anchor + np.arange(np.ceil((low - anchor) / step_mm), np.floor((high - anchor) / step_mm) + 1) * step_mm


def _cosine(scan: ConeParallelScan, spot: int) -> Float32:
    """(rows, columns): cosine of each ray's angle to the plane of rotation."""
    height = scan.first_row_mm[spot] + np.arange(scan.rows) * scan.row_mm - scan.spot_axial_mm[spot]
    return np.asarray(1 / np.sqrt(1 + (height[:, None] / scan.cell_mm[spot][None, :]) ** 2), np.float32)


def _filled(
    integrals: Float32, plan: _Plan, views: tuple[int, int], weight: Float32, ramp: RampFilter, continuation: int
) -> ConeParallelData:
    """The cone-parallel views from one to the other, rebinned and filtered batch by batch."""
    begin, end = views
    data = ConeParallelData(replace(plan.scan, axial_mm=plan.scan.axial_mm[begin:end]), weight)
    _, _, rows, columns = plan.scan.shape
    batch = max(1, BATCH_BYTES // (4 * rows * columns))
    for i, where in enumerate(plan.where):
        for first in range(begin, end, batch):
            parallel = resample(integrals, where, slice(first, min(first + batch, end)))
            filter_rows(parallel, ramp, weights=(plan.cosine[i],), continuation=continuation, out=parallel)
            data.store(parallel, first - begin, i)
    return data


def even_feed(orbit: Orbit) -> tuple[float, float]:
    """Table position, mm, at the first view's gantry angle, and its travel per rad of rising gantry angle.

    Raises GeometryError where the table does not move evenly with the rotation.
    """
    turned = orbit.gantry_angle_rad - orbit.gantry_angle_rad[0]
    feed, start = np.polyfit(turned, orbit.axial_mm, 1)
    uneven = float(np.abs(orbit.axial_mm - start - feed * turned).max())
    if uneven > UNEVEN_ROWS * orbit.gantry.row_at_isocentre_mm:
        raise GeometryError(
            f"the table lies up to {uneven:.2f} mm from an even feed (allowed: {UNEVEN_ROWS} of a row): variable pitch"
            " or a shuttle is not supported by wfbp"
        )
    return float(start), float(feed)


def _refuse(orbit: Orbit, reach_mm: tuple[float, float], body: Circle) -> None:
    if orbit.views < 3:
        raise GeometryError(f"{orbit.views} views are no helix")
    if half_fan(reach_mm, body.reach_mm):
        raise GeometryError(
            f"wfbp needs both sides of the detector to hold the body: they reach {reach_mm[0]:.1f} and"
            f" {reach_mm[1]:.1f} mm from the axis, the body {body.reach_mm:.1f} mm"
        )
