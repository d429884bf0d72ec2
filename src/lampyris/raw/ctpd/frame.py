"""Geometry of the CT-PD tags ↔ our Geometry: from their left-handed frame into the right-handed one, nothing mirrored.

CT-PD (x, y, z), carried by the table: x right when facing the gantry, y up, z from the table into it: left-handed. Ours
is (x, z, y) of it. Angles run the other way (φ = −φ0), and row 1, the farthest into the gantry, is our last row.
Source S = ((ρ0+Δρ) sin φ, z0+Δz, (ρ0+Δρ) cos φ) at φ = −(φ0+Δφ); a cell at γ = (c − X)·du/d0 (arc) or lateral distance
(c − X)·du (flat) lies d0 from the focal centre, which does not fly, at height z0 − (r − Y)·dv.
"""

from dataclasses import dataclass

import numpy as np

from lampyris.model import Float64, Gantry, Geometry, GeometryError, Orbit

TOLERANCE_MM = 0.01


@dataclass(frozen=True, slots=True, eq=False)
class Frame:
    """The geometric tags of all projections: constants, and one value per view in the tag's own unit and sign."""

    rows: int
    columns: int
    transverse_mm: float
    axial_mm: float
    curved: bool
    angle_rad: Float64
    z_mm: Float64
    radius_mm: Float64
    distance_mm: Float64
    central_column: Float64
    central_row: Float64
    shift_rad: Float64
    shift_z_mm: Float64
    shift_radius_mm: Float64

    def geometry(self) -> Geometry:
        """Ours. Raises GeometryError where a curved detector changes its radius during the scan."""
        spread = float(np.ptp(self.distance_mm))
        if self.curved and spread > TOLERANCE_MM:
            raise GeometryError(
                f"ConstantRadialDistance varies by {spread:.3f} mm over the scan, allowed {TOLERANCE_MM}:"
                " two scanners in one folder?"
            )
        phi, flown = -self.angle_rad, -(self.angle_rad + self.shift_rad)
        radius = self.radius_mm + self.shift_radius_mm
        source = np.stack([radius * np.sin(flown), self.z_mm + self.shift_z_mm, radius * np.cos(flown)], 1)
        centre = np.stack([self.radius_mm * np.sin(phi), self.z_mm, self.radius_mm * np.cos(phi)], 1)
        right = (self.columns + 1) / 2 - self.central_column
        up = self.central_row - (self.rows + 1) / 2
        if self.curved:
            gamma = right * self.transverse_mm / self.distance_mm
            detector = centre - self.distance_mm[:, None] * _outward(phi - gamma)
            u = self.transverse_mm * _across(phi - gamma)
        else:
            u = self.transverse_mm * _across(phi)
            detector = centre - self.distance_mm[:, None] * _outward(phi) + right[:, None] * u
        axis = np.array([0.0, 1.0, 0.0])
        detector = detector + (up * self.axial_mm)[:, None] * axis
        v = np.broadcast_to(self.axial_mm * axis, u.shape)
        curvature = float(self.distance_mm.mean()) if self.curved else None
        return Geometry(source, detector, u, v, self.rows, self.columns, curvature)

    @staticmethod
    def of(geometry: Geometry) -> "Frame":
        """The tags of a geometry. Raises GeometryError for parallel, tilted or free ones, which CT-PD cannot tell."""
        orbit = Orbit.of(geometry)
        gantry = orbit.gantry
        if abs(gantry.tilt_deg) > 1e-3:
            raise GeometryError(f"a gantry tilted by {gantry.tilt_deg:.3f}° cannot be told in DICOM-CT-PD")
        column, row = _central(gantry)
        full = np.ones(orbit.views)
        return Frame(
            geometry.rows, geometry.columns, gantry.cell_mm[1], gantry.cell_mm[0], gantry.curved,
            angle_rad=-orbit.gantry_angle_rad, z_mm=orbit.axial_mm,
            radius_mm=gantry.source_to_isocentre_mm * full, distance_mm=gantry.source_to_detector_mm * full,
            central_column=(column + 1) * full, central_row=(geometry.rows - row) * full,
            shift_rad=_settled(-orbit.shift.angular_rad), shift_z_mm=_settled(orbit.shift.axial_mm),
            shift_radius_mm=_settled(orbit.shift.radial_mm),
        )  # fmt: skip

    @property
    def focal_spot_mode(self) -> str:
        in_plane = bool(np.any(self.shift_rad) or np.any(self.shift_radius_mm))
        along = bool(np.any(self.shift_z_mm))
        return {(False, False): "FFSNONE", (False, True): "FFSZ", (True, False): "FFSXY"}.get(
            (in_plane, along), "FFSXYZ"
        )


def _outward(phi: Float64) -> Float64:
    return np.stack([np.sin(phi), np.zeros_like(phi), np.cos(phi)], 1)


def _across(phi: Float64) -> Float64:
    return np.stack([np.cos(phi), np.zeros_like(phi), -np.sin(phi)], 1)


def _central(gantry: Gantry) -> tuple[float, float]:
    if gantry.central_column is None or gantry.central_row is None:
        raise GeometryError("the orbit has no central element")
    return gantry.central_column, gantry.central_row


def _settled(shift: Float64) -> Float64:
    """Shifts below a nanometre (or nanoradian) are rounding, not a flying focal spot."""
    return np.where(np.abs(shift) < 1e-6, 0.0, shift)
