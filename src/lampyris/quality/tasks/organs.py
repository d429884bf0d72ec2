"""Images, truth and organ labels → mean CT-number bias of each organ, and the low-pass difference."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from scipy import ndimage, stats

from lampyris.model import Bool, Figure, Float32, InputError
from lampyris.quality.tasks.stack import checked_seeds, checked_spacing


@dataclass(frozen=True, slots=True)
class OrganBias:
    """Mean of image − truth over an organ's core, in the image's unit.

    `standard_error` and `interval` (Student's t) are over seeds; None with one seed, because noise is correlated
    between voxels and one image does not tell how far.
    """

    label: int
    name: str
    bias: float
    standard_error: float | None
    interval: tuple[float, float] | None
    voxels: int
    seeds: int
    margin_mm: float
    confidence: float

    def figure(self, unit: str = "HU") -> Figure:
        settings = (
            ("confidence", self.confidence),
            ("interval", None if self.interval is None else list(self.interval)),
            ("label", self.label),
            ("margin_mm", self.margin_mm),
            ("seeds", self.seeds),
            ("standard_error", self.standard_error),
            ("voxels", self.voxels),
        )
        return Figure(f"bias_{self.name}", self.bias, unit, settings=settings)


@dataclass(frozen=True, slots=True)
class OrganBiases:
    """Organs that were measured, by label, and labels that were not: (label, name, voxels left after erosion)."""

    measured: tuple[OrganBias, ...]
    left_out: tuple[tuple[int, str, int], ...]

    @property
    def worst(self) -> OrganBias:
        """The organ of the largest absolute bias."""
        return max(self.measured, key=lambda one: abs(one.bias))


def organ_biases(
    images: object,
    truth: Float32,
    labels: np.ndarray,
    names: Mapping[int, str],
    spacing_mm: tuple[float, float, float],
    *,
    core: "Core | None" = None,
) -> OrganBiases:
    """Mean bias of every labelled organ, away from its borders, where blur is not bias.

    `images` (seeds, slices, rows, columns), one seed or more; `truth` and integer `labels` (slices, rows, columns), 0
    outside; `names` of the labels, e.g. of TotalSegmentator's classes. An organ's core is what lies at least
    `core.margin_mm` inside it (Euclidean); organs with a core below `core.smallest_voxels` are in `left_out`.

    Raises InputError for labels that are not integers, have no name, or are none at all.
    """
    chosen = core or Core()
    seeds, real = checked_seeds(images, truth, least=1)
    spacing = checked_spacing(spacing_mm)
    if labels.shape != real.shape or not np.issubdtype(labels.dtype, np.integer):
        raise InputError(f"labels are {labels.dtype} {labels.shape}, expected integers of {real.shape}")
    measured: list[OrganBias] = []
    left_out: list[tuple[int, str, int]] = []
    found = [int(each) for each in np.unique(labels) if each != 0]
    nameless = [each for each in found if each not in names]
    if nameless or not found or min(found) < 0:
        raise InputError(
            f"labels {found[:8]} hold {len(nameless)} without a name (first: {nameless[:5]}); expected ≥ 1"
        )
    windows = ndimage.find_objects(labels.astype(np.int64, copy=False))
    for label in found:
        window = tuple(
            slice(max(each.start - 1, 0), each.stop + 1) for each in windows[label - 1]
        )  # one voxel of surroundings: the organ's border must be seen, the image's border is none
        kept = eroded(np.asarray(labels[window] == label, np.bool_), spacing, chosen.margin_mm)
        voxels = int(kept.sum())
        if voxels < chosen.smallest_voxels:
            left_out.append((label, names[label], voxels))
            continue
        each_seed = np.array([(one[window][kept].astype(np.float64) - real[window][kept]).mean() for one in seeds])
        measured.append(_organ(label, names[label], each_seed, voxels, chosen))
    return OrganBiases(tuple(measured), tuple(left_out))


@dataclass(frozen=True, slots=True)
class Core:
    """What of an organ is measured, and with which confidence its interval is given."""

    margin_mm: float = 3.0
    smallest_voxels: int = 50
    confidence: float = 0.95

    def __post_init__(self) -> None:
        if self.margin_mm < 0 or self.smallest_voxels < 1 or not 0 < self.confidence < 1:
            raise InputError(f"{self}: expected a margin ≥ 0 mm, at least one voxel, a confidence between 0 and 1")


def eroded(mask: Bool, spacing_mm: tuple[float, float, float], margin_mm: float) -> Bool:
    """The voxels of a mask farther than `margin_mm` from any voxel outside it; the array's border is not outside."""
    if margin_mm == 0 or not mask.any() or mask.all():
        return mask.copy()
    return np.asarray(ndimage.distance_transform_edt(mask, sampling=spacing_mm) > margin_mm, np.bool_)


def lowpass_difference(
    image: Float32, truth: Float32, sigma_mm: float, spacing_mm: tuple[float, float, float], *, mask: Bool
) -> Float32:
    """Image − truth under a Gaussian of `sigma_mm`, inside a mask alone; NaN outside it.

    Normalised convolution G∗(m·d)/G∗m (Knutsson & Westin 1993): what lies outside the mask does not bleed in. White
    noise σ falls to about σ·√(v / (4π)^1.5 s³) with v the voxel's volume, so that what remains visible is structure.
    """
    spacing = checked_spacing(spacing_mm)
    seeds, real = checked_seeds(np.asarray(image)[None], truth, least=1)
    if mask.shape != real.shape or mask.dtype != np.bool_ or not mask.any():
        raise InputError(f"the mask is {mask.dtype} {mask.shape} with {mask.sum()} voxels, expected bool {real.shape}")
    if not sigma_mm >= min(spacing) / 2:
        raise InputError(
            f"sigma is {sigma_mm} mm, below half of the smallest voxel step {min(spacing)} mm: no low pass"
        )
    sigma = [sigma_mm / each for each in spacing]
    weight = ndimage.gaussian_filter(mask.astype(np.float64), sigma, mode="constant", truncate=4.0)
    total = ndimage.gaussian_filter(np.where(mask, seeds[0] - real, 0).astype(np.float64), sigma, mode="constant")
    return np.where(mask, total / np.where(mask, weight, 1), np.nan).astype(np.float32)


def _organ(label: int, name: str, seeds: np.ndarray, voxels: int, core: Core) -> OrganBias:
    n, bias = len(seeds), float(seeds.mean())
    if n == 1:
        return OrganBias(label, name, bias, None, None, voxels, n, core.margin_mm, core.confidence)
    error = float(seeds.std(ddof=1) / np.sqrt(n))
    reach = float(stats.t.ppf(0.5 + core.confidence / 2, n - 1)) * error
    return OrganBias(label, name, bias, error, (bias - reach, bias + reach), voxels, n, core.margin_mm, core.confidence)
