"""The clock → scans that were given up are refused, and what has been kept long enough is deleted."""

import asyncio
from collections import Counter

from lampyris.centre.database import Connection
from lampyris.centre.jobs import queue
from lampyris.centre.settings import Settings
from lampyris.centre.store import Store, raw_prefix, series_prefix

_AT_ONCE = 200
_EVENT_DAYS = 90
_SWEEPING = 0x1A3BC16
"""Number of the advisory lock under which one worker of the centre sweeps."""


async def sweep(connection: Connection, store: Store, settings: Settings) -> Counter[str]:
    """Do all that is due, a few hundred at a time; how much was done of each kind. Another sweep in progress: nothing.

    Objects are deleted before the row says so: an interruption leaves a row that the next sweep finds again.
    """
    done: Counter[str] = Counter()
    cursor = await connection.execute("SELECT pg_try_advisory_lock(%s) AS mine", (_SWEEPING,))
    if not (await cursor.fetchone() or {})["mine"]:
        return done
    try:
        done["abandoned"] = await _abandon(connection, settings.abandoned_days)
        done["raw"] = await _delete(
            connection, store, "raw", "state IN ('done', 'refused') AND finished", settings.raw_days
        )
        done["series"] = await _delete(connection, store, "series", "returned", settings.series_days)
        await connection.execute("DELETE FROM assertion WHERE expires < now()")
        await connection.execute("DELETE FROM enrolment_code WHERE expires < now()")
        await connection.execute("DELETE FROM event WHERE at < now() - make_interval(days => %s)", (_EVENT_DAYS,))
    finally:
        await connection.execute("SELECT pg_advisory_unlock(%s)", (_SWEEPING,))
    return done


async def forget(connection: Connection, store: Store, site: str, scan: str) -> bool:
    """Delete everything of one scan that has ended, now: raw data, series and row. False when there is no such scan."""
    cursor = await connection.execute(
        "SELECT number FROM scan WHERE site = %s AND id = %s AND finished IS NOT NULL", (site, scan)
    )
    row = await cursor.fetchone()
    if row is None:
        return False
    for prefix in (raw_prefix(site, scan), series_prefix(site, scan)):
        await asyncio.to_thread(store.delete_all, prefix)
    await connection.execute("DELETE FROM scan WHERE number = %s AND finished IS NOT NULL", (row["number"],))
    return True


async def _abandon(connection: Connection, days: float) -> int:
    async with connection.transaction():
        cursor = await connection.execute(
            "SELECT number FROM scan WHERE state = 'open' AND greatest(updated, coalesce("
            "(SELECT max(received) FROM chunk WHERE scan = number), updated)) < now() - make_interval(secs => %s)"
            " LIMIT %s FOR UPDATE SKIP LOCKED",
            (days * 86_400, _AT_ONCE),
        )
        numbers = [row["number"] for row in await cursor.fetchall()]
        for number in numbers:
            await queue.refuse_open(connection, number, "ABANDONED", f"nothing was heard of it for {days:g} days")
    return len(numbers)


async def _delete(connection: Connection, store: Store, what: str, since: str, days: float) -> int:
    """Delete the objects of scans whose time is over; `what` and `since` are this module's own words."""
    cursor = await connection.execute(
        f"SELECT number, site, id FROM scan WHERE {what}_deleted IS NULL"
        f" AND {since} < now() - make_interval(secs => %s) ORDER BY number LIMIT %s",
        (days * 86_400, _AT_ONCE),
    )
    prefix_of = {"raw": raw_prefix, "series": series_prefix}[what]
    rows = await cursor.fetchall()
    for row in rows:
        await asyncio.to_thread(store.delete_all, prefix_of(row["site"], row["id"]))
        await connection.execute(f"UPDATE scan SET {what}_deleted = now() WHERE number = %s", (row["number"],))
    return len(rows)
