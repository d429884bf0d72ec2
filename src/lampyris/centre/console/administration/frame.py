"""What all pages of the administration have: tabs, who changes something, and changes that are confirmed first."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from fastapi import Request
from fastapi.responses import Response

from lampyris.centre.audit.chain import Entry, Kind
from lampyris.centre.console.page import render
from lampyris.centre.console.words import N_
from lampyris.centre.people.callers import Caller
from lampyris.centre.people.rules import Action
from lampyris.centre.people.tenants import ROOT
from lampyris.centre.refusals import refusal
from lampyris.centre.service import Centre
from lampyris.model import InputError


@dataclass(frozen=True, slots=True)
class Tab:
    """A page of the administration, and what one may do who sees it."""

    path: str
    label: str
    action: Action


TABS = (
    Tab("/administration/people", N_("People"), Action.PEOPLE_MANAGE),
    Tab("/administration/tenants", N_("Tenants"), Action.PEOPLE_MANAGE),
    Tab("/administration/recipes", N_("Recipes"), Action.RECIPE_READ),
    Tab("/administration/protocols", N_("Protocols"), Action.RECIPE_READ),
    Tab("/administration/retention", N_("Retention"), Action.RETENTION_MANAGE),
    Tab("/administration/nodes", N_("DICOM nodes"), Action.NODE_MANAGE),
    Tab("/administration/audit", N_("Audit"), Action.AUDIT_READ),
)


def tabs_of(caller: Caller) -> tuple[Tab, ...]:
    """The pages that somebody may open."""
    return tuple(tab for tab in TABS if caller.may(tab.action))


async def page(request: Request, centre: Centre, caller: Caller, template: str, **values: object) -> Response:
    """A page under the tabs, or a fragment of one."""
    said: dict[str, object] = {"tabs": tabs_of(caller), "trouble": {}, **values}
    return await render(request, centre, caller, template, 200, **said)


async def confirmed(request: Request, centre: Centre, caller: Caller, what: str, **told: object) -> Response:
    """The question before a change, which says what will happen: a fragment of `administration_confirm`."""
    return await render(request, centre, caller, "administration_confirm.html.jinja", what=what, told=told, error="")


async def carried_out(
    request: Request, centre: Centre, caller: Caller, change: Callable[[], Awaitable[None]], path: str
) -> Response:
    """Make a change and lead on to a page; what does not allow it is told where the question was."""
    try:
        await change()
    except InputError as error:
        template = "administration_confirm.html.jinja"
        return await render(request, centre, caller, template, what="", told={}, error=str(error))
    return gone(path)


def gone(path: str) -> Response:
    """Lead the page of a browser on."""
    return Response(status_code=204, headers={"HX-Redirect": path})


def check_whole(caller: Caller) -> None:
    """Refusal 403 unless their role is one of the whole centre: what is one for all is not changed by a part of it."""
    if ROOT not in caller.tenants:
        raise refusal(403, "ROLE", "this is one for the whole centre: its operators change it")


def entry_of(caller: Caller, **told: object) -> Entry:
    """What a change by somebody writes into the audit."""
    return Entry(Kind.CONFIGURE, caller.login, address=caller.address, detail=dict(told))
