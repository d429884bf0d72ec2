"""Requests for doses → the page of groups against reference levels, its figures, and files of all that it shows."""

import asyncio
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Annotated
from urllib.parse import urlencode

from babel.dates import format_skeleton
from fastapi import APIRouter, Depends, Query, Request
from fastapi.responses import HTMLResponse, Response

from lampyris.centre.audit.chain import Entry, Kind, note
from lampyris.centre.console import words
from lampyris.centre.console.page import LANGUAGE, render
from lampyris.centre.console.tables import csv_of
from lampyris.centre.console.words import N_
from lampyris.centre.dose import levels, plots, statistics
from lampyris.centre.dose.statistics import Which
from lampyris.centre.people.callers import Caller, needs
from lampyris.centre.people.rules import Action
from lampyris.centre.request import This

router = APIRouter(include_in_schema=False)
Reader = Annotated[Caller, Depends(needs(Action.DOSE_READ))]

EXAMINATIONS = {
    "head": N_("Head"),
    "sinuses": N_("Paranasal sinuses"),
    "neck": N_("Neck"),
    "cervical_spine": N_("Cervical spine"),
    "chest": N_("Chest"),
    "abdomen": N_("Abdomen"),
    "pelvis": N_("Pelvis"),
    "abdomen_pelvis": N_("Abdomen and pelvis"),
    "chest_abdomen": N_("Chest and abdomen"),
    "chest_abdomen_pelvis": N_("Chest, abdomen and pelvis"),
    "": N_("Other or not told"),
}
AGES = {"": N_("Adults, or age not told"), "adult": N_("Adults"), "child": N_("Children")}
PERIODS = {"30": N_("30 days"), "90": N_("90 days"), "365": N_("A year"), "": N_("All time")}
_PERIOD = "365"
_SHOWN = 400
"""Groups that a page shows; the CSV has all."""


@dataclass(frozen=True, slots=True)
class Choice:
    """What somebody chose to see. What is not among the choices counts as not chosen."""

    site: str = ""
    examination: str = ""
    age: str = ""
    period: str = _PERIOD
    quantity: levels.Quantity = "ctdivol"

    def which(self, caller: Caller) -> Which:
        since = datetime.now(UTC) - timedelta(days=int(self.period)) if self.period else None
        return Which(caller.sites, self.site, self.examination, self.age, since)

    def query(self, **changes: str) -> str:
        """As it stands in an address."""
        told = {name: getattr(self, name) for name in ("site", "examination", "age", "period", "quantity")}
        return urlencode(told | changes)


def choice(
    site: Annotated[str, Query(max_length=128)] = "",
    examination: str = "",
    age: str = "",
    period: str = _PERIOD,
    quantity: str = "ctdivol",
) -> Choice:
    """The choice of an address."""
    return Choice(
        site if "\0" not in site else "",
        examination if examination in EXAMINATIONS else "",
        age if age in AGES else "",
        period if period in PERIODS else _PERIOD,
        "dlp" if quantity == "dlp" else "ctdivol",
    )


Chosen = Annotated[Choice, Depends(choice)]


@router.get("/dose")
async def page(request: Request, centre: This, caller: Reader, chosen: Chosen) -> HTMLResponse:
    """Groups against reference levels, the course and distribution of one examination, the latest repeats."""
    which = chosen.which(caller)
    async with centre.pool.connection() as connection:
        found = await statistics.overview(connection, which)
        repeats = await statistics.repeats(connection, which)
        cursor = await connection.execute(
            "SELECT EXISTS (SELECT FROM dose WHERE site = ANY(%s))", (list(caller.sites),)
        )
        some = (await cursor.fetchone() or {})["exists"]
        await note(connection, _entry(Kind.QUERY, caller, "page", chosen))
    shown = chosen.examination or _largest(found)
    return await render(
        request, centre, caller, "dose.html.jinja",
        chosen=chosen, found=found, groups=found.groups[:_SHOWN], repeats=repeats, some=some, shown=shown,
        examinations=EXAMINATIONS, ages=AGES, periods=PERIODS, few=levels.FEW,
        levels=_levels_of(chosen.examination),
        reads_studies=caller.may(Action.STUDY_READ), sites=caller.sites,
    )  # fmt: skip


def _largest(found: statistics.Overview) -> str:
    """The examination with the most irradiations whose levels are known."""
    sums: dict[str, int] = {}
    for one in found.groups:
        if one.examination:
            sums[one.examination] = sums.get(one.examination, 0) + one.count
    return max(sums, key=lambda name: sums[name], default="")


def _levels_of(examination: str) -> list[list[levels.Level]]:
    """The levels of an examination, or of all, those of one set and examination together."""
    together: dict[tuple[str, str], list[levels.Level]] = {}
    for one in levels.all_levels():
        if examination in ("", one.examination):
            together.setdefault((one.authority, one.examination), []).append(one)
    return list(together.values())


def _entry(kind: Kind, caller: Caller, what: str, chosen: Choice) -> Entry:
    told = {name: getattr(chosen, name) for name in ("examination", "age", "period")}
    site = chosen.site if chosen.site in caller.sites else None
    detail = {"what": what} | {name: value for name, value in told.items() if value}
    return Entry(kind, caller.login, address=caller.address, site=site, object="dose", detail=detail)


@router.get("/dose/course.svg")
async def course(request: Request, centre: This, caller: Reader, chosen: Chosen, light: str = "light") -> Response:
    """Medians by month."""
    said = _said(request, caller, chosen, N_("Median and quartiles by month"))
    async with centre.pool.connection() as connection:
        points = await statistics.trend(connection, chosen.which(caller), chosen.quantity)
    if not points:
        return _nothing(request, caller, light)
    return _picture(plots.course(points, _level(chosen), said, _light(light)))


@router.get("/dose/distribution.svg")
async def distribution(
    request: Request, centre: This, caller: Reader, chosen: Chosen, light: str = "light"
) -> Response:
    """How many irradiations had how much."""
    said = _said(request, caller, chosen, N_("Distribution"))
    async with centre.pool.connection() as connection:
        width, counts = await statistics.histogram(connection, chosen.which(caller), chosen.quantity)
    if not any(counts):
        return _nothing(request, caller, light)
    return _picture(plots.distribution(width, counts, _level(chosen), said, _light(light)))


@router.get("/dose/all.csv")
async def every(centre: This, caller: Reader, chosen: Chosen) -> Response:
    """Every irradiation chosen, the latest first."""
    async with centre.pool.connection() as connection:
        rows = await statistics.every(connection, chosen.which(caller))
        await note(connection, _entry(Kind.EXPORT, caller, "irradiations", chosen))
    return await asyncio.to_thread(csv_of, "doses", statistics.ROWS, rows)


@router.get("/dose/groups.csv")
async def groups(centre: This, caller: Reader, chosen: Chosen) -> Response:
    """Every group: quartiles, and how its median stands to the reference level."""
    async with centre.pool.connection() as connection:
        found = await statistics.overview(connection, chosen.which(caller))
        await note(connection, _entry(Kind.EXPORT, caller, "groups", chosen))
    names = ("ctdivol", "dlp", "ssde")
    columns = ["examination", "protocol", "site", "irradiations"]
    columns += [f"{name}_{part}" for name in names for part in ("n", "25", "50", "75")]
    columns += [f"{name}_{part}" for name in levels.QUANTITIES for part in ("is", "level", "authority", "verified")]
    rows = []
    for one in found.groups:
        row: list[object] = [one.examination, one.protocol, one.site, one.count]
        for name in names:
            told: statistics.Quartiles | None = getattr(one, name)
            row += [0, None, None, None] if told is None else [told.count, told.low, told.median, told.high]
        for quantity in levels.QUANTITIES:
            judged, level = one.judged(quantity)
            row += [judged, *([None, None, None] if level is None else [level.high, level.authority, level.verified])]
        rows.append(row)
    return csv_of("dose-groups", columns, rows)


@router.get("/dose/repeats.csv")
async def repeated(centre: This, caller: Reader, chosen: Chosen) -> Response:
    """Every repeat chosen."""
    async with centre.pool.connection() as connection:
        found = await statistics.repeats(connection, chosen.which(caller), count=1_000_000)
        await note(connection, _entry(Kind.EXPORT, caller, "repeats", chosen))
    columns = ("site", "study_uid", "at", "examination", "protocol", "dlp", "first_study_uid", "hours")
    return csv_of("dose-repeats", columns, [[getattr(one, name) for name in columns] for one in found])


@router.get("/dose/levels.csv")
async def reference(_caller: Reader) -> Response:
    """Every reference level with its source."""
    columns = ("examination", "quantity", "high", "typical", "low", "indication", "authority", "edition", "verified",
               "source")  # fmt: skip
    return csv_of("dose-levels", columns, [[getattr(one, name) for name in columns] for one in levels.all_levels()])


def _level(chosen: Choice) -> levels.Level | None:
    found = levels.levels_for(chosen.examination, chosen.age or "adult")
    return next((one for one in found if one.quantity == chosen.quantity), None)


def _words(request: Request, caller: Caller) -> words.Words:
    cookie = request.cookies.get(LANGUAGE)
    return words.words_of(words.chosen(caller.language, cookie, accept=request.headers.get("accept-language", "")))


def _said(request: Request, caller: Caller, chosen: Choice, title: str) -> plots.Said:
    """The words of a picture: what it shows, of which examination, in which unit."""
    spoken, level = _words(request, caller), _level(chosen)
    name = "CTDIvol" if chosen.quantity == "ctdivol" else "DLP"
    about = spoken.gettext(EXAMINATIONS[chosen.examination])
    compared, doubt = spoken.gettext("reference level"), spoken.gettext("unverified")
    source = "" if level is None else level.authority + ("" if level.verified else f" ({doubt})")
    return plots.Said(
        f"{spoken.gettext(title)}: {about}",
        f"{about} · {name} ({levels.QUANTITIES[chosen.quantity]})",
        "" if level is None else f"{compared} {spoken.number(level.high)} · {source}",
        lambda month: format_skeleton("yMMM", month, locale=spoken.locale),
        lambda value: spoken.number(value, 0 if value >= 100 or value == int(value) else 1),
    )


def _light(name: str) -> str:
    return name if name in plots.LIGHTS else "light"


def _nothing(request: Request, caller: Caller, light: str) -> Response:
    """A picture that says that there is nothing to show."""
    return _picture(plots.blank(_words(request, caller).gettext("Nothing to show for this choice"), _light(light)))


def _picture(svg: str) -> Response:
    headers = {"Cache-Control": "no-store", "X-Content-Type-Options": "nosniff",
               "Content-Security-Policy": "default-src 'none'; style-src 'none'"}  # fmt: skip
    return Response(svg.encode(), media_type="image/svg+xml", headers=headers)
