"""What `lampyris doctor` says of this machine, and of an engine that computes wrong."""

import json
import os
import subprocess
import sys

import pytest

from lampyris import cli
from lampyris.cli import doctor
from lampyris.projector import cpu


def told_by(capsys, *arguments):
    code = cli.main(["doctor", *arguments])
    said = capsys.readouterr()
    return code, said.out, " ".join(said.err.split())


def test_doctor_tells_of_every_engine_and_tests_those_that_run(capsys):
    code, out, _ = told_by(capsys, "--json")
    told = json.loads(out)
    usable = {engine["name"] for engine in told["engines"] if engine["usable"]}
    assert code == 0
    assert {engine["name"] for engine in told["engines"]} == {"cpu", "reference", "cuda"}
    assert {test["engine"] for test in told["self_test"]} == usable - {"reference"}
    assert all(test["passed"] for test in told["self_test"])
    assert (told["card"] is None) == ("cuda" not in usable)
    assert told["packages"]["numpy"] is not None
    assert told["learned_prior"]["cpu"] is None


@pytest.mark.parametrize("direction", ["forward", "adjoint"])
def test_an_engine_that_is_off_by_a_thousandth_is_told_and_is_no_success(direction, capsys, monkeypatch):
    right = getattr(cpu, direction)
    monkeypatch.setattr(cpu, direction, lambda plan, given: right(plan, given) * 1.001)
    code, _, err = told_by(capsys)
    assert code == 69
    assert "self-test of cpu by reference: WRONG" in err
    assert "engine cpu computes wrong here" in err


def test_a_self_test_is_blind_to_nothing_that_scales_both_directions(monkeypatch):
    """The pair alone would not see it: ⟨kAx, y⟩ = ⟨x, kAᵀy⟩."""
    for direction in ("forward", "adjoint"):
        right = getattr(cpu, direction)
        monkeypatch.setattr(cpu, direction, lambda plan, given, right=right: right(plan, given) * 1.001)
    found = doctor.self_test("cpu", "reference")
    assert found.pair < doctor.PAIR
    assert not found.passed


def test_in_the_simulator_the_card_is_told_and_its_engine_tested_by_the_processor():
    command = [sys.executable, "-c", "from lampyris.cli import main; raise SystemExit(main(['doctor', '--json']))"]
    done = subprocess.run(
        command, env=os.environ | {"NUMBA_ENABLE_CUDASIM": "1"}, capture_output=True, text=True, check=True
    )
    told = json.loads(done.stdout)
    (card,) = [test for test in told["self_test"] if test["engine"] == "cuda"]
    assert told["card"]["simulated"]
    assert (card["judge"], card["passed"]) == ("cpu", True)
    assert card["image_hu"] < 0.01
    assert max(card["forward"], card["adjoint"], card["voxels"]) < 1e-6
