"""Transitions of a scan's state → one transaction each: the state, the event, and the job that is due.

A job belongs to one try of one scan: whoever holds another number than `scan.job` finds nothing to do. So a worker that
was thought dead cannot finish a scan that was given to another one, and a job that runs twice changes nothing.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from procrastinate import App

from lampyris.centre.database import Connection
from lampyris.centre.recipes.choice import Library
from lampyris.centre.recipes.library import library_at
from lampyris.model import LampyrisError, StorageError
from lampyris.transfer import PRIORITIES, ReturnedFile

TASK = "reconstruct"
CHANNEL = "lampyris_scan"
"""Notified with a site's id whenever one of its scans changes."""
_RANGE = 1_000_000_000
_FIRST = {"stat": 1_500_000_000, "routine": 500_000_000, "batch": -500_000_000}
"""Priority of the job whose turn is 0: within int4, every STAT is before every routine scan, these before batch."""
ROOM_S = 30.0
"""After so long a scan that met a full disk looks whether there is room."""


@dataclass(frozen=True, slots=True)
class Work:
    """One try of one scan, the recipes that it may have; `recipe` where it is made again with another than before."""

    number: int
    site: str
    scan: str
    signed: str
    committed: datetime
    attempt: int
    library: Library
    recipe: str | None = None


async def enqueue(
    connection: Connection, jobs: App, number: int, site: str, priority: str, *, delay_s: float = 0.0
) -> None:
    """Queue a committed scan, in the caller's transaction, behind the others that its site has waiting.

    Fair queueing by turns: a site's next turn follows its last one, or the turn that is being served if that is later.
    The n-th waiting scan of a busy site thus stands beside the n-th of every other one.
    """
    cursor = await connection.execute(
        "INSERT INTO share AS mine (site, priority, turn)"
        " SELECT %(site)s, priority, turn + 1 FROM served WHERE priority = %(priority)s"
        " ON CONFLICT (site, priority) DO UPDATE SET turn = greatest(mine.turn + 1, excluded.turn) RETURNING turn",
        {"site": site, "priority": priority},
    )
    turn = (await cursor.fetchone() or {})["turn"]
    job = await jobs.configure_task(
        TASK,
        queue=priority,
        priority=_FIRST[priority] - turn % _RANGE,
        schedule_in={"seconds": delay_s} if delay_s else None,
        connection=connection,
    ).defer_async(number=number)
    await connection.execute(
        "UPDATE scan SET state = 'queued', job = %s, turn = %s, station = NULL, progress = 0, finished = NULL,"
        " updated = now() WHERE number = %s",
        (job, turn, number),
    )
    await tell(connection, number)


async def start(connection: Connection, number: int, job: int) -> Work | None:
    """Begin a try; None when this job is not the one that the scan waits for."""
    async with connection.transaction():
        cursor = await connection.execute(
            "UPDATE scan SET state = 'running', attempts = attempts + 1, station = NULL, progress = 0,"
            " reason_code = NULL, reason = NULL, updated = now()"
            " WHERE number = %s AND job = %s AND state IN ('queued', 'running')"
            " RETURNING site, id, signed, committed, attempts, priority, turn",
            (number, job),
        )
        row = await cursor.fetchone()
        if row is None:
            return None
        await connection.execute(
            "UPDATE served SET turn = greatest(turn, %s) WHERE priority = %s", (row["turn"], row["priority"])
        )
        await tell(connection, number)
        library = await library_at(connection, row["committed"])
    return Work(number, row["site"], row["id"], row["signed"], row["committed"], row["attempts"], library)


async def progress(connection: Connection, number: int, job: int, station: str, done: float) -> None:
    """Where a try is, for whoever watches."""
    async with connection.transaction():
        cursor = await connection.execute(
            "UPDATE scan SET station = %s, progress = %s, updated = now()"
            " WHERE number = %s AND job = %s AND state = 'running' RETURNING site",
            (station, done, number, job),
        )
        if row := await cursor.fetchone():
            await ring(connection, row["site"])


async def finish(connection: Connection, number: int, job: int, files: Sequence[ReturnedFile], verdict: str) -> bool:
    """A series was made. False when the scan was given to another job meanwhile: then nothing changes."""
    async with connection.transaction():
        cursor = await connection.execute(
            "UPDATE scan SET state = 'done', verdict = %s, cursor = nextval('scan_cursor'), finished = now(),"
            " station = NULL, progress = 1, updated = now() WHERE number = %s AND job = %s AND state = 'running'",
            (verdict, number, job),
        )
        if cursor.rowcount == 0:
            return False
        async with connection.cursor() as many:
            await many.executemany(
                "INSERT INTO output (scan, name, bytes, sha256) VALUES (%s, %s, %s, %s)",
                [(number, one.name, one.size, one.sha256) for one in files],
            )
        await tell(connection, number)
    return True


async def end(connection: Connection, number: int, job: int, state: str, code: str, reason: str) -> bool:
    """A scan is refused or has failed, with its reason; False when another job has it."""
    async with connection.transaction():
        cursor = await connection.execute(
            "UPDATE scan SET state = %s, reason_code = %s, reason = %s, finished = now(), station = NULL,"
            " updated = now() WHERE number = %s AND job = %s AND state IN ('queued', 'running')",
            (state, code, reason, number, job),
        )
        if cursor.rowcount:
            await tell(connection, number)
    return bool(cursor.rowcount)


async def refuse_open(connection: Connection, number: int, code: str, reason: str) -> None:
    """A scan that was never committed is refused, in the caller's transaction."""
    await connection.execute(
        "UPDATE scan SET state = 'refused', reason_code = %s, reason = %s, finished = now(), updated = now()"
        " WHERE number = %s AND state = 'open'",
        (code, reason, number),
    )
    await connection.execute("DELETE FROM chunk WHERE scan = %s", (number,))
    await tell(connection, number)


async def again(connection: Connection, jobs: App, work: tuple[int, int], error: LampyrisError, *, tries: int) -> bool:
    """After a failure that may pass: queue the scan once more, later each time, or fail it after its tries.

    `work` is (scan, job). True when it is queued again. A try that a full disk ended does not count: the scan is not at
    fault, and waits, with the reason for all to see, until there is room.
    """
    number, job = work
    async with connection.transaction():
        cursor = await connection.execute(
            "SELECT site, priority, attempts FROM scan"
            " WHERE number = %s AND job = %s AND state IN ('queued', 'running') FOR UPDATE",
            (number, job),
        )
        row = await cursor.fetchone()
        if row is None:
            return False
        counted = not isinstance(error, FullError)
        if counted and row["attempts"] >= tries:
            said = f"{error} (after {row['attempts']} tries)"
            await end(connection, number, job, "failed", error.code, said)
            return False
        await connection.execute(
            "UPDATE scan SET reason_code = %s, reason = %s, attempts = %s WHERE number = %s",
            (error.code, str(error), row["attempts"] - (not counted), number),
        )
        delay_s = 5.0 ** row["attempts"] if counted else ROOM_S
        await enqueue(connection, jobs, number, row["site"], row["priority"], delay_s=delay_s)
    return True


class FullError(StorageError):
    """A disk of the worker or of the store is full: nothing is wrong with the scan."""

    code = "MACHINE_FULL"


class DiedError(LampyrisError):
    """The process that worked on a scan is gone without a word: killed, out of memory, or its machine was."""

    code = "WORKER_DIED"
    retry = True


DEATH = DiedError("the worker died: was it killed, or out of memory?")


async def recover(connection: Connection, jobs: App, *, silent_s: float, tries: int) -> list[int]:
    """Queue again, or fail, every scan whose worker has given no sign of life for so long, or whose job is gone.

    Gives the numbers of those scans. Safe with many callers: each job ends one try of one scan, once.
    """
    left = await stalled(jobs, TASK, silent_s=silent_s)
    cursor = await connection.execute(
        "SELECT number, job FROM scan WHERE state IN ('queued', 'running')"
        " AND NOT EXISTS (SELECT FROM procrastinate_jobs WHERE id = job)"
    )
    lost = left + [(row["number"], row["job"]) for row in await cursor.fetchall()]
    recovered = [work[0] for work in lost if await again(connection, jobs, work, DEATH, tries=tries)]
    for _, job in left:
        await forget_job(connection, job)
    return recovered


async def stalled(jobs: App, task: str, *, silent_s: float) -> list[tuple[int, int]]:
    """(number, job) of each job of a task whose worker has given no sign of life for so long."""
    found = await jobs.job_manager.get_stalled_jobs(seconds_since_heartbeat=silent_s, task_name=task)
    return [(int(str(job.task_kwargs["number"])), job.id) for job in found if job.id is not None]


async def forget_job(connection: Connection, job: int) -> None:
    """Delete a job that nobody works on any more; another caller may have done so."""
    await connection.execute("DELETE FROM procrastinate_jobs WHERE id = %s AND status = 'doing'", (job,))


async def release(connection: Connection, jobs: App, site: str, scan: str) -> bool:
    """The operator's: queue a failed scan again with all its tries. False when it has not failed."""
    async with connection.transaction():
        cursor = await connection.execute(
            "UPDATE scan SET attempts = 0, reason_code = NULL, reason = NULL, state = 'queued', finished = NULL"
            " WHERE site = %s AND id = %s AND state = 'failed' AND raw_deleted IS NULL RETURNING number, priority",
            (site, scan),
        )
        row = await cursor.fetchone()
        if row is not None:
            await enqueue(connection, jobs, row["number"], site, row["priority"])
    return row is not None


async def tell(connection: Connection, number: int) -> None:
    """Write the event of a scan's state and wake whoever watches its site."""
    cursor = await connection.execute(
        "INSERT INTO event (scan, site, state, reason_code) SELECT number, site, state, reason_code FROM scan"
        " WHERE number = %s RETURNING site",
        (number,),
    )
    if row := await cursor.fetchone():
        await ring(connection, row["site"])


async def ring(connection: Connection, site: str) -> None:
    """Wake whoever watches a site, in the caller's transaction."""
    await connection.execute("SELECT pg_notify(%s, %s)", (CHANNEL, site))


def check_queues(names: Sequence[str]) -> tuple[str, ...]:
    """Queues that a worker may serve, in the order of their priority; ValueError for another name."""
    if unknown := set(names) - set(PRIORITIES):
        raise ValueError(f"no queue {sorted(unknown)}: there are {', '.join(PRIORITIES)}")
    return tuple(name for name in PRIORITIES if name in names)
