"""Figures of the scenes → what was asked of `micro`, what was found, and whether it is enough, as markdown."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from bench.dose import measure
from bench.dose.tables import FULL, Scope, fraction

MICRO = "micro"
RMSE_LIMIT, SLACK_AT_LOWEST = 1.0, 1.15
ORGAN_HU, F50_SHARE, NODULE_BIAS, NODULE_DEVIATION, NODULE_MM, LAA_POINTS = 3.0, 0.9, 5.0, 8.0, 6.0, 1.0
WORSE_THAN_MODEL = 1.05
SLIVER = 1000
"""Voxels of an organ's core."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """One figure beside its limit."""

    asked: str
    found: str
    met: bool

    def line(self) -> str:
        return f"| {self.asked} | {self.found} | {'yes' if self.met else '**no**'} |"


def table(scenes: tuple[str, ...], new: tuple[str, ...], scope: Scope) -> list[str]:
    """Every promise that the scenes at hand can judge."""
    judged = [one for name in ("abdomen", "thorax") if name in scenes for one in _errors(name, scope)]
    judged += list(_organs(scope)) if "abdomen" in scenes else []
    judged += list(_rods(scope)) if "rods" in scenes else []
    judged += [*_nodules(scope), *_searched(scope), *_emphysema(scope)] if "thorax" in scenes else []
    judged += [one for name in scenes if name in ("abdomen", *new) for one in _beside_model(name, scope)]
    return ["| asked of `micro` | found | met |", "|---|---|---|", *(one.line() for one in judged), ""]


def _errors(name: str, scope: Scope) -> Iterator[Verdict]:
    full = measure.rmse(name, *FULL, scope.seeds)
    doses = scope.doses if name == "abdomen" else scope.lowest().doses
    for dose in doses:
        limit = SLACK_AT_LOWEST if dose == min(scope.doses) else RMSE_LIMIT
        made = measure.rmse(name, MICRO, dose, scope.seeds)
        ratios = {tissue: float(made[tissue].mean() / full[tissue].mean()) for tissue in ("body", "lung", "soft")}
        told = ", ".join(f"{tissue} {ratio:.2f}" for tissue, ratio in ratios.items())
        asked = f"{name}, {fraction(dose)}: RMSE ≤ {limit:g} × full-dose routine"
        yield Verdict(asked, told, max(ratios.values()) <= limit)
    if "tv" in scope.methods and name == "abdomen":
        dose = min(scope.doses)
        made, other = (measure.rmse(name, method, dose, 1) for method in (MICRO, "tv"))
        told = ", ".join(f"{t} {made[t][0]:.1f} against {other[t][0]:.1f} HU" for t in ("body", "lung", "soft"))
        better = all(made[t][0] < other[t][0] for t in ("body", "lung", "soft"))
        yield Verdict(f"{name}, {fraction(dose)}: RMSE below total variation's", told, better)


def _organs(scope: Scope) -> Iterator[Verdict]:
    """Every organ; slivers of a few voxels, whose mean one scan does not know, are told apart."""
    dose = min(scope.doses)
    quiet = measure.image("abdomen", "routine", np.inf, 0).volume.values
    for title, reference in (("truth", measure.truth("abdomen").values), ("noise-free routine", quiet)):
        made = measure.organs("abdomen", MICRO, dose, scope.seeds, reference).measured
        full = {one.label: one.bias for one in measure.organs("abdomen", *FULL, scope.seeds, reference).measured}
        large, small = ([one for one in made if (one.voxels >= SLIVER) is big] for big in (True, False))
        for size, those in ((f"of {SLIVER} voxels or more", large), (f"below {SLIVER} voxels", small)):
            worst = max(those, key=lambda one: abs(one.bias))
            told = f"worst {worst.bias:+.1f} HU ({worst.name}; full-dose routine there {full[worst.label]:+.1f})"
            asked = f"{len(those)} organs {size}, {fraction(dose)}: mean within {ORGAN_HU:g} HU of the {title}"
            yield Verdict(asked, told, abs(worst.bias) <= ORGAN_HU)


def _rods(scope: Scope) -> Iterator[Verdict]:
    dose = min(scope.doses)
    full, made = measure.resolutions(*FULL, scope.seeds), measure.resolutions(MICRO, dose, scope.seeds)
    for rod in measure.RODS:
        share = made[rod][0] / full[rod][0]
        told = f"{made[rod][0]:.3f} /mm, {share:.2f} ×"
        yield Verdict(f"rod {rod}, {fraction(dose)}: f50 ≥ {F50_SHARE:g} × full-dose routine", told, share >= F50_SHARE)


def _nodules(scope: Scope) -> Iterator[Verdict]:
    for size, (found, seen) in measure.nodules(MICRO, min(scope.doses), scope.seeds).items():
        asked = f"solid nodule {size:g} mm: volume within {NODULE_BIAS:g} %"
        if found is None:
            yield Verdict(asked, "not measured", False)
            continue
        steady = size < NODULE_MM or (found.deviation or 0.0) <= NODULE_DEVIATION
        spread = "" if found.deviation is None else f", SD {found.deviation:.1f} %"
        yield Verdict(
            asked,
            f"{found.mean:+.1f} %{spread}, {seen} of {scope.seeds} seeds",
            abs(found.mean) <= NODULE_BIAS and steady,
        )


def _searched(scope: Scope) -> Iterator[Verdict]:
    dose = min(scope.doses)
    rates = []
    for method, at in ((MICRO, dose), FULL):
        found = [each for one in measure.searched(method, at, scope.seeds) for _, each in one.nodules]
        rates.append((sum(each.score_hu is not None and each.false_marks_above == 0 for each in found), len(found)))
    (made, n), (full, _) = rates
    asked = f"solid nodules, {fraction(dose)}: found by a searching observer at the rate of full-dose routine"
    yield Verdict(asked, f"{made} of {n} before a false mark; full-dose routine {full}", made >= full)


def _emphysema(scope: Scope) -> Iterator[Verdict]:
    full = measure.emphysema(*FULL, scope.seeds)
    for share, (truth, read) in measure.emphysema(MICRO, min(scope.doses), scope.seeds).items():
        told = f"{read.mean:.1f} %; full-dose routine {full[share][1].mean:.1f} %"
        asked = f"LAA-950 of {truth:.1f} %: within {LAA_POINTS:g} point"
        yield Verdict(asked, told, abs(read.mean - truth) <= LAA_POINTS)


def _beside_model(name: str, scope: Scope) -> Iterator[Verdict]:
    dose = min(scope.doses)
    model, made = (measure.rmse(name, method, dose, 1) for method in ("model", MICRO))
    ratios = {tissue: float(made[tissue][0] / model[tissue][0]) for tissue in model}
    told = ", ".join(f"{tissue} {ratio:.2f}" for tissue, ratio in ratios.items())
    asked = f"{name}, {fraction(dose)}: RMSE ≤ {WORSE_THAN_MODEL:g} × model's"
    yield Verdict(asked, told, max(ratios.values()) <= WORSE_THAN_MODEL)
