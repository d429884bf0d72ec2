"""Announced parts of open scans → what an idle worker may begin with, one scan at a time for each site.

Nothing here is a state of a scan: no row of it is needed to commit, to reconstruct or to return one. A worker holds a
row for a while and lets it go; what was made lies in the store, and a row with bytes says that something may.
"""

import asyncio
import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from lampyris.centre.database import Connection
from lampyris.centre.recipes.choice import Library
from lampyris.centre.recipes.library import library_at
from lampyris.centre.store import Store, early_prefix
from lampyris.transfer import Chunk, Manifest, Part, parse_parts

FORMAT = "lraw"
"""The format whose first chunks tell of the first turns: one file, written from front to back."""
_AT_ONCE = 200
_CLAIMING = 0x1A3BC17
"""Number of the advisory lock under which one worker chooses, so that no site gets two."""


@dataclass(frozen=True, slots=True)
class Begun:
    """An open scan, the chunks of its file that are here, from the first on, how many bytes may still be kept, and
    the recipes that are active now."""

    number: int
    skeleton: Manifest
    chunks: tuple[Chunk, ...]
    kept: int
    room: int
    library: Library


async def announced(connection: Connection, number: int, parts: Sequence[Part], absent: set[str]) -> None:
    """Note how much of a scan is whole, if that is more than was known; scans of a single chunk are not worth it."""
    if len(parts) != 1 or len(parts[0].chunks) < 2:
        return
    (part,) = parts
    whole = next((n for n, chunk in enumerate(part.chunks) if chunk.digest in absent), len(part.chunks))
    if whole:
        await connection.execute(
            "INSERT INTO early (scan, part, whole) VALUES (%s, %s, %s)"
            " ON CONFLICT (scan) DO UPDATE SET part = excluded.part, whole = excluded.whole, updated = now(),"
            " looked = least(early.looked, excluded.whole) WHERE early.part <> excluded.part"
            " OR early.whole < excluded.whole",
            (number, json.dumps(part.as_dict(), separators=(",", ":")), whole),
        )


async def claim(connection: Connection, *, hold_s: float, site_bytes: int) -> Begun | None:
    """The open scan that has waited longest, STAT first, held for so long; None when there is nothing to begin with.

    A site has one scan at a time, and none while what is kept for it comes to `site_bytes`.
    """
    async with connection.transaction():
        await connection.execute("SELECT pg_advisory_xact_lock(%s)", (_CLAIMING,))
        row = await _claimed(connection, hold_s, site_bytes)
    if row is None:
        return None
    library = await library_at(connection, datetime.now(UTC))
    (part,) = parse_parts([json.loads(row["part"])])
    skeleton = Manifest.parse(row["skeleton"].encode())
    chunks = part.chunks[: row["whole"]]
    return Begun(row["number"], skeleton, chunks, int(row["bytes"]), site_bytes - int(row["used"]), library)


async def _claimed(connection: Connection, hold_s: float, site_bytes: int) -> dict[str, Any] | None:
    cursor = await connection.execute(
        "UPDATE early SET held = now() + make_interval(secs => %(hold)s) FROM scan WHERE number = scan AND scan = ("
        " SELECT due.scan FROM early AS due JOIN scan AS mine ON mine.number = due.scan"
        " WHERE whole > looked AND state = 'open' AND coalesce(held, '-infinity') < now()"
        " AND NOT EXISTS (SELECT FROM early AS busy JOIN scan AS other ON other.number = busy.scan"
        " WHERE other.site = mine.site AND busy.held >= now())"
        " AND (SELECT coalesce(sum(all_of.bytes), 0) FROM early AS all_of JOIN scan AS other"
        " ON other.number = all_of.scan WHERE other.site = mine.site) < %(bytes)s"
        " ORDER BY priority = 'stat' DESC, priority = 'batch', due.updated LIMIT 1 FOR UPDATE OF due SKIP LOCKED)"
        " RETURNING number, skeleton, part, whole, early.bytes, (SELECT coalesce(sum(all_of.bytes), 0) FROM early"
        " AS all_of JOIN scan AS other ON other.number = all_of.scan WHERE other.site = scan.site) AS used",
        {"hold": hold_s, "bytes": site_bytes},
    )
    return await cursor.fetchone()


async def hold(connection: Connection, begun: Begun, kept: int, *, hold_s: float) -> bool:
    """Say that a worker is still at it, and what was kept; False when the scan is not open any more."""
    cursor = await connection.execute(
        "UPDATE early SET held = now() + make_interval(secs => %s), bytes = greatest(early.bytes, %s) FROM scan"
        " WHERE scan = %s AND number = scan AND state = 'open'",
        (hold_s, begun.kept + kept, begun.number),
    )
    return bool(cursor.rowcount)


async def rest(connection: Connection, begun: Begun, kept: int, story: str | None) -> None:
    """Let a scan go, with what was kept of it. With a story its chunks were looked at, else another may go on."""
    looked = len(begun.chunks) if story is not None else None
    await connection.execute(
        "UPDATE early SET held = NULL, bytes = greatest(bytes, %s), looked = coalesce(%s, looked),"
        " story = coalesce(%s, story), updated = now() WHERE scan = %s",
        (begun.kept + kept, looked, story, begun.number),
    )


async def sweep(connection: Connection, store: Store, days: float) -> int:
    """Delete what was made of scans that have ended or have been silent for so long; of how many scans.

    Of a scan that is committed and waits nothing is deleted, nor while a worker is at it.
    """
    cursor = await connection.execute(
        "SELECT number FROM early JOIN scan ON number = scan WHERE coalesce(held, '-infinity') < now()"
        " AND (finished IS NOT NULL OR state = 'open' AND early.bytes > 0"
        " AND early.updated < now() - make_interval(secs => %s)) LIMIT %s",
        (days * 86_400, _AT_ONCE),
    )
    numbers = [row["number"] for row in await cursor.fetchall()]
    return sum([await clear(connection, store, number) for number in numbers])


async def clear(connection: Connection, store: Store, number: int) -> bool:
    """Delete what was made early of one scan, and the row that tells of it, unless a worker is at it."""
    async with connection.transaction():
        cursor = await connection.execute(
            "SELECT site, id, looked > 0 OR early.bytes > 0 OR held IS NOT NULL AS begun FROM early"
            " JOIN scan ON number = scan WHERE number = %s AND coalesce(held, '-infinity') < now()"
            " FOR UPDATE OF early SKIP LOCKED",
            (number,),
        )
        row = await cursor.fetchone()
        if row is None:
            return False
        if row["begun"]:
            await asyncio.to_thread(store.delete_all, early_prefix(row["site"], row["id"]))
        await connection.execute("DELETE FROM early WHERE scan = %s", (number,))
    return True
