"""Settings → a running part of the centre: its database, objects and job queue, opened and closed together."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

import psycopg
import structlog
from procrastinate import App, PsycopgConnector

from lampyris.centre.access import Tokens
from lampyris.centre.database import DatabaseError, Pool, dsn_of, migrate, pool_of
from lampyris.centre.observe.metrics import Metrics
from lampyris.centre.observe.traces import Traces, traces_of
from lampyris.centre.recipes import library
from lampyris.centre.settings import Settings
from lampyris.centre.store import Store

_WATCH_S = 1.0


@dataclass(frozen=True, slots=True, eq=False)
class Centre:
    """What every process of a centre holds."""

    settings: Settings
    dsn: str
    pool: Pool
    store: Store
    jobs: App
    tokens: Tokens
    metrics: Metrics
    traces: Traces


@asynccontextmanager
async def opened(settings: Settings, *, connections: int, service: str | None = None) -> AsyncIterator[Centre]:
    """Start or find the database, bring its schema up to date, open everything; all is closed at the end.

    A PostgreSQL of our own that dies is started again. `service` is the name under which this process sends traces, if
    the settings say where to. Raises MachineError.
    """
    traces = Traces() if service is None else traces_of(settings.traces, service)
    dsn = await asyncio.to_thread(dsn_of, settings)
    await asyncio.to_thread(migrate, dsn)
    pool = pool_of(dsn, size=connections)
    jobs = App(connector=PsycopgConnector())
    centre = Centre(settings, dsn, pool, Store(settings), jobs, Tokens(settings.audience), Metrics(), traces)
    async with pool, jobs.open_async(pool), _revived(settings):
        async with pool.connection() as connection:
            await library.offer(connection)
        try:
            yield centre
        finally:
            await asyncio.to_thread(traces.close)


@asynccontextmanager
async def _revived(settings: Settings) -> AsyncIterator[None]:
    """While this lasts, a database of our own runs: it is looked after every second."""
    if settings.dsn is not None:
        yield
        return
    watch = asyncio.create_task(_revive(settings))
    try:
        yield
    finally:
        watch.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await watch


async def _revive(settings: Settings) -> None:
    log = structlog.get_logger()
    while True:
        await asyncio.sleep(_WATCH_S)
        try:
            await asyncio.to_thread(dsn_of, settings)
        except DatabaseError as error:
            log.error("database down", reason=str(error))


async def answers(centre: Centre) -> bool:
    """Whether the database answers within two seconds."""
    try:
        async with asyncio.timeout(2.0), centre.pool.connection() as connection:
            await connection.execute("SELECT 1")
    except (TimeoutError, psycopg.Error):
        return False
    return True
