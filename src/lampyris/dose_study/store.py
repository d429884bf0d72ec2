"""What one cell gave ↔ one whole file in the study's folder: it is there with a sound digest, or it is not there."""

import contextlib
import hashlib
import io
import json
import os
import time
import zipfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from lampyris.model import Assessment, Curve, Figure, Float32, Grid, InputError, LampyrisError, StorageError, Volume

TOLD = "told"
STATE_S = 60.0
"""Seconds of work that an interruption may cost."""


@dataclass(frozen=True, slots=True)
class Failure:
    """Why a cell has no image: the error's code, message and exit code."""

    code: str
    message: str
    exit_code: int

    @staticmethod
    def of(error: LampyrisError) -> "Failure":
        return Failure(error.code, str(error), error.exit_code)


@dataclass(frozen=True, slots=True, eq=False)
class Outcome:
    """What one cell gave: the judged figures and the kept part of the image, or the failure.

    `seconds` of each station; `image` (slices, rows, columns) is the study's box of the volume.
    """

    seconds: tuple[tuple[str, float], ...] = ()
    CTDIvol: float | None = None
    assessment: Assessment | None = None
    failure: Failure | None = None
    image: Float32 | None = field(default=None, repr=False)


@dataclass(frozen=True, slots=True, eq=False)
class Store:
    """The files of a study. `tell` hears of files that had to be thrown away."""

    folder: Path
    tell: Callable[[str], None]

    def outcome(self, key: str, *, image: bool = False) -> Outcome | None:
        """The cell kept under that key, None where there is none or it is broken (which is told)."""
        found = self._read(self.cell(key), key)
        return None if found is None else _outcome(found, image=image)

    def keep(self, key: str, outcome: Outcome) -> None:
        """Write one cell, whole or not at all. Raises StorageError."""
        arrays = {} if outcome.image is None else {"image": outcome.image}
        told = {
            "seconds": dict(outcome.seconds),
            "CTDIvol": outcome.CTDIvol,
            "assessment": None if outcome.assessment is None else outcome.assessment.as_dict(),
            "failure": None
            if outcome.failure is None
            else {name: getattr(outcome.failure, name) for name in Failure.__slots__},
        }
        self._write(self.cell(key), key, told, arrays)

    def reference(self, key: str) -> Volume | None:
        """The image that gave the study its grid."""
        found = self._read(self._reference(key), key)
        if found is None:
            return None
        told, grid = json.loads(found[TOLD].tobytes()), found["axes"]
        lattice = Grid(found["values"].shape, tuple(told["spacing_mm"]), found["first_voxel_mm"], grid)
        return Volume(found["values"], lattice, told["quantity"], valid=found.get("valid"))

    def keep_reference(self, key: str, volume: Volume) -> None:
        grid = volume.grid
        arrays: dict[str, np.ndarray] = {
            "values": volume.values,
            "first_voxel_mm": grid.first_voxel_mm,
            "axes": grid.axes,
        }
        if volume.valid is not None:
            arrays["valid"] = volume.valid
        told = {"spacing_mm": grid.spacing_mm, "quantity": volume.quantity}
        self._write(self._reference(key), key, told, arrays)

    def trail(self, key: str) -> "Trail":
        """Where the reconstruction of that cell leaves its state."""
        return Trail(self, self.folder / "cells" / f"state-{key[:32]}.npz", key)

    def cell(self, key: str) -> Path:
        """Where the cell of that key lies."""
        return self.folder / "cells" / f"{key[:32]}.npz"

    def _reference(self, key: str) -> Path:
        return self.folder / "cells" / f"reference-{key[:32]}.npz"

    def _read(self, place: Path, key: str) -> dict[str, np.ndarray] | None:
        """Every array of one file; the zip's checksums and the digest of the text are verified."""
        try:
            with place.open("rb") as opened, np.load(opened, allow_pickle=False) as file:
                found = {name: file[name] for name in file.files}
            told = json.loads(found[TOLD].tobytes())
            if told["key"] == key and told["digest"] == _digest(found):
                return found
            why = "its content is not what its digest says"
        except FileNotFoundError:
            return None
        except (zipfile.BadZipFile, ValueError, KeyError, EOFError, OSError) as error:
            why = f"{type(error).__name__}: {error}"
        self.tell(f"{place.name} is broken and is made again ({why})")
        return None

    def _write(self, place: Path, key: str, told: dict[str, Any], arrays: dict[str, np.ndarray]) -> None:
        told = {**told, "key": key, "digest": _digest(arrays)}
        text = np.frombuffer(json.dumps(told, ensure_ascii=False).encode(), np.uint8)
        whole(place, lambda file: np.savez(file, allow_pickle=False, **{TOLD: text}, **arrays))


class Trail:
    """The state of one long reconstruction on the disk, written once a minute at most: a `recon.Checkpoint`."""

    def __init__(self, store: Store, place: Path, key: str) -> None:
        self.store, self.place, self.key = store, place, key
        self.written = time.monotonic()

    def load(self) -> dict[str, np.ndarray] | None:
        found = self.store._read(self.place, self.key)
        return None if found is None else {name: array for name, array in found.items() if name != TOLD}

    def save(self, arrays: dict[str, np.ndarray], /) -> None:
        if time.monotonic() - self.written >= STATE_S:
            self.store._write(self.place, self.key, {}, arrays)
            self.written = time.monotonic()

    def end(self) -> None:
        """The cell is done: its state is not needed any more."""
        with contextlib.suppress(OSError):
            self.place.unlink(missing_ok=True)


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
    except OSError as error:
        raise StorageError(f"cannot write {place.name}: {error.strerror or error}; is the disk full?") from error
    finally:
        with contextlib.suppress(OSError):
            partial.unlink(missing_ok=True)


def claim(folder: Path) -> None:
    """Refuse a folder that holds something else than a dose study. Raises InputError."""
    if folder.exists() and not folder.is_dir():
        raise InputError(f"{folder} is a file; a dose study wants a folder")
    if folder.is_dir() and any(folder.iterdir()) and not (folder / "cells").is_dir():
        raise InputError(f"{folder} is not empty and holds no dose study; give another folder")


def _digest(arrays: dict[str, np.ndarray]) -> str:
    digest = hashlib.sha256()
    for name in sorted(set(arrays) - {TOLD}):
        digest.update(name.encode())
        digest.update(np.ascontiguousarray(arrays[name]).data)
    return digest.hexdigest()


def _outcome(found: dict[str, np.ndarray], *, image: bool) -> Outcome:
    told = json.loads(found[TOLD].tobytes())
    failure = None if told["failure"] is None else Failure(**told["failure"])
    assessment = None if told["assessment"] is None else _assessment(told["assessment"])
    kept = found.get("image") if image else None
    return Outcome(tuple(told["seconds"].items()), told["CTDIvol"], assessment, failure, kept)


def _assessment(told: dict[str, Any]) -> Assessment:
    figures = (Figure(**{**one, "settings": tuple(one["settings"].items())}) for one in told["figures"])
    curves = (
        Curve(**{**one, "x": tuple(one["x"]), "y": tuple(one["y"]), "settings": tuple(one["settings"].items())})
        for one in told["curves"]
    )
    return Assessment(tuple(figures), tuple(curves), told["verdict"], tuple(told["reasons"]))
