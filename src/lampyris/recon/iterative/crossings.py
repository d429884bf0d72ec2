"""Geometry and the body's circle → where along y rays cross the body, and which of them stay between two ends."""

import math
from collections.abc import Iterator
from typing import Any

import numpy as np
from array_api_compat import array_namespace, device

from lampyris.model import Float64, Geometry
from lampyris.recon.field import Circle
from lampyris.recon.iterative.blocks import Up, as_it_is

SLACK_MM = 1e-6
MARGIN_VIEWS = 720
"""As many views tell how far rays reach."""
VIEWS_AT_A_TIME = 128


def crossing(geometry: Geometry, body: Circle, view: int) -> tuple[Float64, Float64]:
    """Lowest and highest y (rows, columns), mm, that each cell's beam has within the body's circle.

    A ray beside the circle is taken where it comes closest.
    """
    both = _both(geometry, body, view, np.arange(geometry.rows + 1))
    corners = np.stack([both[:, :-1], both[:, 1:]])
    return corners.min((0, 1)), corners.max((0, 1))


def extent(geometry: Geometry, body: Circle) -> tuple[Float64, Float64]:
    """Lowest and highest y (views,), mm, that any beam of a view has within the body's circle."""
    outermost, views = np.array([0, geometry.rows]), geometry.views
    all_views = [_both(geometry, body, part, outermost) for part in _parts(views)]
    low, high = (np.concatenate([best(both, axis=(1, 2, 3)) for both in all_views]) for best in (np.min, np.max))
    return low, high


def rays_within(geometry: Geometry, body: Circle, ends: tuple[float, float], up: Up = as_it_is) -> Any:
    """(views, rows, columns): True for rays that lie between those y, mm, all the way through the body's circle.

    Made where `up` takes arrays to.
    """
    found = [_rows_within(geometry, body, part, ends) for part in _parts(geometry.views)]
    first, last = (up(np.concatenate(each)[:, None]) for each in zip(*found, strict=True))
    xp = array_namespace(first)
    row = xp.arange(geometry.rows, dtype=xp.int32, device=device(first))[None, :, None]
    used = row >= first
    used &= row <= last
    return used


def margin_slices(geometry: Geometry, body: Circle, ends: tuple[float, float], height_mm: float) -> int:
    """Slices by which rays through the slab between those y reach beyond it, below or above, within the body."""
    reach = 0.0
    for view in np.unique(np.linspace(0, geometry.views - 1, MARGIN_VIEWS).astype(int)):
        low, high = crossing(geometry, body, int(view))
        meets = (low < ends[1]) & (high > ends[0])
        if meets.any():
            reach = max(reach, ends[0] - float(low[meets].min()), float(high[meets].max()) - ends[1])
    return math.ceil(reach / height_mm - 1e-6)


def _parts(views: int) -> Iterator[slice]:
    for first in range(0, views, VIEWS_AT_A_TIME):
        yield slice(first, min(first + VIEWS_AT_A_TIME, views))


def _rows_within(
    geometry: Geometry, body: Circle, views: slice, ends: tuple[float, float]
) -> tuple[np.ndarray, np.ndarray]:
    """First and last row (views, columns) of each column whose beams stay between those y; none where first > last.

    y is linear in the row's edge at either end of the ray's way through the body, so that rows in between stay too.
    """
    at, slope = _lines(geometry, body, views)
    slope = slope * geometry.v[views, 1][:, None, None]
    slope = np.where(np.abs(slope) < 1e-12, 1e-12, slope)
    edges = np.stack([(end - at) / slope for end in (ends[0] - SLACK_MM, ends[1] + SLACK_MM)]) + geometry.rows / 2
    first = np.ceil(edges.min(0).max(1))
    last = np.floor(edges.max(0).min(1)) - 1
    rows = geometry.rows
    return np.clip(first, 0, rows).astype(np.int32), np.clip(last, -1, rows - 1).astype(np.int32)


def _both(geometry: Geometry, body: Circle, view: int | slice, edges: Any) -> Float64:
    """y (2, edges, columns), of a slice of views (views, 2, edges, columns), where the rays through these edges of rows
    enter the body's circle and leave it."""
    at, slope = _lines(geometry, body, view)
    off = (edges - geometry.rows / 2) * geometry.v[view][..., 1, None]
    return np.asarray(at[..., None, :] + off[..., None, :, None] * slope[..., None, :], np.float64)


def _lines(geometry: Geometry, body: Circle, view: int | slice) -> tuple[Float64, Float64]:
    """y ([views,] 2, columns) where the rays through the middle of the columns enter the circle and leave it, and how
    much it grows with the height at the detector."""
    cells = geometry.cells_mm(view, np.array([(geometry.rows - 1) / 2]))[..., 0, :, :]
    source, detector = geometry.source[view][..., None, :], geometry.detector[view][..., None, :]
    way = np.broadcast_to(detector - source if geometry.parallel else cells - source, cells.shape)
    across, offset = way[..., [0, 2]], (cells - way)[..., [0, 2]] - np.array([body.x_mm, body.z_mm])
    length = (across**2).sum(-1)
    middle = -(offset * across).sum(-1) / length
    beside = ((offset + middle[..., None] * across) ** 2).sum(-1)
    half = np.sqrt(np.maximum(body.radius_mm**2 - beside, 0) / length)
    share = np.stack([middle - half, middle + half], -2)
    at = cells[..., None, :, 1] + (share - 1) * way[..., None, :, 1]
    return at, np.ones_like(share) if geometry.parallel else share
