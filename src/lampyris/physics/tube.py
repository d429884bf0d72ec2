"""Tube voltage and filters → the photons that reach the isocentre, energy by energy."""

from functools import cache

import numpy as np

from lampyris.model import Bowtie, Float64, InputError, Spectrum
from lampyris.physics import tabulated
from lampyris.physics.attenuation import air_kerma_per_fluence_gy_mm2, linear_attenuation_per_mm

LOWEST_KV, HIGHEST_KV = 60.0, 150.0
FIRST_BIN_KEV = 10.5
"""Bins are 1 keV wide and centred on 10.5, 11.5 … keV; softer photons never leave a filtered CT tube."""


def tube_spectrum(
    tube_voltage_kv: float,
    *,
    filtration: tuple[tuple[str, float], ...] = (("Al", 3.0),),
    anode_angle_deg: float = 7.0,
    distance_mm: float = 1000.0,
    bowtie: Bowtie | None = None,
) -> Spectrum:
    """Photons per mAs and mm² of a tungsten anode at `distance_mm` from the focal spot, behind `filtration`.

    Tabulated with SpekPy (Poludniowski et al. 2021, Med. Phys. 48:3630) every 5 kV for anode angles 7, 9, 12 and 15°.
    Between voltages N(E)/∫(kV − E)dE, the thick-target shape of Kramers (1923), is interpolated linearly; between
    angles ln N, linearly in cot(angle), the path within the anode. Constant potential, no ripple. The response is
    that of an ideal energy-integrating detector (the energy itself); `Detector.watching` puts another in its place.

    Raises InputError outside 60–150 kV, 7–15° and for filters that are unknown or negative.
    """
    if not LOWEST_KV <= tube_voltage_kv <= HIGHEST_KV:
        raise InputError(f"tube voltage {tube_voltage_kv} kV: tables hold {LOWEST_KV:g}…{HIGHEST_KV:g} kV; in V?")
    if not distance_mm > 0:
        raise InputError(f"distance {distance_mm} mm from the focal spot: expected > 0")
    bins = int(np.ceil(tube_voltage_kv - FIRST_BIN_KEV + 0.5))
    energy = np.asarray(FIRST_BIN_KEV + np.arange(bins), np.float64)
    photons = _anode(float(tube_voltage_kv), float(anode_angle_deg))[:bins]
    behind = np.asarray(photons * transmission(filtration, energy) * (1000.0 / distance_mm) ** 2, np.float64)
    return Spectrum(energy, behind, energy, float(tube_voltage_kv), tuple(filtration), bowtie)


def monochromatic(energy_kev: float, photons_per_mas_mm2: float = 1e6) -> Spectrum:
    """A beam of one energy, seen by an ideal energy-integrating detector."""
    energy = np.array([float(energy_kev)])
    return Spectrum(energy, np.array([float(photons_per_mas_mm2)]), energy, float(energy_kev))


def transmission(layers: tuple[tuple[str, float], ...], energy_kev: Float64) -> Float64:
    """Fraction of photons behind layers of (material, mm), of the shape of `energy_kev`."""
    depth = np.zeros(np.shape(energy_kev))
    for name, thickness_mm in layers:
        if thickness_mm < 0:
            raise InputError(f"a filter of {thickness_mm} mm {name}: expected ≥ 0")
        depth = depth + linear_attenuation_per_mm(name, energy_kev) * thickness_mm
    return np.asarray(np.exp(-depth), np.float64)


def air_kerma_mgy_per_mas(spectrum: Spectrum, behind: tuple[tuple[str, float], ...] = ()) -> float:
    """Air kerma free in air at the isocentre on the central ray, in mGy per mAs, behind further layers."""
    photons = spectrum.photons_per_mas_mm2 * transmission(behind, spectrum.energy_kev)
    return float(1e3 * (photons * air_kerma_per_fluence_gy_mm2(spectrum.energy_kev)).sum())


def half_value_layer_mm(spectrum: Spectrum, material: str = "Al") -> float:
    """Thickness of `material` that halves the air kerma on the central ray (bowtie left out), IEC 61267, mm.

    Found by bisection to 1e-6 mm; good geometry, no scatter.
    """
    half = air_kerma_mgy_per_mas(spectrum) / 2
    low, high = 0.0, 1.0
    while air_kerma_mgy_per_mas(spectrum, ((material, high),)) > half:
        low, high = high, 2 * high
    while high - low > 1e-6:
        middle = (low + high) / 2
        if air_kerma_mgy_per_mas(spectrum, ((material, middle),)) > half:
            low = middle
        else:
            high = middle
    return (low + high) / 2


def _anode(voltage_kv: float, angle_deg: float) -> Float64:
    """Photons per mAs mm² at 1 m that leave the anode, in all 140 bins."""
    tables = _tables()
    angles = sorted({angle for angle, _ in tables})
    if not angles[0] <= angle_deg <= angles[-1]:
        raise InputError(f"anode angle {angle_deg}°: tables hold {angles[0]:g}…{angles[-1]:g}°")
    shape = _kramers(voltage_kv)
    steep = np.array([1 / np.tan(np.deg2rad(angle)) for angle in angles])
    at_angles = np.stack([_shape(angle, voltage_kv) for angle in angles])
    place = float(np.interp(-1 / np.tan(np.deg2rad(angle_deg)), -steep, np.arange(len(angles))))
    first = min(int(place), len(angles) - 2)
    share = place - first
    logs = np.log(np.maximum(at_angles[first : first + 2], 1e-300))
    return np.asarray(np.exp((1 - share) * logs[0] + share * logs[1]) * shape, np.float64)


def _shape(angle_deg: float, voltage_kv: float) -> Float64:
    """N over Kramers' weight at one tabulated angle, interpolated in voltage."""
    tables = _tables()
    voltages = sorted({voltage for _, voltage in tables})
    upper = next(each for each in voltages if each >= voltage_kv)
    lower = max([each for each in voltages if each <= voltage_kv])
    above = tables[angle_deg, upper] / np.maximum(_kramers(upper), 1e-300)
    if lower == upper:
        return above
    below = np.where(_kramers(lower) > 0, tables[angle_deg, lower] / np.maximum(_kramers(lower), 1e-300), above)
    share = (voltage_kv - lower) / (upper - lower)
    return np.asarray((1 - share) * below + share * above, np.float64)


def _kramers(voltage_kv: float) -> Float64:
    """∫ max(kV − E, 0) dE over every bin."""
    centre = FIRST_BIN_KEV + np.arange(int(HIGHEST_KV - FIRST_BIN_KEV) + 1)
    low = np.maximum(voltage_kv - centre + 0.5, 0) ** 2
    high = np.maximum(voltage_kv - centre - 0.5, 0) ** 2
    return np.asarray((low - high) / 2, np.float64)


@cache
def _tables() -> dict[tuple[float, float], Float64]:
    """Photons per mAs mm² at 1 m in all bins, by (anode angle, tube voltage)."""
    bins = int(HIGHEST_KV - FIRST_BIN_KEV) + 1
    read: dict[tuple[float, float], Float64] = {}
    for row in tabulated.rows("tungsten.csv"):
        angle, voltage, *photons = (float(each) for each in row)
        read[angle, voltage] = np.pad(np.array(photons), (0, bins - len(photons)))
    return read
