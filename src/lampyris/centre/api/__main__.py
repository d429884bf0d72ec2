"""`python -m lampyris.centre.api` → the server of a centre whose settings are in the environment.

A program of its own: server processes import what they serve and no projector.
"""

import argparse
import asyncio
import contextlib
import getpass
import os
import sys
from pathlib import Path

import psycopg
from granian import Granian
from granian.constants import Interfaces, SSLProtocols
from granian.http import HTTP1Settings
from psycopg.rows import dict_row

from lampyris import __version__
from lampyris.centre import database
from lampyris.centre.audit.chain import Entry, Kind, note
from lampyris.centre.observe import logs
from lampyris.centre.settings import VARIABLE, Settings

_STOP_S = 30
_READ_BYTES = 2 << 20
"""Of a body at a time: each piece is handed from thread to thread, which costs more than what is in it."""


def main() -> int:
    """Serve until SIGTERM or SIGINT; what is being received then is received to its end. Gives the exit code."""
    parser = argparse.ArgumentParser(prog="lampyris serve")
    parser.add_argument("--host", required=True)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--processes", type=int, required=True)
    parser.add_argument("--tls-cert", type=Path)
    parser.add_argument("--tls-key", type=Path)
    chosen = parser.parse_args()
    return logs.ended(lambda: serve(Settings.from_json(os.environ[VARIABLE]), chosen))


def serve(settings: Settings, chosen: argparse.Namespace) -> None:
    """The server processes, and the one above them that starts them again. Raises MachineError before any begins."""
    # Asked for here, so that a database of our own outlives a server process that dies.
    dsn = database.dsn_of(settings)
    database.migrate(dsn)
    asyncio.run(_noted(dsn, "start"))
    Granian(
        "lampyris.centre.api:application",
        factory=True,
        interface=Interfaces.ASGI,
        address=chosen.host,
        port=chosen.port,
        workers=chosen.processes,
        ssl_cert=chosen.tls_cert,
        ssl_key=chosen.tls_key,
        ssl_protocol_min=SSLProtocols.tls12,
        respawn_failed_workers=True,
        workers_kill_timeout=_STOP_S,
        http1_settings=HTTP1Settings(max_buffer_size=_READ_BYTES),
        log_enabled=False,
    ).serve()
    with contextlib.suppress(psycopg.OperationalError):  # the database may have been told to stop, too
        asyncio.run(_noted(dsn, "stop"))


async def _noted(dsn: str, what: str) -> None:
    """Write into the audit that the server starts or stops."""
    who, detail = f"operator@{getpass.getuser()}", {"what": what, "version": __version__}
    async with await psycopg.AsyncConnection.connect(dsn, autocommit=True, row_factory=dict_row) as connection:
        await note(connection, Entry(Kind.APPLICATION, who, object="lampyris-api", detail=detail))


if __name__ == "__main__":
    sys.exit(main())
