"""Counts and a `Coding` → 16-bit levels in steps of the noise; levels → counts with the mean of those that went in.

With x the count above the pedestal, g the gain, e the electronic noise and s² = 3/8·g² + e², the generalised Anscombe
transform (Murtagh, Starck & Bijaoui 1995, Astron. Astrophys. Suppl. 112:179, eq. 3) less its value at x = 0 is

    y = (2/g)·(√(g·x + s²) − s) = 2x / (√(g·x + s²) + s),  its slope 1/√(g·x + s²): one over the standard deviation,

and the level is round(k·y). Below x = 0 it goes on straight, for there the noise is electronic and does not shrink:
a root that ends would cut the dark rays' noise on one side. Steps are never finer than one count.

The inverse has to be unbiased count by count, not for a denoised mean as that of Mäkitalo & Foi (2013), IEEE Trans.
Image Process. 22:91: a level stands for the middle of its counts less g/(12k²), because in a step whose square grows
by g/k² per count the density's slope moves the mean by d(step²)/dx/12. Decision 0110 derives and measures it.
"""

import dataclasses
import functools
from dataclasses import dataclass
from typing import Any

import numpy as np

from lampyris.model import CalibrationError, Coding, Float32, Float64, FormatError, InputError, RawScan

LEVELS = 1 << 16
TOP = 1 << 22
"""Whole counts wider than 16 bits are coded below this: no converter of a CT scanner goes further."""
PORTION = 1 << 16
"""Counts that are looked up at a time: what stays in a processor's cache."""
BELOW = 8192
"""Levels kept for counts under the pedestal, where a type has no lowest count."""


def coding_of(scan: RawScan, steps_per_sigma: float) -> Coding:
    """How a scan's counts are to be coarsened, from its own noise and dark counts.

    The pedestal is the highest dark count of the working cells, so that no step is coarser than the noise of any of
    them allows. Raises CalibrationError where noise or dark are not known, InputError for a scan that is already coded
    or whose logarithm is taken.
    """
    if scan.coding is not None:
        raise InputError(
            f"the counts are already coded in {scan.coding.steps_per_sigma:g} steps per σ: code the scan as measured"
        )
    if "log" in scan.applied:
        raise InputError("the scan holds line integrals, not counts: their noise is not that of counts")
    if scan.noise is None:
        raise CalibrationError(
            "the scan says nothing of its noise (gain, electronic): no step can be derived from it; code it lossless"
        )
    if scan.dark is None and "dark_air" not in scan.applied:
        raise CalibrationError("the scan has no dark counts: its offset would be taken for photons; code it lossless")
    dark = np.zeros(1) if scan.dark is None else scan.dark[slice(None) if scan.bad_cells is None else ~scan.bad_cells]
    pedestal = float(dark.max()) if dark.size else 0.0
    dtype = np.dtype(scan.counts.dtype).newbyteorder("<").str
    return Coding(float(steps_per_sigma), pedestal, scan.noise, dtype)


def quantise(counts: np.ndarray, coding: Coding) -> np.ndarray:
    """Levels of counts, uint16, the same shape.

    Raises InputError when the counts are not of the coding's type or go beyond what 65536 levels hold.
    """
    if counts.dtype.newbyteorder("<").str != coding.dtype:
        raise InputError(f"counts are {counts.dtype}, the coding was made for {coding.dtype}")
    if counts.dtype.kind == "f":
        levels = np.rint(_transformed(counts.astype(np.float64) - coding.pedestal_counts, coding)) + BELOW
        _within(levels.min(), levels.max(), 0, LEVELS - 1, "levels")
        return levels.astype(np.uint16)
    table = _table(dataclasses.replace(coding, source_id=""))
    if table.lowest or len(table.levels) <= np.iinfo(counts.dtype).max:
        _within(counts.min(), counts.max(), table.lowest, table.lowest + len(table.levels) - 1, "counts")
    return _looked_up(table.levels, counts, table.lowest)


def restore(levels: np.ndarray, coding: Coding) -> Float32:
    """Counts that levels stand for, float32. Raises FormatError for a level that the coding does not know."""
    values = _values(dataclasses.replace(coding, source_id=""))
    highest = int(levels.max(initial=0))
    if highest >= len(values):
        raise FormatError(f"level {highest} of {len(values)}: written with another coding, or tampered with?")
    return np.asarray(_looked_up(values, levels, 0), np.float32)


def _looked_up(table: np.ndarray, index: np.ndarray, first: int) -> np.ndarray:
    """table[index − first], in portions: NumPy makes eight bytes of every index."""
    flat = np.ascontiguousarray(index).reshape(-1)
    found = np.empty(flat.shape, table.dtype)
    for start in range(0, len(flat), PORTION):
        part = flat[start : start + PORTION]
        np.take(
            table,
            part if first == 0 else part.astype(np.int64) - first,
            mode="clip",
            out=found[start : start + PORTION],
        )
    return found.reshape(index.shape)


@dataclass(frozen=True, slots=True, eq=False)
class _Table:
    """Level of every whole count from `lowest` on, uint16; and of each level its first count, with the end behind."""

    lowest: int
    levels: np.ndarray
    first: np.ndarray


@functools.lru_cache(maxsize=4)
def _table(coding: Coding) -> _Table:
    """A level only for steps that hold a whole count: without holes, and exact where the noise is below a count."""
    kind = np.iinfo(np.dtype(coding.dtype))
    lowest, highest = int(kind.min), int(kind.max)
    if kind.bits > 16:
        reach = BELOW * max(1.0, _dark_sigma(coding) / coding.steps_per_sigma)
        lowest, highest = max(lowest, int(coding.pedestal_counts - reach)), min(highest, TOP - 1)
        if not lowest < highest:
            raise InputError(f"pedestal of {coding.pedestal_counts} counts: whole counts are coded below {TOP}")
    above = np.arange(lowest, highest + 1, dtype=np.float64)
    above -= coding.pedestal_counts
    step = np.rint(_transformed(above, coding))
    first = np.concatenate([[0], np.flatnonzero(step[1:] > step[:-1]) + 1, [len(step)]])[: LEVELS + 1]
    levels = np.repeat(np.arange(len(first) - 1, dtype=np.uint16), np.diff(first))
    return _Table(lowest, levels, lowest + first)


@functools.lru_cache(maxsize=4)
def _values(coding: Coding) -> Float32:
    """The count that each level stands for."""
    k, gain, dark = coding.steps_per_sigma, coding.noise.gain_counts, _dark_sigma(coding)
    if np.dtype(coding.dtype).kind == "f":
        y = (np.arange(LEVELS) - BELOW) / k
        x = y * dark + gain / 4 * np.maximum(y, 0) ** 2 - (y > 0) * gain / (48 * k**2)
        return np.asarray(x + coding.pedestal_counts, np.float32)
    first = _table(coding).first
    middle = (first[:-1] + first[1:] - 1) / 2
    above = middle - coding.pedestal_counts
    square = (gain * np.maximum(above, 0) + dark**2) / k**2
    return np.asarray(middle - (square > 1) * (above > 0) * gain / (12 * k**2), np.float32)


def _transformed(above: Float64, coding: Coding) -> Float64:
    """k·y for counts above the pedestal; the argument's memory is used again."""
    dark = _dark_sigma(coding)
    root: Any = np.maximum(above, 0)
    root *= coding.noise.gain_counts
    root += dark**2
    np.sqrt(root, out=root)
    root += dark
    above *= 2 * coding.steps_per_sigma
    above /= root
    return above


def _dark_sigma(coding: Coding) -> float:
    """s: what the transform takes for the standard deviation where there is no signal."""
    noise = coding.noise
    return float(np.sqrt(3 / 8 * noise.gain_counts**2 + noise.electronic_counts**2))


def _within(low: Any, high: Any, lowest: int, highest: int, what: str) -> None:
    if low < lowest or high > highest:
        raise InputError(
            f"{what} from {low:g} to {high:g}, the coding holds {lowest}…{highest}: a gain or dark of another scan?"
            " Code it lossless"
        )
