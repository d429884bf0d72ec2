"""An HDF5 file of a beamline → its datasets, with errors that say what is missing, and counts read when indexed."""

import contextlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from lampyris.model import Float64, FormatError, InputError
from lampyris.raw.lazy import LazyCounts


@contextlib.contextmanager
def opened(path: Path) -> Iterator[Any]:
    """The open file; whatever HDF5 cannot make of damaged bytes is a FormatError."""
    try:
        with h5py.File(path, "r") as file:
            yield file
    except InputError:
        raise
    except (OSError, KeyError, RuntimeError, ValueError, TypeError, AttributeError) as error:
        raise FormatError(f"{path.name} cannot be read as HDF5 ({error}): truncated or damaged?") from error


def is_hdf5(path: Path) -> bool:
    return path.is_file() and bool(h5py.is_hdf5(path))


def dataset(file: Any, name: str) -> Any | None:
    """The dataset of that path; None where there is none. FormatError where it is a link that leads nowhere."""
    link = file.get(name, getlink=True) if _has(file, name) else None
    if link is None:
        return None
    try:
        found = file[name]
    except KeyError as error:
        where = f"{link.filename}:{link.path}" if isinstance(link, h5py.ExternalLink) else getattr(link, "path", "?")
        raise FormatError(
            f"{Path(file.filename).name}: {name} is a link to {where}, which cannot be opened: was it left behind?"
        ) from error
    return found if isinstance(found, h5py.Dataset) else None


def lazy_frames(
    path: Path, name: str, frames: Sequence[int] | NDArray[np.integer[Any]], shape: tuple[int, int, int], dtype: Any
) -> LazyCounts:
    """Counts of the chosen frames of a stack (frames, rows, columns), read when they are indexed."""
    chosen = np.asarray(frames)

    def load(views: Sequence[int] | range) -> np.ndarray:
        wanted = chosen[np.asarray(views)]
        with opened(path) as file:
            stack = file[name]
            if len(wanted) and np.array_equal(wanted, np.arange(wanted[0], wanted[0] + len(wanted))):
                return np.asarray(stack[int(wanted[0]) : int(wanted[-1]) + 1])
            return np.stack([stack[int(frame)] for frame in wanted])

    return LazyCounts(shape, dtype, load)


def degrees(data: Any, name: str) -> Float64:
    """Angles in degrees, whatever unit the dataset says; FormatError for NaN and unknown units."""
    unit = data.attrs.get("units", b"degrees")
    unit = (unit.decode() if isinstance(unit, bytes) else str(unit)).strip().lower()
    values = np.asarray(data[()], np.float64).ravel()
    if not np.isfinite(values).all():
        raise FormatError(f"{name} holds {int((~np.isfinite(values)).sum())} NaN or infinite angles")
    if unit.startswith("deg") or unit in ("", "°"):
        return values
    if unit.startswith("rad"):
        return np.rad2deg(values)
    raise FormatError(f"{name} is in {unit!r}, expected degrees or radians")


def _has(file: Any, name: str) -> bool:
    """Whether every step of a path exists, the last one perhaps as a broken link."""
    group = file
    steps = name.strip("/").split("/")
    for step in steps[:-1]:
        if not isinstance(group, h5py.Group) or step not in group:
            return False
        group = group[step]
    return isinstance(group, h5py.Group) and group.get(steps[-1], getlink=True) is not None
