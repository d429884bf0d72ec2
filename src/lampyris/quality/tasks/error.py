"""Images of several seeds and their truth → the error split into bias, lost resolution and noise.

With d_k = image_k − truth of seeds k = 1 … n, d̄ their mean and ⟨⟩ the mean over a region's voxels,

    ⟨d²⟩ = ⟨s²⟩ + (⟨d̄²⟩ − ⟨s²⟩/n),   s² = Σ (d_k − d̄)²/(n − 1):

noise², and the error that stays however many seeds are averaged. The latter is split by least squares: H is the
shift-invariant transfer that, applied to the truth, comes nearest to the mean image, with H(0) = 1. Lost resolution is
H·truth − truth, bias is mean image − H·truth. Because H·truth − truth lies in the space the fit was made in, both are
orthogonal over the region, so that

    total² = noise² + resolution² + bias²

holds exactly, each part corrected for its share of the noise that is left in the mean. What a non-linear method does
that no transfer can (vanished vessels, flattened texture, streaks, shifted CT numbers) is bias.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
from scipy import fft, stats

from lampyris.model import Bool, Figure, Float32, Float64, InputError
from lampyris.quality.tasks.stack import checked_seeds, checked_spacing

LUNG_HU = -500.0
SOFT_HU = (-200.0, 200.0)
BONE_HU = 200.0
PAD = 24
"""Pixels mirrored at each border of a slice, so that its opposite edges do not meet in the transform."""

PARTS = ("total", "noise", "resolution", "bias", "shared")


@dataclass(frozen=True, slots=True)
class Fit:
    """How the transfer is fitted and the bands are cut.

    `knots_per_mm` are ascending in-plane frequencies from 0; the transfer is linear between them, constant beyond, and
    1 at 0. `axial` adds a blur through the slices, H = P(ρ) + A(ρ)·(2 cos 2πf_zΔz − 2), its A linear between the same
    knots. `bands_per_mm` are the upper ends of the bands of `split_bands`; a last band takes the rest.
    """

    knots_per_mm: tuple[float, ...] = (0.0, 0.05, 0.1, 0.2, 0.3, 0.4, 0.55, 0.7, 0.9)
    axial: bool = True
    bands_per_mm: tuple[float, ...] = (0.05, 0.15, 0.3, 0.5, 0.7)
    confidence: float = 0.95

    def __post_init__(self) -> None:
        for name, values in (("knots_per_mm", self.knots_per_mm), ("bands_per_mm", self.bands_per_mm)):
            if len(values) < 2 or (np.diff(values) <= 0).any() or values[0] < 0:
                raise InputError(f"{name} {values} are not at least two ascending frequencies ≥ 0")
        if self.knots_per_mm[0] != 0:
            raise InputError(f"the first knot is at {self.knots_per_mm[0]} /mm, expected 0, where the transfer is 1")
        if not 0 < self.confidence < 1:
            raise InputError(f"confidence is {self.confidence}, expected between 0 and 1, e.g. 0.95")


@dataclass(frozen=True, slots=True)
class Part:
    """One part of the mean squared error, with its confidence interval over seeds (None with two seeds).

    `square` is unbiased and therefore falls below 0 by chance where there is next to nothing to find.
    """

    square: float
    interval: tuple[float, float] | None

    @property
    def root(self) -> float:
        """The part as a root mean square, signed like its square: below 0 means not told from 0."""
        return float(np.sign(self.square) * np.sqrt(abs(self.square)))

    @property
    def root_interval(self) -> tuple[float, float] | None:
        """The interval of `root`, signed in the same way."""
        if self.interval is None:
            return None
        low, high = (float(np.sign(each) * np.sqrt(abs(each))) for each in self.interval)
        return low, high


@dataclass(frozen=True, slots=True, eq=False)
class Transfer:
    """The fitted transfer H: `plane` and `axial` (knots,) over `knots_per_mm`, for pixels of `spacing_mm`."""

    knots_per_mm: tuple[float, ...]
    plane: Float64
    axial: Float64
    spacing_mm: tuple[float, float, float]

    def applied(self, truth: Float32) -> Float32:
        """H·truth (slices, rows, columns): what a linear system of this resolution makes of the truth."""
        radius = _radius(truth.shape, self.spacing_mm)
        hats = [np.interp(radius, self.knots_per_mm, each) for each in (self.plane, self.axial)]
        found = np.empty(truth.shape, np.float32)
        for index in range(len(truth)):
            first, second = _spectra(truth, index)
            found[index] = _back(hats[0] * first + hats[1] * second, truth.shape)
        return found


@dataclass(frozen=True, slots=True, eq=False)
class Split:
    """The error of one region or band: total = noise + resolution + bias + shared, in squares.

    `shared` is 0 in a region; in a band it is twice the product of lost resolution and bias, and over the bands of one
    region it adds up to 0. `voxels` is the number in the region; a band's squares are means over the region too, so
    that the bands add up to it.
    """

    name: str
    voxels: int
    seeds: int
    total: Part
    noise: Part
    resolution: Part
    bias: Part
    shared: Part
    transfer: Transfer
    fit: Fit

    def figures(self, unit: str = "HU") -> tuple[Figure, ...]:
        """`total`, `noise`, `resolution` and `bias` as figures "<name>_<part>_rmse" with settings and interval."""
        settings = {
            "axial": self.fit.axial,
            "confidence": self.fit.confidence,
            "knots_per_mm": list(self.fit.knots_per_mm),
            "method": "seed variance, least-squares transfer",
            "seeds": self.seeds,
            "voxels": self.voxels,
        }
        made = []
        for part in PARTS[:4]:
            one: Part = getattr(self, part)
            interval = one.root_interval
            more = settings | {"interval": None if interval is None else list(interval)}
            made.append(Figure(f"{self.name}_{part}_rmse", one.root, unit, settings=tuple(sorted(more.items()))))
        return tuple(made)


def tissues(truth_hu: Float32, body: Bool) -> dict[str, Bool]:
    """Masks by the truth's CT numbers inside the body: body, lung < −500, soft −200…200, bone > 200 HU.

    Tissues without a voxel are absent. The mask `body` must not hold air outside the patient.
    """
    if truth_hu.shape != body.shape or body.dtype != np.bool_:
        raise InputError(
            f"the body is {body.dtype} {body.shape}, the truth {truth_hu.shape}: expected bool, same shape"
        )
    masks = {
        "body": body,
        "lung": body & (truth_hu < LUNG_HU),
        "soft": body & (truth_hu >= SOFT_HU[0]) & (truth_hu <= SOFT_HU[1]),
        "bone": body & (truth_hu > BONE_HU),
    }
    return {name: mask for name, mask in masks.items() if mask.any()}


def split_error(
    images: object,
    truth: Float32,
    regions: Mapping[str, Bool],
    spacing_mm: tuple[float, float, float],
    *,
    fit: Fit | None = None,
) -> tuple[Split, ...]:
    """The error of one method split for each region, which has a transfer of its own.

    `images` (seeds, slices, rows, columns), at least two seeds, all of one method and dose with independent noise;
    `truth` and the boolean masks of `regions` (slices, rows, columns); `spacing_mm` along these three. Intervals are
    those of the jackknife over seeds with Student's t (Tukey 1958; Efron 1982). The squares are exact for any noise
    that is independent between seeds, correlated between voxels or not.

    Raises InputError for NaN, shapes that differ, one seed, and a region of fewer voxels than the fit has unknowns × 4.
    """
    chosen = fit or Fit()
    seeds, real = checked_seeds(images, truth)
    spacing = checked_spacing(spacing_mm)
    unknowns = 2 * len(chosen.knots_per_mm) - 1 if _axial(chosen, real) else len(chosen.knots_per_mm) - 1
    for name, mask in regions.items():
        _check_region(name, mask, real.shape, unknowns)
    n = len(seeds)
    sums = {name: np.zeros((unknowns + n, unknowns + n)) for name in regions}
    for index, slab in enumerate(_regressors(real, spacing, chosen)):
        rows = np.concatenate([slab, seeds[:, index].astype(np.float64) - real[index]])
        for name, mask in regions.items():
            inside = rows[:, mask[index]]
            sums[name] += inside @ inside.T
    return tuple(_region(name, sums[name], int(mask.sum()), n, spacing, chosen) for name, mask in regions.items())


def split_bands(images: object, truth: Float32, region: Bool, whole: Split) -> tuple[Split, ...]:
    """The error of one region split over bands of in-plane frequency; `whole` is that region's `split_error`.

    The errors are set to 0 outside the region and transformed slice by slice (Parseval: the bands add up to `whole` in
    every part). A region's edge spreads some of a low band's power into higher ones.
    """
    seeds, real = checked_seeds(images, truth)
    spacing, chosen, n = whole.transfer.spacing_mm, whole.fit, len(seeds)
    _check_region(whole.name, region, real.shape, 0)
    if int(region.sum()) != whole.voxels or n != whole.seeds:
        raise InputError(f"{whole.name} was split over {whole.voxels} voxels and {whole.seeds} seeds, not over these")
    frequency = np.hypot(fft.fftfreq(real.shape[1], spacing[1])[:, None], fft.fftfreq(real.shape[2], spacing[2]))
    band = np.searchsorted(chosen.bands_per_mm, frequency, side="left")
    inverse, project = _projector(seeds, real, region, spacing, chosen)
    sums = np.zeros((len(chosen.bands_per_mm) + 1, 2 * n, 2 * n))
    for index, slab in enumerate(_regressors(real, spacing, chosen)):
        error = (seeds[:, index].astype(np.float64) - real[index]) * region[index]
        lost = np.tensordot(inverse @ project, slab * region[index], axes=(0, 0))
        spectrum = fft.fft2(np.concatenate([error, lost])) / np.sqrt(error[0].size)
        for one in range(len(sums)):
            inside = spectrum[:, band == one]
            sums[one] += (inside @ inside.conj().T).real
    ends = (0.0, *chosen.bands_per_mm, float("inf"))
    return tuple(
        _split(f"{whole.name}_{ends[one]:g}_{ends[one + 1]:g}_per_mm", sums[one], whole.voxels, whole.transfer, chosen)
        for one in range(len(sums))
    )


def _region(name: str, gram: Float64, voxels: int, n: int, spacing: tuple[float, float, float], fit: Fit) -> Split:
    """Solve the normal equations of one region, and split its error."""
    own, project = gram[:-n, :-n], gram[:-n, -n:]
    inverse = np.linalg.pinv(own, rcond=1e-10, hermitian=True)
    lost = project.T @ inverse @ project
    coefficients = (inverse @ project).mean(axis=1)
    knots = len(fit.knots_per_mm)
    plane = 1 + np.concatenate([[0.0], coefficients[: knots - 1]])
    axial = coefficients[knots - 1 :] if len(coefficients) >= knots else np.zeros(knots)
    transfer = Transfer(fit.knots_per_mm, plane, axial, spacing)
    return _split(name, np.block([[gram[-n:, -n:], lost], [lost, lost]]), voxels, transfer, fit)


def _split(name: str, gram: Float64, voxels: int, transfer: Transfer, fit: Fit) -> Split:
    """Parts and jackknife intervals from the products (2 seeds, 2 seeds) of errors and their explained parts."""
    n = len(gram) // 2
    squares = _parts(gram / voxels, np.arange(n))
    if n < 3:
        parts = [Part(float(each), None) for each in squares]
    else:
        left_out = np.stack([_parts(gram / voxels, np.delete(np.arange(n), k)) for k in range(n)])
        deviation = np.sqrt((n - 1) / n * ((left_out - left_out.mean(axis=0)) ** 2).sum(axis=0))
        reach = float(stats.t.ppf(0.5 + fit.confidence / 2, n - 1)) * deviation
        parts = [Part(float(q), (float(q - r), float(q + r))) for q, r in zip(squares, reach, strict=True)]
    total, noise, resolution, bias, shared = parts
    return Split(name, voxels, n, total, noise, resolution, bias, shared, transfer, fit)


def _parts(gram: Float64, seeds: np.ndarray) -> Float64:
    """total, noise, resolution, bias and shared of some of the seeds, in squares, without the noise of their mean."""
    n, all_seeds = len(seeds), len(gram) // 2
    errors, lost = seeds, seeds + all_seeds

    def both(a: np.ndarray, b: np.ndarray) -> tuple[float, float]:
        """Product of the means without noise, and covariance over seeds."""
        block = gram[np.ix_(a, b)]
        covariance = (np.trace(block) - block.sum() / n) / (n - 1)
        return block.sum() / n**2 - covariance / n, covariance

    stays, noise = both(errors, errors)
    resolution, _ = both(lost, lost)
    mixed, _ = both(errors, lost)
    bias = stays - 2 * mixed + resolution
    return np.array([stays + noise, noise, resolution, bias, 2 * (mixed - resolution)])


def _projector(
    seeds: Float32, truth: Float32, region: Bool, spacing: tuple[float, float, float], fit: Fit
) -> tuple[Float64, Float64]:
    """Inverse of the regressors' products over a region, and their products (unknowns, seeds) with the errors."""
    gram, n = None, len(seeds)
    for index, slab in enumerate(_regressors(truth, spacing, fit)):
        rows = np.concatenate([slab, seeds[:, index].astype(np.float64) - truth[index]])[:, region[index]]
        gram = rows @ rows.T if gram is None else gram + rows @ rows.T
    assert gram is not None  # the stack has at least one slice
    return np.linalg.pinv(gram[:-n, :-n], rcond=1e-10, hermitian=True), gram[:-n, -n:]


def _regressors(truth: Float32, spacing: tuple[float, float, float], fit: Fit) -> Iterator[Float64]:
    """For each slice (unknowns, rows, columns): the truth in each hat of frequency but the first, then axial blur."""
    radius = _radius(truth.shape, spacing)
    hats = [np.interp(radius, fit.knots_per_mm, one) for one in np.eye(len(fit.knots_per_mm))]
    for index in range(len(truth)):
        first, second = _spectra(truth, index)
        parts = [hat * first for hat in hats[1:]]
        if _axial(fit, truth):
            parts += [hat * second for hat in hats]
        yield np.stack([_back(part, truth.shape) for part in parts])


def _spectra(truth: Float32, index: int) -> tuple[np.ndarray, np.ndarray]:
    """Transforms of a slice and of its second difference through the slices; the end slices repeat themselves."""
    here = truth[index].astype(np.float64)
    above, below = truth[max(index - 1, 0)], truth[min(index + 1, len(truth) - 1)]
    wide = [_padded(each) for each in (here, above + below.astype(np.float64) - 2 * here)]
    return fft.rfft2(wide[0]), fft.rfft2(wide[1])


def _padded(image: Float64) -> Float64:
    return np.pad(image, [(min(PAD, n),) * 2 for n in image.shape], mode="symmetric")


def _back(spectrum: np.ndarray, shape: tuple[int, ...]) -> Float64:
    rows, columns = (min(PAD, n) for n in shape[1:])
    wide = fft.irfft2(spectrum, s=(shape[1] + 2 * rows, shape[2] + 2 * columns))
    return np.asarray(wide[rows : rows + shape[1], columns : columns + shape[2]], np.float64)


def _radius(shape: tuple[int, ...], spacing: tuple[float, float, float]) -> Float64:
    """In-plane frequency in 1/mm of the padded slice's half transform."""
    rows, columns = (n + 2 * min(PAD, n) for n in shape[1:])
    return np.hypot(fft.fftfreq(rows, spacing[1])[:, None], fft.rfftfreq(columns, spacing[2]))


def _axial(fit: Fit, truth: Float32) -> bool:
    """Whether blur through the slices can be told: it takes three of them."""
    return fit.axial and len(truth) >= 3


def _check_region(name: str, mask: Bool, shape: tuple[int, ...], unknowns: int) -> None:
    if mask.shape != shape or mask.dtype != np.bool_:
        raise InputError(f"region {name!r} is {mask.dtype} {mask.shape}, expected bool {shape}")
    if mask.sum() < max(4 * unknowns, 1):
        raise InputError(f"region {name!r} holds {mask.sum()} voxels, a fit of {unknowns} unknowns needs 4 for each")
