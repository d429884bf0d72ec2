"""`python -m lampyris.centre.dimse` → the DICOM node of the centre whose settings are in the environment.

A program of its own: it answers other nodes, and sends them what people ask it to.
"""

import argparse
import asyncio
import os
import signal
import sys

from lampyris.centre.dimse.scp.server import unwarned
from lampyris.centre.dimse.service import serve
from lampyris.centre.observe import logs
from lampyris.centre.service import opened
from lampyris.centre.settings import VARIABLE, Settings

_CONNECTIONS = 16


async def run(settings: Settings, address: tuple[str, int], *, tls: bool) -> None:
    """Answer and send until SIGTERM or SIGINT; what is in hand is ended first. Raises MachineError before that."""
    told = asyncio.Event()
    for each in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(each, told.set)
    with unwarned():
        async with opened(settings, connections=_CONNECTIONS) as centre, serve(centre, address, tls=tls):
            await told.wait()


def main() -> int:
    """The arguments that `lampyris node` passes on; the exit code."""
    parser = argparse.ArgumentParser(prog="lampyris node")
    parser.add_argument("--host", required=True)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--tls", action="store_true")
    chosen = parser.parse_args()
    settings = Settings.from_json(os.environ[VARIABLE])
    return logs.ended(lambda: asyncio.run(run(settings, (chosen.host, chosen.port), tls=chosen.tls)))


if __name__ == "__main__":
    sys.exit(main())
