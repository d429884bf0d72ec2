"""Spectrum and materials → a few energies that transmit as the whole spectrum does.

The signal spectrum w(E) is a measure over x = ln E; a Gauss quadrature of n nodes is exact for all polynomials in x
up to degree 2n − 1, so exp(−μ(E)·L), smooth in x between absorption edges, converges exponentially with n.
Golub & Welsch (1969), Math. Comput. 23:221; nodes by the Lanczos process.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from lampyris.model import Float64, Spectrum
from lampyris.physics.attenuation import linear_attenuation_per_mm, material

TOLERANCE = 1e-4
FAINTEST = 1e-7
"""Bins below this share of the strongest are left out: together they are far below the tolerance."""
DEEPEST = 8.0
K_EDGES_KEV = {48: 26.711, 50: 29.200, 53: 33.169, 55: 35.985, 56: 37.441, 64: 50.239, 73: 67.416, 74: 69.525,
               78: 78.395, 79: 80.725, 82: 88.005}  # fmt: skip
"""K edges between 25 and 150 keV of the elements in our tables, by atomic number."""


@dataclass(frozen=True, slots=True, eq=False)
class Nodes:
    """Energies (n,) keV, signal (n,) keV per mAs and mm² in air before the bowtie, and μ (materials, n) in 1/mm."""

    energy_kev: Float64
    signal_kev: Float64
    per_mm: Float64


def rebin(
    spectrum: Spectrum, materials: tuple[str, ...], deepest_mm: Sequence[float], tolerance: float = TOLERANCE
) -> Nodes:
    """The fewest nodes that transmit every listed material as the whole spectrum does, to `tolerance` of the signal.

    Judged behind 0, 200 and 400 mm of water, for thicknesses up to `deepest_mm` of each material, at most exp(−8) deep.
    Where as many nodes as bins would be needed, the bins themselves are returned.
    """
    signal = spectrum.photons_per_mas_mm2 * spectrum.response_kev
    used = signal > FAINTEST * signal.max()
    energy, signal = spectrum.energy_kev[used], signal[used]
    whole = _nodes(energy, signal, materials)
    cuts = _edges(materials, energy)
    for n in range(2, len(energy)):
        pieces = [_gauss(energy[part], signal[part], n) for part in np.split(np.arange(len(energy)), cuts)]
        few = _nodes(np.concatenate([e for e, _ in pieces]), np.concatenate([s for _, s in pieces]), materials)
        if len(few.energy_kev) >= len(energy):
            break
        if transmission_error(few, whole, deepest_mm) <= tolerance:
            return few
    return whole


def transmission_error(few: Nodes, whole: Nodes, deepest_mm: Sequence[float]) -> float:
    """Largest relative difference of the signal and of its energy-weighted second moment, over the test depths."""
    worst = 0.0
    water = [linear_attenuation_per_mm("water", nodes.energy_kev) for nodes in (few, whole)]
    for m, longest in enumerate(deepest_mm):
        mean = float(np.average(whole.per_mm[m], weights=whole.signal_kev))
        for behind in (0.0, 200.0, 400.0):
            for length in np.linspace(0.0, min(longest, DEEPEST / mean), 9):
                moments = []
                for nodes, per_mm in zip((few, whole), water, strict=True):
                    left = nodes.signal_kev * np.exp(-length * nodes.per_mm[m] - behind * per_mm)
                    moments.append((left.sum(), left @ nodes.energy_kev))
                worst = max(worst, *(abs(a / b - 1) for a, b in zip(*moments, strict=True)))
    return worst


def _nodes(energy: Float64, signal: Float64, materials: tuple[str, ...]) -> Nodes:
    per_mm = np.stack([linear_attenuation_per_mm(name, energy) for name in materials])
    return Nodes(energy, signal, per_mm)


def _edges(materials: tuple[str, ...], energy: Float64) -> list[int]:
    numbers = {number for name in materials for number, _ in material(name).mass_fractions}
    edges = sorted(K_EDGES_KEV[number] for number in numbers if number in K_EDGES_KEV)
    places = {int(np.searchsorted(energy, edge)) for edge in edges}
    return sorted(place for place in places if 0 < place < len(energy))


def _gauss(energy: Float64, signal: Float64, n: int) -> tuple[Float64, Float64]:
    """Nodes and weights of the Gauss quadrature of one edge-free piece of the spectrum."""
    if n >= len(energy):
        return energy, signal
    x = np.log(energy)
    basis = np.zeros((n, len(x)))
    diagonal, beside = np.zeros(n), np.zeros(n)
    vector = np.sqrt(signal / signal.sum())
    for i in range(n):
        basis[i] = vector
        diagonal[i] = vector @ (x * vector)
        vector = x * vector
        for _ in range(2):  # once is not enough to stay orthogonal
            vector = vector - basis[: i + 1].T @ (basis[: i + 1] @ vector)
        beside[i] = np.linalg.norm(vector)
        if beside[i] <= 1e-14 * abs(diagonal[0]):
            n = i + 1
            break
        vector = vector / beside[i]
    jacobi = np.diag(diagonal[:n]) + np.diag(beside[: n - 1], 1) + np.diag(beside[: n - 1], -1)
    nodes, vectors = np.linalg.eigh(jacobi)
    return np.exp(nodes), signal.sum() * vectors[0] ** 2
