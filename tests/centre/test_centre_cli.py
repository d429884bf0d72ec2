"""The operator's command line: codes, sites and scans of a centre, and processes that end together."""

import getpass
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
from lampyris.centre import Settings
from lampyris.centre.jobs import retention
from lampyris.centre.jobs.worker import work
from lampyris.centre.settings import VARIABLE
from lampyris.model import ProgramError


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


def test_an_operator_sees_sites_and_scans_with_state_and_age(operate, site, other, rows):
    done, opened = site.send([b"piece"], priority="stat"), site.manifest([b"another"])
    site.open(opened)
    rows("UPDATE scan SET opened = now() - interval '3 hours', updated = now() - interval '2 hours' WHERE id = %s",
         opened.scan)  # fmt: skip
    operate("centre", "invite", "third-site")
    code, out, err = operate("centre", "sites", "--json")
    first, second, third = json.loads(out)
    assert code == 0
    assert [each["site"] for each in (first, second, third)] == ["other-site", "st-anna", "third-site"]
    assert (second["keys"], second["suspended"], second["scans"]["open"], second["scans"]["queued"]) == (1, False, 1, 1)
    assert 3 * 3600 <= second["oldest_s"] < 3 * 3600 + 300
    assert (first["oldest_s"], third["keys"], third["last_change"]) == (0.0, 0, None)
    assert "invited" in err
    code, out, _ = operate("centre", "scans", "--json", "--site", "st-anna")
    oldest, newest = json.loads(out)
    assert [each["scan"] for each in (oldest, newest)] == [opened.scan, done.scan]
    assert (oldest["state"], newest["state"], newest["priority"], newest["bytes"]) == ("open", "queued", "stat", 5)
    assert 2 * 3600 <= oldest["unchanged_s"] < 2 * 3600 + 300 < oldest["age_s"]
    assert [each["scan"] for each in json.loads(operate("centre", "scans", "--json", "--state", "queued")[1])] == [
        done.scan
    ]
    assert json.loads(operate("centre", "scans", "--json", "--limit", "1")[1])[0]["scan"] == opened.scan
    told = operate("centre", "scans")[2]
    assert done.scan in told, "whole, to be copied"


def test_a_key_that_is_taken_back_opens_nothing_from_then_on(operate, site, invite):
    code, out, _ = operate("centre", "keys", "st-anna", "--json")
    assert (code, [each["key_id"] for each in json.loads(out)]) == (0, [site.key.key_id])
    unused = invite("st-anna")
    assert site.ask("GET", "/scans").status_code == 200
    assert operate("centre", "revoke", "st-anna", "--key", "A" * 43)[0] == 65
    assert site.ask("GET", "/scans").status_code == 200
    assert operate("centre", "revoke", "st-anna", f"--key={site.key.key_id}")[0] == 0
    assert (site.ask("GET", "/scans").status_code, site.show(site.assertion()).status_code) == (401, 401)
    assert operate("centre", "revoke", "st-anna")[0] == 0
    assert site.enrol(unused).json()["code"] == "CODE"
    assert site.enrol(invite("st-anna")).status_code == 201
    site.token = site.fresh_token()
    assert site.send([b"piece"])
    assert operate("centre", "revoke", "nobody")[0] == 65


def test_secrets_of_tokens_overlap_or_end_at_once(operate, site, inside, rows):
    (first,) = rows("SELECT id FROM token_secret")
    assert operate("centre", "rotate")[0] == 0
    assert site.ask("GET", "/scans").status_code == 200
    old, site.token = site.token, site.fresh_token()
    assert site.ask("GET", "/scans").status_code == 200
    (_, second) = rows("SELECT id FROM token_secret ORDER BY created")
    swept(inside)
    assert rows("SELECT id FROM token_secret ORDER BY created") == [first, second]
    rows("UPDATE token_secret SET created = created - interval '10 minutes'")
    swept(inside)
    assert rows("SELECT id FROM token_secret") == [second]
    assert site.ask("GET", "/scans").status_code == 200
    site.token = old
    assert site.ask("GET", "/scans").status_code == 401
    site.token = site.fresh_token()
    assert operate("centre", "rotate", "--at-once")[0] == 0
    assert site.ask("GET", "/scans").json()["code"] == "TOKEN"
    site.token = site.fresh_token()
    assert site.ask("GET", "/scans").status_code == 200


def swept(inside) -> None:
    async def sweep(centre):
        async with centre.pool.connection() as connection:
            await retention.sweep(connection, centre.store)

    inside(sweep)


def test_an_operator_changes_how_long_things_are_kept(operate, rows):
    before = json.loads(operate("centre", "retention", "--json")[1])
    code, out, _ = operate("centre", "retention", "--failed", "7.5", "--raw", "0", "--json")
    assert (code, json.loads(out)) == (0, before | {"failed": 7.5, "raw": 0.0})
    assert dict(rows("SELECT what, days FROM retention")) == json.loads(out)
    for wrong in ("-1", "nan", "inf", "40000"):
        assert operate("centre", "retention", "--events", wrong)[0] == 65
    assert json.loads(operate("centre", "retention", "--json")[1]) == json.loads(out)


def test_a_site_is_removed_with_everything_when_nothing_of_it_is_in_hand(operate, site, other, inside, settings, rows):
    kept, gone = other.send([b"kept"]), site.send([b"gone"])
    opened = site.manifest([b"open"])
    site.open(opened)
    site.put(opened.scan, b"open")
    code, _, err = operate("centre", "remove", "st-anna")
    assert (code, "1 of its scans are in hand" in err) == (65, True)
    assert site.ask("GET", "/scans").status_code == 401
    inside(lambda centre: work(centre, ("routine",), make=lambda *_: ([], "pass"), signals=False, wait=False))
    code, _, err = operate("centre", "remove", "st-anna")
    assert (code, "1 of its scans are open, and 1 series" in err) == (65, True)
    assert operate("centre", "remove", "st-anna", "--anyway")[0] == 0
    for table in ("scan", "site_key", "share", "enrolment_code", "event", "chunk"):
        column = "site" if table not in ("chunk",) else "'other-site'"
        assert {each for (each,) in rows(f"SELECT {column} FROM {table}")} <= {"other-site"}, table
    assert rows("SELECT id FROM site") == [("other-site",)]
    left = [path for path in (settings.folder / "objects").rglob("*") if path.is_file()]
    assert [path.name for path in left] == [kept.parts[0].chunks[0].digest]
    assert gone.scan not in str(left)
    assert operate("centre", "remove", "st-anna")[0] == 65


@pytest.mark.parametrize(("dsn", "code"), [("postgresql://127.0.0.1:1/none", 69), ("nonsense", 65)])
def test_a_process_whose_database_is_away_ends_with_a_reason(tmp_path, dsn, code):
    """Interface and worker: exit code 69, one line of the log with host and database, no traceback, no password."""
    settings = Settings(tmp_path, dsn=dsn.replace("//", "//user:secretword@"))
    for arguments in (
        ["lampyris.centre.api", "--host", "127.0.0.1", "--port", "1", "--processes", "1"],
        ["lampyris.centre.jobs", "--queues", "stat", "--metrics-port", "0"],
    ):
        environment = os.environ | {VARIABLE: settings.to_json()}
        done = subprocess.run(
            [sys.executable, "-m", *arguments],
            env=environment,
            capture_output=True,
            text=True,
            check=False,
            timeout=300,
        )
        (line,) = done.stderr.splitlines()
        told = json.loads(line)
        assert (done.returncode, told["event"]) == (code, "the program ends")
        assert told["code"] == ("MACHINE_DATABASE" if code == 69 else "INPUT")
        assert "secretword" not in line
        assert code != 69 or "host 127.0.0.1 port 1 dbname none" in told["reason"]


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


def test_a_node_speaks_to_strangers_through_tls_unless_its_network_is_closed(capsys):
    assert cli.main(["node", "--host", "0.0.0.0"]) == 65
    assert "--plain" in " ".join(capsys.readouterr().err.split())


def test_nodes_and_orders_are_said_on_the_command_line(settings, invite, monkeypatch, capsys):
    invite("st-anna")
    monkeypatch.setenv("LAMPYRIS_DSN", settings.dsn)
    data = ["--data", str(settings.folder)]
    node = ["CT1", "st-anna", "127.0.0.1", "104", "--may", "store,worklist"]
    assert cli.main(["centre", "node", "add", *node, *data]) == 0
    assert cli.main(["centre", "node", "change", *node, "--charset", "GB18030", *data]) == 0
    assert cli.main(["centre", "node", "add", *node, *data]) == 65
    assert "unique" in " ".join(capsys.readouterr().err.split())
    assert cli.main(["centre", "node", "list", "--json", *data]) == 0
    (told,) = json.loads(capsys.readouterr().out)
    assert (told["aet"], told["charset"], told["may"]) == ("CT1", "GB18030", ["store", "worklist"])
    assert cli.main(["centre", "order", "add", "st-anna", "P-1", "张^三", "--birth", "19700102", *data, "--json"]) == 0
    step = json.loads(capsys.readouterr().out)["step"]
    assert cli.main(["centre", "order", "withdraw", "st-anna", step, *data]) == 0
    assert cli.main(["centre", "order", "list", "st-anna", "--json", *data]) == 0
    (order,) = json.loads(capsys.readouterr().out)
    assert (order["patient_name"], order["state"]) == ("张^三", "withdrawn")
    assert cli.main(["centre", "node", "remove", "CT1", "st-anna", *data]) == 0


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
    """Those that live: not what was killed and has not been asked after."""
    listed = subprocess.run(["ps", "-A", "-o", "pid=,ppid=,stat="], capture_output=True, text=True, check=True)
    rows = [line.split() for line in listed.stdout.splitlines()]
    return [int(pid) for pid, parent, state in rows if parent == str(process) and not state.startswith("Z")]


def test_everything_comes_up_is_mended_when_killed_and_ends_together(settings):
    """`lampyris up`: its server, worker and node are killed, and are there again; Ctrl-C ends all of it."""
    port = free_port()
    command = [sys.executable, "-m", "lampyris.cli", "up", "--data", str(settings.folder), "--port", str(port)]
    command += ["--dicom-port", str(free_port())]
    process = subprocess.Popen(command, env=os.environ | {"LAMPYRIS_DSN": settings.dsn}, stderr=subprocess.DEVNULL)
    try:
        ready(port, 300)
        killed = children(process.pid)
        assert len(killed) == 4, "interface, worker, node, and the keeper that ends them when this process cannot"
        for child in killed:
            os.kill(child, signal.SIGKILL)
        deadline = time.monotonic() + 300
        while len(begun := children(process.pid)) != 4 or set(begun) & set(killed):
            assert time.monotonic() < deadline, begun
            time.sleep(0.1)
        ready(port, 300)
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


def test_what_an_operator_does_is_written_down_searched_exported_and_verified(operate, rows, tmp_path):
    operate("centre", "invite", "st-anna")
    operate("centre", "retention", "--raw", "12.5")
    code, out, _ = operate("centre", "audit", "search", "--json", "--kind", "configure")
    newest, oldest = json.loads(out)
    assert (code, newest["who"], newest["detail"]) == (0, f"operator@{getpass.getuser()}", {
        "what": "retention changed", "raw": 12.5,
    })  # fmt: skip
    assert (oldest["site"], oldest["detail"]["what"]) == ("st-anna", "invited")
    assert operate("centre", "audit", "search", "--kind", "wish")[0] == 65
    place = tmp_path / "audit.jsonl"
    assert operate("centre", "audit", "export", str(place))[0] == 0
    assert len(place.read_text("utf-8").splitlines()) == 3, "two changes, and the search"
    assert operate("centre", "audit", "export", str(place))[0] == 65
    assert json.loads(operate("centre", "audit", "anchor", "--json")[1])["number"] == 4
    code, out, _ = operate("centre", "audit", "verify", "--json")
    assert (code, json.loads(out)["links"], json.loads(out)["anchors"]) == (0, 4, 1)
    rows("ALTER TABLE audit DISABLE TRIGGER audit_stays")
    rows("DELETE FROM audit WHERE number = 4")
    code, _, err = operate("centre", "audit", "verify")
    assert (code, "broken at link 4" in err) == (69, True)
    assert operate("centre", "audit", "send", "syslog://host")[0] == 65
