"""Helical or axial views of a fan → cone-parallel views: rays of equal direction side by side, row by row.

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
    """One position of the focal spot: its views and, per column, the rays it makes; all in the plane of rotation.

    `theta_rad` direction relative to the gantry angle, `xi_mm` signed distance from the axis, `ahead_mm` from the
    focal spot to the foot of the axis' normal on the ray, `cell_mm` from the focal spot to the cell, each (columns,);
    `axial_mm` the focal spot's y relative to the table position, `row_mm` that of row 0's middle relative to it.
    """

    views: slice
    theta_rad: Float64
    xi_mm: Float64
    ahead_mm: Float64
    cell_mm: Float64
    axial_mm: float
    row_mm: float


@dataclass(frozen=True, slots=True, eq=False)
class ConeParallel:
    """Cone-parallel views of one focal spot.

    `values` (views, rows, columns) at θ = `theta_mm`… see fields: θ = theta_first_rad + i·theta_step_rad and
    ξ = xi_first_mm + j·xi_step_mm. Per column: `lag_rad` gantry angle minus θ, `ahead_mm`, `cell_mm` as in `Spot`.
    """

    values: Float32
    theta_first_rad: float
    theta_step_rad: float
    xi_first_mm: float
    xi_step_mm: float
    lag_rad: Float64
    ahead_mm: Float64
    cell_mm: Float64
    axial_mm: float
    row_mm: float


def spots(orbit: Orbit) -> tuple[Spot, ...]:
    """The positions that the focal spot visits in turn, with the rays of each.

    Raises GeometryError when the focal spot does not repeat itself after at most 8 views.
    """
    cycle = _cycle(orbit)
    return tuple(_spot(orbit, first, cycle) for first in range(cycle))


def _cycle(orbit: Orbit) -> int:
    gantry, shift = orbit.gantry, orbit.shift
    flown = np.stack([shift.angular_rad * gantry.source_to_isocentre_mm, shift.axial_mm, shift.radial_mm])
    for cycle in range(1, min(MOST_SPOTS, orbit.views) + 1):
        if np.abs(flown[:, cycle:] - flown[:, :-cycle]).max(initial=0.0) < SPOT_MM:
            return cycle
    raise GeometryError(
        f"the focal spot does not return to its place within {MOST_SPOTS} views: expected a flying spot that visits the"
        " same places in turn; are views missing?"
    )


def _spot(orbit: Orbit, first: int, cycle: int) -> Spot:
    """Rays of one spot at gantry angle 0, where u = +x and the source is above (+z)."""
    gantry = orbit.gantry
    middle = (gantry.columns - 1) / 2 if gantry.central_column is None else gantry.central_column
    lowest = 0.0 - ((gantry.rows - 1) / 2 if gantry.central_row is None else gantry.central_row)
    mean = [float(each[first::cycle].mean()) for each in (orbit.shift.angular_rad, orbit.shift.axial_mm)]
    radius = gantry.source_to_isocentre_mm + float(orbit.shift.radial_mm[first::cycle].mean())
    source = radius * np.array([np.sin(mean[0]), np.cos(mean[0])])
    across = (np.arange(gantry.columns) - middle) * gantry.cell_mm[1]
    distance = gantry.source_to_detector_mm
    if gantry.curved:
        x, z = distance * np.sin(across / distance), distance * np.cos(across / distance)
    else:
        x, z = across, np.full_like(across, distance)
    ray_x, ray_z = x - source[0], gantry.source_to_isocentre_mm - z - source[1]
    cell = np.hypot(ray_x, ray_z)
    theta = np.arctan2(-ray_x, -ray_z)
    # direction of the ray is −(sin θ, cos θ), across it (cos θ, −sin θ)
    xi = source[0] * np.cos(theta) - source[1] * np.sin(theta)
    ahead = source[0] * np.sin(theta) + source[1] * np.cos(theta)
    return Spot(slice(first, None, cycle), theta, xi, ahead, cell, mean[1], lowest * gantry.cell_mm[0])


def theta_range(orbit: Orbit, spot: Spot, reach_mm: float) -> tuple[float, float]:
    """First and last θ (rad, ascending) at which every ray within `reach_mm` of the axis was measured."""
    within = np.abs(spot.xi_mm) <= reach_mm
    if not within.any():
        within = np.abs(spot.xi_mm) <= np.abs(spot.xi_mm).min()
    phi = orbit.gantry_angle_rad[spot.views]
    low, high = min(phi[0], phi[-1]), max(phi[0], phi[-1])
    return float(low + spot.theta_rad[within].max()), float(high + spot.theta_rad[within].min())


def rebin(
    integrals: Float32, orbit: Orbit, spot: Spot, theta_rad: Float64, xi_mm: Float64
) -> ConeParallel:
    """The cone-parallel views of one spot at even θ (ascending) and ξ; rays not measured hold their neighbour's value."""
    views = integrals[spot.views]
    phi = orbit.gantry_angle_rad[spot.views]
    order = np.arange(len(phi), dtype=np.float64)
    if phi[-1] < phi[0]:
        phi, order = phi[::-1], order[::-1]
    view_of = np.interp(theta_rad[:, None] - spot.theta_rad[None, :], phi, order)
    rising = np.argsort(spot.xi_mm)
    column_of = np.interp(xi_mm, spot.xi_mm[rising], rising.astype(np.float64))
    values = np.empty((len(theta_rad), views.shape[1], len(xi_mm)), np.float32)
    _resample(views, view_of, column_of, values)
    per_column = [np.interp(column_of, np.arange(len(rising)), each) for each in (-spot.theta_rad, spot.cell_mm)]
    return ConeParallel(
        values, float(theta_rad[0]), float(theta_rad[1] - theta_rad[0]), float(xi_mm[0]), float(xi_mm[1] - xi_mm[0]),
        per_column[0], np.interp(column_of, np.arange(len(rising)), spot.ahead_mm), per_column[1],
        spot.axial_mm, spot.row_mm,
    )  # fmt: skip


@nb.njit(cache=True, error_model="numpy")
def _keys(place, last):  # type: ignore[no-untyped-def]
    """First of the four samples around `place` and their weights; at the ends the outer samples are repeated."""
    left = min(max(int(np.floor(place)), 0), max(last - 1, 0))
    f = place - left
    before = ((-0.5 * f + 1.0) * f - 0.5) * f
    here = (1.5 * f - 2.5) * f * f + 1.0
    there = ((-1.5 * f + 2.0) * f + 0.5) * f
    after = (0.5 * f - 0.5) * f * f
    return left, np.float32(before), np.float32(here), np.float32(there), np.float32(after)


@nb.njit(parallel=True, cache=True, error_model="numpy")
def _resample(views, view_of, column_of, values):  # type: ignore[no-untyped-def]
    """Azimuthal, then radial, cubic convolution of every row of every cone-parallel view."""
    count, rows, columns = views.shape
    for i in nb.prange(len(view_of)):
        at = np.empty((columns, 4), np.int64)
        share = np.empty((columns, 4), np.float32)
        for c in range(columns):
            left, w0, w1, w2, w3 = _keys(view_of[i, c], count - 1)
            for k in range(4):
                at[c, k] = min(max(left - 1 + k, 0), count - 1)
            share[c, 0], share[c, 1], share[c, 2], share[c, 3] = w0, w1, w2, w3
        turned = np.empty(columns, np.float32)
        for r in range(rows):
            for c in range(columns):
                turned[c] = (
                    share[c, 0] * views[at[c, 0], r, c]
                    + share[c, 1] * views[at[c, 1], r, c]
                    + share[c, 2] * views[at[c, 2], r, c]
                    + share[c, 3] * views[at[c, 3], r, c]
                )
            for j in range(len(column_of)):
                left, w0, w1, w2, w3 = _keys(column_of[j], columns - 1)
                last = columns - 1
                values[i, r, j] = (
                    w0 * turned[max(left - 1, 0)]
                    + w1 * turned[left]
                    + w2 * turned[min(left + 1, last)]
                    + w3 * turned[min(left + 2, last)]
                )
