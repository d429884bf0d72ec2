"""Bytes → files that are there whole or not at all, also after SIGKILL, a power cut or a full disk."""

import contextlib
import errno
import json
import os
import secrets
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

from lampyris.durable import sync
from lampyris.model import FormatError, StorageError

TEMPORARY = ".new-"
"""What a name begins with until its content is whole; whatever is left of such names may be deleted."""


def write(path: Path, data: bytes) -> None:
    """Give a file its content, at once and for good; its owner alone may read it. Raises StorageError."""
    with growing(path) as file:
        file.write(data)
    sync(path.parent)


def write_json(path: Path, value: Any) -> None:
    write(path, json.dumps(value, ensure_ascii=False, sort_keys=True).encode())


def read_json(path: Path) -> dict[str, Any]:
    """Raises FileNotFoundError, StorageError, and FormatError for what none of us has written."""
    with telling(path.name, "read"):
        data = path.read_bytes()
    try:
        found = json.loads(data)
    except ValueError as error:
        raise FormatError(f"{path.name} in the spool is no JSON ({len(data)} bytes): a failing disk?") from error
    if not isinstance(found, dict):
        raise FormatError(f"{path.name} in the spool is a JSON {type(found).__name__}, expected an object")
    return found


@contextlib.contextmanager
def growing(path: Path) -> Iterator[BinaryIO]:
    """A file that takes its name when it is on the disk; the folder is the caller's to sync. Raises StorageError."""
    partial = path.with_name(f"{TEMPORARY}{secrets.token_hex(6)}")
    with telling(path.name, "written"):
        try:
            handle = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            with os.fdopen(handle, "wb") as file:
                yield file
                file.flush()
                os.fsync(file.fileno())
            partial.replace(path)
        except BaseException:
            with contextlib.suppress(OSError):
                partial.unlink(missing_ok=True)
            raise


def make_folder(path: Path, fill: Callable[[Path], None]) -> bool:
    """Let a folder appear with all that `fill` puts into it, unless it is there. Whether it is new. StorageError."""
    partial = path.with_name(f"{TEMPORARY}{secrets.token_hex(6)}")
    with telling(path.name, "written"):
        try:
            partial.mkdir(mode=0o700)
            fill(partial)
            sync(partial)
            partial.rename(path)
        except OSError as error:
            shutil.rmtree(partial, ignore_errors=True)
            if error.errno in (errno.EEXIST, errno.ENOTEMPTY) or (os.name == "nt" and path.exists()):
                return False
            raise
        except BaseException:
            shutil.rmtree(partial, ignore_errors=True)
            raise
        sync(path.parent)
    return True


def remove_folder(path: Path) -> None:
    """Let a folder vanish at once; what a power cut leaves has a temporary name."""
    with telling(path.name, "deleted"):
        gone = path.with_name(f"{TEMPORARY}{secrets.token_hex(6)}")
        path.rename(gone)
        sync(path.parent)
        shutil.rmtree(gone)


def sweep(folder: Path) -> None:
    """Delete what was never finished."""
    with telling(folder.name, "swept"):
        for each in sorted(folder.rglob(f"{TEMPORARY}*")):
            if each.is_dir():
                shutil.rmtree(each)
            else:
                each.unlink(missing_ok=True)


@contextlib.contextmanager
def telling(name: str, what: str) -> Iterator[None]:
    """Say of a failing disk what is known: which file, what for, and why."""
    try:
        yield
    except FileNotFoundError:
        raise
    except OSError as error:
        why = error.strerror or type(error).__name__
        cause = "the disk is full: free some space" if error.errno == errno.ENOSPC else "read-only, or a failing disk?"
        raise StorageError(
            f"{name} could not be {what} ({why}): {cause}; nothing was lost, it is tried again"
        ) from error
