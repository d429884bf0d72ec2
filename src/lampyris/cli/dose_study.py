"""`lampyris dose-study`: one source → all doses, recipes and seeds, their tables and their page."""

import argparse
import dataclasses
from collections.abc import Sequence

from rich.table import Table

from lampyris import __version__, path
from lampyris import dose_study as study
from lampyris import simulate as virtual
from lampyris.cli import commands, terminal
from lampyris.dose_study.equal import Equal, sentences
from lampyris.dose_study.store import claim
from lampyris.dose_study.tables import Row, machine
from lampyris.model import RawScan, Step, Volume

DOSES = "1,0.5,0.2,0.1,0.05"
RECIPES = "routine,swift,model,micro"


def fractions(text: str) -> tuple[float, ...]:
    """Doses as they are typed: distinct fractions above 0, at most 1."""
    try:
        doses = tuple(float(each) for each in text.split(","))
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r}: expected fractions with commas between, e.g. {DOSES}") from None
    if any(not 0 < dose <= 1 for dose in doses) or len(set(doses)) < len(doses):
        raise argparse.ArgumentTypeError(f"{text!r}: expected distinct fractions of the dose, above 0 and at most 1")
    return doses


def names(text: str) -> tuple[str, ...]:
    """Recipes as they are typed: distinct names."""
    found = tuple(each.strip() for each in text.split(","))
    if not all(found) or len(set(found)) < len(found):
        raise argparse.ArgumentTypeError(f"{text!r}: expected distinct names of recipes with commas between")
    return found


def count(text: str) -> int:
    """How many seeds."""
    if not text.isascii() or not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r}: expected a whole number of seeds, 1 or more")
    return int(text)


def dose_study(arguments: argparse.Namespace) -> int:
    """All cells, then tables and page; the exit code is that of the worst failure of a recipe."""
    claim(arguments.output)
    for name in arguments.recipes:
        path.recipe(name)  # an unknown name is told before anything is scanned
    source = commands.source_of(arguments, arguments.source)
    try:
        with terminal.watched("") as watch:
            planned = _study(arguments, source, watch)
            results = study.run(planned, arguments.output, watch=watch, tell=terminal.say)
            watch("tables and page", 0.0)
            rows = study.summarise(results)
            equal = study.equal_doses(rows)
            said = sentences(rows, equal)
            more = {"sentences": said, "equal_doses": [dataclasses.asdict(one) for one in equal]}
            study.write_tables(arguments.output, results, rows, more)
            study.write_page(arguments.output / "study.html", results, rows, equal)
            watch("tables and page", 1.0)
    except KeyboardInterrupt:
        terminal.say("every finished cell is kept; the same command goes on from there")
        raise
    if arguments.json:
        terminal.machine(machine(results, rows) | more)
    _tell(rows, equal, said)
    failed = [(cell.recipe.name, failure) for cell, failure in results.failures]
    for name, failure in dict.fromkeys(failed):
        times = failed.count((name, failure))
        terminal.people.print(f"{name} failed ×{times}: {failure.message} [{failure.code}]", markup=False, style="red")
    terminal.say(f"page: {arguments.output / 'study.html'}")
    return max((failure.exit_code for _, failure in results.failures), default=0)


def _study(arguments: argparse.Namespace, source: commands.Source, watch: path.Watch) -> study.Study:
    original = _original(arguments, source, watch)
    recipes = []
    for name in arguments.recipes:
        wanted = argparse.Namespace(**{**vars(arguments), "recipe": name})
        chosen = commands.recipe_of(wanted, original.scan)
        recipes.append(dataclasses.replace(chosen, passport=Step("none")) if arguments.no_passport else chosen)
    seeds = tuple(range(arguments.seed, arguments.seed + arguments.seeds))
    return study.Study(original, arguments.doses, tuple(recipes), seeds, __version__)


def _original(arguments: argparse.Namespace, source: commands.Source, watch: path.Watch) -> study.Original:
    """A virtual source is scanned once, without noise; a raw scan is taken as it is."""
    body = None if source.subject is None else source.subject.body
    inserts = source.reference.inserts
    if source.subject is not None:
        first, last = arguments.span or (None, None)
        protocol = virtual.Protocol(
            arguments.protocol, arguments.kv or 120.0, arguments.mas, arguments.pitch, first_mm=first, last_mm=last,
            noise=False,
        )  # fmt: skip
        order = path.ScanOrder(arguments.scanner, protocol, 1.0, arguments.seed)
        scan = path.travel((source.subject, order), RawScan, watch=watch).the(RawScan)
    else:
        assert source.scan is not None
        scan = source.scan
    if arguments.truth is not None:
        reference = commands.truth_of(arguments, scan.acquisition)
        given = commands.source_of(arguments, arguments.truth).subject
        assert given is not None  # or truth_of would have refused
        body = reference.truth if isinstance(given.body, Volume) else given.body
        inserts = reference.inserts
    return study.Original(source.title, scan, source.subject is not None, body, inserts)


def _tell(rows: Sequence[Row], equal: Sequence[Equal], said: Sequence[str]) -> None:
    """The doses at which recipes equal the baseline, and the summary."""
    recipes = list(dict.fromkeys(row.recipe for row in rows))
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column(f"dose that equals {recipes[0]} at {rows[0].dose:g} in")
    for name in recipes:
        table.add_column(name, justify="right")
    for title in dict.fromkeys(one.title for one in equal):
        table.add_row(title, *(one.text() for one in equal if one.title == title))
    terminal.people.print(table)
    for sentence in said:
        terminal.people.print(sentence, markup=False)
