"""A folder → a centre that runs there: PostgreSQL, one process of the interface, workers; and sites that are let in."""

import asyncio
import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import psycopg

from lampyris.centre import Settings, access
from lampyris.centre.database import dsn_of, migrate, stop
from lampyris.centre.settings import VARIABLE

CONNECTIONS = 1000
"""Of the database; PostgreSQL's own hundred are those of a dozen workers."""
_STARTED_S = 60.0


@dataclass(slots=True)
class Running:
    """A centre that runs. `database` is the number of PostgreSQL's first process."""

    settings: Settings
    database: int
    _processes: list[subprocess.Popen[bytes]]

    @property
    def dsn(self) -> str:
        assert self.settings.dsn is not None
        return self.settings.dsn

    def start(self, command: Sequence[str], log: str) -> int:
        """A program of the centre, with its settings in the environment; its number. Its words go into a file."""
        environment = {**os.environ, VARIABLE: self.settings.to_json()}
        with (self.settings.folder / log).open("ab") as words:
            process = subprocess.Popen(
                list(command), env=environment, stdout=words, stderr=words, start_new_session=True
            )
        self._processes.append(process)
        return process.pid

    def interface(self, host: str, port: int, *, before: Sequence[str] = (), tls: Sequence[str] = ()) -> int:
        """The server; its number. `before` goes before the command, `tls` are options of `lampyris serve`."""
        command = [*before, sys.executable, "-m", "lampyris.centre.api", "--host", host, "--port", str(port), *tls]
        return self.start([*command, "--processes", "1"], "api.log")

    def codes(self, names: Sequence[str]) -> list[str]:
        """One-time codes of these sites, as the operator makes them."""

        async def invite() -> list[str]:
            async with await psycopg.AsyncConnection.connect(self.dsn, autocommit=True) as connection:
                return [await access.invite(connection, name) for name in names]

        return asyncio.run(invite())


@contextmanager
def running(folder: Path, audience: str) -> Iterator[Running]:
    """A centre whose database runs and is migrated; what was started in it ends with it."""
    inner = Settings(folder)
    dsn = dsn_of(inner)
    try:
        with psycopg.connect(dsn, autocommit=True) as connection:
            connection.execute(f"ALTER SYSTEM SET max_connections = {CONNECTIONS}")
        stop(inner)
        dsn = dsn_of(inner)
        migrate(dsn)
        settings = replace(inner, dsn=dsn, audience=audience)
        database = int((folder / "database" / "postmaster.pid").read_text().split()[0])
        centre = Running(settings, database, [])
        try:
            yield centre
        finally:
            _end(centre._processes)
    finally:
        stop(inner)


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        return int(listening.getsockname()[1])


def await_answer(url: str) -> None:
    """Until a server answers with 200."""
    deadline = time.monotonic() + _STARTED_S
    while True:
        with (
            contextlib.suppress(urllib.error.URLError, ConnectionError, TimeoutError),
            urllib.request.urlopen(url, timeout=5.0) as answer,
        ):
            if answer.status == 200:
                return
        if time.monotonic() > deadline:
            raise TimeoutError(f"{url} does not answer")
        time.sleep(0.1)


def _end(processes: Sequence[subprocess.Popen[bytes]]) -> None:
    for process in processes:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
    for process in processes:
        process.wait()
