"""The table of stations: nothing waits for what nobody gives, and routes are found or refused."""

from dataclasses import replace
from types import SimpleNamespace

import pytest

from lampyris import path
from lampyris.model import (
    Assessment,
    ProgramError,
    Projections,
    RawScan,
    Recipe,
    RecipeError,
    Step,
    Study,
    Volume,
    silent,
)

GIVEN = {path.Subject, path.ScanOrder, Recipe, path.Reference, Study, path.Destination}


def test_no_station_waits_for_something_that_nobody_gives():
    have = set(GIVEN)
    for station in path.STATIONS:
        assert set(station.takes) <= have, station.name
        have.add(station.gives)


def test_no_two_stations_give_the_same():
    gives = [station.gives for station in path.STATIONS]
    assert len(set(gives)) == len(gives)


def test_a_raw_scan_is_not_simulated_again():
    names = [station.name for station in path.route({RawScan, Recipe}, Volume)]
    assert names == ["correct", "reconstruct"]


def test_the_whole_journey_runs_in_the_order_of_the_table():
    names = [station.name for station in path.route(GIVEN, path.Series)]
    assert names == ["simulate", "correct", "reconstruct", "passport", "assess", "write"]


def test_what_is_missing_is_named():
    with pytest.raises(ProgramError, match="Recipe"):
        path.route({RawScan}, Projections)
    with pytest.raises(ProgramError, match="Reference"):
        path.route({RawScan, Recipe}, Assessment)


def test_an_unknown_recipe_lists_the_known():
    with pytest.raises(RecipeError, match="routine"):
        path.recipe("micro-wave")


@pytest.mark.parametrize("name", ["routine", "industrial"])
def test_a_known_recipe_bears_its_name(name):
    assert path.recipe(name).name == name


@pytest.mark.parametrize(
    ("method", "wanted"),
    [("auto", Step("whole_scan")), ("pwls", Step("half_scan")), ("pwls", Step.of("replicates", number=2))],
)
def test_a_passport_that_a_method_cannot_have_is_refused_before_any_work(method, wanted):
    """Neither image nor projections are looked at: there are none."""
    recipe = replace(path.recipe("routine"), method=Step(method), passport=wanted)
    with pytest.raises(
        RecipeError, match=f"passport .*{wanted.name}.* for method '{method}': expected none, half_scan"
    ):
        path.run_passport(None, None, recipe, silent)


def test_slices_that_the_processor_made_early_are_not_put_into_a_card_s_image(monkeypatch):
    """An image is one engine's from the first slice to the last."""
    shelf, asked = SimpleNamespace(), []
    scan = SimpleNamespace(history=(), geometry=SimpleNamespace(shape=(9, 2, 3)))
    monkeypatch.setattr(path.recon, "reconstruct", lambda *_, engine, shelf, **__: asked.append((engine, shelf)))
    for engine in ("cpu", "cuda"):
        path.run_reconstruct(scan, path.recipe("routine"), silent, None, shelf, engine)
    assert [(engine, given is None) for engine, given in asked] == [("cpu", False), ("cuda", True)]
