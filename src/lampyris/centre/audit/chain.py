"""What was done, by whom, to what → one more link of the chain: each holds the digest of the one before."""

import hashlib
from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any

from psycopg.types.json import Jsonb

from lampyris.centre.database import Connection
from lampyris.model.arrays import canonical_json

_LOCK = 0x1A3BC16
"""Number of the advisory lock under which the chain grows."""


class Kind(StrEnum):
    """What an entry is about."""

    LOGIN = "login"
    LOGOUT = "logout"
    QUERY = "query"
    VIEW = "view"
    EXPORT = "export"
    STORE = "store"
    SEND = "send"
    DELETE = "delete"
    SHARE = "share"
    GLASS = "glass"
    REMAKE = "remake"
    RETRY = "retry"
    CONFIGURE = "configure"
    PEOPLE = "people"


@dataclass(frozen=True, slots=True)
class Entry:
    """One thing that was done, tried or refused. `object` is a UID, an id or a login: never a patient's name or number.

    `who` is a login, `site:ID`, `node:AET` or `operator`; `site` the tenant whose data it was about.
    """

    kind: Kind
    who: str
    outcome: str = "success"
    address: str | None = None
    site: str | None = None
    object: str | None = None
    detail: dict[str, Any] = field(default_factory=dict)


async def note(connection: Connection, entry: Entry) -> int:
    """Append an entry, in the caller's transaction if there is one; its number."""
    at = datetime.now(UTC)
    async with connection.transaction():
        await connection.execute("SELECT pg_advisory_xact_lock(%s)", (_LOCK,))
        cursor = await connection.execute("SELECT number, digest FROM audit ORDER BY number DESC LIMIT 1")
        last = await cursor.fetchone()
        number, before = (1, "0" * 64) if last is None else (last["number"] + 1, last["digest"])
        await connection.execute(
            "INSERT INTO audit (number, at, kind, who, outcome, address, site, object, detail, digest)"
            " VALUES (%s, %s, %s, %s, %s, %s, %s, %s, %s, %s)",
            (
                number, at, entry.kind, entry.who, entry.outcome, entry.address, entry.site, entry.object,
                Jsonb(entry.detail), digest_of(number, at, entry, before),
            ),
        )  # fmt: skip
    return number


def digest_of(number: int, at: datetime, entry: Entry, before: str) -> str:
    """SHA-256 of an entry in canonical JSON, the digest of the one before included."""
    whole = {
        "number": number, "at": at.isoformat(), "kind": str(entry.kind), "who": entry.who, "outcome": entry.outcome,
        "address": entry.address, "site": entry.site, "object": entry.object, "detail": entry.detail, "before": before,
    }  # fmt: skip
    return hashlib.sha256(canonical_json(whole).encode()).hexdigest()
