"""The door: which method for which scan, what is refused and with what words, HU or not, tilt, what was not seen."""

import numpy as np
import pytest

from lampyris.model import Gantry, Geometry, GeometryError, GridRequest, InputError, Projections, RecipeError, Step
from lampyris.phantom.assembly import line_integrals
from lampyris.phantom.shapes import Cylinder, Gaussian
from lampyris.recon import reconstruct

WATER = 0.0193
TRUNK = ((Cylinder((7.0, 0.0, -5.0), (52.0, 44.0), 400.0), WATER),)
GANTRY = Gantry(541.0, 949.0, 6, 161, (1.7, 2.17), True, 2.2, 80.25)
ANGLES = 17.0 + np.arange(180) * 2.0
SMALL = GridRequest(48, slice_thickness_mm=1.0)


def scan(geometry, parts=TRUNK, water=WATER):
    integrals = np.zeros(geometry.shape, np.float32)
    for shape, per_mm in parts:
        integrals += line_integrals(shape, geometry, per_mm)
    return Projections(integrals, np.broadcast_to(np.float32(1), integrals.shape), geometry, water_per_mm=water)


PARALLEL = Geometry.parallel_beam(np.arange(120) * 1.5, rows=2, columns=161, cell_mm=(1.0, 0.9))
FAN = Geometry.circular(Gantry(541.0, 949.0, 1, 161, (1.7542, 2.17)), ANGLES)
CONE = Geometry.circular(GANTRY, ANGLES)
HELIX = Geometry.helical(GANTRY, views=540, views_per_turn=180, table_feed_mm=-4.0, start_angle_deg=17.0)


@pytest.mark.parametrize(("geometry", "method"), [(PARALLEL, "fbp"), (FAN, "fbp"), (CONE, "fdk"), (HELIX, "wfbp")])
def test_auto_takes_the_method_that_fits(geometry, method):
    chosen = reconstruct(scan(geometry), Step.of("auto"), "body", SMALL)
    named = reconstruct(scan(geometry), Step.of(method), "body", SMALL)
    np.testing.assert_array_equal(chosen.values, named.values)


@pytest.mark.parametrize(
    ("geometry", "method", "error", "words"),
    [
        (PARALLEL, "fdk", GeometryError, "the rays are parallel: only method 'fbp'"),
        (PARALLEL, "wfbp", GeometryError, "the rays are parallel: only method 'fbp'"),
        (CONE, "fbp", GeometryError, "fbp is two-dimensional, the detector has 6 rows"),
        (HELIX, "fdk", GeometryError, r"the table moves 11\.98 mm during the scan: use method 'wfbp'"),
        (CONE, "sart", RecipeError, "method 'sart' is unknown; known are auto, fbp, fdk, wfbp"),
    ],
)
def test_a_method_that_does_not_fit_is_refused(geometry, method, error, words):
    with pytest.raises(error, match=words):
        reconstruct(scan(geometry), Step.of(method), "body", SMALL)


def test_settings_are_known_or_refused():
    with pytest.raises(RecipeError, match="method 'fdk' has no setting flat_share; known are none"):
        reconstruct(scan(CONE), Step.of("fdk", flat_share=0.5), "body", SMALL)
    with pytest.raises(RecipeError, match=r"flat_share is 1\.5, expected"):
        reconstruct(scan(HELIX), Step.of("wfbp", flat_share=1.5), "body", SMALL)
    with pytest.raises(RecipeError, match="kernel 'B30f' is unknown"):
        reconstruct(scan(CONE), Step.of("auto"), "B30f", SMALL)


def test_the_flat_share_of_the_rows_is_used():
    moved = ((Gaussian((20.0, 0.0, 10.0), (9.0, 3.0, 9.0), 1.0), WATER),)
    sharp = reconstruct(scan(HELIX, moved), Step.of("auto", flat_share=0.0), "body", SMALL)
    broad = reconstruct(scan(HELIX, moved), Step.of("auto", flat_share=0.9), "body", SMALL)
    assert np.abs(sharp.values - broad.values).max() > 1.0


def test_without_water_the_image_stays_in_attenuation():
    volume = reconstruct(scan(CONE, water=None), Step.of("auto"), "body", SMALL)
    assert volume.quantity == "1/mm"
    assert volume.values[1, 20:28, 20:28].mean() == pytest.approx(WATER, rel=2e-3)


def test_hu_are_relative_to_the_water_of_the_projections():
    """μ = 0.0193 read with μ_w = 0.02 is 1000·(0.0193/0.02 − 1) = −35 HU."""
    volume = reconstruct(scan(CONE, water=0.02), Step.of("auto"), "body", SMALL)
    assert volume.values[1, 20:28, 20:28].mean() == pytest.approx(-35.0, abs=1.0)


def test_beyond_the_scan_field_is_air_and_said_to_be_unseen():
    volume = reconstruct(scan(CONE), Step.of("auto"), "body", GridRequest(64, field_of_view_mm=300.0))
    assert not volume.valid[0, 0, 0]
    assert volume.values[0, 0, 0] == -1000.0
    assert volume.valid[0, 32, 32]
    radius = 541 * np.sin(80.75 * 2.17 / 949)
    assert volume.valid[0].mean() == pytest.approx(np.pi * radius**2 / 300**2, rel=0.08)


def test_progress_rises_to_one():
    for geometry in (PARALLEL, CONE, HELIX):
        told = []
        reconstruct(scan(geometry), Step.of("auto"), "body", SMALL, progress=told.append)
        assert told == sorted(told)
        assert told[-1] == 1.0


def test_a_tilted_gantry_s_slices_are_tilted_and_in_place():
    """A blob off the axis, 12° of tilt, the table at 31 mm: its centre comes out where it was put."""
    place = (22.0, 32.0, -18.0)
    tilted = Gantry(541.0, 949.0, 16, 161, (1.7, 2.17), True, 7.2, 80.25, 12.0)
    geometry = Geometry.circular(tilted, 17.0 + np.arange(360), axial_mm=31.0)
    blob = ((Gaussian(place, (5.0, 1.5, 5.0), 1.0), WATER),)
    volume = reconstruct(scan(geometry, blob), Step.of("auto"), "body", GridRequest(96, 110.0, None, 0.97, 0.485))
    lean = np.deg2rad(12.0)
    np.testing.assert_allclose(volume.grid.axes[0], [0.0, np.cos(lean), -np.sin(lean)], atol=1e-9)
    index = np.stack(np.meshgrid(*(np.arange(n) for n in volume.grid.shape), indexing="ij"), -1)
    position = volume.grid.position_mm(index)
    weight = np.clip(volume.values.astype(np.float64) + 1000, 0, None)
    weight[weight < 0.2 * weight.max()] = 0
    centre = (position * weight[..., None]).sum((0, 1, 2)) / weight.sum()
    np.testing.assert_allclose(centre, place, atol=0.2)


def test_slices_of_a_tilted_gantry_are_counted_from_the_table():
    tilted = Gantry(541.0, 949.0, 16, 161, (1.7, 2.17), True, 7.5, 80.25, 12.0)
    geometry = Geometry.circular(tilted, ANGLES, axial_mm=31.0)
    volume = reconstruct(
        scan(geometry), Step.of("auto"), "body", GridRequest(48, slice_thickness_mm=1.0, first_mm=30.0, last_mm=32.0)
    )
    middle = volume.grid.position_mm((1.0, 23.5, 23.5))
    offset = (middle - (0.0, 31.0, 0.0)) @ volume.grid.axes[0]
    assert offset == pytest.approx(0.0, abs=1e-9)


def test_a_tilted_helix_is_refused():
    tilted = Gantry(541.0, 949.0, 6, 161, (1.7, 2.17), True, 2.2, 80.25, 12.0)
    helix = Geometry.helical(tilted, views=540, views_per_turn=180, table_feed_mm=4.0)
    with pytest.raises(GeometryError, match=r"tilted by 12\.00° while the table moves 12\.0 mm"):
        reconstruct(scan(helix), Step.of("auto"), "body", SMALL)


def test_missing_angles_are_refused():
    gap = Geometry.parallel_beam(np.arange(100) * 1.5, rows=1, columns=161, cell_mm=(1.0, 0.9))
    with pytest.raises(GeometryError, match=r"leave 31\.5° of 180° without a view"):
        reconstruct(scan(gap), Step.of("auto"), "body", SMALL)
    short = Geometry.circular(Gantry(541.0, 949.0, 1, 161, (1.8, 2.17)), np.arange(90) * 2.0)
    with pytest.raises(GeometryError, match=r"needs 180° plus the fan"):
        reconstruct(scan(short), Step.of("auto"), "body", GridRequest(48, slice_thickness_mm=1.0261))


def test_a_displaced_detector_needs_a_full_turn():
    half = Geometry.circular(Gantry(541.0, 949.0, 1, 101, (1.8, 2.17), True, None, 20.25), np.arange(120) * 2.0)
    with pytest.raises(GeometryError, match="a displaced detector needs 360°"):
        reconstruct(scan(half), Step.of("auto"), "body", GridRequest(48, slice_thickness_mm=1.0261))


def test_a_slice_that_no_view_shows_is_refused():
    with pytest.raises(InputError, match=r"slices asked for from 9\.00 to 9\.00 mm"):
        reconstruct(scan(CONE), Step.of("auto"), "body", GridRequest(48, first_mm=9.0, last_mm=9.0))


def test_a_truncated_body_keeps_its_middle_without_a_bright_rim():
    """Continued rows: the rim of the scan field stays within 250 HU of water instead of running to thousands."""
    narrow = Geometry.circular(Gantry(541.0, 949.0, 1, 61, (1.8, 2.17)), ANGLES)
    volume = reconstruct(
        scan(narrow), Step.of("auto"), "body", GridRequest(64, field_of_view_mm=70.0, slice_thickness_mm=1.0261)
    )
    seen = volume.valid[0] if volume.valid is not None else np.ones((64, 64), bool)
    inside = np.hypot(*(np.mgrid[:64, :64] - 31.5)) * 70 / 64 < 30
    assert np.abs(volume.values[0][inside & seen]).max() < 250
