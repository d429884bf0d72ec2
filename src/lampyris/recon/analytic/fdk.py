"""Projections of a circular scan → slices in 1/mm: Feldkamp's method on flat and curved detectors; one row is a fan.

f(x) = Σ_views Δφ·w·(R/ℓ)²·[(p·cos) ∗ h](x's cell), h the ramp in mm at the isocentre, w the redundancy weights that
sum to 1 over the two measurements of every ray. Feldkamp, Davis, Kress 1984 (JOSA A 1:612); Kak and Slaney 1988,
eq. 3.136 for equal angles; Hsieh 2003, ch. 3, for the curved cone beam.
"""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from array_api_compat import array_namespace

from lampyris.model import Float32, Float64, Geometry, GeometryError, Grid, GridRequest, Orbit, Progress, Projections
from lampyris.projector import Engine
from lampyris.projector.backprojection import Backprojector, PlanarBackprojector, fits
from lampyris.recon.analytic.filtering import CHUNK_BYTES, RampFilter, cosine_weights, filter_rows, ramp_filter
from lampyris.recon.analytic.redundancy import FULL_TURN, angular_gaps, coverage_rad, displaced, half_fan, parker
from lampyris.recon.field import Circle, Field, choose_field, measured_reach, shadow
from lampyris.recon.kernels import Kernel
from lampyris.recon.slices import Coverage, average_slabs, plan_slices

BATCH_BYTES = 64 * 2**20
"""Projections filtered at a time, on their way into the image."""
CARD_BATCH, MOST_BATCH_BYTES = 1 / 32, 4 * BATCH_BYTES
"""Of a card's free memory for the same: with what FFT and padding take beside it, a quarter. No batch is larger than
pinned memory is quickly had for."""
REST_MM = 0.02
"""Table or focal spot moving by less than this is at rest."""
TRUNCATED_VIEWS = 0.02
"""From this share of views with the body at the detector's edge, rows are continued beyond it."""


@dataclass(frozen=True, slots=True, eq=False)
class Filtering:
    """How a batch of views becomes ready for backprojection: `cosine` (rows, columns), `share` (views, 1 | columns) of
    the angle, the ramp, and by how many samples truncated rows are continued. `mix` (slices, rows), where there is one,
    makes the rows that are filtered of those that were measured.
    """

    ramp: RampFilter
    cosine: Float32
    share: Float32
    continuation: int
    mix: Float32 | None = None


def image(
    projections: Projections, orbit: Orbit, kernel: Kernel, request: GridRequest, progress: Progress, engine: Engine
) -> tuple[Float32, Grid]:
    """Slices (1/mm) and their grid, from a scan with the table at rest.

    Raises GeometryError for a moving table, a flying focal spot or too few angles.
    """
    if moving := motion(orbit):
        raise GeometryError(f"fdk needs table and focal spot at rest, but {moving} during the scan: use method 'wfbp'")
    seen = shadow(projections)
    field = choose_field(request, seen.body)
    reach = measured_reach(projections.geometry)
    integrals, geometry = projections.integrals, projections.geometry
    if half_fan(reach, seen.body.reach_mm):
        integrals, orbit = _widened(integrals, orbit)
        geometry = Geometry.circular(orbit.gantry, np.rad2deg(orbit.gantry_angle_rad), axial_mm=orbit.axial_mm)
    gantry = orbit.gantry
    axial_mm = float(orbit.axial_mm.mean())
    coverage = cone_coverage(orbit, seen.body, axial_mm)
    plan = plan_slices(request, gantry.row_at_isocentre_mm, coverage)
    continuation = gantry.columns // 4 if seen.truncated > TRUNCATED_VIEWS else 0
    filtering = prepare(orbit, kernel, seen.body, reach, continuation)

    def thin(grid: Grid, _progress: Progress) -> Any:
        extra = _rows_missing(orbit, field, grid, axial_mm)
        return filter_and_backproject(integrals, geometry, grid, filtering, engine, extra)

    return average_slabs(plan, field, thin, progress, memory=engine.memory), plan.grid(field)


def prepare(orbit: Orbit, kernel: Kernel, body: Circle, reach_mm: tuple[float, float], continuation: int) -> Filtering:
    """Weights and filter of a circular scan whose measured rays reach so far on the low and the high side."""
    gantry = orbit.gantry
    row_mm, column_mm = gantry.cell_mm
    central_column = (gantry.columns - 1) / 2 if gantry.central_column is None else gantry.central_column
    central_row = (gantry.rows - 1) / 2 if gantry.central_row is None else gantry.central_row
    across: Float64 = (np.arange(gantry.columns, dtype=np.float64) - central_column) * column_mm
    up: Float64 = (np.arange(gantry.rows, dtype=np.float64) - central_row) * row_mm
    distance, radius = gantry.source_to_detector_mm, gantry.source_to_isocentre_mm
    fan = across / distance if gantry.curved else np.arctan(across / distance)
    ramp = ramp_filter(
        gantry.columns, column_mm * radius / distance, kernel,
        fan_step_rad=column_mm / distance if gantry.curved else None,
    )  # fmt: skip
    cosine = cosine_weights(across, up, distance, curved=gantry.curved)
    share = view_shares(orbit.gantry_angle_rad, fan, body.reach_mm, radius, reach_mm)
    return Filtering(ramp, cosine, share, continuation)


def view_shares(
    angle_rad: Float64, fan_rad: Float64, body_reach_mm: float, radius_mm: float, reach_mm: tuple[float, float]
) -> Float32:
    """Share of the angle (views, columns) rad that every reading stands for, redundancy included.

    A full turn or more: half of each view's gap, or, where the short side of the detector does not hold the body,
    the weights of a displaced detector. Less: Parker's, for the fan that holds the body.
    """
    if coverage_rad(angle_rad) > FULL_TURN * (1 - 1e-3):
        gap = angular_gaps(angle_rad, FULL_TURN)[:, None]
        if not half_fan(reach_mm, body_reach_mm):
            return np.asarray(np.broadcast_to(gap / 2, (len(gap), len(fan_rad))), np.float32)
        low, high = (float(np.arcsin(each / radius_mm)) for each in reach_mm)
        return np.asarray(gap * displaced(fan_rad, (low, high))[None, :], np.float32)
    if half_fan(reach_mm, body_reach_mm):
        raise GeometryError(
            f"the detector reaches {reach_mm[0]:.1f} and {reach_mm[1]:.1f} mm to the sides of the axis, the body"
            f" {body_reach_mm:.1f} mm: a displaced detector needs 360°, the views cover"
            f" {np.rad2deg(coverage_rad(angle_rad)):.1f}°"
        )
    needed = min(float(np.abs(fan_rad).max()), float(np.arcsin(min(body_reach_mm / radius_mm, 1.0))))
    step = np.abs(np.gradient(angle_rad))[:, None]
    return np.asarray(step * parker(angle_rad, fan_rad, needed), np.float32)


def filter_and_backproject(
    integrals: Float32,
    geometry: Geometry,
    grid: Grid,
    filtering: Filtering,
    engine: Engine,
    extra_rows: tuple[int, int] = (0, 0),
) -> Any:
    """The image (slices, rows, columns) of one slab where the engine's arrays live, filtered and added batch by batch.

    `extra_rows` copies of the outermost row are added below and above the detector, for voxels that the cone misses in
    some views: exact for an object that does not change along y, the usual approximation otherwise.
    """
    taller, memory = _taller(geometry, extra_rows), engine.memory
    sum_of_views: Backprojector | PlanarBackprojector
    if engine.name == "cpu" and fits(taller, grid):
        sum_of_views = PlanarBackprojector(taller, grid, weighting="fdk")
    else:
        sum_of_views = Backprojector(taller, grid, weighting="fdk", engine=engine.name)
    held = min(memory.room(CARD_BATCH, BATCH_BYTES), MOST_BATCH_BYTES)
    batch = max(1, held // (4 * max(geometry.rows, integrals.shape[1]) * geometry.columns))
    cosine, share = memory.up(filtering.cosine), memory.up(filtering.share)
    mix = None if filtering.mix is None else memory.up(filtering.mix)
    spans = [(first, min(first + batch, geometry.views)) for first in range(0, geometry.views, batch)]
    for (first, last), values in zip(spans, memory.pieces(integrals, spans), strict=True):
        part = slice(first, last)
        values = values if mix is None else memory.xp.matmul(mix, values)
        filtered = filter_rows(
            values, filtering.ramp, weights=(cosine, share[part, None, :]), continuation=filtering.continuation,
            chunk_bytes=memory.room(CARD_BATCH, CHUNK_BYTES),
        )  # fmt: skip
        sum_of_views.add(_with_rows(filtered, extra_rows) if any(extra_rows) else filtered, first)
    return sum_of_views.image()


def _with_rows(values: Any, extra_rows: tuple[int, int]) -> Any:
    """Views with so many copies of their first row before it, and of their last behind."""
    xp = array_namespace(values)
    below, above = extra_rows
    views, rows, columns = values.shape
    taller = xp.empty((views, below + rows + above, columns), dtype=values.dtype)
    taller[:, :below, :] = values[:, :1, :]
    taller[:, below : below + rows, :] = values
    taller[:, below + rows :, :] = values[:, rows - 1 :, :]
    return taller


def cone_coverage(orbit: Orbit, body: Circle, axial_mm: float) -> Coverage:
    """Slab that every view sees all over the body's circle, and the slab that it sees on the axis of rotation."""
    gantry = orbit.gantry
    central = (gantry.rows - 1) / 2 if gantry.central_row is None else gantry.central_row
    radius = gantry.source_to_isocentre_mm
    low, high = (
        (-0.5 - central) * gantry.row_at_isocentre_mm,
        (gantry.rows - 0.5 - central) * gantry.row_at_isocentre_mm,
    )
    reach = min(body.reach_mm, 0.95 * radius)
    near, far = 1 - reach / radius, 1 + reach / radius
    sure_low, sure_high = low * (near if low < 0 else far), high * (near if high > 0 else far)
    return Coverage((axial_mm + sure_low, axial_mm + sure_high), (axial_mm + low, axial_mm + high))


def _rows_missing(orbit: Orbit, field: Field, grid: Grid, axial_mm: float) -> tuple[int, int]:
    """Rows by which the shadow of the slab, within the field of view, stands out below and above the detector."""
    gantry = orbit.gantry
    radius = gantry.source_to_isocentre_mm
    central = (gantry.rows - 1) / 2 if gantry.central_row is None else gantry.central_row
    fan = gantry.columns * gantry.cell_mm[1] / gantry.source_to_detector_mm
    measured = radius * np.sin(min(fan if gantry.curved else np.arctan(fan), np.pi / 2))
    corner = float(np.hypot(*(np.abs(field.centre_mm) + np.full(2, field.side_mm / 2))))
    largest = gantry.source_to_detector_mm / (gantry.cell_mm[0] * (radius - min(corner, measured, 0.9 * radius)))
    bottom = grid.position_mm((0, 0, 0))[1] - axial_mm
    top = grid.position_mm((grid.shape[0] - 1, 0, 0))[1] - axial_mm
    below = -0.5 - (central + bottom * largest)
    above = central + top * largest - (gantry.rows - 0.5)
    return max(0, int(np.ceil(below))), max(0, int(np.ceil(above)))


def _widened(integrals: Float32, orbit: Orbit) -> tuple[Float32, Orbit]:
    """A displaced detector made even with empty columns on its short side: what the filter spreads there counts too."""
    gantry = orbit.gantry
    central = (gantry.columns - 1) / 2 if gantry.central_column is None else gantry.central_column
    low = max(0, int(np.ceil(gantry.columns - 1 - 2 * central)))
    high = max(0, int(np.ceil(2 * central - (gantry.columns - 1))))
    wider = replace(gantry, columns=gantry.columns + low + high, central_column=central + low)
    return np.pad(integrals, ((0, 0), (0, 0), (low, high))), replace(orbit, gantry=wider)


def _taller(geometry: Geometry, extra_rows: tuple[int, int]) -> Geometry:
    below, above = extra_rows
    return replace(
        geometry,
        detector=geometry.detector + (above - below) / 2 * geometry.v,
        rows=geometry.rows + below + above,
    )


def motion(orbit: Orbit) -> str | None:
    """What moves during the scan besides the rotation, in words; None if nothing does."""
    travel = float(np.ptp(orbit.axial_mm))
    if travel > REST_MM:
        return f"the table moves {travel:.2f} mm"
    radius = orbit.gantry.source_to_isocentre_mm
    shift = orbit.shift
    flown = max(float(np.ptp(each)) for each in (shift.angular_rad * radius, shift.axial_mm, shift.radial_mm))
    return f"the focal spot flies by {flown:.2f} mm" if flown > REST_MM else None
