"""What is to be done with a scan, hashable and versioned; it is written into every image that it made."""

import json
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias

from lampyris.model.arrays import canonical_json, new_digest
from lampyris.model.errors import RecipeError

Verdict: TypeAlias = Literal["pass", "look", "stop"]


@dataclass(frozen=True, slots=True)
class Step:
    """One named step and its settings (JSON values, sorted by name)."""

    name: str
    settings: tuple[tuple[str, Any], ...] = ()

    @staticmethod
    def of(name: str, **settings: Any) -> "Step":
        return Step(name, tuple(sorted(settings.items())))

    def get(self, setting: str, default: Any = None) -> Any:
        return dict(self.settings).get(setting, default)

    def as_dict(self) -> dict[str, Any]:
        return {"name": self.name, **dict(self.settings)}


@dataclass(frozen=True, slots=True)
class GridRequest:
    """The image that is wanted. None = chosen from the scan: a field of view that holds the body, all that was scanned.

    `centre_mm` is (x, z) of the field of view in the gantry frame; `first_mm`, `last_mm` bound the slice centres
    along y; `slice_increment_mm` None = equal to the thickness.
    """

    matrix: int = 512
    field_of_view_mm: float | None = None
    centre_mm: tuple[float, float] | None = None
    slice_thickness_mm: float = 1.0
    slice_increment_mm: float | None = None
    first_mm: float | None = None
    last_mm: float | None = None

    def __post_init__(self) -> None:
        sizes = (self.matrix, self.slice_thickness_mm, self.field_of_view_mm or 1, self.slice_increment_mm or 1)
        if min(sizes) <= 0:
            raise RecipeError(f"grid request {self}: matrix, field of view, thickness and increment must be > 0")


@dataclass(frozen=True, slots=True)
class Limit:
    """A bound on one figure of the assessment: outside `look` a person looks, outside `stop` the image is held back."""

    figure: str
    look: tuple[float | None, float | None]
    stop: tuple[float | None, float | None]
    source: str = ""


@dataclass(frozen=True, slots=True)
class Recipe:
    """Name, version, corrections in order, method, kernel, grid, the gate's limits, and how the passport is made."""

    name: str
    version: str
    description: str
    corrections: tuple[Step, ...]
    method: Step
    kernel: str
    grid: GridRequest = field(default_factory=GridRequest)
    limits: tuple[Limit, ...] = ()
    passport: Step = Step("half_scan")

    def as_dict(self) -> dict[str, Any]:
        grid = {name: getattr(self.grid, name) for name in GridRequest.__slots__}
        return {
            "name": self.name,
            "version": self.version,
            "description": self.description,
            "corrections": [step.as_dict() for step in self.corrections],
            "method": self.method.as_dict(),
            "kernel": self.kernel,
            "grid": {name: list(value) if isinstance(value, tuple) else value for name, value in grid.items()},
            "passport": self.passport.as_dict(),
            "limits": [
                {"figure": one.figure, "look": list(one.look), "stop": list(one.stop), "source": one.source}
                for one in self.limits
            ],
        }

    def to_json(self) -> str:
        """Canonical JSON: the text whose SHA-256 is the digest."""
        return canonical_json(self.as_dict())

    def digest(self) -> str:
        digest = new_digest()
        digest.update(self.to_json().encode())
        return str(digest.hexdigest())

    @staticmethod
    def from_json(text: str) -> "Recipe":
        """Parse a recipe; an unknown or missing entry is refused by name."""
        try:
            data = json.loads(text)
            known = {"name", "version", "description", "corrections", "method", "kernel", "grid", "passport", "limits"}
            if unknown := set(data) - known:
                raise RecipeError(f"recipe has unknown entries {sorted(unknown)}; known are {sorted(known)}")
            grid = dict(data.get("grid", {}))
            if grid.get("centre_mm") is not None:
                grid["centre_mm"] = tuple(grid["centre_mm"])
            return Recipe(
                name=data["name"],
                version=data["version"],
                description=data["description"],
                corrections=tuple(_step(one) for one in data["corrections"]),
                method=_step(data["method"]),
                kernel=data["kernel"],
                grid=GridRequest(**grid),
                passport=_step(data.get("passport", {"name": "half_scan"})),
                limits=tuple(_limit(one) for one in data.get("limits", [])),
            )
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise RecipeError(f"recipe cannot be read: {type(error).__name__}: {error}") from error


def _step(data: dict[str, Any]) -> Step:
    settings = dict(data)
    return Step.of(settings.pop("name"), **settings)


def _limit(data: dict[str, Any]) -> Limit:
    low, high = data["look"]
    stop_low, stop_high = data["stop"]
    return Limit(data["figure"], (low, high), (stop_low, stop_high), data.get("source", ""))
