"""THE TABLE: every station of a scan's journey, what it takes, what it gives, may it be retried, does it want a GPU.

Nobody calls a station by hand: whoever drives a journey puts what there is into `travel` and draws what it wants out.
The types that a station takes and gives are read from the annotations of its function.
"""

import dataclasses
import functools
import inspect
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal, TypeAlias, TypeVar, cast, get_type_hints

import numpy as np

from lampyris import ahead, correct, dicom, projector, quality, recon, simulate
from lampyris.model import (
    Acquisition,
    Assessment,
    Float32,
    Grid,
    Passport,
    ProgramError,
    Progress,
    Projections,
    RawScan,
    Recipe,
    RecipeError,
    Shelf,
    Step,
    Study,
    Volume,
    silent,
)
from lampyris.phantom import Insert, Phantom
from lampyris.recipes import recipe
from lampyris.recon import Checkpoint

__all__ = [
    "STATIONS",
    "Destination",
    "Journey",
    "Reference",
    "ScanOrder",
    "Series",
    "Station",
    "Subject",
    "Watch",
    "recipe",
    "route",
    "travel",
    "utc_now",
]

T = TypeVar("T")
Watch: TypeAlias = Callable[[str, float], None]
"""Called with a station's name and the fraction of it that is done."""


@dataclass(frozen=True, slots=True, eq=False)
class Subject:
    """What lies on the table of the virtual scanner: a phantom, or a volume in HU in the gantry frame.

    `acquisition` says how it lies there (patient position, place of the isocentre in the patient).
    """

    body: Phantom | Volume
    acquisition: Acquisition


CONTEXT = ("progress", "checkpoint", "shelf", "engine")
"""Parameters of a station that are no data: who watches it, where a long run leaves its state, what was made of the
scan's first views while it arrived, and on what its images are computed ("cpu", "cuda")."""
LYING = ("PatientPosition", "DataCollectionCenterPatient", "FrameOfReferenceUID", "BodyPartExamined")
"""What a subject says of its scan; all else is the virtual scanner's to say."""


@dataclass(frozen=True, slots=True)
class ScanOrder:
    """How the virtual scanner is to scan: preset, protocol, fraction of the full dose, seed of all its noise."""

    scanner: str
    protocol: simulate.Protocol
    dose: float = 1.0
    seed: int = 0


@dataclass(frozen=True, slots=True, eq=False)
class Reference:
    """What is known of the object beforehand: a truth in HU in the gantry frame, and its inserts."""

    truth: Volume | None = None
    inserts: tuple[Insert, ...] = ()


@dataclass(frozen=True, slots=True)
class Destination:
    """Where a series goes, which DICOM object it becomes, and the moment that it bears (UTC)."""

    folder: Path
    kind: Literal["ct", "enhanced"]
    now: datetime


@dataclass(frozen=True, slots=True)
class Series:
    """DICOM files of one image, in slice order."""

    files: tuple[Path, ...]


@dataclass(frozen=True, slots=True)
class Station:
    """One row of the table."""

    name: str
    run: Callable[..., Any]
    retry: bool
    device: Literal["cpu", "gpu"]

    @property
    def takes(self) -> tuple[type, ...]:
        hints = get_type_hints(self.run)
        return tuple(hints[name] for name in inspect.signature(self.run).parameters if name not in CONTEXT)

    @property
    def gives(self) -> type:
        return cast(type, get_type_hints(self.run)["return"])


def run_simulate(subject: Subject, order: ScanOrder, progress: Progress) -> RawScan:
    made = simulate.scan(
        subject.body, simulate.scanner(order.scanner), order.protocol, dose=order.dose, seed=order.seed,
        progress=progress,
    )  # fmt: skip
    lying = {name: getattr(subject.acquisition, name) for name in LYING}
    return dataclasses.replace(made, acquisition=dataclasses.replace(made.acquisition, **lying), id="")


def run_correct(scan: RawScan, recipe: Recipe, progress: Progress, shelf: Shelf | None = None) -> Projections:
    return correct.correct(scan, ahead.steps_of(recipe), progress=progress, shelf=shelf)


def run_reconstruct(
    projections: Projections,
    recipe: Recipe,
    progress: Progress,
    checkpoint: Checkpoint | None,
    shelf: Shelf | None = None,
    engine: str = "cpu",
) -> Volume:
    """Reconstruct; with the bone step in the recipe a first image tells where bone is, and a second is made."""
    bone = next((step for step in recipe.corrections if step.name == correct.BONE), None)
    slices = _slices(shelf, projections, engine)
    if bone is None:
        return recon.reconstruct(
            projections, recipe.method, recipe.kernel, recipe.grid, engine=engine, progress=progress,
            checkpoint=checkpoint, shelf=slices,
        )  # fmt: skip
    first = recon.reconstruct(
        projections, Step("auto"), recipe.kernel, recipe.grid, engine=engine,
        progress=lambda done: progress(0.4 * done), shelf=slices,
    )  # fmt: skip
    mended = correct.bone_beam_hardening(projections, first, bone, progress=lambda done: progress(0.4 + 0.2 * done))
    return recon.reconstruct(
        mended, recipe.method, recipe.kernel, recipe.grid, engine=engine,
        progress=lambda done: progress(0.6 + 0.4 * done), checkpoint=checkpoint,
    )  # fmt: skip


def run_passport(
    volume: Volume, projections: Projections, recipe: Recipe, progress: Progress, shelf: Shelf | None = None,
    engine: str = "cpu",
) -> Passport:  # fmt: skip
    """How noisy the image is, how biased, and what can be seen in it; `recipe.passport` says how noise is found.

    "half_scan" for analytic methods: what the scan's views differ by; "replicates" (settings `count`, 1, `share` of the
    noise added, 0.5, `seed`, 0): the image made again of perturbed scans, for any method; "none". A method that is not
    analytic is held against the analytic image of the same scan.
    """
    if recipe.passport.name == "none":
        return Passport()
    wanted = _wanted_passport(recipe)
    lattice = quality.map_grid(volume.grid)
    plain = recipe if recon.is_linear(recipe.method) else dataclasses.replace(recipe, method=Step("auto"))

    def as_map(values: Float32) -> Volume:
        return dataclasses.replace(volume, values=values, grid=lattice, valid=None)

    image = volume if plain is recipe else run_reconstruct(projections, plain, silent, None, engine=engine)
    mended = any(step.name == correct.BONE for step in recipe.corrections)  # then the image is of other integrals
    noise = as_map(
        recon.deviation(
            projections, plain.method, plain.kernel, plain.grid, lattice,
            reconstruct=functools.partial(recon.reconstruct, engine=engine), image=None if mended else image,
            progress=progress, shelf=None if mended else _slices(shelf, projections, engine),
        )
    )  # fmt: skip
    column_mm = recon.native_column_mm(projections.geometry)
    frequency = np.linspace(0.0, 0.5 / column_mm, 257)
    theory = recon.kernel(recipe.kernel).ttf(frequency, column_mm, column_mm)
    transfer = quality.Transfer(frequency, theory, f"theory of the kernel {recipe.kernel}")
    if recipe.passport.name == "half_scan":
        return quality.passport(volume, noise, transfer=transfer, how=(("method", "wild bootstrap"),))
    reference = None if plain is recipe else quality.Analytic(image, noise)
    if reference is not None:
        transfer = dataclasses.replace(transfer, origin=transfer.origin + ", assumed: the method is not linear")
    if not recon.noise_known(projections):
        return quality.passport(volume, None, analytic=reference, transfer=transfer)
    found, how = _replicated(volume, projections, recipe, wanted, lattice, engine)
    return quality.passport(volume, as_map(found), analytic=reference, transfer=transfer, how=how)


def _slices(shelf: Shelf | None, projections: Projections, engine: str) -> Shelf | None:
    """Where slices lie that were made of these projections' first views; none where cells turned out to be stuck.

    They were made by the processor: an image of another engine is that engine's from the first slice to the last.
    """
    stuck = any(dict(step.settings).get("stuck") for step in projections.history if step.name == "bad_cells")
    unfit = stuck or engine != ahead.ENGINE
    return None if shelf is None or unfit else ahead.image_shelf(shelf, projections.geometry.shape)


def _wanted_passport(recipe: Recipe) -> dict[str, Any]:
    """Settings of the replicates; RecipeError, before any work, for a passport that the method cannot have."""
    chosen, given = {"count": 1, "share": 0.5, "seed": 0}, dict(recipe.passport.settings)
    halves = recipe.passport.name == "half_scan" and recon.is_linear(recipe.method) and not given
    if not halves and (recipe.passport.name != "replicates" or set(given) - set(chosen)):
        raise RecipeError(
            f"passport {recipe.passport.as_dict()} for method {recipe.method.name!r}: expected none, half_scan"
            " (analytic methods alone) or replicates with count, share, seed"
        )
    return chosen | given


def _replicated(
    volume: Volume, projections: Projections, recipe: Recipe, chosen: dict[str, Any], lattice: Grid, engine: str
) -> tuple[Float32, tuple[tuple[str, Any], ...]]:
    """Noise of the image from images of perturbed scans, and how it was found."""
    rng = np.random.default_rng(int(chosen["seed"]))
    images = [
        run_reconstruct(recon.perturbed(projections, rng, share=chosen["share"]), recipe, silent, None, engine=engine)
        for _ in range(int(chosen["count"]))
    ]
    found = recon.deviation_of_replicates(volume, images, chosen["share"], lattice)
    return found, (("method", "replicates"), *sorted(chosen.items()))


def run_assess(
    volume: Volume, projections: Projections, passport: Passport, reference: Reference, recipe: Recipe
) -> Assessment:
    acquisition = projections.acquisition
    figures = quality.assess(
        volume, acquisition=acquisition, truth=reference.truth, inserts=reference.inserts,
        spectrum=projections.spectrum, ctdivol_origin=_says_ctdivol(acquisition),
        scanned_mm=projections.geometry.scanned_mm(acquisition.TotalCollimationWidth),
    )  # fmt: skip
    whole = dataclasses.replace(
        figures,
        figures=figures.figures + passport.figures,
        curves=figures.curves + passport.curves,
        reasons=figures.reasons + passport.reasons,
    )
    return quality.judge(whole, recipe.limits)


def run_write(
    volume: Volume,
    passport: Passport,
    assessment: Assessment,
    projections: Projections,
    recipe: Recipe,
    study: Study,
    destination: Destination,
    engine: str = "cpu",
) -> Series:
    """The images; beside them the passport's maps, series of their own, and the structured reports about them."""
    acquisition = projections.acquisition
    provenance = dicom.Provenance.of(
        projections, recipe, assessment, method=recon.complete(recipe.method), engine=projector.named(engine)
    )

    def placed(one: Volume) -> Volume:
        lying = one.place(acquisition.PatientPosition, acquisition.DataCollectionCenterPatient)
        return dataclasses.replace(lying, FrameOfReferenceUID=acquisition.FrameOfReferenceUID)

    image = placed(volume)
    files = dicom.write_series(
        image, destination.folder, study=study, provenance=provenance, kind=destination.kind,
        now=destination.now,
    )  # fmt: skip
    for kind, one in (("noise", passport.noise), ("bias", passport.bias)):
        if one is not None:
            dicom.write_map(
                placed(one), destination.folder / "passport" / kind, dicom.MAPS[kind], study=study,
                provenance=provenance, now=destination.now,
            )  # fmt: skip
    dicom.write_documents(
        destination.folder / "structured",
        dicom.Occasion(study, provenance, destination.now),
        irradiation=dicom.Irradiation.of(projections, provenance, assessment, _says_ctdivol(acquisition)),
        assessment=assessment,
        images=files,
        keys=dicom.choose(dicom.upright(image), None if passport.noise is None else placed(passport.noise)),
    )
    return Series(files)


def _says_ctdivol(acquisition: Acquisition) -> Literal["reported", "computed"]:
    """A scanner reports its CTDIvol; a virtual one computes it from a table."""
    return "computed" if acquisition.Manufacturer == simulate.MANUFACTURER else "reported"


STATIONS = (
    Station("simulate", run_simulate, retry=True, device="cpu"),
    Station("correct", run_correct, retry=True, device="cpu"),
    Station("reconstruct", run_reconstruct, retry=True, device="gpu"),
    Station("passport", run_passport, retry=True, device="gpu"),
    Station("assess", run_assess, retry=True, device="cpu"),
    Station("write", run_write, retry=True, device="cpu"),
)


@dataclass(frozen=True, slots=True, eq=False)
class Journey:
    """Everything that was given or made, the seconds that each station took, and the engine of its images."""

    made: tuple[object, ...]
    seconds: tuple[tuple[str, float], ...]
    engine: str = "cpu"

    def the(self, kind: type[T]) -> T:
        """The one value of that type."""
        for value in self.made:
            if isinstance(value, kind):
                return value
        raise ProgramError(f"the journey made no {kind.__name__}")


def travel(
    given: Iterable[object],
    goal: type,
    *,
    watch: Watch = lambda _name, _done: None,
    checkpoint: Checkpoint | None = None,
    shelf: Shelf | None = None,
    engine: str = "cpu",
) -> Journey:
    """Run the stations that lead from what is given to the goal, in the order of the table.

    A station whose product is there already is passed by. `checkpoint` is where an iterative reconstruction leaves its
    state, so that it goes on from there when it was interrupted; `shelf` holds what `ahead` made of this scan for this
    recipe while it arrived, and changes nothing but the time. `engine` is what images are computed on, "cpu" or "cuda";
    EngineUnavailable, before any work, where it cannot run here. Raises ProgramError when a station waits for something
    that nobody gives.
    """
    projector.load(engine)
    data: dict[type, object] = {type(value): value for value in given}
    seconds = []
    for station in route(set(data), goal):
        began = time.perf_counter()
        watch(station.name, 0.0)
        arguments = {name: data[kind] for name, kind in _parameters(station)}
        context: dict[str, object] = {"progress": _progress(watch, station.name), "checkpoint": checkpoint}
        context |= {"shelf": shelf, "engine": engine}
        arguments |= {name: context[name] for name in inspect.signature(station.run).parameters if name in CONTEXT}
        data[station.gives] = station.run(**arguments)
        watch(station.name, 1.0)
        seconds.append((station.name, time.perf_counter() - began))
    return Journey(tuple(data.values()), tuple(seconds), engine)


def route(given: set[type], goal: type) -> tuple[Station, ...]:
    """The stations needed to make the goal of what is given, in order; ProgramError names what is missing."""
    wanted, chosen = {goal} - given, []
    for station in reversed(STATIONS):
        if station.gives in wanted:
            chosen.append(station)
            wanted = (wanted - {station.gives}) | (set(station.takes) - given)
    if wanted:
        names = ", ".join(sorted(kind.__name__ for kind in wanted))
        raise ProgramError(f"no station gives {names}, needed on the way to {goal.__name__}")
    return tuple(reversed(chosen))


def utc_now() -> datetime:
    """The clock of whoever drives a journey; nothing below reads one."""
    return datetime.now(UTC)


def _parameters(station: Station) -> list[tuple[str, type]]:
    hints = get_type_hints(station.run)
    return [(name, hints[name]) for name in inspect.signature(station.run).parameters if name not in CONTEXT]


def _progress(watch: Watch, name: str) -> Progress:
    return lambda done: watch(name, done)
