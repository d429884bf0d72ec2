"""Rows of a study → the dose at which each recipe equals the baseline at full dose, and that in sentences."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from lampyris.dose_study.tables import Estimate, Row

BIAS_HU = 4.0
"""The house's rule: mean CT numbers may move this far from those at full dose (docs of the image-quality gate)."""
SHARPNESS = 0.95
"""An f50 counts as equal from this part of the baseline's on: the spread of a rod's f50 at clinical noise."""

Better = Literal["less", "more", "near"]
MEASURES: tuple[tuple[str, Better, str], ...] = (
    ("rmse_", "less", "error (RMSE), "),
    ("seed_noise_", "less", "noise, "),
    ("noise", "less", "noise of one image"),
    ("bias_", "near", f"mean within {BIAS_HU:g} HU, "),
    ("npw_", "more", "d′ "),
    ("ttf_f50_", "more", f"f50 within {100 * (1 - SHARPNESS):.0f} %, "),
    ("wire_f50", "more", f"f50 within {100 * (1 - SHARPNESS):.0f} %, wire"),
)
"""Beginning of a figure's name, what is better, and how it is called."""


@dataclass(frozen=True, slots=True)
class Equal:
    """The lowest dose at which a recipe is as good as the baseline at full dose in one figure.

    `dose` None: not at any dose of the study. `lowest`: still as good at the study's lowest dose, so the true value
    lies at or below it.
    """

    recipe: str
    figure: str
    title: str
    dose: float | None
    lowest: bool = False

    def text(self) -> str:
        """For a person."""
        if self.dose is None:
            return "not reached"
        return f"≤ {self.dose:.3g}" if self.lowest else f"{self.dose:.2g}"


def equal_doses(rows: Sequence[Row]) -> list[Equal]:
    """For every recipe and every figure that the baseline (the first row) has; interpolated over the log of the dose.

    Errors and noise are interpolated in their logarithm too: they follow a power of the dose.
    """
    found = []
    known = ((_measure(name), name) for name in rows[0].estimates)
    for measure, name in sorted(((MEASURES.index(one), name) for one, name in known if one), key=lambda each: each[0]):
        prefix, better, words = MEASURES[measure]
        base = rows[0].estimates[name]
        usable = base.unit == "HU" if better == "near" else base.value > 0
        if not usable or not math.isfinite(base.value):
            continue
        title = words + name.removeprefix(prefix).replace("_", " ")
        for recipe in dict.fromkeys(row.recipe for row in rows):
            own = [(row.dose, row.estimates.get(name)) for row in rows if row.recipe == recipe]
            dose, lowest = _crossing([(dose, _excess(one, base.value, name, better)) for dose, one in own])
            found.append(Equal(recipe, name, title, dose, lowest))
    return found


def gate_dose(rows: Sequence[Row], recipe: str) -> float | None:
    """The lowest dose of the study down to which every image was made and none was stopped."""
    last = None
    for row in (each for each in rows if each.recipe == recipe):
        if row.failures or row.verdict in (None, "stop"):
            return last
        last = row.dose
    return last


def sentences(rows: Sequence[Row], equal: Sequence[Equal]) -> list[str]:
    """What a physicist takes home: the baseline, one sentence for each other recipe, and the best of them first."""
    base = rows[0]
    others = [name for name in dict.fromkeys(row.recipe for row in rows) if name != base.recipe]
    said = [_baseline(base, rows)]
    reached = {name: _overall(rows, equal, name) for name in others}
    good = {name: dose for name, dose in reached.items() if dose is not None and dose < base.dose}
    if others and any(one.figure.startswith("rmse_") for one in equal):
        said.insert(0, _best(rows, good))
    return said + [_recipe(rows, equal, name) for name in others]


def _measure(name: str) -> tuple[str, Better, str] | None:
    """The measure that a figure is: by its whole name, or by its beginning where that ends in "_"."""
    return next((one for one in MEASURES if name == one[0] or (one[0].endswith("_") and name.startswith(one[0]))), None)


def _crossing(points: Sequence[tuple[float, float | None]]) -> tuple[float | None, bool]:
    """From the highest dose down to where the excess rises above 0; what was not measured ends the walk."""
    last: tuple[float, float] | None = None
    for dose, excess in points:
        if excess is None or excess > 1e-9:
            if last is None:
                return None, False
            if excess is None:
                return last[0], False
            share = -last[1] / (excess - last[1])
            return float(math.exp(math.log(last[0]) + share * math.log(dose / last[0]))), False
        last = dose, min(excess, 0.0)
    return (None, False) if last is None else (last[0], True)


def _excess(one: Estimate | None, base: float, name: str, better: Better) -> float | None:
    """Above 0: worse than the baseline."""
    if one is None or not math.isfinite(one.value):
        return None
    if better == "near":
        return abs(one.value - base) - BIAS_HU
    if one.value <= 0:
        return None
    part = SHARPNESS if "f50" in name else 1.0
    ratio = math.log(one.value / base)
    return ratio if better == "less" else math.log(part) - ratio


def _overall(rows: Sequence[Row], equal: Sequence[Equal], recipe: str) -> float | None:
    """The lowest dose at which error and mean of every tissue are as good, and the gate stops no more than before."""
    own = [one for one in equal if one.recipe == recipe and one.figure.startswith(("rmse_", "bias_"))]
    if not any(one.figure.startswith("rmse_") for one in own) or any(one.dose is None for one in own):
        return None
    doses = [one.dose for one in own if one.dose is not None]
    if rows[0].verdict != "stop":
        gate = gate_dose(rows, recipe)
        if gate is None:
            return None
        doses.append(gate)
    return max(doses)


def _best(rows: Sequence[Row], good: dict[str, float]) -> str:
    base = rows[0]
    if not good:
        return (
            f"On this object no recipe gave at a lower dose an image that is as true as that of {base.recipe} at"
            f" {_dose(base.dose)} in every tissue that was measured and that the gate lets pass; the table says where"
            " each falls short."
        )
    name = min(good, key=good.__getitem__)
    return (
        f"On this object {name} at {good[name]:.2g} of the dose{_mgy(rows, good[name])} gives an image whose error"
        f" (RMSE) is no larger than that of {base.recipe} at {_dose(base.dose)}{_mgy(rows, base.dose)} in every tissue"
        f" that was measured, with mean CT numbers within {BIAS_HU:g} HU of it and nothing stopped by the gate."
    )


def _baseline(base: Row, rows: Sequence[Row]) -> str:
    lowest = [row for row in rows if row.recipe == base.recipe][-1]
    said = f"Baseline: {base.recipe} at {_dose(base.dose)}{_mgy(rows, base.dose)}"
    figures = [(name, title) for name, title in (("rmse_body", "error"), ("noise", "noise")) if name in base.estimates]
    if not figures:
        return f"{said}."
    values = [f"{title} {base.estimates[name].value:.3g} {base.estimates[name].unit}" for name, title in figures]
    low = [f"{lowest.estimates[name].value:.3g}" for name, _ in figures if name in lowest.estimates]
    there = f"; at {lowest.dose:g} of the dose {' and '.join(low)}" if low and lowest.dose != base.dose else ""
    return f"{said}: {' and '.join(values)}{there}."


def _recipe(rows: Sequence[Row], equal: Sequence[Equal], recipe: str) -> str:
    """Where the recipe equals the baseline, in a few figures, and down to where the gate lets it."""
    made = [row for row in rows if row.recipe == recipe]
    if not any(row.seeds for row in made):
        return f"{recipe} made no image at any dose: {made[0].failures[0].message}."
    parts = []
    for figure, words in (("rmse_body", "equal error in the body"), ("seed_noise_body", "equal noise")):
        one = next((each for each in equal if each.recipe == recipe and each.figure == figure), None)
        if one is not None:
            parts.append(f"{words} {'not reached' if one.dose is None else f'at {one.text()} of the dose'}")
    moved = [one for one in equal if one.recipe == recipe and one.figure.startswith("bias_")]
    if moved:
        worst = None if any(one.dose is None for one in moved) else max(one.dose or 0.0 for one in moved)
        parts.append(
            f"mean CT numbers move by more than {BIAS_HU:g} HU at every dose"
            if worst is None
            else f"mean CT numbers stay within {BIAS_HU:g} HU down to {worst:.2g}"
        )
    gate = gate_dose(rows, recipe)
    parts.append("the gate stops it at every dose" if gate is None else f"nothing is stopped down to {gate:g}")
    return f"{recipe} against the baseline: " + "; ".join(parts) + "."


def _dose(dose: float) -> str:
    return "full dose" if dose == 1 else f"{dose:g} of the dose"


def _mgy(rows: Sequence[Row], dose: float) -> str:
    """CTDIvol at a dose, from the first row's."""
    known = rows[0].estimates.get("ctdivol")
    return "" if known is None else f" (CTDIvol {known.value * dose / rows[0].dose:.2g} mGy)"
