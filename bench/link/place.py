"""A centre, or the peers' server, in a namespace or none → sites with packed scans, and what bringing them cost."""

import json
import os
import secrets
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from bench.province.processes import cost, family
from bench.running import Running
from lampyris.site import Site, Spool
from lampyris.site.store import Entry, Source
from lampyris.transfer import Manifest, limits

STARTED = "2026-11-21T08:15:02Z"


@dataclass(frozen=True, slots=True)
class Brought:
    """One file at its server: seconds, breaks that the client met, processor seconds of client, server and database."""

    seconds: float
    breaks: int
    client_s: float
    server_s: float
    database_s: float = 0.0


def enrolled(centre: Running, folder: Path, url: str, *, before: Sequence[str] = (), ca: Path | None = None) -> Site:
    """A site whose keys lie in a folder, where its agent looks for them."""
    (code,) = centre.codes([folder.name])
    command = [*before, sys.executable, "-m", "bench.link.clients", "enrol", url, str(folder), "--code", code]
    subprocess.run([*command, *([] if ca is None else ["--ca", str(ca)])], check=True)
    return Site.load(folder)


def packed(site: Site, folder: Path, source: Path, chunk_bytes: int = limits.CHUNK_BYTES) -> None:
    """A scan in the site's spool that holds the bytes of a file, ready to be sent."""
    spool = Spool(folder / "spool", now=time.time)
    for entry in spool.entries():
        spool.finish(entry.scan)
    skeleton = Manifest(secrets.token_hex(16), site.enrolment.site, STARTED, "lraw")
    spool.accept(Entry(skeleton, Source(source), "nobody's", time.time()))
    spool.begin(skeleton.scan)
    with source.open("rb") as file:
        for data in iter(lambda: file.read(chunk_bytes), b""):
            spool.put_chunk(skeleton.scan, data)
    spool.end(skeleton.scan, "0" * 64, "")
    os.sync()


@dataclass(frozen=True, slots=True)
class Server:
    """A server that runs, and what is to be counted with it."""

    url: str
    pid: int
    database: int | None = None


def brought(
    kind: str, server: Server, place: Path, *, before: Sequence[str] = (), ca: Path | None = None, limit_s: float
) -> Brought | None:
    """Run a client to its end; None when that took longer than the limit."""
    command = [*before, sys.executable, "-m", "bench.link.clients", kind, server.url, str(place)]
    environment = dict(os.environ)
    if ca is not None:
        command += ["--ca", str(ca)]
        environment["REQUESTS_CA_BUNDLE"] = str(ca)
    pids = list(family(server.pid))
    used = cost(pids).cpu_s
    database = 0.0 if server.database is None else cost(family(server.database)).cpu_s
    try:
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True, timeout=limit_s)
    except subprocess.TimeoutExpired:
        return None
    told = json.loads(done.stdout.strip().splitlines()[-1])
    after = 0.0 if server.database is None else cost(family(server.database)).cpu_s
    return Brought(told["seconds"], told["breaks"], told["cpu_s"], cost(pids).cpu_s - used, after - database)


@contextmanager
def peers(folder: Path, host: str, port: int, *, before: Sequence[str] = (), tls: Sequence[str] = ()) -> Iterator[int]:
    """The server of the plain PUT and of tus; its number."""
    from bench.link.peers import FOLDER

    folder.mkdir(parents=True)
    command = [*before, sys.executable, "-m", "bench.link.peers", "--host", host, "--port", str(port), *tls]
    with (folder.parent / "peers.log").open("ab") as words:
        process = subprocess.Popen(command, env={**os.environ, FOLDER: str(folder)}, stdout=words, stderr=words)
    try:
        yield process.pid
    finally:
        process.terminate()
        process.wait()
