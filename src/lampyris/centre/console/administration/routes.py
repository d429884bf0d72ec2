"""All requests of the administration: its first page, and those of each tab."""

from typing import Annotated

from fastapi import APIRouter, Depends
from fastapi.responses import RedirectResponse, Response

from lampyris.centre.console.administration import audit, nodes, people, recipes, retention, tenants
from lampyris.centre.console.administration.frame import tabs_of
from lampyris.centre.people.callers import Caller, needs
from lampyris.centre.people.rules import Action
from lampyris.centre.refusals import refusal

router = APIRouter(include_in_schema=False)
ROUTERS = (router, people.router, tenants.router, recipes.router, retention.router, nodes.router, audit.router)
"""What the interface of a centre includes."""


@router.get("/administration")
async def first(caller: Annotated[Caller, Depends(needs(Action.SELF))]) -> Response:
    """To the first page that the caller may open. Refusal 403 when there is none."""
    tabs = tabs_of(caller)
    if not tabs:
        raise refusal(403, "ROLE", "no role of this account administers anything")
    return RedirectResponse(tabs[0].path, 303)
