"""Queues → scans reconstructed one after the other by this process, with a sign of life, until it is told to stop.

Told to stop, it ends the scan in hand and takes no other. Every worker also looks for scans whose worker died, and
sweeps away what has been kept long enough.
"""

import asyncio
import contextlib
import fcntl
import shutil
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, TypeAlias, TypeVar

import structlog
from procrastinate import App, JobContext

from lampyris.centre.archive import index
from lampyris.centre.archive.entry import Entry
from lampyris.centre.audit import anchors
from lampyris.centre.database import ABSENT, Connection, told_to_end
from lampyris.centre.jobs import early, queue, remakes, retention
from lampyris.centre.jobs.hand import Made, Watch, blamed
from lampyris.centre.jobs.idle import Idle
from lampyris.centre.jobs.queue import Work
from lampyris.centre.observe.traces import Traced
from lampyris.centre.refusals import Refusal
from lampyris.centre.service import Centre
from lampyris.centre.store import remade_prefix, series_prefix
from lampyris.model import InputError, LampyrisError, StorageError
from lampyris.transfer import Manifest, ReturnedFile, manifest_of

T = TypeVar("T")
Make: TypeAlias = Callable[[Work, Manifest, Path, Watch], Made]
"""The try, its manifest, an empty folder, who watches → files in the store, and the gate's verdict: `Hand.make`."""

SILENT_HEARTBEATS = 6
_TELL_S = 1.0
_SWEEP_S = 3600.0


class Table(Protocol):
    """Whose rows are tried: the modules `queue` and `remakes` have the same transitions under the same names."""

    TASK: str

    async def start(self, connection: Connection, number: int, job: int) -> Work | None: ...

    async def progress(self, connection: Connection, number: int, job: int, station: str, done: float) -> None: ...

    async def finish(
        self, connection: Connection, number: int, job: int, files: Sequence[ReturnedFile], verdict: str
    ) -> bool: ...

    async def end(self, connection: Connection, number: int, job: int, state: str, code: str, reason: str) -> bool: ...

    async def again(
        self, connection: Connection, jobs: App, work: tuple[int, int], error: LampyrisError, *, tries: int
    ) -> bool: ...

    async def recover(self, connection: Connection, jobs: App, *, silent_s: float, tries: int) -> list[int]: ...


_TABLES: tuple[Table, ...] = (queue, remakes)


async def work(
    centre: Centre,
    queues: Sequence[str],
    make: Make,
    *,
    idle: Idle | None = None,
    signals: bool = True,
    wait: bool = True,
) -> None:
    """Serve these queues until SIGTERM or SIGINT (with `signals`), or until they are empty (without `wait`).

    With `idle` the time without a scan is used for those that still arrive.
    """
    settings = centre.settings

    def task_of(table: Table) -> Callable[[JobContext, int], Awaitable[None]]:
        async def task(context: JobContext, number: int) -> None:
            assert context.job.id is not None
            with contextlib.nullcontext() if idle is None else idle.busy():
                await _try(centre, table, (number, context.job.id), make, scratch)

        return task

    for table in _TABLES:
        centre.jobs.task(name=table.TASK, pass_context=True)(task_of(table))
    log = structlog.get_logger()
    with _scratch(settings.folder / "scratch") as scratch:
        aside = contextlib.nullcontext() if idle is None else idle.beside(scratch / "early")
        async with _kept(centre), aside:
            while True:
                try:
                    log.info("worker ready", queues=list(queues))
                    await centre.jobs.run_worker_async(
                        queues=list(queues),
                        wait=wait,
                        concurrency=1,
                        install_signal_handlers=signals,
                        delete_jobs="always",
                        update_heartbeat_interval=settings.heartbeat_s,
                        stalled_worker_timeout=settings.heartbeat_s * SILENT_HEARTBEATS,
                    )
                    return
                except ABSENT as error:
                    if told_to_end():
                        raise asyncio.CancelledError from error
                    log.warning("the database is away, the worker waits for it", kind=type(error).__name__)
                    await asyncio.sleep(settings.heartbeat_s)


class _Progress:
    """Where the work is, told by the thread that does it and read by the loop that writes it down."""

    def __init__(self) -> None:
        self.at = ("", 0.0)
        self.seconds: dict[str, float] = {}
        self.moments_ns: list[tuple[str, int]] = []
        """When each station began, in nanoseconds of the epoch."""
        self._began = time.monotonic()

    def __call__(self, station: str, done: float) -> None:
        now = time.monotonic()
        if station != self.at[0]:
            self._began = now
            self.moments_ns.append((station, time.time_ns()))
        self.seconds[station] = now - self._began
        self.at = (station, done)


async def _try(centre: Centre, table: Table, which: tuple[int, int], make: Make, scratch: Path) -> None:
    """One try of one scan, or of one remake, from its start to a state that lasts."""
    number, job = which
    begun = await _surely(centre, lambda connection: table.start(connection, number, job))
    if begun is None:
        return
    log = structlog.get_logger().bind(scan=begun.scan, site=begun.site, attempt=begun.attempt, recipe=begun.recipe)
    log.info("scan started")
    progress, began_ns = _Progress(), time.time_ns()
    async with _told(centre, table, which, progress):
        made, error = await _made(centre, begun, make, scratch, progress)
    for station, seconds in progress.seconds.items():
        centre.metrics.station_seconds.labels(station).observe(seconds)
    if made is not None:
        kept = await _surely(centre, lambda connection: _finished(centre, connection, table, which, begun, made))
        state = "done" if kept else "lost"
        with contextlib.suppress(*ABSENT, StorageError):  # the sweep comes by what is left
            async with centre.pool.connection() as connection:
                await early.clear(connection, centre.store, begun.number)
    else:
        assert error is not None
        state = await _surely(centre, lambda connection: _failed(centre, connection, table, which, error))
    centre.metrics.ended.labels(state).inc()
    _trace(centre, begun, progress, began_ns, {"lampyris.state": state, "lampyris.code": error.code if error else None})
    took = {station: round(seconds, 2) for station, seconds in progress.seconds.items()}
    log.info("scan ended", state=state, code=error and error.code, reason=error and str(error), seconds=took)


def _trace(centre: Centre, begun: Work, progress: _Progress, began_ns: int, told: dict[str, str | None]) -> None:
    """The spans of a try: itself, and below it each station until the next began."""
    of, ended_ns = Traced(begun.site, begun.scan), time.time_ns()
    one = centre.traces.span(of, "try", (began_ns, ended_ns), told={"lampyris.attempt": begun.attempt, **told})
    ends = [moment for _, moment in progress.moments_ns[1:]] + [ended_ns]
    for (station, moment), end in zip(progress.moments_ns, ends, strict=True):
        centre.traces.span(of, station, (moment, end), under=one)


@dataclass(frozen=True, slots=True, eq=False)
class _Result:
    """A series: its files, what the archive keeps of the DICOM objects among them, and the gate's verdict."""

    files: list[ReturnedFile]
    entries: list[Entry]
    verdict: str


async def _made(
    centre: Centre, begun: Work, make: Make, scratch: Path, progress: _Progress
) -> tuple[_Result | None, LampyrisError | None]:
    """The series, or the error that says who is at fault."""
    try:
        with tempfile.TemporaryDirectory(dir=scratch) as folder:
            manifest = manifest_of(begun.signed)
            files, verdict = await asyncio.to_thread(make, begun, manifest, Path(folder), progress)
        prefix = (series_prefix if begun.recipe is None else remade_prefix)(begun.site, begun.scan)
        entries = await asyncio.to_thread(index.entries_of_results, centre.store, prefix, files)
        return _Result(files, entries, verdict), None
    except Exception as error:  # whatever it is, the scan ends with a reason and the worker lives on
        return None, blamed(error, progress.at[0])


async def _finished(
    centre: Centre, connection: Connection, table: Table, which: tuple[int, int], begun: Work, made: _Result
) -> bool:
    """What was made is there and in the index, and what it is to be compared with is asked for, in one transaction."""
    companion = centre.settings.companion
    async with connection.transaction():
        kept = await table.finish(connection, *which, made.files, made.verdict)
        if kept:
            await index.register(connection, begun.site, made.entries, scan=begun.number, replace=True)
        if kept and table is queue and companion is not None:
            recipe = next((one.recipe for one in made.entries if one.role == "image"), None)
            wanted = remakes.companion_of(companion, recipe)
            with contextlib.suppress(Refusal):  # the series was made with that very recipe, or there is none such
                await remakes.ask(connection, centre.jobs, which[0], wanted, remakes.POLICY)
    return kept


async def _failed(
    centre: Centre, connection: Connection, table: Table, which: tuple[int, int], error: LampyrisError
) -> str:
    number, job = which
    if error.retry:
        tries = centre.settings.tries
        return "again" if await table.again(connection, centre.jobs, which, error, tries=tries) else "failed"
    state = "refused" if isinstance(error, InputError) else "failed"
    await table.end(connection, number, job, state, error.code, str(error))
    return state


async def _surely(centre: Centre, action: Callable[[Connection], Awaitable[T]]) -> T:
    """Do it as soon as the database is there: hours of work are not thrown away because it was restarted."""
    while True:
        try:
            async with centre.pool.connection() as connection:
                return await action(connection)
        except ABSENT as error:
            if told_to_end():
                raise asyncio.CancelledError from error
            await asyncio.sleep(centre.settings.heartbeat_s)


@asynccontextmanager
async def _told(centre: Centre, table: Table, which: tuple[int, int], progress: _Progress) -> AsyncIterator[None]:
    """Write down where the work is, once a second if it moved."""

    async def tell() -> None:
        last = ("", 0.0)
        while not told_to_end():
            await asyncio.sleep(_TELL_S)
            if progress.at != last:
                last = progress.at
                with contextlib.suppress(*ABSENT):
                    async with centre.pool.connection() as connection:
                        await table.progress(connection, *which, *last)

    async with _beside(tell()):
        yield


@asynccontextmanager
async def _kept(centre: Centre) -> AsyncIterator[None]:
    """Beside the work: recover scans of dead workers; every hour sweep, and anchor the audit."""
    settings = centre.settings
    silent_s = settings.heartbeat_s * SILENT_HEARTBEATS

    async def keep() -> None:
        log, swept = structlog.get_logger(), float("-inf")
        while not told_to_end():
            with contextlib.suppress(*ABSENT, StorageError):
                async with centre.pool.connection() as connection:
                    for table in _TABLES:
                        again = await table.recover(connection, centre.jobs, silent_s=silent_s, tries=settings.tries)
                        for number in again:
                            log.warning("a worker died, its work is queued again", task=table.TASK, number=number)
                    if time.monotonic() - swept > _SWEEP_S:
                        swept = time.monotonic()
                        log.info("swept", **await retention.sweep(connection, centre.store))
                        await anchors.drop(connection, settings.folder)
            await asyncio.sleep(settings.heartbeat_s)

    async with _beside(keep()):
        yield


@asynccontextmanager
async def _beside(action: Awaitable[None]) -> AsyncIterator[None]:
    running = asyncio.ensure_future(action)
    try:
        yield
    finally:
        running.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await running


@contextmanager
def _scratch(above: Path) -> Iterator[Path]:
    """A folder of this process; those whose process died are deleted first."""
    above.mkdir(parents=True, exist_ok=True)
    with (above / ".lock").open("w") as all_of_them:
        fcntl.flock(all_of_them, fcntl.LOCK_EX)
        for old in above.iterdir():
            if old.is_dir() and _abandoned(old):
                shutil.rmtree(old, ignore_errors=True)
        mine = Path(tempfile.mkdtemp(dir=above))
        held = (mine / ".lock").open("w")
        fcntl.flock(held, fcntl.LOCK_EX)
    try:
        yield mine
    finally:
        held.close()
        shutil.rmtree(mine, ignore_errors=True)


def _abandoned(folder: Path) -> bool:
    """Whether no living process holds the folder's lock."""
    try:
        with (folder / ".lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        return isinstance(error, FileNotFoundError)
    return True
