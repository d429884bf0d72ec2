"""Dose reports for tests of the dose index, as small as they can be, and rows of the index by the thousand."""

import io
import json
from datetime import UTC, datetime

from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.sequence import Sequence
from pydicom.uid import ExplicitVRLittleEndian

RDSR = "1.2.840.10008.5.1.4.1.1.88.67"


def code(value, meaning="", scheme="DCM"):
    item = Dataset()
    item.CodeValue, item.CodingSchemeDesignator, item.CodeMeaning = value, scheme, meaning or value
    return Sequence([item])


def item(kind, name, *below):
    made = Dataset()
    made.ValueType, made.ConceptNameCodeSequence = kind, code(name)
    if below:
        made.ContentSequence = Sequence(below)
    return made


def number(name, value, unit):
    made, measured = item("NUM", name), Dataset()
    measured.NumericValue, measured.MeasurementUnitsCodeSequence = value, code(unit, unit, "UCUM")
    made.MeasuredValueSequence = Sequence([measured])
    return made


def coded(name, value, meaning):
    made = item("CODE", name)
    made.ConceptCodeSequence = code(value, meaning)
    return made


def said(kind, name, keyword, value):
    made = item(kind, name)
    setattr(made, keyword, value)
    return made


def acquisition(
    uid, *, region="Chest", started="20261120101500", ctdivol="7.25", dlp="240.5", kind="Spiral Acquisition"
):
    dose = [] if ctdivol is None else [number("113830", ctdivol, "mGy"), number("113838", dlp, "mGy.cm")]
    return item(
        "CONTAINER", "113819",
        said("TEXT", "125203", "TextValue", "胸部低剂量"),
        coded("123014", "816094009", region),
        coded("113820", "116152004", kind),
        said("UIDREF", "113769", "UID", uid),
        *([said("DATETIME", "111526", "DateTime", started)] if started else []),
        item("CONTAINER", "113829", *dose),
    )  # fmt: skip


def report(uid, *acquisitions, patient="G-1", **changes):
    """A scanner's own dose report, in the file format of DICOM."""
    made = item("CONTAINER", "113701", *acquisitions, coded("113854", "113856", "Automated Data Collection"))
    made.SOPClassUID, made.SOPInstanceUID = RDSR, uid
    made.SpecificCharacterSet = "ISO_IR 192"
    made.StudyInstanceUID, made.SeriesInstanceUID = f"{uid}.1", f"{uid}.2"
    made.PatientID, made.PatientName, made.PatientAge = patient, "张^三", "056Y"
    made.Modality, made.Manufacturer, made.ManufacturerModelName = "SR", "Testscan", "T1"
    made.StudyDate, made.StudyTime, made.ContentDate, made.ContentTime = "20261120", "101000", "20261120", "102000"
    for name, value in changes.items():
        setattr(made, name, value)
    return made


def metadata(dataset):
    return json.loads(dataset.to_json())


def encoded(dataset) -> bytes:
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset.file_meta.MediaStorageSOPClassUID = dataset.SOPClassUID
    dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID
    file = io.BytesIO()
    dataset.save_as(file, enforce_file_format=True)
    return file.getvalue()


def fill(rows, site: str, doses, *, examination="chest", protocol="routine", year=2026):
    """Rows of the index: (month, CTDIvol, DLP) each, of an adult."""
    for count, (month, ctdivol, dlp) in enumerate(doses):
        rows(
            "INSERT INTO dose (site, event, report, study_uid, at, examination, protocol, age_class, ctdivol, dlp)"
            " VALUES (%s, %s, %s, %s, %s, %s, %s, 'adult', %s, %s)",
            site, f"1.2.{examination}.{protocol}.{count}", f"1.3.{count}", f"1.4.{count}",
            datetime(year, month, 1 + count % 28, tzinfo=UTC), examination, protocol, ctdivol, dlp,
        )  # fmt: skip
