"""A DXchange HDF5 file (exchange/data, data_white, data_dark, theta) → RawScan of parallel rays.

De Carlo et al. 2014, J. Synchrotron Rad. 21:1224. The file does not say where the axis of rotation is.
"""

from pathlib import Path
from typing import Any

import numpy as np

from lampyris.model import Float32, FormatError, RawScan
from lampyris.raw.hdf5 import dataset, degrees, is_hdf5, lazy_frames, opened
from lampyris.raw.parallel import Beamline, mean_frame


def recognises(path: Path) -> bool:
    """An HDF5 file with exchange/data."""
    if not is_hdf5(path):
        return False
    try:
        with opened(path) as file:
            return "exchange/data" in file
    except FormatError:
        return False


def read(path: str | Path, *, central_column: float | None = None, cell_mm: float | None = None) -> RawScan:
    """The scan, flats and darks averaged; `central_column` (0-based, fractional) of the axis, None = estimated.

    `cell_mm` is the cell's size, which DXchange seldom states (None: 1 mm is assumed and told). Raises FormatError
    where theta is missing, or the number of angles or the shape of flats does not fit the projections; flats or darks
    may be missing and are then None.
    """
    place = Path(path)
    with opened(place) as file:
        data = dataset(file, "exchange/data")
        if data is None or data.ndim != 3 or data.dtype.kind not in "uif":
            shape = None if data is None else (data.shape, data.dtype)
            raise FormatError(f"{place.name}: exchange/data is {shape}, expected numbers (views, rows, columns)")
        axes = data.attrs.get("axes", b"theta:y:x")
        axes = axes.decode() if isinstance(axes, bytes) else str(axes)
        if axes not in ("theta:y:x", "theta_y_x"):
            raise FormatError(f"{place.name}: exchange/data has axes {axes!r}, expected theta:y:x")
        theta = dataset(file, "exchange/theta")
        if theta is None:
            raise FormatError(f"{place.name} has no exchange/theta: angles are not guessed")
        angle = degrees(theta, "exchange/theta")
        if len(angle) != data.shape[0]:
            raise FormatError(f"{place.name}: {len(angle)} angles for {data.shape[0]} views: a scan that was stopped?")
        dark, air = (_mean(file, f"exchange/{name}", data.shape[1:], place) for name in ("data_dark", "data_white"))
        counts = lazy_frames(place, "exchange/data", range(data.shape[0]), data.shape, data.dtype)
    beamline = Beamline(counts, angle, dark, air, (cell_mm, cell_mm) if cell_mm else None, "DXchange")
    return beamline.scan(central_column)


def _mean(file: Any, name: str, cells: tuple[int, int], place: Path) -> Float32 | None:
    frames = dataset(file, name)
    if frames is None or not frames.size:
        return None
    if tuple(frames.shape[-2:]) != tuple(cells):
        raise FormatError(f"{place.name}: {name} has frames of {frames.shape[-2:]}, projections of {cells}")
    return mean_frame(np.asarray(frames[()]).reshape(-1, *cells))
