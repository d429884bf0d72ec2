"""`lampyris centre …` → what the operator of a centre asks of it and changes in it, over its database and its store."""

import argparse
import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING

from lampyris.cli import terminal
from lampyris.cli.centre import settings_of
from lampyris.cli.operating import moment, noted, operation, operator, table, with_centre, with_database
from lampyris.cli.terminal import age
from lampyris.cli.words import command, json_option
from lampyris.model import InputError
from lampyris.transfer import STATES

if TYPE_CHECKING:  # help is printed without a database's libraries
    from lampyris.centre import Centre
    from lampyris.centre.administration import ScanAtAGlance
    from lampyris.centre.database import Connection

_DAYS = {
    "raw": "raw data of scans that are done or were refused",
    "failed": "raw data of scans that failed",
    "series": "series that their site has fetched",
    "abandoned": "open scans without a sign of life, which are then refused",
    "early": "what was made early of open scans of which nothing more was heard",
    "events": "events, the audit of states",
}


def add(
    sub: "argparse._SubParsersAction[argparse.ArgumentParser]",
) -> "argparse._SubParsersAction[argparse.ArgumentParser]":
    """`lampyris centre` and the commands below it; where others add theirs."""
    top = command(sub, "centre", "what the operator of a centre does", "lampyris centre invite st-anna-ct2")
    inner = top.add_subparsers(title="commands", required=True, metavar="COMMAND")
    _look(inner)
    _let_in(inner)
    _scans(inner)
    _keep(inner)
    return inner


def _look(inner: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    json_option(operation(inner, sites, "list the sites and what each has under way"))
    listed = operation(inner, scans, "list scans, first those whose state has lasted longest")
    listed.add_argument("--site", default=None, metavar="SITE", help="of one site")
    listed.add_argument("--state", default=None, choices=STATES, help="in one state")
    listed.add_argument("--limit", type=int, default=100, metavar="N", help="at most so many (default 100)")
    json_option(listed)


def _let_in(inner: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    json_option(operation(inner, invite, "make a one-time code for a site", "SITE"))
    operation(inner, suspend, "shut a site out at once", "SITE").add_argument(
        "--undo", action="store_true", help="let it in again"
    )
    json_option(operation(inner, keys, "list the keys of a site", "SITE"))
    operation(
        inner, revoke, "take back a site's keys at once, and with them its tokens and codes", "SITE"
    ).add_argument("--key", default=None, metavar="KEY", help="one key alone, as `keys` lists it")
    operation(inner, remove, "delete a site and everything of its scans", "SITE").add_argument(
        "--anyway", action="store_true", help="also with open scans, and series that it has not fetched"
    )
    operation(inner, rotate, "let another secret sign access tokens").add_argument(
        "--at-once", action="store_true", help="end all tokens now: each site gets itself another"
    )


def _scans(inner: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    operation(inner, release, "queue a failed scan again", "SITE", "SCAN")
    operation(inner, forget, "delete everything of a scan that has ended", "SITE", "SCAN")


def _keep(inner: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    kept = operation(inner, retention, "show, or change, for how many days things are kept")
    for kind, text in _DAYS.items():
        kept.add_argument(f"--{kind}", type=float, default=None, metavar="DAYS", help=text)
    json_option(kept)
    operation(inner, viewer, "install the reading viewer from the npm package @ohif/app", "PACKAGE").add_argument(
        "--viewer", type=Path, default=None, metavar="DIR", help="folder that it is put into (default: DATA/viewer)"
    )
    archive = inner.add_parser("archive", help="the index of DICOM objects").add_subparsers(
        title="commands", required=True, metavar="COMMAND"
    )
    json_option(operation(archive, rebuild, "make the index anew from the store, and tell what was different"))


def viewer(arguments: argparse.Namespace) -> int:
    """Lay the viewer down where the centre looks for it, with or without a centre that runs."""
    from lampyris.centre.viewer import prepare

    folder = settings_of(arguments).viewer_folder
    release = prepare(Path(arguments.package), folder)
    terminal.say(f"the reading viewer, @ohif/app {release.version}, is in {folder}")
    return 0


def sites(arguments: argparse.Namespace) -> int:
    """Every site, and what it has under way."""
    from lampyris.centre import administration

    found = with_database(arguments, administration.sites)
    if arguments.json:
        terminal.machine([dataclasses.asdict(one) for one in found])
    rows = (
        (one.site, "shut out" if one.suspended else "let in" if one.keys else "invited", str(one.keys),
         ", ".join(f"{count} {state}" for state, count in one.scans.items() if count), str(one.waiting_series),
         age(one.oldest_s) if one.oldest_s else "", moment(one.last_change))
        for one in found
    )  # fmt: skip
    table(("site", "is", "keys", "scans", "not fetched", "oldest", "last change"), rows)
    return 0


def scans(arguments: argparse.Namespace) -> int:
    """Scans with their state and age."""
    from lampyris.centre import administration

    found = with_database(
        arguments,
        lambda connection: administration.scans(
            connection, site=arguments.site, state=arguments.state, count=arguments.limit
        ),
    )
    if arguments.json:
        terminal.machine([dataclasses.asdict(one) for one in found])
    rows = (
        (one.site, one.scan, one.priority, one.state, age(one.unchanged_s), age(one.age_s), f"{one.bytes / 1e6:.1f}",
         str(one.attempts), _told(one))
        for one in found
    )  # fmt: skip
    table(("site", "scan", "priority", "state", "for", "age", "MB", "tries", ""), rows)
    return 0


def invite(arguments: argparse.Namespace) -> int:
    """A one-time code for a site."""
    from lampyris.centre import access

    async def run(connection: "Connection") -> str:
        async with connection.transaction():
            made = await access.invite(connection, arguments.site)
            await noted(connection, arguments.site, "invited")
        return made

    code = with_database(arguments, run)
    if arguments.json:
        terminal.machine({"site": arguments.site, "code": code, "hours": access.CODE_HOURS})
    terminal.say(f"code for {arguments.site}, good for {access.CODE_HOURS} hours and one key: {code}")
    return 0


def suspend(arguments: argparse.Namespace) -> int:
    """Shut a site out, or let it in again."""
    from lampyris.centre import administration

    suspended = not arguments.undo

    async def run(connection: "Connection") -> None:
        async with connection.transaction():
            await administration.suspend(connection, arguments.site, suspended=suspended)
            await noted(connection, arguments.site, "shut out" if suspended else "let in")

    with_database(arguments, run)
    terminal.say(f"{arguments.site} is {'shut out' if suspended else 'let in'}")
    return 0


def keys(arguments: argparse.Namespace) -> int:
    """The keys of a site."""
    from lampyris.centre import administration

    found = with_database(arguments, lambda connection: administration.keys(connection, arguments.site))
    if arguments.json:
        terminal.machine([dataclasses.asdict(one) for one in found])
    table(("key", "since"), ((one.key_id, moment(one.created)) for one in found))
    return 0


def revoke(arguments: argparse.Namespace) -> int:
    """Take back a key of a site, or all of them."""
    from lampyris.centre import administration

    async def run(connection: "Connection") -> int:
        async with connection.transaction():
            taken = await administration.revoke(connection, arguments.site, arguments.key)
            await noted(connection, arguments.site, "keys taken back", key=arguments.key, keys=taken)
        return taken

    count = with_database(arguments, run)
    terminal.say(f"{count} keys of {arguments.site} are taken back")
    return 0


def remove(arguments: argparse.Namespace) -> int:
    """Delete a site and everything of it."""
    from lampyris.centre import administration

    async def run(centre: "Centre") -> int:
        async with centre.pool.connection() as connection:
            gone = await administration.remove(connection, centre.store, arguments.site, anyway=arguments.anyway)
            await noted(connection, arguments.site, "removed", scans=gone)
        return gone

    count = with_centre(arguments, run)
    terminal.say(f"{arguments.site} and its {count} scans are deleted")
    return 0


def rotate(arguments: argparse.Namespace) -> int:
    """Another secret of access tokens."""
    from lampyris.centre import administration

    async def run(connection: "Connection") -> None:
        async with connection.transaction():
            await administration.rotate(connection, at_once=arguments.at_once)
            await noted(connection, None, "secret of access tokens changed", at_once=arguments.at_once)

    with_database(arguments, run)
    ending = "have ended" if arguments.at_once else "end with the life of their last token"
    terminal.say(f"another secret signs access tokens; the old ones {ending}")
    return 0


def release(arguments: argparse.Namespace) -> int:
    """Queue a failed scan again."""
    from lampyris.centre.audit.chain import Entry, Kind, note
    from lampyris.centre.jobs import queue

    async def run(centre: "Centre") -> bool:
        async with centre.pool.connection() as connection, connection.transaction():
            released = await queue.release(connection, centre.jobs, arguments.site, arguments.scan)
            if released:
                entry = Entry(Kind.RETRY, operator(), site=arguments.site, object=arguments.scan)
                await note(connection, entry)
        return released

    if not with_centre(arguments, run):
        raise InputError("there is no such scan that has failed and whose raw data are still here")
    terminal.say("the scan is queued again")
    return 0


def forget(arguments: argparse.Namespace) -> int:
    """Delete everything of a scan that has ended."""
    from lampyris.centre.audit.chain import Entry, Kind, note
    from lampyris.centre.jobs import retention

    async def run(centre: "Centre") -> bool:
        async with centre.pool.connection() as connection:
            gone = await retention.forget(connection, centre.store, arguments.site, arguments.scan)
            if gone:
                await note(connection, Entry(Kind.DELETE, operator(), site=arguments.site, object=arguments.scan))
        return gone

    if not with_centre(arguments, run):
        raise InputError("there is no such scan that has ended")
    terminal.say("raw data, series and record of the scan are deleted")
    return 0


def retention(arguments: argparse.Namespace) -> int:
    """For how long what is kept; changed where a number is given."""
    from lampyris.centre.jobs import retention

    chosen = {kind: days for kind in _DAYS if (days := getattr(arguments, kind)) is not None}

    async def run(connection: "Connection") -> dict[str, float]:
        async with connection.transaction():
            await retention.keep(connection, chosen)
            if chosen:
                await noted(connection, None, "retention changed", **chosen)
        return await retention.kept(connection)

    kept = with_database(arguments, run)
    if arguments.json:
        terminal.machine(kept)
    table(("", "days", "of"), ((kind, f"{kept[kind]:g}", text) for kind, text in _DAYS.items()))
    return 0


def rebuild(arguments: argparse.Namespace) -> int:
    """The index made anew."""
    from lampyris.centre.archive import rebuild

    async def run(centre: "Centre") -> rebuild.Differences:
        async with centre.pool.connection() as connection:
            return await rebuild.rebuild(connection, centre.store)

    found = with_centre(arguments, run)
    if arguments.json:
        terminal.machine(dataclasses.asdict(found))
    terminal.say(
        f"{found.files} files looked at; rows: {found.added} added, {found.changed} changed, {found.removed} removed;"
        f" files left out: {found.unreadable} unreadable, {found.doubles} under a UID that is taken"
    )
    return 0


def _told(scan: "ScanAtAGlance") -> str:
    """Why a scan ended as it did, or where a worker is with it."""
    return scan.reason_code or scan.verdict or (f"{scan.station} {scan.progress:.0%}" if scan.station else "")
