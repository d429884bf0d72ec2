"""Recipes by name: all of them parse, tell themselves apart, and carry the limits of the data file."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from lampyris import recipes
from lampyris.model import Recipe, RecipeError
from lampyris.quality import limits
from lampyris.recon.iterative import plug_and_play
from lampyris.recon.iterative.run import DEFAULTS

METHODS = ("routine", "swift", "model", "micro")
REGIONS = ("", "-lung", "-bone", "-head", "-child")
SETS = {
    "": ("image", "body"),
    "-lung": ("image", "sharp"),
    "-bone": ("image", "sharp"),
    "-head": ("image", "head"),
    "-child": ("image", "child"),
}


def backwards(value: object) -> object:
    """The same JSON with the keys of every object in reverse order."""
    if isinstance(value, dict):
        return {key: backwards(value[key]) for key in reversed(value)}
    return [backwards(each) for each in value] if isinstance(value, list) else value


def test_every_method_has_every_region() -> None:
    composed = {method + region for method in METHODS for region in REGIONS}
    assert set(recipes.names()) == composed | {"quality-control", "industrial"}
    assert len(recipes.names()) == len(set(recipes.names()))


@pytest.mark.parametrize("name", recipes.names())
def test_a_recipe_parses_under_its_own_name(name: str) -> None:
    recipe = recipes.recipe(name)
    assert recipe.name == name
    assert recipe.description.endswith(".")
    assert recipe.corrections[0].name == "dark_air"
    assert "log" in [step.name for step in recipe.corrections]


@pytest.mark.parametrize("name", recipes.names())
def test_a_digest_does_not_depend_on_the_order_of_keys(name: str) -> None:
    recipe = recipes.recipe(name)
    turned = json.dumps(backwards(json.loads(recipe.to_json())))
    assert turned != recipe.to_json()
    assert Recipe.from_json(turned).digest() == recipe.digest()


def test_digests_are_all_different_and_see_every_entry() -> None:
    digests = {recipes.recipe(name).digest() for name in recipes.names()}
    assert len(digests) == len(recipes.names())
    routine = recipes.recipe("routine")
    assert replace(routine, limits=routine.limits[1:]).digest() not in digests
    assert replace(routine, passport=recipes.recipe("industrial").passport).digest() not in digests


@pytest.mark.parametrize("region", REGIONS)
@pytest.mark.parametrize("method", METHODS)
def test_the_limits_of_a_recipe_are_those_of_the_data_file(method: str, region: str) -> None:
    """One truth: a recipe carries its limits so that its digest covers them, but does not invent any."""
    wanted = [limit for one in SETS[region] for limit in limits(one)]
    assert list(recipes.recipe(method + region).limits)[: len(wanted)] == wanted


@pytest.mark.parametrize("region", ["-bone", "-head"])
def test_where_bone_is_dense_its_hardening_is_corrected(region: str) -> None:
    for method in METHODS:
        assert recipes.recipe(method + region).corrections[-1].name == "bone_beam_hardening"


@pytest.mark.parametrize(("name", "settings"), [("model", DEFAULTS), ("micro", plug_and_play.DEFAULTS)])
def test_the_digest_covers_what_an_iteration_does(name: str, settings: dict[str, object]) -> None:
    """A setting left to a default of the code could change without the recipe's digest changing."""
    for region in REGIONS:
        assert set(settings) <= set(dict(recipes.recipe(name + region).method.settings))


def test_a_recipe_with_an_unknown_entry_is_refused() -> None:
    data = json.loads(recipes.recipe("routine").to_json())
    with pytest.raises(RecipeError, match="unknown entries \\['kernal'\\]"):
        Recipe.from_json(json.dumps(data | {"kernal": "body"}))


@pytest.mark.parametrize("name", ["micro-wave", "routine-", "routine-body", "-lung", ""])
def test_an_unknown_name_is_refused_with_the_known_ones(name: str) -> None:
    with pytest.raises(RecipeError, match=r"no recipe .*known are routine, routine-lung"):
        recipes.recipe(name)


def test_a_recipe_may_be_a_file(tmp_path: Path) -> None:
    own = replace(recipes.recipe("routine"), name="ours", kernel="hann")
    (tmp_path / "ours.json").write_text(own.to_json(), "utf-8")
    assert recipes.recipe(str(tmp_path / "ours.json")).digest() == own.digest()
