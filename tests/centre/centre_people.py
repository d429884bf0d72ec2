"""People of a centre for tests: an account with roles at tenants, and a session of it."""

import asyncio
from collections.abc import Sequence

import psycopg
from psycopg.rows import dict_row

from lampyris.centre import Settings
from lampyris.centre.people import sessions
from lampyris.centre.people.rules import Role


def sign_in(settings: Settings, login: str, roles: Sequence[tuple[str, str]]) -> sessions.Session:
    """A session of a new person with these roles, each at a tenant."""

    async def whole() -> sessions.Session:
        assert settings.dsn is not None
        async with await psycopg.AsyncConnection.connect(
            settings.dsn, autocommit=True, row_factory=dict_row
        ) as connection:
            cursor = await connection.execute(
                "INSERT INTO person (login, name) VALUES (%s, %s) RETURNING number", (login, login.title())
            )
            person = (await cursor.fetchone() or {})["number"]
            for role, tenant in roles:
                await connection.execute(
                    "INSERT INTO granted (person, role, tenant) VALUES (%s, %s, %s)", (person, Role(role), tenant)
                )
            return await sessions.begin(connection, person, "127.0.0.1")

    return asyncio.run(whole())
