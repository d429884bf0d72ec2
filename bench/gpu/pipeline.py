"""A container and a recipe → scans an hour that one card makes when it never waits: several processes take turns on it.

What one process does beside the card (reading, correction) another fills with its own work on the card, as workers do.
"""

import contextlib
import multiprocessing
import threading
import time
from multiprocessing.synchronize import Barrier
from pathlib import Path

from bench.gpu.chest import done
from lampyris.model import Recipe

PROCESSES = 2


def per_hour(place: Path, warm: Recipe, chosen: Recipe, *, scans: int) -> float | str:
    """`scans` of each process after one that compiles, from the moment that all have done this to the last's end.

    A string says why there is no rate: a card that holds one scan at a time may not hold two.
    """
    context = multiprocessing.get_context("spawn")
    ready = context.Barrier(PROCESSES + 1)
    arguments = (place, warm.to_json(), chosen.to_json(), scans, ready)
    crew = [context.Process(target=_work, args=arguments) for _ in range(PROCESSES)]
    for one in crew:
        one.start()
    with contextlib.suppress(threading.BrokenBarrierError):
        ready.wait()
    began = time.perf_counter()
    for one in crew:
        one.join()
    took = time.perf_counter() - began
    failed = [one.exitcode for one in crew if one.exitcode]
    if failed:
        return f"not to be had: {len(failed)} of {PROCESSES} processes on the card ended with {failed}"
    return 3600 * PROCESSES * scans / took


def _work(place: Path, warm: str, chosen: str, scans: int, ready: Barrier) -> None:
    try:
        done(place, Recipe.from_json(warm), "cuda")
    except BaseException:
        ready.abort()  # nobody waits for it
        raise
    ready.wait()
    for _ in range(scans):
        done(place, Recipe.from_json(chosen), "cuda")
