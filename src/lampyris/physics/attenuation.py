"""Name of a material and photon energy → attenuation coefficient, 1–150 keV.

Cross sections: Elam, Ravel & Sieber (2002), Radiat. Phys. Chem. 63:121; mixtures: μ/ρ = Σ w·(μ/ρ). Photoelectric,
coherent and incoherent parts are interpolated separately, ln-ln, between rows of tables/attenuation.csv, which holds
each absorption edge from both sides; "total" includes coherent scattering.
"""

import re
from dataclasses import dataclass, replace
from functools import cache
from typing import Literal, TypeAlias

import numpy as np

from lampyris.model import Float64, InputError
from lampyris.physics import tabulated

Process: TypeAlias = Literal["total", "photoelectric", "coherent", "incoherent"]

LOWEST_KEV, HIGHEST_KEV = 1.0, 150.0
_COLUMNS = {"photoelectric": 1, "coherent": 2, "incoherent": 3}
_ALIASES = {
    "acrylic": "pmma", "lucite": "pmma", "perspex": "pmma", "plexiglass": "pmma",
    "ptfe": "teflon", "ldpe": "polyethylene", "pmp": "polymethylpentene", "acetal": "delrin", "pom": "delrin",
    "bone": "cortical_bone", "compact_bone": "cortical_bone", "trabecular_bone": "spongiosa", "fat": "adipose",
    "lung_inflated": "lung", "tissue": "soft_tissue", "gd2o2s": "gos", "caesium_iodide": "csi",
    "c": "graphite", "al": "aluminium", "aluminum": "aluminium", "si": "silicon", "ca": "calcium", "ti": "titanium",
    "fe": "iron", "cu": "copper", "mo": "molybdenum", "sn": "tin", "i": "iodine", "gd": "gadolinium", "w": "tungsten",
    "au": "gold", "pb": "lead",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Material:
    """A mixture of elements: `mass_fractions` lists (atomic number, fraction of the mass), which sum to 1."""

    name: str
    density_g_cm3: float
    mass_fractions: tuple[tuple[int, float], ...]

    def __post_init__(self) -> None:
        total = sum(fraction for _, fraction in self.mass_fractions)
        if not self.density_g_cm3 > 0 or abs(total - 1) > 2e-3 or min(f for _, f in self.mass_fractions) < 0:
            raise InputError(
                f"material {self.name!r}: density {self.density_g_cm3} g/cm³ and mass fractions summing to {total:.4f};"
                " expected > 0 and 1"
            )
        if unknown := [number for number, _ in self.mass_fractions if number not in _elements()]:
            raise InputError(f"material {self.name!r}: no cross sections for Z = {unknown}")


def material(name: str | Material) -> Material:
    """The material of that name, upper or lower case; a Material is returned as it is.

    Beside the names of `material_names()`: element symbols (Al, Cu, …), usual synonyms (acrylic, PTFE, bone …),
    ``iodine_water(5)`` and ``hydroxyapatite_water(200)`` (mg/ml of the solute), and any of these with a factor
    on the density: ``water*1.005`` is +5 HU. Raises InputError with the known names for any other.

    >>> material("water*1.005").density_g_cm3
    1.005
    """
    return name if isinstance(name, Material) else _named(name)


def material_names() -> tuple[str, ...]:
    """The names of tables/materials.csv."""
    return tuple(row[0] for row in tabulated.rows("materials.csv"))


def iodine_water(mg_ml: float) -> Material:
    """Water with so many milligrams of iodine in each millilitre, volumes adding up."""
    return _solution("iodine", mg_ml, f"iodine_water({mg_ml:g})")


def mass_attenuation_cm2_g(of: Material | str, energy_kev: Float64 | float, *, process: Process = "total") -> Float64:
    """Mass attenuation coefficient μ/ρ in cm²/g, of the shape of `energy_kev`.

    Raises InputError for an energy outside 1–150 keV.
    """
    energy = np.asarray(energy_kev, np.float64)
    if energy.size and not (energy.min() >= LOWEST_KEV and energy.max() <= HIGHEST_KEV):
        raise InputError(
            f"energies {energy.min():g}…{energy.max():g} keV: tables hold {LOWEST_KEV:g}…{HIGHEST_KEV:g} keV; in eV?"
        )
    parts = tuple(_COLUMNS) if process == "total" else (process,)
    total = np.zeros(energy.shape)
    for number, fraction in material(of).mass_fractions:
        table = _elements()[number]
        for part in parts:
            total += fraction * np.exp(np.interp(np.log(energy), table[0], table[_COLUMNS[part]]))
    return total


def linear_attenuation_per_mm(of: Material | str, energy_kev: Float64 | float) -> Float64:
    """Linear attenuation coefficient μ in 1/mm, of the shape of `energy_kev`.

    >>> round(float(linear_attenuation_per_mm("water", 60.0)), 5)
    0.02059
    """
    found = material(of)
    return mass_attenuation_cm2_g(found, energy_kev) * (found.density_g_cm3 / 10)


def air_kerma_per_fluence_gy_mm2(energy_kev: Float64 | float) -> Float64:
    """Air kerma per photon and mm², in Gy·mm²: E·μ_tr/ρ of air.

    μ_tr = photoelectric + incoherent · (mean energy of the Klein–Nishina recoil electron)/E. Fluorescence of air is
    neglected, and so is the binding of electrons, which would raise it by up to 1.3 % (60–100 keV).
    Klein & Nishina (1929), Z. Phys. 52:853.
    """
    energy = np.asarray(energy_kev, np.float64)
    photo = mass_attenuation_cm2_g("air", energy, process="photoelectric")
    transferred = mass_attenuation_cm2_g("air", energy, process="incoherent") * _recoil_fraction(energy)
    joule_per_kev, gram_per_kg, mm2_per_cm2 = 1.602176634e-16, 1e3, 1e2
    return energy * (photo + transferred) * joule_per_kev * gram_per_kg * mm2_per_cm2


def _recoil_fraction(energy_kev: Float64) -> Float64:
    """Mean fraction of the photon's energy that a Compton electron takes, by Simpson integration over the angle."""
    cosine = np.linspace(-1.0, 1.0, 201)
    simpson = np.resize([2.0, 4.0], 201)
    simpson[[0, -1]] = 1.0
    ratio = 1 / (1 + energy_kev[..., None] / 510.99895 * (1 - cosine))
    cross_section = simpson * ratio**2 * (ratio + 1 / ratio - 1 + cosine**2)
    return np.asarray((cross_section * (1 - ratio)).sum(-1) / cross_section.sum(-1), np.float64)


@cache
def _elements() -> dict[int, Float64]:
    """By atomic number: rows ln energy, ln photoelectric, ln coherent, ln incoherent (4, energies)."""
    values = np.array(tabulated.rows("attenuation.csv"), np.float64)
    return {int(z): np.log(values[values[:, 0] == z, 1:]).T for z in np.unique(values[:, 0])}


@cache
def _named(name: str) -> Material:
    if factored := re.fullmatch(r"(.+)\*([0-9.]+)", name.strip()):
        base = _named(factored[1])
        return replace(base, name=name, density_g_cm3=base.density_g_cm3 * float(factored[2]))
    if dissolved := re.fullmatch(r"(\w+)_water\(([0-9.]+)\)", name.strip()):
        return _solution(dissolved[1], float(dissolved[2]), name)
    key = name.strip().lower().replace(" ", "_")
    key = _ALIASES.get(key, key)
    for found, density, composition, _source in tabulated.rows("materials.csv"):
        if found == key:
            parts = (part.split(":") for part in composition.split())
            return Material(found, float(density), tuple((int(z), float(w)) for z, w in parts))
    raise InputError(
        f"material {name!r} is not known; known are {', '.join(material_names())}, iodine_water(mg_ml) and any of them"
        " with a density factor, such as water*1.005"
    )


def _solution(solute: str, mg_ml: float, name: str) -> Material:
    dissolved, water = _named(solute), _named("water")
    if not 0 <= mg_ml / 1000 < dissolved.density_g_cm3:
        raise InputError(f"{name}: {mg_ml} mg/ml of {solute}, expected 0…{1000 * dissolved.density_g_cm3:.0f}")
    solute_g = mg_ml / 1000
    water_g = water.density_g_cm3 * (1 - solute_g / dissolved.density_g_cm3)
    density = solute_g + water_g
    mass: dict[int, float] = {}
    for part, grams in ((dissolved, solute_g), (water, water_g)):
        for number, fraction in part.mass_fractions:
            mass[number] = mass.get(number, 0.0) + fraction * grams / density
    return Material(name, density, tuple(sorted(mass.items())))
