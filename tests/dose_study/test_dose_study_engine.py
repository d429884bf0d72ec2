"""A study is made of whole cells: it goes on where it stopped, mends what broke, and records what failed."""

import dataclasses

import numpy as np
import pytest

from lampyris import dose_study, path, simulate
from lampyris.checkpoint import whole
from lampyris.dose_study import engine
from lampyris.dose_study.measure import measure
from lampyris.model import (
    CalibrationError,
    Grid,
    GridRequest,
    InputError,
    Projections,
    RecipeError,
    Step,
    StorageError,
    Volume,
)
from lampyris.phantom import water_cylinder

GRID = GridRequest(matrix=52, field_of_view_mm=150.0, slice_thickness_mm=2.0, first_mm=-2.0, last_mm=4.0)


def recipe(name="routine", **changes):
    return dataclasses.replace(path.recipe(name), grid=GRID, passport=Step("none"), **changes)


@pytest.fixture(scope="module")
def original():
    """A water cylinder off the axis, scanned without noise on the small scanner."""
    body = water_cylinder(120.0, centre_mm=(7.0, 1.0, -5.0))
    order = simulate.Protocol("axial", mas=30.0, noise=False)
    scan = simulate.scan(body, simulate.scanner("small"), order)
    return dose_study.Original("water", scan, True, body, body.inserts)


@pytest.fixture
def study(original):
    recipes = (recipe(), recipe("routine-lung"))
    return dose_study.Study(original, (0.2, 1.0), recipes, (5, 6), "1")


def silent(*_anything):
    """Nobody watches."""


def run(study, folder, tell=silent):
    return dose_study.run(study, folder, watch=silent, tell=tell)


def stop_after(monkeypatch, cells):
    """The user interrupts while the next cell is measured."""
    measure, done = engine.measure, []

    def measured(*given):
        if len(done) == cells:
            raise KeyboardInterrupt
        done.append(given)
        return measure(*given)

    monkeypatch.setattr(engine, "measure", measured)
    return done


def test_every_dose_recipe_and_seed_is_a_cell(study, tmp_path):
    results = run(study, tmp_path)
    made = [(cell.dose, cell.seed, cell.recipe.name) for cell, _ in results.cells]
    names = ("routine", "routine-lung")
    assert made == [(dose, seed, name) for dose in (1.0, 0.2) for seed in (5, 6) for name in names]
    assert all(one.assessment is not None and one.failure is None for _, one in results.cells)


def test_recipes_share_one_scan_of_each_dose_and_seed(study, tmp_path, monkeypatch):
    made = []
    at = dose_study.Original.at
    monkeypatch.setattr(dose_study.Original, "at", lambda self, *which: made.append(which) or at(self, *which))
    run(study, tmp_path)
    assert made == [(1.0, 5), (1.0, 6), (0.2, 5), (0.2, 6)]


def test_an_interrupted_study_goes_on_and_ends_the_same(study, tmp_path, monkeypatch):
    with monkeypatch.context() as patched:
        stop_after(patched, 3)
        with pytest.raises(KeyboardInterrupt):
            run(study, tmp_path / "a")
    left = sorted(each.name for each in (tmp_path / "a" / "cells").iterdir())
    assert len(left) == 4  # three cells and the reference
    assert not any(name.endswith(".part") for name in left)
    done = stop_after(monkeypatch, 99)
    said = []
    resumed = run(study, tmp_path / "a", said.append)
    assert len(done) == 5
    assert resumed.reused == 3
    assert any("3 of 8 cells are there from an earlier run" in one for one in said)
    straight = run(study, tmp_path / "b")
    for (cell, one), (other, two) in zip(resumed.cells, straight.cells, strict=True):
        assert one.assessment.as_dict() == two.assessment.as_dict()
        np.testing.assert_array_equal(resumed.image(cell), straight.image(other))


def test_a_broken_cell_is_told_and_made_again(study, tmp_path, monkeypatch):
    first = run(study, tmp_path)
    cell = first.cells[2][0]
    place = first.store.cell(engine.cell_key(study, first.ground, cell))
    before = first.image(cell)
    data = bytearray(place.read_bytes())
    data[len(data) // 2] ^= 0xFF
    place.write_bytes(data)
    done, said = stop_after(monkeypatch, 99), []
    again = run(study, tmp_path, said.append)
    assert len(done) == 1
    assert any(place.name in one and "made again" in one for one in said)
    np.testing.assert_array_equal(again.image(again.cells[2][0]), before)


def test_a_truncated_cell_is_made_again(study, tmp_path, monkeypatch):
    first = run(study, tmp_path)
    place = first.store.cell(engine.cell_key(study, first.ground, first.cells[0][0]))
    place.write_bytes(place.read_bytes()[:5000])
    done = stop_after(monkeypatch, 99)
    run(study, tmp_path)
    assert len(done) == 1


@pytest.mark.parametrize("change", ["scan", "recipe", "version"])
def test_a_cell_of_another_study_is_not_used(study, original, tmp_path, monkeypatch, change):
    run(dataclasses.replace(study, doses=(0.2,), seeds=(5,)), tmp_path)
    if change == "scan":
        scan = simulate.realise(original.scan, 1.0, np.random.default_rng(1))
        study = dataclasses.replace(
            study, original=dataclasses.replace(original, scan=dataclasses.replace(scan, id=""))
        )
    elif change == "recipe":
        study = dataclasses.replace(study, recipes=(recipe(kernel="lung"), recipe("routine-lung", kernel="body")))
    else:
        study = dataclasses.replace(study, version="2")
    done = stop_after(monkeypatch, 99)
    run(dataclasses.replace(study, doses=(0.2,), seeds=(5,)), tmp_path)
    assert len(done) == 2


def test_a_failing_recipe_is_recorded_and_the_study_goes_on(study, tmp_path):
    broken = recipe("routine-lung", method=Step.of("nonsense"))
    study = dataclasses.replace(study, recipes=(recipe(), broken))
    results = run(study, tmp_path)
    assert {cell.recipe.name for cell, _ in results.failures} == {"routine-lung"}
    assert len(results.failures) == 4
    assert "nonsense" in results.failures[0][1].message
    assert results.failures[0][1].exit_code == RecipeError.exit_code
    assert all(one.failure is None for cell, one in results.cells if cell.recipe.name == "routine")


def test_what_failed_is_tried_again(study, tmp_path, monkeypatch):
    def full(*_given):
        raise StorageError("no room")

    study = dataclasses.replace(study, doses=(1.0,), seeds=(5,))
    with monkeypatch.context() as patched:
        patched.setattr(engine, "measure", full)
        assert [one.exit_code for _, one in run(study, tmp_path).failures] == [69, 69]
    assert run(study, tmp_path).failures == []


def test_an_image_of_other_voxels_is_refused(study, tmp_path):
    results = run(dataclasses.replace(study, doses=(1.0,), seeds=(5,)), tmp_path)
    grid = dataclasses.replace(results.ground.truth.grid, spacing_mm=(2.0, 3.0, 3.1))
    truth = dataclasses.replace(results.ground.truth, grid=grid)
    ground = dataclasses.replace(results.ground, truth=truth, known=path.Reference())
    chosen = results.cells[0][0].recipe
    corrected = path.travel((study.original.scan, chosen), Projections)
    with pytest.raises(InputError, match="cannot be compared voxel by voxel"):
        measure(corrected, chosen, ground, silent, results.store.trail("key"))


def test_a_measured_scan_has_one_seed_at_its_own_dose(original, tmp_path):
    scan = simulate.realise(original.scan, 1.0, np.random.default_rng(3))
    measured = dose_study.Original("measured", scan, False)
    study = dose_study.Study(measured, (1.0, 0.5), (recipe(),), (0, 1), "1")
    results = run(study, tmp_path)
    assert [(cell.dose, cell.seed) for cell, _ in results.cells] == [(1.0, 0), (0.5, 0), (0.5, 1)]
    np.testing.assert_array_equal(results.ground.truth.values, results.ground.reference.values)
    full = results.cells[0][1].assessment
    assert full.figure("rmse_body").value == 0.0  # its own truth, and the page says so


def test_a_scan_of_unknown_noise_is_refused(original):
    with pytest.raises(CalibrationError, match="its noise is not known"):
        dose_study.Original("x", dataclasses.replace(original.scan, noise=None), False)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"doses": (1.0, 1.5)}, r"doses \[1.5\]"),
        ({"doses": (0.5, 0.5)}, "dose 0.5 is given twice"),
        ({"seeds": ()}, "at least one seed"),
        ({"recipes": (recipe(), recipe())}, "recipe routine is given twice"),
    ],
)
def test_wrong_plans_are_refused(study, changes, message):
    with pytest.raises(InputError, match=message):
        dataclasses.replace(study, **changes)


def test_a_folder_of_something_else_is_not_touched(study, tmp_path):
    (tmp_path / "mine").write_text("precious")
    with pytest.raises(InputError, match="not empty"):
        run(study, tmp_path)
    with pytest.raises(InputError, match="is a file"):
        run(study, tmp_path / "mine")
    assert [each.name for each in tmp_path.iterdir()] == ["mine"]


def test_a_file_interrupted_while_written_is_not_there(tmp_path):
    def write(file):
        file.write(b"half")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        whole(tmp_path / "x.npz", write)
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_cannot_be_written_is_the_operators(tmp_path):
    (tmp_path / "cells").write_text("a file in the way")
    with pytest.raises(StorageError, match=r"cannot write x.npz"):
        whole(tmp_path / "cells" / "x.npz", lambda file: file.write(b""))


def test_the_phantoms_truth_shows_its_materials_hu(study, tmp_path):
    """Water is 0 HU by definition, nothing is −1000."""
    truth = run(dataclasses.replace(study, doses=(1.0,), seeds=(5,)), tmp_path).ground.truth
    slice_, row, column = np.rint(truth.grid.index(study.original.inserts[0].centre_mm)).astype(int)
    assert truth.values[slice_, row, column] == pytest.approx(0.0, abs=1e-3)
    assert truth.values[slice_, 0, 0] == pytest.approx(-1000.0)


def test_a_volume_is_its_own_truth_averaged_onto_the_image(study, tmp_path):
    """A ramp along x over finer voxels: means over a voxel are the ramp at its middle; beyond the volume is unknown."""
    fine = Grid.centred((9, 90, 120), (2.0, 1.1, 0.9), (3.0, 1.0, -2.0))
    x = fine.first_voxel_mm[0] + np.arange(120) * 0.9
    ramp = Volume(np.broadcast_to(np.float32(2 * x), fine.shape).copy(), fine, "HU")
    original = dataclasses.replace(study.original, truth=ramp, inserts=())
    truth = run(dataclasses.replace(study, original=original, doses=(1.0,), seeds=(5,)), tmp_path).ground.truth
    columns = truth.grid.first_voxel_mm[0] + np.arange(truth.grid.shape[2]) * truth.grid.spacing_mm[2]
    known = truth.valid[2, 25]
    assert 20 < known.sum() < known.size
    np.testing.assert_allclose(truth.values[2, 25][known], 2 * columns[known], atol=0.02)


def test_a_long_reconstruction_leaves_its_state_until_the_cell_is_done(study, tmp_path, monkeypatch):
    """Interrupted in the second pass, it is handed what the first one left; a state of other bytes is not."""
    monkeypatch.setattr("lampyris.checkpoint.STATE_S", 0.0)
    study = dataclasses.replace(study, doses=(1.0,), seeds=(5,), recipes=(recipe(),))
    measure, met = engine.measure, []

    def passes(corrected, chosen, ground, watch, trail):
        met.append(trail.load())
        if met[-1] is None:
            trail.save({"image": np.arange(7.0)})
            raise KeyboardInterrupt
        return measure(corrected, chosen, ground, watch, trail)

    monkeypatch.setattr(engine, "measure", passes)
    with pytest.raises(KeyboardInterrupt):
        run(study, tmp_path)
    (state,) = (tmp_path / "cells").glob("state-*")
    kept = state.read_bytes()
    state.write_bytes(kept[:-30])
    said = []
    with pytest.raises(KeyboardInterrupt):
        run(study, tmp_path, said.append)
    assert any(state.name in one for one in said)
    run(study, tmp_path)
    np.testing.assert_array_equal(met[-1]["image"], np.arange(7.0))
    assert not list((tmp_path / "cells").glob("state-*"))
