"""The body of a request as it comes → its parts, each checked against limits and never more in memory than 8 MiB.

Source: RFC 2046 5.1 (multipart), RFC 2387 (related).
"""

import asyncio
import contextlib
import hashlib
import io
import mmap
import re
import tempfile
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

from fastapi import Request
from starlette.requests import ClientDisconnect

from lampyris.centre.body import IDLE_S
from lampyris.centre.refusals import refusal

LARGEST = 4 << 30
"""Bytes of one part: an enhanced CT of four thousand slices."""
MOST_PARTS = 20_000
_HEADER = 16_384
_IN_MEMORY = 8 << 20
_BOUNDARY = re.compile(r"[0-9A-Za-z'()+_,./:=? -]{0,199}[0-9A-Za-z'()+_,./:=?-]")
"""RFC 2046 allows 70 characters; Orthanc's have 73."""


@dataclass(slots=True)
class Arrived:
    """A part that has come whole: its media type, bytes, SHA-256, and its content in memory or in a nameless file."""

    kind: str
    size: int = 0
    sha256: str = ""
    _pieces: list[bytes] = field(default_factory=list)
    _file: BinaryIO | None = None

    def file(self) -> BinaryIO:
        """The content, to be read from its beginning."""
        if self._file is None:
            return io.BytesIO(b"".join(self._pieces))
        self._file.seek(0)
        return self._file

    @contextlib.contextmanager
    def pieces(self) -> Iterator[list[bytes | mmap.mmap]]:
        """The content, to be written elsewhere."""
        if self._file is None:
            yield list(self._pieces)
        else:
            with mmap.mmap(self._file.fileno(), 0, access=mmap.ACCESS_READ) as content:
                yield [content]

    def close(self) -> None:
        """Forget the content."""
        self._pieces = []
        if self._file is not None:
            self._file.close()


class Growing:
    """A part that is coming."""

    def __init__(self, kind: str, folder: Path) -> None:
        self._part, self._folder, self._digest, self._held = Arrived(kind), folder, hashlib.sha256(), 0

    def write(self, data: bytes) -> None:
        """Refusal 413 when the part grows too large."""
        part = self._part
        part.size += len(data)
        if part.size > LARGEST:
            raise refusal(413, "LENGTH", f"a part has more than {LARGEST} bytes")
        self._digest.update(data)
        if part._file is None and self._held + len(data) > _IN_MEMORY:
            self._folder.mkdir(parents=True, exist_ok=True)
            part._file = tempfile.TemporaryFile(dir=self._folder)  # noqa: SIM115 - without a name: it goes with this process
            for each in part._pieces:
                part._file.write(each)
            part._pieces = []
        if part._file is None:
            part._pieces.append(data)
            self._held += len(data)
        else:
            part._file.write(data)

    def whole(self) -> Arrived:
        if self._part._file is not None:
            self._part._file.flush()
        self._part.sha256 = self._digest.hexdigest()
        return self._part

    def close(self) -> None:
        self._part.close()


class Splitter:
    """Bytes of a multipart body as they come → headers and content of its parts."""

    def __init__(self, boundary: str) -> None:
        self._delimiter = f"\r\n--{boundary}".encode()
        self._buffer = bytearray(b"\r\n")  # the first delimiter may stand at the very beginning
        self._in = "preamble"
        self.ended = False

    def feed(self, data: bytes) -> Iterator[tuple[str, bytes]]:
        """("header", all header lines), ("data", some bytes), ("end", nothing), in their order. Refusal 400."""
        self._buffer += data
        while not self.ended and (found := self._next()) is not None:
            if found[0] != "skip":
                yield found

    def _next(self) -> tuple[str, bytes] | None:
        buffer = self._buffer
        if self._in in ("preamble", "content"):
            at = buffer.find(self._delimiter)
            inside = self._in == "content"
            if at == 0 and inside:
                self._drop(len(self._delimiter), "line")
                return "end", b""
            size = at if at >= 0 else max(0, len(buffer) - len(self._delimiter))
            if size:
                content = bytes(memoryview(buffer)[:size]) if inside else b""
                self._drop(size, self._in)
                return ("data", content) if inside else ("skip", b"")
            if at == 0:
                self._drop(len(self._delimiter), "line")
                return "skip", b""
            return None
        if self._in == "line":
            return self._line()
        return self._header()

    def _line(self) -> tuple[str, bytes] | None:
        """The rest of a delimiter's line: two hyphens end the body; otherwise blanks may follow."""
        if len(self._buffer) < 2:
            return None
        if self._buffer[:2] == b"--":
            self.ended = True
            return None
        at = self._buffer.find(b"\r\n")
        if self._buffer[: max(at, 0)].strip(b" \t") or (at < 0 and len(self._buffer) > _HEADER):
            raise refusal(400, "REQUEST", "a boundary of the body is followed by something else than a line's end")
        if at < 0:
            return None
        self._drop(at, "header")  # the line's end stays: a part without headers ends them with the next one
        return "skip", b""

    def _header(self) -> tuple[str, bytes] | None:
        at = self._buffer.find(b"\r\n\r\n")
        if at < 0 or at > _HEADER:
            if len(self._buffer) > _HEADER:
                raise refusal(400, "REQUEST", f"headers of a part have more than {_HEADER} bytes")
            return None
        text = bytes(self._buffer[:at])
        self._drop(at + 4, "content")
        return "header", text

    def _drop(self, size: int, then: str) -> None:
        del self._buffer[:size]
        self._in = then


async def parts_of(request: Request, boundary: str, folder: Path, *, most: int) -> AsyncIterator[Arrived]:
    """The parts of a multipart body. Refusal 400, 408 or 413; what has come whole before stays the caller's."""
    if not _BOUNDARY.fullmatch(boundary):
        raise refusal(400, "REQUEST", "Content-Type has no valid boundary")
    splitter, growing, count = Splitter(boundary), None, 0
    try:
        async for data in _pieces(request, most):
            for what, content in splitter.feed(data):
                if what == "header":
                    count += 1
                    growing = Growing(_kind(content), folder)
                elif growing is not None and what == "data":
                    if len(content) > 1 << 16:
                        await asyncio.to_thread(growing.write, content)
                    else:
                        growing.write(content)
                elif growing is not None:
                    whole, growing = growing.whole(), None
                    yield whole
                if count > MOST_PARTS:
                    raise refusal(413, "LENGTH", f"the body has more than {MOST_PARTS} parts")
    finally:
        if growing is not None:
            growing.close()
    if not splitter.ended:
        raise refusal(400, "REQUEST", "the body ends before its last boundary", retry=True)


async def alone(request: Request, kind: str, folder: Path, *, most: int) -> AsyncIterator[Arrived]:
    """A body that is one part."""
    growing = Growing(kind, folder)
    try:
        async for data in _pieces(request, most):
            growing.write(data)
    except BaseException:
        growing.close()
        raise
    yield growing.whole()


async def _pieces(request: Request, most: int) -> AsyncIterator[bytes]:
    """The body as it comes. Refusal 400, 408 or 413."""
    size, stream = 0, request.stream()
    try:
        while True:
            async with asyncio.timeout(IDLE_S):
                data = await anext(stream, None)
            if data is None:
                return
            size += len(data)
            if size > most:
                raise refusal(413, "LENGTH", f"the body has more than {most} bytes")
            yield data
    except TimeoutError:
        raise refusal(408, "SLOW", "the body stood still", retry=True) from None
    except ClientDisconnect:
        raise refusal(400, "REQUEST", "the connection ended before the body did", retry=True) from None


def _kind(headers: bytes) -> str:
    """Media type of a part; application/dicom where none is told."""
    for line in headers.decode("latin-1").split("\r\n"):
        name, _, value = line.partition(":")
        if name.strip().lower() == "content-type":
            return value.partition(";")[0].strip().lower()
    return "application/dicom"
