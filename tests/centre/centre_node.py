"""The centre's DICOM node in a thread, nodes that it knows, and dcmtk's tools to speak to it with."""

import asyncio
import shutil
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from lampyris.centre import Centre, Settings, opened
from lampyris.centre.dimse import nodes
from lampyris.centre.dimse.nodes import MAY, Node
from lampyris.centre.dimse.scp.server import unwarned
from lampyris.centre.dimse.service import serve


@contextmanager
def answering(settings: Settings, *, tls: bool = False) -> Iterator[int]:
    """The port of a node of this centre."""
    begun: list[int] = []
    failed: list[BaseException] = []
    ready, loop, told = threading.Event(), asyncio.new_event_loop(), asyncio.Event()

    async def run() -> None:
        async with opened(settings, connections=8) as centre, serve(centre, ("127.0.0.1", 0), tls=tls) as port:
            begun.append(port)
            ready.set()
            await told.wait()

    def thread() -> None:
        try:
            with unwarned():
                loop.run_until_complete(run())
        except BaseException as error:
            failed.append(error)
        finally:
            ready.set()

    running = threading.Thread(target=thread)
    running.start()
    ready.wait()
    try:
        if failed:
            raise failed[0]
        yield begun[0]
    finally:
        loop.call_soon_threadsafe(told.set)
        running.join()
        loop.close()
    if failed:
        raise failed[0]


def know(settings: Settings, aet: str, site: str = "st-anna", **more) -> Node:
    """Add a node of this machine, which may do everything unless it is said what."""
    node = Node(aet, site, **({"host": "127.0.0.1", "port": 104, "may": MAY} | more))

    async def run(centre: Centre) -> None:
        async with centre.pool.connection() as connection:
            await nodes.add(connection, node, "operator:test")

    async def whole() -> None:
        async with opened(settings, connections=1) as centre:
            await run(centre)

    asyncio.run(whole())
    return node


def tool(
    program: str, *words: object, check: bool = True, folder: Path | None = None
) -> subprocess.CompletedProcess[str]:
    """Run one of dcmtk's tools and wait for it."""
    found = shutil.which(program)
    assert found is not None, program
    done = subprocess.run(
        [found, *map(str, words)],
        capture_output=True,
        text=True,
        errors="replace",
        timeout=120,
        cwd=folder,
        check=False,
    )
    if check and done.returncode:
        pytest.fail(f"{program} ended with {done.returncode}: {done.stdout[-2000:]}{done.stderr[-2000:]}")
    return done


@contextmanager
def storescp(port: int, folder: Path, *options: object) -> Iterator[None]:
    """dcmtk's storescp, listening."""
    found = shutil.which("storescp")
    assert found is not None
    command = [found, *map(str, options), "-od", str(folder), str(port)]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        try:
            deadline = time.monotonic() + 60
            while True:
                try:
                    socket.create_connection(("127.0.0.1", port), timeout=5).close()
                    break
                except OSError:
                    assert process.poll() is None, "storescp ended"
                    assert time.monotonic() < deadline
                    time.sleep(0.02)
            yield
        finally:
            process.terminate()
