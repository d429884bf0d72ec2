"""A scan that is done and another recipe → a further series of the same study; what was returned to the site stays.

The transitions of a remake, each one transaction, as those of a scan are in `queue`: a job belongs to one try of one
remake. Remakes go through the queue `batch`, behind every scan that waits there: nobody's first series waits for a
second one of somebody else.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from procrastinate import App

from lampyris.centre.database import Connection
from lampyris.centre.jobs.queue import DEATH, ROOM_S, FullError, Work, forget_job, ring, stalled
from lampyris.centre.recipes.library import active, library_at
from lampyris.centre.refusals import conflict, refusal
from lampyris.model import LampyrisError
from lampyris.transfer import ReturnedFile

TASK = "remake"
QUEUE = "batch"
ROUTINE = "routine"
"""The method that every other is compared with."""
POLICY = "policy"
"""Who asks for what the centre's settings want of every scan."""
_ASKED, _COMPANION = -1_900_000_000, -2_000_000_000
"""Priorities below every turn of the queue `batch`; what a person waits for is first."""
_ONGOING = "state IN ('queued', 'running')"


@dataclass(frozen=True, slots=True)
class Remake:
    """A scan's series with another recipe: who asked when, and how far it is."""

    number: int
    recipe: str
    version: str
    who: str
    state: str
    station: str | None
    progress: float
    reason_code: str | None
    reason: str | None
    verdict: str | None
    asked: datetime
    finished: datetime | None


async def ask(connection: Connection, jobs: App, scan: int, recipe: str, who: str) -> int:
    """Queue a remake of a scan (by its row's number); its own number. One that is there already is not made twice.

    One that has failed or was refused is queued again with all its tries. Raises Refusal: no such recipe, the scan is
    not done, its raw data or series were deleted, or the recipe is the one that its series was made with.
    """
    versions = await active(connection)
    if recipe not in versions:
        raise refusal(422, "RECIPE", f"the centre has no such recipe; it has {', '.join(versions)}")
    version = versions[recipe]
    async with connection.transaction():
        row = await _locked(connection, scan)
        known = await connection.execute(
            "SELECT number FROM remake WHERE scan = %s AND recipe = %s AND version = %s AND state IN"
            " ('queued', 'running', 'done')",
            (scan, recipe, version),
        )
        if there := await known.fetchone():
            return int(there["number"])
        if recipe in row["recipes"]:
            raise conflict(f"the series was made with {recipe}: choose another recipe")
        cursor = await connection.execute(
            "INSERT INTO remake (scan, recipe, version, who, priority) VALUES (%s, %s, %s, %s, %s)"
            " ON CONFLICT (scan, recipe, version) DO UPDATE SET state = 'queued', who = excluded.who, attempts = 0,"
            " reason_code = NULL, reason = NULL, priority = excluded.priority, asked = now(), finished = NULL"
            " RETURNING number",
            (scan, recipe, version, who, _COMPANION if who == POLICY else _ASKED),
        )
        number = int((await cursor.fetchone() or {})["number"])
        await _enqueue(connection, jobs, number)
    return number


async def _locked(connection: Connection, scan: int) -> dict[str, Any]:
    """A scan that can be made again, with the recipes of its first series. Raises Refusal.

    Retention locks the same row before it deletes, and then looks whether a remake is under way.
    """
    cursor = await connection.execute(
        "SELECT state, raw_deleted, series_deleted, array_remove(array_append(ARRAY(SELECT recipe FROM series WHERE"
        " series.scan = scan.number AND recipe IS NOT NULL), skeleton::json ->> 'recipe'), NULL) AS recipes"
        " FROM scan WHERE number = %s FOR UPDATE",
        (scan,),
    )
    row = await cursor.fetchone()
    if row is None or row["state"] != "done":
        raise conflict("the scan has no series yet: only what is done is made again with another recipe")
    for what, column in (("raw data", "raw_deleted"), ("series", "series_deleted")):
        if row[column] is not None:
            raise conflict(f"the {what} of the scan were deleted on {row[column]:%Y-%m-%d}, as retention says")
    return row


def companion_of(method: str, recipe: str | None) -> str:
    """The recipe of a method for what another recipe is for: what the two are compared in is the method alone.

    >>> companion_of("routine", "swift-lung"), companion_of("routine", "swift")
    ('routine-lung', 'routine')
    """
    region = (recipe or "").partition("-")[2]
    return f"{method}-{region}" if region and "-" not in method else method


async def of_scan(connection: Connection, scan: int) -> list[Remake]:
    """Remakes of a scan, the oldest first."""
    names = ", ".join(Remake.__slots__)
    cursor = await connection.execute(f"SELECT {names} FROM remake WHERE scan = %s ORDER BY number".encode(), (scan,))
    return [Remake(**row) for row in await cursor.fetchall()]


async def _enqueue(connection: Connection, jobs: App, number: int, *, delay_s: float = 0.0) -> None:
    cursor = await connection.execute("SELECT priority FROM remake WHERE number = %s", (number,))
    job = await jobs.configure_task(
        TASK,
        queue=QUEUE,
        priority=(await cursor.fetchone() or {})["priority"],
        schedule_in={"seconds": delay_s} if delay_s else None,
        connection=connection,
    ).defer_async(number=number)
    await connection.execute(
        "UPDATE remake SET state = 'queued', job = %s, station = NULL, progress = 0, finished = NULL, updated = now()"
        " WHERE number = %s",
        (job, number),
    )
    await _tell(connection, number)


async def start(connection: Connection, number: int, job: int) -> Work | None:
    """Begin a try; None when this job is not the one that the remake waits for."""
    async with connection.transaction():
        cursor = await connection.execute(
            "UPDATE remake SET state = 'running', attempts = remake.attempts + 1, station = NULL, progress = 0,"
            " reason_code = NULL, reason = NULL, updated = now() FROM scan WHERE scan.number = remake.scan"
            " AND remake.number = %s AND remake.job = %s AND remake.state IN ('queued', 'running')"
            " RETURNING scan.number, site, id, signed, committed, remake.attempts, remake.recipe, asked",
            (number, job),
        )
        row = await cursor.fetchone()
        if row is None:
            return None
        await _tell(connection, number)
        library = await library_at(connection, row["asked"])
    whole = (row["number"], row["site"], row["id"], row["signed"], row["committed"], row["attempts"])
    return Work(*whole, library, row["recipe"])


async def progress(connection: Connection, number: int, job: int, station: str, done: float) -> None:
    """Where a try is, for whoever watches."""
    async with connection.transaction():
        await _change(connection, (number, job), "station = %s, progress = %s", (station, done))


async def finish(connection: Connection, number: int, job: int, files: Sequence[ReturnedFile], verdict: str) -> bool:
    """The further series was made. False when the remake was given to another job meanwhile: then nothing changes."""
    changed = "state = 'done', verdict = %s, finished = now(), station = NULL, progress = 1"
    async with connection.transaction():
        if not await _change(connection, (number, job), changed, (verdict,)):
            return False
        async with connection.cursor() as many:
            await many.executemany(
                "INSERT INTO remake_output (remake, name, bytes, sha256) VALUES (%s, %s, %s, %s)",
                [(number, one.name, one.size, one.sha256) for one in files],
            )
    return True


async def end(connection: Connection, number: int, job: int, state: str, code: str, reason: str) -> bool:
    """A remake is refused or has failed, with its reason; False when another job has it."""
    changed = "state = %s, reason_code = %s, reason = %s, finished = now(), station = NULL"
    async with connection.transaction():
        return await _change(connection, (number, job), changed, (state, code, reason))


async def again(connection: Connection, jobs: App, work: tuple[int, int], error: LampyrisError, *, tries: int) -> bool:
    """After a failure that may pass: once more, later each time, or failed after its tries. True when queued again."""
    number, job = work
    async with connection.transaction():
        cursor = await connection.execute(
            f"SELECT attempts FROM remake WHERE number = %s AND job = %s AND {_ONGOING} FOR UPDATE", (number, job)
        )
        row = await cursor.fetchone()
        if row is None:
            return False
        counted = not isinstance(error, FullError)
        if counted and row["attempts"] >= tries:
            said = f"{error} (after {row['attempts']} tries)"
            await end(connection, number, job, "failed", error.code, said)
            return False
        attempts = row["attempts"] - (not counted)
        await _change(
            connection, work, "reason_code = %s, reason = %s, attempts = %s", (error.code, str(error), attempts)
        )
        await _enqueue(connection, jobs, number, delay_s=5.0 ** row["attempts"] if counted else ROOM_S)
    return True


async def recover(connection: Connection, jobs: App, *, silent_s: float, tries: int) -> list[int]:
    """Queue again, or fail, every remake whose worker has given no sign of life for so long, or whose job is gone."""
    left = await stalled(jobs, TASK, silent_s=silent_s)
    cursor = await connection.execute(
        f"SELECT number, job FROM remake WHERE {_ONGOING}"
        " AND NOT EXISTS (SELECT FROM procrastinate_jobs WHERE id = job)"
    )
    lost = left + [(row["number"], row["job"]) for row in await cursor.fetchall()]
    recovered = [work[0] for work in lost if await again(connection, jobs, work, DEATH, tries=tries)]
    for _, job in left:
        await forget_job(connection, job)
    return recovered


async def _change(connection: Connection, work: tuple[int, int], changed: str, values: Sequence[Any]) -> bool:
    """Change a remake that this job still has, in the caller's transaction; `changed` is this module's own words."""
    cursor = await connection.execute(
        f"UPDATE remake SET {changed}, updated = now() WHERE number = %s AND job = %s AND {_ONGOING}".encode(),
        (*values, *work),
    )
    if cursor.rowcount:
        await _tell(connection, work[0])
    return bool(cursor.rowcount)


async def _tell(connection: Connection, number: int) -> None:
    """Wake whoever watches the site."""
    cursor = await connection.execute(
        "SELECT site FROM remake JOIN scan ON scan.number = remake.scan WHERE remake.number = %s", (number,)
    )
    if row := await cursor.fetchone():
        await ring(connection, row["site"])
