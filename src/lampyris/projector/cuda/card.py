"""This process's CUDA card → its name and memory, or the reason why there is none; arrays go up to it and come down.

Arrays on the card are CuPy's. Numba's simulator has no card: there they are NumPy's, and everything that is written
for the namespace of its arrays runs the same way (docs/decisions/0211).
"""

import importlib
import re
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
from numba import config, cuda
from numba.cuda.core import config as advice

from lampyris.model import EngineUnavailable
from lampyris.projector.engine import Card


def card() -> Card:
    """The card that this process sees first (`CUDA_VISIBLE_DEVICES`).

    Raises EngineUnavailable where there is no driver or no card.
    """
    if SIMULATED:
        return Card("Numba's simulator", (0, 0), _SIMULATED_BYTES, _SIMULATED_BYTES, True)
    if not cuda.is_available():
        raise EngineUnavailable(f"engine 'cuda' cannot run: {_reason()}")
    device = cuda.get_current_device()
    free, total = _memory()
    name = device.name.decode() if isinstance(device.name, bytes) else str(device.name)
    return Card(name, tuple(device.compute_capability), total, free, False, _driver())


def room(share: float, _usual: int = 0) -> int:
    """That share of the bytes that are free on the card."""
    return int(share * _memory()[0])


def _memory() -> tuple[int, int]:
    """Bytes that are free, what CuPy holds for arrays to come among them, and bytes in all."""
    if SIMULATED:
        return _SIMULATED_BYTES, _SIMULATED_BYTES
    free, total = cuda.current_context().get_memory_info()
    return int(free + xp().get_default_memory_pool().free_bytes()), int(total)


def xp() -> ModuleType:
    """The namespace of arrays on the card, as of the array API: CuPy's; NumPy's in the simulator.

    Raises EngineUnavailable without CuPy.
    """
    try:
        return importlib.import_module(f"array_api_compat.{'numpy' if SIMULATED else 'cupy'}")
    except ImportError as error:
        raise EngineUnavailable(
            f"engine 'cuda' cannot run: CuPy is not installed ({error.name}); pip install 'lampyris[gpu]'"
        ) from error


def up(array: Any) -> Any:
    """A copy on the card, in C order, of an array on the host; one that is there already is given as it is."""
    if SIMULATED:
        return np.array(array, order="C")
    there = hasattr(array, "__cuda_array_interface__")
    return array if there else xp().asarray(np.ascontiguousarray(array))


def down(array: Any) -> Any:
    """A copy on the host (NumPy) of an array on the card, which waits for what is still being worked out."""
    return np.array(array) if SIMULATED else array.get()


def wait() -> None:
    """Return when everything that was asked of the card is done."""
    cuda.synchronize()


def device() -> str:
    """Where arrays on the card are, in the words of those who take them by their address: "cpu" in the simulator."""
    return "cpu" if SIMULATED else "cuda"


def to_kernels(*arrays: Any) -> tuple[Any, ...]:
    """Arrays on the card as Numba's kernels take them: without waiting for what was asked of CuPy before, which goes
    through the same stream."""
    return arrays if SIMULATED else tuple(cuda.as_cuda_array(each, sync=False) for each in arrays)


advice.CUDA_LOW_OCCUPANCY_WARNINGS = 0
"""Numba's word to those who write kernels; a small image fills no card, and whoever asked for one is not warned."""
SIMULATED = bool(config.ENABLE_CUDASIM)
"""Numba runs kernels in Python here, for tests (NUMBA_ENABLE_CUDASIM)."""
_SIMULATED_BYTES = 1 << 30


_VERSION = Path("/proc/driver/nvidia/version")
"""Where Linux tells the driver's own version; in some containers it is not there."""


def _driver() -> str:
    from numba.cuda.cudadrv.driver import get_version

    major, minor = get_version()
    told = re.search(r"(\d+(?:\.\d+)+)", _VERSION.read_text()) if _VERSION.is_file() else None
    return f"driver {'of unknown version' if told is None else told[1]}, CUDA {major}.{minor}"


def _reason() -> str:
    error = cuda.cuda_error()
    if error is None:
        return "the driver is there and no card: is CUDA_VISIBLE_DEVICES empty?"
    told = " ".join(str(error).split())
    return f"no CUDA driver that works ({told[:160]})"
