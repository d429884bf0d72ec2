"""Study, provenance and UIDs → the DICOM attributes that all images share; a header → Study and Acquisition again.

Sources: DICOM PS3.3 C.7.1.1 (Patient), C.7.2.1 (Study), C.7.3.1 (Series), C.7.5.1 (Equipment), C.12.1 (SOP Common, with
Contributing Equipment); PS3.16 CID 7005, 4052, 10024.
"""

import math
import re
import unicodedata
from collections.abc import Iterable
from dataclasses import dataclass, fields
from datetime import datetime
from typing import Any

import numpy as np
from pydicom import config
from pydicom.datadict import dictionary_VR
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.sequence import Sequence
from pydicom.uid import UID, ExplicitVRLittleEndian
from pydicom.valuerep import DSfloat, validate_value

from lampyris.dicom.ids import IMPLEMENTATION_CLASS_UID, SeriesIds
from lampyris.dicom.provenance import Provenance
from lampyris.dicom.source import DECODING_ERRORS, text
from lampyris.model import PATIENT_POSITIONS, Acquisition, Float64, FormatError, Grid, InputError, Study

CTDI_PHANTOM_CODES = {160.0: ("113690", "IEC Head Dosimetry Phantom"), 320.0: ("113691", "IEC Body Dosimetry Phantom")}
"""By diameter in mm: DICOM CID 4052."""

SCANNER_KEYWORDS = ("Manufacturer", "ManufacturerModelName", "DeviceSerialNumber", "StationName")
"""Fields of an Acquisition that name the scanner."""

CT_IMAGE_KEYWORDS = (
    "KVP",
    "RevolutionTime",
    "SpiralPitchFactor",
    "TableFeedPerRotation",
    "SingleCollimationWidth",
    "TotalCollimationWidth",
    "DataCollectionDiameter",
    "GantryDetectorTilt",
    "FilterType",
    "AcquisitionType",
)
"""Fields of an Acquisition that go into a CT Image as they are."""

_NUMBERS = (
    "KVP",
    "RevolutionTime",
    "SpiralPitchFactor",
    "TableFeedPerRotation",
    "SingleCollimationWidth",
    "TotalCollimationWidth",
    "DataCollectionDiameter",
    "GantryDetectorTilt",
    "CTDIvol",
)
UNPAIRED = frozenset({
    "ABDOMEN", "ABDOMENPELVIS", "AORTA", "BACK", "BLADDER", "BRAIN", "CHEST", "CHESTABDOMEN", "CHESTABDPELVIS",
    "COLON", "CSPINE", "ESOPHAGUS", "FACE", "HEAD", "HEADNECK", "HEART", "JAW", "LARYNX", "LIVER", "LSPINE",
    "LSSPINE", "MEDIASTINUM", "NECK", "NECKCHEST", "NECKCHESTABDOMEN", "NECKCHESTABDPELV", "PANCREAS", "PELVIS",
    "PHARYNX", "PROSTATE", "SKULL", "SPINE", "SPLEEN", "STERNUM", "STOMACH", "THYROID", "TRACHEA", "TSPINE",
    "TLSPINE", "UTERUS", "WHOLEBODY",
})  # fmt: skip
"""Values of BodyPartExamined that have no left and right, PS3.16 table L-1."""

_WORDS = ("ProtocolName", "BodyPartExamined", "FilterType", "AcquisitionType")

_TEXT = {"CS", "LO", "SH", "ST", "LT", "PN", "DA", "TM", "DT", "AS", "UI"}


def put(dataset: Dataset, keyword: str, value: Any) -> None:
    """Set one attribute; None stays out. Raises InputError, without the value, if DICOM does not allow it."""
    if value is None:
        return
    vr = dictionary_VR(keyword)
    several = list(value) if isinstance(value, list | tuple) else [value]
    try:
        if vr == "DS":
            several = [DSfloat(_finite(one), auto_format=True) for one in several]
        elif vr == "IS":
            several = [round(one) for one in several]
        elif vr == "FD":
            several = [_finite(one) for one in several]
        elif vr in _TEXT:
            for one in several:
                _check_text(vr, one)
    except (ValueError, TypeError, OverflowError):
        lengths = ", ".join(str(len(str(one))) for one in several)
        raise InputError(
            f"{keyword} is no valid DICOM {vr}: {lengths} characters; wrong form, too long, or a forbidden character?"
        ) from None
    setattr(dataset, keyword, several if isinstance(value, list | tuple) else several[0])


def _finite(value: float) -> float:
    if not math.isfinite(value):
        raise ValueError
    return float(value)


def _check_text(vr: str, value: str) -> None:
    """PS3.5 6.2: no backslash in a single value, no control character but line ends in long texts; then pydicom's."""
    long = vr in ("ST", "LT")
    if any(unicodedata.category(one) == "Cc" and not (long and one in "\r\n\t\f") for one in value):
        raise ValueError
    if "\\" in value and not long:
        raise ValueError
    validate_value(vr, value, config.RAISE)


def put_all(dataset: Dataset, source: object, keywords: Iterable[str]) -> None:
    """Copy the named fields of a dataclass whose names are DICOM keywords; None stays out."""
    for keyword in keywords:
        put(dataset, keyword, getattr(source, keyword))


def code(value: str, scheme: str, meaning: str) -> Sequence:
    """A code sequence of one item, PS3.3 table 8.8-1."""
    item = Dataset()
    item.CodeValue, item.CodingSchemeDesignator, item.CodeMeaning = value, scheme, meaning
    return Sequence([item])


def item(keyword_values: dict[str, Any]) -> Dataset:
    """One sequence item; None stays out, sequences go in as they are."""
    made = Dataset()
    for keyword, value in keyword_values.items():
        if isinstance(value, Sequence):
            setattr(made, keyword, value)
        else:
            put(made, keyword, value)
    return made


def ctdi_phantom(diameter_mm: float | None) -> Sequence | None:
    """CTDIPhantomTypeCodeSequence of a 160 or 320 mm phantom; None if the diameter is not known."""
    if diameter_mm is None:
        return None
    if diameter_mm not in CTDI_PHANTOM_CODES:
        raise InputError(f"CTDI phantom of {diameter_mm} mm: DICOM knows 160 mm (head) and 320 mm (body); given in cm?")
    value, meaning = CTDI_PHANTOM_CODES[diameter_mm]
    return code(value, "DCM", meaning)


def wed_method() -> Sequence:
    """How the water-equivalent diameter of a `Dose` was found: CID 10024."""
    return code("113982", "DCM", "Water Equivalent Diameter Integrated Across Scan Range")


@dataclass(frozen=True, slots=True)
class Label:
    """What the caller says of the series: its number, its description and the time of writing."""

    SeriesNumber: int
    SeriesDescription: str
    now: datetime


def common(study: Study, provenance: Provenance, ids: SeriesIds, label: Label) -> Dataset:
    """Patient, study, series, frame of reference, equipment and SOP common: the same in every image."""
    dataset = Dataset()
    dataset.SpecificCharacterSet = "ISO_IR 192"
    patient_and_study(dataset, study, ids.study)
    _series(dataset, provenance.acquisition, ids, label)
    equipment(dataset, study, provenance, label.now)
    return dataset


def patient_and_study(dataset: Dataset, study: Study, StudyInstanceUID: str) -> None:
    """The modules Patient and General Study."""
    put_all(
        dataset,
        study,
        (
            "PatientName",
            "PatientID",
            "IssuerOfPatientID",
            "PatientBirthDate",
            "PatientSex",
            "PatientAge",
            "StudyID",
            "StudyDate",
            "StudyTime",
            "StudyDescription",
            "AccessionNumber",
            "ReferringPhysicianName",
        ),
    )
    put(dataset, "StudyInstanceUID", StudyInstanceUID)


def _series(dataset: Dataset, acquisition: Acquisition, ids: SeriesIds, label: Label) -> None:
    now = label.now
    dataset.Modality = "CT"
    dataset.SeriesInstanceUID = ids.series
    put(dataset, "SeriesNumber", label.SeriesNumber)
    put(dataset, "SeriesDescription", label.SeriesDescription)
    put_all(dataset, acquisition, ("ProtocolName", "BodyPartExamined", "PatientPosition"))
    put(dataset, "FrameOfReferenceUID", ids.frame_of_reference)
    dataset.PositionReferenceIndicator = ""
    for kind in ("Series", "Content", "InstanceCreation"):
        setattr(dataset, f"{kind}Date", now.strftime("%Y%m%d"))
        setattr(dataset, f"{kind}Time", now.strftime("%H%M%S.%f"))


def equipment(dataset: Dataset, study: Study, provenance: Provenance, now: datetime) -> None:
    """Lampyris made these instances and is their equipment; the scanner that measured contributed.

    See docs/decisions/0070.
    """
    acquisition = provenance.acquisition
    made_by = {
        "Manufacturer": "Lampyris",
        "ManufacturerModelName": "Lampyris reconstruction",
        "SoftwareVersions": provenance.software_version,
    }
    for keyword, value in made_by.items():
        put(dataset, keyword, value)
    put(dataset, "InstitutionName", study.InstitutionName)
    contributions = [
        item(
            made_by
            | {
                "PurposeOfReferenceCodeSequence": code("109102", "DCM", "Processing Equipment"),
                "ContributionDateTime": now.strftime("%Y%m%d%H%M%S.%f"),
                "ContributionDescription": provenance.contribution(),
            }
        )
    ]
    if acquisition.Manufacturer:
        scanner = {name: getattr(acquisition, name) for name in SCANNER_KEYWORDS}
        measured = {"PurposeOfReferenceCodeSequence": code("109101", "DCM", "Acquisition Equipment")}
        contributions.append(item(scanner | measured))
    dataset.ContributingEquipmentSequence = Sequence(contributions)


def file_meta(sop_class: str, instance: str, software_version: str) -> FileMetaDataset:
    """Group 0002: explicit VR little endian, uncompressed, written by Lampyris."""
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = UID(sop_class)
    meta.MediaStorageSOPInstanceUID = UID(instance)
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    meta.ImplementationClassUID = UID(IMPLEMENTATION_CLASS_UID)
    meta.ImplementationVersionName = f"LAMPYRIS_{software_version}"[:16]
    return meta


def orientation(grid: Grid) -> list[float]:
    """ImageOrientationPatient: direction along a row (columns increasing), then down a column."""
    return [*grid.axes[2].tolist(), *grid.axes[1].tolist()]


def field_of_view_mm(grid: Grid) -> float:
    """The longer side of the image."""
    return max(grid.shape[1] * grid.spacing_mm[1], grid.shape[2] * grid.spacing_mm[2])


def items_of(dataset: Dataset, keyword: str) -> list[Dataset]:
    """The items of a sequence; none where it is absent or no sequence."""
    value = value_of([dataset], keyword)
    return list(value) if isinstance(value, Sequence) else []


def flattened(groups: Iterable[Dataset]) -> list[Dataset]:
    """The items inside functional groups, each searched for its attributes in turn; the groups themselves last."""
    kept = list(groups)
    return [
        one for group in kept for element in group if isinstance(element.value, Sequence) for one in element.value
    ] + kept


def value_of(places: Iterable[Dataset], keyword: str) -> Any:
    """The first value of a keyword in these data sets that is there and not empty; None if there is none.

    Raises FormatError, without the value, if it cannot be decoded.
    """
    for place in places:
        try:
            value = place.get(keyword)
        except DECODING_ERRORS as error:
            raise FormatError(f"{keyword} cannot be decoded ({type(error).__name__}): a damaged file?") from None
        if value is not None and value != "":
            return value
    return None


def _places(header: Dataset) -> list[Dataset]:
    frames, shared = (items_of(header, f"{kind}FunctionalGroupsSequence") for kind in ("PerFrame", "Shared"))
    return [header, *flattened([*frames[:1], *shared])]


def first_of(header: Dataset, keyword: str) -> str | None:
    """A text attribute from the object or its functional groups; None if empty or absent."""
    return next((found for place in _places(header) if (found := text(place, keyword))), None)


def number_of(header: Dataset, keyword: str) -> int | None:
    """An integer attribute; None if absent, empty or no integer."""
    try:
        return int(text(header, keyword))
    except ValueError:
        return None


def _sound(dataset: Dataset, keyword: str, notes: list[str]) -> str:
    """A text attribute as we may write it again; what DICOM forbids is left out with a note that does not quote it."""
    value = text(dataset, keyword)
    try:
        _check_text(dictionary_VR(keyword), value)
    except ValueError:
        notes.append(f"{keyword} is no valid DICOM {dictionary_VR(keyword)} and was left out")
        return ""
    return value


def study_of(header: Dataset) -> tuple[Study, list[str]]:
    """Patient and study level as text, with notes; UIDs too, so that a new series of the same study stays in it."""
    notes: list[str] = []
    values = {one.name: _sound(header, one.name, notes) for one in fields(Study)}
    optional = {one.name for one in fields(Study) if one.default is None}
    known: dict[str, Any] = {name: value for name, value in values.items() if value or name not in optional}
    return Study(**known), notes


def acquisition_of(header: Dataset) -> tuple[Acquisition, list[str]]:
    """What the series tells of the acquisition, and notes on what had to be assumed or left out."""
    places, notes = _places(header), list[str]()
    found: dict[str, Any] = {name: _number(places, name) for name in _NUMBERS}
    for name in _WORDS:
        place = next((one for one in places if text(one, name)), header)
        found[name] = _sound(place, name, notes) or None
    found |= {name: _sound(_scanner(header), name, notes) or None for name in SCANNER_KEYWORDS}
    found["FrameOfReferenceUID"] = _sound(header, "FrameOfReferenceUID", notes) or None
    found["AcquisitionDateTime"] = _moment(header)
    centre = numbers_of(places, "DataCollectionCenterPatient")
    if centre.shape == (3,):
        found["DataCollectionCenterPatient"] = tuple(centre.tolist())
    found["CTDIPhantomDiameter"] = _phantom(places)
    position = text(header, "PatientPosition")
    if position in PATIENT_POSITIONS:
        return Acquisition(PatientPosition=position, **found), notes
    said = f"{position!r} is none we know" if position else "is not given"
    return Acquisition(PatientPosition="HFS", **found), [*notes, f"PatientPosition {said}: HFS assumed"]


def numbers_of(places: Iterable[Dataset], keyword: str) -> Float64:
    """The finite numbers of an attribute (n,); none where it is absent or holds anything else."""
    value = value_of(places, keyword)
    try:
        found = np.atleast_1d(np.asarray([] if value is None else value, np.float64))
    except (TypeError, ValueError):
        return np.empty(0)
    return found if found.ndim == 1 and np.isfinite(found).all() else np.empty(0)


def _number(places: Iterable[Dataset], keyword: str) -> float | None:
    found = numbers_of(places, keyword)
    return float(found[0]) if found.shape == (1,) else None


def _scanner(header: Dataset) -> Dataset:
    """Who measured: the contributing acquisition equipment where there is one, otherwise the image's equipment."""
    for one in items_of(header, "ContributingEquipmentSequence"):
        if _code(one, "PurposeOfReferenceCodeSequence") == "109101":
            return one
    return header


def _code(dataset: Dataset, keyword: str) -> str:
    return next((text(one, "CodeValue") for one in items_of(dataset, keyword)), "")


def _moment(header: Dataset) -> str | None:
    together = text(header, "AcquisitionDateTime")
    apart = text(header, "AcquisitionDate") + text(header, "AcquisitionTime")
    return next((one for one in (together, apart) if re.fullmatch(r"\d{14}(\.\d{1,6})?([+-]\d{4})?", one)), None)


def _phantom(places: Iterable[Dataset]) -> float | None:
    found = {_code(place, "CTDIPhantomTypeCodeSequence") for place in places}
    return next((diameter for diameter, (value, _meaning) in CTDI_PHANTOM_CODES.items() if value in found), None)
