"""Shapes and material names → a phantom, its exact path lengths in any geometry, and its voxels.

A part adds its material and takes away the one that it displaces, so that Σ μ_m·L_m is exact without any order:
every part must lie wholly inside what it displaces (clip it where it does not).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import numba as nb
import numpy as np

from lampyris.model import Float32, Float64, Geometry, Grid, InputError, Volume
from lampyris.phantom import trace
from lampyris.phantom.shapes import Gaussian, Shape, interval, support_mm
from lampyris.physics import attenuation


@dataclass(frozen=True, slots=True)
class Part:
    """A shape of one material; `replaces` names the material that was there, None for empty space."""

    shape: Shape
    material: str
    replaces: str | None = None


@dataclass(frozen=True, slots=True)
class Insert:
    """Where a region to be measured lies: a ball or a rod of `radius_mm` about `centre_mm` (x, y, z)."""

    name: str
    centre_mm: tuple[float, float, float]
    radius_mm: float
    material: str


@dataclass(frozen=True, slots=True)
class Phantom:
    """Parts in the gantry frame, and the regions that are worth measuring in an image of them."""

    parts: tuple[Part, ...]
    inserts: tuple[Insert, ...] = ()
    name: str = "phantom"

    def __post_init__(self) -> None:
        if not self.parts:
            raise InputError("a phantom needs at least one part")
        known = {part.material for part in self.parts}
        for part in self.parts:
            if part.replaces is not None and part.replaces not in known:
                raise InputError(f"a part of {part.material} replaces {part.replaces}, but no part is made of that")

    @property
    def materials(self) -> tuple[str, ...]:
        """Names of all materials, in the order in which they first appear."""
        return tuple(dict.fromkeys(part.material for part in self.parts))

    @property
    def axial_extent_mm(self) -> tuple[float, float]:
        """First and last y that any part reaches."""
        low, high = self._extent(np.array([0.0, 1.0, 0.0]))
        return low, high

    @property
    def radius_mm(self) -> float:
        """Radius about the rotation axis that holds every part."""
        angles = np.deg2rad(np.arange(0.0, 360.0, 5.0))
        reach = max(self._extent(np.array([np.cos(a), 0.0, np.sin(a)]))[1] for a in angles)
        return float(reach / np.cos(np.deg2rad(2.5)))  # the polygon of tangents holds the body, its circle the polygon

    def _extent(self, direction: Float64) -> tuple[float, float]:
        outer = [part.shape for part in self.parts if part.replaces is None]
        spans = [_span(shape, direction) for shape in outer]
        return min(low for low, _ in spans), max(high for _, high in spans)


def path_lengths_mm(phantom: Phantom, geometry: Geometry, views: slice = slice(None)) -> dict[str, Float32]:
    """mm of every material along each ray, (views, rows, columns) float32, closed form, by material name.

    Rays of a divergent beam end at the source and at the cell; parallel rays are whole lines. The sums are signed:
    Σ μ_m·L_m is the line integral.
    """
    chosen = geometry if views == slice(None) else geometry.subset(views)
    names = phantom.materials
    lengths = Tracer(phantom, {name: (i, 1.0) for i, name in enumerate(names)}).lengths_mm(chosen)
    return dict(zip(names, lengths, strict=True))


class Tracer:
    """A phantom made ready for many calls; materials may be joined into groups.

    `groups` gives for each material name its group's index and a weight, e.g. its density relative to the group's.
    """

    def __init__(self, phantom: Phantom, groups: Mapping[str, tuple[int, float]]) -> None:
        gains = [groups[part.material] for part in phantom.parts]
        loses = [(-1, 0.0) if part.replaces is None else groups[part.replaces] for part in phantom.parts]
        self.table = trace.table([part.shape for part in phantom.parts], gains, loses)
        self.groups = 1 + max(index for index, _ in groups.values())

    def lengths_mm(self, geometry: Geometry, *, one_thread: bool = False) -> Float32:
        """Weighted mm summed by group, (groups, views, rows, columns) float32; `one_thread` frees the interpreter."""
        return trace.trace(self.table, geometry, self.groups, one_thread=one_thread)


def line_integrals(subject: Phantom | Shape, geometry: Geometry, per_mm: Mapping[str, float] | float = 1.0) -> Float32:
    """Line integrals (views, rows, columns) float32: of a phantom with μ by material name, of one shape with one μ."""
    if isinstance(subject, Phantom):
        if not isinstance(per_mm, Mapping):
            raise InputError(f"a phantom of {', '.join(subject.materials)} needs one attenuation for each, by name")
        lengths = path_lengths_mm(subject, geometry)
        total = np.zeros(geometry.shape, np.float32)
        for name, length in lengths.items():
            total += np.float32(_known(per_mm, name)) * length
        return total
    if isinstance(per_mm, Mapping):
        raise InputError("one shape needs one attenuation in 1/mm, not one for each material")
    single = trace.table([subject], [(0, 1.0)], [(-1, 0.0)])
    return np.asarray(trace.trace(single, geometry, 1)[0] * np.float32(per_mm), np.float32)


def voxelise(
    phantom: Phantom,
    grid: Grid,
    *,
    energy_kev: float | None = None,
    per_mm: Mapping[str, float] | None = None,
    oversample: int = 3,
    quantity: Literal["HU", "1/mm"] = "1/mm",
) -> Volume:
    """Mean attenuation of every voxel: `oversample`² lines along each row of voxels, each covered exactly.

    Give either one energy, or μ by material name ("water" among them if HU are wanted). Empty space is 0 /mm.
    """
    names = phantom.materials
    if (energy_kev is None) == (per_mm is None):
        raise InputError("voxelise wants either energy_kev or per_mm, and not both")
    if energy_kev is not None:
        per_mm = {name: _per_mm(name, energy_kev) for name in {*names, "water"}}
    assert per_mm is not None
    values = np.zeros(grid.shape, np.float64)
    for part in phantom.parts:
        change = _known(per_mm, part.material) - (0.0 if part.replaces is None else _known(per_mm, part.replaces))
        _fill(values, grid, part.shape, change, oversample)
    if quantity == "HU":
        water = _known(per_mm, "water")
        values = 1000 * (values - water) / water
    return Volume(values.astype(np.float32), grid, quantity)


def _per_mm(name: str, energy_kev: float) -> float:
    at = np.array([energy_kev], np.float64)
    return float(attenuation.linear_attenuation_per_mm(attenuation.material(name), at)[0])


def _known(per_mm: Mapping[str, float], name: str) -> float:
    if name not in per_mm:
        raise InputError(f"no attenuation given for {name!r}; given are {sorted(per_mm)}")
    return float(per_mm[name])


def _span(shape: Shape, direction: Float64) -> tuple[float, float]:
    """Lowest and highest p·direction of bounding bodies, tightened by half-spaces facing along it."""
    low, high = -np.inf, np.inf
    for one in shape.primitives():
        middle, half = float(one.centre_mm @ direction), support_mm(one, direction)
        low, high = max(low, middle - half), min(high, middle + half)
        for plane in one.planes:
            facing = float(plane[:3] @ direction)
            if facing > 1 - 1e-12:
                high = min(high, float(plane[3]))
            elif facing < -1 + 1e-12:
                low = max(low, -float(plane[3]))
    return low, high


def _fill(values: Float64, grid: Grid, shape: Shape, change: float, oversample: int) -> None:
    """Add `change` × covered fraction to the voxels that the shape reaches."""
    spans = [_span(shape, axis) for axis in grid.axes]
    window = []
    for axis, (low, high), n, step in zip(grid.axes, spans, grid.shape, grid.spacing_mm, strict=True):
        first = float(axis @ grid.first_voxel_mm)
        start = max(0, int(np.floor((low - first) / step)))
        stop = min(n, int(np.ceil((high - first) / step)) + 1)
        if stop <= start:
            return
        window.append((start, stop))
    part = values[tuple(slice(*pair) for pair in window)]
    fine = (np.arange(oversample) + 0.5) / oversample - 0.5
    if isinstance(shape, Gaussian):
        part += change * _blob(grid, shape, window, fine)
        return
    at = [np.add.outer(np.arange(*pair), fine).ravel() for pair in window[:2]]
    index = np.zeros((len(at[0]), len(at[1]), 3))
    index[..., 0], index[..., 1] = at[0][:, None], at[1][None, :]
    enter, leave = interval(shape.primitives(), grid.position_mm(index), grid.axes[2])
    step = grid.spacing_mm[2]
    _cover(part, enter / step - window[2][0], leave / step - window[2][0], oversample, change / oversample**2)


def _blob(grid: Grid, shape: Gaussian, window: list[tuple[int, int]], fine: Float64) -> Float64:
    mean = np.zeros(tuple(stop - start for start, stop in window))
    index = np.stack(np.meshgrid(*(np.arange(*pair, dtype=np.float64) for pair in window), indexing="ij"), -1)
    for ds in fine:
        for dr in fine:
            for dc in fine:
                mean += shape.density(grid.position_mm(index + np.array([ds, dr, dc])))
    return np.asarray(mean / len(fine) ** 3, np.float64)


@nb.njit(cache=True)
def _cover(values: Float64, low: Float64, high: Float64, oversample: int, change: float) -> None:
    """Spread intervals, in fractional column indices, over the columns that they cover."""
    columns = values.shape[2]
    for i in range(low.shape[0]):
        for j in range(low.shape[1]):
            first, last = max(low[i, j], -0.5), min(high[i, j], columns - 0.5)
            if last <= first:
                continue
            line = values[i // oversample, j // oversample]
            start, stop = int(np.floor(first + 0.5)), min(int(np.floor(last + 0.5)), columns - 1)
            if start == stop:
                line[start] += change * (last - first)
                continue
            line[start] += change * (start + 0.5 - first)
            line[start + 1 : stop] += change
            line[stop] += change * (last - stop + 0.5)
