"""The command line as its users meet it: every command once on a small scan, and every kind of mistake."""

import json
import subprocess
import sys
from pathlib import Path

import pydicom
import pytest

from lampyris import cli, raw, simulate
from lampyris.model import EngineUnavailable
from lampyris.phantom import water_cylinder

SMALL = ["--scanner", "small", "--protocol", "axial"]
IMAGE = ["--matrix", "64", "--fov", "180", "--thickness", "4"]


@pytest.fixture(scope="module")
def scan(tmp_path_factory):
    """A water cylinder on the small scanner, as a file."""
    made = simulate.scan(
        water_cylinder(120.0), simulate.scanner("small"), simulate.Protocol(kind="axial", mas=50.0), seed=5
    )
    place = tmp_path_factory.mktemp("scans") / "water.lraw"
    raw.write(made, place)
    return place


def run(capsys, *arguments):
    """Exit code, stdout and stderr of one command in this process."""
    code = cli.main([str(each) for each in arguments])
    said = capsys.readouterr()
    return code, said.out, " ".join(said.err.split())


def test_recon_writes_a_series_that_says_how_it_was_made(scan, tmp_path, capsys):
    code, out, _ = run(capsys, "recon", scan, "-o", tmp_path / "series", "--json", *IMAGE)
    told = json.loads(out)
    assert code in (0, 3)
    assert told["assessment"]["verdict"] in ("pass", "look", "stop")
    first = pydicom.dcmread(sorted((tmp_path / "series").iterdir())[0])
    assert first.Modality == "CT"
    assert told["recipe"] in str(first)


def test_recon_never_writes_over_a_series(scan, tmp_path, capsys):
    (tmp_path / "series").mkdir()
    (tmp_path / "series" / "mine").write_text("precious")
    code, _, err = run(capsys, "recon", scan, "-o", tmp_path / "series", *IMAGE)
    assert code == 65
    assert "empty" in err
    assert (tmp_path / "series" / "mine").read_text() == "precious"


def test_assess_reads_what_recon_wrote(scan, tmp_path, capsys):
    run(capsys, "recon", scan, "-o", tmp_path / "series", *IMAGE)
    code, out, _ = run(capsys, "assess", tmp_path / "series", "--truth", "water20", "--json")
    names = {figure["name"] for figure in json.loads(out)["figures"]}
    assert code in (0, 3)
    assert "hu_water_centre" in names


def test_simulate_lowers_the_dose_of_a_raw_scan(scan, tmp_path, capsys):
    code, out, _ = run(capsys, "simulate", scan, "-o", tmp_path / "fifth.lraw", "--dose", 0.2, "--json")
    assert code == 0
    assert json.loads(out)["acquisition"]["dose_fraction"] == pytest.approx(0.2)
    assert raw.read(tmp_path / "fifth.lraw").id == json.loads(out)["id"]


def test_simulate_scans_a_phantom_by_name(tmp_path, capsys):
    arguments = ["water20", "-o", tmp_path / "a.lraw", "--range", -3, 3, "--seed", 4, "--json", *SMALL]
    code, out, _ = run(capsys, "simulate", *arguments)
    assert code == 0
    assert json.loads(out)["views"] > 0


def test_raw_info_convert_and_verify(scan, tmp_path, capsys):
    code, out, _ = run(capsys, "raw", "info", scan, "--json")
    assert code == 0
    identity = json.loads(out)["id"]
    assert run(capsys, "raw", "verify", scan)[0] == 0
    assert run(capsys, "raw", "convert", scan, "-o", tmp_path / "copy.lraw")[0] == 0
    assert raw.read(tmp_path / "copy.lraw").id == identity
    assert run(capsys, "raw", "convert", scan, "-o", tmp_path / "ctpd")[0] == 0
    assert raw.read(tmp_path / "ctpd").geometry.shape == raw.read(scan).geometry.shape


def test_raw_convert_codes_a_scan_for_a_link(scan, tmp_path, capsys):
    identity = raw.read(scan).id
    sizes = []
    for coding in raw.CODINGS:
        target = tmp_path / f"{coding.replace('/', '-')}.lraw"
        code, out, _ = run(capsys, "raw", "convert", scan, "-o", target, "--coding", coding, "--json")
        assert code == 0
        assert run(capsys, "raw", "verify", target)[0] == 0
        told, coded = json.loads(out), raw.read(target)
        assert told["id"] == coded.id
        assert (coded.id if coding == "lossless" else coded.coding.source_id) == identity
        assert (told.get("coding") or {}).get("steps_per_sigma") == raw.CODINGS[coding]
        sizes.append(raw.info(target).stored_bytes)
    assert sizes == sorted(sizes, reverse=True)
    code, _, err = run(capsys, "raw", "convert", scan, "-o", tmp_path / "ctpd", "--coding", "lossless")
    assert code == 65
    assert "takes no coding" in err


def test_a_tampered_scan_is_the_senders_fault_and_says_so_to_machines(scan, tmp_path, capsys):
    bad = tmp_path / "bad.lraw"
    data = bytearray(scan.read_bytes())
    data[len(data) // 2] ^= 0xFF
    bad.write_bytes(data)
    code, out, err = run(capsys, "raw", "verify", bad, "--json")
    assert code == 65
    assert json.loads(out)["error"]["code"] == "INPUT_FORMAT"
    assert "INPUT_FORMAT" in err


def test_a_source_that_is_nothing_lists_the_phantoms(tmp_path, capsys):
    code, _, err = run(capsys, "simulate", "nowhere", "-o", tmp_path / "a.lraw")
    assert code == 65
    assert "thorax" in err


def test_an_unknown_recipe_lists_the_known(scan, tmp_path, capsys):
    code, _, err = run(capsys, "recon", scan, "-o", tmp_path / "series", "--recipe", "magic")
    assert code == 65
    assert "routine" in err
    assert not (tmp_path / "series").exists()


def test_a_journey_leaves_a_page_and_series_and_replaces_only_a_journey(scan, tmp_path, capsys):
    out = tmp_path / "out"
    assert run(capsys, "journey", scan, "-o", out, "--dose", 0.5, *IMAGE)[0] == 0
    assert {each.name for each in out.iterdir()} == {"as-measured", "0.5-of-the-dose", "report.html"}
    assert run(capsys, "journey", scan, "-o", out, *IMAGE)[0] == 65
    assert run(capsys, "journey", scan, "-o", out, "--replace", "--dose", 0.25, *IMAGE)[0] == 0
    assert (out / "0.25-of-the-dose").is_dir()
    foreign = tmp_path / "foreign"
    foreign.mkdir()
    assert run(capsys, "journey", scan, "-o", foreign, "--replace", *IMAGE)[0] == 65
    assert sorted(each.name for each in tmp_path.iterdir()) == ["foreign", "out"]


def test_a_journey_that_fails_leaves_nothing(tmp_path, capsys):
    code, _, _ = run(capsys, "journey", "water20", "-o", tmp_path / "out", "--kv", 33, *SMALL)
    assert code == 65
    assert list(tmp_path.iterdir()) == []


def test_an_engine_that_is_not_here_is_refused_before_any_work(scan, tmp_path, capsys, monkeypatch):
    def absent():
        raise EngineUnavailable("engine 'cuda' cannot run: planted")

    monkeypatch.setattr("lampyris.projector.cuda.card", absent)
    code, _, err = run(capsys, "recon", scan, "-o", tmp_path / "series", "--engine", "cuda", *IMAGE)
    assert (code, "planted" in err) == (69, True)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("command", [[], ["journey"], ["simulate"], ["recon"], ["assess"], ["raw"], ["doctor"]])
def test_help_teaches_with_an_example_and_the_exit_codes(command, capsys):
    with pytest.raises(SystemExit) as left:
        cli.main([*command, "-h"])
    text = capsys.readouterr().out
    assert left.value.code == 0
    assert "exit codes" in text
    assert not command or "example:" in text


def test_wrong_usage_is_two():
    with pytest.raises(SystemExit) as left:
        cli.main(["recon"])
    assert left.value.code == 2


def test_the_console_script_runs_and_knows_its_version():
    script = str(Path(sys.executable).parent / "lampyris")
    done = subprocess.run([script, "--version"], capture_output=True, text=True, check=True)
    assert done.stdout.startswith("lampyris ")
