"""A Zeiss Xradia .txrm (an OLE compound file of projections) → RawScan.

Stream names and types as the instrument writes them: ImageInfo/XrayGeometry 1 = cone, else parallel; PixelSize in µm
at the sample; distances in mm; angles in degrees; DataType 3, 5, 10 = uint8, uint16, float32. The stage is aligned so
that the axis meets the middle of the detector, which is taken unless `central_column` says otherwise.
"""

import contextlib
import struct
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import olefile

from lampyris.model import Acquisition, Float32, Float64, FormatError, Gantry, Geometry, InputError, RawScan
from lampyris.raw.lazy import LazyCounts

_TYPES: dict[int, np.dtype[Any]] = {3: np.dtype("<u1"), 5: np.dtype("<u2"), 10: np.dtype("<f4")}
CONE = 1


def recognises(path: Path) -> bool:
    """An OLE compound file with ImageInfo and image data."""
    if not path.is_file():
        return False
    with path.open("rb") as file:
        if file.read(8) != olefile.MAGIC:
            return False
    try:
        with _opened(path) as ole:
            return bool(ole.exists("ImageInfo/ImageWidth") and ole.exists("ImageData1/Image1"))
    except FormatError:
        return False


def read(path: str | Path, *, central_column: float | None = None) -> RawScan:
    """The scan of a .txrm, with its reference image as air where it has one; the format keeps no dark.

    Shifts of the sample that the instrument recorded move the rays of their view. Raises FormatError for a single
    radiograph (.xrm), a reconstruction (.txm) or a damaged file.
    """
    place = Path(path)
    with _opened(place) as ole:
        sizes = ("ImagesTaken", "ImageWidth", "ImageHeight")
        views, columns, rows = (_integer(ole, f"ImageInfo/{each}") for each in sizes)
        if views < 2:
            raise FormatError(f"{place.name} holds {views} image: a radiograph (.xrm), not a scan")
        if ole.exists("ImageInfo/AcquisitionMode") and _integer(ole, "ImageInfo/AcquisitionMode") != 0:
            raise FormatError(f"{place.name} is no acquisition: a reconstruction (.txm)?")
        dtype = _type(ole, "ImageInfo/DataType")
        _check_images(ole, views, rows * columns * dtype.itemsize)
        geometry = _geometry(ole, _floats(ole, "ImageInfo/Angles", views), (rows, columns), central_column)
        air = _reference(ole, rows, columns)
        exposure = _floats(ole, "ImageInfo/ExpTimes", views) if ole.exists("ImageInfo/ExpTimes") else np.ones(views)
        air_exposure = _maybe(ole, "ReferenceData/ExpTime") or float(exposure.mean())
        voltage = _maybe(ole, "ImageInfo/Voltage")
    return RawScan(
        _counts(place, (views, rows, columns), dtype),
        geometry,
        exposure,
        air=air,
        air_exposure_mas=air_exposure,
        acquisition=Acquisition(Manufacturer="Zeiss Xradia", KVP=voltage or None),
    )


def _geometry(ole: Any, angle_deg: Float64, cells: tuple[int, int], central_column: float | None) -> Geometry:
    rows, columns = cells
    pixel_mm = float(_floats(ole, "ImageInfo/PixelSize", 1)[0]) / 1000
    if not pixel_mm > 0:
        raise FormatError(f"PixelSize is {pixel_mm * 1000} µm, expected > 0")
    views = len(angle_deg)
    if ole.exists("ImageInfo/XrayGeometry") and _integer(ole, "ImageInfo/XrayGeometry") == CONE:
        to_source, to_detector = (
            abs(float(_floats(ole, f"ImageInfo/{each}", views)[0])) for each in ("StoRADistance", "DtoRADistance")
        )
        whole = to_source + to_detector
        cell = pixel_mm * whole / to_source if to_source > 0 else 0.0
        gantry = Gantry(to_source, whole, rows, columns, (cell, cell), False, None, central_column)
        geometry = Geometry.circular(gantry, angle_deg)
    else:
        geometry = Geometry.parallel_beam(
            angle_deg, rows=rows, columns=columns, cell_mm=(pixel_mm, pixel_mm), central_column=central_column
        )
    across, along = (
        _floats(ole, f"Alignment/{each}-Shifts", views) if ole.exists(f"Alignment/{each}-Shifts") else np.zeros(views)
        for each in "XY"
    )
    shift = across[:, None] * geometry.u + along[:, None] * geometry.v
    source = geometry.source + (shift if geometry.parallel else 0.0)
    return replace(geometry, source=source, detector=geometry.detector + shift)


def _counts(path: Path, shape: tuple[int, int, int], dtype: np.dtype[Any]) -> LazyCounts:
    def load(views: Sequence[int] | range) -> np.ndarray:
        with _opened(path) as ole:
            images = [np.frombuffer(ole.openstream(_image(view)).read(), dtype).reshape(shape[1:]) for view in views]
        return np.stack(images)

    return LazyCounts(shape, dtype, load)


def _image(view: int) -> str:
    """Streams lie in folders of a hundred."""
    return f"ImageData{view // 100 + 1}/Image{view + 1}"


def _check_images(ole: Any, views: int, size: int) -> None:
    wrong = [view for view in range(views) if not ole.exists(_image(view)) or ole.get_size(_image(view)) != size]
    if wrong:
        raise FormatError(
            f"{len(wrong)} of {views} images are missing or not of {size} bytes, first image {wrong[0] + 1}: truncated?"
        )


def _reference(ole: Any, rows: int, columns: int) -> Float32 | None:
    if not ole.exists("ReferenceData/Image"):
        return None
    raw = ole.openstream("ReferenceData/Image").read()
    dtype = _type(ole, "ReferenceData/DataType") if ole.exists("ReferenceData/DataType") else np.dtype("<f4")
    if len(raw) != rows * columns * dtype.itemsize:
        raise FormatError(f"reference image has {len(raw)} bytes, expected {rows} × {columns} {dtype}")
    return np.frombuffer(raw, dtype).reshape(rows, columns).astype(np.float32)


def _type(ole: Any, name: str) -> np.dtype[Any]:
    code = _integer(ole, name)
    if code not in _TYPES:
        raise FormatError(f"{name} is {code}, understood are {sorted(_TYPES)} (uint8, uint16, float32)")
    return _TYPES[code]


def _integer(ole: Any, name: str) -> int:
    (value,) = struct.unpack("<i", ole.openstream(name).read(4))
    return int(value)


def _floats(ole: Any, name: str, count: int) -> Float64:
    raw = ole.openstream(name).read(4 * count)
    if len(raw) < 4 * count:
        raise FormatError(f"{name} has {len(raw) // 4} values, expected {count}: truncated?")
    values = np.frombuffer(raw, "<f4").astype(np.float64)
    if not np.isfinite(values).all():
        raise FormatError(f"{name} holds NaN or infinite values")
    return values


def _maybe(ole: Any, name: str) -> float | None:
    return float(_floats(ole, name, 1)[0]) if ole.exists(name) else None


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[Any]:
    """The compound file; whatever olefile cannot make of damaged bytes is a FormatError."""
    try:
        with olefile.OleFileIO(path) as ole:
            yield ole
    except InputError:
        raise
    except (OSError, ValueError, TypeError, KeyError, IndexError, struct.error, AttributeError) as error:
        raise FormatError(f"{path.name} cannot be read as an Xradia file ({error}): truncated or damaged?") from error
