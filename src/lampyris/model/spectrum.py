"""What leaves the tube and what the detector makes of it, energy by energy."""

from dataclasses import dataclass

import numpy as np

from lampyris.model.arrays import Float64, frozen
from lampyris.model.errors import InputError


@dataclass(frozen=True, slots=True, eq=False)
class Bowtie:
    """A filter whose thickness varies with the fan angle γ (0 = central ray, + towards higher columns).

    `fan_angle_rad` (angles,) ascending; `materials` names; `thickness_mm` (angles, materials) along the ray in the
    central plane. Beyond its ends the bowtie is not known: asking there is an InputError of physics.
    """

    fan_angle_rad: Float64
    materials: tuple[str, ...]
    thickness_mm: Float64

    def __post_init__(self) -> None:
        n = len(self.fan_angle_rad)
        object.__setattr__(self, "fan_angle_rad", frozen(self.fan_angle_rad, np.float64, "fan_angle_rad", (n,)))
        shape = (n, len(self.materials))
        object.__setattr__(self, "thickness_mm", frozen(self.thickness_mm, np.float64, "bowtie thickness_mm", shape))
        if n < 2 or np.diff(self.fan_angle_rad).min() <= 0:
            raise InputError(f"bowtie needs at least two ascending fan angles, found {n}")


@dataclass(frozen=True, slots=True, eq=False)
class Spectrum:
    """Photons at the isocentre on the central ray, behind all fixed filters but before the bowtie.

    `energy_kev` (energies,) bin centres; `photons_per_mas_mm2` (energies,) per bin; `response_kev` (energies,) mean
    signal per incident photon, in keV deposited (an ideal energy-integrating detector: the energy itself).
    `filtration` lists (material, mm). A monochromatic beam has one energy and `tube_voltage_kv` equal to it.
    """

    energy_kev: Float64
    photons_per_mas_mm2: Float64
    response_kev: Float64
    tube_voltage_kv: float
    filtration: tuple[tuple[str, float], ...] = ()
    bowtie: Bowtie | None = None

    def __post_init__(self) -> None:
        n = len(self.energy_kev)
        for name in ("energy_kev", "photons_per_mas_mm2", "response_kev"):
            object.__setattr__(self, name, frozen(getattr(self, name), np.float64, f"spectrum.{name}", (n,)))
        if n < 1 or self.energy_kev.min() <= 0 or (n > 1 and np.diff(self.energy_kev).min() <= 0):
            raise InputError(f"spectrum energies must ascend from above 0 keV, found {n} bins")
        if self.photons_per_mas_mm2.min() < 0 or self.photons_per_mas_mm2.sum() <= 0:
            raise InputError("spectrum holds negative photon numbers, or no photons at all")

    @property
    def mean_energy_kev(self) -> float:
        return float(np.average(self.energy_kev, weights=self.photons_per_mas_mm2))
