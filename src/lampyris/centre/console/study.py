"""Requests for one study: its page, plots and tables to save, another recipe, and who else may see it."""

from typing import Annotated

from fastapi import APIRouter, Depends, Path, Query, Request
from fastapi.responses import Response

from lampyris.centre.archive.entry import value
from lampyris.centre.archive.viewing import note_view
from lampyris.centre.audit.chain import Entry, Kind, note
from lampyris.centre.console import words
from lampyris.centre.console.page import render, text_of, wants_page
from lampyris.centre.console.streams import stream
from lampyris.centre.console.studies import day_of
from lampyris.centre.console.studies import router as listed
from lampyris.centre.console.tables import csv_of
from lampyris.centre.console.words import N_
from lampyris.centre.database import Connection
from lampyris.centre.dimse import nodes, send
from lampyris.centre.dose import levels
from lampyris.centre.dose.levels import Level
from lampyris.centre.jobs import remakes
from lampyris.centre.people.callers import Caller, needs
from lampyris.centre.people.rules import Action
from lampyris.centre.recipes.library import active
from lampyris.centre.refusals import Refusal, not_found
from lampyris.centre.request import This, form_of
from lampyris.centre.service import Centre
from lampyris.centre.study import curves, sharing
from lampyris.centre.study import whole as studies
from lampyris.centre.study.curves import Axes
from lampyris.centre.study.files import UID, Reader, Series, Study
from lampyris.centre.study.files import router as files
from lampyris.centre.study.pictures import WHOLE, WINDOWS
from lampyris.centre.study.story import Image, digest_of, settings_of, table_of
from lampyris.centre.study.whole import Whole

router = APIRouter(prefix="/studies", include_in_schema=False)
ROUTERS = (listed, files, router)
"""All that is below `/studies`."""
Remaker = Annotated[Caller, Depends(needs(Action.SCAN_REMAKE))]
Sharer = Annotated[Caller, Depends(needs(Action.STUDY_SHARE))]
Chosen = Annotated[str | None, Query(pattern=UID)]
Name = Annotated[str, Path(pattern="^[a-z0-9_]{1,40}$")]
PLOTS = {
    "nps": (N_("Noise power spectrum"), N_("spatial frequency"), N_("noise power")),
    "ttf": (N_("Task transfer function"), N_("spatial frequency"), N_("transfer")),
}
"""Curves that are drawn: title, what is across and what is up."""


@router.get("/{study}")
async def shown(
    study: Study, request: Request, centre: This, caller: Reader, series: Chosen = None, beside: Chosen = None
) -> Response:
    """The study's page, about one of its reconstructions (the first, or `series`) beside another."""
    try:
        async with centre.pool.connection() as connection:
            found = await studies.whole(connection, centre.store, caller, study)
            await note_view(connection, caller, study, found.study.site)
            image = found.image(series)
            planes, slices = ((), 0) if image is None else await studies.planes(connection, caller, image)
            known = await sharing.shares(connection, found.study.number) if caller.may(Action.STUDY_SHARE) else []
            recipes = await _others(connection, found)
            to = await nodes.listed(connection, caller.sites) if caller.may(Action.STUDY_EXPORT) else []
            sendings = await send.listed(connection, caller, study)
            places = await sharing.places(connection, found.study) if caller.may(Action.STUDY_SHARE) else []
    except Refusal:
        if caller.may(Action.GLASS_BREAK) and wants_page(request):
            return await render(request, centre, caller, "study_hidden.html.jinja", 404, uid=study)
        raise
    return await render(
        request, centre, caller, "study.html.jinja", whole=found, study=found.study, image=image,
        other=None if image is None else found.beside(image, beside), planes=planes, slices=slices,
        windows=_windows(image), plots=_plots(image), shares=known, places=places, recipes=recipes,
        nodes=to, sendings=sendings,
        companion=remakes.companion_of(remakes.ROUTINE, None if image is None else image.series.recipe), day_of=day_of,
        may_remake=caller.may(Action.SCAN_REMAKE) and found.scan is not None and found.scan.raw_here,
        may_share=caller.may(Action.STUDY_SHARE) and found.study.site in caller.sites,
        levels=_levels(image), may_export=caller.may(Action.STUDY_EXPORT), settings_of=settings_of, digest_of=digest_of,
    )  # fmt: skip


@router.get("/{study}/series/{series}/{name}.svg")
async def plotted(
    study: Study, series: Series, name: Name, centre: This, caller: Reader, beside: Chosen = None, language: str = ""
) -> Response:
    """A plot of a curve, beside the same one of another reconstruction; in the reader's language."""
    found, image = await _image(centre, caller, study, series)
    others = () if beside is None else (found.image(beside),)
    each = [(one.name, curve) for one in (image, *others) if one and one.story and (curve := one.story.curve(name))]
    if not each:
        raise not_found()
    said, unit = words.words_of(words.chosen(language)), each[0][1]
    title, across, up = (said.gettext(text) for text in PLOTS.get(name, (name, "", "")))
    axes = Axes(title, f"{across} / ({unit.x_unit})", f"{up} / ({unit.y_unit})" if unit.y_unit else up)
    headers = {"Cache-Control": "private, max-age=600", "X-Content-Type-Options": "nosniff"}
    return Response(curves.svg(each, axes), media_type="image/svg+xml", headers=headers)


@router.get("/{study}/series/{series}/{name}.csv")
async def tabled(study: Study, series: Series, name: Name, centre: This, caller: Reader) -> Response:
    """A table of a reconstruction: its figures, tasks, corrections, or one of its curves."""
    _, image = await _image(centre, caller, study, series)
    table = None if image.story is None else table_of(image.story, name)
    if table is None:
        raise not_found()
    return csv_of(f"{name}-{study[-12:]}", *table)


@router.post("/{study}/remake")
async def remake(study: Study, request: Request, centre: This, caller: Remaker) -> Response:
    """Have the study's scan reconstructed again with another recipe; the page is then loaded again."""
    form = await form_of(request)
    async with centre.pool.connection() as connection, connection.transaction():
        scan = await studies.own_scan(connection, caller, study)
        await remakes.ask(connection, centre.jobs, scan.number, form.get("recipe", ""), caller.login)
        detail = {"study": study, "recipe": form.get("recipe", "")}
        entry = Entry(
            Kind.REMAKE, caller.login, address=caller.address, site=scan.site, object=scan.scan, detail=detail
        )
        await note(connection, entry)
    return Response(status_code=204, headers={"HX-Refresh": "true"})


@router.get("/{study}/events")
async def events(study: Study, request: Request, centre: This, caller: Reader) -> Response:
    """The study's remakes and what is sent of it, whenever something has moved."""
    last: dict[str, str] = {}
    async with centre.pool.connection() as connection:
        scan = await studies.scan_seen(connection, caller, study)

    async def look() -> list[tuple[str, str]]:
        async with centre.pool.connection() as connection:
            made = [] if scan is None else await remakes.of_scan(connection, scan)
            sent = await send.listed(connection, caller, study)
        now = {
            "remakes": await text_of(request, centre, caller, "study_remakes.html.jinja", remakes=made, study=study),
            "sendings": await text_of(request, centre, caller, "study_sendings.html.jinja", sendings=sent),
        }
        changed = [(name, text) for name, text in now.items() if last.get(name) != text]
        last.update(now)
        return changed

    return await stream(request, centre, caller, look)


@router.post("/{study}/share")
async def share(study: Study, request: Request, centre: This, caller: Sharer) -> Response:
    """Let another tenant see the study, until a day or until it is taken back."""
    form = await form_of(request)
    async with centre.pool.connection() as connection:
        await sharing.share(connection, caller, study, form.get("tenant", ""), form.get("until", ""))
    return Response(status_code=204, headers={"HX-Refresh": "true"})


@router.post("/{study}/unshare")
async def unshare(study: Study, request: Request, centre: This, caller: Sharer) -> Response:
    """Another tenant sees the study no more."""
    form = await form_of(request)
    async with centre.pool.connection() as connection:
        await sharing.take_back(connection, caller, study, form.get("tenant", ""))
    return Response(status_code=204, headers={"HX-Refresh": "true"})


async def _image(centre: Centre, caller: Caller, study: str, series: str) -> tuple[Whole, Image]:
    async with centre.pool.connection() as connection:
        found = await studies.whole(connection, centre.store, caller, study)
    image = found.image(series)
    if image is None:
        raise not_found()
    return found, image


async def _others(connection: Connection, found: Whole) -> list[str]:
    """Recipes that the scan can still be made with."""
    used = {one.series.recipe for one in found.images} | {
        one.recipe for one in found.remakes if one.state in ("queued", "running", "done")
    }
    return [name for name in await active(connection) if name not in used]


def _windows(image: Image | None) -> tuple[str, ...]:
    """Windows that an image is shown in: one alone where its values are not HU."""
    kind = "" if image is None else value(image.series.json, "00281054")
    return tuple(WINDOWS) if kind in ("", "HU") else (WHOLE,)


def _levels(image: Image | None) -> tuple[Level, ...]:
    """Reference levels of dose for the part of the body that an image is of."""
    return () if image is None else levels.levels_for(levels.examination_of(image.series.body_part))


def _plots(image: Image | None) -> list[str]:
    """Names of the curves of an image that are drawn."""
    known = () if image is None or image.story is None else image.story.curves
    return [one.name for one in known if one.name in PLOTS]
