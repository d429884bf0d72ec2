"""Requests about DICOM nodes → who may call us, whom we call, and whether they answer."""

from collections.abc import Sequence
from typing import Annotated

from fastapi import APIRouter, Depends, Request
from fastapi.responses import Response

from lampyris.centre.console.administration.frame import carried_out, confirmed, gone, page
from lampyris.centre.console.page import render
from lampyris.centre.console.tables import csv_of
from lampyris.centre.database import Connection
from lampyris.centre.dimse import nodes
from lampyris.centre.dimse.nodes import Node
from lampyris.centre.people.callers import Caller, needs
from lampyris.centre.people.rules import Action
from lampyris.centre.refusals import not_found
from lampyris.centre.request import This, form_of
from lampyris.model import InputError

router = APIRouter(include_in_schema=False)
Manager = Annotated[Caller, Depends(needs(Action.NODE_MANAGE))]
_PATH = "/administration/nodes"


@router.get(_PATH)
async def listed(request: Request, centre: This, caller: Manager) -> Response:
    """Nodes of the caller's sites."""
    async with centre.pool.connection() as connection:
        found = await nodes.listed(connection, caller.sites)
    return await page(
        request,
        centre,
        caller,
        "administration_nodes.html.jinja",
        nodes=found,
        own=centre.settings.aet,
        form=_form(caller),
        said={},
    )


@router.get(f"{_PATH}.csv")
async def saved(centre: This, caller: Manager) -> Response:
    """The same as a table for a spreadsheet."""
    async with centre.pool.connection() as connection:
        found = await nodes.listed(connection, caller.sites)
    columns = ("aet", "site", "host", "port", "may", "tls", "charset", "stow", "commits")
    rows = [[" ".join(one.may) if name == "may" else getattr(one, name) for name in columns] for one in found]
    return csv_of("nodes", columns, rows)


@router.post(_PATH)
async def add(request: Request, centre: This, caller: Manager) -> Response:
    """Add a node; or the form again with what is wrong."""
    said = await form_of(request)
    try:
        node = _node(said)
        if node.site not in caller.sites:
            raise not_found()
        async with centre.pool.connection() as connection:
            await nodes.add(connection, node, caller.login, caller.address)
    except InputError as error:
        return await render(
            request, centre, caller, "administration_node_form.html.jinja",
            form=_form(caller), said=said, trouble={_field_of(str(error)): str(error)},
        )  # fmt: skip
    return gone(_PATH)


@router.post(f"{_PATH}/{{site}}/{{aet}}/echo")
async def echo(site: str, aet: str, request: Request, centre: This, caller: Manager) -> Response:
    """Ask a node whether it knows us (C-ECHO)."""
    async with centre.pool.connection() as connection:
        node = await _find(connection, caller, site, aet)
    answer = await nodes.echo(centre.settings, node)
    return await render(request, centre, caller, "administration_echo.html.jinja", echo=answer)


@router.get(f"{_PATH}/{{site}}/{{aet}}/remove")
async def ask_remove(site: str, aet: str, request: Request, centre: This, caller: Manager) -> Response:
    """The question before a node is forgotten."""
    async with centre.pool.connection() as connection:
        node = await _find(connection, caller, site, aet)
    return await confirmed(request, centre, caller, "forget node", node=node)


@router.post(f"{_PATH}/{{site}}/{{aet}}/remove")
async def remove(site: str, aet: str, request: Request, centre: This, caller: Manager) -> Response:
    """Forget a node."""

    async def change() -> None:
        async with centre.pool.connection() as connection:
            await _find(connection, caller, site, aet)
            await nodes.remove(connection, site, aet, caller.login, caller.address)

    return await carried_out(request, centre, caller, change, _PATH)


async def _find(connection: Connection, caller: Caller, site: str, aet: str) -> Node:
    """A node of one of the caller's sites; Refusal 404 for every other."""
    for one in await nodes.listed(connection, caller.sites):
        if (one.site, one.aet) == (site, aet):
            return one
    raise not_found()


def _node(said: dict[str, str]) -> Node:
    """Raises InputError."""
    port = said.get("port", "")
    if not (port.isascii() and port.isdigit() and len(port) <= 5):
        raise InputError("the port is a number of 1 to 65535")
    may = tuple(one for one in nodes.MAY if said.get(f"may-{one}") == "on")
    return Node(
        said.get("aet", "").strip(), said.get("site", ""), said.get("host", "").strip(), int(port), may,
        tls=said.get("tls") == "on", charset=said.get("charset", nodes.CHARSETS[0]),
    )  # fmt: skip


def _form(caller: Caller) -> dict[str, Sequence[str]]:
    """What the form of a node offers."""
    return {"sites": caller.sites, "rights": nodes.MAY, "charsets": nodes.CHARSETS}


def _field_of(message: str) -> str:
    for words, field in (("host", "host"), ("port", "port"), ("no site", "site")):
        if words in message:
            return field
    return "aet"
