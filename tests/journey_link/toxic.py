"""A TCP port of loopback and a seed → another port where the same service is reached over a bad line.

TCP hides from its users what happens to packets; they see bytes late, in other pieces, cut off, or never. So that is
what is made here: latency that wavers (connections overtake one another), a limit of bandwidth, stalls as lost packets
cause them, resets, connections that look open and are dead, and flipped bits. Where in a stream a fault lies is drawn
from the seed, the connection's number and its direction, and counted in bytes: the same traffic meets the same faults.
"""

import asyncio
import contextlib
import math
import random
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

PIECE = 16 << 10
_IN_THE_AIR = 256
_PACKET = 1460


@dataclass(frozen=True, slots=True)
class Line:
    """How bad it is. Each `…_bytes` is the mean distance between faults of that kind in one direction."""

    latency_s: float = 0.0
    waver_s: float = 0.0
    bytes_per_s: float = math.inf
    stall_bytes: float = math.inf
    stall_s: float = 0.2
    reset_bytes: float = math.inf
    dead_bytes: float = math.inf
    flip_bytes: float = math.inf

    @staticmethod
    def losing(share: float, **more: float) -> "Line":
        """A share of packets is lost and sent again after the shortest time-out of Linux: a stall at each."""
        return Line(stall_bytes=_PACKET / share, stall_s=0.2, **more)


class _Faults:
    """Where the next fault of a stream lies, and of which kind."""

    def __init__(self, line: Line, rng: random.Random) -> None:
        self._rng = rng
        self._means = {name: getattr(line, f"{name}_bytes") for name in ("stall", "reset", "dead", "flip")}
        self._next = {name: self._after(0, mean) for name, mean in self._means.items()}

    def peek(self) -> tuple[float, str]:
        """(byte before which it happens, kind); infinity for never."""
        return min((at, name) for name, at in self._next.items())

    def taken(self) -> None:
        at, name = self.peek()
        self._next[name] = self._after(at, self._means[name])

    def bit(self) -> int:
        """Which one is flipped, should it be a bit."""
        return self._rng.randrange(8)

    def _after(self, at: float, mean: float) -> float:
        return math.inf if math.isinf(mean) else at + 1 + int(self._rng.expovariate(1 / mean))


class _Connection:
    """Two streams and what became of them together."""

    def __init__(self, ends: tuple[asyncio.StreamWriter, asyncio.StreamWriter]) -> None:
        self.ends, self.dead = ends, False

    def reset(self) -> None:
        for end in self.ends:
            end.transport.abort()


class Proxy:
    """The bad line; `port` is where it begins, `met` counts the faults that were met."""

    def __init__(self, target: int, line: Line, seed: int) -> None:
        self.target, self.line, self.seed = target, line, seed
        self.port, self.met, self.connections = 0, Counter[str](), 0
        self._tasks: set[asyncio.Task[None]] = set()

    async def serve(self, ready: threading.Event, stop: asyncio.Event) -> None:
        """Answer at a free port of loopback until told to stop; then every connection is reset."""
        server = await asyncio.start_server(self._accepted, "127.0.0.1", 0)
        self.port = server.sockets[0].getsockname()[1]
        ready.set()
        await stop.wait()
        server.close()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _accepted(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        self.connections += 1
        number = self.connections
        try:
            there, back = await asyncio.open_connection("127.0.0.1", self.target)
        except OSError:
            writer.transport.abort()
            return
        connection = _Connection((writer, back))
        try:
            with contextlib.suppress(asyncio.CancelledError):  # the end of the proxy
                await self._both((reader, there), connection, number)
        finally:
            connection.reset()
            self._tasks.discard(task)

    async def _both(
        self, heard: tuple[asyncio.StreamReader, asyncio.StreamReader], connection: _Connection, number: int
    ) -> None:
        near, far = connection.ends
        try:
            async with asyncio.TaskGroup() as both:
                both.create_task(self._stream(heard[0], far, connection, f"{self.seed}/{number}/up"))
                both.create_task(self._stream(heard[1], near, connection, f"{self.seed}/{number}/down"))
        except* OSError:  # one end has broken off: so does the other
            pass

    async def _stream(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, connection: _Connection, seed: str
    ) -> None:
        """One direction: what is read is spoiled, and delivered when its time has come."""
        air: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue(_IN_THE_AIR)
        rng = random.Random(seed)
        spoiling = asyncio.create_task(self._spoil(reader, air, connection, rng))
        clock = asyncio.get_running_loop().time
        try:
            while True:
                due, piece = await air.get()
                await asyncio.sleep(max(0.0, due - clock()))
                if not piece:
                    writer.write_eof()
                    return
                writer.write(piece)
                await writer.drain()
                await asyncio.sleep(len(piece) / self.line.bytes_per_s)
        finally:
            spoiling.cancel()
            with contextlib.suppress(asyncio.CancelledError, OSError):
                await spoiling

    async def _spoil(
        self,
        reader: asyncio.StreamReader,
        air: "asyncio.Queue[tuple[float, bytes]]",
        connection: _Connection,
        rng: random.Random,
    ) -> None:
        """Read, in pieces of any size, and do to them what lies at their place in the stream."""
        # places and bits have a sequence of their own: how TCP cuts the stream draws nothing from it
        faults, at = _Faults(self.line, random.Random(rng.random())), 0
        try:
            while data := await reader.read(PIECE):
                while data and not connection.dead:
                    where, kind = faults.peek()
                    if at == where:
                        faults.taken()
                        self.met[kind] += 1
                        data = await self._fault(kind, data, connection, faults.bit())
                    else:
                        size = int(min(rng.randint(1, PIECE), len(data), where - at))
                        await self._into(air, data[:size], rng)
                        data, at = data[size:], at + size
        except OSError:
            connection.reset()
        if not connection.dead:
            await self._into(air, b"", rng)

    async def _fault(self, kind: str, data: bytes, connection: _Connection, bit: int) -> bytes:
        """What is left to be delivered after a fault."""
        if kind == "flip":
            return bytes([data[0] ^ 1 << bit]) + data[1:]
        if kind == "stall":
            await asyncio.sleep(self.line.stall_s)
            return data
        if kind == "dead":  # it looks open until somebody loses patience; what is sent disappears
            connection.dead = True
        else:
            connection.reset()
        return b""

    async def _into(self, air: "asyncio.Queue[tuple[float, bytes]]", piece: bytes, rng: random.Random) -> None:
        late = self.line.latency_s + rng.uniform(0.0, self.line.waver_s)
        await air.put((asyncio.get_running_loop().time() + late, piece))


@contextmanager
def bad_line(target: int, line: Line, seed: int) -> Iterator[Proxy]:
    """A proxy in a thread of its own, in front of a port of loopback."""
    proxy, ready, stop, loop = Proxy(target, line, seed), threading.Event(), asyncio.Event(), asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_until_complete, args=(proxy.serve(ready, stop),))
    thread.start()
    ready.wait()
    try:
        yield proxy
    finally:
        loop.call_soon_threadsafe(stop.set)
        thread.join()
        loop.close()
