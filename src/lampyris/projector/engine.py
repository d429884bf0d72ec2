"""The name of an engine → the engine, or the reason why it cannot run here; never another in its place."""

import importlib
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from types import ModuleType
from typing import Any, Protocol, cast

import numba
from array_api_compat import numpy as host

from lampyris.model import EngineUnavailable, Float32, Float64, Grid, InputError, Progress
from lampyris.projector import cpu, footprint, reference
from lampyris.projector.plan import Plan


@dataclass(frozen=True, slots=True)
class Card:
    """What the engine runs on: memory in bytes, compute capability (major, minor); `simulated`: Numba's simulator;
    `driver` its version, where the system says it, and the newest CUDA that it takes."""

    name: str
    capability: tuple[int, int]
    memory_bytes: int
    free_bytes: int
    simulated: bool
    driver: str = ""


@dataclass(frozen=True, slots=True)
class Memory:
    """Where an engine's arrays live: `xp` their namespace (array API), `up` takes an array there from the host as a
    copy, `down` brings one back; on the host itself both give the array as it is.

    `pieces(source, spans)` gives source[begin:end] of every span in turn, each there and good until the next is asked
    for. `room(share, usual)` bytes may be taken at once: on a card that share of what is free, on the host the usual.
    Within `refused(what)` a card that is full is a CardFullError with the numbers; `release` gives back what is only
    kept, and `in_parts(total, work, most=…, what=…)` does work in halves where the card is full (`cuda.memory`). `wait`
    for what is still being worked out before other libraries look at it; `device` is what these call the place: "cpu",
    "cuda".
    """

    xp: ModuleType
    up: Callable[[Any], Any]
    down: Callable[[Any], Any]
    pieces: Callable[[Any, Sequence[tuple[int, int]]], Iterator[Any]]
    room: Callable[[float, int], int]
    refused: Callable[[str], AbstractContextManager[None]]
    release: Callable[[], None]
    in_parts: Callable[..., Iterator[int]]
    wait: Callable[[], None]
    device: str


@dataclass(frozen=True, slots=True)
class Engine:
    """A pair of loops around `ray`: `forward(plan, image)` and its transpose `adjoint(plan, projections)`, float32.

    Both take NumPy's arrays, and "cuda" those on the card too; what they make lies where they were given it.
    """

    name: str
    description: str
    forward: Callable[[Plan, Any], Any]
    adjoint: Callable[[Plan, Any], Any]
    memory: Memory


class VoxelSum(Protocol):
    """A running sum over views of what every voxel's rays measured."""

    def add(self, projections: Float32, first: int) -> Iterator[int]:
        """Add the views [first, first + len(projections)); gives how many are done after every batch."""

    def image(self) -> Float32:
        """The sum so far, (slices, rows, columns), where the engine's arrays live."""


class ConeParallelViews(Protocol):
    """Filtered cone-parallel views of a helix, as `backprojection.ConeParallelData` keeps them."""

    def store(self, filtered: Any, first: int, spot: int) -> None:
        """Set views (views, rows, columns) of a spot, from `first` on."""

    def image(self, grid: Grid, progress: Progress) -> tuple[Any, Any]:
        """The image on the grid, and in how many directions each of its voxels was seen."""


@dataclass(frozen=True, slots=True)
class Availability:
    """One engine, whether it can run on this machine, and what it is or why not."""

    name: str
    usable: bool
    reason: str


def load(name: str = "cpu") -> Engine:
    """The engine of that name.

    Raises EngineUnavailable where it cannot run here, InputError where there is none of that name.
    """
    if name == "cpu":
        return Engine(name, _cpu(), cpu.forward, cpu.adjoint, HOST)
    if name == "reference":
        return Engine(name, _REFERENCE, reference.forward, reference.adjoint, HOST)
    if name == "cuda":
        cuda = _cuda()
        described = _described(cuda.card())
        return Engine(name, described, cuda.forward, cuda.adjoint, _on_card(cuda))
    raise InputError(f"engine {name!r} is none of {', '.join(each.name for each in available())}")


def voxel_sum(name: str) -> Callable[[Plan, Float64], VoxelSum]:
    """What makes a running sum over views on an engine other than the processor, of a plan and distance weights.

    Raises EngineUnavailable, InputError as `load`, and InputError for "reference", which has none.
    """
    if load(name).name != "cuda":
        raise InputError(f"engine {name!r} does not backproject voxel by voxel: cpu and cuda do")
    return cast(Callable[[Plan, Float64], VoxelSum], _cuda().VoxelSum)


def cone_parallel(name: str) -> Callable[..., ConeParallelViews]:
    """What keeps cone-parallel views of a `ConeParallelScan` and row weights on an engine other than the processor.

    Raises EngineUnavailable, InputError as `voxel_sum`.
    """
    voxel_sum(name)
    return cast(Callable[..., ConeParallelViews], _cuda().ConeParallelViews)


def rebinning(name: str) -> ModuleType:
    """The module of `Bundle` and `Rebinning`, of an engine other than the processor. Raises as `voxel_sum`."""
    voxel_sum(name)
    return cast(ModuleType, _cuda().rebin)


def name_of(array: Any) -> str:
    """The engine whose arrays this one is of: "cuda" for one on a card, else "cpu"."""
    return "cuda" if hasattr(array, "__cuda_array_interface__") else "cpu"


def available() -> tuple[Availability, ...]:
    """Every engine by name and whether it can run on this machine, for `lampyris doctor`."""
    return (
        Availability("cpu", True, _cpu()),
        Availability("reference", True, _REFERENCE),
        _cuda_available(),
    )


def card() -> Card:
    """The card that this process would compute on. Raises EngineUnavailable as `load`."""
    return cast(Card, _cuda().card())


def named(name: str) -> str:
    """What an image says it was computed on: the engine, and which card; nothing in which two alike differ."""
    return name if name != "cuda" else f"cuda on {card().name}"


def _as_it_is(array: Any) -> Any:
    return array


def _usual(_share: float, usual: int) -> int:
    return usual


def _slices(source: Any, spans: Sequence[tuple[int, int]]) -> Iterator[Any]:
    for begin, end in spans:
        yield source[begin:end]


def _never_full(_what: str) -> AbstractContextManager[None]:
    return nullcontext()


def _nothing_to_do() -> None:
    return None


def _in_parts(total: int, work: Callable[[slice], object], *, most: int, what: str) -> Iterator[int]:  # noqa: ARG001
    for first in range(0, total, most):
        work(slice(first, min(first + most, total)))
        yield min(first + most, total)


HOST = Memory(
    host, _as_it_is, _as_it_is, _slices, _usual, _never_full, _nothing_to_do, _in_parts, _nothing_to_do, "cpu"
)
_REFERENCE = "plain float64 loops, for small sizes and for judging the others"


def _cuda() -> ModuleType:
    """The package of the CUDA engine; EngineUnavailable without numba-cuda."""
    try:
        return importlib.import_module("lampyris.projector.cuda")
    except ImportError as error:
        raise EngineUnavailable(
            f"engine 'cuda' cannot run: numba-cuda is not installed ({error.name}); pip install 'lampyris[gpu]'"
        ) from error


def _on_card(cuda: ModuleType) -> Memory:
    return Memory(
        cuda.xp(), cuda.up, cuda.down, cuda.pieces, cuda.room, cuda.refused, cuda.release, cuda.in_parts, cuda.wait,
        cuda.device(),
    )  # fmt: skip


def _cuda_available() -> Availability:
    try:
        return Availability("cuda", True, _described(_cuda().card()))
    except EngineUnavailable as error:
        return Availability("cuda", False, str(error))


def _described(card: Any) -> str:
    major, minor = card.capability
    return f"separable footprint, {card.name}, compute capability {major}.{minor}, {card.memory_bytes / 2**30:.0f} GiB"


def _cpu() -> str:
    threads = numba.get_num_threads()
    return f"separable footprint, {footprint.LEVEL}, {threads} threads on {os.cpu_count()} processors"
