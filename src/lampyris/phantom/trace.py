"""Compiled shapes and one view's twelve numbers → mm of every material along each ray of that view.

A ray is o + t·e with o, e linear in the row index, so a column of cells shares almost all the work and the loop over
its rows runs in vector registers. A shape only visits the columns and rows that its bounding body can shade.
"""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numba as nb
import numpy as np
from numpy.typing import NDArray

from lampyris.model import Float32, Float64, Geometry
from lampyris.phantom.shapes import Bound, Primitive, Shape, Surface

SPHERE, CYLINDER, CONE, BLOB = (int(one) for one in Surface if one)
ELLIPSOID, BOX = int(Bound.ELLIPSOID), int(Bound.BOX)
FAR = 1e30
"""Larger than any parameter along a ray, small enough to be multiplied."""


class Table(NamedTuple):
    """Shapes flattened for the kernel: shape s owns primitives `first[s]:first[s + 1]`."""

    first: NDArray[np.int64]
    gains: NDArray[np.int64]
    loses: NDArray[np.int64]
    gain: Float64
    loss: Float64
    amplitude: Float64
    surface: NDArray[np.int64]
    matrix: Float64
    centre: Float64
    slope: Float64
    plane_first: NDArray[np.int64]
    planes: Float64
    reach: Float64
    bound: NDArray[np.int64]
    radius: Float64


class View(NamedTuple):
    """Where one view's source and detector stand; `bend_mm` is 0 for a flat detector."""

    source: Float64
    detector: Float64
    u: Float64
    v: Float64
    bend_mm: float
    parallel: bool


def table(shapes: Sequence[Shape], gains: Sequence[tuple[int, float]], loses: Sequence[tuple[int, float]]) -> Table:
    """Flatten shapes; `gains`, `loses`: index of the material that a shape adds and takes (−1: none), and how much."""
    solids = [shape.primitives() for shape in shapes]
    flat: list[Primitive] = [one for solid in solids for one in solid]
    planes = [one.planes for one in flat]
    return Table(
        first=np.cumsum([0, *map(len, solids)]),
        gains=np.array([index for index, _ in gains], np.int64),
        loses=np.array([index for index, _ in loses], np.int64),
        gain=np.array([amount for _, amount in gains], np.float64),
        loss=np.array([amount for _, amount in loses], np.float64),
        amplitude=np.array([float(getattr(shape, "amplitude", 1.0)) for shape in shapes]),
        surface=np.array([int(one.surface) for one in flat], np.int64),
        matrix=np.stack([one.matrix for one in flat]),
        centre=np.stack([one.centre_mm for one in flat]),
        slope=np.array([one.slope for one in flat]),
        plane_first=np.cumsum([0, *map(len, planes)]),
        planes=np.concatenate([*planes, np.zeros((1, 4))]),
        reach=np.stack([one.reach_mm for one in flat]),
        bound=np.array([int(one.bound) for one in flat], np.int64),
        radius=np.array([float(np.linalg.norm(one.reach_mm)) for one in flat]),
    )


@nb.njit(cache=True, inline="always")
def _dot(a: Any, b: Any) -> Any:
    return a[0] * b[0] + a[1] * b[1] + a[2] * b[2]


@nb.njit(cache=True, inline="always")
def _from(matrix: Any, i: int, point: Any, centre: Any) -> Any:
    """Coordinate i of A(p − c), without a temporary array."""
    a = matrix[i, 0] * (point[0] - centre[0])
    return a + matrix[i, 1] * (point[1] - centre[1]) + matrix[i, 2] * (point[2] - centre[2])


@nb.njit(cache=True)
def _cross(a: Any, b: Any) -> Any:
    return np.array([a[1] * b[2] - a[2] * b[1], a[2] * b[0] - a[0] * b[2], a[0] * b[1] - a[1] * b[0]])


@nb.njit(cache=True)
def _support(reach: Any, bound: Any, n: Any) -> Any:
    """Half-width along the unit vector `n` of a bounding body."""
    a, b, c = _dot(reach[0], n), _dot(reach[1], n), _dot(reach[2], n)
    if bound == ELLIPSOID:
        return math.sqrt(a * a + b * b + c * c)
    if bound == BOX:
        return abs(a) + abs(b) + abs(c)
    return math.sqrt(a * a + b * b) + abs(c)


@nb.njit(cache=True)
def _column_ray(view: Any, columns: int, column: int, origin: Any, ray: Any) -> None:
    """Origin and unnormalised direction of the (fictitious) middle row of one column."""
    c = column - (columns - 1) / 2
    pitch = math.sqrt(_dot(view.u, view.u))
    normal = _cross(view.v, view.u)
    normal /= math.sqrt(_dot(normal, normal))
    if view.bend_mm > 0.0:
        angle = c * pitch / view.bend_mm
        across, along = view.bend_mm * math.sin(angle) / pitch, view.bend_mm * (math.cos(angle) - 1.0)
    else:
        across, along = c, 0.0
    for i in range(3):
        cell = view.detector[i] + across * view.u[i] + along * normal[i]
        if view.parallel:
            origin[i], ray[i] = cell, view.detector[i] - view.source[i]
        else:
            origin[i], ray[i] = view.source[i], cell - view.source[i]


@nb.njit(cache=True, error_model="numpy", fastmath={"contract", "nsz", "arcp"})
def _cut_quadric(matrix: Any, centre: Any, flat: bool, line: Any, low: Any, high: Any) -> None:
    """Intersect low…high with a sphere, or a cylinder if `flat`; `line` is that of the rows of low and high."""
    origin, origin_step, ray, ray_step, middle = line
    third = 0.0 if flat else 1.0
    a0, a1, a2 = _from(matrix, 0, origin, centre), _from(matrix, 1, origin, centre), _from(matrix, 2, origin, centre)
    as0, as1, as2 = _dot(matrix[0], origin_step), _dot(matrix[1], origin_step), third * _dot(matrix[2], origin_step)
    b0, b1, b2 = _dot(matrix[0], ray), _dot(matrix[1], ray), third * _dot(matrix[2], ray)
    bs0, bs1, bs2 = _dot(matrix[0], ray_step), _dot(matrix[1], ray_step), third * _dot(matrix[2], ray_step)
    a2 *= third
    for row in range(len(low)):
        r = row - middle
        x, y, z = a0 + r * as0, a1 + r * as1, a2 + r * as2
        dx, dy, dz = b0 + r * bs0, b1 + r * bs1, b2 + r * bs2
        a = max(dx * dx + dy * dy + dz * dz, 1e-200)  # a ray along the axis: the roots go to ±1e100 or to none
        b = x * dx + y * dy + z * dz
        under = b * b - a * (x * x + y * y + z * z - 1.0)
        root, inverse = math.sqrt(max(under, 0.0)), 1.0 / a
        near, far = (-b - root) * inverse, (-b + root) * inverse
        low[row] = max(low[row], near if under > 0.0 else FAR)
        high[row] = min(high[row], far if under > 0.0 else -FAR)


@nb.njit(cache=True, error_model="numpy")
def _cut_cone(matrix: Any, centre: Any, k: float, line: Any, low: Any, high: Any) -> None:
    """Intersect low…high with the nappe of q₀² + q₁² ≤ (1 + k·q₂)² that the end caps enclose."""
    origin, origin_step, ray, ray_step, middle = line
    for row in range(len(low)):
        offset = origin + (row - middle) * origin_step - centre
        direction = ray + (row - middle) * ray_step
        x, y, base = _dot(matrix[0], offset), _dot(matrix[1], offset), 1.0 + k * _dot(matrix[2], offset)
        dx, dy, dz = _dot(matrix[0], direction), _dot(matrix[1], direction), k * _dot(matrix[2], direction)
        a, b, c = dx * dx + dy * dy - dz * dz, x * dx + y * dy - base * dz, x * x + y * y - base * base
        if abs(a) < 1e-200:
            a = 1e-200
        under = b * b - a * c
        if under <= 0.0:
            if a > 0.0:
                high[row] = -FAR
            continue
        total = -(b + math.copysign(math.sqrt(under), b))
        near, far = min(total / a, c / total), max(total / a, c / total)
        if a > 0.0:
            low[row], high[row] = max(low[row], near), min(high[row], far)
        elif dz > 0.0:  # steeper than the cone: it leaves this nappe only through a cap
            low[row] = max(low[row], far)
        else:
            high[row] = min(high[row], near)


@nb.njit(cache=True, error_model="numpy", fastmath={"contract", "nsz", "arcp"})
def _cut_plane(plane: Any, line: Any, low: Any, high: Any) -> None:
    """Intersect low…high with n·p ≤ d."""
    origin, origin_step, ray, ray_step, middle = line
    room0, room_step = plane[3] - _dot(plane, origin), -_dot(plane, origin_step)
    along0, along_step = _dot(plane, ray), _dot(plane, ray_step)
    for row in range(len(low)):
        r = row - middle
        along, room = along0 + r * along_step, room0 + r * room_step
        along = along if abs(along) > 1e-200 else 1e-200
        cut = min(max(room / along, -FAR), FAR)
        low[row] = max(low[row], cut if along < 0.0 else -FAR)
        high[row] = min(high[row], cut if along > 0.0 else FAR)


@nb.njit(cache=True, error_model="numpy")
def _add_blob(matrix: Any, centre: Any, amplitude: float, line: Any, length: Any, total: Any) -> None:
    """Add amplitude·√(2π)/|w|·exp(−½(|q|² − (q·w)²/|w|²)) per unit of t, times the length of e."""
    origin, origin_step, ray, ray_step, middle = line
    for row in range(len(total)):
        offset = origin + (row - middle) * origin_step - centre
        direction = ray + (row - middle) * ray_step
        qq, qw, ww = 0.0, 0.0, 0.0
        for i in range(3):
            q, w = _dot(matrix[i], offset), _dot(matrix[i], direction)
            qq, qw, ww = qq + q * q, qw + q * w, ww + w * w
        total[row] += amplitude * length[row] * math.sqrt(2.0 * math.pi / ww) * math.exp(-0.5 * (qq - qw * qw / ww))


@nb.njit(cache=True, error_model="numpy")
def _shaded_rows(shapes: Any, p: int, origin: Any, frame: Any, heights: Any, parallel: bool, rows: int) -> Any:
    """Rows [start, stop) of one column that the bounding body of primitive p can shade; (0, 0) if none.

    `frame` rows: unit horizontal ray, unit v, unit normal of the column's plane. `heights`: horizontal length of the
    ray, its component along v, |v|, the middle row.
    """
    centre, reach, bound = shapes.centre[p], shapes.reach[p], shapes.bound[p]
    x, y, z = centre[0] - origin[0], centre[1] - origin[1], centre[2] - origin[2]
    aside = abs(frame[2, 0] * x + frame[2, 1] * y + frame[2, 2] * z)
    if aside > _support(reach, bound, frame[2]):
        return 0, 0
    across = frame[0, 0] * x + frame[0, 1] * y + frame[0, 2] * z
    up = frame[1, 0] * x + frame[1, 1] * y + frame[1, 2] * z
    high = _support(reach, bound, frame[1])
    horizontal, rise, step, middle = heights
    if parallel:
        if abs(rise) > 1e-9 * horizontal:
            return 0, rows
        low_row, high_row = (up - high) / step, (up + high) / step
    else:
        deep = _support(reach, bound, frame[0])
        if across - deep <= 0.0:
            return 0, rows
        top, bottom = up + high, up - high
        slope_high = top / (across - deep if top > 0 else across + deep)
        slope_low = bottom / (across - deep if bottom < 0 else across + deep)
        low_row, high_row = (slope_low * horizontal - rise) / step, (slope_high * horizontal - rise) / step
    start = max(0.0, math.floor(low_row + middle))
    stop = min(float(rows), math.ceil(high_row + middle) + 1.0)
    return (0, 0) if stop <= start else (int(start), int(stop))


@nb.njit(cache=True)
def _add_shape(shapes: Any, s: int, line: Any, parallel: bool, work: Any, amounts: Any) -> None:
    """Add one shape's chords to `amounts` (materials, rows); `work` is low, high and ray length (3, rows)."""
    low, high, length = work[0], work[1], work[2]
    p = shapes.first[s]
    if shapes.surface[p] == BLOB:
        low[:] = 0.0
        _add_blob(shapes.matrix[p], shapes.centre[p], shapes.amplitude[s], line, length, low)
    else:
        low[:] = -FAR if parallel else 0.0
        high[:] = FAR if parallel else 1.0
        for p in range(shapes.first[s], shapes.first[s + 1]):
            surface = shapes.surface[p]
            if surface == CONE:
                _cut_cone(shapes.matrix[p], shapes.centre[p], shapes.slope[p], line, low, high)
            elif surface in (SPHERE, CYLINDER):
                _cut_quadric(shapes.matrix[p], shapes.centre[p], surface == CYLINDER, line, low, high)
            for k in range(shapes.plane_first[p], shapes.plane_first[p + 1]):
                _cut_plane(shapes.planes[k], line, low, high)
        for row in range(len(low)):
            low[row] = max(high[row] - low[row], 0.0) * length[row]
    _accumulate(amounts[shapes.gains[s]], shapes.gain[s], low)
    if shapes.loses[s] >= 0:
        _accumulate(amounts[shapes.loses[s]], -shapes.loss[s], low)


@nb.njit(cache=True, fastmath={"contract"})
def _accumulate(total: Any, weight: float, added: Any) -> None:
    for row in range(len(total)):
        total[row] += weight * added[row]


@nb.njit(cache=True)
def _candidates(shapes: Any, view: Any, columns: int, half_rows: float) -> Any:
    """Shapes that the view's rows can meet at all: most of a long body lies outside a multi-row detector."""
    n = len(shapes.gains)
    kept = np.empty(n, np.int64)
    count = 0
    step = math.sqrt(_dot(view.v, view.v))
    up = view.v / step
    origin, ray = np.empty(3), np.empty(3)
    lowest, highest = FAR, -FAR
    for column in range(columns):
        _column_ray(view, columns, column, origin, ray)
        rise = _dot(ray, up)
        horizontal = math.sqrt(max(_dot(ray, ray) - rise * rise, 1e-30))
        lowest = min(lowest, (rise - half_rows * step) / horizontal)
        highest = max(highest, (rise + half_rows * step) / horizontal)
    for s in range(n):
        p = shapes.first[s]
        offset = shapes.centre[p] - view.source
        height = _dot(offset, up)
        across = math.sqrt(max(_dot(offset, offset) - height * height, 0.0))
        radius, tall = shapes.radius[p], _support(shapes.reach[p], shapes.bound[p], up)
        if not view.parallel and across > radius:
            top, bottom = height + tall, height - tall
            over = bottom / (across - radius if bottom < 0 else across + radius) > highest
            under = top / (across - radius if top > 0 else across + radius) < lowest
            if over or under:
                continue
        kept[count] = s
        count += 1
    return kept[:count]


@nb.njit(cache=True, nogil=True)
def trace_view(shapes: Any, view: Any, out: Any) -> None:
    """Fill `out` (materials, rows, columns) float32 with mm of each material: signed sums over the shapes."""
    materials, rows, columns = out.shape
    middle = (rows - 1) / 2
    step = math.sqrt(_dot(view.v, view.v))
    up, still = view.v / step, np.zeros(3)
    kept = _candidates(shapes, view, columns, rows / 2)
    middles, radii = shapes.centre[shapes.first[kept]], shapes.radius[shapes.first[kept]]
    amounts, work = np.empty((materials, rows)), np.empty((3, rows))
    origin, ray, frame = np.empty(3), np.empty(3), np.empty((3, 3))
    for column in range(columns):
        _column_ray(view, columns, column, origin, ray)
        line = (origin, view.v, ray, still, middle) if view.parallel else (origin, still, ray, view.v, middle)
        rise = _dot(ray, up)
        level = ray - rise * up
        horizontal = math.sqrt(_dot(level, level))
        frame[0], frame[1] = level / horizontal, up
        frame[2] = _cross(frame[0], up)
        for row in range(rows):
            lift = rise if view.parallel else rise + (row - middle) * step
            work[2, row] = math.sqrt(horizontal * horizontal + lift * lift)
        amounts[:] = 0.0
        heights = (horizontal, rise, step, middle)
        nx, ny, nz = frame[2]
        for k in range(len(kept)):
            aside = (
                nx * (middles[k, 0] - origin[0]) + ny * (middles[k, 1] - origin[1]) + nz * (middles[k, 2] - origin[2])
            )
            if abs(aside) > radii[k]:
                continue
            s = kept[k]
            start, stop = _shaded_rows(shapes, shapes.first[s], origin, frame, heights, view.parallel, rows)
            if stop > start:
                part = (line[0], line[1], line[2], line[3], middle - start)
                _add_shape(shapes, s, part, view.parallel, work[:, start:stop], amounts[:, start:stop])
        for m in range(materials):
            for row in range(rows):
                out[m, row, column] = amounts[m, row]


@nb.njit(cache=True, parallel=True)
def _trace_on_all_threads(shapes: Any, views: Any, bend_mm: float, parallel: bool, out: Any) -> None:
    for i in nb.prange(out.shape[1]):
        view = View(views[0][i], views[1][i], views[2][i], views[3][i], bend_mm, parallel)
        trace_view(shapes, view, out[:, i])


@nb.njit(cache=True, nogil=True)
def _trace_on_this_thread(shapes: Any, views: Any, bend_mm: float, parallel: bool, out: Any) -> None:
    for i in range(out.shape[1]):
        view = View(views[0][i], views[1][i], views[2][i], views[3][i], bend_mm, parallel)
        trace_view(shapes, view, out[:, i])


def trace(shapes: Table, geometry: Geometry, materials: int, *, one_thread: bool = False) -> Float32:
    """(materials, views, rows, columns) float32 mm for every view; with `one_thread`, callers may be several."""
    out = np.empty((materials, *geometry.shape), np.float32)
    views = (geometry.source, geometry.detector, geometry.u, geometry.v)
    bend = 0.0 if geometry.curvature_mm is None else float(geometry.curvature_mm)
    walk = _trace_on_this_thread if one_thread else _trace_on_all_threads
    walk(shapes, views, bend, geometry.parallel, out)
    return out
