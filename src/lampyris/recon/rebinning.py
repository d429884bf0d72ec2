"""Views of a fan, helical or axial → cone-parallel views: rays of equal direction side by side, row by row.

A ray of gantry angle φ and fan angle γ has the direction θ = φ − γ in the plane of rotation and the distance
ξ = R·sin γ from the axis. Every detector row is resampled to even θ (azimuthal) and then to even ξ (radial) with cubic
convolution (Keys 1981, a = −½); its height above the plane and the focal spot's y stay as measured. Each position of a
flying focal spot is a scan of its own with its own θ(φ, column), ξ(column) and y, so that no ray is moved to where it
was not measured. Stierstorfer et al. 2004 (Phys. Med. Biol. 49:2209), section 2.1.
"""

from dataclasses import dataclass

import numba as nb
import numpy as np

from lampyris.model import Float32, Float64, GeometryError, Orbit

MOST_SPOTS = 8
SPOT_MM = 0.02
"""Focal spots closer than this to where the cycle puts them are the same spot."""


@dataclass(frozen=True, slots=True, eq=False)
class Spot:
    """One position of the focal spot: which views it made and, per column, which rays; in the plane of rotation.

    Each (columns,): `theta_rad` direction relative to the gantry angle, `xi_mm` ascending distance from the axis,
    `ahead_mm` from the focal spot along the ray to the foot of the axis' normal, `cell_mm` from the focal spot to the
    cell. `axial_mm` is the focal spot's y and `first_row_mm` that of the middle of row 0, relative to the table.
    """

    views: slice
    theta_rad: Float64
    xi_mm: Float64
    ahead_mm: Float64
    cell_mm: Float64
    axial_mm: float
    first_row_mm: float


@dataclass(frozen=True, slots=True, eq=False)
class Resampling:
    """Where each cone-parallel sample lies among the measured ones: fractional view (θs, columns) of the spot's views,
    and fractional column (ξs,). `wraps`: the views close a full turn, the last is followed by the first.
    """

    view_of: Float64
    column_of: Float64
    wraps: bool


def spots(orbit: Orbit) -> tuple[Spot, ...]:
    """The positions that the focal spot visits in turn, with the rays of each.

    Raises GeometryError when the focal spot does not repeat itself after at most 8 views.
    """
    cycle = _cycle(orbit)
    return tuple(_spot(orbit, first, cycle) for first in range(cycle))


def theta_range(orbit: Orbit, spot: Spot, reach_mm: float) -> tuple[float, float]:
    """Lowest and highest θ, rad, at which every ray within `reach_mm` of the axis was measured."""
    within = np.abs(spot.xi_mm) <= max(reach_mm, float(np.abs(spot.xi_mm).min()))
    phi = orbit.gantry_angle_rad[spot.views]
    return float(phi.min() + spot.theta_rad[within].max()), float(phi.max() + spot.theta_rad[within].min())


def resampling(orbit: Orbit, spot: Spot, theta_rad: Float64, xi_mm: Float64, *, wraps: bool) -> Resampling:
    """Where the samples at θ (ascending) and ξ (ascending) lie; beyond what was measured, at its edge."""
    phi = orbit.gantry_angle_rad[spot.views]
    order = np.arange(len(phi), dtype=np.float64)
    if phi[-1] < phi[0]:
        phi, order = phi[::-1], order[::-1]
    wanted = theta_rad[:, None] - spot.theta_rad[None, :]
    if wraps:
        wanted = phi[0] + np.mod(wanted - phi[0], 2 * np.pi)
        closing = order[-1] + np.sign(order[-1] - order[0])  # one view on: the first again, modulo their number
        phi, order = np.append(phi, phi[0] + 2 * np.pi), np.append(order, closing)
    columns = np.arange(len(spot.xi_mm), dtype=np.float64)
    return Resampling(np.interp(wanted, phi, order), np.interp(xi_mm, spot.xi_mm, columns), wraps)


def resample(views: Float32, where: Resampling, part: slice) -> Float32:
    """Cone-parallel views `part` of one spot, (θs, rows, ξs), from its views (views, rows, columns)."""
    view_of = where.view_of[part]
    values = np.empty((len(view_of), views.shape[1], len(where.column_of)), np.float32)
    _resample(views, view_of, where.column_of, where.wraps, values)
    return values


def _cycle(orbit: Orbit) -> int:
    gantry, shift = orbit.gantry, orbit.shift
    flown = np.stack([shift.angular_rad * gantry.source_to_isocentre_mm, shift.axial_mm, shift.radial_mm])
    for cycle in range(1, min(MOST_SPOTS, orbit.views - 1) + 1):
        if np.abs(flown[:, cycle:] - flown[:, :-cycle]).max() < SPOT_MM:
            return cycle
    raise GeometryError(
        f"the focal spot does not return to its place within {MOST_SPOTS} views: expected a flying spot that visits the"
        " same places in turn; are views missing?"
    )


def _spot(orbit: Orbit, first: int, cycle: int) -> Spot:
    """Rays of one spot at gantry angle 0, where u = +x and the source is above (+z)."""
    gantry, shift = orbit.gantry, orbit.shift
    middle_column = (gantry.columns - 1) / 2 if gantry.central_column is None else gantry.central_column
    middle_row = (gantry.rows - 1) / 2 if gantry.central_row is None else gantry.central_row
    turn, rise, out = (
        float(each[first::cycle].mean()) for each in (shift.angular_rad, shift.axial_mm, shift.radial_mm)
    )
    radius, distance = gantry.source_to_isocentre_mm + out, gantry.source_to_detector_mm
    source = radius * np.array([np.sin(turn), np.cos(turn)])
    across = (np.arange(gantry.columns) - middle_column) * gantry.cell_mm[1]
    bent = np.sin(across / distance) if gantry.curved else across / distance
    deep = np.cos(across / distance) if gantry.curved else np.ones_like(across)
    ray_x, ray_z = distance * bent - source[0], gantry.source_to_isocentre_mm - distance * deep - source[1]
    theta = np.arctan2(-ray_x, -ray_z)  # the ray runs along −(sin θ, cos θ)
    sine, cosine = np.sin(theta), np.cos(theta)
    return Spot(
        slice(first, None, cycle), theta, source[0] * cosine - source[1] * sine, source[0] * sine + source[1] * cosine,
        np.hypot(ray_x, ray_z), rise, -middle_row * gantry.cell_mm[0],
    )  # fmt: skip


@nb.njit(cache=True, error_model="numpy")
def _keys(place):  # type: ignore[no-untyped-def]
    """Sample left of `place` and the cubic convolution weights of the four around it."""
    left = int(np.floor(place))
    f = place - left
    return (
        left,
        np.float32(((-0.5 * f + 1.0) * f - 0.5) * f),
        np.float32((1.5 * f - 2.5) * f * f + 1.0),
        np.float32(((-1.5 * f + 2.0) * f + 0.5) * f),
        np.float32((0.5 * f - 0.5) * f * f),
    )


@nb.njit(parallel=True, cache=True, error_model="numpy")
def _resample(views, view_of, column_of, wraps, values):  # type: ignore[no-untyped-def]
    """Azimuthal, then radial, cubic convolution of every row of every cone-parallel view; ends hold their value."""
    count, rows, columns = views.shape
    for i in nb.prange(len(view_of)):
        at = np.empty((4, columns), np.int64)
        share = np.empty((4, columns), np.float32)
        for c in range(columns):
            left, share[0, c], share[1, c], share[2, c], share[3, c] = _keys(view_of[i, c])
            for k in range(4):
                one = left - 1 + k
                at[k, c] = one % count if wraps else min(max(one, 0), count - 1)
        turned = np.empty(columns + 4, np.float32)
        for r in range(rows):
            for c in range(columns):
                turned[c + 1] = (
                    share[0, c] * views[at[0, c], r, c]
                    + share[1, c] * views[at[1, c], r, c]
                    + share[2, c] * views[at[2, c], r, c]
                    + share[3, c] * views[at[3, c], r, c]
                )
            turned[0], turned[columns + 1 :] = turned[1], turned[columns]
            for j in range(len(column_of)):
                left, w0, w1, w2, w3 = _keys(column_of[j])
                values[i, r, j] = (
                    w0 * turned[left] + w1 * turned[left + 1] + w2 * turned[left + 2] + w3 * turned[left + 3]
                )
