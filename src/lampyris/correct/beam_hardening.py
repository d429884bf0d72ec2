"""Polychromatic line integrals behind the bowtie → what they would be at one energy, were all of it water.

Behind air, column c at fan angle γ sees p(L) = −ln[Σ w(γ,E)·e^(−μ_w(E)·L) / Σ w(γ,E)] through L mm of water, with w
of `physics.detector.detected_weights`. p is monotone in L; the corrected integral is μ_ref·L(p), μ_ref the attenuation
of water of `physics.detector.water_attenuation_per_mm`. Water precorrection: McDavid et al. 1975, Invest. Radiol.
10:163; Kijewski & Bjärngard 1978, Med. Phys. 5:209. The cone angle's longer way through the bowtie (under 2 % even for
±10°) is left out.
"""

from dataclasses import dataclass
from typing import Any

import numba as nb
import numpy as np

from lampyris.correct.block import settings
from lampyris.model import Applied, CalibrationError, Float32, Float64, Geometry, GeometryError, RawScan, Spectrum, Step
from lampyris.physics.attenuation import linear_attenuation_per_mm
from lampyris.physics.detector import detected_weights, water_attenuation_per_mm

LARGEST_INTEGRAL = 16.0
"""Beyond it, and below 0, the curve goes on straight: nothing is clipped, and noise about air keeps its mean."""
NODES_PER_UNIT = 24


@dataclass(frozen=True, slots=True, eq=False)
class WaterHardening:
    """`table` (columns, nodes): corrected integral at polychromatic integrals 0, 1/24 … 16."""

    table: Float64
    water_per_mm: float

    @staticmethod
    def of(scan: RawScan, step: Step) -> "WaterHardening":
        """The tables of a scan; CalibrationError without a spectrum."""
        settings(step)
        if scan.spectrum is None:
            raise CalibrationError(
                "water_beam_hardening needs the spectrum of the tube and the scan has none: leave the step out for a"
                " monochromatic source, or let the reader be given the tube voltage and filters"
            )
        angles = fan_angles_rad(scan.geometry)
        reference = water_attenuation_per_mm(scan.spectrum)
        return WaterHardening(water_curves(scan.spectrum, angles) * reference, reference)

    def apply(self, integrals: Float32) -> None:
        """Correct (views, rows, columns) in place."""
        _look_up(integrals, self.table.astype(np.float32), np.float32(NODES_PER_UNIT))

    def inverse(self) -> Float64:
        """What the beam shows at the corrected integrals 0, 1/24 …, (columns, nodes), as far as all columns know."""
        nodes = np.arange(int(self.table[:, -1].min() * NODES_PER_UNIT) + 1) / NODES_PER_UNIT
        measured = np.arange(self.table.shape[1]) / NODES_PER_UNIT
        return np.stack([np.interp(nodes, corrected, measured) for corrected in self.table])

    def record(self) -> Applied:
        at = 8 * NODES_PER_UNIT
        middle = self.table.shape[0] // 2
        return Applied.of(
            "water_beam_hardening",
            water_per_mm=self.water_per_mm,
            corrected_integral_at_8=[float(self.table[middle, at]), float(self.table[0, at])],
        )


def fan_angles_rad(geometry: Geometry) -> Float64:
    """Fan angle of every column, (columns,): between its ray in the middle row and the plane of source and axis of
    rotation, positive towards higher columns; all 0 for parallel rays. From the first view."""
    if geometry.parallel:
        return np.zeros(geometry.columns)
    cells = geometry.cells_mm(0, rows=np.array([(geometry.rows - 1) / 2]))[0]
    source = geometry.source[0]
    across = geometry.u[0] / np.linalg.norm(geometry.u[0])
    axial = geometry.v[0] / np.linalg.norm(geometry.v[0])
    isocentre = np.array([0.0, source @ axial / axial[1], 0.0])  # where the table's axis meets the plane of rotation
    inward = isocentre - source
    inward = inward - (inward @ axial) * axial
    length = float(np.linalg.norm(inward))
    if length <= 0:
        raise GeometryError("the focal spot lies on the axis of rotation: no fan angle can be told")
    inward = inward / length
    side = np.cross(axial, inward)
    side = side * np.sign(side @ across)
    rays = cells - source
    return np.asarray(np.arctan2(rays @ side, rays @ inward), np.float64)


def water_curves(spectrum: Spectrum, fan_angle_rad: Float64) -> Float64:
    """mm of water at the integrals 0, 1/24 … 16 behind the bowtie at each angle, (angles, nodes)."""
    mu = linear_attenuation_per_mm("water", spectrum.energy_kev)
    softest = float(mu[spectrum.photons_per_mas_mm2 * spectrum.response_kev > 0].min())
    depth_mm = np.linspace(0.0, 1.3 * LARGEST_INTEGRAL / softest, 1500)
    through = np.exp(-mu[:, None] * depth_mm)
    weights = detected_weights(spectrum, fan_angle_rad)
    curve = -np.log((weights / weights.sum(1, keepdims=True)) @ through)
    nodes = np.arange(int(LARGEST_INTEGRAL * NODES_PER_UNIT) + 1) / NODES_PER_UNIT
    return np.stack([_inverse(nodes, one, depth_mm) for one in curve])


def _inverse(nodes: Float64, curve: Float64, depth_mm: Float64) -> Float64:
    """Depth at each node: depth/curve is almost straight, so that interpolating it errs by under 1e-6."""
    slope = np.empty_like(curve)
    slope[1:] = depth_mm[1:] / curve[1:]
    slope[0] = 2 * slope[1] - slope[2]
    return np.asarray(nodes * np.interp(nodes, curve, slope), np.float64)


@nb.njit(cache=True)
def _look_up(integrals: Any, table: Any, nodes_per_unit: Any) -> None:
    last = table.shape[1] - 2
    for view in range(integrals.shape[0]):
        for row in range(integrals.shape[1]):
            for column in range(integrals.shape[2]):
                at = integrals[view, row, column] * nodes_per_unit
                node = min(max(int(np.floor(at)), 0), last)
                low, high = table[column, node], table[column, node + 1]
                integrals[view, row, column] = low + (at - node) * (high - low)
