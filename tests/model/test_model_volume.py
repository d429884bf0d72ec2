"""Grid and volume: positions by hand, eight patient positions, refusals."""

import numpy as np
import pytest

from lampyris.model import PATIENT_POSITIONS, GeometryError, Grid, InputError, Volume, patient_axes
from lampyris.model.volume import DEFAULT_AXES

# Written out by hand from where the body lies: (patient left, posterior, superior) in the room's x, y, z.
LYING = {
    "HFS": ((1, 0, 0), (0, 0, -1), (0, 1, 0)),
    "HFP": ((-1, 0, 0), (0, 0, 1), (0, 1, 0)),
    "FFS": ((-1, 0, 0), (0, 0, -1), (0, -1, 0)),
    "FFP": ((1, 0, 0), (0, 0, 1), (0, -1, 0)),
    "HFDR": ((0, 0, 1), (1, 0, 0), (0, 1, 0)),
    "HFDL": ((0, 0, -1), (-1, 0, 0), (0, 1, 0)),
    "FFDR": ((0, 0, 1), (-1, 0, 0), (0, -1, 0)),
    "FFDL": ((0, 0, -1), (1, 0, 0), (0, -1, 0)),
}


@pytest.mark.parametrize("position", PATIENT_POSITIONS)
def test_patient_axes_are_those_of_a_lying_body_and_a_proper_rotation(position):
    axes = patient_axes(position)
    np.testing.assert_array_equal(axes, LYING[position])
    assert np.linalg.det(axes) == pytest.approx(1.0)


def test_unknown_patient_position_is_refused():
    with pytest.raises(InputError, match="HFX"):
        patient_axes("HFX")


def test_first_voxel_of_a_centred_grid_is_low_y_high_z_low_x():
    grid = Grid.centred((3, 5, 7), (2.0, 1.5, 0.5), (10.0, -4.0, 6.0))
    np.testing.assert_allclose(grid.first_voxel_mm, [10 - 3 * 0.5, -4 - 2.0, 6 + 2 * 1.5])
    np.testing.assert_allclose(grid.position_mm((2, 4, 6)), [10 + 3 * 0.5, -4 + 2.0, 6 - 2 * 1.5])


def test_index_is_the_inverse_of_position(rng):
    turn, _ = np.linalg.qr(rng.normal(size=(3, 3)))
    grid = Grid((3, 5, 7), (2.0, 1.5, 0.5), np.array([3.0, -1.0, 8.0]), turn)
    index = rng.uniform(-5, 9, (11, 3))
    np.testing.assert_allclose(grid.index(grid.position_mm(index)), index, atol=1e-12)


def test_slab_keeps_its_place():
    grid = Grid.centred((9, 5, 7), (2.0, 1.5, 0.5))
    np.testing.assert_allclose(grid.slab(4, 6).position_mm((1, 2, 3)), grid.position_mm((5, 2, 3)))


@pytest.mark.parametrize("position", PATIENT_POSITIONS)
def test_lift_undoes_place(position):
    volume = Volume(np.zeros((3, 5, 7), np.float32), Grid.centred((3, 5, 7), (2.0, 1.5, 0.5), (1.0, 2.0, 3.0)), "HU")
    origin = (-30.0, 12.0, 400.0)
    back = volume.place(position, origin).lift(position, origin)
    np.testing.assert_allclose(back.grid.first_voxel_mm, volume.grid.first_voxel_mm, atol=1e-12)
    np.testing.assert_allclose(back.grid.axes, volume.grid.axes, atol=1e-12)


def test_default_gantry_volume_of_a_head_first_supine_patient_is_a_plain_dicom_stack():
    volume = Volume(np.zeros((3, 5, 7), np.float32), Grid.centred((3, 5, 7), (2.0, 1.5, 0.5)), "HU")
    placed = volume.place("HFS", (0.0, 0.0, 0.0))
    np.testing.assert_array_equal(placed.grid.axes, [[0, 0, 1], [0, 1, 0], [1, 0, 0]])


def test_wrong_dtype_and_wrong_shape_are_refused():
    grid = Grid.centred((3, 5, 7), (2.0, 1.5, 0.5))
    with pytest.raises(InputError, match="float64"):
        Volume(np.zeros((3, 5, 7)), grid, "HU")
    with pytest.raises(InputError, match=r"\(3, 7, 5\)"):
        Volume(np.zeros((3, 7, 5), np.float32), grid, "HU")


@pytest.mark.parametrize("position", PATIENT_POSITIONS)
def test_a_lifted_patient_runs_along_the_gantry_again_with_every_voxel_in_its_place(position, rng):
    values = rng.normal(size=(3, 5, 7)).astype(np.float32)
    axes = patient_axes("HFS")[[2, 1, 0]] @ np.eye(3)  # a DICOM page: slices S, rows P, columns L in some patient axes
    volume = Volume(values, Grid((3, 5, 7), (2.0, 1.5, 0.5), np.array([4.0, -7.0, 30.0]), axes), "HU", "patient")
    lifted = volume.lift(position, (1.0, 2.0, 3.0))
    turned = lifted.along(DEFAULT_AXES)
    np.testing.assert_allclose(np.abs(turned.grid.axes), np.abs(DEFAULT_AXES), atol=1e-12)
    np.testing.assert_allclose(turned.grid.axes, DEFAULT_AXES, atol=1e-12)
    for index in ((0, 0, 0), (1, 2, 3), (2, 4, 1)):
        there = tuple(np.rint(turned.grid.index(lifted.grid.position_mm(index))).astype(int))
        assert turned.values[there] == values[index]


def test_a_single_voxel_is_a_grid_and_none_is_not():
    assert Grid((1, 1, 1), (2.0, 1.5, 0.5), np.zeros(3)).shape == (1, 1, 1)
    with pytest.raises(GeometryError, match="expected three"):
        Grid((1, 0, 1), (2.0, 1.5, 0.5), np.zeros(3))
    with pytest.raises(GeometryError, match="expected three"):
        Grid((1, 1, 1), (2.0, 0.0, 0.5), np.zeros(3))
    with pytest.raises(GeometryError, match="perpendicular"):
        Grid((1, 1, 1), (2.0, 1.0, 0.5), np.zeros(3), np.array([[1.0, 0, 0], [0.1, 1.0, 0], [0, 0, 1.0]]))


def test_the_centre_of_a_lopsided_grid_is_the_middle_of_its_corners():
    grid = Grid((3, 5, 8), (2.0, 1.5, 0.5), np.array([4.0, -7.0, 30.0]))
    np.testing.assert_allclose(grid.centre_mm, (grid.position_mm((0, 0, 0)) + grid.position_mm((2, 4, 7))) / 2)
    np.testing.assert_allclose(Grid.centred((3, 5, 8), (2.0, 1.5, 0.5)).centre_mm, 0.0, atol=1e-12)


def test_a_mask_of_another_shape_or_type_is_refused():
    grid = Grid((3, 5, 8), (2.0, 1.5, 0.5), np.zeros(3))
    values = np.zeros(grid.shape, np.float32)
    assert Volume(values, grid, "HU", valid=np.ones(grid.shape, np.bool_)).valid is not None
    for mask in (np.ones((3, 5, 7), np.bool_), np.ones(grid.shape, np.uint8)):
        with pytest.raises(InputError, match="valid is"):
            Volume(values, grid, "HU", valid=mask)
