"""Notifications of the database → every stream that waits for one of its sites is woken, in this process."""

import asyncio
import contextlib
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import psycopg

from lampyris.centre.database import told_to_end
from lampyris.centre.jobs import queue
from lampyris.centre.refusals import wait

STREAMS = 4
"""Streams that one site, or one person, may have open at a server process."""


class Bell:
    """Wakes every stream of a site when one of its scans changed; heard from the database by one connection."""

    def __init__(self, dsn: str) -> None:
        self._dsn = dsn
        self._waiting: dict[str, set[asyncio.Event]] = defaultdict(set)
        self._streams: Counter[str] = Counter()
        self.over = False
        """The server is being stopped: every stream ends, and its reader asks another server, or this one later."""

    async def listen(self) -> None:
        """Pass notifications on until cancelled; a lost connection is made again."""
        while not told_to_end():
            with contextlib.suppress(psycopg.OperationalError):
                connection = await psycopg.AsyncConnection.connect(self._dsn, autocommit=True)
                async with connection:
                    await connection.execute(f"LISTEN {queue.CHANNEL}")
                    async for heard in connection.notifies():
                        self.ring(heard.payload)
            await asyncio.sleep(1.0)

    def ring(self, site: str) -> None:
        for event in self._waiting.get(site, ()):
            event.set()

    def end(self) -> None:
        """Let every stream end."""
        self.over = True
        for site in self._waiting:
            self.ring(site)

    @contextmanager
    def heard(self, who: str, sites: Iterable[str]) -> Iterator[asyncio.Event]:
        """An event that is set whenever it rings for one of these; Refusal 429 when `who` has enough streams."""
        if self._streams[who] >= STREAMS:
            raise wait(429, 10, f"{STREAMS} streams of this reader are open")
        event, heard = asyncio.Event(), tuple(sites)
        self._streams[who] += 1
        for site in heard:
            self._waiting[site].add(event)
        try:
            yield event
        finally:
            for site in heard:
                self._waiting[site].discard(event)
                if not self._waiting[site]:
                    del self._waiting[site]
            self._streams[who] -= 1
            if not self._streams[who]:
                del self._streams[who]
