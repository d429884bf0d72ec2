"""This process's CUDA card → its name and memory, or the reason why there is none."""

from dataclasses import dataclass

from numba import config, cuda

from lampyris.model import EngineUnavailable


@dataclass(frozen=True, slots=True)
class Card:
    """What the engine runs on: memory in bytes, compute capability (major, minor); `simulated`: Numba's simulator."""

    name: str
    capability: tuple[int, int]
    memory_bytes: int
    free_bytes: int
    simulated: bool


def card() -> Card:
    """The card that this process sees first (`CUDA_VISIBLE_DEVICES`).

    Raises EngineUnavailable where there is no driver or no card.
    """
    if SIMULATED:
        return Card("Numba's simulator", (0, 0), _SIMULATED_BYTES, _SIMULATED_BYTES, True)
    if not cuda.is_available():
        raise EngineUnavailable(f"engine 'cuda' cannot run: {_reason()}")
    device = cuda.get_current_device()
    free, total = cuda.current_context().get_memory_info()
    name = device.name.decode() if isinstance(device.name, bytes) else str(device.name)
    return Card(name, tuple(device.compute_capability), int(total), int(free), False)


SIMULATED = bool(config.ENABLE_CUDASIM)
"""Numba runs kernels in Python here, for tests (NUMBA_ENABLE_CUDASIM)."""
_SIMULATED_BYTES = 1 << 30


def _reason() -> str:
    error = cuda.cuda_error()
    if error is None:
        return "the driver is there and no card: is CUDA_VISIBLE_DEVICES empty?"
    told = " ".join(str(error).split())
    return f"no CUDA driver that works ({told[:160]})"
