"""`python -m bench.codec [--scenes A,B] [--doses 1,0.1] [--tooth FILE] [--write]`: what coding for a link costs.

Ratio and speed of each coding, the noise that it adds beside theory, its bias in dark rays, and what is left of both in
the image. The scenes are those of `bench.dose`; `water` is a quick one besides. What a ray was meant to show is known
from the same scan without noise. `--tooth` takes a DXchange file, whose gain and electronic noise are measured from its
flats and darks. Speeds are raw megabytes per second of processor time, one core.
"""

import argparse
import platform
import subprocess
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from scipy import ndimage

from bench.dose import scenes
from lampyris import path, phantom, raw, simulate
from lampyris.model import Float32, Float64, GridRequest, Noise, RawScan, Recipe, Volume
from lampyris.raw import codec

STEPS = {"σ/4": 4.0, "σ/2": 2.0}
BANDS = (0.0, 0.3, 3.0, 30.0, 300.0, np.inf)
"""Bounds of the mean number of quanta of a ray."""
CHUNK = (250, 16)
PLACE = Path("docs/evidence/codec.md")


@dataclass(frozen=True, eq=False)
class Case:
    """A scan, the mean net count of every ray (views, rows, columns), and how it is imaged."""

    title: str
    scan: RawScan
    mean: Float64
    recipe: Recipe

    @cached_property
    def counts(self) -> np.ndarray:
        return np.asarray(self.scan.counts[:])

    @cached_property
    def sigma(self) -> Float64:
        """Standard deviation of every count, as the scan's own noise says."""
        noise = self.scan.noise
        assert noise is not None
        return np.asarray(np.sqrt(noise.gain_counts * self.mean + noise.electronic_counts**2), np.float64)

    @cached_property
    def image(self) -> Volume:
        return self.image_of(self.counts)

    def image_of(self, counts: np.ndarray) -> Volume:
        scan = replace(self.scan, counts=counts, id="")
        return path.travel((scan, self.recipe), Volume).the(Volume)


def scene_of(name: str) -> scenes.Scene:
    if name == "water":
        return scenes.Scene("water", "water cylinder", "quick", phantom.water_cylinder(280.0), 0.0, rows=4, slices=2)
    return scenes.scene(name)


def virtual(name: str, dose: float) -> Case:
    """One of the scenes, scanned at a dose."""
    scene = scene_of(name)
    scan = simulate.scan(scene.subject, scene.machine, scene.protocol(noise=True), dose=dose, seed=7)
    quiet = simulate.scan(scene.subject, scene.machine, scene.protocol(noise=False), dose=dose, seed=7)
    mean = np.maximum(np.asarray(quiet.counts[:], np.float64) - np.asarray(quiet.dark, np.float64), 0.0)
    recipe = replace(path.recipe("routine"), grid=replace(scene.grid(), matrix=256))
    return Case(f"{scene.title}, {scene.machine.name}, dose {dose:g}", scan, mean, recipe)


def tooth(file: Path) -> Case:
    """Real counts; the mean of a ray is taken from its neighbours."""
    scan = raw.read(file)
    with h5py.File(file) as stored:
        flats, darks = (np.asarray(stored[f"exchange/data_{kind}"][()], np.float64) for kind in ("white", "dark"))
    bright, quiet = (np.diff(frames, axis=0).var(0).mean() / 2 for frames in (flats, darks))
    gain = float((bright - quiet) / (flats.mean() - darks.mean()))
    scan = replace(scan, noise=Noise(gain, float(np.sqrt(quiet))), id="")
    net = np.asarray(scan.counts[:], np.float64) - np.asarray(scan.dark, np.float64)
    mean = np.maximum(ndimage.uniform_filter(net, (3, 1, 5)), 0.0)
    routine = path.recipe("routine")
    steps = tuple(step for step in routine.corrections if step.name in ("dark_air", "log"))
    recipe = replace(routine, corrections=steps, grid=GridRequest(256, 400.0, (0.0, 0.0)))
    return Case(f"{file.name} (gain {gain:.3g}, electronic {quiet**0.5:.3g} counts)", scan, mean, recipe)


def sizes(case: Case) -> Iterator[str]:
    """Ratio and speed of every coding, of chunks alone and of the packed scan with all its digests."""
    scan, total = case.scan, case.counts.nbytes
    for name in raw.CODINGS:
        k = raw.CODINGS[name]
        coding = None if k is None else codec.coding_of(scan, k)
        blocks = [
            case.counts[first : first + CHUNK[0], top : top + CHUNK[1]]
            for first in range(0, scan.views, CHUNK[0])
            for top in range(0, scan.geometry.rows, CHUNK[1])
        ]
        codec.decode(codec.encode(blocks[0], coding))  # the table is made once a scan
        began = time.process_time()
        chunks = [codec.encode(block, coding) for block in blocks]
        encoded = time.process_time()
        for chunk in chunks:
            codec.decode(chunk)
        decoded = time.process_time()
        packed = sum(len(part.content) for part in raw.pack(scan, raw.Decision(name, "bench")))  # type: ignore[arg-type]
        done = time.process_time()
        speeds = [total / 1e6 / max(s, 1e-9) for s in (encoded - began, decoded - encoded, done - decoded)]
        ratio = total / sum(map(len, chunks))
        yield f"| {name} | {ratio:.2f} | {speeds[0]:.0f} | {speeds[1]:.0f} | {total / packed:.2f} | {speeds[2]:.0f} |"


def disk(case: Case) -> str:
    """What the archive for a disk makes of the same scan."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "x.lraw"
        raw.write(case.scan, file)
        told = raw.info(file)
    return f"| for a disk (LZ4) | {told.counts_bytes / told.stored_bytes:.2f} | | | | |"


def errors(case: Case) -> Iterator[str]:
    """The error of coding in bands of the rays' mean."""
    assert case.scan.noise is not None
    gain = case.scan.noise.gain_counts
    for name, k in STEPS.items():
        error = error_of(case, k)
        for low, high in pairwise(BANDS):
            here = (case.mean >= low * gain) & (case.mean < high * gain)
            n = int(here.sum())
            if n < 200:
                continue
            share = error[here] / case.sigma[here]
            rms = float(np.sqrt(np.mean(share**2)))
            bias, sure = float(share.mean()), rms / np.sqrt(n)
            log = float(error[here].mean() / max(case.mean[here].mean(), 1e-9))
            theory = 1 / (k * np.sqrt(12))
            yield (
                f"| {name} | {low:g} … {high:g} | {100 * n / error.size:.2g} | {rms:.5f} | {theory:.5f} |"
                f" {100 * (np.sqrt(1 + rms**2) - 1):.2f} | {bias:+.5f} ± {sure:.5f} | {-log:+.1e} |"
            )


def error_of(case: Case, k: float) -> Float64:
    coded = raw.coarsened(case.scan, codec.coding_of(case.scan, k)).counts[:]
    return np.asarray(coded - case.counts.astype(np.float64), np.float64)


def whiteness(case: Case) -> str:
    """Correlation of the error with its neighbour in the next view and the next column."""
    told = []
    for name, k in STEPS.items():
        error = error_of(case, k) / case.sigma
        lags = (
            np.corrcoef(error[1:].ravel(), error[:-1].ravel()),
            np.corrcoef(error[..., 1:].ravel(), error[..., :-1].ravel()),
        )
        told.append(f"{name}: {lags[0][0, 1]:+.4f} from view to view, {lags[1][0, 1]:+.4f} from column to column")
    return f"Lag-1 correlation of the error, {'; '.join(told)} (one standard error {1 / np.sqrt(case.mean.size):.4f})."


def images(case: Case) -> Iterator[str]:
    """Noise and mean of the image before and after.

    The image's noise is what it changes by when as much noise again is added to its counts: in a linear reconstruction
    both are the same, and no structure is taken for noise.
    """
    rng = np.random.default_rng(3)
    again = case.image_of(case.counts + case.sigma * rng.standard_normal(case.mean.shape))
    noise = within(again) - within(case.image)
    unit = case.image.quantity
    for name, k in STEPS.items():
        coding = codec.coding_of(case.scan, k)
        change = within(case.image_of(raw.coarsened(case.scan, coding).counts[:])) - within(case.image)
        grown = np.sqrt(1 + change.var() / noise.var()) - 1
        yield (
            f"| {name} | {noise.std():.4g} {unit} | {100 * grown:.2f} | {100 * coding.added_noise:.2f} |"
            f" {change.mean():+.2g} ± {change.std() / np.sqrt(change.size / 9):.1g} | {np.abs(change).max():.3g} |"
        )


def within(volume: Volume) -> Float32:
    """Values of the middle of an image, within 0.3 of its field of view."""
    _, rows, columns = volume.values.shape
    z, x = np.ogrid[:rows, :columns]
    inside = np.hypot(z - rows / 2, x - columns / 2) < 0.3 * rows
    return np.asarray(volume.values[:, inside], np.float32)


def section(case: Case) -> list[str]:
    """All tables of one case."""
    views, rows, columns = case.scan.geometry.shape
    head = [f"## {case.title}", "", f"{views} views of {rows} × {columns} cells, {case.counts.dtype}.", ""]
    size = [
        "| coding | ratio | encode MB/s | decode MB/s | ratio of all that is sent | pack MB/s |",
        "|---|---|---|---|---|---|",
    ]
    error = [
        "| coding | quanta | % of rays | rms error / σ | 1/(k√12) | noise added, % | bias / σ | bias of the log |",
        "|---|---|---|---|---|---|---|---|",
    ]
    image = [
        "| coding | noise of the image | grown by % | theory % | change of the mean | largest change of a voxel |",
        "|---|---|---|---|---|---|",
    ]
    after = [*error, *errors(case), "", whiteness(case), "", *image, *images(case), ""]
    return [*head, *size, *sizes(case), disk(case), "", *after]


def document(names: list[str], doses: list[str], file: Path | None) -> list[str]:
    """The whole page, with where and how it was made."""
    commit = subprocess.run(["git", "rev-parse", "--short=12", "HEAD"], capture_output=True, text=True, check=False)
    machine = platform.processor() or platform.machine()
    lines = ["# Counts coded for a link", ""]
    lines += [f"Commit {commit.stdout.strip() or 'unknown'}, {machine}, Python {platform.python_version()}.", ""]
    for name in names:
        for dose in doses:
            lines += section(virtual(name, float(dose)))
    told = f"python -m bench.codec --scenes {','.join(names)} --doses {','.join(doses)}"
    if file is not None:
        lines += section(tooth(file))
        told += f" --tooth {file.name}"
    return [*lines, f"Made by `{told}`."]


def main() -> None:
    arguments = argparse.ArgumentParser(prog="bench.codec", description=__doc__.split("\n")[0] if __doc__ else None)
    arguments.add_argument("--scenes", default="water", help=f"water, {', '.join(scenes.names())} (default water)")
    arguments.add_argument("--doses", default="1,0.1", help="fractions of the full dose (default 1,0.1)")
    arguments.add_argument(
        "--tooth", type=Path, default=None, metavar="FILE", help="DXchange data with flats and darks"
    )
    arguments.add_argument("--write", action="store_true", help=f"keep the tables as {PLACE}")
    chosen: Any = arguments.parse_args()
    names = [name for name in chosen.scenes.split(",") if name]
    lines = document(names, chosen.doses.split(","), chosen.tooth)
    print("\n".join(lines))
    if chosen.write:
        PLACE.parent.mkdir(parents=True, exist_ok=True)
        PLACE.write_text("\n".join(lines) + "\n", "utf-8")


if __name__ == "__main__":
    main()
