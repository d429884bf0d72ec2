"""This machine → what its engines are, its card, versions, and how far each engine is from the one that judges it.

The self-test is a scan small enough for a few seconds and lopsided enough for a mistake to show: line integrals, their
transpose and a sum over views on each engine beside its judge, and two whole images, of a cone beam and of a helix.
"""

import argparse
import dataclasses
import platform
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import numpy as np

from lampyris import __version__, projector
from lampyris.cli import terminal
from lampyris.model import (
    EngineUnavailable,
    Float32,
    Gantry,
    Geometry,
    Grid,
    GridRequest,
    MachineError,
    Projections,
    Step,
)
from lampyris.projector import Projector, backproject
from lampyris.projector.engine import Card
from lampyris.recon import reconstruct
from lampyris.recon.learned import denoiser

PACKAGES = (
    "numpy", "numba", "scipy", "zarr", "pydicom", "onnxruntime", "onnxruntime-gpu", "numba-cuda", "cupy-cuda13x",
)  # fmt: skip
JUDGES = {"cpu": "reference", "cuda": "cpu"}
"""Who judges whom; the reference is judged by closed forms, in our tests."""
PAIR, RELATIVE, IMAGE_HU = 1e-5, 1e-5, 0.5
"""What may be off: ⟨Ax, y⟩ from ⟨x, Aᵀy⟩, a sum from the judge's over the largest, an image from the judge's."""
_WATER_PER_MM = 0.02


@dataclass(frozen=True, slots=True)
class Check:
    """How far one engine is from its judge: relative, and in HU (None where the judge makes no whole image).

    `seconds` of the engine's work, what its kernels took to compile included.
    """

    engine: str
    judge: str
    pair: float
    forward: float
    adjoint: float
    voxels: float | None
    image_hu: float | None
    seconds: float

    @property
    def passed(self) -> bool:
        off = (self.forward, self.adjoint, 0.0 if self.voxels is None else self.voxels)
        return self.pair <= PAIR and max(off) <= RELATIVE and (self.image_hu or 0.0) <= IMAGE_HU


@dataclass(frozen=True, slots=True)
class Machine:
    """Everything that is known of this machine; `learned` has, by engine, why the learned prior cannot run there."""

    engines: tuple[projector.Availability, ...]
    card: Card | None
    learned: dict[str, str | None]
    packages: dict[str, str | None]
    checks: tuple[Check, ...]


def doctor(arguments: argparse.Namespace) -> int:
    """Engines, card and versions of this machine, and the self-test; exit code 69 where an engine computes wrong."""
    here = examine()
    if arguments.json:
        terminal.machine(
            {
                "engines": [dataclasses.asdict(one) for one in here.engines],
                "card": None if here.card is None else dataclasses.asdict(here.card),
                "learned_prior": here.learned,
                "packages": here.packages,
                "self_test": [{**dataclasses.asdict(one), "passed": one.passed} for one in here.checks],
            }
        )
    for line in _lines(here):
        terminal.say(line)
    wrong = [check.engine for check in here.checks if not check.passed]
    if wrong:
        terminal.say(
            f"[red]engine {', '.join(wrong)} computes wrong here[/]: allowed are {PAIR:g} of the pair, {RELATIVE:g} of"
            f" a sum and {IMAGE_HU:g} HU of an image; faulty memory, or a compiler that does not fit the card?"
        )
    return MachineError.exit_code if wrong else 0


def examine() -> Machine:
    """Ask this machine for all of it, and test every engine that can run here and has a judge."""
    engines = projector.available()
    usable = [one.name for one in engines if one.usable]
    return Machine(
        engines,
        projector.card() if "cuda" in usable else None,
        {engine: _why_not_learned(engine) for engine in ("cpu", "cuda")},
        {name: _version(name) for name in PACKAGES},
        tuple(self_test(name, JUDGES[name]) for name in usable if name in JUDGES),
    )


def _lines(here: Machine) -> Iterator[str]:
    yield f"Lampyris {__version__}, Python {platform.python_version()}, {platform.machine()}"
    yield ", ".join(f"{name} {number or 'absent'}" for name, number in here.packages.items())
    for engine in here.engines:
        yield f"engine {engine.name}: {_state(None if engine.usable else '')}; {engine.reason}"
    if here.card is not None:
        free, whole = here.card.free_bytes / 2**30, here.card.memory_bytes / 2**30
        yield f"card: {here.card.name}, {free:.1f} of {whole:.1f} GiB free; {here.card.driver}"
    for name, why in here.learned.items():
        yield f"learned prior on {name}: {_state(why)}{'' if why is None else f'; {why}'}"
    for check in here.checks:
        yield _told(check)


def _state(why_not: str | None) -> str:
    return "[green]usable[/]" if why_not is None else "[yellow]not usable[/]"


def self_test(engine: str, judge: str, *, tiny: bool | None = None) -> Check:
    """One engine beside its judge; `tiny` (None: where either runs in plain Python) for sizes that take no time."""
    if tiny is None:
        tiny = judge == "reference" or (engine == "cuda" and projector.card().simulated)
    geometry, grid = _small(tiny)
    rng = np.random.default_rng(6)
    image, cells = rng.random(grid.shape, np.float32), rng.random(geometry.shape, np.float32)
    began = time.perf_counter()
    ours = Projector(geometry, grid, engine)
    made, back = ours.forward(image), ours.adjoint(cells)
    whole = judge != "reference"
    voxels = backproject(cells, geometry, grid, engine=engine) if whole else None
    images = [make(engine) for make in _images(tiny)] if whole else []
    seconds = time.perf_counter() - began
    theirs = Projector(geometry, grid, judge)
    there, here = float(np.vdot(made.astype(np.float64), cells)), float(np.vdot(image.astype(np.float64), back))
    return Check(
        engine, judge, abs(there - here) / abs(there), _off(made, theirs.forward(image)),
        _off(back, theirs.adjoint(cells)),
        None if voxels is None else _off(voxels, backproject(cells, geometry, grid, engine=judge)),
        max(float(np.abs(one - make(judge)).max()) for one, make in zip(images, _images(tiny), strict=True))
        if whole else None,
        seconds,
    )  # fmt: skip


def _small(tiny: bool) -> tuple[Geometry, Grid]:
    """A curved cone beam and a lattice that are neither square nor centred."""
    if tiny:
        gantry, angles = Gantry(541.0, 949.0, 5, 17, (5.4, 9.7), True, 1.6, 8.75), np.linspace(0.0, 284.0, 5)
        return Geometry.circular(gantry, angles), Grid.centred((4, 7, 9), (1.7, 4.3, 4.1), (3.7, 0.9, -5.2))
    gantry = Gantry(541.0, 949.0, 24, 161, (1.7, 2.9), True, 11.0, 81.25)
    return Geometry.circular(gantry, np.linspace(0.0, 356.0, 90)), Grid.centred((17, 100, 110), (1.5, 2.0, 1.9))


def _images(tiny: bool) -> list[Callable[[str], Float32]]:
    """What makes the image of a water block in HU on an engine: of a cone beam, and of a helix."""
    rows, columns, views, matrix = (4, 16, 12, 8) if tiny else (16, 200, 360, 128)
    gantry = Gantry(541.0, 949.0, rows, columns, (2.4, 540.0 / columns), True)
    feed = 0.8 * gantry.collimation_mm
    beams = (
        Geometry.circular(gantry, np.linspace(0.0, 360.0, views, endpoint=False)),
        Geometry.helical(gantry, views=2 * views, views_per_turn=views, table_feed_mm=feed),
    )
    return [_water(beam, matrix) for beam in beams]


def _water(geometry: Geometry, matrix: int) -> Callable[[str], Float32]:
    """A block of water off the middle, seen by the processor, is what every engine reconstructs."""
    middle = float(geometry.source[:, 1].mean())
    body = Grid.centred((12, 16, 16), (6.0, 8.0, 8.0), (20.0, middle, -10.0))
    integrals = Projector(geometry, body).forward(np.full(body.shape, _WATER_PER_MM, np.float32))
    scan = Projections(integrals, np.ones_like(integrals), geometry, water_per_mm=_WATER_PER_MM)
    request = GridRequest(matrix, 240.0, (20.0, -10.0), 2.0, first_mm=middle - 1.0, last_mm=middle + 1.0)

    def made(engine: str) -> Float32:
        return reconstruct(scan, Step("auto"), "body", request, engine=engine).values

    return made


def _told(check: Check) -> str:
    verdict = "[green]right[/]" if check.passed else "[red]WRONG[/]"
    off = [f"pair {check.pair:.1e}", f"forward {check.forward:.1e}", f"adjoint {check.adjoint:.1e}"]
    off += [] if check.voxels is None else [f"voxels {check.voxels:.1e}"]
    off += [] if check.image_hu is None else [f"images {check.image_hu:.1e} HU"]
    return f"self-test of {check.engine} by {check.judge}: {verdict}, off by {', '.join(off)}; {check.seconds:.1f} s"


def _why_not_learned(engine: str) -> str | None:
    """Why the learned prior cannot run where that engine works; None where it can."""
    name = denoiser.known()[0]
    try:
        denoiser.Denoiser.load(name, denoiser.digest_of(name), engine=projector.load(engine))
    except EngineUnavailable as error:
        return str(error)
    return None


def _off(found: Any, expected: Any) -> float:
    """Largest difference over the largest value."""
    return float(np.abs(found - expected).max() / np.abs(expected).max())


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None
