"""DICOM CT series (folder, archive or file) or NIfTI → Volume in patient coordinates, study and acquisition.

Source: DICOM PS3.3 A.3 (CT Image), A.38 (Enhanced CT), A.70 (Legacy Converted Enhanced CT), C.7.6.16 (groups).
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset
from pydicom.pixels import pixel_array
from pydicom.uid import (
    UID,
    CTImageStorage,
    EnhancedCTImageStorage,
    LegacyConvertedEnhancedCTImageStorage,
    MediaStorageDirectoryStorage,
)

from lampyris.dicom import header, nifti
from lampyris.dicom.provenance import MAPS
from lampyris.dicom.source import DECODING_ERRORS, Contents, Entry, open_source, text, unquoted
from lampyris.dicom.stack import Frame, Stack, stack, straightened
from lampyris.dicom.voxels import AIR_HU, Rescale, padded, upright
from lampyris.model import Acquisition, Float64, FormatError, Progress, SeriesError, Study, Volume, silent
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
        return Series(upright(volume), Study(), Acquisition(), notes=(note,))
    series = read_series(path, series_uid=series_uid, progress=progress)
    return replace(series, volume=upright(series.volume))


_MAP_NAMES = {one.name for one in MAPS.values()}


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
    with unquoted():
        contents = open_source(Path(path))
        entries, notes = _one_series(contents, series_uid)
        ladder = stack([frame for position, entry in enumerate(entries) for frame in _frames(position, entry)])
        if ladder.tilt_deg and not resample_tilt:
            raise SeriesError(
                f"the stack is sheared by {ladder.tilt_deg:.2f}°: a tilted gantry; read it with resample_tilt=True"
            )
        volume, padding = _volume(entries, ladder, progress)
        first = entries[ladder.frames[0].entry].header
        (study, unsound), (acquisition, assumed) = header.study_of(first), header.acquisition_of(first)
        notes += [*padding, *unsound]
        if any(text(entry.header, "LossyImageCompression") == "01" for entry in entries):
            notes.append("the images were compressed with loss before they came here")
        if ladder.tilt_deg:
            leaning, volume = volume.grid.shape, straightened(volume, ladder.step_mm)
            sizes = f"from {leaning} to {volume.grid.shape}"
            notes.append(f"the gantry was tilted by {ladder.tilt_deg:.2f}°: resampled (trilinear) {sizes}")
        return Series(
            volume=volume,
            study=study,
            acquisition=acquisition,
            SeriesInstanceUID=text(first, "SeriesInstanceUID"),
            SeriesNumber=header.number_of(first, "SeriesNumber"),
            SliceThickness=ladder.frames[0].thickness_mm,
            ConvolutionKernel=header.first_of(first, "ConvolutionKernel"),
            notes=(*notes, *assumed),
        )


def _one_series(contents: Contents, series_uid: str | None) -> tuple[list[Entry], list[str]]:
    """The images of the one series wanted, and notes on everything that was left alone."""
    notes = [f"{contents.others} files are not DICOM and were left alone"] if contents.others else []
    series: dict[str, list[Entry]] = {}
    skipped: Counter[str] = Counter()
    for entry in contents.entries:
        kind, promised = text(entry.header, "SOPClassUID"), text(entry.header.file_meta, "MediaStorageSOPClassUID")
        unknown = UID(kind).name == kind  # a private class is, and one cut short; the latter is not what was promised
        if unknown and (promised not in (kind, MediaStorageDirectoryStorage) or not promised):
            raise FormatError(f"file {entry.place} (in name order) has no known SOP Class: truncated or damaged?")
        if kind not in _CT:
            skipped[str(UID(kind or promised).name)] += 1
        elif "LOCALIZER" in text(entry.header, "ImageType").split("\\"):
            skipped["localizer"] += 1
        elif series_uid is None and _MAP_NAMES & set(text(entry.header, "ImageType").split("\\")):
            skipped["map of a passport"] += 1
        else:
            series.setdefault(text(entry.header, "SeriesInstanceUID"), []).append(entry)
    what = ", ".join(f"{count} × {name}" for name, count in sorted(skipped.items()))
    if not series:
        found = f"{what or 'no DICOM object'} and {contents.others} other files"
        raise SeriesError(f"no CT image here, found {found}: another modality, or the wrong folder?")
    if what:
        notes.append(f"skipped {what}")
    if series_uid is None and len(series) > 1:
        raise SeriesError(f"{len(series)} CT series here, expected one: {_listed(series)}; choose one with series_uid")
    if series_uid is not None and series_uid not in series:
        raise SeriesError(f"no CT series {series_uid} here; there is {_listed(series)}")
    if len(series) > 1:
        notes.append(f"chose one of {len(series)} CT series")
    return series[series_uid or next(iter(series))], notes


def _listed(series: dict[str, list[Entry]]) -> str:
    """Number, size and UID of each series; no description, as people write names into it."""
    return "; ".join(
        f"number {header.number_of(entries[0].header, 'SeriesNumber')} with {len(entries)} files, UID {uid}"
        for uid, entries in series.items()
    )


def _frames(position: int, entry: Entry) -> list[Frame]:
    """The images of one object; per-frame functional groups over shared ones over the object itself."""
    found = entry.header
    if text(found, "SOPClassUID") == CTImageStorage:
        return [_frame(position, 0, header.number_of(found, "InstanceNumber") or 0, [found])]
    try:
        shared = header.flattened(header.items_of(found, "SharedFunctionalGroupsSequence"))
        groups = [header.flattened([one]) for one in header.items_of(found, "PerFrameFunctionalGroupsSequence")]
    except DECODING_ERRORS as error:
        raise FormatError(f"the functional groups of file {entry.place} are damaged ({type(error).__name__})") from None
    if not groups:
        raise FormatError(f"file {entry.place} is a multi-frame object without functional groups for its frames")
    return [_frame(position, index, index + 1, [*one, *shared, found]) for index, one in enumerate(groups)]


def _frame(entry: int, index: int, number: int, places: list[Dataset]) -> Frame:
    """One image, from the data sets that tell of it, the most special first."""
    spacing = _needed(places, "PixelSpacing", 2, number)
    slope, intercept = (float(_needed(places, f"Rescale{one}", 1, number)[0]) for one in ("Slope", "Intercept"))
    rows, columns = (int(_needed(places, one, 1, number)[0]) for one in ("Rows", "Columns"))
    if slope == 0 or min(spacing) <= 0 or min(rows, columns) < 1:
        raise FormatError(
            f"image number {number} has {rows} × {columns} pixels of {spacing.tolist()} mm and rescale slope {slope}"
        )
    thickness, padding, limit = (
        next(iter(header.numbers_of(places, one).tolist()), None)
        for one in ("SliceThickness", "PixelPaddingValue", "PixelPaddingRangeLimit")
    )
    return Frame(
        entry=entry,
        index=index,
        number=number,
        position_mm=_needed(places, "ImagePositionPatient", 3, number),
        orientation=_needed(places, "ImageOrientationPatient", 6, number),
        spacing_mm=(float(spacing[0]), float(spacing[1])),
        shape=(rows, columns),
        thickness_mm=thickness or None,
        rescale=Rescale(slope, intercept, None if padding is None else int(padding)),
        padding_limit=None if limit is None else int(limit),
        quantity=_quantity(places, number),
    )


def _needed(places: list[Dataset], keyword: str, count: int, number: int) -> Float64:
    found = header.numbers_of(places, keyword)
    if found.shape != (count,):
        raise FormatError(f"image number {number} has no valid {keyword}: expected {count} finite numbers")
    return found


def _quantity(places: list[Dataset], number: int) -> Quantity:
    """HU unless the image says otherwise; 1/mm where a real-world mapping says so; nothing else is read."""
    kind = next((found for place in places if (found := text(place, "RescaleType"))), "HU")
    if kind == "HU":
        return "HU"
    for place in places:
        for mapping in header.items_of(place, "RealWorldValueMappingSequence"):
            if any(text(u, "CodeValue") == "/mm" for u in header.items_of(mapping, "MeasurementUnitsCodeSequence")):
                return "1/mm"
    raise FormatError(f"image number {number} holds {kind!r}, neither HU nor attenuation in 1/mm: a derived map?")


def _volume(entries: Sequence[Entry], ladder: Stack, progress: Progress) -> tuple[Volume, list[str]]:
    """Values and mask of all frames, decoded one by one so that only one object is in memory beside the volume."""
    grid, first = ladder.grid, ladder.frames[0]
    quantity = first.quantity
    objects = {first.entry: entries[first.entry].whole()}
    _decoded(objects[first.entry], first)  # before memory is asked for by what may be a damaged header
    values = np.empty(grid.shape, np.float32)
    valid = np.ones(grid.shape, np.bool_)
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
    frame_of_reference = text(entries[0].header, "FrameOfReferenceUID") or None
    volume = Volume(values, grid, quantity, "patient", frame_of_reference, valid if outside else None)
    return volume, notes


def _decoded(image: Dataset, frame: Frame) -> NDArray[Any]:
    """Stored values (rows, columns) of one frame."""
    syntax = UID(text(image.file_meta, "TransferSyntaxUID"))
    try:
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
