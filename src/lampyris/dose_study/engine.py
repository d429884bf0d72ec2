"""Study and folder → every cell measured, those of an earlier run taken as they are: what was done stays done."""

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from lampyris import path
from lampyris.checkpoint import Checkpoint
from lampyris.dose_study.measure import Ground, Seeds, image, measure, over_seeds
from lampyris.dose_study.plan import Cell, Study, key
from lampyris.dose_study.store import Failure, Outcome, Store, claim
from lampyris.model import Float32, LampyrisError, ProgramError, Projections, RawScan, Step

Tell = Callable[[str], None]


@dataclass(frozen=True, slots=True, eq=False)
class Results:
    """A finished study: each cell with what it gave, in the order of the study. Images stay on the disk."""

    study: Study
    ground: Ground
    store: Store
    cells: tuple[tuple[Cell, Outcome], ...]
    reused: int

    def of(self, dose: float, recipe: str) -> list[tuple[Cell, Outcome]]:
        """The cells of one dose and recipe, one for each seed."""
        return [(cell, one) for cell, one in self.cells if cell.dose == dose and cell.recipe.name == recipe]

    def image(self, cell: Cell) -> Float32:
        """The kept part of a cell's image. Raises ProgramError where there is none."""
        found = self.store.outcome(cell_key(self.study, self.ground, cell), image=True)
        if found is None or found.image is None:
            raise ProgramError(f"{cell.name} has no image")
        return found.image

    def seeds(self, dose: float, recipe: str) -> Seeds | None:
        """Parts of the error over the seeds that gave an image; None where none did."""
        done = [cell for cell, one in self.of(dose, recipe) if one.failure is None]
        if not done:
            return None
        return over_seeds((self.image(cell) for cell in done), self.ground)

    def seeds_mean(self, dose: float, recipe: str) -> Float32 | None:
        """Mean image over the seeds, in the box; None where no seed gave one."""
        done = [cell for cell, one in self.of(dose, recipe) if one.failure is None]
        total = sum((self.image(cell).astype(np.float64) for cell in done), np.float64(0))
        return None if not done else np.asarray(total / len(done), np.float32)

    @property
    def failures(self) -> list[tuple[Cell, Failure]]:
        return [(cell, one.failure) for cell, one in self.cells if one.failure is not None]


def cell_key(study: Study, ground: Ground, cell: Cell) -> str:
    """What makes a cell: scan, truth, recipe, dose, seed and version; another of any is another cell."""
    return key(study.original.scan.id, ground.key, cell.recipe.digest(), cell.dose, cell.seed, study.version)


def run(study: Study, folder: Path, *, watch: path.Watch, tell: Tell) -> Results:
    """Measure every cell that the folder does not hold yet.

    A cell is written as soon as it is done; interrupted at any point, the same call goes on from there. A recipe that
    fails leaves its reason in its cell and the study goes on; StorageError and the interrupt of the user end it.
    """
    claim(folder)
    store = Store(folder, tell)
    ground = _ground(study, store, watch)
    recipes = [dataclasses.replace(one, grid=ground.request(study.baseline.grid)) for one in study.recipes]
    cells = study.cells(recipes)
    kept = {cell: _kept(store, cell_key(study, ground, cell)) for cell in cells}
    reused = sum(one is not None for one in kept.values())
    if reused:
        tell(f"{reused} of {len(cells)} cells are there from an earlier run and are used as they are")
    scans = _Scans(study)
    done: list[tuple[Cell, Outcome]] = []
    for number, cell in enumerate(cells):
        watch("study", number / len(cells))
        found = kept[cell]
        if found is None:
            name = cell_key(study, ground, cell)
            trail = store.trail(name)
            found = _cell(scans, cell, ground, watch, trail)
            store.keep(name, found)
            trail.end()
            tell(f"{number + 1}/{len(cells)} {cell.name}: {_told(found)}")
            found = dataclasses.replace(found, image=None)
        done.append((cell, found))
    watch("study", 1.0)
    return Results(study, ground, store, tuple(done), reused)


def _ground(study: Study, store: Store, watch: path.Watch) -> Ground:
    """The baseline's image of the original scan fixes the grid; it is kept too."""
    name = key(study.original.scan.id, study.baseline.digest(), study.version)
    reference = store.reference(name)
    if reference is None:
        reference, _ = image(study.original.scan, study.baseline, watch)
        store.keep_reference(name, reference)
    return Ground.of(study.original, reference)


def _kept(store: Store, name: str) -> Outcome | None:
    """What an earlier run measured; what failed then is tried again, for its cause may have gone."""
    found = store.outcome(name)
    return None if found is None or found.failure is not None else found


def _cell(scans: "_Scans", cell: Cell, ground: Ground, watch: path.Watch, trail: Checkpoint) -> Outcome:
    try:
        return measure(scans.corrected(cell, watch), cell.recipe, ground, watch, trail)
    except LampyrisError as error:
        return Outcome(failure=Failure.of(error))


def _told(outcome: Outcome) -> str:
    if outcome.failure is not None:
        return f"failed, {outcome.failure.code}: {outcome.failure.message}"
    assert outcome.assessment is not None
    figures = {figure.name: figure for figure in outcome.assessment.figures}
    said = f"{outcome.assessment.verdict}, {sum(seconds for _, seconds in outcome.seconds):.1f} s"
    error = figures.get("rmse_body")
    return said if error is None else f"{said}, RMSE {error.value:.4g} {error.unit}"


class _Scans:
    """The scan of one dose and seed, made once, and its projections, made once for each chain of corrections."""

    def __init__(self, study: Study) -> None:
        self.original = study.original
        self.at: tuple[float, int] | None = None
        self.made: RawScan | None = None
        self.journeys: dict[tuple[Step, ...], path.Journey] = {}

    def scan(self, cell: Cell) -> RawScan:
        if self.made is None or self.at != (cell.dose, cell.seed):
            self.journeys.clear()  # before the next scan is made: two would not be needed in memory
            self.made = None
            self.made = self.original.at(cell.dose, cell.seed)
            self.at = (cell.dose, cell.seed)
        return self.made

    def corrected(self, cell: Cell, watch: path.Watch) -> path.Journey:
        scan, recipe = self.scan(cell), cell.recipe
        if recipe.corrections not in self.journeys:
            self.journeys[recipe.corrections] = path.travel((scan, recipe), Projections, watch=watch)
        return self.journeys[recipe.corrections]
