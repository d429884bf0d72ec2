"""Requests to see, in an emergency, a study that is not one's own; and the list of those for whoever answers for it."""

from typing import Annotated
from urllib.parse import quote

from fastapi import APIRouter, Depends, Request
from fastapi.responses import Response

from lampyris.centre.console.page import render
from lampyris.centre.console.tables import csv_of
from lampyris.centre.people import glass
from lampyris.centre.people.callers import Caller, needs
from lampyris.centre.people.rules import Action
from lampyris.centre.request import This, form_of

router = APIRouter(prefix="/emergency")
Breaker = Annotated[Caller, Depends(needs(Action.GLASS_BREAK))]
Answerable = Annotated[Caller, Depends(needs(Action.GLASS_READ))]


@router.get("")
async def page(request: Request, centre: This, caller: Breaker) -> Response:
    """The form, and what is open."""
    async with centre.pool.connection() as connection:
        opened = await glass.own(connection, caller)
    study = request.query_params.get("study", "")
    return await render(request, centre, caller, "emergency.html.jinja", opened=opened, study=study)


@router.post("")
async def open_study(request: Request, centre: This, caller: Breaker) -> Response:
    """See a study for an hour, for a reason."""
    form = await form_of(request)
    study = form.get("study", "").strip()
    async with centre.pool.connection() as connection:
        await glass.break_(connection, caller, study, form.get("reason", ""))
    return Response(status_code=204, headers={"HX-Redirect": f"/studies/{quote(study, safe='')}"})


@router.get("/opened")
async def listed(request: Request, centre: This, caller: Answerable) -> Response:
    """Studies of one's sites that others have opened."""
    async with centre.pool.connection() as connection:
        opened = await glass.opened(connection, caller)
    return await render(request, centre, caller, "emergency_opened.html.jinja", opened=opened)


@router.get("/opened.csv")
async def listed_csv(centre: This, caller: Answerable) -> Response:
    """The same for a spreadsheet."""
    async with centre.pool.connection() as connection:
        opened = await glass.opened(connection, caller)
    columns = ("at", "until", "login", "name", "site", "study_uid", "reason")
    rows = [tuple(getattr(each, column) for column in columns) for each in opened]
    return csv_of("emergency", columns, rows)
