"""Spectrum and detector → mean signal in keV, effective attenuation and noise of an energy-integrating CT detector.

A photon that interacts in the scintillator deposits all its energy (K fluorescence and Compton escape are neglected:
they lower the response by up to some 10 % just above the K edge of gadolinium or caesium, the same in air and object).
The signal of a cell is compound Poisson: mean Σ N·p·E, variance Σ N·p·E², with p the probability to interact.
"""

from dataclasses import dataclass, replace

import numpy as np

from lampyris.model import Float64, InputError, Noise, Spectrum
from lampyris.physics.attenuation import linear_attenuation_per_mm, material
from lampyris.physics.bowtie import bowtie_transmission


@dataclass(frozen=True, slots=True)
class Detector:
    """An energy-integrating detector: what it absorbs, how it counts, how it blurs.

    `scintillator` and `thickness_mm` (behind `cover` layers of (material, mm)); `fill` is the sensitive share of a
    cell's area; `counts_per_kev` the conversion; `electronic_counts` the standard deviation with the beam off;
    `cross_talk` the share of a cell's signal that goes to each neighbour (along rows' axis v, along columns' axis u).
    """

    scintillator: str = "gos"
    thickness_mm: float = 1.4
    fill: float = 0.85
    counts_per_kev: float = 1.0
    electronic_counts: float = 0.0
    cross_talk: tuple[float, float] = (0.0, 0.0)
    cover: tuple[tuple[str, float], ...] = ()

    def __post_init__(self) -> None:
        material(self.scintillator)
        if not (self.thickness_mm > 0 and 0 < self.fill <= 1 and self.counts_per_kev > 0):
            raise InputError(
                f"detector of {self.thickness_mm} mm {self.scintillator}, fill {self.fill}, {self.counts_per_kev}"
                " counts/keV: expected > 0, 0…1, > 0"
            )
        if self.electronic_counts < 0 or min(self.cross_talk) < 0 or sum(self.cross_talk) > 0.25:
            raise InputError(
                f"electronic noise {self.electronic_counts} counts, cross-talk {self.cross_talk} to each neighbour:"
                " expected ≥ 0, and at most 0.25 in sum"
            )

    def absorbed(self, energy_kev: Float64) -> Float64:
        """Probability that a photon which meets the cell interacts in the scintillator, fill included."""
        energy = np.asarray(energy_kev, np.float64)
        depth = np.zeros(energy.shape)
        for name, thickness_mm in self.cover:
            depth = depth + linear_attenuation_per_mm(name, energy) * thickness_mm
        caught = -np.expm1(-linear_attenuation_per_mm(self.scintillator, energy) * self.thickness_mm)
        return np.asarray(self.fill * caught * np.exp(-depth), np.float64)

    def response_kev(self, energy_kev: Float64) -> Float64:
        """Mean energy deposited per photon that meets the cell, in keV."""
        return np.asarray(energy_kev, np.float64) * self.absorbed(energy_kev)

    def watching(self, spectrum: Spectrum) -> Spectrum:
        """The same beam, seen by this detector."""
        return replace(spectrum, response_kev=self.response_kev(spectrum.energy_kev))

    def noise(self, spectrum: Spectrum) -> Noise:
        """Variance of a net count as `model.Noise`, for the central ray of the beam in air."""
        gain = compound_gain(self.watching(spectrum), detected_weights(self.watching(spectrum), np.zeros(1))[0])
        return Noise(float(gain) * self.counts_per_kev, self.electronic_counts)

    def cross_talk_kernel(self) -> Float64:
        """(3, 3) kernel over (rows, columns) that sums to 1."""
        v, u = self.cross_talk
        return np.array([[0.0, v, 0.0], [u, 1 - 2 * v - 2 * u, u], [0.0, v, 0.0]])


def detected_weights(spectrum: Spectrum, fan_angle_rad: Float64, *, cone_angle_rad: float = 0.0) -> Float64:
    """Mean signal in air of every energy bin, in keV per mAs and mm² at the isocentre, (fan angles, energies).

    N(E) · T_bowtie(E, γ) · response(E). The mean count of a cell is Σ_E weight · exp(−Σ μ·L) · mAs · area · counts/keV
    with `area` that of the cell scaled to the isocentre.
    """
    signal = spectrum.photons_per_mas_mm2 * spectrum.response_kev
    return bowtie_transmission(spectrum, fan_angle_rad, cone_angle_rad) * signal


def effective_attenuation_per_mm(of: str, spectrum: Spectrum, fan_angle_rad: float = 0.0) -> float:
    """Attenuation that a vanishing thickness of a material shows to the detector behind the bowtie, 1/mm.

    Σ w·μ / Σ w with w of `detected_weights`: the slope of −ln(signal) at thickness 0.
    """
    weights = detected_weights(spectrum, np.array([fan_angle_rad]))[0]
    return float(np.average(linear_attenuation_per_mm(of, spectrum.energy_kev), weights=weights))


def water_attenuation_per_mm(spectrum: Spectrum) -> float:
    """The attenuation of water that corrected line integrals refer to: `effective_attenuation_per_mm` on the axis."""
    return effective_attenuation_per_mm("water", spectrum)


def hounsfield(of: str, spectrum: Spectrum, *, behind_water_mm: float = 0.0) -> float:
    """The value in HU that a small piece of a material shows behind so much water, after water beam hardening.

    1000·(μ − μ_w)/μ_w with both weighted by the signal that is left behind the water.
    """
    water = linear_attenuation_per_mm("water", spectrum.energy_kev)
    weights = detected_weights(spectrum, np.zeros(1))[0] * np.exp(-water * behind_water_mm)
    ratio = (weights * linear_attenuation_per_mm(of, spectrum.energy_kev)).sum() / (weights * water).sum()
    return float(1000 * (ratio - 1))


def compound_gain(spectrum: Spectrum, weights: Float64) -> Float64:
    """Variance over mean of the quantum noise of a signal, in keV, for `weights` (…, energies) in keV.

    A detected photon deposits its whole energy E, so Σ w·E / Σ w: the second over the first moment of the deposited
    energy (Whiting et al. 2006, Med. Phys. 33:3290, eq. 6). Pass weights behind an object to get its harder beam.
    """
    return np.asarray((weights * spectrum.energy_kev).sum(-1) / weights.sum(-1), np.float64)
