"""A compute capability → for every kernel: float64 instructions in its PTX, registers and spilled bytes in its cubin.

Needs no card: libNVVM compiles, ptxas assembles. Both come as wheels (nvidia-nvvm, nvidia-cuda-nvcc of one version).
"""

import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from numba import cuda, types
from numba.cuda import dispatcher

from lampyris.model import EngineUnavailable
from lampyris.projector.cuda import feet, helical, pair, rebin, voxels

_F3, _F4, _I4 = types.float32[:, :, ::1], types.float32[:, :, :, ::1], types.int32[:, :, :, ::1]
_F1, _F2 = types.float32[::1], types.float32[:, ::1]
_I1, _I2, _I3 = types.int32[::1], types.int32[:, ::1], types.int32[:, :, ::1]
_D1, _D2, _D3 = types.float64[::1], types.float64[:, ::1], types.float64[:, :, ::1]
_THREE, _FOUR = types.UniTuple(types.int64, 3), types.UniTuple(types.int64, 4)
_RECORDS, _SPACING, _TURNED = types.float64[:, ::1], types.UniTuple(types.float64, 3), types.boolean[::1]
KERNELS: dict[str, tuple[Any, tuple[Any, ...]]] = {
    "find_feet": (feet.find_feet, (types.int64, _RECORDS, _SPACING, _I4, _F4)),
    "find_edges": (feet.find_edges, (types.int64, _RECORDS, _SPACING, _F3)),
    "weigh_cells": (feet.weigh_cells, (types.int64, _RECORDS, _TURNED, types.boolean, _F3, _F3)),
    "gather_cells": (pair.gather_cells, (_I4, _F4, _F3, _F3, _F3)),
    "gather_voxels": (pair.gather_voxels, (_I4, _F4, _F3, _F3)),
    "aim": (voxels.aim, (types.int64, _RECORDS, types.float64[::1], _SPACING, types.int64, _I3, _F4)),
    "sum_views": (voxels.sum_views, (_THREE, _I3, _F4, _TURNED, _F1, _F3)),
    "find_views": (rebin.find_views, (_D1, _D2, _D2, _D2, _I1, types.boolean, _I3, _F3)),
    "sum_rays": (
        rebin.sum_rays,
        (_F3, types.int64, _I1, _I1, types.int64, _I3, _F3, _I2, _F2, types.boolean, _F3),
    ),
    "aim_turns": (helical.aim_turns, (types.int64, _D3, _D1, _D2, types.int64, _I3, _F4)),
    "sum_turns": (
        helical.sum_turns,
        (types.int64, types.int64, _FOUR, _I3, _F4, _I1, _F1, _I2, _F1, _F1, _F3, types.uint16[:, :, ::1]),
    ),
}
"""Every kernel with the types that it is called with. Those that gather, and the sum over views, are the hot ones."""


@dataclass(frozen=True, slots=True)
class Compiled:
    """One kernel: instructions with .f64 in its PTX, registers a thread, bytes spilled."""

    name: str
    doubles: int
    registers: int
    spilled: int


def compiled(capability: tuple[int, int]) -> list[Compiled]:
    """Every kernel for this capability. Raises EngineUnavailable where there is no compiler."""
    with tempfile.TemporaryDirectory() as folder, _as_if_on(capability):
        return [_one(name, Path(folder), capability) for name in KERNELS]


def _one(name: str, folder: Path, capability: tuple[int, int]) -> Compiled:
    kernel, signature = KERNELS[name]
    try:
        ptx, _ = cuda.compile(kernel.py_func, signature, cc=capability, device=False, abi="numba")
    except Exception as error:  # each missing library raises an error of its own; wrong code of ours is not hidden
        if re.search("nvvm|nvrtc|libdevice", str(error), re.IGNORECASE):
            missing = str(error).strip().splitlines()[0]
            raise EngineUnavailable(f"no compiler for PTX: pip install 'lampyris[judge]' ({missing})") from error
        raise
    source = folder / f"{name}.ptx"
    source.write_text(ptx, "utf-8")
    command = [_ptxas(), f"-arch=sm_{capability[0]}{capability[1]}", "-v", str(source), "-o", str(folder / "cubin")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise EngineUnavailable(f"ptxas does not take the PTX of {name}: {done.stderr.strip()[:300]}; older than NVVM?")
    spilled = sum(int(each) for each in re.findall(r"(\d+) bytes spill", done.stderr))
    registers = max(int(each) for each in re.findall(r"Used (\d+) registers", done.stderr))
    return Compiled(name, len(re.findall(r"\.f64\b", ptx)), registers, spilled)


@contextmanager
def _as_if_on(capability: tuple[int, int]) -> Iterator[None]:
    """Numba asks the present card for its capability whenever one kernel calls another function: answer for it."""
    before = dispatcher.get_current_device
    dispatcher.get_current_device = lambda: SimpleNamespace(compute_capability=capability)
    try:
        yield
    finally:
        dispatcher.get_current_device = before


def _ptxas() -> str:
    """The assembler that came with the compiler's wheels, or the one on the path."""
    try:
        import nvidia
    except ImportError:
        nvidia = None
    for place in [] if nvidia is None else nvidia.__path__:
        for found in sorted(Path(place).glob("cu*/bin/ptxas")):
            return str(found)
    path = shutil.which("ptxas")
    if path is None:
        raise EngineUnavailable("no assembler for PTX: pip install 'lampyris[judge]'")
    return path
