"""A person who signed in → a cookie that stands for them until it ends; the database keeps its SHA-256 alone."""

import hashlib
import secrets
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from lampyris.centre.database import Connection

COOKIE = "lampyris_session"
IDLE_MINUTES = 30
LASTS = timedelta(hours=12)


@dataclass(frozen=True, slots=True)
class Session:
    """A session: the text of its cookie, and what unsafe requests must bear in X-CSRF-Token."""

    cookie: str
    csrf: str


async def begin(connection: Connection, person: int, address: str) -> Session:
    """Begin a session of somebody who has shown who they are."""
    session = Session(secrets.token_urlsafe(32), secrets.token_urlsafe(24))
    await connection.execute(
        "INSERT INTO session (digest, person, csrf, address, expires) VALUES (%s, %s, %s, %s, %s)",
        (digest_of(session.cookie), person, session.csrf, address, datetime.now(UTC) + LASTS),
    )
    return session


async def end(connection: Connection, cookie: str) -> None:
    """End a session; one that is over already stays so."""
    await connection.execute("DELETE FROM session WHERE digest = %s", (digest_of(cookie),))


def digest_of(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
