"""Requests about the audit → entries that were searched for, whether the chain is whole, and files to take away."""

from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any
from urllib.parse import urlencode

from fastapi import APIRouter, Depends, Request
from fastapi.responses import Response, StreamingResponse

from lampyris.centre.audit import anchors, export
from lampyris.centre.audit.chain import OUTCOMES, Entry, Kind, note
from lampyris.centre.audit.search import Wanted, everything, search
from lampyris.centre.audit.verify import verify
from lampyris.centre.console.administration.frame import check_whole, page
from lampyris.centre.console.page import ZONE, render
from lampyris.centre.console.words import zone_of
from lampyris.centre.people.callers import Caller, needs
from lampyris.centre.people.rules import Action
from lampyris.centre.people.tenants import ROOT
from lampyris.centre.refusals import not_found
from lampyris.centre.request import This
from lampyris.centre.service import Centre
from lampyris.model import InputError

router = APIRouter(include_in_schema=False)
Auditor = Annotated[Caller, Depends(needs(Action.AUDIT_READ))]
_PATH = "/administration/audit"
_COUNT = 50
_FIELDS = ("who", "kind", "object", "site", "outcome", "since", "until")


@dataclass(frozen=True, slots=True)
class _Asked:
    """What the form says, as it says it, and what that means."""

    said: dict[str, str]
    wanted: Wanted
    trouble: dict[str, str]


@router.get(_PATH)
async def shown(request: Request, centre: This, caller: Auditor) -> Response:
    """A page of entries; searching is an entry itself, looking at its further pages is not another."""
    asked, below = _asked(request), request.query_params.get("below", "")
    before = int(below) if below.isascii() and below.isdigit() and len(below) < 18 else None
    async with centre.pool.connection() as connection:
        found = await search(connection, caller.tenants, asked.wanted, below=before, count=_COUNT)
        if before is None:
            await note(connection, _read(caller, "search", asked.wanted.named()))
    query = urlencode({name: text for name, text in asked.said.items() if text})
    return await page(
        request, centre, caller, "administration_audit.html.jinja", found=found, said=asked.said, wrong=asked.trouble,
        kinds=list(Kind), outcomes=OUTCOMES, query=query, whole=ROOT in caller.tenants, back=before is not None,
    )  # fmt: skip


@router.get(f"{_PATH}/verify")
async def verified(request: Request, centre: This, caller: Auditor) -> Response:
    """Walk the whole chain: for the centre's auditors."""
    check_whole(caller)
    folder = centre.settings.folder
    kept = anchors.dropped(folder / anchors.ANCHORS, anchors.key_of(folder).public)
    async with centre.pool.connection() as connection:
        found = await verify(connection, kept)
        told = {"links": found.links, "broken": found.broken and found.broken.number}
        await note(connection, _read(caller, "verify", told))
    return await render(request, centre, caller, "administration_verified.html.jinja", found=found)


@router.get(f"{_PATH}/export/{{form}}")
async def exported(form: str, request: Request, centre: This, caller: Auditor) -> Response:
    """All entries that were searched for, as CSV, JSON lines or DICOM audit messages."""
    if form not in export.FORMATS:
        raise not_found()
    asked = _asked(request)
    async with centre.pool.connection() as connection:
        await note(connection, _read(caller, "export", {**asked.wanted.named(), "format": form}))
    headers = {
        "Content-Disposition": f'attachment; filename="{export.NAMES[form]}"',
        "Cache-Control": "no-store",
        "X-Content-Type-Options": "nosniff",
    }
    pieces = _pieces(centre, caller, asked.wanted, form)
    return StreamingResponse(pieces, media_type=export.TYPES[form], headers=headers)


async def _pieces(centre: Centre, caller: Caller, wanted: Wanted, form: str) -> AsyncIterator[bytes]:
    async with centre.pool.connection() as connection:
        links = everything(connection, caller.tenants, wanted)
        async for piece in export.export(links, form, centre.settings.audience):
            yield piece


def _read(caller: Caller, what: str, detail: dict[str, Any]) -> Entry:
    """The entry of whoever uses the audit."""
    return Entry(Kind.AUDIT, caller.login, address=caller.address, object=what, detail=detail)


def _asked(request: Request) -> _Asked:
    """Days are those of the reader's time zone; what cannot be understood is told beside its field and left out."""
    said = {name: request.query_params.get(name, "").strip()[:256] for name in _FIELDS}
    trouble: dict[str, str] = {}
    values: dict[str, Any] = {name: said[name] or None for name in ("who", "object", "site")}
    if said["kind"] in list(Kind):
        values["kind"] = Kind(said["kind"])
    if said["outcome"] in OUTCOMES:
        values["outcome"] = said["outcome"]
    for name in ("since", "until"):
        try:
            values[name] = _day(said[name], request, last=name == "until")
        except InputError as error:
            trouble[name] = str(error)
    return _Asked(said, Wanted(**values), trouble)


def _day(text: str, request: Request, *, last: bool) -> datetime | None:
    """The beginning of a day, or with `last` its end. Raises InputError."""
    if not text:
        return None
    try:
        day = datetime.strptime(text, "%Y-%m-%d").replace(tzinfo=zone_of(request.cookies.get(ZONE)))
        return (day + timedelta(days=1) if last else day).astimezone(UTC)
    except (ValueError, OverflowError):
        raise InputError("expected a day: 2026-11-22") from None
