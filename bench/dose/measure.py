"""Scene, method, dose and seeds → the figures of the evidence, each with its interval over seeds."""

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from scipy import ndimage, stats

from bench.dose.images import image, realisation, recipe_of
from bench.dose.scenes import NODULES, PATCHES, SLICES, SLICES_MM, Scene, scene, truth_on
from lampyris import path, phantom
from lampyris.model import Bool, Float32, Float64, InputError, Projections, Volume
from lampyris.phantom import Insert
from lampyris.quality.regions import Cylinder
from lampyris.quality.resolution import ttf
from lampyris.quality.tasks.bounds import ideal_bound
from lampyris.quality.tasks.contrast import contrast_transfer, mean_volume
from lampyris.quality.tasks.emphysema import low_attenuation
from lampyris.quality.tasks.error import Split, split_bands, split_error, tissues
from lampyris.quality.tasks.nodules import Search, nodule_volume
from lampyris.quality.tasks.observer import Observed, dense_difference_of_gaussians, hotelling
from lampyris.quality.tasks.organs import OrganBiases, organ_biases
from lampyris.quality.tasks.search import Mark, Sought, marks, sought

RODS = {"+1000 HU": "+1000 HU", "+300 HU": "+300 HU", "-900 HU": "-900 HU"}
BODY_HU = -800.0
BODY_EDGE_MM = 3.0
LOW_PASS_MM = 5.0
HELD_BY_LUNG_MM = 11.0
"""Width of what lies within the lung and is not lung: nodules and the vessels about them."""


@dataclass(frozen=True, slots=True)
class Estimate:
    """A mean over seeds with its 95 % interval (None with one seed), and the standard deviation between seeds."""

    mean: float
    interval: tuple[float, float] | None
    deviation: float | None

    @staticmethod
    def of(values: object) -> "Estimate":
        each = np.asarray(values, np.float64)
        if len(each) < 2:
            return Estimate(float(each.mean()), None, None)
        deviation = float(each.std(ddof=1))
        reach = float(stats.t.ppf(0.975, len(each) - 1)) * deviation / np.sqrt(len(each))
        return Estimate(float(each.mean()), (float(each.mean()) - reach, float(each.mean()) + reach), deviation)


def volumes(name: str, method: str, dose: float, seeds: int) -> list[Volume]:
    return [image(name, method, dose, seed).volume for seed in range(seeds)]


@lru_cache(maxsize=2)
def truth(name: str) -> Volume:
    """What was scanned, on the lattice of the scene's images, −1000 HU where nothing was."""
    found = truth_on(scene(name), image(name, "routine", np.inf, 0).volume.grid)
    values = np.where(np.isfinite(found.values), found.values, np.float32(-1000.0))
    return Volume(
        values if found.valid is None else np.where(found.valid, values, np.float32(-1000.0)), found.grid, "HU"
    )


@lru_cache(maxsize=2)
def regions(name: str) -> dict[str, Bool]:
    """Body, lung, soft tissue and bone by the truth's HU, `BODY_EDGE_MM` inside the skin."""
    real = truth(name)
    _, row_mm, column_mm = real.grid.spacing_mm
    whole = np.stack([ndimage.binary_fill_holes(_largest(one > BODY_HU)) for one in real.values])
    inside = np.stack([ndimage.distance_transform_edt(one, (row_mm, column_mm)) > BODY_EDGE_MM for one in whole])
    return tissues(real.values, np.asarray(inside, np.bool_))


def _largest(mask: Bool) -> Bool:
    parts, n = ndimage.label(mask)
    if n == 0:
        return mask
    return np.asarray(parts == 1 + np.bincount(parts.ravel())[1:].argmax(), np.bool_)


def errors(name: str, method: str, dose: float, seeds: int) -> dict[str, Split]:
    """RMSE of each tissue, split into noise, lost resolution and bias."""
    stack = np.stack([one.values for one in volumes(name, method, dose, seeds)])
    found = split_error(stack, truth(name).values, _present(name), truth(name).grid.spacing_mm)
    return {one.name: one for one in found}


def bands(name: str, method: str, dose: float, seeds: int, tissue: str) -> tuple[Split, ...]:
    """The error of one tissue by spatial frequency."""
    stack = np.stack([one.values for one in volumes(name, method, dose, seeds)])
    return split_bands(stack, truth(name).values, regions(name)[tissue], errors(name, method, dose, seeds)[tissue])


def rmse(name: str, method: str, dose: float, seeds: int) -> dict[str, Float64]:
    """RMSE of every seed's image, by tissue."""
    real = truth(name).values
    return {
        tissue: np.array(
            [
                np.sqrt(np.mean((one.values[mask].astype(np.float64) - real[mask]) ** 2))
                for one in volumes(name, method, dose, seeds)
            ]
        )
        for tissue, mask in _present(name).items()
    }


def _present(name: str) -> dict[str, Bool]:
    """The tissues of which a scene has enough to speak of."""
    return {tissue: mask for tissue, mask in regions(name).items() if mask.sum() > 1000}


def organs(name: str, method: str, dose: float, seeds: int, reference: Float32) -> OrganBiases:
    """Mean difference from a reference in every organ's core."""
    place = scene(name)
    assert place.labels is not None
    stack = np.stack([one.values for one in volumes(name, method, dose, seeds)])
    labels = _labels_on(place, truth(name))
    names = {int(each): ORGANS.get(int(each), f"label {each}") for each in np.unique(labels) if each}
    return organ_biases(stack, reference, labels, names, truth(name).grid.spacing_mm)


def drift(name: str, method: str, dose: float, seeds: int, reference: Float32) -> tuple[float, float]:
    """RMS and 99th percentile, HU, of the mean difference in soft tissue behind a low-pass of σ 5 mm in plane."""
    stack = np.stack([one.values for one in volumes(name, method, dose, seeds)])
    soft = regions(name)["soft"]
    widths = (1.0, *(LOW_PASS_MM / mm for mm in truth(name).grid.spacing_mm[1:]))
    share = ndimage.gaussian_filter(soft.astype(np.float32), widths)
    moved = ndimage.gaussian_filter(np.where(soft, stack.mean(axis=0) - reference, 0), widths)
    found = np.abs((moved / np.maximum(share, np.float32(0.1)))[soft & (share > 0.5)])
    return float(np.sqrt((found.astype(np.float64) ** 2).mean())), float(np.percentile(found, 99))


def _labels_on(place: Scene, real: Volume) -> np.ndarray:
    """Organ numbers at the image's voxels, by the nearest voxel of the label map."""
    assert place.labels is not None
    shape, grid = real.grid.shape, place.labels.grid
    corner, step = grid.index(real.grid.first_voxel_mm), grid.index(real.grid.first_voxel_mm + real.grid.steps_mm)
    diagonal = np.diag(np.atleast_2d(step) - np.atleast_2d(corner))
    found = ndimage.affine_transform(
        place.labels.values, diagonal, offset=corner, output_shape=shape, order=0, mode="constant", cval=0.0
    )
    return np.rint(found).astype(np.int16)


def resolutions(method: str, dose: float, seeds: int) -> dict[str, tuple[float, tuple[float, float] | None]]:
    """f50 in 1/mm of the mean of the seeds at the +1000, +300 and −900 HU rods."""
    body = scene("rods").subject
    found = {}
    for insert in body.inserts:  # type: ignore[union-attr]
        if insert.name in RODS:
            x, _, z = insert.centre_mm
            rod = Cylinder((x, scene("rods").y_mm, z), insert.radius_mm, float(SLICES - 2))
            try:
                one = contrast_transfer(volumes("rods", method, dose, seeds), rod)
                found[insert.name] = (one.f50_per_mm, one.interval)
            except InputError:
                transfer = ttf(mean_volume(volumes("rods", method, dose, seeds)), rod, needed_cnr=1.0)
                found[insert.name] = (transfer.frequency_at(0.5), None)
    return found


def nodules(method: str, dose: float, seeds: int) -> dict[float, tuple[Estimate | None, int]]:
    """Volume error in % of each solid nodule, and how many of the seeds' nodules could be measured."""
    found: dict[float, tuple[Estimate | None, int]] = {}
    for size, (x, z) in NODULES:
        real, errors_ = np.pi / 6 * size**3, []
        for one in volumes("thorax", method, dose, seeds):
            grid = one.grid
            offset = (np.array([x, scene("thorax").y_mm, z]) - grid.first_voxel_mm) @ grid.axes.T
            try:
                made = nodule_volume(
                    one.values, _place(offset), grid.spacing_mm, search=Search(largest_mm=max(size, 6.0))
                )
                errors_.append(100 * (made.volume_mm3 / real - 1))
            except InputError:
                continue
        found[size] = (Estimate.of(errors_) if errors_ else None, len(errors_))
    return found


@dataclass(frozen=True, slots=True)
class Searched:
    """What a searching observer makes of one image: every nodule by its diameter, and the best of its false marks."""

    nodules: tuple[tuple[float, Sought], ...]
    best_false_hu: float


def searched(method: str, dose: float, seeds: int) -> list[Searched]:
    """Each seed's image of the thorax searched for solid nodules, the phantom's own among them."""
    grid, lung = truth("thorax").grid, _lung()
    nodules = []
    for (x, y, z), size in _solid():
        offset = (np.array([x, y, z]) - grid.first_voxel_mm) @ grid.axes.T
        nodules.append((_place(offset), size))
    found = []
    for one in volumes("thorax", method, dose, seeds):
        made = marks(one.values, lung, grid.spacing_mm)
        told = tuple(zip((size for _, size in nodules), sought(made, nodules), strict=True))
        found.append(Searched(told, max(each.score_hu for each in _false(made, nodules))))
    return found


def _false(made: tuple[Mark, ...], nodules: list[tuple[tuple[float, float, float], float]]) -> list[Mark]:
    return [
        one for one in made if all(np.linalg.norm(np.subtract(one.place_mm, at)) > size / 2 for at, size in nodules)
    ]


def _solid() -> list[tuple[tuple[float, float, float], float]]:
    """Middle (x, y, z) mm and diameter mm of every solid nodule that lies whole in the slices."""
    place = scene("thorax")
    half = (place.slices - 1) / 2
    inserts = (*place.subject.inserts, *phantom.thorax().inserts)  # type: ignore[union-attr]
    solid = [(one.centre_mm, 2 * one.radius_mm) for one in inserts if one.name.startswith(("nodule", "solid nodule"))]
    return [each for each in solid if abs(each[0][1] - place.y_mm) + each[1] / 2 <= half]


def _lung() -> Bool:
    """The lung with all that lies within it."""
    real, lung = truth("thorax"), regions("thorax")["lung"]
    reach = round(HELD_BY_LUNG_MM / real.grid.spacing_mm[1] / 2) + 1
    disc = np.hypot(*np.mgrid[-reach : reach + 1, -reach : reach + 1]) <= reach
    return np.stack([ndimage.binary_closing(np.pad(one, reach), disc)[reach:-reach, reach:-reach] for one in lung])


def _place(offset: Float64) -> tuple[float, float, float]:
    slices, rows, columns = (float(each) for each in offset)
    return slices, rows, columns


def emphysema(method: str, dose: float, seeds: int) -> dict[float, tuple[float, Estimate]]:
    """LAA-950 in percent of each patch: the truth's, and the images'."""
    real = truth("thorax")
    found = {}
    for share, (x, z) in PATCHES:
        patch = _patch(real, x, z)
        expected = 100 * float((real.values[patch] < -950).mean())
        noise = np.float32(1e-3)
        read = [
            low_attenuation(one.values, patch, float(noise), denoised=True).value
            for one in volumes("thorax", method, dose, seeds)
        ]
        found[share] = (expected, Estimate.of(read))
    return found


def _patch(real: Volume, x: float, z: float) -> Bool:
    index = np.stack(np.meshgrid(*(np.arange(n) for n in real.grid.shape), indexing="ij"), -1)
    points = real.grid.position_mm(index)
    return np.asarray(np.hypot(points[..., 0] - x, points[..., 2] - z) < 14.0, np.bool_)


def contrast(method: str, dose: float, seeds: int, rod_hu: int, rod_mm: float) -> Observed:
    """Channelised Hotelling observer of one low-contrast rod against the same places without it, slices as samples."""
    size = 33
    present, absent = [], []
    x, _, z = _rod(rod_hu, rod_mm).centre_mm
    radius = np.hypot(x, z)
    for one in volumes("contrast", method, dose, seeds):
        present += _patches(one, x, z, size)
        for angle in np.deg2rad([0.0, 60.0, 120.0, 180.0, 240.0, 300.0]):  # uniform water further in, of the same noise
            absent += _patches(one, 0.4 * radius * np.cos(angle), 0.4 * radius * np.sin(angle), size)
    return hotelling(np.stack(present), np.stack(absent), dense_difference_of_gaussians(size, channels=6))


def bound(dose: float, rod_hu: int, rod_mm: float) -> float:
    """d′ of the ideal observer of all counts, for as much of a low-contrast rod as lies in one slice of 1 mm."""
    place, rod = scene("contrast"), _rod(rod_hu, rod_mm)
    made = path.travel((realisation("contrast", dose, 0), recipe_of("routine", place)), Projections).the(Projections)
    assert made.water_per_mm is not None
    x, _, z = rod.centre_mm
    disc = phantom.Cylinder((x, place.y_mm, z), (rod_mm / 2, rod_mm / 2), SLICES_MM)
    return ideal_bound(made.weights, phantom.line_integrals(disc, made.geometry, rod_hu / 1000 * made.water_per_mm))


def _rod(rod_hu: int, rod_mm: float) -> Insert:
    named = f"low contrast {rod_hu} HU {rod_mm:g} mm"
    return next(one for one in scene("contrast").subject.inserts if one.name == named)  # type: ignore[union-attr]


def _patches(one: Volume, x: float, z: float, size: int) -> list[Float32]:
    row, column = np.rint(one.grid.index((x, scene("contrast").y_mm, z))[1:]).astype(int)
    half = size // 2
    return [part[row - half : row + half + 1, column - half : column + half + 1] for part in one.values[1:-1:2]]


ORGANS = {
    1: "spleen", 2: "kidney right", 3: "kidney left", 4: "gallbladder", 5: "liver", 6: "stomach", 7: "pancreas",
    8: "adrenal right", 9: "adrenal left", 10: "lung upper left", 11: "lung lower left", 12: "lung upper right",
    13: "lung middle right", 14: "lung lower right", 15: "oesophagus", 18: "small bowel", 19: "duodenum", 20: "colon",
    21: "bladder", 22: "prostate", 25: "sacrum", 26: "vertebra S1", 27: "vertebra L5", 28: "vertebra L4",
    29: "vertebra L3", 30: "vertebra L2", 31: "vertebra L1", 32: "vertebra T12", 33: "vertebra T11", 52: "aorta",
    63: "inferior vena cava", 64: "portal and splenic vein", 65: "iliac artery left", 66: "iliac artery right",
    67: "iliac vein left", 68: "iliac vein right", 75: "femur left", 76: "femur right", 77: "hip left",
    78: "hip right", 79: "spinal cord", 80: "gluteus maximus left", 81: "gluteus maximus right",
    82: "gluteus medius left", 83: "gluteus medius right", 84: "gluteus minimus left", 85: "gluteus minimus right",
    86: "autochthon left", 87: "autochthon right", 88: "iliopsoas left", 89: "iliopsoas right", 116: "sternum",
    117: "costal cartilages",
} | {91 + n: f"rib left {n}" for n in range(1, 13)} | {103 + n: f"rib right {n}" for n in range(1, 13)}  # fmt: skip
"""Names of the classes of TotalSegmentator version 2; others go by their number."""
