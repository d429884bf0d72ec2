"""The site's agent, a line that is bad in every way at once, and the centre: each scan arrives once, as it was sent."""

import asyncio
import dataclasses
import datetime
import hashlib
import ipaddress
import json
import random
import tempfile
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx
import numpy as np
import psycopg
import pytest
import uvicorn
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from toxic import Line, bad_line

from lampyris import raw
from lampyris.centre import Settings, access, opened
from lampyris.centre.api import create
from lampyris.centre.database import dsn_of, migrate, stop
from lampyris.centre.jobs.worker import work
from lampyris.centre.store import Store, raw_prefix, series_prefix
from lampyris.model import Gantry, Geometry, RawScan
from lampyris.site import Agent, Config, Site, Surroundings
from lampyris.site import client as line_to
from lampyris.site import enrol as enrol_site
from lampyris.site.config import CentreLink, Folder, Keeping, Watch
from lampyris.transfer import ReturnedFile, limits

CHUNK = 16 << 10
SECONDS = 120.0


@dataclass
class Running:
    """A centre that serves and works, a site that is enrolled, and what the worker saw."""

    port: int
    config: Config
    site: Site
    dsn: str
    source: bytes
    arrived: dict[str, list[str]]


def certificate(folder: Path) -> tuple[Path, Path]:
    """A certificate for loopback, good for a day, and its key."""
    key, name = ec.generate_private_key(ec.SECP256R1()), x509.Name([])
    now = datetime.datetime.now(datetime.UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(hours=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), critical=True)
        .sign(key, hashes.SHA256())
    )
    paths = folder / "centre.pem", folder / "centre.key"
    paths[0].write_bytes(made.public_bytes(Encoding.PEM))
    paths[1].write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    return paths


def scanned() -> RawScan:
    """97 views of 16 × 61 cells: 190 kB of counts that no codec makes much smaller."""
    gantry = Gantry(541.0, 949.0, 16, 61, (1.7, 2.9), True, 2.6, 31.25)
    geometry = Geometry.helical(gantry, views=97, views_per_turn=41, table_feed_mm=-6.3)
    rng = np.random.default_rng(5)
    counts = rng.integers(900, 60_000, geometry.shape, dtype=np.uint16)
    return RawScan(counts, geometry, np.full(97, 0.3), air=np.full((1, 16, 61), 65_000.0), air_exposure_mas=0.3)


def picture_of(scan: str) -> bytes:
    """What the worker makes of a scan here: enough bytes for the way back to be bad, too."""
    return random.Random(scan).randbytes(150_000)


@pytest.fixture(scope="module")
def running(tmp_path_factory) -> Iterator[Running]:
    """Chunks are small, so that a small scan meets many faults."""
    place, made = tmp_path_factory.mktemp("line"), pytest.MonkeyPatch()
    made.setattr(limits, "CHUNK_BYTES", CHUNK)
    source = b"".join(
        part.content for part in raw.pack(scanned(), raw.Decision("lossless", "a test"), part_bytes=1 << 20)
    )
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


async def invited(dsn: str) -> str:
    async with await psycopg.AsyncConnection.connect(dsn, autocommit=True) as connection:
        return await access.invite(connection, "st-anna")


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
        place.write_bytes(picture_of(manifest.scan))
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


def schedule(seed: int) -> Line:
    """A line that is bad in several ways; a scan and its series are about half a megabyte."""
    rng = random.Random(seed)

    def some(low: float, high: float) -> float:
        return rng.uniform(low, high) if rng.random() < 0.6 else float("inf")

    return Line(
        latency_s=rng.uniform(0.0, 0.02),
        waver_s=rng.uniform(0.0, 0.03),
        bytes_per_s=some(400_000, 4_000_000),
        stall_bytes=some(30_000, 300_000),
        stall_s=0.2,
        reset_bytes=some(60_000, 400_000),
        dead_bytes=some(200_000, 900_000),
        flip_bytes=some(60_000, 400_000),
    )


SLOW = [pytest.param(seed, marks=pytest.mark.slow) for seed in range(17, 200)]


@pytest.mark.parametrize("seed", [*range(17), *SLOW])
def test_every_scan_arrives_once_and_as_it_was_sent(running, seed):
    """Also what is made of it. Nobody waits in earnest: the agent's clock runs thirty times as fast."""
    watched = running.config.watch.folder
    for name, priority in (("a", "routine"), ("b", "stat")):
        path = watched / f"{seed}{name}.lraw"
        path.write_bytes(running.source)
        order = {"priority": priority, "study": {"PatientID": f"{seed}{name}"}}
        path.with_name(f"{path.name}.json").write_text(json.dumps(order), "utf-8")
    before = {place.name for place in running.config.pacs[0].folder.glob("*")}
    outside, stopping = Surroundings(clock=lambda: 30.0 * time.monotonic()), threading.Event()
    with bad_line(running.port, schedule(seed), seed) as proxy:
        link = dataclasses.replace(running.config.centre, url=f"https://127.0.0.1:{proxy.port}")
        with line_to(link) as http:
            http.timeout = httpx.Timeout(3.0)
            agent = Agent(dataclasses.replace(running.config, centre=link), running.site, http, outside)
            thread = threading.Thread(target=agent.run, args=(stopping,))
            thread.start()
            try:
                deadline = time.monotonic() + SECONDS
                while agent.spool.entries() or len(list(running.config.pacs[0].folder.glob("*"))) < len(before) + 2:
                    assert time.monotonic() < deadline, (proxy.met, agent.link.trouble)
                    time.sleep(0.05)
            finally:
                stopping.set()
                thread.join()
    home = {place.name for place in running.config.pacs[0].folder.glob("*")} - before
    assert len(home) == 2
    for scan in home:
        assert running.arrived[scan] == [hashlib.sha256(running.source).hexdigest()]
        assert (running.config.pacs[0].folder / scan / "picture.bin").read_bytes() == picture_of(scan)
    with psycopg.connect(running.dsn) as connection:
        rows = connection.execute(
            "SELECT state, attempts, returned IS NOT NULL FROM scan WHERE id = ANY(%s)", (list(home),)
        ).fetchall()
    assert rows == [("done", 1, True)] * 2
    assert set(running.arrived) <= {place.name for place in running.config.pacs[0].folder.glob("*")}, "one too many"
