"""`lampyris site` as its operator meets it: enrol, send, run, status, and what is said when something is wrong."""

import json
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from fake_centre import FakeCentre, served

from lampyris import cli, raw
from lampyris.model import Noise, RawScan

CODE = "01234-56789-ABCDE-FGHJK"


@pytest.fixture
def centre():
    found = FakeCentre(time.time)
    found.codes["0123456789ABCDEFGHJK"] = ""
    return found


@pytest.fixture
def config(centre, tmp_path):
    with served(centre) as url:
        (tmp_path / "in").mkdir()
        path = tmp_path / "site.toml"
        path.write_text(
            f'folder = "site"\n[centre]\nurl = "{url}"\npoll_s = 0.05\n[spool]\nfree_gb = 0\n'
            '[watch]\nfolder = "in"\npoll_s = 0.05\n[[pacs]]\nkind = "folder"\nname = "archive"\nfolder = "series"\n'
        )
        yield path


@pytest.fixture
def scan(lopsided_helix, rng, tmp_path):
    counts = rng.poisson(500, lopsided_helix.shape).astype(np.uint16)
    path = tmp_path / "Zhang.lraw"
    raw.write(RawScan(counts, lopsided_helix, np.full(97, 0.3), noise=Noise(1.0, 3.0)), path)
    return path


@pytest.fixture
def order(tmp_path):
    path = tmp_path / "order.json"
    path.write_text(json.dumps({"study": {"PatientID": "4711"}}))
    return path


def run(capsys, config, *arguments):
    code = cli.main(["site", *(str(each) for each in arguments), "-c", str(config)])
    said = capsys.readouterr()
    return code, said.out, " ".join(said.err.split())


def test_a_site_enrols_sends_and_tells(capsys, config, centre, scan, order):
    code, _, err = run(capsys, config, "enrol", CODE)
    assert (code, len(centre.keys)) == (0, 1)
    assert "enrolled as st-anna" in err
    assert "back up the keys" in err
    code, out, err = run(capsys, config, "send", scan, "--order", order, "--stat", "--json")
    assert code == 0
    sent = json.loads(out)
    assert sent["new"] is True
    assert "leave the file" in err
    _, out, err = run(capsys, config, "send", scan, "--order", order, "--stat", "--json")
    assert json.loads(out) == {"scan": sent["scan"], "new": False}
    assert "--again" in err
    code, out, err = run(capsys, config, "status")
    assert (code, out) == (0, "")
    assert "agent: does not run" in err
    assert "queue: 1 accepted" in err
    assert f"{sent['scan'][:12]} stat" in err
    assert "Zhang" not in err
    told = json.loads(run(capsys, config, "status", "--json")[1])
    assert told["queue"]["by_state"] == {"accepted": 1}
    assert "Zhang" in run(capsys, config, "status", "--names", "--json")[1]
    assert "Zhang" in run(capsys, config, "status", "--names")[2].replace(" ", "")


def test_the_agent_runs_until_it_is_told_to_stop(capsys, config, centre, scan, order):
    run(capsys, config, "enrol", CODE)
    run(capsys, config, "send", scan, "--order", order)
    command = [sys.executable, "-m", "lampyris.cli", "site", "run", "-c", str(config)]
    agent = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    assert agent.stderr is not None
    err = ""
    while "scan committed" not in err and (line := agent.stderr.readline()):
        err += line
    os.kill(agent.pid, signal.SIGTERM)
    err += agent.communicate()[1]
    assert agent.returncode == 0
    assert [held["state"] for held in centre.scans.values()] == ["queued"]
    events = [json.loads(line) for line in err.splitlines()]
    assert [event["event"] for event in events if "scan" in event] == ["scan packed", "scan committed"]
    assert "Zhang" not in err
    assert "4711" not in err


def test_mistakes_have_their_exit_codes(capsys, config, scan, order, tmp_path):
    code, _, err = run(capsys, config, "send", scan)
    assert (code, "not enrolled" in err) == (65, True)
    code, _, err = run(capsys, config, "enrol", "00000-00000-00000-00001")
    assert (code, "[CODE]" in err) == (65, True)
    run(capsys, config, "enrol", CODE)
    code, out, err = run(capsys, config, "send", scan, "--json")
    assert code == 65
    assert json.loads(out)["error"]["code"] == "INPUT_ORDER"
    assert "without PatientID" in err
    code, _, err = run(capsys, config, "send", scan, "--order", tmp_path / "none.json")
    assert (code, "order cannot be read" in err) == (69, True)
    code, _, err = run(capsys, tmp_path / "none.toml", "status")
    assert (code, "configuration none.toml cannot be read" in err) == (69, True)
