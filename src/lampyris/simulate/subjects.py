"""Phantom or CT volume → mm of a few basis materials along the rays of any views.

A CT volume is read as a mixture: between nodes on the HU scale the amounts of soft tissue, adipose tissue and compact
bone vary linearly, and at each node they give that node's attenuation at the effective energy, so that every voxel's
attenuation at that energy is exactly μ_w(1 + HU/1000). HU below −1000 are air, and so is all that lies outside the
box that holds body and couch. After Schneider et al. (1996),
Phys. Med. Biol. 41:111, with our own nodes.
"""

from typing import Protocol

import numpy as np
from scipy import ndimage

from lampyris.model import Bool, Float32, Float64, Geometry, Grid, InputError, Volume
from lampyris.phantom import Phantom, Tracer
from lampyris.physics.attenuation import linear_attenuation_per_mm, material
from lampyris.projector.operator import Projector

TISSUES: tuple[str, ...] = ("soft_tissue", "adipose", "cortical_bone")
DENSE_HU = 100.0
FLESH_HU = -300.0
BODY_HU = -800.0
MARGIN = 5
"""What lies more than so many voxels outside the box of everything above BODY_HU is air, whatever its noise says."""
CUT_SHARE = 0.08
"""Share of a slice's outermost measured voxels that may be flesh: a couch or a skin fold, but no cut flank."""


class Subject(Protocol):
    """What is scanned."""

    materials: tuple[str, ...]
    extent_mm: tuple[float, float]
    one_thread: bool
    """Whether `lengths_mm` keeps to the thread that calls it, so that several may."""
    views_at_once: int
    """How many views a call should ask for."""

    def lengths_mm(self, geometry: Geometry) -> Float32:
        """(materials, views, rows, columns) float32."""
        ...


class PhantomSubject:
    """A phantom; materials that differ only in density are one basis material."""

    one_thread = True
    views_at_once = 8

    def __init__(self, phantom: Phantom) -> None:
        self.extent_mm = phantom.axial_extent_mm
        found: dict[tuple[tuple[int, float], ...], tuple[int, str]] = {}
        groups: dict[str, tuple[int, float]] = {}
        for name in phantom.materials:
            made_of = material(name)
            index, first = found.setdefault(made_of.mass_fractions, (len(found), name))
            groups[name] = (index, made_of.density_g_cm3 / material(first).density_g_cm3)
        self.materials = tuple(name for _, name in found.values())
        self.tracer = Tracer(phantom, groups)

    def lengths_mm(self, geometry: Geometry) -> Float32:
        return self.tracer.lengths_mm(geometry, one_thread=True)


class VolumeSubject:
    """A CT volume in HU in the gantry frame; what was not measured is air."""

    one_thread = False
    views_at_once = 64  # each call copies its slab of the image once

    def __init__(self, volume: Volume, energy_kev: float, *, truncated_ok: bool = False) -> None:
        """Raises InputError for a volume that is not HU, not in the gantry frame or cut by its field of view."""
        if volume.quantity != "HU" or volume.frame != "gantry":
            raise InputError(
                f"a volume to be scanned must hold HU in the gantry frame; this one holds {volume.quantity} in the"
                f" {volume.frame} frame (Volume.lift brings a patient volume into the gantry)"
            )
        if not truncated_ok:
            refuse_truncated(volume)
        hu = volume.values if volume.valid is None else np.where(volume.valid, volume.values, np.float32(-1000.0))
        nodes, amounts = tissue_nodes(energy_kev)
        box = _box(hu > BODY_HU, MARGIN)
        self.materials, self.pieces = TISSUES, []
        for amount in amounts:
            piece = np.interp(hu[box], nodes, amount).astype(np.float32)
            filled = _box(piece != 0, 0)
            grid = _cropped(_cropped(volume.grid, box), filled)
            self.pieces.append((grid, np.ascontiguousarray(piece[filled])))
        ends = volume.grid.position_mm([(0, 0, 0), np.asarray(volume.grid.shape) - 1])[:, 1]
        self.extent_mm = (float(ends.min()), float(ends.max()))

    def lengths_mm(self, geometry: Geometry) -> Float32:
        found = np.zeros((len(self.pieces), *geometry.shape), np.float32)
        for out, (grid, piece) in zip(found, self.pieces, strict=True):
            first, last = _slices_seen(geometry, grid)
            if last > first:
                out[:] = Projector(geometry, grid.slab(first, last)).forward(piece[first:last])
        return found


def _box(wanted: Bool, margin: int) -> tuple[slice, slice, slice]:
    """The smallest box of rows and columns, over all slices, that holds all that is wanted, and a margin."""
    spans = [slice(0, wanted.shape[0])]
    for axis in (1, 2):
        here = np.flatnonzero(wanted.any(axis=tuple({0, 1, 2} - {axis})))
        start, stop = (0, 1) if here.size == 0 else (int(here[0]) - margin, int(here[-1]) + 1 + margin)
        spans.append(slice(max(0, start), min(wanted.shape[axis], stop)))
    return spans[0], spans[1], spans[2]


def _cropped(grid: Grid, box: tuple[slice, slice, slice]) -> Grid:
    shape = (box[0].stop - box[0].start, box[1].stop - box[1].start, box[2].stop - box[2].start)
    return Grid(shape, grid.spacing_mm, grid.position_mm([float(each.start) for each in box]), grid.axes)


def _slices_seen(geometry: Geometry, grid: Grid) -> tuple[int, int]:
    """Slices [first, last) between the ends of all rays: a point of a ray lies between its source and its cell."""
    corners = [
        geometry.detector + r * (geometry.rows - 1) / 2 * geometry.v + c * (geometry.columns - 1) / 2 * geometry.u
        for r in (-1, 1)
        for c in (-1, 1)
    ]
    at = grid.index(np.concatenate([geometry.source, *corners]))[:, 0]
    return max(0, int(np.floor(at.min())) - 2), min(grid.shape[0], int(np.ceil(at.max())) + 3)


def subject_of(subject: Phantom | Volume, energy_kev: float, *, truncated_ok: bool = False) -> Subject:
    """The subject in the form that the scanner takes; `energy_kev` is the beam's effective energy."""
    if isinstance(subject, Phantom):
        return PhantomSubject(subject)
    return VolumeSubject(subject, energy_kev, truncated_ok=truncated_ok)


def tissue_nodes(energy_kev: float) -> tuple[Float64, Float64]:
    """HU nodes (n,) and amounts relative to full density (tissues, n), in the order of `TISSUES`."""
    at = np.array([energy_kev])
    water = float(linear_attenuation_per_mm("water", at)[0])
    relative = [float(linear_attenuation_per_mm(name, at)[0]) / water for name in TISSUES]
    soft, fat, bone = (1000 * (ratio - 1) for ratio in relative)
    far = 20000.0
    nodes = np.array([-1000.0, -200.0, fat, soft, DENSE_HU, bone, far])
    amounts = np.zeros((3, len(nodes)))
    amounts[0, [1, 3, 4]] = np.array([0.8, relative[0], 1 + DENSE_HU / 1000]) / relative[0]
    amounts[1, 2] = 1.0
    amounts[2, [5, 6]] = 1.0, (1 + far / 1000) / relative[2]
    if np.diff(nodes).min() <= 0:
        raise InputError(f"tissues cannot be told apart at {energy_kev:.0f} keV: HU nodes {nodes.round().tolist()}")
    return nodes, amounts


def refuse_truncated(volume: Volume) -> None:
    """Raise InputError where flesh reaches the edge of what was measured: its missing rest would be taken for air."""
    measured = np.ones(volume.grid.shape, np.bool_) if volume.valid is None else volume.valid
    cross = ndimage.generate_binary_structure(2, 1)
    cut = []
    for hu, known in zip(volume.values, measured, strict=True):
        edge = known & ~ndimage.binary_erosion(known, cross, iterations=2)
        cut.append(float((hu[edge] > FLESH_HU).mean()) if edge.any() else 0.0)
    share = float(np.median(cut))
    if share > CUT_SHARE:
        raise InputError(
            f"{100 * share:.0f} % of the edge of the field of view is flesh (allowed {100 * CUT_SHARE:.0f} %): the body"
            " is cut, its projections would be too short; take a series with the whole body, or allow it (truncated_ok)"
        )
