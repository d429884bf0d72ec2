"""`python -m bench.province.stub` → a worker of the centre whose reconstruction reads the scan, waits, writes files.

All of a worker is the real one but the stations between reading and writing, which take a time and compute nothing.
"""

import argparse
import asyncio
import os
import time
from pathlib import Path

from lampyris.centre import Settings, opened
from lampyris.centre.jobs.hand import Made, Watch
from lampyris.centre.jobs.queue import Work, check_queues
from lampyris.centre.jobs.worker import work
from lampyris.centre.observe import logs
from lampyris.centre.settings import VARIABLE
from lampyris.centre.store import Store, raw_prefix, series_prefix
from lampyris.transfer import Manifest, ReturnedFile


class Stub:
    """Makes of every scan so many files of so many bytes, in so many seconds."""

    def __init__(self, settings: Settings, seconds: float, files: int, size: int) -> None:
        self._store, self._seconds, self._files, self._size = Store(settings), seconds, files, size

    def make(self, work: Work, manifest: Manifest, folder: Path, watch: Watch) -> Made:
        ends = time.monotonic() + self._seconds
        watch("fetch", 0.0)
        for chunk in manifest.chunks():
            self._store.get(raw_prefix(manifest.site, manifest.scan), chunk)
        watch("reconstruct", 0.0)
        time.sleep(max(0.0, ends - time.monotonic()))
        watch("write", 0.0)
        made = []
        for number in range(self._files):
            path = folder / f"ct_{number + 1:05}.dcm"
            path.write_bytes(bytes.fromhex(work.scan) + os.urandom(self._size - 16))
            size, digest = self._store.put_file(series_prefix(manifest.site, manifest.scan), path)
            made.append(ReturnedFile(path.name, size, digest))
        return made, "pass"


async def run(settings: Settings, queues: tuple[str, ...], stub: Stub) -> None:
    async with opened(settings, connections=4) as centre:
        await work(centre, queues, stub.make)


def main() -> None:
    parser = argparse.ArgumentParser(prog="bench.province.stub")
    parser.add_argument("--queues", required=True)
    parser.add_argument("--seconds", type=float, required=True)
    parser.add_argument("--files", type=int, required=True)
    parser.add_argument("--bytes", type=int, required=True)
    chosen = parser.parse_args()
    logs.to_stderr()
    settings = Settings.from_json(os.environ[VARIABLE])
    stub = Stub(settings, chosen.seconds, chosen.files, chosen.bytes)
    asyncio.run(run(settings, check_queues(chosen.queues.split(",")), stub))


if __name__ == "__main__":
    main()
