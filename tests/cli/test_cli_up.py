"""The parts of `lampyris up`: processes that are mended and never left, and what is told of a scan, in words."""

import io
import os
import signal
import socket
import subprocess
import sys
import time

import pytest
from rich.console import Console

from lampyris import cli
from lampyris.centre import Settings
from lampyris.cli.up.demo import Demo, Plan
from lampyris.cli.up.journey import Journey
from lampyris.cli.up.keeper import listen
from lampyris.cli.up.processes import Processes, Program, alone
from lampyris.cli.up.show import Show
from lampyris.model import InputError, MachineError, ProgramError
from lampyris.site.store import Entry, Place, Source
from lampyris.transfer import Manifest, ReturnedFile, ReturnedSeries, ScanStatus

SCAN, MOMENT = "7e" * 16, "2026-11-21T08:15:02Z"
SLEEP = (sys.executable, "-c", "import time; time.sleep(600)")


def waited(done) -> None:
    deadline = time.monotonic() + 120
    while not done():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_a_keeper_knows_what_was_left_behind():
    assert listen(["11\n", "12\n", "-11\n", "13\n"]) == {12, 13}
    assert listen(["11\n", "done\n"]) is None
    assert listen([]) == set()


@pytest.fixture
def processes(tmp_path):
    with alone(tmp_path / "centre") as lock:
        made = Processes({"LAMPYRIS_CENTRE": '{"folder": "' + str(tmp_path / "centre") + '"}'}, lock)
        yield made
        made.end(hurry=lambda: True)
        made.close()


def number_in(log) -> int:
    waited(lambda: log.exists() and log.read_text().endswith("\n"))
    return int(log.read_text().splitlines()[-1])


def test_a_process_that_dies_is_begun_again_and_its_children_end_with_it(processes, tmp_path):
    child = "import subprocess, sys, time; print(subprocess.Popen(sys.argv[1:]).pid, flush=True); time.sleep(600)"
    log = tmp_path / "log"
    processes.add(Program("one", (sys.executable, "-c", child, *SLEEP), log=log))
    first = number_in(log)
    parent = int(subprocess.run(["ps", "-o", "ppid=", "-p", str(first)], capture_output=True, check=True).stdout)
    os.kill(parent, signal.SIGKILL)
    died = []
    waited(lambda: died.extend(processes.mend()) or died)
    assert died == [("one", -signal.SIGKILL)]
    waited(lambda: number_in(log) != first)
    assert ended(first)


def ended(process: int) -> bool:
    told = subprocess.run(["ps", "-o", "stat=", "-p", str(process)], capture_output=True, text=True, check=False)
    return told.stdout.strip()[:1] in ("", "Z")


def test_a_process_may_finish_what_it_has_in_hand(processes, tmp_path):
    last = "import signal, time; signal.signal(15, lambda *_: (print('finished', flush=True), exit())); print('1', flush=True); time.sleep(600)"  # noqa: E501
    log = tmp_path / "log"
    processes.add(Program("one", (sys.executable, "-c", last), log=log))
    number_in(log)
    processes.end(hurry=lambda: False)
    assert log.read_text().endswith("finished\n")


def test_one_that_does_not_end_is_killed_in_a_hurry(processes, tmp_path):
    deaf = "import signal, time; signal.signal(15, signal.SIG_IGN); print('1', flush=True); time.sleep(600)"
    log = tmp_path / "log"
    processes.add(Program("one", (sys.executable, "-c", deaf), log=log))
    number_in(log)
    processes.end(hurry=lambda: True)


def test_a_program_that_is_not_begun_again_tells_how_it_ended(processes):
    processes.add(Program("scanner", (sys.executable, "-c", "raise SystemExit(7)"), again=False))
    waited(lambda: processes.ended("scanner") is not None)
    assert processes.ended("scanner") == 7
    assert processes.mend() == []


def test_a_keeper_that_is_killed_has_a_successor_who_knows_everything(processes, tmp_path):
    log = tmp_path / "log"
    tells = (sys.executable, "-c", "import os, time; print(os.getpid(), flush=True); time.sleep(600)")
    processes.add(Program("one", tells, log=log))
    child = number_in(log)
    before = processes._keeper
    before.kill()
    before.wait()
    processes.mend()
    assert processes._keeper.pid != before.pid
    processes._dismiss()  # its pipe ends without a word, as when this process is killed
    assert ended(child)
    processes.mend()


def test_two_do_not_work_in_one_folder(tmp_path, monkeypatch):
    monkeypatch.setattr("lampyris.cli.up.processes._ALONE_S", 0.0)
    with alone(tmp_path), pytest.raises(MachineError, match="another `lampyris up`"), alone(tmp_path):
        pass
    with alone(tmp_path):
        pass


def test_mistakes_are_told_before_anything_is_begun(tmp_path, capsys):
    data = ["--data", str(tmp_path / "centre")]
    for options, code, why in (
        (["--once"], 65, "--demo"),
        (["--demo", "--workers", "0"], 65, "worker"),
        (["--demo", "--tls-cert", "a.pem", "--tls-key", "b.pem"], 65, "TLS"),
    ):
        assert cli.main(["up", *data, *options]) == code
        assert why in capsys.readouterr().err
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        assert cli.main(["up", *data, "--port", str(other.getsockname()[1])]) == 69
        assert "another centre?" in " ".join(capsys.readouterr().err.split())
    assert not (tmp_path / "centre" / "database").exists()


class FakeSpool:
    """One scan, wherever the test puts it."""

    def __init__(self, source) -> None:
        skeleton = Manifest(SCAN, "demo", MOMENT, "lraw")
        self.entry: Entry | None = Entry(skeleton, Source(source), "sealed", 0.0, ("sigma/4", "clinical default"))
        self.state = Place("accepted", 0.0)

    def entries(self):
        return [] if self.entry is None else [self.entry]

    def place(self, scan):
        return self.state

    def records(self):
        return {} if self.entry is not None else {SCAN: (self.state, Source(self.source))}

    def stored_bytes(self, scan):
        return 8_300_000

    def series(self, scan):
        return ReturnedSeries(SCAN, 1, MOMENT, "pass", (ReturnedFile("ct/1.dcm", 700_000, "a" * 64),))

    def finish(self, state: Place) -> None:
        self.source, self.entry, self.state = self.entry.source.path, None, state


@pytest.fixture
def told():
    return io.StringIO()


@pytest.fixture
def spool(tmp_path):
    return FakeSpool(tmp_path / "a.lraw")


@pytest.fixture
def journey(spool, told, tmp_path):
    return Journey(tmp_path / "a.lraw", spool, Show(Console(file=told, highlight=False)))


def status(state: str, **more) -> ScanStatus:
    return ScanStatus(SCAN, state, "routine", MOMENT, 8_300_000, **more)


def test_each_thing_is_told_once_and_in_its_order(journey, spool, told):
    for place in ("accepted", "packed", "packed", "committed"):
        spool.state = Place(place, 0.0)
        journey.look()
    stations = [status("running", station=name, progress=part) for name in ("correct", "write") for part in (0.0, 0.5)]
    for one in (status("open"), status("queued"), status("queued"), status("running"), *stations, status("done")):
        journey.hear(one)
    spool.state = Place("stored", 0.0)
    journey.look()
    journey.hear(status("done", returned=True))
    spool.finish(Place("delivered", 0.0))
    journey.look()
    assert (journey.ended, journey.error()) == ("delivered", None)
    said = [line.split(" s  ", 1)[1].split(None, 1) for line in told.getvalue().splitlines()]
    assert [who for who, _ in said] == [
        *("site", "site", "centre", "centre", "worker", "worker", "worker", "centre", "site", "centre"),
    ]
    assert said[1][1] == "packed it into 8.3 MB: sigma/4, clinical default"
    assert [text for who, text in said if who == "worker"][1:] == ["correct", "write"]
    assert "1 files, 0.7 MB" in said[8][1]


def test_another_scan_is_not_mistaken_for_it(journey, told):
    journey.look()
    before = told.getvalue()
    journey.hear(ScanStatus("ab" * 16, "done", "routine", MOMENT))
    assert told.getvalue() == before
    assert journey.ended is None


@pytest.mark.parametrize(
    ("place", "kind"),
    [
        (Place("refused", 0.0, ("INPUT_CALIBRATION", "no air scan")), InputError),
        (Place("rejected", 0.0, ("INPUT_ORDER", "no PatientID")), InputError),
        (Place("committed", 0.0, ("WORKER_DIED", "out of memory"), "failed"), MachineError),
        (Place("committed", 0.0, ("PROGRAM", "TypeError at station correct"), "failed"), ProgramError),
    ],
)
def test_a_scan_that_brings_no_series_says_whose_fault_it_is(journey, spool, place, kind):
    spool.state = place
    journey.look()
    error = journey.error()
    assert isinstance(error, kind)
    assert all(part in str(error) for part in place.reason)


def test_a_scan_that_is_queued_again_says_why(journey, spool, told):
    journey.look()
    journey.hear(status("queued", reason=("WORKER_DIED", "signal 9")))
    assert "queues it again: signal 9 [WORKER_DIED]" in told.getvalue()


@pytest.mark.parametrize("once", [True, False])
def test_a_scan_without_a_series_ends_the_demo_if_it_was_to_be_the_only_one(tmp_path, told, monkeypatch, once):
    def refused(self, processes, scan):
        self._spool = FakeSpool(scan)
        yield
        raise InputError("no air scan")

    monkeypatch.setattr(Demo, "_one", refused)
    plan = Plan(every_s=600.0, once=once, within_s=600.0)
    demo = Demo(Settings(tmp_path), "http://127.0.0.1:1", plan, Show(Console(file=told, highlight=False)))
    steps = demo.run(processes=None)
    next(steps)
    if once:
        with pytest.raises(InputError, match="no air scan"):
            next(steps)
    else:
        next(steps)  # the pause before the next scan
        assert "no air scan" in told.getvalue()


def test_a_terminal_is_shown_what_moves_and_a_file_is_not(told):
    plain = Show(Console(file=told, highlight=False))
    with plain.moving():
        plain.now("worker", "reconstruct", 0.4)
    assert told.getvalue() == ""
    screen = io.StringIO()
    live = Show(Console(file=screen, force_terminal=True, width=100, highlight=False))
    with live.moving():
        live.now("worker", "reconstruct", 0.4)
    assert "reconstruct" in screen.getvalue()
    assert "40 %" in screen.getvalue()
