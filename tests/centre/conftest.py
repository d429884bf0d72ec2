"""A centre for each test: a copy of a migrated database, a folder, and sites that speak."""

import asyncio
import secrets
import tempfile
from collections.abc import Awaitable, Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import httpx
import psycopg
import pytest
import structlog
from centre_orthanc import Orthanc, orthanc
from centre_people import sign_in
from centre_site import AUDIENCE, Site, served
from fastapi import FastAPI
from psycopg.rows import dict_row

from lampyris import cli
from lampyris.centre import Centre, Settings, access, opened
from lampyris.centre.api import create
from lampyris.centre.database import Connection, dsn_of, migrate, stop
from lampyris.centre.people import tokens
from lampyris.centre.people.callers import CSRF_HEADER
from lampyris.centre.people.sessions import cookie_of
from lampyris.centre.people.tenants import MACHINE


@pytest.fixture(scope="session")
def server() -> Iterator[str]:
    """DSN of a PostgreSQL that ends with the tests, with a migrated database to copy.

    Not below pytest's folders: run by root, PostgreSQL is another user, and every pytest shuts that one out again.
    """
    with tempfile.TemporaryDirectory(prefix="lampyris-", ignore_cleanup_errors=True) as folder:
        dsn = dsn_of(Settings(Path(folder)))
        with psycopg.connect(dsn, autocommit=True) as connection:
            for setting in ("fsync", "full_page_writes"):  # a test's database need not outlive a power cut
                connection.execute(f"ALTER SYSTEM SET {setting} = off")
            connection.execute("SELECT pg_reload_conf()")
            connection.execute("CREATE DATABASE migrated")
        migrate(dsn.replace("/postgres?", "/migrated?"))
        yield dsn
        stop(Settings(Path(folder)))


@pytest.fixture
def empty_dsn(server) -> Iterator[str]:
    """A database with nothing in it."""
    yield from _database(server, "template1")


@pytest.fixture
def settings(server, tmp_path) -> Iterator[Settings]:
    for dsn in _database(server, "migrated"):
        yield Settings(
            tmp_path / "centre", audience=AUDIENCE, dsn=dsn, open_scans=3, waiting_scans=3, bodies=4, free_bytes=1,
            heartbeat_s=0.2,
        )  # fmt: skip


def _database(server: str, template: str) -> Iterator[str]:
    name = f"t{secrets.token_hex(6)}"
    with psycopg.connect(server, autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name} TEMPLATE {template}")
        yield server.replace("/postgres?", f"/{name}?")
        connection.execute(f"DROP DATABASE {name} WITH (FORCE)")


@pytest.fixture
def inside(settings) -> Callable[[Callable[[Centre], Awaitable[Any]]], Any]:
    """Run something async with an opened centre: what a worker or an operator does."""

    def run(action: Callable[[Centre], Awaitable[Any]]) -> Any:
        async def whole() -> Any:
            async with opened(settings, connections=4) as centre:
                return await action(centre)

        return asyncio.run(whole())

    return run


@pytest.fixture
def app(settings) -> FastAPI:
    return create(settings)


@pytest.fixture
def client(app) -> Iterator[httpx.Client]:
    with served(app) as found:
        yield found


@pytest.fixture
def invite(settings) -> Callable[[str], str]:
    """A one-time code for a site, as the operator makes it."""

    def make(name: str) -> str:
        async def whole() -> str:
            async with await psycopg.AsyncConnection.connect(settings.dsn, autocommit=True) as connection:
                return await access.invite(connection, name)

        return asyncio.run(whole())

    return make


@pytest.fixture
def signed_in(settings, client) -> Iterator[Callable[..., httpx.Client]]:
    """A client of the same server in which somebody is signed in who has these roles: pairs of role and tenant."""
    opened_clients: list[httpx.Client] = []

    def make(*roles: tuple[str, str], login: str | None = None) -> httpx.Client:
        session = sign_in(settings, login or f"person-{len(opened_clients)}", roles)
        found = httpx.Client(
            base_url=client.base_url, trust_env=False, timeout=20.0, cookies={cookie_of(AUDIENCE): session.cookie},
            headers={CSRF_HEADER: session.csrf},
        )  # fmt: skip
        opened_clients.append(found)
        return found

    yield make
    for each in opened_clients:
        each.close()


@pytest.fixture
def site(client, invite) -> Site:
    return Site(client, "st-anna", invite("st-anna"))


@pytest.fixture
def other(client, invite) -> Site:
    return Site(client, "other-site", invite("other-site"))


@pytest.fixture
def rows(settings) -> Callable[..., list[Any]]:
    """What the database holds."""

    def ask(query: str, *values, **named) -> list[Any]:
        with psycopg.connect(settings.dsn, autocommit=True) as connection:
            cursor = connection.execute(query, named or values)
            return cursor.fetchall() if cursor.description else []

    return ask


@pytest.fixture
def operate(settings, monkeypatch, capsys):
    """Run `lampyris …` on the test's centre: its exit code and what it printed."""
    monkeypatch.setenv("LAMPYRIS_DSN", settings.dsn)
    structlog.configure(logger_factory=structlog.ReturnLoggerFactory())  # the test's own server says nothing

    def run(*arguments):
        code = cli.main([*arguments, "--data", str(settings.folder)])
        said = capsys.readouterr()
        return code, said.out, " ".join(said.err.split())

    yield run
    structlog.reset_defaults()


@pytest.fixture
def do(settings) -> Callable[[Callable[[Connection], Awaitable[Any]]], Any]:
    """Run a function of a connection, and give what it gives."""

    def run(action: Callable[[Connection], Awaitable[Any]]) -> Any:
        async def whole() -> Any:
            async with await psycopg.AsyncConnection.connect(
                settings.dsn, autocommit=True, row_factory=dict_row
            ) as connection:
                return await action(connection)

        return asyncio.run(whole())

    return run


@pytest.fixture
def start_orthanc(program, tmp_path) -> Iterator[Callable[..., Orthanc]]:
    """Start an independent archive with these settings in its configuration; it ends with the test."""
    with ExitStack() as started:

        def start(**more: Any) -> Orthanc:
            folder = tmp_path / f"orthanc-{secrets.token_hex(4)}"
            return started.enter_context(orthanc(program("Orthanc"), folder, **more))

        yield start


@pytest.fixture
def reader(invite, signed_in) -> httpx.Client:
    """A radiologist of st-anna, signed in."""
    invite("st-anna")
    found: httpx.Client = signed_in(("radiologist", "st-anna"))
    return found


@pytest.fixture
def reader_token(invite, signed_in, do, rows) -> str:
    """An access token of `judge`, radiologist of st-anna."""
    invite("st-anna")
    signed_in(("radiologist", "st-anna"), login="judge")
    ((person,),) = rows("SELECT number FROM person WHERE login = 'judge'")
    text: str = do(lambda connection: tokens.issue(connection, MACHINE, person, "judge", 1))
    return text
