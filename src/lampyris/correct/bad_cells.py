"""Marked cells and calibration maps → cells that cannot be trusted, and their counts from the nearest good ones.

A mended cell keeps weight 0: its value is for the filters of analytic methods, it carries no information.
"""

from dataclasses import dataclass
from typing import Any

import numba as nb
import numpy as np
from scipy.ndimage import median_filter

from lampyris.correct.block import Block, read_counts, sampled_views, settings
from lampyris.correct.dark_air import OpenBeam
from lampyris.model import Applied, Bool, CalibrationError, Float32, RawScan, Step

NEIGHBOURS = 4


@dataclass(frozen=True, slots=True, eq=False)
class BadCells:
    """`mask` (rows, columns); for each bad cell the flat indices and weights of up to four good ones."""

    mask: Bool
    cells: np.ndarray
    sources: np.ndarray
    shares: Float32
    found: dict[str, Any]

    @staticmethod
    def of(scan: RawScan, beam: OpenBeam, step: Step, *, whole: bool = True) -> "BadCells":
        """Find the cells: marked by the scanner, dead or far off in air, hot in dark, or stuck in the scan itself.

        The last is asked of views all over the scan: of one that is not `whole` yet no cell is said to be stuck.

        Settings: `gain_range` (low, high) of net air relative to the median of its neighbourhood (0.5, 2);
        `dark_sigmas` robust standard deviations above the median dark (30); `largest_share` of bad cells (0.05).
        Raises CalibrationError where more are bad than that: the calibration belongs to another detector.
        """
        chosen = settings(step, gain_range=(0.5, 2.0), dark_sigmas=30.0, largest_share=0.05)
        marked = np.zeros(beam.dark.shape, bool) if scan.bad_cells is None else np.asarray(scan.bad_cells)
        kinds = {
            "marked": marked,
            "gain": _odd_gain(beam, chosen["gain_range"]),
            "hot": _hot(beam.dark, chosen["dark_sigmas"]),
            "stuck": _stuck(beam) if whole else np.zeros_like(marked),
        }
        mask = np.logical_or.reduce(list(kinds.values()))
        if mask.mean() > chosen["largest_share"]:
            counted = ", ".join(f"{int(found.sum())} {name}" for name, found in kinds.items())
            raise CalibrationError(
                f"{int(mask.sum())} of {mask.size} cells are bad ({counted}), more than the allowed share of"
                f" {chosen['largest_share']:g}: dark, air or bad cells of another detector?"
            )
        found = {name: int(one.sum()) for name, one in kinds.items()} | {"cells": int(mask.sum())}
        return BadCells(mask, *_neighbours(mask), chosen | found)

    def apply(self, block: Block) -> None:
        if len(self.cells):
            shape = (len(block.net), -1)
            _mend(block.net.reshape(shape), block.open_.reshape(shape), self.cells, self.sources, self.shares)

    def record(self) -> Applied:
        plain = {name: list(value) if isinstance(value, tuple) else value for name, value in self.found.items()}
        return Applied.of("bad_cells", **plain)


def _odd_gain(beam: OpenBeam, gain_range: tuple[float, float]) -> Bool:
    low, high = gain_range
    odd = np.zeros(beam.dark.shape, bool)
    for air in beam.net_air:
        usual = np.maximum(median_filter(air, size=(min(3, air.shape[0]), 9), mode="nearest"), 1e-30)
        odd |= (air < low * usual) | (air > high * usual)
    return odd


def _hot(dark: Float32, sigmas: float) -> Bool:
    middle = np.median(dark)
    spread = 1.4826 * np.median(np.abs(dark - middle))
    return np.asarray(dark > middle + sigmas * max(spread, 1e-3 * abs(middle), 1e-30), np.bool_)


def _stuck(beam: OpenBeam) -> Bool:
    """Cells whose raw count is one and the same in 24 views spread over the scan, unlike what their row tells.

    A cell that sees nothing but air in a scan without noise is constant too: it is not stuck, because its transmission
    is that of its neighbours to 10 %.
    """
    scan = beam.scan
    chosen = sampled_views(scan.views, 24)
    if len(chosen) < 8:
        return np.zeros(beam.dark.shape, bool)
    blocks = [beam.block(view, view + 1) for view in chosen]
    constant = np.ptp(np.stack([read_counts(scan, view, view + 1)[0] for view in chosen]), axis=0) == 0
    if not constant.any():
        return np.asarray(constant, np.bool_)
    through = np.stack([one.net[0] / np.maximum(one.open_[0], 1e-30) for one in blocks])
    usual = median_filter(through, size=(1, 1, 9), mode="nearest")
    far = np.median(np.abs(through - usual), axis=0) > 0.1 * np.median(np.abs(usual), axis=0)
    return np.asarray(constant & far, np.bool_)


def _neighbours(mask: Bool) -> tuple[np.ndarray, np.ndarray, Float32]:
    """Nearest good cells to both sides along columns and along rows, weighted so that each axis is interpolated
    linearly and the axis with the smaller gap counts more (1/gap²)."""
    cells = np.flatnonzero(mask)
    sources = np.zeros((len(cells), NEIGHBOURS), np.int64)
    shares = np.zeros((len(cells), NEIGHBOURS))
    for i, cell in enumerate(cells):
        place = np.array(divmod(int(cell), mask.shape[1]))
        slot = 0
        for axis in (0, 1):
            sides = [_nearest_good(mask, place, axis, way) for way in (-1, 1)]
            reached = [distance for distance in sides if distance]
            for distance in (each for each in sides if each):
                other = sum(abs(each) for each in reached) - abs(distance)
                source = place.copy()
                source[axis] += distance
                sources[i, slot] = source[0] * mask.shape[1] + source[1]
                gap = sum(abs(each) for each in reached)
                alone = len(reached) == 1
                shares[i, slot] = 0.01 / gap**2 if alone else other / gap / gap**2
                slot += 1
        if not shares[i].any():
            raise CalibrationError(
                f"cell at row {place[0]}, column {place[1]} has no good cell in its row or column: too many are bad"
            )
        shares[i] /= shares[i].sum()
    return cells, sources, shares.astype(np.float32)


def _nearest_good(mask: Bool, place: np.ndarray, axis: int, way: int) -> int:
    """Signed distance to the nearest good cell along one axis, 0 where there is none."""
    at = place.copy()
    while 0 <= at[axis] + way < mask.shape[axis]:
        at[axis] += way
        if not mask[at[0], at[1]]:
            return int(at[axis] - place[axis])
    return 0


@nb.njit(cache=True)
def _mend(net: Any, open_: Any, cells: Any, sources: Any, shares: Any) -> None:
    """Interpolate transmission and open beam; (views, rows·columns) in place."""
    for view in range(net.shape[0]):
        for i in range(len(cells)):
            transmission = np.float32(0)
            beam = np.float32(0)
            for j in range(sources.shape[1]):
                share = shares[i, j]
                if share > 0:
                    transmission += share * net[view, sources[i, j]] / open_[view, sources[i, j]]
                    beam += share * open_[view, sources[i, j]]
            net[view, cells[i]] = transmission * beam
            open_[view, cells[i]] = beam
