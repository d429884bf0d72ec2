"""The operator's command line: codes, sites and scans of a centre, and processes that end together."""

import json
import os
import signal
import socket
import subprocess
import sys
import time

import httpx
import pytest

from lampyris import cli
from lampyris.centre.jobs.worker import work
from lampyris.model import ProgramError


@pytest.fixture
def operate(settings, monkeypatch, capsys):
    """Run `lampyris …` on the test's centre: its exit code and what it printed."""
    monkeypatch.setenv("LAMPYRIS_DSN", settings.dsn)

    def run(*arguments):
        code = cli.main([*arguments, "--data", str(settings.folder)])
        said = capsys.readouterr()
        return code, said.out, " ".join(said.err.split())

    return run


def test_an_operator_invites_and_shuts_out_a_site(operate, rows):
    code, out, _ = operate("centre", "invite", "st-anna", "--json")
    assert code == 0
    assert json.loads(out)["site"] == "st-anna"
    assert operate("centre", "suspend", "st-anna")[0] == 0
    assert rows("SELECT suspended FROM site") == [(True,)]
    assert operate("centre", "suspend", "st-anna", "--undo")[0] == 0
    assert rows("SELECT suspended FROM site") == [(False,)]
    assert operate("centre", "suspend", "nobody")[0] == 65
    assert operate("centre", "invite", "St Anna")[0] == 65


def test_an_operator_releases_and_forgets_a_scan(operate, site, inside, rows):
    manifest = site.send([b"piece"])

    def fail(*_):
        raise ProgramError("ours")

    inside(lambda centre: work(centre, ("routine",), make=fail, signals=False, wait=False))
    assert operate("centre", "release", "st-anna", manifest.scan)[0] == 0
    assert site.state(manifest.scan)["state"] == "queued"
    assert operate("centre", "release", "st-anna", manifest.scan)[0] == 65
    assert operate("centre", "forget", "st-anna", manifest.scan)[0] == 65
    inside(lambda centre: work(centre, ("routine",), make=fail, signals=False, wait=False))
    assert operate("centre", "forget", "st-anna", manifest.scan)[0] == 0
    assert rows("SELECT count(*) FROM scan") == [(0,)]


@pytest.mark.parametrize(
    ("options", "why"),
    [
        (["--host", "0.0.0.0"], "other machines"),
        (["--host", "centre.example"], "other machines"),
        (["--tls-cert", "x.pem"], "both"),
    ],
)
def test_a_centre_speaks_to_strangers_through_tls_alone(capsys, options, why):
    for verb in ("serve", "up"):
        assert cli.main([verb, *options]) == 65
        assert why in " ".join(capsys.readouterr().err.split())


def test_a_worker_serves_queues_that_there_are(capsys):
    with pytest.raises(SystemExit) as left:
        cli.main(["work", "--queues", "fast"])
    assert left.value.code == 2
    assert "stat, routine, batch" in capsys.readouterr().err


def test_a_worker_is_given_recipes_that_there_are(capsys):
    for verb in ("work", "up"):
        assert cli.main([verb, "--recipe", "best"]) == 65
        assert "routine-head" in capsys.readouterr().err.replace("\n", "")


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


def children(process: int) -> list[int]:
    found = subprocess.run(["ps", "-o", "pid=", "--ppid", str(process)], capture_output=True, text=True, check=False)
    return [int(each) for each in found.stdout.split()]


@pytest.mark.slow
def test_everything_comes_up_is_mended_when_killed_and_ends_together(settings):
    """`lampyris up`: its server and its worker are killed, and are there again; Ctrl-C ends all of it."""
    port = free_port()
    command = [sys.executable, "-m", "lampyris.cli", "up", "--data", str(settings.folder), "--port", str(port)]
    process = subprocess.Popen(command, env=os.environ | {"LAMPYRIS_DSN": settings.dsn}, stderr=subprocess.DEVNULL)
    try:
        ready(port, 300)
        for child in children(process.pid):
            os.kill(child, signal.SIGKILL)
        ready(port, 300)
        begun = children(process.pid)
        assert len(begun) == 2
        process.send_signal(signal.SIGINT)
        assert process.wait(120) == 0
        for each in begun:
            with pytest.raises(ProcessLookupError):
                os.kill(each, 0)
    finally:
        process.kill()
        process.wait()


def ready(port: int, seconds: float) -> None:
    """Wait until the centre at a port was away and is ready."""
    deadline = time.monotonic() + seconds
    with httpx.Client(trust_env=False, timeout=5) as client:
        while time.monotonic() < deadline:
            try:
                if client.get(f"http://127.0.0.1:{port}/readyz").status_code == 200:
                    return
            except httpx.TransportError:
                pass
            time.sleep(0.5)
    pytest.fail(f"not ready after {seconds} s")
