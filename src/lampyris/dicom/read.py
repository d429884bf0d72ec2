"""DICOM CT series (folder, archive or file) or NIfTI → Volume in patient coordinates, study and acquisition.

Source: DICOM PS3.3 A.3 (CT Image), A.38 (Enhanced CT), A.70 (Legacy Converted Enhanced CT), C.7.6.16 (groups).
"""

import warnings
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset
from pydicom.pixels import pixel_array
from pydicom.uid import UID, CTImageStorage, EnhancedCTImageStorage, LegacyConvertedEnhancedCTImageStorage

from lampyris.dicom import header, nifti
from lampyris.dicom.source import DECODING_ERRORS, Contents, Entry, open_source, text
from lampyris.dicom.stack import Frame, Stack, stack, straightened
from lampyris.dicom.voxels import AIR_HU, Rescale, contiguous, padded, upright
from lampyris.model import Acquisition, FormatError, Progress, SeriesError, Study, Volume, silent
from lampyris.model.volume import Quantity

_CT = (CTImageStorage, EnhancedCTImageStorage, LegacyConvertedEnhancedCTImageStorage)


@dataclass(frozen=True, slots=True, eq=False)
class Series:
    """A series as it was read: `volume` in patient coordinates, whose it is, how it was taken.

    `notes` say in plain language what was skipped, assumed, masked or resampled; they hold no patient data. NIfTI has
    no `SeriesInstanceUID` ("") and an empty study.
    """

    volume: Volume
    study: Study
    acquisition: Acquisition
    SeriesInstanceUID: str = ""
    SeriesNumber: int | None = None
    SliceThickness: float | None = None
    ConvolutionKernel: str | None = None
    notes: tuple[str, ...] = ()


def subject(path: Path | str, *, series_uid: str | None = None, progress: Progress = silent) -> Series:
    """Whatever image the user points at: a NIfTI file by its name, otherwise DICOM in a folder, archive or file.

    The volume is re-indexed (never resampled) so that slices run towards S, rows towards P and columns towards L.
    """
    path = Path(path)
    if path.name.lower().endswith((".nii", ".nii.gz")):
        volume = nifti.read_nifti(path)
        note = "NIfTI says nothing of the acquisition: HFS assumed"
        return Series(contiguous(upright(volume)), Study(), Acquisition(), notes=(note,))
    series = read_series(path, series_uid=series_uid, progress=progress)
    return replace(series, volume=contiguous(upright(series.volume)))


def read_series(
    path: Path | str, *, series_uid: str | None = None, resample_tilt: bool = True, progress: Progress = silent
) -> Series:
    """Read the one CT series at `path`: a folder, a .tar(.gz|.xz|.bz2) or .zip archive, or one file.

    Slices are ordered by position. Padding reads as −1000 HU with `valid` False. The stack of a tilted gantry is
    resampled (trilinear) onto an upright grid, which a note tells; `resample_tilt=False` refuses it. Localizers and
    other objects are skipped with a note.

    Raises SeriesError (no CT, several series, slices doubled, missing, uneven or unlike), FormatError (truncated file,
    transfer syntax without decoder, unknown quantity), InputError (nothing there), StorageError (unreadable disk).
    """
    contents = open_source(Path(path))
    entries, notes = _one_series(contents, series_uid)
    frames = [frame for position, entry in enumerate(entries) for frame in _frames(position, entry.header)]
    if not frames:
        raise FormatError("the series holds no image: a multi-frame object without its per-frame functional groups")
    ladder = stack(frames)
    volume, padding = _volume(entries, ladder, progress)
    notes += padding
    if ladder.tilt_deg:
        volume, note = _upright(volume, ladder, resample=resample_tilt)
        notes.append(note)
    first = entries[ladder.frames[0].entry].header
    if any(text(entry.header, "LossyImageCompression") == "01" for entry in entries):
        notes.append("the images were compressed with loss before they came here")
    acquisition, assumed = header.acquisition_of(first)
    return Series(
        volume=volume,
        study=header.study_of(first),
        acquisition=acquisition,
        SeriesInstanceUID=str(first.get("SeriesInstanceUID", "")),
        SeriesNumber=header.number_of(first, "SeriesNumber"),
        SliceThickness=ladder.frames[0].thickness_mm,
        ConvolutionKernel=header.first_of(first, "ConvolutionKernel"),
        notes=(*notes, *assumed),
    )


def _one_series(contents: Contents, series_uid: str | None) -> tuple[list[Entry], list[str]]:
    """The images of the one series wanted, and notes on everything that was left alone."""
    notes = [f"{contents.others} files are not DICOM and were left alone"] if contents.others else []
    images = [entry for entry in contents.entries if entry.header.get("SOPClassUID") in _CT]
    strange = Counter(_class_name(entry.header) for entry in contents.entries if entry not in images)
    localizers = [entry for entry in images if _is_localizer(entry.header)]
    images = [entry for entry in images if entry not in localizers]
    what = [f"{count} × {name}" for name, count in sorted(strange.items())]
    what += [f"{len(localizers)} × localizer"] if localizers else []
    if not images:
        found = f"{', '.join(what) or 'no DICOM object'} and {contents.others} other files"
        raise SeriesError(f"no CT image here, found {found}: another modality, or the wrong folder?")
    if what:
        notes.append(f"skipped {', '.join(what)}")
    series = Counter(str(entry.header.get("SeriesInstanceUID", "")) for entry in images)
    if series_uid is None and len(series) > 1:
        listed = "; ".join(
            f"number {_series_number(images, one)} with {n} images, UID {one}" for one, n in series.items()
        )
        raise SeriesError(f"{len(series)} CT series here, expected one: {listed}; choose one with series_uid")
    if series_uid is not None and series_uid not in series:
        raise SeriesError(f"no CT series {series_uid} here; there are {', '.join(series)}")
    if series_uid is not None and len(series) > 1:
        notes.append(f"chose one of {len(series)} CT series")
    chosen = series_uid or next(iter(series))
    return [entry for entry in images if str(entry.header.get("SeriesInstanceUID", "")) == chosen], notes


def _series_number(images: Sequence[Entry], series: str) -> int | None:
    entry = next(entry for entry in images if str(entry.header.get("SeriesInstanceUID", "")) == series)
    return header.number_of(entry.header, "SeriesNumber")


def _class_name(found: Dataset) -> str:
    return str(UID(str(found.get("SOPClassUID", "object without SOP Class"))).name)


def _is_localizer(found: Dataset) -> bool:
    return "LOCALIZER" in (found.get("ImageType") or [])


def _frames(entry: int, found: Dataset) -> Iterator[Frame]:
    """The images of one object; per-frame functional groups over shared ones over the object itself."""
    if found.SOPClassUID == CTImageStorage:
        yield _frame(entry, 0, header.number_of(found, "InstanceNumber") or 0, [found])
        return
    shared = header.flattened(found.get("SharedFunctionalGroupsSequence", []))
    for index, groups in enumerate(found.get("PerFrameFunctionalGroupsSequence", [])):
        yield _frame(entry, index, index + 1, [*header.flattened([groups]), *shared, found])


def _frame(entry: int, index: int, number: int, places: list[Dataset]) -> Frame:
    rows, columns = header.value_of(places, "Rows"), header.value_of(places, "Columns")
    if not rows or not columns:
        raise FormatError(f"image number {number} has no Rows or Columns")
    position = _floats(places, "ImagePositionPatient", 3, number)
    orientation = _floats(places, "ImageOrientationPatient", 6, number)
    spacing = _floats(places, "PixelSpacing", 2, number)
    slope, intercept = _floats(places, "RescaleSlope", 1, number)[0], _floats(places, "RescaleIntercept", 1, number)[0]
    if slope == 0 or min(spacing) <= 0:
        raise FormatError(f"image number {number}: rescale slope {slope}, pixel spacing {spacing.tolist()} mm")
    thickness = header.value_of(places, "SliceThickness")
    limit = header.value_of(places, "PixelPaddingRangeLimit")
    padding = header.value_of(places, "PixelPaddingValue")
    return Frame(
        entry,
        index,
        number,
        position,
        orientation,
        (float(spacing[0]), float(spacing[1])),
        (int(rows), int(columns)),
        float(thickness) if thickness else None,
        Rescale(slope, intercept, None if padding is None else int(padding)),
        None if limit is None else int(limit),
        _quantity(places, number),
    )


def _floats(places: list[Dataset], keyword: str, count: int, number: int) -> NDArray[np.float64]:
    value = header.value_of(places, keyword)
    try:
        found = np.atleast_1d(np.asarray([] if value is None else value, np.float64))
    except (TypeError, ValueError):
        found = np.empty(0)
    if found.shape != (count,) or not np.isfinite(found).all():
        raise FormatError(f"image number {number} has no valid {keyword}: expected {count} finite numbers")
    return found


def _quantity(places: list[Dataset], number: int) -> Quantity:
    """HU unless the image says otherwise; 1/mm where a real-world mapping says so; nothing else is read."""
    kind = header.value_of(places, "RescaleType")
    if kind in (None, "", "HU"):
        return "HU"
    for one in header.value_of(places, "RealWorldValueMappingSequence") or []:
        unit = one.get("MeasurementUnitsCodeSequence")
        if unit and unit[0].get("CodeValue") == "/mm":
            return "1/mm"
    raise FormatError(f"image number {number} holds {kind!r}, neither HU nor attenuation in 1/mm: a derived map?")


def _volume(entries: Sequence[Entry], ladder: Stack, progress: Progress) -> tuple[Volume, list[str]]:
    """Values and mask of all frames, decoded one by one so that only one object is in memory beside the volume."""
    grid = ladder.grid
    quantity = ladder.frames[0].quantity
    values = np.empty(grid.shape, np.float32)
    valid = np.ones(grid.shape, np.bool_)
    objects: dict[int, Dataset] = {}
    for place, frame in enumerate(ladder.frames):
        if frame.entry not in objects:
            objects = {frame.entry: entries[frame.entry].whole()}
        stored = _decoded(objects[frame.entry], frame)
        values[place] = stored * frame.rescale.slope + frame.rescale.intercept
        mask = padded(stored, frame.rescale, frame.padding_limit, quantity)
        valid[place] = ~mask
        progress((place + 1) / len(ladder.frames))
    outside = int(valid.size - valid.sum())
    notes = []
    if outside:
        values[~valid] = AIR_HU if quantity == "HU" else 0.0
        notes.append(f"{outside} voxels ({outside / valid.size:.1%}) are padding: read as air and marked not valid")
    uid = entries[0].header.get("FrameOfReferenceUID")
    volume = Volume(values, grid, quantity, "patient", str(uid) if uid else None, valid if outside else None)
    return volume, notes


def _decoded(image: Dataset, frame: Frame) -> NDArray[Any]:
    """Stored values (rows, columns) of one frame."""
    syntax = image.file_meta.TransferSyntaxUID
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            stored = np.asarray(pixel_array(image, index=frame.index))
    except (RuntimeError, NotImplementedError) as error:  # pydicom's words for “no decoder” and “the decoder failed”
        raise FormatError(
            f"image {frame} is stored as {syntax.name} ({type(error).__name__}): no decoder for it is installed here,"
            " or its code stream is damaged; read are uncompressed, RLE, JPEG-LS"
        ) from None
    except DECODING_ERRORS as error:
        raise FormatError(
            f"the pixels of image {frame} cannot be read ({type(error).__name__}): a truncated file?"
        ) from None
    if stored.shape != frame.shape:
        raise FormatError(
            f"image {frame} decodes to {stored.shape}, its header says {frame.shape}: colour, or damaged?"
        )
    return stored


def _upright(volume: Volume, ladder: Stack, *, resample: bool) -> tuple[Volume, str]:
    angle = f"{ladder.tilt_deg:.2f}°"
    if not resample:
        raise SeriesError(f"the stack is sheared by {angle}: a tilted gantry; read it with resample_tilt=True")
    straight = straightened(volume, ladder.step_mm)
    note = f"the gantry was tilted by {angle}: resampled (trilinear) from {volume.grid.shape} to {straight.grid.shape}"
    return straight, note
