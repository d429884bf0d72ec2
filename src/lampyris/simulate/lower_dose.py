"""RawScan → RawScan at another dose: noise added to a scan's counts, or drawn anew about the means of a quiet one.

Net counts y with variance g·ȳ + e² are scaled by a; to end at g·a·ȳ + e² they need the variance
a·(1 − a)·g·ȳ + (1 − a²)·e² more. Zabić et al. (2013), Med. Phys. 40:031102; Yu et al. (2012), J. Comput.
Assist. Tomogr. 36:477.
"""

from dataclasses import replace

import numpy as np
from scipy import ndimage

from lampyris.model import CalibrationError, Float64, InputError, Noise, RawScan
from lampyris.physics.attenuation import linear_attenuation_per_mm
from lampyris.physics.detector import compound_gain, detected_weights
from lampyris.simulate.optics import fan_and_cone_rad

BLOCK = 32
ROUNDING = 1 / 12
"""Variance of rounding to whole counts."""


def lower_dose(
    scan: RawScan, fraction: float, rng: np.random.Generator, *, cross_talk: tuple[float, float] = (0.0, 0.0)
) -> RawScan:
    """The same scan at `fraction` (0…1] of its exposure, with its dark offset and number format.

    The mean of a ray is estimated from the ray and its eight neighbours, so that its own noise is not squared into
    the added noise; a negative estimate counts as no photons. Where the spectrum is known, the gain follows the beam's
    hardness behind the bowtie and, where the air scan is known too, behind as much water as attenuates the ray.
    `cross_talk` (along rows' axis, along columns' axis) gives the added quantum noise the detector's correlation.
    Integers are rounded again and widened where they would not fit. Fraction 1 returns the scan itself.

    Raises InputError for another fraction or a scan without known noise or without counts (already a logarithm).
    """
    if not 0 < fraction <= 1:
        raise InputError(f"fraction {fraction}: a lower dose is above 0 and at most 1")
    noise, dark = _known(scan)
    if fraction == 1:
        return scan
    hardness = _Hardness(scan)
    integer = bool(np.issubdtype(scan.counts.dtype, np.integer))
    rounding = ROUNDING if integer else 0.0
    electronic = max(0.0, (1 - fraction**2) * noise.electronic_counts**2 - rounding)
    lower = np.empty(scan.geometry.shape, scan.counts.dtype if integer else np.float32)
    for first in range(0, scan.views, BLOCK):
        block = slice(first, first + BLOCK)
        net = scan.read(block).astype(np.float64) - dark
        mean = np.maximum(ndimage.uniform_filter(net, (1, 3, 3), mode="nearest"), 0.0)
        quantum = fraction * (1 - fraction) * noise.gain_counts * hardness(mean, block) * mean
        lowered = fraction * net + dark + _added(quantum, electronic, rng, cross_talk)
        if integer:
            lowered = np.rint(lowered)
            lower = _fitting(lower, lowered)
        lower[block] = lowered
    left = fraction**2 * noise.electronic_counts**2 + electronic + rounding
    facts = scan.acquisition
    dose = None if facts.CTDIvol is None else facts.CTDIvol * fraction
    facts = replace(facts, dose_fraction=facts.dose_fraction * fraction, CTDIvol=dose)
    return replace(
        scan, counts=lower, exposure_mas=scan.exposure_mas * fraction, acquisition=facts, id="",
        noise=Noise(noise.gain_counts, float(np.sqrt(left))),
    )  # fmt: skip


def realise(quiet: RawScan, dose: float, rng: np.random.Generator) -> RawScan:
    """What a scanner might have counted at `dose` times the exposure of a noise-free virtual scan, float32.

    Quanta of g·(hardness behind the object) counts each are Poisson distributed about their mean, electronic noise is
    normal, and a count is rounded to a whole number: the moments of `scan` with the same protocol, at a small part of
    its cost, so that many seeds and doses of one scan can be had. What is left out: that quanta of a starved ray differ
    among themselves, and the correlation by cross-talk.

    Raises InputError for a scan with noise in it or another dose than above 0.
    """
    if not dose > 0:
        raise InputError(f"dose {dose}: expected a factor above 0")
    counted = quiet.counts.dtype if quiet.coding is None else np.dtype(quiet.coding.dtype)
    if np.issubdtype(counted, np.integer):
        raise InputError(
            f"counts are {counted}: they were digitised, with their noise; only a scan of a protocol with"
            " noise=False holds the means"
        )
    noise, dark = _known(quiet)
    hardness = _Hardness(quiet)
    counts = np.empty(quiet.geometry.shape, np.float32)
    electronic = np.sqrt(max(0.0, noise.electronic_counts**2 - ROUNDING))
    for first in range(0, quiet.views, BLOCK):
        block = slice(first, first + BLOCK)
        mean = np.maximum(quiet.read(block).astype(np.float64) - dark, 0.0)
        gain = noise.gain_counts * hardness(mean, block)
        drawn = gain * rng.poisson(dose * mean / gain) + electronic * rng.standard_normal(mean.shape)
        counts[block] = np.rint(drawn + dark)
    facts = quiet.acquisition
    ctdivol = None if facts.CTDIvol is None else facts.CTDIvol * dose
    facts = replace(facts, dose_fraction=facts.dose_fraction * dose, CTDIvol=ctdivol)
    return replace(quiet, counts=counts, exposure_mas=quiet.exposure_mas * dose, acquisition=facts, id="")


def _known(scan: RawScan) -> tuple[Noise, Float64]:
    if scan.noise is None:
        raise CalibrationError(
            "the scan says nothing of its noise (gain, electronic): a lower dose cannot be made from it"
        )
    if "log" in scan.applied:
        raise InputError("the scan holds line integrals, not counts: noise must be added before the logarithm")
    if scan.dark is None and "dark_air" not in scan.applied:
        raise CalibrationError("the scan has no dark counts: its offset would be taken for photons")
    dark = np.zeros(scan.geometry.shape[1:]) if scan.dark is None else scan.dark.astype(np.float64)
    return scan.noise, dark


class _Hardness:
    """Variance over mean relative to the central ray in air: the mean energy of what is detected (1 if unknown)."""

    STEP, BINS = 0.25, 48
    """Tabulated in −ln(count/air): 0, 0.25 … 11.75."""

    def __init__(self, scan: RawScan) -> None:
        self.scan = scan
        self.table: Float64 | None = None
        if scan.spectrum is None or scan.geometry.parallel:
            return
        fan, _ = fan_and_cone_rad(scan.geometry, 0)
        weights = detected_weights(scan.spectrum, np.append(fan[scan.geometry.rows // 2], 0.0))
        per_mm = linear_attenuation_per_mm("water", scan.spectrum.energy_kev)
        lengths_mm = np.linspace(0.0, 800.0, 81)
        behind = weights[:, None] * np.exp(-lengths_mm[:, None] * per_mm)
        energy, signal = compound_gain(scan.spectrum, behind), behind.sum(-1)
        depth = np.log(signal[:, :1] / signal)
        at = self.STEP * np.arange(self.BINS)
        self.table = (
            np.array([np.interp(at, d, e) for d, e in zip(depth[:-1], energy[:-1], strict=True)]) / energy[-1, 0]
        )

    def __call__(self, mean: Float64, block: slice) -> Float64:
        """For mean net counts (views, rows, columns) of some views; the last entry holds beyond the table."""
        if self.table is None:
            return np.ones(1)
        scan = self.scan
        if scan.air is None or scan.dark is None:
            return self.table[:, 0]
        mas = scan.exposure_mas[block] / scan.air_exposure_mas
        spot = np.arange(scan.views)[block] % scan.focal_spots
        air = (scan.air - scan.dark)[spot] * mas[:, None, None]
        ratio = np.clip(mean / np.maximum(air, 1e-9), np.exp(-self.STEP * (self.BINS - 1)), 1.0)
        index = np.rint(-np.log(ratio) / self.STEP).astype(np.int64)
        return np.asarray(self.table[np.arange(scan.geometry.columns), index], np.float64)


def _added(quantum: Float64, electronic: float, rng: np.random.Generator, cross_talk: tuple[float, float]) -> Float64:
    """Normal noise of variance `quantum` + `electronic`; cross-talk correlates the first part between neighbours."""
    white = rng.standard_normal(quantum.shape)
    v, u = cross_talk
    if v == u == 0:
        return np.asarray(np.sqrt(quantum + electronic) * white, np.float64)
    kernel = np.array([[0, v, 0], [u, 1 - 2 * (u + v), u], [0, v, 0]])
    smeared = ndimage.convolve(white, kernel[None] / np.sqrt((kernel**2).sum()), mode="nearest")
    return np.asarray(np.sqrt(quantum) * smeared + np.sqrt(electronic) * rng.standard_normal(quantum.shape), np.float64)


def _fitting(counts: np.ndarray, block: Float64) -> np.ndarray:
    """`counts` in a number format that holds the new block too."""
    low, high = float(block.min()), float(block.max())
    if np.iinfo(counts.dtype).min <= low and high <= np.iinfo(counts.dtype).max:
        return counts
    wider = np.int32 if low >= -(2**31) and high < 2**31 else np.int64
    return counts.astype(np.promote_types(counts.dtype, wider))
