"""Study, provenance and what a document is → the attributes that all our structured reports share, and their file.

Sources: PS3.3 C.17.1 (SR Document Series), C.17.2 (SR Document General), C.7.5.2 (Enhanced General Equipment).
"""

from dataclasses import dataclass
from datetime import datetime

from pydicom.dataset import Dataset
from pydicom.sequence import Sequence

from lampyris.dicom import header
from lampyris.dicom.header import put
from lampyris.dicom.ids import uid
from lampyris.dicom.provenance import Provenance
from lampyris.dicom.structured.tree import DCM, OBSERVATION, Code, coded, dcm, reference, text
from lampyris.model import InputError, Study

OBSERVER_UID = uid("lampyris", "observer")
OBSERVER_NAME = "Lampyris reconstruction"


@dataclass(frozen=True, slots=True)
class Kind:
    """A document: class, modality, number and description of its series, and what tells it from others of a scan."""

    sop_class: str
    Modality: str
    SeriesNumber: int
    SeriesDescription: str
    role: str


@dataclass(frozen=True, slots=True)
class Occasion:
    """For whom and of what a document is made, and the moment that it bears (with a time zone)."""

    study: Study
    provenance: Provenance
    now: datetime

    def __post_init__(self) -> None:
        if self.now.tzinfo is None:
            raise InputError("`now` has no time zone: use UTC")
        if not self.provenance.scan_id:
            raise InputError("the scan has no id: deterministic UIDs need the digest of its content")

    @property
    def study_uid(self) -> str:
        return self.study.StudyInstanceUID or uid(self.provenance.scan_id, "study")

    def uids(self, kind: Kind) -> tuple[str, str]:
        """Series and instance of a document: of scan, recipe, program and role alone."""
        made = self.provenance
        series = uid(made.scan_id, made.recipe_digest, "series", f"{made.program} {kind.role}")
        return series, uid(series, "instance", "1")


def dress(document: Dataset, kind: Kind, occasion: Occasion) -> Dataset:
    """Patient, study, series, equipment and SOP common into a document, over whatever stands there."""
    provenance, now = occasion.provenance, occasion.now
    series, instance = occasion.uids(kind)
    document.SpecificCharacterSet = "ISO_IR 192"
    header.patient_and_study(document, occasion.study, occasion.study_uid)
    document.Modality = kind.Modality
    document.SeriesInstanceUID, document.SOPInstanceUID, document.SOPClassUID = series, instance, kind.sop_class
    put(document, "SeriesNumber", kind.SeriesNumber)
    put(document, "SeriesDescription", kind.SeriesDescription)
    put(document, "InstanceNumber", 1)
    document.ReferencedPerformedProcedureStepSequence = Sequence()
    for name in ("Series", "Content", "InstanceCreation"):
        setattr(document, f"{name}Date", now.strftime("%Y%m%d"))
        setattr(document, f"{name}Time", now.strftime("%H%M%S.%f"))
    header.equipment(document, occasion.study, provenance, now)
    put(document, "DeviceSerialNumber", f"lampyris-{provenance.software_version}")
    document.file_meta = header.file_meta(kind.sop_class, instance, provenance.software_version)
    return document


def observer(software_version: str) -> list[Dataset]:
    """Who writes: Lampyris, a device that records (TID 1002, TID 1004)."""
    recording: Code = ("121097", DCM, "Recording")
    return [
        coded(dcm("121005", "Observer Type"), dcm("121007", "Device"), OBSERVATION),
        reference(dcm("121012", "Device Observer UID"), OBSERVER_UID, OBSERVATION),
        text(dcm("121013", "Device Observer Name"), OBSERVER_NAME, OBSERVATION),
        text(dcm("121014", "Device Observer Manufacturer"), "Lampyris", OBSERVATION),
        text(dcm("121015", "Device Observer Model Name"), OBSERVER_NAME, OBSERVATION),
        text(dcm("121016", "Device Observer Serial Number"), f"lampyris-{software_version}", OBSERVATION),
        coded(dcm("113876", "Device Role in Procedure"), recording, OBSERVATION),
    ]
