"""The number of a card → the card, held by this worker alone, or the reason why it cannot be.

The driver itself is asked, so that no library of CUDA has to be there to say that there is no card.
"""

import ctypes
import fcntl
import socket
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lampyris.model import EngineUnavailable, MachineError

VISIBLE = "CUDA_VISIBLE_DEVICES"
"""Environment variable by which a process sees some cards, or with an empty value none."""
_NO_DEVICE = 100


@dataclass(frozen=True, slots=True)
class Card:
    """A card of this machine: its number in the order of the bus, as `nvidia-smi` has it, its name, and what it is
    called in `CUDA_VISIBLE_DEVICES`."""

    number: int
    name: str
    handle: str


def find(number: int, driver: Any = None) -> Card:
    """The card of that number. Raises EngineUnavailable when there is no driver, or no such card.

    Numbers follow the bus where `CUDA_DEVICE_ORDER` is PCI_BUS_ID before the first call. `driver` is the CUDA driver's
    library, `libcuda.so.1` of this machine when None.
    """
    cuda = _driver() if driver is None else driver
    count = ctypes.c_int()
    code = cuda.cuInit(0) or cuda.cuDeviceGetCount(ctypes.byref(count))
    if code not in (0, _NO_DEVICE):
        raise EngineUnavailable(f"card {number} was asked for, the CUDA driver does not start: error {code}")
    if not 0 <= number < count.value:
        raise EngineUnavailable(f"card {number} was asked for, this machine shows {count.value}: counted from 0")
    device, name, identity = ctypes.c_int(), ctypes.create_string_buffer(256), ctypes.create_string_buffer(16)
    code = (
        cuda.cuDeviceGet(ctypes.byref(device), number)
        or cuda.cuDeviceGetName(name, len(name), device)
        or cuda.cuDeviceGetUuid(identity, device)
    )
    if code:
        raise EngineUnavailable(f"card {number} does not say what it is: error {code} of the CUDA driver")
    return Card(number, name.value.decode(errors="replace"), f"GPU-{uuid.UUID(bytes=identity.raw)}")


@contextmanager
def held(card: Card, folder: Path) -> Iterator[None]:
    """Hold a card against every other worker of this machine and folder. Raises MachineError when one has it."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / f"{socket.gethostname()}.{card.handle}.lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise MachineError(
                f"card {card.number} ({card.name}) is held by another worker of this machine: one worker, one card"
            ) from None
        yield


def _driver() -> Any:
    try:
        return ctypes.CDLL("libcuda.so.1")
    except OSError:
        raise EngineUnavailable(
            "a card was asked for, and no driver of one is installed here: libcuda.so.1 is missing"
        ) from None
