"""`python -m lampyris.centre.jobs` → a worker of the centre whose settings are in the environment.

A program of its own: the worker waits and gives signs of life, the process beside it computes.
"""

import argparse
import asyncio
import os

from prometheus_client import start_http_server

from lampyris.centre import Settings, logs, opened
from lampyris.centre.jobs.hand import Hand
from lampyris.centre.jobs.queue import check_queues
from lampyris.centre.jobs.worker import work
from lampyris.centre.settings import VARIABLE

_CONNECTIONS = 4


async def run(settings: Settings, queues: tuple[str, ...], metrics_port: int) -> None:
    """Work until SIGTERM or SIGINT; the scan in hand is ended first."""
    async with opened(settings, connections=_CONNECTIONS) as centre:
        if metrics_port:
            start_http_server(metrics_port, "127.0.0.1", centre.metrics.registry)
        hand = Hand(settings)
        try:
            await work(centre, queues, hand.make)
        finally:
            hand.close()


def main() -> None:
    """The arguments that `lampyris work` passes on."""
    parser = argparse.ArgumentParser(prog="lampyris work")
    parser.add_argument("--queues", required=True)
    parser.add_argument("--metrics-port", type=int, required=True)
    chosen = parser.parse_args()
    logs.to_stderr()
    settings = Settings.from_json(os.environ[VARIABLE])
    asyncio.run(run(settings, check_queues(chosen.queues.split(",")), chosen.metrics_port))


if __name__ == "__main__":
    main()
