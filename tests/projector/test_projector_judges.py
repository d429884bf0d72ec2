"""Other people's projectors on the same geometry: ASTRA in the plane, RTK's Joseph in space.

Turned from our frame to theirs here, once: ASTRA's (x, y) are our (x, z), its angle θ is π − φ and its detector runs
against ours; RTK has our frame and counts its volume (z, y, x) upwards.
"""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lampyris.model import Gantry, Geometry, Grid
from lampyris.projector import Projector

pytestmark = pytest.mark.judge

ANGLES = np.array([17.0, 102.0, 161.0, 248.0, 322.0])
FAN = Gantry(541.0, 949.0, 1, 59, (3.0, 3.1), False, 0.0)
PLANE = Grid.centred((3, 23, 31), (9.0, 1.9, 1.9), (3.7, 0.0, -5.2))
"""Square pixels, which ASTRA's weights assume; three thick slices alike, so that the middle row sees a plane."""


@pytest.fixture
def astra(package: Callable[[str], None]) -> Any:
    package("astra")
    return pytest.importorskip("astra")


def in_the_plane(astra: Any, kernel: str, geometry: Geometry, image: np.ndarray) -> np.ndarray:
    """ASTRA's sinogram (views, columns) of an image (rows, columns) on PLANE."""
    half = 1.9 / 2
    left, _, top = PLANE.first_voxel_mm
    _, rows, columns = PLANE.shape
    volume = astra.create_vol_geom(
        rows, columns, left - half, left - half + columns * 1.9, top + half - rows * 1.9, top + half
    )
    if geometry.parallel:
        ray, detector, u = (a[:, [0, 2]] for a in (geometry.detector - geometry.source, geometry.detector, geometry.u))
        scan = astra.create_proj_geom("parallel_vec", geometry.columns, np.hstack([ray, detector, u]))
    else:
        scan = astra.create_proj_geom("fanflat", 3.1, 59, np.pi - np.deg2rad(ANGLES), 541.0, 949.0 - 541.0)
    projector = astra.create_projector(kernel, scan, volume)
    identity, sinogram = astra.create_sino(image, projector)
    astra.data2d.delete(identity)
    astra.projector.delete(projector)
    return np.asarray(sinogram if geometry.parallel else sinogram[:, ::-1])


def ours(geometry: Geometry, image: np.ndarray) -> np.ndarray:
    slices = np.ascontiguousarray(np.broadcast_to(image, PLANE.shape))
    return Projector(geometry, PLANE).forward(slices)[:, 0]


def blob(grid: Grid) -> np.ndarray:
    """A Gaussian, σ = 5.9, 4.6, 5.1 mm along x, y, z, off the middle."""
    points = grid.position_mm(np.stack(np.meshgrid(*map(np.arange, grid.shape), indexing="ij"), -1))
    return np.exp(-0.5 * (((points - [5.1, 0.3, -8.3]) / [5.9, 4.6, 5.1]) ** 2).sum(-1)).astype(np.float32)


GEOMETRIES = {
    "parallel": Geometry.parallel_beam(
        ANGLES, rows=1, columns=59, cell_mm=(3.0, 1.9), central_row=0.0, central_column=31.25
    ),
    "fan": Geometry.circular(FAN, ANGLES),
}


@pytest.mark.parametrize(("name", "kernel", "rtol"), [("parallel", "strip", 1e-5), ("fan", "strip_fanflat", 1e-4)])
def test_astra_strips_cut_the_same_area_from_every_pixel(
    astra: Any, name: str, kernel: str, rtol: float, rng: np.random.Generator
) -> None:
    """Noise, so that every weight counts. Parallel: the trapezoid is exact, float32 remains. Fan: one trapezoid per
    pixel where strips fan out, of relative order (1.9/2/541)² plus the chord of the middle ray for the whole strip,
    (1.9/541)²·5 = 6·10⁻⁵.
    """
    image = rng.random(PLANE.shape[1:], dtype=np.float32)
    expected = in_the_plane(astra, kernel, GEOMETRIES[name], image)
    np.testing.assert_allclose(ours(GEOMETRIES[name], image), expected, rtol=0, atol=rtol * expected.max())


@pytest.mark.parametrize(("name", "kernel"), [("parallel", "line"), ("parallel", "linear"), ("fan", "line_fanflat")])
def test_astra_lines_see_the_same_blob(astra: Any, name: str, kernel: str) -> None:
    """A thin ray against a cell's mean, Δ²/24σ² = 1.9²/24/5.1² = 6·10⁻³ of the peak, or a pixel's tent (linear), which
    is twice its box; the sum of all rays sees no such blur, only the staircase's leftovers: 5·10⁻⁴.
    """
    image = blob(PLANE)[1]
    expected = in_the_plane(astra, kernel, GEOMETRIES[name], image)
    found = ours(GEOMETRIES[name], image)
    np.testing.assert_allclose(found, expected, rtol=0, atol=6e-3 * expected.max())
    assert found.sum() == pytest.approx(expected.sum(), rel=5e-4)


CONE = Gantry(541.0, 949.0, 15, 47, (2.3, 2.1), False, 6.6, 24.25)
SPACE = Grid.centred((36, 33, 41), (1.1, 1.5, 1.3), (3.7, 0.9, -5.2))
AXIAL_MM = 1.3


def rtk_joseph(image: np.ndarray) -> np.ndarray:
    """RTK's projections (views, rows, columns) of an image (slices, rows, columns) on SPACE."""
    import itk

    rtk = itk.RTK
    geometry = rtk.ThreeDCircularProjectionGeometry.New()
    for angle in ANGLES:
        geometry.AddProjection(541.0, 949.0, float(angle), 0.0, AXIAL_MM, 0.0, 0.0, 0.0, AXIAL_MM)
    volume = itk.image_from_array(np.ascontiguousarray(image[:, ::-1, :].transpose(1, 0, 2)))
    along_slices, along_rows, along_columns = SPACE.spacing_mm
    volume.SetSpacing([along_columns, along_slices, along_rows])
    volume.SetOrigin([float(each) for each in SPACE.position_mm((0, SPACE.shape[1] - 1, 0))])
    stack = itk.image_from_array(np.zeros((len(ANGLES), CONE.rows, CONE.columns), np.float32))
    stack.SetSpacing([CONE.cell_mm[1], CONE.cell_mm[0], 1.0])
    stack.SetOrigin([-24.25 * CONE.cell_mm[1], -6.6 * CONE.cell_mm[0], 0.0])
    kind = itk.Image[itk.F, 3]
    joseph = rtk.JosephForwardProjectionImageFilter[kind, kind].New()
    joseph.SetGeometry(geometry)
    joseph.SetInput(0, stack)
    joseph.SetInput(1, volume)
    joseph.Update()
    return np.asarray(itk.array_from_image(joseph.GetOutput()))


def test_rtk_joseph_sees_the_same_blob(package: Callable[[str], None], tmp_path: Path) -> None:
    """Our cell's mean adds (2.3² + 2.1²)/1.754²/12 mm² of variance and our box 1.5²/12 in either direction, Joseph's
    tent twice the latter: a difference in variance of 0.26 across and in height of (0.26 + 0.1)/2/4.6² ≈ 9·10⁻³.
    """
    package("itk")
    image = blob(SPACE)
    np.save(tmp_path / "image.npy", image)
    # In a process of its own: ITK's libraries crash where ASTRA's have been loaded before.
    subprocess.run([sys.executable, __file__, tmp_path / "image.npy", tmp_path / "rays.npy"], check=True)
    expected = np.load(tmp_path / "rays.npy")
    found = Projector(Geometry.circular(CONE, ANGLES, axial_mm=AXIAL_MM), SPACE).forward(image)
    np.testing.assert_allclose(found, expected, rtol=0, atol=9e-3 * expected.max())
    assert found.sum() == pytest.approx(expected.sum(), rel=5e-4)
    for axis in (1, 2):
        place = np.arange(found.shape[axis])
        other = tuple(each for each in (1, 2) if each != axis)
        here, there = found.sum(other) @ place / found.sum((1, 2)), expected.sum(other) @ place / expected.sum((1, 2))
        np.testing.assert_allclose(here, there, atol=0.01)


if __name__ == "__main__":
    np.save(sys.argv[2], rtk_joseph(np.load(sys.argv[1])))
