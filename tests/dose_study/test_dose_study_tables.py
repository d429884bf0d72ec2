"""Numbers of a study: against plain NumPy on its images, against laws, and as the page and the tables show them."""

import base64
import csv
import dataclasses
import io
import json
import math
import re

import numpy as np
import pytest
from PIL import Image

from lampyris import cli, dose_study, path, raw, simulate
from lampyris.dose_study import crops
from lampyris.dose_study.engine import Results
from lampyris.dose_study.equal import Equal, equal_doses, gate_dose, sentences
from lampyris.dose_study.store import Failure
from lampyris.dose_study.tables import Estimate, Row, comma_separated, markdown, text
from lampyris.model import GridRequest, Step
from lampyris.phantom import water_cylinder

GRID = GridRequest(matrix=60, field_of_view_mm=130.0, slice_thickness_mm=2.0, first_mm=-2.0, last_mm=4.0)
STUDENT_95_2 = 4.302653
"""Student's t, 0.975, two degrees of freedom, from a printed table."""


def silent(*_anything):
    """Nobody watches."""


@pytest.fixture(scope="module")
def results(tmp_path_factory) -> Results:
    """Water off the axis at two doses with three seeds; the third recipe cannot work."""
    body = water_cylinder(110.0, centre_mm=(5.0, 1.0, -4.0))
    order = simulate.Protocol("axial", mas=8.0, noise=False)
    scan = simulate.scan(body, simulate.scanner("small"), order)
    original = dose_study.Original("a <water> cylinder", scan, True, body, body.inserts)
    recipes = [path.recipe("routine"), path.recipe("routine-lung")]
    recipes.append(dataclasses.replace(recipes[0], name="broken", method=Step.of("nonsense")))
    recipes = tuple(dataclasses.replace(one, grid=GRID, passport=Step("none")) for one in recipes)
    study = dose_study.Study(original, (1.0, 0.1), recipes, (0, 1, 2), "1")
    return dose_study.run(study, tmp_path_factory.mktemp("study"), watch=silent, tell=silent)


@pytest.fixture(scope="module")
def rows(results):
    return dose_study.summarise(results)


@pytest.fixture(scope="module")
def written(results, rows):
    """Folder with tables and page."""
    folder = results.store.folder
    equal = equal_doses(rows)
    dose_study.write_tables(folder, results, rows, {"sentences": sentences(rows, equal)})
    dose_study.write_page(folder / "study.html", results, rows, equal)
    return folder


def test_error_and_interval_are_those_of_the_images(results, rows):
    """RMSE over the body of each kept image (all slices are kept), its mean and t·s/√3."""
    row = next(each for each in rows if (each.dose, each.recipe) == (0.1, "routine"))
    body, truth = results.ground.tissues["body"], results.ground.truth.values[results.ground.box]
    own = [results.image(cell).astype(np.float64) for cell, _ in results.of(0.1, "routine")]
    errors = np.array([math.sqrt(((one - truth)[body] ** 2).mean()) for one in own])
    found = row.estimates["rmse_body"]
    assert found.value == pytest.approx(errors.mean(), rel=1e-6)
    assert found.high - found.value == pytest.approx(STUDENT_95_2 * errors.std(ddof=1) / math.sqrt(3), rel=1e-4)
    assert found.value - found.low == pytest.approx(found.high - found.value)
    noise = math.sqrt(np.stack(own).var(axis=0, ddof=1)[body].mean())
    assert row.estimates["seed_noise_body"].value == pytest.approx(noise, rel=1e-6)
    bias = np.mean([(one - truth)[body].mean() for one in own])
    assert row.estimates["bias_body"].value == pytest.approx(bias, abs=1e-4)


def test_noise_follows_the_dose(rows):
    """A tenth of the quanta: √10 of the noise, and a little more by electronic noise."""
    full, tenth = (next(one for one in rows if (one.dose, one.recipe) == (dose, "routine")) for dose in (1.0, 0.1))
    ratio = tenth.estimates["seed_noise_body"].value / full.estimates["seed_noise_body"].value
    assert math.sqrt(10) * 0.97 < ratio < math.sqrt(10) * 1.3


def test_one_seed_has_no_interval():
    assert Estimate.of([3.5], "HU") == Estimate(3.5, None, None, 1, "HU")
    assert text(Estimate.of([3.5], "HU")) == "3.5"
    assert text(Estimate(12.345, 12.1, 12.59, 3, "HU")) == "12.35 (12.10…12.59)"
    assert text(Estimate(float("nan"), None, None, 1, "HU")) == "not measurable"
    assert text(None) == "–"


def law(recipe, factor, also=lambda _dose: {}):
    """Rows whose error is 10 · factor · dose^−½, with more figures if wanted."""
    doses = (1.0, 0.5, 0.2, 0.1)
    errors = [{"rmse_body": Estimate(10 * factor / math.sqrt(dose), None, None, 3, "HU")} for dose in doses]
    return [
        Row(dose, recipe, 3, ("pass",), (), (), error | also(dose)) for dose, error in zip(doses, errors, strict=True)
    ]


def found(rows, recipe, figure):
    return next(one for one in equal_doses(rows) if one.recipe == recipe and one.figure == figure)


@pytest.mark.parametrize(
    ("factor", "dose", "said"),
    [(1.0, 1.0, "1"), (0.6, 0.36, "0.36"), (1.1, None, "not reached"), (0.2, 0.1, "≤ 0.1")],
)
def test_the_equal_dose_of_a_power_law_is_exact(factor, dose, said):
    """factor · d^−½ = 1 at d = factor², between any two doses, for the error is interpolated in its logarithm."""
    one = found([*law("base", 1.0), *law("other", factor)], "other", "rmse_body")
    assert one.dose == (None if dose is None else pytest.approx(dose))
    assert one.lowest == (factor == 0.2)
    assert one.text().startswith(said)


def test_a_mean_may_move_by_four_hu():
    """Bias −1 at full dose and 3·log₁₀(1/d) below it leaves the band of 4 HU at d = 10^(−4/3), beyond the study."""

    def drift(rate):
        return lambda dose: {"bias_lung": Estimate(-1.0 - rate * math.log10(dose), None, None, 3, "HU")}

    rows = [*law("base", 1.0, also=drift(0.0)), *law("slow", 0.5, also=drift(3.0)), *law("fast", 0.5, also=drift(8.0))]
    assert found(rows, "slow", "bias_lung").lowest
    assert found(rows, "fast", "bias_lung").dose == pytest.approx(10**-0.5)
    assert "fast" not in sentences(rows, equal_doses(rows))[0]
    assert sentences(rows, equal_doses(rows))[0].startswith("On this object slow at 0.25 of the dose")


def test_a_recipe_that_the_gate_stops_is_not_recommended():
    rows = [*law("base", 1.0), *law("other", 0.3)]
    stopped = [dataclasses.replace(one, verdicts=("pass", "stop")) if one.dose < 0.5 else one for one in rows]
    assert gate_dose(stopped, "other") == 0.5
    assert sentences(stopped, equal_doses(stopped))[0].startswith("On this object other at 0.5 of the dose")
    failed = Failure("INPUT", "no", 65)
    none = [dataclasses.replace(one, failures=(failed,)) if one.recipe == "other" else one for one in rows]
    assert gate_dose(none, "other") is None
    assert sentences(none, equal_doses(none))[0].startswith("On this object no recipe")


def test_a_dose_without_a_figure_ends_the_walk():
    rows = [*law("base", 1.0), *law("other", 0.3)]
    rows[6] = dataclasses.replace(rows[6], estimates={})
    assert found(rows, "other", "rmse_body") == Equal("other", "rmse_body", "error (RMSE), body", 0.5, False)


def test_csv_holds_every_figure_of_every_row(rows):
    lines = list(csv.DictReader(io.StringIO(comma_separated(rows))))
    assert len(lines) == sum(len(row.estimates) for row in rows)
    one = next(line for line in lines if (line["dose"], line["recipe"], line["figure"]) == ("0.1", "routine", "noise"))
    row = next(row for row in rows if (row.dose, row.recipe) == (0.1, "routine"))
    assert float(one["mean"]) == row.estimates["noise"].value
    assert float(one["low95"]) == row.estimates["noise"].low


def test_markdown_has_one_line_for_each_figure_and_recipe(rows):
    lines = markdown(rows, "x").splitlines()
    assert "| body, HU | routine-lung | " in "\n".join(lines)
    assert any("failed: INPUT_RECIPE" in line for line in lines)
    assert len({line.count("|") for line in lines if line.startswith("|")}) == 1


def test_json_names_every_cell(results, written):
    told = json.loads((written / "study.json").read_text("utf-8"))
    assert [(one["dose"], one["seed"], one["recipe"]) for one in told["cells"]] == [
        (cell.dose, cell.seed, cell.recipe.name) for cell, _ in results.cells
    ]
    assert told["scan"] == results.study.original.scan.id


def test_the_page_shows_every_dose_and_recipe_and_loads_nothing(results, rows, written):
    page = (written / "study.html").read_text("utf-8")
    for row in rows:
        alt = f'alt="{row.recipe} at {row.dose:g} of the dose"'
        assert page.count(alt) == (0 if row.recipe == "broken" else 2)  # image and difference
    assert page.count('<div class="missing">failed: ') == 2
    assert "nonsense" in page
    assert "a &lt;water&gt; cylinder" in page
    assert "not for diagnosis or treatment" in page
    sources = re.findall(r'(?:src|href)="([^"]{0,9})', page)
    assert sources
    assert set(sources) == {"data:imag"}
    assert "<script" not in page
    assert results.study.original.scan.id in page
    for row in rows:
        if row.recipe != "broken":
            assert text(row.estimates["rmse_body"]) in page


def test_the_crop_lies_where_the_edges_are(results):
    """A rod of 60 HU near a corner of the body draws the crop to itself."""
    ground = results.ground
    truth = np.zeros_like(ground.truth.values)
    truth[:, 38:41, 18:21] = 60.0
    moved = dataclasses.replace(
        ground,
        truth=dataclasses.replace(ground.truth, values=truth, valid=None),
        box=(slice(0, 4), slice(0, 60), slice(0, 60)),
        tissues={"body": np.ones(truth.shape, np.bool_), "lung": np.zeros(truth.shape, np.bool_)},
    )
    place = crops.crop(moved)
    assert place.rows.start <= 38
    assert place.rows.stop >= 41
    assert place.columns.start <= 18
    assert place.columns.stop >= 21


def test_a_difference_is_blue_below_white_at_and_red_above_the_truth():
    plane = np.array([[-50.0, 0.0, 50.0]], np.float32)
    data = crops.coloured(plane, 100.0).split(",")[1]
    low, middle, high = np.asarray(Image.open(io.BytesIO(base64.b64decode(data))))[0].astype(int)
    assert low[2] > low[0] + 100
    assert middle.min() > 240
    assert high[0] > high[2] + 100


SMALL = ["--scanner", "small", "--protocol", "axial", "--range", -1, 3, "--matrix", 48, "--fov", 210, "--thickness", 2]


def command(capsys, *arguments):
    code = cli.main([str(each) for each in arguments])
    said = capsys.readouterr()
    return code, said.out, " ".join(said.err.split())


def test_the_command_writes_a_study_and_goes_on_with_it(tmp_path, capsys):
    study = ["dose-study", "water20", "-o", tmp_path / "study", "--seeds", 1, "--recipes", "routine", *SMALL]
    code, out, _ = command(capsys, *study, "--doses", "1", "--json")
    assert code == 0
    assert [one["dose"] for one in json.loads(out)["rows"]] == [1.0]
    code, _, err = command(capsys, *study, "--doses", "0.1,1")
    assert code == 0
    assert "1 of 2 cells are there from an earlier run" in err
    names = {each.name for each in (tmp_path / "study").iterdir()}
    assert names == {"cells", "study.html", "study.md", "study.csv", "study.json"}


def test_the_command_takes_a_raw_scan_and_its_truth(tmp_path, capsys):
    scan = simulate.scan(water_cylinder(200.0), simulate.scanner("small"), simulate.Protocol("axial", mas=20.0))
    raw.write(scan, tmp_path / "scan.lraw")
    study = [
        "dose-study",
        tmp_path / "scan.lraw",
        "--seeds",
        2,
        "--recipes",
        "routine",
        "--doses",
        "1,0.5",
        "--no-passport",
        *SMALL,
    ]
    code, out, _ = command(capsys, *study, "-o", tmp_path / "a", "--json")
    assert code == 0
    assert json.loads(out)["rows"][0]["figures"]["rmse_body"]["mean"] == 0.0
    assert "stands in for the truth" in (tmp_path / "a" / "study.html").read_text("utf-8")
    code, out, _ = command(capsys, *study, "-o", tmp_path / "b", "--truth", "water20", "--json")
    assert code == 0
    assert json.loads(out)["rows"][0]["figures"]["rmse_body"]["mean"] > 5.0


def test_the_exit_code_tells_of_a_failing_recipe(tmp_path, capsys):
    broken = dataclasses.replace(path.recipe("routine"), name="broken", method=Step.of("nonsense"))
    (tmp_path / "broken.json").write_text(broken.to_json())
    recipes = f"routine,{tmp_path / 'broken.json'}"
    study = ["dose-study", "water20", "-o", tmp_path / "s", "--seeds", 1, "--recipes", recipes, "--doses", "1"]
    study += ["--no-passport", *SMALL]
    code, _, err = command(capsys, *study)
    assert code == 65
    assert "nonsense" in err
    assert (tmp_path / "s" / "study.html").exists()


def test_an_interrupt_ends_with_130_and_says_how_to_go_on(tmp_path, capsys, monkeypatch):
    def interrupted(*_given):
        raise KeyboardInterrupt

    monkeypatch.setattr("lampyris.dose_study.engine.measure", interrupted)
    study = ["dose-study", "water20", "-o", tmp_path / "s", "--recipes", "routine", "--doses", "1", *SMALL]
    code, _, err = command(capsys, *study)
    assert code == 130
    assert "the same command goes on from there" in err


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (["--doses", "1,2"], 2),
        (["--doses", "1,1"], 2),
        (["--doses", "much"], 2),
        (["--seeds", "0"], 2),
        (["--recipes", "routine,routine"], 2),
        (["--recipes", "routine,nobody-knows"], 65),
    ],
)
def test_wrong_arguments_are_told_before_anything_is_made(tmp_path, capsys, arguments, code):
    command_line = ["dose-study", "water20", "-o", str(tmp_path / "s"), *arguments]
    if code == 2:
        with pytest.raises(SystemExit) as ended:
            cli.main(command_line)
        assert ended.value.code == 2
    else:
        assert cli.main(command_line) == code
    capsys.readouterr()
    assert not (tmp_path / "s").exists()
