"""Task, transfer function and noise power → detectability index d′ of the non-prewhitening observer (AAPM TG-233)."""

from dataclasses import dataclass
from typing import Protocol

import numpy as np
from scipy import special

from lampyris.model import Float64, InputError

SAMPLES = 4001
"""Points of the radial integral: the rings of a 25 mm disc are still resolved at 2 /mm."""


class Task(Protocol):
    """What is to be seen: a radially symmetric signal in a flat background."""

    def spectrum(self, frequency_per_mm: Float64) -> Float64:
        """2-D Fourier transform of contrast × shape, in image unit · mm²."""

    def energy(self) -> float:
        """∬ signal² dx dy, in (image unit)² mm²."""


@dataclass(frozen=True, slots=True)
class Disc:
    """A disc of constant contrast with a sharp edge."""

    radius_mm: float
    contrast: float

    def spectrum(self, frequency_per_mm: Float64) -> Float64:
        x = 2 * np.pi * self.radius_mm * frequency_per_mm
        shape = np.where(x > 0, 2 * special.j1(x) / np.where(x > 0, x, 1), 1.0)
        return np.asarray(self.contrast * np.pi * self.radius_mm**2 * shape, np.float64)

    def energy(self) -> float:
        return self.contrast**2 * np.pi * self.radius_mm**2


@dataclass(frozen=True, slots=True)
class Spot:
    """A Gaussian spot of peak `contrast`."""

    sigma_mm: float
    contrast: float

    def spectrum(self, frequency_per_mm: Float64) -> Float64:
        s = self.sigma_mm
        blur = np.exp(-2 * (np.pi * s * frequency_per_mm) ** 2)
        return np.asarray(self.contrast * 2 * np.pi * s**2 * blur, np.float64)

    def energy(self) -> float:
        return self.contrast**2 * np.pi * self.sigma_mm**2


@dataclass(frozen=True, slots=True)
class Eye:
    """Visual response E(ρ) = ρⁿ exp(−c ρᵃ), ρ in cycles per degree (Solomon, Wilson, Samei 2015, [check]).

    `magnification` is the size on the screen over the size in the patient.
    """

    viewing_distance_mm: float = 475.0
    magnification: float = 1.0
    n: float = 1.5
    c: float = 3.22
    a: float = 0.68

    def response(self, frequency_per_mm: Float64) -> Float64:
        cycles_per_degree = frequency_per_mm / self.magnification * self.viewing_distance_mm * np.pi / 180
        return np.asarray(cycles_per_degree**self.n * np.exp(-self.c * cycles_per_degree**self.a), np.float64)


@dataclass(frozen=True, slots=True)
class Detectability:
    """d′, and the fraction of the task's energy that lies beyond the frequencies that were measured."""

    value: float
    beyond: float
    highest_per_mm: float


def npw(
    task: Task,
    transfer: tuple[Float64, Float64],
    noise: tuple[Float64, Float64],
    *,
    eye: Eye | None = None,
) -> Detectability:
    """d′ = ∬|W|²T² / √(∬|W|²T²·NPS), with an eye filter E: E² above, E⁴ below (AAPM TG-233, 2019).

    `transfer` and `noise` are (frequency in 1/mm, value) with ascending frequencies: a radial TTF and a radial NPS in
    (image unit)² mm². The integral runs over rings up to the lower of their highest frequencies; below the noise's
    first frequency its first value holds.

    >>> f = np.linspace(0, 20, 9)
    >>> round(npw(Disc(2.5, 15.0), (f, np.ones(9)), (f, np.full(9, 100.0))).value, 2)
    6.64
    """
    for name, (frequency, value) in (("transfer", transfer), ("noise", noise)):
        if len(frequency) != len(value) or len(frequency) < 2 or np.diff(frequency).min() <= 0:
            raise InputError(f"the {name}'s frequencies must ascend and match its {len(value)} values")
    if min(noise[1]) <= 0:
        raise InputError("the noise power is zero or negative somewhere: a detectability would be infinite")
    highest = float(min(transfer[0][-1], noise[0][-1]))
    frequency = np.linspace(0, highest, SAMPLES)
    t = np.interp(frequency, *transfer)
    n = np.interp(frequency, *noise)
    e = np.ones_like(frequency) if eye is None else eye.response(frequency)
    w2 = task.spectrum(frequency) ** 2
    ring = 2 * np.pi * frequency
    signal = _integral(w2 * t**2 * e**2 * ring, frequency)
    spread = _integral(w2 * t**2 * n * e**4 * ring, frequency)
    seen = _integral(w2 * ring, frequency) / task.energy()
    return Detectability(float(signal / np.sqrt(spread)), float(max(0.0, 1 - seen)), highest)


def _integral(values: Float64, frequency: Float64) -> float:
    """Simpson's rule on an odd number of even steps: the rings' kink at 0 makes the trapezoid too coarse."""
    step = frequency[1] - frequency[0]
    return float(step / 3 * (values[0] + 4 * values[1:-1:2].sum() + 2 * values[2:-2:2].sum() + values[-1]))
