"""Requests about scans: open, announce, put, commit, withdraw, look; and the series that were made of them."""

import asyncio
import hashlib
import re
from collections.abc import AsyncIterator
from typing import Annotated

from fastapi import APIRouter, Path, Query, Request
from fastapi.responses import JSONResponse, Response, StreamingResponse

from lampyris.centre import ingest, returns
from lampyris.centre.api import schema
from lampyris.centre.api.access import Site
from lampyris.centre.body import Gate, declared_length, read_body, read_pieces
from lampyris.centre.observe.traces import Traced
from lampyris.centre.refusals import conflict, refusal, wait
from lampyris.centre.request import This
from lampyris.centre.service import Centre
from lampyris.centre.store import raw_prefix, series_prefix
from lampyris.transfer import Chunk, Fields, Manifest, ReturnedFile, SignatureError, limits, parse_object, parse_parts

router = APIRouter(prefix=limits.PREFIX, tags=["scans"])
_SIGNED_BYTES = limits.MANIFEST_BYTES * 4 // 3 + 2048
_SPACE_S = 15
_RANGE = re.compile(r"bytes=(\d{0,15})-(\d{0,15})")

Scan = Annotated[str, Path(pattern=f"^{limits.SCAN.pattern}$", description="the site's id of the scan")]
Digest = Annotated[str, Path(pattern=f"^{limits.DIGEST.pattern}$", description="SHA-256 of the body")]


@router.post(
    "/scans",
    status_code=201,
    **schema.described(
        {200: schema.STATUS, 201: schema.STATUS},
        (400, 401, 404, 408, 409, 413, 415, 422),
        body=(schema.JSON, schema.MANIFEST),
    ),
)
async def open_scan(request: Request, centre: This, site: Site) -> Response:
    """Open a scan by the skeleton of its manifest."""
    skeleton = Manifest.parse(await read_body(request, schema.JSON, limits.REQUEST_BYTES))
    request.state.scan = skeleton.scan
    _check_space(centre, skeleton.priority)
    async with centre.pool.connection() as connection:
        status, new = await ingest.open_scan(connection, site, skeleton, centre.settings)
    return JSONResponse(status.as_dict(), 201 if new else 200)


@router.get("/scans", **schema.described({200: schema.listed("scans", schema.STATUS)}, (400, 401)))
async def statuses(
    centre: This,
    site: Site,
    after: Annotated[str, Query(pattern=f"^(?:{limits.SCAN.pattern})?$")] = "",
    limit: Annotated[int, Query(ge=1, le=1000)] = 100,
) -> Response:
    """This site's scans, by id."""
    async with centre.pool.connection() as connection:
        found = await ingest.statuses(connection, site, after, limit)
    return JSONResponse({"scans": [one.as_dict() for one in found]})


@router.get("/scans/{scan}", **schema.described({200: schema.STATUS}, (400, 401, 404)))
async def status(scan: Scan, centre: This, site: Site) -> Response:
    """Where a scan is."""
    async with centre.pool.connection() as connection:
        return JSONResponse((await ingest.status(connection, site, scan)).as_dict())


_ANNOUNCEMENT = {"type": "object", "required": ["parts"], "properties": {"parts": schema.PARTS}}


@router.post(
    "/scans/{scan}/parts",
    **schema.described(
        {200: schema.MISSING}, (400, 401, 404, 408, 409, 413, 415, 422), body=(schema.JSON, _ANNOUNCEMENT)
    ),
)
async def announce(scan: Scan, request: Request, centre: This, site: Site) -> Response:
    """Announce parts that are whole; which of their chunks are missing."""
    data = await read_body(request, schema.JSON, limits.REQUEST_BYTES)
    fields = Fields(parse_object(data, largest=limits.REQUEST_BYTES, what="the announcement"), "the announcement")
    parts = parse_parts(fields.list("parts", limits.PARTS))
    fields.end()
    async with centre.pool.connection() as connection:
        found = await ingest.find(connection, site, scan)
        missing, more = await ingest.missing_of(connection, found, parts, begin=centre.settings.early_bytes > 0)
    return JSONResponse({"missing": missing, "more": more})


_CHUNK = {"type": "string", "format": "binary", "maxLength": limits.CHUNK_BYTES}


@router.put(
    "/scans/{scan}/chunks/{digest}",
    status_code=204,
    **schema.described({204: None}, (400, 401, 404, 408, 409, 411, 413, 415, 422), body=(schema.BYTES, _CHUNK)),
)
async def put_chunk(scan: Scan, digest: Digest, request: Request, centre: This, site: Site) -> Response:
    """Bring a chunk; when this is answered it is on stable storage."""
    length = declared_length(request)
    if length is None:
        raise refusal(411, "LENGTH", "a chunk is sent with its Content-Length")
    async with centre.pool.connection() as connection:
        found = await ingest.find(connection, site, scan)
    if found.state == "refused":
        raise conflict("the scan was refused: send it under a new id")
    _check_space(centre, found.priority)
    gate: Gate = request.app.state.gate
    with gate.passed(site, found.priority):
        pieces = await read_pieces(request, schema.BYTES, limits.CHUNK_BYTES)
        if await asyncio.to_thread(_digest, pieces) != digest:
            raise refusal(422, "CHUNK_DIGEST", "the body is not what its digest says: changed on the way?", retry=True)
        chunk = Chunk(digest, sum(map(len, pieces)))
        if found.state == "open":  # what was committed is here already
            await centre.store.put(raw_prefix(site, scan), digest, pieces)
            async with centre.pool.connection() as connection:
                await ingest.note_chunk(connection, found, chunk)
            centre.metrics.received.inc(chunk.size)
    return Response(status_code=204)


@router.post(
    "/scans/{scan}/commit",
    status_code=202,
    **schema.described(
        {200: schema.STATUS, 202: schema.STATUS},
        (400, 401, 404, 408, 409, 413, 415, 422),
        body=(schema.JOSE, {"type": "string"}),
    ),
)
async def commit(scan: Scan, request: Request, centre: This, site: Site) -> Response:
    """Commit a scan by its signed manifest; from then on the centre answers for it."""
    data = await read_body(request, schema.JOSE, _SIGNED_BYTES)
    if not data.isascii():
        raise SignatureError("the body is no JWS in compact form")
    async with centre.pool.connection() as connection:
        status, new = await ingest.commit(connection, site, scan, data.decode("ascii"), centre.jobs)
    if new:
        centre.metrics.committed.labels(status.priority).inc()
    return JSONResponse(status.as_dict(), 202 if new else 200)


@router.post("/scans/{scan}/withdraw", **schema.described({200: schema.STATUS}, (400, 401, 404, 409)))
async def withdraw(scan: Scan, centre: This, site: Site) -> Response:
    """Give up a scan that is open."""
    async with centre.pool.connection() as connection:
        return JSONResponse((await ingest.withdraw(connection, site, scan)).as_dict())


@router.get("/returns", **schema.described({200: schema.listed("series", schema.SERIES)}, (400, 401)))
async def waiting(
    centre: This,
    site: Site,
    after: Annotated[int, Query(ge=0, lt=1 << 62)] = 0,
    limit: Annotated[int, Query(ge=1, le=100)] = 20,
) -> Response:
    """Series that were made and not acknowledged, oldest first."""
    async with centre.pool.connection() as connection:
        found = await returns.waiting(connection, site, after, limit)
    return JSONResponse({"series": [one.as_dict() for one in found]})


@router.get(
    "/scans/{scan}/series/{name:path}",
    **schema.described({200: schema.BYTES, 206: schema.BYTES}, (400, 401, 404, 416)),
)
async def fetch(scan: Scan, name: str, request: Request, centre: This, site: Site) -> Response:
    """A file of a series, or a range of it."""
    if not limits.NAME.fullmatch(name):
        raise refusal(400, "REQUEST", "that is no name of a file")
    async with centre.pool.connection() as connection:
        found = await returns.file_of(connection, site, scan, name)
    headers = {"ETag": f'"{found.sha256}"', "Accept-Ranges": "bytes"}
    first, last = _range(request.headers.get("range"), found.size)
    if (first, last) != (0, found.size - 1):
        headers["Content-Range"] = f"bytes {first}-{last}/{found.size}"
    headers["Content-Length"] = str(last - first + 1)
    content = _content(centre, series_prefix(site, scan), found, (first, last))
    return StreamingResponse(
        content, 206 if "Content-Range" in headers else 200, headers=headers, media_type=schema.BYTES
    )


_STORED = {"type": "object", "required": ["digest"], "properties": {"digest": schema.DIGEST}}


@router.post(
    "/scans/{scan}/acknowledge",
    **schema.described({200: schema.STATUS}, (400, 401, 404, 408, 409, 413, 415, 422), body=(schema.JSON, _STORED)),
)
async def acknowledge(scan: Scan, request: Request, centre: This, site: Site) -> Response:
    """All files of the series are stored at the site."""
    data = await read_body(request, schema.JSON, 4096)
    fields = Fields(parse_object(data, largest=4096, what="the acknowledgement"), "the acknowledgement")
    digest = fields.text("digest", limits.DIGEST)
    fields.end()
    async with centre.pool.connection() as connection:
        home = await returns.acknowledge(connection, site, scan, digest)
        if home is not None:
            centre.traces.span(Traced(site, scan), "return", home)
        return JSONResponse((await ingest.status(connection, site, scan)).as_dict())


def _digest(pieces: list[bytes]) -> str:
    whole = hashlib.sha256()
    for piece in pieces:
        whole.update(piece)
    return whole.hexdigest()


def _check_space(centre: Centre, priority: str) -> None:
    """Refuse what the disk may not hold; the last half of what is kept free is STAT's."""
    free = centre.store.free_bytes()
    floor = centre.settings.free_bytes // (2 if priority == "stat" else 1)
    if free is not None and free < floor:
        raise wait(503, _SPACE_S, "the centre's disk is nearly full")


def _range(text: str | None, size: int) -> tuple[int, int]:
    """First and last byte that are asked for; the whole file for what RFC 9110 lets a server ignore."""
    match = _RANGE.fullmatch(text or "")
    if match is None or match.group() == "bytes=-":
        return 0, size - 1
    first, last = match.groups()
    start = int(first) if first else max(size - int(last), 0)
    end = min(int(last), size - 1) if first and last else size - 1
    if start >= size or (first and last and int(last) < start):
        raise refusal(416, "REQUEST", f"the file has {size} bytes")
    return start, end


async def _content(centre: Centre, prefix: str, file: ReturnedFile, span: tuple[int, int]) -> AsyncIterator[bytes]:
    async for piece in centre.store.stream(prefix, file.sha256, *span):
        yield piece
