"""Name of a bowtie filter and the gantry's radius → its thickness over the fan, and what it lets through.

The shapes are our own. A cylinder of water of diameter D on the axis has the chord L(γ) = 2·√(D²/4 − R² sin²γ); the
filter adds t(γ) = t₀ + k·(L(0) − L(γ))·μ_water/μ_filter, with μ at 70 keV, and so takes away the share k of the
contrast between centre and edge. The corner where the cylinder ends is rounded over ±0.02 rad, as milling does.
"""

from dataclasses import dataclass

import numpy as np

from lampyris.model import Bowtie, Float64, InputError, Spectrum
from lampyris.physics.attenuation import linear_attenuation_per_mm

DESIGN_KEV = 70.0
ROUNDING_RAD = 0.02
HALF_FAN_RAD = 0.55
STEP_RAD = 0.005


@dataclass(frozen=True, slots=True)
class BowtieDesign:
    """Diameter of the water cylinder it is made for, share of its contrast taken away, material, centre thickness."""

    water_diameter_mm: float
    share: float
    material: str
    centre_mm: float


DESIGNS = {
    "large": BowtieDesign(320.0, 0.4, "aluminium", 0.5),
    "medium": BowtieDesign(240.0, 0.55, "aluminium", 0.5),
    "small": BowtieDesign(160.0, 0.75, "aluminium", 0.5),
    "large_teflon": BowtieDesign(320.0, 0.45, "teflon", 1.0),
}
_ALIASES = {"body": "large", "head": "small"}


def bowtie(name: str | BowtieDesign, source_to_isocentre_mm: float) -> Bowtie:
    """The bowtie of that name ("large" or "body", "medium", "small" or "head", "large_teflon") for a gantry's radius.

    It is known for fan angles within ±0.55 rad. Raises InputError for an unknown name, listing the known ones.
    """
    if isinstance(name, str):
        key = _ALIASES.get(name, name)
        if key not in DESIGNS:
            raise InputError(f"bowtie {name!r} is not known; known are {', '.join([*DESIGNS, *_ALIASES])}")
        design = DESIGNS[key]
    else:
        design = name
    radius = design.water_diameter_mm / 2
    if not source_to_isocentre_mm > radius:
        raise InputError(f"source {source_to_isocentre_mm} mm from the axis stands in a cylinder of radius {radius} mm")
    steps = round(HALF_FAN_RAD / STEP_RAD)
    angle = np.asarray(np.arange(-steps, steps + 1) * STEP_RAD, np.float64)
    water, metal = (float(linear_attenuation_per_mm(each, DESIGN_KEV)) for each in ("water", design.material))
    offsets = np.linspace(-ROUNDING_RAD, ROUNDING_RAD, 41)
    window = 1 + np.cos(np.pi * offsets / ROUNDING_RAD)
    lateral = source_to_isocentre_mm * np.sin(angle[:, None] + offsets)
    chord = 2 * np.sqrt(np.maximum(radius**2 - lateral**2, 0.0)) @ (window / window.sum())
    thickness = design.centre_mm + design.share * (chord.max() - chord) * water / metal
    return Bowtie(angle, (design.material,), np.asarray(thickness, np.float64)[:, None])


def bowtie_thickness_mm(filter_: Bowtie, fan_angle_rad: Float64) -> Float64:
    """Thickness of each material on rays of the central plane, (fan angles, materials) mm, interpolated linearly.

    Raises InputError where the bowtie does not reach: beyond its ends it is not known.
    """
    angle = np.asarray(fan_angle_rad, np.float64)
    ends = filter_.fan_angle_rad[[0, -1]]
    slack = 1e-9  # so that an angle written and read as text still fits
    if angle.min() < ends[0] - slack or angle.max() > ends[1] + slack:
        raise InputError(
            f"fan angles {angle.min():.4f}…{angle.max():.4f} rad reach beyond the bowtie, which is known for"
            f" {ends[0]:.4f}…{ends[1]:.4f} rad: degrees for radians, or another scanner's bowtie?"
        )
    columns = [np.interp(angle, filter_.fan_angle_rad, thickness) for thickness in filter_.thickness_mm.T]
    return np.stack(columns, axis=-1)


def bowtie_transmission(spectrum: Spectrum, fan_angle_rad: Float64, cone_angle_rad: float = 0.0) -> Float64:
    """Fraction of photons behind the bowtie, (fan angles, energies); 1 where the spectrum has none.

    A ray that leaves the central plane by the cone angle meets the filter, a prism along the axis, 1/cos longer.
    """
    angle = np.atleast_1d(np.asarray(fan_angle_rad, np.float64))
    if spectrum.bowtie is None:
        return np.ones((len(angle), len(spectrum.energy_kev)))
    thickness = bowtie_thickness_mm(spectrum.bowtie, angle) / np.cos(cone_angle_rad)
    mu = np.stack([linear_attenuation_per_mm(name, spectrum.energy_kev) for name in spectrum.bowtie.materials])
    return np.asarray(np.exp(-thickness @ mu), np.float64)
