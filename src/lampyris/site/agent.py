"""A configuration and an enrolled site → scans on their way, in four threads that meet in the spool alone.

Each thread does rounds; a round asks the spool what is due, the most urgent first, and does a small piece of it. What
fails waits for its own time and holds up nothing else.
"""

import dataclasses
import functools
import hashlib
import json
import threading
import traceback
from collections.abc import Callable

import httpx
import structlog

from lampyris.model import FormatError, LampyrisError, StorageError
from lampyris.site.config import Config, Pacs, Watch
from lampyris.site.exchange import Link, LinkError, Preempted, Refusal, Returns, Site, Upload
from lampyris.site.forward import BATCH, DICOM_SUFFIX, Item, PacsError, deliver, takes
from lampyris.site.identity import Vault, restored
from lampyris.site.intake import Intake
from lampyris.site.packing import Packer
from lampyris.site.patience import Patience, Surroundings
from lampyris.site.report import report_of
from lampyris.site.store import Entry, Source, Spool, alone, files
from lampyris.transfer import Manifest, ReturnedSeries

HEARTBEAT = "agent.json"
_HEARTBEAT_S = 2.0
_IDLE_POLLS = 30
_DAY_S = 86400.0
_REPORT_S = 60.0


class Agent:
    """One site's agent. Its rounds may be called one by one; `run` calls them until it is told to stop."""

    def __init__(self, config: Config, site: Site, http: httpx.Client, outside: Surroundings | None = None) -> None:
        outside = outside or Surroundings()
        self._config, self._outside = config, outside
        self.vault = Vault.open(config.folder)
        free = int(config.spool.free_gb * 1e9)
        self.spool = Spool(config.folder / "spool", now=outside.now, free_bytes=free, at=outside.at)
        up, down = config.centre.limit_mbit_per_s * 1e6 / 8, config.centre.limit_down_mbit_per_s * 1e6 / 8
        self.link = Link(http, site, now=outside.now, rate=up, rate_down=down)
        self.intake = Intake(config, self.vault, site.enrolment.site, self.spool)
        self._packer = Packer(self.spool, config.centre)
        self._upload = Upload(self.spool, self.link, in_flight=config.centre.in_flight)
        self._returns = Returns(self.spool, self.link)
        self._patience = Patience(outside)
        self._report_s = _REPORT_S
        self._stat, self._stopping = threading.Event(), threading.Event()
        self._log = structlog.get_logger()

    def run(self, stop: threading.Event) -> None:
        """Work until `stop` is set. Raises StorageError when another agent holds the spool."""
        poll_s = 1.0 if self._config.watch is None else self._config.watch.poll_s
        rounds = (
            (self.take_in, poll_s),
            (self.send, 0.5),
            (self.fetch, self._config.centre.poll_s),
            (self.forward, 1.0),
        )
        with alone(self.spool.folder):
            self.spool.recover()
            threads = [threading.Thread(target=self._loop, args=each, name=each[0].__name__) for each in rounds]
            for thread in threads:
                thread.start()
            try:
                while not stop.wait(_HEARTBEAT_S):
                    self.beat()
            finally:
                self._stopping.set()
                for thread in threads:
                    thread.join()
                self.beat()

    def take_in(self) -> bool:
        """Accept what is new, and pack one chunk of the most urgent scan that has one."""
        watch = self._config.watch
        if watch is not None and self._patience.over("look") and self._try("look", lambda: self._look(watch)):
            self._patience.pause("look", watch.poll_s)
        accepted = self.spool.having("accepted")
        self._packer.keep({entry.scan for entry in accepted})
        worked = any(self._pack(entry) for entry in accepted if self._patience.over(entry.scan))
        self._mark_stat()
        return worked

    def send(self) -> bool:
        """Send what is there of the most urgent scan that may be sent now."""
        self._mark_stat()
        over = self._patience.over
        for entry in self.spool.having("rejected"):
            if over("line") and over(entry.scan):
                self._try(entry.scan, functools.partial(self._withdraw, entry))
        for entry in self.spool.having("accepted", "packed"):
            if over("line") and over(entry.skeleton.priority) and over(f"{entry.scan} up") and self._step(entry):
                return True
        return False

    def fetch(self) -> bool:
        """Ask after committed scans, and bring home what was made of them."""
        committed = self.spool.having("committed")
        for entry in committed:
            self._returning(functools.partial(self._returns.ask, entry))
        if committed or self._patience.over("idle returns"):  # a thousand idle sites do not ask every ten seconds
            self._returning(self._bring)
            self._patience.pause("idle returns", _IDLE_POLLS * self._config.centre.poll_s)
        for entry in self.spool.having("stored"):
            self._returning(functools.partial(self._returns.acknowledge, entry))
        if self._patience.over("report") and self._try("report", self._report):
            self._patience.pause("report", self._report_s)
        return False

    def forward(self) -> bool:
        """Deliver one batch to every PACS that waits for one, and close what has ended."""
        worked = False
        for entry in self.spool.having("returned"):
            worked |= self._try(entry.scan, functools.partial(self._forward, entry))
        for entry in self.spool.having("delivered", "refused"):
            place = self.spool.place(entry.scan)
            if place.reason is not None and place.reason[0] == "ABANDONED":
                self._try(entry.scan, functools.partial(self._renew, entry))
                continue
            kept_s = self._config.spool.refused_days * _DAY_S if place.state == "refused" else 0.0
            if self.spool.now() - place.since >= kept_s:
                self._try(entry.scan, functools.partial(self._finish, entry.scan))
        return worked

    def beat(self) -> None:
        """Tell `lampyris site status` that the agent lives, how the line is, and what waits for what."""
        link = {"last_answer": self.link.last_answer, "trouble": self.link.trouble, "sent_bytes": self.link.sent_bytes}
        told = {"at": self.spool.now(), "link": link, "waiting": self._patience.reasons()}
        try:
            files.write_json(self._config.folder / HEARTBEAT, told)
        except StorageError as error:
            self._log.error("no heartbeat", reason=str(error))

    def _report(self) -> bool:
        """Tell the centre of this site. One of an older minor version does not listen, and is told again in a day."""
        told = report_of(self.spool, self._config.folder)
        try:
            self.link.ask("POST", "/status", ok=(204,), kind="application/json", content=json.dumps(told.as_dict()))
        except Refusal as refused:
            if refused.problem.status not in (404, 405):
                raise
            self._report_s = _DAY_S
        return True

    def _loop(self, work: Callable[[], bool], idle_s: float) -> None:
        while not self._stopping.is_set():
            if not (self._patience.over(work.__name__) and self._try(work.__name__, work)):
                self._stopping.wait(idle_s)

    def _look(self, watch: Watch) -> bool:
        for scan in self.intake.look(watch):
            self._log.info("scan accepted", scan=scan)
        return True

    def _pack(self, entry: Entry) -> bool:
        worked = self._try(entry.scan, lambda: self._packer.step(entry))
        if worked and self.spool.place(entry.scan).state == "packed":
            self.intake.packed(entry)
            self._log.info("scan packed", scan=entry.scan, bytes=self.spool.stored_bytes(entry.scan))
        return worked

    def _withdraw(self, entry: Entry) -> bool:
        """Close a scan that this site rejected."""
        self._upload.withdraw(entry)
        self.spool.finish(entry.scan)
        self.intake.dropped(entry)
        return True

    def _step(self, entry: Entry) -> bool:
        scan, priority = entry.scan, entry.skeleton.priority

        def give_way() -> bool:
            return self._stopping.is_set() or (priority != "stat" and self._stat.is_set())

        try:
            worked = self._upload.step(entry, give_way)
        except Preempted:
            self._log.info("scan gives way", scan=scan)
            return True
        except LinkError as error:
            if error.wait_s is not None:
                self._fail(priority, error, error.wait_s)
                return False
            seconds = self._fail("line", error)
            if priority != "stat":  # should it be this scan that a machine in between dislikes, the next gets its turn
                self._patience.pause(f"{scan} up", 1.5 * seconds)
            return False
        except LampyrisError as error:
            self._fail(f"{scan} up", error)
            return False
        self._patience.succeeded("line", priority, f"{scan} up")
        state = self.spool.place(scan).state
        if state in ("committed", "refused"):
            self._log.info(f"scan {state}", scan=scan)
        return worked

    def _mark_stat(self) -> None:
        """Let routine scans give way while a STAT scan has something to send, and may."""
        over = self._patience.over
        urgent = over("stat") and any(
            entry.skeleton.priority == "stat" and over(f"{entry.scan} up") and self._upload.has_work(entry)
            for entry in self.spool.having("accepted", "packed")
        )
        (self._stat.set if urgent else self._stat.clear)()

    def _bring(self) -> None:
        listed = list(self._returns.waiting())
        here = {entry.scan: entry for entry in self.spool.entries()}
        for series in listed:
            if series.scan not in here and self._adopt(series):
                here[series.scan] = self.spool.entry(series.scan)
        known = [series for series in listed if series.scan in here]
        for series in sorted(known, key=lambda one: here[one.scan].urgency):
            if self.spool.place(series.scan).state == "committed":
                self._returns.fetch(series)
        self._patience.tell("unclaimed", len(listed) - len(known))

    def _adopt(self, series: ReturnedSeries) -> bool:
        """Take a series in of which the spool knows nothing, if its identity travelled with it: a disk was replaced."""
        if series.sealed is None:
            return False
        try:
            study = self.vault.unseal(series.scan, series.sealed)
        except FormatError:
            return False
        site = self.link.site.enrolment.site
        made = Manifest(
            series.scan, site, series.made, "lraw", study=self.vault.pseudonyms(study), sealed=series.sealed
        )
        source = Source(self._config.folder / "lost", fingerprint="lost")
        return self.spool.accept(Entry(made, source, series.sealed, self.spool.now()), "committed")

    def _renew(self, entry: Entry) -> bool:
        """Send a scan that was open for longer than the centre waits once more, under a new id."""
        scan = hashlib.sha256(f"{entry.scan} again".encode()).hexdigest()[:32]  # the same one after a break
        identity = self.vault.seal(scan, self.vault.unseal(entry.scan, entry.identity))
        sealed = None if entry.skeleton.sealed is None else identity
        skeleton = dataclasses.replace(entry.skeleton, scan=scan, sealed=sealed)
        self.spool.renew(entry.scan, dataclasses.replace(entry, skeleton=skeleton, identity=identity))
        self._log.info("scan renewed", scan=entry.scan, to=scan)
        return True

    def _forward(self, entry: Entry) -> bool:
        series = self.spool.series(entry.scan)
        if series.verdict not in self._config.forward:
            return False
        left = 0
        worked = False
        for pacs in self._config.pacs:
            sent = set(self.spool.sent(entry.scan, pacs.name))
            names = [file.name for file in series.files if takes(pacs, file.name) and file.name not in sent]
            left += len(names)
            if names and self._patience.over(f"pacs {pacs.name}"):
                batch = functools.partial(self._deliver, pacs, entry, series, names[:BATCH])
                worked |= self._try(f"pacs {pacs.name}", batch)
        if not left:
            self.spool.move(entry.scan, "delivered")
            self._log.info("series delivered", scan=entry.scan)
        return worked or not left

    def _deliver(self, pacs: Pacs, entry: Entry, series: ReturnedSeries, names: list[str]) -> bool:
        scan, digests = entry.scan, {file.name: file.sha256 for file in series.files}
        study = self.vault.unseal(scan, entry.identity)
        items = []
        for name in names:
            content = self.spool.content(scan, name, digests[name])
            dataset = restored(content, study, entry.skeleton.study) if name.endswith(DICOM_SUFFIX) else None
            items.append(Item(name, dataset, content))
        outcome = deliver(pacs, scan, items)
        self.spool.at("sent")
        self.spool.mark_sent(scan, pacs.name, list(outcome.confirmed))
        self.spool.at("marked")
        if outcome.trouble is not None:
            raise PacsError(outcome.trouble)
        return True

    def _returning(self, work: Callable[[], None]) -> None:
        def done() -> bool:
            work()
            return True

        if self._patience.over("returns"):
            self._try("returns", done)

    def _finish(self, scan: str) -> bool:
        self.spool.finish(scan)
        return True

    def _try(self, key: str, work: Callable[[], bool]) -> bool:
        """Whatever fails waits, for longer each time, and says why; nothing else is held up by it. False then."""
        try:
            worked = work()
        except LampyrisError as error:
            self._fail(key, error, error.wait_s if isinstance(error, LinkError) else None)
            return False
        except Exception as error:
            frames = traceback.extract_tb(error.__traceback__)[-6:]
            where = [f"{frame.filename.rpartition('/')[2]}:{frame.lineno}" for frame in frames]
            self._log.error("program error", kind=type(error).__name__, where=where, key=key)
            self._patience.failed(key, "PROGRAM", f"{type(error).__name__} at {where[-1]}")
            return False
        self._patience.succeeded(key)
        return worked

    def _fail(self, key: str, error: LampyrisError, wait_s: float | None = None) -> float:
        wait = self._patience.failed(key, error.code, str(error), wait_s)
        self._log.warning("waits", key=key, code=error.code, reason=str(error), seconds=round(wait, 1))
        return wait
