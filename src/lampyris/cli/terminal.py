"""Progress, tables and errors → the terminal: people on stderr, machines on stdout."""

import json
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn
from rich.table import Table

from lampyris.model import Assessment

if TYPE_CHECKING:  # what runs at a site says things too, and loads no science for it
    from lampyris.path import Watch

people = Console(stderr=True, highlight=False)


def say(text: str) -> None:
    """One line for a person."""
    people.print(text)


def machine(value: Any) -> None:
    """One JSON document on stdout."""
    json.dump(value, sys.stdout, indent=2, ensure_ascii=False, default=str)
    sys.stdout.write("\n")


def age(seconds: float) -> str:
    """Seconds, minutes, hours or days, whichever is read with one look."""
    for unit, length in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * length:
            return f"{seconds / length:.0f} {unit}"
    return f"{seconds:.0f} s"


@contextmanager
def watched(label: str) -> Iterator["Watch"]:
    """A bar for each station as it is reached; on a file or a pipe, nothing but the stations' ends."""
    columns = (TextColumn("{task.description:<32}"), BarColumn(32), TextColumn("{task.percentage:>3.0f} %"))
    with Progress(*columns, TimeElapsedColumn(), console=people) as progress:
        tasks: dict[str, TaskID] = {}

        def watch(station: str, done: float) -> None:
            if station not in tasks:
                tasks[station] = progress.add_task(f"{label} {station}".strip(), total=1.0)
            progress.update(tasks[station], completed=done)

        yield watch


def assessments(titles: Sequence[str], judged: Sequence[Assessment]) -> None:
    """A table of every figure, one column per image, and the verdicts with their reasons."""
    from lampyris.quality.gate import NOT_MEASURED

    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("figure")
    for title in titles:
        table.add_column(title, justify="right")
    table.add_column("unit")
    names = dict.fromkeys(figure.name for one in judged for figure in one.figures)
    for name in names:
        found = [{figure.name: figure for figure in one.figures}.get(name) for one in judged]
        unit = next(figure.unit for figure in found if figure)
        table.add_row(name.replace("_", " "), *("–" if one is None else f"{one.value:.4g}" for one in found), unit)
    people.print(table)
    for title, one in zip(titles, judged, strict=True):
        colour = {"pass": "green", "look": "yellow", "stop": "red"}[one.verdict]
        people.print(f"{title}: [bold {colour}]{one.verdict}[/]")
        for reason in one.reasons:
            people.print(f"  {reason}", markup=False, style="dim" if reason.startswith(NOT_MEASURED) else None)
