"""An agent in a process of its own, which is killed by SIGKILL at a named point of the journey."""

import os
import random
import signal
import time

from lampyris.site import Agent, Config, Site, Surroundings, client
from lampyris.transfer import limits


def journey(config: Config, fatal: str, times: int, chunk_bytes: int) -> None:
    """Do rounds until the point was met so many times; end by itself when there is nothing left to do."""
    limits.CHUNK_BYTES = chunk_bytes
    left = [times]

    def at(point: str) -> None:
        left[0] -= point == fatal
        if not left[0]:
            os.kill(os.getpid(), signal.SIGKILL)

    outside = Surroundings(time.time, time.monotonic, random.Random(7), at)
    with client(config.centre) as http:
        agent = Agent(config, Site.load(config.folder), http, outside)
        agent.spool.recover()
        until = time.monotonic() + 20.0
        while time.monotonic() < until:
            agent.take_in()
            agent.send()
            agent.fetch()
            agent.forward()
            if not agent.spool.entries() and agent.spool.records():
                return
            time.sleep(0.01)
