"""The gate: every verdict, the worst one wins, and what was not measured is looked at."""

import json
from importlib.resources import files

import pytest

from lampyris.model import Assessment, Figure, Limit, RecipeError
from lampyris.quality import gate

NOISE = Limit("noise", (1.0, 30.0), (0.0, 90.0), "house rule")


def image(**figures: float) -> Assessment:
    return Assessment(tuple(Figure(name, value, "HU") for name, value in figures.items()))


@pytest.mark.parametrize(
    ("value", "verdict"),
    [(1.0, "pass"), (30.0, "pass"), (30.1, "look"), (0.9, "look"), (90.0, "look"), (90.1, "stop"), (-0.1, "stop")],
)
def test_bounds_belong_to_the_better_side(value: float, verdict: str) -> None:
    judged = gate.judge(image(noise=value), [NOISE])
    assert judged.verdict == verdict
    assert len(judged.reasons) == (verdict != "pass")


def test_a_reason_names_figure_value_bound_and_source() -> None:
    reason = gate.judge(image(noise=47.25), [NOISE]).reasons[0]
    assert reason == "look: noise is 47.25 HU, allowed 1 … 30 (house rule)"


def test_the_worst_verdict_wins_whatever_the_order() -> None:
    limits = [Limit("a", (None, 1), (None, 5)), Limit("b", (None, 1), (None, 5))]
    assert gate.judge(image(a=9, b=2), limits).verdict == "stop"
    assert gate.judge(image(a=2, b=9), limits).verdict == "stop"
    assert len(gate.judge(image(a=2, b=9), limits).reasons) == 2


def test_a_missing_figure_is_looked_at_with_its_reason() -> None:
    assessment = Assessment((), reasons=("not measured: noise: no soft tissue in the image",))
    judged = gate.judge(assessment, [NOISE])
    assert judged.verdict == "look"
    assert judged.reasons[-1] == "look: noise was not measured: no soft tissue in the image"
    assert gate.judge(assessment, []).verdict == "pass"


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_nan_stops_even_without_a_limit(value: float) -> None:
    judged = gate.judge(image(other=value), [])
    assert judged.verdict == "stop"
    assert "other" in judged.reasons[0]
    assert len(gate.judge(image(noise=value), [NOISE]).reasons) == 1


def test_a_verdict_is_never_made_better() -> None:
    stopped = Assessment((Figure("noise", 10.0, "HU"),), verdict="stop", reasons=("stop: before",))
    judged = gate.judge(stopped, [NOISE])
    assert (judged.verdict, judged.reasons) == ("stop", ("stop: before",))


def test_a_bound_may_be_a_single_value() -> None:
    assert gate.judge(image(a=1), [Limit("a", (1, 1), (1, 1))]).verdict == "pass"


def test_open_bounds_hold_everything() -> None:
    assert gate.judge(image(a=-1e30), [Limit("a", (None, 0), (None, 0))]).verdict == "pass"


@pytest.mark.parametrize(
    "limit",
    [Limit("a", (2, 1), (None, None)), Limit("a", (None, None), (3, 1)), Limit("a", (0, 10), (2, 8))],
)
def test_contradictory_limits_are_refused(limit: Limit) -> None:
    with pytest.raises(RecipeError, match="limit on a"):
        gate.judge(image(a=1), [limit])


def test_the_limits_on_file_are_consistent_and_have_sources() -> None:
    data = json.loads(files("lampyris.quality").joinpath("limits.json").read_text("utf-8"))
    for name, entries in data.items():
        assert len(gate.limits(name)) == len(entries)
        gate.judge(Assessment(()), gate.limits(name))
        for entry in entries:
            assert entry["source"]
            assert entry["edition"]
            assert entry["checked_by"]


def test_an_unknown_set_of_limits_is_refused() -> None:
    with pytest.raises(RecipeError, match="there are image"):
        gate.limits("strict")
