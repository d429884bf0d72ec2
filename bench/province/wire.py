"""A request → its answer over HTTP/1.1 without TLS, as lightly as asyncio can: a thousand sites share one process.

httpx, which the real agent uses, costs as much processor time for a request as the centre does; here the centre is to
be measured. Connections are kept as the agent keeps them: up to eight a site, for five seconds.
"""

import asyncio
import time
from dataclasses import dataclass, field

KEPT_S = 5.0
AT_ONCE = 8


@dataclass(frozen=True, slots=True)
class Answer:
    """What came back; names of headers are lower case."""

    status: int
    headers: dict[str, str]
    body: bytes


@dataclass(slots=True)
class _Connection:
    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    used: float


@dataclass(slots=True)
class Wire:
    """The connections of one site."""

    port: int
    _idle: list[_Connection] = field(default_factory=list)
    _places: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(AT_ONCE))

    async def ask(self, method: str, path: str, headers: dict[str, str], body: bytes = b"") -> Answer:
        """Raises OSError or EOFError when the connection ends before the answer does."""
        lines = [f"{method} {path} HTTP/1.1", f"host: 127.0.0.1:{self.port}"]
        lines += [f"{name}: {value}" for name, value in headers.items()]
        if body or method != "GET":
            lines.append(f"content-length: {len(body)}")
        async with self._places:
            connection = await self._connected()
            try:
                connection.writer.write("\r\n".join([*lines, "", ""]).encode("ascii") + body)
                answer = await _answer(connection.reader)
            except BaseException:
                connection.writer.transport.abort()
                raise
            connection.used = time.monotonic()
            self._idle.append(connection)
            return answer

    def close(self) -> None:
        for each in self._idle:
            each.writer.close()
        self._idle.clear()

    async def _connected(self) -> _Connection:
        while self._idle:
            connection = self._idle.pop()
            if time.monotonic() - connection.used < KEPT_S and not connection.reader.at_eof():
                return connection
            connection.writer.close()
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        return _Connection(reader, writer, time.monotonic())


async def _answer(reader: asyncio.StreamReader) -> Answer:
    head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
    status = int(head[0].split(" ", 2)[1])
    headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in head[1:] if line)}
    if headers.get("transfer-encoding") == "chunked":
        pieces = []
        while size := int((await reader.readline()).strip(), 16):
            pieces.append(await reader.readexactly(size))
            await reader.readexactly(2)
        await reader.readexactly(2)
        return Answer(status, headers, b"".join(pieces))
    return Answer(status, headers, await reader.readexactly(int(headers.get("content-length", 0))))
