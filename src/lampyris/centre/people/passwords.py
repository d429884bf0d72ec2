"""A login and a password → a person; a link that is good once → a password. Kept as argon2id and SHA-256 alone."""

import asyncio
import re
import secrets
from concurrent.futures import ThreadPoolExecutor

from argon2 import PasswordHasher
from argon2.exceptions import Argon2Error, InvalidHashError

from lampyris.centre.database import Connection
from lampyris.centre.people.sessions import digest_of
from lampyris.model import InputError

LOGIN = re.compile(r"[a-z0-9][a-z0-9._@-]{0,63}")
SHORTEST, _LONGEST = 12, 256
PASSWORD_HOURS = 72
"""How long a link to choose a password is good."""
DEMO_HOURS = 1
_HASHER = PasswordHasher()
_NOBODY = _HASHER.hash("nobody has this password")
"""Checked when there is no such login, so that an answer takes as long."""
_POOL = ThreadPoolExecutor(4, "argon2")
"""Each check takes 64 MiB: so many of a process at a time, the others wait their turn."""


async def check(connection: Connection, login: str, password: str) -> int | None:
    """The person whose login and password these are; None for any other pair, after the same time."""
    row = None
    if LOGIN.fullmatch(login):
        cursor = await connection.execute(
            "SELECT number, password FROM person WHERE login = %s AND NOT disabled AND password IS NOT NULL", (login,)
        )
        row = await cursor.fetchone()
    hashed = _NOBODY if row is None else str(row["password"])
    matches = await asyncio.get_running_loop().run_in_executor(_POOL, _verify, hashed, password[: _LONGEST + 1])
    if row is None or not matches:
        return None
    if _HASHER.check_needs_rehash(hashed):  # it was made with less work than is asked for today
        await _store(connection, int(row["number"]), await _hashed(password))
    return int(row["number"])


async def known(connection: Connection, login: str) -> bool:
    """Whether this is somebody's login: what was typed in its place may be a password, and is written down nowhere."""
    cursor = await connection.execute("SELECT FROM person WHERE login = %s", (login if LOGIN.fullmatch(login) else "",))
    return await cursor.fetchone() is not None


async def choose(connection: Connection, person: int, password: str, *, keep: str | None = None) -> None:
    """Give somebody this password and end their sessions, but the one whose digest is `keep`. Raises InputError."""
    hashed = await _hashed(password)
    async with connection.transaction():
        await _store(connection, person, hashed)
        await connection.execute("DELETE FROM link WHERE person = %s AND purpose = 'password'", (person,))
        await connection.execute("DELETE FROM session WHERE person = %s AND digest IS DISTINCT FROM %s", (person, keep))


async def link(connection: Connection, person: int, purpose: str) -> str:
    """The code of a link that is good once, in place of those before it; the database keeps its digest."""
    code = secrets.token_urlsafe(32)
    hours = {"password": PASSWORD_HOURS, "demo": DEMO_HOURS}[purpose]
    async with connection.transaction():
        await connection.execute("DELETE FROM link WHERE person = %s OR expires < now()", (person,))
        await connection.execute(
            "INSERT INTO link (digest, person, purpose, expires)"
            " VALUES (%s, %s, %s, now() + make_interval(hours => %s))",
            (digest_of(code), person, purpose, hours),
        )
    return code


async def linked(connection: Connection, code: str) -> tuple[int, str, str] | None:
    """Person, login and purpose of a link that is still good."""
    cursor = await connection.execute(
        "SELECT number, login, purpose FROM link JOIN person ON number = person"
        " WHERE digest = %s AND expires > now() AND NOT disabled",
        (digest_of(code),),
    )
    row = await cursor.fetchone()
    return None if row is None else (int(row["number"]), str(row["login"]), str(row["purpose"]))


async def use(connection: Connection, code: str) -> bool:
    """Use a link up; False when somebody else was first."""
    found = await connection.execute("DELETE FROM link WHERE digest = %s AND expires > now()", (digest_of(code),))
    return found.rowcount == 1


async def _store(connection: Connection, person: int, hashed: str) -> None:
    await connection.execute("UPDATE person SET password = %s WHERE number = %s", (hashed, person))


async def _hashed(password: str) -> str:
    if not SHORTEST <= len(password) <= _LONGEST:
        raise InputError(f"a password has {SHORTEST} … {_LONGEST} characters, this one has {len(password)}")
    if len(set(password)) < SHORTEST // 2:
        raise InputError("the password repeats a few characters: choose another")
    return await asyncio.get_running_loop().run_in_executor(_POOL, _HASHER.hash, password)


def _verify(hashed: str, password: str) -> bool:
    try:
        return _HASHER.verify(hashed, password)
    except (Argon2Error, InvalidHashError):
        return False
