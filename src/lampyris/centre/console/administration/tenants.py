"""Requests about tenants → the tree of provinces, cities, counties and sites: added, renamed, moved."""

from typing import Annotated

from fastapi import APIRouter, Depends, Request
from fastapi.responses import Response

from lampyris.centre.console.administration.frame import confirmed, gone, page
from lampyris.centre.console.page import render
from lampyris.centre.console.tables import csv_of
from lampyris.centre.people import tenants
from lampyris.centre.people.callers import Caller, needs
from lampyris.centre.people.rules import Action
from lampyris.centre.people.tenants import Tenant
from lampyris.centre.refusals import not_found
from lampyris.centre.request import This, form_of
from lampyris.model import InputError

router = APIRouter(include_in_schema=False)
Manager = Annotated[Caller, Depends(needs(Action.PEOPLE_MANAGE))]
_PATH = "/administration/tenants"


@router.get(_PATH)
async def listed(request: Request, centre: This, caller: Manager) -> Response:
    """The tree as far as the caller manages people in it."""
    async with centre.pool.connection() as connection:
        found = await tenants.tenants(connection, caller.by)
    return await page(request, centre, caller, "administration_tenants.html.jinja", places=found, said={})


@router.get(f"{_PATH}.csv")
async def saved(centre: This, caller: Manager) -> Response:
    """The same as a table for a spreadsheet."""
    async with centre.pool.connection() as connection:
        found = await tenants.tenants(connection, caller.by)
    rows = [(one.id, one.parent, one.kind, one.name, one.people) for one in found]
    return csv_of("tenants", ("id", "parent", "kind", "name", "people"), rows)


@router.post(_PATH)
async def add(request: Request, centre: This, caller: Manager) -> Response:
    """Add a province, city or county; or the form again with what is wrong."""
    said = await form_of(request)
    async with centre.pool.connection() as connection:
        try:
            await tenants.create(
                connection, caller.by, said.get("id", ""), kind=said.get("kind", ""), name=said.get("name", ""),
                parent=said.get("parent", ""),
            )  # fmt: skip
        except InputError as error:
            places = await tenants.tenants(connection, caller.by)
            field = "name" if "a name has" in str(error) else "id" if " id" in str(error) else "kind"
            return await render(
                request, centre, caller, "administration_tenant_form.html.jinja", places=places, said=said,
                trouble={field: str(error)},
            )  # fmt: skip
    return gone(_PATH)


@router.get(f"{_PATH}/{{tenant}}")
async def shown(tenant: str, request: Request, centre: This, caller: Manager) -> Response:
    """One tenant: rename it, move it."""
    async with centre.pool.connection() as connection:
        places = await tenants.tenants(connection, caller.by)
    found = _find(places, tenant)
    return await page(
        request, centre, caller, "administration_tenant.html.jinja", tenant=found, places=places,
        below=_below(places, tenant), said={},
    )  # fmt: skip


@router.post(f"{_PATH}/{{tenant}}/name")
async def rename(tenant: str, request: Request, centre: This, caller: Manager) -> Response:
    """Another name; or the form again with what is wrong."""
    said = await form_of(request)
    async with centre.pool.connection() as connection:
        try:
            await tenants.rename(connection, caller.by, tenant, said.get("name", ""))
        except InputError as error:
            found = _find(await tenants.tenants(connection, caller.by), tenant)
            return await render(
                request, centre, caller, "administration_tenant_name.html.jinja", tenant=found, said=said,
                trouble={"name": str(error)},
            )  # fmt: skip
    return gone(f"{_PATH}/{tenant}")


@router.get(f"{_PATH}/{{tenant}}/move")
async def ask_move(tenant: str, request: Request, centre: This, caller: Manager, parent: str = "") -> Response:
    """The question before a tenant is put under another."""
    async with centre.pool.connection() as connection:
        places = await tenants.tenants(connection, caller.by)
    below = _below(places, tenant)
    return await confirmed(
        request, centre, caller, "move", tenant=_find(places, tenant), parent=_find(places, parent),
        sites=sum(1 for one in below if one.kind == "site"), people=sum(one.people for one in below),
    )  # fmt: skip


@router.post(f"{_PATH}/{{tenant}}/move")
async def move(tenant: str, request: Request, centre: This, caller: Manager) -> Response:
    """Put a tenant, and all below it, under another."""
    said = await form_of(request)
    try:
        async with centre.pool.connection() as connection:
            await tenants.move(connection, caller.by, tenant, said.get("parent", ""))
    except InputError as error:
        template = "administration_confirm.html.jinja"
        return await render(request, centre, caller, template, what="", told={}, error=str(error))
    return gone(_PATH)


def _find(places: list[Tenant], tenant: str) -> Tenant:
    for one in places:
        if one.id == tenant:
            return one
    raise not_found()


def _below(places: list[Tenant], tenant: str) -> list[Tenant]:
    """A tenant and all below it."""
    found = {tenant}
    for one in places:  # each parent comes before its children
        if one.parent in found:
            found.add(one.id)
    return [one for one in places if one.id in found]
