"""What a card took for each recipe → a JSON file, and back: for the model of a province, and to compare cards."""

import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path

FORMAT = "lampyris-gpu-figures-1"


@dataclass(frozen=True, slots=True)
class RecipeFigures:
    """One recipe on one scan: `seconds` by station (reading the container is in the first), of the first scan alone.

    `per_hour` scans of a card whose pipeline is full, None where the time was up before; `card_bytes` its arrays took
    of the card's memory at most.
    """

    recipe: str
    seconds: dict[str, float]
    card_bytes: int
    per_hour: float | None = None

    @property
    def whole_s(self) -> float:
        return sum(self.seconds.values())


@dataclass(frozen=True, slots=True)
class Figures:
    """All recipes that were timed on one card, and of what scan in words."""

    card: str
    driver: str
    memory_bytes: int
    commit: str
    scan: str
    recipes: tuple[RecipeFigures, ...]

    def write(self, place: Path) -> None:
        place.write_text(json.dumps({"format": FORMAT, **dataclasses.asdict(self)}, indent=1) + "\n", "utf-8")

    @staticmethod
    def read(place: Path) -> "Figures":
        """What `write` wrote; SystemExit for anything else, as a benchmark ends."""
        data = json.loads(place.read_text("utf-8"))
        if not isinstance(data, dict) or data.pop("format", None) != FORMAT:
            raise SystemExit(f"{place} holds no figures of `python -m bench.gpu --write {place}`")
        recipes = tuple(RecipeFigures(**one) for one in data.pop("recipes"))
        return Figures(recipes=recipes, **data)
