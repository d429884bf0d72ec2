"""The systemd units: whose processes they are, what they may touch, how they end and begin again."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from deployed import DEPLOY, Unit, hardening, units

from lampyris.centre.api.__main__ import _STOP_S

SYSTEMD = DEPLOY / "systemd"


@pytest.fixture
def installed(tmp_path) -> Path:
    """The units as systemd would find them, with a program that is there."""
    shutil.copytree(SYSTEMD, tmp_path / "system")
    program = Path(sys.executable).with_name("lampyris")
    for path in (tmp_path / "system").glob("*.service"):
        path.write_text(path.read_text("utf-8").replace("/opt/lampyris/bin/lampyris", str(program)), "utf-8")
        if "@" in path.name:
            shutil.copy(path, path.with_name(path.name.replace("@", "@9471")))
    return tmp_path / "system"


@pytest.mark.parametrize("unit", units(), ids=lambda unit: unit.name)
def test_a_unit_runs_as_a_user_of_its_own_and_comes_back(unit):
    users = (SYSTEMD / "lampyris.sysusers").read_text("utf-8").split()
    assert unit["User"] in users
    assert unit["User"] != "root"
    assert unit["Restart"] == "always"
    assert unit["StartLimitIntervalSec"] == "0"
    assert "65" in unit["RestartPreventExitStatus"].split()


@pytest.mark.parametrize("unit", units(), ids=lambda unit: unit.name)
def test_a_unit_writes_where_systemd_lets_it(unit):
    state, cache = unit["StateDirectory"], unit["CacheDirectory"]
    for word in unit.command.replace("=", " ").split():
        if word.startswith("/var/"):
            assert word.startswith(f"/var/lib/{state}")
    assert unit.environment["XDG_CACHE_HOME"] == f"/var/cache/{cache}"
    assert unit.environment.get("STORE", f"file:///var/lib/{state}").startswith(f"file:///var/lib/{state}")


def test_what_is_in_hand_is_ended_before_systemd_loses_patience():
    """SIGTERM goes to the main process alone, which knows in which order the others end."""
    seconds = {unit.name: int(unit["TimeoutStopSec"]) for unit in units()}
    assert seconds["lampyris-api.service"] > _STOP_S
    assert seconds["lampyris-work@.service"] >= 3600
    assert {unit["KillMode"] for unit in units()} == {"mixed"}


def test_every_unit_is_hardened_by_the_same_file():
    folder = SYSTEMD / "lampyris-.service.d"
    assert all(unit.name.startswith(folder.name.removesuffix(".service.d")) for unit in units())
    service = hardening()["Service"]
    strict = {"NoNewPrivileges": "yes", "ProtectSystem": "strict", "ProtectHome": "yes", "PrivateDevices": "yes"}
    assert {name: service[name] for name in strict} == strict
    assert service["CapabilityBoundingSet"] == ""


def test_secrets_are_not_on_a_command_line():
    for unit in units():
        assert "LAMPYRIS_DSN" not in unit.command
        assert all("://" not in word or word.startswith("file://") for word in unit.command.split())


@pytest.mark.judge
def test_systemd_understands_every_unit(installed, program):
    names = [path.name for path in installed.glob("*.service") if "@." not in path.name]
    assert len(names) == len(units())
    done = judged(program("systemd-analyze"), installed, "verify", *names)
    assert (done.returncode, done.stdout + done.stderr) == (0, "")


@pytest.mark.judge
def test_systemd_finds_every_unit_hardly_exposed(installed, program):
    """Its scale goes from 0 to 10; 2 is what a service may have that speaks to a network and compiles."""
    for path in installed.glob("*.service"):
        arguments = ("security", "--offline=true", "--threshold=20", "--no-pager", str(path))
        done = judged(program("systemd-analyze"), installed, *arguments)
        assert done.returncode == 0, done.stdout


@pytest.mark.judge
def test_systemd_complains_of_a_unit_that_is_wrong(installed, program):
    path = installed / "lampyris-api.service"
    path.write_text(path.read_text("utf-8").replace("KillMode=mixed", "KillMode=gently"), "utf-8")
    assert "kill mode" in judged(program("systemd-analyze"), installed, "verify", path.name).stderr


def judged(program: str, folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [program, *arguments],
        cwd=folder,
        env={"SYSTEMD_UNIT_PATH": f"{folder}:"},
        capture_output=True,
        text=True,
        check=False,
    )


def test_a_unit_with_an_entry_twice_is_not_read_as_one(tmp_path):
    (tmp_path / "x.service").write_text("[Service]\nUser=one\nUser=two\n")
    with pytest.raises(ValueError, match="too many"):
        Unit(tmp_path / "x.service")["User"]
