"""A DICOM file that somebody sends → an object in the store and a row in the index: one way for C-STORE and STOW-RS."""

import asyncio
import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from lampyris.centre.archive.entry import Entry, read_entry
from lampyris.centre.archive.index import Filed, register
from lampyris.centre.service import Centre
from lampyris.centre.store import dicom_prefix
from lampyris.model import FormatError, StorageError


@dataclass(frozen=True, slots=True)
class Taken:
    """What came of a file."""

    entry: Entry
    filed: Filed


async def take(
    centre: Centre, site: str, content: Path | bytes, *, check: Callable[[Entry], None] = lambda _: None
) -> Taken:
    """Keep a DICOM file for a site; when this returns it is on stable storage and in the index.

    What `check` raises keeps it from being kept.

    One that says something else under a SOP Instance UID that the site has is not kept (DIFFERS); one that is there is
    not kept twice. Raises FormatError for what is not DICOM, cannot be read or lacks a UID; StorageError when the store
    has less space than is kept free, or fails.
    """
    free = await asyncio.to_thread(centre.store.free_bytes)
    if free is not None and free < centre.settings.free_bytes:
        raise StorageError(f"{free >> 20} MiB are left in the store: nothing is taken until there are more")
    entry = await asyncio.to_thread(_read, site, content)
    check(entry)
    if isinstance(content, Path):
        await asyncio.to_thread(centre.store.put_file, entry.prefix, content)
    else:
        await centre.store.put(entry.prefix, entry.sha256, [content])
    (filed,) = await enter(centre, site, [entry])
    return Taken(entry, filed)


async def enter(centre: Centre, site: str, entries: Sequence[Entry]) -> list[Filed]:
    """Let files that lie in the store into the index, and delete those there that it does not name afterwards.

    These are files that say something else than what has their UID, and those that another writer wrote again.
    """
    async with centre.pool.connection() as connection:
        filed = await register(connection, site, entries)
        again = [one for one, became in zip(entries, filed, strict=True) if became is not Filed.NEW]
        cursor = await connection.execute(
            "SELECT prefix, sha256 FROM instance WHERE uid = ANY(%s)", ([one.uid for one in again],)
        )
        named = {(row["prefix"], row["sha256"]) for row in await cursor.fetchall()}
    for entry in again:
        if (entry.prefix, entry.sha256) not in named:
            await asyncio.to_thread(centre.store.delete, entry.prefix, entry.sha256)
    return filed


def _read(site: str, content: Path | bytes) -> Entry:
    if isinstance(content, Path):
        size = content.stat().st_size
        with content.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
    else:
        size, digest = len(content), hashlib.sha256(content).hexdigest()
    entry = read_entry(content, "", sha256=digest, size=size)
    if entry is None:
        raise FormatError(f"{size} bytes without the mark of a DICOM file")
    return entry.at(dicom_prefix(site, entry.study_uid, entry.series_uid))
