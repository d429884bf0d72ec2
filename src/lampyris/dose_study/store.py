"""What one cell gave ↔ one whole file in the study's folder: it is there with a sound digest, or it is not there."""

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from lampyris.checkpoint import TOLD, Checkpoint, read, write
from lampyris.model import Assessment, Curve, Figure, Float32, Grid, InputError, LampyrisError, Volume


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
        found = read(self.cell(key), key, self.tell)
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
        write(self.cell(key), key, arrays, told)

    def reference(self, key: str) -> Volume | None:
        """The image that gave the study its grid."""
        found = read(self._reference(key), key, self.tell)
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
        write(self._reference(key), key, arrays, told)

    def trail(self, key: str) -> Checkpoint:
        """Where the reconstruction of that cell leaves its state."""
        return Checkpoint(self.folder / "cells" / f"state-{key[:32]}.npz", key, self.tell)

    def cell(self, key: str) -> Path:
        """Where the cell of that key lies."""
        return self.folder / "cells" / f"{key[:32]}.npz"

    def _reference(self, key: str) -> Path:
        return self.folder / "cells" / f"reference-{key[:32]}.npz"


def claim(folder: Path) -> None:
    """Refuse a folder that holds something else than a dose study. Raises InputError."""
    if folder.exists() and not folder.is_dir():
        raise InputError(f"{folder} is a file; a dose study wants a folder")
    if folder.is_dir() and any(folder.iterdir()) and not (folder / "cells").is_dir():
        raise InputError(f"{folder} is not empty and holds no dose study; give another folder")


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
