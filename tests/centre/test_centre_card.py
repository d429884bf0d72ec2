"""A worker holds the card it was given, alone, or does not begin; whoever was given none sees none."""

import ctypes
import json
import os
import subprocess
import sys
import uuid

import pytest

from lampyris.centre import Settings
from lampyris.centre.jobs import card
from lampyris.centre.jobs.card import Card
from lampyris.centre.jobs.hand import Hand
from lampyris.centre.observe.metrics import Metrics
from lampyris.centre.settings import VARIABLE
from lampyris.model import EngineUnavailable, MachineError

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
