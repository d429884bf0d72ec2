"""The chain as it stands, and anchors that were kept elsewhere → whether it is whole, or its first broken link."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from lampyris.centre.audit.chain import COLUMNS, START, digest_of
from lampyris.centre.database import Connection
from lampyris.model import MachineError

_BATCH = 2000


class BrokenError(MachineError):
    """Somebody changed the audit in the database, or a disk did."""

    code = "MACHINE_AUDIT"


@dataclass(frozen=True, slots=True)
class Anchor:
    """What the newest link was at a moment, kept where the database's owner cannot reach it."""

    number: int
    digest: str
    at: datetime


@dataclass(frozen=True, slots=True)
class Broken:
    """The first link that is not as it was written, and why one knows."""

    number: int
    reason: str


@dataclass(frozen=True, slots=True)
class Verified:
    """Links that were walked, the digest of the last of them, anchors that were met, and the first break if any."""

    links: int
    digest: str
    anchors: int
    broken: Broken | None


async def verify(connection: Connection, anchors: Iterable[Anchor] = (), *, batch: int = _BATCH) -> Verified:
    """Walk the chain from its first link, a batch at a time, up to the first that is broken.

    A chain whose end was cut off is whole as far as it goes: only an anchor beyond its end tells.
    """
    due = sorted(anchors, key=lambda one: (one.number, one.at))
    number, before, met = 0, START, 0
    while True:
        cursor = await connection.execute(
            f"SELECT {COLUMNS} FROM audit WHERE number > %s ORDER BY number LIMIT %s", (number, batch)
        )
        rows = await cursor.fetchall()
        for row in rows:
            broken = _broken(row, number + 1, before) or _adrift(due[met:], row["number"], row["digest"])
            if broken is not None:
                return Verified(number, before, met, broken)
            number, before = row["number"], row["digest"]
            while met < len(due) and due[met].number == number:
                met += 1
        if len(rows) < batch:
            return Verified(number, before, met, _beyond(due[met:], number))


def _broken(row: Mapping[str, Any], expected: int, before: str) -> Broken | None:
    if row["number"] != expected:
        return Broken(expected, f"link {expected} is missing: the next one that is there is {row['number']}")
    if digest_of(row, before) != row["digest"]:
        return Broken(expected, f"link {expected} is not as it was written, or the one before it is not")
    return None


def _adrift(due: Sequence[Anchor], number: int, digest: str) -> Broken | None:
    """An anchor of this link that names another digest: the chain was written anew from here or before."""
    for one in due:
        if one.number > number:
            return None
        if one.digest != digest:
            return Broken(
                number, f"link {number} is not the one that was anchored {one.at:%Y-%m-%d %H:%M} UTC: written anew?"
            )
    return None


def _beyond(due: Sequence[Anchor], last: int) -> Broken | None:
    """An anchor beyond the last link: the end was cut off."""
    if not due:
        return None
    far = due[-1]
    return Broken(
        last + 1, f"the chain ends with link {last}, but link {far.number} was anchored {far.at:%Y-%m-%d %H:%M} UTC"
    )
