"""Image (slices, rows, columns) → isotropic total variation, rounded at zero, its gradient and curvature.

R(x) = Σ_j κ_j²·ψ(g_j)/d² with g_j = d·|∇x| from forward differences, ψ the hyperbola and d the spacing in the plane:
½|∇x|² where g is below δ, δ·|∇x|/d where it is far above (Rudin, Osher & Fatemi 1992, Physica D 60:259; rounded as in
Vogel & Oman 1996, SIAM J. Sci. Comput. 17:227). Rounding makes the function smooth, so that ordered subsets take it
like any other prior; it has no prox here.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from array_api_compat import array_namespace

from lampyris.recon.iterative.priors.neighbours import Region, blocks, check, sides
from lampyris.recon.iterative.priors.potentials import Potential

FORWARD = ((1, 0, 0), (0, 1, 0), (0, 0, 1))


@dataclass(frozen=True, slots=True, eq=False)
class _Block:
    """One block: s = g² of its voxels, and along every axis the differences with the regions they join."""

    home: Region
    s: Any
    steps: tuple[tuple[Any, Region, Region, float], ...]


@dataclass(frozen=True, slots=True, eq=False)
class TotalVariation:
    """Σ κ²·ψ(d|∇x|)/d²; `certainty` is κ (slices, rows, columns) or None for 1 everywhere."""

    potential: Potential
    spacing_mm: tuple[float, float, float]
    certainty: Any = None

    def value(self, image: Any) -> float:
        check(image, self.certainty)
        xp = array_namespace(image)
        total = 0.0
        for block in self._walk(image):
            cost = self.potential.value(block.s)
            if self.certainty is not None:
                cost = cost * self.certainty[block.home] ** 2
            total += float(xp.sum(cost, dtype=xp.float64))
        return float(total / self._plane_mm**2)

    def gradient(self, image: Any) -> Any:
        return self.majoriser(image)[0]

    def curvature(self, image: Any) -> Any:
        return self.majoriser(image)[1]

    def majoriser(self, image: Any) -> tuple[Any, Any]:
        check(image, self.certainty)
        xp = array_namespace(image)
        gradient, curvature = xp.zeros_like(image), xp.zeros_like(image)
        for block in self._walk(image):
            weight = self.potential.weight(block.s)
            weight *= self._plane_mm**-2
            if self.certainty is not None:
                weight *= self.certainty[block.home]
                weight *= self.certainty[block.home]
            for t, first, second, share in block.steps:
                pull = weight[: t.shape[0], : t.shape[1], : t.shape[2]] * share
                curvature[first] += pull
                curvature[second] += pull
                t *= pull
                gradient[first] += t
                gradient[second] -= t
        curvature *= 2.0
        return gradient, curvature

    @property
    def _plane_mm(self) -> float:
        return math.hypot(self.spacing_mm[1], self.spacing_mm[2]) / math.sqrt(2)

    def _walk(self, image: Any) -> Iterator[_Block]:
        xp = array_namespace(image)
        for block in blocks(image):
            home = (*block, slice(0, image.shape[2]))
            s = xp.zeros_like(image[home])
            steps = []
            for offset, spacing in zip(FORWARD, self.spacing_mm, strict=True):
                first, second = sides(block, offset, image.shape)
                if any(one.start >= one.stop for one in first):
                    continue
                share = (self._plane_mm / spacing) ** 2
                t = image[first] - image[second]
                s[: t.shape[0], : t.shape[1], : t.shape[2]] += share * t * t
                steps.append((t, first, second, share))
            yield _Block(home, s, tuple(steps))
