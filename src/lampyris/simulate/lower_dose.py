"""RawScan → RawScan as a fraction of its dose would have given it, noise added to the counts before any logarithm.

Net counts y with variance g·ȳ + e² are scaled by a; to end at g·a·ȳ + e² they need the variance
a·(1 − a)·g·ȳ + (1 − a²)·e² more. Zabić et al. (2013), Med. Phys. 40:031102; Yu et al. (2012), J. Comput.
Assist. Tomogr. 36:477.
"""

from dataclasses import replace

import numpy as np
from scipy import ndimage

from lampyris.model import CalibrationError, Float64, InputError, Noise, RawScan
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
    the added noise; a negative estimate counts as no photons. Behind a bowtie the gain follows the beam's hardness.
    `cross_talk` (along rows' axis, along columns' axis) gives the added quantum noise the detector's correlation.
    Integers are rounded again and widened where they would not fit. Fraction 1 returns the scan itself.

    Raises InputError for another fraction or a scan without known noise or without counts (already a logarithm).
    """
    if not 0 < fraction <= 1:
        raise InputError(f"fraction {fraction}: a lower dose is above 0 and at most 1")
    noise, dark = _known(scan)
    if fraction == 1:
        return scan
    gain = noise.gain_counts * _hardness(scan)
    integer = np.issubdtype(scan.counts.dtype, np.integer)
    electronic = max(0.0, (1 - fraction**2) * noise.electronic_counts**2 - (ROUNDING if integer else 0.0))
    wide = np.empty(scan.geometry.shape, np.float32 if not integer else scan.counts.dtype)
    for first in range(0, scan.views, BLOCK):
        block = slice(first, first + BLOCK)
        net = scan.read(block).astype(np.float64) - dark
        mean = np.maximum(ndimage.uniform_filter(net, (1, 3, 3), mode="nearest"), 0.0)
        quantum = np.sqrt(fraction * (1 - fraction) * gain * mean) * _correlated(net.shape, rng, cross_talk)
        lowered = fraction * net + quantum + np.sqrt(electronic) * rng.standard_normal(net.shape) + dark
        if integer:
            lowered = np.rint(lowered)
            wide = _fitting(wide, lowered)
        wide[block] = lowered
    left = fraction**2 * noise.electronic_counts**2 + electronic + (ROUNDING if integer else 0.0)
    facts = scan.acquisition
    facts = replace(
        facts,
        dose_fraction=facts.dose_fraction * fraction,
        CTDIvol=None if facts.CTDIvol is None else facts.CTDIvol * fraction,
    )
    return replace(
        scan, counts=wide, exposure_mas=scan.exposure_mas * fraction, acquisition=facts, id="",
        noise=Noise(noise.gain_counts, float(np.sqrt(left))),
    )  # fmt: skip


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


def _hardness(scan: RawScan) -> Float64:
    """(columns,): mean energy of the signal behind the bowtie over that on the central ray; 1 where unknown."""
    if scan.spectrum is None or scan.spectrum.bowtie is None or scan.geometry.parallel:
        return np.ones(scan.geometry.columns)
    fan, _ = fan_and_cone_rad(scan.geometry, 0)
    weights = detected_weights(scan.spectrum, np.append(fan[scan.geometry.rows // 2], 0.0))
    energy = compound_gain(scan.spectrum, weights)
    return np.asarray(energy[:-1] / energy[-1], np.float64)


def _correlated(shape: tuple[int, ...], rng: np.random.Generator, cross_talk: tuple[float, float]) -> Float64:
    """Standard normal deviates, correlated between neighbours as cross-talk makes them."""
    white = rng.standard_normal(shape)
    v, u = cross_talk
    if v == u == 0:
        return white
    kernel = np.array([[0, v, 0], [u, 1 - 2 * (u + v), u], [0, v, 0]])
    kernel = kernel / np.sqrt((kernel**2).sum())
    return np.asarray(ndimage.convolve(white, kernel[None], mode="nearest"), np.float64)


def _fitting(counts: np.ndarray, block: Float64) -> np.ndarray:
    """`counts` in a number format that holds the new block too."""
    low, high = float(block.min()), float(block.max())
    if np.iinfo(counts.dtype).min <= low and high <= np.iinfo(counts.dtype).max:
        return counts
    wider = np.int32 if low >= -(2**31) and high < 2**31 else np.int64
    return counts.astype(np.promote_types(counts.dtype, wider))
