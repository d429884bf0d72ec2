"""What lies in a folder, and what is asked for it → scans that are accepted into the spool, or rejected with a reason.

A scan's id is made of its bytes and its order, so that the same file found twice is one scan.
"""

import dataclasses
import hashlib
import secrets
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal, cast

from lampyris import raw
from lampyris.model import FormatError, InputError, RawScan, StorageError, Study
from lampyris.model.arrays import canonical_json
from lampyris.raw.container import recognises
from lampyris.site.config import Config, Purpose, Watch
from lampyris.site.identity import Vault, study_in, study_of
from lampyris.site.report import note_calibration
from lampyris.site.store import Entry, Place, Source, Spool
from lampyris.transfer import PRIORITIES, Manifest, PlannedImage, Priority, limits, parse_object

ORDER, ARRIVING = ".json", ".arriving"
"""NAME.json asks for the scan NAME; NAME.arriving is NAME while it grows: a packed `.lraw` that is only appended to."""
_PURPOSES = ("clinical", "phantom", "calibration", "quality")
_FOLLOWED = ""
"""Instead of a fingerprint: the scan still grows, and the spool follows it under the name that it has or will have."""
_ORDER_BYTES = 64 << 10
_CODED = {4.0: "sigma/4", 2.0: "sigma/2"}


class OrderError(InputError):
    """An order beside a scan, or given with it, is not what can be asked for."""

    code = "INPUT_ORDER"


@dataclass(frozen=True, slots=True)
class Order:
    """What is asked for one scan. A study that says nothing is looked for in the scan itself."""

    purpose: Purpose = "clinical"
    priority: Priority = "routine"
    recipe: str | None = None
    image: PlannedImage | None = None
    study: Study = field(default_factory=Study)

    def __post_init__(self) -> None:
        if self.purpose not in _PURPOSES or self.priority not in PRIORITIES:
            known = f"{', '.join(_PURPOSES)}; {', '.join(PRIORITIES)}"
            raise OrderError(f"an order's purpose or priority is not known; known are {known}")
        if self.recipe is not None and not limits.TOKEN.fullmatch(self.recipe):
            raise OrderError(f"an order's recipe of {len(self.recipe)} characters is no name of a recipe")

    @staticmethod
    def parse(data: bytes, purpose: Purpose = "clinical") -> "Order":
        """An order in JSON; `purpose` where it says none. Messages name entries and no values."""
        values = parse_object(data, largest=_ORDER_BYTES, what="the order")
        known = [each.name for each in dataclasses.fields(Order)]
        if unknown := sorted(set(values) - set(known)):
            raise OrderError(f"the order holds {unknown[0][:40]!a}; known are {', '.join(known)}")
        texts = {name: values.get(name) for name in known if name not in ("study", "image")}
        if any(not isinstance(text, str | None) for text in texts.values()):
            raise OrderError("the order's purpose, priority and recipe are texts")
        return Order(
            cast(Purpose, texts["purpose"] or purpose),
            cast(Priority, texts["priority"] or "routine"),
            texts["recipe"],
            None if values.get("image") is None else PlannedImage.of(values["image"]),
            study_of(values.get("study") or {}),
        )


class Intake:
    """Accepts scans for one site."""

    def __init__(self, config: Config, vault: Vault, site: str, spool: Spool) -> None:
        self._config, self._vault, self._site, self._spool = config, vault, site, spool
        self._known: dict[Path, str] = {}
        self._settling: dict[Path, tuple[str, float]] = {}
        for _, source in spool.records().values():
            if source.fingerprint:
                self._known[source.path] = source.fingerprint
        for entry in spool.entries():
            self._known[entry.source.path] = spool.fingerprint(entry.scan)

    def take(self, path: Path, order: Order, *, again: bool = False) -> tuple[str, bool]:
        """Accept a scan that is whole: its id, and whether it is new to this site. Raises InputError, StorageError.

        `again` sends it once more, as a scan of its own.
        """
        scan = raw.read(path)
        entry = self._entry(path, scan, order, secrets.token_hex(16) if again else "")
        new = self._spool.accept(entry)
        if new and order.purpose == "calibration":
            note_calibration(self._config.folder, scan.acquisition.StationName, self._spool.now())
        return entry.scan, new

    def look(self, watch: Watch) -> list[str]:
        """Accept every scan in the watched folder that is whole, or that begins to arrive: the ids of the new ones."""
        new = []
        for path in self._candidates(watch):
            arriving = path.name.endswith(ARRIVING)
            final = path.with_name(path.name.removesuffix(ARRIVING)) if arriving else path
            asked = order_of(final)
            fingerprint = _FOLLOWED if arriving else fingerprint_of(path, asked)
            if self._known.get(final) in (fingerprint, _FOLLOWED):
                continue
            if not self._complete(watch, final, asked, fingerprint):
                continue
            scan = self._accept(watch, path, asked, fingerprint)
            if scan is not None:
                self._known[final] = fingerprint
                new.extend([scan] if scan else [])
        return new

    def packed(self, entry: Entry) -> None:
        """A scan's bytes are in the spool: from now on its source is looked at only if it changes."""
        self._known[entry.source.path] = self._spool.fingerprint(entry.scan)
        if self._config.watch is not None and self._config.watch.after == "delete":
            _delete(entry.source.path, self._config.watch.folder)

    def dropped(self, entry: Entry) -> None:
        """A scan that arrived will not be finished: what lies under its name is looked at anew."""
        if entry.source.arriving:
            self._known.pop(entry.source.path, None)

    def _candidates(self, watch: Watch) -> Iterator[Path]:
        try:
            found = sorted(watch.folder.absolute().iterdir())
        except OSError as error:
            raise StorageError(f"the watched folder cannot be read ({error.strerror}): not mounted?") from error
        names = {path.name for path in found}
        for path in found:
            is_order = path.name.endswith(ORDER) and path.is_file()
            if not path.name.startswith(".") and not is_order and f"{path.name}{ARRIVING}" not in names:
                yield path

    def _complete(self, watch: Watch, final: Path, asked: Path, fingerprint: str) -> bool:
        if watch.complete == "order":
            return asked.exists()
        if not fingerprint:
            return True
        now = self._spool.now()
        before, since = self._settling.get(final, ("", now))
        self._settling[final] = (fingerprint, since if before == fingerprint else now)
        return before == fingerprint and now - since >= watch.settle_s

    def _accept(self, watch: Watch, path: Path, asked: Path, fingerprint: str) -> str | None:
        """The id of a new scan, "" when it is known or rejected, None when it is too early to tell."""
        try:
            order = Order.parse(asked.read_bytes(), watch.purpose) if asked.exists() else Order(watch.purpose)
            if fingerprint:
                scan, new = self.take(path, order)
                return scan if new else ""
            entry = self._arriving(path, order)
            if entry is None:
                return None
            return entry.scan if self._spool.accept(entry) else ""
        except InputError as error:
            if path.name.endswith(ARRIVING):  # what is wrong with it is told when it is whole
                return None
            key = hashlib.sha256(f"{path}\0{fingerprint}".encode()).hexdigest()[:32]
            reason = (error.code, without_names(str(error), path))
            self._spool.record(key, Place("rejected", self._spool.now(), reason), Source(path, fingerprint=fingerprint))
            return ""
        except StorageError as error:
            raise StorageError(without_names(str(error), path)) from error
        except FileNotFoundError:  # moved while we looked
            return None
        except OSError as error:
            raise StorageError(f"a scan cannot be read ({error.strerror or type(error).__name__})") from error

    def _entry(self, path: Path, scan: RawScan, order: Order, salt: str) -> Entry:
        """A whole scan, looked into and decided upon; its counts are not read yet, its bytes are."""
        path = path.absolute()
        packed = raw.info(path).decision if recognises(path) else None
        study = order.study if order.study != Study() else study_in(path)
        if packed is not None:
            coding = (packed["coding"], packed["reason"])
        else:
            decision = self._config.policy.policy().decide(scan, purpose=order.purpose, link_mbit_per_s=self._speed())
            coding = (decision.coding, decision.reason)
        # identity goes into the id by a digest of which 128 bits are kept: the raw bytes in it cannot be guessed
        said = {name: value for name, value in dataclasses.asdict(order).items() if name != "image" or value}
        asked = canonical_json([self._site, said, salt])  # what was sent before orders knew of an image keeps its id
        found = hashlib.sha256(f"{_content(path)}\0{asked}".encode()).hexdigest()[:32]
        source = Source(path, fingerprint=fingerprint_of(path, order_of(path)))
        return self._made(found, source, dataclasses.replace(order, study=study), coding)

    def _arriving(self, path: Path, order: Order) -> Entry | None:
        """A scan of which the first turn is there, None before."""
        begun = raw.arrived(path)
        if begun is None:
            return None
        source = Source(path.with_name(path.name.removesuffix(ARRIVING)), arriving=True)
        return self._made(secrets.token_hex(16), source, order, (_coding_of(begun), "as the scanner packed it"))

    def _made(self, scan: str, source: Source, order: Order, coding: tuple[str, str]) -> Entry:
        if order.purpose == "clinical" and not order.study.PatientID:
            raise OrderError(
                "a clinical scan without PatientID: neither its order nor the scan says whose it is; the series could"
                " not be given back to a patient. If it is a phantom, say so in the order's purpose"
            )
        identity = self._vault.seal(scan, order.study)
        now = self._spool.now()
        began = min([now, *(each.stat().st_mtime for each in _files(source.path) if not source.arriving)])
        moment = datetime.fromtimestamp(began, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        packing: tuple[tuple[str, Any], ...] = (
            ("codec", "htj2k"),
            ("coding", coding[0]),
            ("reason", _plain(coding[1])),
        )
        skeleton = Manifest(
            scan=scan,
            site=self._site,
            started=moment,
            format="lraw",
            priority=order.priority,
            recipe=order.recipe,
            image=order.image,
            packing=packing,
            study=self._vault.pseudonyms(order.study),
            sealed=identity if self._config.identity == "sealed" else None,
        )
        return Entry(skeleton, source, identity, now, coding)

    def _speed(self) -> float | None:
        """What the line, or the limit on it, lets through."""
        centre = self._config.centre
        known = [each for each in (centre.link_mbit_per_s, centre.limit_mbit_per_s) if each]
        return min(known) if known else None


def order_of(path: Path) -> Path:
    """Where the order of a scan lies, if it lies beside it."""
    return path.with_name(path.name + ORDER)


def fingerprint_of(path: Path, *others: Path) -> str:
    """What a file or folder looks like without being read: names, sizes and times; StorageError when it is gone."""
    digest = hashlib.sha256()
    try:
        for each in (*_files(path), *(other for other in others if other.exists())):
            found = each.stat()
            digest.update(f"{each}\0{found.st_size}\0{found.st_mtime_ns}\0".encode())
    except OSError as error:
        raise StorageError(f"a scan cannot be looked at ({error.strerror}): is it being moved?") from error
    return digest.hexdigest()


def without_names(text: str, path: Path) -> str:
    """A message without the scan's file name, which may be a patient's."""
    for name in sorted({path.name, path.stem, path.name.removesuffix(ARRIVING)}, key=len, reverse=True):
        text = text.replace(name, "the scan")
    return text


def _content(path: Path) -> str:
    """SHA-256 of all bytes of a file or folder, with the names in it."""
    digest = hashlib.sha256()
    for each in _files(path):
        name = each.relative_to(path).as_posix() if path.is_dir() else ""
        with each.open("rb") as file:
            digest.update(f"{name}\0{hashlib.file_digest(file, 'sha256').hexdigest()}\0".encode())
    return digest.hexdigest()


def _files(path: Path) -> list[Path]:
    return sorted(each for each in path.rglob("*") if each.is_file()) if path.is_dir() else [path]


def _plain(text: str) -> str:
    """As the protocol lets it stand in a manifest: printable ASCII, at most 128 characters."""
    return "".join(each if " " <= each <= "~" else "?" for each in text)[:128]


def _coding_of(scan: RawScan) -> Literal["lossless", "sigma/4", "sigma/2"]:
    if scan.coding is None:
        return "lossless"
    name = _CODED.get(scan.coding.steps_per_sigma)
    if name is None:
        raise FormatError(f"the scan is coded in {scan.coding.steps_per_sigma:g} steps per σ: no coding that we know")
    return cast(Literal["sigma/4", "sigma/2"], name)


def _delete(path: Path, folder: Path) -> None:
    """Delete a source that is in the spool, with its order; only from the watched folder itself."""
    if path.parent != folder.absolute():
        return
    try:
        for each in sorted(path.rglob("*"), reverse=True) if path.is_dir() else ():
            each.rmdir() if each.is_dir() else each.unlink()
        path.rmdir() if path.is_dir() else path.unlink(missing_ok=True)
        order_of(path).unlink(missing_ok=True)
    except OSError as error:
        raise StorageError(
            f"a scan that was packed cannot be deleted ({error.strerror}): a read-only folder?"
        ) from error
