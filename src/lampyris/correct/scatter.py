"""Net counts → net counts without the scatter that a convolution of their forward-scatter potential predicts.

Photons that scatter once about the forward direction in front of cell x′ number about n₀(x′)·t·(−ln t), with t the
primary transmission: the potential. They spread over the detector, so that the scatter is

    S = ratio · n₀·t^transmission_power·(−ln t)^path_power ⊗ G,     G Gaussian, `sigma_mm` at the detector, sum 1,

and the primary is found from measured = n₀·t + S by fixed-point iterations. Love & Kruger 1987, Med. Phys. 14:178;
Ohnesorge et al. 1999, Eur. Radiol. 9:563 (eq. 4–6, the potential); parameters depend on the scanner's collimation and
grid and are part of the recipe. S is smooth: the potential is convolved in bins of a quarter of sigma, and subtracted
from the counts as they are, negative ones too, so that the logarithm that follows sees the noise unchanged.
"""

from dataclasses import dataclass, field

import numpy as np
from scipy.ndimage import gaussian_filter

from lampyris.correct.block import Block, settings
from lampyris.model import Applied, Float32, Float64, Geometry, RecipeError, Step

DARKEST = np.float32(1e-5)
"""Least transmission in the potential, where its logarithm must exist; darker rays scatter next to nothing."""


@dataclass(slots=True)
class Scatter:
    """The kernel, and the scatter-to-open-beam ratios it found."""

    ratio: float
    sigma_mm: tuple[float, float]
    transmission_power: float
    path_power: float
    iterations: int
    cell_mm: tuple[float, float]
    largest: float = 0.0
    total: float = field(default=0.0)
    cells: int = 0

    @staticmethod
    def of(geometry: Geometry, step: Step) -> "Scatter":
        """Settings: `ratio` of scatter to potential (0.05), `sigma_mm` at the detector (60), `transmission_power` (1),
        `path_power` (1), `iterations` (4)."""
        chosen = settings(step, ratio=0.05, sigma_mm=60.0, transmission_power=1.0, path_power=1.0, iterations=4)
        sigma = float(chosen["sigma_mm"])
        if not (0 <= chosen["ratio"] < 1 and sigma > 0 and chosen["iterations"] >= 1):
            raise RecipeError(
                f"scatter: ratio {chosen['ratio']} must lie in 0…1, sigma_mm {sigma} and iterations"
                f" {chosen['iterations']} above 0"
            )
        return Scatter(
            float(chosen["ratio"]), (sigma, sigma), float(chosen["transmission_power"]),
            float(chosen["path_power"]), int(chosen["iterations"]), geometry.cell_mm,
        )  # fmt: skip

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
        bins = [max(1, min(int(s / c / 4), n)) for s, c, n in zip(self.sigma_mm, self.cell_mm, net.shape, strict=True)]
        sigma = [s / c / b for s, c, b in zip(self.sigma_mm, self.cell_mm, bins, strict=True)]
        average = [_average(n, b) for n, b in zip(net.shape, bins, strict=True)]
        between = [_between(n, b) for n, b in zip(net.shape, bins, strict=True)]
        beam: Float32 = np.maximum(open_, np.float32(1e-30))
        scatter = np.zeros_like(net)
        for _ in range(self.iterations):
            through = np.asarray(np.clip((net - scatter) / beam, DARKEST, 1.0), np.float32)
            coarse = average[0] @ self._potential(through, beam) @ average[1].T
            spread = gaussian_filter(coarse, sigma, mode="constant", truncate=4.0)
            scatter = np.asarray(between[0] @ spread @ between[1].T, np.float32)
        return scatter

    def _potential(self, through: Float32, beam: Float32) -> Float32:
        path = (-np.log(through)) ** np.float32(self.path_power)
        return np.asarray(self.ratio * beam * through ** np.float32(self.transmission_power) * path, np.float32)

    def record(self) -> Applied:
        return Applied.of(
            "scatter",
            ratio=self.ratio,
            sigma_mm=list(self.sigma_mm),
            transmission_power=self.transmission_power,
            path_power=self.path_power,
            iterations=self.iterations,
            mean_scatter_to_air=self.total / max(self.cells, 1),
            largest_scatter_to_air=self.largest,
        )


def _average(cells: int, size: int) -> Float64:
    """Matrix (bins, cells) that takes the mean of `size` neighbours each, the last bin of what is left."""
    bins = -(-cells // size)
    matrix = np.zeros((bins, cells))
    matrix[np.arange(cells) // size, np.arange(cells)] = 1.0
    return np.asarray(matrix / matrix.sum(1, keepdims=True), np.float64)


def _between(cells: int, size: int) -> Float64:
    """Matrix (cells, bins) that interpolates linearly between the middles of the bins, level beyond the outer ones."""
    average = _average(cells, size)
    middles = average @ np.arange(cells)
    unit = np.eye(len(middles))
    return np.stack([np.interp(np.arange(cells), middles, one) for one in unit], axis=1)
