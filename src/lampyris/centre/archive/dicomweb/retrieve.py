"""WADO-RS: the UIDs of a study, series or instance → its files, their metadata, frames, or bulk data out of them.

Source: DICOM PS3.18 10.4, with 8.7.3 for media types and transfer syntaxes.
"""

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from functools import partial
from typing import Annotated

import pydicom
from fastapi import APIRouter, Depends, Request
from fastapi.responses import Response, StreamingResponse
from pydicom.dataelem import RawDataElement
from pydicom.dataset import Dataset

from lampyris.centre.archive import queries
from lampyris.centre.archive.dicomweb import pixels
from lampyris.centre.archive.dicomweb.answers import (
    DICOM,
    DICOM_JSON,
    OCTETS,
    PRIVATE,
    Accepted,
    accepted,
    accepts_json,
    base_of,
    not_acceptable,
    tag_of,
    unchanged,
)
from lampyris.centre.archive.dicomweb.search import element
from lampyris.centre.archive.dicomweb.streaming import Content, Part, Stretch, multipart, single
from lampyris.centre.archive.entry import Json
from lampyris.centre.archive.queries import After, Condition, FoundFile, FoundInstance, Visible
from lampyris.centre.archive.viewing import note_view
from lampyris.centre.people.callers import Caller, needs
from lampyris.centre.people.rules import Action
from lampyris.centre.refusals import not_found
from lampyris.centre.request import This
from lampyris.centre.service import Centre
from lampyris.centre.store import Store
from lampyris.dicom.source import DECODING_ERRORS, unquoted

router = APIRouter(prefix="/dicomweb/studies/{study}")
Reader = Annotated[Caller, Depends(needs(Action.STUDY_READ))]
_PIXELS = "7FE00010"
_AT_ONCE = 250
"""Instances whose metadata are held in memory together."""


@router.get("")
async def whole_study(request: Request, centre: This, caller: Reader, study: str) -> Response:
    """All instances of a study."""
    return await _files(request, centre, caller, study)


@router.get("/series/{series}")
async def whole_series(request: Request, centre: This, caller: Reader, study: str, series: str) -> Response:
    """All instances of a series."""
    return await _files(request, centre, caller, study, series)


@router.get("/series/{series}/instances/{instance}")
async def one_instance(
    request: Request, centre: This, caller: Reader, study: str, series: str, instance: str
) -> Response:
    """One instance; as application/dicom alone too, with ranges."""
    return await _files(request, centre, caller, study, series, instance)


@router.get("/metadata")
async def study_metadata(request: Request, centre: This, caller: Reader, study: str) -> Response:
    """Metadata of all instances of a study."""
    return await _metadata(request, centre, caller, study)


@router.get("/series/{series}/metadata")
async def series_metadata(request: Request, centre: This, caller: Reader, study: str, series: str) -> Response:
    """Metadata of all instances of a series."""
    return await _metadata(request, centre, caller, study, series)


@router.get("/series/{series}/instances/{instance}/metadata")
async def metadata(request: Request, centre: This, caller: Reader, study: str, series: str, instance: str) -> Response:
    """Metadata of one instance."""
    return await _metadata(request, centre, caller, study, series, instance)


@router.get("/series/{series}/instances/{instance}/bulkdata/{path:path}")
async def bulk_data(
    request: Request, centre: This, caller: Reader, study: str, series: str, instance: str, path: str
) -> Response:
    """What a BulkDataURI of the metadata stands for."""
    (file,) = await found_files(centre, caller, study, series, instance)
    content: Content
    if path == _PIXELS and file.pixel_at is not None and file.pixel_bytes is not None:
        content = Stretch(file.prefix, file.sha256, file.pixel_at, file.pixel_bytes)
    else:
        content = await asyncio.to_thread(_bulk, centre.store, file, path)
    part = Part(f"{OCTETS}; transfer-syntax={pixels.PLAIN}", str(request.url.path), content)
    for one in accepted(request):
        if one.syntax not in (None, "*", pixels.PLAIN):
            continue
        if one.takes(OCTETS, multipart=True):
            return multipart(request, centre.store, [part], OCTETS, digests=[file.sha256, path])
        if one.takes(OCTETS, multipart=False):
            return single(request, centre.store, part, digest=f"{file.sha256}-{path.replace('/', '-')}")
    raise not_acceptable(f"bulk data are given as {OCTETS} alone, in syntax {pixels.PLAIN}")


def _within(uids: Sequence[str]) -> list[Condition]:
    made: Sequence[Callable[[str], Condition]] = (queries.study_is, queries.series_is, queries.instance_is)
    return [make(uid) for make, uid in zip(made, uids, strict=False)]


async def found_files(centre: Centre, caller: Caller, *uids: str) -> list[FoundFile]:
    """Files of a study, series or instance, each once, noted as seen. Refusal 404 where nothing is visible."""
    async with centre.pool.connection() as connection:
        found = await queries.find_files(connection, queries.visible(caller), _within(uids))
        once = list({one.uid: one for one in reversed(found)}.values())[::-1]
        if not once:
            raise not_found()
        await note_view(connection, caller, once[0].study_uid, once[0].site)
    return once


async def _files(request: Request, centre: Centre, caller: Caller, *uids: str) -> Response:
    asked = [one for one in accepted(request) if one.takes(DICOM, multipart=True) or one.takes(DICOM, multipart=False)]
    if not asked:
        raise not_acceptable(f'instances are given as multipart/related; type="{DICOM}"')
    files = await found_files(centre, caller, *uids)
    for one in asked:
        alone = len(uids) == 3 and one.kind == DICOM and not one.multipart
        if not alone and not one.takes(DICOM, multipart=True):
            continue
        given = [pixels.given_as(file.syntax_uid, one.syntax) for file in files]
        base = base_of(request, centre)
        parts = [_part(centre.store, file, syntax, base) for file, syntax in zip(files, given, strict=True) if syntax]
        if len(parts) < len(files):
            continue
        if alone:
            return single(request, centre.store, parts[0], digest=_digest(files[0], given[0]))
        digests = [_digest(file, syntax) for file, syntax in zip(files, given, strict=True)]
        return multipart(request, centre.store, parts, DICOM, digests=digests)
    raise not_acceptable(_kinds(files, asked))


def _digest(file: FoundFile, syntax: str | None) -> str:
    return file.sha256 if syntax == file.syntax_uid else f"{file.sha256}-{syntax}"


def _part(store: Store, file: FoundFile, syntax: str, base: str) -> Part:
    kind = f"{DICOM}; transfer-syntax={syntax}"
    content: Content = Stretch(file.prefix, file.sha256, 0, file.bytes)
    if syntax != file.syntax_uid:
        content = partial(pixels.plain_file, store, file)
    return Part(kind, place_of(file, base), content)


def place_of(file: FoundFile, base: str) -> str:
    """The address of an instance."""
    return f"{base}/studies/{file.study_uid}/series/{file.series_uid}/instances/{file.uid}"


def _kinds(files: Iterable[FoundFile], asked: Sequence[Accepted]) -> str:
    held = ", ".join(sorted({one.syntax_uid for one in files}))
    wanted = ", ".join(one.syntax or pixels.PLAIN for one in asked)
    return f"held in {held}, asked for in {wanted}: transfer-syntax=* gives what is held"


async def _metadata(request: Request, centre: Centre, caller: Caller, *uids: str) -> Response:
    accepts_json(request)
    files = await found_files(centre, caller, *uids)
    base = base_of(request, centre)
    tag = tag_of([base, *(one.sha256 for one in files)])
    if unchanged(request, tag):
        return Response(status_code=304, headers=PRIVATE | {"ETag": tag})
    once = frozenset(one.number for one in files)
    return StreamingResponse(
        _told(centre, queries.visible(caller), _within(uids), once, base),
        headers=PRIVATE | {"ETag": tag},
        media_type=DICOM_JSON,
    )


async def _told(
    centre: Centre, seen: Visible, within: list[Condition], once: frozenset[int], base: str
) -> AsyncIterator[bytes]:
    """Metadata of instances, page by page, as one JSON list."""
    after: After | None = None
    before = b"["
    while True:
        async with centre.pool.connection() as connection:
            found = await queries.find_instances(connection, seen, within, after=after, limit=_AT_ONCE)
        text = ",".join(
            json.dumps(metadata_of(one, base), ensure_ascii=False, separators=(",", ":"))
            for one in found
            if one.number in once
        ).encode()
        if text:
            yield before + text
            before = b","
        if len(found) < _AT_ONCE:
            break
        after = After(number=found[-1].number)
    yield b"]" if before == b"," else b"[]"


def metadata_of(found: FoundInstance, base: str) -> Json:
    """Metadata with the addresses of what was left out."""
    place = f"{place_of(found, base)}/bulkdata"
    made = _addressed(found.json, place) if "BulkDataURI" in str(found.json) else found.json
    made = made | {"00083002": element("00083002", found.syntax_uid)}
    if found.frames:
        made[_PIXELS] = {"vr": "OW", "BulkDataURI": f"{place}/{_PIXELS}"}
    return {tag: made[tag] for tag in sorted(made)}


def _addressed(metadata: Json, place: str) -> Json:
    made: Json = {}
    for tag, told in metadata.items():
        if "BulkDataURI" in told:
            made[tag] = told | {"BulkDataURI": f"{place}/{told['BulkDataURI']}"}
        elif told.get("vr") == "SQ" and "Value" in told:
            made[tag] = told | {"Value": [_addressed(item, place) for item in told["Value"]]}
        else:
            made[tag] = told
    return made


def _bulk(store: Store, file: FoundFile, path: str) -> bytes:
    """The bytes of an element, by its path in the dataset: tag, or tag/item/tag. Refusal 404 for one that is not."""
    with pixels.opened(store, file) as content, unquoted():
        return _element_at(pydicom.dcmread(content), path.split("/"))


def _element_at(dataset: Dataset, path: Sequence[str]) -> bytes:
    try:
        tag = int(path[0], 16)
        if len(path) == 1:
            raw = dataset.get_item(tag)
            if raw is None:
                raise not_found()
            if isinstance(raw, RawDataElement):
                return bytes(raw.value or b"")
            value = dataset[tag].value
            return value if isinstance(value, bytes) else str(value).encode()
        return _element_at(dataset[tag].value[int(path[1]) - 1], path[2:])
    except DECODING_ERRORS:
        raise not_found() from None
