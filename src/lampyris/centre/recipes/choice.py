"""Active recipes and rules of one moment → the recipe of a scan that names one, or none."""

import dataclasses
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import Any

from lampyris.model import InputError, Recipe

_AGE = re.compile(r"(\d{3})([DWMY])")
_YEARS = {"D": 1 / 365.25, "W": 7 / 365.25, "M": 1 / 12, "Y": 1.0}
_TEXT = re.compile(r"[^\x00-\x1f]{1,64}")
_OLDEST = 150.0


@dataclass(frozen=True, slots=True)
class Rule:
    """Scans of this part of the body, protocol and age get this recipe; None = of any.

    `protocol` is a ProtocolName (0018,1030) in which * stands for anything; `body_part` a BodyPartExamined (0018,0015);
    ages in years, `age_below` not included. A scan that does not tell what a rule asks is not meant by it.
    """

    recipe: str
    body_part: str | None = None
    protocol: str | None = None
    age_from: float | None = None
    age_below: float | None = None

    def __post_init__(self) -> None:
        for name in ("body_part", "protocol"):
            text = getattr(self, name)
            if text is not None and not _TEXT.fullmatch(text):
                raise InputError(f"{name.replace('_', ' ')}: expected 1 … 64 characters that can be printed")
        low, high = self.age_from or 0.0, _OLDEST if self.age_below is None else self.age_below
        if not 0.0 <= low < high <= _OLDEST:
            raise InputError(f"ages {low:g} … {high:g}: expected years, 0 ≤ from < below ≤ {_OLDEST:g}")

    def fits(self, body_part: str | None, protocol: str | None, age: float | None) -> bool:
        """Whether a scan of this is meant."""
        if self.body_part is not None and _folded(body_part) != _folded(self.body_part):
            return False
        if self.protocol is not None and not fnmatchcase(_folded(protocol), _folded(self.protocol)):
            return False
        if self.age_from is None and self.age_below is None:
            return True
        return age is not None and (self.age_from or 0.0) <= age < (self.age_below or _OLDEST)

    def as_dict(self) -> dict[str, Any]:
        return {name: value for name, value in dataclasses.asdict(self).items() if value is not None}


@dataclass(frozen=True, slots=True, eq=False)
class Library:
    """Recipes that were active at one moment, by name, in canonical JSON; the rules of that moment, in their order.

    `default` is what scans get that no rule means; None = the package's own choice.
    """

    texts: Mapping[str, str] = field(repr=False)
    rules: Sequence[Rule] = ()
    default: str | None = None

    @staticmethod
    def of_package(default: str | None = None) -> "Library":
        """All recipes of the package, and no rule: a centre on its first day."""
        from lampyris import recipes  # with it comes numba

        return Library({name: recipes.recipe(name).to_json() for name in recipes.names()}, (), default)

    def recipe(self, name: str) -> Recipe | None:
        """The active recipe of that name; None when there is none."""
        text = self.texts.get(name)
        return None if text is None else Recipe.from_json(text)

    def meant(self, body_part: str | None, protocol: str | None, age: str | None) -> str | None:
        """The recipe's name for a scan that names none; `age` as DICOM writes it (056Y)."""
        for rule in self.rules:
            if rule.fits(body_part, protocol, years_of(age)):
                return rule.recipe
        return self.default


def years_of(age: str | None) -> float | None:
    """A DICOM age string in years; None for what is none.

    >>> years_of("018M")
    1.5
    """
    found = _AGE.fullmatch(age or "")
    return None if found is None else int(found[1]) * _YEARS[found[2]]


def _folded(text: str | None) -> str:
    return (text or "").strip().casefold()
