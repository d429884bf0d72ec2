"""A scan that arrives → the time from its commit to its series, with early work and without: docs/evidence/early.md.

    python -m bench.early [--rows mdct16] [--tries 3] [--write docs/evidence/early.md]

A water cylinder on a helix, packed for a link, in a folder store. Without: chunks are laid out, verified and
reconstructed as a committed scan is. With: all chunks but the last were there, and `Arriving` had made what they
determine, turn by turn. Each try is a process of its own that has reconstructed another scan of that size first, as a
worker that is warm; its clock begins at the commit. Files of both series are compared byte for byte.
"""

import argparse
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime
from multiprocessing import get_context
from pathlib import Path
from statistics import median

import numba as nb

from lampyris import path, raw, simulate
from lampyris.centre.jobs.arriving import Arriving
from lampyris.centre.jobs.reconstruct import reconstruct
from lampyris.centre.settings import Settings
from lampyris.centre.store import Store, raw_prefix
from lampyris.phantom import water_cylinder
from lampyris.transfer import Chunk, Manifest, Part, PlannedImage

NOW = datetime(2026, 11, 21, 8, 20, tzinfo=UTC)
ROOM = 1 << 40
CASES = (
    ("routine, image planned", "routine", True),
    ("routine, image not planned", "routine", False),
)


@dataclass(frozen=True, slots=True)
class Run:
    """Seconds by station from the commit on, what was found early, bytes that were kept, and the series."""

    seconds: dict[str, float]
    found: tuple[int, int]
    kept_bytes: int
    early_s: float
    files: tuple[tuple[str, str], ...]

    @property
    def total_s(self) -> float:
        return sum(self.seconds.values())


def main() -> None:
    arguments = argparse.ArgumentParser(prog="bench.early", description=__doc__)
    arguments.add_argument("--scanner", default="mdct16")
    arguments.add_argument("--length-mm", type=float, default=120.0)
    arguments.add_argument("--tries", type=int, default=3)
    arguments.add_argument("--write", type=Path, metavar="FILE", help="keep the table there as markdown")
    chosen = arguments.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        pieces, facts = scan(chosen.scanner, chosen.length_mm, Path(folder))
        lines = [*head(chosen.scanner, facts), *table(Path(folder), pieces, chosen.length_mm, chosen.tries)]
    print("\n".join(lines))
    if chosen.write is not None:
        chosen.write.write_text("\n".join(lines) + "\n", "utf-8")


def scan(scanner: str, length_mm: float, folder: Path) -> tuple[list[Chunk], str]:
    """Chunks of a packed scan, in the store of `folder`, and its facts in words."""
    half = length_mm / 2
    protocol = simulate.Protocol(kind="helical", mas=100.0, pitch=1.0, first_mm=-half, last_mm=half)
    made = simulate.scan(water_cylinder(160.0), simulate.scanner(scanner), protocol, seed=7)
    store, chunks = Store(Settings(folder)), []
    prefix = raw_prefix("site", "0" * 32)
    for part in raw.pack(made, raw.Decision("sigma/4", "a benchmark"), part_bytes=1 << 20):
        (folder / "chunk").write_bytes(part.content)
        size, digest = store.put_file(prefix, folder / "chunk")
        chunks.append(Chunk(digest, size))
    views, rows, columns = made.geometry.shape
    mega = sum(chunk.size for chunk in chunks) / 1e6
    return chunks, f"{views} views of {rows} × {columns}, {mega:.0f} MB packed in {len(chunks)} chunks"


def table(folder: Path, pieces: Sequence[Chunk], length_mm: float, tries: int) -> list[str]:
    lines = [
        "| scan | commit to series s | fetch | correct | reconstruct | passport | assess, write, store | hits of asked"
        " | kept MB | early work s |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for title, recipe, planned in CASES:
        image = PlannedImage(360.0, (0.0, 0.0), -0.45 * length_mm, 0.45 * length_mm) if planned else None
        manifest = Manifest(
            scan="0" * 32, site="site", started="2026-11-21T08:15:02Z", format="lraw", recipe=recipe, image=image,
            parts=(Part("scan.lraw", tuple(pieces)),),
        )  # fmt: skip
        runs = {early: [apart(folder, manifest, early) for _ in range(tries)] for early in (False, True)}
        if len({one.files for both in runs.values() for one in both}) != 1:
            raise SystemExit(f"{title}: the series differ with early work and without")
        for early, some in runs.items():
            lines.append(row(f"{title}, {'with' if early else 'without'} early work", some))
        without, with_ = (median(one.total_s for one in runs[early]) for early in (False, True))
        lines.append(f"| *{title}: without over with* | *{without / with_:.2f}* | | | | | | | | |")
    return lines


def row(title: str, runs: Sequence[Run]) -> str:
    def took(*stations: str) -> str:
        return f"{median(sum(one.seconds.get(each, 0.0) for each in stations) for one in runs):.2f}"

    first = runs[0]
    hits, misses = first.found
    cells = (
        title, f"{median(one.total_s for one in runs):.2f}", took("fetch"), took("correct"), took("reconstruct"),
        took("passport"), took("assess", "write", "store"), f"{hits} of {hits + misses}",
        f"{first.kept_bytes / 1e6:.0f}", f"{median(one.early_s for one in runs):.2f}",
    )  # fmt: skip
    return f"| {' | '.join(cells)} |"


def apart(folder: Path, manifest: Manifest, early: bool) -> Run:
    """One run in a process of its own."""
    with ProcessPoolExecutor(1, get_context("spawn")) as pool:
        return pool.submit(run, folder, manifest, early).result()


def run(folder: Path, manifest: Manifest, early: bool) -> Run:
    """One scan from its commit to its series, after another one; what was made early is deleted afterwards."""
    store = Store(Settings(folder))
    timed(store, folder, manifest)
    kept, early_s = [0], 0.0
    if early:
        began = time.perf_counter()
        with tempfile.TemporaryDirectory(dir=folder) as place:
            work = Arriving(store, manifest.skeleton(), Path(place) / "early", default=None)
            chunks = manifest.parts[0].chunks
            for count in range(4, len(chunks), 4):
                work.go_on(chunks[:count], ROOM, lambda _: None)
            work.go_on(chunks[:-1], ROOM, kept.append)
        early_s = time.perf_counter() - began
    done = timed(store, folder, manifest)
    size = sum(each.stat().st_size for each in (folder / "objects" / "early").rglob("*") if each.is_file())
    store.delete_all("early/site/" + manifest.scan)
    return Run(done.seconds, done.found, size, early_s, done.files)


def timed(store: Store, folder: Path, manifest: Manifest) -> Run:
    """The way of a committed scan as a worker's process goes it."""
    moments: list[tuple[str, float]] = []
    found = [(0, 0)]

    def watch(station: str, _done: float) -> None:
        if not moments or moments[-1][0] != station:
            moments.append((station, time.perf_counter()))

    def note(hits: int, misses: int) -> None:
        found.append((hits, misses))

    with tempfile.TemporaryDirectory(dir=folder) as place:
        files, _ = reconstruct(store, manifest, Path(place), default=None, committed=NOW, watch=watch, early=note)
    ends = [moment for _, moment in moments[1:]] + [time.perf_counter()]
    seconds = {station: end - began for (station, began), end in zip(moments, ends, strict=True)}
    return Run(seconds, found[-1], 0, 0.0, tuple((one.name, one.sha256) for one in files))


def head(scanner: str, facts: str) -> list[str]:
    commit = subprocess.run(["git", "rev-parse", "--short=12", "HEAD"], capture_output=True, text=True, check=False)
    return [
        "# Early work",
        "",
        "Written by `python -m bench.early --write docs/evidence/early.md`; what is measured says the module's head.",
        "",
        f"Machine: {platform.machine()}, {os.cpu_count()} processors, {nb.get_num_threads()} threads; Python"
        f" {platform.python_version()}. Commit: {commit.stdout.strip()}.",
        f"Scan: {scanner}, pitch 1, {facts}. Recipe: {path.recipe('routine').description}",
        "Median of the tries; every try's series is the same, file for file, with early work and without.",
        "",
    ]


if __name__ == "__main__":
    sys.exit(main())
