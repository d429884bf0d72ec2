"""Rows of a study → curves against dose, one line for each recipe, as SVG ready to stand inside a page."""

import base64
import io
import math
from collections.abc import Sequence
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure as Plot
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedLocator, FuncFormatter, NullFormatter, NullLocator

from lampyris.dose_study.equal import BIAS_HU
from lampyris.dose_study.tables import Estimate, Group, Row, unit

PALETTE = ("#5b6675", "#2a6fdb", "#e07a1f", "#2c9c69", "#b3446c", "#6c5fc7")
"""The baseline in grey, then one colour for each recipe."""
MARKS = ("o", "s", "D", "^", "v", "P")
MOST = 4
"""Panels in one row."""


def curves(group: Group, rows: Sequence[Row]) -> str | None:
    """A data URI of the group's figures, one panel each; None where there is nothing to draw.

    The dose is logarithmic; so are errors and noise, which follow a power of it. Bars are 95 % intervals over seeds,
    the dashed line is the baseline at full dose (for a mean bias the band in which it may move).
    """
    names = [name for name in group.names(rows) if any(_finite(row.estimates.get(name)) for row in rows)]
    if not names or len({row.dose for row in rows}) < 2:
        return None
    across = min(MOST, len(names))
    down = math.ceil(len(names) / across)
    style: dict[Any, Any] = {
        "font.family": "sans-serif",
        "font.size": 9,
        "svg.hashsalt": "lampyris",
        "axes.edgecolor": "#8a8f98",
    }
    with mpl.rc_context(style):
        figure = Plot(figsize=(max(2.95 * across, 3.6), 2.7 * down + 0.45), layout="constrained")
        panels = figure.subplots(down, across, squeeze=False).ravel()
        for panel, name in zip(panels, names, strict=False):
            _panel(panel, name, group, rows)
        for panel in panels[len(names) :]:
            panel.set_axis_off()
        figure.legend(handles=_legend(rows, names), loc="outside upper left", ncols=len(PALETTE), frameon=False)
        buffer = io.StringIO()
        figure.savefig(buffer, format="svg", metadata={"Date": None})
    return "data:image/svg+xml;base64," + base64.b64encode(buffer.getvalue().encode()).decode()


def _panel(axes: Axes, name: str, group: Group, rows: Sequence[Row]) -> None:
    for index, recipe in enumerate(dict.fromkeys(row.recipe for row in rows)):
        own = [(row.dose, row.estimates[name]) for row in rows if row.recipe == recipe and name in row.estimates]
        points = [(dose, one) for dose, one in own if _finite(one)]
        if not points:
            continue
        low = [one.value - (one.value if one.low is None else one.low) for _, one in points]
        high = [(one.value if one.high is None else one.high) - one.value for _, one in points]
        axes.errorbar(
            [dose for dose, _ in points], [one.value for _, one in points], yerr=[low, high], elinewidth=0.9,
            capsize=2.2, **_drawn(index),
        )  # fmt: skip
    _scale(axes, name, rows)
    axes.set_title(f"{group.label(name)}, {unit(rows, name)}", fontsize=9, loc="left")
    axes.set_xlabel("fraction of the dose")
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)


def _drawn(index: int) -> dict[str, Any]:
    """How the line of a recipe looks."""
    return {
        "color": PALETTE[index % len(PALETTE)],
        "marker": MARKS[index % len(MARKS)],
        "markersize": 4,
        "linewidth": 1.6,
    }


def _legend(rows: Sequence[Row], names: Sequence[str]) -> list[Line2D]:
    """A line for each recipe that has any of the figures."""
    recipes = enumerate(dict.fromkeys(row.recipe for row in rows))
    drawn = {row.recipe for row in rows if any(_finite(row.estimates.get(name)) for name in names)}
    return [Line2D([], [], label=recipe, **_drawn(index)) for index, recipe in recipes if recipe in drawn]


def _scale(axes: Axes, name: str, rows: Sequence[Row]) -> None:
    """Dose and, for errors and noise, the figure too on logarithmic axes; and the baseline's value."""
    doses = sorted({row.dose for row in rows})
    axes.set_xscale("log")
    axes.xaxis.set_major_locator(FixedLocator(doses))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    base = rows[0].estimates.get(name)
    if name.startswith(("rmse_", "seed_noise_")) and _positive(name, rows):
        axes.set_yscale("log")
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        low, high = axes.get_ylim()
        axes.yaxis.set_major_locator(FixedLocator(_round(low, high)))
        axes.yaxis.set_minor_formatter(NullFormatter())
    if not _finite(base):
        return
    assert base is not None
    if name.startswith("bias_"):
        axes.axhspan(base.value - BIAS_HU, base.value + BIAS_HU, color="#5b6675", alpha=0.1, linewidth=0)
    else:
        axes.axhline(base.value, color="#5b6675", linewidth=0.9, linestyle="--")


def _round(low: float, high: float) -> list[float]:
    """At least three round numbers between two, or as many as there are."""
    ticks: list[float] = []
    for steps in ((1, 2, 5), (1, 1.5, 2, 3, 5, 7), tuple(1 + each / 5 for each in range(45))):
        ticks = [m * 10.0**e for e in range(-6, 7) for m in steps if low <= m * 10.0**e <= high]
        if len(ticks) >= 3:
            return ticks[:: math.ceil(len(ticks) / 8)]
    return ticks


def _positive(name: str, rows: Sequence[Row]) -> bool:
    return all(row.estimates[name].value > 0 for row in rows if name in row.estimates)


def _finite(one: Estimate | None) -> bool:
    return one is not None and math.isfinite(one.value)
