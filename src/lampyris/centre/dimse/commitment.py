"""Storage commitment both ways → what was promised, kept in the database until the one who asked knows it (PS3.4 J).

Who asks us is answered at once, and told on an association of its own, as often as it takes. What we ask of a node is
told to us on the association that asked or on another one; a restart of either side loses neither.
"""

import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from procrastinate import App
from psycopg.types.json import Jsonb
from pydicom.dataset import Dataset
from pydicom.uid import UID
from pynetdicom import AE, build_role, evt
from pynetdicom.events import Event
from pynetdicom.presentation import build_context

from lampyris.centre.audit.chain import Entry, Kind, note
from lampyris.centre.database import Connection
from lampyris.centre.dimse import nodes
from lampyris.centre.dimse.contexts import COMMITMENT, PLAIN
from lampyris.centre.dimse.nodes import Node, NodeError
from lampyris.centre.dimse.scp.server import Door
from lampyris.centre.store import Store

INSTANCE = "1.2.840.10008.1.20.1.1"
"""The well-known Storage Commitment Push Model SOP Instance."""
QUEUE = "dimse"
REPORT, ASK = "commitment-report", "commitment-ask"
"""Names of the jobs."""
_SUCCESS, _INVALID, _NO_ACTION, _PROCESSING = 0x0000, 0x0115, 0x0123, 0x0110
_ABSENT, _CONFLICT = 0x0112, 0x0119
"""Why an instance is not committed: there is none, or it is of another class (PS3.3 C.14.1.1)."""
_MOST = 100_000
_WAIT_S = 10.0


@dataclass(frozen=True, slots=True)
class Pending:
    """A transaction that somebody has yet to be told of, or asked about."""

    number: int
    node: Node
    transaction: str
    instances: tuple[tuple[str, str], ...]
    attempts: int


def handlers(door: Door) -> list[Any]:
    """What requests and reports are answered by."""
    return [
        (evt.EVT_N_ACTION, lambda event: _requested(door, event)),
        (evt.EVT_N_EVENT_REPORT, lambda event: _reported(door, event)),
    ]


def _requested(door: Door, event: Event) -> tuple[int, Dataset | None]:
    """A node asks us to commit ourselves (N-ACTION): it is written down before it is answered."""
    node = door.node_of(event)
    if event.action_type != 1:
        return _NO_ACTION, None
    try:
        asked = event.action_information
        transaction, pairs = str(asked.TransactionUID), _pairs(asked.ReferencedSOPSequence)
    except Exception:  # whatever a peer's bytes make of the library
        return _INVALID, None
    if not UID(transaction).is_valid or not pairs or len(pairs) > _MOST:
        return _INVALID, None

    async def keep(connection: Connection) -> None:
        async with connection.transaction():
            await put(connection, door.centre.jobs, node, transaction, pairs)

    door.ask(keep)
    door.noted(event, Kind.QUERY, "success", transaction, commitment=len(pairs))
    return _SUCCESS, None


def _reported(door: Door, event: Event) -> tuple[int, Dataset | None]:
    """A node tells what it commits itself to (N-EVENT-REPORT), on an association that it opened."""
    node = door.node_of(event)
    try:
        told = event.event_information
    except Exception:
        return _PROCESSING, None
    return door.ask(lambda connection: settle(connection, node, told)), None


def _pairs(sequence: Sequence[Dataset]) -> list[tuple[str, str]]:
    return [(str(one.ReferencedSOPClassUID), str(one.ReferencedSOPInstanceUID)) for one in sequence]


async def put(
    connection: Connection, jobs: App, node: Node, transaction: str, pairs: Sequence[tuple[str, str]],
    *, sending: int | None = None,
) -> None:  # fmt: skip
    """Write a transaction down and queue what is due, in the caller's transaction; one that is known stays as it is.

    With `sending` it is ours, about what that sent.
    """
    cursor = await connection.execute(
        "INSERT INTO commitment (node, ours, transaction, sending, instances) VALUES (%s, %s, %s, %s, %s)"
        " ON CONFLICT DO NOTHING RETURNING number",
        (node.aet, sending is not None, transaction, sending, Jsonb(list(map(list, pairs)))),
    )
    if row := await cursor.fetchone():
        await enqueue(connection, jobs, row["number"], ours=sending is not None)


async def enqueue(connection: Connection, jobs: App, number: int, *, ours: bool, delay_s: float = 0.0) -> None:
    """Queue what is due of a transaction, in the caller's transaction."""
    job = await jobs.configure_task(
        ASK if ours else REPORT,
        queue=QUEUE,
        schedule_in={"seconds": delay_s} if delay_s else None,
        connection=connection,
    ).defer_async(commitment=number)
    await connection.execute("UPDATE commitment SET job = %s, updated = now() WHERE number = %s", (job, number))


def new_transaction() -> str:
    """A UID that no transaction has had."""
    return f"2.25.{uuid.uuid4().int}"


async def pending(connection: Connection, number: int, job: int) -> Pending | None:
    """Begin a try; None when this job is not the one that is due."""
    cursor = await connection.execute(
        "UPDATE commitment SET attempts = attempts + 1, updated = now()"
        " WHERE number = %s AND job = %s AND state = 'waiting' RETURNING node, transaction, instances, attempts",
        (number, job),
    )
    row = await cursor.fetchone()
    node = None if row is None else await nodes.find(connection, row["node"])
    if row is None or node is None:
        return None
    pairs = tuple((one[0], one[1]) for one in row["instances"])
    return Pending(number, node, row["transaction"], pairs, row["attempts"])


async def outcome(connection: Connection, store: Store, due: Pending) -> dict[tuple[str, str], int]:
    """What of a transaction's instances we do not have, each with its reason."""
    cursor = await connection.execute(
        "SELECT instance.uid, class_uid, prefix, sha256, instance.bytes FROM instance"
        " JOIN study ON study.number = instance.study WHERE site = %s AND instance.uid = ANY(%s)",
        (due.node.site, [uid for _, uid in due.instances]),
    )
    held = {row["uid"]: row for row in await cursor.fetchall()}
    failed = {}
    for pair in due.instances:
        row = held.get(pair[1])
        if row is None or store.size_of(row["prefix"], row["sha256"]) != row["bytes"]:
            failed[pair] = _ABSENT
        elif row["class_uid"] != pair[0]:
            failed[pair] = _CONFLICT
    return failed


def report(door: Door, due: Pending, failed: dict[tuple[str, str], int]) -> None:
    """Tell the node that asked (N-EVENT-REPORT), on an association of its own. Raises NodeError."""
    told = Dataset()
    told.TransactionUID = due.transaction
    told.ReferencedSOPSequence = [_referenced(one) for one in due.instances if one not in failed]
    if failed:
        told.FailedSOPSequence = [_referenced(one, reason) for one, reason in failed.items()]
    if not told.ReferencedSOPSequence:
        del told.ReferencedSOPSequence
    entity = _entity(door)
    role = [build_role(COMMITMENT, scp_role=True)]
    association = nodes.reach(entity, door.centre.settings, due.node, ext_neg=role)
    try:
        status, _ = association.send_n_event_report(told, 2 if failed else 1, COMMITMENT, INSTANCE)
    finally:
        association.release()
    if getattr(status, "Status", None) != _SUCCESS:
        raise NodeError(f"node {due.node.aet} did not take its report of storage commitment")


def ask(door: Door, due: Pending) -> None:
    """Ask a node to commit itself (N-ACTION), and take its report if it comes at once. Raises NodeError."""
    wanted = Dataset()
    wanted.TransactionUID = due.transaction
    wanted.ReferencedSOPSequence = [_referenced(one) for one in due.instances]

    def told(event: Event) -> tuple[int, Dataset | None]:
        return door.ask(lambda connection: settle(connection, due.node, event.event_information)), None

    heard = [(evt.EVT_N_EVENT_REPORT, told)]
    association = nodes.reach(_entity(door), door.centre.settings, due.node, evt_handlers=heard)
    try:
        status, _ = association.send_n_action(wanted, 1, COMMITMENT, INSTANCE)
    finally:
        association.release()
    if getattr(status, "Status", None) != _SUCCESS:
        raise NodeError(f"node {due.node.aet} does not take the request for storage commitment")


def _entity(door: Door) -> AE:
    entity = AE(door.centre.settings.aet)
    entity.connection_timeout = entity.acse_timeout = _WAIT_S
    entity.requested_contexts = [build_context(COMMITMENT, list(PLAIN))]
    return entity


def _referenced(pair: tuple[str, str], reason: int | None = None) -> Dataset:
    made = Dataset()
    made.ReferencedSOPClassUID, made.ReferencedSOPInstanceUID = pair
    if reason is not None:
        made.FailureReason = reason
    return made


async def settle(connection: Connection, node: Node, told: Dataset) -> int:
    """What a node commits itself to is written down; the status that its report is answered by.

    What it does not name it has not committed itself to.
    """
    async with connection.transaction():
        cursor = await connection.execute(
            "UPDATE commitment SET state = 'told', job = NULL, updated = now()"
            " WHERE node = %s AND ours AND transaction = %s RETURNING sending, instances",
            (node.aet, str(told.get("TransactionUID") or "")),
        )
        row = await cursor.fetchone()
        if row is None:
            return _PROCESSING
        kept = set(_pairs(told.get("ReferencedSOPSequence") or []))
        missing = sum((one[0], one[1]) not in kept for one in row["instances"])
        cursor = await connection.execute(
            "UPDATE sending SET commitment = %s, updated = now() WHERE number = %s RETURNING site, study_uid",
            ("refused" if missing else "committed", row["sending"]),
        )
        sent = await cursor.fetchone()
        assert sent is not None
        detail = {"commitment": len(kept), "not": missing}
        outcome = "failed" if missing else "success"
        await note(
            connection,
            Entry(Kind.SEND, f"node:{node.aet}", outcome, node.host, sent["site"], sent["study_uid"], detail),
        )
    return _SUCCESS


async def asked(connection: Connection, number: int) -> None:
    """A node has taken our request: nothing more is due from us."""
    async with connection.transaction():
        cursor = await connection.execute(
            "UPDATE commitment SET job = NULL, updated = now() WHERE number = %s AND state = 'waiting'"
            " RETURNING sending",
            (number,),
        )
        if row := await cursor.fetchone():
            await connection.execute(
                "UPDATE sending SET commitment = 'asked', updated = now() WHERE number = %s AND commitment = 'none'",
                (row["sending"],),
            )


async def finished(connection: Connection, number: int, *, told: bool) -> None:
    """The one who asked knows; or cannot be reached, however often it was tried."""
    async with connection.transaction():
        cursor = await connection.execute(
            "UPDATE commitment SET state = %s, job = NULL, updated = now() WHERE number = %s RETURNING sending",
            ("told" if told else "failed", number),
        )
        row = await cursor.fetchone()
        if row is not None and row["sending"] is not None:
            await connection.execute(
                "UPDATE sending SET commitment = 'silent', updated = now() WHERE number = %s", (row["sending"],)
            )
