"""PostgreSQL is killed under a running centre, again and again: it comes back, and no scan is lost or doubled."""

import asyncio
import hashlib
import os
import signal
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest
from centre_site import Site, served

from lampyris.centre import Settings, access, database, opened
from lampyris.centre.api import create
from lampyris.centre.jobs.worker import work
from lampyris.transfer import Problem


@pytest.fixture
def own() -> Iterator[Settings]:
    """A centre with a PostgreSQL of its own, outside of pytest's folders as in conftest."""
    with tempfile.TemporaryDirectory(prefix="lampyris-", ignore_cleanup_errors=True) as folder:
        settings = Settings(Path(folder), audience="https://centre.example", heartbeat_s=0.5, free_bytes=1)
        database.migrate(database.dsn_of(settings))
        yield settings
        database.stop(settings)


def kill_database(settings: Settings) -> None:
    pid = int((settings.folder / "database" / "postmaster.pid").read_text().splitlines()[0])
    os.kill(pid, signal.SIGKILL)


def patiently(ask):
    """Repeat a request as section 7 of the page says, until it is neither put off nor broken off.

    Chunks whose rows a killed database forgot are named by the commit, which is an answer to act on.
    """
    deadline = time.monotonic() + 300
    while True:
        answer = ask()
        if (
            answer.status_code in (200, 201, 202, 204, 409)
            or not Problem.parse(answer.status_code, answer.content).retry
        ):
            return answer
        assert time.monotonic() < deadline, answer.text
        time.sleep(0.5)


class Working:
    """A worker in a thread with a loop of its own."""

    def __init__(self, settings: Settings, make) -> None:
        self._loop = asyncio.new_event_loop()
        self._task: asyncio.Task[None] | None = None
        self._thread = threading.Thread(target=self._run, args=(settings, make))
        self._thread.start()

    def _run(self, settings: Settings, make) -> None:
        async def whole() -> None:
            async with opened(settings, connections=4) as centre:
                self._task = asyncio.current_task()
                await work(centre, ("routine",), make=make, signals=False)

        try:
            self._loop.run_until_complete(whole())
        except asyncio.CancelledError:
            pass
        finally:
            self._loop.close()

    def stop(self) -> None:
        assert self._task is not None
        self._loop.call_soon_threadsafe(self._task.cancel)
        self._thread.join()


@pytest.mark.slow
def test_a_database_that_is_killed_loses_and_doubles_nothing(own):
    """Killed after a chunk, at the commit, while a worker is at it, and before the series is fetched."""
    tries = []

    def make(work, manifest, folder, watch):
        tries.append(manifest.scan)
        if len(tries) == 1:
            kill_database(own)
        return [], "pass"

    async def invite() -> str:
        async with await psycopg.AsyncConnection.connect(database.dsn_of(own), autocommit=True) as connection:
            return await access.invite(connection, "st-anna")

    code = asyncio.run(invite())
    with served(create(own)) as client:
        site = Site(client, "st-anna", code)
        pieces = [b"first" * 999, b"second" * 888]
        manifest = site.manifest(pieces)
        assert patiently(lambda: site.open(manifest)).status_code == 201
        assert patiently(lambda: site.put(manifest.scan, pieces[0])).status_code == 204
        kill_database(own)
        assert patiently(lambda: site.put(manifest.scan, pieces[1])).status_code == 204
        kill_database(own)
        while (answer := patiently(lambda: site.commit(manifest))).status_code == 409:
            named = answer.json()["missing"]
            for piece in (piece for piece in pieces if hashlib.sha256(piece).hexdigest() in named):
                assert patiently(lambda piece=piece: site.put(manifest.scan, piece)).status_code == 204
        assert answer.status_code in (200, 202)
        worker = Working(own, make)
        deadline = time.monotonic() + 300
        while patiently(lambda: site.ask("GET", f"/scans/{manifest.scan}")).json()["state"] != "done":
            assert time.monotonic() < deadline
            time.sleep(0.5)
        kill_database(own)
        series = patiently(lambda: site.ask("GET", "/returns")).json()["series"]
        assert [one["scan"] for one in series] == [manifest.scan]
        assert tries[:1] == [manifest.scan]
        worker.stop()
