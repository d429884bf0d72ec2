"""What the site's spool and the centre's events tell of one scan → each thing said once, in words, as it happens."""

from pathlib import Path

from lampyris.cli.up.show import Show
from lampyris.model import InputError, LampyrisError, MachineError, ProgramError
from lampyris.site import Spool
from lampyris.site.store import Entry, Place
from lampyris.transfer import ScanStatus


class Journey:
    """One scan, from the file that the scanner wrote to the series at home."""

    def __init__(self, source: Path, spool: Spool, show: Show) -> None:
        self._source, self._spool, self._show = source, spool, show
        self._told: set[str] = set()
        self._station: str | None = None
        self.scan: str | None = None
        self.ended: str | None = None
        """`delivered`, `refused`, `rejected` or `failed`; None while it is under way."""
        self.reason = ("", "")

    def look(self) -> None:
        """See how far it is at its site."""
        found = self._found()
        if found is None:
            return
        place, entry = found
        if entry is not None:
            self._at_site(entry, place)
        if place.state in ("delivered", "refused", "rejected"):
            self._end(place.state, place.reason)
        elif place.centre == "failed":
            self._end("failed", place.reason)

    def hear(self, status: ScanStatus) -> None:
        """What the centre tells of it."""
        if status.scan != self.scan:
            return
        if status.state == "open":
            self._once("centre", "open", "opened the scan and asks for the chunks that it lacks")
            self._show.now("centre", f"has received {_megabytes(status.received_bytes)}")
        elif status.state == "queued" and status.reason is not None:
            self._station = None
            self._show.said("centre", f"queues it again: {_because(status.reason)}", "yellow")
        elif status.state == "queued":
            size = _megabytes(status.received_bytes)
            self._once("centre", "queued", f"has all {size}, verified the site's signature, and queued the scan")
        elif status.state == "running" and status.station is None:
            self._once("worker", "running", "takes the scan")
        elif status.state == "running":
            self._at_station(str(status.station), status.progress)
        elif status.state == "done" and not status.returned:
            self._once("centre", "done", "keeps the series until the site has it")
        elif status.state == "done":
            self._once("centre", "returned", "knows that the series is home")

    def error(self) -> LampyrisError | None:
        """Why no series comes home, by who can put that right; None when one did."""
        if self.ended in (None, "delivered"):
            return None
        if self.ended in ("refused", "rejected"):
            return InputError(f"the scan was {self.ended}: {_because(self.reason)}")
        blame = ProgramError if self.reason[0] == ProgramError.code else MachineError
        return blame(f"the centre failed: {_because(self.reason)}")

    def _at_station(self, station: str, done: float) -> None:
        if station != self._station:
            self._station = station
            self._show.said("worker", station)
        self._show.now("worker", station, done)

    def _at_site(self, entry: Entry, place: Place) -> None:
        self._once("site", "accepted", f"accepted it as {entry.scan[:8]}…; who was scanned stays here, under seal")
        size = self._spool.stored_bytes(entry.scan)
        if place.state == "packed":
            coding, reason = entry.coding
            self._once("site", "packed", f"packed it into {_megabytes(size)}: {coding}, {reason}")
        if place.state in ("stored", "returned"):
            series = self._spool.series(entry.scan).files
            size = sum(each.size for each in series)
            self._once("site", "home", f"has {len(series)} files, {_megabytes(size)}, every digest verified")

    def _found(self) -> tuple[Place, Entry | None] | None:
        """Where the scan of this source is: under way, or in the records of what has ended."""
        for entry in self._spool.entries():
            if entry.source.path == self._source:
                self.scan = entry.scan
                try:
                    return self._spool.place(entry.scan), entry
                except FileNotFoundError:  # it was finished while we looked
                    break
        for place, source in self._spool.records().values():
            if source.path == self._source:
                return place, None
        return None

    def _end(self, state: str, reason: tuple[str, str] | None) -> None:
        self.ended, self.reason = state, reason or ("", "no reason was told")

    def _once(self, who: str, key: str, text: str) -> None:
        if key not in self._told:
            self._told.add(key)
            self._show.said(who, text)


def _megabytes(size: int) -> str:
    return f"{size / 1e6:.1f} MB"


def _because(reason: tuple[str, str]) -> str:
    return f"{reason[1]} [{reason[0]}]"
