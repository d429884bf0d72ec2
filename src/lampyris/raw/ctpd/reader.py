"""A folder (or file) of DICOM-CT-PD → RawScan whose counts are made from the stored line integrals when indexed.

CT-PD keeps p = raw·slope + intercept and, per column and view, the quanta N that would be counted in air. The counts
made here are N̄·(exposure/mean exposure)·e^(−p), with N̄ the mean of N at mean exposure (1 where the statistics are
absent), and `air` is N̄: dark and air correction and the logarithm give p back, and its noise is known.
Units of exposure: mAs of the view where tube current and rotation time are in the files, else relative.
"""

import contextlib
import struct
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
import pydicom
from pydicom.errors import BytesLengthException, InvalidDicomError
from pydicom.pixels import pixel_array

from lampyris.model import (
    Acquisition,
    CalibrationError,
    Float32,
    Float64,
    FormatError,
    GeometryError,
    InputError,
    Noise,
    RawScan,
    SeriesError,
    Spectrum,
    StorageError,
)
from lampyris.raw.ctpd.frame import Frame
from lampyris.raw.ctpd.tags import PER_FRAME, TAGS, Header, levels
from lampyris.raw.lazy import LazyCounts


@dataclass(frozen=True, slots=True)
class _Frame:
    """One projection: where it lies and what its header says."""

    path: Path
    index: int | None
    instance: int
    header: Header


def recognises(path: Path) -> bool:
    """A DICOM file with CT-PD's detector tags, or a folder whose first DICOM file is one."""
    candidates = sorted(path.iterdir()) if path.is_dir() else [path]
    first = next((each for each in candidates if _is_dicom(each)), None)
    if first is None:
        return False
    try:
        wanted = TAGS["NumberofDetectorRows"].number
        with _parsing(first.name):
            dataset = pydicom.dcmread(first, stop_before_pixels=True)
            return any(wanted in level for level in levels(dataset, _frames(dataset))[0])
    except FormatError:
        return False


def read(path: str | Path, *, spectrum: Spectrum | None = None, spectrum_index: int | None = None) -> RawScan:
    """The scan of a folder of projections, one file each or multi-frame, in the order of InstanceNumber.

    `spectrum` is that of the tube, for a file whose beam hardening is not corrected; `spectrum_index` chooses one of
    several spectra or sources. Raises SeriesError for missing, doubled or mixed projections, FormatError for tags that
    are absent, damaged or contradictory, GeometryError for a spherical detector.
    """
    place = Path(path)
    files = [each for each in sorted(place.iterdir()) if _is_dicom(each)] if place.is_dir() else [place]
    frames = [frame for each in files for frame in _frames_of(each)]
    if not frames:
        raise SeriesError(f"{place.name} holds no DICOM file")
    frames = _of_one_spectrum(_ordered(frames), spectrum_index)
    detector = _Detector.of([frame.header for frame in frames])
    statistics = _statistics(frames, detector.columns)
    exposure = _exposure(frames, statistics)
    mean_exposure = float(exposure.mean())
    quanta = np.ones(detector.columns, np.float32)
    if statistics is not None:
        quanta = (statistics * (mean_exposure / exposure)[:, None]).mean(0).astype(np.float32)
    applied = _applied(frames[0].header)
    calibrated = "dark_air" in applied
    header = frames[0].header
    counts = _counts(frames, detector, quanta * (exposure / mean_exposure)[:, None])
    return RawScan(
        counts,
        detector.frame.geometry(),
        exposure,
        air=np.broadcast_to(quanta, (1, detector.rows, detector.columns)) if calibrated else None,
        air_exposure_mas=mean_exposure,
        spectrum=spectrum,
        noise=Noise(1.0, 0.0) if statistics is not None and calibrated else None,
        acquisition=_acquisition(header, detector),
        applied=applied,
        water_per_mm=_water_per_mm(header),
    )


@dataclass(frozen=True, slots=True, eq=False)
class _Detector:
    """What all projections must agree on, and the geometry of each."""

    rows: int
    columns: int
    frame: Frame

    @staticmethod
    def of(headers: Sequence[Header]) -> "_Detector":
        first = headers[0]
        for keyword in _CONSTANT:
            for header in headers:
                if header.values(keyword) != first.values(keyword):
                    raise SeriesError(
                        f"{keyword} is {first.values(keyword)} in {first.where} and {header.values(keyword)} in"
                        f" {header.where}: projections of two scans in one folder?"
                    )
        rows, columns = (int(first.number(f"NumberofDetector{each}")) for each in ("Rows", "Columns"))
        return _Detector(rows, columns, _frame_of(headers, rows, columns))


_CONSTANT = (
    "NumberofDetectorRows", "NumberofDetectorColumns", "DetectorElementTransverseSpacing",
    "DetectorElementAxialSpacing", "DetectorShape", "FlyingFocalSpotMode", "TypeofProjectionData", "LogFlag",
    "BeamHardeningCorrectionFlag", "GainCorrectionFlag", "DarkFieldCorrectionFlag", "FlatFieldCorrectionFlag",
    "BadPixelCorrectionFlag", "ScatterCorrectionFlag", "WaterAttenuationCoefficient", "KVP", "PatientPosition",
    "SeriesInstanceUID",
)  # fmt: skip


def _is_curved(header: Header) -> bool:
    shape = (header.text("DetectorShape") or "").upper()
    if shape not in ("CYLINDRICAL", "FLAT"):
        raise GeometryError(f"detector shape is {shape!r}; CYLINDRICAL and FLAT are understood, SPHERICAL is not")
    kind = (header.text("TypeofProjectionGeometry") or "FANBEAM").upper()
    if kind not in ("FANBEAM", "CONEBEAM"):
        raise GeometryError(f"projection geometry is {kind!r}; FANBEAM is understood")
    return shape == "CYLINDRICAL"


def _frame_of(headers: Sequence[Header], rows: int, columns: int) -> Frame:
    """The geometric tags of all projections."""
    first = headers[0]

    def column(keyword: str, default: float | None = None) -> Float64:
        return _column(headers, keyword, default=default)[:, 0]

    central = _column(headers, "DetectorCentralElement", width=2)
    frame = Frame(
        rows,
        columns,
        first.number("DetectorElementTransverseSpacing"),
        first.number("DetectorElementAxialSpacing"),
        _is_curved(first),
        angle_rad=column("DetectorFocalCenterAngularPosition"),
        z_mm=column("DetectorFocalCenterAxialPosition"),
        radius_mm=column("DetectorFocalCenterRadialDistance"),
        distance_mm=column("ConstantRadialDistance"),
        central_column=central[:, 0],
        central_row=central[:, 1],
        shift_rad=column("SourceAngularPositionShift", 0.0),
        shift_z_mm=column("SourceAxialPositionShift", 0.0),
        shift_radius_mm=column("SourceRadialDistanceShift", 0.0),
    )
    if min(frame.transverse_mm, frame.axial_mm, frame.radius_mm.min()) <= 0 or (
        frame.distance_mm.min() <= frame.radius_mm.max()
    ):
        raise GeometryError(
            f"cells of {frame.transverse_mm} × {frame.axial_mm} mm, focal centre {frame.radius_mm.min()} mm from"
            f" the axis and {frame.distance_mm.min()} mm from the detector: expected > 0 and first < second"
        )
    return frame


def _counts(frames: Sequence[_Frame], detector: _Detector, open_beam: Float64) -> LazyCounts:
    """Counts of every view from its open beam (views, columns)."""
    logarithmic = frames[0].header.flag("LogFlag") is not False
    shape = (len(frames), detector.rows, detector.columns)

    def load(views: Sequence[int] | range) -> Float32:
        counts = np.empty((len(views), *shape[1:]), np.float32)
        for place, view in enumerate(views):
            frame = frames[view]
            raw = _oriented(_pixels(frame), detector, frame.header.where).astype(np.float64)
            value = raw * frame.header.number("RescaleSlope", 1.0) + frame.header.number("RescaleIntercept", 0.0)
            with np.errstate(over="raise"):
                try:
                    counts[place] = open_beam[view] * (np.exp(-value) if logarithmic else value)
                except FloatingPointError:
                    raise FormatError(
                        f"{frame.header.where}: line integrals down to {value.min():.4g}: wrong rescale, or no log?"
                    ) from None
        return counts

    return LazyCounts(shape, np.float32, load)


def _oriented(raw: np.ndarray, detector: _Detector, where: str) -> np.ndarray:
    """(rows, columns) in our order. Frames are usually stored as (channels, rows), and row 1 is our last."""
    if raw.shape == (detector.columns, detector.rows):
        return raw.T[::-1]
    if raw.shape == (detector.rows, detector.columns):
        return raw[::-1]
    raise FormatError(f"{where}: frame of {raw.shape}, detector of {detector.rows} rows × {detector.columns} columns")


def _pixels(frame: _Frame) -> np.ndarray:
    with _parsing(frame.path.name):
        return np.asarray(pixel_array(frame.path, index=frame.index))


def _frames_of(path: Path) -> list[_Frame]:
    with _parsing(path.name):
        dataset = pydicom.dcmread(path, stop_before_pixels=True)
        number = _frames(dataset)
        found = levels(dataset, number)
        several = number > 1 or PER_FRAME in dataset
        names = [f"{path.name} frame {i + 1}" if several else path.name for i in range(number)]
        headers = [Header(each, name) for each, name in zip(found, names, strict=True)]
    wanted = headers[0].values("NumberofDetectorRows")
    if not wanted:
        raise FormatError(f"{path.name} lacks NumberofDetectorRows {TAGS['NumberofDetectorRows']}: not CT-PD?")
    instances = [int(header.number("InstanceNumber", 1.0)) for header in headers]
    return [
        _Frame(path, index if number > 1 else None, instance, header)
        for index, (instance, header) in enumerate(zip(instances, headers, strict=True))
    ]


def _frames(dataset: pydicom.Dataset) -> int:
    return int(dataset.get("NumberOfFrames", 1) or 1)


def _ordered(frames: list[_Frame]) -> list[_Frame]:
    """Files in the order of InstanceNumber, frames as they lie in their file; none missing, none twice."""
    starts = sorted({(frame.instance, frame.path) for frame in frames})
    numbers = [instance for instance, _ in starts]
    doubled = sorted({a for a, b in pairwise(numbers) if a == b})
    if doubled:
        raise SeriesError(f"InstanceNumber {_few(doubled)} stands in more than one file: two scans in one folder?")
    missing = sorted(set(range(numbers[0], numbers[-1] + 1)) - set(numbers)) if len(numbers) > 1 else []
    if missing:
        raise SeriesError(
            f"{len(missing)} projections are missing, InstanceNumber {_few(missing)}: not all transferred?"
        )
    return sorted(frames, key=lambda frame: (frame.instance, frame.index or 0))


def _few(numbers: list[int]) -> str:
    return ", ".join(str(number) for number in numbers[:5]) + (f" … {numbers[-1]}" if len(numbers) > 5 else "")


def _of_one_spectrum(frames: list[_Frame], spectrum_index: int | None) -> list[_Frame]:
    spectra = int(frames[0].header.number("NumberofSpectra", 1.0))
    if spectra > 1 and spectrum_index is None:
        raise InputError(f"the projections are of {spectra} spectra: choose one with spectrum_index")
    if spectrum_index is None:
        return frames
    chosen = [frame for frame in frames if int(frame.header.number("SpectrumIndex", 1.0)) == spectrum_index]
    if not chosen:
        raise InputError(f"no projection has SpectrumIndex {spectrum_index}; there are {spectra} spectra")
    return chosen


def _column(headers: Sequence[Header], keyword: str, *, width: int = 1, default: float | None = None) -> Float64:
    """Values of a tag in every projection, (views, width)."""
    table = np.empty((len(headers), width))
    for place, header in enumerate(headers):
        found = header.values(keyword) or (() if default is None else (default,))
        if len(found) != width:
            raise FormatError(
                f"{header.where}: {keyword} {TAGS[keyword]} has {len(found)} values, expected {width}: not CT-PD?"
            )
        table[place] = found
    return table


def _statistics(frames: Sequence[_Frame], columns: int) -> Float64 | None:
    """Incident quanta (views, columns), or None where the first projection has none."""
    if not frames[0].header.values("PhotonStatistics"):
        return None
    table = np.empty((len(frames), columns))
    for view, frame in enumerate(frames):
        values = frame.header.values("PhotonStatistics")
        if len(values) not in (1, columns):
            raise FormatError(f"{frame.header.where}: PhotonStatistics has {len(values)} values for {columns} columns")
        table[view] = values
        if table[view].min() <= 0:
            raise CalibrationError(f"{frame.header.where}: PhotonStatistics ≤ 0: columns that see no beam?")
    return table


def _exposure(frames: Sequence[_Frame], statistics: Float64 | None) -> Float64:
    """Exposure of every view: its mean by tube current × time in mAs (1 where the files do not say), from view to view
    as the quanta, which are not rounded to whole mA, or else as the tube current."""
    found = [frame.header.values("XRayTubeCurrent") for frame in frames]
    current = np.array([float(values[0]) for values in found]) if all(found) else np.ones(len(frames))
    header = frames[0].header
    turn_ms, steps = header.number("ExposureTime", 0.0), header.number("NumberofSourceAngularSteps", 0.0)
    exposure = current * (turn_ms / 1000 / steps if all(found) and turn_ms > 0 and steps > 0 else 1.0)
    if statistics is None:
        return exposure
    quanta = statistics.mean(1)
    return np.asarray(exposure.mean() * quanta / quanta.mean(), np.float64)


def _applied(header: Header) -> tuple[str, ...]:
    """Our names of what the scanner corrected already; dark and air unless a flag denies it: these are integrals."""
    denied = [header.flag(f"{name}CorrectionFlag") is False for name in ("Gain", "DarkField", "FlatField")]
    names = [] if any(denied) else ["dark_air"]
    for name, keyword in (("bad_cells", "BadPixel"), ("scatter", "Scatter"), ("water_beam_hardening", "BeamHardening")):
        if header.flag(f"{keyword}CorrectionFlag"):
            names.append(name)
    return tuple(names)


def _water_per_mm(header: Header) -> float | None:
    """Attenuation of water: 0.01…0.05 is 1/mm, 0.1…0.5 is 1/cm; anything else is refused."""
    for keyword in ("WaterAttenuationCoefficient", "HUCalibrationFactor"):
        if header.values(keyword):
            value = header.number(keyword)
            if 0.01 <= value <= 0.05:
                return value
            if 0.1 <= value <= 0.5:
                return value / 10
            raise FormatError(f"{header.where}: {keyword} {value} is neither in 1/mm (≈ 0.02) nor in 1/cm (≈ 0.2)")
    return None


def _acquisition(header: Header, detector: _Detector) -> Acquisition:
    frame = detector.frame
    turns = abs(float(np.diff(np.unwrap(frame.angle_rad)).sum())) / (2 * np.pi)
    row_mm = frame.axial_mm * float(frame.radius_mm.mean() / frame.distance_mm.mean())
    kind = {"HELICAL": "SPIRAL", "AXIAL": "SEQUENCED"}.get((header.text("TypeofProjectionData") or "").upper())
    feed = abs(float(frame.z_mm[-1] - frame.z_mm[0])) / turns if kind == "SPIRAL" and turns else None
    turn_ms = header.number("ExposureTime", 0.0)
    centre = header.values("DataCollectionCenterPatient") or (0.0, 0.0, 0.0)
    return Acquisition(
        PatientPosition=header.text("PatientPosition") or "HFS",
        DataCollectionCenterPatient=(float(centre[0]), float(centre[1]), float(centre[2])),
        FrameOfReferenceUID=header.text("FrameOfReferenceUID"),
        Manufacturer=header.text("Manufacturer"),
        ManufacturerModelName=header.text("ManufacturerModelName"),
        ProtocolName=header.text("ProtocolName"),
        BodyPartExamined=header.text("BodyPartExamined"),
        AcquisitionType=kind,
        KVP=_maybe(header, "KVP"),
        RevolutionTime=turn_ms / 1000 if turn_ms > 0 else None,
        SpiralPitchFactor=_maybe(header, "SpiralPitchFactor"),
        TableFeedPerRotation=feed,
        SingleCollimationWidth=row_mm,
        TotalCollimationWidth=row_mm * detector.rows,
        DataCollectionDiameter=_maybe(header, "DataCollectionDiameter"),
    )


def _maybe(header: Header, keyword: str) -> float | None:
    return header.number(keyword) if header.values(keyword) else None


def _is_dicom(path: Path) -> bool:
    if not path.is_file() or path.name.startswith(".") or path.name == "DICOMDIR":
        return False
    with path.open("rb") as file:
        return file.read(132)[128:] == b"DICM"


@contextlib.contextmanager
def _parsing(name: str) -> Iterator[None]:
    """Whatever pydicom says of bytes that it cannot parse is a FormatError; a failing disk is not."""
    try:
        yield
    except (InputError, StorageError):
        raise
    except (EOFError, InvalidDicomError) as error:
        raise FormatError(f"{name} is no complete DICOM file ({error}): truncated?") from error
    except OSError as error:
        raise StorageError(f"{name} cannot be read ({error.strerror or error})") from error
    except (
        ValueError, TypeError, KeyError, AttributeError, IndexError, NotImplementedError, RuntimeError, OverflowError,
        AssertionError, MemoryError, struct.error, zlib.error, BytesLengthException,
    ) as error:  # fmt: skip
        raise FormatError(f"{name} cannot be parsed as DICOM ({error}): truncated or damaged?") from error
