"""Requests about retention → for how many days each kind is kept, and what a change would delete."""

from dataclasses import dataclass
from typing import Annotated

from fastapi import APIRouter, Depends, Request
from fastapi.responses import Response

from lampyris.centre.audit.chain import note
from lampyris.centre.console.administration.frame import carried_out, check_whole, confirmed, entry_of, page
from lampyris.centre.console.page import render
from lampyris.centre.console.tables import csv_of
from lampyris.centre.console.words import N_
from lampyris.centre.jobs import retention
from lampyris.centre.people.callers import Caller, needs
from lampyris.centre.people.rules import Action
from lampyris.centre.refusals import not_found
from lampyris.centre.request import This, form_of
from lampyris.model import InputError

router = APIRouter(include_in_schema=False)
Manager = Annotated[Caller, Depends(needs(Action.RETENTION_MANAGE))]
_PATH = "/administration/retention"


@dataclass(frozen=True, slots=True)
class Meaning:
    """What a kind of retention is of, and what happens when its days are over."""

    kind: str
    label: str
    then: str


MEANINGS = (
    Meaning("raw", N_("Raw data of scans that are done or were refused"),
            N_("Deleted. The series stays; the scan can no longer be made again with another recipe.")),
    Meaning("failed", N_("Raw data of scans that failed"),
            N_("Deleted. The scan can no longer be tried again here; the site still has it.")),
    Meaning("series", N_("Series that their site has fetched"),
            N_("Deleted here, counted from when the site said that it has them all.")),
    Meaning("abandoned", N_("Open scans without a sign of life"),
            N_("Refused, and what had arrived of them is deleted.")),
    Meaning("early", N_("Work done ahead on scans that stopped arriving"),
            N_("Deleted. Nothing is lost but time, should the scan arrive after all.")),
    Meaning("events", N_("Changes of state of every scan"),
            N_("Deleted. The audit is another thing: it is never deleted.")),
)  # fmt: skip


@router.get(_PATH)
async def shown(request: Request, centre: This, caller: Manager) -> Response:
    """The days of each kind, with what they mean and how much would go next."""
    async with centre.pool.connection() as connection:
        days = await retention.kept(connection)
        due = await retention.due(connection, days)
    return await page(
        request, centre, caller, "administration_retention.html.jinja", meanings=MEANINGS, days=days, due=due, said={}
    )


@router.get(f"{_PATH}.csv")
async def saved(centre: This, _caller: Manager) -> Response:
    """The same as a table for a spreadsheet."""
    async with centre.pool.connection() as connection:
        days = await retention.kept(connection)
    return csv_of("retention", ("kind", "days"), list(days.items()))


@router.post(f"{_PATH}/{{kind}}/ask")
async def ask(kind: str, request: Request, centre: This, caller: Manager) -> Response:
    """The question before a number of days is changed, or what is wrong with the number."""
    check_whole(caller)
    meaning, said = _find(kind), await form_of(request)
    try:
        days = _days(said)
    except InputError as error:
        template = "administration_confirm.html.jinja"
        return await render(request, centre, caller, template, what="", told={}, error=str(error))
    async with centre.pool.connection() as connection:
        before = await retention.kept(connection)
        due = await retention.due(connection, before | {kind: days})
        already = await retention.due(connection, before)
    return await confirmed(
        request, centre, caller, "keep", meaning=meaning, days=days, before=before[kind],
        more=max(due.get(kind, 0) - already.get(kind, 0), 0),
    )  # fmt: skip


@router.post(f"{_PATH}/{{kind}}")
async def keep(kind: str, request: Request, centre: This, caller: Manager) -> Response:
    """Keep a kind for so many days from now on."""
    check_whole(caller)
    _find(kind)
    said = await form_of(request)

    async def change() -> None:
        days = _days(said)
        async with centre.pool.connection() as connection, connection.transaction():
            await retention.keep(connection, {kind: days})
            await note(connection, entry_of(caller, what="retention changed", **{kind: days}))

    return await carried_out(request, centre, caller, change, _PATH)


def _find(kind: str) -> Meaning:
    for one in MEANINGS:
        if one.kind == kind:
            return one
    raise not_found()


def _days(said: dict[str, str]) -> float:
    """Raises InputError."""
    try:
        days = float(said.get("days", ""))
    except ValueError:
        raise InputError("days: expected a number") from None
    if not 0.0 <= days <= retention.LONGEST:
        raise InputError(f"days: expected 0 … {retention.LONGEST}")
    return days
