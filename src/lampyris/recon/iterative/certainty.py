"""Projector and statistical weights → how surely the scan knows every voxel, so that one strength is one resolution.

Near a voxel, AᵀWA is what it would be with weights of 1, times the mean weight of the voxel's rays: G D(w) G ≈ κ·GᵀG·κ
(Fessler & Rogers 1996, IEEE Trans. Image Process. 5:1346, eqs. 24 and 37). A penalty with β·κ_j·κ_k on every pair of
neighbours then answers with the same local impulse response wherever the voxel lies and whatever the dose. The number
of rays that meet a voxel counts as the weights do, so that it holds for any number of views, cell and voxel too.
"""

import math
from typing import Any, Protocol

from array_api_compat import array_namespace

from lampyris.model import InputError


class Operator(Protocol):
    """What is asked of a projector."""

    def adjoint(self, projections: Any, /) -> Any: ...


def certainty(projector: Operator, weights: Any) -> Any:
    """κ = √(Aᵀw), (slices, rows, columns), from weights (views, rows, columns) ≥ 0; in √mm times that of the weight.

    A sweep over half or all of the circle answers a wave of spatial frequency ρ in the plane with κ²/(πρ), and the
    quadratic prior with κ²·(2πρ)², so that β = 1 mm³ has one meaning: see `strength`. κ is 0 where no ray with any
    weight passes: neither data nor prior touch that voxel.

    Raises InputError for weights that are NaN or negative, with their number and the first place.
    """
    xp = array_namespace(weights)
    wrong = ~(xp.isfinite(weights) & (weights >= 0))
    if bool(xp.any(wrong)):
        first = tuple(int(axis[0]) for axis in xp.nonzero(wrong))
        count = int(xp.sum(xp.astype(wrong, xp.int64)))
        raise InputError(
            f"{count} of {math.prod(weights.shape)} weights are NaN, infinite or negative, the first at view,"
            f" row, column {first}: the logarithm of a starved ray?"
        )
    known = projector.adjoint(weights)
    return xp.sqrt(xp.maximum(known, xp.zeros_like(known)))  # a footprint's weight may round to −1e-9


def strength(half_frequency_per_mm: float) -> float:
    """The strength β, mm³, with which low contrast passes half at that frequency f in the plane: β = 1/(4π³f³).

    Data and prior of `certainty` balance where 1/(πf) = β·(2πf)²; the transfer function is 1/(1 + (ρ/f)³).

    >>> round(strength(0.45), 4)
    0.0885
    """
    if not (math.isfinite(half_frequency_per_mm) and half_frequency_per_mm > 0):
        raise InputError(f"half frequency is {half_frequency_per_mm} /mm, expected a number above 0")
    return 1 / (4 * math.pi**3 * half_frequency_per_mm**3)
