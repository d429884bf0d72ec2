"""Uniform patches or repeated images → noise power spectrum and its figures, after AAPM TG-233 (2019)."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
from scipy import ndimage

from lampyris.model import Bool, Float64, InputError, Volume
from lampyris.quality.regions import Coarse

WANTED_PATCHES = 20
WANTED_SIZE = 64
"""TG-233 asks for at least 20 regions of 64²; with less the spectrum is still given, and says so."""


@dataclass(frozen=True, slots=True, eq=False)
class NoisePower:
    """A 2-D noise power spectrum and its radial mean, in (image unit)² mm² over 1/mm.

    `power_2d` (size, size) lies at `rows_per_mm` × `columns_per_mm` in the order of `numpy.fft.fftfreq`;
    `frequency_per_mm`, `power` (bins,) is its mean over rings up to Nyquist, the zero frequency left out.
    `standard_deviation` is that of the detrended pixels, so that ∬ power_2d = standard_deviation².
    """

    rows_per_mm: Float64
    columns_per_mm: Float64
    power_2d: Float64
    frequency_per_mm: Float64
    power: Float64
    standard_deviation: float
    patches: int
    size: int
    detrend: str

    @property
    def sufficient(self) -> bool:
        """Whether TG-233's number and size of regions were reached."""
        return self.patches >= WANTED_PATCHES and self.size >= WANTED_SIZE

    @property
    def integral(self) -> float:
        """∬ NPS over the whole Nyquist square."""
        cell = (self.rows_per_mm[1] - self.rows_per_mm[0]) * (self.columns_per_mm[1] - self.columns_per_mm[0])
        return float(self.power_2d.sum() * cell)

    @property
    def peak_per_mm(self) -> float:
        """Frequency of the radial spectrum's maximum, by a parabola through the three bins about it."""
        top = int(self.power.argmax())
        if top in (0, len(self.power) - 1):
            return float(self.frequency_per_mm[top])
        left, middle, right = self.power[top - 1 : top + 2]
        shift = 0.5 * (left - right) / (left - 2 * middle + right)
        return float(np.interp(top + shift, np.arange(len(self.power)), self.frequency_per_mm))

    @property
    def mean_per_mm(self) -> float:
        """∫ f·NPS df / ∫ NPS df of the radial spectrum (TG-233), taken as constant from 0 to its first bin."""
        f = np.concatenate([[0.0], self.frequency_per_mm])
        power = np.concatenate([self.power[:1], self.power])
        return float(np.trapezoid(f * power, f) / np.trapezoid(power, f))

    @property
    def anisotropy(self) -> float:
        """Strongest over mean power of twelve directions, between a tenth of and full Nyquist; 1 = none.

        Streaks from starved rays lie in one direction, hence concentrate power in one sector.
        """
        radius, angle = _polar(self.rows_per_mm, self.columns_per_mm)
        nyquist = _nyquist(self.rows_per_mm, self.columns_per_mm)
        ring = (radius > 0.1 * nyquist) & (radius <= nyquist)
        sector = np.floor(np.mod(angle[ring], np.pi) / np.pi * 12).astype(int) % 12
        members = np.bincount(sector, minlength=12)
        if (members == 0).any():
            raise InputError(f"{self.size}² pixels are too few to tell twelve directions apart")
        directions = np.bincount(sector, self.power_2d[ring], minlength=12) / members
        return float(directions.max() / directions.mean())


def nps(patches: object, spacing_mm: tuple[float, float], *, detrend: str = "quadratic") -> NoisePower:
    """Noise power spectrum of patches (patches, size, size) with pixels of (row, column) `spacing_mm`.

    NPS(u, v) = Δx Δy / (Nx Ny) · ⟨|DFT(patch − fit)|²⟩ (AAPM TG-233, 2019). The fit is a second-order polynomial in
    both directions; "mean" takes only the mean away and "none" nothing (differences of images need no fit).
    Subtracting only the mean lets shading leak into the spectrum.

    Raises InputError for patches that are not square, smaller than 8², or not finite.
    """
    stack = np.asarray(patches, np.float64)
    if stack.ndim != 3 or stack.shape[1] != stack.shape[2] or stack.shape[1] < 8 or not len(stack):
        raise InputError(f"patches are {stack.shape}, expected (patches, size, size) with size ≥ 8")
    if not np.isfinite(stack).all():
        raise InputError("patches hold NaN or infinity: they reach over padding?")
    noise = stack - _trend(stack, detrend)
    size = stack.shape[1]
    rows = np.asarray(np.fft.fftfreq(size, spacing_mm[0]), np.float64)
    columns = np.asarray(np.fft.fftfreq(size, spacing_mm[1]), np.float64)
    scale = spacing_mm[0] * spacing_mm[1] / size**2
    power_2d = np.mean(np.abs(np.fft.fft2(noise)) ** 2, axis=0) * scale
    frequency, power = _rings(rows, columns, power_2d)
    return NoisePower(
        rows, columns, power_2d, frequency, power, float(np.sqrt(np.mean(noise**2))), len(stack), size, detrend
    )


def nps_of_repeats(images: Sequence[object], spacing_mm: tuple[float, float]) -> NoisePower:
    """Noise power spectrum of one image from repeated scans: n ≥ 2 stacks (patches, size, size) of the same places.

    What the scans have in common goes with their mean; the deviations are scaled by n/(n − 1), which for two scans is
    the difference image with the factor ½ (TG-233). Anatomy that moved between scans counts as noise.
    """
    stacks = np.stack([np.asarray(each, np.float64) for each in images])
    if stacks.ndim != 4 or len(stacks) < 2:
        raise InputError(f"repeated images are {stacks.shape}, expected at least two stacks (patches, size, size)")
    n = len(stacks)
    deviations = (stacks - stacks.mean(axis=0)) * np.sqrt(n / (n - 1))
    return nps(deviations.reshape(-1, *stacks.shape[2:]), spacing_mm, detrend="mean")


def nps_of_halves(even: object, odd: object, spacing_mm: tuple[float, float]) -> NoisePower:
    """Noise power spectrum of the whole image from reconstructions of its even and its odd views.

    The image is the mean of the halves, so its noise is half their difference: factor ¼. Aliasing of the halved views
    is common to neither half and counts as noise; electronic noise and starvation are those of the real scan.
    """
    difference = (np.asarray(even, np.float64) - np.asarray(odd, np.float64)) / 2
    return nps(difference, spacing_mm, detrend="mean")


def slice_correlation(stacks: object) -> Float64:
    """Pearson correlation (lags,) of noise between slices 0, 1, 2 … apart, from stacks (places, slices, size, size).

    Each slice of each place is detrended first. Lags reach to a quarter of the slices (at least 1).
    """
    given = np.asarray(stacks, np.float64)
    if given.ndim != 4 or given.shape[1] < 2:
        raise InputError(f"stacks are {given.shape}, expected (places, at least 2 slices, size, size)")
    slices = given.shape[1]
    flat = given.reshape(-1, *given.shape[2:])
    noise: Any = (flat - _trend(flat, "quadratic")).reshape(given.shape)
    variance = np.mean(noise**2)
    if variance == 0:
        raise InputError("slices without any noise have no correlation")
    ahead = [np.mean(noise[:, lag:] * noise[:, : slices - lag]) / variance for lag in range(max(1, slices // 4) + 1)]
    return np.asarray(ahead, np.float64)


def independent_slices(slices: int, correlation: Float64) -> float:
    """How many independent slices `slices` neighbours are worth: n / (1 + 2 Σ (1 − k/n) ρₖ) (Bartlett 1946)."""
    lags = np.arange(1, min(slices, len(correlation)))
    positive = np.maximum(correlation[lags], 0)  # noise of the estimate must not make slices better than independent
    return float(slices / (1 + 2 * np.sum((1 - lags / slices) * positive)))


def patches_at(volume: Volume, corners: object, size: int) -> Float64:
    """Square patches (n, size, size) of one slice each, from their first voxels (n, 3) as (slice, row, column)."""
    places = np.asarray(corners, np.int64)
    if places.ndim != 2 or places.shape[1] != 3 or not len(places):
        raise InputError(f"corners are {places.shape}, expected (at least 1, 3)")
    if places.min() < 0 or (places + np.array([1, size, size]) > np.asarray(volume.grid.shape)).any():
        raise InputError(f"a patch of {size}² pixels reaches out of the image of {volume.grid.shape} voxels")
    return np.stack([volume.values[s, r : r + size, c : c + size] for s, r, c in places]).astype(np.float64)


def _trend(stack: Float64, detrend: str) -> Float64:
    """The part of each patch that is not noise."""
    if detrend == "none":
        return np.zeros_like(stack)
    if detrend == "mean":
        return np.asarray(stack.mean(axis=(1, 2), keepdims=True), np.float64)
    if detrend != "quadratic":
        raise InputError(f"detrend {detrend!r} is none of quadratic, mean, none")
    basis = _second_order(stack.shape[-1])
    flat = stack.reshape(len(stack), -1)
    return np.asarray((flat @ basis @ basis.T).reshape(stack.shape), np.float64)


@cache
def _second_order(size: int) -> Float64:
    """(size², 6) orthonormal basis of the second-order polynomials on a square patch."""
    place = np.linspace(-1, 1, size)
    y, x = np.meshgrid(place, place, indexing="ij")
    terms = np.stack([np.ones_like(x), x, y, x * y, x * x, y * y]).reshape(6, -1)
    basis = np.asarray(np.linalg.qr(terms.T)[0], np.float64)
    basis.setflags(write=False)
    return basis


def _rings(rows: Float64, columns: Float64, power_2d: Float64) -> tuple[Float64, Float64]:
    """Mean power over rings one frequency step wide, up to Nyquist; each at the mean frequency of its samples."""
    radius, _ = _polar(rows, columns)
    step = max(rows[1], columns[1])
    ring = np.round(radius / step).astype(int)
    use = (radius <= _nyquist(rows, columns) + 1e-9) & (ring > 0)
    count = np.bincount(ring[use])
    filled = count > 0
    frequency = np.bincount(ring[use], radius[use])[filled] / count[filled]
    return frequency, np.bincount(ring[use], power_2d[use])[filled] / count[filled]


def _nyquist(rows: Float64, columns: Float64) -> float:
    """The lower of both axes' Nyquist frequencies."""
    return float(min(np.abs(rows).max(), np.abs(columns).max()))


def _polar(rows: Float64, columns: Float64) -> tuple[Float64, Float64]:
    v, u = np.meshgrid(rows, columns, indexing="ij")
    return np.hypot(u, v), np.arctan2(v, u)


@dataclass(frozen=True, slots=True)
class GlobalNoise:
    """The commonest local standard deviation, of how many windows of how many pixels a side."""

    standard_deviation: float
    windows: int
    window_pixels: int


def global_noise(
    volume: Volume, blocks: Coarse, soft: Bool, *, window_mm: float = 7.0, slices: int = 40
) -> GlobalNoise:
    """Noise of an image with anatomy in it: the mode of local standard deviations in uniform matter.

    Christianson et al. 2015 (AJR 205:1): a window is slid over soft tissue, most windows hold no edge, so that the
    histogram of their standard deviations peaks at the noise. `soft` (blocks) says where to look; windows must
    lie in it whole. At most `slices` slices, evenly spaced, are used. A window has
    at least nine pixels a side; noise coarser than it is not seen.

    Raises InputError when fewer than 50 windows fit.
    """
    side = 2 * max(4, round(window_mm / max(volume.grid.spacing_mm[1:]) / 2)) + 1
    found = []
    for index in spaced(soft, slices):
        mask = usable(volume, blocks, soft, index)
        image = np.where(mask, volume.values[index], 0).astype(np.float64)
        whole = ndimage.minimum_filter(mask, side, mode="constant", cval=False)
        mean = ndimage.uniform_filter(image, side, mode="constant")
        square = ndimage.uniform_filter(image**2, side, mode="constant")
        spread2 = np.maximum(square - mean**2, 0) * side**2 / (side**2 - 1)
        step = side // 2
        found.append(np.sqrt(spread2[::step, ::step][whole[::step, ::step]]))
    local = np.concatenate(found) if found else np.zeros(0)
    if len(local) < 50:
        raise InputError(
            f"only {len(local)} windows of {side}² pixels fit into soft tissue or water, a noise figure needs 50"
        )
    return GlobalNoise(_mode(local), len(local), side)


def uniform_patches(
    volume: Volume, blocks: Coarse, soft: Bool, size: int, *, noise: float, slices: int = 60
) -> list[tuple[int, int, int]]:
    """First voxels of square patches that hold nothing but noise: whole in `soft`, not overlapping, free of edges.

    Free of edges: the standard deviation behind a second-order polynomial is at most 1.25 times the global noise. At
    most `slices` evenly spaced slices are searched, in steps of a quarter patch.
    """
    corners: list[tuple[int, int, int]] = []
    step = max(1, size // 4)
    for index in spaced(soft, slices):
        mask = usable(volume, blocks, soft, index)
        sums = np.pad(np.cumsum(np.cumsum(mask, axis=0, dtype=np.int64), axis=1), ((1, 0), (1, 0)))
        inside = sums[size:, size:] - sums[:-size, size:] - sums[size:, :-size] + sums[:-size, :-size] == size * size
        free = np.ones(mask.shape, np.bool_)
        for row, column in np.argwhere(inside[::step, ::step]) * step:
            place = slice(row, row + size), slice(column, column + size)
            if not free[place].all():
                continue
            patch = np.asarray(volume.values[index][place], np.float64)[None]
            if np.sqrt(np.mean((patch - _trend(patch, "quadratic")) ** 2)) <= 1.25 * noise:
                free[place] = False
                corners.append((index, int(row), int(column)))
    return corners


def usable(volume: Volume, blocks: Coarse, soft: Bool, index: int) -> Bool:
    """(rows, columns) pixels of one slice that lie in `soft` and were measured."""
    known = np.isfinite(volume.values[index])
    if volume.valid is not None:
        known &= volume.valid[index]
    return np.asarray(known & blocks.spread(soft, slice(index, index + 1))[0], np.bool_)


def spaced(mask: Bool, number: int) -> list[int]:
    """Up to `number` evenly spaced slices among those where the mask (slices, …) holds anything."""
    slices = np.flatnonzero(mask.any(axis=(1, 2)))
    if len(slices) <= number:
        return [int(each) for each in slices]
    return [int(each) for each in slices[np.linspace(0, len(slices) - 1, number).round().astype(int)]]


def _mode(values: Float64) -> float:
    """Top of the smoothed histogram, bins a fortieth of the median wide, by a parabola."""
    middle = float(np.median(values))
    if middle == 0:
        return 0.0
    width = middle / 40
    counts, edges = np.histogram(values, bins=np.arange(0, 3 * middle, width))
    smooth = ndimage.gaussian_filter1d(counts.astype(np.float64), 2.5)
    top = int(np.clip(smooth.argmax(), 1, len(smooth) - 2))
    left, centre, right = smooth[top - 1 : top + 2]
    curve = left - 2 * centre + right
    shift = 0.5 * (left - right) / curve if curve < 0 else 0.0
    return float(edges[top] + (0.5 + shift) * width)
