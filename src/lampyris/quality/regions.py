"""Volume and places in mm → the values that lie there: shapes, statistics, and the regions found by themselves."""

from dataclasses import dataclass
from typing import Protocol

import numpy as np
from scipy import ndimage

from lampyris.model import Bool, Float32, Float64, Grid, InputError, Volume

SLAB = 16
"""Slices that are worked on at a time, so that memory does not grow with the length of the scan."""


class Region(Protocol):
    """A place in the volume's own frame."""

    @property
    def middle_mm(self) -> Float64:
        """(x, y, z) of its centre."""

    @property
    def half_mm(self) -> Float64:
        """(x, y, z) half sizes of a box along the frame's axes that holds it."""

    def inside(self, points_mm: Float64) -> Bool:
        """Which of the points (…, 3) belong to it."""


@dataclass(frozen=True, slots=True)
class Cylinder:
    """A cylinder of `length_mm` about `axis`, a direction (x, y, z); default: along the rotation axis."""

    centre_mm: tuple[float, float, float]
    radius_mm: float
    length_mm: float
    axis: tuple[float, float, float] = (0.0, 1.0, 0.0)

    @property
    def middle_mm(self) -> Float64:
        return np.asarray(self.centre_mm, np.float64)

    @property
    def half_mm(self) -> Float64:
        axis = _unit(self.axis)
        across = np.sqrt(np.maximum(1 - axis**2, 0))
        return np.asarray(np.abs(axis) * self.length_mm / 2 + across * self.radius_mm, np.float64)

    def inside(self, points_mm: Float64) -> Bool:
        axis = _unit(self.axis)
        offset = points_mm - self.middle_mm
        along = offset @ axis
        across2 = np.maximum(np.sum(offset * offset, axis=-1) - along * along, 0)
        return np.asarray((np.abs(along) <= self.length_mm / 2) & (across2 <= self.radius_mm**2), np.bool_)


@dataclass(frozen=True, slots=True)
class Sphere:
    centre_mm: tuple[float, float, float]
    radius_mm: float

    @property
    def middle_mm(self) -> Float64:
        return np.asarray(self.centre_mm, np.float64)

    @property
    def half_mm(self) -> Float64:
        return np.full(3, self.radius_mm, np.float64)

    def inside(self, points_mm: Float64) -> Bool:
        offset = points_mm - self.middle_mm
        return np.asarray(np.sum(offset * offset, axis=-1) <= self.radius_mm**2, np.bool_)


@dataclass(frozen=True, slots=True)
class Box:
    """A box of `size_mm` (x, y, z) along the frame's axes."""

    centre_mm: tuple[float, float, float]
    size_mm: tuple[float, float, float]

    @property
    def middle_mm(self) -> Float64:
        return np.asarray(self.centre_mm, np.float64)

    @property
    def half_mm(self) -> Float64:
        return np.asarray(self.size_mm, np.float64) / 2

    def inside(self, points_mm: Float64) -> Bool:
        return np.asarray((np.abs(points_mm - self.middle_mm) <= self.half_mm).all(axis=-1), np.bool_)


@dataclass(frozen=True, slots=True)
class Statistics:
    """Mean, sample standard deviation and median of the values in a region, and how many voxels they are of."""

    mean: float
    standard_deviation: float
    median: float
    voxels: int


def values_in(volume: Volume, region: Region) -> Float64:
    """The values (n,) of all voxels whose centres lie in the region.

    Raises InputError when the region holds no voxel, reaches out of the volume, or over voxels never measured.
    """
    window = bounds(volume.grid, region)
    points = positions(volume.grid, window)
    chosen = region.inside(points)
    if not chosen.any():
        raise InputError(f"no voxel centre lies in {region}: smaller than the voxels {volume.grid.spacing_mm} mm?")
    if volume.valid is not None and not volume.valid[window][chosen].all():
        raise InputError(f"{region} reaches over padding of the image; it lies outside the scan field")
    return np.asarray(volume.values[window][chosen], np.float64)


def statistics(volume: Volume, region: Region) -> Statistics:
    """Mean, standard deviation, median and number of the values in a region; errors as in `values_in`."""
    values = values_in(volume, region)
    spread = float(values.std(ddof=1)) if values.size > 1 else 0.0
    return Statistics(float(values.mean()), spread, float(np.median(values)), int(values.size))


def bounds(grid: Grid, region: Region) -> tuple[slice, slice, slice]:
    """The smallest window of voxels that holds a region. Raises InputError when the region reaches out of the grid."""
    middle = grid.index(region.middle_mm)
    half = np.abs(grid.axes) @ region.half_mm / np.asarray(grid.spacing_mm)
    first, last = np.ceil(middle - half - 1e-9), np.floor(middle + half + 1e-9)
    size = np.asarray(grid.shape)
    if (middle - half < -0.5 - 1e-6).any() or (middle + half > size - 0.5 + 1e-6).any():
        raise InputError(
            f"{region} reaches from index {np.round(middle - half, 1).tolist()} to"
            f" {np.round(middle + half, 1).tolist()}, the image has {grid.shape} voxels: wrong frame or place?"
        )
    start, stop = np.maximum(first, 0).astype(int), np.minimum(last + 1, size).astype(int)
    return slice(start[0], stop[0]), slice(start[1], stop[1]), slice(start[2], stop[2])


def positions(grid: Grid, window: tuple[slice, slice, slice]) -> Float64:
    """Centres (…, 3) mm of the voxels of a window."""
    index = np.stack(np.meshgrid(*(np.arange(each.start, each.stop) for each in window), indexing="ij"), axis=-1)
    return grid.position_mm(index)


@dataclass(frozen=True, slots=True, eq=False)
class Coarse:
    """Block means of a volume: `values` (slices, rows // block, columns // block), and how many pixels a block has.

    Masks are found here, where noise is low and a slice is small, and are then spread over the full pixels.
    """

    values: Float32
    block: int
    spacing_mm: tuple[float, float, float]
    shape: tuple[int, int, int]

    def spread(self, mask: Bool, slices: slice) -> Bool:
        """A mask of blocks as a mask of the pixels in some slices; pixels beyond the last whole block are outside."""
        fine = np.zeros((slices.stop - slices.start, *self.shape[1:]), np.bool_)
        wide = mask[slices].repeat(self.block, axis=1).repeat(self.block, axis=2)
        fine[:, : wide.shape[1], : wide.shape[2]] = wide
        return fine


def coarse(volume: Volume, size_mm: float = 2.0) -> Coarse:
    """Mean over square blocks of pixels of at least `size_mm`, slice by slice; padding and NaN count as air."""
    spacing = volume.grid.spacing_mm
    block = max(1, min(int(np.ceil(size_mm / max(spacing[1:]))), *volume.grid.shape[1:]))
    slices, rows, columns = volume.grid.shape[0], volume.grid.shape[1] // block, volume.grid.shape[2] // block
    means = np.empty((slices, rows, columns), np.float32)
    air = -1000.0 if volume.quantity == "HU" else 0.0
    for start in range(0, slices, SLAB):
        slab = slice(start, min(start + SLAB, slices))
        known = np.isfinite(volume.values[slab])
        if volume.valid is not None:
            known &= volume.valid[slab]
        part = np.where(known, volume.values[slab], np.float32(air))[:, : rows * block, : columns * block]
        means[slab] = part.reshape(-1, rows, block, columns, block).mean(axis=(2, 4))
    return Coarse(means, block, (spacing[0], spacing[1] * block, spacing[2] * block), volume.grid.shape)


def body(blocks: Coarse, threshold: float = -500.0, *, opening_mm: float = 6.0) -> Bool:
    """Mask of blocks in the body, lungs and gas inside included: threshold, opening, large parts, filling.

    The opening takes away the table's shell and tubes, which are hollow: it has to come before the filling. Parts
    smaller than a tenth of the slice's largest (or than 300 mm²) are dropped, so that arms stay and blankets do not.
    """
    pixel_mm = min(blocks.spacing_mm[1:])
    element = _disc(max(1, int(opening_mm / 2 / pixel_mm)))
    mask = np.zeros(blocks.values.shape, np.bool_)
    for index, image in enumerate(blocks.values):
        solid = image > threshold
        if not solid.any():
            continue
        labels, parts = ndimage.label(_opened(solid, element))
        areas = np.bincount(labels.ravel(), minlength=parts + 1)
        areas[0] = 0
        smallest = 300.0 / (blocks.spacing_mm[1] * blocks.spacing_mm[2])
        keep = areas >= max(0.1 * areas.max(), smallest)
        mask[index] = ndimage.binary_fill_holes(keep[labels])
    return mask


def lungs(blocks: Coarse, inside: Bool, *, smallest_ml: float = 150.0) -> Bool:
    """Mask of blocks in the lungs: connected parts of the body below −500 HU of at least `smallest_ml`.

    Emphysema and noise may go down to air, so there is no lower bound; parts whose mean lies outside −950…−600 HU are
    dropped: gas in the bowel, air inserts, a hollow phantom.
    """
    labels, parts = ndimage.label(inside & (blocks.values < -500))
    if parts == 0:
        return np.zeros(inside.shape, np.bool_)
    sizes = np.bincount(labels.ravel(), minlength=parts + 1)
    means = np.bincount(labels.ravel(), blocks.values.ravel(), minlength=parts + 1) / np.maximum(sizes, 1)
    keep = (sizes * np.prod(blocks.spacing_mm) / 1000 >= smallest_ml) & (means > -950) & (means < -600)
    keep[0] = False
    return np.asarray(keep[labels], np.bool_)


def otsu(values: Float32) -> float:
    """The threshold that parts values into two classes of greatest separation (Otsu 1979), 256 bins."""
    counts, edges = np.histogram(values, bins=256)
    centres = (edges[:-1] + edges[1:]) / 2
    below = np.cumsum(counts)
    above = below[-1] - below
    total = np.cumsum(counts * centres)
    with np.errstate(invalid="ignore", divide="ignore"):
        between = below * above * (total / below - (total[-1] - total) / above) ** 2
    return float(edges[int(np.nanargmax(between)) + 1])


def _opened(mask: Bool, element: Bool) -> Bool:
    padded = np.pad(mask, element.shape[0], mode="edge")  # a body cut by the field of view has no edge there
    opened = ndimage.binary_dilation(ndimage.binary_erosion(padded, element), element)
    n = element.shape[0]
    return np.asarray(opened[n:-n, n:-n] & mask, np.bool_)


def _disc(radius: int) -> Bool:
    offset = np.arange(-radius, radius + 1)
    return np.asarray(offset[:, None] ** 2 + offset[None, :] ** 2 <= radius**2, np.bool_)


def _unit(direction: tuple[float, float, float]) -> Float64:
    axis = np.asarray(direction, np.float64)
    length = float(np.linalg.norm(axis))
    if length == 0:
        raise InputError("a cylinder's axis is a null vector")
    return np.asarray(axis / length, np.float64)
