"""Projections and a grid request → field of view and frame: what to image where, when the request leaves it open.

All in the upright gantry frame (a tilted gantry is turned back first); a circle is about an axis parallel to y.
"""

from dataclasses import dataclass, replace

import numba as nb
import numpy as np
from scipy.ndimage import median_filter
from scipy.optimize import linprog

from lampyris.model import Bool, Float32, Float64, Geometry, GeometryError, Grid, GridRequest, Projections

SHADOW_SHARE = 0.05
"""A ray belongs to the body's shadow above this share of the 95th percentile: some 15 mm of water in a trunk."""
SHADOW_VIEWS = 180
MARGIN = 1.04


@dataclass(frozen=True, slots=True)
class Circle:
    """Centre (x, z) and radius, mm, in the plane of rotation."""

    x_mm: float
    z_mm: float
    radius_mm: float

    @property
    def reach_mm(self) -> float:
        """Distance of the circle's furthest point from the axis of rotation."""
        return float(np.hypot(self.x_mm, self.z_mm)) + self.radius_mm


@dataclass(frozen=True, slots=True, eq=False)
class Shadow:
    """What the body was seen to cover: `body` the smallest circle around its hull, clipped to the rays measured.

    `truncated` is the share of views, 0…1, in which the body leaves the detector on one side or the other.
    """

    body: Circle
    truncated: float


@dataclass(frozen=True, slots=True)
class Field:
    """Square field of view: middle (x, z) mm, side mm, matrix of voxels."""

    centre_mm: tuple[float, float]
    side_mm: float
    matrix: int

    @property
    def voxel_mm(self) -> float:
        return self.side_mm / self.matrix


def lean_of(geometry: Geometry) -> Float64:
    """Rotation (3, 3) that takes the upright frame into the scan's, for a gantry tilted about x; rows of cells ∥ y' .

    Raises GeometryError when the detector's rows lean in another way than a gantry tilt does.
    """
    axis = geometry.v[0] / np.linalg.norm(geometry.v[0])
    if abs(axis[0]) > 1e-3 or axis[1] <= 0:
        raise GeometryError(
            f"detector rows run along {np.round(axis, 3).tolist()}, expected +y or +y tilted about x: is the rotation"
            " axis not y, or are the rows mirrored?"
        )
    c, s = axis[1], -axis[2]
    return np.array([[1.0, 0.0, 0.0], [0.0, c, s], [0.0, -s, c]])


def turned(geometry: Geometry, turn: Float64) -> Geometry:
    """The geometry with every point and direction p replaced by p @ turn."""
    source, detector, u, v = (each @ turn for each in (geometry.source, geometry.detector, geometry.u, geometry.v))
    return replace(geometry, source=source, detector=detector, u=u, v=v)


def edge_rays(geometry: Geometry, views: Float64, column: Float64) -> tuple[Float64, Float64]:
    """Unit normals (views, 2) in (x, z), towards +u, and signed distances (views,) mm of one ray per view.

    `column` (views,) is fractional; the ray passes the middle row.
    """
    normals, distances = np.zeros((len(views), 2)), np.zeros(len(views))
    row = np.array([(geometry.rows - 1) / 2])
    for i, view in enumerate(views.astype(int)):
        cell = geometry.cells_mm(view, row, np.array([column[i]]))[0, 0]
        direction = (geometry.detector[view] if geometry.parallel else cell) - geometry.source[view]
        normal = np.array([-direction[2], direction[0]]) / np.hypot(direction[0], direction[2])
        normal *= np.sign(normal @ geometry.u[view][[0, 2]])
        normals[i], distances[i] = normal, normal @ cell[[0, 2]]
    return normals, distances


def measured_reach(geometry: Geometry) -> tuple[float, float]:
    """Distance from the axis, mm, of the outermost rays of the first view on the low and on the high side of u."""
    first = np.zeros(1)
    _, low = edge_rays(geometry, first, np.array([-0.5]))
    _, high = edge_rays(geometry, first, np.array([geometry.columns - 0.5]))
    return float(-low[0]), float(high[0])


def shadow(projections: Projections, views: int | None = None) -> Shadow:
    """The body's circle from the edges of its shadow in up to 180 views; an empty beam gives the measured circle.

    Of a scan that still arrives the first `views` are looked at, None = all.

    Every edge ray bounds the body by a half plane n·x ≤ h; the smallest circle (c, r) around it is the linear
    programme min r subject to h ≤ n·c + r.
    """
    geometry = projections.geometry
    chosen = np.unique(np.linspace(0, geometry.views - 1, SHADOW_VIEWS).astype(int))
    chosen = chosen if views is None else chosen[chosen < views]
    profile = median_filter(projections.integrals[chosen].mean(axis=1, dtype=np.float64), (1, 5))
    level = np.percentile(profile, 95)
    inside = profile > SHADOW_SHARE * level
    seen = inside.any(axis=1) & (level > 0)
    low_reach, high_reach = measured_reach(geometry)
    if not seen.any():
        return Shadow(Circle(0.0, 0.0, max(low_reach, high_reach)), 0.0)
    chosen, inside = chosen[seen], inside[seen]
    low = inside.argmax(axis=1) - 0.5
    high = geometry.columns - inside[:, ::-1].argmax(axis=1) - 0.5
    low_normals, low_distances = edge_rays(geometry, chosen, low)
    high_normals, high_distances = edge_rays(geometry, chosen, high)
    normals = np.concatenate([-low_normals, high_normals])
    support = np.concatenate([-low_distances, high_distances])
    circle = linprog(
        [0, 0, 1], np.column_stack([-normals, -np.ones(len(normals))]), -support, bounds=[(None, None)] * 3
    ).x
    assert circle is not None, "every half plane has a finite support, so the programme has a solution"
    truncated = float((inside[:, 0] | inside[:, -1]).mean())
    return Shadow(Circle(float(circle[0]), float(circle[1]), float(max(circle[2], 0.0))), truncated)


def choose_field(request: GridRequest, body: Circle) -> Field:
    """The field of view asked for, or one that holds the body with 4 % to spare, rounded up to three digits.

    A field of view without a centre is about the isocentre.
    """
    side, centre = request.field_of_view_mm, request.centre_mm
    if side is None:
        if centre is None:
            centre, radius = (body.x_mm, body.z_mm), body.radius_mm
        else:
            radius = body.radius_mm + float(np.hypot(body.x_mm - centre[0], body.z_mm - centre[1]))
        digit = 10.0 ** (np.floor(np.log10(2 * radius * MARGIN)) - 2)
        side = float(np.ceil(2 * radius * MARGIN / digit) * digit)
    return Field(centre or (0.0, 0.0), side, request.matrix)


def native_column_mm(geometry: Geometry) -> float:
    """Width of a detector column at the isocentre, mm: sampling and aperture in the plane of rotation."""
    row_mm, column_mm = geometry.cell_mm
    return native_slice_mm(geometry) * column_mm / row_mm


def beyond(grid: Grid, reach_mm: float) -> Bool:
    """(rows, columns): True where a column of voxels lies outside the circle that the rays of every view cover.

    What an analytic method puts there is not the body: it is what the filter left beside the scan field.
    """
    rows, columns = np.arange(grid.shape[1]), np.arange(grid.shape[2])
    x = grid.first_voxel_mm[0] + columns * grid.spacing_mm[2]
    z = grid.first_voxel_mm[2] - rows * grid.spacing_mm[1]
    return np.asarray(np.hypot(z[:, None], x[None, :]) > reach_mm, np.bool_)


def scaled(values: Float32, outside: Bool, factor: float, less: float, air: float) -> Bool:
    """Make values·factor − less of a volume, in place, and `air` where it is NaN or `outside` (rows, columns); gives
    where it is neither. One pass: a volume is larger than any cache.
    """
    seen = np.empty(values.shape, np.bool_)
    _scale(values, outside, np.float32(factor), np.float32(less), np.float32(air), seen)
    return seen


@nb.njit(parallel=True, cache=True)
def _scale(values, outside, factor, less, air, seen):  # type: ignore[no-untyped-def]
    slices, rows, columns = values.shape
    for k in nb.prange(slices):
        for r in range(rows):
            for c in range(columns):
                value = values[k, r, c]
                here = value == value and not outside[r, c]
                seen[k, r, c] = here
                values[k, r, c] = value * factor - less if here else air


def native_slice_mm(geometry: Geometry) -> float:
    """Thinnest slice that the scan gives: the height of a detector row at the isocentre, mm."""
    row_mm = float(np.linalg.norm(geometry.v[0]))
    if geometry.parallel:
        return row_mm
    normal = np.cross(geometry.u, geometry.v)
    normal /= np.linalg.norm(normal, axis=1, keepdims=True)
    to_detector = float(np.einsum("vi,vi->v", geometry.source - geometry.detector, normal).mean())
    radius = float(np.hypot(geometry.source[:, 0], geometry.source[:, 2]).mean())
    return row_mm * radius / to_detector
