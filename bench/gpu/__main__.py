"""`python -m bench.gpu [--quick] [--only PART …] [--minutes 9] [--write FILE] [--compile 9.0]` → a card, as markdown.

Whether it is right (against the CPU engine), the card's limits, every direction's time over its floor, a cone beam
beside ASTRA, then whole recipes on a long chest: seconds from the container to the volume, memory, how far from the
CPU's image, and scans an hour with the pipeline full. What does not fit into the minutes is left out aloud. `--write`
keeps the recipes' figures for `python -m bench.province --gpu FILE`. `--compile` needs no card: it tells what the
kernels become. `--quick` is for the simulator: the same steps, sizes of nothing.
"""

import argparse
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from lampyris.model import EngineUnavailable, LampyrisError, ProgramError

UNAVAILABLE = 69
PARTS = ("pairs", "cone", "recipes")
RECIPES = ("routine", "swift", "micro")
ITERATIVE = ("micro",)
ALLOWED_HU = {"routine": 0.5, "swift": 0.5, "micro": 1.0}
"""How far the card's image may be from the processor's."""


class Clock:
    """What is left of the minutes that one call may take."""

    def __init__(self, minutes: float) -> None:
        self._end = time.monotonic() + 60 * minutes

    def holds(self, seconds: float) -> bool:
        return time.monotonic() + seconds < self._end


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.gpu", description=__doc__)
    parser.add_argument("--compile", metavar="CAPABILITY")
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--only", nargs="+", choices=PARTS, default=PARTS, help="some parts of it (default: all)")
    parser.add_argument("--minutes", type=float, default=9.0, help="what all may take (default 9)")
    parser.add_argument("--write", type=Path, metavar="FILE", help="keep the recipes' figures there, as JSON")
    chosen = parser.parse_args()
    try:
        lines = _compiled(chosen.compile) if chosen.compile else _measured(chosen)
        for line in lines:
            print(line, flush=True)
    except EngineUnavailable as error:
        print(error, file=sys.stderr)
        return UNAVAILABLE
    return 0


def _compiled(text: str) -> Iterator[str]:
    from bench.gpu.compiled import compiled

    major, minor = (int(each) for each in text.split("."))
    found = compiled((major, minor))
    yield f"| kernel, sm_{major}{minor} | .f64 in PTX | registers | bytes spilled |"
    yield "|---|---|---|---|"
    for kernel in found:
        yield f"| `{kernel.name}` | {kernel.doubles} | {kernel.registers} | {kernel.spilled} |"


def _measured(chosen: argparse.Namespace) -> Iterator[str]:
    from lampyris.projector import card

    here, clock, quick = card(), Clock(chosen.minutes), chosen.quick
    if here.simulated and not quick:
        raise EngineUnavailable("Numba's simulator is ten thousand times slower than a card: --quick is for it")
    if chosen.write and here.simulated:
        raise EngineUnavailable("figures of Numba's simulator are not kept: they would be taken for a card's")
    from bench.gpu.ceilings import ceilings

    limits = ceilings(count=512, steps=2) if here.simulated else ceilings(count=1 << 29, steps=4096)
    yield (
        f"{here.name}, {here.memory_bytes / 2**30:.0f} GiB, {here.driver or 'no driver'}; commit {_commit()}: copies"
        f" {limits.bytes_per_s / 1e9:.0f} GB/s, {limits.flops_per_s / 1e12:.2f} TFLOP/s in float32, link"
        f" {limits.link_bytes_per_s / 1e9:.1f} GB/s."
    )
    if "pairs" in chosen.only:
        yield from _pairs(limits, quick=quick)
    if "cone" in chosen.only:
        yield from _cone(limits, quick=quick)
    if "recipes" in chosen.only:
        yield from _chest(chosen, clock, limits, here)


def _pairs(limits: object, *, quick: bool) -> Iterator[str]:
    from bench.gpu import pairs

    found = pairs.cases(quick=quick)
    yield from ("", "| case | forward off | adjoint off | pair off | voxels off |", "|---|---|---|---|---|")
    for case in (each for each in found if each.judged):
        off = pairs.judged(case)
        cells = " | ".join(f"{off[each]:.1e}" for each in ("forward", "adjoint", "pair", "voxels"))
        yield f"| {case.name} | {cells} |"
    yield from ("", "| case, copies included | direction | seconds | over the floor |", "|---|---|---|---|")
    for case in found:
        for direction, (took, over) in pairs.timed(case, limits).items():
            yield f"| {case.name} | {direction} | {took:.3f} | {over:.1f} × |"


def _cone(limits: object, *, quick: bool) -> Iterator[str]:
    from bench.gpu import cone

    case = cone.TINY if quick else cone.FULL
    yield ""
    yield f"Cone beam, {case.voxels}³ from {case.views} views of {case.cells}²:"
    yield from ("", "| what | whose | seconds | over the floor | off ours |", "|---|---|---|---|---|")
    left_out = []
    for row in cone.rows(case, limits):
        if isinstance(row, str):
            left_out.append(row)
            continue
        off = "" if row.off is None else f"{row.off:.1e}"
        yield f"| {row.what} | {row.whose} | {row.seconds:.4f} | {row.over_floor:.1f} × | {off} |"
    yield from ("", *left_out) if left_out else ()


def _chest(chosen: argparse.Namespace, clock: Clock, limits: object, here: object) -> Iterator[str]:
    from bench.gpu import chest
    from bench.gpu.figures import Figures

    case = chest.TINY if chosen.quick else chest.FULL
    kept = []
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder) / "chest.lraw"
        chest.scan(case, place)
        yield ""
        yield f"A helix in a container of {place.stat().st_size / 1e6:.0f} MB, {case.named}:"
        yield from ("", f"| recipe | {' | '.join(_COLUMNS)} |", "|---" * (1 + len(_COLUMNS)) + "|")
        projections = chest.corrected(place, chest.recipe(RECIPES[0], case, quick=chosen.quick))
        for name in RECIPES:
            row, figures = _recipe(name, case, (place, projections), clock, limits, quick=chosen.quick)
            yield row
            if figures is not None and chosen.write:
                kept.append(figures)
                about = (here.name, here.driver, here.memory_bytes, _commit(), case.named)
                Figures(*about, tuple(kept)).write(chosen.write)
    if chosen.write:
        yield from ("", f"Figures of {len(kept)} recipes: {chosen.write}")


_COLUMNS = (
    "opening s", "reading and correcting s", "reconstruct s", "whole s", "reconstruct over the floor",
    "memory of the card MiB", "off the CPU's image HU: largest, RMS", "scans/h, pipeline full",
)  # fmt: skip


def _recipe(name: str, case: object, scan: object, clock: Clock, limits: object, *, quick: bool):  # type: ignore[no-untyped-def]
    """A row of the table, and the figures that are kept of it; in the row's place why there is none.

    `scan` is the container, and its projections.
    """
    from bench.gpu import chest, pipeline
    from bench.gpu.figures import RecipeFigures
    from lampyris.projector import load

    if quick and name in ITERATIVE:
        return f"| {name} | left out: the simulator takes too long for an iteration | | | | | | | |", None
    short = case.short(min(case.slices, 8), min(case.matrix, 128))
    whole, small = (chest.recipe(name, one, quick=quick) for one in (case, short))
    place, projections = scan
    try:
        off = chest.off_hu(projections, small)  # the first call compiles, too
        if not clock.holds(60):
            return f"| {name} | left out: the minutes are over | | | | | | | |", None
        made = chest.done(place, whole, "cuda")
    except ProgramError:
        raise
    except LampyrisError as error:
        return f"| {name} | not made: {error} [{error.code}] | | | | | | | |", None
    spent, over = made.seconds, made.seconds["reconstruct"] / chest.floor_s(case, whole, limits)
    total, scans = sum(spent.values()), 1 if sum(spent.values()) > 15 else 3
    full: float | str = "left out: the minutes are over"
    if clock.holds(1.5 * pipeline.PROCESSES * scans * total + 30):
        load("cuda").memory.release()  # what this process keeps for itself, the others lack
        full = pipeline.per_hour(place, small, whole, scans=scans)
    verdict = "" if off[0] <= ALLOWED_HU[name] else f" **more than {ALLOWED_HU[name]:g}**"
    cells = (
        f"{spent['reading']:.2f}", f"{spent['correct']:.2f}", f"{spent['reconstruct']:.2f}", f"{total:.2f}",
        f"{over:.1f} ×", f"{made.card_bytes / 2**20:.0f}", f"{off[0]:.2g}, {off[1]:.2g}{verdict}",
        f"{full:.0f}" if isinstance(full, float) else full,
    )  # fmt: skip
    rate = full if isinstance(full, float) else None
    return f"| {name} | {' | '.join(cells)} |", RecipeFigures(name, spent, made.card_bytes, rate)


def _commit() -> str:
    done = subprocess.run(["git", "rev-parse", "--short=12", "HEAD"], capture_output=True, text=True, check=False)
    return done.stdout.strip() or "unknown"


if __name__ == "__main__":
    sys.exit(main())
