"""Helical weighted backprojection: against the model's own rays one voxel at a time, conservation, ends, refusals."""

from dataclasses import replace

import numpy as np
import pytest

from lampyris.model import FocalSpotShift, Gantry, Geometry, GeometryError, Grid, InputError
from lampyris.projector.backprojection import ConeParallelData, ConeParallelScan, backproject_helical

HALF_TURN, FEED = 7, -4.1  # views in half a turn; mm per rad, the table runs backwards
XI, XI_STEP, COLUMNS = -50.0, 3.7, 29  # not symmetric: a quarter offset and one side longer


def table_mm(gantry_angle_rad: float) -> float:
    return 21.0 + FEED * gantry_angle_rad


def gantry(curved: bool = True) -> Gantry:
    return Gantry(541.0, 949.0, 9, 61, (3.1, 2.9), curved, 3.6, 31.25)


def rays(machine: Gantry, radial_mm: float, xi: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(lag, ahead, cell) of parallel rays ξ from a focal spot moved outwards by radial_mm: plane geometry."""
    radius = machine.source_to_isocentre_mm + radial_mm
    fan = np.arcsin(xi / radius)  # angle at the focal spot between the ray and the line to the axis
    if machine.curved:  # the arc is centred on the unmoved spot: |s + cell·d − centre| = D
        along = radial_mm * np.cos(fan)
        cell = along + np.sqrt(machine.source_to_detector_mm**2 - radial_mm**2 * np.sin(fan) ** 2)
    else:
        cell = (machine.source_to_detector_mm + radial_mm) / np.cos(fan)
    return fan, radius * np.cos(fan), cell


def scan(machine: Gantry, shifts: tuple[tuple[float, float], ...] = ((0.0, 0.0),), views: int = 31) -> ConeParallelScan:
    """Spots moved by (axial, radial) mm."""
    xi = XI + XI_STEP * np.arange(COLUMNS)
    lag, ahead, cell = (np.stack(each) for each in zip(*(rays(machine, r, xi) for _, r in shifts), strict=True))
    theta = 0.4 + np.pi / HALF_TURN * np.arange(views)
    assert machine.central_row is not None
    return ConeParallelScan(
        0.4, HALF_TURN, np.array([table_mm(angle) for angle in theta]), FEED, XI, XI_STEP, machine.rows,
        machine.cell_mm[0], lag, ahead, cell, np.array([axial for axial, _ in shifts]),
        np.full(len(shifts), -machine.central_row * machine.cell_mm[0]),
    )  # fmt: skip


def grid() -> Grid:
    return Grid.centred((37, 4, 5), (1.1, 9.0, 13.0), (-4.0, -1.7, 6.0))


def landed_row(machine: Gantry, shift: tuple[float, float], gantry_angle: float, point: np.ndarray) -> float:
    """Row (middle of row 0 is 0) where the model's own ray to the point lands: nearest of finely sampled cells."""
    spot = FocalSpotShift(np.zeros(1), np.array([shift[0]]), np.array([shift[1]]))
    view = Geometry.circular(machine, np.rad2deg([gantry_angle]), axial_mm=table_mm(gantry_angle), shift=spot)
    columns = np.linspace(-0.5, machine.columns - 0.5, 20001)
    cells = view.cells_mm(0, np.zeros(1), columns)[0]
    source = view.source[0]
    plane = cells[:, [0, 2]] - source[[0, 2]]
    wanted = (point - source)[[0, 2]]
    nearest = int(np.abs(plane[:, 0] * wanted[1] - plane[:, 1] * wanted[0]).argmin())
    magnification = np.linalg.norm(plane[nearest]) / np.linalg.norm(wanted)
    height = source[1] + magnification * (point[1] - source[1])
    return float((height - cells[nearest, 1]) / machine.cell_mm[0])


def sampled(table: np.ndarray, place: float) -> np.ndarray:
    """Linear interpolation along the first axis, held constant beyond its ends."""
    place = float(np.clip(place, 0, len(table) - 1))
    left = min(int(place), len(table) - 2)
    return table[left] + (place - left) * (table[left + 1] - table[left])


@pytest.mark.parametrize("curved", [True, False])
def test_every_voxel_takes_the_weighted_mean_of_the_rows_that_saw_it(curved: bool, rng: np.random.Generator) -> None:
    """Two focal spots, reversed table; tolerance: lag, ahead and cell are linear between columns (2·10⁻³ mm here)."""
    machine, shifts = gantry(curved), ((-0.6, 1.5), (0.8, -2.0))
    where, lattice = scan(machine, shifts), grid()
    filtered = rng.random(where.shape, dtype=np.float32)
    weight = rng.random(machine.rows, dtype=np.float32) * 0.9 + 0.05
    data = ConeParallelData(where, weight)
    for spot in range(2):
        data.store(filtered[spot, :11], spot=spot)
        data.store(filtered[spot, 11:], 11, spot)
    result = backproject_helical(data, lattice)
    weighted = filtered * weight[:, None]
    for index in [(0, 0, 0), (36, 3, 4), (9, 1, 2), (18, 2, 0), (23, 0, 3), (30, 3, 1), (5, 2, 4)]:
        point = lattice.position_mm(index)
        total, seen = 0.0, 0
        for i in range(HALF_TURN):
            above = below = 0.0
            for view in range(i, where.views, HALF_TURN):
                theta = 0.4 + np.pi / HALF_TURN * view
                xi = point[0] * np.cos(theta) - point[2] * np.sin(theta)
                column = (xi - XI) / XI_STEP
                if not -0.5 <= column < COLUMNS - 0.5:
                    continue
                for spot, shift in enumerate(shifts):
                    lag = np.arcsin(xi / (machine.source_to_isocentre_mm + shift[1]))
                    row = landed_row(machine, shift, theta + lag, point)
                    if -0.5 <= row < machine.rows - 0.5:
                        above += sampled(sampled(weighted[spot, view].T, column), row)
                        below += sampled(weight, row)
            if below > 1e-3:
                total += above / below * np.pi / HALF_TURN
                seen += 1
        assert result.seen[index] == seen
        assert result.values[index] == pytest.approx(total, abs=2e-3)
    assert result.seen.max() == HALF_TURN


def test_constant_data_give_pi_wherever_all_directions_were_seen() -> None:
    """A weighted mean of a constant is that constant, whatever the weights; ∫ over the half turn is π."""
    where = scan(gantry())
    weight = np.array([0.0, 0.03, 0.5, 0.9, 1.0, 0.8, 0.4, 0.02, 0.0], np.float32)
    data = ConeParallelData(where, weight)
    data.store(np.full(where.shape[1:], 2.5, np.float32))
    result = backproject_helical(data, grid())
    complete = result.seen == HALF_TURN
    assert complete.any()
    assert not complete.all()
    np.testing.assert_allclose(result.values[complete], 2.5 * np.pi, rtol=1e-4)
    np.testing.assert_allclose(result.values, 2.5 * np.pi / HALF_TURN * result.seen, rtol=1e-4)


def test_a_grid_of_many_tiles_holds_the_same_voxels(rng: np.random.Generator) -> None:
    """Nothing is carried from one tile of voxel columns to the next."""
    where = scan(gantry())
    data = ConeParallelData(where, np.linspace(0.2, 1.0, 9, dtype=np.float32))
    data.store(rng.random(where.shape[1:], dtype=np.float32))
    wide = Grid.centred((21, 23, 37), (1.1, 1.9, 1.7), (-4.0, -1.7, 6.0))
    part = replace(wide, shape=(21, 3, 4), first_voxel_mm=wide.position_mm((0, 18, 29)))
    whole, piece = backproject_helical(data, wide), backproject_helical(data, part)
    np.testing.assert_allclose(whole.values[:, 18:21, 29:33], piece.values, rtol=1e-4)
    np.testing.assert_array_equal(whole.seen[:, 18:21, 29:33], piece.seen)


def test_slices_beyond_the_ends_of_the_scan_are_not_seen() -> None:
    where = scan(gantry())
    data = ConeParallelData(where, np.ones(9, np.float32))
    data.store(np.ones(where.shape[1:], np.float32))
    far = backproject_helical(data, Grid.centred((5, 4, 5), (1.1, 9.0, 13.0), (0.0, 90.0, 0.0)))
    assert (far.seen == 0).all()
    assert (far.values == 0).all()


def test_progress_ends_at_one() -> None:
    where = scan(gantry())
    data = ConeParallelData(where, np.ones(9, np.float32))
    told: list[float] = []
    backproject_helical(data, grid(), progress=told.append)
    assert told[-1] == 1.0
    assert told == sorted(told)


def test_less_than_half_a_turn_is_refused() -> None:
    with pytest.raises(GeometryError, match="6 views, 7 to the half turn"):
        scan(gantry(), views=6)


def test_a_grid_at_the_focal_spot_is_refused() -> None:
    data = ConeParallelData(scan(gantry()), np.ones(9, np.float32))
    with pytest.raises(GeometryError, match="smaller field of view"):
        backproject_helical(data, Grid.centred((3, 9, 9), (1.0, 100.0, 100.0)))


def test_slices_along_another_axis_are_refused() -> None:
    data = ConeParallelData(scan(gantry()), np.ones(9, np.float32))
    turned = replace(grid(), axes=np.array([[1.0, 0, 0], [0, 1, 0], [0, 0, 1]]))
    with pytest.raises(GeometryError, match=r"need \+y"):
        backproject_helical(data, turned)


@pytest.mark.parametrize("weight", [np.zeros(9), -np.ones(9), 2 * np.ones(9)])
def test_row_weights_outside_zero_to_one_are_refused(weight: np.ndarray) -> None:
    with pytest.raises(InputError, match="row weights are"):
        ConeParallelData(scan(gantry()), weight.astype(np.float32))


def test_views_that_do_not_fit_are_refused() -> None:
    data = ConeParallelData(scan(gantry()), np.ones(9, np.float32))
    fits = np.ones(data.scan.shape[1:], np.float32)
    with pytest.raises(InputError, match="expected float32"):
        data.store(fits.astype(np.float64))
    with pytest.raises(InputError, match="expected float32"):
        data.store(fits.transpose(0, 2, 1))
    with pytest.raises(InputError, match="the scan has 31 views of 1 spots"):
        data.store(fits, 1)
    with pytest.raises(InputError, match="the scan has 31 views of 1 spots"):
        data.store(fits, 0, 1)
    fits[3, 2, 1] = np.nan
    with pytest.raises(InputError, match="NaN"):
        data.store(fits)
