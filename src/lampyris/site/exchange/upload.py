"""A scan in the spool → the same bytes at the centre, committed; or the news that it was refused.

After any break the centre is asked what is missing and that is sent; what was confirmed is remembered as a convenience.
"""

import json
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

from lampyris.model import FormatError, LampyrisError
from lampyris.site.exchange.link import JOSE, JSON, Link, LinkError, Preempted, Refusal
from lampyris.site.store import Entry, Spool
from lampyris.transfer import Part, sign_manifest

_PASSING = ("TOKEN", "REPLAYED", "CODE")


class Upload:
    """The sending half. One thread steps; its chunks go in parallel."""

    def __init__(self, spool: Spool, link: Link, *, in_flight: int) -> None:
        self._spool, self._link, self._in_flight = spool, link, in_flight
        self._opened: set[str] = set()
        self._held: dict[str, set[str]] = {}

    def has_work(self, entry: Entry) -> bool:
        """Whether there is something to send now: a chunk that the centre may lack, or a commit."""
        scan = entry.scan
        if self._spool.place(scan).state == "packed":
            return True
        return not _digests(self._spool.parts(scan)) <= self._held.get(scan, set())

    def step(self, entry: Entry, give_way: Callable[[], bool]) -> bool:
        """Send what is there of a scan, and commit it when that is all. False when there was nothing to do.

        Raises LinkError when the centre cannot be reached or asks to wait, Preempted when `give_way` said so.
        """
        if not self.has_work(entry):
            return False
        try:
            self._send(entry, give_way)
        except Refusal as refusal:
            self._refused(entry, refusal)
        except FormatError as error:
            self._damaged(entry, error)
        return True

    def withdraw(self, entry: Entry) -> None:
        """Tell the centre that an open scan will not be finished; one that was never opened needs no word."""
        try:
            self._link.status("POST", f"/scans/{entry.scan}/withdraw")
        except Refusal as refusal:
            if refusal.problem.code not in ("NOT_FOUND", "CONFLICT"):
                raise
        self._forget(entry.scan)

    def _send(self, entry: Entry, give_way: Callable[[], bool]) -> None:
        spool, scan = self._spool, entry.scan
        if scan not in self._opened:
            skeleton = entry.skeleton.to_json()
            self._link.status("POST", "/scans", ok=(200, 201), kind=JSON, content=skeleton)
            self._opened.add(scan)
            spool.at("opened")
        whole = spool.place(scan).state == "packed"  # asked before the parts: they may be whole a moment later
        parts = spool.parts(scan)
        while missing := self._missing(scan, parts):
            self._put(scan, missing, give_way)
        self._held[scan] = _digests(parts)
        if whole:
            self._commit(scan)

    def _missing(self, scan: str, parts: tuple[Part, ...]) -> list[str]:
        body = json.dumps({"parts": [part.as_dict() for part in parts]})
        answer = self._link.object("POST", f"/scans/{scan}/parts", kind=JSON, content=body.encode())
        missing, wanted = answer.get("missing"), _digests(parts)
        if not isinstance(missing, list) or not all(each in wanted for each in missing):
            raise LinkError("the centre misses what was not announced: a machine in between?")
        return [str(each) for each in missing]

    def _put(self, scan: str, digests: list[str], give_way: Callable[[], bool]) -> None:
        """Bring chunks, several at a time; the first failure ends them all."""
        failed: list[BaseException] = []

        def one(digest: str) -> None:
            if failed:
                return
            try:
                data = self._spool.chunk(scan, digest)
                self._link.put(f"/scans/{scan}/chunks/{digest}", data, lambda: bool(failed) or give_way())
                self._spool.at("put")
            except (LampyrisError, Preempted) as error:
                failed.append(error)

        with ThreadPoolExecutor(self._in_flight, "put") as pool:
            for done in [pool.submit(one, digest) for digest in digests]:
                done.result()
        if failed:
            raise failed[0]

    def _commit(self, scan: str) -> None:
        signed = sign_manifest(self._spool.manifest(scan), self._link.site.key)
        try:
            path = f"/scans/{scan}/commit"
            status = self._link.status("POST", path, ok=(200, 202), kind=JOSE, content=signed.encode())
        except Refusal as refusal:
            if refusal.problem.code != "CHUNKS_MISSING":
                raise
            raise LinkError("the centre lacks chunks that it said it had: they are sent again") from refusal
        self._spool.at("commit")
        self._spool.move(scan, "committed")
        self._spool.note(scan, status.state, status.reason)
        self._forget(scan)

    def _refused(self, entry: Entry, refusal: Refusal) -> None:
        """A refusal ends the scan, unless it was the request that came at a bad time."""
        code = refusal.problem.code
        self._forget(entry.scan)
        if code == "NOT_FOUND":
            raise LinkError("the centre does not know the scan that it opened: it is opened again") from refusal
        if code in _PASSING:
            raise LinkError(f"the centre does not let this site in: {refusal.problem.detail} [{code}]") from refusal
        reason = (code, refusal.problem.detail)
        if code == "CONFLICT":
            status = self._link.status("GET", f"/scans/{entry.scan}")
            reason = status.reason or reason
        if self._spool.place(entry.scan).state in ("accepted", "packed"):
            self._spool.move(entry.scan, "refused", reason)

    def _damaged(self, entry: Entry, error: FormatError) -> None:
        """The disk lost a chunk: the scan is packed again from its source."""
        if self._spool.place(entry.scan).state == "packed":
            self._spool.move(entry.scan, "accepted", (error.code, str(error)))

    def _forget(self, scan: str) -> None:
        self._opened.discard(scan)
        self._held.pop(scan, None)


def _digests(parts: tuple[Part, ...]) -> set[str]:
    return {chunk.digest for part in parts for chunk in part.chunks}
