"""DICOM files in the store → rows of studies, series and instances, whole or not at all in the caller's transaction.

Registering again changes nothing. What is empty in a study is filled by what comes later, what stands there stays: a
pseudonym that a site's own result bears does not replace the name under which the study was stored.
"""

import unicodedata
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from itertools import groupby
from typing import Any, TypeAlias

from psycopg.types.json import Jsonb

from lampyris.centre.archive.entry import Entry, Json, read_entry, value, whole_number
from lampyris.centre.database import Connection
from lampyris.centre.dose.index import record
from lampyris.centre.store import Store, remade_prefix, series_prefix
from lampyris.model import FormatError, ProgramError
from lampyris.transfer import ReturnedFile

STUDY_TAGS = (
    "00080020", "00080030", "00080050", "00080090", "00080201", "00081030", "00081032", "00081060", "00100010",
    "00100020", "00100021", "00100022", "00100024", "00100030", "00100040", "00101000", "00101001", "00101010",
    "00101020", "00101030", "00102160", "00104000", "0020000D", "00200010",
)  # fmt: skip
"""Attributes of patient and study: those of PS3.18 table 10.6.3-3, and what a reader asks besides."""

_NAMES = {
    "patient_id": "00100020", "issuer": "00100021", "patient_name": "00100010", "birth_date": "00100030",
    "sex": "00100040", "study_date": "00080020", "study_time": "00080030", "accession": "00080050",
    "study_id": "00200010", "description": "00081030", "referring": "00080090",
}  # fmt: skip
"""Columns of a study, and the attributes that they hold."""


class Filed(StrEnum):
    """What became of a file: it is new, was there, took another's place, or differs from what has its UID."""

    NEW = "new"
    SAME = "same"
    REPLACED = "replaced"
    DIFFERS = "differs"


@dataclass(slots=True)
class _Rows:
    """Columns of the instances that are to be added to one series."""

    entries: list[Entry] = field(default_factory=list)
    own: list[Json] = field(default_factory=list)


def entries_of(store: Store, prefix: str, files: Iterable[tuple[str, int]]) -> list[Entry]:
    """The DICOM objects among files in the store, each (SHA-256, bytes); others are left alone.

    Raises FormatError for one that is marked as DICOM and cannot be read, StorageError when it is not there.
    """
    found = (_entry(store, prefix, sha256, size) for sha256, size in files)
    return [one for one in found if one is not None]


def entries_of_results(store: Store, prefix: str, files: Sequence[ReturnedFile]) -> list[Entry]:
    """The DICOM objects among what was made of a scan. ProgramError for one that cannot be read: it is ours."""
    named = [(one.sha256, one.size) for one in files if one.name.endswith(".dcm")]
    try:
        return entries_of(store, prefix, named)
    except FormatError as error:
        raise ProgramError(f"a DICOM file of our own making: {error}") from error


def _entry(store: Store, prefix: str, sha256: str, size: int) -> Entry | None:
    path = store.path_of(prefix, sha256)
    content = path if path is not None and path.is_file() else store.get(prefix, sha256)
    return read_entry(content, prefix, sha256=sha256, size=size)


async def register(
    connection: Connection, site: str, entries: Sequence[Entry], *, scan: int | None = None, replace: bool = False
) -> list[Filed]:
    """Make rows of these files of a site, in the caller's transaction; what became of each, in their order.

    A file whose content is there already changes nothing. One that says something else under the same SOP Instance UID
    is not taken (DIFFERS), or with `replace` takes the place of the one that is there. `scan` is the number of the
    scan that the files were made of. What dose reports among them tell goes into the index of doses.
    """
    filed: dict[int, Filed] = {}
    order = sorted(range(len(entries)), key=lambda one: (entries[one].study_uid, entries[one].series_uid))
    async with connection.transaction():
        for study_uid, of_study in groupby(order, key=lambda one: entries[one].study_uid):
            in_study = list(of_study)
            known = await _known(connection, site, [entries[one].uid for one in in_study])
            wanted = []
            for one in in_study:
                filed[one] = _outcome(known.get(entries[one].uid), entries[one], replace)
                if filed[one] in (Filed.NEW, Filed.REPLACED):
                    known[entries[one].uid] = _known_of(entries[one])
                    wanted.append(one)
            if wanted:
                study = await _study(connection, site, study_uid, [entries[one] for one in wanted])
                for _, of_series in groupby(wanted, key=lambda one: entries[one].series_uid):
                    chosen = list(of_series)
                    await _series(connection, study, [(entries[one], filed[one]) for one in chosen], scan)
                await record(connection, site, [entries[one].metadata for one in wanted], scan=scan)
    return [filed[one] for one in range(len(entries))]


_Known: TypeAlias = tuple[str, str, str]
"""What the index holds under a SOP Instance UID of a site: content, study and series."""


def _known_of(entry: Entry) -> _Known:
    return entry.content, entry.study_uid, entry.series_uid


async def _known(connection: Connection, site: str, uids: list[str]) -> dict[str, _Known]:
    cursor = await connection.execute(
        "SELECT instance.uid, content, study.uid AS study_uid, series.uid AS series_uid FROM instance"
        " JOIN series ON series.number = instance.series JOIN study ON study.number = instance.study"
        " WHERE instance.uid = ANY(%s) AND site = %s",
        (uids, site),
    )
    return {row["uid"]: (row["content"], row["study_uid"], row["series_uid"]) for row in await cursor.fetchall()}


def _outcome(known: _Known | None, entry: Entry, replace: bool) -> Filed:
    if known is None:
        return Filed.NEW
    if replace and known[1:] == (entry.study_uid, entry.series_uid):
        return Filed.REPLACED
    return Filed.SAME if known == _known_of(entry) else Filed.DIFFERS


async def _study(connection: Connection, site: str, uid: str, entries: Sequence[Entry]) -> int:
    """The number of a study, which is made, or filled where it is empty."""
    json: Json = {}
    for tag in STUDY_TAGS:
        told = next((one.metadata[tag] for one in entries if one.metadata.get(tag, {}).get("Value")), None)
        if told is not None:
            json[tag] = told
    columns: dict[str, Any] = {name: value(json, tag) for name, tag in _NAMES.items()}
    columns["patient_keys"], columns["referring_keys"] = keys_of(columns["patient_name"]), keys_of(columns["referring"])
    filled = ", ".join(f"{name} = coalesce(nullif(study.{name}, ''), excluded.{name})" for name in _NAMES)
    cursor = await connection.execute(
        f"""
        INSERT INTO study (site, uid, json, {", ".join(columns)})
        VALUES (%s, %s, %s, {", ".join(["%s"] * len(columns))})
        ON CONFLICT (uid, site) DO UPDATE SET {filled}, json = excluded.json || study.json,
            patient_keys = CASE study.patient_name WHEN '' THEN excluded.patient_keys ELSE study.patient_keys END,
            referring_keys = CASE study.referring WHEN '' THEN excluded.referring_keys ELSE study.referring_keys END
        RETURNING number
        """.encode(),
        (site, uid, Jsonb(json), *columns.values()),
    )
    row = await cursor.fetchone()
    assert row is not None
    return int(row["number"])


async def _series(connection: Connection, study: int, filed: list[tuple[Entry, Filed]], scan: int | None) -> None:
    """Rows of one series and its instances."""
    first = filed[0][0]
    tell = first.metadata
    cursor = await connection.execute(
        "INSERT INTO series (study, scan, uid, modality, series_number, description, body_part, recipe, role, json)"
        " VALUES (%s, %s, %s, %s, %s, %s, %s, %s, %s, %s) ON CONFLICT (study, uid)"
        " DO UPDATE SET scan = coalesce(excluded.scan, series.scan) RETURNING number, json",
        (
            study, scan, first.series_uid, value(tell, "00080060"), whole_number(tell, "00200011"),
            value(tell, "0008103E"), value(tell, "00180015"), first.recipe, first.role, Jsonb(tell),
        ),
    )  # fmt: skip
    row = await cursor.fetchone()
    assert row is not None
    rows = _Rows()
    for entry, became in filed:
        own = difference(entry.metadata, row["json"])
        if became is Filed.NEW:
            rows.entries.append(entry)
            rows.own.append(own)
        else:
            await _replace(connection, (study, int(row["number"])), entry, own)
    await _insert(connection, (study, int(row["number"])), rows)


_COLUMNS: dict[str, tuple[str, Callable[[Entry], Any]]] = {
    "uid": ("text", lambda one: one.uid),
    "class_uid": ("text", lambda one: one.class_uid),
    "syntax_uid": ("text", lambda one: one.syntax_uid),
    "instance_number": ("integer", lambda one: whole_number(one.metadata, "00200013")),
    "frames": ("integer", lambda one: one.frames),
    "prefix": ("text", lambda one: one.prefix),
    "bytes": ("bigint", lambda one: one.bytes),
    "sha256": ("text", lambda one: one.sha256),
    "content": ("text", lambda one: one.content),
    "pixel_at": ("bigint", lambda one: one.pixel_at),
    "pixel_bytes": ("bigint", lambda one: one.pixel_bytes),
}
"""Columns of an instance: their type, and what of an entry stands in them."""


async def _insert(connection: Connection, above: tuple[int, int], rows: _Rows) -> None:
    if not rows.entries:
        return
    arrays = ", ".join(f"%s::{kind}[]" for kind, _ in _COLUMNS.values())
    await connection.execute(
        f"INSERT INTO instance (study, series, {', '.join(_COLUMNS)}, own)"
        f" SELECT %s, %s, * FROM unnest({arrays}, %s::jsonb[])".encode(),
        (
            *above,
            *([read(one) for one in rows.entries] for _, read in _COLUMNS.values()),
            [Jsonb(one) for one in rows.own],
        ),
    )


async def _replace(connection: Connection, above: tuple[int, int], entry: Entry, own: Json) -> None:
    """Let this file stand where another one with its UID did."""
    study, series = above
    await connection.execute(
        "UPDATE study SET bytes = study.bytes + %s - instance.bytes FROM instance"
        " WHERE study.number = %s AND series = %s AND instance.uid = %s",
        (entry.bytes, study, series, entry.uid),
    )
    changed = ", ".join(f"{name} = %s" for name in _COLUMNS)
    await connection.execute(
        f"UPDATE instance SET {changed}, own = %s WHERE series = %s AND uid = %s".encode(),
        (*(read(entry) for _, read in _COLUMNS.values()), Jsonb(own), series, entry.uid),
    )


def keys_of(name: str) -> list[str]:
    """The groups of a person's name as they are searched: case folded, width and compatibility forms made one.

    >>> keys_of("Zhang^San^^=张^三")
    ['zhang^san', '张^三']
    """
    return [unicodedata.normalize("NFKC", group).casefold().rstrip("^ ") for group in name.split("=")] if name else []


def difference(metadata: Json, common: Json) -> Json:
    """What of an instance's metadata its series does not tell already; None for what it lacks."""
    own: Json = {tag: told for tag, told in metadata.items() if common.get(tag) != told}
    return own | dict.fromkeys(tag for tag in common if tag not in metadata)


def whole(common: Json, own: Json) -> Json:
    """The metadata of an instance again: the inverse of `difference`."""
    return {tag: told for tag, told in (common | own).items() if told is not None}


async def forget_scan(connection: Connection, scan: int, site: str, name: str) -> None:
    """Take the files out of the index that were made of a scan: they are about to be deleted."""
    await connection.execute(
        "DELETE FROM instance WHERE series IN (SELECT number FROM series WHERE scan = %s) AND prefix = ANY(%s)",
        (scan, [series_prefix(site, name), remade_prefix(site, name)]),
    )


async def forget_site(connection: Connection, site: str) -> None:
    """Take everything of a site out of the index."""
    await connection.execute("DELETE FROM study WHERE site = %s", (site,))
