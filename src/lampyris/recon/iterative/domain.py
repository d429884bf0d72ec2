"""Projections and an analytic method → everything an iterative method works on: lattice, start, slabs with their rays.

The lattice holds more than the image asked for: along y all that the used rays cross within the body (the long object);
in the plane, what lies outside the field of view is projected from the analytic image and taken off the measured
integrals (Ziegler, Nielsen, Grass 2008, Med. Phys. 35:1317). Long scans are cut into slabs along y, each with the
margin that its rays cross; rays that leave a slab's lattice along y have no say in it.
"""

import itertools
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

import numpy as np

from lampyris.model import Bool, Float32, Float64, Geometry, Grid, GridRequest, InputError, Projections
from lampyris.projector import Projector
from lampyris.recon.field import Circle, beyond, measured_reach, native_slice_mm, shadow
from lampyris.recon.iterative.certainty import certainty
from lampyris.recon.iterative.fidelity import Fidelity, Likelihood, Views
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
SLAB_BYTES = 3 * 2**29
VOLUMES = 8
"""Volumes of a slab held at once: image, extrapolated, majoriser, steps, two gradients, certainty, engine's copy."""
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
    """A piece of the lattice, ready for the solver; `certainty` is κ on `grid`."""

    span: Span
    grid: Grid
    projector: Projector
    fidelity: Fidelity
    certainty: Float32
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
    """

    whole: Fidelity
    integrals: Float32
    used: Bool
    outside: Float32 | None

    @property
    def shape(self) -> tuple[int, int, int]:
        views, rows, columns = self.used.shape
        return views, rows, columns

    def misfit(self, projected: Any, views: Views) -> float:
        return self.whole.misfit(self._completed(projected, views), views)

    def slope(self, projected: Any, views: Views) -> Any:
        found = self.whole.slope(self._completed(projected, views), views)
        return np.where(self.used[views], found, np.float32(0))

    def curvature(self, views: Views) -> Any:
        return np.where(self.used[views], self.whole.curvature(views), np.float32(0))

    def _completed(self, projected: Any, views: Views) -> Any:
        """Integrals of the whole body; those of rays without a say are the measured ones."""
        if self.outside is not None:
            projected = projected + self.outside[views]
        return np.where(self.used[views], projected, self.integrals[views])


@dataclass(frozen=True, slots=True, eq=False)
class Domain:
    """A scan prepared for iteration; `start` is the analytic image of `request` on `lattice.grid`, without NaN."""

    projections: Projections
    likelihood: Likelihood
    lattice: Lattice
    start: Float32
    request: GridRequest
    spans: tuple[Span, ...]
    body: Circle
    outer: tuple[Float32, Grid] | None

    def slabs(self, first: int = 0) -> Iterator[Slab]:
        """The slabs from number `first` on, made one at a time."""
        for span in self.spans[first:]:
            yield self._slab(span)

    def _slab(self, span: Span) -> Slab:
        geometry = self.projections.geometry.subset(span.views)
        grid = self.lattice.grid.slab(span.window.start, span.window.stop)
        used = rays_within(geometry, self.body, _edges(grid))
        if not used.any():
            raise InputError(f"no ray stays within slices {span.window.start} to {span.window.stop}: too few slices?")
        projector = Projector(geometry, grid)
        few = slice(0, None, min(CERTAINTY_VIEWS, geometry.views))
        weights = np.where(used[few], self.projections.weights[span.views][few], np.float32(0))
        kappa = certainty(projector.subset(few), weights) * np.float32(math.sqrt(min(CERTAINTY_VIEWS, geometry.views)))
        integrals = self.projections.integrals[span.views]
        rays = Rays(self.likelihood(span.views), integrals, used, self._outside(geometry, grid))
        return Slab(span, grid, projector, rays, kappa, self.projections.water_per_mm)

    def _outside(self, geometry: Geometry, grid: Grid) -> Float32 | None:
        """Line integrals through what lies beyond the sides of `grid`, between its first and last slice."""
        if self.outer is None:
            return None
        values, outer = self.outer
        y = _heights(grid)
        nearest = np.clip(np.rint((y - outer.first_voxel_mm[1]) / outer.spacing_mm[0]), 0, len(values) - 1).astype(int)
        shape = (grid.shape[0], *outer.shape[1:])
        first = np.array([outer.first_voxel_mm[0], grid.first_voxel_mm[1], outer.first_voxel_mm[2]])
        lattice = Grid(shape, (grid.spacing_mm[0], *outer.spacing_mm[1:]), first)
        return Projector(geometry, lattice).forward(np.ascontiguousarray(values[nearest]))


def prepare(
    projections: Projections,
    likelihood: Likelihood,
    request: GridRequest,
    analytic: Analytic,
    *,
    slab_bytes: int = SLAB_BYTES,
) -> Domain:
    """The domain of an upright scan for the image that `request` asks for.

    `slab_bytes` bounds what one slab holds at once, projections themselves aside; see `slab_slices`.
    """
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
    spans = _spans(projections.geometry, body, lattice, slab_bytes)
    outer = _outer(projections.geometry, grid, thin_request, analytic)
    start = _placed(thin, thin_grid, lattice)
    start[:, beyond(grid, max(measured_reach(projections.geometry)))] = 0.0
    return Domain(projections, likelihood, lattice, start, asked, spans, body, outer)


def rays_within(geometry: Geometry, body: Circle, ends: tuple[float, float]) -> Bool:
    """(views, rows, columns): True for rays that lie between those y, mm, all the way through the body's circle."""
    used = np.empty(geometry.shape, np.bool_)
    for view in range(geometry.views):
        low, high = crossing(geometry, body, view)
        used[view] = (low >= ends[0] - 1e-6) & (high <= ends[1] + 1e-6)
    return used


def crossing(geometry: Geometry, body: Circle, view: int) -> tuple[Float64, Float64]:
    """Lowest and highest y (rows, columns), mm, that each cell's beam has within the body's circle.

    A ray beside the circle is taken where it comes closest.
    """
    rows = np.arange(geometry.rows + 1) - 0.5
    cells = geometry.cells_mm(view, np.array([(geometry.rows - 1) / 2]))[0]
    way = cells - geometry.source[view] if not geometry.parallel else geometry.detector[view] - geometry.source[view]
    way = np.broadcast_to(way, cells.shape)
    origin = cells - way
    plane = [0, 2]
    length = (way[:, plane] ** 2).sum(1)
    offset = origin[:, plane] - np.array([body.x_mm, body.z_mm])
    middle = -(offset * way[:, plane]).sum(1) / length
    half = np.sqrt(np.maximum(body.radius_mm**2 - ((offset + middle[:, None] * way[:, plane]) ** 2).sum(1), 0) / length)
    edge = cells[None, :, 1] + (rows - (geometry.rows - 1) / 2)[:, None] * geometry.v[view][1]
    begin = edge - way[None, :, 1] if geometry.parallel else np.broadcast_to(origin[None, :, 1], edge.shape)
    both = np.stack([begin + (edge - begin) * (middle + sign * half)[None] for sign in (-1.0, 1.0)])
    corners = np.stack([both[:, :-1], both[:, 1:]])
    return corners.min((0, 1)), corners.max((0, 1))


def margin_slices(geometry: Geometry, body: Circle, ends: tuple[float, float], height_mm: float) -> int:
    """Slices by which rays through the slab between those y reach beyond it, below or above, within the body."""
    reach = 0.0
    for view in np.unique(np.linspace(0, geometry.views - 1, 720).astype(int)):
        low, high = crossing(geometry, body, int(view))
        meets = (low < ends[1]) & (high > ends[0])
        if meets.any():
            reach = max(reach, ends[0] - float(low[meets].min()), float(high[meets].max()) - ends[1])
    return math.ceil(reach / height_mm - 1e-6)


def slab_slices(lattice: Lattice, geometry: Geometry, views_per_mm: float, crossed_mm: float, slab_bytes: int) -> int:
    """Slices that a slab may keep so that it holds at most `slab_bytes`; at least 8.

    It holds `VOLUMES` volumes of window size, and of every view that meets it (`crossed_mm` longer than what is kept)
    5 bytes a ray: which are used, and what lies outside.
    """
    _, rows, columns = lattice.grid.shape
    height = lattice.grid.spacing_mm[0]
    per_slice = 4 * VOLUMES * rows * columns
    per_mm = 5 * views_per_mm * geometry.rows * geometry.columns
    fixed = 2 * lattice.margin * per_slice + crossed_mm * per_mm
    return max(8, math.floor((slab_bytes - fixed) / (per_slice + height * per_mm)))


def _spans(geometry: Geometry, body: Circle, lattice: Lattice, slab_bytes: int) -> tuple[Span, ...]:
    height, total = lattice.grid.spacing_mm[0], lattice.grid.shape[0]
    first, last = lattice.margin, total - lattice.margin
    crossings = (crossing(geometry, body, view) for view in range(geometry.views))
    low, high = np.array([(float(lowest.min()), float(highest.max())) for lowest, highest in crossings]).T
    travel = float(np.ptp((low + high) / 2))
    views_per_mm = geometry.views / travel if travel > height else 0.0
    crossed = float((high - low).max()) + 2 * lattice.margin * height
    each = slab_slices(lattice, geometry, views_per_mm, crossed, slab_bytes)
    parts = math.ceil((last - first) / each)
    cuts = np.linspace(first, last, parts + 1).astype(int).tolist()
    spans = []
    for start, stop in itertools.pairwise(cuts):
        window = slice(start - lattice.margin, stop + lattice.margin)
        ends = _edges(lattice.grid.slab(window.start, window.stop))
        meets = np.flatnonzero((low < ends[1]) & (high > ends[0]))
        keep = slice(0 if start == first else start, total if stop == last else stop)
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
