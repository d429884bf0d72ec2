"""The queue of the network → sendings, reports and requests of storage commitment done, until the process ends.

Rows say what is due, jobs only when: what is lost with a process is found by its row and queued again.
"""

import asyncio
import contextlib
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from procrastinate import JobContext

from lampyris.centre.database import ABSENT, Connection, told_to_end
from lampyris.centre.dimse import commitment, send
from lampyris.centre.dimse.commitment import QUEUE
from lampyris.centre.dimse.scp.server import Door
from lampyris.model import LampyrisError

_AT_ONCE = 4
_TRIES = 12
"""How often a node is told, or asked, of storage commitment: over nine days."""
_LATER_S = (10.0, 60.0, 600.0, 3600.0, 86400.0)
_SILENT_HEARTBEATS = 6
_GRACE_S = 15.0
_SILENT_DAYS = 3


@asynccontextmanager
async def working(door: Door) -> AsyncIterator[None]:
    """While this lasts the queue is worked on, and what was lost is found."""
    stop = threading.Event()
    _register(door, stop)
    tasks = [asyncio.create_task(_serve(door)), asyncio.create_task(_keep(door))]
    try:
        yield
    finally:
        stop.set()
        for task in tasks:
            task.cancel()
        for task in tasks:
            with contextlib.suppress(asyncio.CancelledError):
                await task


def _register(door: Door, stop: threading.Event) -> None:
    jobs = door.centre.jobs

    async def sent(context: JobContext, sending: int) -> None:
        assert context.job.id is not None
        await send.work(door, sending, context.job.id, stop)

    async def told(context: JobContext, commitment: int) -> None:
        assert context.job.id is not None
        await _settle(door, commitment, context.job.id, ours=False)

    async def asked(context: JobContext, commitment: int) -> None:
        assert context.job.id is not None
        await _settle(door, commitment, context.job.id, ours=True)

    for name, task in ((send.TASK, sent), (commitment.REPORT, told), (commitment.ASK, asked)):
        jobs.task(name=name, pass_context=True)(task)


async def _settle(door: Door, number: int, job: int, *, ours: bool) -> None:
    """Tell, or ask, one node of one transaction; again later when it does not answer."""
    async with door.centre.pool.connection() as connection:
        due = await commitment.pending(connection, number, job)
        if due is None:
            return
        failed = {} if ours else await commitment.outcome(connection, door.centre.store, due)
    try:
        if ours:
            await asyncio.to_thread(commitment.ask, door, due)
        else:
            await asyncio.to_thread(commitment.report, door, due, failed)
    except LampyrisError as error:
        door.log.warning("storage commitment waits", node=due.node.aet, reason=str(error), attempt=due.attempts)
        async with door.centre.pool.connection() as connection, connection.transaction():
            if due.attempts < _TRIES:
                delay_s = _LATER_S[min(due.attempts, len(_LATER_S)) - 1]
                await commitment.enqueue(connection, door.centre.jobs, number, ours=ours, delay_s=delay_s)
            else:
                await commitment.finished(connection, number, told=False)
        return
    async with door.centre.pool.connection() as connection:
        if ours:
            await commitment.asked(connection, number)
        else:
            await commitment.finished(connection, number, told=True)


async def _serve(door: Door) -> None:
    settings = door.centre.settings
    while True:
        try:
            await door.centre.jobs.run_worker_async(
                queues=[QUEUE],
                concurrency=_AT_ONCE,
                install_signal_handlers=False,
                delete_jobs="always",
                update_heartbeat_interval=settings.heartbeat_s,
                stalled_worker_timeout=settings.heartbeat_s * _SILENT_HEARTBEATS,
                shutdown_graceful_timeout=_GRACE_S,
            )
            return
        except ABSENT as error:
            if told_to_end():
                raise asyncio.CancelledError from error
            door.log.warning("the database is away, the network waits for it", kind=type(error).__name__)
            await asyncio.sleep(settings.heartbeat_s)


async def _keep(door: Door) -> None:
    """Find what a process that died has left, and nodes that never said what they commit themselves to."""
    heartbeat_s = door.centre.settings.heartbeat_s
    while not told_to_end():
        with contextlib.suppress(*ABSENT):
            async with door.centre.pool.connection() as connection:
                await recover(connection, door, silent_s=heartbeat_s * _SILENT_HEARTBEATS)
        await asyncio.sleep(heartbeat_s)


async def recover(connection: Connection, door: Door, *, silent_s: float) -> None:
    """Queue again whatever waits for a job that is gone. Safe with many callers."""
    jobs = door.centre.jobs
    for job in await jobs.job_manager.get_stalled_jobs(queue=QUEUE, seconds_since_heartbeat=silent_s):
        await connection.execute("DELETE FROM procrastinate_jobs WHERE id = %s AND status = 'doing'", (job.id,))
    gone = "job IS NOT NULL AND NOT EXISTS (SELECT FROM procrastinate_jobs WHERE id = job) FOR UPDATE SKIP LOCKED"
    async with connection.transaction():
        cursor = await connection.execute(
            f"SELECT number, attempts FROM sending WHERE state IN ('waiting', 'running') AND {gone}".encode()
        )
        for row in await cursor.fetchall():
            if row["attempts"] < door.centre.settings.tries:
                await send.enqueue(connection, jobs, row["number"])
            else:
                await send.give_up(connection, row["number"])
        cursor = await connection.execute(
            f"SELECT number, ours FROM commitment WHERE state = 'waiting' AND {gone}".encode()
        )
        for row in await cursor.fetchall():
            await commitment.enqueue(connection, jobs, row["number"], ours=row["ours"])
    await connection.execute(
        "UPDATE sending SET commitment = 'silent'"
        " WHERE commitment = 'asked' AND updated < now() - make_interval(days => %s)",
        (_SILENT_DAYS,),
    )
