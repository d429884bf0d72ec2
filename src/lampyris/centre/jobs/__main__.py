"""`python -m lampyris.centre.jobs` → a worker of the centre whose settings are in the environment.

A program of its own: the worker waits and gives signs of life, the process beside it computes.
"""

import argparse
import asyncio
import os
import sys
from contextlib import ExitStack, nullcontext
from pathlib import Path

from prometheus_client import start_http_server

from lampyris.centre import Centre, Settings, opened
from lampyris.centre.jobs import card
from lampyris.centre.jobs.card import Card
from lampyris.centre.jobs.hand import Hand, Made, Watch, engine_of
from lampyris.centre.jobs.idle import EARLY, EarlyHand, Idle
from lampyris.centre.jobs.queue import Work, check_queues
from lampyris.centre.jobs.worker import Make, work
from lampyris.centre.observe import logs
from lampyris.centre.settings import VARIABLE
from lampyris.transfer import Manifest

_CONNECTIONS = 4


async def run(settings: Settings, queues: tuple[str, ...], metrics_port: int, gpu: int | None) -> None:
    """Work until SIGTERM or SIGINT; the scan in hand is ended first. Raises MachineError before any work."""
    with ExitStack() as held:
        found = None if gpu is None else card.find(gpu)
        if found is not None:
            held.enter_context(card.held(found, settings.folder / "slots"))
        hand = Hand(settings, found)
        held.callback(hand.close)
        early = EarlyHand(settings, engine_of(found))
        held.callback(early.close)
        if found is not None:
            hand.start()
        async with opened(settings, connections=_CONNECTIONS, service="lampyris-worker") as centre:
            if metrics_port:
                start_http_server(metrics_port, "127.0.0.1", centre.metrics.registry)
            hand.early = centre.metrics.early_used
            idle = Idle(centre, early) if EARLY in queues and settings.early_bytes else None
            await work(centre, queues, counted(hand.make, centre, found), idle=idle)


def counted(make: Make, centre: Centre, held: Card | None) -> Make:
    """The same, and the metrics tell what computed a series, and when the card is busy."""
    if held is not None:
        centre.metrics.hold(held.number)

    def made(work: Work, manifest: Manifest, folder: Path, watch: Watch) -> Made:
        with nullcontext() if held is None else centre.metrics.computing(held.number):
            found = make(work, manifest, folder, watch)
        centre.metrics.made.labels(engine_of(held)).inc()
        return found

    return made


def main() -> int:
    """The arguments that `lampyris work` passes on; the exit code."""
    parser = argparse.ArgumentParser(prog="lampyris work")
    parser.add_argument("--queues", required=True)
    parser.add_argument("--metrics-port", type=int, required=True)
    parser.add_argument("--gpu", type=int)
    chosen = parser.parse_args()
    os.environ.setdefault("CUDA_DEVICE_ORDER", "PCI_BUS_ID")  # cards are numbered as nvidia-smi numbers them
    settings = Settings.from_json(os.environ[VARIABLE])
    queues = check_queues(chosen.queues.split(","))
    return logs.ended(lambda: asyncio.run(run(settings, queues, chosen.metrics_port, chosen.gpu)))


if __name__ == "__main__":
    sys.exit(main())
