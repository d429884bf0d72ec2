"""Roots and a region → a tree of vessels whose branches meet without overlapping.

Where branches meet, space is shared out between them: each keeps the points nearer to its own direction than to the
others'. Bent tubes are mitred in the same way, so that no point is ever filled twice and signed sums stay exact.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from lampyris.model import Bool, Float64
from lampyris.phantom.shapes import Cylinder, HalfSpace, Shape

SHRINK = 0.79
"""Radius of a daughter over its mother's: 2^(−1/3), Murray (1926), Proc. Natl. Acad. Sci. 12:207."""
LENGTH_PER_RADIUS = 7.0
CLEARANCE_MM = 0.6


@dataclass(frozen=True, slots=True, eq=False)
class Branch:
    """A straight vessel; the cuts keep it apart from its neighbours at the nodes where it starts and ends."""

    start: Float64
    end: Float64
    radius_mm: float
    start_cuts: tuple[HalfSpace, ...] = ()
    end_cuts: tuple[HalfSpace, ...] = ()

    @property
    def direction(self) -> Float64:
        return np.asarray((self.end - self.start) / np.linalg.norm(self.end - self.start), np.float64)

    def shape(self) -> Shape:
        """The vessel, a diameter longer than its axis at each end that is cut."""
        extra = 2 * self.radius_mm * self.direction
        first = self.start - extra if self.start_cuts else self.start
        last = self.end + extra if self.end_cuts else self.end
        length, radii = float(np.linalg.norm(last - first)), (self.radius_mm, self.radius_mm)
        body = Cylinder(tuple((first + last) / 2), radii, length, tuple(self.direction))
        cuts = self.start_cuts + self.end_cuts
        return body.clipped(*cuts) if cuts else body


def tube(points_mm: Sequence[Sequence[float]], radius_mm: float) -> tuple[Shape, ...]:
    """A bent tube of constant radius along a polyline, mitred at its bends, flat at its ends."""
    points = np.asarray(points_mm, np.float64)
    ways = np.diff(points, axis=0)
    lengths = np.linalg.norm(ways, axis=1)
    ways = ways / lengths[:, None]
    normals = np.concatenate([ways[:1], ways[:-1] + ways[1:], ways[-1:]])
    pieces: list[Shape] = []
    bends = np.concatenate([[0.0], np.arccos(np.clip((ways[:-1] * ways[1:]).sum(1), -1.0, 1.0)), [0.0]])
    over = radius_mm * np.tan(bends / 2) * 1.01 + 1e-3  # how far the mitre reaches beyond the axis's end
    for i, way in enumerate(ways):
        first, last = points[i] - over[i] * way, points[i + 1] + over[i + 1] * way
        middle, length = (first + last) / 2, float(lengths[i] + over[i] + over[i + 1])
        body = Cylinder(tuple(middle), (radius_mm, radius_mm), length, tuple(way))
        ends = HalfSpace(tuple(points[i]), tuple(-normals[i])), HalfSpace(tuple(points[i + 1]), tuple(normals[i + 1]))
        pieces.append(body.clipped(*ends))
    return tuple(pieces)


def share(node: Float64, outward: Sequence[Float64]) -> list[tuple[HalfSpace, ...]]:
    """For each of several branches that leave a node, the half-spaces where its direction is the nearest."""
    cuts = []
    for i, own in enumerate(outward):
        others = [other for j, other in enumerate(outward) if j != i]
        cuts.append(tuple(HalfSpace(tuple(node), tuple(other - own)) for other in others))
    return cuts


def grow(
    root: Branch, generations: int, allowed: Callable[[Float64], Bool], taken: list[Branch], rng: np.random.Generator
) -> list[Branch]:
    """Grow a tree by bifurcation from `root`; the branches that found room, the root included.

    `allowed` says of points (n, 3) whether a vessel may pass. A fork is made only if both daughters find a way, at
    least their radii and a clearance away from every branch in `taken`, which is extended.
    """
    tips, done = [root], []
    taken.append(root)
    for _ in range(generations):
        sprouts: list[Branch] = []
        for mother in tips:
            fork = _fork(mother, allowed, taken, rng)
            if fork is None:
                done.append(mother)
                continue
            cuts = share(mother.end, [-mother.direction, fork[0].direction, fork[1].direction])
            done.append(replace(mother, end_cuts=cuts[0]))
            daughters = [replace(one, start_cuts=cut) for one, cut in zip(fork, cuts[1:], strict=True)]
            taken.extend(daughters)
            sprouts.extend(daughters)
        tips = sprouts
    return done + tips


def _fork(
    mother: Branch, allowed: Callable[[Float64], Bool], taken: list[Branch], rng: np.random.Generator
) -> tuple[Branch, Branch] | None:
    for _ in range(30):  # then there is no room, and the mother stays a tip
        across = np.cross(mother.direction, rng.standard_normal(3))
        across /= np.linalg.norm(across)
        pair = []
        for sign in (1.0, -1.0):
            angle = np.deg2rad(rng.uniform(28.0, 48.0)) * sign
            way = np.cos(angle) * mother.direction + np.sin(angle) * across
            radius = mother.radius_mm * SHRINK * rng.uniform(0.92, 1.04)
            length = LENGTH_PER_RADIUS * radius * rng.uniform(0.8, 1.3)
            pair.append(Branch(mother.end, mother.end + length * way, radius))
        if all(_free(one, mother, allowed, taken) for one in pair):
            return pair[0], pair[1]
    return None


def _free(one: Branch, mother: Branch, allowed: Callable[[Float64], Bool], taken: list[Branch]) -> bool:
    path = _along(one)
    return bool(allowed(path).all()) and all(
        _distance(path, other) >= one.radius_mm + other.radius_mm + CLEARANCE_MM
        for other in taken
        if other is not mother
    )


def _along(one: Branch) -> Float64:
    steps = np.linspace(0.0, 1.0, max(4, int(np.linalg.norm(one.end - one.start) / 1.0)))
    return np.asarray(one.start + steps[:, None] * (one.end - one.start), np.float64)


def _distance(points: Float64, other: Branch) -> float:
    """Smallest distance of points from the axis of a branch."""
    way = other.end - other.start
    place = np.clip((points - other.start) @ way / (way @ way), 0.0, 1.0)
    return float(np.linalg.norm(points - other.start - place[:, None] * way, axis=1).min())
