"""A stretch of work → how much of the card's memory its arrays took at most, looked at fifty times a second."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from lampyris import projector

EVERY_S = 0.02


@dataclass(slots=True)
class Taken:
    """Bytes by which what is free on the card fell at most since the work began."""

    most: int = 0


@contextmanager
def watched(engine: str) -> Iterator[Taken]:
    """While this lasts the card's memory is watched, if the engine is a card's; never less than 0."""
    taken = Taken()
    if engine != "cuda":
        yield taken
        return
    before, over = projector.card().free_bytes, threading.Event()

    def look() -> None:
        while not over.wait(EVERY_S):
            taken.most = max(taken.most, before - projector.card().free_bytes)

    watching = threading.Thread(target=look)
    watching.start()
    try:
        yield taken
    finally:
        over.set()
        watching.join()
