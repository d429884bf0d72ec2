"""A centre on this machine → a site beside it that scans a phantom at a tenth of the dose, and what comes of its scans.

Nothing is played: the scanner is `lampyris simulate`, the site is `lampyris site run` with a key and a spool of its
own, and what is told is what the site's spool and the centre's events say.
"""

import asyncio
import contextlib
import os
import queue
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import httpx

from lampyris import __version__, site
from lampyris.centre import Settings, access, opened
from lampyris.centre.people import accounts, passwords
from lampyris.centre.people.rules import Role
from lampyris.centre.people.tenants import MACHINE, ROOT
from lampyris.cli.up.journey import Journey
from lampyris.cli.up.processes import Processes, Program
from lampyris.cli.up.show import Show
from lampyris.model import LampyrisError, MachineError, StorageError
from lampyris.site.store import files
from lampyris.transfer import ScanStatus

SITE = "demo"
DOSE = 0.1
SCAN = (
    *("thorax", "--scanner", "mdct16", "--protocol", "axial", "--mas", "200", "--range", "17", "27"),
    *("--dose", str(DOSE)),
)
"""One turn of 16 rows about the nodule of 10 mm in the right lung."""
TOLD = f"scans 10 mm of the thorax phantom, 16 rows, one turn at {DOSE:g} of 200 mAs"
ORDER = {"purpose": "clinical", "study": {"PatientName": "Phantom^Thorax", "PatientID": "DEMO-1"}}
"""Clinical, so that its counts travel as those of a patient do."""
RECIPE = "swift"
"""For low dose, if the centre was given no other."""
PEOPLE = ((Role.RADIOLOGIST, "demo-radiologist", "Demo Radiologist"), (Role.OPERATOR, "demo-operator", "Demo Operator"))
"""Who may look at the demonstration; they have no password, and come in by a link alone."""
_FIGURES = {"noise": "noise", "ctdivol": "CTDIvol"}
"""Figures of an assessment that fit into a line, and what they are called there."""
_COLOURS = {"pass": "green", "look": "yellow", "stop": "red"}
_CONFIG = """\
# The site of `lampyris up --demo`, written anew at each start.
folder = "site"
forward = ["pass", "look", "stop"]

[centre]
url = "{url}"
poll_s = 0.5

[watch]
folder = "scanner"
poll_s = 0.2
after = "delete"

[[pacs]]
kind = "folder"
name = "series"
folder = "series"
"""


@dataclass(frozen=True, slots=True)
class Plan:
    """Seconds from one series to the next scan; `once`: the first series ends it all, within so many seconds."""

    every_s: float
    once: bool
    within_s: float


class Demo:
    """The demo site of a centre at `address`, in a folder of the centre's data."""

    def __init__(self, settings: Settings, address: str, plan: Plan, show: Show) -> None:
        self._settings, self._address, self._plan, self._show = settings, address, plan, show
        self.folder = settings.folder / "demo"
        self.series, self.logs = self.folder / "series", self.folder / "logs"
        self._scanner, self._config = self.folder / "scanner", self.folder / "site.toml"
        self._spool: site.Spool | None = None
        self._heard: queue.SimpleQueue[ScanStatus] = queue.SimpleQueue()
        self._began = time.monotonic()
        try:
            for each in (self._scanner, self.series, self.logs):
                each.mkdir(parents=True, exist_ok=True)
            for log in self.logs.glob("*.log"):
                log.unlink()
            files.write(self._config, _CONFIG.format(url=address).encode())
        except OSError as error:
            raise StorageError(f"{self.folder} cannot be written ({error.strerror}): is the disk full?") from error

    def run(self, processes: Processes) -> Iterator[None]:
        """Scan after scan; yields whenever it waits. With `once` it ends when the first series is home.

        Raises what kept that one from coming home.
        """
        while True:
            scan = self._scanner / f"{datetime.now(UTC):%Y%m%dT%H%M%S}.lraw"
            try:
                yield from self._one(processes, scan)
            except LampyrisError as error:
                if self._plan.once or self._spool is None:
                    raise
                self._show.said("site", str(error), "red")
            if self._plan.once:
                return
            due = time.monotonic() + self._plan.every_s
            self._show.plain()
            while (left := due - time.monotonic()) > 0:
                self._show.now("scanner", f"scans again in {left:.0f} s; Ctrl-C ends")
                yield

    def greet(self) -> None:
        """Say what this is, where everything lies, and how it is ended."""
        show, plan = self._show, self._plan
        ends = "by itself, with the first series" if plan.once else "with Ctrl-C; what is in hand is finished first"
        often = "one scan" if plan.once else f"a scan, and {plan.every_s:g} s after its series the next"
        show.title(f"Lampyris {__version__}", "the open cloud-CT centre, all of it on this machine")
        show.plain("Research software. Not a medical device, not for diagnosis or treatment.")
        show.plain()
        show.facts(
            (
                ("centre", self._address, "its console; where sites send their scans; also /readyz, /metrics"),
                ("site", SITE, f"a phantom at {DOSE:g} of the dose: {often}"),
                ("series", show.place(self.series), "what comes home: DICOM, and a page to look at"),
                ("logs", show.place(self.logs), "what each process did, in lines of JSON"),
                ("data", show.place(self._settings.folder), "all of it; may be deleted when nothing runs"),
                ("ends", ends, ""),
            )
        )
        if not any(Path(os.environ["NUMBA_CACHE_DIR"]).rglob("*.nbc")):
            show.plain("  Kernels are compiled for this machine, once: the first scan takes longer.", "yellow")
        show.plain()
        show.plain("   after    who       does what", "dim")

    def log_of(self, name: str) -> Path:
        """Where a process of the centre, or of the site, writes what it does."""
        return self.logs / f"{name}.log"

    def _one(self, processes: Processes, scan: Path) -> Iterator[None]:
        """One scan, from the order to the series at home."""
        making = scan.with_name(f".{scan.name}")
        self._show.said("scanner", TOLD)
        command = ("simulate", *SCAN, "--seed", str(time.time_ns() % 2**32), "--output", str(making))
        processes.add(self._program("scanner", command, again=False))
        if self._spool is None:
            yield from self._until(self._ready, "centre", "starts: database, interface, worker")
            self._open(processes)
        yield from self._until(lambda: processes.ended("scanner") is not None, "scanner", "scans")
        if code := processes.ended("scanner"):
            raise MachineError(f"the scanner ended with exit {code}: {self.log_of('scanner')} says why")
        self._show.said("scanner", f"wrote {making.stat().st_size / 1e6:.1f} MB of raw counts and, last, the order")
        making.rename(scan)
        files.write_json(scan.with_name(f"{scan.name}.json"), ORDER | {"recipe": self._settings.recipe or RECIPE})
        assert self._spool is not None
        journey = Journey(scan, self._spool, self._show)
        yield from self._until(lambda: self._followed(journey))
        if (error := journey.error()) is not None:
            raise error
        self._tell_series(journey)

    def _until(self, done: Callable[[], bool], who: str = "", text: str = "") -> Iterator[None]:
        """Wait; MachineError when the time of the first series is over."""
        while not done():
            if who:
                self._show.now(who, text)
            if self._plan.once and time.monotonic() - self._began > self._plan.within_s:
                raise MachineError(
                    f"no series after {self._plan.within_s:.0f} s: a slow machine, or {self.logs} says what hangs"
                )
            yield

    def _ready(self) -> bool:
        with contextlib.suppress(httpx.HTTPError), httpx.Client(trust_env=False, timeout=5.0) as client:
            return client.get(f"{self._address}/readyz").status_code == 200
        return False

    def _open(self, processes: Processes) -> None:
        """Let the site in, as an operator does; begin its agent; listen to what the centre tells it."""
        self._show.said("centre", "is ready")
        config = site.load(self._config)
        code, links = asyncio.run(self._let_in())
        with site.client(config.centre) as http:
            enrolled = site.enrol(http, config.folder, code, now=time.time)
        self._show.said("site", f"enrolled as {SITE!r} with a key of its own, {enrolled.enrolment.key_id[:8]}…")
        for role, link in links:
            self._show.said(
                "you", f"may look in as {role}: once, within {passwords.DEMO_HOURS} h, on this machine", "bold"
            )
            self._show.plain(f"{'':21}{self._address}/sign-in/once/{link}")
        processes.add(self._program("site", ("site", "run", "--config", str(self._config))))
        self._spool = site.Spool(config.folder / "spool", now=time.time)
        threading.Thread(target=self._listen, args=(config, enrolled), daemon=True).start()

    async def _let_in(self) -> tuple[str, list[tuple[Role, str]]]:
        """A code for the site and, if somebody may come to look, a link for each of the demonstration's people."""
        async with opened(self._settings, connections=2) as centre, centre.pool.connection() as connection:
            links = []
            for role, login, name in () if self._plan.once else PEOPLE:
                cursor = await connection.execute("SELECT number FROM person WHERE login = %s", (login,))
                row = await cursor.fetchone()
                new = accounts.Newcomer(login, name, role, ROOT)
                number = int(row["number"]) if row else await accounts.create(connection, MACHINE, new)
                links.append((role, await passwords.link(connection, number, "demo")))
            return await access.invite(connection, SITE), links

    def _program(self, name: str, words: tuple[str, ...], *, again: bool = True) -> Program:
        return Program(name, (sys.executable, "-P", "-m", "lampyris.cli", *words), log=self.log_of(name), again=again)

    def _listen(self, config: site.Config, enrolled: site.Site) -> None:
        """Hear the centre's events for as long as this program lives; the interface may be away for a while."""
        with site.client(config.centre) as http:
            events = site.Events(site.Link(http, enrolled, now=time.time))
            while True:
                with contextlib.suppress(LampyrisError):
                    for status in events.heard():
                        self._heard.put(status)
                time.sleep(1.0)

    def _followed(self, journey: Journey) -> bool:
        """Tell what is new of a scan; whether it has ended."""
        journey.look()
        with contextlib.suppress(queue.Empty):
            while True:
                journey.hear(self._heard.get_nowait())
        return journey.ended is not None

    def _tell_series(self, journey: Journey) -> None:
        """Where the series lies, and how the gate judged it."""
        folder = self.series / str(journey.scan)
        told = files.read_json(folder / "assessment.json")
        found = {one["name"]: f"{one['value']:.3g} {one['unit']}" for one in told["figures"]}
        known = "".join(f", {words} {found[name]}" for name, words in _FIGURES.items() if name in found)
        images = len(list(folder.glob("ct_*.dcm")))
        self._show.said("site", f"gave {images} images their patient's name again, and has them in")
        self._show.path(folder)
        self._show.path(folder / "report.html")
        self._show.said("site", f"verdict of the gate: {told['verdict']}{known}", _COLOURS[told["verdict"]])
        for reason in told["reasons"]:
            self._show.plain(f"{'':21}{reason}", "dim")
