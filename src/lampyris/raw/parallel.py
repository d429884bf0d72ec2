"""Counts of a beamline with flats and darks → RawScan of parallel rays, its axis of rotation found if it is not told.

Beamlines do not say which way their sample faces: angles and columns are taken as they stand in the file, and rows
along +y. Where the file has no cell size either, a cell is 1 mm, and attenuation is per cell.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from lampyris.model import Acquisition, Counts, Float32, Float64, Geometry, InputError, RawScan

LARGEST_SHARE = 0.3
"""The axis is sought within this share of the detector's width on both sides of its middle."""
ENDS = 3
"""So many views at either end are compared with each other."""
ROWS = 64
LEAST_CORRELATION = 0.25
"""Views that resemble each other's mirror images less than this do not show where the axis is."""


@dataclass(frozen=True, slots=True, eq=False)
class Beamline:
    """What a file of parallel projections holds: `dark`, `air` (rows, columns) means of many frames or None.

    Without `cell_mm` a cell of 1 mm is assumed and told: the image is then in units of cells.
    """

    counts: Counts
    angle_deg: Float64
    dark: Float32 | None
    air: Float32 | None
    cell_mm: tuple[float, float] | None = None
    format_name: str = ""

    def scan(self, column: float | None) -> RawScan:
        """The scan with its axis at `column`, or where opposite views put it; the protocol name says which."""
        views, rows, columns = self.counts.shape
        if column is None:
            found = central_column(self._integrals, np.deg2rad(self.angle_deg))
            told = f"axis estimated at column {found:.2f}"
        else:
            found, told = float(column), f"axis given at column {column:.2f}"
        if self.cell_mm is None:
            told += ", cell 1 mm assumed"
        if not -columns < found < 2 * columns:
            raise InputError(f"the axis at column {found} is far outside a detector of {columns} columns")
        geometry = Geometry.parallel_beam(
            self.angle_deg, rows=rows, columns=columns, cell_mm=self.cell_mm or (1.0, 1.0), central_column=found
        )
        return RawScan(
            self.counts,
            geometry,
            np.ones(views),
            dark=self.dark,
            air=self.air,
            acquisition=Acquisition(ProtocolName=f"{self.format_name}, {told}".strip(", ")),
        )

    def _integrals(self, view: int) -> Float64:
        """Line integrals of one view, dark cells and starved rays at the edge of what can be measured."""
        net = np.asarray(self.counts[view], np.float64) - (0.0 if self.dark is None else self.dark)
        open_ = np.ones(net.shape) if self.air is None else self.air - (0.0 if self.dark is None else self.dark)
        floor = 1e-4 * max(float(np.median(open_)), 1e-30)
        return np.asarray(np.log(np.maximum(open_, floor) / np.maximum(net, floor)), np.float64)


def mean_frame(frames: np.ndarray) -> Float32:
    """Mean of many flats or darks, (rows, columns)."""
    return np.asarray(frames.mean(0, dtype=np.float64), np.float32)


def central_column(view: Callable[[int], Float64], angle_rad: Float64) -> float:
    """Column (0-based, fractional) about which views half a turn apart mirror each other.

    `view` gives the line integrals (rows, columns) of a view; `angle_rad` (views,). With parallel rays p(s, θ + π) =
    p(2c − s, θ) for any object, whole in the field of view or not. The c of greatest correlation is found for pairs of
    views at both ends; it moves in proportion to the angle δ that a pair lacks of half a turn; c at δ = 0 is given.

    Raises InputError when the views span less than 170° or nothing in them tells where the axis is.
    """
    angle = np.asarray(angle_rad, np.float64)
    order = np.argsort(angle)
    order = order[angle[order] <= angle[order[0]] + np.pi * (1 + 1e-6)]
    span = float(angle[order[-1]] - angle[order[0]])
    if len(order) < 2 * ENDS or span < np.deg2rad(170):
        raise InputError(
            f"{len(order)} views over {np.rad2deg(span):.1f}° do not show where the axis of rotation is: give"
            " central_column"
        )
    early, late = order[:ENDS], order[-ENDS:]
    ends = {int(number): _fewer_rows(view(int(number))) for number in (*early, *late)}
    rough, likeness = _mirror(ends[int(early[0])], ends[int(late[-1])], None)
    if likeness < LEAST_CORRELATION:
        raise InputError(
            f"opposite views correlate by {likeness:.2f} at best (needed {LEAST_CORRELATION}): too noisy, or the axis"
            " is outside the middle of the detector; give central_column"
        )
    lacking, found = [], []
    for a in early:
        for b in late:
            lacking.append(float(angle[b] - angle[a] - np.pi))
            found.append(_mirror(ends[int(a)], ends[int(b)], rough)[0])
    if np.ptp(lacking) == 0:
        return float(np.mean(found))
    slope = np.polyfit(lacking, found, 1)
    return float(slope[1])


def _fewer_rows(image: Float64) -> Float64:
    """Rows averaged to at most 64."""
    groups = np.array_split(np.asarray(image, np.float64), min(len(image), ROWS))
    return np.stack([group.mean(0) for group in groups])


def _mirror(first: Float64, opposite: Float64, near: float | None) -> tuple[float, float]:
    """Column of the axis by the correlation of one image with the other's mirror image, and that correlation.

    Half columns are tried, all or those within 4 of `near`, and a parabola is laid through the three best.
    """
    columns = first.shape[1]
    if near is None:
        twice = np.arange(np.ceil((1 - 2 * LARGEST_SHARE) * columns), (1 + 2 * LARGEST_SHARE) * columns - 1).astype(int)
    else:
        twice = round(2 * near) + np.arange(-8, 9)
    likeness = np.array([_correlation(first, opposite, int(each)) for each in twice])
    best = int(np.clip(likeness.argmax(), 1, len(twice) - 2))
    below, here, above = likeness[best - 1 : best + 2]
    bend = 2 * here - below - above
    return float(twice[best] + (0.5 * (above - below) / bend if bend > 0 else 0.0)) / 2, float(here)


def _correlation(first: Float64, opposite: Float64, twice: int) -> float:
    """Correlation of the part of both images that overlaps when one is mirrored about column `twice`/2."""
    columns = first.shape[1]
    at = np.arange(max(0, twice - columns + 1), min(columns - 1, twice) + 1)
    if len(at) < 2:
        return -1.0
    a, b = first[:, at], opposite[:, twice - at]
    a, b = a - a.mean(), b - b.mean()
    scale = float(np.sqrt((a * a).sum() * (b * b).sum()))
    return float((a * b).sum()) / scale if scale > 0 else 0.0
