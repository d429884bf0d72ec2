"""The whole assessment: phantoms with known answers, truths on other grids, planted faults."""

import dataclasses
import json

import numpy as np
import pytest

from lampyris import phantom, quality
from lampyris.model import Acquisition, Assessment, Grid, InputError, Volume, patient_axes
from lampyris.physics import tube
from lampyris.physics.attenuation import linear_attenuation_per_mm
from lampyris.quality import faults, inserts, regions, truth

SCANNED = Acquisition(CTDIvol=7.3, CTDIPhantomDiameter=320.0, BodyPartExamined="CHEST")
SIGMA_MM = 0.6
NOISE = 12.0


def points(grid: Grid) -> np.ndarray:
    return grid.position_mm(np.stack(np.meshgrid(*map(np.arange, grid.shape), indexing="ij"), axis=-1))


def soft_step(distance_mm: np.ndarray) -> np.ndarray:
    """An edge blurred by σ 0.6 mm."""
    from scipy import special

    return 0.5 * special.erfc(distance_mm / (np.sqrt(2) * SIGMA_MM))


RODS = (("air", -1000.0, 45.0, 3.0), ("+300 HU", 300.0, -38.0, 22.0))


def rods_image() -> Volume:
    """A water cylinder of 200 mm with two rods of 9 mm radius along the whole image, and noise of 12 HU."""
    grid = Grid.centred((24, 240, 250), (1.5, 0.9, 0.9), (2.0, 10.0, -1.5))
    p = points(grid)
    values = -1000.0 + 1000.0 * soft_step(np.hypot(p[..., 0], p[..., 2]) - 100)
    for _, hu, x, z in RODS:
        values += hu * soft_step(np.hypot(p[..., 0] - x, p[..., 2] - z) - 9.0)
    values += NOISE * np.random.default_rng(3).standard_normal(grid.shape)
    return Volume(values.astype(np.float32), grid, "HU")


KNOWN = (
    *(phantom.Insert(name, (x, 10.0, z), 9.0, "air" if name == "air" else "water*1.3") for name, _, x, z in RODS),
    phantom.Insert("water centre", (0.0, 10.0, 0.0), 8.0, "water"),
    phantom.Insert("water top", (0.0, 10.0, 80.0), 8.0, "water"),
    phantom.Insert("water left", (-80.0, 10.0, 0.0), 8.0, "water"),
)


@pytest.fixture(scope="module")
def image() -> Volume:
    return rods_image()


@pytest.fixture(scope="module")
def assessment(image: Volume) -> Assessment:
    return quality.assess(image, acquisition=SCANNED, inserts=KNOWN)


def value(assessment: Assessment, name: str) -> float:
    return assessment.figure(name).value


def test_rods_have_their_hu_and_error(assessment: Assessment) -> None:
    """A ball of 6.3 mm radius has 860 voxels: 12/√860 = 0.4 HU, three of those."""
    assert value(assessment, "hu_air") == pytest.approx(-1000, abs=1.3)
    assert value(assessment, "hu_error_+300_HU") == pytest.approx(0, abs=1.3)
    assert dict(assessment.figure("hu_error_air").settings)["expected_from"] == "material air"


def test_rods_have_the_transfer_function_of_their_blur(assessment: Assessment) -> None:
    for name in ("air", "+300_HU"):
        assert value(assessment, f"ttf_f50_{name}") == pytest.approx(0.18739 / SIGMA_MM, rel=0.03)
    assert {"ttf_air", "ttf_+300_HU", "nps"} <= {curve.name for curve in assessment.curves}


def test_noise_and_its_spectrum_are_those_that_were_added(assessment: Assessment) -> None:
    """White noise of 12 HU at 0.9 mm: NPS = 144·0.81 everywhere, mean frequency half of Nyquist."""
    assert value(assessment, "noise") == pytest.approx(NOISE, rel=0.03)
    assert value(assessment, "nps_noise") == pytest.approx(NOISE, rel=0.02)
    nps = next(curve for curve in assessment.curves if curve.name == "nps")
    assert np.median(nps.y) == pytest.approx(NOISE**2 * 0.81, rel=0.03)
    assert value(assessment, "nps_mean") == pytest.approx(0.5 / 0.9 / 2, rel=0.05)
    assert value(assessment, "nps_integral_error") == pytest.approx(0, abs=1e-9)


def test_noise_of_neighbouring_slices_is_independent_as_it_was_added(assessment: Assessment) -> None:
    """At least 4 places of 3 pairs of 1024 pixels: ρ is known to 1/√12288 = 0.9 %; three of those."""
    assert value(assessment, "noise_slice_correlation") == pytest.approx(0.0, abs=0.03)


def test_detectability_follows_from_both(assessment: Assessment) -> None:
    """Gaussian blur b, disc r in white noise N: numerically integrated here on its own grid."""
    from scipy import special

    f = np.linspace(1e-6, 0.5 / 0.9, 20001)
    w = 15 * 2.5 * special.j1(2 * np.pi * 2.5 * f) / f
    t = np.exp(-2 * (np.pi * SIGMA_MM * f) ** 2)
    integral = np.trapezoid(w**2 * t**2 * 2 * np.pi * f, f)
    assert value(assessment, "npw_15HU_5mm") == pytest.approx(np.sqrt(integral / (NOISE**2 * 0.81)), rel=0.03)


def test_uniformity_is_the_worst_edge(assessment: Assessment) -> None:
    centre = value(assessment, "hu_water_centre")
    edges = [value(assessment, f"hu_water_{edge}") - centre for edge in ("top", "left")]
    assert value(assessment, "uniformity") == pytest.approx(max(map(abs, edges)))


def test_size_and_dose_follow_the_cylinder(assessment: Assessment) -> None:
    """Water area: π(100² + 0.3·81 − 81) mm²; SSDE by its factor; 24 slices of 1.5 mm."""
    wed_cm = 0.2 * np.sqrt(100**2 + 0.3 * 81 - 81)
    assert value(assessment, "wed") == pytest.approx(wed_cm, rel=1e-3)
    assert value(assessment, "ssde") == pytest.approx(7.3 * 3.704369 * np.exp(-0.03671937 * wed_cm), rel=1e-3)
    assert value(assessment, "dlp") == pytest.approx(7.3 * 3.6)
    assert assessment.figure("ctdivol").origin == "reported"
    assert value(assessment, "wed_truncated") == 0


def test_air_around_is_air(assessment: Assessment) -> None:
    assert value(assessment, "hu_surroundings") == pytest.approx(-1000, abs=0.5)


def test_an_assessment_is_json_and_repeatable(image: Volume, assessment: Assessment) -> None:
    text = json.dumps(assessment.as_dict(), allow_nan=False, sort_keys=True)
    again = quality.assess(image, acquisition=SCANNED, inserts=KNOWN)
    assert json.dumps(again.as_dict(), allow_nan=False, sort_keys=True) == text
    for figure in assessment.figures:
        assert list(figure.settings) == sorted(figure.settings)


def test_the_gate_passes_a_good_image_and_looks_at_a_noisy_limit(assessment: Assessment) -> None:
    assert quality.judge(assessment, quality.limits("image") + quality.limits("body")).verdict == "pass"
    assert quality.judge(assessment, quality.limits("head")).verdict == "look"


def test_a_small_object_gives_smaller_patches_and_says_so() -> None:
    """A cylinder of 70 mm at 1 mm holds no 64² patch; 32² ones are taken and are not TG-233's."""
    grid = Grid.centred((30, 100, 104), (1.0, 1.0, 1.0))
    p = points(grid)
    values = -1000 + 1000 * soft_step(np.hypot(p[..., 0], p[..., 2]) - 35)
    noisy = values + 9 * np.random.default_rng(4).standard_normal(grid.shape)
    found = quality.assess(Volume(noisy.astype(np.float32), grid, "HU"))
    settings = dict(found.figure("nps_noise").settings)
    assert (settings["size"], settings["tg233"]) == (32, False)
    assert settings["patches"] >= 20
    assert value(found, "nps_noise") == pytest.approx(9, rel=0.03)


def test_the_size_of_a_cut_body_is_an_estimate(image: Volume, assessment: Assessment) -> None:
    assert assessment.figure("wed").origin == "computed"
    cut = Volume(image.values[:, :, 60:].copy(), Grid(
        (24, 240, 190), image.grid.spacing_mm, image.grid.position_mm((0.0, 0.0, 60.0))
    ), "HU")  # fmt: skip
    found = quality.assess(cut)
    assert found.figure("wed").origin == "estimated"
    assert value(found, "wed_truncated") > 0.1
    assert quality.judge(found, quality.limits("image")).verdict == "look"


def test_what_cannot_be_measured_is_told_and_changes_no_verdict(image: Volume) -> None:
    outside = phantom.Insert("lost", (300.0, 0.0, 0.0), 5.0, "water")
    found = quality.assess(image, inserts=(outside,))
    assert found.verdict == "pass"
    assert "not measured: hu_lost: outside the image" in found.reasons
    assert any(reason.startswith("not measured: ssde: CTDIvol is not told") for reason in found.reasons)


def test_the_beam_says_what_a_material_should_show(image: Volume) -> None:
    """At one energy the HU of PMMA follow from two attenuations, here 60 keV from the tables of physics."""
    place = phantom.Insert("acrylic", (-38.0, 10.0, 22.0), 9.0, "pmma")
    beam = tube.monochromatic(60.0, 1.0)
    found = quality.assess(image, inserts=(place,), spectrum=beam)
    pmma, water = (linear_attenuation_per_mm(name, np.array([60.0]))[0] for name in ("pmma", "water"))
    expected = 1000 * (pmma - water) / water
    assert value(found, "hu_error_acrylic") == pytest.approx(value(found, "hu_acrylic") - expected, abs=1e-6)
    assert "hu_error_acrylic" not in {one.name for one in quality.assess(image, inserts=(place,)).figures}


def test_a_rod_with_its_length_is_measured_as_a_cylinder(image: Volume) -> None:
    rod = quality.Rod("plus", (-38.0, 10.0, 22.0), 9.0, 20.0, expected_hu=290.0)
    found = quality.assess(image, inserts=(rod,))
    assert value(found, "hu_error_plus") == pytest.approx(10.0, abs=1.0)
    assert dict(found.figure("hu_plus").settings)["shape"] == "cylinder"
    assert value(found, "ttf_f50_plus") == pytest.approx(0.18739 / SIGMA_MM, rel=0.03)


def test_a_slab_thinner_than_the_insert_is_measured_over_its_slices(image: Volume) -> None:
    """Three slices, 4.5 mm, of a ball of 6.3 mm: the inscribed cylinder, not one voxel of which leaves the ball."""
    slab = Volume(image.values[10:13].copy(), image.grid.slab(10, 13), "HU")
    centre = (-38.0, float(slab.grid.centre_mm[1]), 22.0)
    found = inserts.measure(slab, (phantom.Insert("plus", centre, 9.0, "water*1.3"),))
    settings = dict(found.figures[0].settings)
    assert settings["shape"] == "cylinder"
    assert settings["radius_mm"] == pytest.approx(np.sqrt(6.3**2 - 2.25**2))
    assert found.figures[0].value == pytest.approx(300, abs=2)
    assert found.transfers[0][1].slices == 3


def test_a_ball_is_no_rod() -> None:
    grid = Grid.centred((40, 100, 110), (1.0, 0.9, 0.9))
    p = points(grid)
    values = 300.0 * soft_step(np.linalg.norm(p - [3.0, 1.0, 2.0], axis=-1) - 9.0)
    found = inserts.measure(
        Volume(values.astype(np.float32), grid, "HU"), (phantom.Insert("ball", (3.0, 1.0, 2.0), 9.0, "x"),)
    )
    assert [figure.name for figure in found.figures] == ["hu_ball"]
    assert not found.transfers


def test_a_wire_shows_its_blur() -> None:
    grid = Grid.centred((30, 90, 96), (1.0, 0.5, 0.5))
    p = points(grid)
    spot = 600 * np.exp(-((p[..., 0] - 2.2) ** 2 + (p[..., 2] + 3.1) ** 2) / (2 * 0.6**2)) * (np.abs(p[..., 1]) < 10)
    noisy = spot + 3 * np.random.default_rng(5).standard_normal(grid.shape)
    found = inserts.measure(
        Volume(noisy.astype(np.float32), grid, "HU"), (phantom.Insert("wire", (2.0, 0.0, -3.0), 0.05, "tungsten"),)
    )
    named = {figure.name: figure.value for figure in found.figures}
    assert named["wire_f50"] == pytest.approx(0.18739 / 0.6, rel=0.03)
    assert found.transfers[0][1].slices >= 15


def test_materials_that_are_the_same_in_every_beam() -> None:
    assert inserts.expected_hu("water*1.02") == pytest.approx(20.0)
    assert inserts.expected_hu("water") == 0
    assert inserts.expected_hu("air") == -1000
    assert inserts.expected_hu("teflon") is None
    assert inserts.expected_hu("graphite*0.9") is None


def smooth(grid: Grid) -> Volume:
    """100 + x + 2 y − 3 z: trilinear interpolation and box averages give it back exactly."""
    return Volume((100 + points(grid) @ np.array([1.0, 2.0, -3.0])).astype(np.float32), grid, "HU")


@pytest.mark.parametrize(
    "spacing", [(2.9, 1.9, 1.3), (0.8, 0.5, 0.45)], ids=["truth coarser than image", "truth finer than image"]
)
def test_a_linear_truth_survives_resampling(spacing: tuple[float, float, float]) -> None:
    image = Grid.centred((9, 21, 25), (2.0, 1.1, 1.2), (1.0, -2.0, 3.0))
    given = Grid.centred((60, 90, 110), spacing, (0.4, -2.2, 3.1))
    found = truth.on_grid(smooth(given), image)
    assert found.valid is not None
    assert found.valid.mean() > 0.9
    np.testing.assert_allclose(found.values[found.valid], smooth(image).values[found.valid], atol=2e-3)


def test_a_turned_truth_finds_its_place() -> None:
    """The truth as a patient volume of a prone patient's axes, lifted into the same space: axes are not the image's."""
    image = Grid.centred((9, 21, 25), (2.0, 1.1, 1.2))
    turn = patient_axes("HFP")
    axes = Grid.centred((1, 1, 1), (1, 1, 1)).axes @ turn
    first = -(np.array([79, 69, 65]) / 2 * [0.9, 0.8, 1.0]) @ axes + [0.3, -0.2, 0.1]
    given = Grid((80, 70, 66), (0.9, 0.8, 1.0), first, axes)
    found = truth.on_grid(smooth(given), image)
    assert found.valid is not None
    assert found.valid.all()
    np.testing.assert_allclose(found.values, smooth(image).values, atol=2e-3)


def test_finer_truth_is_averaged_not_picked() -> None:
    """A chequerboard of the truth's slices averages to its mean in slices four times as thick."""
    given = Grid.centred((40, 9, 9), (0.5, 1.0, 1.0))
    values = np.where(np.arange(40) % 2, 10.0, -10.0)[:, None, None] * np.ones((40, 9, 9))
    found = truth.on_grid(Volume(values.astype(np.float32), given, "HU"), Grid.centred((5, 5, 5), (2.0, 1.0, 1.0)))
    np.testing.assert_allclose(found.values, 0.0, atol=1e-5)
    assert truth.samples(given, Grid.centred((5, 5, 5), (2.0, 1.0, 1.0))) == (4, 1, 1)


def test_bias_and_error_are_those_that_were_planted(image: Volume) -> None:
    """Truth + 5 HU + white noise of 7: bias 5, RMSE √74 in body and soft tissue, on the same and on another grid."""
    noisy = image.values + 5 + 7 * np.random.default_rng(8).standard_normal(image.values.shape)
    found = quality.assess(Volume(noisy.astype(np.float32), image.grid, "HU"), truth=image)
    assert value(found, "bias_body") == pytest.approx(5.0, abs=0.05)
    assert value(found, "rmse_soft_tissue") == pytest.approx(np.sqrt(74), rel=0.01)
    assert value(found, "bias_bone") == pytest.approx(5.0, abs=0.2)
    assert value(found, "fault_mirrored") == 0
    assert dict(found.figure("rmse_body").settings)["subsamples"] == [1, 1, 1]
    with pytest.raises(KeyError, match="rmse_lung"):
        found.figure("rmse_lung")


@pytest.mark.parametrize("axes", [(1,), (2,), (1, 2)])
def test_a_mirrored_image_is_caught(image: Volume, axes: tuple[int, ...]) -> None:
    flipped = dataclasses.replace(image, values=np.flip(image.values, axes).copy())
    assert truth.mirrored(flipped, image) == " and ".join({1: "rows", 2: "columns"}[axis] for axis in axes)
    assert truth.mirrored(image, image) is None


def test_a_truth_that_knows_only_a_part_still_tells_a_mirror_image(image: Volume) -> None:
    values = image.values.copy()
    values[:, :, :40] = np.nan
    part = Volume(values, image.grid, "HU", valid=np.isfinite(values))
    flipped = dataclasses.replace(image, values=np.flip(image.values, 1).copy())
    assert truth.mirrored(flipped, part) == "rows"
    assert truth.mirrored(image, part) is None


def test_a_symmetric_truth_accuses_nobody() -> None:
    grid = Grid.centred((8, 64, 64), (4.0, 4.0, 4.0))
    p = points(grid)
    values = np.where(np.hypot(p[..., 0], p[..., 2]) < 90, 0, -1000).astype(np.float32)
    even = Volume(values, grid, "HU")
    noisy = values + 30 * np.random.default_rng(2).standard_normal(values.shape).astype(np.float32)
    assert truth.mirrored(Volume(noisy, grid, "HU"), even) is None


def test_a_truth_is_only_compared_where_it_reaches(image: Volume) -> None:
    """The truth covers the lower half of the slices; the other half is wrong by 500 HU and is not counted."""
    half = Volume(image.values[:12].copy(), image.grid.slab(0, 12), "HU")
    wrong = image.values.copy()
    wrong[12:] += 500
    found = quality.assess(Volume(wrong, image.grid, "HU"), truth=half)
    assert value(found, "bias_body") == pytest.approx(0, abs=1e-3)


def test_a_place_in_an_organ_is_no_rod(image: Volume) -> None:
    """Half of the ring about it lies in the water, half in air: an edge, but of the body."""
    found = inserts.measure(image, (phantom.Insert("skin", (0.0, 10.0, 94.0), 5.0, "x"),))
    assert not found.transfers
    assert not found.missing


def test_a_truth_of_another_kind_or_place_is_refused(image: Volume) -> None:
    with pytest.raises(InputError, match="convert one of them"):
        quality.assess(image, truth=Volume(image.values, image.grid, "1/mm"))
    away = Grid.centred(image.grid.shape, image.grid.spacing_mm, (5000.0, 0.0, 0.0))
    with pytest.raises(InputError, match="do not overlap"):
        quality.assess(image, truth=Volume(image.values, away, "HU"))
    blocks = regions.coarse(image)
    inside = regions.body(blocks)
    with pytest.raises(InputError, match="the truth in 1/mm"):
        truth.compare(image, Volume(image.values, image.grid, "1/mm"), blocks, inside, inside)


def test_nan_and_constant_slices_are_counted(image: Volume) -> None:
    values = image.values.copy()
    values[3, 100, 100:103] = np.nan
    values[7] = -1000
    broken = Volume(values, image.grid, "HU")
    assert faults.broken(broken) == faults.Broken(3, 1)
    judged = quality.judge(quality.assess(broken), quality.limits("image"))
    assert judged.verdict == "stop"
    valid = np.ones(values.shape, np.bool_)
    valid[3, 100, 100:103] = False
    assert faults.broken(Volume(values, image.grid, "HU", valid=valid)).nan_voxels == 0


def test_rings_are_found_about_the_axis_and_only_there(image: Volume, assessment: Assessment) -> None:
    """Rings 2 pixels wide, ±20 HU, every 12th pixel of radius, less what the local mean of 9 pixels takes: its rms
    along a straight line. Curvature near the axis and the mask's edge cost a tenth. The axis is the gantry's, which is
    not the middle of the image; about another axis little is left."""
    line = 20.0 * np.tile([1, 1, 0, 0, 0, 0, -1, -1, 0, 0, 0, 0], 9)
    expected = np.std((line - np.convolve(line, np.full(9, 1 / 9), "same"))[12:-12])
    p = points(image.grid)
    radius = np.hypot(p[..., 0], p[..., 2]) / 0.9
    phase = np.round(radius) % 12
    ringed = image.values + 20 * ((phase < 2).astype(np.float32) - ((phase >= 6) & (phase < 8)))
    found = quality.assess(Volume(ringed.astype(np.float32), image.grid, "HU"))
    assert value(found, "fault_ring") == pytest.approx(expected, rel=0.12)
    assert value(assessment, "fault_ring") < 1
    elsewhere = np.hypot(p[..., 0] - 30, p[..., 2] + 20) / 0.9
    phase = np.round(elsewhere) % 12
    shifted = image.values + 20 * ((phase < 2).astype(np.float32) - ((phase >= 6) & (phase < 8)))
    assert value(quality.assess(Volume(shifted.astype(np.float32), image.grid, "HU")), "fault_ring") < 0.3 * expected


def test_in_patient_coordinates_the_axis_has_to_be_told(image: Volume) -> None:
    placed = image.place("HFS", (11.0, -7.0, 300.0))
    assert any("fault_ring: where the axis" in reason for reason in quality.assess(placed).reasons)
    told = dataclasses.replace(SCANNED, DataCollectionCenterPatient=(11.0, -7.0, 300.0))
    axis = dict(quality.assess(placed, acquisition=told).figure("fault_ring").settings)["axis_mm"]
    assert axis == [11.0, -7.0, 300.0]


def test_an_image_in_attenuation_gives_noise_but_no_hu(image: Volume) -> None:
    mu = 0.02 * (1 + image.values / 1000)
    found = quality.assess(Volume(mu.astype(np.float32), image.grid, "1/mm"))
    assert value(found, "noise") == pytest.approx(0.02 * NOISE / 1000, rel=0.03)
    assert found.figure("noise").unit == "1/mm"
    names = {figure.name for figure in found.figures}
    assert "wed" not in names
    assert "hu_surroundings" not in names


def test_an_empty_image_is_told_not_crashed() -> None:
    grid = Grid.centred((4, 60, 64), (1.0, 1.0, 1.0))
    values = np.full(grid.shape, -1000.0, np.float32)
    values[0, 0, 0] = -999.0
    found = quality.assess(Volume(values, grid, "HU"), acquisition=SCANNED)
    assert any(reason.startswith("not measured: noise") for reason in found.reasons)
    assert any(reason.startswith("not measured: wed") for reason in found.reasons)
    assert quality.judge(found, quality.limits("body")).verdict == "look"
