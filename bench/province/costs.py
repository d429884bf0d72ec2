"""One kind of request after the other to a centre at rest → processor milliseconds that each costs."""

import asyncio
import os
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from bench.province.processes import cost, family
from bench.province.sites import Site
from bench.running import Running
from lampyris.transfer import Chunk

AT_ONCE = 4


@dataclass(frozen=True, slots=True)
class Price:
    """Of one: processor milliseconds of the interface and of PostgreSQL, and how many went through in a second."""

    interface_ms: float
    database_ms: float
    per_s: float


async def prices(centre: Running, interface: int, site: Site, repeats: int, chunk_bytes: int) -> dict[str, Price]:
    """What requests cost, by kind; `scan` is open, two announcements, one chunk and the commit.

    The site has had a series home. Four are under way at a time, and no worker runs.
    """

    async def priced(action: Callable[[], Awaitable[object]]) -> Price:
        places = asyncio.Semaphore(AT_ONCE)

        async def one() -> None:
            async with places:
                await action()

        before = cost(family(interface)).cpu_s, cost(family(centre.database)).cpu_s, time.monotonic()
        await asyncio.gather(*(one() for _ in range(repeats)))
        after = cost(family(interface)).cpu_s, cost(family(centre.database)).cpu_s, time.monotonic()
        spent = [late - early for early, late in zip(before, after, strict=True)]
        return Price(1000 * spent[0] / repeats, 1000 * spent[1] / repeats, repeats / spent[2])

    series = site.home
    assert series is not None, "the site has had no series yet"
    held = site.manifest("batch", [b"held"])
    await site.open(held)

    def chunk() -> Awaitable[None]:
        piece = os.urandom(chunk_bytes)
        return site.put(held.scan, Chunk.of(piece).digest, piece)

    return {
        "token": await priced(site.renew),
        "scan": await priced(lambda: site.send("batch", [os.urandom(chunk_bytes)])),
        "chunk": await priced(chunk),
        "status": await priced(lambda: site.status(held.scan)),
        "returns": await priced(site.returns),
        "file": await priced(lambda: site.file(series.scan, series.files[0])),
        "acknowledge": await priced(lambda: site.acknowledge(series)),
    }
