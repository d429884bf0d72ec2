"""Who, what, whose, when → the entries of the chain that somebody may see, page by page or all of them."""

from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, fields
from datetime import datetime
from typing import Any

from lampyris.centre.audit.chain import COLUMNS, Kind, Link, link_of
from lampyris.centre.database import Connection

ROOT = "centre"
"""The tenant whose auditors see every entry."""
_AT_ONCE = 1000
_FIND = f"""
    SELECT {COLUMNS}, (SELECT earlier.digest FROM audit AS earlier WHERE earlier.number = audit.number - 1) AS before
    FROM audit
"""


@dataclass(frozen=True, slots=True)
class Wanted:
    """What is looked for; None = anything. `since` is the first moment that is wanted, `until` the first after."""

    who: str | None = None
    kind: Kind | None = None
    object: str | None = None
    site: str | None = None
    outcome: str | None = None
    since: datetime | None = None
    until: datetime | None = None

    def named(self) -> dict[str, str]:
        """What is looked for, by name: for the entry that tells of the search."""
        said = {one.name: getattr(self, one.name) for one in fields(self)}
        return {name: str(value) for name, value in said.items() if value is not None}


@dataclass(frozen=True, slots=True)
class Page:
    """Entries, the newest first, and the number to go on below; None when these are the last."""

    links: tuple[Link, ...]
    below: int | None


async def search(
    connection: Connection, tenants: Sequence[str], wanted: Wanted, *, below: int | None = None, count: int = 50
) -> Page:
    """A page of the entries that an auditor of these tenants may see.

    Entries about one of the tenants; for an auditor of the whole centre also those about no tenant, or about one that
    was removed since.
    """
    condition, values = _condition(tenants, wanted)
    cursor = await connection.execute(
        f"{_FIND} WHERE {condition} AND (%(below)s::bigint IS NULL OR number < %(below)s)"
        " ORDER BY number DESC LIMIT %(count)s",
        {**values, "below": below, "count": count + 1},
    )
    rows = await cursor.fetchall()
    links = tuple(link_of(row) for row in rows[:count])
    return Page(links, links[-1].number if len(rows) > count else None)


async def everything(connection: Connection, tenants: Sequence[str], wanted: Wanted) -> AsyncIterator[Link]:
    """All entries that an auditor of these tenants may see, the oldest first, read a thousand at a time."""
    links = await following(connection, tenants, wanted, after=0, count=_AT_ONCE)
    while links:
        for link in links:
            yield link
        links = await following(connection, tenants, wanted, after=links[-1].number, count=_AT_ONCE)


async def following(
    connection: Connection, tenants: Sequence[str], wanted: Wanted, *, after: int, count: int
) -> list[Link]:
    """The first entries after one of them, the oldest first."""
    condition, values = _condition(tenants, wanted)
    cursor = await connection.execute(
        f"{_FIND} WHERE {condition} AND number > %(after)s ORDER BY number LIMIT %(count)s",
        {**values, "after": after, "count": count},
    )
    return [link_of(row) for row in await cursor.fetchall()]


def _condition(tenants: Sequence[str], wanted: Wanted) -> tuple[str, dict[str, Any]]:
    """What bounds a search, of this module's own words, and its parameters."""
    values: dict[str, Any] = {}
    parts = ["true"]
    if ROOT not in tenants:
        parts.append("site = ANY(%(tenants)s)")
        values["tenants"] = list(tenants)
    for name in ("who", "kind", "object", "site", "outcome"):
        if (value := getattr(wanted, name)) is not None:
            parts.append(f"{name} = %({name})s")
            values[name] = str(value)
    if wanted.since is not None:
        parts.append("at >= %(since)s")
        values["since"] = wanted.since
    if wanted.until is not None:
        parts.append("at < %(until)s")
        values["until"] = wanted.until
    return " AND ".join(parts), values
