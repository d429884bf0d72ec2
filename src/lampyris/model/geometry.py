"""Where source and cells stood in every view: twelve numbers a view, in mm, in the frame carried by the table.

The frame is IEC 61217 *fixed*: x right when facing the gantry, y along the rotation axis into it, z up, origin at the
isocentre. Gantry angle φ: 0 = source above, clockwise facing the gantry. See docs/conventions.md.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from lampyris.model.arrays import Float64, frozen
from lampyris.model.errors import GeometryError


@dataclass(frozen=True, slots=True)
class Gantry:
    """The fixed dimensions of a scanner's gantry.

    `cell_mm` is (along the rotation axis, transverse) at the detector; `central_row` and `central_column` are the
    0-based fractional indices of the cell that the ray through the isocentre meets (None = the middle). A curved
    detector is an arc about the focal spot with equal angles between columns. `tilt_deg` is DICOM (0018,1120):
    positive when the top of the gantry leans away from where the table enters.
    """

    source_to_isocentre_mm: float
    source_to_detector_mm: float
    rows: int
    columns: int
    cell_mm: tuple[float, float]
    curved: bool = True
    central_row: float | None = None
    central_column: float | None = None
    tilt_deg: float = 0.0

    def __post_init__(self) -> None:
        if not 0 < self.source_to_isocentre_mm < self.source_to_detector_mm:
            raise GeometryError(
                f"source to isocentre {self.source_to_isocentre_mm} mm, to detector {self.source_to_detector_mm} mm:"
                " expected 0 < first < second; exchanged, or not in mm?"
            )
        if self.rows < 1 or self.columns < 1 or min(self.cell_mm) <= 0:
            raise GeometryError(f"{self.rows} × {self.columns} cells of {self.cell_mm} mm is no detector")

    @property
    def row_at_isocentre_mm(self) -> float:
        """Height of one detector row, scaled to the rotation axis."""
        return self.cell_mm[0] * self.source_to_isocentre_mm / self.source_to_detector_mm

    @property
    def collimation_mm(self) -> float:
        """Total collimation at the isocentre, DICOM (0018,9307)."""
        return self.rows * self.row_at_isocentre_mm


@dataclass(frozen=True, slots=True, eq=False)
class FocalSpotShift:
    """Flying focal spot: displacement of the source alone, one value per view; the detector does not follow."""

    angular_rad: Float64
    axial_mm: Float64
    radial_mm: Float64

    @staticmethod
    def alternating(
        views: int,
        angular_rad: Sequence[float] = (0.0,),
        axial_mm: Sequence[float] = (0.0,),
        radial_mm: Sequence[float] = (0.0,),
    ) -> "FocalSpotShift":
        """Spots visited in turn, e.g. ``axial_mm=(-0.6, 0.6)`` for z or four pairs for in-plane and z together."""
        tiled = [np.resize(np.asarray(each, np.float64), views) for each in (angular_rad, axial_mm, radial_mm)]
        return FocalSpotShift(*tiled)


@dataclass(frozen=True, slots=True, eq=False)
class Geometry:
    """Position of source, detector centre and cell steps for every view.

    `source`, `detector`, `u`, `v`: (views, 3) mm; `detector` is the point at the fractional index
    ((rows − 1)/2, (columns − 1)/2), `u` the step from one column to the next there, `v` from one row to the next.
    `curvature_mm` None is a flat detector; otherwise the radius of an arc in the (u, normal) plane whose centre lies
    that far from `detector` on the side of u × v: the focal spot before any flying-spot shift.
    With `parallel`, all rays of a view have the direction `detector` − `source`.
    """

    source: Float64
    detector: Float64
    u: Float64
    v: Float64
    rows: int
    columns: int
    curvature_mm: float | None = None
    parallel: bool = False

    def __post_init__(self) -> None:
        views = len(self.source)
        for name in ("source", "detector", "u", "v"):
            object.__setattr__(self, name, frozen(getattr(self, name), np.float64, f"geometry.{name}", (views, 3)))
        if views < 1 or self.rows < 1 or self.columns < 1:
            raise GeometryError(f"{views} views of {self.rows} × {self.columns} cells is no scan")
        if self.parallel and self.curvature_mm is not None:
            raise GeometryError("parallel rays meet a flat detector; curvature_mm must be None")
        area = np.linalg.norm(np.cross(self.u, self.v), axis=1)
        if area.min() <= 0:
            raise GeometryError(f"u and v are parallel in view {int(area.argmin())}: the cells have no area")
        side = np.einsum("vi,vi->v", self.source - self.detector, np.cross(self.u, self.v))
        if side.min() <= 0:
            raise GeometryError(
                f"source lies behind the detector in view {int(side.argmin())}: u × v must point to the source;"
                " are rows or columns mirrored?"
            )

    @property
    def views(self) -> int:
        return len(self.source)

    @property
    def shape(self) -> tuple[int, int, int]:
        """(views, rows, columns) of the projections that belong to this geometry."""
        return self.views, self.rows, self.columns

    @property
    def cell_mm(self) -> tuple[float, float]:
        """(along v, along u) size of one cell at the detector, from the first view."""
        return float(np.linalg.norm(self.v[0])), float(np.linalg.norm(self.u[0]))

    def scanned_mm(self, total_collimation_mm: float | None) -> float | None:
        """Scanning length (DICOM TID 10014, IEC 60601-2-44): the table's travel while the tube was loaded.

        Between consecutive scans × their number for a table that moves in steps; the total collimation for one that
        stood still. None where that is not known, or where the table went to and fro. The detector tells: it does not
        follow a flying focal spot.
        """
        places = self.detector[:, 1]
        moves = np.diff(places)
        moved = np.abs(moves) > 1e-6
        if not moved.any():
            return total_collimation_mm
        if moves.max() > 1e-6 and moves.min() < -1e-6:
            return None
        stops = int(moved.sum()) + 1
        return float(abs(places[-1] - places[0]) * stops / (stops - 1))

    def cells_mm(self, view: int | slice, rows: Float64 | None = None, columns: Float64 | None = None) -> Float64:
        """Points of one view at the given fractional indices (default: every cell centre), (rows, columns, 3) mm.

        Those of a slice of views are (views, rows, columns, 3).

        Flat: d + (c − c̄)·u + (r − r̄)·v. Curved with radius ρ: the column angle is γ = (c − c̄)·|u|/ρ and the point
        d + ρ·sin γ·û + ρ·(cos γ − 1)·n̂ + (r − r̄)·v with n̂ = v × u normalised, away from the source.
        """
        r = np.arange(self.rows, dtype=np.float64) if rows is None else np.asarray(rows, np.float64)
        c = np.arange(self.columns, dtype=np.float64) if columns is None else np.asarray(columns, np.float64)
        r, c = r - (self.rows - 1) / 2, c - (self.columns - 1) / 2
        u, v = self.u[view], self.v[view]
        if self.curvature_mm is None:
            across = c[:, None] * u[..., None, :]
        else:
            pitch = np.linalg.norm(u, axis=-1, keepdims=True)
            normal = np.cross(v, u)
            normal = normal / np.linalg.norm(normal, axis=-1, keepdims=True)
            angle = (c * pitch / self.curvature_mm)[..., None]
            along, depth = (u / pitch)[..., None, :], normal[..., None, :]
            across = self.curvature_mm * (np.sin(angle) * along + (np.cos(angle) - 1) * depth)
        middle, up = (each[..., None, None, :] for each in (self.detector[view], v))
        return np.asarray(middle + r[:, None, None] * up + across[..., None, :, :], np.float64)

    def rays(self, view: int) -> tuple[Float64, Float64]:
        """Origins and unit directions of one view's rays, each (rows, columns, 3); parallel rays start at the cell."""
        cells = self.cells_mm(view)
        if self.parallel:
            direction = self.detector[view] - self.source[view]
            direction = np.broadcast_to(direction / np.linalg.norm(direction), cells.shape)
            return cells, np.asarray(direction, np.float64)
        origins = np.broadcast_to(self.source[view], cells.shape)
        directions = cells - origins
        return np.asarray(origins, np.float64), directions / np.linalg.norm(directions, axis=-1, keepdims=True)

    def subset(self, views: slice | Sequence[int] | Float64) -> "Geometry":
        """The same geometry for some of its views."""
        index = views if isinstance(views, slice) else np.asarray(views)
        return replace(self, source=self.source[index], detector=self.detector[index], u=self.u[index], v=self.v[index])

    @staticmethod
    def parallel_beam(
        gantry_angle_deg: Float64,
        *,
        rows: int,
        columns: int,
        cell_mm: tuple[float, float],
        central_row: float | None = None,
        central_column: float | None = None,
    ) -> "Geometry":
        """Parallel rays; the same frame and sense of rotation as `circular`, with the source 1 m away for the sign."""
        distant = Gantry(1000.0, 2000.0, rows, columns, cell_mm, False, central_row, central_column)
        fan = Geometry.circular(distant, gantry_angle_deg)
        centre = fan.detector - np.einsum("vi,vi->v", fan.detector, fan.source)[:, None] * fan.source / 1000.0**2
        return replace(fan, source=centre + fan.source, detector=centre, parallel=True)

    @staticmethod
    def circular(
        gantry: Gantry,
        gantry_angle_deg: Float64,
        *,
        axial_mm: float | Float64 = 0.0,
        shift: FocalSpotShift | None = None,
    ) -> "Geometry":
        """Source on a circle about the y axis at `axial_mm` (one value, or one per view: any table motion)."""
        phi = np.deg2rad(np.atleast_1d(np.asarray(gantry_angle_deg, np.float64)))
        y = np.broadcast_to(np.asarray(axial_mm, np.float64), phi.shape)
        zero = np.zeros_like(phi)
        spot = shift or FocalSpotShift(zero, zero, zero)
        radius = gantry.source_to_isocentre_mm + spot.radial_mm
        flown = phi + spot.angular_rad
        source = np.stack([radius * np.sin(flown), spot.axial_mm, radius * np.cos(flown)], 1)
        outward = np.stack([np.sin(phi), zero, np.cos(phi)], 1)
        across = np.stack([np.cos(phi), zero, -np.sin(phi)], 1)
        axis = np.array([0.0, 1.0, 0.0])
        centre_column = (gantry.columns - 1) / 2
        columns_off = centre_column - (centre_column if gantry.central_column is None else gantry.central_column)
        centre_row = (gantry.rows - 1) / 2
        rows_off = centre_row - (centre_row if gantry.central_row is None else gantry.central_row)
        row_mm, column_mm = gantry.cell_mm
        nominal = gantry.source_to_isocentre_mm * outward
        if gantry.curved:
            angle = columns_off * column_mm / gantry.source_to_detector_mm
            ray = np.sin(angle) * across - np.cos(angle) * outward
            detector = nominal + gantry.source_to_detector_mm * ray
            u = column_mm * (np.cos(angle) * across + np.sin(angle) * outward)
        else:
            detector = nominal - gantry.source_to_detector_mm * outward + columns_off * column_mm * across
            u = column_mm * across
        v = np.broadcast_to(row_mm * axis, u.shape)
        detector = detector + rows_off * row_mm * axis
        lean = _tilt(gantry.tilt_deg)
        travel = y[:, None] * axis
        curvature = gantry.source_to_detector_mm if gantry.curved else None
        return Geometry(
            source @ lean.T + travel, detector @ lean.T + travel, u @ lean.T, v @ lean.T,
            gantry.rows, gantry.columns, curvature,
        )  # fmt: skip

    @staticmethod
    def helical(
        gantry: Gantry,
        *,
        views: int,
        views_per_turn: int,
        table_feed_mm: float,
        start_angle_deg: float = 0.0,
        start_axial_mm: float | None = None,
        shift: FocalSpotShift | None = None,
    ) -> "Geometry":
        """Constant rotation and table feed (mm per turn, signed along +y); by default centred on the isocentre."""
        turn = np.arange(views) / views_per_turn
        start = -table_feed_mm * (views - 1) / views_per_turn / 2 if start_axial_mm is None else start_axial_mm
        return Geometry.circular(
            gantry, start_angle_deg + 360.0 * turn, axial_mm=start + table_feed_mm * turn, shift=shift
        )


def _tilt(tilt_deg: float) -> Float64:
    """Rotation about x that leans the gantry's top towards +y, away from where the table enters."""
    c, s = np.cos(np.deg2rad(tilt_deg)), np.sin(np.deg2rad(tilt_deg))
    return np.array([[1.0, 0.0, 0.0], [0.0, c, s], [0.0, -s, c]])
