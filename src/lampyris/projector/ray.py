"""One voxel column and one view → its footprint on the detector: the mathematics, once, for every engine.

Everything is written in the axes of the grid: `a` along its slices (and, by the plan's check, along the detector
rows' normal v), `r` and `c` along its rows and columns, mm from the centre of voxel [0, 0, 0]. The separable footprint
of a voxel is a trapezoid across the detector columns times a box across its rows (Long, Fessler, Balter 2010, IEEE
TMI 29:1839, SF-TR), both averaged over the detector cell. Detector coordinates are *edge* coordinates: cell i covers
[i, i + 1]. The functions are plain Python and compile under Numba.
"""

import math
from collections.abc import Callable
from typing import NamedTuple, TypeVar

from numba.extending import register_jitable

Function = TypeVar("Function", bound=Callable[..., object])
compilable: Callable[[Function], Function] = register_jitable
"""The function stays plain Python, and compiled code may call it."""

PARALLEL, FLAT, CURVED = 0, 1, 2
"""Kinds of ray bundle: parallel on a flat detector, from a point on a flat detector, from a point on an arc."""


class View(NamedTuple):
    """One view in the axes of the grid, mm; parallel rays have their origin in the detector's middle."""

    source_a: float
    source_r: float
    source_c: float
    normal_r: float
    """Unit vector away from the source, perpendicular to the detector."""
    normal_c: float
    across_r: float
    """Unit vector along u."""
    across_c: float
    distance: float
    """Flat: from source to detector plane; curved: radius of the arc."""
    arc_depth: float
    """Source minus centre of the arc, along the normal and across."""
    arc_across: float
    central_column: float
    """Column coordinate under offset 0 across."""
    columns_per_unit: float
    """Columns per mm across; on an arc, per rad."""
    central_row: float
    """Row coordinate of the source's height; parallel rays: of a = 0."""
    rows_per_mm: float
    across_slope: float
    """Parallel rays: how far they go across and along the axis for 1 mm of depth."""
    axial_slope: float
    parallel_obliquity: float
    ray_r: float
    ray_c: float


@compilable
def magnification(kind: int, view: View, r: float, c: float) -> float:
    """λ of the line (r, c) parallel to the slices' axis: its in-plane ray from the source s lands at s + λ((r, c) − s).

    On a plane at distance D, λ = D/((p − s)·n). On an arc of radius ρ whose centre lies at s − o (o ≠ 0 for a flying
    focal spot), λ is the positive root of |o + λ(p − s)| = ρ. Parallel rays are not magnified.
    """
    if kind == PARALLEL:
        return 1.0
    depth, across = _in_view(view, r, c)
    if kind == FLAT:
        return view.distance / depth
    along = view.arc_depth * depth + view.arc_across * across
    square = depth * depth + across * across
    reach = view.distance * view.distance - view.arc_depth * view.arc_depth - view.arc_across * view.arc_across
    return (math.sqrt(along * along + square * reach) - along) / square


@compilable
def column(kind: int, view: View, magnified: float, r: float, c: float) -> float:
    """Column coordinate where the line (r, c) of this magnification lands; on an arc, the angle about its centre."""
    depth, across = _in_view(view, r, c)
    if kind == PARALLEL:
        offset = across - depth * view.across_slope
    elif kind == FLAT:
        offset = across * magnified
    else:
        offset = arc_angle(view.arc_across + magnified * across, view.arc_depth + magnified * depth, view.distance)
    return view.central_column + offset * view.columns_per_unit


@compilable
def axial(kind: int, view: View, magnified: float, r: float, c: float) -> tuple[float, float]:
    """(row of a = 0, rows per mm of a): where the height a above the first slice's centre falls on the detector rows.

    Linear in a with a constant step for the whole voxel column, because rows are parallel to the slices' axis.
    """
    slope = magnified * view.rows_per_mm
    if kind == PARALLEL:
        depth, _ = _in_view(view, r, c)
        return view.central_row - depth * view.axial_slope * view.rows_per_mm, slope
    return view.central_row - view.source_a * slope, slope


@compilable
def chord(kind: int, view: View, r: float, c: float, height: float, width: float) -> float:
    """In-plane length, mm, of the ray through the middle of a voxel of `height` × `width` mm (along r and c).

    Long et al., eq. (33) for square voxels: Δ/max(|cos φ|, |sin φ|).
    """
    if kind == PARALLEL:
        along_r, along_c, norm = view.ray_r, view.ray_c, 1.0
    else:
        along_r, along_c = r - view.source_r, c - view.source_c
        norm = math.sqrt(along_r * along_r + along_c * along_c)
    return norm * height * width / max(abs(along_r) * width, abs(along_c) * height)


@compilable
def arc_angle(y: float, x: float, radius: float) -> float:
    """atan2(y, x) of a point on the circle of that radius, to 10⁻¹⁰ rad for angles up to 90°.

    Twice the half-angle formula tan(γ/2) = sin γ/(1 + cos γ), then atan's power series, whose argument is at most
    tan 22.5°: unlike math.atan2 it compiles to a few vector instructions.
    """
    half = y / (radius + x)
    t = half / (1.0 + math.sqrt(1.0 + half * half))
    s = t * t
    series = 1 / 17 - s * (1 / 19 - s * (1 / 21 - s / 23))
    series = 1 / 9 - s * (1 / 11 - s * (1 / 13 - s * (1 / 15 - s * series)))
    return 4.0 * t * (1.0 - s * (1 / 3 - s * (1 / 5 - s * (1 / 7 - s * series))))


@compilable
def ground(kind: int, view: View, at_column: float) -> float:
    """Transaxial length, mm, of the rays to the column coordinate `at_column` (parallel rays: infinite)."""
    if kind == PARALLEL:
        return math.inf
    offset = (at_column - view.central_column) / view.columns_per_unit
    if kind == FLAT:
        return math.sqrt(view.distance * view.distance + offset * offset)
    depth = view.distance * math.cos(offset) - view.arc_depth
    across = view.distance * math.sin(offset) - view.arc_across
    return math.sqrt(depth * depth + across * across)


@compilable
def obliquity(kind: int, view: View, at_row: float, length: float) -> float:
    """1/cos θ of a ray of that `ground` length to the row coordinate `at_row`; θ is its angle to the ground."""
    if kind == PARALLEL:
        return view.parallel_obliquity
    rise = (at_row - view.central_row) / (view.rows_per_mm * length)
    return math.sqrt(1.0 + rise * rise)


@compilable
def ascending(p: float, q: float, s: float, t: float) -> tuple[float, float, float, float]:
    """Four numbers in ascending order: the corners of a voxel's shadow."""
    p, q = min(p, q), max(p, q)
    s, t = min(s, t), max(s, t)
    p, s = min(p, s), max(p, s)
    q, t = min(q, t), max(q, t)
    q, s = min(q, s), max(q, s)
    return p, q, s, t


@compilable
def trapezoid_below(x: float, corners: tuple[float, float, float, float]) -> float:
    """Area, below x, of the trapezoid of height 1 that rises over corners 0–1, is flat to 2 and falls to 3."""
    rise = max(corners[1] - corners[0], 1e-12)
    fall = max(corners[3] - corners[2], 1e-12)
    up = min(max(x - corners[0], 0.0), rise)
    flat = min(max(x - corners[1], 0.0), corners[2] - corners[1])
    down = min(max(x - corners[2], 0.0), fall)
    return 0.5 * up * up / rise + flat + down * (1.0 - 0.5 * down / fall)


@compilable
def _in_view(view: View, r: float, c: float) -> tuple[float, float]:
    """Depth towards the detector and offset along u, mm, from the view's origin (source, or detector if parallel)."""
    r, c = r - view.source_r, c - view.source_c
    return r * view.normal_r + c * view.normal_c, r * view.across_r + c * view.across_c
