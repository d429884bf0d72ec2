"""One source, doses, recipes and seeds → the cells of a study, each with the key under which it is kept."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from lampyris.model import CalibrationError, InputError, RawScan, Recipe, Volume
from lampyris.model.arrays import canonical_json, new_digest
from lampyris.phantom import Insert, Phantom
from lampyris.simulate import lower_dose, realise


@dataclass(frozen=True, slots=True, eq=False)
class Original:
    """The scan that a study starts from, and what is known of the object.

    `quiet`: its counts are the means of a noise-free virtual scan, and every seed draws its own noise about them;
    otherwise it was measured, and noise is added to what it has. `truth` is a phantom or a volume in HU in the gantry
    frame; None: the baseline's image at full dose stands in for it.
    """

    title: str
    scan: RawScan
    quiet: bool
    truth: Phantom | Volume | None = None
    inserts: tuple[Insert, ...] = ()

    def __post_init__(self) -> None:
        if self.scan.noise is None:
            raise CalibrationError(
                f"{self.title}: its noise is not known, so a lower dose cannot be told from it; give the scan its gain"
                " and electronic noise, or a phantom or a CT volume to be scanned virtually"
            )

    def at(self, dose: float, seed: int) -> RawScan:
        """One realisation of the scan at a fraction of the dose."""
        rng = np.random.default_rng([seed, round(1e9 * dose)])
        return realise(self.scan, dose, rng) if self.quiet else lower_dose(self.scan, dose, rng)


@dataclass(frozen=True, slots=True, eq=False)
class Cell:
    """One image of a study."""

    dose: float
    seed: int
    recipe: Recipe

    @property
    def name(self) -> str:
        return f"{self.recipe.name} at {self.dose:g} of the dose, seed {self.seed}"


@dataclass(frozen=True, slots=True, eq=False)
class Study:
    """What is to be compared. The first recipe is the baseline; doses run from the highest to the lowest.

    Raises InputError for doses outside 0…1, for anything named twice, and where something is missing.
    """

    original: Original
    doses: tuple[float, ...]
    recipes: tuple[Recipe, ...]
    seeds: tuple[int, ...]
    version: str

    def __post_init__(self) -> None:
        bad = [dose for dose in self.doses if not 0 < dose <= 1]
        if bad:
            raise InputError(f"doses {bad}: expected fractions of the full dose, above 0 and at most 1")
        names = [recipe.name for recipe in self.recipes]
        for what, given in (("dose", self.doses), ("recipe", names), ("seed", self.seeds)):
            _distinct(what, given)
        object.__setattr__(self, "doses", tuple(sorted(self.doses, reverse=True)))

    @property
    def baseline(self) -> Recipe:
        return self.recipes[0]

    def seeds_at(self, dose: float) -> tuple[int, ...]:
        """Seeds that differ: a measured scan has but one realisation at its own dose."""
        return self.seeds[:1] if dose == 1 and not self.original.quiet else self.seeds

    def cells(self, recipes: Sequence[Recipe]) -> tuple[Cell, ...]:
        """All cells, those of one scan together; `recipes` are the study's own, their grid made one."""
        return tuple(
            Cell(dose, seed, recipe) for dose in self.doses for seed in self.seeds_at(dose) for recipe in recipes
        )


def key(*parts: object) -> str:
    """SHA-256 of what something was made of."""
    digest = new_digest()
    digest.update(canonical_json(list(parts)).encode())
    return str(digest.hexdigest())


def _distinct(what: str, given: Sequence[object]) -> None:
    if not given:
        raise InputError(f"a dose study needs at least one {what}")
    twice = sorted({str(one) for one in given if list(given).count(one) > 1})
    if twice:
        raise InputError(f"{what} {', '.join(twice)} is given twice")
