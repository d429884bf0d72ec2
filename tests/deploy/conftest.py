"""A PostgreSQL with the centre's schema, for the statements that the deployment files hold."""

import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import psycopg
import pytest

from lampyris.centre import Settings
from lampyris.centre.database import dsn_of, migrate, stop


@pytest.fixture(scope="session")
def server() -> Iterator[str]:
    """DSN of a PostgreSQL that ends with the tests.

    Not below pytest's folders: run by root, PostgreSQL is another user, and every pytest shuts that one out again.
    """
    with tempfile.TemporaryDirectory(prefix="lampyris-", ignore_cleanup_errors=True) as folder:
        yield dsn_of(Settings(Path(folder)))
        stop(Settings(Path(folder)))


@pytest.fixture
def dsn(server) -> Iterator[str]:
    """A migrated database that is empty."""
    with psycopg.connect(server, autocommit=True) as connection:
        connection.execute("CREATE DATABASE deployed")
        found = server.replace("/postgres?", "/deployed?")
        migrate(found)
        yield found
        connection.execute("DROP DATABASE deployed WITH (FORCE)")


@pytest.fixture
def database(dsn) -> Callable[[], psycopg.Connection]:
    return lambda: psycopg.connect(dsn, autocommit=True)
