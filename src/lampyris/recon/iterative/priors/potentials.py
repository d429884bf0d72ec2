"""Squared difference of two voxels → its cost ψ and the weight ω(t) = ψ′(t)/t of the parabola that majorises it.

All are ψ(t) = ½t² about zero, so that one strength means one resolution in noise and low contrast whichever is chosen;
they differ in what an edge beyond δ costs. For all, ψ(√s) is concave in s, so that ½ω(t)·(u² − t²) + ψ(t) touches ψ
at t and lies above it everywhere (Huber 1981, §7.8; Erdoğan & Fessler 1999, Phys. Med. Biol. 44:2835). Functions
take s = t², because every weight needs no more.
"""

from dataclasses import dataclass
from typing import Any, Protocol

from array_api_compat import array_namespace


class Potential(Protocol):
    """ψ as a function of s = t² ≥ 0, elementwise; array in, array of the same type out."""

    def value(self, s: Any) -> Any:
        """ψ(√s)."""
        ...

    def weight(self, s: Any, /) -> Any:
        """ω = ψ′(t)/t at t = √s, 1 at zero and falling; None where it is 1 everywhere."""
        ...


@dataclass(frozen=True, slots=True)
class Quadratic:
    """ψ = ½t²."""

    def value(self, s: Any) -> Any:
        return 0.5 * s

    def weight(self, _s: Any) -> None:
        return None


@dataclass(frozen=True, slots=True)
class Huber:
    """ψ = ½t² up to δ, δ|t| − ½δ² beyond (Huber 1964, Ann. Math. Statist. 35:73)."""

    delta: float

    def value(self, s: Any) -> Any:
        xp = array_namespace(s)
        return xp.where(s <= self.delta**2, 0.5 * s, self.delta * xp.sqrt(s) - 0.5 * self.delta**2)

    def weight(self, s: Any) -> Any:
        xp = array_namespace(s)
        return self.delta / xp.sqrt(xp.maximum(s, xp.full_like(s, self.delta**2)))


@dataclass(frozen=True, slots=True)
class Hyperbola:
    """ψ = δ²(√(1 + (t/δ)²) − 1) (Charbonnier 1994, ICIP 2:168)."""

    delta: float

    def value(self, s: Any) -> Any:
        return s / (self._root(s) + 1.0)  # the same without the difference of near equals

    def weight(self, s: Any) -> Any:
        return 1.0 / self._root(s)

    def _root(self, s: Any) -> Any:
        root = s * self.delta**-2
        root += 1.0
        return array_namespace(s).sqrt(root)


@dataclass(frozen=True, slots=True)
class GeneralisedGaussian:
    """ψ = ½t²/(1 + |t/c|^(2−q)), 1 ≤ q ≤ 2 (Thibault 2007, Med. Phys. 34:4526, eq. 12, with p = 2)."""

    c: float
    q: float

    def value(self, s: Any) -> Any:
        return 0.5 * s / (1.0 + self._ratio(s))

    def weight(self, s: Any) -> Any:
        """ψ′/t = (1 + ½q·u)/(1 + u)² with u = |t/c|^(2−q)."""
        u = self._ratio(s)
        above = 1.0 + 0.5 * self.q * u
        u += 1.0
        above /= u
        above /= u
        return above

    def _ratio(self, s: Any) -> Any:
        """Exp of log, several times faster than the general power; the floor keeps log finite and u at nothing."""
        xp = array_namespace(s)
        exponent = xp.log(xp.maximum(s * self.c**-2, xp.full_like(s, 1e-30)))
        exponent *= 1.0 - 0.5 * self.q
        return xp.exp(exponent)


@dataclass(frozen=True, slots=True)
class Half:
    """ψ = 2δ²((1 + (t/δ)²)^¼ − 1): L½ rounded below δ, 2δ^1.5·√|t| far beyond it (Xu 2012, made smooth).

    Not convex beyond √2·δ: which minimum is found depends on where the solver starts.
    """

    delta: float

    def value(self, s: Any) -> Any:
        root, fourth = self._roots(s)
        return 2.0 * s / ((root + 1.0) * (fourth + 1.0))  # the same without the difference of near equals

    def weight(self, s: Any) -> Any:
        root, fourth = self._roots(s)
        root *= fourth
        return 1.0 / root

    def _roots(self, s: Any) -> tuple[Any, Any]:
        xp = array_namespace(s)
        root = s * self.delta**-2
        root += 1.0
        root = xp.sqrt(root)
        return root, xp.sqrt(root)
