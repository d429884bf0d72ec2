"""What became of committed scans → their series in the spool, every file verified, and the centre told so."""

import hashlib
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from lampyris.durable import sync
from lampyris.model import LampyrisError
from lampyris.model.arrays import canonical_json
from lampyris.site.exchange.link import JSON, Link, LinkError, Refusal
from lampyris.site.store import Entry, Spool
from lampyris.site.store.files import telling
from lampyris.transfer import ReturnedFile, ReturnedSeries

_PAGE = 100
_AT_ONCE = 3
"""Files that are fetched at a time: with the chunks that are being sent, within the protocol's eight requests."""


class Returns:
    """The receiving half. One thread calls it."""

    def __init__(self, spool: Spool, link: Link) -> None:
        self._spool, self._link = spool, link

    def ask(self, entry: Entry) -> None:
        """What the centre says of a committed scan. One that it does not know any more is sent again."""
        scan = entry.scan
        try:
            status = self._link.status("GET", f"/scans/{scan}")
        except Refusal as refusal:
            if refusal.problem.code != "NOT_FOUND":
                raise
            self._spool.move(scan, "packed", ("LOST", "the centre does not know the scan: restored from a backup?"))
            return
        if status.state == "refused":
            self._spool.move(scan, "refused", status.reason)
        elif status.state == "open":
            self._spool.move(scan, "packed", ("LOST", "the centre has the scan open again: restored from a backup?"))
        else:
            self._spool.note(scan, status.state, status.reason)

    def waiting(self) -> Iterator[ReturnedSeries]:
        """Every series that the centre holds for this site, oldest first."""
        after = 0
        while True:
            answer = self._link.object("GET", "/returns", params={"after": after, "limit": _PAGE})
            listed = answer.get("series")
            if not isinstance(listed, list):
                raise LinkError("the list of returns is not what the protocol says: a machine in between?")
            series = [self._link.understood(lambda one=one: ReturnedSeries.of(one)) for one in listed]  # type: ignore[misc]
            yield from series
            if len(series) < _PAGE or series[-1].cursor <= after:
                return
            after = series[-1].cursor

    def fetch(self, series: ReturnedSeries) -> None:
        """Bring every file of a series that is not here yet; the scan is then `stored`."""
        failed: list[LampyrisError] = []

        def one(file: ReturnedFile) -> None:
            if failed:
                return
            try:
                self._bring(series.scan, file)
            except LampyrisError as error:
                failed.append(error)

        with ThreadPoolExecutor(_AT_ONCE, "fetch") as pool:
            for done in [pool.submit(one, file) for file in series.files]:
                done.result()
        if failed:
            raise failed[0]
        self._spool.store(series.scan, series)

    def acknowledge(self, entry: Entry) -> None:
        """Tell the centre that the series is home; only then are the packed bytes deleted."""
        scan = entry.scan
        body = canonical_json({"digest": self._spool.series(scan).digest()}).encode()
        try:
            self._link.status("POST", f"/scans/{scan}/acknowledge", kind=JSON, content=body)
        except Refusal as refusal:
            if refusal.problem.code == "CONFLICT":  # made anew meanwhile: what lies here is not what counts
                self._spool.move(scan, "committed")
                return
            if refusal.problem.code != "NOT_FOUND":  # gone there, and safe here
                raise
        self._spool.at("acknowledge")
        self._spool.move(scan, "returned")
        self._spool.release(scan)

    def _bring(self, scan: str, file: ReturnedFile) -> None:
        place = self._spool.file(scan, file.name)
        if not (place.exists() and place.stat().st_size == file.size and _sha256(place) == file.sha256):
            self._download(scan, file, place)
        self._spool.at("file")

    def _download(self, scan: str, file: ReturnedFile, place: Path) -> None:
        """One file, from where an earlier try ended. LinkError when what came is not what was promised."""
        partial = place.with_name(f".part-{place.name}")
        with telling("a returned file", "written"):
            have = partial.stat().st_size if partial.exists() else 0
            if have >= file.size:
                partial.unlink(missing_ok=True)
                have = 0
            self._spool.need(file.size - have)
            with partial.open("ab") as target:
                if file.size:
                    for at, piece in self._link.stream(f"/scans/{scan}/series/{file.name}", have):
                        if at + len(piece) > file.size:
                            break
                        target.truncate(at)
                        target.write(piece)
                target.flush()
                os.fsync(target.fileno())
            if partial.stat().st_size != file.size or _sha256(partial) != file.sha256:
                partial.unlink()
                raise LinkError(
                    f"a file of {file.size} bytes came in another form than its digest says: changed on the way?"
                )
            partial.replace(place)
            sync(place.parent)


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
