"""Scans on their way → one folder each, whose files are the state: every step is a rename, and none is ever undone.

spool/scans/SCAN/entry.json       what was asked, its pseudonyms, its sealed identity; never changed
                 state.json       where the scan is, and since when
                 chunks/DIGEST    the packed bytes, deleted when the series is home
                 packed.json      all chunks in order and the content's id: the scan is packed
                 series.json      the returned series;  series/ its files
                 sent/PACS        names of the files that a PACS has confirmed
spool/records/SCAN.json           what became of a scan whose folder is gone
"""

import dataclasses
import hashlib
import os
import shutil
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeAlias, cast

from lampyris.durable import sync
from lampyris.model import FormatError, InputError, ProgramError, StorageError
from lampyris.site.store import files
from lampyris.transfer import Chunk, Manifest, Part, ReturnedSeries, parse_parts

State: TypeAlias = Literal["accepted", "packed", "committed", "stored", "returned", "delivered", "refused", "rejected"]
NEXT: dict[State, tuple[State, ...]] = {
    "accepted": ("packed", "refused", "rejected"),
    "packed": ("accepted", "committed", "refused"),
    "committed": ("packed", "stored", "refused"),
    "stored": ("returned", "committed"),
    "returned": ("delivered",),
    "delivered": (),
    "refused": (),
    "rejected": (),
}
"""`accepted` its source is being packed; `packed` all bytes lie in the spool; `committed` the centre answers for it;
`stored` the series is here, verified; `returned` the centre knows; `delivered` every PACS has it. `refused` by the
centre; `rejected` by this site. Back to `accepted` when the disk damaged a chunk, to `packed` when the centre lost the
scan, to `committed` when it has made the series anew."""
PART = "scan.lraw"


def unseen(_point: str) -> None:
    """Named points of the journey, for whoever wants to know where a scan is; nobody does."""


@dataclass(frozen=True, slots=True)
class Source:
    """Where a scan came from: path, whether it still grew when it was found, and what it looked like (stat)."""

    path: Path
    arriving: bool = False
    fingerprint: str = ""


@dataclass(frozen=True, slots=True)
class Entry:
    """What is laid down when a scan is accepted; the skeleton opens it at the centre."""

    skeleton: Manifest
    source: Source
    identity: str = field(repr=False)
    accepted: float
    coding: tuple[str, str] = ("lossless", "as it came")

    @property
    def scan(self) -> str:
        return self.skeleton.scan

    @property
    def urgency(self) -> tuple[int, float]:
        """STAT first, then the oldest."""
        return ("stat", "routine", "batch").index(self.skeleton.priority), self.accepted

    def as_dict(self) -> dict[str, Any]:
        source = dataclasses.asdict(self.source) | {"path": str(self.source.path)}
        skeleton = self.skeleton.to_json().decode()
        plain = {name: getattr(self, name) for name in ("identity", "accepted", "coding")}
        return plain | {"skeleton": skeleton, "source": source}

    @staticmethod
    def of(values: dict[str, Any]) -> "Entry":
        source = values["source"]
        found = Source(Path(source["path"]), source["arriving"], source["fingerprint"])
        skeleton = Manifest.parse(values["skeleton"].encode())
        coding = cast(tuple[str, str], tuple(values["coding"]))
        return Entry(skeleton, found, values["identity"], values["accepted"], coding)


@dataclass(frozen=True, slots=True)
class Place:
    """Where a scan is, since when, why (code, message), and what the centre last said of it."""

    state: State
    since: float
    reason: tuple[str, str] | None = None
    centre: str | None = None


class Spool:
    """All scans of a site. One agent moves them; any process may accept and look. Raises StorageError."""

    def __init__(
        self, folder: Path, *, now: Callable[[], float], free_bytes: int = 0, at: Callable[[str], None] = unseen
    ) -> None:
        self.folder, self.now, self.at = folder, now, at
        self._free_bytes = free_bytes
        self._scans, self._records = folder / "scans", folder / "records"
        self._known: dict[str, Entry] = {}
        self._growing: dict[str, list[Chunk]] = {}
        self._lock = threading.RLock()
        self.damaged: set[str] = set()
        """Scans whose own files are not readable any more: a failing disk. They hold up no other."""
        for each in (self._scans, self._records):
            with files.telling(each.name, "made"):
                each.mkdir(mode=0o700, parents=True, exist_ok=True)

    def recover(self) -> None:
        """Clear away what a killed agent left; only for the one agent that moves scans."""
        files.sweep(self.folder)
        for record in self._records.glob("*.json"):
            if (self._scans / record.stem).exists():
                files.remove_folder(self._scans / record.stem)

    def accept(self, entry: Entry, state: State = "accepted") -> bool:
        """Take a scan into the spool; False when it is there, or was."""
        if (self._records / f"{entry.scan}.json").exists():
            return False

        def fill(folder: Path) -> None:
            (folder / "chunks").mkdir(mode=0o700)
            files.write_json(folder / "entry.json", entry.as_dict())
            files.write_json(folder / "state.json", {"state": state, "since": self.now()})
            self.at("accepting")

        self.need(1 << 20)
        new = files.make_folder(self._scans / entry.scan, fill)
        self.at("accepted")
        return new

    def renew(self, scan: str, entry: Entry) -> None:
        """Give the bytes of a refused scan to a new one, without a copy; the old one is finished."""
        old = self._scans / scan

        def fill(folder: Path) -> None:
            (folder / "chunks").mkdir(mode=0o700)
            files.write_json(folder / "entry.json", entry.as_dict())
            state = "packed" if (old / "packed.json").exists() else "accepted"
            files.write_json(folder / "state.json", {"state": state, "since": self.now()})
            for chunk in sorted((old / "chunks").iterdir()):
                os.link(chunk, folder / "chunks" / chunk.name)
            sync(folder / "chunks")
            if state == "packed":
                os.link(old / "packed.json", folder / "packed.json")

        files.make_folder(self._scans / entry.scan, fill)
        self.at("renewed")
        self.finish(scan)

    def entries(self) -> list[Entry]:
        """Every scan in the spool, the most urgent first."""
        found = []
        for folder in self._scans.iterdir():
            if folder.name.startswith(files.TEMPORARY):
                continue
            if folder.name not in self._known:
                try:
                    self._known[folder.name] = Entry.of(files.read_json(folder / "entry.json"))
                except FileNotFoundError:  # it was finished while we looked
                    continue
                except (InputError, KeyError, TypeError):
                    self.damaged.add(folder.name)
                    continue
            found.append(self._known[folder.name])
        return sorted(found, key=lambda entry: entry.urgency)

    def place(self, scan: str) -> Place:
        """Where a scan is. Raises FileNotFoundError when it is not in the spool."""
        values = files.read_json(self._scans / scan / "state.json")
        reason = values.get("reason")
        return Place(values["state"], values["since"], None if reason is None else tuple(reason), values.get("centre"))

    def having(self, *states: State) -> list[Entry]:
        """Scans in one of these states, the most urgent first."""
        found = []
        for entry in self.entries():
            try:
                if self.place(entry.scan).state in states:
                    found.append(entry)
            except FileNotFoundError:  # it was finished while we looked
                continue
            except (InputError, KeyError):
                self.damaged.add(entry.scan)
        return found

    def move(self, scan: str, state: State, reason: tuple[str, str] | None = None) -> None:
        """One step of the journey, on the disk when this ends."""
        with self._lock:
            before = self.place(scan).state
            if state not in NEXT[before]:
                raise ProgramError(f"scan {scan[:8]}… cannot go from {before} to {state}")
            self.at(f"before {state}")
            files.write_json(self._scans / scan / "state.json", _stated(Place(state, self.now(), reason)))
        self.at(state)

    def note(self, scan: str, centre: str, reason: tuple[str, str] | None) -> None:
        """What the centre says of a scan whose state does not change by it."""
        with self._lock:
            place = self.place(scan)
            if (place.centre, place.reason) != (centre, reason):
                told = dataclasses.replace(place, centre=centre, reason=reason)
                files.write_json(self._scans / scan / "state.json", _stated(told))

    def begin(self, scan: str) -> None:
        """Packing starts from the front, also after a break: what is there already is not written twice."""
        with self._lock:
            self._growing[scan] = []

    def put_chunk(self, scan: str, data: bytes) -> None:
        """The next chunk of a scan that is being packed."""
        chunk = Chunk.of(data)
        path = self._chunk_path(scan, chunk.digest)
        if not path.exists() or path.stat().st_size != chunk.size:
            self.need(len(data))
            with files.growing(path) as file:
                file.write(data)
        self.at("chunk")
        with self._lock:
            self._growing[scan].append(chunk)

    def end(self, scan: str, content: str, fingerprint: str) -> None:
        """All chunks are there: the scan is packed, and its content has this id."""
        sync(self._scans / scan / "chunks")
        with self._lock:
            part = Part(PART, tuple(self._growing[scan]))
            whole = {"parts": [part.as_dict()], "content": content, "fingerprint": fingerprint}
            files.write_json(self._scans / scan / "packed.json", whole)
            self.at("packing")
            self.move(scan, "packed")
            del self._growing[scan]

    def parts(self, scan: str) -> tuple[Part, ...]:
        """What can be sent so far."""
        with self._lock:
            if chunks := tuple(self._growing.get(scan, ())):
                return (Part(PART, chunks),)
        return () if self.place(scan).state == "accepted" else self.manifest(scan).parts

    def manifest(self, scan: str) -> Manifest:
        """The manifest of a packed scan."""
        skeleton = self.entry(scan).skeleton
        packed = files.read_json(self._scans / scan / "packed.json")
        return dataclasses.replace(skeleton, parts=parse_parts(packed["parts"]), content=packed["content"])

    def chunk(self, scan: str, digest: str) -> bytes:
        """The bytes of a chunk. Raises FormatError when the disk has changed or lost them; they are gone then."""
        path = self._chunk_path(scan, digest)
        try:
            with files.telling("a chunk", "read"):
                data = path.read_bytes()
        except FileNotFoundError as error:
            raise FormatError(f"chunk {digest[:12]}… is not in the spool: deleted by hand?") from error
        if hashlib.sha256(data).hexdigest() != digest:
            path.unlink()
            raise FormatError(f"chunk {digest[:12]}… is not what was written ({len(data)} bytes): a failing disk?")
        return data

    def series(self, scan: str) -> ReturnedSeries:
        return ReturnedSeries.of(files.read_json(self._scans / scan / "series.json"))

    def file(self, scan: str, name: str) -> Path:
        """Where a file of the returned series lies; the folder above it is made."""
        path = self._scans / scan / "series" / name
        with files.telling("the series' folder", "made"):
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        return path

    def content(self, scan: str, name: str, digest: str) -> bytes:
        """A file of the returned series. Raises StorageError when it is not what was stored."""
        with files.telling("a returned file", "read"):
            data = self.file(scan, name).read_bytes()
        if hashlib.sha256(data).hexdigest() != digest:
            raise StorageError(f"a file of a returned series ({len(data)} bytes) changed in the spool: a failing disk?")
        return data

    def store(self, scan: str, series: ReturnedSeries) -> None:
        """Every file of the series is here: nothing of it is asked for again."""
        files.write_json(self._scans / scan / "series.json", series.as_dict())
        self.at("storing")
        self.move(scan, "stored")

    def release(self, scan: str) -> None:
        """Delete the packed bytes: the series is home, and the centre knows."""
        shutil.rmtree(self._scans / scan / "chunks", ignore_errors=True)

    def sent(self, scan: str, pacs: str) -> list[str]:
        """Names of the files that a PACS has confirmed."""
        try:
            return [str(each) for each in files.read_json(self._scans / scan / "sent" / pacs)["names"]]
        except FileNotFoundError:
            return []

    def mark_sent(self, scan: str, pacs: str, names: list[str]) -> None:
        folder = self._scans / scan / "sent"
        with files.telling("the list of what was sent", "made"):
            folder.mkdir(mode=0o700, exist_ok=True)
        files.write_json(folder / pacs, {"names": sorted({*self.sent(scan, pacs), *names})})

    def finish(self, scan: str) -> None:
        """Keep a record of a scan whose journey has ended, and delete the rest."""
        entry, place = self.entry(scan), self.place(scan)
        try:
            fingerprint = files.read_json(self._scans / scan / "packed.json")["fingerprint"]
        except FileNotFoundError:
            fingerprint = entry.source.fingerprint
        self.record(scan, place, dataclasses.replace(entry.source, fingerprint=fingerprint))
        self.at("recorded")
        files.remove_folder(self._scans / scan)
        self._known.pop(scan, None)
        self._growing.pop(scan, None)

    def record(self, scan: str, place: Place, source: Source) -> None:
        """What became of a scan that is not in the spool, so that its source is not taken again."""
        told = {"scan": scan, "source": str(source.path), "fingerprint": source.fingerprint}
        files.write_json(self._records / f"{scan}.json", told | _stated(place))

    def records(self) -> dict[str, tuple[Place, Source]]:
        found = {}
        for path in self._records.glob("*.json"):
            values = files.read_json(path)
            reason = None if values.get("reason") is None else tuple(values["reason"])
            place = Place(values["state"], values["since"], reason)
            found[path.stem] = (place, Source(Path(values["source"]), fingerprint=values["fingerprint"]))
        return found

    def forget(self, older_than: float) -> None:
        """Delete records of before that moment whose source is gone."""
        for scan, (place, source) in self.records().items():
            if place.since < older_than and not source.path.exists():
                (self._records / f"{scan}.json").unlink(missing_ok=True)

    def fingerprint(self, scan: str) -> str:
        """What the source looked like when it was packed, or else when it was found."""
        try:
            return str(files.read_json(self._scans / scan / "packed.json")["fingerprint"])
        except FileNotFoundError:
            return self.entry(scan).source.fingerprint

    def stored_bytes(self, scan: str) -> int:
        """Bytes of a scan's chunks in the spool."""
        folder = self._scans / scan / "chunks"
        return sum(each.stat().st_size for each in folder.iterdir()) if folder.exists() else 0

    def entry(self, scan: str) -> Entry:
        if scan not in self._known:
            self._known[scan] = Entry.of(files.read_json(self._scans / scan / "entry.json"))
        return self._known[scan]

    def _chunk_path(self, scan: str, digest: str) -> Path:
        return self._scans / scan / "chunks" / digest

    def need(self, size: int) -> None:
        """Leave the last of the disk to the small files that tell where scans are."""
        free = shutil.disk_usage(self.folder).free
        if free - size < self._free_bytes:
            raise StorageError(
                f"the spool's disk has {free / 1e9:.2f} GB free and {self._free_bytes / 1e9:.2f} GB are kept:"
                " free some space; the scan waits where it is"
            )


def _stated(place: Place) -> dict[str, Any]:
    told = {"state": place.state, "since": place.since, "reason": place.reason, "centre": place.centre}
    return {name: value for name, value in told.items() if value is not None}
