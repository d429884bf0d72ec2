"""Volume and what is known of it → Assessment: every figure that can be measured on this image, with its settings."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from scipy import ndimage

from lampyris.model import (
    Acquisition,
    Assessment,
    Bool,
    Curve,
    Figure,
    Float64,
    InputError,
    Origin,
    Spectrum,
    Volume,
)
from lampyris.phantom import Insert
from lampyris.quality import detectability, dose, faults, noise, regions
from lampyris.quality.gate import NOT_MEASURED
from lampyris.quality.inserts import Found, Rod, measure
from lampyris.quality.truth import compare, mirrored, on_grid, samples

SOFT_HU = (-50.0, 150.0)
"""Where noise is measured: water, muscle, liver; not fat, which lies in thin layers."""
REFERENCE_TASK = detectability.Disc(2.5, 15.0)
"""The house's task for d′: a disc of 5 mm and 15 HU, a small low-contrast lesion."""


@dataclass(slots=True)
class _Findings:
    """What was found so far."""

    figures: list[Figure] = field(default_factory=list)
    curves: list[Curve] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)

    def add(self, name: str, value: float, unit: str, origin: Origin = "computed", **settings: Any) -> None:
        self.figures.append(Figure(name, float(value), unit, origin, tuple(sorted(settings.items()))))

    def miss(self, names: str, error: InputError) -> None:
        self.missing += [f"{NOT_MEASURED}{name}: {error}" for name in names.split()]

    def take(self, found: Found) -> Found:
        self.figures += found.figures
        self.curves += found.curves
        self.missing += found.missing
        return found


@dataclass(frozen=True, slots=True, eq=False)
class _Masks:
    """The image in blocks, and which blocks are body, lung and uniform enough to look for noise."""

    blocks: regions.Coarse
    inside: Bool
    lung: Bool
    soft: Bool


def assess(
    volume: Volume,
    *,
    acquisition: Acquisition | None = None,
    truth: Volume | None = None,
    inserts: Sequence[Insert | Rod] = (),
    spectrum: Spectrum | None = None,
    ctdivol_origin: Origin = "reported",
    scanned_mm: float | None = None,
) -> Assessment:
    """Measure what can be measured; the verdict is left to `gate.judge`.

    An image in HU gives noise, NPS, CT numbers, size and dose; one in 1/mm the noise, faults and comparison only.
    `truth` may lie on another grid in the same frame and quantity: it is averaged onto the image's. `inserts` are in
    the volume's own frame; with the `spectrum` of the scan their materials say what HU to expect. CTDIvol comes from
    `acquisition`; say with `ctdivol_origin` whether a scanner reported it or we computed it, and with `scanned_mm` how
    long the scan was (`dose.Output`). What could not be measured, and why, stands in `reasons` and alone changes no
    verdict.

    Raises InputError when the truth is in another frame or quantity, or does not overlap.
    """
    findings = _Findings()
    broken = faults.broken(volume)
    findings.add("fault_nan_voxels", broken.nan_voxels, "voxels")
    findings.add("fault_constant_slices", broken.constant_slices, "slices")
    masks = _masks(volume)
    real = None if truth is None else _real(truth, volume)
    power = _noise(volume, masks, findings)
    _rings(volume, acquisition, masks, findings)
    found = findings.take(measure(volume, inserts, real, spectrum))
    if power is not None:
        _detectability(power, found, findings)
    if volume.quantity == "HU":
        _surroundings(masks, findings)
        _dose(volume, masks, findings, _output(acquisition, ctdivol_origin, scanned_mm))
    if truth is not None and real is not None:
        _compare(volume, real, truth, findings)
    return Assessment(tuple(findings.figures), tuple(findings.curves), reasons=tuple(findings.missing))


def _masks(volume: Volume) -> _Masks:
    """Body and lung; and the uniform matter: soft tissue in HU, in 1/mm a tenth about the object's median."""
    blocks = regions.coarse(volume)
    if volume.quantity == "HU":
        inside = regions.body(blocks)
        lung = regions.lungs(blocks, inside)
        low, high = SOFT_HU
    else:
        threshold = regions.otsu(blocks.values)
        inside = regions.body(blocks, threshold)
        lung = np.zeros(inside.shape, np.bool_)
        dense = blocks.values[inside & (blocks.values > threshold)]
        middle = float(np.median(dense)) if dense.size else 0.0
        low, high = 0.9 * middle, 1.1 * middle
    # A median over neighbours, so that noise does not tear holes into uniform tissue.
    calm = np.stack([ndimage.median_filter(image, 3) for image in blocks.values])
    return _Masks(blocks, inside, lung, inside & (calm > low) & (calm < high))


def _real(given: Volume, volume: Volume) -> Volume:
    """The truth on the image's grid."""
    if given.quantity != volume.quantity or given.frame != volume.frame:
        raise InputError(
            f"the truth is in {given.quantity} and the {given.frame} frame, the image in {volume.quantity} and the"
            f" {volume.frame} frame: convert one of them first"
        )
    return on_grid(given, volume.grid)


def _noise(volume: Volume, masks: _Masks, findings: _Findings) -> noise.NoisePower | None:
    """Global noise, then NPS from the patches that hold nothing but noise; returns the NPS."""
    unit = volume.quantity
    try:
        level = noise.global_noise(volume, masks.blocks, masks.soft)
    except InputError as error:
        findings.miss("noise nps_peak nps_mean", error)
        return None
    settings: dict[str, Any] = {
        "method": "Christianson 2015",
        "window_pixels": level.window_pixels,
        "windows": level.windows,
    }
    findings.add("noise", level.standard_deviation, unit, **settings)
    if level.standard_deviation == 0:
        findings.miss("nps_peak nps_mean", InputError("the image has no noise"))
        return None
    corners, size = _patches(volume, masks, level.standard_deviation)
    if len(corners) < 4:
        findings.miss("nps_peak nps_mean", InputError(f"{len(corners)} uniform patches of {size}² pixels, expected 4"))
        return None
    spectrum = noise.nps(
        noise.patches_at(volume, corners, size), (volume.grid.spacing_mm[1], volume.grid.spacing_mm[2])
    )
    told: dict[str, Any] = {
        "detrend": spectrum.detrend,
        "patches": spectrum.patches,
        "size": size,
        "tg233": spectrum.sufficient,
    }
    findings.add("nps_noise", spectrum.standard_deviation, unit, **told)
    findings.add("nps_integral_error", spectrum.integral / spectrum.standard_deviation**2 - 1, "", **told)
    findings.add("nps_peak", spectrum.peak_per_mm, "1/mm", **told)
    findings.add("nps_mean", spectrum.mean_per_mm, "1/mm", **told)
    findings.add("nps_anisotropy", spectrum.anisotropy, "", sectors=12, **told)
    x, y = spectrum.frequency_per_mm, spectrum.power
    _slices(volume, masks, corners, size, findings)
    findings.curves.append(
        Curve("nps", tuple(map(float, x)), tuple(map(float, y)), "1/mm", f"({unit})² mm²", tuple(sorted(told.items())))
    )
    return spectrum


def _slices(
    volume: Volume, masks: _Masks, corners: Sequence[tuple[int, int, int]], size: int, findings: _Findings
) -> None:
    """Correlation of the noise with the next slice's, where a patch is uniform in four slices on end; from 4 places."""
    depth = 4
    stacks = []
    for index, row, column in corners:
        block = slice(index, index + depth), slice(row, row + size), slice(column, column + size)
        if index + depth > volume.grid.shape[0]:
            continue
        above = range(index, index + depth)
        if all(noise.usable(volume, masks.blocks, masks.soft, each)[block[1:]].all() for each in above):
            stacks.append(volume.values[block])
        if len(stacks) == 40:
            break
    if len(stacks) < 4:
        why = f"{len(stacks)} places are uniform over {depth} slices on end, expected 4"
        findings.miss("noise_slice_correlation", InputError(why))
        return
    found = noise.slice_correlation(np.stack(stacks))
    findings.add("noise_slice_correlation", float(found[1]), "", places=len(stacks), size=size, slices=depth)


def _patches(volume: Volume, masks: _Masks, level: float) -> tuple[list[tuple[int, int, int]], int]:
    """Patches of 64² if there are TG-233's twenty, else of 32² if that gives more."""
    best: list[tuple[int, int, int]] = []
    best_size = noise.WANTED_SIZE
    for size in (noise.WANTED_SIZE, noise.WANTED_SIZE // 2):
        corners = noise.uniform_patches(volume, masks.blocks, masks.soft, size, noise=level)
        if len(corners) > len(best):
            best, best_size = corners, size
        if len(best) >= noise.WANTED_PATCHES:
            break
    return best, best_size


def _rings(volume: Volume, acquisition: Acquisition | None, masks: _Masks, findings: _Findings) -> None:
    """Ring score about the axis of rotation, where it is known to lie."""
    try:
        axis = _axis_mm(volume, acquisition)
        found = faults.rings(volume, masks.blocks, masks.soft, axis)
    except InputError as error:
        findings.miss("fault_ring", error)
        return
    findings.add(
        "fault_ring", found.rms, volume.quantity, sectors=faults.SECTORS, slices=found.slices,
        strongest_mm=round(found.strongest_mm, 2), axis_mm=[round(float(each), 3) for each in axis],
    )  # fmt: skip


def _axis_mm(volume: Volume, acquisition: Acquisition | None) -> Float64:
    """A point on the axis of rotation: the gantry frame's origin."""
    if volume.frame == "gantry":
        return np.zeros(3)
    if acquisition is None:
        raise InputError("where the axis of rotation lies in patient coordinates is not told")
    return np.asarray(acquisition.DataCollectionCenterPatient, np.float64)


def _detectability(spectrum: noise.NoisePower, found: Found, findings: _Findings) -> None:
    """d′ of the house's task with the transfer function of the insert whose contrast is the least."""
    rods = [(name, transfer) for name, transfer in found.transfers if name != "wire"] or list(found.transfers)
    if not rods:
        return
    name, transfer = min(rods, key=lambda each: abs(each[1].contrast))
    result = detectability.npw(
        REFERENCE_TASK, (transfer.frequency_per_mm, transfer.transfer), (spectrum.frequency_per_mm, spectrum.power)
    )
    findings.add(
        "npw_15HU_5mm", result.value, "", task="disc, 15 HU, radius 2.5 mm", transfer=name, eye="none",
        highest_per_mm=round(result.highest_per_mm, 4), task_energy_beyond=round(result.beyond, 4),
        patches=spectrum.patches, size=spectrum.size,
    )  # fmt: skip


def _surroundings(masks: _Masks, findings: _Findings) -> None:
    """Median of the air around the body, 10 mm away from it, inside the circle that the field of view holds."""
    blocks = masks.blocks
    distance = max(1, round(10.0 / min(blocks.spacing_mm[1:])))
    rows, columns = blocks.values.shape[1:]
    y, x = np.ogrid[:rows, :columns]
    circle = ((y + 0.5) / rows - 0.5) ** 2 + ((x + 0.5) / columns - 0.5) ** 2 < 0.24
    samples = []
    for index in noise.spaced(masks.inside, 24):
        near = ndimage.binary_dilation(masks.inside[index], iterations=distance)
        samples.append(blocks.values[index][circle & ~near])
    air = np.concatenate(samples) if samples else np.zeros(0)
    if air.size < 200:
        findings.miss("hu_surroundings", InputError(f"{air.size} blocks of air around the body, expected 200"))
        return
    findings.add("hu_surroundings", float(np.median(air)), "HU", blocks=int(air.size), distance_mm=10.0)


def _output(acquisition: Acquisition | None, origin: Origin, scanned_mm: float | None) -> dose.Output | None:
    """The radiation that the scanner tells of; None where it does not tell CTDIvol."""
    if acquisition is None or acquisition.CTDIvol is None:
        return None
    part = dose.region(acquisition.BodyPartExamined)
    return dose.Output(acquisition.CTDIvol, acquisition.CTDIPhantomDiameter, part, origin, scanned_mm)


def _dose(volume: Volume, masks: _Masks, findings: _Findings, output: dose.Output | None) -> None:
    """Water-equivalent diameter, truncation, and what follows from CTDIvol."""
    size = dose.water_equivalent_diameter(volume, masks.blocks, masks.inside)
    try:
        mean_cm = size.mean_mm / 10
    except InputError as error:
        findings.miss("wed wed_truncated", error)
        return
    occupied = size.water_equivalent_mm[size.occupied] / 10
    cut = float(size.truncated[size.occupied].mean())
    findings.add(
        "wed", mean_cm, "cm", "estimated" if cut > 0 else "computed", report="AAPM 220", slices=len(occupied),
        smallest_cm=round(float(occupied.min()), 3), largest_cm=round(float(occupied.max()), 3), threshold_hu=-500.0,
    )  # fmt: skip
    findings.add("wed_truncated", cut, "", meaning="fraction of the body's outline on the border of the field of view")
    if output is None:
        findings.miss("ctdivol dlp ssde effective_dose", InputError("CTDIvol is not told with the scan"))
        return
    figures, missing = dose.figures(output, size, volume.grid.spacing_mm[0])
    findings.figures += figures
    findings.missing += missing


def _compare(volume: Volume, real: Volume, given: Volume, findings: _Findings) -> None:
    """Bias and RMSE against the truth in its own body, lung, soft tissue and bone; and is the image mirrored?"""
    masks = _masks(real)
    how: dict[str, Any] = {"resampling": "trilinear, averaged", "subsamples": list(samples(given.grid, volume.grid))}
    for one in compare(volume, real, masks.blocks, masks.inside, masks.lung):
        findings.add(f"bias_{one.tissue}", one.bias, volume.quantity, voxels=one.voxels, **how)
        findings.add(f"rmse_{one.tissue}", one.rmse, volume.quantity, voxels=one.voxels, **how)
    turned = mirrored(volume, real)
    findings.add("fault_mirrored", float(turned is not None), "", better_when_turned_over=turned or "never")
