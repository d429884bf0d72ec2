"""Image and truth on another grid → bias and root-mean-square error where body, lung, soft tissue and bone are."""

from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from lampyris.model import Bool, Float32, Grid, InputError, Volume
from lampyris.quality.regions import SLAB, Coarse

SOFT_HU = (-150.0, 150.0)
BONE_HU = 200.0
MOST_SAMPLES = 4
"""Subsamples along one axis of a voxel when the truth is finer than the image."""


@dataclass(frozen=True, slots=True)
class Difference:
    """Image minus truth over one tissue."""

    tissue: str
    bias: float
    rmse: float
    voxels: int


def samples(truth: Grid, grid: Grid) -> tuple[int, int, int]:
    """How many subsamples a voxel of `grid` takes along (slices, rows, columns): as many as the truth is finer."""
    step = np.abs(_step(truth, grid)).max(axis=1)
    fine = np.clip(np.ceil(step - 1e-3), 1, MOST_SAMPLES).astype(int)
    return int(fine[0]), int(fine[1]), int(fine[2])


def on_grid(truth: Volume, grid: Grid) -> Volume:
    """The truth on the image's grid: trilinear, averaged over subsamples of each voxel where the truth is finer.

    `valid` is False where the truth does not reach or was not measured. Raises InputError when they do not overlap.
    """
    fine = samples(truth.grid, grid)
    known = truth.values if truth.valid is None else np.where(truth.valid, truth.values, np.float32(np.nan))
    step = _step(truth.grid, grid)
    origin = truth.grid.index(grid.first_voxel_mm)
    matrix = step.T
    diagonal = np.diag(matrix) if np.allclose(matrix, np.diag(np.diag(matrix)), atol=1e-9) else None
    values = np.zeros(grid.shape, np.float32)
    for start in range(0, grid.shape[0], SLAB):
        slab = values[start : start + SLAB]
        for sub in np.ndindex(fine):
            shift = np.array([start, 0, 0]) + (np.array(sub) + 0.5) / fine - 0.5
            part = ndimage.affine_transform(
                known,
                matrix if diagonal is None else diagonal,
                offset=origin + shift @ step,
                output_shape=slab.shape,
                output=np.float32,
                order=1,
                mode="constant",
                cval=np.nan,
            )
            slab += part / np.float32(np.prod(fine))
    valid = np.isfinite(values)
    if not valid.any():
        raise InputError(
            f"the truth about {np.round(truth.grid.centre_mm, 1).tolist()} mm and the image about"
            f" {np.round(grid.centre_mm, 1).tolist()} mm do not overlap: another frame or patient position?"
        )
    return Volume(values, grid, truth.quantity, truth.frame, valid=valid)


def compare(volume: Volume, truth: Volume, blocks: Coarse, inside: Bool, lung: Bool) -> tuple[Difference, ...]:
    """Bias and RMSE of the image against a truth on the same grid, for each tissue that has voxels.

    `inside` and `lung` are block masks of the truth; soft tissue is −150…150 HU and bone above 200 HU of the truth
    inside the body. An image in 1/mm is compared over the body alone. Voxels unknown in either are left out.
    """
    if volume.quantity != truth.quantity:
        raise InputError(f"the image is in {volume.quantity}, the truth in {truth.quantity}")
    sums: dict[str, list[float]] = {}
    for start in range(0, volume.grid.shape[0], SLAB):
        slab = slice(start, min(start + SLAB, volume.grid.shape[0]))
        both = np.isfinite(volume.values[slab]) & np.isfinite(truth.values[slab])
        if volume.valid is not None:
            both &= volume.valid[slab]
        within = blocks.spread(inside, slab) & both
        real: Float32 = truth.values[slab]
        masks = {"body": within}
        if volume.quantity == "HU":
            masks["lung"] = blocks.spread(lung, slab) & both
            masks["soft_tissue"] = within & (real > SOFT_HU[0]) & (real < SOFT_HU[1])
            masks["bone"] = within & (real > BONE_HU)
        for tissue, mask in masks.items():
            difference = np.asarray(volume.values[slab][mask], np.float64) - real[mask]
            total = sums.setdefault(tissue, [0.0, 0.0, 0.0])
            total[0] += difference.size
            total[1] += float(difference.sum())
            total[2] += float((difference**2).sum())
    return tuple(
        Difference(tissue, first / n, float(np.sqrt(second / n)), int(n))
        for tissue, (n, first, second) in sums.items()
        if n > 0
    )


def mirrored(volume: Volume, truth: Volume) -> str | None:
    """The axes along which the image has to be turned over to look like the truth, or None.

    Both are on one grid and are compared on blocks of about 8 mm. With d the truth minus the truth turned over, the
    score Σ image·d / Σ truth·d is 1 for the truth itself and −1 for its mirror image; below −½, for the turn that fits
    best, the image is mirrored. A body without asymmetry (|d| below 1 % of its contrast) is not accused.
    """
    spacing, shape = volume.grid.spacing_mm, volume.grid.shape
    factor = [max(1, min(round(8.0 / each), n)) for each, n in zip(spacing, shape, strict=True)]
    image, real = (_blocked(each, (factor[0], factor[1], factor[2])) for each in (volume, truth))
    worst, name = 0.0, None
    for axes in ((0,), (1,), (2,), (0, 1), (0, 2), (1, 2), (0, 1, 2)):
        turned = np.flip(real, axes)
        both = np.isfinite(image) & np.isfinite(real) & np.isfinite(turned)
        if both.sum() < 8:
            continue
        difference = (real - turned)[both]
        energy = float((difference**2).sum()) / 2
        contrast = float(((real[both] - real[both].mean()) ** 2).sum())
        if energy <= 1e-4 * contrast:
            continue
        score = float((image[both] * difference).sum()) / energy
        if score < min(-0.5, worst - 0.05):  # of turns that fit as well, the one with the fewest axes
            worst, name = score, " and ".join(("slices", "rows", "columns")[axis] for axis in axes)
    return name


def _step(truth: Grid, grid: Grid) -> np.ndarray:
    """(3, 3): index steps in the truth for one step along each axis of the grid."""
    return np.asarray(grid.steps_mm @ truth.axes.T / np.asarray(truth.spacing_mm), np.float64)


def _blocked(volume: Volume, factor: tuple[int, int, int]) -> np.ndarray:
    """Block means about the middle of the grid, so that turning blocks is turning voxels; unknown voxels as NaN."""
    slices, rows, columns = (n // f for n, f in zip(volume.grid.shape, factor, strict=True))
    first, top, left = ((n % f) // 2 for n, f in zip(volume.grid.shape, factor, strict=True))
    means = np.empty((slices, rows, columns), np.float64)
    values = volume.values[:, top : top + rows * factor[1], left : left + columns * factor[2]]
    for index in range(slices):
        part = values[first + index * factor[0] : first + (index + 1) * factor[0]]
        means[index] = part.reshape(factor[0], rows, factor[1], columns, factor[2]).mean(
            axis=(0, 2, 4), dtype=np.float64
        )
    return means
