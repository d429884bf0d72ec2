"""`python -m bench.image [--write]`: CT numbers, uniformity and drift of virtual scans → docs/evidence/image.md.

Everything here is scanned without noise, so that what is left is bias: of the beam-hardening correction, of the
reconstruction, of the pitch.
"""

import argparse
import time
from dataclasses import replace
from pathlib import Path

import numpy as np

from lampyris import path, phantom, simulate
from lampyris.model import Assessment, GridRequest, Recipe, Volume
from lampyris.phantom import Phantom

QUIET = simulate.Protocol(kind="axial", noise=False)


def image(body: Phantom, protocol: simulate.Protocol, request: GridRequest, kernel: str = "body") -> Volume:
    """A virtual scan on the 64-row preset, corrected and reconstructed by the routine recipe."""
    scan = simulate.scan(body, simulate.scanner("mdct64"), protocol, seed=1)
    recipe: Recipe = replace(path.recipe("routine"), grid=request, kernel=kernel)
    return path.travel((scan, recipe), Volume).the(Volume)


def mean_hu(volume: Volume, centre_mm: tuple[float, float, float], radius_mm: float) -> np.ndarray:
    """Mean of a disc in every slice."""
    _, rows, columns = volume.grid.shape
    index = np.stack(np.meshgrid([0], np.arange(rows), np.arange(columns), indexing="ij"), -1)
    points = volume.grid.position_mm(index)[0]
    inside = np.hypot(points[..., 0] - centre_mm[0], points[..., 2] - centre_mm[2]) <= radius_mm
    return np.asarray(volume.values[:, inside].mean(1, dtype=np.float64))


def water() -> list[str]:
    """Centre and edges of water cylinders at three voltages."""
    head = "| diameter mm | kV | centre HU | largest edge − centre, HU |"
    rows = ["## Water cylinders, axial, no noise", "", head, "|---|---|---|---|"]
    for diameter in (200.0, 320.0):
        body = phantom.water_cylinder(diameter, 60.0)
        for kv in (80.0, 120.0, 140.0):
            request = GridRequest(256, diameter + 30, (0.0, 0.0), slice_thickness_mm=2.0, first_mm=-4.0, last_mm=4.0)
            made = image(body, replace(QUIET, tube_voltage_kv=kv), request)
            means = [mean_hu(made, insert.centre_mm, insert.radius_mm).mean() for insert in body.inserts]
            edge = max((mean - means[0] for mean in means[1:]), key=abs)
            rows.append(f"| {diameter:g} | {kv:g} | {means[0]:+.2f} | {edge:+.2f} |")
    return rows


def pitches() -> list[str]:
    """A water cylinder off the axis: drift along the slices for each pitch, and the difference to axial."""
    body, place = phantom.water_cylinder(200.0, 120.0, (18.0, 0.0, -11.0)), (18.0, 0.0, -11.0)
    request = GridRequest(256, 260.0, (0.0, 0.0), slice_thickness_mm=1.0, first_mm=-6.0, last_mm=6.0)
    head = "| pitch | mean within 80 mm of the centre, HU | largest drift of a slice from that mean, HU |"
    rows = ["## Helical against axial, no noise", "", head, "|---|---|---|"]
    for pitch in (None, 0.3, 0.5, 0.8, 1.0, 1.2, 1.5):
        chosen = QUIET if pitch is None else replace(QUIET, kind="helical", pitch=pitch)
        means = mean_hu(image(body, replace(chosen, first_mm=-6.0, last_mm=6.0), request), place, 80.0)
        name = "axial" if pitch is None else f"{pitch:g}"
        rows.append(f"| {name} | {means.mean():+.2f} | {np.abs(means - means.mean()).max():.2f} |")
    return rows


def inserts() -> list[str]:
    """The rods of the image-quality phantom at full dose and a tenth of it."""
    head = "| figure | full dose | a tenth | unit |"
    rows = ["## Rods of the image-quality phantom, helical, 120 kV", "", head, "|---|---|---|---|"]
    body = phantom.image_quality()
    judged = []
    for dose in (1.0, 0.1):
        protocol = simulate.Protocol(kind="helical", mas=200.0, first_mm=-52.0, last_mm=-28.0)
        scan = simulate.scan(body, simulate.scanner("mdct64"), protocol, dose=dose, seed=2)
        given = (scan, path.recipe("quality-control"), path.Reference(inserts=body.inserts))
        judged.append(path.travel(given, Assessment).the(Assessment))
    for figure in judged[0].figures:
        other = next((one.value for one in judged[1].figures if one.name == figure.name), float("nan"))
        rows.append(f"| {figure.name} | {figure.value:.4g} | {other:.4g} | {figure.unit} |")
    return rows


def main() -> None:
    arguments = argparse.ArgumentParser(prog="bench.image", description=__doc__)
    arguments.add_argument("--write", action="store_true", help="keep the tables as docs/evidence/image.md")
    chosen = arguments.parse_args()
    began = time.perf_counter()
    lines = [line for part in (water(), pitches(), inserts()) for line in [*part, ""]]
    lines.append(f"Made in {time.perf_counter() - began:.0f} s by `python -m bench.image --write`.")
    print("\n".join(lines))
    if chosen.write:
        text = "# Image quality of virtual scans\n\n" + "\n".join(lines) + "\n"
        Path("docs/evidence/image.md").write_text(text, "utf-8")


if __name__ == "__main__":
    main()
