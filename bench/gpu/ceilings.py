"""The card → the limits that everything on it works under: bytes a second through its memory and over the link to the
host, float32 operations a second."""

import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numba import cuda, float32

REPEATS = 5
_CHAINS = 8
"""Independent chains of a thread, so that no multiply-add waits for the one before."""


@dataclass(frozen=True, slots=True)
class Ceilings:
    """Copy bandwidth, bytes read and written a second; float32 operations a second (a multiply-add is two); bytes a
    second from pinned memory of the host to the card."""

    bytes_per_s: float
    flops_per_s: float
    link_bytes_per_s: float


def ceilings(*, count: int, steps: int) -> Ceilings:
    """Measured with a copy of so many floats, and with so many steps of multiply-add in up to 2¹⁹ threads."""
    source, target = cuda.to_device(np.ones(count, np.float32)), cuda.device_array(count, np.float32)
    blocks = -(-count // 256)
    copy_s = seconds(lambda: _copy[blocks, 256](source, target))
    threads = min(count, 1 << 19)
    add_s = seconds(lambda: _multiply_add[-(-threads // 256), 256](source, target, threads, steps))
    pinned = cuda.pinned_array(count, np.float32)
    pinned[:] = 1.0
    up_s = seconds(lambda: target.copy_to_device(pinned))
    return Ceilings(8.0 * count / copy_s, 2.0 * _CHAINS * steps * threads / add_s, 4.0 * count / up_s)


def seconds(work: Callable[[], object]) -> float:
    """Least wall time of some calls after a first one that compiles, the card waited for."""
    work()
    cuda.synchronize()
    found = []
    for _ in range(REPEATS):
        began = time.perf_counter()
        work()
        cuda.synchronize()
        found.append(time.perf_counter() - began)
    return min(found)


@cuda.jit
def _copy(source, target):  # type: ignore[no-untyped-def]
    i = cuda.grid(1)
    if i < source.size:
        target[i] = source[i]


@cuda.jit
def _multiply_add(source, target, threads, steps):  # type: ignore[no-untyped-def]
    i = cuda.grid(1)
    if i >= threads:
        return
    x, small = source[i], float32(1e-7)
    a, b, c, d = x, x + small, x - small, x * small
    e, f, g, h = x + x, x - x, x * x, x + float32(1.0)
    for _ in range(steps):
        a, b, c, d = a * x + small, b * x + small, c * x + small, d * x + small
        e, f, g, h = e * x + small, f * x + small, g * x + small, h * x + small
    target[i] = a + b + c + d + e + f + g + h
