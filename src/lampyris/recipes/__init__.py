"""A recipe's name → the Recipe: one of our own methods for a region of the body, or a JSON file.

`methods.json` says how an image is made, `regions.json` for what, `others.json` holds recipes for no region of a body.
A name is METHOD (for the body) or METHOD-REGION: every method has every region. What is composed is a whole Recipe,
and its digest covers all of it: kernel, settings, digest of the learned prior, grid and limits.
"""

import json
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

from lampyris.model import Recipe, RecipeError
from lampyris.quality import limits

BODY = "body"
"""The region of a method's bare name."""
CORRECTIONS = ("dark_air", "bad_cells", "log", "water_beam_hardening")
"""What every scan of a body needs."""


def names() -> tuple[str, ...]:
    """All recipes of our own: methods by region, the body first under its method's bare name, then the others."""
    regions = [BODY, *(region for region in _data("regions") if region != BODY)]
    composed = [_name(method, region) for method in _data("methods") for region in regions]
    return (*composed, *_data("others"))


def recipe(name: str) -> Recipe:
    """A recipe by name, or from a .json file. Raises RecipeError with the known names."""
    if name in _data("others"):
        return _recipe(name, _data("others")[name])
    for method in _data("methods"):
        for region in _data("regions"):
            if name == _name(method, region):
                return _composed(method, region)
    if name.endswith(".json") and Path(name).is_file():
        return Recipe.from_json(Path(name).read_text("utf-8"))
    raise RecipeError(f"no recipe {name!r}; known are {', '.join(names())}, or give a .json file")


def _name(method: str, region: str) -> str:
    return method if region == BODY else f"{method}-{region}"


def _composed(method: str, region: str) -> Recipe:
    how, what = _data("methods")[method], _data("regions")[region]
    settings = {**how["method"], **how.get("by_region", {}).get(region, {})}
    return _recipe(
        _name(method, region),
        {
            "version": how["version"],
            "description": f"{how['description']}, {what['description']}.",
            "corrections": [*({"name": name} for name in CORRECTIONS), *what["corrections"]],
            "method": settings,
            "kernel": how.get("kernel", what["kernel"]),
            "grid": what["grid"],
            "passport": how["passport"],
            "limits": [*what["limits"], *how.get("limits", ())],
        },
    )


def _recipe(name: str, data: dict[str, Any]) -> Recipe:
    """A recipe whose limits are given as names of sets on file."""
    found = [limit for each in data["limits"] for limit in limits(each)]
    bounds = [
        {"figure": one.figure, "look": list(one.look), "stop": list(one.stop), "source": one.source} for one in found
    ]
    return Recipe.from_json(json.dumps({**data, "name": name, "limits": bounds}))


@cache
def _data(file: str) -> dict[str, Any]:
    data: dict[str, Any] = json.loads(files(__name__).joinpath(f"{file}.json").read_text("utf-8"))
    return data
