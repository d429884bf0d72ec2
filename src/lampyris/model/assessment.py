"""What an image is worth: figures with their origin and settings, and the gate's verdict."""

from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

from lampyris.model.recipe import Verdict

Origin: TypeAlias = Literal["reported", "computed", "estimated"]


@dataclass(frozen=True, slots=True)
class Figure:
    """One number: `reported` by the scanner, `computed` from this image or scan, or `estimated` with assumptions.

    `settings` holds everything needed to repeat it (region, bins, averages …) as sorted (name, JSON value) pairs.
    """

    name: str
    value: float
    unit: str
    origin: Origin = "computed"
    settings: tuple[tuple[str, Any], ...] = ()

    def as_dict(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "value": self.value,
            "unit": self.unit,
            "origin": self.origin,
            "settings": dict(self.settings),
        }


@dataclass(frozen=True, slots=True)
class Curve:
    """A figure along an axis, e.g. the radial NPS in HU²mm² over 1/mm."""

    name: str
    x: tuple[float, ...]
    y: tuple[float, ...]
    x_unit: str
    y_unit: str
    settings: tuple[tuple[str, Any], ...] = ()

    def as_dict(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "x": list(self.x),
            "y": list(self.y),
            "x_unit": self.x_unit,
            "y_unit": self.y_unit,
            "settings": dict(self.settings),
        }


@dataclass(frozen=True, slots=True)
class Assessment:
    """All figures and curves of one image, and whether it may pass: `reasons` say what made it look or stop."""

    figures: tuple[Figure, ...]
    curves: tuple[Curve, ...] = ()
    verdict: Verdict = "pass"
    reasons: tuple[str, ...] = ()

    def figure(self, name: str) -> Figure:
        """The figure of that name; KeyError lists what there is."""
        for one in self.figures:
            if one.name == name:
                return one
        raise KeyError(f"no figure {name!r} among {[one.name for one in self.figures]}")

    def as_dict(self) -> dict[str, Any]:
        return {
            "figures": [one.as_dict() for one in self.figures],
            "curves": [one.as_dict() for one in self.curves],
            "verdict": self.verdict,
            "reasons": list(self.reasons),
        }
