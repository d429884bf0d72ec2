"""The site's agent, a line that is bad in every way at once, and the centre: each scan arrives once, as it was sent."""

import asyncio
import dataclasses
import hashlib
import random
import tempfile
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx
import psycopg
import pytest
import uvicorn
from fatal import CHUNK, picture_of
from house import certificate, delivered, drop, invited, packed_scan
from schedule import random_line
from toxic import Line, Proxy, bad_line

from lampyris.centre import Settings, opened
from lampyris.centre.api import create
from lampyris.centre.database import dsn_of, migrate, stop
from lampyris.centre.jobs.worker import work
from lampyris.centre.store import Store, raw_prefix, series_prefix
from lampyris.site import Agent, Config, Site, Surroundings
from lampyris.site import client as line_to
from lampyris.site import enrol as enrol_site
from lampyris.site.config import CentreLink, Folder, Keeping, Watch
from lampyris.transfer import ReturnedFile, limits

SECONDS = 300.0
"""How long something that takes seconds may take on a machine that is busy with other things."""


@dataclass
class Running:
    """A centre that serves and works, a site that is enrolled, and what the worker saw."""

    port: int
    config: Config
    site: Site
    dsn: str
    source: bytes
    arrived: dict[str, list[str]]


@pytest.fixture(scope="module")
def running(tmp_path_factory) -> Iterator[Running]:
    """Chunks are small, so that a small scan meets many faults."""
    place, made = tmp_path_factory.mktemp("line"), pytest.MonkeyPatch()
    made.setattr(limits, "CHUNK_BYTES", CHUNK)
    source = packed_scan()
    with tempfile.TemporaryDirectory(prefix="lampyris-", ignore_cleanup_errors=True) as folder:
        inner = Settings(Path(folder))
        settings = Settings(place / "centre", dsn=dsn_of(inner), free_bytes=1, heartbeat_s=1.0)
        assert settings.dsn is not None
        migrate(settings.dsn)
        pem, key = certificate(place)
        server = uvicorn.Server(
            uvicorn.Config(
                create(settings),
                port=0,
                log_config=None,
                ssl_certfile=pem,
                ssl_keyfile=key,
                timeout_graceful_shutdown=1,
            )
        )
        done, arrived = threading.Event(), dict[str, list[str]]()
        threads = [
            threading.Thread(target=server.run),
            threading.Thread(target=worked, args=(settings, arrived, done)),
        ]
        for thread in threads:
            thread.start()
        while not server.started:
            assert threads[0].is_alive()
            time.sleep(0.01)
        port = server.servers[0].sockets[0].getsockname()[1]
        (place / "scans").mkdir()
        config = Config(
            place / "site",
            CentreLink(f"https://127.0.0.1:{port}", ca_file=pem, poll_s=0.2),
            (Folder("archive", place / "archive"),),
            watch=Watch(place / "scans", poll_s=0.1),
            spool=Keeping(free_gb=0.0),
        )
        with line_to(config.centre) as http:
            site = enrol_site(http, config.folder, asyncio.run(invited(settings.dsn)), now=time.time)
        yield Running(port, config, site, settings.dsn, source, arrived)
        done.set()
        server.should_exit = True
        for thread in threads:
            thread.join()
        stop(inner)
    made.undo()


def worked(settings: Settings, arrived: dict[str, list[str]], done: threading.Event) -> None:
    """A worker that notes what arrived and makes a picture of it, until the event is set."""
    store = Store(settings)

    def make(work, manifest, folder, watch):
        (part,) = manifest.parts
        digest = hashlib.sha256()
        for chunk in part.chunks:
            digest.update(store.get(raw_prefix(manifest.site, manifest.scan), chunk.digest))
        arrived.setdefault(manifest.scan, []).append(digest.hexdigest())
        place = folder / "picture.bin"
        place.write_bytes(picture_of(manifest.scan, digest.hexdigest()))
        size, found = store.put_file(series_prefix(manifest.site, manifest.scan), place)
        return [ReturnedFile(place.name, size, found)], "pass"

    async def whole() -> None:
        async with opened(settings, connections=4) as centre:
            working = asyncio.create_task(work(centre, ("stat", "routine"), make, signals=False))
            while not done.is_set():
                await asyncio.sleep(0.05)
            working.cancel()
            await asyncio.gather(working, return_exceptions=True)

    asyncio.run(whole())


@dataclass(frozen=True)
class Journey:
    """What happened on the way of some scans."""

    home: set[str]
    proxy: Proxy


def journey(running: Running, names: dict[str, str], line: Line, seed: int, timeout_s: float) -> Journey:
    """Scan (name → priority) and wait until all series are home. The agent's clock runs thirty times as fast."""
    for name, priority in names.items():
        drop(running.config, name, running.source, priority)
    before = delivered(running.config)
    outside, stopping = Surroundings(clock=lambda: 30.0 * time.monotonic()), threading.Event()
    with bad_line(running.port, line, seed) as proxy:
        link = dataclasses.replace(running.config.centre, url=f"https://127.0.0.1:{proxy.port}")
        with line_to(link) as http:
            http.timeout = httpx.Timeout(timeout_s)
            agent = Agent(dataclasses.replace(running.config, centre=link), running.site, http, outside)
            thread = threading.Thread(target=agent.run, args=(stopping,))
            thread.start()
            try:
                deadline = time.monotonic() + SECONDS
                while agent.spool.entries() or len(delivered(running.config) - before) < len(names):
                    assert time.monotonic() < deadline, (proxy.met, agent.link.trouble)
                    time.sleep(0.05)
            finally:
                stopping.set()
                thread.join()
    return Journey(delivered(running.config) - before, proxy)


def check(running: Running, home: set[str]) -> None:
    """Each scan came once and as it was sent, and what was made of it returned once."""
    sent = hashlib.sha256(running.source).hexdigest()
    for scan in home:
        assert running.arrived[scan] == [sent]
        assert (running.config.pacs[0].folder / scan / "picture.bin").read_bytes() == picture_of(scan, sent)
    with psycopg.connect(running.dsn) as connection:
        rows = connection.execute(
            "SELECT state, attempts, returned IS NOT NULL FROM scan WHERE id = ANY(%s)", (list(home),)
        ).fetchall()
    assert rows == [("done", 1, True)] * len(home)
    assert set(running.arrived) == delivered(running.config), "one too many"


SLOW = [pytest.param(seed, marks=pytest.mark.slow) for seed in range(20, 220)]


@pytest.mark.parametrize("seed", [*range(20), *SLOW])
def test_every_scan_arrives_once_and_as_it_was_sent(running, seed):
    """Also what is made of it."""
    line = random_line(random.Random(seed))
    print(f"seed {seed}: {line}")  # noqa: T201 - shown when it fails
    found = journey(running, {f"{seed}a": "routine", f"{seed}b": "stat"}, line, seed, 3.0)
    print(f"met {dict(found.proxy.met)} on {found.proxy.connections} connections")  # noqa: T201
    assert len(found.home) == 2
    check(running, found.home)


LINES = {
    "drop": Line(reset_bytes=100_000),
    "reorder": Line(waver_s=0.3),
    "half-open": Line(dead_bytes=150_000),
    "flip a bit": Line(flip_bytes=120_000),
    "5 % loss": Line.losing(0.05, waver_s=0.001),
    "2 s latency": Line(latency_s=2.0),
    "2 s latency and 5 % loss": Line.losing(0.05, latency_s=2.0),
}
FAULT = {
    "drop": "reset",
    "half-open": "dead",
    "flip a bit": "flip",
    "5 % loss": "stall",
    "2 s latency and 5 % loss": "stall",
}


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[pytest.mark.slow] * name.startswith("2 s")) for name in LINES]
)
def test_a_line_that_is_bad_in_one_way_loses_nothing(running, name):
    """Each fault for itself, so that none hides behind another; pieces that overtake one another are of two streams."""
    late = LINES[name].latency_s
    found = journey(running, {name.replace(" ", "_"): "routine"}, LINES[name], 7, 3.0 + 20.0 * late)
    check(running, found.home)
    assert FAULT.get(name) is None or found.proxy.met[FAULT[name]] > 0
