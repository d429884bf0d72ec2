"""The store → the index made anew, series by series, and how it differed.

Nobody need stop: what is registered or deleted meanwhile is found so. A file that cannot be read is left out, and so is
one that says something else under a SOP Instance UID that is taken.
"""

import asyncio
import dataclasses
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

from lampyris.centre.archive.entry import Entry
from lampyris.centre.archive.index import Filed, entries_of, register, whole
from lampyris.centre.database import Connection
from lampyris.centre.store import Store, remade_prefix, series_prefix
from lampyris.model import FormatError

_MADE = (
    (series_prefix, "SELECT scan, name, bytes, sha256 FROM output"),
    (remade_prefix, "SELECT scan, name, bytes, sha256 FROM remake JOIN remake_output ON remake = number"),
)
"""What was made of scans: where it lies, and the rows that name its files."""


@dataclass(frozen=True, slots=True)
class Differences:
    """Files looked at; rows added, changed and removed; files left out, because unreadable or said otherwise before."""

    files: int = 0
    added: int = 0
    changed: int = 0
    removed: int = 0
    unreadable: int = 0
    doubles: int = 0

    def __add__(self, other: "Differences") -> "Differences":
        mine, theirs = dataclasses.astuple(self), dataclasses.astuple(other)
        return Differences(*(one + more for one, more in zip(mine, theirs, strict=True)))


@dataclass(frozen=True, slots=True)
class _Place:
    """Where files of one site lie; `scan` is the number of the scan that they were made of, if they were."""

    site: str
    prefix: str
    scan: int | None
    files: tuple[tuple[str, int], ...]


async def rebuild(connection: Connection, store: Store) -> Differences:
    """Make the index anew. Raises StorageError when the store does not answer; what was done until then stays."""
    total, seen = Differences(), set[str]()
    async for place in _places(connection, store):
        seen.add(place.prefix)
        total += await _renew(connection, store, place)
    cursor = await connection.execute("SELECT DISTINCT prefix FROM instance")
    for row in await cursor.fetchall():
        if row["prefix"] not in seen:
            gone = await connection.execute("DELETE FROM instance WHERE prefix = %s", (row["prefix"],))
            total += Differences(removed=gone.rowcount)
    return total


async def _places(connection: Connection, store: Store) -> AsyncIterator[_Place]:
    for prefix_of, files in _MADE:
        cursor = await connection.execute(
            "SELECT scan.number, site, id, array_agg(sha256 ORDER BY name) AS digests,"
            " array_agg(file.bytes ORDER BY name) AS sizes"
            f" FROM scan JOIN ({files}) AS file ON file.scan = scan.number"
            " WHERE series_deleted IS NULL AND name LIKE '%.dcm' GROUP BY scan.number ORDER BY scan.number".encode()
        )
        for row in await cursor.fetchall():
            listed = tuple(zip(row["digests"], row["sizes"], strict=True))
            yield _Place(row["site"], prefix_of(row["site"], row["id"]), row["number"], listed)
    for of_site in await asyncio.to_thread(store.below, "dicom"):
        for of_study in await asyncio.to_thread(store.below, of_site):
            for prefix in await asyncio.to_thread(store.below, of_study):
                listed = tuple(await asyncio.to_thread(store.digests, prefix))
                yield _Place(of_site.rpartition("/")[2], prefix, None, listed)


async def _renew(connection: Connection, store: Store, place: _Place) -> Differences:
    """Make the rows of one prefix anew."""
    entries, unreadable = await asyncio.to_thread(_readable, store, place)
    async with connection.transaction():
        cursor = await connection.execute(
            "SELECT instance.*, series.json FROM instance JOIN series ON series.number = series WHERE prefix = %s",
            (place.prefix,),
        )
        before = {(row["uid"], row["sha256"]): row for row in await cursor.fetchall()}
        changed = [one for one in entries if (one.uid, one.sha256) in before and _differs(before, one)]
        missing = [one for one in entries if (one.uid, one.sha256) not in before]
        await register(connection, place.site, changed, scan=place.scan, replace=True)
        filed = await register(connection, place.site, missing, scan=place.scan)
        gone = await connection.execute(
            "DELETE FROM instance WHERE prefix = %s AND (uid, sha256)"
            " NOT IN (SELECT * FROM unnest(%s::text[], %s::text[]))",
            (place.prefix, [one.uid for one in entries], [one.sha256 for one in entries]),
        )
    added = filed.count(Filed.NEW)
    return Differences(len(place.files), added, len(changed), gone.rowcount, unreadable, len(filed) - added)


def _differs(before: dict[tuple[str, str], dict[str, Any]], entry: Entry) -> bool:
    row = before[entry.uid, entry.sha256]
    told = (entry.content, entry.syntax_uid, entry.bytes, entry.frames, entry.pixel_at, entry.pixel_bytes)
    held = tuple(row[name] for name in ("content", "syntax_uid", "bytes", "frames", "pixel_at", "pixel_bytes"))
    return told != held or whole(row["json"], row["own"]) != entry.metadata


def _readable(store: Store, place: _Place) -> tuple[list[Entry], int]:
    """The DICOM objects among the files, and how many are marked as DICOM and cannot be read."""
    entries, unreadable = list[Entry](), 0
    for one in place.files:
        try:
            entries += entries_of(store, place.prefix, [one])
        except FormatError:
            unreadable += 1
    return entries, unreadable
