"""A dose report's metadata → rows of the dose index, in the caller's transaction, and the index made anew.

Reports of our own making and those of scanners that arrive in the archive are read alike. Projection radiography and
localizers (constant angle) are left out: no CTDIvol of theirs can be compared.
"""

import hashlib
import re
from collections.abc import Sequence
from dataclasses import astuple, dataclass, fields
from datetime import UTC, datetime
from typing import Any

import structlog
from pydicom.dataset import Dataset
from pydicom.uid import XRayRadiationDoseSRStorage

from lampyris.centre.database import Connection
from lampyris.centre.dose.levels import examination_of
from lampyris.dicom import DoseEvent, is_dose_report, read_dose_report
from lampyris.model import FormatError

_CLASSES = (XRayRadiationDoseSRStorage, "1.2.840.10008.5.1.4.1.1.88.22", "1.2.840.10008.5.1.4.1.1.88.33")
_LEVEL = re.compile(r"stands for ([0-9.]+)% of the protocol's dose")
_CONSTANT_ANGLE = "Constant Angle Acquisition"
_ADULT_YEARS = 18
_DAY = "interval '24 hours'"
_SAME = "abs(ours.ctdivol - theirs.ctdivol) <= 0.01 * theirs.ctdivol AND ours.scan IS NOT NULL AND theirs.scan IS NULL"
"""Of two rows of a study: ours tells of what the scanner's report tells, which rounds its doses."""


@dataclass(frozen=True, slots=True)
class Row:
    """One irradiation as the index keeps it, under the names of the table's columns."""

    event: str
    report: str
    study_uid: str
    patient: str | None
    at: datetime
    scanner: str
    examination: str
    protocol: str
    age_class: str
    ctdivol: float | None
    phantom_mm: float | None
    dlp: float | None
    ssde: float | None
    size_mm: float | None
    scanned_mm: float | None
    voltage_kv: float | None
    source: str
    level: float | None


_COLUMNS = tuple(one.name for one in fields(Row))
_TOLD = [one for one in _COLUMNS if one not in ("event", "report", "study_uid")]


async def record(
    connection: Connection, site: str, metadata: Sequence[dict[str, Any]], *, scan: int | None = None
) -> int:
    """Keep what these objects of a site, in DICOM JSON, tell of doses; how many irradiations they tell of.

    Others than dose reports are passed by, and one that cannot be read is logged and left out: its images are not at
    fault. An irradiation that was known is told anew, not counted twice.
    """
    kept = 0
    for one in metadata:
        if _class(one) not in _CLASSES:
            continue
        try:
            rows = rows_of(Dataset.from_json(one), site)
        except (FormatError, ValueError, TypeError, AttributeError, KeyError) as error:
            structlog.get_logger().warning("dose report left out", site=site, reason=type(error).__name__)
            continue
        for row in rows:
            await _keep(connection, site, row, scan)
        kept += len(rows)
    return kept


async def rebuild(connection: Connection) -> tuple[int, int]:
    """Tell the index anew from every dose report in the archive: reports, and irradiations that they tell of.

    Irradiations whose reports have been deleted since stay as they are.
    """
    reports = told = 0
    after = 0
    while True:
        cursor = await connection.execute(
            "SELECT instance.number, site, series.scan, jsonb_strip_nulls(series.json || own) AS metadata"
            " FROM instance JOIN series ON series.number = instance.series JOIN study ON study.number = series.study"
            " WHERE class_uid = ANY(%s) AND instance.number > %s ORDER BY instance.number LIMIT 200",
            (list(_CLASSES), after),
        )
        found = await cursor.fetchall()
        if not found:
            return reports, told
        async with connection.transaction():
            for one in found:
                events = await record(connection, one["site"], [one["metadata"]], scan=one["scan"])
                reports, told = reports + bool(events), told + events
        after = found[-1]["number"]


def rows_of(report: Dataset, site: str) -> tuple[Row, ...]:
    """The rows of one dose report; none for a report of something else. FormatError where it is damaged."""
    if not is_dose_report(report):
        return ()
    return tuple(_row(one, report, site) for one in read_dose_report(report) if one.kind != _CONSTANT_ANGLE)


def _row(event: DoseEvent, report: Dataset, site: str) -> Row:
    at = _moment(event, report)
    level = next((found[1] for told in _comments(report) if (found := _LEVEL.search(told))), None)
    return Row(
        event.uid, _text(report, "SOPInstanceUID"), _text(report, "StudyInstanceUID"), _patient(report, site), at,
        _scanner(report), examination_of(event.region), event.protocol, age_class_of(report, at), event.ctdivol_mgy,
        event.phantom_mm, event.dlp_mgy_cm, event.ssde_mgy, event.water_equivalent_mm, event.scanned_mm,
        event.tube_voltage_kv, event.source, None if level is None else float(level) / 100,
    )  # fmt: skip


def age_class_of(report: Dataset, at: datetime) -> str:
    """ "adult" or "child" by PatientAge (0010,1010) or the date of birth; empty where neither is told."""
    told = re.fullmatch(r"(\d{3})([DWMY])", _text(report, "PatientAge"))
    if told:
        years = int(told[1]) / {"D": 365.25, "W": 52.18, "M": 12.0, "Y": 1.0}[told[2]]
    elif born := re.fullmatch(r"(\d{4})(\d\d)(\d\d)", _text(report, "PatientBirthDate")):
        year, month, day = (int(one) for one in born.groups())
        years = at.year - year - ((at.month, at.day) < (month, day))
    else:
        return ""
    return "adult" if years >= _ADULT_YEARS else "child"


def _moment(event: DoseEvent, report: Dataset) -> datetime:
    """When it was, as well as the report tells: the event's start, the study's, or the report's own. UTC if no zone."""
    study = _text(report, "StudyDate") + _text(report, "StudyTime")
    written = _text(report, "ContentDate") + _text(report, "ContentTime")
    zone = _text(report, "TimezoneOffsetFromUTC")
    for told in (event.started, study, written):
        digits, offset = re.match(r"(\d{8,14})", told), re.search(r"[+-]\d{4}$", told)
        if digits:
            whole = digits[1].ljust(14, "0") + (offset[0] if offset else zone or "+0000")
            try:
                return datetime.strptime(whole, "%Y%m%d%H%M%S%z").astimezone(UTC)
            except ValueError:
                continue
    raise FormatError("the dose report bears no date: StudyDate, ContentDate and DateTime Started are empty")


def _patient(report: Dataset, site: str) -> str | None:
    number = _text(report, "PatientID")
    if not number:
        return None
    whole = "\0".join((site, _text(report, "IssuerOfPatientID"), number))
    return hashlib.sha256(whole.encode()).hexdigest()


def _scanner(report: Dataset) -> str:
    """Model and serial number of what irradiated; of the report's own maker where it names no other."""
    for one in report.get("ContributingEquipmentSequence", []):
        purpose = one.get("PurposeOfReferenceCodeSequence", [])
        if purpose and _text(purpose[0], "CodeValue") == "109101":
            return _device(one)
    return _device(report)


def _device(item: Dataset) -> str:
    names = ("Manufacturer", "ManufacturerModelName", "StationName", "DeviceSerialNumber")
    return " ".join(dict.fromkeys(told for name in names if (told := _text(item, name))))


def _comments(item: Dataset) -> list[str]:
    found = []
    for one in item.get("ContentSequence", []):
        found += [_text(one, "TextValue")] if one.get("ValueType") == "TEXT" else []
        found += _comments(one)
    return found


def _text(item: Dataset, keyword: str) -> str:
    value = item.get(keyword)
    return "" if value is None else str(value)


def _class(metadata: dict[str, Any]) -> str:
    return str((metadata.get("00080016", {}).get("Value") or [""])[0])


async def _keep(connection: Connection, site: str, row: Row, scan: int | None) -> None:
    """Insert or tell anew; find which other report tells of it, of what it is a repeat, and what is one of it."""
    changed = ", ".join(f"{name} = excluded.{name}" for name in _TOLD)
    cursor = await connection.execute(
        f"INSERT INTO dose (site, scan, {', '.join(_COLUMNS)}) VALUES ({', '.join(['%s'] * (len(_COLUMNS) + 2))})"
        f" ON CONFLICT (site, event) DO UPDATE SET {changed}, scan = coalesce(excluded.scan, dose.scan)"
        " RETURNING number".encode(),
        (site, scan, *astuple(row)),
    )
    number = (await cursor.fetchone() or {})["number"]
    await connection.execute(  # of several pairs that would do, the one that lies nearest in time
        f"""
        UPDATE dose SET told_in = pair.ours FROM (
            SELECT ours.number AS ours, theirs.number AS theirs FROM dose AS ours JOIN dose AS theirs
                ON theirs.site = ours.site AND theirs.study_uid = ours.study_uid AND {_SAME}
            WHERE ours.site = %(site)s AND ours.study_uid = %(study)s AND %(number)s IN (ours.number, theirs.number)
              AND theirs.told_in IS NULL AND NOT EXISTS (SELECT FROM dose AS told WHERE told.told_in = ours.number)
            ORDER BY abs(extract(epoch FROM ours.at - theirs.at)), ours.number, theirs.number LIMIT 1) AS pair
        WHERE dose.number = pair.theirs
        """.encode(),
        {"site": site, "study": row.study_uid, "number": number},
    )
    await connection.execute(
        f"""
        UPDATE dose AS later SET repeat_of = (
            SELECT earlier.number FROM dose AS earlier
            WHERE earlier.patient = later.patient AND earlier.examination = later.examination
              AND earlier.study_uid <> later.study_uid AND earlier.told_in IS NULL AND later.told_in IS NULL
              AND (earlier.at, earlier.number) < (later.at, later.number) AND earlier.at > later.at - {_DAY}
            ORDER BY earlier.at DESC, earlier.number DESC LIMIT 1)
        WHERE later.patient = %(patient)s AND later.examination = %(examination)s AND later.examination <> ''
          AND later.at BETWEEN %(at)s - {_DAY} AND %(at)s + {_DAY}
        """.encode(),
        {"patient": row.patient, "examination": row.examination, "at": row.at},
    )
