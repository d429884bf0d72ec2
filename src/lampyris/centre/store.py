"""Bytes under their SHA-256 → a folder or a bucket, whole and durable, and back again only if they are still the same.

A key says what its bytes are, so writing twice changes nothing and no conditional write is asked of a bucket.
"""

import asyncio
import contextlib
import hashlib
import mmap
import secrets
import shutil
from collections.abc import AsyncIterator, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import obstore
from obstore.exceptions import BaseError
from obstore.store import LocalStore, from_url

from lampyris.centre.settings import Settings
from lampyris.durable import lay_down, sync
from lampyris.model import StorageError

_DELETE_AT_ONCE = 500


class DamagedError(StorageError):
    """What the store gives back is not what was put there."""

    code = "MACHINE_DAMAGED"


def raw_prefix(site: str, scan: str) -> str:
    """Where the chunks of a scan lie."""
    return f"raw/{site}/{scan}"


def series_prefix(site: str, scan: str) -> str:
    """Where the files made of a scan lie."""
    return f"series/{site}/{scan}"


def early_prefix(site: str, scan: str) -> str:
    """Where lies what was made of a scan before it was committed."""
    return f"early/{site}/{scan}"


def remade_prefix(site: str, scan: str) -> str:
    """Where lies what was made of a scan with other recipes than its first."""
    return f"remade/{site}/{scan}"


def dicom_prefix(site: str, study_uid: str, series_uid: str) -> str:
    """Where the DICOM files lie that somebody stored at a site: nothing that a stranger sends becomes a path."""
    study, series = (hashlib.sha256(uid.encode()).hexdigest()[:32] for uid in (study_uid, series_uid))
    return f"dicom/{site}/{study}/{series}"


DRAWN = "drawn"
"""Below it lie pictures of series, which may be drawn again at any time."""


def drawn_prefix(site: str) -> str:
    """Where pictures of a site's series are kept for a while."""
    return f"{DRAWN}/{site}"


def prefixes_of(site: str) -> tuple[str, ...]:
    """Where everything of a site lies."""
    return f"raw/{site}", f"series/{site}", f"early/{site}", f"remade/{site}", f"dicom/{site}", f"{DRAWN}/{site}"


class Store:
    """Objects of one centre. Raises StorageError when the disk or the bucket fails."""

    def __init__(self, settings: Settings) -> None:
        self.folder: Path | None = None
        if settings.store is None or settings.store.startswith("file://"):
            place = settings.store.removeprefix("file://") if settings.store else str(settings.folder / "objects")
            self.folder = Path(place)
            try:
                self.folder.mkdir(parents=True, exist_ok=True)
                self.store: Any = LocalStore(self.folder, automatic_cleanup=True)
            except (OSError, BaseError) as error:
                raise StorageError(f"the store {self.folder} cannot be opened ({type(error).__name__})") from error
        else:
            self.store = from_url(settings.store)

    async def put(self, prefix: str, digest: str, pieces: Sequence[bytes | mmap.mmap]) -> None:
        """Bytes in pieces, whose SHA-256 the caller has checked; when this returns they are on stable storage."""
        key = _key(prefix, digest)
        try:
            if self.folder is not None:
                await asyncio.to_thread(_settle, self.folder, key, pieces)
            else:
                await obstore.put_async(self.store, key, b"".join(pieces), use_multipart=False)
        except (OSError, BaseError) as error:
            raise StorageError(
                f"an object of {sum(map(len, pieces))} bytes cannot be stored: is the disk full?"
            ) from error

    def put_file(self, prefix: str, path: Path) -> tuple[int, str]:
        """A whole file under its digest: (bytes, digest)."""
        size = path.stat().st_size
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
            key = _key(prefix, digest)
            try:
                if self.folder is None:
                    obstore.put(self.store, key, path)
                elif size == 0:
                    _settle(self.folder, key, [])
                else:
                    with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
                        _settle(self.folder, key, [content])
            except (OSError, BaseError) as error:
                raise StorageError(f"a file of {size} bytes cannot be stored: is the disk full?") from error
        return size, digest

    def leave(self, prefix: str, key: str, data: bytes) -> None:
        """Bytes that may be lost, under a key of 64 hexadecimal digits: nobody waits until they are on the disk."""
        try:
            obstore.put(self.store, _key(prefix, key), data, use_multipart=False)
        except (OSError, BaseError) as error:
            raise StorageError(f"an object of {len(data)} bytes cannot be stored: is the disk full?") from error

    def find(self, prefix: str, key: str) -> bytes | None:
        """What was left there, as it is now; None when there is nothing, or it cannot be read."""
        try:
            return bytes(obstore.get(self.store, _key(prefix, key)).bytes())
        except (OSError, BaseError):
            return None

    def size_of(self, prefix: str, key: str) -> int | None:
        """Bytes of what was left there; None when there is nothing."""
        try:
            return int(obstore.head(self.store, _key(prefix, key))["size"])
        except (OSError, BaseError):
            return None

    def is_empty(self, prefix: str) -> bool:
        """Whether nothing lies below a prefix, or nobody can tell."""
        try:
            return not any(len(page) for page in obstore.list(self.store, prefix + "/", chunk_size=1))
        except (OSError, BaseError):
            return True

    def get(self, prefix: str, digest: str) -> bytes:
        """An object, verified; DamagedError when it is gone or changed."""
        try:
            data = bytes(obstore.get(self.store, _key(prefix, digest)).bytes())
        except FileNotFoundError as error:
            raise DamagedError(f"object {digest[:12]}… is gone from the store") from error
        except (OSError, BaseError) as error:
            raise StorageError(f"object {digest[:12]}… cannot be read ({type(error).__name__})") from error
        if hashlib.sha256(data).hexdigest() != digest:
            raise DamagedError(f"object {digest[:12]}… is not what was stored: a failing disk?")
        return data

    async def stream(self, prefix: str, digest: str, first: int, last: int) -> AsyncIterator[bytes]:
        """Bytes first … last (inclusive) of an object, 4 MiB at a time."""
        step = 4 << 20
        for start in range(first, last + 1, step):
            end = min(start + step, last + 1)
            try:
                yield bytes(await obstore.get_range_async(self.store, _key(prefix, digest), start=start, end=end))
            except (OSError, BaseError) as error:
                raise StorageError(f"object {digest[:12]}… cannot be read ({type(error).__name__})") from error

    def below(self, prefix: str) -> list[str]:
        """The prefixes one level below a prefix, in order."""
        try:
            found = obstore.list_with_delimiter(self.store, prefix)
        except (OSError, BaseError) as error:
            raise StorageError(f"objects cannot be listed ({type(error).__name__})") from error
        return sorted(str(each) for each in found["common_prefixes"])

    def digests(self, prefix: str) -> list[tuple[str, int]]:
        """Digest and bytes of everything that lies under a prefix, in order."""
        try:
            found = [(one["path"], one["size"]) for page in obstore.list(self.store, prefix + "/") for one in page]
        except (OSError, BaseError) as error:
            raise StorageError(f"objects cannot be listed ({type(error).__name__})") from error
        return sorted((path.rpartition("/")[2], size) for path, size in found)

    def path_of(self, prefix: str, digest: str) -> Path | None:
        """The file of an object in a folder, to be read and not to be changed; None in a bucket."""
        return None if self.folder is None else self.folder / _key(prefix, digest)

    def delete(self, prefix: str, digest: str) -> None:
        """Delete one object; one that is gone stays so."""
        try:
            obstore.delete(self.store, _key(prefix, digest))
        except FileNotFoundError:
            return
        except (OSError, BaseError) as error:
            raise StorageError(f"an object cannot be deleted ({type(error).__name__})") from error

    def delete_all(self, prefix: str) -> int:
        """Delete everything below a prefix; how many objects that were."""
        try:
            keys = [one["path"] for page in obstore.list(self.store, prefix + "/") for one in page]
            for at in range(0, len(keys), _DELETE_AT_ONCE):
                obstore.delete(self.store, keys[at : at + _DELETE_AT_ONCE])
            if self.folder is not None:  # with what a killed process was writing, which the library does not list
                with contextlib.suppress(FileNotFoundError):
                    shutil.rmtree(self.folder / prefix)
        except (OSError, BaseError) as error:
            raise StorageError(f"objects cannot be deleted ({type(error).__name__})") from error
        return len(keys)

    def delete_older(self, prefix: str, moment: datetime) -> int:
        """Delete what was last written below a prefix before a moment; how many objects that were."""
        try:
            found = [one for page in obstore.list(self.store, prefix + "/") for one in page]
            keys = [one["path"] for one in found if one["last_modified"] < moment]
            for at in range(0, len(keys), _DELETE_AT_ONCE):
                obstore.delete(self.store, keys[at : at + _DELETE_AT_ONCE])
        except (OSError, BaseError) as error:
            raise StorageError(f"objects cannot be deleted ({type(error).__name__})") from error
        return len(keys)

    def free_bytes(self) -> int | None:
        """Space left for a folder; None for a bucket, which has no end."""
        return None if self.folder is None else shutil.disk_usage(self.folder).free


def _key(prefix: str, digest: str) -> str:
    return f"{prefix}/{digest[:2]}/{digest}"


def _settle(folder: Path, key: str, pieces: Sequence[bytes | mmap.mmap]) -> None:
    """Lay bytes down under their key; they, their name and every folder above it last through a power cut."""
    place = folder / key
    partial = place.with_name(f"{place.name}#{secrets.randbits(62)}")  # obstore lists no such name
    for last in (False, True):
        place.parent.mkdir(parents=True, exist_ok=True)
        try:
            lay_down(partial, pieces)
            break
        except FileNotFoundError:  # another process has just deleted the last object there, and the folder with it
            if last:
                raise
    partial.replace(place)
    for each in place.parents:
        sync(each)
        if each == folder:
            break
