"""A folder of fuses → processes of a centre and a site that are killed by SIGKILL at named points of the journey.

A fuse is a file called after a point; it holds the name of the process that is to die there. Whoever comes by burns it.
Run as a program this is the centre's interface or its worker, as they are but for their points; which one, and where
the fuses are, is in the environment. Points lie before and after whatever is written down or answered, and within the
transactions.
"""

import contextlib
import functools
import inspect
import os
import random
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

FUSES, ROLE = "LAMPYRIS_FUSES", "LAMPYRIS_ROLE"
CHUNK = 16 << 10
"""Chunks are small, so that a small scan meets many faults."""
SITE = (
    "accepting", "accepted", "chunk", "opened", "put", "packing", "before packed", "packed", "commit",
    "before committed", "committed", "file", "storing", "before stored", "stored", "acknowledge", "before returned",
    "returned", "sent", "marked", "before delivered", "delivered", "recorded",
)  # fmt: skip
API = (
    "asserting", "asserted", "opening", "opened", "asked", "putting", "put", "noted", "committing", "enqueued",
    "committed", "looked", "listed", "file", "streamed", "acknowledging", "acknowledged",
)  # fmt: skip
WORKER = ("starting", "telling", "started", "finishing", "finished")
HAND = ("fetch", "fetched", "correct", "reconstruct", "store", "stored")
POINTS = tuple(
    f"{role} {point}"
    for role, points in (("site", SITE), ("api", API), ("worker", WORKER), ("hand", HAND))
    for point in points
)


_REBORN_S = 100.0
"""How long whoever comes to a point waits for a victim that is still being started again."""


class Fuses:
    """The folder of fuses, and of the numbers of the processes that may be killed."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        for each in ("lit", "burnt", "running"):
            (folder / each).mkdir(parents=True, exist_ok=True)

    def light(self, fuses: dict[str, str]) -> None:
        """Point → process that is to be killed when the next scan comes by; what was there before is taken away."""
        assert set(fuses) <= set(POINTS)
        for each in (*(self.folder / "lit").iterdir(), *(self.folder / "burnt").iterdir()):
            each.unlink()
        for point, victim in fuses.items():
            (self.folder / "lit" / point).write_text(victim)

    def killed(self) -> set[str]:
        """Points at which a process died."""
        return {each.name for each in (self.folder / "burnt").iterdir()}

    def lit(self) -> set[str]:
        return {each.name for each in (self.folder / "lit").iterdir()}

    def living(self, role: str) -> None:
        """This process plays a role from now on."""
        (self.folder / "running" / role).write_text(f"{os.getpid()} {_began(os.getpid())}")

    def at(self, point: str) -> None:
        """Kill who is to die here, if anybody is; who is still being started again is waited for."""
        lit, burnt, deadline = self.folder / "lit" / point, self.folder / "burnt" / point, time.monotonic() + _REBORN_S
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):  # nobody is, or another was here first
            while time.monotonic() < deadline:
                if (number := self._number(lit.read_text())) is not None:
                    lit.rename(burnt)
                    os.kill(number, signal.SIGKILL)
                    return
                time.sleep(0.02)

    def _number(self, role: str) -> int | None:
        """Of the process that plays a role; None while it is dead, or if another process has its number now."""
        try:
            number, mark = (self.folder / "running" / role).read_text().split()[:2]
            return int(number) if mark == (_folder if role == "database" else _began)(int(number)) else None
        except (FileNotFoundError, ProcessLookupError, ValueError):
            return None


def _folder(number: int) -> str:
    """Where the PostgreSQL of that number has its data: it writes the same beside its number."""
    words = Path(f"/proc/{number}/cmdline").read_bytes().decode().split("\0")
    return words[words.index("-D") + 1]


def _began(number: int) -> str:
    """When a process began, in ticks since the machine did (proc(5), field 22); "" for one that has ended."""
    fields = Path(f"/proc/{number}/stat").read_text().rpartition(")")[2].split()
    return "" if fields[0] == "Z" else fields[19]


def site(fuses: Path, config: Any, seconds: float) -> None:
    """A site's agent, for so long at most. Nobody waits in earnest: its clock runs thirty times as fast."""
    import threading

    import httpx
    import structlog

    from lampyris.site import Agent, Site, Surroundings, client
    from lampyris.transfer import limits

    limits.CHUNK_BYTES = CHUNK
    structlog.configure(logger_factory=structlog.WriteLoggerFactory((fuses / "site.log").open("a")))
    found = Fuses(fuses)
    found.living("site")
    clock = lambda: 30.0 * time.monotonic()  # noqa: E731
    outside = Surroundings(time.time, clock, random.SystemRandom(), lambda point: found.at(f"site {point}"))
    stop = threading.Event()
    threading.Timer(seconds, stop.set).start()
    with client(config.centre) as http:
        http.timeout = httpx.Timeout(5.0)
        Agent(config, Site.load(config.folder), http, outside).run(stop)


def _pointed(fuses: Fuses, owner: Any, name: str, before: str, after: str) -> None:
    """Give a function a point before it and one after it."""
    inner: Callable[..., Any] = getattr(owner, name)

    def pass_by(point: str) -> None:
        if point:
            fuses.at(point)

    if inspect.isasyncgenfunction(inner):

        @functools.wraps(inner)
        async def outer(*given: Any, **more: Any) -> Any:
            pass_by(before)
            async for each in inner(*given, **more):
                yield each
                pass_by(after)
    else:

        @functools.wraps(inner)
        async def outer(*given: Any, **more: Any) -> Any:
            pass_by(before)
            found = await inner(*given, **more)
            pass_by(after)
            return found

    setattr(owner, name, outer)


def _as_api(fuses: Fuses) -> None:
    from lampyris.centre import access, api, ingest, returns
    from lampyris.centre.jobs import queue
    from lampyris.centre.store import Store

    inner = api.application

    def application() -> Any:
        fuses.living("api")
        return inner()

    api.application = application
    for owner, name, before, after in (
        (access, "use_once", "asserting", "asserted"),
        (ingest, "open_scan", "opening", "opened"),
        (ingest, "missing_of", "", "asked"),
        (Store, "put", "putting", "put"),
        (ingest, "note_chunk", "", "noted"),
        (ingest, "commit", "committing", "committed"),
        (queue, "enqueue", "", "enqueued"),
        (ingest, "status", "", "looked"),
        (returns, "waiting", "", "listed"),
        (returns, "file_of", "", "file"),
        (Store, "stream", "", "streamed"),
        (returns, "acknowledge", "acknowledging", "acknowledged"),
    ):
        _pointed(fuses, owner, name, before and f"api {before}", after and f"api {after}")


def _as_worker(fuses: Fuses) -> None:
    from procrastinate import App

    from lampyris.centre.jobs import queue

    for name, before, after in (
        ("start", "starting", "started"),
        ("tell", "", "telling"),
        ("finish", "finishing", "finished"),
    ):
        _pointed(fuses, queue, name, before and f"worker {before}", after and f"worker {after}")
    # What waits for its next try is brought forward by the test, which nobody is notified of.
    App.run_worker_async = functools.partialmethod(App.run_worker_async, fetch_job_polling_interval=0.3)


def _as_hand(fuses: Fuses) -> None:
    """A reconstruction of no time, whose picture tells what arrived; the rest of the process is as it is."""
    import hashlib
    from types import ModuleType

    from lampyris.centre.store import raw_prefix, series_prefix
    from lampyris.transfer import ReturnedFile

    def reconstruct(store: Any, manifest: Any, folder: Path, **rest: Any) -> Any:
        watch = rest["watch"]
        watch("fetch", 0.0)
        fuses.at("hand fetch")
        (part,) = manifest.parts
        digest = hashlib.sha256()
        for chunk in part.chunks:
            digest.update(store.get(raw_prefix(manifest.site, manifest.scan), chunk.digest))
        fuses.at("hand fetched")
        for station in ("correct", "reconstruct"):
            watch(station, 0.5)
            fuses.at(f"hand {station}")
        place = folder / "picture.bin"
        place.write_bytes(picture_of(manifest.scan, digest.hexdigest()))
        fuses.at("hand store")
        size, found = store.put_file(series_prefix(manifest.site, manifest.scan), place)
        fuses.at("hand stored")
        return [ReturnedFile(place.name, size, found)], "pass"

    module = ModuleType("lampyris.centre.jobs.reconstruct")
    module.reconstruct = reconstruct  # type: ignore[attr-defined]
    sys.modules[module.__name__] = module


def picture_of(scan: str, digest: str) -> bytes:
    """What is made of a scan with these bytes: enough for the way back to be bad, too."""
    return random.Random(scan + digest).randbytes(150_000)


def _begin(*, beside: bool) -> None:
    """Be what the environment says; `beside` a worker, its hand."""
    fuses, role = Fuses(Path(os.environ[FUSES])), os.environ[ROLE]
    from lampyris.transfer import limits

    limits.CHUNK_BYTES = CHUNK
    if role == "api":
        from lampyris.centre.api.__main__ import main

        _as_api(fuses)  # granian's worker, which begins as a copy of this process, says that it lives
    else:
        from lampyris.centre.jobs.__main__ import main

        (_as_hand if beside else _as_worker)(fuses)
        fuses.living("hand" if beside else "worker")
    if not beside:
        sys.exit(main())


if __name__ in ("__main__", "__mp_main__"):
    _begin(beside=__name__ == "__mp_main__")
