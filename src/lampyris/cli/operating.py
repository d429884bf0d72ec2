"""What every command of an operator needs: the centre that it means, who runs it, a table of what was found."""

import argparse
import asyncio
import getpass
from collections.abc import Awaitable, Callable, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any, TypeVar

from rich.console import Console
from rich.table import Table

from lampyris.cli import terminal
from lampyris.cli.centre import settings_of
from lampyris.cli.words import command, place

if TYPE_CHECKING:  # help is printed without a database's libraries
    from lampyris.centre import Centre
    from lampyris.centre.database import Connection

T = TypeVar("T")
_WIDE = 240
"""Columns of a table that goes to a file or a pipe: no line of it is folded."""


def operation(
    inner: "argparse._SubParsersAction[argparse.ArgumentParser]",
    run: Callable[[argparse.Namespace], int],
    text: str,
    *arguments: str,
    group: str = "centre",
) -> argparse.ArgumentParser:
    """A command of a group that needs the centre, and these arguments."""
    made = command(inner, run.__name__, text, " ".join((f"lampyris {group}", run.__name__, *arguments)))
    place(made)
    for each in arguments:
        made.add_argument(each.lower(), metavar=each)
    made.set_defaults(run=run)
    return made


def operator() -> str:
    """Who runs the command, as the audit has it: the user of this machine."""
    return f"operator@{getpass.getuser()}"


async def noted(connection: "Connection", site: str | None, what: str, **detail: Any) -> None:
    """Write into the audit that the operator changed something, in the caller's transaction."""
    from lampyris.centre.audit.chain import Entry, Kind, note

    await note(connection, Entry(Kind.CONFIGURE, operator(), site=site, object=site, detail={"what": what, **detail}))


def with_centre(arguments: argparse.Namespace, action: "Callable[[Centre], Awaitable[T]]") -> T:
    from lampyris.centre import opened

    async def run() -> T:
        async with opened(settings_of(arguments), connections=4) as centre:
            return await action(centre)

    return asyncio.run(run())


def with_database(arguments: argparse.Namespace, action: "Callable[[Connection], Awaitable[T]]") -> T:
    async def run(centre: "Centre") -> T:
        async with centre.pool.connection() as connection:
            return await action(connection)

    return with_centre(arguments, run)


def table(titles: Sequence[str], rows: Any) -> None:
    table = Table(box=None, pad_edge=False, header_style="bold")
    for title in titles:
        table.add_column(title, overflow="fold", no_wrap=title in ("scan", "key"))  # names that are copied
    for row in rows:
        table.add_row(*row)
    people = terminal.people
    (people if people.is_terminal else Console(stderr=True, highlight=False, width=_WIDE)).print(table)


def moment(moment: datetime | None) -> str:
    return "" if moment is None else f"{moment:%Y-%m-%d %H:%M} UTC"
