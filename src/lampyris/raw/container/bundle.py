"""One zip file of stored members ↔ a Zarr store: what carries a raw scan from place to place.

A scan has to travel, be renamed and be resumed as one file. Zip keeps its table of contents at the end, so that a file
that was cut anywhere does not open at all. Zarr's own ZipStore reads a range by running through the member from its
start; here the range is read where it lies. Decision 0040.
"""

import asyncio
import hashlib
import struct
import threading
import weakref
import zipfile
from collections.abc import AsyncIterator, Iterable
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO

from zarr.abc.store import ByteRequest, OffsetByteRequest, RangeByteRequest, Store, SuffixByteRequest
from zarr.core.buffer import Buffer, BufferPrototype

from lampyris.model import FormatError, ProgramError

_LOCAL_HEADER = struct.Struct("<4s22xHH")
_MEMBER = struct.Struct("<4s2xHH8xIIHH")
ROOT = "zarr.json"
_DATE = (1980, 1, 1, 0, 0, 0)  # no clock in a file: the same scan gives the same bytes


@dataclass(frozen=True, slots=True)
class Member:
    """Size in bytes and SHA-256 of one member, as they were written."""

    bytes: int
    sha256: str


class _Bundle(Store):  # type: ignore[misc]  # mypy sees Zarr as Any
    """What the reading and the writing store have in common."""

    supports_deletes = False
    supports_listing = True

    def names(self) -> list[str]:
        raise NotImplementedError

    async def get_partial_values(
        self, prototype: BufferPrototype, key_ranges: Iterable[tuple[str, ByteRequest | None]]
    ) -> list[Buffer | None]:
        return [await self.get(key, prototype, byte_range) for key, byte_range in key_ranges]

    async def exists(self, key: str) -> bool:
        return key in self.names()

    async def delete(self, key: str) -> None:
        raise ProgramError(f"member {key} of a raw scan is never deleted")

    async def list(self) -> AsyncIterator[str]:
        for name in self.names():
            yield name

    async def list_prefix(self, prefix: str) -> AsyncIterator[str]:
        for name in self.names():
            if name.startswith(prefix):
                yield name

    async def list_dir(self, prefix: str) -> AsyncIterator[str]:
        start = f"{prefix.rstrip('/')}/" if prefix else ""
        for name in sorted({each[len(start) :].split("/")[0] for each in self.names() if each.startswith(start)}):
            yield name


class BundleWriter(_Bundle):
    """A store that only grows: every member is written once, and its size and SHA-256 are kept in `members`.

    The root's metadata alone may be replaced: it is held back and written last. Closing writes the table of contents;
    without it nothing opens. A context manager over an open binary file.
    """

    supports_writes = True

    def __init__(self, file: BinaryIO) -> None:
        super().__init__(read_only=False)
        self._is_open = True
        self._zip = zipfile.ZipFile(file, "w", zipfile.ZIP_STORED)
        self._root: Buffer | None = None
        self.members: dict[str, Member] = {}

    def __enter__(self) -> "BundleWriter":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        try:
            if error is None and self._root is not None:
                self._zip.writestr(zipfile.ZipInfo(ROOT, _DATE), self._root.to_bytes())
            self._zip.close()
        except (OSError, ValueError):
            if error is None:
                raise
        self.close()

    def __eq__(self, other: object) -> bool:
        return self is other

    def names(self) -> list[str]:
        return [*self.members, *([] if self._root is None else [ROOT])]

    async def get(  # Zarr looks for a node of that name before it makes one
        self,
        key: str,
        prototype: BufferPrototype,  # noqa: ARG002
        byte_range: ByteRequest | None = None,  # noqa: ARG002
    ) -> Buffer | None:
        if key == ROOT:
            return self._root
        if key in self.members:
            raise ProgramError(f"member {key} is read while the scan is being written")
        return None

    async def set(self, key: str, value: Buffer) -> None:
        if key == ROOT:
            self._root = value
            return
        if key in self.members:
            raise ProgramError(f"member {key} is written twice")
        content = value.as_numpy_array().tobytes()
        self._zip.writestr(zipfile.ZipInfo(key, _DATE), content)
        self.members[key] = Member(len(content), hashlib.sha256(content).hexdigest())


class BundleReader(_Bundle):
    """A store over a zip file of uncompressed members; ranges are read where they lie, from any thread.

    Raises FormatError when the file is no zip, is truncated, or its members are compressed, doubled or overlapping.
    The open file stays the one that was opened, even when another takes its name. Of a file that is still `arriving`,
    without its table of contents, it holds the members that are whole, as their own headers tell.
    """

    supports_writes = False

    def __init__(self, path: Path, *, arriving: bool = False) -> None:
        super().__init__(read_only=True)
        self._is_open = True
        self.path = path
        self._lock = threading.Lock()
        self._file = path.open("rb", buffering=0)
        self._close = weakref.finalize(self, self._file.close)
        self.size = path.stat().st_size
        try:
            self._place = self._begun() if arriving else self._contents()
        except FormatError:
            self.close()
            raise

    def close(self) -> None:
        self._close()
        super().close()

    def __eq__(self, other: object) -> bool:
        return self is other

    def names(self) -> list[str]:
        return list(self._place)

    def bytes_of(self, name: str) -> int:
        """Length of a member in bytes."""
        return self._place[name][1]

    def end_of(self, name: str) -> int:
        """Where a member ends in the file."""
        offset, size = self._place[name]
        return offset + size

    def read(self, name: str, start: int = 0, stop: int | None = None) -> bytes:
        """Bytes [start, stop) of a member."""
        offset, size = self._place[name]
        stop = size if stop is None else min(stop, size)
        with self._lock:
            self._file.seek(offset + start)
            parts, missing = [], max(stop - start, 0)
            while missing and (part := self._file.read(missing)):
                parts.append(part)
                missing -= len(part)
        if missing:
            raise FormatError(f"{self.path.name}: member {name} ends {missing} bytes early: truncated while open?")
        return b"".join(parts)

    async def get(self, key: str, prototype: BufferPrototype, byte_range: ByteRequest | None = None) -> Buffer | None:
        if key not in self._place:
            return None
        start, stop = _span(byte_range, self._place[key][1])
        return prototype.buffer.from_bytes(await asyncio.to_thread(self.read, key, start, stop))

    async def set(self, key: str, value: Buffer) -> None:  # noqa: ARG002
        raise ProgramError(f"member {key} is written to a scan that is open for reading")

    def _contents(self) -> dict[str, tuple[int, int]]:
        """Offset and length of every member, by name."""
        try:
            with zipfile.ZipFile(self._file) as archive:
                entries = archive.infolist()
        except (
            zipfile.BadZipFile,
            NotImplementedError,
            UnicodeDecodeError,
            struct.error,
            ValueError,
            OSError,
        ) as error:
            raise FormatError(
                f"{self.path.name} ({self.size} bytes) has no readable table of contents ({error}):"
                " truncated, or not a raw scan of Lampyris?"
            ) from error
        self._file.seek(0)
        found: dict[str, tuple[int, int]] = {}
        end = 0
        for entry in sorted(entries, key=lambda one: one.header_offset):
            if entry.compress_type != zipfile.ZIP_STORED or entry.file_size != entry.compress_size:
                raise FormatError(f"{self.path.name}: member {entry.filename} is compressed by zip: packed again?")
            if entry.filename in found or entry.header_offset < end:
                raise FormatError(f"{self.path.name}: member {entry.filename} is doubled or overlaps: tampered with?")
            offset = self._content_offset(entry)
            end = offset + entry.file_size
            if end > self.size:
                raise FormatError(f"{self.path.name}: member {entry.filename} reaches beyond the end: truncated?")
            found[entry.filename] = (offset, entry.file_size)
        return found

    def _begun(self) -> dict[str, tuple[int, int]]:
        """Offset and length of the members that are whole so far."""
        found: dict[str, tuple[int, int]] = {}
        end = 0
        while True:
            self._file.seek(end)
            header = self._file.read(_MEMBER.size)
            if len(header) >= 4 and header[:4] not in (b"PK\3\4", b"PK\1\2"):
                raise FormatError(f"{self.path.name}: no member starts at byte {end}: not packed by us, or damaged?")
            if len(header) < _MEMBER.size or not header.startswith(b"PK\3\4"):
                return found
            _, flags, method, packed, size, name_bytes, extra = _MEMBER.unpack(header)
            name = self._file.read(name_bytes).decode("utf-8", "replace")
            if flags & ~0x800 or method or packed != size or name in found:
                raise FormatError(f"{self.path.name}: member {name!r} is compressed, streamed or doubled: not ours?")
            offset = end + _MEMBER.size + name_bytes + extra
            end = offset + size
            if end > self.size:
                return found
            found[name] = (offset, size)

    def _content_offset(self, entry: zipfile.ZipInfo) -> int:
        self._file.seek(entry.header_offset)
        header = self._file.read(_LOCAL_HEADER.size)
        if len(header) < _LOCAL_HEADER.size or not header.startswith(b"PK\3\4"):
            raise FormatError(f"{self.path.name}: no header before member {entry.filename}: tampered with?")
        _, name, extra = _LOCAL_HEADER.unpack(header)
        return int(entry.header_offset + _LOCAL_HEADER.size + name + extra)


def _span(byte_range: ByteRequest | None, size: int) -> tuple[int, int]:
    match byte_range:
        case None:
            return 0, size
        case RangeByteRequest(start, end):
            return start, end
        case OffsetByteRequest(offset):
            return offset, size
        case SuffixByteRequest(suffix):
            return max(size - suffix, 0), size
    raise ProgramError(f"unknown byte request {byte_range!r}")


def sha256_of(reader: BundleReader, name: str, block: int = 1 << 24) -> str:
    """SHA-256 of one member, read in blocks."""
    digest: Any = hashlib.sha256()
    for start in range(0, reader.bytes_of(name), block):
        digest.update(reader.read(name, start, start + block))
    return str(digest.hexdigest())
