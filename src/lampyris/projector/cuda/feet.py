"""Views and voxel columns → their footprints on the detector, worked out once in float64, kept as float32.

A place is a whole number and what is left of it, so that float32 loses nothing that the sums would keep: the kernels
that use the footprints hold no float64.
"""

import math

import numpy as np
from numba import cuda, float32, int32

from lampyris.model import Float64
from lampyris.projector import ray
from lampyris.projector.plan import Plan

WHOLES, PARTS = 2, 7
"""Fields of a footprint. Wholes: first detector column, row below the first edge. Parts: the four corners from that
column on, the first edge from that row on, rows a slice, chord in mm."""
EDGE = 4
"""Fields of the ray to an edge of a detector column, in voxels: the grid's column at row 0 and columns a row, the
grid's row at column 0 and rows a column."""
WARP = 32
LAYERS = 65535
"""Blocks that CUDA takes along z."""
_STEEP = 1e9
"""Stands for the columns a row of a ray that runs along the rows: no walk takes it."""


def records(plan: Plan) -> Float64:
    """(views, len(ray.View._fields)): the views as plain numbers."""
    return np.ascontiguousarray(plan.views).view(np.float64).reshape(len(plan.views), -1)


def launch(across: int, *others: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Blocks and threads for so many places: a warp across, four lines of them down, one of anything else.

    No more than there are places: the simulator has a Python thread for each.
    """
    places = (across, *others)
    block = tuple(min(n, t) for n, t in zip(places, (WARP, 4, 1), strict=False))
    return tuple(-(-n // t) for n, t in zip(places, block, strict=True)), block


@cuda.jit(device=True)
def view_of(n):  # type: ignore[no-untyped-def]
    return ray.View(
        n[0], n[1], n[2], n[3], n[4], n[5], n[6], n[7], n[8], n[9], n[10], n[11], n[12], n[13], n[14], n[15], n[16],
        n[17], n[18],
    )  # fmt: skip


@cuda.jit
def find_feet(kind, numbers, spacing, wholes, parts):  # type: ignore[no-untyped-def]
    """Footprints of every voxel column (grid x, y) in every view of a batch (grid z)."""
    c, r, v = cuda.grid(3)
    if v >= wholes.shape[0] or r >= wholes.shape[2] or c >= wholes.shape[3]:
        return
    view = view_of(numbers[v])
    thickness, height, width = spacing
    at_r, at_c = r * height, c * width
    low_r, high_r, low_c, high_c = at_r - 0.5 * height, at_r + 0.5 * height, at_c - 0.5 * width, at_c + 0.5 * width
    p, q, s, t = ray.ascending(
        ray.column(kind, view, ray.magnification(kind, view, low_r, low_c), low_r, low_c),
        ray.column(kind, view, ray.magnification(kind, view, low_r, high_c), low_r, high_c),
        ray.column(kind, view, ray.magnification(kind, view, high_r, low_c), high_r, low_c),
        ray.column(kind, view, ray.magnification(kind, view, high_r, high_c), high_r, high_c),
    )
    origin, slope = ray.axial(kind, view, ray.magnification(kind, view, at_r, at_c), at_r, at_c)
    step = slope * thickness
    top = origin - 0.5 * step
    first, row = math.floor(p), math.floor(top)
    wholes[v, 0, r, c], wholes[v, 1, r, c] = int32(first), int32(row)
    parts[v, 0, r, c], parts[v, 1, r, c] = float32(p - first), float32(q - first)
    parts[v, 2, r, c], parts[v, 3, r, c] = float32(s - first), float32(t - first)
    parts[v, 4, r, c], parts[v, 5, r, c] = float32(top - row), float32(step)
    parts[v, 6, r, c] = float32(ray.chord(kind, view, at_r, at_c, height, width))


@cuda.jit
def find_edges(kind, numbers, spacing, edges):  # type: ignore[no-untyped-def]
    """The in-plane rays to the edges of every detector column (grid x) in every view of a batch (grid y)."""
    e, v = cuda.grid(2)
    if v >= edges.shape[0] or e >= edges.shape[1]:
        return
    view = view_of(numbers[v])
    _, height, width = spacing
    offset = (e - view.central_column) / view.columns_per_unit
    r, c, depth, across = view.source_r, view.source_c, 1.0, view.across_slope
    if kind == ray.PARALLEL:
        r, c = r + offset * view.across_r, c + offset * view.across_c
    elif kind == ray.FLAT:
        depth, across = view.distance, offset
    else:
        depth = view.distance * math.cos(offset) - view.arc_depth
        across = view.distance * math.sin(offset) - view.arc_across
    along_r = (depth * view.normal_r + across * view.across_r) / height
    along_c = (depth * view.normal_c + across * view.across_c) / width
    r, c = r / height, c / width
    down = along_c / along_r if abs(along_r) * _STEEP > abs(along_c) else _STEEP
    over = along_r / along_c if abs(along_c) * _STEEP > abs(along_r) else _STEEP
    edges[v, e, 0], edges[v, e, 1] = float32(c - r * down), float32(down)
    edges[v, e, 2], edges[v, e, 3] = float32(r - c * over), float32(over)


@cuda.jit
def weigh_cells(kind, numbers, mirrored, back, cells, weighted):  # type: ignore[no-untyped-def]
    """weighted = cells · 1/cos θ (grid: column, row, view); rows of mirrored views are turned to run along the slices,
    or `back`."""
    c, row, v = cuda.grid(3)
    if v >= cells.shape[0] or row >= cells.shape[1] or c >= cells.shape[2]:
        return
    view = view_of(numbers[v])
    factor = float32(ray.obliquity(kind, view, row + 0.5, ray.ground(kind, view, c + 0.5)))
    other = cells.shape[1] - 1 - row if mirrored[v] else row
    if back:
        weighted[v, other, c] = cells[v, row, c] * factor
    else:
        weighted[v, row, c] = cells[v, other, c] * factor
