"""The clock → scans that were given up are refused, and what has been kept long enough is deleted.

How long that is stands in the database, the same for every worker, and the operator's to change.
"""

import asyncio
from collections import Counter
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta

from lampyris.centre.archive import index
from lampyris.centre.audit.chain import Entry, Kind, note
from lampyris.centre.database import Connection
from lampyris.centre.jobs import early, queue
from lampyris.centre.people import patience
from lampyris.centre.store import DRAWN, Store, early_prefix, raw_prefix, remade_prefix, series_prefix
from lampyris.model import InputError
from lampyris.transfer import limits

KINDS = ("abandoned", "raw", "failed", "series", "early", "events")
"""What is kept for a while: open scans without a sign of life, raw data of scans that are done or were refused, raw
data of scans that failed, series that are home, what was made early of open scans without news, events."""
POLICY = "policy"
"""Who deletes what retention says."""
_AT_ONCE = 200
LONGEST = 36_500
_DRAWN_DAYS = 2
"""For how long a picture of a series is kept: it can be drawn again, and must not long outlive its series."""
_SWEEPING = 0x1A3BC16
"""Number of the advisory lock under which one worker of the centre sweeps."""


async def kept(connection: Connection) -> dict[str, float]:
    """Days for which each of `KINDS` is kept."""
    cursor = await connection.execute("SELECT what, days FROM retention")
    days = {row["what"]: row["days"] for row in await cursor.fetchall()}
    return {kind: days[kind] for kind in KINDS}


async def keep(connection: Connection, days: Mapping[str, float]) -> None:
    """Keep these kinds for so many days from now on; the next sweep goes by it. Raises InputError."""
    for kind, number in days.items():
        if kind not in KINDS or not 0.0 <= number <= LONGEST:
            raise InputError(f"retention of {kind}: {number:g} days: expected 0 … {LONGEST}, of {', '.join(KINDS)}")
    async with connection.transaction(), connection.cursor() as many:
        await many.executemany(
            "UPDATE retention SET days = %s WHERE what = %s", [(number, kind) for kind, number in days.items()]
        )


async def due(connection: Connection, days: Mapping[str, float]) -> dict[str, int]:
    """How many of each kind sweeps would delete now, or refuse, if things were kept for so many days."""
    cursor = await connection.execute(
        """
        SELECT count(*) FILTER (WHERE raw_deleted IS NULL AND state IN ('done', 'refused')
                                AND finished < now() - make_interval(secs => %(raw)s)) AS raw,
               count(*) FILTER (WHERE raw_deleted IS NULL AND state = 'failed'
                                AND finished < now() - make_interval(secs => %(failed)s)) AS failed,
               count(*) FILTER (WHERE series_deleted IS NULL
                                AND returned < now() - make_interval(secs => %(series)s)) AS series,
               count(*) FILTER (WHERE state = 'open'
                                AND updated < now() - make_interval(secs => %(abandoned)s)) AS abandoned,
               (SELECT count(*) FROM early WHERE updated < now() - make_interval(secs => %(early)s)) AS early,
               (SELECT count(*) FROM event WHERE at < now() - make_interval(secs => %(events)s)) AS events
        FROM scan WHERE raw_deleted IS NULL OR series_deleted IS NULL
        """,
        {kind: _s(days[kind]) for kind in KINDS},
    )
    row = await cursor.fetchone()
    assert row is not None
    return {kind: int(row[kind]) for kind in KINDS}


async def sweep(connection: Connection, store: Store) -> Counter[str]:
    """Do all that is due, a few hundred at a time; how much was done of each kind. Another sweep in progress: nothing.

    Objects are deleted before the row says so: an interruption leaves a row that the next sweep finds again.
    """
    done: Counter[str] = Counter()
    cursor = await connection.execute("SELECT pg_try_advisory_lock(%s) AS mine", (_SWEEPING,))
    if not (await cursor.fetchone() or {})["mine"]:
        return done
    try:
        days = await kept(connection)
        done["abandoned"] = await _abandon(connection, days["abandoned"])
        ended = "state IN ('done', 'refused') AND finished"
        done["raw"] = await _delete(connection, store, "raw", ended, days["raw"])
        done["failed"] = await _delete(connection, store, "raw", "state = 'failed' AND finished", days["failed"])
        done["early"] = await early.sweep(connection, store, days["early"])
        done["series"] = await _delete(connection, store, "series", "returned", days["series"])
        await patience.sweep(connection)
        await connection.execute("DELETE FROM assertion WHERE expires < now()")
        await connection.execute("DELETE FROM enrolment_code WHERE expires < now()")
        await connection.execute(
            "DELETE FROM event WHERE at < now() - make_interval(secs => %s)", (_s(days["events"]),)
        )
        await _retire(connection)
        long_ago = datetime.now(UTC) - timedelta(days=_DRAWN_DAYS)
        await asyncio.to_thread(store.delete_older, DRAWN, long_ago)
        if told := {kind: count for kind, count in done.items() if count}:
            await note(connection, Entry(Kind.DELETE, POLICY, object="retention", detail=told))
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
    for prefix_of in (raw_prefix, series_prefix, early_prefix, remade_prefix):
        await asyncio.to_thread(store.delete_all, prefix_of(site, scan))
    await index.forget_scan(connection, row["number"], site, scan)
    await connection.execute("DELETE FROM scan WHERE number = %s AND finished IS NOT NULL", (row["number"],))
    return True


async def _abandon(connection: Connection, days: float) -> int:
    async with connection.transaction():
        cursor = await connection.execute(
            "SELECT number FROM scan WHERE state = 'open' AND greatest(updated, coalesce("
            "(SELECT max(received) FROM chunk WHERE scan = number), updated)) < now() - make_interval(secs => %s)"
            " LIMIT %s FOR UPDATE SKIP LOCKED",
            (_s(days), _AT_ONCE),
        )
        numbers = [row["number"] for row in await cursor.fetchall()]
        for number in numbers:
            await queue.refuse_open(connection, number, "ABANDONED", f"nothing was heard of it for {days:g} days")
    return len(numbers)


async def _delete(connection: Connection, store: Store, what: str, since: str, days: float) -> int:
    """Delete the objects of scans whose time is over; `what` and `since` are this module's own words.

    Not while a scan is made again with another recipe: that needs its raw data, and its series goes with the first.
    """
    due = (
        f"{what}_deleted IS NULL AND {since} < now() - make_interval(secs => %s)"
        " AND NOT EXISTS (SELECT FROM remake WHERE remake.scan = scan.number AND remake.state IN ('queued', 'running'))"
    )
    cursor = await connection.execute(
        f"SELECT number, site, id FROM scan WHERE {due} ORDER BY number LIMIT %s", (_s(days), _AT_ONCE)
    )
    below = {"raw": (raw_prefix,), "series": (series_prefix, remade_prefix)}[what]
    rows = await cursor.fetchall()
    for row in rows:
        async with connection.transaction():  # a scan that is released meanwhile keeps its raw data
            await connection.execute("SELECT FROM scan WHERE number = %s FOR UPDATE", (row["number"],))
            still = await connection.execute(
                f"UPDATE scan SET {what}_deleted = now() WHERE number = %s AND {due}", (row["number"], _s(days))
            )
            if still.rowcount and what == "series":
                await index.forget_scan(connection, row["number"], row["site"], row["id"])
            for prefix_of in below if still.rowcount else ():
                await asyncio.to_thread(store.delete_all, prefix_of(row["site"], row["id"]))
    return len(rows)


async def _retire(connection: Connection) -> None:
    """Delete secrets of access tokens under which no token is good any more: a newer one has signed for long enough."""
    await connection.execute(
        "DELETE FROM token_secret AS old USING token_secret AS new"
        " WHERE new.created > old.created AND new.created < now() - make_interval(secs => %s)",
        (limits.TOKEN_SECONDS + limits.SKEW_SECONDS,),
    )


def _s(days: float) -> float:
    return days * 86_400.0
