"""RawScan → a folder of DICOM-CT-PD, one file per projection or one multi-frame file; strict where the reader forgives.

What is written is what the format keeps: line integrals. They come from a `Projections` of the scan, or, where none is
given, from −ln of its counts against dark and air; a scan with rays that have no photons left is then refused.
"""

import contextlib
import hashlib
import os
import secrets
import shutil
import uuid
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.sequence import Sequence as DicomSequence
from pydicom.uid import CTImageStorage, EnhancedCTImageStorage, ExplicitVRLittleEndian

from lampyris.model import (
    Acquisition,
    CalibrationError,
    Float32,
    Float64,
    InputError,
    Progress,
    Projections,
    RawScan,
    StorageError,
    silent,
)
from lampyris.raw.ctpd.frame import Frame
from lampyris.raw.ctpd.tags import TAGS

CREATOR = "DICOM-CT-PD"


def write(
    scan: RawScan,
    folder: str | os.PathLike[str],
    *,
    projections: Projections | None = None,
    multiframe: bool = False,
    progress: Progress = silent,
) -> None:
    """Write a scan as DICOM-CT-PD into a new folder: whole, or not at all.

    Values are rounded to 16 bits of each projection's own range. `projections` are the scan's own after correction;
    their history sets the flags. Raises CalibrationError where integrals cannot be had, GeometryError for one that
    CT-PD cannot tell, InputError when the folder exists, StorageError when the disk is full or read-only.
    """
    target = Path(folder)
    if target.exists():
        raise InputError(f"{target.name} exists: DICOM-CT-PD is written to a new folder")
    source = _Source.of(scan, projections)
    partial = target.with_name(f".{target.name}.{secrets.token_hex(4)}.partial")
    try:
        partial.mkdir()
        if multiframe:
            _write_multiframe(source, partial)
        else:
            for view in range(scan.views):
                _projection(source, view).save_as(partial / f"{view + 1:06d}.dcm", enforce_file_format=True)
                progress((view + 1) / scan.views)
        partial.rename(target)
    except OSError as error:
        raise StorageError(
            f"{target.name} could not be written ({error.strerror or error}): is the disk full, or read-only?"
        ) from error
    finally:
        with contextlib.suppress(OSError):
            shutil.rmtree(partial)


@dataclass(frozen=True, slots=True, eq=False)
class _Source:
    """A scan with the tags of its geometry, its corrections and its mean quanta (columns,) at `air_exposure_mas`."""

    scan: RawScan
    projections: Projections | None
    frame: Frame
    made: frozenset[str]
    quanta: Float64 | None
    water_per_mm: float | None

    @staticmethod
    def of(scan: RawScan, projections: Projections | None) -> "_Source":
        if projections is not None and projections.integrals.shape != scan.geometry.shape:
            raise InputError(f"projections {projections.integrals.shape} of a scan of {scan.geometry.shape}")
        if projections is None and scan.air is None:
            raise CalibrationError("the scan has no air map: line integrals cannot be had; was it left at the scanner?")
        if projections is None and scan.dark is None and "dark_air" not in scan.applied:
            raise CalibrationError(
                "the scan has no dark map: line integrals cannot be had; was it left at the scanner?"
            )
        made = set(scan.applied) | {"dark_air"}
        water = scan.water_per_mm
        if projections is not None:
            made |= {one.name for one in projections.history}
            water = projections.water_per_mm or water
        quanta = None
        if scan.noise is not None and scan.air is not None:
            net = scan.air - (0.0 if scan.dark is None else scan.dark)
            quanta = np.asarray(net.mean((0, 1), dtype=np.float64) / scan.noise.gain_counts, np.float64)
            if quanta.min() <= 0:
                raise CalibrationError(f"air is not above dark in column {int(quanta.argmin())}: no photon statistics")
        return _Source(scan, projections, Frame.of(scan.geometry), frozenset(made), quanta, water)

    def integrals(self, view: int) -> Float64:
        """p (rows, columns) of one view."""
        if self.projections is not None:
            return np.asarray(self.projections.integrals[view], np.float64)
        scan = self.scan
        air = _given(scan.air)[view % scan.focal_spots]
        dark = np.zeros_like(air) if scan.dark is None or "dark_air" in scan.applied else scan.dark
        net = np.asarray(scan.counts[view], np.float64) - dark
        open_ = (air.astype(np.float64) - dark) * (scan.exposure_mas[view] / scan.air_exposure_mas)
        if net.min() <= 0 or open_.min() <= 0:
            raise CalibrationError(
                f"{int((net <= 0).sum())} rays of view {view} have no photons left, {int((open_ <= 0).sum())} no air:"
                " CT-PD keeps line integrals; correct the scan first and give its projections"
            )
        return np.asarray(-np.log(net / open_), np.float64)


def _given(air: Float32 | None) -> Float32:
    if air is None:
        raise CalibrationError("the scan has no air map")
    return air


def _projection(source: _Source, view: int) -> Dataset:
    """One classic file."""
    dataset = _common(source, CTImageStorage, str(view))
    dataset.InstanceNumber = view + 1
    _put(dataset, _view_tags(source, view))
    pixels, slope, intercept = _quantised(source.integrals(view))
    _put(dataset, {"RescaleIntercept": intercept, "RescaleSlope": slope})
    _put_pixels(dataset, pixels[None], frames=None)
    return dataset


def _write_multiframe(source: _Source, folder: Path) -> None:
    """All projections in one file: what changes from view to view in (5200,9230), the rest in the root."""
    dataset = _common(source, EnhancedCTImageStorage, "all")
    dataset.InstanceNumber = 1
    items, frames = [], []
    for view in range(source.scan.views):
        pixels, slope, intercept = _quantised(source.integrals(view))
        item, rescale = Dataset(), Dataset()
        _put(item, _view_tags(source, view))
        _put(rescale, {"RescaleIntercept": intercept, "RescaleSlope": slope})
        item.PixelValueTransformationSequence = DicomSequence([rescale])
        items.append(item)
        frames.append(pixels)
    dataset.SharedFunctionalGroupsSequence = DicomSequence([Dataset()])
    dataset.PerFrameFunctionalGroupsSequence = DicomSequence(items)
    _put_pixels(dataset, np.stack(frames), frames=len(frames))
    dataset.save_as(folder / "projections.dcm", enforce_file_format=True)


def _common(source: _Source, sop_class: str, part: str) -> Dataset:
    """Everything that is the same in all projections."""
    scan = source.scan
    dataset = Dataset()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset.file_meta.MediaStorageSOPClassUID = dataset.SOPClassUID = sop_class
    dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID = _uid(scan.id, "instance", part)
    dataset.StudyInstanceUID, dataset.SeriesInstanceUID = _uid(scan.id, "study"), _uid(scan.id, "series")
    dataset.Modality, dataset.ImageType = "CT", ["ORIGINAL", "PRIMARY", "PROJECTION"]
    dataset.PatientName = dataset.PatientID = dataset.PatientBirthDate = dataset.PatientSex = ""
    dataset.StudyDate = dataset.StudyTime = dataset.StudyID = dataset.AccessionNumber = ""
    dataset.ReferringPhysicianName = ""
    dataset.SeriesNumber = 1
    _put(dataset, _constant_tags(source))
    _put(dataset, _acquisition_tags(scan.acquisition))
    return dataset


def _constant_tags(source: _Source) -> dict[str, Any]:
    frame, scan = source.frame, source.scan
    helical = bool(np.ptp(frame.z_mm) > 0)
    turn = np.abs(np.diff(frame.angle_rad)).mean() if scan.views > 1 else 2 * np.pi
    return {
        "NumberofDetectorRows": frame.rows,
        "NumberofDetectorColumns": frame.columns,
        "DetectorElementTransverseSpacing": frame.transverse_mm,
        "DetectorElementAxialSpacing": frame.axial_mm,
        "DetectorShape": "CYLINDRICAL" if frame.curved else "FLAT",
        "FlyingFocalSpotMode": frame.focal_spot_mode,
        "NumberofSourceAngularSteps": min(round(2 * np.pi / turn), 65535),
        "NumberofSpectra": 1,
        "SpectrumIndex": 1,
        "TypeofProjectionData": "HELICAL" if helical else "AXIAL",
        "TypeofProjectionGeometry": "FANBEAM",
        "BeamHardeningCorrectionFlag": _flag("water_beam_hardening" in source.made),
        "GainCorrectionFlag": "YES",
        "DarkFieldCorrectionFlag": "YES",
        "FlatFieldCorrectionFlag": "YES",
        "BadPixelCorrectionFlag": _flag("bad_cells" in source.made),
        "ScatterCorrectionFlag": _flag("scatter" in source.made),
        "LogFlag": "YES",
        "WaterAttenuationCoefficient": None if source.water_per_mm is None else _decimal(source.water_per_mm),
    }


def _acquisition_tags(acquisition: Acquisition) -> dict[str, Any]:
    """What is known of the acquisition; None is left out."""
    seconds, diameter = acquisition.RevolutionTime, acquisition.DataCollectionDiameter
    as_is = (
        "PatientPosition", "SpiralPitchFactor", "Manufacturer", "ManufacturerModelName", "ProtocolName",
        "BodyPartExamined", "FrameOfReferenceUID",
    )  # fmt: skip
    return {
        "KVP": None if acquisition.KVP is None else _decimal(acquisition.KVP),
        "ExposureTime": None if seconds is None else round(1000 * seconds),
        "DataCollectionDiameter": None if diameter is None else _decimal(diameter),
        "DataCollectionCenterPatient": list(acquisition.DataCollectionCenterPatient),
        **{keyword: getattr(acquisition, keyword) for keyword in as_is},
    }


def _view_tags(source: _Source, view: int) -> dict[str, Any]:
    """The tags that change from view to view."""
    frame, scan = source.frame, source.scan
    ratio = float(scan.exposure_mas[view] / scan.air_exposure_mas)
    seconds = scan.acquisition.RevolutionTime
    per_view = None if seconds is None else seconds * abs(frame.angle_rad[view] - frame.angle_rad[0]) / (2 * np.pi)
    return {
        "DetectorFocalCenterAngularPosition": float(np.mod(frame.angle_rad[view], 2 * np.pi)),
        "DetectorFocalCenterAxialPosition": float(frame.z_mm[view]),
        "DetectorFocalCenterRadialDistance": float(frame.radius_mm[view]),
        "ConstantRadialDistance": float(frame.distance_mm[view]),
        "DetectorCentralElement": [float(frame.central_column[view]), float(frame.central_row[view])],
        "SourceAngularPositionShift": float(frame.shift_rad[view]),
        "SourceAxialPositionShift": float(frame.shift_z_mm[view]),
        "SourceRadialDistanceShift": float(frame.shift_radius_mm[view]),
        "PhotonStatistics": None if source.quanta is None else [float(each) for each in source.quanta * ratio],
        "Timestamp": None if per_view is None else 1000.0 * float(per_view),
        "XRayTubeCurrent": _tube_current(source, view),
    }


def _tube_current(source: _Source, view: int) -> int | None:
    """mA from mAs, where the rotation time is known; the format rounds it to whole mA."""
    seconds, angles = source.scan.acquisition.RevolutionTime, source.frame.angle_rad
    if seconds is None or len(angles) < 2:
        return None
    view_seconds = seconds * float(np.abs(np.diff(angles)).mean()) / (2 * np.pi)
    return max(1, round(float(source.scan.exposure_mas[view]) / view_seconds))


def _quantised(integrals: Float64) -> tuple[np.ndarray, str, str]:
    """16-bit pixels as (channels, rows) with row 1 farthest, slope and intercept as DS."""
    low, high = float(integrals.min()), float(integrals.max())
    slope, intercept = _decimal((high - low) / 65535 if high > low else 1.0), _decimal(low)
    raw = np.rint((integrals - float(intercept)) / float(slope)).clip(0, 65535)
    return np.ascontiguousarray(raw[::-1].T.astype("<u2")), slope, intercept


def _put(dataset: Dataset, values: dict[str, Any]) -> None:
    """Set tags by the table's VR, with a private creator for every private group."""
    for keyword, value in values.items():
        if value is None:
            continue
        tag = TAGS[keyword]
        group = tag.number >> 16
        if group % 2:
            dataset.add_new((group, 0x0010), "LO", CREATOR)
        dataset.add_new(tag.number, tag.vr, value)


def _put_pixels(dataset: Dataset, pixels: np.ndarray, frames: int | None) -> None:
    dataset.SamplesPerPixel, dataset.PhotometricInterpretation = 1, "MONOCHROME2"
    if frames is not None:
        dataset.NumberOfFrames = frames
    dataset.Rows, dataset.Columns = pixels.shape[1:]
    dataset.BitsAllocated = dataset.BitsStored = 16
    dataset.HighBit, dataset.PixelRepresentation = 15, 0
    dataset.PixelData = pixels.tobytes()
    dataset["PixelData"].VR = "OW"


def _flag(made: bool) -> str:
    return "YES" if made else "NO"


def _decimal(value: float) -> str:
    """A DS of at most 16 characters, as exact as they allow."""
    for digits in range(16, 0, -1):
        text = f"{value:.{digits}g}"
        if len(text) <= 16:
            return text
    raise InputError(f"{value} has no decimal text of 16 characters")


def _uid(scan_id: str, *parts: str) -> str:
    """A UID of the scan's content, the same on every machine (UUID-derived, PS3.5 B.2)."""
    digest = hashlib.sha256("/".join((scan_id, *parts)).encode()).digest()
    return f"2.25.{uuid.UUID(bytes=digest[:16], version=4).int}"
