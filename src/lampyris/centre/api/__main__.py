"""`python -m lampyris.centre.api` → the server of a centre whose settings are in the environment.

A program of its own: server processes import what they serve and no projector.
"""

import argparse
import os
from pathlib import Path

from granian import Granian
from granian.constants import Interfaces, SSLProtocols

from lampyris.centre import database
from lampyris.centre.settings import VARIABLE, Settings

_STOP_S = 30


def main() -> None:
    """Serve until SIGTERM or SIGINT; what is being received then is received to its end."""
    parser = argparse.ArgumentParser(prog="lampyris serve")
    parser.add_argument("--host", required=True)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--processes", type=int, required=True)
    parser.add_argument("--tls-cert", type=Path)
    parser.add_argument("--tls-key", type=Path)
    chosen = parser.parse_args()
    # Asked for here, so that a database of our own outlives a server process that dies.
    database.migrate(database.dsn_of(Settings.from_json(os.environ[VARIABLE])))
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
        log_enabled=False,
    ).serve()


if __name__ == "__main__":
    main()
