"""Every kernel's resolution, theory against measurement, as the table of docs/kernels.md.

    python -m bench.kernels > docs/kernels.md

The 64-row scanner's geometry (595/1085.6 mm, 1152 views per turn, cells 1.2858 mm wide, quarter offset), noise-free
closed-form integrals averaged over each cell's width, 0.1 mm pixels. Edge: a rod of 12.5 mm radius 22 mm from the axis;
wire: a Gaussian of σ 0.2 mm at the same place, divided out.
"""

import numpy as np

from lampyris.model import Gantry, Geometry, GridRequest, Projections, Step, Volume
from lampyris.phantom.assembly import line_integrals
from lampyris.phantom.shapes import Cylinder, Gaussian, Shape
from lampyris.quality import regions, resolution
from lampyris.recon import KERNELS, reconstruct

SUBCELLS = 5
COLUMNS = 151
CELL_MM = (1.0947, 1.2858)
STEP_MM = CELL_MM[1] * 595 / 1085.6
PLACE = (20.0, -9.0)
SIGMA_MM = 0.2

TEXT = f"""# Reconstruction kernels

What each kernel does is written in `lampyris.recon.kernels`; `Kernel.ttf` and `Kernel.f50_per_mm` give its theory for
any scanner. A compensated kernel (body, lung) gives back what linear interpolation loses, so that it means the same on
every scanner; the others are relative to the detector's Nyquist frequency. This table is printed by
`python -m bench.kernels`: the 64-row scanner's geometry, aperture included, no focal-spot blur.

TTF f50 in 1/mm (sampling and aperture {STEP_MM:.4f} mm at the isocentre, Nyquist {0.5 / STEP_MM:.3f} /mm):

| kernel | theory | axial, edge | axial, wire | helical, edge | helical, wire | theory f10 | what it is |
|---|---|---|---|---|---|---|---|"""


def _gantry(rows: int, parts: int) -> Gantry:
    central = (COLUMNS / 2 + 0.25) * parts - 0.5
    return Gantry(595.0, 1085.6, rows, COLUMNS * parts, (CELL_MM[0], CELL_MM[1] / parts), True, None, central)


def _geometry(scan: str, parts: int) -> Geometry:
    if scan == "axial":
        return Geometry.circular(_gantry(1, parts), np.arange(1152) * 360 / 1152)
    return Geometry.helical(_gantry(8, parts), views=2 * 1152, views_per_turn=1152, table_feed_mm=4.3)


def _projections(scan: str, shape: Shape) -> Projections:
    """Mean over `SUBCELLS` rays across each cell: the box aperture."""
    fine = line_integrals(shape, _geometry(scan, SUBCELLS), 0.02)
    integrals = fine.reshape(*fine.shape[:2], COLUMNS, SUBCELLS).mean(-1, dtype=np.float32)
    weights = np.broadcast_to(np.float32(1), integrals.shape)
    return Projections(integrals, weights, _geometry(scan, 1))


def _image(projections: Projections, kernel: str) -> Volume:
    request = GridRequest(500, 50.0, PLACE, CELL_MM[0] * 595 / 1085.6 * 1.001, None, 0.0, 0.0)
    return reconstruct(projections, Step.of("auto"), kernel, request)


def main() -> None:
    place = (PLACE[0], 0.0, PLACE[1])
    rod = {scan: _projections(scan, Cylinder(place, (12.5, 12.5), 900.0)) for scan in ("axial", "helical")}
    wire = {scan: _projections(scan, Gaussian(place, (SIGMA_MM, 9000.0, SIGMA_MM))) for scan in ("axial", "helical")}
    print(TEXT)
    for name, kernel in KERNELS.items():
        found = []
        for scan in ("axial", "helical"):
            edge = resolution.ttf(_image(rod[scan], name), regions.Cylinder(place, 12.5, 0.1))
            found.append(f"{edge.frequency_at(0.5):.3f}")
            found.append(f"{_wire_f50(_image(wire[scan], name)):.3f}")
        theory = f"{kernel.f50_per_mm(STEP_MM, STEP_MM):.3f}"
        low = f"{kernel.f50_per_mm(STEP_MM, STEP_MM, 0.1):.3f}"
        print("|", " | ".join([name, theory, *found, low, kernel.description.replace("|", "\\|")]), "|")


def _wire_f50(volume: Volume) -> float:
    place = regions.Cylinder((PLACE[0], 0.0, PLACE[1]), 3.0, 0.1)
    measured = resolution.wire(volume, place, reach_mm=15.0)
    blur = np.exp(-2 * (np.pi * SIGMA_MM * measured.frequency_per_mm) ** 2)
    below = np.flatnonzero(measured.transfer / blur < 0.5)[0]
    x, y = measured.frequency_per_mm[below - 1 : below + 1], (measured.transfer / blur)[below - 1 : below + 1]
    return float(np.interp(0.5, y[::-1], x[::-1]))


if __name__ == "__main__":
    main()
