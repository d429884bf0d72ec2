"""RawScan ↔ the bytes of its `.lraw` in parts of up to 8 MiB, made turn by turn: what a site sends and a centre keeps.

The parts, one after the other, are the file: no second format, no second digest. Nothing that was given away is ever
changed, so that a part can be on its way while the gantry still turns. Decision 0111.
"""

import hashlib
import io
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, cast

from lampyris.model import FormatError, InputError, ProgramError, RawScan, StorageError
from lampyris.raw.codec import Decision
from lampyris.raw.container.archive import read, whole
from lampyris.raw.container.bundle import BundleWriter
from lampyris.raw.container.opened import Opened
from lampyris.raw.container.writer import fill

PART_BYTES = 8 << 20


@dataclass(frozen=True, slots=True, eq=False)
class Part:
    """Bytes [offset, offset + len(content)) of a packed scan.

    `number` counts from 0; all parts but the last are of one size. With this part and those before it, the first
    `views` views are whole. `scan_id` is the id of what was packed, on the last part; "" on all others.
    """

    number: int
    offset: int
    content: bytes
    sha256: str
    views: int
    scan_id: str


def pack(scan: RawScan, decision: Decision, *, part_bytes: int = PART_BYTES) -> Iterator[Part]:
    """The parts of a scan that is coded as `decision` says, each as soon as its turns are read.

    `scan.counts` is read once, turn by turn, in order: counts that wait for their views let a scan be packed while it
    arrives; its id is then `ARRIVING`, and the last part tells the one that was found. In memory are some four copies
    of a turn.

    Raises as `write` does; parts that were given away until then are no scan.
    """
    file, cutter, scan_id = _Growing(), _Cutter(part_bytes), ""
    with BundleWriter(cast(BinaryIO, file)) as store:
        for written in fill(store, scan, decision):
            yield from cutter.feed(file.settled(), written.views)
            scan_id = written.id
    yield from cutter.feed(file.settled(), scan.views)
    yield cutter.last(scan_id)


def cut(path: str | os.PathLike[str], *, part_bytes: int = PART_BYTES) -> Iterator[Part]:
    """The parts of a packed scan that lies on the disk: the same that `pack` gives, whoever wrote the file.

    Raises FormatError when the file is no whole `.lraw`, StorageError when it cannot be read.
    """
    opened = Opened(Path(path))
    cutter, place = _Cutter(part_bytes), 0
    ends = sorted(opened.shard_ends())
    try:
        with Path(path).open("rb") as file:
            for end, views in [*ends, (opened.store.size, opened.counts.shape[0])]:
                while place < end:
                    content = file.read(min(part_bytes, end - place))
                    if not content:
                        raise FormatError(f"{opened.name} ends after {place} bytes: truncated while it was read?")
                    place += len(content)
                    yield from cutter.feed(content, views if place == end else 0)
    except OSError as error:
        raise StorageError(f"{opened.name} cannot be read ({error.strerror or error})") from error
    yield cutter.last(opened.id)


def unpack(parts: Iterable[bytes], path: str | os.PathLike[str]) -> RawScan:
    """Write the parts of a packed scan, in order, to one `.lraw` file, and open it; whole, or not at all.

    The file is byte for byte what was packed. Its table of contents, metadata and every array but the counts are
    checked against their digests before it takes its name; `verify` checks all. Raises FormatError for parts that are
    no scan, StorageError when the disk is full, read-only or failing.
    """
    with whole(Path(path)) as file:
        for part in parts:
            file.write(part)
        file.flush()
        Opened(Path(file.name), unfinished=True).arrays()
    return read(path)


class _Growing(io.RawIOBase):
    """A file of which what was `settled` is given away; the zip behind it goes back no further than its last member."""

    def __init__(self) -> None:
        super().__init__()
        self._given, self._place = 0, 0
        self._kept = bytearray()

    def writable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._place

    def seek(self, offset: int, whence: int = os.SEEK_SET, /) -> int:
        if whence != os.SEEK_SET or offset < self._given:
            raise ProgramError(f"seek to {offset} ({whence}) in a scan of which {self._given} bytes were given away")
        self._place = offset
        return offset

    def write(self, content: Any, /) -> int:
        start = self._place - self._given
        self._kept[start : start + len(content)] = content
        self._place += len(content)
        return len(content)

    def settled(self) -> bytes:
        """All bytes since the last call."""
        content = bytes(self._kept)
        self._given += len(content)
        self._kept.clear()
        return content


class _Cutter:
    """Bytes in any portions → parts of one size."""

    def __init__(self, part_bytes: int) -> None:
        if part_bytes < 1:
            raise InputError(f"parts of {part_bytes} bytes: expected at least 1")
        self._size, self._number, self._views = part_bytes, 0, 0
        self._waiting = bytearray()
        self._ends: list[tuple[int, int]] = []

    def feed(self, content: bytes, views: int) -> Iterator[Part]:
        """The parts that are full with `content`, at whose end the first `views` views are whole."""
        self._waiting += content
        self._ends.append((self._number * self._size + len(self._waiting), views))
        while len(self._waiting) > self._size:
            yield self._part("")

    def last(self, scan_id: str) -> Part:
        return self._part(scan_id)

    def _part(self, scan_id: str) -> Part:
        content, offset = bytes(self._waiting[: self._size]), self._number * self._size
        del self._waiting[: self._size]
        end = offset + len(content)
        self._views = max([self._views, *(views for place, views in self._ends if place <= end)])
        self._ends = [(place, views) for place, views in self._ends if place > end]
        part = Part(self._number, offset, content, hashlib.sha256(content).hexdigest(), self._views, scan_id)
        self._number += 1
        return part
