"""What an image is worth: figures with their origin and settings, and the gate's verdict."""

from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import numpy as np

from lampyris.model.errors import InputError
from lampyris.model.recipe import Verdict
from lampyris.model.volume import Volume

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
class Detection:
    """One task of the passport: a disc of `size_mm` and `contrast_hu` in some tissue, in one slice of this image.

    `detectability` is d′ in noise of `noise_hu`; `met` tells whether it reaches the threshold that counts as seen.
    """

    task: str
    tissue: str
    size_mm: float
    contrast_hu: float
    noise_hu: float
    detectability: float
    met: bool

    def as_dict(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in Detection.__slots__}


@dataclass(frozen=True, slots=True, eq=False)
class Passport:
    """What an image may be trusted with: its noise at every place, its bias against the analytic image, its tasks.

    `noise` is the standard deviation and `bias` the low-pass difference to the analytic image of the same scan, both
    in the image's unit and frame on a coarser lattice; None = was not made (`bias` of an analytic image is nothing to
    speak of). `figures` and `reasons` go into the assessment, where the gate sees them.
    """

    noise: Volume | None = None
    bias: Volume | None = None
    figures: tuple[Figure, ...] = ()
    curves: tuple[Curve, ...] = ()
    detections: tuple[Detection, ...] = ()
    reasons: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for name, volume in (("noise", self.noise), ("bias", self.bias)):
            if volume is not None and not np.isfinite(volume.values).all():
                bad = int((~np.isfinite(volume.values)).sum())
                raise InputError(f"the passport's {name} map holds {bad} NaN or infinite voxels")
        if self.noise is not None and self.noise.values.min() < 0:
            raise InputError(f"a standard deviation of {self.noise.values.min():.3g}: expected none below 0")

    def as_dict(self) -> dict[str, Any]:
        return {
            "figures": [one.as_dict() for one in self.figures],
            "curves": [one.as_dict() for one in self.curves],
            "detections": [one.as_dict() for one in self.detections],
            "reasons": list(self.reasons),
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
