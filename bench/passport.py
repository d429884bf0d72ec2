"""Seeds → table: the noise that one scan tells, over the noise of many scans of the same object.

    python -m bench.passport [--seeds 30] [--told 3] [--recipes micro …]

An off-centre elliptic trunk with soft tissue, bone and air (closed form), counts of the compound-Poisson kind as
Gaussian noise of the integrals, variance ∝ exp(q). Per row: mean over the trunk of told over true SD, its 5th
and 95th percentile, share of pixels within 15 %. True: over the seeds, squares averaged over 9² pixels.
"""

import argparse
from collections.abc import Callable
from dataclasses import replace

import numpy as np
from scipy import ndimage

from lampyris import path
from lampyris.model import Applied, FocalSpotShift, Gantry, Geometry, GridRequest, Projections, Step, Volume
from lampyris.phantom.assembly import line_integrals
from lampyris.phantom.shapes import Cylinder
from lampyris.recon import deviation, deviation_of_replicates, perturbed, reconstruct

WATER = 0.0193
AUTO = Step("auto")
BODY = (
    (Cylinder((19.0, 0.0, -12.0), (150.0, 110.0), 400.0), WATER),
    (Cylinder((61.0, 0.0, 24.0), (19.0, 19.0), 400.0), 0.25 * WATER),
    (Cylinder((-52.0, 0.0, -49.0), (17.0, 17.0), 400.0), -WATER),
    (Cylinder((80.0, 0.0, -50.0), (8.0, 8.0), 400.0), WATER),
)
ROW = Gantry(541.0, 949.0, 1, 401, (1.7, 1.9), True, None, 200.25)
STACK = Gantry(541.0, 949.0, 6, 401, (1.7, 1.9), True, 2.6, 200.25)
FLYING = FocalSpotShift.alternating(2401, (-0.001, 0.001))
SCANS = {
    "fan": Geometry.circular(ROW, 23.0 + np.arange(901) * 360 / 901),
    "short fan": Geometry.circular(ROW, 23.0 - np.arange(620) * 0.4),
    "cone beam": Geometry.circular(STACK, 23.0 + np.arange(900) * 0.4, axial_mm=2.0),
    "helix": Geometry.helical(STACK, views=1501, views_per_turn=900, table_feed_mm=4.5),
    "helix, flying spot": Geometry.helical(STACK, views=2401, views_per_turn=1500, table_feed_mm=4.5, shift=FLYING),
}


def request(rows: int) -> GridRequest:
    place = {} if rows == 1 else {"first_mm": 1.3, "last_mm": 1.3}
    return GridRequest(256, 340.0, (19.0, -12.0), 1.0, **place)


def clean(geometry: Geometry) -> Projections:
    integrals = np.zeros(geometry.shape, np.float32)
    for shape, per_mm in BODY:
        integrals += line_integrals(shape, geometry, per_mm)
    weights = (2e5 * np.exp(-integrals)).astype(np.float32)
    known = (Applied.of("log", noise="of the scan"),)
    return Projections(integrals, weights, geometry, water_per_mm=WATER, history=known)


def noisy(scan: Projections, seed: int) -> Projections:
    normal = np.random.default_rng(seed).standard_normal(scan.integrals.shape, np.float32)
    return replace(scan, integrals=scan.integrals + normal / np.sqrt(scan.weights))


def as_it_is(volume: Volume) -> Volume:
    return volume


def diffused(volume: Volume) -> Volume:
    """An edge-preserving denoiser: Perona and Malik's diffusion, four steps, conductance falling over 40 HU."""
    values = volume.values.astype(np.float64)
    for _ in range(4):
        steps = [np.roll(values, turn, axis) - values for axis in (1, 2) for turn in (1, -1)]
        values = values + 0.2 * sum(step * np.exp(-((step / 40.0) ** 2)) for step in steps)
    return replace(volume, values=values.astype(np.float32))


def row(
    name: str, seeds: int, told: int, *, replicates: int, denoise: Callable[[Volume], Volume], how: Step = AUTO
) -> str:
    scan = clean(SCANS[name])
    wanted = request(scan.geometry.rows)

    def image(projections: Projections) -> Volume:
        return denoise(reconstruct(projections, how, "hann", wanted))

    true = np.var([image(noisy(scan, seed)).values[0] for seed in range(seeds)], axis=0, ddof=1)
    true = np.sqrt(ndimage.uniform_filter(true, 9))
    ratios = []
    for seed in range(seeds, seeds + told):
        one = noisy(scan, seed)
        first = image(one)
        if replicates:
            rng = np.random.default_rng(seed)
            more = [image(perturbed(one, rng, share=0.5)) for _ in range(replicates)]
            found = deviation_of_replicates(first, more, 0.5, first.grid)
        else:
            found = deviation(one, AUTO, "hann", wanted, first.grid, reconstruct=reconstruct, image=first)
        inside = trunk(first)
        ratios.append(found[0][inside] / true[inside])
    ratio = np.concatenate(ratios)
    low, high = np.percentile(ratio, (5, 95))
    return f"{ratio.mean():6.3f} {low:6.3f} {high:6.3f} {np.mean(np.abs(ratio - 1) < 0.15):7.2f}"


def trunk(volume: Volume) -> np.ndarray:
    """(rows, columns) within the trunk, 6 mm from its skin."""
    rows, columns = np.indices(volume.grid.shape[1:])
    x = volume.grid.first_voxel_mm[0] + columns * volume.grid.spacing_mm[2]
    z = volume.grid.first_voxel_mm[2] - rows * volume.grid.spacing_mm[1]
    return np.asarray(((x - 19) / 144) ** 2 + ((z + 12) / 104) ** 2 < 1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=30)
    parser.add_argument("--told", type=int, default=3)
    parser.add_argument("--scans", nargs="*", default=list(SCANS))
    parser.add_argument("--recipes", nargs="*", help="these recipes' methods, with the replicates of their passports")
    chosen = parser.parse_args()
    print(f"{'scan':20} {'noise told by':32}   mean     5%    95%  in 15%")
    for name in chosen.scans:
        for recipe in chosen.recipes or ():
            own = path.recipe(recipe)
            count = dict(own.passport.settings)["count"]
            found = row(name, chosen.seeds, chosen.told, replicates=count, denoise=as_it_is, how=own.method)
            print(f"{name:20} {f'{count} replicate, {recipe}':32} {found}", flush=True)
        if chosen.recipes:
            continue
        cases = [
            ("wild bootstrap", 0, as_it_is),
            ("2 replicates", 2, as_it_is),
            ("2 replicates, diffused", 2, diffused),
        ]
        for told_by, replicates, denoise in cases:
            found = row(name, chosen.seeds, chosen.told, replicates=replicates, denoise=denoise)
            print(f"{name:20} {told_by:32} {found}", flush=True)


if __name__ == "__main__":
    main()
