"""A NeXus file with an image_key (NXtomo and its relatives) → RawScan of parallel rays.

image_key 0 = projection, 1 = flat field, 2 = dark field (NXtomo definition, nexusformat.org). Frames and angles may
lie in other files that are linked from here.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from lampyris.model import Float32, Float64, FormatError, RawScan
from lampyris.raw.hdf5 import dataset, degrees, is_hdf5, lazy_frames, opened
from lampyris.raw.parallel import Beamline, mean_frame

PROJECTION, FLAT, DARK = 0, 1, 2
_METRES = {"m": 1e3, "mm": 1.0, "um": 1e-3, "µm": 1e-3, "micron": 1e-3, "microns": 1e-3, "nm": 1e-6}


def recognises(path: Path) -> bool:
    """An HDF5 file that holds an image_key."""
    if not is_hdf5(path):
        return False
    try:
        with opened(path) as file:
            return bool(_image_keys(file))
    except FormatError:
        return False


def read(path: str | Path, *, central_column: float | None = None, cell_mm: float | None = None) -> RawScan:
    """The projections of a scan, all flats and all darks averaged; `central_column` of the axis, None = estimated.

    `cell_mm` is used where the file states no pixel size (None: 1 mm is assumed and told). Raises FormatError where
    frames or angles are missing, lie in a linked file that was left behind, or do not fit each other.
    """
    place = Path(path)
    with opened(place) as file:
        key_name, frames = _detector(file, place)
        key = np.asarray(file[key_name][()]).ravel()
        if frames.ndim != 3 or len(key) != frames.shape[0] or frames.dtype.kind not in "uif":
            raise FormatError(f"{place.name}: {len(key)} image keys for frames of {frames.shape} {frames.dtype}")
        if set(np.unique(key)) - {PROJECTION, FLAT, DARK, 3}:
            raise FormatError(f"{place.name}: image_key holds {np.unique(key).tolist()}, expected 0, 1, 2 or 3")
        views = np.flatnonzero(key == PROJECTION)
        if not len(views):
            raise FormatError(f"{place.name}: image_key marks no projection among {len(key)} frames")
        angle = _angles(file, key_name, len(key), place)[views]
        cell = _cell_mm(file, key_name) or ((cell_mm, cell_mm) if cell_mm else None)
        dark, air = (_mean(frames, np.flatnonzero(key == kind)) for kind in (DARK, FLAT))
        shape = (len(views), *frames.shape[1:])
        counts = lazy_frames(place, _own_name(key_name), views, shape, frames.dtype)
    beamline = Beamline(counts, angle, dark, air, cell, "NXtomo")
    return beamline.scan(central_column)


def _image_keys(file: Any) -> list[str]:
    """Paths of every image_key, those of a proper NXtomo detector first."""
    found: list[str] = []
    file.visit(lambda name: found.append(name) if name.split("/")[-1] == "image_key" else None)
    return sorted(found, key=lambda name: ("/instrument/detector/" not in f"/{name}", name))


def _own_name(key_name: str) -> str:
    return f"{key_name.rsplit('/', 1)[0]}/data"


def _detector(file: Any, place: Path) -> tuple[str, Any]:
    """The first image_key whose frames can be opened, and the frames."""
    troubles = []
    for key_name in _image_keys(file):
        try:
            frames = dataset(file, _own_name(key_name))
        except FormatError as error:
            troubles.append(str(error))
            continue
        if frames is not None and frames.ndim == 3:
            return key_name, frames
    raise FormatError("; ".join(troubles) or f"{place.name} has an image_key but no data beside it")


def _angles(file: Any, key_name: str, frames: int, place: Path) -> Float64:
    """Rotation angle of every frame, in degrees, from the usual places."""
    troubles = []
    for name in _angle_names(file, key_name):
        try:
            data = dataset(file, name)
        except FormatError as error:
            troubles.append(str(error))
            continue
        if data is not None and data.size == frames:
            return degrees(data, name)
        if data is not None:
            troubles.append(f"{place.name}: {name} has {data.size} values for {frames} frames")
    raise FormatError("; ".join(troubles) or f"{place.name} holds no rotation angles")


def _angle_names(file: Any, key_name: str) -> Iterator[str]:
    """Where angles stand: NXtomo's places, then what the detector's NXdata names as axes, measured before demanded."""
    entry, detector = key_name.split("/")[0], key_name.split("/")[-2]
    yield from (f"{entry}/{each}/rotation_angle" for each in ("sample", "data", detector))
    group = file.get(f"{entry}/{detector}")
    if isinstance(group, h5py.Group):
        likely = [each for each in group if any(part in each.lower() for part in ("theta", "rotation", "angle"))]
        measured_first = sorted(likely, key=lambda each: (each.endswith("_set"), each))
        yield from (f"{entry}/{detector}/{each}" for each in measured_first)


def _cell_mm(file: Any, key_name: str) -> tuple[float, float] | None:
    """Pixel size (along the axis, across) where the detector states it."""
    sizes = []
    for axis in "yx":
        data = dataset(file, f"{key_name.rsplit('/', 1)[0]}/{axis}_pixel_size")
        if data is None:
            return None
        unit = data.attrs.get("units", b"m")
        unit = unit.decode() if isinstance(unit, bytes) else str(unit)
        value = float(np.asarray(data[()]).ravel()[0])
        if unit not in _METRES or not value > 0:
            raise FormatError(f"{axis}_pixel_size is {value} {unit!r}: expected > 0 in m, mm or µm")
        sizes.append(value * _METRES[unit])
    return sizes[0], sizes[1]


def _mean(frames: Any, chosen: np.ndarray) -> Float32 | None:
    return mean_frame(np.stack([frames[int(frame)] for frame in chosen])) if len(chosen) else None
