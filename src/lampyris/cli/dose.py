"""`lampyris centre dose …` → the index of doses, told anew from the dose reports of the archive."""

import argparse

from lampyris.cli import terminal
from lampyris.cli.operating import operation, with_database
from lampyris.cli.words import command, json_option


def add(inner: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """`lampyris centre dose` and the commands below it."""
    top = command(inner, "dose", "the index of doses", "lampyris centre dose rebuild")
    below = top.add_subparsers(title="commands", required=True, metavar="COMMAND")
    text = "tell the index anew from every dose report in the archive"
    json_option(operation(below, rebuild, text, group="centre dose"))


def rebuild(arguments: argparse.Namespace) -> int:
    """The index told anew; doses whose reports were deleted stay."""
    from lampyris.centre.dose import index

    reports, events = with_database(arguments, index.rebuild)
    if arguments.json:
        terminal.machine({"reports": reports, "irradiations": events})
    terminal.say(f"{reports} dose reports tell of {events} irradiations")
    return 0
