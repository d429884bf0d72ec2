"""RawScan, Projections, Recipe, Study: the digest knows every byte, mistakes are refused, identity stays hidden."""

import dataclasses
import json

import numpy as np
import pytest

from lampyris.model import (
    Acquisition,
    CalibrationError,
    GridRequest,
    InputError,
    Limit,
    Projections,
    RawScan,
    Recipe,
    RecipeError,
    Step,
    Study,
)


@pytest.fixture
def scan(lopsided_helix, rng):
    counts = rng.integers(0, 60000, lopsided_helix.shape).astype(np.uint16)
    cells = counts.shape[1:]
    return RawScan(
        counts,
        lopsided_helix,
        np.full(97, 0.3),
        dark=np.full(cells, 31.0),
        air=np.full(cells, 5e4),
        air_exposure_mas=0.4,
    )


def test_id_changes_with_any_byte_and_any_fact(scan):
    assert scan.id == dataclasses.replace(scan, id="").id
    counts = np.array(scan.counts)
    counts[50, 3, 17] += 1
    variants = [
        dataclasses.replace(scan, counts=counts, id=""),
        dataclasses.replace(scan, air_exposure_mas=0.41, id=""),
        dataclasses.replace(scan, dark=np.full((7, 61), 32.0), id=""),
        dataclasses.replace(scan, acquisition=Acquisition(PatientPosition="FFP"), id=""),
        dataclasses.replace(scan, bad_cells=np.zeros((7, 61), bool), id=""),
    ]
    assert len({scan.id, *(one.id for one in variants)}) == 6


def test_id_does_not_depend_on_byte_order(scan):
    swapped = np.array(scan.counts).astype(">u2")
    assert dataclasses.replace(scan, counts=swapped, id="").id == scan.id


def test_transposed_counts_are_refused(lopsided_helix):
    with pytest.raises(InputError, match="transposed frames"):
        RawScan(np.zeros((97, 61, 7), np.uint16), lopsided_helix, np.ones(97))


def test_air_of_another_collimation_is_refused(scan):
    with pytest.raises(CalibrationError, match="another collimation"):
        dataclasses.replace(scan, air=np.ones((8, 61)))


def test_view_without_exposure_is_refused(scan):
    exposure = np.full(97, 0.3)
    exposure[13] = 0.0
    with pytest.raises(InputError, match="view 13"):
        dataclasses.replace(scan, exposure_mas=exposure)


def test_water_attenuation_in_the_wrong_unit_is_refused(lopsided_helix):
    zero = np.zeros(lopsided_helix.shape, np.float32)
    with pytest.raises(InputError, match="1/cm"):
        Projections(zero, zero, lopsided_helix, water_per_mm=1.92)


RECIPE = Recipe(
    "routine", "1", "words", (Step.of("log"), Step.of("ring", strength=0.5)), Step.of("auto"), "body",
    GridRequest(centre_mm=(3.0, -4.0)), (Limit("noise", (None, 20.0), (None, 60.0), "house"),),
)  # fmt: skip


def test_recipe_comes_back_from_its_json_and_keeps_its_digest():
    assert Recipe.from_json(RECIPE.to_json()) == RECIPE
    shuffled = json.dumps(dict(reversed(json.loads(RECIPE.to_json()).items())), indent=3)
    assert Recipe.from_json(shuffled).digest() == RECIPE.digest()


def test_any_change_of_a_recipe_changes_its_digest():
    assert dataclasses.replace(RECIPE, kernel="lung").digest() != RECIPE.digest()
    assert dataclasses.replace(RECIPE, corrections=RECIPE.corrections[::-1]).digest() != RECIPE.digest()


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("{", "cannot be read"),
        ('{"name": "x"}', "version"),
        (RECIPE.to_json()[:-1] + ',"colour":1}', "colour"),
        (RECIPE.to_json().replace('"matrix":512', '"matrix":0'), "matrix"),
    ],
)
def test_broken_recipe_is_refused_by_name(text, says):
    with pytest.raises(RecipeError, match=says):
        Recipe.from_json(text)


def test_study_never_spells_out_the_patient():
    study = Study(PatientName="张^三", PatientID="4711")
    assert "张" not in f"{study!r}{study}"
    assert "4711" not in f"{study!r}{study}"
