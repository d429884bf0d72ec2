"""Installed xraydb and spekpy → the text tables of src/lampyris/physics/tables, each with header and checksum.

Run `pip install 'lampyris[tables]'` and then `python tools/make_physics_tables.py`. Neither package is needed at run
time. The files are deterministic: the same versions give the same bytes.
"""

import hashlib
import re
from pathlib import Path

import numpy as np
import spekpy
import xraydb

FOLDER = Path(__file__).resolve().parents[1] / "src" / "lampyris" / "physics" / "tables"

ELEMENTS = (
    *(1, 5, 6, 7, 8, 9, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20, 22, 24, 25, 26, 28, 29, 30, 32, 34, 35, 39, 40, 42),
    *(45, 46, 47, 48, 50, 52, 53, 55, 56, 57, 58, 64, 68, 70, 71, 72, 73, 74, 78, 79, 80, 82, 83),
)
LOWEST_KEV, HIGHEST_KEV, GRID = 1.0, 151.0, 101
EDGE_KEV = 1e-4
"""Resolution with which an absorption edge is located and stored."""

VOLTAGES_KV = range(60, 151, 5)
ANODE_ANGLES_DEG = (7, 9, 12, 15)
FIRST_BIN_KEV = 10.5

ICRU44 = "ICRU Report 44 (1989), as tabulated by NIST"
MATERIALS = (  # name, g/cm³, formula or mass fractions, where density and composition come from
    ("water", 1.0, "H2O", "stoichiometry; the reference of the HU scale"),
    ("air", 1.2048e-3, "C:.000124 N:.755267 O:.231781 Ar:.012827", "NIST, dry air near sea level, 20 °C"),
    ("pmma", 1.19, "C5H8O2", "stoichiometry; density NIST"),
    ("polyethylene", 0.93, "C2H4", "stoichiometry; density NIST"),
    ("polystyrene", 1.05, "C8H8", "stoichiometry; usual density of phantom rods"),
    ("polypropylene", 0.90, "C3H6", "stoichiometry; density NIST"),
    ("polymethylpentene", 0.83, "C6H12", "stoichiometry (PMP, TPX); maker's density"),
    ("polycarbonate", 1.20, "C16H14O3", "stoichiometry; density NIST"),
    ("teflon", 2.2, "C2F4", "stoichiometry; density of pressed rods, ICRU 37 gives 2.2"),
    ("delrin", 1.42, "CH2O", "stoichiometry; maker's density"),
    ("nylon", 1.14, "C6H11NO", "stoichiometry (nylon 6); density NIST"),
    ("graphite", 1.70, "C", "density NIST (ICRU 37)"),
    ("quartz", 2.65, "SiO2", "stoichiometry"),
    ("hydroxyapatite", 3.16, "Ca5P3O13H", "stoichiometry; crystal density"),
    ("adipose", 0.95, "H:.114 C:.598 N:.007 O:.278 Na:.001 S:.001 Cl:.001", ICRU44),
    ("soft_tissue", 1.06, "H:.102 C:.143 N:.034 O:.708 Na:.002 P:.003 S:.003 Cl:.002 K:.003", ICRU44),
    ("muscle", 1.05, "H:.102 C:.143 N:.034 O:.710 Na:.001 P:.002 S:.003 Cl:.001 K:.004", ICRU44),
    ("blood", 1.06, "H:.102 C:.110 N:.033 O:.745 Na:.001 P:.001 S:.002 Cl:.003 K:.002 Fe:.001", ICRU44),
    ("brain", 1.04, "H:.107 C:.145 N:.022 O:.712 Na:.002 P:.004 S:.002 Cl:.003 K:.003", ICRU44),
    ("breast", 1.02, "H:.106 C:.332 N:.030 O:.527 Na:.001 P:.001 S:.002 Cl:.001", ICRU44),
    ("lung", 0.26, "H:.103 C:.105 N:.031 O:.749 Na:.002 P:.002 S:.003 Cl:.003 K:.002", ICRU44 + ", inflated"),
    ("liver", 1.06, "H:.102 C:.139 N:.030 O:.716 Na:.002 P:.003 S:.003 Cl:.002 K:.003", "ICRU Report 46 (1992)"),
    (
        "cortical_bone",
        1.92,
        "H:.034 C:.155 N:.042 O:.435 Na:.001 Mg:.002 P:.103 S:.003 Ca:.225",
        ICRU44,
    ),
    (
        "spongiosa",
        1.18,
        "H:.085 C:.404 N:.028 O:.367 Na:.001 Mg:.001 P:.034 S:.002 Cl:.002 K:.001 Ca:.074 Fe:.001",
        "ICRU Report 46 (1992), skeleton, spongiosa",
    ),
    ("calcium", 1.55, "Ca", "density NIST"),
    ("iodine", 4.93, "I", "density NIST"),
    ("gadolinium", 7.90, "Gd", "density NIST"),
    ("aluminium", 2.699, "Al", "density NIST"),
    ("silicon", 2.33, "Si", "density NIST"),
    ("titanium", 4.54, "Ti", "density NIST"),
    ("iron", 7.874, "Fe", "density NIST"),
    ("copper", 8.96, "Cu", "density NIST"),
    ("molybdenum", 10.22, "Mo", "density NIST"),
    ("tin", 7.31, "Sn", "density NIST"),
    ("tungsten", 19.3, "W", "density NIST"),
    ("gold", 19.32, "Au", "density NIST"),
    ("lead", 11.35, "Pb", "density NIST"),
    ("csi", 4.51, "CsI", "stoichiometry; crystal density"),
    ("gos", 7.34, "Gd2O2S", "stoichiometry (gadolinium oxysulphide); density of ceramic scintillators"),
)


def main() -> None:
    FOLDER.mkdir(exist_ok=True)
    write(
        "attenuation.csv",
        attenuation(),
        source=f"xraydb {xraydb.__version__}, Elam, Ravel & Sieber 2002, Radiat. Phys. Chem. 63:121",
        licence="data CC0 (public domain), code of xraydb MIT",
        columns="Z,energy_kev,photoelectric_cm2_g,coherent_cm2_g,incoherent_cm2_g",
        note="interpolate ln-ln between rows of one element; every absorption edge is stored from both sides",
    )
    write(
        "tungsten.csv",
        spectra(),
        source=f"spekpy {spekpy.__version__}, physics casim, attenuation penelope: Poludniowski et al. 2021,"
        " Med. Phys. 48:3630; Omar et al. 2020, Med. Phys. 47:4763",
        licence="MIT",
        columns="anode_angle_deg,tube_voltage_kv,photons per mAs mm2 at 1 m in 1 keV bins centred on"
        f" {FIRST_BIN_KEV}, {FIRST_BIN_KEV + 1} ... keV up to the voltage",
        note="anode self-absorption included, no window, filter or air",
    )
    write(
        "materials.csv",
        materials(),
        source=f"each row names its own; atomic masses from xraydb {xraydb.__version__}",
        licence="facts",
        columns="name,density_g_cm3,Z:mass fraction ...,source",
        note="mass fractions are normalised to 1",
    )


def write(name: str, rows: list[str], *, source: str, licence: str, columns: str, note: str) -> None:
    body = "\n".join(rows) + "\n"
    head = [
        f"# {name}, made by tools/make_physics_tables.py",
        f"# source: {source}",
        f"# licence: {licence}",
        f"# columns: {columns}",
        f"# note: {note}",
        f"# sha256: {hashlib.sha256(body.encode()).hexdigest()}",
    ]
    (FOLDER / name).write_text("\n".join(head) + "\n" + body, encoding="utf-8")
    print(f"{name}: {len(rows)} rows, {len(body) // 1024} KiB")


def attenuation() -> list[str]:
    rows = []
    for number in ELEMENTS:
        symbol = xraydb.atomic_symbol(number)
        nominal = [edge.energy / 1000 for edge in xraydb.xray_edges(symbol).values()]
        sides = [side for edge in nominal if LOWEST_KEV < edge < HIGHEST_KEV for side in jump(symbol, edge)]
        energies = np.unique(np.round(np.concatenate([np.geomspace(LOWEST_KEV, HIGHEST_KEV, GRID), sides]), 5))
        parts = [xraydb.mu_elam(symbol, energies * 1000, kind=kind) for kind in ("photo", "coh", "incoh")]
        rows += [
            f"{number},{energy:.5f},{photo:.5g},{coherent:.5g},{incoherent:.5g}"
            for energy, photo, coherent, incoherent in zip(energies, *parts, strict=True)
        ]
    return rows


def jump(symbol: str, nominal_kev: float) -> list[float]:
    """Energies just below and above an edge, which the tables put up to some eV beside its nominal energy."""
    energies = np.round(nominal_kev, 4) + np.arange(-400, 401) * EDGE_KEV
    values = xraydb.mu_elam(symbol, energies * 1000, kind="photo")
    place = int(np.argmax(values[1:] / values[:-1]))
    return [energies[place], energies[place + 1]] if values[place + 1] > 1.02 * values[place] else []


def spectra() -> list[str]:
    rows = []
    for angle in ANODE_ANGLES_DEG:
        for voltage in VOLTAGES_KV:
            tube = spekpy.Spek(kvp=voltage, th=angle, dk=1.0, z=100.0, mas=1.0, targ="W", physics="casim")
            energies, per_cm2 = tube.get_spectrum(diff=False)
            kept = energies > FIRST_BIN_KEV - 0.25
            assert abs(energies[kept][0] - FIRST_BIN_KEV) < 1e-6
            assert abs(energies[-1] - (voltage - 0.5)) < 1e-6
            rows.append(f"{angle},{voltage}," + ",".join(f"{value / 100:.5g}" for value in per_cm2[kept]))
    return rows


def materials() -> list[str]:
    rows = []
    for name, density, composition, source in MATERIALS:
        parts = fractions(composition)
        total = sum(parts.values())
        listed = " ".join(f"{number}:{parts[number] / total:.6f}" for number in sorted(parts))
        rows.append(f"{name},{density:g},{listed},{source.replace(',', ';')}")
    return rows


def fractions(composition: str) -> dict[int, float]:
    """Mass by atomic number, of a formula such as Gd2O2S or of `symbol:fraction` pairs."""
    if ":" in composition:
        pairs = (each.split(":") for each in composition.split())
        return {xraydb.atomic_number(symbol): float(mass) for symbol, mass in pairs}
    atoms = re.findall(r"([A-Z][a-z]?)(\d*)", composition)
    return {xraydb.atomic_number(s): xraydb.atomic_mass(s) * int(n or 1) for s, n in atoms}


if __name__ == "__main__":
    main()
