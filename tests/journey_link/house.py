"""A temporary folder → a centre of real processes, a site, and somebody who starts again whatever is killed.

That somebody stands for systemd. Processes are the ones of `lampyris serve`, `lampyris work` and `lampyris site run`;
PostgreSQL is the centre's own, which the centre itself starts again.
"""

import asyncio
import contextlib
import dataclasses
import datetime
import functools
import hashlib
import ipaddress
import json
import multiprocessing
import os
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import fatal
import httpx
import numpy as np
import psycopg
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from lampyris import raw
from lampyris.centre import Settings, access
from lampyris.centre.database import dsn_of, migrate, stop
from lampyris.centre.settings import VARIABLE
from lampyris.model import Gantry, Geometry, RawScan
from lampyris.site import Config
from lampyris.site import client as line_to
from lampyris.site import enrol as enrol_site
from lampyris.site.config import CentreLink, Folder, Keeping, Watch
from lampyris.site.store import Spool

SITE = "st-anna"
SECONDS = 300.0
"""How long something that takes a second may take on a machine that is busy with other things."""


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


def packed_scan() -> bytes:
    """97 views of 16 × 61 cells, packed: 190 kB of counts that no codec makes much smaller."""
    gantry = Gantry(541.0, 949.0, 16, 61, (1.7, 2.9), True, 2.6, 31.25)
    geometry = Geometry.helical(gantry, views=97, views_per_turn=41, table_feed_mm=-6.3)
    rng = np.random.default_rng(5)
    counts = rng.integers(900, 60_000, geometry.shape, dtype=np.uint16)
    scan = RawScan(counts, geometry, np.full(97, 0.3), air=np.full((1, 16, 61), 65_000.0), air_exposure_mas=0.3)
    return b"".join(part.content for part in raw.pack(scan, raw.Decision("lossless", "a test"), part_bytes=1 << 20))


def drop(config: Config, name: str, source: bytes, priority: str) -> None:
    """Put a scan and its order where the scanner puts them."""
    assert config.watch is not None
    path = config.watch.folder / f"{name}.lraw"
    path.write_bytes(source)
    order = {"priority": priority, "study": {"PatientID": name}}
    path.with_name(f"{path.name}.json").write_text(json.dumps(order), "utf-8")


def delivered(config: Config) -> set[str]:
    """Scans whose series the PACS has."""
    return {each.name for each in config.pacs[0].folder.glob("*")}  # type: ignore[union-attr]


async def invited(dsn: str) -> str:
    async with await psycopg.AsyncConnection.connect(dsn, autocommit=True) as connection:
        return await access.invite(connection, SITE)


class House:
    """A centre and a site under one roof."""

    def __init__(self, folder: Path) -> None:
        self.source, self.starts = packed_scan(), Counter[str]()
        self.fuses = fatal.Fuses(folder / "fuses")
        self.settings = Settings(
            folder / "centre", audience="https://centre.example", free_bytes=0, heartbeat_s=0.5, tries=1000
        )
        self.dsn = dsn_of(self.settings)
        migrate(self.dsn)
        pem, self._key = certificate(folder)
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.port = free.getsockname()[1]
        (folder / "scans").mkdir()
        self.config = Config(
            folder / "site",
            CentreLink(f"https://127.0.0.1:{self.port}", ca_file=pem, poll_s=0.1),
            (Folder("archive", folder / "archive"),),
            watch=Watch(folder / "scans", poll_s=0.05),
            spool=Keeping(free_gb=0.0),
        )
        (self.fuses.folder / "running" / "database").symlink_to(self.settings.folder / "database" / "postmaster.pid")
        self._stopping, self._forward = threading.Event(), threading.Thread(target=self._bring_forward)
        self._processes: dict[str, Any] = {}
        self._keepers: dict[str, threading.Thread] = {}
        self.site_log, self._log = folder / "fuses" / "site.log", (folder / "centre.log").open("wb")
        self.site_log.touch()
        self.spool = Spool(self.config.folder / "spool", now=time.time)

    def open(self) -> None:
        """Start the centre, and enrol the site."""
        pem = self.config.centre.ca_file
        tls = ("--tls-cert", str(pem), "--tls-key", str(self._key))
        api = ("--host", "127.0.0.1", "--port", str(self.port), "--processes", "1", *tls)
        for role, arguments in (("api", api), ("worker", ("--queues", "stat,routine", "--metrics-port", "0"))):
            begin = functools.partial(self._program, role, arguments)
            self._keepers[role] = self._keep(role, begin, self._stopping)
        self._forward.start()
        code = asyncio.run(invited(self.dsn))
        with line_to(self.config.centre) as http:
            wait_for(lambda: answers(http), "the interface to answer")
            enrol_site(http, self.config.folder, code, now=time.time)

    def close(self) -> None:
        self._stopping.set()
        for role, thread in self._keepers.items():
            self._end(role, thread)
        self._forward.join()
        self._log.close()
        stop(self.settings)

    @contextmanager
    def scanning(self, port: int) -> Iterator[None]:
        """The site's agent, to whom the centre is behind that port."""
        link = dataclasses.replace(self.config.centre, url=f"https://127.0.0.1:{port}")
        config, processes = dataclasses.replace(self.config, centre=link), multiprocessing.get_context("forkserver")
        processes.set_forkserver_preload(["lampyris.site", "fatal"])
        done = threading.Event()

        def begin() -> Any:
            process = processes.Process(target=fatal.site, args=(self.fuses.folder, config, 12 * SECONDS))
            process.start()
            return process

        thread = self._keep("site", begin, done)
        try:
            yield
        finally:
            done.set()
            self._end("site", thread)  # killed: it is as good an end as any

    def bring_home(self, names: dict[str, str], port: int | None = None) -> set[str]:
        """Scan (name → priority), and wait until all series are home and everybody knows: the ids of the scans."""
        before, seconds = delivered(self.config), SECONDS + 30.0 * len(self.fuses.lit())
        for name, priority in names.items():
            drop(self.config, name, self.source, priority)
        with self.scanning(port or self.port):
            home = lambda: len(delivered(self.config) - before) == len(names) and not self.spool.entries()  # noqa: E731
            wait_for(home, self.told, seconds)
            wait_for(lambda: self.ask("SELECT count(*) FROM procrastinate_jobs") == [(0,)], self.told)
        return delivered(self.config) - before

    def check(self, scans: set[str]) -> None:
        """Each scan came once, as it was sent; it was reconstructed once, and what was made of it returned once."""
        sent = hashlib.sha256(self.source).hexdigest()
        for scan in scans:
            picture = fatal.picture_of(scan, sent)
            assert (self.config.pacs[0].folder / scan / "picture.bin").read_bytes() == picture  # type: ignore[union-attr]
            assert self.ask("SELECT state, returned IS NOT NULL FROM scan WHERE id = %s", scan) == [("done", True)]
            states = self.ask(
                "SELECT event.state, count(*) FROM event JOIN scan ON scan.number = event.scan WHERE scan.id = %s"
                " AND event.state IN ('open', 'done', 'refused', 'failed') GROUP BY 1 ORDER BY 1",
                scan,
            )
            # done is told twice: when it is done, and when the site has said that the series is home
            assert states == [("done", 2), ("open", 1)], states
            made = self.ask("SELECT sha256 FROM output JOIN scan ON number = scan WHERE id = %s", scan)
            assert made == [(hashlib.sha256(picture).hexdigest(),)]
            assert self._objects("series", scan) == {made[0][0]}
            chunks = [self.source[at : at + fatal.CHUNK] for at in range(0, len(self.source), fatal.CHUNK)]
            assert self._objects("raw", scan) == {hashlib.sha256(chunk).hexdigest() for chunk in chunks}
        assert self.ask("SELECT count(*) FROM scan") == [(len(delivered(self.config)),)], "one too many"

    def ask(self, query: str, *values: Any) -> list[Any]:
        """What the database says, as soon as it is there."""
        deadline = time.monotonic() + SECONDS
        while True:
            try:
                with psycopg.connect(self.dsn, autocommit=True, connect_timeout=10) as connection:
                    return connection.execute(query, values).fetchall()
            except psycopg.OperationalError:
                assert time.monotonic() < deadline, self.told()
                time.sleep(0.1)

    def log_text(self) -> str:
        """What interface and worker have logged."""
        return Path(self._log.name).read_text("utf-8", "replace")

    def told(self) -> str:
        """What there is to say when something does not happen."""
        log = self.log_text().splitlines()
        rows = self.ask("SELECT id, state, attempts, reason_code, reason FROM scan WHERE returned IS NULL")
        return "\n".join([f"starts {dict(self.starts)}, lit {self.fuses.lit()}, scans {rows}", *log[-40:]])

    def _objects(self, kind: str, scan: str) -> set[str]:
        folder = self.settings.folder / "objects" / kind / SITE / scan
        # what a killed process was writing has "#" in its name: nobody reads it, and it goes with the scan
        return {each.name for each in folder.rglob("*") if each.is_file() and "#" not in each.name}

    def _program(self, role: str, arguments: tuple[str, ...]) -> Any:
        more = {fatal.FUSES: str(self.fuses.folder), fatal.ROLE: role, VARIABLE: self.settings.to_json()}
        command = [sys.executable, str(Path(fatal.__file__)), *arguments]
        return subprocess.Popen(command, env=os.environ | more, stdout=self._log, stderr=self._log)

    def _keep(self, role: str, begin: Callable[[], Any], enough: threading.Event) -> threading.Thread:
        """Start a process, and again whenever it ends, until told that it is enough."""
        self._processes[role] = begin()

        def keep() -> None:
            while True:
                process = self._processes[role]
                process.wait() if isinstance(process, subprocess.Popen) else process.join()
                if enough.is_set():
                    return
                self.starts[role] += 1
                self._processes[role] = begin()

        thread = threading.Thread(target=keep)
        thread.start()
        return thread

    def _end(self, role: str, keeper: threading.Thread) -> None:
        """End a process, and another one should it have been started at this very moment."""
        while keeper.is_alive():
            process = self._processes[role]
            process.kill() if role == "site" else process.terminate()
            keeper.join(5.0)

    def _bring_forward(self) -> None:
        """Nobody waits in earnest for the next try of a scan."""
        while not self._stopping.wait(0.3):
            with contextlib.suppress(psycopg.OperationalError), psycopg.connect(self.dsn, autocommit=True) as rows:
                while not self._stopping.wait(0.3):
                    rows.execute("UPDATE procrastinate_jobs SET scheduled_at = now() WHERE scheduled_at > now()")


def answers(http: httpx.Client) -> bool:
    try:
        return http.get("/healthz").status_code == 200
    except httpx.RequestError:
        return False


def wait_for(happened: Any, what: Any, seconds: float = SECONDS) -> None:
    """Wait until something is true; `what` (a text, or who can tell) is said when it never is."""
    deadline = time.monotonic() + seconds
    while not happened():
        assert time.monotonic() < deadline, what if isinstance(what, str) else what()
        time.sleep(0.05)
