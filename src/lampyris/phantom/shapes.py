"""Dimensions in mm → solid shapes and soft blobs that know what lies in them and how far a line runs through them.

Every solid is convex: a sphere, cylinder or cone seen through an affine map q = A(p − c), cut by half-spaces
n·p ≤ d. A line meets it in one interval, so its chord is closed-form; a blob's integral is a Gaussian of the distance.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from enum import IntEnum
from typing import Protocol, TypeAlias

import numpy as np

from lampyris.model import Bool, Float64, InputError

Vector: TypeAlias = Sequence[float]

Y_AXIS = (0.0, 1.0, 0.0)
BLOB_REACH = 8.0
"""Standard deviations beyond which a blob counts as zero: exp(−32) = 1.3e−14."""


class Surface(IntEnum):
    """What bounds a primitive before its half-spaces cut it, in q coordinates."""

    NONE = 0
    SPHERE = 1
    CYLINDER = 2
    CONE = 3
    BLOB = 4


class Bound(IntEnum):
    """Form of the body that bounds a primitive: the axis of the cylinder is the third semi-axis."""

    CYLINDER = 0
    ELLIPSOID = 1
    BOX = 2


@dataclass(frozen=True, slots=True, eq=False)
class Primitive:
    """The form that is computed with.

    `matrix` (3, 3) and `centre_mm` (3,) give q = A(p − c); SPHERE |q|² ≤ 1, CYLINDER q₀² + q₁² ≤ 1,
    CONE q₀² + q₁² ≤ (1 + slope·q₂)², BLOB exp(−|q|²/2). `planes` (n, 4) are (nx, ny, nz, d) with n·p ≤ d.
    `reach_mm` (3, 3): semi-axes of a bounding body about `centre_mm`, whose form is `bound`.
    """

    surface: Surface
    matrix: Float64
    centre_mm: Float64
    slope: float
    planes: Float64
    reach_mm: Float64
    bound: Bound


class Shape(Protocol):
    """Anything that can be part of a phantom."""

    def primitives(self) -> tuple[Primitive, ...]:
        """Convex bodies whose intersection is the shape."""
        ...

    def contains(self, points_mm: Float64) -> Bool: ...
    def density(self, points_mm: Float64) -> Float64: ...
    def chord_mm(self, origins_mm: Float64, directions: Float64) -> Float64: ...


class _Solid:
    """What every shape can do once it is written as an intersection of primitives."""

    __slots__ = ()

    def primitives(self) -> tuple[Primitive, ...]:
        raise NotImplementedError

    def contains(self, points_mm: Float64) -> Bool:
        """Which points (…, 3) lie inside, the surface included."""
        inside = np.ones(np.shape(points_mm)[:-1], np.bool_)
        for one in self.primitives():
            inside &= _inside(one, np.asarray(points_mm, np.float64))
        return inside

    def density(self, points_mm: Float64) -> Float64:
        """1 inside and 0 outside; the amplitude of a blob, at points (…, 3)."""
        return self.contains(points_mm).astype(np.float64)

    def chord_mm(self, origins_mm: Float64, directions: Float64) -> Float64:
        """Integral of `density` in mm along the whole lines through `origins_mm` (…, 3) along unit `directions`."""
        first, last = interval(self.primitives(), origins_mm, directions)
        return np.asarray(np.maximum(last - first, 0.0), np.float64)

    def clipped(self, *by: "HalfSpace | Shape") -> "Clipped":
        """The part of this shape that lies in all of the given half-spaces and convex shapes."""
        return Clipped(self, by)


@dataclass(frozen=True, slots=True)
class HalfSpace:
    """The points p with (p − point)·outward ≤ 0; it only cuts other shapes."""

    point_mm: Vector
    outward: Vector

    def plane(self) -> Float64:
        normal = _unit(self.outward, "outward")
        return np.append(normal, normal @ np.asarray(self.point_mm, np.float64))


@dataclass(frozen=True, slots=True)
class Ellipsoid(_Solid):
    """Centre, three semi-axes and the directions of the first two (the third is their cross product)."""

    centre_mm: Vector
    semi_axes_mm: Vector
    first: Vector = (1.0, 0.0, 0.0)
    second: Vector = Y_AXIS

    def primitives(self) -> tuple[Primitive, ...]:
        axes = _frame(self.first, self.second)
        reach = _sizes(self.semi_axes_mm, "semi-axes")[:, None] * axes
        return (_quadric(Surface.SPHERE, self.centre_mm, axes, self.semi_axes_mm, reach),)


@dataclass(frozen=True, slots=True)
class Cylinder(_Solid):
    """A finite cylinder about any axis; `radii_mm` are the elliptic semi-axes, the first along `first`.

    `first` need only be roughly perpendicular to the axis. The end caps are perpendicular to the axis; for oblique
    ends make it longer and clip it.
    """

    centre_mm: Vector
    radii_mm: Vector
    length_mm: float
    axis: Vector = Y_AXIS
    first: Vector | None = None

    def primitives(self) -> tuple[Primitive, ...]:
        axes = _about(self.axis, self.first)
        sizes = _sizes((*self.radii_mm, self.length_mm / 2), "radii and length")
        ends = _caps(self.centre_mm, axes[2], self.length_mm)
        return (_quadric(Surface.CYLINDER, self.centre_mm, axes, sizes, sizes[:, None] * axes, ends),)


@dataclass(frozen=True, slots=True)
class Cone(_Solid):
    """A frustum: circular radius `first_radius_mm` at `first_mm`, `last_radius_mm` at `last_mm` (either may be 0)."""

    first_mm: Vector
    last_mm: Vector
    first_radius_mm: float
    last_radius_mm: float

    def primitives(self) -> tuple[Primitive, ...]:
        ends = np.asarray([self.first_mm, self.last_mm], np.float64)
        radii = np.array([self.first_radius_mm, self.last_radius_mm], np.float64)
        length = float(np.linalg.norm(ends[1] - ends[0]))
        if length <= 0 or radii.min() < 0 or radii.max() <= 0:
            raise InputError(
                f"cone of length {length} mm and radii {radii.tolist()} mm: expected > 0, one radius may be 0"
            )
        axes = _about(ends[1] - ends[0], None)
        mean = radii.mean()
        sizes = np.array([mean, mean, length / 2])
        reach = np.array([radii.max(), radii.max(), length / 2])[:, None] * axes
        slope = float((radii[1] - radii[0]) / 2 / mean)
        caps = _caps(ends.mean(0), axes[2], length)
        return (_quadric(Surface.CONE, ends.mean(0), axes, sizes, reach, caps, slope),)


@dataclass(frozen=True, slots=True)
class Box(_Solid):
    """A cuboid of full edge lengths `size_mm`, turned so that they lie along `first`, `second` and their product."""

    centre_mm: Vector
    size_mm: Vector
    first: Vector = (1.0, 0.0, 0.0)
    second: Vector = Y_AXIS

    def primitives(self) -> tuple[Primitive, ...]:
        axes = _frame(self.first, self.second)
        half = _sizes(self.size_mm, "size") / 2
        planes = np.concatenate([_caps(self.centre_mm, axis, 2 * each) for axis, each in zip(axes, half, strict=True)])
        reach = half[:, None] * axes
        return (_quadric(Surface.NONE, self.centre_mm, axes, half, reach, planes),)


@dataclass(frozen=True, slots=True)
class Gaussian(_Solid):
    """A soft blob: density amplitude·exp(−½ Σ (qᵢ/σᵢ)²), its integral over all space amplitude·(2π)^1.5·σ₁σ₂σ₃.

    It adds `amplitude` of its material at its centre; it has no surface and cannot be clipped.
    """

    centre_mm: Vector
    sigma_mm: Vector
    amplitude: float = 1.0
    first: Vector = (1.0, 0.0, 0.0)
    second: Vector = Y_AXIS

    def primitives(self) -> tuple[Primitive, ...]:
        axes = _frame(self.first, self.second)
        reach = BLOB_REACH * _sizes(self.sigma_mm, "sigma")[:, None] * axes
        return (_quadric(Surface.BLOB, self.centre_mm, axes, self.sigma_mm, reach),)

    def contains(self, points_mm: Float64) -> Bool:
        """Points (…, 3) within one standard deviation."""
        return self._squared(points_mm) <= 1

    def density(self, points_mm: Float64) -> Float64:
        return np.asarray(self.amplitude * np.exp(-0.5 * self._squared(points_mm)), np.float64)

    def chord_mm(self, origins_mm: Float64, directions: Float64) -> Float64:
        """amplitude·√(2π)/|w|·exp(−½(|q|² − (q·w)²/|w|²)) with w = A·direction, q = A(origin − centre)."""
        one = self.primitives()[0]
        w = np.asarray(directions, np.float64) @ one.matrix.T
        q = (np.asarray(origins_mm, np.float64) - one.centre_mm) @ one.matrix.T
        ww, qw = (w * w).sum(-1), (q * w).sum(-1)
        nearest = (q * q).sum(-1) - qw * qw / ww
        return np.asarray(self.amplitude * np.sqrt(2 * np.pi / ww) * np.exp(-0.5 * nearest), np.float64)

    def _squared(self, points_mm: Float64) -> Float64:
        one = self.primitives()[0]
        q = (np.asarray(points_mm, np.float64) - one.centre_mm) @ one.matrix.T
        return np.asarray((q * q).sum(-1), np.float64)


@dataclass(frozen=True, slots=True)
class Clipped(_Solid):
    """The intersection of a solid with half-spaces and other solids."""

    shape: Shape
    by: tuple["HalfSpace | Shape", ...] = field(default=())

    def primitives(self) -> tuple[Primitive, ...]:
        found = list(self.shape.primitives())
        for one in self.by:
            if not isinstance(one, HalfSpace):
                found.extend(one.primitives())
        if any(one.surface == Surface.BLOB for one in found):
            raise InputError("a Gaussian blob has no surface and cannot be clipped")
        planes = [one.plane()[None] for one in self.by if isinstance(one, HalfSpace)]
        base = found[0]
        cut = np.concatenate([base.planes, *planes])
        found[0] = replace(base, planes=cut)
        return tuple(found)


def interval(primitives: tuple[Primitive, ...], origins_mm: Float64, directions: Float64) -> tuple[Float64, Float64]:
    """First and last mm along the lines origin + t·direction inside all primitives; first > last when they miss."""
    origins, ways = np.broadcast_arrays(np.asarray(origins_mm, np.float64), np.asarray(directions, np.float64))
    first, last = np.full(origins.shape[:-1], -np.inf), np.full(origins.shape[:-1], np.inf)
    for one in primitives:
        low, high = _interval(one, origins, ways)
        first, last = np.maximum(first, low), np.minimum(last, high)
    return first, last


def support_mm(one: Primitive, direction: Float64) -> float:
    """Half-width of a primitive's bounding body along a unit vector."""
    along = one.reach_mm @ direction
    if one.bound == Bound.ELLIPSOID:
        return float(np.linalg.norm(along))
    if one.bound == Bound.BOX:
        return float(np.abs(along).sum())
    return float(np.hypot(along[0], along[1]) + abs(along[2]))


def _quadric(
    surface: Surface,
    centre_mm: Vector | Float64,
    axes: Float64,
    sizes: Vector | Float64,
    reach: Float64,
    planes: Float64 | None = None,
    slope: float = 0.0,
) -> Primitive:
    centre = np.asarray(centre_mm, np.float64)
    if centre.shape != (3,) or not np.isfinite(centre).all():
        raise InputError(f"centre {centre.tolist()} is not a point (x, y, z) in mm")
    matrix = axes / _sizes(sizes, "sizes")[:, None]
    cut = np.zeros((0, 4)) if planes is None else planes
    bounds = {Surface.SPHERE: Bound.ELLIPSOID, Surface.BLOB: Bound.ELLIPSOID, Surface.NONE: Bound.BOX}
    return Primitive(surface, matrix, centre, slope, cut, reach, bounds.get(surface, Bound.CYLINDER))


def _inside(one: Primitive, points: Float64) -> Bool:
    q = (points - one.centre_mm) @ one.matrix.T
    inside = np.ones(points.shape[:-1], np.bool_)
    if one.surface == Surface.SPHERE:
        inside = (q * q).sum(-1) <= 1
    elif one.surface in (Surface.CYLINDER, Surface.CONE):
        inside = (q[..., :2] ** 2).sum(-1) <= (1 + one.slope * q[..., 2]) ** 2
    for plane in one.planes:
        inside = inside & (points @ plane[:3] <= plane[3])
    return np.asarray(inside, np.bool_)


def _interval(one: Primitive, origins: Float64, directions: Float64) -> tuple[Float64, Float64]:
    """First and last parameter of the line inside a solid primitive; first > last when it misses."""
    q = (origins - one.centre_mm) @ one.matrix.T
    w = directions @ one.matrix.T
    low, high = np.full(q.shape[:-1], -np.inf), np.full(q.shape[:-1], np.inf)
    if one.surface in (Surface.SPHERE, Surface.CYLINDER, Surface.CONE):
        low, high = _roots(one, q, w)
    with np.errstate(divide="ignore", invalid="ignore"):
        for plane in one.planes:
            along, room = directions @ plane[:3], plane[3] - origins @ plane[:3]
            cut = room / along
            high = np.where(along > 0, np.minimum(high, cut), high)
            low = np.where(along < 0, np.maximum(low, cut), low)
            high = np.where((along == 0) & (room < 0), -np.inf, high)
    return low, high


def _roots(one: Primitive, q: Float64, w: Float64) -> tuple[Float64, Float64]:
    if one.surface == Surface.SPHERE:
        a, b, c = (w * w).sum(-1), (q * w).sum(-1), (q * q).sum(-1) - 1
    else:
        k, base = one.slope, 1 + one.slope * q[..., 2]
        a = w[..., 0] ** 2 + w[..., 1] ** 2 - (k * w[..., 2]) ** 2
        b = q[..., 0] * w[..., 0] + q[..., 1] * w[..., 1] - k * w[..., 2] * base
        c = q[..., 0] ** 2 + q[..., 1] ** 2 - base**2
    with np.errstate(divide="ignore", invalid="ignore"):
        root = np.sqrt(np.maximum(b * b - a * c, 0.0))
        sum_ = -(b + np.copysign(root, b))
        one_, two = sum_ / a, c / sum_
        low, high = np.minimum(one_, two), np.maximum(one_, two)
        rising = one.slope * w[..., 2] > 0  # a line steeper than the cone leaves it only through an end cap
        low, high = np.where((a < 0) & rising, high, low), np.where(a < 0, np.where(rising, np.inf, low), high)
    miss = (a > 0) & (b * b <= a * c)
    straight = (a == 0) & (b == 0)
    low = np.where(straight, np.where(c <= 0, -np.inf, np.inf), np.where((a < 0) & ~rising, -np.inf, low))
    high = np.where(straight, np.where(c <= 0, np.inf, -np.inf), high)
    return np.where(miss, np.inf, low), np.where(miss, -np.inf, high)


def _caps(centre: Vector | Float64, axis: Float64, length: float) -> Float64:
    middle = float(axis @ np.asarray(centre, np.float64))
    return np.stack([np.append(axis, middle + length / 2), np.append(-axis, length / 2 - middle)])


def _sizes(sizes: Vector | Float64, name: str) -> Float64:
    array = np.asarray(sizes, np.float64)
    if array.shape != (3,) or not np.isfinite(array).all() or array.min() <= 0:
        raise InputError(f"{name} {array.tolist()} mm of a shape: expected finite numbers > 0")
    return array


def _unit(vector: Vector | Float64, name: str) -> Float64:
    array = np.asarray(vector, np.float64)
    length = float(np.linalg.norm(array)) if array.shape == (3,) else 0.0
    if not np.isfinite(length) or length <= 0:
        raise InputError(f"{name} {array.tolist()} is no direction: expected three numbers, not all zero")
    return np.asarray(array / length, np.float64)


def _frame(first: Vector, second: Vector) -> Float64:
    """Rows: unit first, unit second, their cross product. Raises when they are not perpendicular."""
    one, two = _unit(first, "first axis"), _unit(second, "second axis")
    if abs(one @ two) > 1e-6:
        raise InputError(f"axes {list(first)} and {list(second)} are not perpendicular")
    return np.stack([one, two, np.cross(one, two)])


def _about(axis: Vector | Float64, first: Vector | None) -> Float64:
    """Rows: two directions perpendicular to the axis, the first nearest to `first`, and the axis."""
    along = _unit(axis, "axis")
    hint = np.eye(3)[int(np.abs(along).argmin())] if first is None else _unit(first, "first axis")
    across = _unit(hint - (hint @ along) * along, "first axis, made perpendicular to the axis,")
    return np.stack([across, np.cross(along, across), along])
