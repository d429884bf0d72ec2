"""DICOM datasets → values of the CT-PD tags, decoded by the VR of the published table, whoever wrote the file.

Table: Moen et al. 2021, Med. Phys. 48:902, Table IV, and the DICOM-CT-PD user manual, version 3. Private VRs often
arrive as raw bytes (UN), and private creators are spelled in many ways: neither is relied upon.
"""

import math
import struct
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from pydicom.dataset import Dataset
from pydicom.multival import MultiValue

from lampyris.model import FormatError

Value: TypeAlias = float | int | str
Found: TypeAlias = dict[int, Any]
"""What pydicom made of the elements of one level, by tag number; long lists as float32 arrays."""


@dataclass(frozen=True, slots=True)
class Tag:
    """One tag: number, VR by the table, meaning."""

    number: int
    vr: str
    meaning: str

    def __str__(self) -> str:
        return f"({self.number >> 16:04X},{self.number & 0xFFFF:04X})"


TAGS = {
    "NumberofDetectorRows": Tag(0x70291010, "US", "physical rows"),
    "NumberofDetectorColumns": Tag(0x70291011, "US", "physical columns"),
    "DetectorElementTransverseSpacing": Tag(0x70291002, "FL", "mm at the detector, across"),
    "DetectorElementAxialSpacing": Tag(0x70291006, "FL", "mm at the detector, along the axis"),
    "DetectorShape": Tag(0x7029100B, "CS", "CYLINDRICAL, SPHERICAL or FLAT"),
    "DetectorFocalCenterAngularPosition": Tag(0x70311001, "FL", "φ0, rad, wraps"),
    "DetectorFocalCenterAxialPosition": Tag(0x70311002, "FL", "z0, mm"),
    "DetectorFocalCenterRadialDistance": Tag(0x70311003, "FL", "ρ0, mm"),
    "ConstantRadialDistance": Tag(0x70311031, "FL", "d0, mm, focal centre to central element"),
    "DetectorCentralElement": Tag(0x70311033, "FL", "X column, Y row: 1-based, fractional index"),
    "SourceAngularPositionShift": Tag(0x7033100B, "FL", "Δφ, rad, added to φ0"),
    "SourceAxialPositionShift": Tag(0x7033100C, "FL", "Δz, mm, added to z0"),
    "SourceRadialDistanceShift": Tag(0x7033100D, "FL", "Δρ, mm, added to ρ0"),
    "FlyingFocalSpotMode": Tag(0x7033100E, "CS", "FFSNONE, FFSZ, FFSXY, FFSXYZ"),
    "NumberofSourceAngularSteps": Tag(0x70331013, "US", "projections per turn, every focal spot counted"),
    "NumberofSpectra": Tag(0x70331061, "US", "version 8: NumberofSources"),
    "SpectrumIndex": Tag(0x70331063, "US", "version 8: SourceIndex"),
    "PhotonStatistics": Tag(0x70331065, "FL", "noise-equivalent quanta of every column in air, in this view"),
    "Timestamp": Tag(0x70331067, "FL", "ms"),
    "TypeofProjectionData": Tag(0x70371009, "CS", "AXIAL or HELICAL"),
    "TypeofProjectionGeometry": Tag(0x7037100A, "CS", "FANBEAM, also for many rows"),
    "BeamHardeningCorrectionFlag": Tag(0x70391003, "CS", "YES or NO"),
    "GainCorrectionFlag": Tag(0x70391004, "CS", "YES or NO"),
    "DarkFieldCorrectionFlag": Tag(0x70391005, "CS", "YES or NO"),
    "FlatFieldCorrectionFlag": Tag(0x70391006, "CS", "YES or NO"),
    "BadPixelCorrectionFlag": Tag(0x70391007, "CS", "YES or NO"),
    "ScatterCorrectionFlag": Tag(0x70391008, "CS", "YES or NO"),
    "LogFlag": Tag(0x70391009, "CS", "YES: the values are line integrals"),
    "WaterAttenuationCoefficient": Tag(0x70411001, "DS", "1/mm; some write 1/cm"),
    "HUCalibrationFactor": Tag(0x00180061, "DS", "version 8: the same"),
    "RescaleIntercept": Tag(0x00281052, "DS", "line integral = raw · slope + intercept"),
    "RescaleSlope": Tag(0x00281053, "DS", "may differ from file to file"),
    "InstanceNumber": Tag(0x00200013, "IS", "order of the projections"),
    "KVP": Tag(0x00180060, "DS", "kV"),
    "ExposureTime": Tag(0x00181150, "IS", "rotation time, ms"),
    "XRayTubeCurrent": Tag(0x00181151, "IS", "mA"),
    "SpiralPitchFactor": Tag(0x00189311, "FD", "table feed per turn over collimation"),
    "DataCollectionDiameter": Tag(0x00180090, "DS", "mm"),
    "PatientPosition": Tag(0x00185100, "CS", "HFS …"),
    "DataCollectionCenterPatient": Tag(0x00189313, "FD", "isocentre in patient coordinates, mm"),
    "Manufacturer": Tag(0x00080070, "LO", ""),
    "ManufacturerModelName": Tag(0x00081090, "LO", ""),
    "ProtocolName": Tag(0x00181030, "LO", ""),
    "BodyPartExamined": Tag(0x00180015, "CS", ""),
    "FrameOfReferenceUID": Tag(0x00200052, "UI", ""),
    "SeriesInstanceUID": Tag(0x0020000E, "UI", ""),
}
_NUMBERS = tuple(tag.number for tag in TAGS.values())
PER_FRAME, SHARED = 0x52009230, 0x52009229

_BINARY = {"US": "H", "FL": "f", "FD": "d"}
_NUMERIC = (*_BINARY, "DS", "IS")


@dataclass(frozen=True, slots=True)
class Header:
    """The elements that hold for one projection: its own before the shared ones before the root's."""

    levels: tuple[Found, ...]
    where: str

    def values(self, keyword: str) -> tuple[Value, ...]:
        """Decoded values, () where the tag is absent or empty. Raises FormatError for a wrong length, text or NaN."""
        tag = TAGS[keyword]
        for level in self.levels:
            if tag.number in level and (found := decode(level[tag.number], tag, self.where)):
                return found
        return ()

    def number(self, keyword: str, default: float | None = None) -> float:
        """One number; FormatError when it is absent and there is no default."""
        found = self.values(keyword)
        if not found and default is not None:
            return default
        if len(found) != 1:
            raise FormatError(f"{self.where}: {keyword} {TAGS[keyword]} has {len(found)} values, expected 1")
        return float(found[0])

    def text(self, keyword: str) -> str | None:
        found = self.values(keyword)
        return str(found[0]) if found else None

    def flag(self, keyword: str) -> bool | None:
        """YES or NO; None where it is absent; FormatError for anything else."""
        text = self.text(keyword)
        if text is not None and text.upper() not in ("YES", "NO"):
            raise FormatError(f"{self.where}: {keyword} {TAGS[keyword]} is {text!r}, expected YES or NO")
        return None if text is None else text.upper() == "YES"


def decode(value: Any, tag: Tag, where: str) -> tuple[Value, ...]:
    """Values of one element, from raw bytes or as pydicom has parsed them, as the table's VR says."""
    try:
        if isinstance(value, (bytes, bytearray)):
            parts: Iterable[Any] = _from_bytes(bytes(value), tag)
        elif value is None or isinstance(value, str):
            parts = str(value or "").split("\\")
        else:
            parts = value if isinstance(value, Iterable) else [value]
        if tag.vr in _NUMERIC:
            numbers = tuple(float(part) for part in parts if str(part).strip(" \0"))
            if not all(math.isfinite(number) for number in numbers):
                raise ValueError("NaN or infinite")
            return numbers
        return tuple(text for part in parts if (text := str(part).strip(" \0")))
    except (ValueError, TypeError, struct.error, UnicodeDecodeError, OverflowError) as error:
        raise FormatError(f"{where}: {tag} cannot be read as {tag.vr} ({error}): damaged?") from error


def levels(dataset: Dataset, frames: int) -> list[tuple[Found, ...]]:
    """The elements of every frame, nearest first; one entry for a classic file of one projection."""
    root: Found = {number: _compact(dataset[number].value) for number in _NUMBERS if number in dataset}
    if PER_FRAME not in dataset:
        return [(root,)] * frames
    shared = _flat(dataset[SHARED].value[0]) if SHARED in dataset and len(dataset[SHARED].value) else {}
    items = [_flat(item) for item in dataset[PER_FRAME].value]
    if len(items) == frames + 1 and not items[0]:
        items = items[1:]  # some writers begin with an empty item that stands for no frame
    if len(items) != frames:
        raise FormatError(f"{len(items)} per-frame items for {frames} frames: a damaged multi-frame file?")
    return [(item, shared, root) for item in items]


def _flat(item: Dataset) -> Found:
    """Elements of an item and of the sequences in it, the outer ones first."""
    found: Found = {}
    inner: list[Dataset] = []
    for element in item:
        if element.VR == "SQ":
            inner.extend(element.value)
        else:
            found[int(element.tag)] = _compact(element.value)
    for each in inner:
        found = _flat(each) | found
    return found


def _compact(value: Any) -> Any:
    """Thousands of views hold hundreds of statistics each: as Python floats they would fill the memory."""
    return np.asarray(value, np.float32) if isinstance(value, MultiValue) and len(value) > 16 else value


def _from_bytes(raw: bytes, tag: Tag) -> list[Any]:
    if tag.vr in _BINARY:
        size = struct.calcsize(_BINARY[tag.vr])
        if len(raw) % size:
            raise ValueError(f"{len(raw)} bytes are no multiple of {size}")
        return list(struct.unpack(f"<{len(raw) // size}{_BINARY[tag.vr]}", raw))
    return raw.decode("ascii").split("\\")
