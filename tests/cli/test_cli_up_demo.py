"""`lampyris up --demo` as a machine runs it: a scan from scanner to series, Ctrl-C, SIGKILL; nothing is left behind."""

import re
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pydicom
import pytest

DEADLINE_S = 400.0
"""Compiled code at hand, it is all done in a tenth of this; a machine that is busy with other tests takes longer."""


@pytest.fixture(scope="module")
def folder() -> Iterator[Path]:
    """Data of a centre that many starts share; outside of pytest's folders, which shut PostgreSQL's user out."""
    with tempfile.TemporaryDirectory(prefix="lampyris-", ignore_cleanup_errors=True) as found:
        yield Path(found) / "centre"


class Run:
    """One `lampyris up --demo`, what it says, and every process that it has begun so far."""

    def __init__(self, folder: Path, *options: str) -> None:
        with socket.socket() as one:
            one.bind(("127.0.0.1", 0))
            port = one.getsockname()[1]
        command = [
            sys.executable,
            "-P",
            "-m",
            "lampyris.cli",
            "up",
            "--demo",
            "--recipe",
            "routine",
            "--data",
            str(folder),
            "--port",
            str(port),
            "--dicom-port",
            "0",
        ]
        self.folder, self.seen, self.said = folder, set[int](), (folder.parent / f"said-{port}")
        with self.said.open("wb") as said:
            self.process = subprocess.Popen([*command, *options], stdout=said, stderr=subprocess.STDOUT)

    @property
    def text(self) -> str:
        return self.said.read_text("utf-8")

    def until(self, done: Callable[[], bool]) -> None:
        deadline = time.monotonic() + DEADLINE_S
        while not done():
            assert time.monotonic() < deadline, f"{self.text}\n{self._logs()}"
            self.seen |= self._begun()
            time.sleep(0.3)

    def says(self, text: str) -> None:
        """Wait until it has said that."""
        self.until(lambda: text in self.text or self.process.poll() is not None)
        assert text in self.text, f"{self.text}\n{self._logs()}"

    def ends(self) -> int:
        """Wait for its end, and that of all that it has begun: its exit code."""
        self.until(lambda: self.process.poll() is not None)
        self.until(lambda: not any(map(lives, self.seen)))
        assert not (self.folder / "database" / "postmaster.pid").exists(), "PostgreSQL goes on"
        return self.process.wait()

    def _begun(self) -> set[int]:
        """Its descendants, and those of its PostgreSQL, which has left the family."""
        listed = subprocess.run(["ps", "-A", "-o", "pid=,ppid="], capture_output=True, text=True, check=True).stdout
        parents = {int(child): int(parent) for child, parent in (line.split() for line in listed.splitlines())}
        found, pid_file = {self.process.pid}, self.folder / "database" / "postmaster.pid"
        if pid_file.is_file() and (lines := pid_file.read_text().splitlines()):
            found.add(int(lines[0]))
        while more := {child for child, parent in parents.items() if parent in found} - found:
            found |= more
        return found - {self.process.pid}

    def _logs(self) -> str:
        return "\n".join(f"{log.name}: {log.read_text('utf-8')[-1500:]}" for log in self.folder.glob("demo/logs/*"))


def lives(process: int) -> bool:
    """Whether it is there and more than an entry that nobody has asked after."""
    told = subprocess.run(["ps", "-o", "stat=", "-p", str(process)], capture_output=True, text=True, check=False)
    return told.stdout.strip()[:1] not in ("", "Z")


def test_one_scan_travels_from_scanner_to_series_and_all_ends_by_itself(folder):
    run = Run(folder, "--once")
    assert run.ends() == 0, run.text
    said = run.text
    assert "\x1b" not in said, "a file is no terminal"
    steps = ("wrote", "accepted it", "packed it", "opened", "queued", "takes the scan", "verdict", "has ended")
    places = [said.index(step) for step in steps]
    assert places == sorted(places)
    assert re.search(r"worker +reconstruct\n", said)
    (home,) = (folder / "demo" / "series").iterdir()
    assert str(home) in said
    images = [pydicom.dcmread(each) for each in home.glob("ct_*.dcm")]
    assert images
    assert (home / "report.html").is_file()
    assert {(str(each.PatientName), each.PatientID) for each in images} == {("Phantom^Thorax", "DEMO-1")}
    assert len(run.seen) > 6
    assert not list((folder / "demo" / "scanner").glob("*.lraw")), "what was packed is deleted"


def test_killed_it_leaves_nobody_behind(folder):
    """While a scan is in hand: interface, worker, the process that computes, PostgreSQL and the site all go."""
    run = Run(folder)
    try:
        run.says("reconstruct")
    finally:
        run.process.kill()
    assert run.ends() == -signal.SIGKILL


def test_it_goes_on_in_the_same_folder_and_ends_with_ctrl_c(folder):
    run = Run(folder)
    try:
        run.says("enrolled")
        run.process.send_signal(signal.SIGINT)
        assert run.ends() == 0, run.text
    finally:
        run.process.kill()
    assert "has ended" in run.text


def test_a_series_that_does_not_come_in_time_is_a_failure(folder):
    run = Run(folder, "--once", "--within", "0.1")
    assert run.ends() == 69
    assert "no series after" in run.text
