"""A study or a series, and a node → on its way there, with its progress, until the node has it or it is known why not.

A row says what is wanted and how far it is; a job of the queue does it, in whichever node process takes it. What a node
has taken is not sent again by the next try.
"""

import asyncio
import threading
import time
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from procrastinate import App

from lampyris.centre.archive import queries
from lampyris.centre.archive.queries import FoundInstance
from lampyris.centre.audit.chain import Entry, Kind, note
from lampyris.centre.database import Connection
from lampyris.centre.dimse import commitment, nodes, ways
from lampyris.centre.dimse.nodes import Node
from lampyris.centre.dimse.scp.server import Door
from lampyris.centre.people.callers import Caller
from lampyris.centre.refusals import not_found
from lampyris.model import InputError, LampyrisError, MachineError

TASK = "send"
_TELL_S = 0.5
_NAMED = 3
"""Instances that a failure names."""


@dataclass(frozen=True, slots=True)
class Sending:
    """What is sent, to whom, by whose wish, how far it is; `commitment`: none, asked, committed, refused, silent."""

    number: int
    site: str
    study_uid: str
    series_uid: str | None
    node: str
    who: str
    state: str
    way: str | None
    total: int
    sent: int
    bytes: int
    attempts: int
    reason_code: str | None
    reason: str | None
    commitment: str
    created: datetime
    finished: datetime | None


class RefusedError(InputError):
    """A node does not take some of what it was sent; trying again would change nothing."""

    code = "INPUT_NOT_TAKEN"


class StoppedError(MachineError):
    """The process that sends is told to stop; another one goes on."""

    code = "MACHINE_STOPPED"


_COLUMNS = (
    "number, site, study_uid, series_uid, node, who, state, way, total, sent, bytes, attempts, reason_code, reason,"
    " commitment, created, finished"
)


async def request(
    connection: Connection, jobs: App, caller: Caller, study_uid: str, aet: str, *, series_uid: str | None = None
) -> list[Sending]:
    """Send what a caller sees of a study, or one series of it, to a node of a site of theirs; in one transaction.

    Of a study of which they see single series alone, each is sent for itself. Refusal 404 for what they do not see.
    """
    seen = queries.visible(caller)
    study = await queries.find_study(connection, seen, study_uid)
    node = await nodes.find(connection, aet)
    if study is None or node is None or node.site not in caller.sites:
        raise not_found()
    series: list[str | None] = [series_uid]
    if series_uid is not None or not study.complete:
        wanted = [queries.study_is(study_uid), *([queries.series_is(series_uid)] if series_uid else [])]
        found = await queries.find_series(connection, seen, wanted)
        series = [one.uid for one in found if one.site == study.site]
        if not series:
            raise not_found()
    made = []
    async with connection.transaction():
        for one in series:
            cursor = await connection.execute(
                "INSERT INTO sending (site, study_uid, series_uid, node, who, address) VALUES (%s, %s, %s, %s, %s, %s)"
                f" RETURNING {_COLUMNS}",
                (study.site, study_uid, one, node.aet, caller.login, caller.address),
            )
            made.append(Sending(**(await cursor.fetchone() or {})))
            await enqueue(connection, jobs, made[-1].number)
        detail = {"to": node.aet, "series": len(made) if study.series_count != len(made) else 0, "state": "asked"}
        entry = Entry(Kind.SEND, caller.login, "success", caller.address, study.site, study_uid, detail)
        await note(connection, entry)
    return made


async def listed(connection: Connection, caller: Caller, study_uid: str) -> list[Sending]:
    """What of a study was sent or is on its way, the newest first. Refusal 404 for one that is not theirs to see."""
    study = await queries.find_study(connection, queries.visible(caller), study_uid)
    if study is None:
        raise not_found()
    cursor = await connection.execute(
        f"SELECT {_COLUMNS} FROM sending WHERE study_uid = %s AND site = %s ORDER BY number DESC LIMIT 100",
        (study_uid, study.site),
    )
    return [Sending(**row) for row in await cursor.fetchall()]


async def enqueue(connection: Connection, jobs: App, number: int, *, delay_s: float = 0.0) -> None:
    """Queue a sending, in the caller's transaction."""
    job = await jobs.configure_task(
        TASK,
        queue=commitment.QUEUE,
        schedule_in={"seconds": delay_s} if delay_s else None,
        connection=connection,
    ).defer_async(sending=number)
    await connection.execute(
        "UPDATE sending SET state = 'waiting', job = %s, updated = now() WHERE number = %s", (job, number)
    )


async def give_up(connection: Connection, number: int) -> None:
    """A sending whose process died in each of its tries has failed."""
    await connection.execute(
        "UPDATE sending SET state = 'failed', job = NULL, finished = now(), reason_code = 'WORKER_DIED',"
        " reason = 'the process that sent it died, in each try' WHERE number = %s",
        (number,),
    )


class Try:
    """One try of one sending, in a thread; the loop of the process reads how far it is."""

    def __init__(self, door: Door, sending: Sending, node: Node, stop: threading.Event) -> None:
        self._door, self._sending, self._node, self._stop = door, sending, node, stop
        self.sent, self.bytes = sending.sent, sending.bytes
        self.taken: list[FoundInstance] = []

    async def run(self) -> None:
        """Send what the node does not have yet, and note the progress. Raises LampyrisError."""
        door, sending = self._door, self._sending
        wanted = [queries.study_is(sending.study_uid)]
        if sending.series_uid is not None:
            wanted.append(queries.series_is(sending.series_uid))
        async with door.centre.pool.connection() as connection:
            instances = await queries.find_instances(connection, queries.of_sites([sending.site]), wanted)
            await connection.execute(
                "UPDATE sending SET total = %s, way = %s WHERE number = %s",
                (len(instances), "stow" if self._node.stow else "c-store", sending.number),
            )
        working = asyncio.create_task(asyncio.to_thread(self._send, instances))
        while not working.done():
            await asyncio.wait([working], timeout=_TELL_S)
            await self._tell()
        await working
        self.taken = instances

    def _send(self, instances: list[FoundInstance]) -> None:
        """Everything from where the last try ended; what is refused does not hold the rest."""
        door, refused = self._door, dict[str, int]()
        for outcome in ways.send(door.centre.settings, door.centre.store, self._node, instances[self.sent :]):
            if outcome.refused is None:
                self.bytes += outcome.instance.bytes
            else:
                refused[outcome.refused] = refused.get(outcome.refused, 0) + 1
            if not refused:
                self.sent += 1  # the next try begins here
            if self._stop.is_set():
                raise StoppedError("the node process ends; another one goes on")
        if refused:
            why = "; ".join(f"{count} × {reason}" for reason, count in list(refused.items())[:_NAMED])
            raise RefusedError(f"{self._node.aet} did not take {sum(refused.values())} of {len(instances)}: {why}")

    async def _tell(self) -> None:
        async with self._door.centre.pool.connection() as connection:
            await connection.execute(
                "UPDATE sending SET sent = %s, bytes = %s, updated = now() WHERE number = %s",
                (self.sent, self.bytes, self._sending.number),
            )


async def start(connection: Connection, number: int, job: int) -> tuple[Sending, Node] | None:
    """Begin a try; None when this job is not the one that is due, or the node is no more."""
    cursor = await connection.execute(
        "UPDATE sending SET state = 'running', attempts = attempts + 1, updated = now()"
        f" WHERE number = %s AND job = %s AND state IN ('waiting', 'running') RETURNING {_COLUMNS}",
        (number, job),
    )
    row = await cursor.fetchone()
    node = None if row is None else await nodes.find(connection, row["node"])
    return None if row is None or node is None else (Sending(**row), node)


async def work(door: Door, number: int, job: int, stop: threading.Event) -> None:
    """One try, from its start to a state that lasts."""
    async with door.centre.pool.connection() as connection:
        begun = await start(connection, number, job)
    if begun is None:
        return
    sending, node = begun
    one, began, error = Try(door, sending, node, stop), time.monotonic(), None
    try:
        await one.run()
    except LampyrisError as failed:
        error = failed
    async with door.centre.pool.connection() as connection, connection.transaction():
        await _end(connection, door, sending, node, one, error)
    door.log.info(
        "sending ended", sending=number, node=node.aet, sent=one.sent, code=error and error.code,
        s=round(time.monotonic() - began, 2),
    )  # fmt: skip


async def _end(
    connection: Connection, door: Door, sending: Sending, node: Node, one: Try, error: LampyrisError | None
) -> None:
    """The state that a try ends in, in the caller's transaction."""
    told: dict[str, Any] = {"to": node.aet, "sent": one.sent, "sending": sending.number}
    if error is not None and error.retry and isinstance(error, StoppedError):
        await connection.execute("UPDATE sending SET attempts = attempts - 1 WHERE number = %s", (sending.number,))
        await enqueue(connection, door.centre.jobs, sending.number)
        return
    reason = (None, None) if error is None else (error.code, str(error))
    await connection.execute(
        "UPDATE sending SET reason_code = %s, reason = %s, updated = now() WHERE number = %s", (*reason, sending.number)
    )
    if error is not None and error.retry and sending.attempts < door.centre.settings.tries:
        await enqueue(connection, door.centre.jobs, sending.number, delay_s=5.0**sending.attempts)
        return
    await connection.execute(
        "UPDATE sending SET state = %s, job = NULL, finished = now() WHERE number = %s",
        ("failed" if error else "done", sending.number),
    )
    outcome = "failed" if error else "success"
    entry = Entry(Kind.SEND, sending.who, outcome, None, sending.site, sending.study_uid, told)
    await note(connection, entry)
    if error is None and node.commits and one.taken:
        pairs = [(each.class_uid, each.uid) for each in one.taken]
        transaction = commitment.new_transaction()
        await commitment.put(connection, door.centre.jobs, node, transaction, pairs, sending=sending.number)
