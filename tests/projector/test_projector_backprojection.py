"""Voxel-driven backprojection: points by hand, smooth closed forms on a lopsided scan, brute force, algebra, refusals."""

from dataclasses import replace

import numba as nb
import numpy as np
import pytest

from lampyris.model import FocalSpotShift, Gantry, Geometry, GeometryError, Grid, InputError
from lampyris.projector import Backprojector, backproject

SINGLE = 2e-6  # relative rounding of a few dozen float32 sums and of a position in 1/2²⁴ of a cell


def lopsided_grid() -> Grid:
    """Neither square nor centred; 19 slices are more than a vector and no multiple of one."""
    return Grid.centred((19, 5, 7), (1.3, 7.1, 5.3), (9.0, 3.5, -14.0))


def flat_scan() -> Geometry:
    shift = FocalSpotShift.alternating(11, (0.0, 0.002), (0.4, -0.3, 0.1), (-1.5, 2.5))
    gantry = Gantry(541.0, 949.0, 5, 19, (5.1, 2.9), False, 1.6, 10.25)
    return Geometry.circular(gantry, 17.0 + 29.0 * np.arange(11), axial_mm=4.0 * np.arange(11) - 16, shift=shift)


def parallel_scan() -> Geometry:
    beam = Geometry.parallel_beam(
        7.0 + 31.0 * np.arange(9), rows=9, columns=43, cell_mm=(2.3, 1.9), central_row=3.7, central_column=22.3
    )
    return replace(beam, source=beam.source + np.array([20.0, 30.0, 0.0]) * beam.source[:, 2:] / 1000)  # oblique rays


def landing(geometry: Geometry, view: int, point: np.ndarray) -> tuple[float, float]:
    """(row, column), fractional indices, where the ray through a point lands: by solving, not by our formulas."""
    source, detector, u, v = (each[view] for each in (geometry.source, geometry.detector, geometry.u, geometry.v))
    start, direction = (point, detector - source) if geometry.parallel else (source, point - source)
    middle = (np.array([geometry.rows, geometry.columns]) - 1) / 2
    if geometry.curvature_mm is None:
        across, up, _ = np.linalg.solve(np.stack([u, v, -direction], 1), start - detector)
        return middle[0] + up, middle[1] + across
    low, high = 0.0, 10.0  # the distance from the arc's axis grows along the ray: halve until it is the radius
    axis = v / np.linalg.norm(v)
    normal = np.cross(v, u) / np.linalg.norm(np.cross(v, u))
    centre = detector - geometry.curvature_mm * normal
    for _ in range(80):
        between = (low + high) / 2
        off = start + between * direction - centre
        radial = off - (off @ axis) * axis
        low, high = (between, high) if np.linalg.norm(radial) < geometry.curvature_mm else (low, between)
    off = start + low * direction - centre
    angle = np.arctan2(off @ u / np.linalg.norm(u), off @ normal)
    column = angle * geometry.curvature_mm / np.linalg.norm(u)
    return middle[0] + off @ axis / np.linalg.norm(v), middle[1] + column


def brute_force(projections: np.ndarray, geometry: Geometry, grid: Grid) -> np.ndarray:
    """Σ over views of the bilinear value where each voxel lands, in float64, one voxel at a time."""
    image = np.zeros(grid.shape)
    for index in np.ndindex(grid.shape):
        for view in range(geometry.views):
            row, column = landing(geometry, view, grid.position_mm(index))
            if not (-0.5 <= row < geometry.rows - 0.5 and -0.5 <= column < geometry.columns - 0.5):
                continue
            row, column = np.clip(row, 0, geometry.rows - 1), np.clip(column, 0, geometry.columns - 1)
            r, c = int(row), int(column)
            r2, c2 = min(r + 1, geometry.rows - 1), min(c + 1, geometry.columns - 1)
            p, a, b = projections[view], row - r, column - c
            image[index] += (1 - a) * ((1 - b) * p[r, c] + b * p[r, c2]) + a * ((1 - b) * p[r2, c] + b * p[r2, c2])
    return image


@pytest.mark.parametrize("kind", ["flat", "helical curved", "parallel"])
def test_every_voxel_takes_what_its_rays_measured(
    kind: str, lopsided_helix: Geometry, rng: np.random.Generator
) -> None:
    """Sources, offsets and focal spots that move from view to view; edges of the detector cross the grid."""
    scans = {"flat": flat_scan(), "helical curved": lopsided_helix.subset(slice(30, 47)), "parallel": parallel_scan()}
    geometry, grid = scans[kind], lopsided_grid()
    projections = rng.random(geometry.shape, dtype=np.float32)
    expected = brute_force(projections, geometry, grid)
    assert 0 in expected  # some voxels are beyond the detector …
    assert (expected > 3).any()  # … and some are seen by many views
    image = backproject(projections, geometry, grid, weighting="none")
    assert image.dtype == np.float32
    np.testing.assert_allclose(image, expected, rtol=SINGLE * 40, atol=SINGLE * geometry.views)
