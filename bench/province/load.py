"""A centre that runs, and how much is asked of it → what sites, database and processes saw, phase by phase."""

import asyncio
import os
import random
import signal
import sys
import time
from collections import Counter, defaultdict
from collections.abc import Coroutine
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import psycopg

from bench.province.processes import Cost, cost, family, machine_cpu_s
from bench.province.sites import Books, Site, Told
from bench.running import Running
from lampyris.transfer import Priority

SAMPLE_S = 60.0
_ENROLLED_AT_ONCE = 16
_HOME_S = 120.0
_WAITS = """
    SELECT scan.priority,
           extract(epoch FROM min(event.at) FILTER (WHERE event.state = 'running') - committed)::float8,
           extract(epoch FROM finished - committed)::float8
    FROM scan JOIN event ON event.scan = scan.number
    WHERE opened BETWEEN %s AND %s AND committed IS NOT NULL GROUP BY scan.number
"""


@dataclass(frozen=True, slots=True)
class Load:
    """How many sites send how many scans of which size, and who works on them for how long."""

    sites: int = 1000
    rate: float = 6.0
    """Scans a second, at random moments (Poisson), from sites at random."""
    stat_share: float = 0.05
    chunks: int = 4
    chunk_bytes: int = 16 << 10
    files: int = 4
    file_bytes: int = 16 << 10
    workers: int = 40
    reserved: int = 4
    """Workers that serve STAT alone."""
    job_s: float = 5.0


@dataclass(frozen=True, slots=True)
class Sample:
    """Moment, processor seconds and memory of each kind of process, and (busy, all) seconds of the machine."""

    at: float
    costs: dict[str, Cost]
    machine: tuple[float, float]


@dataclass(frozen=True, slots=True)
class Phase:
    """What was seen between two moments: of scans that became ready then, and of requests that were made then.

    `waits` and `made` are seconds from the commit to the start of the work, and to the series, by priority, as the
    database has them; `told_to_wait` counts answers that asked for patience, `broken` connections that ended early.
    """

    name: str
    load: Load
    seconds: float
    scans: list[Told]
    requests: dict[str, list[float]]
    samples: list[Sample]
    waits: dict[str, list[float]]
    made: dict[str, list[float]]
    told_to_wait: Counter[str]
    broken: int


class Province:
    """All sites, the workers, and who watches them."""

    def __init__(self, centre: Running, port: int, interface: int, load: Load, rng: random.Random) -> None:
        self.centre, self.load, self.books = centre, load, Books()
        self._rng, self._interface = rng, interface
        self.sites = [Site(port, centre.settings.audience, self.books) for _ in range(load.sites)]
        self._shared = [self._worker("stat,routine,batch", number) for number in range(load.workers)]
        self._reserved = [self._worker("stat", load.workers + number) for number in range(load.reserved)]
        self._tasks: set[asyncio.Task[None]] = set()
        self._failed: list[BaseException] = []

    async def enrol(self) -> float:
        """Let every site in, sixteen at a time; how long that took, the making of codes apart."""
        names = [f"site-{number:04}" for number in range(self.load.sites)]
        codes = await asyncio.to_thread(self.centre.codes, names)
        places = asyncio.Semaphore(_ENROLLED_AT_ONCE)

        async def one(site: Site, code: str) -> None:
            async with places:
                await site.enrol(code)

        began = time.monotonic()
        await asyncio.gather(*(one(site, code) for site, code in zip(self.sites, codes, strict=True)))
        took = time.monotonic() - began
        for site in self.sites:
            self._begin(site.look(self._rng))
        return took

    def dismiss(self, left: int) -> None:
        """Let the reserved workers and all but so many of the others end what they have in hand, and go."""
        going, self._shared, self._reserved = self._reserved + self._shared[left:], self._shared[:left], []
        for pid in going:
            os.kill(pid, signal.SIGTERM)

    async def phase(
        self, name: str, seconds: float, *, stat_share: float, awaited: tuple[Priority, ...] = ("stat", "routine")
    ) -> Phase:
        """Send scans for so long, and wait until those of the awaited priorities are home."""
        books, first = self.books, len(self.books.scans)
        books.seconds, books.waits, books.broken = defaultdict(list), Counter(), 0
        opened, began = datetime.now(UTC), time.monotonic()
        samples = [self._sample()]
        watching = asyncio.ensure_future(self._watch(samples))
        due = began
        while (due := due + self._rng.expovariate(self.load.rate)) < began + seconds:
            await asyncio.sleep(max(0.0, due - time.monotonic()))
            priority: Priority = "stat" if self._rng.random() < stat_share else "routine"
            pieces = [os.urandom(self.load.chunk_bytes) for _ in range(self.load.chunks)]
            self._begin(self._rng.choice(self.sites).send(priority, pieces))
            self.check()
        await asyncio.sleep(max(0.0, began + seconds - time.monotonic()))
        watching.cancel()
        samples.append(self._sample())
        took, requests = time.monotonic() - began, dict(books.seconds)
        told, broken = books.waits, books.broken
        scans = books.scans[first:]
        await self._home([one for one in scans if one.priority in awaited])
        waits, made = self._in_database(opened, datetime.now(UTC))
        return Phase(name, self.load, took, scans, requests, samples, waits, made, told, broken)

    def check(self) -> None:
        """Raises what went wrong at a site."""
        if self._failed:
            raise self._failed[0]

    async def end(self) -> None:
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for site in self.sites:
            site.close()

    async def _home(self, scans: list[Told]) -> None:
        """Until all these scans are home, or nobody waits any longer."""
        deadline = time.monotonic() + _HOME_S
        while any(not one.home for one in scans) and time.monotonic() < deadline:
            await asyncio.sleep(1.0)
            self.check()

    def _in_database(self, first: datetime, last: datetime) -> tuple[dict[str, list[float]], dict[str, list[float]]]:
        waits, made = defaultdict(list), defaultdict(list)
        with psycopg.connect(self.centre.dsn) as connection:
            for priority, wait, whole in connection.execute(_WAITS, (first, last)):
                waits[priority] += [] if wait is None else [wait]
                made[priority] += [] if whole is None else [whole]
        return dict(waits), dict(made)

    async def _watch(self, samples: list[Sample]) -> None:
        while True:
            await asyncio.sleep(SAMPLE_S)
            samples.append(await asyncio.to_thread(self._sample))

    def _sample(self) -> Sample:
        workers = [*self._shared, *self._reserved]
        kinds = {
            "interface": family(self._interface),
            "PostgreSQL": family(self.centre.database),
            "workers": workers,
            "one worker": workers[:1],
            "sites (simulated)": [os.getpid()],
        }
        return Sample(time.monotonic(), {name: cost(list(pids)) for name, pids in kinds.items()}, machine_cpu_s())

    def _worker(self, queues: str, number: int) -> int:
        load = self.load
        command = [sys.executable, "-m", "bench.province.stub", "--queues", queues, "--seconds", str(load.job_s)]
        return self.centre.start(
            [*command, "--files", str(load.files), "--bytes", str(load.file_bytes)], f"worker-{number}.log"
        )

    def _begin(self, action: Coroutine[Any, Any, None]) -> None:
        task = asyncio.ensure_future(action)
        self._tasks.add(task)
        task.add_done_callback(self._ended)

    def _ended(self, task: "asyncio.Task[None]") -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            self._failed.append(error)
