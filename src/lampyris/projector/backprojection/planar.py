"""Filtered projections of one detector row, geometry and a single slice → image: backprojection along image rows.

What `backprojection` does for stacks, for the plane alone: there is no axial run to work along, so the loops run along
an image row. The detector coordinates of a whole row are computed first (they vectorise), then looked up.
"""

import numba as nb
import numpy as np

from lampyris.model import Float32, Float64, Geometry, GeometryError, Grid, InputError, Progress, silent
from lampyris.projector import ray
from lampyris.projector.backprojection.voxels import Weighting
from lampyris.projector.plan import Plan

ROWS_AT_ONCE = 8
"""Image rows that one thread finishes for all views: they stay in the fastest cache."""
OFF_PLANE = 1e-3
"""How far, in rows, the slice may lie from the plane of the single row."""
FAN_DEGREE = 10
"""Terms of atan(t)/t in t²: below 1e-7 rad up to t = 1."""


class PlanarBackprojector:
    """The same sum and the same interpolation as `backprojection.Backprojector`, for one row and one slice."""

    def __init__(self, geometry: Geometry, grid: Grid, *, weighting: Weighting = "fdk") -> None:
        """Raises GeometryError for more than one row or slice, or a slice outside the row's plane."""
        if not fits(geometry, grid):
            raise GeometryError(
                f"planar backprojection takes one detector row and the slice in its plane, found {geometry.rows} rows"
                f" and {grid.shape[0]} slices: use backprojection.Backprojector"
            )
        self._plan = Plan.of(geometry, grid)
        self._views = _records(self._plan, grid, weighting)
        self._atan = _arctangent()
        self._image = np.zeros(grid.shape[1:], np.float32)

    def add(self, projections: Float32, first: int = 0, *, progress: Progress = silent) -> None:
        """Add the views [first, first + len(projections)); projections (views, 1, columns) float32."""
        columns = self._plan.columns
        stop = first + len(projections)
        if projections.dtype != np.float32 or projections.shape[1:] != (1, columns) or stop > len(self._views):
            raise InputError(
                f"projections are {projections.dtype} {projections.shape} from view {first} on, expected float32"
                f" (≤ {len(self._views) - first}, 1, {columns})"
            )
        values = projections[:, 0]
        pairs = np.zeros((len(values), columns + 1, 2), np.float32)
        pairs[:, :columns, 0] = values
        pairs[:, : columns - 1, 1] = np.diff(values, axis=1)
        spacing = self._plan.spacing_mm
        _accumulate(self._plan.kind, self._views[first:stop], self._atan, pairs, spacing[1], spacing[2], self._image)
        progress(1.0)

    def image(self) -> Float32:
        """The sum so far, (1, rows, columns) float32."""
        return self._image[None].copy()


def fits(geometry: Geometry, grid: Grid) -> bool:
    """Whether one row sees one slice in its own plane, without a flying focal spot on an arc."""
    if geometry.rows != 1 or grid.shape[0] != 1:
        return False
    views = Plan.of(geometry, grid).views
    off_plane = np.abs(views["source_a"] * views["rows_per_mm"]) + np.abs(views["central_row"] - 0.5)
    if geometry.parallel:
        off_plane = np.abs(views["central_row"] - 0.5) + np.abs(views["axial_slope"])
    flown = np.hypot(views["arc_depth"], views["arc_across"])
    return bool(off_plane.max() < OFF_PLANE and flown.max() < 1e-3)


def _records(plan: Plan, grid: Grid, weighting: Weighting) -> Float64:
    """(views, 9): for depth and offset value at voxel [0, 0], slopes along r and c; then column scale, R, centre."""
    view = plan.views
    depth = -view["source_r"] * view["normal_r"] - view["source_c"] * view["normal_c"]
    across = -view["source_r"] * view["across_r"] - view["source_c"] * view["across_c"]
    scale = view["columns_per_unit"] * (view["distance"] if plan.kind == ray.FLAT else 1.0)
    across_r, across_c = view["across_r"], view["across_c"]
    if plan.kind == ray.PARALLEL:
        across = across - depth * view["across_slope"]
        across_r = across_r - view["normal_r"] * view["across_slope"]
        across_c = across_c - view["normal_c"] * view["across_slope"]
    isocentre = -grid.axes @ grid.first_voxel_mm
    r, c = isocentre[1] - view["source_r"], isocentre[2] - view["source_c"]
    distance = r * view["normal_r"] + c * view["normal_c"] if plan.kind == ray.FLAT else np.hypot(r, c)
    if weighting == "none":
        distance = np.zeros(len(view))
    centre = view["central_column"] - 0.5
    return np.stack(
        [depth, view["normal_r"], view["normal_c"], across, across_r, across_c, scale, distance, centre], axis=1
    )


def _arctangent() -> Float32:
    """Coefficients of atan(t)/t in t², lowest first, fitted over 0 ≤ t ≤ 1."""
    t = np.cos(np.pi * (np.arange(200) + 0.5) / 400)
    fit = np.polynomial.Polynomial.fit(t**2, np.arctan(t) / t, FAN_DEGREE).convert()
    return np.asarray(fit.coef, np.float32)


@nb.njit(parallel=True, cache=True, error_model="numpy", fastmath={"contract", "nsz", "arcp", "reassoc"})
def _accumulate(kind, views, atan, pairs, height, width, image):  # type: ignore[no-untyped-def]
    """Add every view to every image row."""
    rows, columns = image.shape
    for block in nb.prange((rows + ROWS_AT_ONCE - 1) // ROWS_AT_ONCE):
        place = np.empty(columns, np.float32)
        weight = np.ones(columns, np.float32)
        for view in range(len(views)):
            for row in range(block * ROWS_AT_ONCE, min(rows, (block + 1) * ROWS_AT_ONCE)):
                _locate(kind, views[view], atan, row * height, width, place, weight)
                _look_up(pairs[view], place, weight, image[row])


@nb.njit(cache=True, error_model="numpy", fastmath={"contract", "nsz", "arcp", "reassoc"})
def _locate(kind, view, atan, r, width, place, weight):  # type: ignore[no-untyped-def]
    """Column (middle of cell i is i) and distance weight of every voxel of an image row."""
    depth, depth_step = np.float32(view[0] + r * view[1]), np.float32(view[2] * width)
    across, across_step = np.float32(view[3] + r * view[4]), np.float32(view[5] * width)
    scale, distance, centre = np.float32(view[6]), np.float32(view[7]), np.float32(view[8])
    one = np.float32(1.0)
    if kind == ray.PARALLEL:
        for c in range(len(place)):
            place[c] = centre + scale * (across + np.float32(c) * across_step)
        return
    if kind == ray.FLAT:
        for c in range(len(place)):
            inverse = one / (depth + np.float32(c) * depth_step)
            place[c] = centre + scale * (across + np.float32(c) * across_step) * inverse
            weight[c] = (distance * inverse) * (distance * inverse)
    else:
        a0, a1, a2, a3, a4, a5 = atan[0], atan[1], atan[2], atan[3], atan[4], atan[5]
        a6, a7, a8, a9, a10 = atan[6], atan[7], atan[8], atan[9], atan[10]
        for c in range(len(place)):
            d, a = depth + np.float32(c) * depth_step, across + np.float32(c) * across_step
            t = a / d
            q = t * t
            high = a6 + q * (a7 + q * (a8 + q * (a9 + q * a10)))
            ratio = a0 + q * (a1 + q * (a2 + q * (a3 + q * (a4 + q * (a5 + q * high)))))
            place[c] = centre + scale * t * ratio
            weight[c] = distance * distance / (d * d + a * a)
    if distance == np.float32(0.0):
        weight[:] = one


@nb.njit(cache=True, error_model="numpy", fastmath={"contract", "nsz", "arcp", "reassoc"})
def _look_up(pairs, place, weight, image):  # type: ignore[no-untyped-def]
    """Add the row's values; a place beyond the outer edge of an outer cell adds nothing."""
    last = np.float32(len(pairs) - 2)
    half, zero = np.float32(0.5), np.float32(0.0)
    for c in range(len(place)):
        at = place[c]
        if at >= -half and at < last + half:
            at = min(max(at, zero), last)
            cell = np.uint32(at)
            image[c] += weight[c] * (pairs[cell, 0] + (at - np.float32(cell)) * pairs[cell, 1])
