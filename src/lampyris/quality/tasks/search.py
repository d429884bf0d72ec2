"""Lung image → marks of a model observer that searches it for nodules, best first; marks and nodules → who was found.

The observer knows what a nodule looks like, a bright ball, and not where one is: the dot enhancement filter of Li, Sone
& Doi 2003 (Med. Phys. 30:2040). It does not tell more than it sees: noise and branching vessels make false marks.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations_with_replacement

import numpy as np
from scipy import ndimage

from lampyris.model import Bool, Float32, Float64, InputError
from lampyris.quality.tasks.nodules import Place
from lampyris.quality.tasks.stack import checked_spacing

DIAMETERS_MM = (4.0, 6.0, 8.0, 10.0)
SCALE = 0.25
"""σ of the filter as a share of the diameter that it seeks (Li et al. 2003, section II.B)."""


@dataclass(frozen=True, slots=True)
class Mark:
    """A place that looks like a nodule: mm from voxel [0, 0, 0] along slices, rows, columns; response in HU; size."""

    place_mm: Place
    score_hu: float
    diameter_mm: float


@dataclass(frozen=True, slots=True)
class Sought:
    """What became of one nodule: its mark's response (None: no mark on it), and how many false marks have more."""

    score_hu: float | None
    false_marks_above: int


def dot_response(image_hu: Float32, spacing_mm: tuple[float, float, float], diameter_mm: float) -> Float64:
    """How much every voxel is the middle of a bright ball, HU: |λ₃|²/|λ₁| where all λ < 0, and 0 elsewhere.

    λ₁ … λ₃, the largest first by magnitude, are the eigenvalues of σ²·Hessian of the image behind a Gaussian of σ = a
    quarter of the diameter. A vessel has λ₃ = 0 and no response. `image_hu` (slices, rows, columns).
    """
    sigma = SCALE * diameter_mm
    widths = [sigma / each for each in checked_spacing(spacing_mm)]
    hessian = np.empty((*image_hu.shape, 3, 3), np.float32)
    for first, second in combinations_with_replacement(range(3), 2):
        order = [(axis == first) + (axis == second) for axis in range(3)]
        scale = widths[first] * widths[second]  # derivatives are per voxel: σ²/(spacing·spacing)
        hessian[..., first, second] = hessian[..., second, first] = scale * ndimage.gaussian_filter(
            image_hu, widths, order=order, mode="nearest", output=np.float32
        )
    return np.stack([_dot(part) for part in hessian])


def marks(
    image_hu: Float32,
    lung: Bool,
    spacing_mm: tuple[float, float, float],
    *,
    diameters_mm: Sequence[float] = DIAMETERS_MM,
) -> tuple[Mark, ...]:
    """Every place in the lung that looks more like a ball than its surroundings, the best first.

    `image_hu` and the mask `lung` (slices, rows, columns); the mask holds what lies within the lung, nodules and
    vessels too. A mark is the largest response over sizes, in no reach of a better one (half of the larger diameter).
    Raises InputError for other shapes, NaN or infinity, and an empty mask.
    """
    if image_hu.ndim != 3 or lung.shape != image_hu.shape or not lung.any():
        raise InputError(f"image {image_hu.shape}, lung {lung.shape} of {int(lung.sum())} voxels: expected alike, > 0")
    if not np.isfinite(image_hu).all():
        raise InputError("the image holds NaN or infinity: fill what was never measured")
    box = _box(lung, spacing_mm, max(diameters_mm))
    inside, found = lung[box], list[Mark]()
    for diameter in diameters_mm:
        response = np.where(inside, dot_response(image_hu[box], spacing_mm, diameter), 0.0)
        peaks = (response > 0) & (response == ndimage.maximum_filter(response, 3))
        for index in np.argwhere(peaks):
            at = (index + [each.start for each in box]) * spacing_mm
            found.append(Mark((float(at[0]), float(at[1]), float(at[2])), float(response[tuple(index)]), diameter))
    return _apart(sorted(found, key=lambda one: -one.score_hu))


def sought(found: Sequence[Mark], nodules: Sequence[tuple[Place, float]]) -> tuple[Sought, ...]:
    """For every nodule (middle mm along slices, rows, columns; diameter mm) whether and how late it was found.

    A mark counts for a nodule when it lies within it. False marks are those that lie within none.
    """
    of = [
        next((n for n, (at, size) in enumerate(nodules) if _gap(one.place_mm, at) <= size / 2), None) for one in found
    ]
    told = []
    for number in range(len(nodules)):
        best = next((position for position, each in enumerate(of) if each == number), None)
        before = of if best is None else of[:best]
        told.append(Sought(None if best is None else found[best].score_hu, sum(each is None for each in before)))
    return tuple(told)


def _dot(hessian: Float32) -> Float64:
    """The response of matrices (…, 3, 3)."""
    values = np.linalg.eigvalsh(hessian.astype(np.float64))  # ascending: the first is the most negative
    weakest, strongest = values[..., 2], values[..., 0]
    safe = np.where(strongest < 0, strongest, -1.0)
    return np.asarray(np.where(weakest < 0, weakest**2 / -safe, 0.0), np.float64)


def _box(lung: Bool, spacing_mm: tuple[float, float, float], reach_mm: float) -> tuple[slice, slice, slice]:
    """The lung's box with a margin: there is nothing to be sought outside."""
    ends = ndimage.find_objects(lung.astype(np.int8))[0]
    wide = [int(np.ceil(reach_mm / each)) for each in spacing_mm]
    made = [
        slice(max(0, one.start - w), min(n, one.stop + w)) for one, w, n in zip(ends, wide, lung.shape, strict=True)
    ]
    return made[0], made[1], made[2]


def _apart(ordered: Sequence[Mark]) -> tuple[Mark, ...]:
    """Marks without those in reach of a better one."""
    kept = list[Mark]()
    places = np.empty((0, 3))
    sizes = np.empty(0)
    for one in ordered:
        gaps = np.sqrt(((places - one.place_mm) ** 2).sum(axis=1))
        if not (gaps < np.maximum(sizes, one.diameter_mm) / 2).any():
            kept.append(one)
            places = np.vstack([places, one.place_mm])
            sizes = np.append(sizes, one.diameter_mm)
    return tuple(kept)


def _gap(one: Place, other: Place) -> float:
    return float(np.linalg.norm(np.subtract(one, other)))
