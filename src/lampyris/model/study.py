"""Whose scan it is and which examination it belongs to: DICOM patient and study, carried and never computed with."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Study:
    """Patient and study level of DICOM, under its keywords. Identity never appears in a message or a log.

    UIDs left None are derived from the scan, so that the same scan always gives the same study.
    """

    PatientName: str = ""
    PatientID: str = ""
    IssuerOfPatientID: str | None = None
    PatientBirthDate: str = ""
    PatientSex: str = ""
    PatientAge: str | None = None
    StudyInstanceUID: str | None = None
    StudyID: str = ""
    StudyDate: str = ""
    StudyTime: str = ""
    StudyDescription: str | None = None
    AccessionNumber: str = ""
    ReferringPhysicianName: str = ""
    InstitutionName: str | None = None

    def __repr__(self) -> str:
        return "Study(…)"  # so that no traceback, log or message can spell out a patient
