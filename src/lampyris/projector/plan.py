"""Geometry and Grid → Plan: the numbers that every engine's loops start from, or a refusal with the reason."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from lampyris.model import Float64, Geometry, GeometryError, Grid
from lampyris.projector import ray

TOLERANCE_MM = 0.02
"""How far rows may lean from the slices' axis over the whole detector: a fiftieth of a small cell."""

VIEW = np.dtype([(name, np.float64) for name in ray.View._fields])
"""One `ray.View` as a record."""


@dataclass(frozen=True, slots=True, eq=False)
class Plan:
    """What to walk: the views in the axes of the grid, the detector's size and the lattice's.

    `views` (views,) records of VIEW; `mirrored` (views,) True where detector rows run against the slices (the engine
    reverses them); `shape` (slices, rows, columns) of the image, `spacing_mm` along the same.
    """

    kind: int
    views: np.ndarray[Any, Any]
    mirrored: np.ndarray[Any, Any]
    rows: int
    columns: int
    shape: tuple[int, int, int]
    spacing_mm: tuple[float, float, float]

    @staticmethod
    def of(geometry: Geometry, grid: Grid) -> "Plan":
        """Check that rows run along the slices' axis and that the grid stays between source and detector plane.

        Raises GeometryError with the first view that does not.
        """
        kind = ray.PARALLEL if geometry.parallel else ray.FLAT if geometry.curvature_mm is None else ray.CURVED
        turned = _Turned(geometry, grid)
        turned.refuse_skew()
        views = np.zeros(geometry.views, VIEW)
        turned.common(views)
        if kind == ray.PARALLEL:
            turned.parallel(views)
        elif kind == ray.FLAT:
            turned.flat(views)
        else:
            turned.curved(views)
        plan = Plan(kind, views, turned.mirrored, geometry.rows, geometry.columns, grid.shape, grid.spacing_mm)
        plan._refuse_grid_at_source()
        return plan

    @property
    def projections_shape(self) -> tuple[int, int, int]:
        """(views, rows, columns)."""
        return len(self.views), self.rows, self.columns

    @property
    def rows_per_slice(self) -> tuple[float, float]:
        """Smallest and largest height of a slice on the detector, in rows, over all views and voxel columns."""
        scale = self.views["rows_per_mm"] * self.spacing_mm[0]
        if self.kind == ray.PARALLEL:
            return float(scale.min()), float(scale.max())
        edge = np.array([(-0.5 * d, (n - 0.5) * d) for n, d in zip(self.shape[1:], self.spacing_mm[1:], strict=True)])
        source = np.stack([self.views["source_r"], self.views["source_c"]], 1)
        far = np.hypot(*np.maximum(np.abs(source - edge[:, 0]), np.abs(source - edge[:, 1])).T)
        reach = self.views["distance"] + np.hypot(self.views["arc_depth"], self.views["arc_across"])
        if self.kind == ray.FLAT:
            depth = self._corner_depths()
            return float((scale * reach / depth.max(1)).min()), float((scale * reach / depth.min(1)).max())
        near = np.hypot(*(source - np.clip(source, edge[:, 0], edge[:, 1])).T)
        shortest = 2 * self.views["distance"] - reach
        return float((scale * shortest / far).min()), float((scale * reach / near).max())

    def _corner_depths(self) -> Float64:
        """(views, 4) mm: distance of the grid's corners from the source, towards the detector."""
        (_, rows, columns), (_, height, width) = self.shape, self.spacing_mm
        corners = [(r * height, c * width) for r in (-0.5, rows - 0.5) for c in (-0.5, columns - 0.5)]
        v = self.views
        depths = [(r - v["source_r"]) * v["normal_r"] + (c - v["source_c"]) * v["normal_c"] for r, c in corners]
        return np.asarray(np.stack(depths, 1), np.float64)

    def _refuse_grid_at_source(self) -> None:
        if self.kind == ray.PARALLEL:
            return
        depth = self._corner_depths().min(1)
        view, least = int(depth.argmin()), max(self.spacing_mm[1:])
        if depth[view] < least:
            raise GeometryError(
                f"in view {view} the grid comes within {depth[view]:.1f} mm of the source's plane (a voxel is {least}"
                " mm): choose a smaller field of view, or is the grid not centred on the isocentre?"
            )


class _Turned:
    """A geometry in the axes of a grid, origin at its first voxel; rows reversed where they run against the slices."""

    def __init__(self, geometry: Geometry, grid: Grid) -> None:
        self.geometry = geometry
        self.source = (geometry.source - grid.first_voxel_mm) @ grid.axes.T
        self.detector = (geometry.detector - grid.first_voxel_mm) @ grid.axes.T
        self.u, v = geometry.u @ grid.axes.T, geometry.v @ grid.axes.T
        normal = np.cross(geometry.v, geometry.u) @ grid.axes.T
        self.normal = normal / np.linalg.norm(normal, axis=1, keepdims=True)
        self.mirrored = v[:, 0] < 0
        self.v = np.where(self.mirrored[:, None], -v, v)
        self.column_mm = np.linalg.norm(self.u, axis=1)
        self.across = self.u / self.column_mm[:, None]

    def refuse_skew(self) -> None:
        rows, columns = self.geometry.rows, self.geometry.columns
        lean = np.hypot(self.v[:, 1], self.v[:, 2]) * max(rows / 2, 1) + np.abs(self.u[:, 0]) * max(columns / 2, 1)
        view = int(lean.argmax())
        if lean[view] > TOLERANCE_MM:
            raise GeometryError(
                f"in view {view} the detector leans {lean[view]:.3f} mm from the slices' axis (allowed {TOLERANCE_MM}):"
                " this projector needs detector rows along the grid's slices; with a tilted gantry give the grid the"
                " same tilt (Grid.axes), and correct a skewed detector by resampling"
            )

    def common(self, views: np.ndarray[Any, Any]) -> None:
        origin = self.detector if self.geometry.parallel else self.source
        for i, name in enumerate("arc"):
            views[f"source_{name}"] = origin[:, i]
        for i, name in enumerate("rc", start=1):
            views[f"normal_{name}"], views[f"across_{name}"] = self.normal[:, i], self.across[:, i]
        views["rows_per_mm"] = 1 / self.v[:, 0]
        views["columns_per_unit"] = 1 / self.column_mm
        views["central_row"] = self.geometry.rows / 2 + (origin[:, 0] - self.detector[:, 0]) / self.v[:, 0]
        views["central_column"] = self.geometry.columns / 2

    def parallel(self, views: np.ndarray[Any, Any]) -> None:
        direction = self.detector - self.source
        depth = np.einsum("vi,vi->v", direction, self.normal)
        views["across_slope"] = np.einsum("vi,vi->v", direction, self.across) / depth
        views["axial_slope"] = direction[:, 0] / depth
        views["central_row"] = self.geometry.rows / 2 - self.detector[:, 0] / self.v[:, 0]
        in_plane = np.hypot(direction[:, 1], direction[:, 2])
        views["ray_r"], views["ray_c"] = direction[:, 1] / in_plane, direction[:, 2] / in_plane
        views["parallel_obliquity"] = np.linalg.norm(direction, axis=1) / in_plane

    def flat(self, views: np.ndarray[Any, Any]) -> None:
        reach = self.detector - self.source
        views["distance"] = np.einsum("vi,vi->v", reach, self.normal)
        views["central_column"] -= np.einsum("vi,vi->v", reach, self.across) / self.column_mm

    def curved(self, views: np.ndarray[Any, Any]) -> None:
        assert self.geometry.curvature_mm is not None
        views["distance"] = self.geometry.curvature_mm
        offset = self.source - (self.detector - self.geometry.curvature_mm * self.normal)
        views["arc_depth"] = np.einsum("vi,vi->v", offset, self.normal)
        views["arc_across"] = np.einsum("vi,vi->v", offset, self.across)
        views["columns_per_unit"] = self.geometry.curvature_mm / self.column_mm
