"""A file or folder → the disk: what new bytes, or a new name, need to last through a power cut."""

import errno
import mmap
import os
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

if sys.platform == "linux":
    import fcntl

_BLOCK = 4096
_PIECE = 64 * _BLOCK


def sync(place: Path) -> None:
    """Make a file's content, or the names in a folder, last; Windows opens no folders. Raises OSError."""
    if os.name == "posix":
        handle = os.open(place, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def lay_down(place: Path, pieces: Sequence[bytes | memoryview | mmap.mmap]) -> None:
    """Make a new file of these pieces, which lasts when this returns; its name is the caller's to sync.

    What is not read again soon should not push out of memory what is, nor be copied there first: whole blocks go past
    the page cache where system and file system let them. Raises OSError, and leaves no file then.
    """
    handle = os.open(place, os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0), 0o666)
    try:
        done = _directly(handle, pieces) if sum(map(len, pieces)) >= _PIECE else 0
        for piece in pieces:
            with memoryview(piece) as whole:
                while done < len(whole):
                    done += os.write(handle, whole[done:])
                done -= len(whole)
        os.fsync(handle)
    except BaseException:
        place.unlink(missing_ok=True)
        raise
    finally:
        os.close(handle)


def _directly(handle: int, pieces: Sequence[bytes | memoryview | mmap.mmap]) -> int:
    """Write whole blocks past the page cache until that ends or is refused: how many bytes those were."""
    if sys.platform != "linux":
        return 0
    flags, done = fcntl.fcntl(handle, fcntl.F_GETFL), 0
    try:
        fcntl.fcntl(handle, fcntl.F_SETFL, flags | os.O_DIRECT)
        with mmap.mmap(-1, _PIECE) as room, memoryview(room) as aligned:  # a disk reads from whole pages alone
            for size in _filled(aligned, pieces):
                with aligned[: size // _BLOCK * _BLOCK] as blocks:
                    written = os.write(handle, blocks)
                    done += written
                    if written < len(blocks):
                        break
    except OSError as error:
        if error.errno != errno.EINVAL:  # a file system that cannot, or has larger blocks
            raise
    finally:
        fcntl.fcntl(handle, fcntl.F_SETFL, flags)
    return done


def _filled(room: memoryview, pieces: Sequence[bytes | memoryview | mmap.mmap]) -> Iterator[int]:
    """Copy the pieces into the room, one behind the other: each time how much of it is filled, at last perhaps less."""
    at = 0
    for piece in pieces:
        with memoryview(piece) as whole:
            first = 0
            while first < len(whole):
                size = min(len(room) - at, len(whole) - first)
                room[at : at + size] = whole[first : first + size]
                at, first = at + size, first + size
                if at == len(room):
                    yield at
                    at = 0
    if at:
        yield at
