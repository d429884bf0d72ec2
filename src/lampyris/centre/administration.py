"""What an operator wants to know or change → sites, keys, scans and secrets, at once and for all processes."""

import asyncio
from dataclasses import dataclass
from datetime import datetime

from lampyris.centre import access
from lampyris.centre.archive import index
from lampyris.centre.database import Connection
from lampyris.centre.jobs import queue
from lampyris.centre.store import Store, prefixes_of
from lampyris.model import InputError
from lampyris.transfer import STATES


@dataclass(frozen=True, slots=True)
class SiteAtAGlance:
    """A site: whether it is let in, how many keys it has, its scans by state, the oldest that has not ended."""

    site: str
    suspended: bool
    keys: int
    scans: dict[str, int]
    waiting_series: int
    oldest_s: float
    last_change: datetime | None


@dataclass(frozen=True, slots=True)
class ScanAtAGlance:
    """A scan: its state and since when, how old it is, where a worker is with it, and why it ended as it did."""

    site: str
    scan: str
    state: str
    priority: str
    age_s: float
    unchanged_s: float
    bytes: int
    attempts: int
    station: str | None
    progress: float
    reason_code: str | None
    verdict: str | None
    returned: bool
    raw_here: bool


@dataclass(frozen=True, slots=True)
class Key:
    """A key of a site, by its thumbprint."""

    key_id: str
    created: datetime


async def sites(connection: Connection) -> list[SiteAtAGlance]:
    """Every site, by name."""
    counted = ", ".join(f"'{state}', count(*) FILTER (WHERE state = '{state}')" for state in STATES)
    cursor = await connection.execute(
        f"""
        SELECT site.id AS site, suspended, (SELECT count(*) FROM site_key WHERE site_key.site = site.id) AS keys,
               json_build_object({counted}) AS scans,
               count(*) FILTER (WHERE cursor IS NOT NULL AND returned IS NULL AND series_deleted IS NULL)
                   AS waiting_series,
               coalesce(extract(epoch FROM now() - min(opened) FILTER (WHERE finished IS NULL)), 0)::float8 AS oldest_s,
               max(updated) AS last_change
        FROM site LEFT JOIN scan ON scan.site = site.id GROUP BY site.id ORDER BY site.id
        """.encode()
    )
    return [SiteAtAGlance(**row) for row in await cursor.fetchall()]


async def scans(
    connection: Connection, *, site: str | None = None, state: str | None = None, count: int = 100
) -> list[ScanAtAGlance]:
    """Scans of a site and in a state, or of all, those first whose state has lasted longest. Raises InputError."""
    if state is not None and state not in STATES:
        raise InputError(f"there is no state {state[:20]!a}: there are {', '.join(STATES)}")
    cursor = await connection.execute(
        """
        SELECT site, id AS scan, state, priority, attempts, station, progress, reason_code, verdict,
               extract(epoch FROM now() - opened)::float8 AS age_s,
               extract(epoch FROM now() - updated)::float8 AS unchanged_s,
               CASE state WHEN 'open' THEN (SELECT coalesce(sum(chunk.bytes), 0) FROM chunk WHERE chunk.scan = number)
                          ELSE bytes END::bigint AS bytes,
               returned IS NOT NULL AS returned, raw_deleted IS NULL AS raw_here
        FROM scan
        WHERE (%(site)s::text IS NULL OR site = %(site)s) AND (%(state)s::text IS NULL OR state = %(state)s)
        ORDER BY updated, number LIMIT %(count)s
        """,
        {"site": site, "state": state, "count": count},
    )
    return [ScanAtAGlance(**row) for row in await cursor.fetchall()]


async def suspend(connection: Connection, site: str, *, suspended: bool = True) -> None:
    """Shut a site out at once, or let it in again; its scans stay. Raises InputError for an unknown site."""
    found = await connection.execute("UPDATE site SET suspended = %s WHERE id = %s", (suspended, site))
    if found.rowcount == 0:
        raise InputError(f"there is no site {site[:63]!a}")
    await queue.ring(connection, site)


async def keys(connection: Connection, site: str) -> list[Key]:
    """Keys of a site, the oldest first, also of one that is shut out. Raises InputError for an unknown site."""
    await _know(connection, site)
    cursor = await connection.execute("SELECT id, created FROM site_key WHERE site = %s ORDER BY created, id", (site,))
    return [Key(row["id"], row["created"]) for row in await cursor.fetchall()]


async def revoke(connection: Connection, site: str, key: str | None = None) -> int:
    """Take back a site's key, or all of them and its codes; how many. Tokens that were got with them end with this.

    A site without a key enrols again by a new code. Raises InputError for an unknown site or key.
    """
    await _know(connection, site)
    async with connection.transaction():
        if key is None:
            found = await connection.execute("DELETE FROM site_key WHERE site = %s", (site,))
            await connection.execute("DELETE FROM enrolment_code WHERE site = %s", (site,))
        else:
            found = await connection.execute("DELETE FROM site_key WHERE site = %s AND id = %s", (site, key))
            if not found.rowcount:
                raise InputError(f"{site} has no such key: `lampyris centre keys {site}` lists those that it has")
        await queue.ring(connection, site)
    return found.rowcount


async def remove(connection: Connection, store: Store, site: str, *, anyway: bool = False) -> int:
    """Delete a site and everything of its scans; how many scans that were. It is shut out first, and stays so.

    Raises InputError while scans are queued or at a worker, and, unless `anyway`, while some are open or have series
    that the site has not fetched.
    """
    await suspend(connection, site)
    for one in await sites(connection):
        if one.site == site:
            _check_removable(one, anyway)
    await _delete_objects(store, site)
    async with connection.transaction():
        await index.forget_site(connection, site)
        found = await connection.execute("DELETE FROM scan WHERE site = %s", (site,))
        for table in ("share", "assertion", "enrolment_code", "site_key"):
            await connection.execute(f"DELETE FROM {table} WHERE site = %s".encode(), (site,))
        await connection.execute("DELETE FROM site WHERE id = %s", (site,))
    await _delete_objects(store, site)  # what a request that was under way has still written
    return found.rowcount


async def _delete_objects(store: Store, site: str) -> None:
    for prefix in prefixes_of(site):
        await asyncio.to_thread(store.delete_all, prefix)


def _check_removable(site: SiteAtAGlance, anyway: bool) -> None:
    """Raises InputError."""
    if busy := site.scans["queued"] + site.scans["running"]:
        raise InputError(
            f"{site.site} is shut out, and {busy} of its scans are in hand: remove it when they have ended"
        )
    if not anyway and (site.scans["open"] or site.waiting_series):
        raise InputError(
            f"{site.site} is shut out; {site.scans['open']} of its scans are open, and {site.waiting_series} series"
            " have not been fetched: let it in again to end them, or remove it --anyway"
        )


async def rotate(connection: Connection, *, at_once: bool = False) -> None:
    """Let another secret sign access tokens from now on.

    The old ones verify for as long as their last token lives and are swept away then; with `at_once` they are deleted,
    and every site gets itself another token with its next request.
    """
    async with connection.transaction():
        name = await access.new_secret(connection)
        if at_once:
            await connection.execute("DELETE FROM token_secret WHERE id <> %s", (name,))
            await connection.execute("SELECT pg_notify(%s, id) FROM site", (queue.CHANNEL,))


async def _know(connection: Connection, site: str) -> None:
    cursor = await connection.execute("SELECT FROM site WHERE id = %s", (site,))
    if await cursor.fetchone() is None:
        raise InputError(f"there is no site {site[:63]!a}")
