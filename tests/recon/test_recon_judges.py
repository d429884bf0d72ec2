"""Against independent codes: RTK's FDK and ASTRA's 2-D FBP on the same projections, error to the closed-form truth."""

import subprocess
import sys

import numpy as np
import pytest

from lampyris.model import Gantry, Geometry, Grid, GridRequest, Projections, Step
from lampyris.phantom.assembly import Part, Phantom, line_integrals, voxelise
from lampyris.phantom.shapes import Cylinder, Ellipsoid
from lampyris.recon import reconstruct

pytestmark = pytest.mark.judge

WATER = 0.02
PARTS = (
    (Ellipsoid((3.0, -2.0, 4.0), (44.0, 40.0, 36.0)), WATER),
    (Ellipsoid((18.0, 6.0, -8.0), (9.0, 12.0, 7.0)), 0.5 * WATER),
    (Cylinder((-15.0, 0.0, 12.0), (8.0, 8.0), 30.0), -0.7 * WATER),
)
VOXELS, VOXEL_MM = 96, 1.0
SOURCE_MM, DETECTOR_MM = 500.0, 800.0
ROWS, COLUMNS, CELL_MM = 140, 150, 1.25
ANGLES = np.arange(240) * 1.5


def integrals(geometry):
    total = np.zeros(geometry.shape, np.float32)
    for shape, per_mm in PARTS:
        total += line_integrals(shape, geometry, per_mm)
    return total


def truth(grid):
    """Mean attenuation of every voxel."""
    parts = tuple(Part(shape, str(i)) for i, (shape, _) in enumerate(PARTS))
    per_mm = {str(i): each for i, (_, each) in enumerate(PARTS)}
    return voxelise(Phantom(parts), grid, per_mm=per_mm).values.astype(np.float64)


def error(values, exact, grid):
    """Root mean square error, 1/mm, inside a cylinder that both codes cover fully."""
    rows, columns = np.mgrid[: grid.shape[1], : grid.shape[2]] - (VOXELS - 1) / 2
    return float(np.sqrt(np.mean((values - exact)[:, np.hypot(rows, columns) < 45] ** 2)))


def rtk_fdk(measured):
    """RTK's FDK of projections (views, rows, columns); its volume is (z, y, x), ours (y, −z, x)."""
    import itk

    rtk = itk.RTK
    theirs = rtk.ThreeDCircularProjectionGeometry.New()
    for phi in ANGLES:
        theirs.AddProjection(SOURCE_MM, DETECTOR_MM, float(phi))
    stack = itk.image_from_array(measured)
    stack.SetSpacing([CELL_MM, CELL_MM, 1.0])
    stack.SetOrigin([-(COLUMNS - 1) / 2 * CELL_MM, -(ROWS - 1) / 2 * CELL_MM, 0.0])
    empty = itk.image_from_array(np.zeros((VOXELS,) * 3, np.float32))
    empty.SetSpacing([VOXEL_MM] * 3)
    empty.SetOrigin([-(VOXELS - 1) / 2 * VOXEL_MM] * 3)
    fdk = rtk.FDKConeBeamReconstructionFilter[itk.Image[itk.F, 3]].New()
    fdk.SetInput(0, empty)
    fdk.SetInput(1, stack)
    fdk.SetGeometry(theirs)
    fdk.Update()
    return np.ascontiguousarray(itk.array_from_image(fdk.GetOutput())[::-1].transpose(1, 0, 2))


def test_fdk_is_as_true_as_rtk_s(package, tmp_path):
    """The same 240 views, ramp without apodisation on both sides; ours may not be farther from the truth."""
    package("itk")
    gantry = Gantry(SOURCE_MM, DETECTOR_MM, ROWS, COLUMNS, (CELL_MM, CELL_MM), curved=False)
    geometry = Geometry.circular(gantry, ANGLES)
    measured = integrals(geometry)
    grid = Grid.centred((VOXELS,) * 3, (VOXEL_MM,) * 3)
    exact = truth(grid)

    request = GridRequest(VOXELS, VOXELS * VOXEL_MM, (0.0, 0.0), VOXEL_MM, None, -(VOXELS - 1) / 2, (VOXELS - 1) / 2)
    weights = np.broadcast_to(np.float32(1), measured.shape)
    ours = reconstruct(Projections(measured, weights, geometry), Step.of("fdk"), "ramp", request).values

    np.save(tmp_path / "measured.npy", measured)
    # In a process of its own: ITK's libraries crash where others have been loaded before.
    subprocess.run([sys.executable, __file__, tmp_path / "measured.npy", tmp_path / "rtk.npy"], check=True)
    rtk = np.load(tmp_path / "rtk.npy")
    assert error(ours, exact, grid) <= error(rtk, exact, grid) * 1.001
    inner = np.abs(ours - rtk)[24:72, 24:72, 24:72]
    assert np.median(inner) < 0.003 * WATER


def test_parallel_fbp_is_as_true_as_astra_s(package):
    """One slice of the same sinogram, Ram-Lak on both sides."""
    package("astra")
    import astra

    angles = np.arange(240) * 0.75
    geometry = Geometry.parallel_beam(angles, rows=1, columns=COLUMNS, cell_mm=(1.0, 0.9))
    sinogram = integrals(geometry)
    grid = Grid.centred((1, VOXELS, VOXELS), (1.0, VOXEL_MM, VOXEL_MM))
    exact = truth(Grid.centred((1, VOXELS, VOXELS), (1e-3, VOXEL_MM, VOXEL_MM)))
    weights = np.broadcast_to(np.float32(1), sinogram.shape)
    ours = reconstruct(
        Projections(sinogram, weights, geometry), Step.of("fbp"), "ramp", GridRequest(VOXELS, 96.0, (0.0, 0.0))
    ).values

    volume = astra.create_vol_geom(VOXELS, VOXELS)
    beam = astra.create_proj_geom("parallel", 0.9, COLUMNS, np.deg2rad(angles))
    projector = astra.create_projector("linear", beam, volume)
    measured = astra.data2d.create("-sino", beam, sinogram[:, 0])
    image = astra.data2d.create("-vol", volume)
    task = astra.astra_dict("FBP")
    task.update(ProjectorId=projector, ProjectionDataId=measured, ReconstructionDataId=image, FilterType="Ram-Lak")
    algorithm = astra.algorithm.create(task)
    astra.algorithm.run(algorithm)
    found = astra.data2d.get(image)
    candidates = {name: turn(found) for name, turn in {"as ours": np.asarray, "rows flipped": np.flipud}.items()}
    nearest = min(candidates.values(), key=lambda one: error(one[None], exact, grid))
    assert error(ours, exact, grid) <= error(nearest[None], exact, grid) * 1.02


if __name__ == "__main__":
    np.save(sys.argv[2], rtk_fdk(np.load(sys.argv[1])))
