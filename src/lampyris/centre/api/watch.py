"""Requests of those who watch: events of a site's scans, the protocol's limits, health and metrics."""

import asyncio
import contextlib
import json
import time
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from ipaddress import ip_address

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse, Response, StreamingResponse

from lampyris.centre import access, ingest, service
from lampyris.centre.access import Grant
from lampyris.centre.api import schema
from lampyris.centre.api.access import Granted, Site
from lampyris.centre.body import read_body
from lampyris.centre.refusals import not_found, refusal
from lampyris.centre.request import This
from lampyris.centre.service import Centre
from lampyris.centre.watching import sites
from lampyris.centre.watching.bell import Bell
from lampyris.transfer import SiteReport, limits

router = APIRouter(tags=["watching"])
_PING_S = 15.0
_NAMES = (
    *("chunk_bytes", "chunks", "parts", "manifest_bytes", "sealed_characters", "packing_entries", "missing"),
    *("in_flight", "assertion_seconds", "token_seconds", "skew_seconds"),
)


@router.get(f"{limits.PREFIX}/events", **schema.described({200: schema.EVENTS}, (400, 401)))
async def events(request: Request, centre: This, grant: Granted) -> Response:
    """Changes of this site's scans as server-sent events, for the life of a token; then connect again."""
    text = request.headers.get("last-event-id", "")
    if text and not (text.isascii() and text.isdigit() and len(text) < 19):
        raise refusal(400, "REQUEST", "Last-Event-ID is not a number of this stream")
    bell: Bell = request.app.state.bell
    stream = _stream(centre, bell, grant, int(text) if text else None)
    first = await anext(stream)  # a refusal must come before the answer begins
    return StreamingResponse(_from(first, stream), media_type=schema.EVENTS, headers={"Cache-Control": "no-store"})


@router.post(
    f"{limits.PREFIX}/status",
    status_code=204,
    **schema.described({204: None}, (400, 401, 408, 413, 415, 422), body=(schema.JSON, schema.REPORT)),
)
async def report(request: Request, centre: This, site: Site) -> Response:
    """How the site is: its agent's version, what waits in its spool, how old its calibrations are."""
    told = SiteReport.parse(await read_body(request, schema.JSON, limits.REPORT_BYTES))
    async with centre.pool.connection() as connection:
        await sites.note_report(connection, site, told)
    return Response(status_code=204)


@router.get(limits.PREFIX, **schema.described({200: schema.ABOUT}))
async def about() -> Response:
    """Version and limits of the protocol."""
    numbers = {name: getattr(limits, name.upper()) for name in _NAMES}
    return JSONResponse({"protocol": limits.PROTOCOL, "minor": limits.MINOR, "limits": numbers})


@router.get("/healthz", **schema.described({200: {"type": "object"}}))
async def healthz() -> Response:
    """The process lives."""
    return JSONResponse({"alive": True})


@router.get("/readyz", **schema.described({200: {"type": "object"}}))
async def readyz(request: Request, centre: This) -> Response:
    """The process can take scans: the database answers, the disk has space, and it is not being stopped."""
    free = centre.store.free_bytes()
    found = {
        "database": await service.answers(centre),
        "space": free is None or free >= centre.settings.free_bytes,
        "serving": not request.app.state.draining,
    }
    return JSONResponse({"ready": all(found.values()), **found}, 200 if all(found.values()) else 503)


@router.get("/metrics", include_in_schema=False)
async def metrics(request: Request, centre: This) -> Response:
    """Prometheus text, for this machine alone: a proxy in front must not pass it on."""
    host = request.client.host if request.client else ""
    forwarded = {"x-forwarded-for", "forwarded"} & set(request.headers)
    with contextlib.suppress(ValueError):
        if ip_address(host).is_loopback and not forwarded:
            async with centre.pool.connection() as connection:
                return Response(await centre.metrics.text(connection), media_type="text/plain; version=0.0.4")
    raise not_found()


async def _stream(centre: Centre, bell: Bell, grant: Grant, after: int | None) -> AsyncIterator[str]:
    site, ends, seen = grant.site, time.monotonic() + limits.TOKEN_SECONDS, datetime.now(UTC)
    with bell.heard(f"site {site}", (site,)) as rung:
        async with centre.pool.connection() as connection:
            last = await ingest.last_event(connection, site) if after is None else after
        yield f": from {last}\nid: {last}\n\n"
        while time.monotonic() < ends and not bell.over:
            rung.clear()
            async with centre.pool.connection() as connection:
                if not await access.stands(connection, grant):
                    return
                changed, last, seen = await ingest.changes(connection, site, last, seen)
            for status in changed:
                yield f"event: scan\nid: {last}\ndata: {json.dumps(status.as_dict())}\n\n"
            try:
                await asyncio.wait_for(rung.wait(), _PING_S)
            except TimeoutError:
                yield ": still here\n\n"


async def _from(first: str, rest: AsyncIterator[str]) -> AsyncIterator[str]:
    yield first
    async for each in rest:
        yield each
