"""A worker holds the card it was given, alone, or does not begin; whoever was given none sees none."""

import ctypes
import dataclasses
import io
import json
import os
import subprocess
import sys
import uuid
from datetime import UTC, datetime
from types import SimpleNamespace

import pydicom
import pytest

from lampyris import raw, recipes, simulate
from lampyris.ahead import no_slices
from lampyris.centre import Settings
from lampyris.centre.jobs import __main__ as jobs
from lampyris.centre.jobs import card
from lampyris.centre.jobs import hand as hand_module
from lampyris.centre.jobs.card import Card
from lampyris.centre.jobs.hand import Hand
from lampyris.centre.jobs.queue import Work
from lampyris.centre.observe.metrics import Metrics
from lampyris.centre.recipes.choice import Library
from lampyris.centre.settings import VARIABLE
from lampyris.centre.store import Store, raw_prefix, series_prefix
from lampyris.model import EngineUnavailable, MachineError, Step
from lampyris.phantom import water_cylinder
from lampyris.transfer import Chunk, Manifest, Part

IDENTITIES = [uuid.UUID(int=7), uuid.UUID("3f6c1c1e-7a0e-4f53-9d2a-0c5a8e3b9d11")]


class Driver:
    """The calls of libcuda.so.1 that are made, with as many cards as there are identities."""

    def __init__(self, count: int = 2, *, starts: int = 0) -> None:
        self.count, self.starts = count, starts

    def cuInit(self, flags):  # noqa: N802
        assert flags == 0
        return self.starts

    def cuDeviceGetCount(self, count):  # noqa: N802
        count._obj.value = self.count
        return 0

    def cuDeviceGet(self, device, number):  # noqa: N802
        device._obj.value = number + 40
        return 0

    def cuDeviceGetName(self, name, size, device):  # noqa: N802
        assert size == 256
        name.value = f"Card at {device.value}".encode()
        return 0

    def cuDeviceGetUuid(self, identity, device):  # noqa: N802
        ctypes.memmove(identity, IDENTITIES[device.value - 40].bytes, 16)
        return 0


def test_a_card_is_called_what_cuda_calls_it():
    assert card.find(1, Driver()) == Card(1, "Card at 41", "GPU-3f6c1c1e-7a0e-4f53-9d2a-0c5a8e3b9d11")


@pytest.mark.parametrize(
    ("driver", "why"),
    [
        (Driver(1), "this machine shows 1"),
        (Driver(0, starts=100), "this machine shows 0"),
        (Driver(starts=803), "error 803"),
    ],
)
def test_a_card_that_is_not_there_is_not_replaced_by_another(driver, why):
    with pytest.raises(EngineUnavailable, match=why):
        card.find(1, driver)


def test_one_worker_holds_a_card(tmp_path):
    first, second = (card.find(number, Driver()) for number in range(2))
    third = card.held(first, tmp_path)
    with card.held(first, tmp_path), card.held(second, tmp_path), pytest.raises(MachineError, match="held by another"):
        third.__enter__()
    with card.held(first, tmp_path):
        pass


def test_a_worker_does_not_begin_without_its_card(tmp_path):
    """No card, or no engine for it: either way exit 69 before the database is asked for anything."""
    settings = Settings(tmp_path, dsn="postgresql://127.0.0.1:1/none")
    command = [sys.executable, "-m", "lampyris.centre.jobs", "--queues", "stat", "--metrics-port", "0", "--gpu", "0"]
    environment = os.environ | {VARIABLE: settings.to_json()}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=300)
    told = json.loads(done.stderr.splitlines()[-1])
    assert (done.returncode, told["code"]) == (69, "MACHINE_ENGINE")


def test_a_process_that_cannot_compute_on_its_card_says_so_before_any_scan(tmp_path):
    hand = Hand(Settings(tmp_path), Card(0, "a card", "GPU-00000000-0000-0000-0000-000000000000"))
    with pytest.raises(EngineUnavailable, match="engine 'cuda' cannot run"):
        hand.start()
    assert hand.pid is None


def test_every_image_of_a_worker_with_a_card_is_computed_on_it(tmp_path, monkeypatch):
    """In Numba's simulator: the series says so, and so do its figures."""
    monkeypatch.setenv("NUMBA_ENABLE_CUDASIM", "1")
    settings, held = Settings(tmp_path), Card(0, "a card", "GPU-00000000-0000-0000-0000-000000000000")
    store, manifest, work = committed(settings)
    hand = Hand(settings, held)
    try:
        hand.start()
        (tmp_path / "work").mkdir()
        files, verdict = hand.make(work, manifest, tmp_path / "work", lambda _station, _done: None)
    finally:
        hand.close()
    assert verdict in ("pass", "look", "stop")
    series = {one.name: store.get(series_prefix("site", manifest.scan), one.sha256) for one in files}
    image = pydicom.dcmread(io.BytesIO(next(data for name, data in series.items() if name.endswith(".dcm"))))
    told = image.ContributingEquipmentSequence[0].ContributionDescription
    assert "by engine cuda on Numba's simulator" in told
    assert json.loads(series["assessment.json"])["provenance"]["engine"] == "cuda on Numba's simulator"


def committed(settings: Settings) -> tuple[Store, Manifest, Work]:
    """A small axial scan in the store, and an order to make 8 × 8 pixels of it."""
    protocol = simulate.Protocol(kind="axial", mas=50.0)
    scan = simulate.scan(water_cylinder(120.0), simulate.scanner("small"), protocol, seed=5)
    store, chunks = Store(settings), []
    for part in raw.pack(scan, raw.Decision("lossless", "a test"), part_bytes=1 << 20):
        (settings.folder / "chunk").write_bytes(part.content)
        size, digest = store.put_file(raw_prefix("site", "0" * 32), settings.folder / "chunk")
        chunks.append(Chunk(digest, size))
    manifest = Manifest(
        scan="0" * 32, site="site", started="2026-11-21T08:15:02Z", format="lraw", recipe="routine",
        parts=(Part("scan.lraw", tuple(chunks)),),
    )  # fmt: skip
    routine = recipes.recipe("routine")
    grid = dataclasses.replace(routine.grid, matrix=8, field_of_view_mm=60.0, slice_thickness_mm=5.0)
    tiny = dataclasses.replace(routine, grid=grid, passport=Step("none"))
    library = Library({"routine": tiny.to_json()})
    return store, manifest, Work(1, "site", manifest.scan, "", datetime(2026, 11, 21, tzinfo=UTC), 1, library)


class CardError(Exception):
    """As the libraries of cards raise them."""


CardError.__module__ = "cupy_backends.cuda.api.runtime"


def broken_once(orders, leash, settings_json, card) -> None:
    """The process of a worker whose card fails at the first scan after it was started, as an illegal address does."""
    import lampyris.centre.jobs.reconstruct as stations

    def fails(*_arguments, watch, **_more):
        watch("reconstruct", 0.5)
        raise CardError("cudaErrorIllegalAddress: an illegal memory access was encountered")

    stations.reconstruct = fails
    hand_module._carry_out(orders, leash, settings_json, card)


class BrokenHand(Hand):
    def _target(self):
        return broken_once


def test_a_card_that_fails_is_the_machine_s_fault_and_the_next_scan_gets_a_fresh_process(tmp_path, monkeypatch):
    """A context that broke stays broken for its process: every later scan would fail for it."""
    monkeypatch.setenv("NUMBA_ENABLE_CUDASIM", "1")
    settings = Settings(tmp_path)
    _, manifest, work = committed(settings)
    hand = BrokenHand(settings, Card(0, "a card", "GPU-00000000-0000-0000-0000-000000000000"))
    processes = []
    try:
        for _ in range(2):
            with pytest.raises(MachineError, match=r"the card failed at station reconstruct .*illegal memory access"):
                hand.make(work, manifest, tmp_path, lambda _station, _done: None)
            assert hand.pid is None
            processes.append(hand._process.pid)
    finally:
        hand.close()
    assert len(set(processes)) == 2


def test_the_metrics_tell_what_computed_a_series():
    counted = SimpleNamespace(metrics=Metrics())

    def made_by(held: Card | None) -> float:
        jobs.counted(lambda *_: ([], "pass"), counted, held)(None, None, None, None)
        engine = "cpu" if held is None else "cuda"
        return counted.metrics.registry.get_sample_value("lampyris_series_made_total", {"engine": engine})

    assert made_by(None) == 1.0
    assert made_by(Card(3, "a card", "GPU-3")) == 1.0


def test_beside_a_card_early_work_corrects_and_makes_no_slices():
    scan = simulate.scan(
        water_cylinder(120.0), simulate.scanner("small"), simulate.Protocol(mas=50.0, first_mm=-1.0, last_mm=1.0)
    )
    routine = recipes.recipe("routine")
    planned = dataclasses.replace(routine.grid, field_of_view_mm=60.0, first_mm=-1.0, last_mm=1.0)
    recipe = dataclasses.replace(routine, grid=planned)
    assert no_slices(scan, recipe, "cpu") is None
    assert "whole" in no_slices(scan, recipe, "cuda")


SEES = """
import os, sys, threading
from multiprocessing import Pipe
from lampyris.centre import Settings
from lampyris.centre.jobs import hand
from pathlib import Path

hand._unable = lambda card: print("asked", card, os.environ["CUDA_VISIBLE_DEVICES"]) if card else None
ours, theirs = Pipe()
held, leash = Pipe(duplex=False)

def listen():
    assert ours.recv() is None
    print("ready", repr(os.environ["CUDA_VISIBLE_DEVICES"]), flush=True)
    os._exit(0)

threading.Thread(target=listen).start()
hand._carry_out(theirs, held, Settings(Path(sys.argv[1])).to_json(), sys.argv[2])
"""


@pytest.mark.parametrize(("given", "said"), [("GPU-7", "asked GPU-7 GPU-7\nready 'GPU-7'\n"), ("", "ready ''\n")])
def test_the_process_that_computes_sees_its_card_alone(tmp_path, given, said):
    command = [sys.executable, "-c", SEES, str(tmp_path), given]
    environment = os.environ | {"CUDA_VISIBLE_DEVICES": "0,1,2"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True, timeout=300)
    assert done.stdout == said


def test_the_slot_is_busy_while_its_card_computes():
    metrics = Metrics()

    def slots() -> dict[str, float]:
        value = metrics.registry.get_sample_value
        return {state: value("lampyris_gpu_slots", {"card": "3", "state": state}) for state in ("busy", "free")}

    metrics.hold(3)
    assert slots() == {"busy": 0.0, "free": 1.0}
    with metrics.computing(3):
        assert slots() == {"busy": 1.0, "free": 0.0}
    assert slots() == {"busy": 0.0, "free": 1.0}
