"""Image → what is wrong with it: NaN, slices without contrast, rings about the axis of rotation."""

from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from lampyris.model import Bool, Float64, InputError, Volume
from lampyris.quality.noise import spaced, usable
from lampyris.quality.regions import Coarse

SECTORS = 24


@dataclass(frozen=True, slots=True)
class Broken:
    """Voxels that are NaN or infinite though measured, and slices in which all values are the same."""

    nan_voxels: int
    constant_slices: int


def broken(volume: Volume) -> Broken:
    """Count what no image may hold."""
    bad = constant = 0
    for index, image in enumerate(volume.values):
        known = image if volume.valid is None else image[volume.valid[index]]
        finite = known[np.isfinite(known)]
        bad += known.size - finite.size
        constant += bool(finite.size and finite.min() == finite.max())
    return Broken(int(bad), int(constant))


@dataclass(frozen=True, slots=True, eq=False)
class Rings:
    """Root mean square of the rings, in image units, and where the strongest lies."""

    rms: float
    strongest_mm: float
    slices: int


def rings(volume: Volume, blocks: Coarse, soft: Bool, axis_mm: Float64, *, slices: int = 24) -> Rings:
    """How strong rings about the axis of rotation are, in uniform matter.

    The image minus its mean over about nine pixels is averaged along circles, once over the even and once over the odd
    of 24 sectors. Noise and anatomy differ between the two, a ring does not: their covariance over the radii is the
    rings' mean square; one that falls between two circles, a pixel apart, counts less. `axis_mm` (x, y, z) is a point
    on the axis, which runs along the slices' normal.

    Raises InputError when the axis lies outside the image or too little uniform matter surrounds it.
    """
    spacing = volume.grid.spacing_mm
    _, row, column = volume.grid.index(axis_mm)
    if not (0 <= row < volume.grid.shape[1] and 0 <= column < volume.grid.shape[2]):
        raise InputError(
            f"the axis of rotation meets the slices at row {row:.0f}, column {column:.0f}, outside the image"
        )
    y = (np.arange(volume.grid.shape[1]) - row) * spacing[1]
    x = (np.arange(volume.grid.shape[2]) - column) * spacing[2]
    pixel = min(spacing[1:])
    circle = np.round(np.hypot(y[:, None], x[None, :]) / pixel).astype(int)
    sector = np.floor((np.arctan2(y[:, None], x[None, :]) + np.pi) / (2 * np.pi) * SECTORS).astype(int) % 2
    total, weight = np.zeros(circle.max() + 1), np.zeros(circle.max() + 1)
    used = 0
    for index in spaced(soft, slices):
        mask = usable(volume, blocks, soft, index)
        product, pixels = _circles(volume.values[index], mask, circle, sector)
        total += product * pixels
        weight += pixels
        used += bool(pixels.any())
    circles = np.count_nonzero(weight >= 8)
    if circles < 20:
        raise InputError(f"uniform matter surrounds the axis on {circles} circles, a ring score needs 20")
    square = total.sum() / weight.sum()
    mean = np.divide(total, weight, out=np.zeros_like(total), where=weight > 0)
    return Rings(float(np.sqrt(max(square, 0.0))), float(mean.argmax() * pixel), used)


def _circles(image: np.ndarray, mask: Bool, circle: np.ndarray, sector: np.ndarray) -> tuple[Float64, Float64]:
    """Product of the even and the odd sectors' mean residual on each circle, and the pixels of the lesser half."""
    side = 9
    whole = ndimage.minimum_filter(mask, side, mode="constant", cval=False)
    values = np.where(mask, image, 0).astype(np.float64)
    residual = values - ndimage.uniform_filter(values, side, mode="constant")
    means = []
    counts = []
    circles = int(circle.max()) + 1
    # Vessels and rod edges must not outweigh noise: clipped at four standard deviations.
    limit = 4 * float(residual[whole].std()) if whole.any() else 0.0
    for half in (0, 1):
        use = whole & (sector == half)
        number = np.bincount(circle[use], minlength=circles)
        sums = np.bincount(circle[use], np.clip(residual[use], -limit, limit), minlength=circles)
        means.append(sums / np.maximum(number, 1))
        counts.append(number)
    return means[0] * means[1], np.minimum(counts[0], counts[1]).astype(np.float64)
