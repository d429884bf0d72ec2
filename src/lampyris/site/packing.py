"""Accepted scans → their packed bytes in the spool, chunk by chunk, while they arrive or while they are read.

Packing starts from the front after every break; the same scan gives the same bytes, and what is there is not written
twice.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import cast

from lampyris import raw
from lampyris.model import InputError, StorageError
from lampyris.raw import Decision
from lampyris.raw.codec.policy import CodingName
from lampyris.raw.container import recognises
from lampyris.site.config import CentreLink
from lampyris.site.intake import ARRIVING, fingerprint_of, order_of, without_names
from lampyris.site.store import Entry, Spool

IDLE_S = 6 * 3600.0
"""A scan that arrives and has not grown for so long will not be finished."""
AWAY_S = 7 * 86400.0
"""A source that was accepted and has been away for so long, as on a share that is not mounted, will not come back."""


class Packer:
    """Packs several scans by turns, so that one that still arrives keeps no other waiting. One thread steps it."""

    def __init__(self, spool: Spool, link: CentreLink) -> None:
        self._spool, self._link = spool, link
        self._work: dict[str, Iterator[bool]] = {}

    def step(self, entry: Entry) -> bool:
        """Pack the next chunk of a scan; False when there is none now.

        The scan ends as `packed`, or as `rejected` when its sender has to mend it. Raises StorageError, after which
        the next step begins the scan from the front.
        """
        scan = entry.scan
        if scan not in self._work:
            self._spool.begin(scan)
            self._work[scan] = self._packing(entry)
        try:
            return next(self._work[scan])
        except StopIteration:
            del self._work[scan]
            return True
        except InputError as error:
            del self._work[scan]
            self._spool.move(scan, "rejected", (error.code, without_names(str(error), entry.source.path)))
            return True
        except StorageError as error:
            del self._work[scan]
            raise StorageError(without_names(str(error), entry.source.path)) from error
        except BaseException:
            del self._work[scan]
            raise

    def keep(self, scans: set[str]) -> None:
        """Let go of every other scan: what is not to be packed any more."""
        for scan in set(self._work) - scans:
            del self._work[scan]

    def _packing(self, entry: Entry) -> Iterator[bool]:
        """True for each chunk, False for each look that found nothing new."""
        path, fingerprint = entry.source.path, entry.source.fingerprint
        if entry.source.arriving:
            yield from self._followed(entry)
            fingerprint = fingerprint_of(path, order_of(path))
            self._spool.begin(entry.scan)  # once more through the file that is whole: nothing is taken on trust
        elif not path.exists():
            self._missed(entry)
        content = ""
        for data, found in _pieces(path, entry, self._link.chunk_bytes):
            self._spool.put_chunk(entry.scan, data)
            content = found
            yield True
        if not path.exists() or fingerprint_of(path, order_of(path)) != fingerprint:
            raise InputError("the scan changed while it was packed: taken before it was whole?")
        self._spool.end(entry.scan, content, fingerprint)

    def _missed(self, entry: Entry) -> None:
        """The source is not there: wait for it while there is hope."""
        if self._spool.now() - entry.accepted > AWAY_S:
            raise InputError(
                f"the scan's source has been away for {AWAY_S / 86400:g} days: deleted before it was packed?"
            )
        raise StorageError("the scan's source is away: a share that is not mounted, or deleted before it was packed?")

    def _followed(self, entry: Entry) -> Iterator[bool]:
        """Take what is appended to an arriving scan in whole chunks, until it has its final name."""
        final = entry.source.path
        growing = final.with_name(final.name + ARRIVING)
        offset, seen, grown = 0, 0, self._spool.now()
        while not final.exists():
            data = _read(growing, offset, self._link.chunk_bytes)
            if data is not None and len(data) == self._link.chunk_bytes:
                self._spool.put_chunk(entry.scan, data)
                offset += len(data)
                yield True
                continue
            if data is not None and offset + len(data) > seen:
                seen, grown = offset + len(data), self._spool.now()
            if data is None and not final.exists() and growing.parent.exists():
                raise InputError("the arriving scan was deleted before it was whole: broken off at the scanner?")
            if self._spool.now() - grown > IDLE_S:
                raise InputError(f"the arriving scan has not grown for {IDLE_S / 3600:g} h: broken off at the scanner?")
            yield False


def _pieces(path: Path, entry: Entry, chunk_bytes: int) -> Iterator[tuple[bytes, str]]:
    """Chunks of a packed scan, and with the last one the id of its content."""
    if recognises(path) and raw.info(path).decision is not None:
        content, offset = raw.info(path).id, 0
        while data := _read(path, offset, chunk_bytes) or b"":
            yield data, content
            offset += len(data)
        return
    coding, reason = entry.coding
    for part in raw.pack(raw.read(path), Decision(cast(CodingName, coding), reason), part_bytes=chunk_bytes):
        yield part.content, part.scan_id


def _read(path: Path, offset: int, size: int) -> bytes | None:
    """A chunk of a file from `offset` on, None when there is no such file."""
    try:
        with path.open("rb") as file:
            file.seek(offset)
            return file.read(size)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise StorageError(f"the scan cannot be read ({error.strerror}): a share that went away?") from error
