"""Water-equivalent diameter, SSDE and effective dose against the reference's numbers; the gate's verdicts."""

import numpy as np
import pytest

from lampyris.model import Figure, Grid, InputError, Volume
from lampyris.quality import dose, regions


def cylinder(diameter_mm: float, *, hu: float = 0.0, spacing_mm: float = 0.9, matrix: int = 385) -> Volume:
    """An edge blurred over one pixel, as an image has it, off the middle of the grid."""
    grid = Grid.centred((3, matrix, matrix + 6), (2.5, spacing_mm, spacing_mm), (4.1, 0.0, -3.3))
    index = np.stack(np.meshgrid(*map(np.arange, grid.shape), indexing="ij"), axis=-1)
    points = grid.position_mm(index)
    r = np.hypot(points[..., 0], points[..., 2])
    inside = np.clip((diameter_mm / 2 - r) / spacing_mm + 0.5, 0, 1)
    return Volume(((hu + 1000) * inside - 1000).astype(np.float32), grid, "HU")


def size(volume: Volume) -> dose.Size:
    blocks = regions.coarse(volume)
    return dose.water_equivalent_diameter(volume, blocks, regions.body(blocks))


def test_a_30_cm_water_cylinder_is_30_cm_of_water() -> None:
    """The reference finds 29.999 cm on its grid; the soft edge here leaves (Δ²/12 R²) = 1e-6 of area plus sampling."""
    np.testing.assert_allclose(size(cylinder(300.0)).water_equivalent_mm, 300.0, rtol=5e-4)


@pytest.mark.parametrize("hu", [-400.0, 60.0])
def test_denser_matter_is_more_water(hu: float) -> None:
    """D_w = D √(1 + HU/1000)."""
    expected = 250.0 * np.sqrt(1 + hu / 1000)
    np.testing.assert_allclose(size(cylinder(250.0, hu=hu)).water_equivalent_mm, expected, rtol=1e-3)


def test_noise_does_not_change_the_size(rng: np.random.Generator) -> None:
    """40 HU over 60 000 pixels move the mean by 0.16 HU, the diameter by 8e-5."""
    clean = cylinder(250.0)
    noisy = Volume(clean.values + 40 * rng.standard_normal(clean.values.shape).astype(np.float32), clean.grid, "HU")
    np.testing.assert_allclose(size(noisy).water_equivalent_mm, 250.0, rtol=2e-3)


def test_a_table_is_not_the_patient() -> None:
    volume = cylinder(250.0)
    values = volume.values.copy()
    values[:, 350:353, 40:350] = 200.0
    assert size(Volume(values, volume.grid, "HU")).mean_mm == pytest.approx(250.0, rel=1e-3)


def test_a_body_cut_by_the_field_of_view_is_told() -> None:
    whole = size(cylinder(250.0))
    assert whole.truncated.max() == 0
    cut = size(cylinder(330.0, matrix=340))
    assert cut.truncated.min() > 0.1
    assert cut.mean_mm < 329


def test_padding_cuts_the_body_too() -> None:
    volume = cylinder(250.0)
    valid = np.ones(volume.values.shape, np.bool_)
    valid[:, :, :150] = False
    cut = size(Volume(volume.values, volume.grid, "HU", valid=valid))
    assert cut.truncated.min() > 0.1
    assert cut.mean_mm < 240


def test_slices_beside_the_body_do_not_count() -> None:
    """The mean is that of the two slices that hold the cylinder, and so is the SSDE."""
    volume = cylinder(250.0)
    values = volume.values.copy()
    values[1] = -1000
    found = size(Volume(values, volume.grid, "HU"))
    assert found.occupied.tolist() == [True, False, True]
    assert found.water_equivalent_mm[1] == 0
    assert found.mean_mm == pytest.approx(250.0, rel=1e-3)
    figures, _ = dose.figures(dose.Output(10.0, 320, None), found, 2.5)
    ssde = next(figure for figure in figures if figure.name == "ssde")
    assert ssde.value == pytest.approx(10 * dose.size_factor(25.0, phantom_mm=320), rel=1e-3)


def test_an_empty_image_has_no_size() -> None:
    volume = cylinder(250.0, hu=-1000.0)
    found = size(volume)
    assert not found.occupied.any()
    with pytest.raises(InputError, match="no body was found"):
        _ = found.mean_mm


def test_size_needs_hu() -> None:
    volume = cylinder(250.0)
    blocks = regions.coarse(volume)
    with pytest.raises(InputError, match="needs HU"):
        dose.water_equivalent_diameter(
            Volume(volume.values, volume.grid, "1/mm"), blocks, np.ones(blocks.values.shape, np.bool_)
        )


def test_the_size_factors_of_the_reports() -> None:
    """f32(30) = 1.231 (reference); AAPM 204 tables: 32 cm phantom 2.06 at 16 cm, 16 cm phantom 1.01 at 16 cm;
    TG-293 written out for 17 cm."""
    assert dose.size_factor(30.0, phantom_mm=320) == pytest.approx(1.231, abs=5e-4)
    assert dose.size_factor(16.0, phantom_mm=320) == pytest.approx(2.06, abs=0.01)
    assert dose.size_factor(16.0, phantom_mm=160) == pytest.approx(1.01, abs=0.01)
    assert dose.size_factor(17.0, phantom_mm=160, head=True) == pytest.approx(1.9852 * np.exp(-0.0486 * 17))


def test_factors_that_do_not_exist_are_refused() -> None:
    with pytest.raises(InputError, match="outside 8…45 cm"):
        dose.size_factor(50.0, phantom_mm=320)
    with pytest.raises(InputError, match="no SSDE factors for the head and a CTDI phantom of 320"):
        dose.size_factor(17.0, phantom_mm=320, head=True)


@pytest.mark.parametrize(
    ("part", "k", "phantom_mm"),
    [
        ("head", 0.0019, 160),
        ("neck", 0.0051, 320),
        ("chest", 0.0145, 320),
        ("abdomen", 0.0153, 320),
        ("pelvis", 0.0129, 320),
    ],
)
def test_effective_dose_of_an_adult(part: str, k: float, phantom_mm: float) -> None:
    assert dose.effective_dose_msv(400.0, part, phantom_mm=phantom_mm) == pytest.approx(400 * k)


def test_effective_dose_is_refused_for_another_phantom_or_region() -> None:
    with pytest.raises(InputError, match="assumes a CTDI phantom of 320"):
        dose.effective_dose_msv(400.0, "chest", phantom_mm=160)
    with pytest.raises(InputError, match="no effective-dose coefficient for 'knee'"):
        dose.effective_dose_msv(400.0, "knee", phantom_mm=320)


def test_a_childs_dlp_is_told_for_the_small_phantom() -> None:
    assert dose.dlp_for_16_cm(100.0) == pytest.approx(204.0)


def test_body_parts_are_dicoms() -> None:
    assert dose.region(" Chest ") == "chest"
    assert dose.region("CSPINE") == "neck"
    assert dose.region("HAND") is None
    assert dose.region(None) is None


def test_dose_figures_say_where_they_come_from() -> None:
    """CTDIvol 7.3 mGy, 3 slices of 2.5 mm: DLP 7.3·0.75; SSDE with f(30 cm); effective dose with the chest's k."""
    output = dose.Output(7.3, 320, "chest", "computed")
    found, missing = dose.figures(output, size(cylinder(300.0)), 2.5)
    named = {figure.name: figure for figure in found}
    assert named["ctdivol"] == Figure("ctdivol", 7.3, "mGy", "computed", (("phantom_mm", 320),))
    assert named["dlp"].value == pytest.approx(7.3 * 0.75)
    assert named["ssde"].value == pytest.approx(7.3 * 1.231, rel=1e-3)
    assert named["effective_dose"].value == pytest.approx(7.3 * 0.75 * 0.0145)
    assert {named[name].origin for name in ("dlp", "ssde", "effective_dose")} == {"estimated"}
    assert missing == ()


def test_a_known_scanning_length_makes_the_dlp_whole() -> None:
    """Over-ranging is in the table's travel of 41 mm, though the images cover 7.5 mm."""
    found, _ = dose.figures(dose.Output(7.3, 320, "chest", scanned_mm=41.0), size(cylinder(300.0)), 2.5)
    dlp = next(figure for figure in found if figure.name == "dlp")
    assert dlp.value == pytest.approx(7.3 * 4.1)
    assert dlp.origin == "computed"
    assert dict(dlp.settings) == {"over_ranging": "included", "scanned_cm": 4.1}


def test_dose_figures_that_cannot_be_had_are_told() -> None:
    found, missing = dose.figures(dose.Output(7.3, 100, None), size(cylinder(300.0)), 2.5)
    assert [figure.name for figure in found] == ["ctdivol", "dlp"]
    assert any("ssde: no SSDE factors" in each for each in missing)
    assert any("effective_dose: the body part is not told" in each for each in missing)


def test_every_coefficient_has_a_source_and_a_checker() -> None:
    tables = dose.tables()
    for entry in [*tables["ssde"].values(), tables["effective_dose"], tables["effective_dose"]["body_16_over_32"]]:
        assert entry["source"]
        assert entry["edition"]
        assert entry["checked_by"]
