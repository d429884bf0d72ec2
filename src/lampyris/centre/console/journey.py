"""Requests about scans on their way: the live list, one scan's story, another try, and all of it as CSV."""

from collections.abc import AsyncIterator
from typing import Annotated
from urllib.parse import urlencode

from fastapi import APIRouter, Depends, Path, Query, Request
from fastapi.responses import Response

from lampyris.centre.audit.chain import Entry, Kind, note
from lampyris.centre.console.page import render, text_of
from lampyris.centre.console.streams import stream
from lampyris.centre.console.tables import csv_of
from lampyris.centre.console.words import N_
from lampyris.centre.jobs import queue
from lampyris.centre.people.callers import Caller, needs
from lampyris.centre.people.rules import Action
from lampyris.centre.refusals import conflict, not_found
from lampyris.centre.request import This
from lampyris.centre.service import Centre
from lampyris.centre.watching import journey
from lampyris.centre.watching.journey import ScanSeen, Sought
from lampyris.transfer import STATES, limits

router = APIRouter(prefix="/journey", include_in_schema=False)
Reader = Annotated[Caller, Depends(needs(Action.SCAN_READ))]
Retrier = Annotated[Caller, Depends(needs(Action.SCAN_RETRY))]
Site = Annotated[str, Path(pattern=f"^{limits.SITE.pattern}$")]
Scan = Annotated[str, Path(pattern=f"^{limits.SCAN.pattern}$")]

HOURS = {
    0: N_("any time"), 1: N_("the last hour"), 24: N_("the last day"), 168: N_("the last week"),
    720: N_("the last 30 days"),
}  # fmt: skip
ADVICE = {
    "INPUT": N_("The site can mend the input and send the scan again, under a new id."),
    "INPUT_FORMAT": N_("A file is cut short, or not in the format that it claims: export the scan anew and send that."),
    "INPUT_GEOMETRY": N_("The geometry of the scan is impossible or not known: check how the scanner is described."),
    "INPUT_CALIBRATION": N_("A calibration is missing or of another scan: take air and dark scans, then send again."),
    "INPUT_SERIES": N_("The folder does not hold exactly one complete series: check what the site watches."),
    "INPUT_RECIPE": N_("The recipe is not one of the centre, or contradicts itself: choose another for this protocol."),
    "INPUT_DIVERGENCE": N_("The method ran away from the image: choose another recipe, and tell the physicist."),
    "INPUT_MANIFEST": N_("The manifest breaks a rule of the protocol: the agent at the site is too old, or changed."),
    "INPUT_SIGNATURE": N_("The signature does not hold: has the site's key changed? Enrol the site again if so."),
    "WITHDRAWN": N_("The site itself withdrew the scan: nothing is to be done."),
    "ABANDONED": N_("Nothing came for two weeks: look after the site's line, then send again."),
}
"""What a site mends, by the code of the refusal."""
_CSV_ROWS = 5000
_COLUMNS = (
    "site", "scan", "state", "priority", "recipe", "opened", "committed", "finished", "updated", "attempts", "station",
    "progress", "bytes", "verdict", "returned", "reason_code", "reason",
)  # fmt: skip


async def sought_of(
    site: Annotated[str, Query(pattern=f"^(?:{limits.SITE.pattern})?$")] = "",
    state: Annotated[str, Query(pattern=f"^(?:{'|'.join(STATES)})?$")] = "",
    recipe: Annotated[str, Query(max_length=64)] = "",
    hours: Annotated[int, Query(ge=0, le=100_000)] = 0,
    text: Annotated[str, Query(max_length=32)] = "",
) -> Sought:
    """What the filters of the page ask for."""
    return Sought(site, state, recipe.strip(), hours, text.strip().lower())


Asked = Annotated[Sought, Depends(sought_of)]


@router.get("")
async def listed(
    request: Request, centre: This, caller: Reader, sought: Asked, before: Annotated[int, Query(ge=0)] = 0
) -> Response:
    """The newest scans that fit, those under way live; `before` turns pages."""
    async with centre.pool.connection() as connection:
        found = await journey.find(connection, caller.sites, sought, before=before, count=journey.PAGE + 1)
        counted = await journey.counts(connection, caller.sites)
        recipes = await journey.recipes(connection, caller.sites)
        names = await journey.names(connection, caller.sites)
    shown = found[: journey.PAGE]
    on = _address("/journey", sought, before=shown[-1].number) if len(found) > journey.PAGE else ""
    newest = -1 if before else max([0, *(each.number for each in shown)])
    return await render(
        request, centre, caller, "journey.html.jinja", scans=shown, counts=counted, sought=sought, before=before,
        sites=names, recipes=recipes, states=STATES, ages=HOURS, on=on,
        back=_address("/journey", sought) if before else "",
        csv=_address("/journey/scans.csv", sought), live=_address("/journey/events", sought, newest=newest),
    )  # fmt: skip


@router.get("/scans.csv")
async def saved(caller: Reader, centre: This, sought: Asked) -> Response:
    """Every scan that fits."""
    async with centre.pool.connection() as connection:
        await note(connection, Entry(Kind.EXPORT, caller.login, address=caller.address, object="journey.csv"))
    return csv_of("journey", _COLUMNS, _rows(centre, caller.sites, sought))


@router.get("/events")
async def events(
    request: Request, centre: This, caller: Reader, sought: Asked, newest: Annotated[int, Query(ge=-1)] = -1
) -> Response:
    """Rows that changed, new ones that fit (but for −1, a page further back), and the counts."""
    async with centre.pool.connection() as connection:
        last, top = await journey.mark(connection), newest

    async def look() -> list[tuple[str, str]]:
        nonlocal last, top
        async with centre.pool.connection() as connection:
            changed, last = await journey.changed(connection, caller.sites, last)
            new = [] if top < 0 else await journey.find(connection, caller.sites, sought, after=top)
            counted = await journey.counts(connection, caller.sites)
        top = max([top, *(each.number for each in new)])
        old = [each for each in changed if each.number not in {one.number for one in new}]
        rows = await text_of(request, centre, caller, "journey_rows.html.jinja", old=old, new=new)
        tiles = await text_of(request, centre, caller, "journey_counts.html.jinja", counts=counted, sought=sought)
        return [("rows", rows), ("counts", tiles)] if old or new else [("counts", tiles)]

    return await stream(request, centre, caller, look)


@router.get("/{site}/{scan}")
async def shown(site: Site, scan: Scan, request: Request, centre: This, caller: Reader) -> Response:
    """One scan and its story."""
    async with centre.pool.connection() as connection:
        found = await journey.one(connection, caller.sites, site, scan)
        happened = await journey.story(connection, found.number)
        studies = await journey.studies(connection, found.number)
    return await render(
        request, centre, caller, "journey_scan.html.jinja", scan=found, story=happened, studies=studies,
        advice=advice_of(found), may_retry=caller.may(Action.SCAN_RETRY), may_open=caller.may(Action.STUDY_READ),
    )  # fmt: skip


@router.post("/{site}/{scan}/retry")
async def retry(site: Site, scan: Scan, centre: This, caller: Retrier) -> Response:
    """Queue a failed scan again with all its tries; its page is then shown anew."""
    if site not in caller.sites:
        raise not_found()
    entry = Entry(Kind.RETRY, caller.login, address=caller.address, site=site, object=scan)
    async with centre.pool.connection() as connection, connection.transaction():
        await journey.one(connection, caller.sites, site, scan)
        if not await queue.release(connection, centre.jobs, site, scan):
            raise conflict("the scan has not failed, or its raw data are deleted: it cannot be tried again")
        await note(connection, entry)
    return Response(status_code=204, headers={"HX-Refresh": "true"})


def advice_of(scan: ScanSeen) -> str | None:
    """What the site is to mend of a refused scan."""
    if scan.state != "refused" or scan.reason_code is None:
        return None
    return ADVICE.get(scan.reason_code, ADVICE["INPUT"])


def _address(path: str, sought: Sought, **more: int) -> str:
    asked = {name: value for name in Sought.__slots__ if (value := getattr(sought, name))}
    text = urlencode(asked | more)
    return f"{path}?{text}" if text else path


async def _rows(centre: Centre, sites: tuple[str, ...], sought: Sought) -> AsyncIterator[list[object]]:
    before = 0
    while True:
        async with centre.pool.connection() as connection:
            found = await journey.find(connection, sites, sought, before=before, count=_CSV_ROWS)
        for each in found:
            yield [getattr(each, name) for name in _COLUMNS]
        if len(found) < _CSV_ROWS:
            return
        before = found[-1].number
