"""Image, its noise map and the analytic image of the same scan → Passport: how noisy, how biased, good for which tasks.

Bias: the difference to the analytic image, which is linear in the counts and hence right on the average, behind a
Gaussian low-pass in every slice; it is told from noise by the noise that the analytic image keeps behind that filter,

    SD_low² = SD²·∫ f·NPS·G² df / ∫ f·NPS df,  G = exp(−2π²s²f²), NPS ∝ f below what patches of 64² can tell.

That is what a method shows that removes all noise, hence the most that chance can make of the difference. Tasks: d′ of
the non-prewhitening observer (AAPM TG-233) in one slice, with the NPS measured in uniform places of this very image,
scaled to the local standard deviation.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from scipy import ndimage, stats

from lampyris.model import (
    Bool,
    Detection,
    Figure,
    Float32,
    Float64,
    Grid,
    InputError,
    Origin,
    Passport,
    Volume,
)
from lampyris.quality import detectability, dose, noise, regions
from lampyris.quality.gate import NOT_MEASURED

SOFT_HU = (-50.0, 150.0)
MAP_MM = 2.0
"""Least side of a voxel of the maps."""
LOW_PASS_MM = 6.0
"""Standard deviation s of the low-pass: a full width at half maximum of 14 mm."""
SIGNIFICANT, RELEVANT_HU = 3.0, 3.0
"""A voxel counts as biased beyond so many standard deviations and so many HU (the house's limit on organs)."""
CHANCE = 0.05
"""Chance of telling any largest bias at all of an image that has none."""
SEEN = 5.0
"""d′ from which a task is met: Rose's signal-to-noise ratio of certain detection (Rose 1948, JOSA 38:196)."""
RODS = tuple((contrast, size) for contrast in (5.0, 10.0, 20.0) for size in (3.0, 5.0, 8.0, 10.0))
NODULES = tuple((900.0, size) for size in (4.0, 6.0, 8.0, 10.0))
INSERTS = ((-900.0, 3.0), (300.0, 3.0))
SLICES = 16
FEWEST_PATCHES = 4
TRUSTED_BIN = 3
"""Rings of the NPS below this one are bent by the detrending of their patches."""

Setting = tuple[str, Any]


@dataclass(frozen=True, slots=True, eq=False)
class Analytic:
    """The analytic image of the same scan, on the same grid, and the map of its noise."""

    image: Volume
    noise: Volume


@dataclass(frozen=True, slots=True, eq=False)
class Transfer:
    """What is known of the resolution: TTF over frequency in 1/mm, and of what it is."""

    frequency_per_mm: Float64
    value: Float64
    origin: str


@dataclass(slots=True)
class _Findings:
    figures: list[Figure] = field(default_factory=list)
    detections: list[Detection] = field(default_factory=list)
    reasons: list[str] = field(default_factory=list)

    def add(
        self, name: str, value: float, unit: str, settings: tuple[Setting, ...], origin: Origin = "computed"
    ) -> None:
        self.figures.append(Figure(name, float(value), unit, origin, tuple(sorted(settings))))

    def miss(self, name: str, why: str) -> None:
        self.reasons.append(f"{NOT_MEASURED}{name}: {why}")


@dataclass(frozen=True, slots=True, eq=False)
class _Places:
    """The image in blocks, and the masks of blocks: body, lung and uniform soft tissue."""

    blocks: regions.Coarse
    inside: Bool
    lung: Bool
    soft: Bool

    @staticmethod
    def of(volume: Volume) -> "_Places":
        blocks = regions.coarse(volume, MAP_MM)
        hu = volume.quantity == "HU"
        inside = regions.body(blocks) if hu else regions.body(blocks, regions.otsu(blocks.values))
        nowhere = np.zeros(inside.shape, np.bool_)
        calm = ndimage.median_filter(blocks.values, (1, 3, 3))
        soft = inside & (calm > SOFT_HU[0]) & (calm < SOFT_HU[1]) if hu else nowhere
        return _Places(blocks, inside, regions.lungs(blocks, inside) if hu else nowhere, soft)


def map_grid(grid: Grid) -> Grid:
    """The lattice of a passport's maps: whole blocks of pixels of at least 2 mm, every slice."""
    block = max(1, min(int(np.ceil(MAP_MM / max(grid.spacing_mm[1:]))), *grid.shape[1:]))
    middle = (block - 1) / 2
    return replace(
        grid,
        shape=(grid.shape[0], grid.shape[1] // block, grid.shape[2] // block),
        spacing_mm=(grid.spacing_mm[0], block * grid.spacing_mm[1], block * grid.spacing_mm[2]),
        first_voxel_mm=grid.position_mm((0.0, middle, middle)),
    )


def passport(
    volume: Volume,
    noise_map: Volume | None,
    *,
    analytic: Analytic | None = None,
    transfer: Transfer | None = None,
    how: tuple[Setting, ...] = (),
) -> Passport:
    """What this image may be trusted with; figures `passport_noise`, `passport_noise_lung`, `passport_bias_rms`,
    `passport_bias_max`, `passport_bias_share` and `passport_tasks_met`.

    `noise_map` is the standard deviation on `map_grid(volume.grid)`, `how` it was found; None: the scan does not tell
    its noise, and neither noise nor tasks are there. `analytic` is left out for an
    analytic image: it has no bias against itself. Without `transfer` there are no tasks. What could not be measured
    stands in `reasons`.

    Raises InputError for maps or images on another grid or in another unit.
    """
    _check(volume, noise_map, analytic)
    places, findings = _Places.of(volume), _Findings()
    bias = None if analytic is None else _bias(volume, analytic, places, findings)
    if noise_map is None:
        for name in ("passport_noise", "passport_tasks_met"):
            findings.miss(
                name, "the noise of the scan is not known, so that it could not be made again with more of it"
            )
    else:
        _noise(volume, noise_map.values, places, findings, how)
        _tasks(volume, noise_map.values, places, transfer, findings)
    return Passport(noise_map, bias, tuple(findings.figures), (), tuple(findings.detections), tuple(findings.reasons))


def _check(volume: Volume, noise_map: Volume | None, analytic: Analytic | None) -> None:
    wanted = map_grid(volume.grid)
    maps = {"the noise map": noise_map, "the analytic noise map": None if analytic is None else analytic.noise}
    for name, one in maps.items():
        if one is None:
            continue
        if one.grid.shape != wanted.shape or one.quantity != volume.quantity:
            raise InputError(
                f"{name} is {one.grid.shape} in {one.quantity}, expected {wanted.shape} in {volume.quantity}"
            )
    if analytic is not None:
        image = analytic.image
        apart = float(np.abs(image.grid.first_voxel_mm - volume.grid.first_voxel_mm).max())
        if image.grid.shape != volume.grid.shape or image.quantity != volume.quantity or apart > 1e-3:
            raise InputError(
                f"the analytic image is {image.grid.shape} in {image.quantity}, {apart:.3g} mm away from the image of"
                f" {volume.grid.shape} in {volume.quantity}: made with another grid request?"
            )


def _noise(volume: Volume, deviation: Float32, places: _Places, findings: _Findings, how: tuple[Setting, ...]) -> None:
    """Median standard deviation of soft tissue, or of the body where there is none; and of the lung."""
    place, name = (places.soft, "soft tissue") if places.soft.any() else (places.inside, "body")
    if not place.any():
        findings.miss("passport_noise", "no body was found in the image")
        return
    settings: tuple[Setting, ...] = (*how, ("place", name), ("voxels", int(place.sum())))
    findings.add("passport_noise", float(np.median(deviation[place])), volume.quantity, settings)
    if places.lung.any():
        settings = (*how, ("place", "lung"), ("voxels", int(places.lung.sum())))
        findings.add("passport_noise_lung", float(np.median(deviation[places.lung])), volume.quantity, settings)


def _bias(volume: Volume, analytic: Analytic, places: _Places, findings: _Findings) -> Volume:
    """The low-pass difference, and how much of it is more than chance."""
    reference = regions.coarse(analytic.image, MAP_MM)
    spacing = places.blocks.spacing_mm
    sigma = (0.0, LOW_PASS_MM / spacing[1], LOW_PASS_MM / spacing[2])
    low = ndimage.gaussian_filter(places.blocks.values - reference.values, sigma, mode="nearest")
    found = replace(analytic.noise, values=low.astype(np.float32), valid=None)
    names = "passport_bias_rms", "passport_bias_max", "passport_bias_share"
    spectrum = _spectrum(analytic.image, _Places.of(analytic.image))
    if spectrum is None or not places.inside.any():
        for name in names:
            findings.miss(name, f"fewer than {FEWEST_PATCHES} uniform patches tell how much noise the low-pass leaves")
        return found
    kept = _kept(spectrum, LOW_PASS_MM)
    chance = analytic.noise.values[places.inside].astype(np.float64) * kept
    there = np.abs(low[places.inside].astype(np.float64))
    cells = max(1.0, places.inside.sum() * spacing[1] * spacing[2] / (4 * np.pi * LOW_PASS_MM**2))
    bound = float(stats.norm.isf(CHANCE / 2 / cells))
    settings: tuple[Setting, ...] = (
        ("low_pass_mm", LOW_PASS_MM),
        ("noise_kept", round(kept, 4)),
        ("patches", spectrum.patches),
        ("chance_rms", round(float(np.sqrt(np.mean(chance**2))), 3)),
    )
    excess = float(np.mean(there**2) - np.mean(chance**2))
    unit, relevant = volume.quantity, RELEVANT_HU if volume.quantity == "HU" else 0.0
    findings.add(names[0], float(np.sqrt(max(excess, 0.0))), unit, settings)
    findings.add(
        names[1],
        float(there[(there > bound * chance) & (there > relevant)].max(initial=0.0)),
        unit,
        (*settings, ("beyond", round(bound, 2))),
    )
    biased = (there > SIGNIFICANT * chance) & (there > relevant)
    findings.add(names[2], float(biased.mean()), "", (*settings, ("beyond", SIGNIFICANT), ("and_beyond", relevant)))
    return found


def _kept(spectrum: noise.NoisePower, sigma_mm: float) -> float:
    """Share of the standard deviation that the low-pass leaves; the NPS falls linearly to 0 below the trusted rings."""
    frequency = np.linspace(0, spectrum.frequency_per_mm[-1], 2001)
    first = min(TRUSTED_BIN, len(spectrum.power) - 1)
    power = np.interp(frequency, spectrum.frequency_per_mm, spectrum.power)
    edge, level = spectrum.frequency_per_mm[first], spectrum.power[first]
    power = np.where(frequency < edge, level * frequency / edge, power)
    passed = np.exp(-4 * (np.pi * sigma_mm * frequency) ** 2)
    return float(np.sqrt(np.sum(frequency * power * passed) / np.sum(frequency * power)))


def _spectrum(volume: Volume, places: _Places) -> noise.NoisePower | None:
    """NPS of uniform patches in up to 16 slices; None where there are fewer than 4."""
    try:
        level = noise.global_noise(volume, places.blocks, places.soft, slices=SLICES).standard_deviation
    except InputError:
        return None
    for size in (noise.WANTED_SIZE, noise.WANTED_SIZE // 2):
        corners = noise.uniform_patches(volume, places.blocks, places.soft, size, noise=level, slices=SLICES)
        if len(corners) >= FEWEST_PATCHES and level > 0:
            spacing = volume.grid.spacing_mm[1], volume.grid.spacing_mm[2]
            return noise.nps(noise.patches_at(volume, corners, size), spacing)
    return None


def _tasks(volume: Volume, deviation: Float32, places: _Places, transfer: Transfer | None, findings: _Findings) -> None:
    """d′ of every task in the noise of its tissue."""
    if transfer is None or volume.quantity != "HU":
        findings.miss("passport_tasks_met", "no transfer function is known, or the image is not in HU")
        return
    spectrum = _spectrum(volume, places)
    if spectrum is None:
        findings.miss("passport_tasks_met", f"fewer than {FEWEST_PATCHES} uniform patches for a noise spectrum")
        return
    for tissue, mask, tasks in _wanted(places):
        level = float(np.median(deviation[mask]))
        power = spectrum.power * (level**2 / spectrum.integral)
        for name, contrast, size in tasks:
            found = detectability.npw(
                detectability.Disc(size / 2, contrast),
                (transfer.frequency_per_mm, transfer.value),
                (spectrum.frequency_per_mm, power),
            ).value
            findings.detections.append(Detection(name, tissue, size, contrast, level, found, found >= SEEN))
    diameter = dose.water_equivalent_diameter(volume, places.blocks, places.inside)
    settings: tuple[Setting, ...] = (
        ("threshold", SEEN),
        ("tasks", len(findings.detections)),
        ("nps", f"{spectrum.patches} patches of {spectrum.size}² of this image"),
        ("transfer", transfer.origin),
        ("water_equivalent_mm", round(diameter.mean_mm, 1)),
    )
    findings.add("passport_tasks_met", sum(one.met for one in findings.detections), "tasks", settings, "estimated")


def _wanted(places: _Places) -> Iterator[tuple[str, Bool, list[tuple[str, float, float]]]]:
    """Tissues that the image holds, with the tasks in each: name, contrast in HU, size in mm."""
    if places.soft.any():
        rods = [("low-contrast rod", contrast, size) for contrast, size in RODS]
        yield "soft tissue", places.soft, rods + [("small insert", contrast, size) for contrast, size in INSERTS]
    if places.lung.any():
        yield "lung", places.lung, [("solid nodule", contrast, size) for contrast, size in NODULES]
