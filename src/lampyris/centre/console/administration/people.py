"""Requests about people → accounts, their roles at tenants and their sessions, as far as the caller manages people."""

from typing import Annotated

from fastapi import APIRouter, Depends, Request
from fastapi.responses import Response

from lampyris.centre.console.administration.frame import carried_out, confirmed, gone, page
from lampyris.centre.console.page import render
from lampyris.centre.console.tables import csv_of
from lampyris.centre.database import Connection
from lampyris.centre.people import accounts, sessions, tenants
from lampyris.centre.people.accounts import Newcomer, Person
from lampyris.centre.people.callers import Caller, needs
from lampyris.centre.people.rules import MAY_GRANT, Action, Role
from lampyris.centre.refusals import not_found
from lampyris.centre.request import This, form_of
from lampyris.model import InputError

router = APIRouter(include_in_schema=False)
Manager = Annotated[Caller, Depends(needs(Action.PEOPLE_MANAGE))]
_PATH = "/administration/people"


@router.get(_PATH)
async def listed(request: Request, centre: This, caller: Manager) -> Response:
    """Everybody with a role where the caller manages people."""
    async with centre.pool.connection() as connection:
        found = await accounts.people(connection, caller.by)
    return await page(request, centre, caller, "administration_people.html.jinja", people=found)


@router.get(f"{_PATH}.csv")
async def saved(centre: This, caller: Manager) -> Response:
    """The same as a table for a spreadsheet."""
    async with centre.pool.connection() as connection:
        found = await accounts.people(connection, caller.by)
    columns = ("login", "name", "machine", "shut_out", "password", "single_sign_on", "created", "seen", "roles")
    rows = [
        (one.login, one.name, one.service, one.disabled, one.has_password, one.single_sign_on, one.created, one.seen,
         "; ".join(f"{each.role}@{each.tenant}" for each in one.granted))
        for one in found
    ]  # fmt: skip
    return csv_of("people", columns, rows)


@router.get(f"{_PATH}/new")
async def blank(request: Request, centre: This, caller: Manager) -> Response:
    """The form for somebody new."""
    async with centre.pool.connection() as connection:
        places = await tenants.tenants(connection, caller.by)
    return await page(
        request, centre, caller, "administration_person_new.html.jinja", places=places, roles=_roles(caller), said={}
    )


@router.post(_PATH)
async def add(request: Request, centre: This, caller: Manager) -> Response:
    """Add somebody: the link by which they choose a password, shown once; or the form again with what is wrong."""
    said = await form_of(request)
    template = "administration_person_form.html.jinja"
    async with centre.pool.connection() as connection:
        try:
            role = _role(said)
            new = Newcomer(
                said.get("login", ""), said.get("name", ""), role, said.get("tenant", ""), said.get("service") == "on"
            )
            async with connection.transaction():
                await accounts.create(connection, caller.by, new)
                code = None if new.service else await accounts.password_link(connection, caller.by, new.login)
        except InputError as error:
            places = await tenants.tenants(connection, caller.by)
            trouble = {_field_of(str(error)): str(error)}
            return await render(request, centre, caller, template, places=places, roles=_roles(caller), said=said,
                                trouble=trouble)  # fmt: skip
    return await _link(request, centre, caller, new.login, code)


@router.get(f"{_PATH}/{{login}}")
async def shown(login: str, request: Request, centre: This, caller: Manager) -> Response:
    """One person: roles, sessions, and what can be changed."""
    async with centre.pool.connection() as connection:
        person = await _find(connection, caller, login)
        places = await tenants.tenants(connection, caller.by)
        open_sessions = len(await sessions.of(connection, person.number, None))
    return await page(
        request, centre, caller, "administration_person.html.jinja", person=person, places=places,
        roles=_roles(caller), sessions=open_sessions, said={},
    )  # fmt: skip


@router.post(f"{_PATH}/{{login}}/roles")
async def grant(login: str, request: Request, centre: This, caller: Manager) -> Response:
    """Give a role at a tenant; nobody gives what they do not have."""
    said = await form_of(request)

    async def change() -> None:
        async with centre.pool.connection() as connection:
            await _find(connection, caller, login)
            await accounts.grant(connection, caller.by, login, _role(said), said.get("tenant", ""))

    return await carried_out(request, centre, caller, change, f"{_PATH}/{login}")


@router.get(f"{_PATH}/{{login}}/roles/{{role}}/{{tenant}}")
async def ask_take_back(
    login: str, role: str, tenant: str, request: Request, centre: This, caller: Manager
) -> Response:
    """The question before a role is taken back."""
    async with centre.pool.connection() as connection:
        person = await _find(connection, caller, login)
    if (role, tenant) not in {(str(each.role), each.tenant) for each in person.granted}:
        raise not_found()
    return await confirmed(
        request, centre, caller, "take back", person=person, role=role, tenant=tenant, left=len(person.granted) - 1
    )


@router.delete(f"{_PATH}/{{login}}/roles/{{role}}/{{tenant}}")
async def take_back(login: str, role: str, tenant: str, request: Request, centre: This, caller: Manager) -> Response:
    """Take a role back."""

    async def change() -> None:
        async with centre.pool.connection() as connection:
            await _find(connection, caller, login)
            await accounts.take_back(connection, caller.by, login, _role({"role": role}), tenant)

    return await carried_out(request, centre, caller, change, _PATH)


@router.get(f"{_PATH}/{{login}}/shut-out")
async def ask_shut_out(login: str, request: Request, centre: This, caller: Manager) -> Response:
    """The question before somebody is shut out, or let in again."""
    async with centre.pool.connection() as connection:
        person = await _find(connection, caller, login)
        count = len(await sessions.of(connection, person.number, None))
    return await confirmed(
        request, centre, caller, "let in" if person.disabled else "shut out", person=person, sessions=count
    )


@router.post(f"{_PATH}/{{login}}/shut-out")
async def shut_out(login: str, request: Request, centre: This, caller: Manager) -> Response:
    """Shut somebody out at once, or let them in again (`undo`)."""
    said = await form_of(request)

    async def change() -> None:
        async with centre.pool.connection() as connection:
            await accounts.disable(connection, caller.by, login, disabled=said.get("undo") != "yes")

    return await carried_out(request, centre, caller, change, f"{_PATH}/{login}")


@router.post(f"{_PATH}/{{login}}/link")
async def link(login: str, request: Request, centre: This, caller: Manager) -> Response:
    """Another link to choose a password, shown once."""
    async with centre.pool.connection() as connection:
        code = await accounts.password_link(connection, caller.by, login)
    return await _link(request, centre, caller, login, code)


@router.post(f"{_PATH}/{{login}}/sessions/end")
async def end_sessions(login: str, centre: This, caller: Manager) -> Response:
    """Sign somebody out everywhere."""
    async with centre.pool.connection() as connection:
        number = await accounts.in_hand(connection, caller.by, login)
        async with connection.transaction():
            ended = await sessions.end_all(connection, number)
            await accounts.noted(connection, caller.by, "sessions.end", login, sessions=ended)
    return gone(f"{_PATH}/{login}")


async def _link(request: Request, centre: This, caller: Caller, login: str, code: str | None) -> Response:
    address = "" if code is None else f"{centre.settings.audience}/sign-in/once/{code}"
    return await render(
        request, centre, caller, "administration_person_link.html.jinja", login=login, address=address, path_on=_PATH
    )


async def _find(connection: Connection, caller: Caller, login: str) -> Person:
    """Somebody whom the caller sees; Refusal 404 for everybody else."""
    for one in await accounts.people(connection, caller.by):
        if one.login == login:
            return one
    raise not_found()


def _role(said: dict[str, str]) -> Role:
    """Raises InputError."""
    try:
        return Role(said.get("role", ""))
    except ValueError:
        raise InputError("choose a role") from None


def _roles(caller: Caller) -> list[Role]:
    """What the caller gives anywhere; where, is asked of each tenant again."""
    return [role for role in Role if any(role in MAY_GRANT[own] for own in caller.roles)]


def _field_of(message: str) -> str:
    for field in ("login", "name", "role"):
        if field in message:
            return field
    return "tenant"
