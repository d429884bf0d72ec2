"""Results → one row for each dose and recipe, every figure with its 95 % interval; as Markdown, CSV and JSON."""

import csv
import io
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from scipy import stats

from lampyris.checkpoint import whole
from lampyris.dose_study.engine import Results
from lampyris.dose_study.measure import Seeds
from lampyris.dose_study.plan import Cell
from lampyris.dose_study.store import Failure, Outcome
from lampyris.model import Figure, Verdict
from lampyris.quality.gate import NOT_MEASURED

CONFIDENCE = 0.95
IMAGE_STATIONS = ("correct", "reconstruct")
"""Stations whose seconds an image costs; the rest is measuring."""
PARTS = (("noise", "seed_noise"), ("resolution", "lost_resolution"), ("bias", "unexplained_bias"))
VERDICTS: tuple[Verdict, ...] = ("pass", "look", "stop")
"""From the best to the worst."""


@dataclass(frozen=True, slots=True)
class Estimate:
    """Mean of a figure over seeds and its 95 % interval (Student's t); no interval with one seed."""

    value: float
    low: float | None
    high: float | None
    seeds: int
    unit: str

    @staticmethod
    def of(values: Sequence[float], unit: str) -> "Estimate":
        array = np.asarray(values, np.float64)
        mean, n = float(array.mean()), len(array)
        if n < 2:
            return Estimate(mean, None, None, n, unit)
        reach = float(stats.t.ppf((1 + CONFIDENCE) / 2, n - 1) * array.std(ddof=1) / math.sqrt(n))
        return Estimate(mean, mean - reach, mean + reach, n, unit)


@dataclass(frozen=True, slots=True, eq=False)
class Row:
    """One dose and recipe: how many seeds gave an image, the worst verdict and why, failures, and every figure."""

    dose: float
    recipe: str
    seeds: int
    verdicts: tuple[Verdict, ...]
    reasons: tuple[str, ...]
    failures: tuple[Failure, ...]
    estimates: Mapping[str, Estimate]

    @property
    def verdict(self) -> Verdict | None:
        return next((one for one in reversed(VERDICTS) if one in self.verdicts), None)


LABELS = {
    "ctdivol": "CTDIvol",
    "ssde": "SSDE",
    "nps_mean": "mean frequency of the NPS",
    "laa950_shift": "LAA-950 − truth",
    "wire_f50": "wire",
}
"""Figures that have a better name than their own."""


@dataclass(frozen=True, slots=True)
class Group:
    """Figures that belong in one table and one plot: those whose names begin with any of `prefixes`."""

    title: str
    prefixes: tuple[str, ...]
    text: str
    plotted: bool = True

    def names(self, rows: Iterable[Row]) -> list[str]:
        """The figures of this group that any row has, in the order in which they were measured."""
        found = dict.fromkeys(name for row in rows for name in row.estimates if name.startswith(self.prefixes))
        return list(found)

    def label(self, name: str) -> str:
        """A figure's name without what the group's title says already."""
        first = next(prefix for prefix in self.prefixes if name.startswith(prefix))
        own = name.removeprefix(first) if first.endswith("_") else name
        return LABELS.get(name, own.replace("_", " "))


GROUPS = (
    Group("Error against the truth", ("rmse_",), "Root mean square of image − truth over the whole volume."),
    Group("Noise", ("seed_noise_",), "Standard deviation over seeds, voxel by voxel, in the kept slices."),
    Group("Mean bias", ("bias_",), "Mean of image − truth over the whole volume."),
    Group(
        "Lost resolution", ("lost_resolution_",),
        "The part of the error that a blur (or sharpening) of the truth explains, in the kept slices; below 0: none"
        " could be told from noise.",
    ),
    Group(
        "Bias that no blur explains", ("unexplained_bias_",),
        "What is left of the error when noise and lost resolution are taken away: shifted CT numbers, streaks, vanished"
        " or invented texture. In the kept slices; below 0: none could be told from noise.",
    ),
    Group("Resolution f50", ("ttf_f50_", "wire_f50"), "Frequency at which the transfer function of an insert is ½."),
    Group("Detectability d′", ("npw_",), "Non-prewhitening observer, task as named."),
    Group(
        "Emphysema index LAA-950", ("laa950_shift",),
        "How far the share of the lung below −950 HU is from the truth's, in the kept slices: noise alone feigns"
        " emphysema.",
    ),
    Group("CT numbers of inserts", ("hu_error_",), "Mean of each insert less what is expected of it.", False),
    Group("Noise texture", ("nps_mean",), "Mean frequency of the noise power spectrum.", False),
    Group("Dose", ("ctdivol", "ssde"), "CTDIvol as computed or reported, size-specific dose estimate.", False),
    Group("Time", ("seconds",), "Correction and reconstruction of one image on this machine.", False),
)  # fmt: skip


def summarise(results: Results) -> list[Row]:
    """A row for each dose and recipe of the study, doses from the highest."""
    study = results.study
    return [_row(results, dose, recipe.name) for dose in study.doses for recipe in study.recipes]


def row_of(dose: float, recipe: str, cells: Sequence[tuple[Cell, Outcome]], seeds: Seeds | None) -> Row:
    """Figures of one dose and recipe from its cells and from its images over seeds."""
    done = [one for _, one in cells if one.failure is None]
    judged = [one.assessment for one in done if one.assessment is not None]
    estimates = _estimates([one.figures for one in judged])
    if done:
        estimates["seconds"] = Estimate.of([_seconds(one) for one in done], "s")
    if seeds is not None:
        estimates |= _parts(seeds)
    reasons = dict.fromkeys(each for one in judged for each in one.reasons if not each.startswith(NOT_MEASURED))
    failures = {one.failure.message: one.failure for _, one in cells if one.failure is not None}
    return Row(
        dose, recipe, len(done), tuple(one.verdict for one in judged), tuple(reasons), tuple(failures.values()),
        estimates,
    )  # fmt: skip


def write_tables(folder: Path, results: Results, rows: Sequence[Row], more: Mapping[str, Any]) -> None:
    """study.md, study.csv (one line for each figure) and study.json, each whole or not at all. Raises StorageError."""
    texts = {
        "study.md": markdown(rows, results.study.original.title),
        "study.csv": comma_separated(rows),
        "study.json": json.dumps(machine(results, rows) | dict(more), indent=1, ensure_ascii=False) + "\n",
    }
    for name, text in texts.items():
        data = text.encode()
        whole(folder / name, lambda file, data=data: file.write(data))  # type: ignore[misc]


def markdown(rows: Sequence[Row], title: str) -> str:
    """Every group as one table: figure and recipe down, doses across."""
    doses = list(dict.fromkeys(row.dose for row in rows))
    lines = [f"# Dose study of {title}", "", "Mean over seeds (95 % interval)."]
    head = "| | recipe | " + " | ".join(f"{dose:g}" for dose in doses) + " |"
    rule = "|---|---|" + "---|" * len(doses)
    lines += ["", "## Gate", "", head, rule]
    lines += [f"| verdict | {name} | {' | '.join(_gate(each) for each in line)} |" for name, line in _by_recipe(rows)]
    for group in GROUPS:
        names = group.names(rows)
        if not names:
            continue
        lines += ["", f"## {group.title}", "", group.text, "", head, rule]
        for figure in names:
            for name, line in _by_recipe(rows):
                cells = " | ".join(text(each.estimates.get(figure)) for each in line)
                lines.append(f"| {group.label(figure)}, {unit(rows, figure)} | {name} | {cells} |")
    return "\n".join(lines) + "\n"


def comma_separated(rows: Sequence[Row]) -> str:
    """One line for each figure of each dose and recipe."""
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(["dose", "recipe", "figure", "unit", "mean", "low95", "high95", "seeds", "verdict"])
    for row in rows:
        for name, one in row.estimates.items():
            bounds = ["" if each is None else repr(each) for each in (one.low, one.high)]
            writer.writerow(
                [f"{row.dose:g}", row.recipe, name, one.unit, repr(one.value), *bounds, one.seeds, row.verdict or ""]
            )
    return buffer.getvalue()


def machine(results: Results, rows: Sequence[Row]) -> dict[str, Any]:
    """All of a study's numbers as JSON values: rows, and every cell with its own figures."""
    study = results.study
    return {
        "source": study.original.title,
        "scan": study.original.scan.id,
        "version": study.version,
        "doses": list(study.doses),
        "seeds": list(study.seeds),
        "recipes": [{"name": one.name, "version": one.version, "digest": one.digest()} for one in study.recipes],
        "rows": [_row_json(row) for row in rows],
        "cells": [_cell_json(cell, one) for cell, one in results.cells],
    }


def text(one: Estimate | None) -> str:
    """Mean and interval for a person, as many digits as the interval leaves."""
    if one is None:
        return "–"
    if not math.isfinite(one.value):
        return "not measurable"
    if one.low is None or one.high is None:
        return f"{one.value:.3g}"
    half = (one.high - one.low) / 2
    digits = 2 if half <= 0 else min(4, max(0, 1 - math.floor(math.log10(half))))
    digits = min(digits, max(0, 3 - math.floor(math.log10(max(abs(one.value), 1e-3)))))
    return f"{one.value:.{digits}f} ({one.low:.{digits}f}…{one.high:.{digits}f})"


def unit(rows: Iterable[Row], figure: str) -> str:
    return next(row.estimates[figure].unit for row in rows if figure in row.estimates) or "–"


def _row(results: Results, dose: float, recipe: str) -> Row:
    return row_of(dose, recipe, results.of(dose, recipe), results.seeds(dose, recipe))


def _estimates(assessed: Sequence[Sequence[Figure]]) -> dict[str, Estimate]:
    """Each figure over the seeds in which it was measured."""
    found: dict[str, list[Figure]] = {}
    for figures in assessed:
        for figure in figures:
            found.setdefault(figure.name, []).append(figure)
    return {name: Estimate.of([one.value for one in each], each[0].unit) for name, each in found.items()}


def _parts(seeds: Seeds) -> dict[str, Estimate]:
    """Noise, lost resolution and unexplained bias of each tissue."""
    found = {}
    for split in seeds.splits:
        for name, title in PARTS:
            part = getattr(split, name)
            low, high = part.root_interval or (None, None)
            found[f"{title}_{split.name}"] = Estimate(part.root, low, high, split.seeds, seeds.unit)
    if seeds.emphysema:
        found["laa950_shift"] = Estimate.of(seeds.emphysema, "% points")
    return found


def _seconds(one: Outcome) -> float:
    return sum(seconds for station, seconds in one.seconds if station in IMAGE_STATIONS)


def _by_recipe(rows: Sequence[Row]) -> list[tuple[str, list[Row]]]:
    names = list(dict.fromkeys(row.recipe for row in rows))
    return [(name, [row for row in rows if row.recipe == name]) for name in names]


def _gate(row: Row) -> str:
    counted = [f"{name} ×{row.verdicts.count(name)}" for name in VERDICTS if name in row.verdicts]
    return ", ".join([*counted, *(f"failed: {one.code}" for one in row.failures)])


def _row_json(row: Row) -> dict[str, Any]:
    return {
        "dose": row.dose,
        "recipe": row.recipe,
        "seeds": row.seeds,
        "verdicts": list(row.verdicts),
        "reasons": list(row.reasons),
        "failures": [{"code": one.code, "message": one.message} for one in row.failures],
        "figures": {
            name: {
                "mean": _finite(one.value),
                "low95": one.low,
                "high95": one.high,
                "seeds": one.seeds,
                "unit": one.unit,
            }
            for name, one in row.estimates.items()
        },
    }


def _cell_json(cell: Cell, one: Outcome) -> dict[str, Any]:
    judged = one.assessment
    return {
        "dose": cell.dose,
        "seed": cell.seed,
        "recipe": cell.recipe.name,
        "digest": cell.recipe.digest(),
        "seconds": dict(one.seconds),
        "CTDIvol": one.CTDIvol,
        "verdict": None if judged is None else judged.verdict,
        "reasons": [] if judged is None else list(judged.reasons),
        "figures": {} if judged is None else {each.name: _finite(each.value) for each in judged.figures},
        "failure": None if one.failure is None else {"code": one.failure.code, "message": one.failure.message},
    }


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
