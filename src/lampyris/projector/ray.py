"""One voxel column and one view → its footprint on the detector: the mathematics, once, for every engine.

Everything is written in the axes of the grid: `a` along its slices (and, by the plan's check, along the detector
rows' normal v), `r` and `c` along its rows and columns, mm from the centre of voxel [0, 0, 0]. The separable footprint
of a voxel is a trapezoid across the detector columns times a box across its rows (Long, Fessler, Balter 2010, IEEE
TMI 29:1839, SF-TR), both averaged over the detector cell. Detector coordinates are *edge* coordinates: cell i covers
[i, i + 1]. The functions are plain Python and compile under Numba; `view` is one record of `plan.VIEW`.
"""

import math
from typing import Any

from numba.extending import register_jitable

PARALLEL, FLAT, CURVED = 0, 1, 2
"""Kinds of ray bundle: parallel on a flat detector, from a point on a flat detector, from a point on an arc."""


@register_jitable
def magnification(kind: int, view: Any, r: float, c: float) -> float:
    """λ of the line (r, c) parallel to the slices' axis: its in-plane ray from the source s lands at s + λ((r, c) − s).

    On a plane at distance D, λ = D/((p − s)·n). On an arc of radius ρ whose centre lies at s − o (o ≠ 0 for a flying
    focal spot), λ is the positive root of |o + λ(p − s)| = ρ. Parallel rays are not magnified.
    """
    if kind == PARALLEL:
        return 1.0
    depth, across = _in_view(view, r, c)
    if kind == FLAT:
        return float(view.distance / depth)
    along = view.arc_depth * depth + view.arc_across * across
    square = depth * depth + across * across
    reach = view.distance * view.distance - view.arc_depth * view.arc_depth - view.arc_across * view.arc_across
    return float((math.sqrt(along * along + square * reach) - along) / square)


@register_jitable
def column(kind: int, view: Any, magnified: float, r: float, c: float) -> float:
    """Column coordinate where the line (r, c) of this magnification lands; on an arc, the angle about its centre."""
    depth, across = _in_view(view, r, c)
    if kind == PARALLEL:
        offset = across - depth * view.across_slope
    elif kind == FLAT:
        offset = across * magnified
    else:
        offset = math.atan2(view.arc_across + magnified * across, view.arc_depth + magnified * depth)
    return float(view.central_column + offset * view.columns_per_unit)


@register_jitable
def axial(kind: int, view: Any, magnified: float, r: float, c: float) -> tuple[float, float]:
    """(row of a = 0, rows per mm of a): where the height a above the first slice's centre falls on the detector rows.

    Linear in a with a constant step for the whole voxel column, because rows are parallel to the slices' axis.
    """
    slope = magnified * view.rows_per_mm
    if kind == PARALLEL:
        depth, _ = _in_view(view, r, c)
        return view.central_row - depth * view.axial_slope * view.rows_per_mm, slope
    return view.central_row - view.source_a * slope, slope


@register_jitable
def chord(kind: int, view: Any, r: float, c: float, height: float, width: float) -> float:
    """In-plane length, mm, of the ray through the middle of a voxel of `height` × `width` mm (along r and c).

    Long et al., eq. (33) for square voxels: Δ/max(|cos φ|, |sin φ|).
    """
    if kind == PARALLEL:
        along_r, along_c, norm = view.ray_r, view.ray_c, 1.0
    else:
        along_r, along_c = r - view.source_r, c - view.source_c
        norm = math.sqrt(along_r * along_r + along_c * along_c)
    return float(norm * height * width / max(abs(along_r) * width, abs(along_c) * height))


@register_jitable
def obliquity(kind: int, view: Any, at_row: float, at_column: float) -> float:
    """1/cos θ of the ray to the edge coordinates (at_row, at_column), where θ is its angle to the transaxial plane."""
    if kind == PARALLEL:
        return float(view.parallel_obliquity)
    offset = (at_column - view.central_column) / view.columns_per_unit
    if kind == FLAT:
        depth, across = view.distance, offset
    else:
        depth = view.distance * math.cos(offset) - view.arc_depth
        across = view.distance * math.sin(offset) - view.arc_across
    rise = (at_row - view.central_row) / view.rows_per_mm
    return math.sqrt(1.0 + rise * rise / (depth * depth + across * across))


@register_jitable
def ascending(p: float, q: float, s: float, t: float) -> tuple[float, float, float, float]:
    """Four numbers in ascending order: the corners of a voxel's shadow."""
    p, q = min(p, q), max(p, q)
    s, t = min(s, t), max(s, t)
    p, s = min(p, s), max(p, s)
    q, t = min(q, t), max(q, t)
    q, s = min(q, s), max(q, s)
    return p, q, s, t


@register_jitable
def trapezoid_below(x: float, corners: tuple[float, float, float, float]) -> float:
    """Area, below x, of the trapezoid of height 1 that rises over corners 0–1, is flat to 2 and falls to 3."""
    rise = max(corners[1] - corners[0], 1e-12)
    fall = max(corners[3] - corners[2], 1e-12)
    up = min(max(x - corners[0], 0.0), rise)
    flat = min(max(x - corners[1], 0.0), corners[2] - corners[1])
    down = min(max(x - corners[2], 0.0), fall)
    return 0.5 * up * up / rise + flat + down * (1.0 - 0.5 * down / fall)


@register_jitable
def _in_view(view: Any, r: float, c: float) -> tuple[float, float]:
    """Depth towards the detector and offset along u, mm, from the view's origin (source, or detector if parallel)."""
    r, c = r - view.source_r, c - view.source_c
    return r * view.normal_r + c * view.normal_c, r * view.across_r + c * view.across_c
