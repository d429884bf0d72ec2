"""Parts, each bytes or a stretch of a file in the store → a multipart answer that is never whole in memory.

Source: RFC 2387 (multipart/related), DICOM PS3.18 8.6.1.2.
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from fastapi import Request
from fastapi.responses import Response, StreamingResponse

from lampyris.centre.archive.dicomweb.answers import MULTIPART, PRIVATE, boundary_of, range_of, tag_of, unchanged
from lampyris.centre.store import DamagedError, Store
from lampyris.model import StorageError

_BLOCK = 4 << 20
"""Bytes that are read at once, and given to the server in one piece."""


@dataclass(frozen=True, slots=True)
class Stretch:
    """Bytes `first` … `first` + `size` of an object in the store."""

    prefix: str
    sha256: str
    first: int
    size: int


Content: TypeAlias = Stretch | bytes | Callable[[], bytes]
"""What a part holds; a function is called, in a thread, when its turn comes: its length is not known before."""


@dataclass(frozen=True, slots=True)
class Part:
    """One part of an answer: its media type with parameters, where it may be asked for alone, and its content."""

    kind: str
    place: str
    content: Content


def multipart(request: Request, store: Store, parts: Sequence[Part], kind: str, *, digests: Sequence[str]) -> Response:
    """multipart/related of these parts, whose `digests` make the entity tag."""
    tag = tag_of([*digests, *(each.kind for each in parts)])
    if unchanged(request, tag):
        return Response(status_code=304, headers=PRIVATE | {"ETag": tag})
    boundary = boundary_of(tag)
    pieces: list[Content] = []
    for number, each in enumerate(parts):
        head = f"--{boundary}\r\nContent-Type: {each.kind}\r\nContent-Location: {each.place}\r\n"
        size = _size(each.content)
        length = "" if size is None else f"Content-Length: {size}\r\n"
        pieces += [f"{'' if number == 0 else chr(13) + chr(10)}{head}{length}\r\n".encode(), each.content]
    pieces.append(f"\r\n--{boundary}--\r\n".encode())
    media_type = f'{MULTIPART}; type="{kind}"; boundary={boundary}'
    return _streamed(store, pieces, {"ETag": tag, "Content-Type": media_type})


def single(request: Request, store: Store, part: Part, *, digest: str) -> Response:
    """One part alone; of a stretch of a file the range that is asked for."""
    tag, headers = tag_of([digest]), {"Content-Type": part.kind, "Content-Location": part.place}
    if unchanged(request, tag):
        return Response(status_code=304, headers=PRIVATE | {"ETag": tag})
    headers["ETag"] = tag
    content = part.content
    if not isinstance(content, Stretch):
        return _streamed(store, [content], headers)
    headers["Accept-Ranges"] = "bytes"
    asked = range_of(request, content.size, tag)
    if asked is None:
        return _streamed(store, [content], headers)
    first, last = asked
    headers["Content-Range"] = f"bytes {first}-{last}/{content.size}"
    piece = Stretch(content.prefix, content.sha256, content.first + first, last - first + 1)
    return _streamed(store, [piece], headers, status=206)


def _size(content: Content) -> int | None:
    if isinstance(content, Stretch):
        return content.size
    return len(content) if isinstance(content, bytes) else None


def _streamed(store: Store, pieces: list[Content], headers: dict[str, str], *, status: int = 200) -> Response:
    sizes = [_size(each) for each in pieces]
    known = [size for size in sizes if size is not None]
    length = {"Content-Length": str(sum(known))} if len(known) == len(sizes) else {}
    read = _from_bucket(store, pieces) if store.folder is None else _ahead(_from_folder(store, pieces))
    return StreamingResponse(read, status, headers=PRIVATE | length | headers)


async def _ahead(blocks: Iterator[bytes]) -> AsyncIterator[bytes]:
    """Blocks of an iterator that works in a thread; the next is made while one is sent."""
    coming = asyncio.ensure_future(asyncio.to_thread(next, blocks, None))
    try:
        while (block := await coming) is not None:
            coming = asyncio.ensure_future(asyncio.to_thread(next, blocks, None))
            yield block
    finally:
        await asyncio.wait([coming])  # a thread cannot be told to stop


def _from_folder(store: Store, pieces: Sequence[Content]) -> Iterator[bytes]:
    """The pieces one behind the other, in blocks: small files together, large ones a block at a time."""
    waiting, size = list[bytes](), 0
    for piece in pieces:
        for found in _read(store, piece):
            waiting.append(found)
            size += len(found)
            if size >= _BLOCK:
                yield b"".join(waiting)
                waiting, size = [], 0
    if waiting:
        yield b"".join(waiting)


def _read(store: Store, piece: Content) -> Iterator[bytes]:
    if isinstance(piece, bytes):
        yield piece
    elif isinstance(piece, Stretch):
        path, left = store.path_of(piece.prefix, piece.sha256), piece.size
        assert path is not None
        try:
            with path.open("rb", buffering=0) as file:
                file.seek(piece.first)
                while left:
                    found = file.read(min(left, _BLOCK))
                    if not found:
                        raise DamagedError(f"object {piece.sha256[:12]}… is shorter than it was: a failing disk?")
                    left -= len(found)
                    yield found
        except OSError as error:
            raise StorageError(f"object {piece.sha256[:12]}… cannot be read ({error.strerror})") from error
    else:
        yield piece()


async def _from_bucket(store: Store, pieces: Sequence[Content]) -> AsyncIterator[bytes]:
    for piece in pieces:
        if isinstance(piece, bytes):
            yield piece
        elif isinstance(piece, Stretch):
            last = piece.first + piece.size - 1
            async for each in store.stream(piece.prefix, piece.sha256, piece.first, last):
                yield each
        else:
            yield await asyncio.to_thread(piece)
