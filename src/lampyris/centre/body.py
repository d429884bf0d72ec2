"""A request's body → bytes, within limits of size, time and memory; or a refusal that says which limit."""

import asyncio
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

from fastapi import Request
from starlette.requests import ClientDisconnect

from lampyris.centre.refusals import refusal, wait
from lampyris.transfer import limits

IDLE_S = 30.0
"""Longest silence within a body."""
WHOLE_S = 300.0
"""Longest time for a whole body: 8 MiB at 224 kbit/s."""


async def read_body(request: Request, kind: str, largest: int) -> bytes:
    """The body, if it is of that media type and within its limits; Refusal 400, 408, 413 or 415 otherwise."""
    return b"".join(await read_pieces(request, kind, largest))


async def read_pieces(request: Request, kind: str, largest: int) -> list[bytes]:
    """The same as it came: a chunk is not copied for the sake of being in one piece."""
    given = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if given != kind:
        raise refusal(415, "MEDIA_TYPE", f"expected Content-Type: {kind}")
    declared = declared_length(request)
    if declared is not None and declared > largest:
        raise refusal(413, "LENGTH", f"{declared} bytes are announced, at most {largest} are allowed")
    pieces: list[bytes] = []
    size, clock = 0, asyncio.get_running_loop().time
    try:
        async with asyncio.timeout(WHOLE_S), asyncio.timeout(IDLE_S) as idle:
            async for piece in request.stream():
                idle.reschedule(clock() + IDLE_S)
                size += len(piece)
                if size > largest:
                    raise refusal(413, "LENGTH", f"the body has more than {largest} bytes")
                pieces.append(piece)
    except TimeoutError:
        raise refusal(408, "SLOW", "the body stood still, or took longer than five minutes", retry=True) from None
    except ClientDisconnect:
        raise refusal(400, "REQUEST", "the connection ended before the body did", retry=True) from None
    if declared is not None and size != declared:
        raise refusal(400, "REQUEST", f"{declared} bytes were announced, {size} came", retry=True)
    return pieces


def declared_length(request: Request) -> int | None:
    """Content-Length; Refusal 400 when it is no number."""
    text = request.headers.get("content-length")
    if text is None:
        return None
    if not (text.isascii() and text.isdigit() and len(text) < 16):
        raise refusal(400, "REQUEST", "Content-Length is not a number")
    return int(text)


class Gate:
    """How many bodies are being received, for each site and together; each may take 8 MiB of memory."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._of_site: Counter[str] = Counter()

    @property
    def held(self) -> int:
        """Bodies that are being received now."""
        return self._of_site.total()

    @contextmanager
    def passed(self, site: str, priority: str) -> Iterator[None]:
        """Hold a place; Refusal 429 or 503 when there is none. A quarter more of them is kept for STAT."""
        most = self._most + self._most // 4 if priority == "stat" else self._most
        if self._of_site[site] >= limits.IN_FLIGHT:
            raise wait(429, 1, f"{limits.IN_FLIGHT} requests of this site are in flight: one after the other, please")
        if self.held >= most:
            raise wait(503, 2, "the centre receives as many chunks as it can hold")
        self._of_site[site] += 1
        try:
            yield
        finally:
            self._of_site[site] -= 1
            if not self._of_site[site]:
                del self._of_site[site]
