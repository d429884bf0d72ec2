"""Water-corrected projections and a first image in HU → projections free of the hardening that bone adds.

Two passes, image based: Joseph & Spital 1978, J. Comput. Assist. Tomogr. 2:100; Herman 1979, Phys. Med. Biol. 24:81.
The first image tells how much bone lies on a ray: a voxel of h HU above `threshold_hu` is a mixture of water and
cortical bone with the bone share h/H, H what cortical bone shows in this beam. With B mm of bone by forward
projection, the ray was measured as p(L, B) = −ln[Σ w·e^(−μ_w·L − (μ_b − μ_w)·B)/Σ w], of which the water correction
made P = μ_ref·L′ with p(L′, 0) = p(L, B). Of an energy-independent world it would be μ_ref·(L + B·H/1000). The
difference is tabulated over fan angle, P and B, and added to the projections. L here is the whole path and B displaces
water, as the shares of a voxel do.
"""

from dataclasses import dataclass
from typing import Any

import numba as nb
import numpy as np

from lampyris.correct.beam_hardening import fan_angles_rad
from lampyris.correct.block import settings, spans
from lampyris.model import (
    Applied,
    CalibrationError,
    Float32,
    Float64,
    InputError,
    Progress,
    Projections,
    Spectrum,
    Step,
    Volume,
    silent,
)
from lampyris.physics.attenuation import linear_attenuation_per_mm
from lampyris.physics.detector import detected_weights, hounsfield
from lampyris.projector.operator import Projector

BONE = "bone_beam_hardening"
BEHIND_WATER_MM = 200.0
"""Where bone usually is: the HU of bone that the corrected image refers to is that behind so much water."""
ANGLES = 13
LARGEST_INTEGRAL, INTEGRAL_STEP = 16.0, 0.25
BONE_STEP_MM = 4.0


def bone_beam_hardening(
    projections: Projections, first: Volume, step: Step | None = None, *, progress: Progress = silent
) -> Projections:
    """The projections with the hardening of bone taken out, ready for a second reconstruction.

    `first` is an image of these projections in HU in the gantry frame which holds all bone that the rays meet; water
    beam hardening must have been corrected. Settings: `threshold_hu` above which a voxel holds bone (150),
    `softness_hu` over which its share sets in (100), `engine` of the projector ("cpu").

    Raises CalibrationError without a spectrum or water correction, InputError for an image that is not in HU.
    """
    chosen = settings(step or Step(BONE), threshold_hu=150.0, softness_hu=100.0, engine="cpu")
    spectrum = _spectrum(projections)
    if first.quantity != "HU" or first.frame != "gantry":
        raise InputError(f"the first image is {first.quantity} in the {first.frame} frame: expected HU, gantry frame")
    table = BoneTable.of(spectrum, fan_angles_rad(projections.geometry), float(projections.water_per_mm or 0))
    share = bone_share(first.values, table.bone_hu, chosen["threshold_hu"], chosen["softness_hu"])
    integrals = projections.integrals.copy()
    thickest = 0.0
    views = projections.geometry.views
    for start, stop in spans(*projections.geometry.shape):
        part = projections.geometry.subset(slice(start, stop))
        bone_mm = Projector(part, first.grid, engine=chosen["engine"]).forward(share)
        thickest = max(thickest, float(bone_mm.max()))
        table.apply(integrals[start:stop], bone_mm)
        progress(stop / views)
    done = Applied.of(BONE, **chosen, bone_hu=table.bone_hu, thickest_bone_mm=thickest)
    return projections.with_correction(integrals, done)


def bone_share(values_hu: Float32, bone_hu: float, threshold_hu: float, softness_hu: float) -> Float32:
    """Volume share of cortical bone in every voxel: h/H above the threshold, setting in smoothly over `softness_hu`."""
    onset = np.clip((values_hu - threshold_hu) / max(softness_hu, 1e-6), 0, 1)
    return np.asarray(np.maximum(values_hu, 0) / bone_hu * onset * onset * (3 - 2 * onset), np.float32)


@dataclass(frozen=True, slots=True, eq=False)
class BoneTable:
    """What to add, (fan angles, integrals, bone thicknesses), and how the columns lie between the fan angles."""

    values: Float32
    place: Float64
    bone_hu: float

    @staticmethod
    def of(spectrum: Spectrum, fan_angle_rad: Float64, water_per_mm: float) -> "BoneTable":
        """Tabulate for 13 fan angles, integrals 0 … 16 and 0 … 240 mm of cortical bone."""
        nodes = np.linspace(fan_angle_rad.min(), fan_angle_rad.max(), ANGLES)
        weights = detected_weights(spectrum, nodes)
        bone_hu = hounsfield("cortical_bone", spectrum, behind_water_mm=BEHIND_WATER_MM)
        integrals = np.arange(0, LARGEST_INTEGRAL + INTEGRAL_STEP, INTEGRAL_STEP)
        bone_mm = np.arange(0, 240 + BONE_STEP_MM, BONE_STEP_MM)
        values = np.stack(
            [_excess(one / one.sum(), spectrum, water_per_mm, bone_hu, integrals, bone_mm) for one in weights]
        )
        span = max(float(nodes[-1] - nodes[0]), 1e-12)
        place = np.clip((fan_angle_rad - nodes[0]) / span * (ANGLES - 1), 0, ANGLES - 1 - 1e-9)
        return BoneTable(values.astype(np.float32), place, bone_hu)

    def apply(self, integrals: Float32, bone_mm: Float32) -> None:
        """Add the correction to (views, rows, columns) in place."""
        _add(integrals, bone_mm, self.values, self.place, 1 / INTEGRAL_STEP, 1 / BONE_STEP_MM)


def _spectrum(projections: Projections) -> Spectrum:
    done = {one.name for one in projections.history}
    if projections.spectrum is None or projections.water_per_mm is None:
        raise CalibrationError(f"{BONE} needs the spectrum of the tube and the scan has none")
    if BONE in done:
        raise InputError(f"{BONE} was made already: the first image would hold bone twice corrected")
    if "water_beam_hardening" not in done:
        raise CalibrationError(f"{BONE} corrects what water_beam_hardening leaves: put that step into the recipe")
    return projections.spectrum


def _excess(
    weights: Float64, spectrum: Spectrum, water_per_mm: float, bone_hu: float, integrals: Float64, bone_mm: Float64
) -> Float64:
    """μ_ref·(L + B·H/1000) − P at one fan angle, (integrals, bone thicknesses).

    L solves p(L, B) = p(P/μ_ref, 0). It is below zero where so much bone alone would attenuate more: such rays do not
    occur but as noise, and the curve is continued rather than cut.
    """
    mu_water = linear_attenuation_per_mm("water", spectrum.energy_kev)
    added = linear_attenuation_per_mm("cortical_bone", spectrum.energy_kev) - mu_water
    depth_mm = np.linspace(-0.5, 1.2, 1200) * LARGEST_INTEGRAL / water_per_mm
    measured = -np.log(weights @ np.exp(-mu_water[:, None] * (integrals / water_per_mm)))
    behind_bone = weights * np.exp(-added * bone_mm[:, None])
    curves = -np.log(behind_bone @ np.exp(-mu_water[:, None] * depth_mm))
    path_mm = np.stack([np.interp(measured, curve, depth_mm) for curve in curves], axis=1)
    return water_per_mm * (path_mm + bone_mm * bone_hu / 1000) - integrals[:, None]


@nb.njit(cache=True)
def _add(integrals: Any, bone_mm: Any, values: Any, place: Any, per_integral: Any, per_mm: Any) -> None:
    """Trilinear look-up; integrals and thicknesses beyond the table take its border."""
    n_integrals, n_bone = values.shape[1], values.shape[2]
    for view in range(integrals.shape[0]):
        for row in range(integrals.shape[1]):
            for column in range(integrals.shape[2]):
                thickness = bone_mm[view, row, column]
                if thickness <= 0:
                    continue
                a = int(place[column])
                fa = place[column] - a
                p = min(max(integrals[view, row, column] * per_integral, 0.0), n_integrals - 1.001)
                b = min(thickness * per_mm, n_bone - 1.001)
                i, j = int(p), int(b)
                fi, fj = p - i, b - j
                total = 0.0
                for da in range(2):
                    at = min(a + da, values.shape[0] - 1)
                    low = (1 - fj) * values[at, i, j] + fj * values[at, i, j + 1]
                    high = (1 - fj) * values[at, i + 1, j] + fj * values[at, i + 1, j + 1]
                    total += (fa if da else 1 - fa) * ((1 - fi) * low + fi * high)
                integrals[view, row, column] += total
