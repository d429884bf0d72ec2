"""RawScan → blocks of views as net counts beside the open beam: what every step before the log works on."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from lampyris.model import CalibrationError, Float32, RawScan, RecipeError, Step

CELLS_PER_BLOCK = 4_000_000
"""Bounds the memory of one block: arrays that come to some sixteen of float32 of this size, 260 MB."""


@dataclass(slots=True)
class Block:
    """Views [first, last) of a scan; both arrays (views, rows, columns) float32 and free to be changed in place.

    `net` counts with the dark subtracted, `open_` the mean counts that the same cell would show without an object at
    the exposure of that view; 0 where a cell does not work.
    """

    first: int
    last: int
    net: Float32
    open_: Float32


def spans(views: int, rows: int, columns: int) -> Iterator[tuple[int, int]]:
    """Ranges of views that each fit a block."""
    size = max(16, CELLS_PER_BLOCK // (rows * columns))
    for first in range(0, views, size):
        yield first, min(first + size, views)


def settings(step: Step, **defaults: Any) -> dict[str, Any]:
    """The step's settings over the defaults; a setting that the step does not know is refused with those it does."""
    given = dict(step.settings)
    if unknown := sorted(set(given) - set(defaults)):
        known = ", ".join(sorted(defaults)) or "none"
        raise RecipeError(f"step {step.name!r} has no setting {', '.join(unknown)}; it knows {known}")
    return defaults | given


def sampled_views(views: int, wanted: int) -> list[int]:
    """Indices of up to `wanted` views spread over the scan."""
    return sorted(set(np.linspace(0, views - 1, min(wanted, views)).astype(int).tolist()))


def read_counts(scan: RawScan, first: int, last: int) -> Float32:
    """Counts of some views as float32; NaN and infinity are refused with the first view that holds one."""
    counts = np.asarray(scan.read(slice(first, last)))
    if counts.dtype.kind == "f":
        finite = np.isfinite(counts)
        if not finite.all():
            view = first + int(np.argmin(finite.all(axis=(1, 2))))
            raise CalibrationError(
                f"counts hold {int(finite.size - finite.sum())} NaN or infinite values, first in view {view}:"
                " a broken reader, or a division by an empty air map upstream?"
            )
    return np.array(counts, np.float32)  # a copy: steps work in place, and the scan stays what it was
