"""Each command: arguments → a journey, its files and its summary."""

import argparse
import dataclasses
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from lampyris import __version__, dicom, path, phantom, quality, raw, report
from lampyris import simulate as virtual
from lampyris.checkpoint import Checkpoint
from lampyris.cli import terminal
from lampyris.model import (
    Acquisition,
    Assessment,
    DivergenceError,
    InputError,
    Passport,
    Projections,
    RawScan,
    Recipe,
    StorageError,
    Study,
    Volume,
)
from lampyris.model.volume import DEFAULT_AXES

HELD_BACK = 3
"""Exit code when the gate stops an image."""
DEMONSTRATION = ("thorax", (-20.0, 70.0))
"""What a journey scans when it is given nothing: the phantom's heart, nodules and trachea, mm along the table."""
PHANTOMS: dict[str, Callable[[], phantom.Phantom]] = {
    "thorax": phantom.thorax,
    "quality": phantom.image_quality,
    "water20": lambda: phantom.water_cylinder(200.0),
    "water32": lambda: phantom.water_cylinder(320.0),
}


@dataclass(frozen=True, slots=True, eq=False)
class Source:
    """What a SOURCE argument stands for: a raw scan, or a subject for the virtual scanner."""

    title: str
    study: Study
    scan: RawScan | None = None
    subject: path.Subject | None = None
    reference: path.Reference = dataclasses.field(default_factory=path.Reference)


def journey(arguments: argparse.Namespace) -> int:
    """The main job: every image of a source side by side, as DICOM and as one page."""
    if arguments.source is None:
        arguments.source, span = DEMONSTRATION
        arguments.span = arguments.span or span
    source = source_of(arguments, arguments.source)
    target = arguments.output
    with _resumable(target, arguments.engine) as states, _whole_folder(target, replace=arguments.replace) as folder:
        columns = [_column(arguments, source, made, folder, states) for made in _scans(arguments, source)]
        report.write_page(folder / "report.html", "From raw counts to a judged series", source.title, columns)
    judged = [column.assessment for column in columns]
    if arguments.json:
        terminal.machine({column.title: column.assessment.as_dict() for column in columns})
    terminal.assessments([column.title for column in columns], judged)
    for column in columns:
        terminal.say(f"{column.title}: " + ", ".join(f"{name} {seconds:.1f} s" for name, seconds in column.seconds))
    terminal.say(f"page: {arguments.output / 'report.html'}")
    return 0  # a lower dose that the gate holds back is what a journey is there to show


def simulate(arguments: argparse.Namespace) -> int:
    """SOURCE → one .lraw."""
    source = source_of(arguments, arguments.source)
    if source.subject is None:
        assert source.scan is not None
        scan = virtual.lower_dose(source.scan, arguments.dose, np.random.default_rng(arguments.seed))
    else:
        scan = _scan(arguments, source.subject, arguments.dose, "").scan
    raw.write(scan, arguments.output)
    _tell_scan(arguments, scan, arguments.output)
    return 0


def recon(arguments: argparse.Namespace) -> int:
    """A raw scan → a judged DICOM series."""
    target: Path = arguments.output
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise InputError(f"{target} is not empty: choose another folder, nothing is overwritten")
    scan = _read(arguments, arguments.scan)
    chosen = recipe_of(arguments, scan)
    with _resumable(target, arguments.engine) as states, terminal.watched("") as watch:
        state = states.of(target.name, scan, chosen)
        made = _image(arguments, (scan, chosen, path.Reference(), Study()), target, watch, state)
    assessment = made.the(Assessment)
    if arguments.json:
        terminal.machine({"assessment": assessment.as_dict(), "seconds": dict(made.seconds), "recipe": chosen.digest()})
    terminal.assessments(["image"], [assessment])
    return _exit([assessment])


def assess(arguments: argparse.Namespace) -> int:
    """A series → its figures, against the truth where there is one."""
    series = dicom.subject(arguments.series)
    acquisition = series.acquisition
    volume = series.volume.lift(acquisition.PatientPosition, acquisition.DataCollectionCenterPatient).along(
        DEFAULT_AXES
    )
    reference = path.Reference()
    if arguments.truth is not None:
        reference = truth_of(arguments, acquisition)
    figures = quality.assess(volume, acquisition=acquisition, truth=reference.truth, inserts=reference.inserts)
    assessment = quality.judge(figures, path.recipe(arguments.recipe).limits)
    if arguments.json:
        terminal.machine(assessment.as_dict())
    terminal.assessments([Path(arguments.series).name], [assessment])
    return _exit([assessment])


def raw_info(arguments: argparse.Namespace) -> int:
    """What a raw scan holds."""
    scan = raw.read(arguments.scan)
    _tell_scan(arguments, scan, Path(arguments.scan))
    return 0


def raw_convert(arguments: argparse.Namespace) -> int:
    """Any readable raw scan → .lraw, as it is or coded for a link, or DICOM-CT-PD."""
    scan = _read(arguments, arguments.scan)
    if arguments.output.suffix == ".lraw":
        decision = None if arguments.coding is None else raw.Decision(arguments.coding, "asked for by command")
        raw.write(scan, arguments.output, decision=decision)
        scan = raw.read(arguments.output)
    elif arguments.coding is not None:
        raise InputError(f"{arguments.output.name} would be DICOM-CT-PD, which takes no coding; name it NAME.lraw")
    else:
        raw.ctpd.write(scan, arguments.output)
    _tell_scan(arguments, scan, arguments.output)
    return 0


def raw_verify(arguments: argparse.Namespace) -> int:
    """Every byte of a .lraw against its digests."""
    raw.verify(arguments.scan)
    if arguments.json:
        terminal.machine({"verified": True})
    terminal.say(f"{arguments.scan}: every array and fact agrees with its digest")
    return 0


def source_of(arguments: argparse.Namespace, text: str) -> Source:
    """A phantom's name, a raw scan, or a volume that a patient could have been."""
    if text in PHANTOMS and not Path(text).exists():
        body = PHANTOMS[text]()
        reference = path.Reference(inserts=body.inserts)
        study = Study(PatientName=f"Phantom^{text}", PatientID=text)
        facts = Acquisition(BodyPartExamined="CHEST" if text == "thorax" else None)
        return Source(f"phantom {text}", study, subject=path.Subject(body, facts), reference=reference)
    place = Path(text)
    if not place.exists():
        raise InputError(f"{text}: no such file or folder, and none of the phantoms {', '.join(sorted(PHANTOMS))}")
    if any(each.recognises(place) for each in raw.FORMATS):
        return Source(f"raw scan {place.name}", Study(), scan=_read(arguments, place))
    series = dicom.subject(place)
    for note in series.notes:
        terminal.say(f"note: {note}")
    x, y, z = (float(each) for each in series.volume.grid.centre_mm)
    origin = (x, y, z)
    acquisition = dataclasses.replace(
        series.acquisition, DataCollectionCenterPatient=origin, FrameOfReferenceUID=series.volume.FrameOfReferenceUID
    )
    lying = series.volume.lift(acquisition.PatientPosition, origin).along(DEFAULT_AXES)
    subject = path.Subject(lying, acquisition)
    return Source(f"volume {place.name}", series.study, subject=subject, reference=path.Reference(truth=lying))


def _read(arguments: argparse.Namespace, place: Path | str) -> RawScan:
    """A raw scan, with what the command line says where its format is silent."""
    said = {
        "tube_voltage_kv": getattr(arguments, "kv", None),
        "central_column": getattr(arguments, "central_column", None),
    }
    return raw.read(place, **{name: value for name, value in said.items() if value is not None})


def truth_of(arguments: argparse.Namespace, acquisition: Acquisition) -> path.Reference:
    """The reference in the same gantry frame as the image that is judged."""
    source = source_of(arguments, arguments.truth)
    if source.subject is None:
        raise InputError(f"{arguments.truth} is a raw scan; a truth is a series, a volume or a phantom")
    body = source.subject.body
    if isinstance(body, Volume):
        own = source.subject.acquisition
        patient = body.place(own.PatientPosition, own.DataCollectionCenterPatient)
        lifted = patient.lift(acquisition.PatientPosition, acquisition.DataCollectionCenterPatient)
        return path.Reference(truth=lifted.along(DEFAULT_AXES))
    return path.Reference(inserts=source.reference.inserts)


@dataclass(frozen=True, slots=True, eq=False)
class Made:
    """One scan of a journey, and how long it took to come by."""

    title: str
    scan: RawScan
    seconds: tuple[tuple[str, float], ...] = ()


def _scans(arguments: argparse.Namespace, source: Source) -> Iterator[Made]:
    """The scans of a journey: full dose and the lower one; of a raw scan the lower one only if its noise is known."""
    lower = f"{arguments.dose:g} of the dose"
    if source.subject is not None:
        yield _scan(arguments, source.subject, 1.0, "full dose")
        yield _scan(arguments, source.subject, arguments.dose, lower)
        return
    assert source.scan is not None
    yield Made("as measured", source.scan)
    if source.scan.noise is not None:
        began = time.perf_counter()
        lowered = virtual.lower_dose(source.scan, arguments.dose, np.random.default_rng(arguments.seed))
        yield Made(lower, lowered, (("lower dose", time.perf_counter() - began),))


def _scan(arguments: argparse.Namespace, subject: path.Subject, dose: float, title: str) -> Made:
    first, last = arguments.span or (None, None)
    protocol = virtual.Protocol(
        arguments.protocol, arguments.kv or 120.0, arguments.mas, arguments.pitch, first_mm=first, last_mm=last
    )
    order = path.ScanOrder(arguments.scanner, protocol, dose, arguments.seed)
    with terminal.watched(title) as watch:
        journey = path.travel((subject, order), RawScan, watch=watch)
    return Made(title, journey.the(RawScan), journey.seconds)


def _column(
    arguments: argparse.Namespace, source: Source, made: Made, folder: Path, states: "_States"
) -> report.Column:
    scan, chosen = made.scan, recipe_of(arguments, made.scan)
    name = made.title.replace(" ", "-")
    state = states.of(f"{arguments.output.name}.{name}", scan, chosen)
    with terminal.watched(made.title) as watch:
        given = (scan, chosen, source.reference, source.study)
        done = _image(arguments, given, folder / name, watch, state)
    seconds = (*made.seconds, *done.seconds)
    return report.Column(
        made.title, done.the(Volume), done.the(Assessment), chosen, scan.acquisition, done.the(Projections).history,
        seconds, name, scan.geometry.shape, f"method {chosen.method.name}", done.the(Passport),
    )  # fmt: skip


def _image(
    arguments: argparse.Namespace,
    given: tuple[RawScan, Recipe, path.Reference, Study],
    folder: Path,
    watch: path.Watch,
    state: Checkpoint,
) -> path.Journey:
    destination = path.Destination(folder, "enhanced" if arguments.enhanced else "ct", path.utc_now())
    return path.travel((*given, destination), path.Series, watch=watch, checkpoint=state, engine=arguments.engine)


@dataclass(frozen=True, slots=True, eq=False)
class _States:
    """Hidden files in one folder, one for each reconstruction of a command, so that the same command can go on."""

    folder: Path
    engine: str
    made: list[Checkpoint] = dataclasses.field(default_factory=list)

    def of(self, name: str, scan: RawScan, chosen: Recipe) -> Checkpoint:
        """Where the image of that name leaves its state; another scan, recipe, version or engine begins anew."""
        key = f"{scan.id} {chosen.digest()} {__version__} {self.engine}"
        self.made.append(Checkpoint(self.folder / f".{name}.state.npz", key, terminal.say))
        return self.made[-1]

    def end(self) -> None:
        for each in self.made:
            each.end()


@contextmanager
def _resumable(target: Path, engine: str) -> Iterator[_States]:
    """States beside `target`: gone when all is done or runs away; after any other failure one line tells of them."""
    states = _States(target.parent, engine)
    try:
        yield states
    except DivergenceError:
        states.end()
        raise
    except BaseException:
        kept = [each.place.name for each in states.made if each.place.exists()]
        if kept:
            terminal.say(f"the reconstruction is kept in {', '.join(kept)}: the same command goes on from there")
        raise
    states.end()


def recipe_of(arguments: argparse.Namespace, scan: RawScan) -> Recipe:
    """The recipe asked for, with the changes of this command line; without a spectrum there are no HU to be had."""
    name = arguments.recipe or ("industrial" if scan.spectrum is None and scan.water_per_mm is None else "routine")
    chosen = path.recipe(name)
    wanted = {
        "field_of_view_mm": arguments.fov,
        "matrix": arguments.matrix,
        "slice_thickness_mm": arguments.thickness,
        "slice_increment_mm": arguments.increment,
    }
    grid = dataclasses.replace(chosen.grid, **{key: value for key, value in wanted.items() if value is not None})
    return dataclasses.replace(chosen, grid=grid, kernel=arguments.kernel or chosen.kernel)


def _tell_scan(arguments: argparse.Namespace, scan: RawScan, place: Path) -> None:
    views, rows, columns = scan.geometry.shape
    facts = {
        "id": scan.id,
        "views": views,
        "rows": rows,
        "columns": columns,
        "dtype": str(scan.counts.dtype),
        **scan.facts(),
    }
    if arguments.json:
        terminal.machine(facts)
    terminal.say(f"{place}: {views} views of {rows} × {columns} cells, {scan.counts.dtype}, id {scan.id[:16]}…")
    kept = {key: value for key, value in facts["acquisition"].items() if value is not None}
    terminal.say("  " + ", ".join(f"{key} {value}" for key, value in kept.items()))
    calibration = {"dark": scan.dark, "air": scan.air, "spectrum": scan.spectrum, "noise": scan.noise}
    terminal.say(
        "  calibration: " + ", ".join(f"{key} {'–' if one is None else 'yes'}" for key, one in calibration.items())
    )
    if scan.coding is not None:
        coded = f"{scan.coding.steps_per_sigma:g} steps per σ, {100 * scan.coding.added_noise:.2f} % noise added"
        terminal.say(f"  counts coded in {coded}, from scan {scan.coding.source_id[:16]}…")


def _exit(judged: list[Assessment]) -> int:
    return HELD_BACK if any(one.verdict == "stop" for one in judged) else 0


@contextmanager
def _whole_folder(target: Path, *, replace: bool) -> Iterator[Path]:
    """A folder that appears under its name only when all of it is there; a failure leaves the old one untouched."""
    former = target.exists()
    if former and not (replace and (target / "report.html").is_file()):
        raise InputError(f"{target} exists already; give another folder, or --replace for one that holds a journey")
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = Path(tempfile.mkdtemp(prefix=f".{target.name}.", dir=target.parent))
    try:
        yield partial
        partial.chmod(0o755)
        if former:
            shutil.rmtree(target)
        partial.rename(target)
    except OSError as error:
        raise StorageError(f"cannot write {target}: {error.strerror}; is the disk full?") from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)
