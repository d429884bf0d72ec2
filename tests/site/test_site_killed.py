"""The agent is killed at every named point of the journey, and at points by chance: nothing is lost or doubled."""

import multiprocessing
import random
import signal
import time

import doomed
import httpx
import pydicom
import pytest
from conftest import STUDY
from fake_centre import FakeCentre, served

from lampyris.site import client, enrol
from lampyris.site.config import CentreLink, Watch
from lampyris.transfer import limits

POINTS = (
    "accepting", "accepted", "chunk", "opened", "put", "packing", "before packed", "packed", "commit",
    "before committed", "committed", "file", "storing", "before stored", "stored", "acknowledge", "before returned",
    "returned", "sent", "marked", "before delivered", "delivered", "recorded",
)  # fmt: skip
"""In the order in which a scan meets them."""


@pytest.fixture(scope="module")
def processes():
    """Processes that start without the threads of this one."""
    found = multiprocessing.get_context("forkserver")
    found.set_forkserver_preload(["lampyris.site"])
    return found


@pytest.fixture
def lively(now, series, config, replaced, small_chunks):
    """A centre that reconstructs what was committed as soon as it is asked, and the configuration of its site."""
    now.at = time.time()
    centre = FakeCentre(time.time)
    centre.codes["0123456789ABCDEFGHJK"] = ""
    centre.delivered = []

    def made(request: httpx.Request) -> None:
        scan = request.url.path.rpartition("/")[2]
        if request.method == "GET" and centre.scans.get(scan, {}).get("state") == "queued":
            centre.reconstruct(scan, series(centre, scan))

    centre.before.append(made)
    with served(centre) as url:
        watch = Watch(config.watch.folder, poll_s=0.01)
        config = replaced(config, centre=CentreLink(url, poll_s=0.01), watch=watch)
        with client(config.centre) as http:
            enrol(http, config.folder, "0123456789ABCDEFGHJK", now=time.time)
        yield centre, config


def run(processes, config, fatal: str = "", times: int = 1) -> int:
    process = processes.Process(target=doomed.journey, args=(config, fatal, times, limits.CHUNK_BYTES))
    process.start()
    process.join()
    return process.exitcode


def check(centre, config, scans: int) -> None:
    assert len(centre.scans) == scans
    for scan, held in centre.scans.items():
        assert (held["state"], held["commits"]) == ("done", 1)
        assert centre.packed(scan)
        files = {path.name: path for path in (config.pacs[0].folder / scan).iterdir()}
        assert set(files) == set(centre.returns[scan][1])
        assert str(pydicom.dcmread(files["ct_00001.dcm"]).PatientName) == STUDY["PatientName"]
    assert set(centre.acknowledged) == set(centre.scans)
    left = [path for path in (config.folder / "spool").rglob("*") if path.is_file()]
    assert {path.parent.name for path in left} == {"records"}


def test_killed_at_every_point_in_turn_a_scan_arrives_once(processes, lively, drop):
    centre, config = lively
    drop()
    for point in POINTS:
        assert run(processes, config, point) == -signal.SIGKILL, point
    assert run(processes, config) == 0
    check(centre, config, 1)


def test_killed_in_the_middle_of_several_it_goes_on_with_the_rest(processes, lively, drop):
    centre, config = lively
    drop()
    for point, times in (("chunk", 3), ("put", 3), ("file", 2), ("sent", 1)):
        assert run(processes, config, point, times) == -signal.SIGKILL
    assert run(processes, config) == 0
    check(centre, config, 1)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(12))
def test_killed_by_chance_three_scans_arrive_once(processes, lively, drop, seed):
    centre, config = lively
    rng = random.Random(seed)
    for number in range(3):
        drop(f"{number}.lraw", recipe=f"r{number}", priority=rng.choice(("stat", "routine", "batch")))
    for _ in range(8):
        run(processes, config, rng.choice(POINTS), rng.randint(1, 5))
    run(processes, config)
    assert run(processes, config) == 0, f"seed {seed}"
    check(centre, config, 3)
