"""A file or folder → the disk: what new bytes, or a new name, need to last through a power cut."""

import errno
import mmap
import os
import sys
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


def lay_down(place: Path, data: bytes | memoryview | mmap.mmap) -> None:
    """Make a new file with this content, which lasts when this returns; its name is the caller's to sync.

    What is not read again soon should not push out of memory what is, nor be copied there first: whole blocks go past
    the page cache where system and file system let them. Raises OSError, and leaves no file then.
    """
    handle = os.open(place, os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0), 0o666)
    try:
        with memoryview(data) as whole:
            done = _directly(handle, whole) if len(whole) >= _PIECE else 0
            while done < len(whole):
                done += os.write(handle, whole[done:])
        os.fsync(handle)
    except BaseException:
        place.unlink(missing_ok=True)
        raise
    finally:
        os.close(handle)


def _directly(handle: int, whole: memoryview) -> int:
    """Write whole blocks past the page cache until that ends or is refused: how many bytes those were."""
    if sys.platform != "linux":
        return 0
    flags, done, end = fcntl.fcntl(handle, fcntl.F_GETFL), 0, len(whole) // _BLOCK * _BLOCK
    try:
        fcntl.fcntl(handle, fcntl.F_SETFL, flags | os.O_DIRECT)
        with mmap.mmap(-1, _PIECE) as blocks, memoryview(blocks) as aligned:
            while done < end:
                size = min(_PIECE, end - done)
                aligned[:size] = whole[done : done + size]  # a disk reads from whole pages alone
                with aligned[:size] as piece:
                    written = os.write(handle, piece)
                done += written
                if written % _BLOCK:
                    break
    except OSError as error:
        if error.errno != errno.EINVAL:  # a file system that cannot, or has larger blocks
            raise
    finally:
        fcntl.fcntl(handle, fcntl.F_SETFL, flags)
    return done
