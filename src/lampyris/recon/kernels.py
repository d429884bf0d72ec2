"""Kernel name → frequency response: what is done to the ramp, and the resolution (TTF, f50) that theory expects of it.

A kernel is |f|·A(f), band-limited to the Nyquist frequency of the samples at the isocentre. Linear interpolation
between filtered samples multiplies by sinc²(f·Δ); a *compensated* kernel divides by it, so that its A(f) is the
response of the whole reconstruction. The detector's aperture a (a box) multiplies by sinc(f·a):

    TTF(f) = A(f) · [sinc²(f·Δ)] · sinc(f·a),  Δ sampling and a cell width, both at the isocentre

with the bracket for kernels that are not compensated. Sources: Ramachandran and Lakshminarayanan 1971; Shepp and
Logan 1974; Kak and Slaney 1988, ch. 3; TTF as in AAPM TG-233.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from scipy.optimize import brentq

from lampyris.model import Float64, RecipeError

BODY_CUTOFF_PER_MM = 1.0
LUNG_CORNER_PER_MM = 0.6


@dataclass(frozen=True, slots=True)
class Kernel:
    """A named apodised ramp.

    `apodisation` (frequency 1/mm, Nyquist 1/mm) → A, 1 at frequency 0; `compensated` says whether the loss of the
    linear interpolation in backprojection is given back.
    """

    name: str
    description: str
    apodisation: Callable[[Float64, float], Float64]
    compensated: bool = False

    def response(self, frequency_per_mm: Float64, sampling_mm: float) -> Float64:
        """What multiplies the ramp at these frequencies: A, over sinc² where compensated; 0 above Nyquist."""
        f = np.abs(np.asarray(frequency_per_mm, np.float64))
        nyquist = 0.5 / sampling_mm
        gain = self.apodisation(f, nyquist)
        if self.compensated:
            gain = gain / np.sinc(np.minimum(f, nyquist) * sampling_mm) ** 2
        return np.asarray(np.where(f <= nyquist * (1 + 1e-9), gain, 0.0), np.float64)

    def ttf(self, frequency_per_mm: Float64, sampling_mm: float, aperture_mm: float = 0.0) -> Float64:
        """Theory's task transfer function with linear interpolation and a box aperture, both mm at the isocentre."""
        f = np.asarray(frequency_per_mm, np.float64)
        interpolation = np.sinc(f * sampling_mm) ** 2
        return np.asarray(self.response(f, sampling_mm) * interpolation * np.sinc(f * aperture_mm), np.float64)

    def f50_per_mm(self, sampling_mm: float, aperture_mm: float = 0.0, level: float = 0.5) -> float:
        """Frequency, 1/mm, at which theory's TTF first falls to `level`; Nyquist if it stays above up to there.

        >>> round(kernel("hann").f50_per_mm(0.5), 3)
        0.443
        """
        nyquist = 0.5 / sampling_mm
        f = np.linspace(0.0, nyquist, 513)
        below = self.ttf(f, sampling_mm, aperture_mm) < level
        if not below.any():
            return nyquist
        first = int(below.argmax())

        def excess(one: float) -> float:
            return float(self.ttf(np.asarray(one), sampling_mm, aperture_mm)) - level

        return float(brentq(excess, f[first - 1], f[first]))


def _ramp(f: Float64, _nyquist: float) -> Float64:
    return np.ones_like(f)


def _shepp_logan(f: Float64, nyquist: float) -> Float64:
    return np.asarray(np.sinc(f / (2 * nyquist)), np.float64)


def _hann(f: Float64, nyquist: float) -> Float64:
    return np.asarray(np.cos(np.pi * f / (2 * nyquist)) ** 2, np.float64)


def _body(f: Float64, _nyquist: float) -> Float64:
    cutoff = BODY_CUTOFF_PER_MM
    return np.asarray(np.where(f < cutoff, np.cos(np.pi * f / (2 * cutoff)) ** 2, 0.0), np.float64)


def _lung(f: Float64, _nyquist: float) -> Float64:
    x = f / LUNG_CORNER_PER_MM
    return np.asarray((1 + x**2) * np.exp(-(x**4)), np.float64)


KERNELS = {
    one.name: one
    for one in (
        Kernel("ramp", "Ram-Lak: A = 1 up to Nyquist; the sharpest of the plain ones, rings at edges", _ramp),
        Kernel("shepp-logan", "A = sinc(f/2f_N)", _shepp_logan),
        Kernel("hann", "A = cos²(πf/2f_N), smooth to 0 at Nyquist", _hann),
        Kernel(
            "body",
            f"A = cos²(πf/2f_c), f_c = {BODY_CUTOFF_PER_MM} /mm on every scanner: soft tissue, no overshoot",
            _body,
            compensated=True,
        ),
        Kernel(
            "lung",
            f"A = (1 + x²)·exp(−x⁴), x = f/({LUNG_CORNER_PER_MM} /mm): sharp, peaks at 1.19 to give back the aperture",
            _lung,
            compensated=True,
        ),
    )
}


def kernel(name: str) -> Kernel:
    """The kernel of that name.

    Raises RecipeError that lists the names known.
    """
    if name not in KERNELS:
        raise RecipeError(f"kernel {name!r} is unknown; known are {', '.join(KERNELS)}")
    return KERNELS[name]
