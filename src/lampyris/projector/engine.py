"""The name of an engine → the engine, or the reason why it cannot run here; never another in its place."""

import os
from collections.abc import Callable
from dataclasses import dataclass

import numba

from lampyris.model import EngineUnavailable, Float32, InputError
from lampyris.projector import cpu, footprint, reference
from lampyris.projector.plan import Plan

NO_CUDA = "this version of Lampyris ships no CUDA engine; ask for 'cpu'"


@dataclass(frozen=True, slots=True)
class Engine:
    """A pair of loops around `ray`: `forward(plan, image)` and its transpose `adjoint(plan, projections)`, float32."""

    name: str
    description: str
    forward: Callable[[Plan, Float32], Float32]
    adjoint: Callable[[Plan, Float32], Float32]


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
        return Engine(name, _cpu(), cpu.forward, cpu.adjoint)
    if name == "reference":
        return Engine(name, _REFERENCE, reference.forward, reference.adjoint)
    if name == "cuda":
        raise EngineUnavailable(f"engine 'cuda' cannot run: {NO_CUDA}")
    raise InputError(f"engine {name!r} is none of {', '.join(each.name for each in available())}")


def available() -> tuple[Availability, ...]:
    """Every engine by name and whether it can run on this machine, for `lampyris doctor`."""
    return (
        Availability("cpu", True, _cpu()),
        Availability("reference", True, _REFERENCE),
        Availability("cuda", False, NO_CUDA),
    )


_REFERENCE = "plain float64 loops, for small sizes and for judging the others"


def _cpu() -> str:
    threads = numba.get_num_threads()
    return f"separable footprint, {footprint.LEVEL}, {threads} threads on {os.cpu_count()} processors"
