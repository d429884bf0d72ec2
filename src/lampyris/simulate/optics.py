"""Scanner, beam and geometry → what stands in every cell's way before the patient: solid angle, bowtie, subrays."""

from dataclasses import replace

import numpy as np

from lampyris.model import Float64, Geometry, Spectrum
from lampyris.physics.attenuation import linear_attenuation_per_mm
from lampyris.physics.bowtie import bowtie_thickness_mm
from lampyris.simulate.beam import Nodes
from lampyris.simulate.measure import Beam
from lampyris.simulate.scanners import Scanner


def cell_area_mm2(geometry: Geometry, view: int, source_to_isocentre_mm: float) -> Float64:
    """(rows, columns) mm²: area at the isocentre's distance through which a cell's photons fly, A·cos θ·(SID/r)²."""
    cells, source = geometry.cells_mm(view), geometry.source[view]
    ray = cells - source
    distance = np.linalg.norm(ray, axis=-1)
    u, v = geometry.u[view], geometry.v[view]
    facing = np.cross(v, u)
    facing = facing / np.linalg.norm(facing)
    if geometry.curvature_mm is None:
        outward = np.broadcast_to(facing, cells.shape)
    else:
        centre = geometry.detector[view] - geometry.curvature_mm * facing
        height = np.arange(geometry.rows) - (geometry.rows - 1) / 2
        outward = (cells - centre - height[:, None, None] * v) / geometry.curvature_mm
    cosine = np.einsum("rci,rci->rc", ray, outward) / distance
    size = float(np.linalg.norm(np.cross(u, v)))
    return np.asarray(size * cosine * (source_to_isocentre_mm / distance) ** 2, np.float64)


def fan_and_cone_rad(geometry: Geometry, view: int) -> tuple[Float64, Float64]:
    """Fan angle, + towards higher columns and 0 through the rotation axis, and cone angle of every cell's ray."""
    source = geometry.source[view]
    ray = geometry.cells_mm(view) - source
    inward = -np.array([source[0], 0.0, source[2]]) / np.hypot(source[0], source[2])
    across = np.array([-inward[2], 0.0, inward[0]])
    across = across * np.sign(across @ geometry.u[view])
    fan = np.arctan2(ray @ across, ray @ inward)
    return fan, np.arctan2(ray[..., 1], np.hypot(ray[..., 0], ray[..., 2]))


def beam(scanner: Scanner, spectrum: Spectrum, nodes: Nodes, geometry: Geometry, view: int) -> Beam:
    """The beam of one focal spot, as the cells of `view` see it; rays that leave the plane meet more bowtie."""
    shape = geometry.shape[1:]
    fan, cone = fan_and_cone_rad(geometry, view)
    bowtie_mm, bowtie_per_mm = np.zeros((0, *shape)), np.zeros((0, len(nodes.energy_kev)))
    if spectrum.bowtie is not None:
        thickness = bowtie_thickness_mm(spectrum.bowtie, fan) / np.cos(cone)[..., None]
        bowtie_mm = np.moveaxis(thickness, -1, 0)
        names = spectrum.bowtie.materials
        bowtie_per_mm = np.stack([linear_attenuation_per_mm(name, nodes.energy_kev) for name in names])
    return Beam(
        nodes.energy_kev.astype(np.float32),
        nodes.signal_kev.astype(np.float32),
        np.concatenate([nodes.per_mm, bowtie_per_mm]).astype(np.float32),
        np.ascontiguousarray(bowtie_mm, np.float32),
        cell_area_mm2(geometry, view, scanner.source_to_isocentre_mm).astype(np.float32),
    )


def subrays(geometry: Geometry, scanner: Scanner, rays: int) -> list[Geometry]:
    """Geometries whose mean is the finite focal spot and cell: points of a lattice over spot and cell together.

    One ray is the middle of both. The lattice is Roberts' R4 (2018), mirrored in pairs so that its centroid stays in
    the middle.
    """
    if rays == 1:
        return [geometry]
    ratio = 1.1673039782614187  # the root of x⁵ = x + 1
    step = ratio ** -np.arange(1.0, 5.0)
    half = (0.5 + np.arange(1, rays // 2 + 1)[:, None] * step) % 1.0 - 0.5
    points = np.concatenate([half, -half, np.zeros((rays % 2, 4))])
    across = geometry.u / np.linalg.norm(geometry.u, axis=1, keepdims=True)
    along = geometry.v / np.linalg.norm(geometry.v, axis=1, keepdims=True)
    moved = []
    for spot_u, spot_v, cell_u, cell_v in points:
        shift = spot_u * scanner.focal_spot_mm[0] * across + spot_v * scanner.focal_spot_mm[1] * along
        moved.append(replace(_slid(geometry, cell_u, cell_v), source=geometry.source + shift))
    return moved


def _slid(geometry: Geometry, columns: float, rows: float) -> Geometry:
    """The detector slid along itself by a fraction of a cell."""
    detector, u = geometry.detector + rows * geometry.v, geometry.u
    if geometry.curvature_mm is None:
        return replace(geometry, detector=detector + columns * u)
    pitch = float(np.linalg.norm(u[0]))
    facing = np.cross(geometry.v, u)
    facing = facing / np.linalg.norm(facing, axis=1, keepdims=True)
    angle, bend = columns * pitch / geometry.curvature_mm, geometry.curvature_mm
    detector = detector + bend * (np.sin(angle) * u / pitch + (np.cos(angle) - 1) * facing)
    return replace(geometry, detector=detector, u=np.cos(angle) * u - np.sin(angle) * pitch * facing)
