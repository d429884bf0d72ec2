"""A login and a password → a person with roles at tenants; passwords are kept as argon2id alone."""

import asyncio

from argon2 import PasswordHasher
from argon2.exceptions import Argon2Error, InvalidHashError

from lampyris.centre.database import Connection
from lampyris.centre.people.rules import Role
from lampyris.model import InputError

_HASHER = PasswordHasher()
_NOBODY = _HASHER.hash("nobody has this password")
"""Checked when there is no such login, so that an answer takes as long."""
SHORTEST = 12


async def add(connection: Connection, login: str, name: str, password: str | None, *, service: bool = False) -> int:
    """A new person, or with `service` a machine; their number. Raises InputError."""
    hashed = None if password is None else await asyncio.to_thread(_hash, password)
    cursor = await connection.execute(
        "INSERT INTO person (login, name, password, service) VALUES (%s, %s, %s, %s) ON CONFLICT DO NOTHING"
        " RETURNING number",
        (login, name, hashed, service),
    )
    row = await cursor.fetchone()
    if row is None:
        raise InputError("the login is taken: choose another")
    return int(row["number"])


async def grant(connection: Connection, person: int, role: Role, tenant: str) -> None:
    """Give somebody a role at a tenant and everything below it."""
    await connection.execute(
        "INSERT INTO granted (person, role, tenant) VALUES (%s, %s, %s) ON CONFLICT DO NOTHING", (person, role, tenant)
    )


async def check(connection: Connection, login: str, password: str) -> int | None:
    """The person whose login and password these are; None for any other pair, after the same time."""
    cursor = await connection.execute(
        "SELECT number, password FROM person WHERE login = %s AND NOT disabled AND password IS NOT NULL", (login,)
    )
    row = await cursor.fetchone()
    matches = await asyncio.to_thread(_verify, _NOBODY if row is None else row["password"], password)
    return int(row["number"]) if row is not None and matches else None


def _hash(password: str) -> str:
    if len(password) < SHORTEST:
        raise InputError(f"a password has at least {SHORTEST} characters, this one has {len(password)}")
    return _HASHER.hash(password)


def _verify(hashed: str, password: str) -> bool:
    try:
        return _HASHER.verify(hashed, password)
    except (Argon2Error, InvalidHashError):
        return False
