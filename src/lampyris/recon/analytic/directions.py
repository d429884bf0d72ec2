"""The orbit of a helix → the lattice of its cone-parallel rays, what that covers, and which directions show a slab."""

from dataclasses import dataclass

import numpy as np

from lampyris.model import Float32, Float64, GeometryError, Grid, Orbit
from lampyris.projector.backprojection import ConeParallelScan
from lampyris.recon.analytic.fdk import REST_MM
from lampyris.recon.analytic.filtering import chunk_views
from lampyris.recon.analytic.rebinning import Fan, Spot, fans, spots, theta_range
from lampyris.recon.analytic.redundancy import FULL_TURN, coverage_rad
from lampyris.recon.field import Field

UNEVEN_ROWS = 0.1
"""How far, in rows, the table may lie from an even feed."""


@dataclass(frozen=True, slots=True, eq=False)
class Lattice:
    """Directions and distances common to all spots, without a sample yet; `found` the spots, `bundles` their fans."""

    scan: ConeParallelScan
    theta_rad: Float64
    xi_mm: Float64
    wraps: bool
    found: tuple[Spot, ...]
    bundles: tuple[Fan, ...]

    @property
    def step_rad(self) -> float:
        return float(np.pi) / self.scan.half_turn

    @property
    def lowest(self) -> int:
        """Number of the first direction, counted in steps from θ = 0."""
        return round(self.scan.first_angle_rad / self.step_rad)

    @property
    def group(self) -> int:
        """Directions that are filtered at once; groups begin at its multiples, wherever the lattice does."""
        return chunk_views(len(self.xi_mm), self.scan.rows)

    def groups_of(self, grid: Grid) -> tuple[int, int]:
        """First and last direction, counted from θ = 0, of the groups that hold all directions that can show a grid."""
        corners = [
            grid.position_mm((0, row, column)) for row in (0, grid.shape[1] - 1) for column in (0, grid.shape[2] - 1)
        ]
        reach = max(float(np.hypot(corner[0], corner[2])) for corner in corners)
        low, high = corners[0][1], grid.position_mm((grid.shape[0] - 1, 0, 0))[1]
        first, last = self.scan.showing(float(low), float(high), reach)
        return first // self.group * self.group, (last // self.group + 1) * self.group - 1

    def thin_slices_at_once(self, field: Field, step_mm: float, data_bytes: int) -> int:
        """How many slices, `step_mm` apart, are shown by the directions of so many bytes; at least a turn's feed."""
        spots, views, rows, columns = self.scan.shape
        held = data_bytes // (4 * spots * rows * columns)
        if views <= held or self.scan.feed_mm_per_rad == 0:
            return max(1, views)
        radius = float(np.hypot(*field.centre_mm)) + field.side_mm / np.sqrt(2)
        first, last = self.scan.showing(0.0, 0.0, radius)
        beside = last - first + 1 + 2 * self.group
        travel = max(held - beside, 2 * self.scan.half_turn) * self.step_rad * abs(self.scan.feed_mm_per_rad)
        return max(1, int(travel / step_mm))


def lattice_of(orbit: Orbit, reach_mm: float) -> Lattice:
    """The lattice of directions (whole multiples of a step that divides π) and distances of a scan."""
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
    return Lattice(scan, theta, xi, wraps, found, bundles)


def _distances(bundles: tuple[Fan, ...], step_mm: float) -> Float64:
    """ξ of the common lattice: through a ray in the middle, from where every fan has rays."""
    first = bundles[0].xi_mm
    anchor = float(first[int(np.abs(first).argmin())])
    low = max(fan.xi_mm[0] for fan in bundles)
    high = min(fan.xi_mm[-1] for fan in bundles)
    return anchor + np.arange(np.ceil((low - anchor) / step_mm), np.floor((high - anchor) / step_mm) + 1) * step_mm


def cosine(scan: ConeParallelScan, spot: int) -> Float32:
    """(rows, columns): cosine of each ray's angle to the plane of rotation."""
    height = scan.first_row_mm[spot] + np.arange(scan.rows) * scan.row_mm - scan.spot_axial_mm[spot]
    return np.asarray(1 / np.sqrt(1 + (height[:, None] / scan.cell_mm[spot][None, :]) ** 2), np.float32)


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
