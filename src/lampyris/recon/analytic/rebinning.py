"""Views of a fan, helical or axial → cone-parallel views: rays of equal direction side by side, row by row.

A ray of gantry angle φ and fan angle γ has the direction θ = φ − γ in the plane of rotation and the distance
ξ = R·sin γ from the axis. Every detector row is resampled to even θ (cubic convolution, Keys 1981, a = −½) and then to
even ξ (the cubic through four rays); its height above the plane and the focal spot's y stay as measured. Each position
of a flying focal spot has its own θ(φ, column), ξ(column) and y, so that no ray is moved to where it was not measured;
spots that fly in plane are read together, as twice the columns (Kachelrieß et al. 2006, Med. Phys. 33:2435).
Stierstorfer et al. 2004 (Phys. Med. Biol. 49:2209), section 2.1.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numba as nb
import numpy as np
from numpy.typing import NDArray

from lampyris.model import Float32, Float64, GeometryError, Orbit
from lampyris.projector import Engine
from lampyris.projector.engine import rebinning

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
class Fan:
    """Spots of one height whose rays interleave (or a single one), read as one detector with so many more columns.

    `rank` (spots, columns): place of every ray in the order of ξ; the others (rays,) in that order, as in `Spot`,
    `lag_rad` being the gantry angle minus θ.
    """

    spots: tuple[Spot, ...]
    rank: NDArray[np.int64]
    xi_mm: Float64
    lag_rad: Float64
    ahead_mm: Float64
    cell_mm: Float64


@dataclass(frozen=True, slots=True, eq=False)
class Resampling:
    """Where each cone-parallel sample of a fan lies among the measured ones, of a scan of so many `views`.

    Directions `theta_rad` (θs,); of every spot the `turns`: its gantry angles and the number of each among its views;
    `ray_rad` (spots, columns) the directions of its rays to the gantry angle. `rank` as in `Fan`; every ξ is the sum
    over four rays `take` (ξs, 4) with `share` (ξs, 4). `wraps`: the views close a full turn, the last precedes the
    first.
    """

    views: int
    first: NDArray[np.int64]
    stride: int
    theta_rad: Float64
    turns: tuple[tuple[Float64, Float64], ...]
    ray_rad: Float64
    rank: NDArray[np.int64]
    take: NDArray[np.int64]
    share: Float32
    wraps: bool

    def view_of(self, part: slice) -> Float64:
        """Fractional view (θs, spots, columns), among those of its spot, in which a ray had each direction."""
        theta = self.theta_rad[part]
        each = [_places(*turn, theta, ray, self.wraps) for turn, ray in zip(self.turns, self.ray_rad, strict=True)]
        return np.stack(each, 1)

    def read(self, part: slice) -> tuple[int, int]:
        """The views [begin, end) of the scan that the azimuthal cubic reads for these directions."""
        if self.wraps:
            return 0, self.views
        last = (self.views - 1 - self.first) // self.stride
        ends: list[int] = []
        for spot, (turn, ray) in enumerate(zip(self.turns, self.ray_rad, strict=True)):
            place = np.floor(_places(*turn, self.theta_rad[part], np.array([ray.min(), ray.max()]), False))
            between = np.clip([place.min() - 1, place.max() + 2], 0, last[spot]).astype(np.int64)
            ends.extend((self.first[spot] + self.stride * between).tolist())
        return min(ends), max(ends) + 1


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


def views_read(orbit: Orbit, found: tuple[Spot, ...], theta_rad: Float64) -> NDArray[np.int64]:
    """Up to which view (θs,) of a scan that does not close a turn `resample` reads for each direction, exclusive."""
    highest = np.zeros(len(theta_rad), np.int64)
    for spot in found:
        outermost = np.array([spot.theta_rad.min(), spot.theta_rad.max()])
        last = len(range(*spot.views.indices(orbit.views))) - 1
        place = _places(*_turn(orbit, spot, wraps=False), theta_rad, outermost, wraps=False)
        read = np.clip(np.floor(place) + 2, 0, last).max(axis=1)
        highest = np.maximum(highest, spot.views.start + spot.views.step * read.astype(np.int64))
    return highest + 1


def fans(found: tuple[Spot, ...]) -> tuple[Fan, ...]:
    """The spots, paired where two of one height interleave: their rays a third to two thirds of a column apart."""
    left, result = list(found), []
    while left:
        one = left.pop(0)
        partner = next((other for other in left if _interleaved(one, other)), None)
        if partner is not None:
            left = [other for other in left if other is not partner]
        result.append(_fan((one,) if partner is None else (one, partner)))
    return tuple(result)


def resampling(orbit: Orbit, fan: Fan, theta_rad: Float64, xi_mm: Float64, *, wraps: bool) -> Resampling:
    """Where the samples at θ and ξ (both ascending) lie; beyond what was measured, at its edge."""
    take = np.clip(np.searchsorted(fan.xi_mm, xi_mm, side="right") - 2, 0, len(fan.xi_mm) - 4)[:, None] + np.arange(4)
    return Resampling(
        orbit.views,
        np.array([spot.views.start for spot in fan.spots], np.int64),
        int(fan.spots[0].views.step),
        theta_rad,
        tuple(_turn(orbit, spot, wraps) for spot in fan.spots),
        np.stack([spot.theta_rad for spot in fan.spots]),
        fan.rank,
        take.astype(np.int64),
        _lagrange(fan.xi_mm[take], xi_mm),
        wraps,
    )


def resampler(where: Resampling, engine: Engine) -> Callable[[Any, int, slice], Any]:
    """What makes cone-parallel views `part` (θs, rows, ξs) of (integrals, begin, part).

    `integrals` are the views of the scan from `begin` on, those at least that `where.read(part)` tells, where the
    engine's arrays live; so are the views that it makes.
    """
    if engine.name == "cpu":
        return lambda integrals, begin, part: _on_processor(where, integrals, begin, part)
    card = rebinning(engine.name)
    most = max(len(angles) for angles, _ in where.turns)
    angle, order = (np.stack([np.pad(turn[i], (0, most - len(turn[i]))) for turn in where.turns]) for i in (0, 1))
    views = (where.views - where.first + where.stride - 1) // where.stride
    origin = np.argsort(where.rank, axis=None)[where.take]
    return card.Rebinning(  # type: ignore[no-any-return]
        card.Bundle(
            angle, order, views, where.ray_rad, where.first, where.stride, origin.astype(np.int32), where.share,
            where.wraps,
        ),
        where.theta_rad,
    )  # fmt: skip


def _on_processor(where: Resampling, integrals: Float32, begin: int, part: slice) -> Float32:
    view_of = where.view_of(part)
    values = np.empty((len(view_of), integrals.shape[1], len(where.take)), np.float32)
    _resample(
        integrals, (begin, where.views), where.first, where.stride, view_of, where.rank, where.take, where.share,
        where.wraps, values,
    )  # fmt: skip
    return values


def _interleaved(one: Spot, other: Spot) -> bool:
    middle = len(one.xi_mm) // 2
    step = one.xi_mm[middle + 1] - one.xi_mm[middle] if len(one.xi_mm) > middle + 1 else np.inf
    apart = abs((other.xi_mm[middle] - one.xi_mm[middle]) / step) % 1
    return abs(one.axial_mm - other.axial_mm) < SPOT_MM and 1 / 3 < apart < 2 / 3


def _fan(members: tuple[Spot, ...]) -> Fan:
    xi = np.stack([spot.xi_mm for spot in members])
    order = np.argsort(xi, axis=None, kind="stable")
    rank = np.empty(xi.size, np.int64)
    rank[order] = np.arange(xi.size)
    distances = xi.ravel()[order]

    def between(name: str) -> Float64:
        """Mean over the members: they differ by far less than a cell."""
        each = [np.interp(distances, spot.xi_mm, getattr(spot, name)) for spot in members]
        return np.asarray(np.mean(each, axis=0), np.float64)

    return Fan(
        members, rank.reshape(xi.shape), distances, -between("theta_rad"), between("ahead_mm"), between("cell_mm")
    )


def _turn(orbit: Orbit, spot: Spot, wraps: bool) -> tuple[Float64, Float64]:
    """Gantry angles of a spot's views, ascending, and their numbers; closed by the first once more where it wraps."""
    phi = orbit.gantry_angle_rad[spot.views]
    order = np.arange(len(phi), dtype=np.float64)
    if phi[-1] < phi[0]:
        phi, order = phi[::-1], order[::-1]
    if wraps:
        closing = order[-1] + np.sign(order[-1] - order[0])  # one view on: the first again, modulo their number
        phi, order = np.append(phi, phi[0] + 2 * np.pi), np.append(order, closing)
    return phi, order


def _places(phi: Float64, order: Float64, theta_rad: Float64, ray_rad: Float64, wraps: bool) -> Float64:
    """Fractional view (θs, rays) of the spot in which each ray had each direction."""
    wanted = theta_rad[:, None] - ray_rad[None, :]
    if wraps:
        wanted = phi[0] + np.mod(wanted - phi[0], 2 * np.pi)
    return np.asarray(np.interp(wanted, phi, order), np.float64)


def _lagrange(nodes: Float64, at: Float64) -> Float32:
    """Weights (…, 4) of the cubic through four nodes (…, 4), evenly spaced or not; outside them the nearest node's."""
    at = np.clip(at, nodes[:, 0], nodes[:, 3])
    weights = np.ones_like(nodes)
    for i in range(4):
        for j in range(4):
            if i != j:
                weights[:, i] *= (at - nodes[:, j]) / (nodes[:, i] - nodes[:, j])
    return weights.astype(np.float32)


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
def _resample(  # type: ignore[no-untyped-def]
    integrals, place, first, stride, view_of, rank, take, share, wraps, values
):
    """Azimuthal cubic convolution of every column, then the radial cubic, of every row of every cone-parallel view.

    `place`: the first view of `integrals`, and how many the scan has.
    """
    _, rows, columns = integrals.shape
    begin, views = place
    spots = len(first)
    for i in nb.prange(len(view_of)):
        at = np.empty((4, spots, columns), np.int64)
        weight = np.empty((4, spots, columns), np.float32)
        for spot in range(spots):
            count = (views - first[spot] + stride - 1) // stride
            for c in range(columns):
                left, w0, w1, w2, w3 = _keys(view_of[i, spot, c])
                weight[0, spot, c], weight[1, spot, c], weight[2, spot, c], weight[3, spot, c] = w0, w1, w2, w3
                for k in range(4):
                    one = left - 1 + k
                    one = one % count if wraps else min(max(one, 0), count - 1)
                    at[k, spot, c] = first[spot] + stride * one - begin
        turned = np.empty(spots * columns, np.float32)
        for r in range(rows):
            for spot in range(spots):
                for c in range(columns):
                    turned[rank[spot, c]] = (
                        weight[0, spot, c] * integrals[at[0, spot, c], r, c]
                        + weight[1, spot, c] * integrals[at[1, spot, c], r, c]
                        + weight[2, spot, c] * integrals[at[2, spot, c], r, c]
                        + weight[3, spot, c] * integrals[at[3, spot, c], r, c]
                    )
            for j in range(len(take)):
                values[i, r, j] = (
                    share[j, 0] * turned[take[j, 0]]
                    + share[j, 1] * turned[take[j, 1]]
                    + share[j, 2] * turned[take[j, 2]]
                    + share[j, 3] * turned[take[j, 3]]
                )
