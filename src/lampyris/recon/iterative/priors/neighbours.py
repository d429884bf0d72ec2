"""Image (slices, rows, columns) and a potential → cost of the differences between neighbours, gradient and curvature.

R(x) = Σ w_o·κ_j·κ_k·ψ(x_j − x_k) over all pairs of neighbours, each once, o = k − j. The weights w_o go as one over
the distance in mm and are scaled so that R of the quadratic potential is Σ_j κ_j²·½|∇x|² in the plane of a slice,
whatever the voxels and the number of neighbours. Volumes are walked in blocks whose temporaries stay in the cache.
"""

import itertools
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Protocol, TypeAlias

from array_api_compat import array_namespace

from lampyris.model import InputError, RecipeError
from lampyris.recon.iterative.blocks import at_a_time
from lampyris.recon.iterative.priors.potentials import Potential

NEIGHBOURS = (6, 8, 18, 26)
"""Faces; all eight of the same slice; faces and edges; all of the cube."""
CACHE_VOXELS = 2**16
"""Voxels of a block: temporaries of 256 KiB stay in a processor's caches."""
Region: TypeAlias = tuple[slice, slice, slice]


class Prior(Protocol):
    """How unlike an image an array is; without scale, which is the recipe's.

    `curvature` is a separable majoriser: R(y) ≤ R(x) + ⟨gradient(x), y − x⟩ + ½Σ curvature(x)·(y − x)² for all y.
    Every prior here bends most where nothing differs, so curvature of a constant image holds everywhere.
    All raise InputError for an image of another shape, or with NaN.
    """

    def value(self, image: Any) -> float: ...
    def gradient(self, image: Any) -> Any: ...
    def curvature(self, image: Any) -> Any: ...
    def majoriser(self, image: Any) -> tuple[Any, Any]:
        """(gradient, curvature), for little more than one of them."""
        ...


@dataclass(frozen=True, slots=True)
class Pair:
    """The step from a voxel to its neighbour, and what their difference weighs."""

    offset: tuple[int, int, int]
    weight: float


def pairs(spacing_mm: tuple[float, float, float], neighbours: int) -> tuple[Pair, ...]:
    """Half of the neighbours, so that each pair comes once, with Σ w_o·(o·e)² = 1 mm² averaged over rows and columns.

    Raises RecipeError for another number than 6, 8, 18 or 26.
    """
    if neighbours not in NEIGHBOURS:
        raise RecipeError(f"prior asks for {neighbours!r} neighbours; known are {', '.join(map(str, NEIGHBOURS))}")
    one = (-1, 0, 1)
    steps = [step for step in itertools.product(one, one, one) if step > (0, 0, 0)]
    furthest = {6: 1, 8: 2, 18: 2, 26: 3}[neighbours]
    kept = [step for step in steps if sum(map(abs, step)) <= furthest and not (neighbours == 8 and step[0])]
    moved = [tuple(n * d for n, d in zip(step, spacing_mm, strict=True)) for step in kept]
    weights = [1 / math.hypot(*way) for way in moved]
    moment = sum(w * (way[1] ** 2 + way[2] ** 2) for w, way in zip(weights, moved, strict=True)) / 2
    return tuple(Pair(step, w / moment) for step, w in zip(kept, weights, strict=True))


@dataclass(frozen=True, slots=True, eq=False)
class NeighbourPrior:
    """Σ w_o·κ_j·κ_k·ψ(x_j − x_k); `certainty` is κ (slices, rows, columns) or None for 1 everywhere."""

    potential: Potential
    pairs: tuple[Pair, ...]
    certainty: Any = None

    def value(self, image: Any) -> float:
        check(image, self.certainty)
        xp = array_namespace(image)
        total = 0.0
        for pair, first, second in self._walk(image):
            t = image[first] - image[second]
            cost = self.potential.value(t * t)
            if self.certainty is not None:
                cost = cost * self.certainty[first] * self.certainty[second]
            total += pair.weight * float(xp.sum(cost, dtype=xp.float64))
        return total

    def gradient(self, image: Any) -> Any:
        check(image, self.certainty)
        gradient = array_namespace(image).zeros_like(image)
        for pair, first, second in self._walk(image):
            t = image[first] - image[second]
            t *= self._weight(pair, t, first, second)
            gradient[first] += t
            gradient[second] -= t
        return gradient

    def curvature(self, image: Any) -> Any:
        """2·Σ over a voxel's pairs of w·κκ·ω: (a − b)² ≤ 2a² + 2b² parts a pair's parabola between its voxels."""
        check(image, self.certainty)
        curvature = array_namespace(image).zeros_like(image)
        for pair, first, second in self._walk(image):
            t = image[first] - image[second]
            weight = self._weight(pair, t, first, second)
            curvature[first] += weight
            curvature[second] += weight
        curvature *= 2.0
        return curvature

    def majoriser(self, image: Any) -> tuple[Any, Any]:
        check(image, self.certainty)
        xp = array_namespace(image)
        gradient, curvature = xp.zeros_like(image), xp.zeros_like(image)
        for pair, first, second in self._walk(image):
            t = image[first] - image[second]
            weight = self._weight(pair, t, first, second)
            curvature[first] += weight
            curvature[second] += weight
            t *= weight
            gradient[first] += t
            gradient[second] -= t
        curvature *= 2.0
        return gradient, curvature

    def _weight(self, pair: Pair, t: Any, first: Region, second: Region) -> Any:
        """w·κκ·ω of every pair of a block; a number where all are equal."""
        weight = self.potential.weight(t * t)
        if self.certainty is None:
            return pair.weight if weight is None else weight * pair.weight
        both = self.certainty[first] * self.certainty[second]
        both *= pair.weight
        if weight is not None:
            both *= weight
        return both

    def _walk(self, image: Any) -> Iterator[tuple[Pair, Region, Region]]:
        """Every pair once: which, and the regions of its first and second voxels."""
        for block in blocks(image):
            for pair in self.pairs:
                first, second = sides(block, pair.offset, image.shape)
                if all(one.start < one.stop for one in first):
                    yield pair, first, second


def blocks(image: Any) -> Iterator[tuple[slice, slice]]:
    """Ranges of slices and rows that hold a cache's worth of voxels."""
    slices, rows, columns = image.shape
    lines = max(1, at_a_time(image, CACHE_VOXELS) // columns)
    deep, high = (max(1, lines // rows), rows) if lines >= rows else (1, lines)
    for z in range(0, slices, deep):
        for y in range(0, rows, high):
            yield slice(z, min(z + deep, slices)), slice(y, min(y + high, rows))


def sides(block: tuple[slice, slice], offset: tuple[int, int, int], shape: tuple[int, ...]) -> tuple[Region, Region]:
    """First voxels of the pairs that start in `block` and end in the volume, and the second ones."""
    spans = (*block, slice(0, shape[2]))
    starts = [max(one.start, -step) for one, step in zip(spans, offset, strict=True)]
    stops = [min(one.stop, n - step) for one, n, step in zip(spans, shape, offset, strict=True)]
    a, b, c = (slice(start, stop) for start, stop in zip(starts, stops, strict=True))
    d, e, f = (slice(start + n, stop + n) for start, stop, n in zip(starts, stops, offset, strict=True))
    return (a, b, c), (d, e, f)


def check(image: Any, certainty: Any = None) -> None:
    """Refuse what is not a volume, does not fit the certainty, or holds NaN."""
    xp = array_namespace(image)
    if image.ndim != 3:
        raise InputError(f"the prior is given an array of shape {image.shape}, expected (slices, rows, columns)")
    if certainty is not None and tuple(certainty.shape) != tuple(image.shape):
        raise InputError(f"image of {image.shape} voxels, certainty of {certainty.shape}: another grid's?")
    if not math.isfinite(float(xp.sum(image))):
        bad = int(xp.sum(xp.astype(~xp.isfinite(image), xp.int64)))
        if bad:
            total = math.prod(image.shape)
            raise InputError(f"the prior is given {bad} NaN or infinite of {total} voxels: a 0/0 or a diverged step?")
