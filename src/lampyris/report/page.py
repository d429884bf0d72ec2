"""Columns (one image each) → report.html, one self-contained file: no script, no link to anywhere."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
from jinja2 import Environment, StrictUndefined

from lampyris.model import Acquisition, Applied, Assessment, Detection, Figure, Passport, Recipe, StorageError, Volume
from lampyris.quality.gate import NOT_MEASURED
from lampyris.report.pictures import Window, planes, plot, png, windows_for


@dataclass(frozen=True, slots=True, eq=False)
class Column:
    """One image of the page: what it is called, what was made, how it was judged and how long each station took."""

    title: str
    volume: Volume
    assessment: Assessment
    recipe: Recipe
    acquisition: Acquisition
    history: tuple[Applied, ...]
    seconds: tuple[tuple[str, float], ...]
    folder: str
    shape: tuple[int, int, int]
    method: str
    passport: Passport = field(default_factory=Passport)


def write_page(path: Path, title: str, source: str, columns: Sequence[Column]) -> None:
    """Write the page beside its images, whole or not at all. Raises StorageError."""
    template = files("lampyris.report").joinpath("page.html.jinja").read_text("utf-8")
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.filters["number"] = number
    environment.tests["unmeasured"] = lambda reason: reason.startswith(NOT_MEASURED)
    text = environment.from_string(template).render(
        title=title,
        source=source,
        columns=columns,
        pictures=_pictures(columns),
        tables=_tables(columns),
        plots=_plots(columns),
        stations=_stations(columns),
        maps=_maps(columns),
        tasks=_tasks(columns),
    )
    temporary = path.with_name(f".{path.name}.part")
    try:
        temporary.write_text(text, "utf-8")
        temporary.replace(path)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise StorageError(f"cannot write the report {path.name}: {error.strerror}; is the disk full?") from error


def number(value: float | None) -> str:
    """Four significant digits without an exponent where a person expects none."""
    if value is None:
        return "–"
    if value != value:
        return "not measurable"
    return f"{value:.0f}" if abs(value) >= 1000 else f"{value:.4g}"


def _pictures(columns: Sequence[Column]) -> list[dict[str, Any]]:
    """Rows of the picture grid: one window and plane each, one picture per column."""
    rows = []
    for index, window in enumerate(windows_for(columns[0].volume)):
        for position, plane in enumerate(planes(columns[0].volume)):
            cells = []
            for column in columns:
                own = windows_for(column.volume)[index]
                cells.append(png(planes(column.volume)[position], own))
            rows.append({"window": window, "plane": plane.name, "cells": cells})
    return rows


def _tables(columns: Sequence[Column]) -> list[dict[str, Any]]:
    """Figures grouped by the first word of their name, one row per figure, one cell per column."""
    groups: dict[str, dict[str, list[Figure | None]]] = {}
    for position, column in enumerate(columns):
        for figure in column.assessment.figures:
            rows = groups.setdefault(GROUPS.get(figure.name.split("_")[0], "Image"), {})
            rows.setdefault(figure.name, [None] * len(columns))[position] = figure
    order = {name: position for position, name in enumerate(dict.fromkeys(GROUPS.values()))}
    return [
        {
            "name": name,
            "rows": [
                {"name": figure, "unit": next(one.unit for one in cells if one), "cells": cells}
                for figure, cells in rows.items()
            ],
        }
        for name, rows in sorted(groups.items(), key=lambda item: order.get(item[0], len(order)))
    ]


GROUPS = {
    "passport": "Passport",
    "hu": "CT numbers",
    "uniformity": "CT numbers",
    "bias": "Against the truth",
    "rmse": "Against the truth",
    "noise": "Noise",
    "nps": "Noise",
    "ttf": "Resolution",
    "wire": "Resolution",
    "npw": "Detectability",
    "ctdivol": "Dose",
    "dlp": "Dose",
    "ssde": "Dose",
    "wed": "Dose",
    "effective": "Dose",
    "fault": "Faults",
}
"""First word of a figure's name → heading of its table."""


def _maps(columns: Sequence[Column]) -> list[dict[str, Any]]:
    """Rows of the passport's maps: one picture per column, None where there is no such map; one window for a row."""
    rows = []
    for name, told in (("noise", "standard deviation"), ("bias", "low-pass difference to the analytic image")):
        found = [getattr(column.passport, name) for column in columns]
        known = [one for one in found if one is not None]
        if not known:
            continue
        high = max(float(np.percentile(np.abs(planes(one)[0].values), 99.5)) for one in known) or 1.0
        window = Window(name, high / 2, high) if name == "noise" else Window(name, 0.0, 2 * high)
        cells = [None if one is None else png(planes(one)[0], window) for one in found]
        low = window.centre - window.width / 2
        rows.append({"name": name, "told": told, "cells": cells, "low": low, "high": low + window.width,
                     "unit": known[0].quantity})  # fmt: skip
    return rows


def _tasks(columns: Sequence[Column]) -> list[dict[str, Any]]:
    """One row a task with its detection in every column."""
    rows: dict[tuple[str, str, float, float], list[Detection | None]] = {}
    for position, column in enumerate(columns):
        for one in column.passport.detections:
            key = (one.task, one.tissue, one.contrast_hu, one.size_mm)
            rows.setdefault(key, [None] * len(columns))[position] = one
    return [
        {"task": task, "tissue": tissue, "contrast": contrast, "size": size, "cells": cells}
        for (task, tissue, contrast, size), cells in rows.items()
    ]


def _plots(columns: Sequence[Column]) -> list[tuple[str, str]]:
    named: dict[str, list[tuple[str, Any]]] = {}
    for column in columns:
        for curve in column.assessment.curves:
            named.setdefault(curve.name, []).append((column.title, curve))
    titles = {name: name.replace("_", " ") for name in named}
    return [(titles[name], plot(curves, titles[name])) for name, curves in named.items()]


def _stations(columns: Sequence[Column]) -> list[dict[str, Any]]:
    names = list(dict.fromkeys(name for column in columns for name, _ in column.seconds))
    return [{"name": name, "cells": [dict(column.seconds).get(name) for column in columns]} for name in names]
