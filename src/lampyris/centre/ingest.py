"""What a site sends → open, received, committed or withdrawn scans; every step may be repeated.

All that decides is in one transaction: a commit stores the signed manifest, forgets the list of chunks, queues the job
and writes the event, or does none of it.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from procrastinate import App

from lampyris.centre import access
from lampyris.centre.database import Connection
from lampyris.centre.jobs import early, queue
from lampyris.centre.refusals import conflict, missing, not_found, refusal, unauthorised, wait
from lampyris.centre.settings import Settings
from lampyris.transfer import Chunk, Manifest, Part, Priority, ScanStatus, SignatureError, limits, verify_manifest

STATUS = """
    SELECT number, id, site, state, priority, to_char(updated, 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"') AS updated,
           reason_code, reason, station, progress, manifest, returned IS NOT NULL AS returned,
           CASE state WHEN 'open' THEN (SELECT coalesce(sum(chunk.bytes), 0) FROM chunk WHERE chunk.scan = number)
                      ELSE bytes END AS received
    FROM scan
"""


@dataclass(frozen=True, slots=True)
class OpenScan:
    """The little that putting a chunk needs to know."""

    number: int
    state: str
    priority: Priority


async def find(connection: Connection, site: str, scan: str) -> OpenScan:
    """A scan of this site; Refusal 404 for every other."""
    cursor = await connection.execute(
        "SELECT number, state, priority FROM scan WHERE site = %s AND id = %s", (site, scan)
    )
    row = await cursor.fetchone()
    if row is None:
        raise not_found()
    return OpenScan(row["number"], row["state"], row["priority"])


async def status(connection: Connection, site: str, scan: str) -> ScanStatus:
    cursor = await connection.execute(f"{STATUS} WHERE site = %s AND id = %s", (site, scan))
    row = await cursor.fetchone()
    if row is None:
        raise not_found()
    return _status(row)


async def statuses(connection: Connection, site: str, after: str, count: int) -> list[ScanStatus]:
    """A site's scans in the order of their ids."""
    cursor = await connection.execute(
        f"{STATUS} WHERE site = %s AND id > %s ORDER BY id LIMIT %s", (site, after, count)
    )
    return [_status(row) for row in await cursor.fetchall()]


async def open_scan(
    connection: Connection, site: str, skeleton: Manifest, settings: Settings
) -> tuple[ScanStatus, bool]:
    """Open a scan, or find it open: its status, and whether it is new. Raises Refusal."""
    if skeleton.site != site:
        raise refusal(422, "INPUT_MANIFEST", "the manifest names another site than the token")
    if skeleton.parts or skeleton.content is not None:
        raise refusal(422, "INPUT_MANIFEST", "a skeleton has no parts and no content: announce the parts")
    text = skeleton.to_json().decode()
    async with connection.transaction():
        cursor = await connection.execute("SELECT FROM site WHERE id = %s AND NOT suspended FOR NO KEY UPDATE", (site,))
        if await cursor.fetchone() is None:
            raise not_found()
        # Only a statement that begins after the lock was got sees what another holder of it has opened.
        cursor = await connection.execute(
            "SELECT skeleton FROM scan WHERE site = %s AND id = %s", (site, skeleton.scan)
        )
        if row := await cursor.fetchone():
            if row["skeleton"] != text:
                raise conflict("a scan of that id was opened with another skeleton: choose another id")
            return await status(connection, site, skeleton.scan), False
        await _admit(connection, site, skeleton.priority, settings)
        cursor = await connection.execute(
            "INSERT INTO scan (site, id, priority, skeleton) VALUES (%s, %s, %s, %s) RETURNING number",
            (site, skeleton.scan, skeleton.priority, text),
        )
        await queue.tell(connection, (await cursor.fetchone() or {})["number"])
        return await status(connection, site, skeleton.scan), True


async def missing_of(
    connection: Connection, scan: OpenScan, parts: Sequence[Part], *, begin: bool
) -> tuple[list[str], bool]:
    """Digests of the parts' chunks that are not here, at most a thousand, and whether there are others.

    With `begin` it is noted what of them is here, so that an idle worker may begin with it.
    """
    if scan.state != "open":
        if scan.state == "refused":
            raise conflict("the scan was refused: send it under a new id")
        return [], False
    wanted = {chunk.digest: chunk.size for part in parts for chunk in part.chunks}
    absent = await _absent(connection, scan.number, wanted)
    if begin:
        await early.announced(connection, scan.number, parts, set(absent))
    return absent[: limits.MISSING], len(absent) > limits.MISSING


async def note_chunk(connection: Connection, scan: OpenScan, chunk: Chunk) -> None:
    """A chunk is on stable storage. Raises Refusal when the scan was refused meanwhile, or holds all that it may."""
    async with connection.transaction():
        # Should the database lose the last of these in a crash, the commit finds the chunk missing and it comes again.
        await connection.execute("SET LOCAL synchronous_commit = off")
        cursor = await connection.execute(
            "INSERT INTO chunk (scan, digest, bytes) SELECT number, %s, %s FROM scan"
            " WHERE number = %s AND state = 'open' FOR KEY SHARE ON CONFLICT DO NOTHING",
            (chunk.digest, chunk.size, scan.number),
        )
    if cursor.rowcount == 0:
        found = await connection.execute("SELECT state FROM scan WHERE number = %s", (scan.number,))
        if (await found.fetchone() or {}).get("state") == "refused":
            raise conflict("the scan was refused: send it under a new id")


async def commit(connection: Connection, site: str, scan: str, text: str, jobs: App) -> tuple[ScanStatus, bool]:
    """Commit a scan by its signed manifest: its status, and whether this did it. Raises Refusal or InputError."""
    keys = await access.keys_of(connection, site)
    if not keys:  # shut out since the request began: the scan itself is not at fault
        raise unauthorised("TOKEN", "the access token is out of date: get a new one")
    signed = verify_manifest(text, keys.get)
    manifest = signed.manifest
    if manifest.site != site or manifest.scan != scan:
        raise SignatureError("the manifest is of another site or scan than this request")
    async with connection.transaction():
        cursor = await connection.execute(
            "SELECT number, state, manifest, skeleton FROM scan WHERE site = %s AND id = %s FOR UPDATE", (site, scan)
        )
        row = await cursor.fetchone()
        if row is None:
            raise not_found()
        if row["state"] != "open":
            if row["manifest"] != signed.digest:
                raise conflict(f"the scan is {row['state']} with another manifest, or was withdrawn")
            return await status(connection, site, scan), False
        if row["skeleton"] != manifest.skeleton().to_json().decode():
            raise conflict("the manifest differs from the skeleton in more than parts and content")
        if absent := await _absent(connection, row["number"], manifest.chunks()):
            raise missing(absent)
        await connection.execute(
            "UPDATE scan SET signed = %s, manifest = %s, bytes = %s, committed = now() WHERE number = %s",
            (signed.text, signed.digest, sum(manifest.chunks().values()), row["number"]),
        )
        await connection.execute("DELETE FROM chunk WHERE scan = %s", (row["number"],))
        await queue.enqueue(connection, jobs, row["number"], site, manifest.priority)
        return await status(connection, site, scan), True


async def withdraw(connection: Connection, site: str, scan: str) -> ScanStatus:
    """An open scan that will not be finished becomes refused. Raises Refusal."""
    async with connection.transaction():
        cursor = await connection.execute(
            "SELECT number, state, reason_code FROM scan WHERE site = %s AND id = %s FOR UPDATE", (site, scan)
        )
        row = await cursor.fetchone()
        if row is None:
            raise not_found()
        if row["state"] == "open":
            await queue.refuse_open(connection, row["number"], "WITHDRAWN", "the site withdrew the scan")
        elif row["reason_code"] != "WITHDRAWN":
            raise conflict(f"the scan is {row['state']}: what was committed cannot be withdrawn")
        return await status(connection, site, scan)


async def last_event(connection: Connection, site: str) -> int:
    """Number of the last event of a site's scans; 0 before the first."""
    cursor = await connection.execute("SELECT coalesce(max(number), 0) AS last FROM event WHERE site = %s", (site,))
    return int((await cursor.fetchone() or {"last": 0})["last"])


async def changes(
    connection: Connection, site: str, last: int, since: datetime
) -> tuple[list[ScanStatus], int, datetime]:
    """Scans with an event after `last`, or that moved on at a worker after `since`; and both marks for next time."""
    newest = await last_event(connection, site)
    cursor = await connection.execute(
        f"{STATUS} WHERE site = %(site)s AND (number IN (SELECT scan FROM event WHERE site = %(site)s"
        " AND event.number > %(last)s AND event.number <= %(newest)s)"
        " OR state = 'running' AND scan.updated > %(since)s) ORDER BY scan.updated LIMIT 1000",
        {"site": site, "last": last, "newest": newest, "since": since},
    )
    rows = await cursor.fetchall()
    moments = [since] + [datetime.fromisoformat(row["updated"]) for row in rows if row["state"] == "running"]
    return [_status(row) for row in rows], max(last, newest), max(moments)


async def _admit(connection: Connection, site: str, priority: str, settings: Settings) -> None:
    """Ask a site to come later when it, or the centre, has enough under way; STAT is asked last."""
    cursor = await connection.execute(
        "SELECT count(*) FILTER (WHERE site = %s AND state = 'open') AS own,"
        " count(*) FILTER (WHERE state = 'queued') AS waiting FROM scan WHERE state IN ('open', 'queued')",
        (site,),
    )
    row = await cursor.fetchone() or {"own": 0, "waiting": 0}
    share = 2 if priority == "stat" else 1
    if row["own"] >= settings.open_scans * share:
        raise wait(429, 10, f"{row['own']} scans of this site are open: finish or withdraw some first")
    if row["waiting"] >= settings.waiting_scans and priority != "stat":
        raise wait(503, 30, f"{row['waiting']} scans wait for workers: the centre is behind")


async def _absent(connection: Connection, number: int, wanted: dict[str, int]) -> list[str]:
    cursor = await connection.execute("SELECT digest, bytes FROM chunk WHERE scan = %s", (number,))
    held = {row["digest"]: row["bytes"] for row in await cursor.fetchall()}
    wrong = next((digest for digest, size in wanted.items() if held.get(digest, size) != size), None)
    if wrong is not None:
        raise refusal(422, "INPUT_MANIFEST", f"chunk {wrong[:12]}… has {held[wrong]} bytes, {wanted[wrong]} are said")
    return [digest for digest in wanted if digest not in held]


def _status(row: dict[str, Any]) -> ScanStatus:
    return ScanStatus(
        scan=row["id"],
        state=row["state"],
        priority=row["priority"],
        updated=row["updated"],
        received_bytes=int(row["received"]),
        manifest=row["manifest"],
        reason=None if row["reason_code"] is None else (row["reason_code"], row["reason"] or ""),
        station=row["station"] if row["state"] == "running" else None,
        progress=float(row["progress"]) if row["state"] == "running" else 0.0,
        returned=row["returned"],
    )
