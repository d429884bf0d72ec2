"""CT slices by C-STORE → MB/s into our node, into Orthanc and into dcmtk's storescp, in one run; and what each keeps.

    python -m bench.dimse [--slices 100] [--matrix 512] [--repeats 3]

The sender is dcmtk's storescu on one association over loopback, the clock its own. Ours has each object on stable
storage (synced) and in the index before it answers; Orthanc writes to its SQLite and a file; storescp writes a file.
"""

import argparse
import asyncio
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from bench.running import free_port, running
from lampyris.centre import opened
from lampyris.centre.dimse import nodes
from lampyris.dicom.ids import uid

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests" / "centre"))
from centre_dicom import dataset, encoded
from centre_node import storescp
from centre_orthanc import AET, orthanc


def slices(folder: Path, count: int, matrix: int, series: str) -> int:
    """Files of one series of noise; their bytes."""
    rng, total = np.random.default_rng(20261122), 0
    folder.mkdir()
    for number in range(1, count + 1):
        pixels = rng.integers(0, 2000, (matrix, matrix), np.int16)
        made = dataset(series, "a", number, Rows=matrix, Columns=matrix, PixelData=pixels.tobytes())
        made.SOPInstanceUID = made.file_meta.MediaStorageSOPInstanceUID = uid(series, "bench", str(number))
        data = encoded(made)
        (folder / f"{number}.dcm").write_bytes(data)
        total += len(data)
    return total


def sent(folder: Path, called: str, port: int) -> float:
    """Seconds that storescu takes. Fails aloud for any other status than success."""
    program = shutil.which("storescu")
    assert program is not None, "storescu is not on PATH: tools/install-judges.sh installs it"
    command = [program, "+sd", "-aet", "BENCH", "-aec", called, "127.0.0.1", str(port), str(folder)]
    began = time.monotonic()
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    return time.monotonic() - began


@contextmanager
def ours(folder: Path) -> Iterator[int]:
    """Our node with a database of its own; its port."""
    with running(folder, "http://127.0.0.1:8470") as centre:
        centre.codes(["bench"])

        async def know() -> None:
            async with opened(centre.settings, connections=1) as one, one.pool.connection() as connection:
                await nodes.add(
                    connection, nodes.Node("BENCH", "bench", "127.0.0.1", 104, ("store",)), "operator@bench"
                )

        asyncio.run(know())
        port = free_port()
        centre.start([sys.executable, "-m", "lampyris.centre.dimse", "--host", "127.0.0.1", "--port", str(port)], "log")
        until = time.monotonic() + 60
        while b"node ready" not in (folder / "log").read_bytes():
            assert time.monotonic() < until, "the node does not begin"
            time.sleep(0.1)
        yield port


def main() -> None:
    parser = argparse.ArgumentParser(prog="bench.dimse")
    parser.add_argument("--slices", type=int, default=100)
    parser.add_argument("--matrix", type=int, default=512)
    parser.add_argument("--repeats", type=int, default=3)
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="lampyris-", ignore_cleanup_errors=True) as place:
        folder = Path(place)
        sizes = [slices(folder / f"s{n}", chosen.slices, chosen.matrix, f"b{n}") for n in range(chosen.repeats)]
        (folder / "received").mkdir()
        port, program = free_port(), shutil.which("Orthanc")
        assert program is not None, "Orthanc is not on PATH: tools/install-judges.sh installs it"
        with (
            ours(folder / "centre") as own,
            orthanc(program, folder / "orthanc") as judge,
            storescp(port, folder / "received"),
        ):
            targets = {"Lampyris": ("LAMPYRIS", own), "Orthanc": (AET, judge.dicom_port), "storescp": ("ANY", port)}
            rates = {
                name: [size / 1e6 / sent(folder / f"s{n}", *target) for n, size in enumerate(sizes)]
                for name, target in targets.items()
            }
    print(f"{chosen.slices} slices of {chosen.matrix}², {sizes[0] / 1e6:.1f} MB, {chosen.repeats} times")
    print(f"{platform.machine()}, {os.cpu_count()} processors, load {os.getloadavg()[0]:.1f}\n")
    print("| receiver | C-STORE, MB/s (median) | worst | best |\n|---|---|---|---|")
    for name, found in rates.items():
        print(f"| {name} | {statistics.median(found):.1f} | {min(found):.1f} | {max(found):.1f} |")


if __name__ == "__main__":
    main()
