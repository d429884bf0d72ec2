"""Net counts → net counts without the scatter that a convolution of their forward-scatter potential predicts.

Photons that scatter once about the forward direction in front of cell x′ number about n₀(x′)·t·(−ln t), with t the
primary transmission: the potential. They spread over the detector, so that the scatter is

    S = ratio · n₀·t^transmission_power·(−ln t)^path_power ⊗ G,   G Gaussian, `sigma_mm` scaled to the isocentre, sum 1,

and the primary is found from measured = n₀·t + S by fixed-point iterations. Love & Kruger 1987, Med. Phys. 14:178;
Ohnesorge et al. 1999, Eur. Radiol. 9:563 (eq. 4–6, the potential); parameters depend on the scanner's collimation and
grid and are part of the recipe. S is smooth: the potential is convolved in bins of a quarter of sigma, and subtracted
from the counts as they are, negative ones too, so that the logarithm that follows sees the noise unchanged.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from scipy.ndimage import gaussian_filter

from lampyris.correct.block import Block, settings
from lampyris.model import Applied, Float32, Geometry, RecipeError, Step

DARKEST = np.float32(1e-5)
"""Least transmission in the potential, where its logarithm must exist; darker rays scatter next to nothing."""


@dataclass(slots=True)
class Scatter:
    """The kernel, and the scatter-to-open-beam ratios it found."""

    ratio: float
    sigma_mm: float
    transmission_power: float
    path_power: float
    iterations: int
    cell_mm: tuple[float, float]
    largest: float = 0.0
    total: float = 0.0
    cells: int = 0

    @staticmethod
    def of(geometry: Geometry, step: Step) -> "Scatter":
        """Settings: `ratio` of scatter to potential (0.04), `sigma_mm` at the isocentre (70), `transmission_power` (1),
        `path_power` (1), `iterations` (4)."""
        chosen = settings(step, ratio=0.04, sigma_mm=70.0, transmission_power=1.0, path_power=1.0, iterations=4)
        sigma = float(chosen["sigma_mm"])
        if not (0 <= chosen["ratio"] < 1 and sigma > 0 and chosen["iterations"] >= 1):
            raise RecipeError(
                f"scatter: ratio {chosen['ratio']} must lie in 0…1, sigma_mm {sigma} and iterations"
                f" {chosen['iterations']} above 0"
            )
        scale = magnification(geometry)
        row_mm, column_mm = (each / scale for each in geometry.cell_mm)
        powers = float(chosen["transmission_power"]), float(chosen["path_power"])
        return Scatter(float(chosen["ratio"]), sigma, *powers, int(chosen["iterations"]), (row_mm, column_mm))

    def apply(self, block: Block) -> None:
        for net, open_ in zip(block.net, block.open_, strict=True):
            scatter = self.estimate(net, open_)
            share = scatter / np.maximum(open_, 1e-30)
            self.largest = max(self.largest, float(share[open_ > 0].max()))
            self.total += float(share[open_ > 0].sum())
            self.cells += int((open_ > 0).sum())
            net -= scatter

    def estimate(self, net: Float32, open_: Float32) -> Float32:
        """Scatter of one view in counts, (rows, columns)."""
        bins = [max(1, min(int(self.sigma_mm / c / 4), n)) for c, n in zip(self.cell_mm, net.shape, strict=True)]
        sigma = [self.sigma_mm / c / b for c, b in zip(self.cell_mm, bins, strict=True)]
        beam: Float32 = np.maximum(open_, np.float32(1e-30))
        scatter = np.zeros_like(net)
        for _ in range(self.iterations):
            through = np.asarray(np.clip((net - scatter) / beam, DARKEST, 1.0), np.float32)
            coarse = _binned(_binned(self._potential(through, beam), bins[0], 0), bins[1], 1)
            spread = gaussian_filter(coarse, sigma, mode="constant", truncate=4.0)
            scatter = _between(_between(spread, bins[0], net.shape[0], 0), bins[1], net.shape[1], 1)
        return scatter

    def _potential(self, through: Float32, beam: Float32) -> Float32:
        path = (-np.log(through)) ** np.float32(self.path_power)
        return np.asarray(self.ratio * beam * through ** np.float32(self.transmission_power) * path, np.float32)

    def fresh(self) -> "Scatter":
        """The same step that has met no view."""
        return replace(self, largest=0.0, total=0.0, cells=0)

    @property
    def counted(self) -> list[float]:
        """What it found, for `add`."""
        return [self.largest, self.total, self.cells]

    def add(self, counted: Sequence[float]) -> None:
        """Count what the same step found in other views."""
        largest, total, cells = counted
        self.largest, self.total, self.cells = max(self.largest, largest), self.total + total, self.cells + int(cells)

    def record(self) -> Applied:
        return Applied.of(
            "scatter",
            ratio=self.ratio,
            sigma_mm=self.sigma_mm,
            transmission_power=self.transmission_power,
            path_power=self.path_power,
            iterations=self.iterations,
            mean_scatter_to_air=self.total / max(self.cells, 1),
            largest_scatter_to_air=self.largest,
        )


def magnification(geometry: Geometry) -> float:
    """Distance of detector over that of the axis of rotation from the focal spot, in the first view; 1 if parallel."""
    if geometry.parallel:
        return 1.0
    source = geometry.source[0]
    return float(np.linalg.norm(geometry.detector[0] - source) / np.hypot(source[0], source[2]))


def _binned(values: Float32, size: int, axis: int) -> Float32:
    """Means of `size` neighbours each along an axis, the last one of what is left."""
    starts = np.arange(0, values.shape[axis], size)
    counts = np.diff(np.append(starts, values.shape[axis])).astype(np.float32)
    sums = np.add.reduceat(values, starts, axis=axis)
    return np.asarray(sums / (counts[:, None] if axis == 0 else counts), np.float32)


def _between(values: Float32, size: int, cells: int, axis: int) -> Float32:
    """Linear interpolation between the middles of bins along an axis, level beyond the outer ones."""
    starts = np.arange(0, cells, size)
    middles = (starts + np.append(starts[1:], cells) - 1) / 2
    place = np.interp(np.arange(cells), middles, np.arange(len(middles)))
    low = np.minimum(place.astype(int), max(len(middles) - 2, 0))
    high = np.minimum(low + 1, len(middles) - 1)
    share = (place - low).astype(np.float32)
    share = share[:, None] if axis == 0 else share
    return np.asarray((1 - share) * values.take(low, axis) + share * values.take(high, axis), np.float32)
