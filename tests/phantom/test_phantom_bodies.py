"""Bodies and their voxels: nothing overlaps, every insert is where it says, HU are what they must be."""

import numpy as np
import pytest

from lampyris.model import Grid, InputError, Volume
from lampyris.phantom import Ellipsoid, Gaussian, Part, Phantom, image_quality, thorax, voxelise, water_cylinder
from lampyris.physics.attenuation import linear_attenuation_per_mm


@pytest.fixture(scope="module")
def chest() -> Phantom:
    return thorax(table=True)


def _depths(phantom: Phantom, points: np.ndarray) -> dict[str, np.ndarray]:
    """How often each material fills each point: 1 or 0 if nothing overlaps."""
    depths = {name: np.zeros(len(points)) for name in phantom.materials}
    for part in phantom.parts:
        body = part.shape.primitives()[0]
        near = np.linalg.norm(points - body.centre_mm, axis=1) <= np.linalg.norm(body.reach_mm)
        inside = part.shape.density(points[near])
        depths[part.material][near] += inside
        if part.replaces is not None:
            depths[part.replaces][near] -= inside
    return depths


def _sound(phantom: Phantom, rng: np.random.Generator) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Points all over the phantom and 60 in the bounding box of every part: each is filled once or not at all."""
    boxes = [part.shape.primitives()[0] for part in phantom.parts]
    points = [box.centre_mm + rng.uniform(-1.05, 1.05, (60, 3)) @ box.reach_mm for box in boxes]
    far, (first, last) = phantom.radius_mm, phantom.axial_extent_mm
    points.append(rng.uniform((-far, first - 5, -far), (far, last + 5, far), (40000, 3)))
    everywhere = np.concatenate(points)
    depths = _depths(phantom, everywhere)
    for name, depth in depths.items():
        assert set(np.unique(depth)) <= {0.0, 1.0}, f"{name} overlaps"
    assert sum(depths.values()).max() == 1
    return points[-1], {name: depth[-40000:] for name, depth in depths.items()}


def test_nothing_overlaps_in_the_thorax_and_organs_lie_on_their_side(chest, rng):
    points, depths = _sound(chest, rng)
    middle = {name: points[depth == 1].mean(0) for name, depth in depths.items() if depth.any()}
    assert middle["liver"][0] < -30  # the patient's right
    assert middle["blood"][0] > 10
    assert middle["cortical_bone*0.85"][2] < -20  # most bone is behind
    assert middle["graphite*0.9"][2] < -118  # the couch is below
    assert depths["lung*0.6"].mean() > 3 * depths["cortical_bone*0.85"].mean()


def test_nothing_overlaps_in_the_image_quality_phantom(rng):
    _sound(image_quality(), rng)


@pytest.mark.parametrize("body", ["thorax", "image quality", "water"])
def test_every_insert_is_filled_with_its_material(body, chest, rng):
    phantom = {"thorax": chest, "image quality": image_quality(), "water": water_cylinder()}[body]
    way = rng.standard_normal((60, 3))
    way *= rng.uniform(0, 0.97, (60, 1)) / np.linalg.norm(way, axis=1, keepdims=True)
    points = np.concatenate([np.asarray(one.centre_mm) + one.radius_mm * way for one in phantom.inserts])
    depths = _depths(phantom, points)
    for i, insert in enumerate(phantom.inserts):
        assert (depths[insert.material][60 * i : 60 * (i + 1)] == 1).all(), insert.name


def test_extents_are_known(chest):
    assert chest.axial_extent_mm == (-150.0, 150.0)
    couch_corner = np.hypot(210, 143)
    assert couch_corner < chest.radius_mm < couch_corner * 1.002
    tilted = Phantom((Part(Ellipsoid((10, 4, 0), (30, 20, 10)), "water"),))
    assert tilted.axial_extent_mm == (-16.0, 24.0)
    assert 40 < tilted.radius_mm < 40.1


def test_vessels_depend_on_the_seed_alone(chest):
    def places(body: Phantom) -> list[float]:
        return [part.shape.primitives()[0].centre_mm.sum() for part in body.parts if part.material == "blood"]

    assert places(thorax()) == places(chest)  # the couch moves no vessel
    assert places(thorax(seed=8)) != places(chest)


def test_voxels_hold_the_volume_and_the_place_of_a_shape():
    """Coverage is exact along rows and sampled 3 × 3 across: an ellipsoid's volume to 0.3 %, centroid to 0.02 mm."""
    grid = Grid.centred((37, 53, 61), (1.3, 0.9, 0.8), (3.0, -2.0, 1.0))
    centre, sizes = np.array([7.0, -4.0, 5.5]), (9.0, 11.0, 7.0)
    volume = voxelise(Phantom((Part(Ellipsoid(tuple(centre), sizes), "water"),)), grid, per_mm={"water": 0.5})
    mass = volume.values.astype(np.float64)
    cell = 1.3 * 0.9 * 0.8
    assert mass.sum() * cell / 0.5 == pytest.approx(4 / 3 * np.pi * 9 * 11 * 7, rel=3e-3)
    index = np.stack(np.meshgrid(*(np.arange(n) for n in grid.shape), indexing="ij"), -1)
    centroid = np.average(grid.position_mm(index).reshape(-1, 3), axis=0, weights=mass.ravel())
    np.testing.assert_allclose(centroid, centre, atol=0.02)
    assert mass.max() == pytest.approx(0.5, rel=1e-6)


def test_voxels_of_a_blob_sum_to_its_integral():
    grid = Grid.centred((41, 43, 45), (1.3, 1.1, 1.2), (1.0, 0.0, 2.0))
    phantom = Phantom((Part(Gaussian((2, 1, 3), (4, 3, 5), 0.3), "water"),))
    volume = voxelise(phantom, grid, per_mm={"water": 1.0})
    expected = 0.3 * (2 * np.pi) ** 1.5 * 4 * 3 * 5
    assert volume.values.sum(dtype=np.float64) * 1.3 * 1.1 * 1.2 == pytest.approx(expected, rel=1e-5)


def test_inserts_of_the_image_quality_phantom_have_their_hu():
    phantom = image_quality()
    grid = Grid.centred((3, 200, 210), (2.0, 1.0, 1.0), (0.0, -40.0, 0.0))
    volume = voxelise(phantom, grid, energy_kev=70.0, quantity="HU")
    water, bone = (float(linear_attenuation_per_mm(each, 70.0)) for each in ("water", "cortical_bone"))
    truths = {"+1000 HU": 1000.0, "+300 HU": 300.0, "-900 HU": -900.0, "background": 0.0}
    truths["bone"] = 1000 * (bone / water - 1)
    by_name = {insert.name: insert for insert in phantom.inserts}
    for name, hu in truths.items():
        assert _at(volume, by_name[name].centre_mm) == pytest.approx(hu, abs=0.01), name
    assert _at(volume, (98.0, -40.0, 98.0)) == -1000  # empty space


def test_left_is_left_and_front_is_front(chest):
    nodule = next(insert for insert in chest.inserts if insert.name == "nodule 8 mm")
    grid = Grid.centred((1, 160, 230), (1.0, 1.5, 1.5), (0.0, nodule.centre_mm[1], 0.0))
    hu = voxelise(chest, grid, energy_kev=70.0, quantity="HU").values[0]
    row, column = (80 - 0.5 + 18 / 1.5, 115 - 0.5 + 92 / 1.5)  # x = 92: higher columns; z = −18: lower in the picture
    assert hu[round(row), round(column)] > 0
    assert hu[round(row) - 24, round(column)] < -700


def _at(volume: Volume, point: tuple[float, float, float]) -> float:
    return float(volume.values[tuple(np.rint(volume.grid.index(point)).astype(int))])


def test_bad_requests_are_refused():
    grid = Grid.centred((3, 5, 7), (1, 1, 1))
    phantom = water_cylinder(200.0, 50.0)
    with pytest.raises(InputError, match="either energy_kev or per_mm"):
        voxelise(phantom, grid)
    with pytest.raises(InputError, match="no attenuation given for 'water'"):
        voxelise(phantom, grid, per_mm={"pmma": 0.02})
    with pytest.raises(InputError, match="water cylinder of 10 × 50"):
        water_cylinder(10, 50)
    with pytest.raises(InputError, match="160 mm or more"):
        image_quality(100.0)
