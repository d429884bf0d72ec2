"""`lampyris centre audit …` → the chain of what was done: verified, searched, anchored, exported, sent."""

import argparse
import asyncio
import contextlib
import dataclasses
import hashlib
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lampyris.cli import terminal
from lampyris.cli.operating import moment, operation, operator, table, with_centre, with_database
from lampyris.cli.words import command, json_option
from lampyris.model import InputError, StorageError

if TYPE_CHECKING:  # help is printed without a database's libraries
    from lampyris.centre import Centre
    from lampyris.centre.audit.search import Wanted
    from lampyris.centre.audit.verify import Verified
    from lampyris.centre.database import Connection

_FORMATS = ("csv", "lines", "dicom")
_KINDS = (
    "login, logout, query, view, export, store, send, delete, share, glass, remake, retry, configure, people, audit,"
    " application"
)
_POLL_S = 5.0


def add(inner: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """`lampyris centre audit` and the commands below it."""
    top = command(inner, "audit", "what was done, by whom, as a chain", "lampyris centre audit verify")
    below = top.add_subparsers(title="commands", required=True, metavar="COMMAND")
    checked = operation(below, verify, "walk the chain and say where it is broken, if it is", group="centre audit")
    checked.add_argument("--anchors", type=Path, default=None, metavar="FILE", help="anchors that were kept elsewhere")
    json_option(checked)
    json_option(operation(below, anchor, "sign the newest link, to be kept elsewhere", group="centre audit"))
    listed = operation(below, search, "list entries, the newest first", group="centre audit")
    _wanted_options(listed)
    listed.add_argument("--limit", type=int, default=50, metavar="N", help="at most so many (default 50)")
    json_option(listed)
    written = operation(below, export, "write entries to a file, the oldest first", "FILE", group="centre audit")
    written.add_argument("--format", choices=_FORMATS, default="lines", help="default lines: JSON that proves itself")
    _wanted_options(written)
    sent = operation(below, send, "send what an audit record repository has not got", "URL", group="centre audit")
    for name, text in (("authority", "certificate that signs the repository's"), ("certificate", "the centre's own")):
        sent.add_argument(f"--{name}", type=Path, default=None, metavar="PEM", help=text)
    sent.add_argument("--key", type=Path, default=None, metavar="PEM", help="key of the centre's own certificate")
    sent.add_argument("--follow", action="store_true", help="go on until interrupted")


def _wanted_options(made: argparse.ArgumentParser) -> None:
    made.add_argument("--who", default=None, metavar="NAME", help="login, site:ID, node:AET, operator@user")
    made.add_argument("--kind", default=None, metavar="KIND", help=_KINDS)
    made.add_argument("--object", default=None, metavar="ID", help="UID, id or login that it was about")
    made.add_argument("--site", default=None, metavar="TENANT", help="whose data it was about")
    made.add_argument("--outcome", default=None, choices=("success", "refused", "failed"))
    for name, text in (("since", "from this moment on"), ("until", "before this moment")):
        made.add_argument(f"--{name}", type=_time, default=None, metavar="TIME", help=f"{text}, UTC: 2026-11-22T08:00")


def _time(text: str) -> datetime:
    found = datetime.fromisoformat(text)
    return found.replace(tzinfo=UTC) if found.tzinfo is None else found


def _wanted(arguments: argparse.Namespace) -> "Wanted":
    from lampyris.centre.audit.chain import Kind
    from lampyris.centre.audit.search import Wanted

    kind = arguments.kind
    if kind is not None and kind not in list(Kind):
        raise InputError(f"there is no kind {kind[:20]!a}: there are {', '.join(Kind)}")
    return Wanted(
        arguments.who, kind and Kind(kind), arguments.object, arguments.site, arguments.outcome, arguments.since,
        arguments.until,
    )  # fmt: skip


def verify(arguments: argparse.Namespace) -> int:
    """Whether the chain is whole; an error says where it is not."""
    from lampyris.centre.audit import anchors
    from lampyris.centre.audit import verify as verifying

    async def run(centre: "Centre") -> "Verified":
        folder = centre.settings.folder
        key = anchors.key_of(folder).public
        kept = [*anchors.dropped(folder / anchors.ANCHORS, key)]
        if arguments.anchors is not None:
            kept += anchors.dropped(arguments.anchors, key)
        async with centre.pool.connection() as connection:
            return await verifying.verify(connection, kept)

    found = with_centre(arguments, run)
    if arguments.json:
        terminal.machine(dataclasses.asdict(found))
    if found.broken is not None:
        raise verifying.BrokenError(f"the audit is broken at link {found.broken.number}: {found.broken.reason}")
    met = f"{found.anchors} anchors are met"
    terminal.say(f"the audit is whole: {found.links} links, the last has digest {found.digest}; {met}")
    return 0


def anchor(arguments: argparse.Namespace) -> int:
    """Sign the newest link."""
    from lampyris.centre.audit import anchors
    from lampyris.centre.audit.verify import Anchor

    async def run(centre: "Centre") -> "Anchor | None":
        async with centre.pool.connection() as connection:
            return await anchors.drop(connection, centre.settings.folder)

    found = with_centre(arguments, run)
    if found is None:
        raise InputError("there is nothing in the audit yet")
    if arguments.json:
        terminal.machine({"number": found.number, "digest": found.digest, "at": found.at.isoformat()})
    terminal.say(f"link {found.number} has digest {found.digest}: it is in {anchors.ANCHORS}; keep a copy elsewhere")
    return 0


def search(arguments: argparse.Namespace) -> int:
    """Entries that are wanted."""
    from lampyris.centre.audit import search as searching
    from lampyris.centre.audit.chain import Entry, Kind, note

    wanted = _wanted(arguments)

    async def run(connection: "Connection") -> searching.Page:
        found = await searching.search(connection, (searching.ROOT,), wanted, count=arguments.limit)
        await note(connection, Entry(Kind.AUDIT, operator(), object="search", detail=wanted.named()))
        return found

    links = with_database(arguments, run).links
    if arguments.json:
        terminal.machine([{"number": each.number, "at": each.at, **dataclasses.asdict(each.entry)} for each in links])
    rows = (
        (str(each.number), moment(each.at), str(each.entry.kind), each.entry.who, each.entry.outcome,
         each.entry.site or "", each.entry.object or "")
        for each in links
    )  # fmt: skip
    table(("number", "at", "kind", "who", "outcome", "site", "about"), rows)
    return 0


def export(arguments: argparse.Namespace) -> int:
    """Write entries to a new file, and say its digest."""
    from lampyris.centre.audit import export as exporting
    from lampyris.centre.audit.chain import Entry, Kind, note
    from lampyris.centre.audit.search import ROOT, everything

    wanted, place = _wanted(arguments), Path(arguments.file)

    async def run(centre: "Centre") -> str:
        async with centre.pool.connection() as connection:
            links = everything(connection, (ROOT,), wanted)
            digest = await _written(place, exporting.export(links, arguments.format, centre.settings.audience))
            told: dict[str, Any] = {**wanted.named(), "format": arguments.format, "sha256": digest}
            await note(connection, Entry(Kind.AUDIT, operator(), object="export", detail=told))
        return digest

    terminal.say(f"{place} has SHA-256 {with_centre(arguments, run)}")
    return 0


async def _written(place: Path, pieces: AsyncIterator[bytes]) -> str:
    """A new file of these pieces; its SHA-256. Raises StorageError."""
    digest = hashlib.sha256()
    try:
        with place.open("xb") as file:
            async for piece in pieces:
                digest.update(piece)
                file.write(piece)
    except FileExistsError:
        raise InputError(f"{place.name} is there already: an export overwrites nothing") from None
    except OSError as error:
        raise StorageError(f"{place.name} cannot be written ({error.strerror})") from error
    return digest.hexdigest()


def send(arguments: argparse.Namespace) -> int:
    """Send entries to an audit record repository as DICOM audit messages."""
    from lampyris.centre.audit import syslog

    repository = syslog.Repository.of(
        arguments.url, authority=arguments.authority, certificate=arguments.certificate, key=arguments.key
    )

    async def run(centre: "Centre") -> int:
        sent = 0
        while True:
            async with centre.pool.connection() as connection:
                sent += await syslog.send(connection, repository, centre.settings.audience)
            if not arguments.follow:
                return sent
            await asyncio.sleep(_POLL_S)

    with contextlib.suppress(asyncio.CancelledError):
        terminal.say(f"{repository.name} has {with_centre(arguments, run)} more messages")
    return 0
