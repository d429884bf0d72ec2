"""The table of stations: nothing waits for what nobody gives, and routes are found or refused."""

import pytest

from lampyris import path
from lampyris.model import Assessment, ProgramError, Projections, RawScan, Recipe, RecipeError, Study, Volume

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
