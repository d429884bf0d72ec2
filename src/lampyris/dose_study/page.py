"""A finished study → study.html, one self-contained file that a hospital physicist reads: no script, no link."""

from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

from jinja2 import Environment, StrictUndefined

from lampyris.checkpoint import whole
from lampyris.dose_study import crops, plots
from lampyris.dose_study.engine import Results
from lampyris.dose_study.equal import Equal, gate_dose, sentences
from lampyris.dose_study.tables import GROUPS, Row, text, unit
from lampyris.report.page import number


def write_page(place: Path, results: Results, rows: Sequence[Row], equal: Sequence[Equal]) -> None:
    """Write the page whole or not at all. Raises StorageError."""
    template = files("lampyris.dose_study").joinpath("page.html.jinja").read_text("utf-8")
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.filters["number"] = number
    environment.filters["estimate"] = text
    study = results.study
    data = (
        environment.from_string(template)
        .render(
            study=study,
            rows=rows,
            lines=[[row for row in rows if row.dose == dose] for dose in study.doses],
            recipes=[recipe.name for recipe in study.recipes],
            sentences=sentences(rows, equal),
            equal=_equal(equal),
            gate={recipe.name: gate_dose(rows, recipe.name) for recipe in study.recipes},
            plots=_plots(rows),
            pictures=_pictures(results),
            difference=_difference(results, rows),
            tables=_tables(rows),
            facts=_facts(results),
        )
        .encode()
    )
    whole(place, lambda file: file.write(data))


def _equal(equal: Sequence[Equal]) -> list[tuple[str, list[Equal]]]:
    """One line for each figure, one cell for each recipe."""
    titles = dict.fromkeys(one.title for one in equal)
    return [(title, [one for one in equal if one.title == title]) for title in titles]


def _plots(rows: Sequence[Row]) -> list[dict[str, str]]:
    found = []
    for group in GROUPS:
        picture = plots.curves(group, rows) if group.plotted else None
        if picture is not None:
            found.append({"title": group.title, "text": group.text, "picture": picture})
    return found


def _pictures(results: Results) -> list[dict[str, Any]]:
    """One grid for each window: the truth, then doses down and recipes across."""
    place = crops.crop(results.ground)
    return [
        {
            "window": window,
            "truth": crops.truth_tile(results.ground, place, window),
            "tiles": crops.tiles(results, place, window),
        }
        for window in crops.windows(results.ground)
    ]


def _difference(results: Results, rows: Sequence[Row]) -> dict[str, Any]:
    width = crops.difference_width(rows)
    return {"half": width / 2, "tiles": crops.differences(results, crops.crop(results.ground), width)}


def _tables(rows: Sequence[Row]) -> list[dict[str, Any]]:
    """Each group as one table: figures and recipes down, doses across."""
    recipes = list(dict.fromkeys(row.recipe for row in rows))
    found = []
    for group in GROUPS:
        figures = [
            {
                "label": group.label(name),
                "unit": unit(rows, name),
                "lines": [
                    (recipe, [row.estimates.get(name) for row in rows if row.recipe == recipe]) for recipe in recipes
                ],
            }
            for name in group.names(rows)
        ]
        if figures:
            found.append({"title": group.title, "text": group.text, "figures": figures})
    return found


def _facts(results: Results) -> dict[str, Any]:
    """How the study was made, for whoever wants to repeat it."""
    original, ground = results.study.original, results.ground
    views, rows, columns = original.scan.geometry.shape
    grid, box = ground.truth.grid, ground.box
    return {
        "truth": "none" if original.truth is None else "given",
        "scan": f"{views} views of {rows} × {columns} cells",
        "protocol": original.scan.acquisition.ProtocolName,
        "grid": f"{grid.shape[0]} slices of {grid.shape[1]} × {grid.shape[2]} voxels,"
        f" {' × '.join(f'{step:.3g}' for step in grid.spacing_mm)} mm",
        "kept": f"slices {box[0].start + 1}…{box[0].stop} of {grid.shape[0]}",
        "unit": ground.truth.quantity,
    }
