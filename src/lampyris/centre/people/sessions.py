"""A person who signed in → a cookie that stands for them until it ends; the database keeps its SHA-256 alone."""

import hashlib
import secrets
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from lampyris.centre.database import Connection

COOKIE = "lampyris_session"
IDLE_MINUTES = 30
LASTS = timedelta(hours=12)
_AT_ONCE = 20
"""Sessions that one person may have; the oldest ends when another begins."""
_AGENT_CHARACTERS = 200


@dataclass(frozen=True, slots=True)
class Session:
    """A session: the text of its cookie, and what unsafe requests must bear in X-CSRF-Token."""

    cookie: str
    csrf: str


@dataclass(frozen=True, slots=True)
class Listed:
    """A session as its owner sees it: where from, with which browser, since and until when; `own` = this one."""

    number: int
    address: str
    agent: str
    created: datetime
    seen: datetime
    own: bool


def cookie_of(url: str) -> str:
    """Name of the cookie at a public URL: with the prefix that binds it to its host and to TLS, where there is TLS."""
    return f"__Host-{COOKIE}" if url.startswith("https:") else COOKIE


async def begin(connection: Connection, person: int, address: str, agent: str = "") -> Session:
    """Begin a session of somebody who has shown who they are."""
    session = Session(secrets.token_urlsafe(32), secrets.token_urlsafe(24))
    agent = "".join(each for each in agent if each.isprintable())[:_AGENT_CHARACTERS]
    async with connection.transaction():
        await connection.execute(
            "INSERT INTO session (digest, person, csrf, address, agent, expires) VALUES (%s, %s, %s, %s, %s, %s)",
            (digest_of(session.cookie), person, session.csrf, address, agent, datetime.now(UTC) + LASTS),
        )
        await connection.execute(
            "DELETE FROM session WHERE person = %s AND number NOT IN"
            " (SELECT number FROM session WHERE person = %s ORDER BY number DESC LIMIT %s)",
            (person, person, _AT_ONCE),
        )
    return session


async def of(connection: Connection, person: int, own: str | None) -> list[Listed]:
    """Sessions of somebody that have not ended, the newest first; `own` is the digest of the one that asks."""
    cursor = await connection.execute(
        "SELECT number, address, agent, created, seen, digest IS NOT DISTINCT FROM %s AS own FROM session"
        " WHERE person = %s AND expires > now() AND seen > now() - make_interval(mins => %s) ORDER BY number DESC",
        (own, person, IDLE_MINUTES),
    )
    return [Listed(**row) for row in await cursor.fetchall()]


async def end(connection: Connection, digest: str) -> None:
    """End a session by the digest of its cookie; one that is over already stays so."""
    await connection.execute("DELETE FROM session WHERE digest = %s", (digest,))


async def end_of(connection: Connection, person: int, number: int) -> bool:
    """End one session of somebody by its number; whether there was one of theirs."""
    found = await connection.execute("DELETE FROM session WHERE person = %s AND number = %s", (person, number))
    return found.rowcount == 1


async def end_all(connection: Connection, person: int) -> int:
    """Sign somebody out everywhere; how many sessions that were."""
    return (await connection.execute("DELETE FROM session WHERE person = %s", (person,))).rowcount


def digest_of(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


async def stands(connection: Connection, digest: str) -> bool:
    """Whether a session is good now; asking this does not keep it alive."""
    cursor = await connection.execute(
        "SELECT FROM session JOIN person ON person.number = person WHERE digest = %s AND NOT disabled"
        " AND expires > now() AND seen > now() - make_interval(mins => %s)",
        (digest, IDLE_MINUTES),
    )
    return await cursor.fetchone() is not None
