"""`make bench`: every case of ours beside its peers → a table with machine, commit and versions, printed and kept.

`python -m bench [--quick] [--only TEXT …] [--write FILE]`; `--write docs/evidence/bench.md` keeps the table there.
"""

import argparse
import os
import platform
import subprocess
import sys
import tempfile
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from bench.harness import THREADS, Result, measure

GROUPS: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("Backprojection, voxel-driven, 256³, 90 views of 384²",
     ("ours:backprojection", "ours:backprojection_curved", "peers:rtk_backprojection")),
    ("FDK whole, 256³ from 360 views of 384²",
     ("ours:fdk", "ours:fdk_curved", "peers:rtk_fdk", "peers:mbirjax_fdk")),
    ("Forward projection, 256³, 90 views of 384²",
     ("ours:forward_flat", "ours:forward_curved", "ours:forward_helical", "peers:rtk_joseph_forward")),
    ("Adjoint, 256³, 90 views of 384²",
     ("ours:adjoint_flat", "ours:adjoint_curved", "ours:adjoint_helical", "peers:rtk_joseph_adjoint")),
    ("2-D FBP, 512² from 984 × 888",
     ("ours:fbp_parallel", "ours:fbp_fan", "ours:fbp_stack", "peers:skimage_fbp", "peers:astra_fbp")),
    ("Helical 64-row, five turns of 1152 views, 512²",
     ("ours:helical_50", "ours:helical_100", "ours:helical_200")),
    ("Recipes, helical, 64 rows, 92 slices of 512², reconstruct station",
     ("recipes:helical_routine", "recipes:helical_swift")),
    ("Recipes, axial, 24 rows × 768 views, 12 slices of 512², reconstruct station",
     ("recipes:axial_pair", "recipes:axial_routine", "recipes:axial_model", "recipes:axial_micro")),
    ("A chest of 600 slices of 512², 64 rows, 1152 views a turn, `model` with one pass, reconstruct station",
     ("recipes:chest",)),
)  # fmt: skip
SLOW = {
    "peers:rtk_joseph_adjoint", "peers:mbirjax_fdk", "peers:rtk_fdk",
    "recipes:axial_model", "recipes:axial_micro", "recipes:chest",
}  # fmt: skip


def main() -> None:
    arguments = argparse.ArgumentParser(prog="bench", description=__doc__)
    arguments.add_argument("--quick", action="store_true", help="leave out the slowest")
    arguments.add_argument("--only", nargs="*", default=[], metavar="TEXT", help="only cases whose name holds a TEXT")
    arguments.add_argument("--write", type=Path, metavar="FILE", help="keep the table there as markdown")
    chosen = arguments.parse_args()
    lines = _head()
    for title, cases in GROUPS:
        wanted = [
            case
            for case in cases
            if (not chosen.only or any(text in case for text in chosen.only)) and not (chosen.quick and case in SLOW)
        ]
        if wanted:
            lines += _group(title, wanted)
    if not chosen.only:
        lines += _extremes()
    print("\n".join(lines))
    if chosen.write:
        head = f"# Benchmarks\n\nWritten by `python -m bench {' '.join(sys.argv[1:])}`.\n\n"
        chosen.write.write_text(head + "\n".join(lines) + "\n", "utf-8")


def _head() -> list[str]:
    commit = subprocess.run(["git", "rev-parse", "--short=12", "HEAD"], capture_output=True, text=True, check=False)
    dirty = subprocess.run(["git", "status", "--porcelain"], capture_output=True, text=True, check=False)
    names = ("numpy", "numba", "scipy", "itk-rtk", "mbirjax", "scikit-image", "astra-toolbox")
    versions = ", ".join(f"{name} {_version(name)}" for name in names)
    model = next(
        (
            line.split(":")[1].strip()
            for line in Path("/proc/cpuinfo").read_text().splitlines()
            if line.startswith("model name")
        ),
        platform.processor(),
    )
    return [
        f"Machine: {model}, {os.cpu_count()} processors, {THREADS} threads a case; Python {platform.python_version()}.",
        f"Commit: {commit.stdout.strip()}{' with changes' if dirty.stdout.strip() else ''}. Versions: {versions}.",
        "Every case in its own process: median of three after a first call. A first call of over two minutes is the"
        " only one; what it compiled is in its time.",
    ]


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "absent"


def _group(title: str, cases: list[str]) -> list[str]:
    results = {case: measure(case) for case in cases}
    first = results[cases[0]]
    names = ("case", "wall s", "processor s", "first call s", "giga-updates/s", "peak GiB", "wall ÷ ours", "score")
    rows = ["", f"## {title}", "", f"| {' | '.join(names)} |", "|---" * len(names) + "|"]
    for case, result in results.items():
        if isinstance(result, str):
            rows.append(f"| {case} | {result} | | | | | | |")
            continue
        ratio = f"{result.wall_s / first.wall_s:.2f}" if isinstance(first, Result) else ""
        rate = "" if result.giga_updates_per_s is None else f"{result.giga_updates_per_s:.2f}"
        score = ", ".join(f"{name} {value:.3g}" for name, value in result.score.items())
        times = f"{result.wall_s:.2f} | {result.cpu_s:.2f} | {result.first_s:.2f}"
        rows.append(f"| {case} | {times} | {rate} | {result.peak_gib:.2f} | {ratio} | {score} |")
    return rows


def _extremes() -> list[str]:
    """The same kernel on lesser processors, on one thread, and with nothing compiled before."""
    settings = {
        "AVX2 (NUMBA_CPU_NAME=haswell)": {"NUMBA_CPU_NAME": "haswell", "NUMBA_CPU_FEATURES": ""},
        "portable (NUMBA_CPU_NAME=nehalem)": {"NUMBA_CPU_NAME": "nehalem", "NUMBA_CPU_FEATURES": ""},
        "one thread": {"NUMBA_NUM_THREADS": "1"},
    }
    rows = ["", "## Other processors, one thread, first run", "",
            "| setting | case | wall s | first call s | giga-updates/s |", "|---|---|---|---|---|"]  # fmt: skip
    with tempfile.TemporaryDirectory() as empty:
        settings["nothing compiled before"] = {"NUMBA_CACHE_DIR": empty}
        for name, environment in settings.items():
            for case in ("ours:backprojection", "ours:forward_flat", "ours:adjoint_flat"):
                result = measure(case, environment=environment)
                cells = result if isinstance(result, str) else (
                    f"{result.wall_s:.2f} | {result.first_s:.2f} | {result.giga_updates_per_s or 0:.2f}"
                )  # fmt: skip
                rows.append(f"| {name} | {case} | {cells} |")
    return rows


if __name__ == "__main__":
    main()
