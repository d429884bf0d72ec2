"""`python -m bench.dose [--write] [--seeds N] [--only SCENE …] [--images]`: recipes at low dose → the dose evidence.

Every image is kept under build/dose, so that an interrupted run goes on where it was and another seed costs only
itself. `--images` makes them and measures nothing.
"""

import argparse
import os
import platform
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np

from bench.dose import images, pictures, tables, verdicts
from bench.dose.scenes import MAS, names, scene

EVIDENCE = Path("docs/evidence")
MAIN = ("abdomen", "thorax")
"""Scenes whose error is split, over all doses and seeds."""
SHARP = ("routine-lung", 1.0)
"""The sharp kernel at full dose, shown beside."""
LOW_CONTRAST = (1.0, 0.5, 0.2, 0.1, 0.05)
"""Doses at which low contrast is looked at, so that the dose of equal detectability is between two of them."""
NEW = ("pelvis", "large", "child", "neck")
"""Scenes beyond what the learned prior knows, one seed at the lowest dose."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--write", action="store_true", help="write docs/evidence/dose.md and its pictures")
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--methods", default="routine,swift,tv,model,micro")
    parser.add_argument("--doses", default="0.2,0.1")
    parser.add_argument("--only", nargs="*", default=names(), help="these scenes and the sections that need no other")
    parser.add_argument("--images", action="store_true", help="make the images and stop")
    chosen = parser.parse_args()
    doses = tuple(float(each) for each in chosen.doses.split(","))
    scope = tables.Scope(tuple(chosen.methods.split(",")), doses, chosen.seeds)
    make(tuple(chosen.only), scope)
    if chosen.images:
        return
    text = "\n".join(document(tuple(chosen.only), scope))
    if chosen.write:
        (EVIDENCE / "dose.md").write_text(text + "\n", "utf-8")
    print(text)


def make(scenes: tuple[str, ...], scope: tables.Scope) -> None:
    """All images that the tables need."""
    for name in scenes:
        if scene(name).labels is not None or name in MAIN:
            images.image(name, "routine", np.inf, 0)
        for seed in range(1 if name in NEW else scope.seeds):
            for method, dose in cells(name, scope):
                if seed < scope.seeds_of(method):
                    images.image(name, method, dose, seed)
                    print(f"{name}: {method} {tables.fraction(dose)}, seed {seed}", flush=True)


def cells(name: str, scope: tables.Scope) -> list[tuple[str, float]]:
    """Methods and doses of a scene's images."""
    made = of_scene(name, scope)
    if name == "contrast":
        return [(method, dose) for dose in made.doses for method in made.methods]
    return made.cells()


def of_scene(name: str, scope: tables.Scope) -> tables.Scope:
    """What is made of a scene: all doses and methods in the abdomen, `model` too where nothing was trained on."""
    if name == "abdomen":
        return replace(scope, besides=(SHARP,))
    if name == "contrast":
        return replace(scope, doses=LOW_CONTRAST).without("tv", "model")
    if name == "thorax":
        return replace(scope.lowest().without("tv", "model"), besides=(SHARP, ("micro-lung", min(scope.doses))))
    return scope.lowest().without("tv") if name in NEW else scope.lowest().without("tv", "model")


def document(scenes: tuple[str, ...], scope: tables.Scope) -> list[str]:
    """The page, with the sections that the scenes allow."""
    called = " ".join(sys.argv[1:])
    lines = [
        "# Computation for dose: the evidence",
        "",
        f"Printed by `python -m bench.dose {called}`, commit {_commit()}, {platform.machine()}, {os.cpu_count()}"
        f" threads. Everything was scanned by the virtual scanner (64-row preset, {MAS:g} mAs per turn at 120 kV as the"
        " full dose, polychromatic, compound-Poisson and electronic noise); every method met the same raw data. No"
        f" scene was seen in training. {scope.seeds} seeds; ± is half of the 95 % interval over them, which two seeds"
        " make very wide.",
        "",
    ]
    if left := [name for name in names() if name not in scenes]:
        lines += [f"Not made in this run: {', '.join(left)}.", ""]
    main_scenes, new = [tuple(each for each in group if each in scenes) for group in (MAIN, NEW)]
    lines += ["## What was asked, and what was found", "", *verdicts.table(scenes, new, scope)]
    lines += [*_errors(main_scenes, scope), *_tasks(scenes, scope)]
    if new:
        lines += ["## Where nothing was trained on", "", *tables.generalisation(new, scope.without("tv"))]
    shown = pictures.failures((*main_scenes, *new), scope.without("tv", "model"), EVIDENCE)
    return [*lines, "## Failures", "", shown, ""]


def _errors(scenes: tuple[str, ...], scope: tables.Scope) -> list[str]:
    lines = [
        "## Root-mean-square error against the truth",
        "",
        "Bias here is all that neither noise nor a shift-invariant blur explains; in bone most of it is beam hardening,"
        " which no recipe of the body corrects.",
        "",
    ]
    for name in scenes:
        made = of_scene(name, scope)
        lines += [*tables.rmse(name, made), pictures.side_by_side(name, made, EVIDENCE), ""]
    lines += ["## Which frequencies hold it back", ""]
    for name, tissue in (("abdomen", "soft"), ("thorax", "lung")):
        if name in scenes:
            lines += tables.bands(name, tissue, of_scene(name, scope))
    return lines


def _tasks(scenes: tuple[str, ...], scope: tables.Scope) -> list[str]:
    """Organs, resolution, nodules, emphysema, low contrast: each from its own scene."""
    lines = list[str]()
    if "abdomen" in scenes:
        lines += ["## Mean CT number of organs", "", *tables.organs("abdomen", scope)]
    if "rods" in scenes:
        lines += ["## Resolution by contrast", "", "Edges of rods of 25 mm in 32 cm of water, mean of the seeds."]
        lines += ["", *tables.resolution(of_scene("rods", scope))]
    if "thorax" in scenes:
        lines += ["## Solid nodules in lung: error of the volume", "", *tables.nodules(of_scene("thorax", scope))]
        lines += [
            "## Solid nodules in lung: found by a search",
            "",
            "Response of the dot enhancement filter at the nodule over that at the best false mark of the image, mean"
            " of the seeds; above 1 the nodule is found before any false mark. False marks lie on vessels. The second"
            " of 10 mm is the phantom's own.",
            "",
            *tables.searched(of_scene("thorax", scope)),
        ]
        lines += ["## Emphysema: LAA-950 in percent", "", *tables.emphysema(of_scene("thorax", scope))]
    if "contrast" in scenes:
        made = of_scene("contrast", scope)
        lines += [
            "## Low contrast",
            "",
            "d′ of the channelised Hotelling observer (6 difference-of-Gaussian channels) with its exact 95 % interval."
            " Slices of one scan serve as samples, so that the interval is too narrow where they are correlated. The"
            " ideal observer of all counts is shown what lies of the rod in one slice of 1 mm; a recipe that smooths"
            " along the rod takes in neighbouring slices and may be above it. What the counts do not hold no recipe can"
            " show.",
            "",
            *tables.contrast(made),
            "The dose, as a share of the full one, at which each task is seen as well as in full-dose routine (log-log"
            " between the doses that were made, nothing extrapolated):",
            "",
            *tables.equal_contrast(made),
        ]
    return lines


def _commit() -> str:
    found = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False)
    return found.stdout.strip() or "unknown"


if __name__ == "__main__":
    main()
