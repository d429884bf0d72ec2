"""What was made of a site's scans → the list of series, their files, and the site's word that it has them."""

from collections.abc import Iterable
from typing import Any

from lampyris.centre.database import Connection
from lampyris.centre.jobs import queue
from lampyris.centre.refusals import conflict, not_found
from lampyris.transfer import Manifest, ReturnedFile, ReturnedSeries

_SERIES = """
    SELECT number, id, cursor, to_char(finished, 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"') AS made, verdict, skeleton
    FROM scan WHERE site = %s AND cursor IS NOT NULL AND series_deleted IS NULL
"""


async def waiting(connection: Connection, site: str, after: int, count: int) -> list[ReturnedSeries]:
    """Series that the site has not acknowledged, oldest first."""
    cursor = await connection.execute(
        f"{_SERIES} AND returned IS NULL AND cursor > %s ORDER BY cursor LIMIT %s", (site, after, count)
    )
    return await _series(connection, await cursor.fetchall())


async def file_of(connection: Connection, site: str, scan: str, name: str) -> ReturnedFile:
    """One file of a series; Refusal 404 for another site's or one that was deleted."""
    cursor = await connection.execute(
        "SELECT name, output.bytes, sha256 FROM output JOIN scan ON number = scan"
        " WHERE site = %s AND id = %s AND name = %s AND series_deleted IS NULL",
        (site, scan, name),
    )
    row = await cursor.fetchone()
    if row is None:
        raise not_found()
    return ReturnedFile(row["name"], row["bytes"], row["sha256"])


async def acknowledge(connection: Connection, site: str, scan: str, digest: str) -> tuple[int, int] | None:
    """The site has stored every file; Refusal 409 when it has stored others than these.

    From when to when, in nanoseconds of the epoch, the series was on its way home; None when that was said before.
    """
    async with connection.transaction():
        cursor = await connection.execute(f"{_SERIES} AND id = %s FOR NO KEY UPDATE", (site, scan))
        rows = await cursor.fetchall()
        if not rows:
            raise not_found()
        (series,) = await _series(connection, rows)
        if series.digest() != digest:
            raise conflict("the digest is not that of this series' files: fetch the list again")
        found = await connection.execute(
            "UPDATE scan SET returned = now(), updated = now() WHERE number = %s AND returned IS NULL"
            " RETURNING (extract(epoch FROM finished) * 1e9)::bigint AS made,"
            " (extract(epoch FROM returned) * 1e9)::bigint AS home",
            (rows[0]["number"],),
        )
        row = await found.fetchone()
        if row is None:
            return None
        await queue.tell(connection, rows[0]["number"])
    return row["made"], row["home"]


async def _series(connection: Connection, rows: Iterable[dict[str, Any]]) -> list[ReturnedSeries]:
    rows = list(rows)
    cursor = await connection.execute(
        "SELECT scan, name, bytes, sha256 FROM output WHERE scan = ANY(%s) ORDER BY scan, name",
        ([row["number"] for row in rows],),
    )
    files: dict[int, list[ReturnedFile]] = {row["number"]: [] for row in rows}
    for one in await cursor.fetchall():
        files[one["scan"]].append(ReturnedFile(one["name"], one["bytes"], one["sha256"]))
    return [
        ReturnedSeries(
            scan=row["id"],
            cursor=row["cursor"],
            made=row["made"],
            verdict=row["verdict"],
            files=tuple(files[row["number"]]),
            sealed=Manifest.parse(row["skeleton"].encode()).sealed,
        )
        for row in rows
    ]
