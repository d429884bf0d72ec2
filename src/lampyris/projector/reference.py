"""Plan and image → projections, and back, by plain float64 loops: what the fast engines must agree with.

The same functions as `cpu`, one voxel column and one view at a time, no compilation; for small sizes.
"""

import math
from collections.abc import Iterator
from typing import Any

import numpy as np

from lampyris.model import Float32, Float64
from lampyris.projector import ray
from lampyris.projector.plan import Plan


def forward(plan: Plan, image: Float32) -> Float32:
    """Line integrals (views, rows, columns) of an image (slices, rows, columns), in its unit times mm."""
    projections = np.zeros(plan.projections_shape)
    for view, r, c, column, footprint in _footprints(plan):
        projections[view, :, column] += image[:, r, c].astype(np.float64) @ footprint
    return _cells(plan, projections * _obliquity(plan))


def adjoint(plan: Plan, projections: Float32) -> Float32:
    """The transpose of `forward`: projections (views, rows, columns) → image (slices, rows, columns)."""
    weighted = _cells(plan, projections).astype(np.float64) * _obliquity(plan)
    image = np.zeros(plan.shape)
    for view, r, c, column, footprint in _footprints(plan):
        image[:, r, c] += footprint @ weighted[view, :, column]
    return image.astype(np.float32)


def _footprints(plan: Plan) -> Iterator[tuple[int, int, int, int, Float64]]:
    """(view, r, c, column, (slices, rows) weights in mm) of every voxel column and detector column that meet."""
    for index, view in enumerate(_views(plan)):
        for r in range(plan.shape[1]):
            for c in range(plan.shape[2]):
                corners, length = _transaxial(plan, view, r, c)
                boxes = _boxes(plan, view, r, c)
                first, last = max(math.floor(corners[0]), 0), min(math.ceil(corners[3]), plan.columns)
                for column in range(first, last):
                    share = ray.trapezoid_below(column + 1, corners) - ray.trapezoid_below(column, corners)
                    yield index, r, c, column, length * share * boxes


def _views(plan: Plan) -> list[ray.View]:
    return [ray.View(*record) for record in plan.views.tolist()]


def _transaxial(plan: Plan, view: ray.View, r: int, c: int) -> tuple[tuple[float, float, float, float], float]:
    """Corners of the voxel's shadow, in columns, and the chord through its middle, mm."""
    _, height, width = plan.spacing_mm
    edges = []
    for at_r, at_c in (((r + i) * height, (c + j) * width) for i in (-0.5, 0.5) for j in (-0.5, 0.5)):
        edges.append(ray.column(plan.kind, view, ray.magnification(plan.kind, view, at_r, at_c), at_r, at_c))
    return ray.ascending(*edges), ray.chord(plan.kind, view, r * height, c * width, height, width)


def _boxes(plan: Plan, view: ray.View, r: int, c: int) -> Float64:
    """(slices, rows): the part of each row's height that each slice of this voxel column covers."""
    _, height, width = plan.spacing_mm
    magnified = ray.magnification(plan.kind, view, r * height, c * width)
    origin, slope = ray.axial(plan.kind, view, magnified, r * height, c * width)
    edges = origin + slope * (np.arange(plan.shape[0] + 1) - 0.5) * plan.spacing_mm[0]
    rows = np.arange(plan.rows)
    overlap = np.minimum.outer(edges[1:], rows + 1.0) - np.maximum.outer(edges[:-1], rows + 0.0)
    return np.asarray(np.maximum(overlap, 0.0), np.float64)


def _obliquity(plan: Plan) -> Float64:
    """(views, rows, columns): 1/cos θ of every cell."""
    factor = np.empty(plan.projections_shape)
    for index, view in enumerate(_views(plan)):
        for column in range(plan.columns):
            length = ray.ground(plan.kind, view, column + 0.5)
            for row in range(plan.rows):
                factor[index, row, column] = ray.obliquity(plan.kind, view, row + 0.5, length)
    return factor


def _cells(plan: Plan, projections: np.ndarray[Any, Any]) -> Float32:
    """The same projections with the rows of mirrored views reversed."""
    cells = np.array(projections, np.float32)
    cells[plan.mirrored] = cells[plan.mirrored, ::-1]
    return cells
