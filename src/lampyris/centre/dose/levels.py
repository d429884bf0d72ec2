"""Body part or region → examination; examination and age → reference levels, each with its source.

Reference levels are for the medians of groups (ICRP Publication 135, 2017): no patient is measured by them.
"""

import json
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any, Literal, TypeAlias

Quantity: TypeAlias = Literal["ctdivol", "dlp"]
QUANTITIES: dict[Quantity, str] = {"ctdivol": "mGy", "dlp": "mGy·cm"}
"""What levels are told in, and their units."""

FEW = 20
"""A median of fewer irradiations is not compared: ICRP Publication 135 asks for some twenty patients."""


@dataclass(frozen=True, slots=True)
class Level:
    """The level of one quantity for one examination, in the set of one authority.

    `high` is the reference level (75th percentile of a survey), `typical` its median and `low` its 25th percentile,
    under which images may be too noisy to answer the question; None = the set does not tell it. `verified` is false
    where nobody has yet held the value against the publication itself.
    """

    examination: str
    quantity: Quantity
    high: float
    typical: float | None
    low: float | None
    authority: str
    source: str
    edition: str
    indication: str
    verified: bool


def examinations() -> tuple[str, ...]:
    """The keys of all examinations, in the order of the body."""
    return tuple(_data()["examinations"])


def examination_of(region: str | None) -> str:
    """The examination of a BodyPartExamined or of a region's meaning; empty for what is none of them.

    >>> examination_of("Chest, Abdomen and Pelvis"), examination_of("CHEST"), examination_of("Entire body")
    ('chest_abdomen_pelvis', 'chest', '')
    """
    letters = "".join(one for one in (region or "").upper() if one.isalpha())
    return _names().get(letters, "")


def levels_for(examination: str, age_class: str = "adult") -> tuple[Level, ...]:
    """The levels of an examination, the first set of the data file first; none for children or another body part."""
    return tuple(one for one in all_levels() if one.examination == examination) if age_class == "adult" else ()


@cache
def all_levels() -> tuple[Level, ...]:
    """Every level of the data file."""
    return tuple(
        Level(
            one["examination"], quantity, *_percentiles(one[quantity]), each["authority"], each["source"],
            each["edition"], one.get("indication", ""), each["verified"],
        )
        for each in _data()["sets"]
        for one in each["levels"]
        for quantity in QUANTITIES
        if quantity in one
    )  # fmt: skip


def _percentiles(told: list[float | None]) -> tuple[float, float | None, float | None]:
    high, typical, low = told
    assert high is not None
    return high, typical, low


@cache
def _names() -> dict[str, str]:
    return {name: key for key, names in _data()["examinations"].items() for name in names}


@cache
def _data() -> dict[str, Any]:
    data: dict[str, Any] = json.loads((files(__package__) / "reference_levels.json").read_text("utf-8"))
    return data
