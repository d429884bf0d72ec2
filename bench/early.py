"""A scan that arrives → the time from its commit to its series, with early work and without: docs/evidence/early.md.

    python -m bench.early [--scanner mdct16] [--length-mm 100] [--matrix 256] [--tries 1] [--short] [--write FILE]

A water cylinder on a helix, packed for a link, in a folder store. Without: chunks are laid out, verified and
reconstructed as those of a committed scan are. With: all chunks but the last were there, and `Arriving` had made what
they determine, as they came. One process does all, early work first; the clock begins at the commit. Files of both
series are compared byte for byte. Processor seconds are those of all threads: they hold on a machine that has other
work, where the wall's do not; with one thread they are what an idle machine's wall would show, but for the disk.
"""

import argparse
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from statistics import median

import numba as nb

from lampyris import raw, recipes, simulate
from lampyris.centre.jobs.arriving import Arriving
from lampyris.centre.jobs.reconstruct import reconstruct
from lampyris.centre.recipes.choice import Library
from lampyris.centre.settings import Settings
from lampyris.centre.store import Store, early_prefix, raw_prefix
from lampyris.phantom import water_cylinder
from lampyris.transfer import Chunk, Manifest, Part, PlannedImage

LIBRARY = Library.of_package()

NOW = datetime(2026, 11, 21, 8, 20, tzinfo=UTC)
ROOM = 1 << 40
AT_ONCE = 8
"""Chunks that come between two looks."""


@dataclass(frozen=True, slots=True)
class Run:
    """Processor seconds by station from the commit on, the wall's, what was found early and kept, and the series."""

    seconds: dict[str, float]
    wall_s: float
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
    arguments.add_argument("--length-mm", type=float, default=100.0)
    arguments.add_argument("--matrix", type=int, default=256)
    arguments.add_argument("--tries", type=int, default=1)
    arguments.add_argument("--short", action="store_true", help="leave out the scan whose image is not planned")
    arguments.add_argument("--write", type=Path, metavar="FILE", help="keep the table there as markdown")
    chosen = arguments.parse_args()
    routine = recipes.recipe("routine")
    smaller = replace(routine, grid=replace(routine.grid, matrix=chosen.matrix))
    recipes.recipe = lambda _name: smaller
    with tempfile.TemporaryDirectory() as folder:
        pieces, facts = scan(chosen.scanner, chosen.length_mm, Path(folder))
        lines = [
            *head(chosen.scanner, f"{facts}, {chosen.matrix}² pixels"),
            *table(Path(folder), pieces, chosen.length_mm, chosen.tries, chosen.short),
        ]
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


def table(folder: Path, pieces: Sequence[Chunk], length_mm: float, tries: int, short: bool) -> list[str]:
    lines = [
        "| scan | commit to series, processor s | wall s | fetch | correct | reconstruct | passport | the rest |"
        " found early of asked | kept MB | early work, processor s |",
        "|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for planned in (True, False)[: 1 if short else 2]:
        manifest = manifest_of(pieces, length_mm, planned=planned)
        title = "image planned" if planned else "image not planned"
        with_ = [begun_early(folder, manifest) for _ in range(tries)]  # first: loading is no gain of early work
        without = [timed(folder, manifest) for _ in range(tries)]
        if len({one.files for one in (*without, *with_)}) != 1:
            raise SystemExit(f"{title}: the series differ with early work and without")
        lines += [row(f"{title}, without", without), row(f"{title}, with", with_)]
        share = median(one.total_s for one in with_) / median(one.total_s for one in without)
        lines.append(f"| *with over without* | *{share:.2f}* | | | | | | | | | |")
    return lines


def manifest_of(pieces: Sequence[Chunk], length_mm: float, *, planned: bool) -> Manifest:
    image = PlannedImage(360.0, (0.0, 0.0), -0.45 * length_mm, 0.45 * length_mm) if planned else None
    return Manifest(
        scan="0" * 32, site="site", started="2026-11-21T08:15:02Z", format="lraw", recipe="routine", image=image,
        parts=(Part("scan.lraw", tuple(pieces)),),
    )  # fmt: skip


def row(title: str, runs: Sequence[Run]) -> str:
    named = ("fetch", "correct", "reconstruct", "passport")

    def took(*stations: str) -> str:
        return f"{median(sum(one.seconds.get(each, 0.0) for each in stations) for one in runs):.2f}"

    first = runs[0]
    hits, misses = first.found
    rest = took(*(each for each in first.seconds if each not in named))
    cells = (
        title, f"{median(one.total_s for one in runs):.2f}", f"{median(one.wall_s for one in runs):.2f}",
        *(took(each) for each in named), rest, f"{hits} of {hits + misses}", f"{first.kept_bytes / 1e6:.0f}",
        f"{median(one.early_s for one in runs):.2f}",
    )  # fmt: skip
    return f"| {' | '.join(cells)} |"


def begun_early(folder: Path, manifest: Manifest) -> Run:
    """A scan of which all chunks but the last were worked on as they came; what was made is deleted afterwards."""
    store, kept, began = Store(Settings(folder)), [0], time.process_time()
    with tempfile.TemporaryDirectory(dir=folder) as place:
        work = Arriving(store, manifest.skeleton(), Path(place) / "early", library=LIBRARY)
        chunks = manifest.parts[0].chunks
        for count in (*range(AT_ONCE, len(chunks) - 1, AT_ONCE), len(chunks) - 1):
            work.go_on(chunks[:count], ROOM, kept.append)
    early_s = time.process_time() - began
    done = timed(folder, manifest)
    size = sum(each.stat().st_size for each in (folder / "objects" / "early").rglob("*") if each.is_file())
    store.delete_all(early_prefix(manifest.site, manifest.scan))
    return replace(done, kept_bytes=size, early_s=early_s)


def timed(folder: Path, manifest: Manifest) -> Run:
    """The way of a committed scan as a worker's process goes it."""
    store, began_s = Store(Settings(folder)), time.perf_counter()
    moments: list[tuple[str, float]] = []
    found = [(0, 0)]

    def watch(station: str, _done: float) -> None:
        if not moments or moments[-1][0] != station:
            moments.append((station, time.process_time()))

    def note(hits: int, misses: int) -> None:
        found.append((hits, misses))

    with tempfile.TemporaryDirectory(dir=folder) as place:
        files, _ = reconstruct(store, manifest, Path(place), library=LIBRARY, committed=NOW, watch=watch, early=note)
    ends = [moment for _, moment in moments[1:]] + [time.process_time()]
    seconds = {station: end - began for (station, began), end in zip(moments, ends, strict=True)}
    wall_s = time.perf_counter() - began_s
    return Run(seconds, wall_s, found[-1], 0, 0.0, tuple((one.name, one.sha256) for one in files))


def head(scanner: str, facts: str) -> list[str]:
    commit = subprocess.run(["git", "rev-parse", "--short=12", "HEAD"], capture_output=True, text=True, check=False)
    return [
        "# Early work",
        "",
        f"Written by `python -m bench.early {' '.join(sys.argv[1:])}`; what is measured says the module's head.",
        "",
        f"Machine: {platform.machine()}, {os.cpu_count()} processors, {nb.get_num_threads()} threads; Python"
        f" {platform.python_version()}. Commit: {commit.stdout.strip()}.",
        f"Scan: {scanner}, pitch 1, {facts}; recipe routine.",
        "Every series is the same, file for file, with early work and without.",
        "",
    ]


if __name__ == "__main__":
    sys.exit(main())
