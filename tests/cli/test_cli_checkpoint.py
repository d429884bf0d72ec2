"""Interrupted reconstructions: what users are told, what lies beside the output, and where the same command goes on."""

import dataclasses
import signal

import numpy as np
import pydicom
import pytest

from lampyris import cli, path, raw, simulate
from lampyris.checkpoint import Checkpoint
from lampyris.cli import terminal
from lampyris.model import Step
from lampyris.phantom import water_cylinder

IMAGE = ["--matrix", "48", "--fov", "180", "--thickness", "4"]


@pytest.fixture(scope="module")
def scan(tmp_path_factory):
    """A water cylinder off the axis on the small scanner at a fifth of the dose, as a file."""
    body = water_cylinder(120.0, centre_mm=(7.0, 1.0, -5.0))
    made = simulate.scan(body, simulate.scanner("small"), simulate.Protocol("axial", mas=30.0), dose=0.2, seed=5)
    place = tmp_path_factory.mktemp("scans") / "water.lraw"
    raw.write(made, place)
    return place


@pytest.fixture
def short(tmp_path_factory):
    """A recipe of ours as a file: 4 passes in all, and no passport."""

    def made(name):
        recipe = path.recipe(name)
        passes = {"iterations": 2, "returns": 2} if name == "micro" else {"iterations": 4}
        method = Step.of(recipe.method.name, **{**dict(recipe.method.settings), **passes, "subsets": 6})
        place = tmp_path_factory.mktemp("recipes") / f"{name}.json"
        place.write_text(dataclasses.replace(recipe, method=method, passport=Step("none")).to_json(), "utf-8")
        return place

    return made


@pytest.fixture
def watch_reconstruction(monkeypatch):
    """Hear how far the reconstruction is, and, if asked, press Ctrl-C at some point of it."""
    watched, heard, stop = terminal.watched, [], {"at": None}

    class Watched:
        def __init__(self, label):
            self.bars = watched(label)

        def __enter__(self):
            watch = self.bars.__enter__()

            def listening(station, done):
                watch(station, done)
                if station == "reconstruct" and done > 0:
                    heard.append(done)
                    if stop["at"] is not None and done >= stop["at"]:
                        stop["at"] = None
                        signal.raise_signal(signal.SIGINT)

            return listening

        def __exit__(self, *error):
            return self.bars.__exit__(*error)

    monkeypatch.setattr(terminal, "watched", Watched)
    return heard, stop


def run(capsys, *arguments):
    """Exit code and stderr of one command in this process."""
    code = cli.main([str(each) for each in arguments])
    return code, " ".join(capsys.readouterr().err.split())


def pixels(folder):
    return np.stack([pydicom.dcmread(file).pixel_array for file in sorted(folder.glob("*.dcm"))])


@pytest.mark.parametrize("recipe", ["model", "micro"])
def test_ctrl_c_loses_nothing_that_was_reconstructed(
    recipe, scan, short, tmp_path, capsys, monkeypatch, watch_reconstruction
):
    monkeypatch.setattr("lampyris.checkpoint.STATE_S", 0.0)
    heard, stop = watch_reconstruction
    command = ["recon", scan, "--recipe", short(recipe), *IMAGE, "-o"]
    stop["at"] = 0.6
    code, err = run(capsys, *command, tmp_path / "series")
    assert code == 130
    state = tmp_path / ".series.state.npz"
    assert list(tmp_path.iterdir()) == [state]
    assert f"kept in {state.name}: the same command goes on from there" in err
    heard.clear()
    code, err = run(capsys, *command, tmp_path / "series")
    assert code in (0, 3)
    assert "goes on from where it was interrupted" in err
    assert heard[0] >= 0.75  # the third of 4 passes was at work and is lost, those before it are not done again
    assert [each.name for each in tmp_path.iterdir()] == ["series"]
    assert run(capsys, *command, tmp_path / "straight")[0] in (0, 3)
    np.testing.assert_array_equal(pixels(tmp_path / "series"), pixels(tmp_path / "straight"))


def test_a_journey_goes_on_with_the_scan_that_it_was_at(
    scan, short, tmp_path, capsys, monkeypatch, watch_reconstruction
):
    monkeypatch.setattr("lampyris.checkpoint.STATE_S", 0.0)
    _, stop = watch_reconstruction
    command = ["journey", scan, "-o", tmp_path / "out", "--recipe", short("model"), "--dose", "0.5", *IMAGE]
    stop["at"] = 0.6
    assert run(capsys, *command)[0] == 130
    assert [each.name for each in tmp_path.iterdir()] == [".out.as-measured.state.npz"]
    code, err = run(capsys, *command)
    assert code == 0
    assert err.count("goes on from where it was interrupted") == 1
    assert [each.name for each in tmp_path.iterdir()] == ["out"]


def test_the_state_of_another_recipe_is_told_and_not_used(scan, short, tmp_path, capsys):
    state = tmp_path / ".series.state.npz"
    monkey = Checkpoint(state, "another scan and recipe", print)
    monkey.written = -np.inf
    monkey.save({"lattice": np.zeros((2, 3, 4), np.float32)})
    code, err = run(capsys, "recon", scan, "--recipe", short("model"), *IMAGE, "-o", tmp_path / "series")
    assert code in (0, 3)
    assert f"{state.name} is not used and is made again: it was made from something else" in err
    assert [each.name for each in tmp_path.iterdir()] == ["series"]


def test_a_folder_that_holds_something_is_refused_before_any_work(scan, tmp_path, capsys, watch_reconstruction):
    heard, _ = watch_reconstruction
    (tmp_path / "mine").write_text("precious")
    code, err = run(capsys, "recon", scan, *IMAGE, "-o", tmp_path)
    assert code == 65
    assert "not empty" in err
    assert not heard


def test_a_state_is_written_once_a_minute_at_most_and_whole(tmp_path, monkeypatch):
    now = [100.0]
    monkeypatch.setattr("lampyris.checkpoint.time.monotonic", lambda: now[0])
    said = []
    state = Checkpoint(tmp_path / "deep" / "s.npz", "key", said.append)
    state.save({"x": np.arange(3)})
    assert state.load() is None
    now[0] += 60.0
    state.save({"x": np.arange(4)})
    now[0] += 59.0
    state.save({"x": np.arange(5)})
    np.testing.assert_array_equal(state.load()["x"], np.arange(4))
    state.load()
    assert len(said) == 1  # told once, however often it is read
    data = bytearray(state.place.read_bytes())
    data[60] ^= 0xFF
    state.place.write_bytes(data)
    assert Checkpoint(state.place, "key", said.append).load() is None
    assert "s.npz is not used and is made again" in said[1]
    state.end()
    assert list((tmp_path / "deep").iterdir()) == []
