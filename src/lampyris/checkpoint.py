"""Arrays under a key ↔ one whole file: it is there with a sound digest, or it is not there.

`Checkpoint` is where one long reconstruction leaves its state, so that an interruption costs a minute and not hours.
"""

import contextlib
import hashlib
import io
import json
import os
import time
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from lampyris.durable import sync
from lampyris.model import StorageError

TOLD = "told"
"""The array of a file that holds its text: key, digest and whatever else was told."""
STATE_S = 60.0
"""Seconds of work that an interruption may cost."""

Tell = Callable[[str], None]


class Checkpoint:
    """The state of one long reconstruction as a file, written once a minute at most: a `recon.Checkpoint`.

    `key` says which image of which scan it is of. `tell` hears when a run goes on from what it finds, and why it does
    not where the file is broken or of something else; such a file is written over.
    """

    def __init__(self, place: Path, key: str, tell: Tell) -> None:
        self.place, self.key, self.tell = place, key, tell
        self.written = time.monotonic()
        self._told = False

    def load(self) -> dict[str, np.ndarray] | None:
        """What was saved last, None where there is nothing to go on from."""
        found = read(self.place, self.key, self._say)
        if found is None:
            return None
        self._say("the reconstruction goes on from where it was interrupted")
        return {name: array for name, array in found.items() if name != TOLD}

    def save(self, arrays: Mapping[str, np.ndarray], /) -> None:
        """Write the state if the last one is a minute old. Raises StorageError."""
        if time.monotonic() - self.written >= STATE_S:
            write(self.place, self.key, dict(arrays))  # once: a mapping may have to fetch them
            self.written = time.monotonic()

    def end(self) -> None:
        """What was worked on is done: its state is not needed any more."""
        with contextlib.suppress(OSError):
            self.place.unlink(missing_ok=True)

    def _say(self, text: str) -> None:
        """Once: a method may look more than once."""
        if not self._told:
            self._told = True
            self.tell(text)


def read(place: Path, key: str, tell: Tell) -> dict[str, np.ndarray] | None:
    """Every array that was written under that key, `TOLD` among them; None where there is none.

    The zip's checksums and the digest are verified; a file that is broken or of another key is told of.
    """
    try:
        with place.open("rb") as opened, np.load(opened, allow_pickle=False) as file:
            found = {name: file[name] for name in file.files}
        told = json.loads(found[TOLD].tobytes())
        if told["key"] != key:
            why = "it was made from something else"
        elif told["digest"] != _digest(found):
            why = "its content is not what its digest says"
        else:
            return found
    except FileNotFoundError:
        return None
    except (zipfile.BadZipFile, ValueError, KeyError, TypeError, EOFError, OSError) as error:
        why = f"it is broken, {type(error).__name__}: {error}"
    tell(f"{place.name} is not used and is made again: {why}")
    return None


def write(place: Path, key: str, arrays: Mapping[str, np.ndarray], told: Mapping[str, Any] | None = None) -> None:
    """Arrays and what is told of them, whole or not at all. Raises StorageError."""
    text = json.dumps({**(told or {}), "key": key, "digest": _digest(arrays)}, ensure_ascii=False).encode()
    held = {TOLD: np.frombuffer(text, np.uint8), **arrays}
    whole(place, lambda file: np.savez(file, allow_pickle=False, **held))


def whole(place: Path, write: Callable[[io.BufferedWriter], object]) -> None:
    """A file that appears under its name only when all of it is on the disk. Raises StorageError."""
    partial = place.with_name(f".{place.name}.part")
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        with partial.open("wb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(place)
        sync(place.parent)
    except OSError as error:
        raise StorageError(f"cannot write {place.name}: {error.strerror or error}; is the disk full?") from error
    finally:
        with contextlib.suppress(OSError):
            partial.unlink(missing_ok=True)


def _digest(arrays: Mapping[str, np.ndarray]) -> str:
    digest = hashlib.sha256()
    for name in sorted(set(arrays) - {TOLD}):
        digest.update(name.encode())
        digest.update(np.ascontiguousarray(arrays[name]).data)
    return digest.hexdigest()
