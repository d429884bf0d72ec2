"""Angles and fan → weights that count every ray of a scan exactly once, for full, short, over- and half-fan scans.

A ray of gantry angle φ and fan angle γ (positive along u) is the parallel ray of angle θ = φ − γ; it is measured again
at φ + π − 2γ under −γ, and in every further turn.
"""

import numpy as np

from lampyris.model import Float32, Float64, GeometryError

FULL_TURN = 2 * np.pi


def angular_gaps(angle_rad: Float64, period_rad: float) -> Float64:
    """Share of every view in one period (views,) rad: half the distance to its neighbours, modulo the period.

    The shares sum to the period; views that coincide share their gap, so any coverage of at least one period is
    counted evenly, however it is sampled.
    """
    wrapped = np.mod(angle_rad, period_rad)
    wrapped = np.where(period_rad - wrapped < 1e-9, 0.0, wrapped)
    places, inverse, counts = np.unique(np.round(wrapped, 9), return_inverse=True, return_counts=True)
    if len(places) == 1:
        return np.full(len(angle_rad), period_rad / len(angle_rad))
    gap = (np.roll(places, -1) - np.roll(places, 1)) / 2
    gap[0] += period_rad / 2
    gap[-1] += period_rad / 2
    return np.asarray((gap / counts)[inverse], np.float64)


def coverage_rad(angle_rad: Float64) -> float:
    """Angle that the views stand for: from the first to the last, and one mean step."""
    span = abs(float(angle_rad[-1] - angle_rad[0]))
    return span * len(angle_rad) / max(len(angle_rad) - 1, 1)


def parker(angle_rad: Float64, fan_angle_rad: Float64, needed_rad: float | None = None) -> Float32:
    """Short-scan weights (views, columns), 1 in sum over the two measurements of every ray.

    `needed_rad` is the half fan that holds the body (None: the whole detector); rays beyond it may stay uncounted.

    Parker 1982 (Med. Phys. 9:254) with his fan angle replaced by the half excess of the scan over π, so that a scan
    longer than the shortest uses all its views (Silver 2000, Med. Phys. 27:773).
    Raises GeometryError when the scan is shorter than π plus the fan.
    """
    span = coverage_rad(angle_rad)
    half_excess = (span - np.pi) / 2
    widest = float(np.abs(fan_angle_rad).max()) if needed_rad is None else needed_rad
    step = span / len(angle_rad)
    if half_excess < widest - step:
        raise GeometryError(
            f"a short scan needs 180° plus the fan, {np.rad2deg(np.pi + 2 * widest):.1f}°; the views cover"
            f" {np.rad2deg(span):.1f}°: views missing at the start or the end?"
        )
    half_excess = max(half_excess, widest + 1e-6)
    sense = np.sign(angle_rad[-1] - angle_rad[0])
    beta = (sense * (angle_rad - angle_rad[0]) + step / 2)[:, None]  # the middle of the first view's share
    gamma = sense * fan_angle_rad[None, :]
    rise = np.clip(beta / np.maximum(half_excess + gamma, 1e-9) / 2, 0, 1)
    fall = np.clip((np.pi + 2 * half_excess - beta) / np.maximum(half_excess - gamma, 1e-9) / 2, 0, 1)
    return np.asarray(np.sin(np.pi / 2 * np.minimum(rise, fall)) ** 2, np.float32)


def half_fan(reach_mm: tuple[float, float], body_reach_mm: float) -> bool:
    """Whether the detector, reaching so far on its low and high side, holds the body on one side only."""
    return min(reach_mm) < body_reach_mm and max(reach_mm) > 1.05 * min(reach_mm)


def displaced(offset: Float64, reach: tuple[float, float]) -> Float64:
    """Full-scan weights (columns,) of a detector that reaches further on one side; 1 in sum over opposite rays.

    `offset` (columns,) distance or fan angle from the central ray, `reach` of the low and the high side in the same
    unit. Within the reach ±a of the short side the weight rises as ½(1 + sin(πs/2a)); beyond it every ray is measured
    once. Wang 2002 (Med. Phys. 29:1634).
    """
    short = min(reach)
    if short <= 0:
        raise GeometryError(
            f"the detector reaches from {-reach[0]:.4g} to {reach[1]:.4g} about the central ray: it must lie within,"
            " or the middle is never measured"
        )
    towards = 1.0 if reach[1] > reach[0] else -1.0
    inside = np.clip(towards * offset / short, -1, 1)
    return np.asarray(0.5 * (1 + np.sin(np.pi / 2 * inside)), np.float64)
