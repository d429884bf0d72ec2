"""A machine or a script → an access token that stands for an account; shown once, kept as SHA-256."""

import base64
import binascii
import secrets
from dataclasses import dataclass
from datetime import datetime

from lampyris.centre.audit.chain import Entry, Kind, note
from lampyris.centre.database import Connection
from lampyris.centre.people.sessions import digest_of
from lampyris.centre.people.tenants import By, checked_name
from lampyris.model import InputError

PREFIX = "lyt_"
"""Begins every token, so that programs that look for secrets in texts know one."""
LONGEST_DAYS = 366
_AT_ONCE = 20
_CREDENTIALS_CHARACTERS = 512


@dataclass(frozen=True, slots=True)
class Token:
    """A token as its owner sees it: what it is for, and when and where from it was last used."""

    number: int
    name: str
    created: datetime
    expires: datetime
    used: datetime | None
    address: str | None


async def issue(connection: Connection, by: By, person: int, name: str, days: int) -> str:
    """The text of a new token of an account, good for so many days. Raises InputError."""
    name = checked_name(name)
    if not 1 <= days <= LONGEST_DAYS:
        raise InputError(f"a token is good for 1 … {LONGEST_DAYS} days, not {days}")
    text = PREFIX + secrets.token_urlsafe(32)
    async with connection.transaction():
        await connection.execute("DELETE FROM access_token WHERE person = %s AND expires < now()", (person,))
        cursor = await connection.execute(
            "SELECT login, (SELECT count(*) FROM access_token WHERE access_token.person = person.number) AS tokens"
            " FROM person WHERE number = %s FOR UPDATE",
            (person,),
        )
        row = await cursor.fetchone()
        if row is None or row["tokens"] >= _AT_ONCE:
            raise InputError(f"an account has at most {_AT_ONCE} tokens: take one back first")
        await connection.execute(
            "INSERT INTO access_token (digest, person, name, expires)"
            " VALUES (%s, %s, %s, now() + make_interval(days => %s))",
            (digest_of(text), person, name, days),
        )
        await _noted(connection, by, "token.issue", row["login"])
    return text


async def of(connection: Connection, person: int) -> list[Token]:
    """Tokens of an account that are still good, the newest first."""
    cursor = await connection.execute(
        "SELECT number, name, created, expires, used, address FROM access_token"
        " WHERE person = %s AND expires > now() ORDER BY number DESC",
        (person,),
    )
    return [Token(**row) for row in await cursor.fetchall()]


async def take_back(connection: Connection, by: By, person: int, number: int) -> bool:
    """End a token of an account at once; whether it had one of this number."""
    async with connection.transaction():
        cursor = await connection.execute(
            "DELETE FROM access_token USING person WHERE person.number = access_token.person AND person = %s"
            " AND access_token.number = %s RETURNING login",
            (person, number),
        )
        row = await cursor.fetchone()
        if row is not None:
            await _noted(connection, by, "token.take_back", row["login"])
    return row is not None


def shown(authorization: str) -> tuple[str | None, str] | None:
    """Login, if it was said, and token of an Authorization header: Bearer, or Basic with the token as password.

    None for anything else: passwords of people are for the page to sign in, and for nothing else.
    """
    scheme, _, rest = authorization.partition(" ")
    rest = rest.strip()
    if len(rest) > _CREDENTIALS_CHARACTERS:
        return None
    if scheme.lower() == "bearer":
        return (None, rest) if rest.startswith(PREFIX) else None
    if scheme.lower() != "basic":
        return None
    try:
        login, _, token = base64.b64decode(rest, validate=True).decode().partition(":")
    except (binascii.Error, UnicodeDecodeError):
        return None
    return (login, token) if token.startswith(PREFIX) else None


async def _noted(connection: Connection, by: By, what: str, login: str) -> None:
    await note(connection, Entry(Kind.PEOPLE, by.who, address=by.address, object=login, detail={"what": what}))
