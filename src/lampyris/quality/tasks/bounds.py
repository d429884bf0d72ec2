"""What counts or noise allow at best, and detectability over dose → the dose at which a task is as well seen."""

from collections.abc import Sequence
from itertools import pairwise

import numpy as np

from lampyris.model import Figure, Float64, InputError
from lampyris.quality.detectability import Detectability, Task

SAMPLES = 4001


def ideal_bound(weights: object, signal_integrals: object) -> float:
    """d′ = √Σ w Δp²: the ideal observer of a signal known exactly in a known background, from the counts.

    `weights`: inverse variances of the line integrals, of any shape; `signal_integrals` Δp: the signal's line integrals
    of the same shape. For Gaussian independent rays the log-likelihood ratio is linear, its d′² is Σ (Δp)²/σ² (Barrett
    & Myers 2004, eq. 13.176); no image made from these rays shows the signal better. Sums are in float64, in blocks of
    the first axis, so that maps on disk may be handed in.

    Raises InputError for NaN, negative weights, or no signal at all.
    """
    w, p = np.asanyarray(weights), np.asanyarray(signal_integrals)
    if w.shape != p.shape or not w.size or w.ndim == 0:
        raise InputError(f"weights are {w.shape}, the signal's integrals {p.shape}: expected the same, not empty")
    total, energy = 0.0, 0.0
    for start in range(0, len(w), 64):
        ray, signal = np.asarray(w[start : start + 64], np.float64), np.asarray(p[start : start + 64], np.float64)
        if not (np.isfinite(ray).all() and np.isfinite(signal).all()) or ray.min() < 0:
            raise InputError(f"NaN, infinity or a negative weight among the rays from {start} on the first axis")
        total += float((ray * signal**2).sum())
        energy += float((signal**2).sum())
    if energy == 0:
        raise InputError("the signal has no line integral other than 0: it lies beside the scan field")
    return float(np.sqrt(total))


def prewhitening(task: Task, transfer: tuple[Float64, Float64], noise: tuple[Float64, Float64]) -> Detectability:
    """d′ = √∬|W|²T²/NPS of the prewhitening, in stationary noise ideal, observer of a two-dimensional image (ICRU 54).

    `transfer`, `noise`: (frequency in 1/mm, value) with ascending frequencies, as for `quality.detectability.npw`.
    The integral runs up to the lower of both highest frequencies; below the first one its value holds. Noise that
    falls to 0 with the transfer (an apodised kernel) loses nothing: both are then 0 and such rings are left out.

    Raises InputError where noise is 0 and the transfer is not: detectability would be infinite.
    """
    for name, (frequency, value) in (("transfer", transfer), ("noise", noise)):
        if len(frequency) != len(value) or len(frequency) < 2 or np.diff(frequency).min() <= 0:
            raise InputError(f"the {name}'s frequencies must ascend and match its {len(value)} values")
    highest = float(min(transfer[0][-1], noise[0][-1]))
    frequency = np.linspace(0, highest, SAMPLES)
    t, n = np.interp(frequency, *transfer), np.interp(frequency, *noise)
    if n.min() < 0 or (t[n == 0] != 0).any():
        raise InputError("the noise power is negative, or zero where the transfer is not: the bound would be infinite")
    w2, ring = task.spectrum(frequency) ** 2, 2 * np.pi * frequency
    kept = n > 0
    square = _simpson(np.where(kept, w2 * t**2 / np.where(kept, n, 1), 0) * ring, frequency)
    seen = _simpson(w2 * ring, frequency) / task.energy()
    return Detectability(float(np.sqrt(square)), float(max(0.0, 1 - seen)), highest)


def dose_of_equal_detectability(doses: Sequence[float], values: Sequence[float], reference: float) -> Figure:
    """The dose at which a task's detectability equals `reference`, e.g. that of full-dose FBP; doses in any one unit.

    Linear between the logarithms of dose and value, because d′ follows a power of the dose (½ for quantum noise).
    Measured values may fall back by chance: the dose returned is that above which the value stays at the reference.

    Raises InputError when the reference is not between the measured values: nothing is extrapolated, so a claim
    never goes beyond the lowest dose that was looked at.
    """
    dose, value = np.asarray(doses, np.float64), np.asarray(values, np.float64)
    if dose.ndim != 1 or dose.shape != value.shape or len(dose) < 2:
        raise InputError(f"{dose.shape} doses and {value.shape} values, expected the same number, at least two")
    if not (np.isfinite(dose).all() and np.isfinite(value).all() and reference > 0 and np.isfinite(reference)):
        raise InputError(f"a dose or value is NaN or infinite, or the reference {reference} is not above 0")
    order = np.argsort(dose)
    dose, value = dose[order], value[order]
    if dose[0] <= 0 or np.diff(dose).min() <= 0 or value.min() <= 0:
        raise InputError("doses and values must be above 0 and no dose be given twice")
    below = np.flatnonzero(value < reference)
    if not len(below) or below[-1] == len(value) - 1:
        side = "at or above it from the lowest dose on" if not len(below) else "below it at the highest dose"
        raise InputError(
            f"dose not measured: the values {np.round(value, 4).tolist()} at doses {dose.tolist()} are {side}"
            f" (reference {reference:.4g}); nothing is extrapolated: simulate further doses"
        )
    first = int(below[-1])
    x, y = np.log(dose[first : first + 2]), np.log(value[first : first + 2])
    found = float(np.exp(x[0] + (np.log(reference) - y[0]) / (y[1] - y[0]) * (x[1] - x[0])))
    falls = sum(1 for a, b in pairwise(value) if b < a)
    settings = (
        ("doses", dose.tolist()),
        ("falls", falls),
        ("method", "log-log interpolation"),
        ("reference", float(reference)),
        ("values", value.tolist()),
    )
    return Figure("dose_of_equal_detectability", found, "1", settings=settings)


def _simpson(values: Float64, frequency: Float64) -> float:
    step = frequency[1] - frequency[0]
    return float(step / 3 * (values[0] + 4 * values[1:-1:2].sum() + 2 * values[2:-2:2].sum() + values[-1]))
