"""Settings of penalised likelihood → table: noise, resolution by contrast, bias, of rods in water at several doses.

    python -m bench.model [--doses 1 0.1] [SETTINGS ...]

SETTINGS is "routine" or name=value,name=value,… of the method "pwls" (name=poisson: of that). The image-quality
phantom, 16.5 cm, at its rods, on 6 rows of the 64-row scanner with 22 mAs a turn at dose 1. Per row: noise in HU and
its mean frequency per mm in the middle; mean HU there; f50 per mm of the rods; with --faint also f50 and contrast of an
insert of 20 HU, from the difference of two images of the same noise, with and without it.
"""

import argparse
import dataclasses
import json
import time
from functools import cache
from pathlib import Path

import numpy as np
from PIL import Image

from lampyris import path, phantom, recon, simulate
from lampyris.model import GridRequest, InputError, Projections, RawScan, Step, Volume
from lampyris.phantom import shapes
from lampyris.phantom.assembly import line_integrals
from lampyris.quality.noise import nps, patches_at
from lampyris.quality.regions import Cylinder
from lampyris.quality.resolution import ttf

MAS = 22.0
"""At dose 1: behind 16.5 cm of water the noise of 200 mAs behind 28 cm."""
Y_MM = -40.0
REQUEST = GridRequest(212, 172.0, (0.0, 0.0), 1.0, first_mm=Y_MM - 1, last_mm=Y_MM + 1)
RODS = ("+1000 HU", "+300 HU", "-900 HU")
FAINT_HU, FAINT_AT, FAINT_MM = 20.0, (0.0, 0.0), 12.0
"""The faint insert: contrast, place (x, z) and radius."""
WATER_MM = 35.0
"""Radius of the water amid the rods."""
PATCH = 56


@cache
def quiet(diameter_mm: float) -> RawScan:
    machine = dataclasses.replace(simulate.scanner("mdct64"), rows=6, views_per_turn=288)
    protocol = simulate.Protocol("axial", mas=MAS, first_mm=Y_MM - 1, last_mm=Y_MM + 1, noise=False)
    return simulate.scan(phantom.image_quality(diameter_mm), machine, protocol)


@cache
def projections(dose: float, seed: int, diameter_mm: float, keep_quanta: bool) -> Projections:
    """Corrected as the body's recipes do; dose inf is the scan without noise."""
    scan = quiet(diameter_mm)
    if np.isfinite(dose):
        scan = simulate.realise(scan, dose, np.random.default_rng([seed, round(1e6 * dose)]))
    recipe = path.recipe("routine")
    if keep_quanta:
        steps = tuple(Step.of("log", keep_quanta=True) if one.name == "log" else one for one in recipe.corrections)
        recipe = dataclasses.replace(recipe, corrections=steps)
    return path.travel((scan, recipe), Projections).the(Projections)


def with_insert(scan: Projections) -> Projections:
    """The same scan, the same noise, with the faint insert."""
    x, z = FAINT_AT
    per_mm = scan.water_per_mm * FAINT_HU / 1000
    shape = shapes.Cylinder((x, Y_MM, z), (FAINT_MM, FAINT_MM), 60.0)
    return dataclasses.replace(scan, integrals=scan.integrals + line_integrals(shape, scan.geometry, per_mm))


def method_of(text: str) -> Step:
    if text == "routine":
        return Step("auto")
    settings = dict(pair.split("=") for pair in text.split(","))
    name = settings.pop("name", "pwls")
    return Step.of(name, **{key: value if key == "prior" else json.loads(value) for key, value in settings.items()})


def image(scan: Projections, method: Step) -> Volume:
    return recon.reconstruct(scan, method, "body", REQUEST)


def f50(volume: Volume, x: float, z: float, radius_mm: float) -> float:
    try:
        return ttf(volume, Cylinder((x, Y_MM, z), radius_mm, 3.0), needed_cnr=1.0).frequency_at(0.5)
    except InputError:
        return float("nan")


def disc(volume: Volume, x: float, z: float, radius_mm: float) -> np.ndarray:
    rows, columns = np.indices(volume.grid.shape[1:])
    first, step = volume.grid.first_voxel_mm, volume.grid.spacing_mm
    return np.hypot(first[0] + columns * step[2] - x, first[2] - rows * step[1] - z) < radius_mm


def figures(volume: Volume, other: Volume | None) -> str:
    """One row of the table; `other` is the same image with the faint insert."""
    corner = (volume.grid.shape[1] - PATCH) // 2
    noise = nps(patches_at(volume, [(k, corner, corner) for k in range(3)], PATCH), volume.grid.spacing_mm[1:])
    middle = disc(volume, 0.0, 0.0, WATER_MM)
    found = [f"{noise.standard_deviation:6.1f} {noise.mean_per_mm:5.2f} {volume.values[:, middle].mean():6.2f}"]
    places = {insert.name: insert.centre_mm for insert in phantom.image_quality().inserts}
    for name in RODS:
        found.append(f"{f50(volume, places[name][0], places[name][2], 12.5):5.2f}")
    if other is not None:
        change = dataclasses.replace(volume, values=other.values - volume.values)
        core = disc(volume, *FAINT_AT, 0.6 * FAINT_MM)
        found.append(f"{f50(change, *FAINT_AT, FAINT_MM):6.2f} {change.values[:, core].mean():6.1f}")
    return " ".join(found)


def picture(volume: Volume, file: Path) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    grey = np.clip((volume.values[1] + 150) / 400 * 255, 0, 255).astype(np.uint8)
    Image.fromarray(grey).save(file)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("settings", nargs="*", default=["routine"])
    parser.add_argument("--doses", type=float, nargs="*", default=[0.1])
    parser.add_argument("--diameter", type=float, default=165.0, help="mm")
    parser.add_argument("--faint", action="store_true", help="reconstruct with the faint insert, too")
    parser.add_argument("--pictures", type=Path, help="folder for PNGs, −150…250 HU")
    chosen = parser.parse_args()
    print(f"{'dose':>5} {'noise':>6} {'mean':>5} {'HU':>6} {'+1000':>5} {'+300':>5} {'-900':>5} {'20 HU: f50, HU':>14}")
    for text in chosen.settings:
        for dose in chosen.doses:
            method = method_of(text)
            scan = projections(dose, 0, chosen.diameter, method.name == "poisson")
            began = time.perf_counter()
            volume = image(scan, method)
            seconds = time.perf_counter() - began
            other = image(with_insert(scan), method) if chosen.faint else None
            print(f"{dose:5g} {figures(volume, other)}   {seconds:4.0f} s  {text}", flush=True)
            if chosen.pictures is not None:
                picture(volume, chosen.pictures / f"{text.replace('=', '-').replace(',', '_')}-{dose:g}.png")


if __name__ == "__main__":
    main()
