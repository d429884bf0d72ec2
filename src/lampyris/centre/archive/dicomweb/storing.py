"""STOW-RS: DICOM files in a request → files in the store and rows of the index, or a reason for each that is refused.

Nothing in a file is changed, and nothing is taken twice: a file whose content is there already is answered as stored,
one that says something else under the same SOP Instance UID is refused.

Source: DICOM PS3.18 10.5 (with table 10.5.3-1 for statuses), PS3.7 C.5 and PS3.4 B.2.3 for failure reasons.
"""

import asyncio
from collections import Counter, deque
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Annotated

from fastapi import APIRouter, Depends, Request
from fastapi.responses import Response
from pydicom.uid import UID, AllTransferSyntaxes

from lampyris.centre.archive.dicomweb.answers import DICOM, MULTIPART, accepts_json, base_of, json_answer, parameters
from lampyris.centre.archive.dicomweb.parts import Arrived, alone, parts_of
from lampyris.centre.archive.dicomweb.search import element
from lampyris.centre.archive.entry import Entry, Json, is_uid, read_entry
from lampyris.centre.archive.index import Filed
from lampyris.centre.archive.intake import enter
from lampyris.centre.audit import chain
from lampyris.centre.body import declared_length
from lampyris.centre.people.callers import Caller, needs
from lampyris.centre.people.rules import Action
from lampyris.centre.refusals import refusal, wait
from lampyris.centre.request import This
from lampyris.centre.service import Centre
from lampyris.centre.store import dicom_prefix
from lampyris.model import FormatError, StorageError

router = APIRouter(prefix="/dicomweb")
Storer = Annotated[Caller, Depends(needs(Action.STUDY_STORE))]
BATCH = 64
"""Files that enter the index together."""
_AT_ONCE = 4
"""Files of one request that are looked at and written at a time."""
_SUFFIX = ("Storage", "Storage - For Presentation", "Storage - For Processing")
_DIRECTORY = "1.2.840.10008.1.3.10"

CANNOT_UNDERSTAND, MISMATCH, NO_CLASS, DUPLICATE, NO_ROOM = 0xC000, 0xA900, 0x0122, 0x0111, 0xA700
"""Failure reasons: the file cannot be read; it contradicts itself or the request; its SOP class is none of storage;
another content has its SOP Instance UID; the disk is full."""


@dataclass(frozen=True, slots=True)
class Refused:
    """A file that is not taken: why, by number and in words, and its UIDs where they are known."""

    reason: int
    words: str
    class_uid: str = ""
    uid: str = ""


@dataclass(slots=True)
class _Request:
    """What a request brings: to which site and study, and what became of its files so far."""

    centre: Centre
    caller: Caller
    site: str
    study: str | None
    stored: list[Entry] = field(default_factory=list)
    refused: list[Refused] = field(default_factory=list)
    fresh: Counter[str] = field(default_factory=Counter)
    """New instances of each study."""


@router.post("/studies")
async def store(request: Request, centre: This, caller: Storer) -> Response:
    """Store instances of any study; `site` says of which of the caller's sites they are, where there are several."""
    return await _store(request, centre, caller, None)


@router.post("/studies/{study}")
async def store_in_study(request: Request, centre: This, caller: Storer, study: str) -> Response:
    """Store instances of this study; those of others are refused."""
    if not is_uid(study):
        raise refusal(400, "REQUEST", "the path names no study by its UID")
    return await _store(request, centre, caller, study)


async def _store(request: Request, centre: Centre, caller: Caller, study: str | None) -> Response:
    accepts_json(request)
    most = centre.settings.upload_bytes
    if (declared_length(request) or 0) > most:
        raise refusal(413, "LENGTH", f"the body is longer than the {most} bytes that one request may bring")
    free = centre.store.free_bytes()
    if free is not None and free < centre.settings.free_bytes:
        raise wait(503, 60, "the centre's disk is nearly full: its operator makes room")
    said = _Request(centre, caller, _site_of(request, caller), study)
    with request.app.state.gate.passed(said.site, "routine"):
        try:
            await _take(said, _arriving(request, centre, most))
        finally:
            await _noted(said)
    return _answer(request, said)


def _site_of(request: Request, caller: Caller) -> str:
    """The site that what is stored will belong to. Refusal 403 or 409."""
    chosen = request.query_params.get("site")
    if chosen is not None:
        if chosen not in caller.sites:
            raise refusal(403, "SITE", "this account may not store at such a site")
        return chosen
    if len(caller.sites) != 1:
        raise refusal(
            409, "SITE", f"this account may store at {len(caller.sites)} sites: say at which, …/studies?site=SITE"
        )
    return caller.sites[0]


def _arriving(request: Request, centre: Centre, most: int) -> AsyncIterator[Arrived]:
    """The files of a body. Refusal 415 for another media type than DICOM's."""
    kind, told = parameters(request.headers.get("content-type", ""))
    folder = centre.settings.folder / "scratch"
    if kind == DICOM:
        return alone(request, kind, folder, most=most)
    if kind != MULTIPART or told.get("type", DICOM).lower() != DICOM or "boundary" not in told:
        raise refusal(415, "MEDIA_TYPE", f'expected {MULTIPART}; type="{DICOM}"; boundary=…, or {DICOM}')
    return parts_of(request, told["boundary"], folder, most=most)


async def _take(said: _Request, arriving: AsyncIterator[Arrived]) -> None:
    """Keep each file as it comes, a few at a time, and let them enter the index in batches, in their order."""
    running: deque[asyncio.Task[Entry | Refused]] = deque()
    batch: list[Entry] = []
    try:
        async for part in arriving:
            running.append(asyncio.create_task(_keep(said, part)))
            if len(running) >= _AT_ONCE:
                await _sort(said, batch, await running.popleft())
    finally:
        for one in running:
            await _sort(said, batch, await one)
        if batch:
            await _register(said, batch)


async def _sort(said: _Request, batch: list[Entry], found: Entry | Refused) -> None:
    if isinstance(found, Refused):
        said.refused.append(found)
        return
    batch.append(found)
    if len(batch) >= BATCH:
        await _register(said, batch)
        batch.clear()


async def _keep(said: _Request, part: Arrived) -> Entry | Refused:
    """Look at a file and put it into the store."""
    try:
        entry = await asyncio.to_thread(_examined, said, part)
        if isinstance(entry, Refused):
            return entry
        try:
            with part.pieces() as pieces:
                await said.centre.store.put(entry.prefix, entry.sha256, pieces)
        except StorageError as error:
            return Refused(NO_ROOM, str(error), entry.class_uid, entry.uid)
        return entry
    finally:
        part.close()


def _examined(said: _Request, part: Arrived) -> Entry | Refused:
    """What the index would keep of a file, or why it is not taken."""
    if part.kind != DICOM:
        return Refused(CANNOT_UNDERSTAND, f"the part is no {DICOM}")
    try:
        entry = read_entry(part.file(), "", sha256=part.sha256, size=part.size)
    except FormatError as error:
        return Refused(CANNOT_UNDERSTAND, str(error))
    if entry is None:
        return Refused(CANNOT_UNDERSTAND, "the file has no mark DICM at byte 128")
    if trouble := _trouble(entry, said.study):
        return Refused(*trouble, entry.class_uid, entry.uid)
    return entry.at(dicom_prefix(said.site, entry.study_uid, entry.series_uid))


def _trouble(entry: Entry, study: str | None) -> tuple[int, str] | None:
    """Why a file that can be read is not taken."""
    kind = UID(entry.class_uid)
    if kind == _DIRECTORY or not (kind.is_private or kind.name == kind or kind.name.endswith(_SUFFIX)):
        return NO_CLASS, f"{kind.name} is no SOP class of storage"
    if entry.syntax_uid not in AllTransferSyntaxes:
        return CANNOT_UNDERSTAND, "its transfer syntax is none of DICOM's"
    if entry.meta_uid not in ("", entry.uid):
        return MISMATCH, "the SOP Instance UID of its header is not that of its data set"
    if study is not None and entry.study_uid != study:
        return MISMATCH, "it belongs to another study than the request is about"
    return None


async def _register(said: _Request, batch: list[Entry]) -> None:
    """Let files enter the index."""
    for entry, became in zip(batch, await enter(said.centre, said.site, batch), strict=True):
        if became is Filed.DIFFERS:
            words = "another content is stored under this SOP Instance UID"
            said.refused.append(Refused(DUPLICATE, words, entry.class_uid, entry.uid))
        else:
            said.stored.append(entry)
            said.fresh[entry.study_uid] += became is Filed.NEW


async def _noted(said: _Request) -> None:
    """Note for each study what was stored, and that something was refused."""
    told = [
        (study, "success", {"service": "STOW-RS", "new": said.fresh[study], "stored": count})
        for study, count in Counter(one.study_uid for one in said.stored).items()
    ]
    if said.refused:
        reasons = Counter(f"0x{one.reason:04X}" for one in said.refused)
        told.append((said.study or "", "refused", {"service": "STOW-RS", "refused": dict(reasons)}))
    async with said.centre.pool.connection() as connection:
        for study, outcome, detail in told:
            who, address = said.caller.login, said.caller.address
            await chain.note(
                connection, chain.Entry(chain.Kind.STORE, who, outcome, address, said.site, study or None, detail)
            )


def _answer(request: Request, said: _Request) -> Response:
    """200 for all stored, 202 for some, 409 for none; each file with its UIDs, and its reason where it was refused."""
    base = base_of(request, said.centre)
    answer: Json = {}
    studies = {one.study_uid for one in said.stored}
    if len(studies) == 1:
        answer["00081190"] = element("00081190", f"{base}/studies/{studies.pop()}")
    named = [one for one in said.refused if one.uid]
    if named:
        answer["00081198"] = element("00081198", *(_named(one) | _why(one) for one in named))
    if said.stored:
        answer["00081199"] = element("00081199", *(_where(one, base) for one in said.stored))
    if len(named) < len(said.refused):
        answer["0008119A"] = element("0008119A", *(_why(one) for one in said.refused if not one.uid))
    if not said.stored and not said.refused:
        raise refusal(400, "REQUEST", "the body holds no instance")
    status = 200 if not said.refused else 202 if said.stored else 409
    return json_answer(request, answer, status=status)


def _where(entry: Entry, base: str) -> Json:
    place = f"{base}/studies/{entry.study_uid}/series/{entry.series_uid}/instances/{entry.uid}"
    return {
        "00081150": element("00081150", entry.class_uid),
        "00081155": element("00081155", entry.uid),
        "00081190": element("00081190", place),
    }


def _named(one: Refused) -> Json:
    return {"00081150": element("00081150", one.class_uid), "00081155": element("00081155", one.uid)}


def _why(one: Refused) -> Json:
    """The reason by number, and as an error comment (0000,0902) in words."""
    return {
        "00000902": {"vr": "LO", "Value": [one.words[:64]]},
        "00081197": element("00081197", one.reason),
    }
