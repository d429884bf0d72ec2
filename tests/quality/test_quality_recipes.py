"""The recipes on file: they parse, their digests do not depend on the order of keys, their limits are those on file."""

import json
from importlib.resources import files

import pytest

from lampyris.model import Limit, Recipe, RecipeError
from lampyris.quality import limits

RECIPES = {one.name.removesuffix(".json"): one for one in files("lampyris").joinpath("recipes").iterdir()}
SETS = {
    "routine": ("image", "body"),
    "routine-lung": ("image", "sharp"),
    "routine-bone": ("image", "sharp"),
    "routine-head": ("image", "head"),
    "quality-control": ("image", "body", "water"),
    "industrial": ("object",),
}


def backwards(value: object) -> object:
    """The same JSON with the keys of every object in reverse order."""
    if isinstance(value, dict):
        return {key: backwards(value[key]) for key in reversed(value)}
    return [backwards(each) for each in value] if isinstance(value, list) else value


def test_every_recipe_is_known_here() -> None:
    assert set(RECIPES) == set(SETS)


@pytest.mark.parametrize("name", SETS)
def test_a_recipe_parses_under_its_own_name(name: str) -> None:
    recipe = Recipe.from_json(RECIPES[name].read_text("utf-8"))
    assert recipe.name == name
    assert recipe.description.endswith(".")
    assert recipe.corrections[0].name == "dark_air"
    assert "log" in [step.name for step in recipe.corrections]


@pytest.mark.parametrize("name", SETS)
def test_a_digest_does_not_depend_on_the_order_of_keys(name: str) -> None:
    text = RECIPES[name].read_text("utf-8")
    recipe = Recipe.from_json(text)
    turned = json.dumps(backwards(json.loads(text)))
    assert turned != text
    assert Recipe.from_json(turned).digest() == recipe.digest()
    assert Recipe.from_json(recipe.to_json()).digest() == recipe.digest()


def test_digests_are_all_different_and_see_every_entry() -> None:
    digests = {Recipe.from_json(one.read_text("utf-8")).digest() for one in RECIPES.values()}
    assert len(digests) == len(RECIPES)
    data = json.loads(RECIPES["routine"].read_text("utf-8"))
    data["limits"][0]["stop"] = [None, 1]
    assert Recipe.from_json(json.dumps(data)).digest() not in digests


@pytest.mark.parametrize(("name", "sets"), SETS.items())
def test_the_limits_of_a_recipe_are_those_of_the_data_file(name: str, sets: tuple[str, ...]) -> None:
    """One truth: a recipe carries its limits so that its digest covers them, but does not invent any."""
    wanted: list[Limit] = [limit for one in sets for limit in limits(one)]
    assert list(Recipe.from_json(RECIPES[name].read_text("utf-8")).limits) == wanted


def test_a_recipe_with_an_unknown_entry_is_refused() -> None:
    data = json.loads(RECIPES["routine"].read_text("utf-8"))
    with pytest.raises(RecipeError, match="unknown entries \\['kernal'\\]"):
        Recipe.from_json(json.dumps(data | {"kernal": "body"}))
