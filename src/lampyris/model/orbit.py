"""Geometry → Orbit: the third-generation scanner behind the twelve numbers, or a refusal that says why it is none."""

from dataclasses import dataclass

import numpy as np

from lampyris.model.arrays import Float64, frozen
from lampyris.model.errors import GeometryError
from lampyris.model.geometry import FocalSpotShift, Gantry, Geometry

TOLERANCE_MM = 0.02
"""How far a point may lie from where the recovered gantry puts it: far below a cell, far above float32 in a file."""


@dataclass(frozen=True, slots=True, eq=False)
class Orbit:
    """A gantry, unwrapped angles (views,) rad, axial positions (views,) mm and the flying focal spot, per view."""

    gantry: Gantry
    gantry_angle_rad: Float64
    axial_mm: Float64
    shift: FocalSpotShift

    @property
    def views(self) -> int:
        return len(self.gantry_angle_rad)

    @property
    def angle_step_rad(self) -> float:
        """Mean signed step from view to view."""
        span = float(self.gantry_angle_rad[-1] - self.gantry_angle_rad[0])
        return span / max(self.views - 1, 1)

    @property
    def views_per_turn(self) -> float:
        return 2 * np.pi / abs(self.angle_step_rad)

    @property
    def table_feed_mm(self) -> float:
        """Signed travel per turn along +y, from the first to the last view."""
        turns = (self.gantry_angle_rad[-1] - self.gantry_angle_rad[0]) / (2 * np.pi)
        return float((self.axial_mm[-1] - self.axial_mm[0]) / abs(turns)) if turns else 0.0

    @staticmethod
    def of(geometry: Geometry) -> "Orbit":
        """Recover the orbit about the y axis that made these views; checked by making it again, to 0.02 mm.

        Raises GeometryError when the views are parallel, the axis of rotation is not y or the gantry changes.
        """
        if geometry.parallel:
            raise GeometryError("parallel rays have no focal spot, hence no orbit")
        tilt = float(np.arctan2(-geometry.v[0, 2], geometry.v[0, 1]))
        lean = np.array([[1.0, 0.0, 0.0], [0.0, np.cos(tilt), np.sin(tilt)], [0.0, -np.sin(tilt), np.cos(tilt)]])
        upright = _Upright(geometry, lean)
        row_offset_mm, axial, axial_shift = upright.axial()
        travel = axial[:, None] * lean[1]
        gantry, phi = upright.gantry(travel, row_offset_mm, np.rad2deg(tilt))
        spot = upright.source - travel
        turn = np.arctan2(spot[:, 0], spot[:, 2]) - phi
        shift = FocalSpotShift(
            np.arctan2(np.sin(turn), np.cos(turn)),
            axial_shift,
            np.hypot(spot[:, 0], spot[:, 2]) - gantry.source_to_isocentre_mm,
        )
        orbit = Orbit(gantry, frozen(np.unwrap(phi), np.float64, "gantry_angle_rad", (None,)), axial, shift)
        again = Geometry.circular(gantry, np.rad2deg(orbit.gantry_angle_rad), axial_mm=axial, shift=shift)
        for name, scale in (("source", 1.0), ("detector", 1.0), ("u", geometry.columns / 2), ("v", geometry.rows / 2)):
            error = np.abs(getattr(again, name) - getattr(geometry, name)).max() * scale
            if error > TOLERANCE_MM:
                raise GeometryError(
                    f"not a third-generation orbit about the y axis: {name} is {error:.3f} mm off the nearest one"
                    f" (allowed {TOLERANCE_MM}); a free trajectory or an uncorrected misalignment?"
                )
        return orbit


class _Upright:
    """The views of a geometry turned back by the gantry tilt, so that rows run along y."""

    def __init__(self, geometry: Geometry, lean: Float64) -> None:
        self.geometry = geometry
        self.lean = lean
        self.source = geometry.source @ lean
        self.detector = geometry.detector @ lean
        normal = np.cross(geometry.u, geometry.v) @ lean
        self.normal = normal / np.linalg.norm(normal, axis=1, keepdims=True)

    def axial(self) -> tuple[float, Float64, Float64]:
        """Offset of the detector's middle row, table positions and axial focal-spot shifts, all mm.

        The three are only known up to a common constant: the mean axial shift is taken as zero.
        """
        row_offset_mm = float(np.mean(self.detector[:, 1] - self.source[:, 1]))
        axial = (self.detector[:, 1] - row_offset_mm) / self.lean[1, 1]
        return row_offset_mm, axial, self.source[:, 1] - axial * self.lean[1, 1]

    def gantry(self, travel: Float64, row_offset_mm: float, tilt_deg: float) -> tuple[Gantry, Float64]:
        """The gantry's dimensions and the wrapped gantry angle of every view."""
        geometry, detector = self.geometry, self.detector - travel
        row_mm, column_mm = geometry.cell_mm
        facing = np.arctan2(self.normal[:, 0], self.normal[:, 2])
        if geometry.curvature_mm is None:
            phi = facing
            spot = self.source - travel
            radius = float(np.hypot(spot[:, 0], spot[:, 2]).mean())
            distance = radius - float(np.einsum("vi,vi->v", detector, self.normal).mean())
            across = np.stack([np.cos(phi), np.zeros_like(phi), -np.sin(phi)], 1)
            columns_off = float(np.einsum("vi,vi->v", detector, across).mean()) / column_mm
        else:
            centre = detector + geometry.curvature_mm * self.normal
            phi = np.arctan2(centre[:, 0], centre[:, 2])
            radius, distance = float(np.hypot(centre[:, 0], centre[:, 2]).mean()), geometry.curvature_mm
            turn = phi - facing
            columns_off = float(np.arctan2(np.sin(turn), np.cos(turn)).mean()) * distance / column_mm
        gantry = Gantry(
            radius, distance, geometry.rows, geometry.columns, (row_mm, column_mm), geometry.curvature_mm is not None,
            (geometry.rows - 1) / 2 - row_offset_mm / row_mm, (geometry.columns - 1) / 2 - columns_off, tilt_deg,
        )  # fmt: skip
        return gantry, phi
