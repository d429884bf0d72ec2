"""Phases, prices and the measured ingest → lines of markdown."""

import math
import os
import platform
import statistics
import subprocess
from collections.abc import Iterable, Sequence
from pathlib import Path

from bench.gpu.figures import Figures
from bench.link.place import Brought
from bench.province.costs import Price
from bench.province.load import Load, Phase, Sample
from bench.province.model import Assumed, needs

_KINDS = ("token", "open", "announce", "chunk", "commit", "status", "returns", "file", "acknowledge")
RECONSTRUCTION = (63.99, 92)
"""Processor seconds of the reconstruct station of `routine`, not planned, and its slices: docs/evidence/recipes.md."""


def head(called: str) -> list[str]:
    commit = subprocess.run(["git", "rev-parse", "--short=12", "HEAD"], capture_output=True, text=True, check=False)
    model = next(
        line.split(":")[1].strip()
        for line in Path("/proc/cpuinfo").read_text().splitlines()
        if line.startswith("model name")
    )
    return [
        f"Printed by `{called}`. Machine: {model}, {os.cpu_count()} processors; Python {platform.python_version()};"
        f" commit {commit.stdout.strip()}.",
        "",
    ]


def spread(values: Sequence[float]) -> tuple[float, float, float]:
    """Median, 99th percentile (the value that one in a hundred exceeds) and largest."""
    ordered = sorted(values)
    return statistics.median(ordered), ordered[min(len(ordered) - 1, int(0.99 * len(ordered)))], ordered[-1]


def scans(phases: Iterable[Phase]) -> list[str]:
    """What became of the scans of every phase, and how long it took."""
    rows = [
        "| phase | priority | ready | scans/s ready | home | ready → committed s: p50, p99, max | waits for a worker s:"
        " p50, p99, max | commit → series at the centre s: p50, p99 | ready → series at the site s: p50, p99, max |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for phase in phases:
        for priority in ("routine", "stat"):
            told = [one for one in phase.scans if one.priority == priority]
            if not told:
                continue
            home = [one.home - one.ready for one in told if one.home]
            cells = [phase.name, priority, str(len(told)), f"{len(told) / phase.seconds:.2f}", str(len(home))]
            cells.append(_three([one.committed - one.ready for one in told if one.committed]))
            cells.append(_three(phase.waits.get(priority, [])))
            cells.append(_three(phase.made.get(priority, [])).rpartition(",")[0])
            rows.append(f"| {' | '.join([*cells, _three(home)])} |")
    return rows


def requests(phase: Phase) -> list[str]:
    rows = ["| request | in a second | p50 ms | p99 ms | max ms |", "|---|---|---|---|---|"]
    for kind in _KINDS:
        values = phase.requests.get(kind, [])
        if values:
            cells = " | ".join(f"{1000 * value:.0f}" for value in spread(values))
            rows.append(f"| {kind} | {len(values) / phase.seconds:.1f} | {cells} |")
    total = sum(map(len, phase.requests.values()))
    waits = ", ".join(f"{name} {count}" for name, count in phase.told_to_wait.items()) or "none"
    rows += ["", f"{total / phase.seconds:.0f} requests in a second. Asked to wait: {waits}. Connections that ended"]
    return [*rows[:-1], f"{rows[-1]} early: {phase.broken}."]


def processes(phase: Phase) -> list[str]:
    """Processor and memory of each kind of process over a phase."""
    first, last = phase.samples[0], phase.samples[-1]
    seconds = last.at - first.at
    moments = _moments(phase.samples)
    minutes = [f"MB at {(one.at - first.at) / 60:.0f} min" for one in moments]
    names = ("process", "processors busy", "ms of processor a scan", *minutes)
    rows = [f"| {' | '.join(names)} |", "|---" * len(names) + "|"]
    for kind in first.costs:
        used = last.costs[kind].cpu_s - first.costs[kind].cpu_s
        cells = [kind, f"{used / seconds:.2f}", f"{1000 * used / len(phase.scans):.0f}"]
        cells += [f"{one.costs[kind].bytes / 1e6:.0f}" for one in moments]
        rows.append(f"| {' | '.join(cells)} |")
    busy, whole = (last.machine[k] - first.machine[k] for k in (0, 1))
    spent = {kind: (last.costs[kind].cpu_s - first.costs[kind].cpu_s) / len(phase.scans) for kind in first.costs}
    together = sum(seconds for kind, seconds in spent.items() if kind != "one worker")
    others = busy - together * len(phase.scans)
    return [
        *rows,
        "",
        f"The machine was {100 * busy / whole:.0f} % busy, {100 * others / whole:.0f} % with programs that have nothing"
        " to do with this, at a lower priority or the kernel's own. What these processes spend on a"
        f" scan fills its {os.cpu_count()} processors at {(os.cpu_count() or 1) / together:.1f} scans/s; one process of"
        f" the interface fills one at {1 / spent['interface']:.1f}, PostgreSQL one at {1 / spent['PostgreSQL']:.1f}.",
    ]


def patience(phase: Phase, left: int) -> str:
    """How long STAT waited where there was too much work."""
    waits = phase.waits.get("stat", [])
    if not waits:
        return "No STAT scan came when there was too much work."
    job_s = phase.load.job_s
    within = sum(wait <= job_s for wait in waits)
    return (
        f"Crowded: {left} workers, none reserved, {phase.load.rate:g} scans/s for {left / job_s:g} that they can make."
        f" STAT waited {max(waits):.2f} s at most for a worker, {within} of {len(waits)} no longer than {job_s:g} s; a"
        " job in hand also reads, writes and tells."
    )


def priced(prices: dict[str, Price]) -> list[str]:
    rows = [
        "| request | interface, processor ms | PostgreSQL, processor ms | through in a second |",
        "|---|---|---|---|",
    ]
    rows += [
        f"| {kind} | {one.interface_ms:.2f} | {one.database_ms:.2f} | {one.per_s:.0f} |" for kind, one in prices.items()
    ]
    return rows


def province(
    assumed: Assumed, prices: dict[str, Price], ingest: list[Brought], megabytes: int, gpu: Figures | None
) -> list[str]:
    """The paper model: what was measured times what is assumed; of a card's figures where there are some."""
    interface = statistics.median(one.server_s for one in ingest) / megabytes * 1000
    database = statistics.median(one.database_s for one in ingest) / megabytes * 1000
    rows = [
        f"Assumed: {assumed.scanners} scanners, {assumed.scans_a_day} scans a day each in {assumed.hours:g} hours, a"
        f" peak of {assumed.peak:g} times the mean; {assumed.raw_gb:g} GB of counts a scan (60 % 16 rows × 30 turns,"
        f" 30 % 64 × 15, 10 % 256 × 4, of 900 channels × 1000 views × 2 bytes), coded to a {assumed.ratio:g}th (σ/4),"
        f" in chunks of {assumed.chunk_bytes >> 20} MiB; {assumed.images} images of {assumed.image_bytes / 1000:.0f} kB"
        f" back, each at the price of a `file`; {assumed.looks:g} looks at a scan while it is under way. TLS ends at a"
        " proxy, which is not counted.",
        "",
        "| at the peak | processors of interfaces | processors of the database |",
        "|---|---|---|",
    ]
    found = needs(assumed, prices, interface, database)
    rows += [f"| {one.what} | {one.interface:.2f} | {one.database:.2f} |" for one in found]
    total = [sum(getattr(one, name) for one in found) for name in ("interface", "database")]
    rows.append(f"| together | {total[0]:.1f} | {total[1]:.1f} |")
    rate = assumed.per_s
    slices, seconds = RECONSTRUCTION[1], RECONSTRUCTION[0]
    a_scan = seconds * assumed.images / slices
    day = assumed.scanners * assumed.scans_a_day
    rows += [
        "",
        f"- Peak: {rate:.2f} scans/s ({assumed.scanners} scanners × {assumed.scans_a_day} scans in {assumed.hours:g} h"
        f" × {assumed.peak:g}); {rate * assumed.chunks:.0f} chunks/s and {rate * assumed.images:.0f} images/s.",
        f"- Interfaces: {total[0] / assumed.busy:.0f} processes at {100 * assumed.busy:.0f} % of a processor each;"
        f" the database: {total[1] / assumed.busy:.0f} processors.",
        f"- Lines: {rate * assumed.sent_gb * 8:.1f} Gbit/s in, {rate * assumed.series_gb * 8:.1f} Gbit/s out.",
        f"- Raw data of {assumed.days} days: {day * assumed.sent_gb * assumed.days / 1e6:.2f} PB; series of as many"
        f" days: {day * assumed.series_gb * assumed.days / 1e6:.2f} PB.",
        f"- Reconstruction: {seconds:.1f} processor seconds for {slices} slices (recipes.md, `routine`, not planned)"
        f" make {a_scan:.0f} for {assumed.images}: {rate * a_scan:.0f} processors at the peak.",
        *cards(assumed, gpu),
    ]
    return rows


def cards(assumed: Assumed, gpu: Figures | None) -> list[str]:
    """How many such cards the peak takes, if every scan were the one that was timed; nothing where none was."""
    if gpu is None:
        return [
            "- Cards: none was measured (`python -m bench.gpu --write FILE`, then `--gpu FILE` here), none is assumed."
        ]
    rows = [f"- Cards: {gpu.card}, {gpu.driver}, commit {gpu.commit}; if every scan were {gpu.scan}:"]
    for one in gpu.recipes:
        told = f"  - `{one.recipe}` takes {one.whole_s:.1f} s from the container to the volume; "
        if one.per_hour is None:
            rows.append(f"{told}how many an hour a card makes was not measured.")
            continue
        needed = assumed.per_s * 3600 / one.per_hour / assumed.busy
        rows.append(
            f"{told}a card makes {one.per_hour:.0f} an hour: {math.ceil(needed)} of them at the peak, each"
            f" {100 * assumed.busy:.0f} % busy."
        )
    return rows


def load(chosen: Load) -> list[str]:
    return [
        f"{chosen.sites} sites, {chosen.rate:g} scans/s at random moments; a scan is {chosen.chunks} chunks of"
        f" {chosen.chunk_bytes >> 10} KiB, its series {chosen.files} files of {chosen.file_bytes / 1000:.0f} kB;"
        f" {100 * chosen.stat_share:.0f} % are STAT. One process of the interface, one PostgreSQL, {chosen.workers}"
        f" workers for everything and {chosen.reserved} for STAT alone, each with {chosen.job_s:g} s of waiting in the"
        " place of the reconstruction.",
        "",
    ]


def _moments(samples: Sequence[Sample]) -> list[Sample]:
    """The first, the second, the one in the middle, and the last."""
    chosen = sorted({0, min(1, len(samples) - 1), len(samples) // 2, len(samples) - 1})
    return [samples[each] for each in chosen]


def _three(values: Sequence[float]) -> str:
    if not values:
        return "–, –, –"
    return ", ".join(f"{value:.2f}" for value in spread(values))
