"""A folder → the one process that may move its scans; the lock dies with the process, however it dies."""

import contextlib
import sys
from collections.abc import Iterator
from pathlib import Path

from lampyris.model import StorageError

if sys.platform == "win32":
    import msvcrt

    def _take(handle: int) -> None:
        msvcrt.locking(handle, msvcrt.LK_NBLCK, 1)
else:
    import fcntl

    def _take(handle: int) -> None:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)


@contextlib.contextmanager
def alone(folder: Path) -> Iterator[None]:
    """Hold the folder's lock. Raises StorageError when another process does."""
    try:
        file = (folder / "lock").open("ab")
    except OSError as error:
        raise StorageError(f"the lock in {folder.name} cannot be made ({error.strerror})") from error
    with file:
        try:
            _take(file.fileno())
        except OSError as error:
            raise StorageError("another agent runs with this spool: there can be one alone") from error
        yield
