"""Assessment and limits → pass, look or stop, with the reasons."""

import dataclasses
import json
import math
from collections.abc import Iterable
from functools import cache
from importlib.resources import files
from typing import Any

from lampyris.model import Assessment, Limit, RecipeError, Verdict

NOT_MEASURED = "not measured: "
"""How a reason begins that tells why a figure is missing; it alone changes no verdict."""

_RANK: dict[Verdict, int] = {"pass": 0, "look": 1, "stop": 2}


def judge(assessment: Assessment, limits: Iterable[Limit]) -> Assessment:
    """The same assessment with verdict and reasons.

    A figure outside `stop` holds the image back, outside `look` calls for a person. A figure that is NaN or infinite
    stops, whether a limit names it or not; a limit whose figure was not measured calls for a person. A verdict is only
    ever made worse. Raises RecipeError when a limit's bounds contradict each other.
    """
    verdict = assessment.verdict
    reasons = list(assessment.reasons)
    for figure in assessment.figures:
        if not math.isfinite(figure.value):
            verdict = _worse(verdict, "stop")
            reasons.append(f"stop: {figure.name} is {figure.value}: the measurement failed")
    for limit in limits:
        _consistent(limit)
        one, reason = _one(assessment, limit)
        verdict = _worse(verdict, one)
        reasons.extend(reason)
    return dataclasses.replace(assessment, verdict=verdict, reasons=tuple(reasons))


def limits(name: str) -> tuple[Limit, ...]:
    """A named set of limits from the data file, each with source and edition. RecipeError lists what there is."""
    sets = _data()
    if name not in sets:
        raise RecipeError(f"no set of limits {name!r}; there are {', '.join(sets)}")
    return tuple(
        Limit(one["figure"], _pair(one["look"]), _pair(one["stop"]), f"{one['source']}, {one['edition']}")
        for one in sets[name]
    )


@cache
def _data() -> dict[str, list[dict[str, Any]]]:
    data: dict[str, list[dict[str, Any]]] = json.loads(
        files("lampyris.quality").joinpath("limits.json").read_text("utf-8")
    )
    return data


def _pair(bounds: list[float | None]) -> tuple[float | None, float | None]:
    low, high = bounds
    return low, high


def _one(assessment: Assessment, limit: Limit) -> tuple[Verdict, list[str]]:
    """Verdict and reasons of one limit."""
    figure = next((each for each in assessment.figures if each.name == limit.figure), None)
    if figure is None:
        start = f"{NOT_MEASURED}{limit.figure}: "
        why = [each.removeprefix(start) for each in assessment.reasons if each.startswith(start)]
        return "look", [f"look: {limit.figure} was not measured" + (f": {why[0]}" if why else "")]
    if not math.isfinite(figure.value):
        return "stop", []
    for level, bounds in (("stop", limit.stop), ("look", limit.look)):
        if not _within(figure.value, bounds):
            said = f"{level}: {figure.name} is {figure.value:.4g} {figure.unit}, allowed {_text(bounds)}"
            return "stop" if level == "stop" else "look", [said + (f" ({limit.source})" if limit.source else "")]
    return "pass", []


def _consistent(limit: Limit) -> None:
    for name, (low, high) in (("look", limit.look), ("stop", limit.stop)):
        if low is not None and high is not None and low > high:
            raise RecipeError(f"limit on {limit.figure}: {name} bounds {low}…{high} are exchanged")
    if not all(_within(each, limit.stop) for each in limit.look if each is not None):
        raise RecipeError(
            f"limit on {limit.figure}: look {_text(limit.look)} reaches beyond stop {_text(limit.stop)}; exchanged?"
        )


def _within(value: float, bounds: tuple[float | None, float | None]) -> bool:
    low, high = bounds
    return (low is None or value >= low) and (high is None or value <= high)


def _text(bounds: tuple[float | None, float | None]) -> str:
    low, high = bounds
    return f"{'−∞' if low is None else f'{low:g}'} … {'∞' if high is None else f'{high:g}'}"


def _worse(one: Verdict, other: Verdict) -> Verdict:
    return one if _RANK[one] >= _RANK[other] else other
