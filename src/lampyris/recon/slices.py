"""A request and what the scan covers → slices: their places, and the fine axial lattice they are averaged from.

Thin slices are reconstructed on a lattice no coarser than a detector row and averaged with a box. The native slice
profile (a row's aperture times linear interpolation between rows: a quadratic B-spline) has a width at half maximum
of 1.27 rows; from there on the box is chosen so that the profile's width is the thickness asked for.
"""

from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from array_api_compat import array_namespace
from scipy.optimize import brentq

from lampyris.model import Float32, Float64, Grid, GridRequest, InputError, Progress
from lampyris.projector.engine import HOST, Memory
from lampyris.recon.field import Field

SLAB_BYTES = 192 * 2**20
"""Thin slices held at once while they are averaged."""
CARD_SLAB = 0.15
"""Of a card's free memory for the same: what counts and averages them takes as much beside it."""
TOLERANCE_MM = 1e-3


@dataclass(frozen=True, slots=True)
class Coverage:
    """Slabs [low, high] mm along y: `sure` where every voxel of the body was measured fully, `possible` at all."""

    sure: tuple[float, float]
    possible: tuple[float, float]


@dataclass(frozen=True, slots=True, eq=False)
class SlicePlan:
    """Slice `first_mm` + i·`increment_mm` is Σ taps[j]·thin[i·stride + j]; thin slices start at `thin_first_mm`."""

    first_mm: float
    increment_mm: float
    slices: int
    taps: Float64
    stride: int

    @property
    def thin_step_mm(self) -> float:
        return self.increment_mm / self.stride

    @property
    def thin_first_mm(self) -> float:
        return self.first_mm - (len(self.taps) - 1) / 2 * self.thin_step_mm

    @property
    def thin_slices(self) -> int:
        return (self.slices - 1) * self.stride + len(self.taps)

    def grid(self, field: Field) -> Grid:
        """The lattice of the image."""
        middle = self.first_mm + (self.slices - 1) / 2 * self.increment_mm
        return _grid(field, self.slices, self.increment_mm, middle)

    def slab_grid(self, field: Field, start: int, stop: int) -> Grid:
        """The lattice of the thin slices that the slices from `start` on, before `stop`, are averaged of."""
        return self.thin_grid(field, start * self.stride, (stop - start - 1) * self.stride + len(self.taps))

    def thin_grid(self, field: Field, start: int, count: int) -> Grid:
        """The lattice of `count` thin slices from the one of index `start`."""
        middle = self.thin_first_mm + (start + (count - 1) / 2) * self.thin_step_mm
        return _grid(field, count, self.thin_step_mm, middle)


def plan_slices(request: GridRequest, row_mm: float, coverage: Coverage) -> SlicePlan:
    """Where the slices lie and how they are averaged; `row_mm` is the height of a detector row at the isocentre.

    Raises InputError with the numbers when a slice is thinner than a row or lies outside what was measured.
    """
    thickness = request.slice_thickness_mm
    if thickness < row_mm * (1 - 1e-3):
        raise InputError(
            f"slices of {thickness:g} mm asked for, but a detector row is {row_mm:.4g} mm at the isocentre: ask for at"
            " least that"
        )
    increment = request.slice_increment_mm or thickness
    box = box_width(thickness, row_mm)
    margin = max(box, row_mm)
    low, high = _centres(coverage.sure, margin)
    if low > high + TOLERANCE_MM:  # a single row, or very few, never covers the body fully at full thickness
        low, high = _centres(coverage.possible, margin)
    if low > high + TOLERANCE_MM:
        raise InputError(
            f"slices of {thickness:g} mm asked for, but the scan covers only {coverage.possible[0]:.2f} …"
            f" {coverage.possible[1]:.2f} mm along y: ask for thinner ones"
        )
    first, last = request.first_mm, request.last_mm
    if first is None and last is None:
        slices = 1 + max(0, int(np.floor((high - low) / increment + 1e-6)))
        first = (low + high - (slices - 1) * increment) / 2
    else:
        first = low if first is None else first
        last = high if last is None else last
        slices = 1 + int(np.floor((last - first) / increment + 1e-6))
        _refuse_outside(first, first + (slices - 1) * increment, _centres(coverage.possible, margin), thickness)
    stride = max(1, int(np.ceil(increment / row_mm - 1e-3)))
    return SlicePlan(float(first), increment, slices, box_taps(box, increment / stride), stride)


def box_width(thickness_mm: float, row_mm: float) -> float:
    """Width of the box that, averaging over native profiles, gives a width at half maximum of `thickness_mm`."""
    if thickness_mm <= 1.2679 * row_mm:
        return 0.0

    def excess(width: float) -> float:
        return _profile(thickness_mm / 2, width, row_mm) / _profile(0.0, width, row_mm) - 0.5

    return float(brentq(excess, 1e-3 * row_mm, thickness_mm + row_mm))


def box_taps(width_mm: float, step_mm: float) -> Float64:
    """Shares of samples `step_mm` apart in a box of `width_mm`: the overlap of each sample's interval with it."""
    reach = max(0, int(np.ceil(width_mm / step_mm / 2 - 0.5)))
    edges = (np.arange(-reach, reach + 2) - 0.5) * step_mm
    share = np.diff(np.clip(edges, -width_mm / 2, width_mm / 2)) if width_mm > 0 else np.ones(1)
    return np.asarray(share / share.sum(), np.float64)


def average_slabs(
    plan: SlicePlan,
    field: Field,
    thin: Callable[[Grid, Progress], Any],
    progress: Progress,
    *,
    memory: Memory = HOST,
    most: int | None = None,
    ready: Callable[[int, int], Float32 | None] = lambda _start, _stop: None,
) -> Float32:
    """All slices (slices, matrix, matrix): `thin(grid, progress)` images slab after slab, which are averaged.

    A slab has at most `SLAB_BYTES` (of a card, its share), and at most `most` thin slices; it is averaged in `memory`,
    where it was made, and made in halves where a card is full. Each slab's progress goes into the whole's. Slices
    [start, stop) that are `ready(start, stop)` are taken as they are. Raises CardFullError where one slice is too much.
    """
    values = np.empty((plan.slices, field.matrix, field.matrix), np.float32)

    def make(start: int, stop: int, within: Progress) -> None:
        def some(part: slice) -> None:
            here = start + part.start, start + part.stop
            values[slice(*here)] = memory.down(averaged(plan, field, here, thin, within))

        what = f"slices {start} to {stop - 1} of {plan.slices}"
        deque(memory.in_parts(stop - start, some, most=stop - start, what=what), maxlen=0)

    for start, stop in slabs(plan, field, most, memory.room(CARD_SLAB, SLAB_BYTES)):

        def within(done: float, start: int = start, stop: int = stop) -> None:
            progress((start + done * (stop - start)) / plan.slices)

        there = ready(start, stop)
        if there is None:
            make(start, stop, within)
        else:
            values[start:stop] = there
        progress(stop / plan.slices)
    return values


def averaged(
    plan: SlicePlan, field: Field, slab: tuple[int, int], thin: Callable[[Grid, Progress], Any], progress: Progress
) -> Any:
    """The slices of one slab, where `thin` makes it."""
    image = thin(plan.slab_grid(field, *slab), progress)
    xp, wide = array_namespace(image), len(plan.taps)
    if wide == 1:
        return image[:: plan.stride, ...]
    taps = xp.asarray(plan.taps.astype(np.float32))
    starts = range(0, (slab[1] - slab[0]) * plan.stride, plan.stride)
    return xp.stack([xp.tensordot(taps, image[first : first + wide, ...], axes=1) for first in starts])


def slabs(
    plan: SlicePlan, field: Field, most: int | None = None, held_bytes: int = SLAB_BYTES
) -> Iterator[tuple[int, int]]:
    """First and last (exclusive) slice of slabs of even depth: of `held_bytes`, and of `most` thin slices, at most."""
    thin = max(1, held_bytes // (4 * field.matrix**2))
    thin = thin if most is None else min(thin, most)
    each = max(1, (thin - len(plan.taps)) // plan.stride + 1)
    parts = -(-plan.slices // each)
    bounds = np.linspace(0, plan.slices, parts + 1).astype(int)
    yield from zip(bounds[:-1].tolist(), bounds[1:].tolist(), strict=True)


def _centres(slab: tuple[float, float], margin: float) -> tuple[float, float]:
    return slab[0] + margin / 2, slab[1] - margin / 2


def _refuse_outside(first: float, last: float, allowed: tuple[float, float], thickness: float) -> None:
    if last < first - TOLERANCE_MM or first < allowed[0] - TOLERANCE_MM or last > allowed[1] + TOLERANCE_MM:
        raise InputError(
            f"slices asked for from {first:.2f} to {last:.2f} mm along y, but {thickness:g} mm slices can be"
            f" reconstructed from {allowed[0]:.2f} to {allowed[1]:.2f} mm: outside, the scan lacks rays"
        )


def _profile(y: float, width: float, row: float) -> float:
    """Integral over y ± width/2 of the native profile (a quadratic B-spline of knots `row`)."""
    return _spline_below(y / row + width / row / 2) - _spline_below(y / row - width / row / 2)


def _spline_below(x: float) -> float:
    """Integral of the centred quadratic B-spline up to x: Σ (−1)ᵏ C(3,k) (x + 3/2 − k)₊³/6."""
    terms = ((1, 1.5), (-3, 0.5), (3, -0.5), (-1, -1.5))
    return sum(sign * max(x + shift, 0.0) ** 3 for sign, shift in terms) / 6


def _grid(field: Field, slices: int, step_mm: float, middle_mm: float) -> Grid:
    voxel = field.voxel_mm
    shape = (slices, field.matrix, field.matrix)
    return Grid.centred(shape, (step_mm, voxel, voxel), (field.centre_mm[0], middle_mm, field.centre_mm[1]))
