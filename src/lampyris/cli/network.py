"""`lampyris centre node | order …` → what the operator says of DICOM nodes, and orders for the worklist."""

import argparse
import dataclasses
from collections.abc import Callable
from datetime import date
from typing import TYPE_CHECKING

from lampyris.cli import terminal
from lampyris.cli.operating import operator, table, with_centre, with_database
from lampyris.cli.words import command, json_option, place
from lampyris.model import InputError

if TYPE_CHECKING:  # help is printed without a database's libraries
    from lampyris.centre import Centre
    from lampyris.centre.database import Connection
    from lampyris.centre.dimse.nodes import Node

_MAY = "store, query, retrieve, worklist, mpps, commitment"


def add(inner: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """`lampyris centre node` and `lampyris centre order`, and the commands below them."""
    nodes = _below(inner, "node", "DICOM nodes: scanners, archives, workstations", "lampyris centre node list")
    json_option(_one(nodes, "list", list_nodes, "list them", "lampyris centre node list"))
    added = _one(nodes, "add", add_node, "add one", "lampyris centre node add CT1 st-anna 10.0.0.7 104 --may store")
    changed = _one(nodes, "change", change_node, "say all of one anew", "lampyris centre node change CT1 st-anna …")
    for each in (added, changed):
        _described(each)
    removed = _one(nodes, "remove", remove_node, "forget one", "lampyris centre node remove CT1 st-anna")
    echoed = _one(nodes, "echo", echo, "ask one whether it knows us", "lampyris centre node echo CT1")
    for each in (removed, echoed):
        each.add_argument("aet", metavar="AET")
    removed.add_argument("site", metavar="SITE")
    _orders(_below(inner, "order", "orders for the worklist", "lampyris centre order list st-anna"))


def _below(
    inner: "argparse._SubParsersAction[argparse.ArgumentParser]", name: str, text: str, example: str
) -> "argparse._SubParsersAction[argparse.ArgumentParser]":
    return command(inner, name, text, example).add_subparsers(title="commands", required=True, metavar="COMMAND")


def _one(
    inner: "argparse._SubParsersAction[argparse.ArgumentParser]",
    name: str,
    run: Callable[[argparse.Namespace], int],
    text: str,
    example: str,
) -> argparse.ArgumentParser:
    made = command(inner, name, text, example)
    place(made)
    made.set_defaults(run=run)
    return made


def _described(parser: argparse.ArgumentParser) -> None:
    """A node in words."""
    parser.add_argument("aet", metavar="AET", help="its AE title")
    parser.add_argument("site", metavar="SITE", help="whose it is: it sees this site's studies alone")
    parser.add_argument("host", metavar="HOST", help="its address, from which its associations must come")
    parser.add_argument("port", metavar="PORT", type=int)
    parser.add_argument("--may", default="", metavar="WORD,…", help=f"what it may ask: {_MAY} (default nothing)")
    parser.add_argument("--tls", action="store_true", help="by TLS alone, both ways")
    parser.add_argument("--charset", default="ISO_IR 192", help="what it is answered in (default ISO_IR 192: UTF-8)")
    parser.add_argument("--syntax", action="append", default=[], metavar="UID", help="a transfer syntax it is offered")
    parser.add_argument("--stow", default=None, metavar="URL", help="send to it by STOW-RS there, not by C-STORE")
    parser.add_argument("--commits", action="store_true", help="ask it for storage commitment of what it was sent")


def _orders(inner: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    listed = _one(inner, "list", list_orders, "list those of a site", "lampyris centre order list st-anna")
    json_option(listed)
    added = _one(inner, "add", add_order, "add one", "lampyris centre order add st-anna P-17 '张^三' --birth 19700102")
    withdrawn = _one(inner, "withdraw", withdraw, "withdraw one", "lampyris centre order withdraw st-anna STEP")
    for each in (listed, added, withdrawn):
        each.add_argument("site", metavar="SITE")
    withdrawn.add_argument("step", metavar="STEP")
    added.add_argument("patient_id", metavar="PATIENT")
    added.add_argument("patient_name", metavar="NAME", help="as DICOM writes it: family^given")
    added.add_argument("--issuer", default="", help="who issued the patient's number")
    added.add_argument("--birth", default="", metavar="YYYYMMDD", dest="birth_date")
    added.add_argument("--sex", default="", choices=("M", "F", "O"))
    added.add_argument("--accession", default="", metavar="NUMBER")
    added.add_argument("--description", default="", metavar="TEXT")
    added.add_argument("--referring", default="", metavar="NAME")
    added.add_argument("--modality", default="CT")
    added.add_argument("--station", default="", metavar="AET", help="of the scanner (default: any)")
    added.add_argument("--date", default="", metavar="YYYYMMDD", help="default: today")
    added.add_argument("--time", default="", metavar="HHMM")
    json_option(added)


def list_nodes(arguments: argparse.Namespace) -> int:
    from lampyris.centre.dimse import nodes

    found = with_database(arguments, nodes.listed)
    if arguments.json:
        terminal.machine([dataclasses.asdict(one) for one in found])
    else:
        rows = [
            (one.aet, one.site, one.host, str(one.port), ", ".join(one.may) or "nothing", "yes" if one.tls else "no",
             "STOW-RS" if one.stow else "C-STORE", "yes" if one.commits else "no")
            for one in found
        ]  # fmt: skip
        table(("AE title", "site", "host", "port", "may", "TLS", "is sent by", "commits"), rows)
    return 0


def add_node(arguments: argparse.Namespace) -> int:
    from lampyris.centre.dimse import nodes

    node = _node(arguments)

    async def run(connection: "Connection") -> None:
        await nodes.add(connection, node, operator())

    with_database(arguments, run)
    terminal.say(
        f"{node.aet} is a node of {node.site}; `lampyris centre node echo {node.aet}` asks whether it knows us"
    )
    return 0


def change_node(arguments: argparse.Namespace) -> int:
    from lampyris.centre.dimse import nodes

    node = _node(arguments)

    async def run(connection: "Connection") -> None:
        await nodes.change(connection, node, operator())

    with_database(arguments, run)
    terminal.say(f"{node.aet} of {node.site} is as said from its next association on")
    return 0


def remove_node(arguments: argparse.Namespace) -> int:
    from lampyris.centre.dimse import nodes

    async def run(connection: "Connection") -> None:
        await nodes.remove(connection, arguments.site, arguments.aet, operator())

    with_database(arguments, run)
    terminal.say(f"{arguments.aet} is no node any more")
    return 0


def echo(arguments: argparse.Namespace) -> int:
    from lampyris.centre.dimse import nodes

    async def run(centre: "Centre") -> nodes.Echo:
        async with centre.pool.connection() as connection:
            node = await nodes.find(connection, arguments.aet)
        if node is None:
            raise InputError(f"there is no node {arguments.aet[:16]!a}")
        return await nodes.echo(centre.settings, node)

    found = with_centre(arguments, run)
    terminal.say(f"{arguments.aet}: {found.detail}")
    return 0 if found.answered else 69


def _node(arguments: argparse.Namespace) -> "Node":
    from lampyris.centre.dimse.nodes import Node

    return Node(
        arguments.aet,
        arguments.site,
        arguments.host,
        arguments.port,
        may=tuple(word.strip() for word in arguments.may.split(",") if word.strip()),
        tls=arguments.tls,
        charset=arguments.charset,
        syntaxes=tuple(arguments.syntax),
        stow=arguments.stow,
        commits=arguments.commits,
    )


def list_orders(arguments: argparse.Namespace) -> int:
    from lampyris.centre.dimse import orders

    async def run(connection: "Connection") -> list[orders.Order]:
        return await orders.listed(connection, [arguments.site])

    found = with_database(arguments, run)
    if arguments.json:
        terminal.machine([dataclasses.asdict(one) for one in found])
    else:
        rows = [(one.step, one.accession, one.date, one.time, one.modality, one.station, one.state) for one in found]
        table(("step", "accession", "date", "time", "modality", "station", "state"), rows)
    return 0


def add_order(arguments: argparse.Namespace) -> int:
    from lampyris.centre.dimse import orders

    names = {each.name for each in dataclasses.fields(orders.Order)}
    said = {name: value for name, value in vars(arguments).items() if name in names and value}
    order = orders.Order(**(said | {"date": arguments.date or f"{date.today():%Y%m%d}"}))

    async def run(connection: "Connection") -> orders.Order:
        return await orders.add(connection, order, operator())

    made = with_database(arguments, run)
    if arguments.json:
        terminal.machine({"step": made.step, "accession": made.accession, "study_uid": made.study_uid})
    else:
        terminal.say(f"step {made.step}, accession {made.accession}, study {made.study_uid}")
    return 0


def withdraw(arguments: argparse.Namespace) -> int:
    from lampyris.centre.dimse import orders

    async def run(connection: "Connection") -> None:
        await orders.withdraw(connection, [arguments.site], arguments.step, operator())

    with_database(arguments, run)
    terminal.say(f"step {arguments.step} is withdrawn")
    return 0
