"""A worker without a scan → it goes on with one that still arrives, and drops that as soon as there is a scan.

The work is done by a process of its own, at the lowest priority of the machine, which is killed when it is in the way:
what it has put into the store stays, what it was at is lost and costs nothing.
"""

import asyncio
import contextlib
import dataclasses
import os
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import TypeAlias

import structlog

from lampyris.centre.database import ABSENT, told_to_end
from lampyris.centre.jobs import early
from lampyris.centre.jobs.early import Begun
from lampyris.centre.jobs.hand import Hand, blamed, obey
from lampyris.centre.recipes.choice import Library
from lampyris.centre.service import Centre
from lampyris.centre.settings import Settings
from lampyris.centre.store import Store
from lampyris.transfer import Chunk, Manifest

EARLY = "batch"
"""Workers that serve this queue use their idle time; those that are kept for other queues stay free."""
_HOLD_HEARTBEATS = 10
_NICE = 19
_KILLED_S = 5.0
Kept: TypeAlias = Callable[[int], None]
"""Called with the bytes that were kept so far."""


@dataclass(frozen=True, slots=True)
class Early:
    """What the process is told: skeleton (JSON), chunks that are here, a folder of its own, its room, the recipes,
    and the engine that will compute the images."""

    skeleton: bytes
    chunks: tuple[Chunk, ...]
    folder: Path
    room: int
    library: Library
    engine: str


class EarlyHand(Hand):
    """The process for early work. `stop` may be called from any thread, at any time, and waits for nobody.

    It sees no card: beside one that `engine` will compute on, the processor corrects what has arrived.
    """

    def __init__(self, settings: Settings, engine: str = "cpu") -> None:
        super().__init__(settings)
        self._engine = engine
        self._stopped, self._stops = False, 0

    def go_on(self, begun: Begun, folder: Path, kept: Kept) -> str | None:
        """Work on a scan that arrives as long as there is something to do: its story; None when it was stopped.

        `folder` is for this process alone, and stays the same.
        """
        stops, story = self._stops, "its process died: out of memory, or killed?"
        try:
            orders = None if self._stopped else self._started()
            if orders is not None and not self._stopped:
                orders.send(self._order(begun, folder))
                while (told := orders.recv())[0] == "kept":
                    kept(told[1])
                story = str(told[1])
        except (EOFError, OSError):
            pass
        if self._stopped:
            self._kill()  # it may have begun while it was stopped
        return None if self._stopped or self._stops != stops else story

    def _order(self, begun: Begun, folder: Path) -> Early:
        return Early(begun.skeleton.to_json(), begun.chunks, folder, begun.room, begun.library, self._engine)

    def stop(self) -> None:
        """Kill the process, and start none until `allow`."""
        self._stopped, self._stops = True, self._stops + 1
        self._kill()

    def allow(self) -> None:
        self._stopped = False

    def _kill(self) -> None:
        process = self._process
        if process is not None and self.pid is not None:
            process.kill()
            process.join(_KILLED_S)

    def _target(self) -> Callable[..., None]:
        return _carry_out


class Idle:
    """Early work beside a worker that serves queues: only while `busy` holds nobody."""

    def __init__(self, centre: Centre, hand: EarlyHand) -> None:
        self._centre, self._hand = centre, hand
        self._free = asyncio.Event()
        self._free.set()

    @contextmanager
    def busy(self) -> Iterator[None]:
        """There is a scan to reconstruct: early work ends now, and goes on afterwards."""
        self._free.clear()
        self._hand.stop()
        try:
            yield
        finally:
            self._hand.allow()
            self._free.set()

    @asynccontextmanager
    async def beside(self, folder: Path) -> AsyncIterator[None]:
        """While this lasts the worker's idle time is used; `folder` is the worker's, and deleted with it."""
        running = asyncio.create_task(self._run(folder))
        try:
            yield
        finally:
            running.cancel()
            self._hand.stop()
            with contextlib.suppress(asyncio.CancelledError):
                await running

    async def _run(self, folder: Path) -> None:
        heartbeat_s = self._centre.settings.heartbeat_s
        while not told_to_end():
            await self._free.wait()
            begun = None
            try:
                begun = await self._claimed()
                if begun is not None:
                    await self._one(begun, folder)
            except ABSENT:
                begun = None
            except Exception as error:  # nobody waits for early work: it is logged, and the worker lives on
                structlog.get_logger().warning("early work failed", code=blamed(error, "early").code)
                begun = None
            if begun is None:
                await asyncio.sleep(heartbeat_s)

    async def _claimed(self) -> Begun | None:
        settings = self._centre.settings
        free = self._centre.store.free_bytes()
        if free is not None and free < 2 * settings.free_bytes:
            return None
        async with self._centre.pool.connection() as connection:
            hold_s = settings.heartbeat_s * _HOLD_HEARTBEATS
            return await early.claim(connection, hold_s=hold_s, site_bytes=settings.early_bytes)

    async def _one(self, begun: Begun, folder: Path) -> None:
        """Go on with one scan until nothing more can be made of what is here, or somebody is in the way."""
        bytes_kept = [0]
        work = asyncio.ensure_future(asyncio.to_thread(self._hand.go_on, begun, folder, bytes_kept.append))
        try:
            while not (await asyncio.wait((work,), timeout=self._centre.settings.heartbeat_s))[0]:
                if not await self._still(begun, bytes_kept[-1]):
                    break
        finally:
            if not work.done():
                self._hand.stop()
            story = await work
            if self._free.is_set():
                self._hand.allow()
        async with self._centre.pool.connection() as connection:
            await early.rest(connection, begun, bytes_kept[-1], story)
        self._centre.metrics.early_made.inc(len(bytes_kept) - 1)
        structlog.get_logger().info(
            "early work", scan=begun.skeleton.scan, site=begun.skeleton.site, chunks=len(begun.chunks),
            made=len(bytes_kept) - 1, bytes=bytes_kept[-1], story=story or "another scan came first",
        )  # fmt: skip

    async def _still(self, begun: Begun, kept: int) -> bool:
        async with self._centre.pool.connection() as connection:
            hold_s = self._centre.settings.heartbeat_s * _HOLD_HEARTBEATS
            return await early.hold(connection, begun, kept, hold_s=hold_s)


def _carry_out(orders: Connection, leash: Connection, settings_json: str, card: str) -> None:
    """The process: order after order, at the lowest priority, until the worker is gone."""
    obey(leash, card)
    os.nice(_NICE)
    from lampyris.centre.jobs.arriving import Arriving

    settings = Settings.from_json(settings_json)
    store = Store(settings)
    work: Arriving | None = None
    orders.send(None)
    while True:
        order: Early = orders.recv()
        skeleton = Manifest.parse(order.skeleton)
        if work is None or work.skeleton != skeleton:
            library = dataclasses.replace(order.library, default=settings.recipe)
            work = Arriving(store, skeleton, order.folder, library=library, engine=order.engine)
        try:
            story = work.go_on(order.chunks, order.room, lambda kept: orders.send(("kept", kept)))
        except Exception as error:  # the scan itself is told nothing of it: its own job will say what is wrong
            work, story = None, blamed(error, "early").code
        orders.send(("rested", story))
