"""Regions against volumes and sums counted by hand, and the masks that find themselves."""

import numpy as np
import pytest

from lampyris.model import Grid, InputError, Volume
from lampyris.quality import noise, regions

GRID = Grid.centred((7, 24, 31), (2.3, 0.9, 0.7), (4.0, -3.0, 11.0))


def points(grid: Grid) -> np.ndarray:
    return grid.position_mm(np.stack(np.meshgrid(*map(np.arange, grid.shape), indexing="ij"), axis=-1))


def linear(grid: Grid = GRID) -> Volume:
    """Values that tell where they are: 100 + x + 10 y + 1000 z in HU."""
    return Volume((100 + points(grid) @ np.array([1.0, 10.0, 1000.0])).astype(np.float32), grid, "HU")


@pytest.mark.parametrize(
    ("region", "count"),
    [
        (regions.Sphere((5.0, -2.0, 12.0), 3.1), 4 / 3 * np.pi * 3.1**3),
        (regions.Cylinder((5.0, -2.0, 12.0), 3.1, 6.9), np.pi * 3.1**2 * 6.9),
        (regions.Cylinder((5.0, -2.0, 12.0), 2.5, 6.4, (0.6, 0.0, 0.8)), np.pi * 2.5**2 * 6.4),
        (regions.Box((5.0, -2.0, 12.0), (6.0, 7.0, 5.0)), 6.0 * 7.0 * 5.0),
    ],
)
def test_a_region_has_its_volume_and_its_middle(region: regions.Region, count: float) -> None:
    """The number of voxels is the volume to a surface's worth of them; the mean of a linear image is its middle."""
    found = regions.statistics(linear(), region)
    assert found.voxels * np.prod(GRID.spacing_mm) == pytest.approx(count, rel=0.25)
    own = points(GRID)[region.inside(points(GRID))]
    assert found.voxels == len(own)
    assert found.mean == pytest.approx(100 + own.mean(axis=0) @ np.array([1.0, 10.0, 1000.0]), rel=1e-5)


def test_statistics_are_those_of_numpy() -> None:
    region = regions.Box((4.35, -3.0, 10.55), (1.5, 2.4, 1.9))
    values = regions.values_in(linear(), region)
    mask = (np.abs(points(GRID) - [4.35, -3.0, 10.55]) <= [0.75, 1.2, 0.95]).all(axis=-1)
    np.testing.assert_array_equal(values, linear().values[mask])
    found = regions.statistics(linear(), region)
    assert found.standard_deviation == pytest.approx(np.std(values, ddof=1))
    assert found.median == np.median(values)


def test_a_region_follows_the_axes_of_the_grid() -> None:
    """A patient's grid with rows along +y: the same point in space, another index."""
    grid = Grid(
        (7, 24, 31), (2.3, 0.9, 0.7), np.array([-9.0, 5.0, -4.0]), np.array([[0, 0, 1.0], [0, 1, 0], [1, 0, 0]])
    )
    values = np.zeros(grid.shape, np.float32)
    values[3, 11, 8] = 7
    x, y, z = grid.position_mm((3, 11, 8))
    assert regions.statistics(Volume(values, grid, "HU", "patient"), regions.Sphere((x, y, z), 0.3)).mean == 7


@pytest.mark.parametrize(
    ("region", "story"),
    [
        (regions.Sphere((15.0, -3.0, 11.0), 1.0), "reaches from index"),
        (regions.Sphere((4.2, -3.4, 11.2), 0.05), "no voxel centre lies in"),
        (regions.Cylinder((4.0, -3.0, 11.0), 2.0, 4.0, (0.0, 0.0, 0.0)), "null vector"),
    ],
)
def test_regions_that_cannot_be_measured_are_refused(region: regions.Region, story: str) -> None:
    with pytest.raises(InputError, match=story):
        regions.statistics(linear(), region)


def test_padding_is_not_measured() -> None:
    valid = np.ones(GRID.shape, np.bool_)
    valid[3, 12, 15] = False
    volume = Volume(linear().values, GRID, "HU", valid=valid)
    with pytest.raises(InputError, match="padding"):
        regions.statistics(volume, regions.Sphere((4.0, -3.0, 11.0), 3.0))


def test_block_means_keep_the_mean_and_take_padding_as_air() -> None:
    blocks = regions.coarse(linear(), 1.7)
    assert blocks.block == 2
    assert blocks.spacing_mm == (2.3, 1.8, 1.4)
    np.testing.assert_allclose(blocks.values[4, 5, 6], linear().values[4, 10:12, 12:14].mean(), rtol=1e-6)
    values = np.full(GRID.shape, 40.0, np.float32)
    values[:, :2, :2] = np.nan
    valid = np.ones(GRID.shape, np.bool_)
    valid[:, 2:4, :2] = False
    padded = regions.coarse(Volume(values, GRID, "HU", valid=valid), 1.7)
    assert padded.values[0, 0, 0] == padded.values[0, 1, 0] == -1000
    assert padded.values[0, 2, 2] == 40


def test_a_mask_of_blocks_spreads_over_its_pixels() -> None:
    blocks = regions.coarse(linear(), 1.7)
    mask = np.zeros(blocks.values.shape, np.bool_)
    mask[2, 3, 4] = True
    fine = blocks.spread(mask, slice(1, 4))
    assert fine.shape == (3, 24, 31)
    assert fine.sum() == 4
    assert fine[1, 6:8, 8:10].all()


def torso() -> Volume:
    """Ellipse of tissue with two lungs of −860, a gas bubble, an arm, and a hollow table 1 mm below."""
    grid = Grid.centred((12, 200, 260), (5.0, 1.5, 1.5))
    p = points(grid)
    x, z = p[..., 0], p[..., 2]
    values = np.full(grid.shape, -1000.0, np.float32)
    values[((x / 130) ** 2 + (z / 95) ** 2) < 1] = 40
    for side in (-1, 1):
        values[(((x - 60 * side) / 42) ** 2 + (z / 65) ** 2) < 1] = -860
    values[(x**2 + (z - 60) ** 2) < 10**2] = -1000
    values[((x - 165) ** 2 + z**2) < 20**2] = 30
    values[(np.abs(x) < 180) & (np.abs(z + 108) < 12)] = 100
    values[(np.abs(x) < 177) & (np.abs(z + 108) < 9)] = -950
    return Volume(values, grid, "HU")


def test_the_body_is_found_with_lungs_and_arm_but_without_table(rng: np.random.Generator) -> None:
    volume = torso()
    noisy = Volume(volume.values + 60 * rng.standard_normal(volume.values.shape).astype(np.float32), volume.grid, "HU")
    blocks = regions.coarse(noisy)
    inside = regions.body(blocks)
    area_mm2 = inside.sum(axis=(1, 2)) * blocks.spacing_mm[1] * blocks.spacing_mm[2]
    np.testing.assert_allclose(area_mm2, np.pi * (130 * 95 + 20**2), rtol=0.03)
    lung_ml = regions.lungs(blocks, inside).sum() * np.prod(blocks.spacing_mm) / 1000
    assert lung_ml == pytest.approx(2 * np.pi * 42 * 65 * 60 / 1000, rel=0.05)


def test_small_and_thin_things_beside_the_body_are_dropped() -> None:
    """A tube of 4 mm touching the skin is opened away; a swab of 15 × 15 mm is below 300 mm²; both at 1 mm blocks."""
    grid = Grid.centred((2, 160, 170), (3.0, 1.0, 1.0))
    p = points(grid)
    values = np.where(np.hypot(p[..., 0], p[..., 2]) < 40, 0.0, -1000.0).astype(np.float32)
    alone = values.copy()
    values[(np.abs(p[..., 2]) < 2) & (p[..., 0] > 0) & (p[..., 0] < 75)] = 100
    values[(np.abs(p[..., 0]) < 7.5) & (np.abs(p[..., 2] - 60) < 7.5)] = 100
    with_tube, without = (
        regions.body(regions.coarse(Volume(each, grid, "HU"), 1.0)).sum(axis=(1, 2)) for each in (values, alone)
    )
    np.testing.assert_allclose(with_tube, without, rtol=0.01)
    np.testing.assert_allclose(without, np.pi * 40**2, rtol=0.01)


def test_a_hollow_cylinder_has_no_lungs() -> None:
    values = torso().values.copy()
    values[values == -860] = -1000
    blocks = regions.coarse(Volume(values, torso().grid, "HU"))
    assert not regions.lungs(blocks, regions.body(blocks)).any()


def test_otsu_parts_two_classes(rng: np.random.Generator) -> None:
    two = np.concatenate([rng.normal(0.002, 0.002, 6000), rng.normal(0.02, 0.001, 2000)]).astype(np.float32)
    assert 0.008 < regions.otsu(two) < 0.017


def test_global_noise_of_a_body_is_that_of_its_tissue(rng: np.random.Generator) -> None:
    """White noise of 17 HU; edges raise some windows, the mode stays. Histogram bins and smoothing: 3 %."""
    volume = torso()
    noisy = Volume(
        (volume.values + 17 * rng.standard_normal(volume.values.shape)).astype(np.float32), volume.grid, "HU"
    )
    blocks = regions.coarse(noisy)
    soft = regions.body(blocks) & (np.abs(blocks.values - 40) < 60)
    found = noise.global_noise(noisy, blocks, soft)
    assert found.standard_deviation == pytest.approx(17.0, rel=0.03)
    assert found.window_pixels == 9


def test_patches_avoid_edges_and_each_other(rng: np.random.Generator) -> None:
    volume = torso()
    noisy = Volume(
        (volume.values + 17 * rng.standard_normal(volume.values.shape)).astype(np.float32), volume.grid, "HU"
    )
    blocks = regions.coarse(noisy)
    body = regions.body(blocks)
    corners = noise.uniform_patches(noisy, blocks, body, 16, noise=17.0)
    assert len(corners) >= 12
    found = noise.patches_at(volume, corners, 16)
    assert np.ptp(found.reshape(len(found), -1), axis=1).max() == 0  # the noise-free image is flat in every patch
    taken = np.zeros(volume.grid.shape, int)
    for s, r, c in corners:
        taken[s, r : r + 16, c : c + 16] += 1
    assert taken.max() == 1


def test_without_tissue_there_is_no_noise_figure() -> None:
    blocks = regions.coarse(torso())
    with pytest.raises(InputError, match="needs 50"):
        noise.global_noise(torso(), blocks, np.zeros(blocks.values.shape, np.bool_))
