"""Projections → slices in 1/mm, two-dimensional: parallel rays, stacked in rows, or the fan of a single row.

Parallel: f(x) = Σ_views Δθ·[p ∗ h](x·u), Δθ each view's share of π (Kak and Slaney 1988, eq. 3.34). Rows of parallel
rays are averaged into slices before they are filtered: the same sum, in the cheaper order. A fan is `fdk` with one row.
"""

from dataclasses import replace

import numpy as np

from lampyris.model import Float32, Float64, Geometry, GeometryError, Grid, GridRequest, Progress, Projections
from lampyris.projector import Engine
from lampyris.recon.analytic import fdk
from lampyris.recon.analytic.filtering import ramp_filter
from lampyris.recon.analytic.redundancy import FULL_TURN, angular_gaps, coverage_rad, displaced, half_fan
from lampyris.recon.field import choose_field, measured_reach, shadow
from lampyris.recon.kernels import Kernel
from lampyris.recon.slices import Coverage, SlicePlan, plan_slices

LARGEST_GAP_RAD = np.deg2rad(3.0)
"""Largest angle without a view, beyond the usual step, that half a turn of parallel views may have."""


def parallel_image(
    projections: Projections, kernel: Kernel, request: GridRequest, progress: Progress, engine: Engine
) -> tuple[Float32, Grid]:
    """Slices (1/mm) and their grid, from parallel rays over at least half a turn.

    Raises CardFullError where a card does not hold them at once, GeometryError when rays run askew to the rotation
    axis, the rotation is not about y or angles are missing.
    """
    theta = _angles(projections.geometry)
    seen, reach = shadow(projections), measured_reach(projections.geometry)
    if half_fan(reach, seen.body.reach_mm):
        projections = _widened(projections, reach)
    geometry = projections.geometry
    field = choose_field(request, seen.body)
    row_mm, column_mm = geometry.cell_mm
    heights = geometry.detector[0, 1] + (np.arange(geometry.rows) - (geometry.rows - 1) / 2) * geometry.v[0, 1]
    covered = (float(heights.min()) - row_mm / 2, float(heights.max()) + row_mm / 2)
    plan = plan_slices(request, row_mm, Coverage(covered, covered))
    grid = plan.grid(field)
    continuation = geometry.columns // 4 if seen.truncated > fdk.TRUNCATED_VIEWS else 0
    filtering = fdk.Filtering(
        ramp_filter(geometry.columns, column_mm, kernel),
        np.ones((plan.slices, geometry.columns), np.float32),
        _shares(theta, geometry, seen.body.reach_mm, reach),
        continuation,
        _rows_to_slices(heights, geometry.v[0, 1] > 0, plan),
    )
    stack = _stack(geometry, heights, plan)
    with engine.memory.refused(f"{plan.slices} slices of parallel rays, {field.matrix} × {field.matrix}"):
        values = fdk.filter_and_backproject(projections.integrals, stack, grid, filtering, engine)
        image = engine.memory.down(values)
    progress(1.0)
    return image, grid


def _rows_to_slices(heights: Float64, upright: bool, plan: SlicePlan) -> Float32 | None:
    """Share (slices, rows) of every row in every slice, rows interpolated at the thin slices, then averaged; None where
    each row is one.
    """
    thin = plan.thin_first_mm + np.arange(plan.thin_slices) * plan.thin_step_mm
    rising = np.argsort(heights)
    place = np.interp(thin, heights[rising], rising.astype(np.float64))  # outer rows hold to their outer edge
    mix = np.zeros((plan.slices, len(heights)), np.float32)
    for i in range(plan.slices):
        for j, tap in enumerate(plan.taps):
            low = int(min(place[i * plan.stride + j], len(heights) - 1))
            share = place[i * plan.stride + j] - low
            mix[i, low] += tap * (1 - share)
            mix[i, min(low + 1, len(heights) - 1)] += tap * share
    ordered = mix if upright else mix[::-1]
    if len(heights) == plan.slices and np.array_equal(ordered, np.eye(plan.slices)):
        return None
    return np.ascontiguousarray(ordered)


def _stack(geometry: Geometry, heights: Float64, plan: SlicePlan) -> Geometry:
    """The geometry with one row per slice."""
    middle = plan.first_mm + (plan.slices - 1) / 2 * plan.increment_mm
    move = np.array([0.0, middle - float(heights.mean()), 0.0])
    upward = np.array([0.0, plan.increment_mm, 0.0]) * np.sign(geometry.v[0, 1])
    return replace(
        geometry,
        source=geometry.source + move,
        detector=geometry.detector + move,
        v=np.broadcast_to(upward, geometry.v.shape),
        rows=plan.slices,
    )


def _angles(geometry: Geometry) -> Float64:
    """Direction of view, rad, unwrapped; checked to turn about y with rows along it."""
    direction = geometry.detector - geometry.source
    direction /= np.linalg.norm(direction, axis=1, keepdims=True)
    u = geometry.u / np.linalg.norm(geometry.u, axis=1, keepdims=True)
    v = geometry.v / np.linalg.norm(geometry.v, axis=1, keepdims=True)
    askew = max(
        float(np.abs(direction[:, 1]).max()),
        float(np.abs(u[:, 1]).max()),
        float(np.abs(np.einsum("vi,vi->v", u, direction)).max()),
        float(np.hypot(v[:, 0], v[:, 2]).max()),
        float(np.ptp(geometry.detector[:, 1])) / float(np.linalg.norm(geometry.v[0]) * geometry.rows),
    )
    if askew > 1e-3:
        raise GeometryError(
            f"parallel views lean by {askew:.4f} from a rotation about y with the detector square to the rays (allowed"
            " 0.001): laminography, or an uncorrected skew?"
        )
    return np.unwrap(np.arctan2(-direction[:, 0], -direction[:, 2]))


def _widened(projections: Projections, reach_mm: tuple[float, float]) -> Projections:
    """A displaced detector made even with empty columns on its short side: what the filter spreads there counts too."""
    geometry = projections.geometry
    extra = int(np.ceil(abs(reach_mm[1] - reach_mm[0]) / geometry.cell_mm[1]))
    low, high = (extra, 0) if reach_mm[0] < reach_mm[1] else (0, extra)
    move = (high - low) / 2 * geometry.u
    wider = replace(
        geometry, source=geometry.source + move, detector=geometry.detector + move, columns=geometry.columns + extra
    )
    padding = ((0, 0), (0, 0), (low, high))
    integrals, weights = np.pad(projections.integrals, padding), np.pad(projections.weights, padding)
    return replace(projections, integrals=integrals, weights=weights, geometry=wider, quanta=None)


def _shares(theta: Float64, geometry: Geometry, body_reach_mm: float, reach_mm: tuple[float, float]) -> Float32:
    """Share of π (views, columns) of every reading; half-fan weights where one side alone holds the body."""
    if half_fan(reach_mm, body_reach_mm):
        low, high = reach_mm
        if coverage_rad(theta) < FULL_TURN * (1 - 1e-3):
            raise GeometryError(
                f"the detector reaches {low:.1f} and {high:.1f} mm to the sides of the axis, the body"
                f" {body_reach_mm:.1f} mm: a displaced detector needs 360°, the views cover"
                f" {np.rad2deg(coverage_rad(theta)):.1f}°"
            )
        reached = measured_reach(geometry)
        offset = np.linspace(-reached[0], reached[1], 2 * geometry.columns + 1)[1::2]
        return np.asarray(angular_gaps(theta, FULL_TURN)[:, None] * displaced(offset, reach_mm)[None, :], np.float32)
    wrapped = np.sort(np.mod(theta, np.pi))
    gaps = np.diff(wrapped, append=wrapped[0] + np.pi)
    if gaps.max() - np.median(gaps) > LARGEST_GAP_RAD:
        raise GeometryError(
            f"parallel views leave {np.rad2deg(gaps.max()):.1f}° of 180° without a view: views missing, or an angle in"
            " the wrong unit?"
        )
    share = angular_gaps(theta, np.pi)[:, None]
    return np.asarray(np.broadcast_to(share, (geometry.views, geometry.columns)), np.float32)
