"""Corrected integrals → the same without what single cells add to every view: the source of rings.

A residual gain error of a cell shifts its integral by a constant, for as long as it drifts slowly. In each segment of
views the high-pass of the sinogram along the columns, p − K p with K the local cubic fit over `columns` cells of
Savitzky & Golay (1964, Anal. Chem. 36:1627), is reduced over the views by its median, which edges of the object do not
move because they cross a cell in few views. The constants e are found from that median h = (I − K) e by the series
Σ Kⁿ h. What is not above `sigmas` standard errors is noise. What exceeds `largest` is structure (a wire on the axis,
the rim of a centred cylinder) and is left alone together with the cells within twice the reach of K. After Münch et al.
2009, Opt. Express 17:8567 (separate what is constant along the views from what is not) and Boin & Haibel 2006, Opt.
Express 14:12071.
"""

from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from scipy.ndimage import maximum_filter1d
from scipy.signal import savgol_filter

from lampyris.correct.block import settings
from lampyris.model import Applied, Float32, Float64, Progress, RecipeError, Step, silent

TERMS = 4
ORDER = 3


@dataclass(frozen=True, slots=True)
class Ring:
    """Width of the high-pass in cells, views per segment, bounds in integrals and in standard errors."""

    columns: int
    views: int | None
    largest: float
    sigmas: float

    @staticmethod
    def of(step: Step, columns: int) -> "Ring":
        """Settings: `columns` (17), odd; `views` per segment, best whole turns (None: the scan); `largest` (0.03);
        `sigmas` (3)."""
        chosen = settings(step, columns=17, views=None, largest=0.03, sigmas=3.0)
        width = int(chosen["columns"])
        if width < 5 or width % 2 == 0 or (chosen["views"] is not None and chosen["views"] < 32):
            raise RecipeError(f"ring: columns {width} must be odd and ≥ 5, views {chosen['views']} None or ≥ 32")
        if columns < width:
            raise RecipeError(f"ring: a detector of {columns} columns is narrower than the high-pass of {width}")
        return Ring(width, chosen["views"], chosen["largest"], chosen["sigmas"])

    def apply(self, integrals: Float32, *, progress: Progress = silent) -> Applied:
        """Subtract what is found from (views, rows, columns) in place; say how much that was."""
        n_views, rows, _ = integrals.shape
        centres, edges = self._segments(n_views)
        shifts = []
        for row in range(rows):
            found = np.stack([self.cell_shifts(integrals[first:last, row]) for first, last in edges])
            shifts.append(found)
            if len(centres) == 1:
                integrals[:, row] -= found[0].astype(np.float32)
            else:
                self._subtract_drifting(integrals[:, row], centres, found)
            progress((row + 1) / rows)
        moved = np.stack(shifts)
        return Applied.of(
            "ring",
            columns=self.columns,
            segments=len(edges),
            largest=self.largest,
            sigmas=self.sigmas,
            corrected_cells=int((moved != 0).any(axis=1).sum()),
            rms_shift=float(np.sqrt((moved**2).mean())),
        )

    def cell_shifts(self, sinogram: Float32) -> Float64:
        """The constant that each column adds to all views of (views, columns); 0 where it is none to speak of."""
        rough = sinogram - self._smooth(sinogram)
        high = np.median(rough, axis=0).astype(np.float64)
        spread = 1.4826 * np.median(np.abs(rough - high.astype(np.float32)), axis=0)
        error = 1.2533 * spread / np.sqrt(len(sinogram))  # standard error of a median
        shift, term = high.copy(), high
        for _ in range(TERMS):
            term = self._smooth(term)
            shift += term
        structure = maximum_filter1d(np.abs(shift) > self.largest, 2 * self.columns + 1, mode="nearest")
        real = (np.abs(high) > self.sigmas * error) & ~structure
        return np.asarray(np.where(real, shift, 0.0), np.float64)

    def _smooth(self, values: Any) -> Any:
        return savgol_filter(values, self.columns, ORDER, axis=-1, mode="interp")

    def _segments(self, n_views: int) -> tuple[Float64, list[tuple[int, int]]]:
        count = 1 if self.views is None else max(1, round(n_views / self.views))
        bounds = np.linspace(0, n_views, count + 1).astype(int)
        edges = [(int(a), int(b)) for a, b in pairwise(bounds)]
        return np.array([(a + b - 1) / 2 for a, b in edges]), edges

    @staticmethod
    def _subtract_drifting(sinogram: Float32, centres: Float64, found: Float64) -> None:
        """Interpolate the constants linearly between the middles of the segments."""
        place = np.clip(np.interp(np.arange(len(sinogram)), centres, np.arange(len(centres))), 0, len(centres) - 1)
        low = np.minimum(place.astype(int), len(centres) - 2)
        share = (place - low)[:, None]
        sinogram -= ((1 - share) * found[low] + share * found[low + 1]).astype(np.float32)
