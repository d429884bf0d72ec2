"""What was done, by whom, to what → one more link of the chain: each holds the digest of the one before."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any

from psycopg.types.json import Jsonb

from lampyris.centre.database import Connection
from lampyris.model import ProgramError
from lampyris.model.arrays import canonical_json

START = "0" * 64
"""What stands before the first link."""
COLUMNS = "number, at, kind, who, outcome, address, site, object, detail, digest"
_LOCK = 0x1A3BC16
"""Number of the advisory lock under which the chain grows."""
_FACTS = ("number", "kind", "who", "outcome", "address", "site", "object", "detail")
_LONGEST, _LONGEST_DETAIL = 256, 2000
_EXACT = 1e15
"""Numbers of the detail below this come back from the database as they were written."""


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
    AUDIT = "audit"
    APPLICATION = "application"


OUTCOMES = ("success", "refused", "failed")


@dataclass(frozen=True, slots=True)
class Entry:
    """One thing that was done, tried or refused. `object` is a UID, an id or a login: never a patient's name or number.

    `who` is a login, `site:ID`, `node:AET` or `operator@machine-user`; `site` the tenant whose data it was about, None
    when it was about the centre. Strangers choose some of these texts: what cannot be printed becomes U+FFFD, and what
    is longer than 256 characters (2000 in the detail) ends in an ellipsis. Raises ProgramError for a detail that the
    database would give back as something else.
    """

    kind: Kind
    who: str
    outcome: str = "success"
    address: str | None = None
    site: str | None = None
    object: str | None = None
    detail: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name in ("who", "address", "site", "object"):
            text = getattr(self, name)
            if text is not None:
                object.__setattr__(self, name, _plain(text, _LONGEST))
        object.__setattr__(self, "detail", _cleaned(self.detail))


@dataclass(frozen=True, slots=True)
class Link:
    """An entry where it stands in the chain, with its digest and that of the link before."""

    number: int
    at: datetime
    entry: Entry
    before: str
    digest: str


async def note(connection: Connection, entry: Entry) -> int:
    """Append an entry, in the caller's transaction if there is one; its number.

    The chain waits from here to the end of that transaction, for all who write to it: let this be its last statement.
    """
    async with connection.pipeline(), connection.transaction():  # two ways to the database and back, not five
        await connection.execute("SELECT pg_advisory_xact_lock(%s)", (_LOCK,))
        cursor = await connection.execute("SELECT number, digest FROM audit ORDER BY number DESC LIMIT 1")
        last = await cursor.fetchone()
        number, before = (1, START) if last is None else (last["number"] + 1, last["digest"])
        row = {
            "number": number, "at": datetime.now(UTC), "kind": str(entry.kind), "who": entry.who,
            "outcome": entry.outcome, "address": entry.address, "site": entry.site, "object": entry.object,
            "detail": entry.detail,
        }  # fmt: skip
        await connection.execute(
            f"INSERT INTO audit ({COLUMNS}) VALUES (%(number)s, %(at)s, %(kind)s, %(who)s, %(outcome)s, %(address)s,"
            " %(site)s, %(object)s, %(detail)s, %(digest)s)",
            {**row, "detail": Jsonb(entry.detail), "digest": digest_of(row, before)},
        )
    return number


def digest_of(row: Mapping[str, Any], before: str) -> str:
    """SHA-256 of a row in canonical JSON, the digest of the one before included, its own left out."""
    return hashlib.sha256(canonical_json(signed_of(row, before)).encode()).hexdigest()


def signed_of(row: Mapping[str, Any], before: str) -> dict[str, Any]:
    """All that the digest of a row is taken of, as JSON has it."""
    facts = {name: row[name] for name in _FACTS}
    return {**facts, "at": row["at"].astimezone(UTC).isoformat(), "before": before}


def link_of(row: Mapping[str, Any]) -> Link:
    """A row with `before`, as pages and exports want it. Raises ValueError for a kind that there is not."""
    kind = Kind(row["kind"])
    entry = Entry(kind, row["who"], row["outcome"], row["address"], row["site"], row["object"], row["detail"])
    return Link(row["number"], row["at"], entry, row["before"] or START, row["digest"])


def _plain(text: str, longest: int) -> str:
    shown = "".join(one if one.isprintable() or one in "\n\t" else "\ufffd" for one in text[: longest + 1])
    return shown if len(shown) <= longest else f"{shown[: longest - 1]}…"


def _cleaned(value: Any) -> Any:
    """The same as PostgreSQL's JSON gives it back. Raises ProgramError for numbers and types that it would change."""
    if isinstance(value, dict):
        return {_plain(name, _LONGEST): _cleaned(each) for name, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [_cleaned(each) for each in value]
    if isinstance(value, str):
        return _plain(value, _LONGEST_DETAIL)
    if isinstance(value, float) and (not abs(value) < _EXACT or str(value) == "-0.0"):
        raise ProgramError(f"the detail of an audit entry holds {value}, which would not come back as it is")
    if value is None or isinstance(value, (bool, int, float)):
        return value
    raise ProgramError(f"the detail of an audit entry holds a {type(value).__name__}, which JSON has not")
