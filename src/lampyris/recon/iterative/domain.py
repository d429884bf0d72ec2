"""Projections and an analytic method → everything an iterative method works on: lattice, start, slabs with their rays.

The lattice holds more than the image asked for: along y all that the used rays cross within the body (the long object);
in the plane, what lies outside the field of view is projected from the analytic image and taken off the measured
integrals (Ziegler, Nielsen, Grass 2008, Med. Phys. 35:1317). Long scans are cut into slabs along y, each with the
margin that its rays cross; rays that leave a slab's lattice along y have no say in it.
"""

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

import numpy as np
from array_api_compat import array_namespace

from lampyris.model import Bool, Float32, Float64, Geometry, Grid, GridRequest, InputError, Projections
from lampyris.projector import HOST, Engine, Projector, load
from lampyris.recon.field import Circle, beyond, measured_reach, native_slice_mm, shadow
from lampyris.recon.iterative.blocks import Views, of_views
from lampyris.recon.iterative.certainty import certainty
from lampyris.recon.iterative.crossings import extent, margin_slices, rays_within
from lampyris.recon.iterative.fidelity import Fidelity, Likelihood
from lampyris.recon.slices import box_taps, box_width

Analytic: TypeAlias = Callable[[GridRequest], tuple[Float32, Grid]]
"""A request → image (1/mm, NaN where not seen) and its grid."""

VOXEL_ROWS = 2.0
"""Voxels are at most so many detector rows high; thicker slices are averaged from them."""
MARGIN = 1.04
OUTER_VOXELS = 512
"""Voxels across the scan field in the image of what lies outside the field of view, unless the image's are larger."""
TRUNCATED_VIEWS = 0.02
WIDER = 0.125
"""Share of the field of view added on every side where the body leaves the detector."""
SLAB_BYTES, CARD_SHARE = 3 * 2**29, 0.8
"""What a slab may take of a processor's memory, and of what is free on a card."""
RAY_BYTES = (5, 24)
"""A ray's bytes while its slab is worked on. On a processor: whether it is used, and what lies outside; the scan's own
arrays are there anyway. On a card these go up as well (8), and a subset of the views is held some six times over."""
VOLUMES = (8, 12)
"""Volumes of a slab held at once: image, extrapolated, majoriser, steps, two gradients, certainty, engine's copy; on a
card, where what is worked on at a time is a good part of a slab, the temporaries as well."""
CERTAINTY_VIEWS = 4
"""Every so many-th view tells how surely the voxels are known."""


@dataclass(frozen=True, slots=True, eq=False)
class Lattice:
    """Voxels of the reconstruction and how the image asked for comes out of them.

    `grid` with `margin` slices below and above and `pad` voxels around what the image needs; slice i of the image is
    Σ taps[j]·lattice[margin + i·stride + j]; `unseen` marks voxels of the image that the analytic one has no value for.
    """

    grid: Grid
    image_grid: Grid
    margin: int
    pad: int
    stride: int
    taps: Float32
    unseen: Bool

    def image(self, values: Float32) -> Float32:
        """The image asked for (slices, rows, columns), NaN where unseen, from values on the lattice."""
        slices, rows, columns = self.image_grid.shape
        inner = values[:, self.pad : self.pad + rows, self.pad : self.pad + columns]
        image = np.zeros(self.image_grid.shape, np.float32)
        for i in range(slices):
            for j, share in enumerate(self.taps):
                image[i] += share * inner[self.margin + i * self.stride + j]
        image[self.unseen] = np.nan
        return image


@dataclass(frozen=True, slots=True)
class Span:
    """Slices of the lattice: `keep` is what a slab gives, `window` what it works on; `views` whose rays meet it."""

    keep: slice
    window: slice
    views: slice


@dataclass(frozen=True, slots=True, eq=False)
class Slab:
    """A piece of the lattice, ready for the solver, its arrays where the engine works; `certainty` is κ on `grid`."""

    span: Span
    grid: Grid
    projector: Projector
    fidelity: Fidelity
    certainty: Any
    water_per_mm: float | None

    @property
    def kept(self) -> slice:
        """The slices of the window that the slab gives."""
        low = self.span.window.start
        return slice(self.span.keep.start - low, self.span.keep.stop - low)

    def window(self, values: Float32) -> Float32:
        """The slab's part of a volume on the whole lattice; a view."""
        return values[self.span.window]


@dataclass(frozen=True, slots=True, eq=False)
class Rays:
    """A fidelity for some of its rays: what lies outside the lattice is added, rays that leave it are fixed.

    `used` (views, rows, columns) is False for rays without a say; `outside` their integrals beyond the lattice's sides.
    All arrays are of the kind that is projected.
    """

    whole: Fidelity
    integrals: Any
    used: Any
    outside: Any

    @property
    def shape(self) -> tuple[int, int, int]:
        views, rows, columns = self.used.shape
        return views, rows, columns

    def misfit(self, projected: Any, views: Views) -> float:
        return self.whole.misfit(self._completed(projected, views), views)

    def slope(self, projected: Any, views: Views) -> Any:
        return self._said(self.whole.slope(self._completed(projected, views), views), views)

    def curvature(self, views: Views) -> Any:
        return self._said(self.whole.curvature(views), views)

    def _said(self, values: Any, views: Views) -> Any:
        """Values of rays that have a say; 0 of the others."""
        xp = array_namespace(values)
        return xp.where(of_views(self.used, views), values, xp.zeros_like(values))

    def _completed(self, projected: Any, views: Views) -> Any:
        """Integrals of the whole body; those of rays without a say are the measured ones."""
        if self.outside is not None:
            projected = projected + of_views(self.outside, views)
        xp = array_namespace(projected)
        return xp.where(of_views(self.used, views), projected, of_views(self.integrals, views))


@dataclass(frozen=True, slots=True, eq=False)
class Domain:
    """A scan prepared for iteration; `start` is the analytic image of `request` on `lattice.grid`, without NaN.

    Volumes on the whole lattice lie on the host, those of a slab where `engine` works. `reach` is the lowest and the
    highest y of every view's rays within the body.
    """

    projections: Projections
    likelihood: Likelihood
    lattice: Lattice
    start: Float32
    request: GridRequest
    spans: tuple[Span, ...]
    body: Circle
    outer: tuple[Float32, Grid] | None
    reach: tuple[Float64, Float64]
    engine: Engine

    def slab(self, number: int) -> Slab:
        """The slab of that number, made anew."""
        span, up = self.spans[number], self.engine.memory.up
        geometry = self.projections.geometry.subset(span.views)
        grid = self.lattice.grid.slab(span.window.start, span.window.stop)
        used = rays_within(geometry, self.body, _edges(grid), up)
        xp = array_namespace(used)
        if not bool(xp.any(used)):
            raise InputError(f"no ray stays within slices {span.window.start} to {span.window.stop}: too few slices?")
        projector = Projector(geometry, grid, self.engine)
        few = slice(0, None, min(CERTAINTY_VIEWS, geometry.views))
        weights = up(self.projections.weights[span.views][few])
        weights = xp.where(used[few, ...], weights, xp.zeros_like(weights))
        kappa = certainty(projector.subset(few), weights) * math.sqrt(min(CERTAINTY_VIEWS, geometry.views))
        integrals = up(self.projections.integrals[span.views])
        rays = Rays(self.likelihood(span.views), integrals, used, self._outside(geometry, grid))
        return Slab(span, grid, projector, rays, kappa, self.projections.water_per_mm)

    @property
    def cuts(self) -> tuple[int, ...]:
        """Slices of the lattice, its margins aside, at which one slab ends and the next begins, and both ends."""
        margin = self.lattice.margin
        return (*(span.window.start + margin for span in self.spans), self.spans[-1].window.stop - margin)

    def cut(self, cuts: Sequence[int]) -> "Domain":
        """The same, cut into slabs there."""
        return replace(self, spans=_spans(self.lattice, self.reach, cuts))

    def halved(self, number: int) -> "Domain":
        """The same with the slab of that number, and all that follow, cut into halves where they have two slices."""
        halves = {(start + stop) // 2 for start, stop in itertools.pairwise(self.cuts[number:])}
        return self.cut(sorted({*self.cuts, *halves}))

    def _outside(self, geometry: Geometry, grid: Grid) -> Any:
        """Line integrals through what lies beyond the sides of `grid`, between its first and last slice."""
        if self.outer is None:
            return None
        values, outer = self.outer
        y = _heights(grid)
        nearest = np.clip(np.rint((y - outer.first_voxel_mm[1]) / outer.spacing_mm[0]), 0, len(values) - 1).astype(int)
        shape = (grid.shape[0], *outer.shape[1:])
        first = np.array([outer.first_voxel_mm[0], grid.first_voxel_mm[1], outer.first_voxel_mm[2]])
        lattice = Grid(shape, (grid.spacing_mm[0], *outer.spacing_mm[1:]), first)
        around = self.engine.memory.up(np.ascontiguousarray(values[nearest]))
        return Projector(geometry, lattice, self.engine).forward(around)


def prepare(
    projections: Projections,
    likelihood: Likelihood,
    request: GridRequest,
    analytic: Analytic,
    *,
    engine: Engine | None = None,
    slab_bytes: int | None = None,
) -> Domain:
    """The domain of an upright scan for the image that `request` asks for, worked on by `engine` (None: "cpu").

    `slab_bytes` bounds what one slab holds at once, see `slab_slices`; None takes what the engine has free, and
    `SLAB_BYTES` of a processor's memory.
    """
    engine = load("cpu") if engine is None else engine
    seen = shadow(projections)
    body = replace(seen.body, radius_mm=seen.body.radius_mm * MARGIN)
    row_mm = native_slice_mm(projections.geometry)
    image, image_grid = analytic(request)
    stride = max(1, math.ceil(image_grid.spacing_mm[0] / (VOXEL_ROWS * row_mm) - 1e-3))
    height = image_grid.spacing_mm[0] / stride
    taps = box_taps(request.slice_thickness_mm, height).astype(np.float32)
    inner = _inner(image_grid, stride, len(taps))
    thin_request = _thin(request, image_grid, height, row_mm)
    asked = request if stride == len(taps) == 1 else thin_request
    thin, thin_grid = (image, image_grid) if asked is request else analytic(asked)
    margin = margin_slices(projections.geometry, body, _edges(inner), height)
    pad = math.ceil(WIDER * image_grid.shape[1]) if seen.truncated > TRUNCATED_VIEWS else 0
    grid = _grown(inner, margin, pad)
    lattice = Lattice(grid, image_grid, margin, pad, stride, taps, np.isnan(image))
    reach = extent(projections.geometry, body)
    free = engine.memory.room(CARD_SHARE, SLAB_BYTES) if slab_bytes is None else slab_bytes
    cuts = _cuts(projections.geometry, reach, lattice, free, engine.memory is not HOST)
    spans = _spans(lattice, reach, cuts)
    outer = _outer(projections.geometry, grid, thin_request, analytic)
    start = _placed(thin, thin_grid, lattice)
    start[:, beyond(grid, max(measured_reach(projections.geometry)))] = 0.0
    return Domain(projections, likelihood, lattice, start, asked, spans, body, outer, reach, engine)


def slab_slices(
    lattice: Lattice,
    geometry: Geometry,
    views_per_mm: float,
    crossed_mm: float,
    slab_bytes: int,
    *,
    on_card: bool = False,
) -> int:
    """Slices that a slab may keep so that it holds at most `slab_bytes`; at least 8.

    It holds `VOLUMES` volumes of window size, and of every view that meets it (`crossed_mm` longer than what is kept)
    `RAY_BYTES` a ray.
    """
    _, rows, columns = lattice.grid.shape
    height = lattice.grid.spacing_mm[0]
    per_slice = 4 * VOLUMES[on_card] * rows * columns
    per_mm = RAY_BYTES[on_card] * views_per_mm * geometry.rows * geometry.columns
    fixed = 2 * lattice.margin * per_slice + crossed_mm * per_mm
    return max(8, math.floor((slab_bytes - fixed) / (per_slice + height * per_mm)))


def _cuts(
    geometry: Geometry, reach: tuple[Float64, Float64], lattice: Lattice, slab_bytes: int, on_card: bool
) -> list[int]:
    """Where to cut the lattice, its margins aside, into slabs as equal as can be."""
    height, (low, high) = lattice.grid.spacing_mm[0], reach
    first, last = lattice.margin, lattice.grid.shape[0] - lattice.margin
    travel = float(np.ptp((low + high) / 2))
    views_per_mm = geometry.views / travel if travel > height else 0.0
    crossed = float((high - low).max()) + 2 * lattice.margin * height
    each = slab_slices(lattice, geometry, views_per_mm, crossed, slab_bytes, on_card=on_card)
    parts = math.ceil((last - first) / each)
    return [int(cut) for cut in np.linspace(first, last, parts + 1).astype(int)]


def _spans(lattice: Lattice, reach: tuple[Float64, Float64], cuts: Sequence[int]) -> tuple[Span, ...]:
    """The slabs between these cuts; the outermost give the margins as well."""
    total, (low, high) = lattice.grid.shape[0], reach
    spans = []
    for start, stop in itertools.pairwise(cuts):
        window = slice(start - lattice.margin, stop + lattice.margin)
        ends = _edges(lattice.grid.slab(window.start, window.stop))
        meets = np.flatnonzero((low < ends[1]) & (high > ends[0]))
        keep = slice(0 if start == cuts[0] else start, total if stop == cuts[-1] else stop)
        spans.append(Span(keep, window, slice(int(meets[0]), int(meets[-1]) + 1)))
    return tuple(spans)


def _inner(image: Grid, stride: int, taps: int) -> Grid:
    """The lattice that the image's slices are averaged from."""
    height, reach = image.spacing_mm[0] / stride, (taps - 1) // 2
    first = image.first_voxel_mm - np.array([0.0, reach * height, 0.0])
    shape = ((image.shape[0] - 1) * stride + taps, *image.shape[1:])
    return Grid(shape, (height, *image.spacing_mm[1:]), first)


def _grown(grid: Grid, margin: int, pad: int) -> Grid:
    slices, rows, columns = grid.shape
    shape = (slices + 2 * margin, rows + 2 * pad, columns + 2 * pad)
    return replace(grid, shape=shape, first_voxel_mm=grid.position_mm((-margin, -pad, -pad)))


def _thin(request: GridRequest, image: Grid, height: float, row_mm: float) -> GridRequest:
    """Analytic slices as high as the lattice's voxels, as far out as the slices asked for reach."""
    thickness = max(height, row_mm)
    spare = max(box_width(request.slice_thickness_mm, row_mm), row_mm) - max(box_width(thickness, row_mm), row_mm)
    reach = math.floor(spare / 2 / height + 1e-6) * height
    first = float(image.first_voxel_mm[1])
    last = first + (image.shape[0] - 1) * image.spacing_mm[0]
    return replace(
        request, slice_thickness_mm=thickness, slice_increment_mm=height, first_mm=first - reach, last_mm=last + reach
    )


def _placed(values: Float32, grid: Grid, lattice: Lattice) -> Float32:
    """`values` on the lattice, the nearest slice beyond their ends, 0 where they are NaN."""
    y = _heights(lattice.grid)
    nearest = np.clip(np.rint((y - grid.first_voxel_mm[1]) / grid.spacing_mm[0]), 0, grid.shape[0] - 1).astype(int)
    start = np.zeros(lattice.grid.shape, np.float32)
    rows, columns = grid.shape[1:]
    for i, j in enumerate(nearest):
        part = start[i, lattice.pad : lattice.pad + rows, lattice.pad : lattice.pad + columns]
        part[...] = np.nan_to_num(values[j], nan=0.0)
    return start


def _outer(geometry: Geometry, grid: Grid, request: GridRequest, analytic: Analytic) -> tuple[Float32, Grid] | None:
    """The analytic image of the scan field around `grid`, 0 within; None where nothing lies around.

    Its voxels end where the grid's sides are. Negative values stay: line integrals through noise have no bias.
    """
    side, reach = grid.shape[1] * grid.spacing_mm[1], max(measured_reach(geometry))
    centre = grid.centre_mm
    across = max(8, min(grid.shape[1], round(side * OUTER_VOXELS / (2 * reach))))
    voxel = side / across
    around = math.ceil((reach + float(np.abs(centre[[0, 2]]).max()) - side / 2) / voxel)
    if around <= 0:
        return None
    matrix = across + 2 * around
    values, outer = analytic(
        replace(request, matrix=matrix, field_of_view_mm=matrix * voxel, centre_mm=(float(centre[0]), float(centre[2])))
    )
    values = np.nan_to_num(values, nan=0.0)
    values[:, around : around + across, around : around + across] = 0.0
    values[:, beyond(outer, reach)] = 0.0
    return values, outer


def _heights(grid: Grid) -> Float64:
    """y of every slice, mm."""
    return np.asarray(grid.first_voxel_mm[1] + np.arange(grid.shape[0]) * grid.spacing_mm[0], np.float64)


def _edges(grid: Grid) -> tuple[float, float]:
    """y, mm, where the first slice begins and the last one ends."""
    y, half = _heights(grid), grid.spacing_mm[0] / 2
    return float(y[0] - half), float(y[-1] + half)
