"""QIDO-RS: a query → the studies, series or instances that match it, with the attributes that it asks for.

Source: DICOM PS3.18 10.6, tables 10.6.3-3 to 10.6.3-5 for what is always told.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Request
from fastapi.responses import Response
from pydicom.datadict import dictionary_VR

from lampyris.centre.archive import queries
from lampyris.centre.archive.dicomweb.answers import PRIVATE, accepts_json, base_of, json_answer, warning
from lampyris.centre.archive.entry import Json
from lampyris.centre.archive.matching import Attribute, Level, attribute, matches
from lampyris.centre.archive.queries import After, Condition, FoundInstance, FoundSeries, FoundStudy
from lampyris.centre.audit.chain import Entry, Kind, note
from lampyris.centre.people.callers import Caller, needs
from lampyris.centre.people.rules import Action
from lampyris.centre.refusals import refusal
from lampyris.centre.request import This
from lampyris.model import InputError

router = APIRouter(prefix="/dicomweb")
Reader = Annotated[Caller, Depends(needs(Action.STUDY_READ))]

_STUDY = (
    "00080020", "00080030", "00080050", "00080061", "00080090", "00100010", "00100020", "00100030", "00100040",
    "0020000D", "00200010", "00201206", "00201208",
)  # fmt: skip
_SERIES = (
    "00080060", "0008103E", "0020000E", "00200011", "00201209", "00400244", "00400245", "00400275",
)  # fmt: skip
_INSTANCE = ("00080016", "00080018", "00200013", "00280008", "00280010", "00280011", "00280100")
_ALWAYS = {Level.STUDY: _STUDY, Level.SERIES: _SERIES, Level.INSTANCE: _INSTANCE}
"""What is told of each level, empty where nothing is known."""
_WHERE_TOLD = frozenset(
    {"00080061", "00201206", "00201208", "00280008", "00280010", "00280011", "00280100", "00400244", "00400245",
     "00400275"}
)  # fmt: skip
"""Of these only what is known: an empty one says nothing."""
_KEYS = ("00080201", "00081190", "0020000D", "0020000E")
"""Time zone, address and UIDs: what every result is found again by."""
MOST = {Level.STUDY: 1000, Level.SERIES: 5000, Level.INSTANCE: 20_000}
"""Results of one answer at most; a Warning tells that there are more."""
_DEEPEST = 1_000_000
_OWN = frozenset({"limit", "offset", "fuzzymatching", "includefield", "accept", "emptyvaluematching",
                  "multiplevaluematching"})  # fmt: skip
_FUZZY = "The fuzzymatching parameter is not supported. Only literal matching has been performed."
_MORE = "There are additional results that can be requested."


@dataclass(frozen=True, slots=True)
class Query:
    """A search as it was asked: conditions, attributes to tell besides, which part of the results."""

    level: Level
    within: int
    wanted: tuple[Condition, ...] = ()
    include: tuple[Attribute, ...] = ()
    everything: bool = False
    limit: int = 0
    offset: int = 0
    warnings: tuple[str, ...] = field(default=())
    keys: tuple[str, ...] = field(default=())
    """Attributes that were matched, for the audit: never their values."""


@router.get("/studies")
async def studies(request: Request, centre: This, caller: Reader) -> Response:
    """Search for studies."""
    return await _answer(request, centre, caller, Level.STUDY)


@router.get("/series")
async def all_series(request: Request, centre: This, caller: Reader) -> Response:
    """Search for series of all studies."""
    return await _answer(request, centre, caller, Level.SERIES)


@router.get("/instances")
async def all_instances(request: Request, centre: This, caller: Reader) -> Response:
    """Search for instances of all studies."""
    return await _answer(request, centre, caller, Level.INSTANCE)


@router.get("/studies/{study}/series")
async def series(request: Request, centre: This, caller: Reader, study: str) -> Response:
    """Search for series of a study."""
    return await _answer(request, centre, caller, Level.SERIES, study)


@router.get("/studies/{study}/instances")
async def instances_of_study(request: Request, centre: This, caller: Reader, study: str) -> Response:
    """Search for instances of a study."""
    return await _answer(request, centre, caller, Level.INSTANCE, study)


@router.get("/studies/{study}/series/{series_uid}/instances")
async def instances(request: Request, centre: This, caller: Reader, study: str, series_uid: str) -> Response:
    """Search for instances of a series."""
    return await _answer(request, centre, caller, Level.INSTANCE, study, series_uid)


async def _answer(request: Request, centre: This, caller: Caller, level: Level, *within: str) -> Response:
    accepts_json(request)
    query = _query(request, level, within)
    seen = queries.visible(caller)
    bounds = [make(uid) for make, uid in zip((queries.study_is, queries.series_is), within, strict=False)]
    find: Callable[..., Any] = (queries.find_studies, queries.find_series, queries.find_instances)[level]
    async with centre.pool.connection() as connection:
        found = await find(
            connection, seen, [*bounds, *query.wanted], after=After(skip=query.offset), limit=query.limit + 1
        )
        if not within:
            count = min(len(found), query.limit)
            detail = {"service": "QIDO-RS", "level": level.name.lower(), "keys": list(query.keys), "found": count}
            await note(connection, Entry(Kind.QUERY, caller.login, address=caller.address, detail=detail))
    said = [*query.warnings, *([_MORE] if len(found) > query.limit else [])]
    headers = {"Warning": ", ".join(map(warning, said))} if said else {}
    if not found:
        return Response(status_code=204, headers=PRIVATE | headers)
    base = base_of(request, centre)
    return json_answer(request, [_told(one, query, base) for one in found[: query.limit]], headers=headers)


def _query(request: Request, level: Level, within: tuple[str, ...]) -> Query:
    """The query parameters. Refusal 400 for one that cannot be understood: to ignore it would tell of other people."""
    given = request.query_params
    wanted, include, keys, everything = [], [], [], False
    try:
        for text in given.getlist("includefield"):
            for name in filter(None, text.split(",")):
                everything = everything or name == "all"
                include += [] if name == "all" else [attribute(name)]
        for name, value in given.multi_items():
            if name in _OWN:
                continue
            what = attribute(name)
            if what.level > level:
                raise InputError(f"{name[:64]} is no attribute of a {level.name.lower()} and cannot be matched here")
            condition = matches(what, value)
            wanted += [] if condition is None else [condition]
            include.append(what)
            keys.append(".".join(what.path))
        limit, offset = _number(given, "limit", MOST[level]), _number(given, "offset", 0)
    except InputError as error:
        raise refusal(400, "QUERY", str(error)) from None
    if not limit > 0 or offset > _DEEPEST:
        raise refusal(400, "QUERY", f"limit is 1 or more, offset at most {_DEEPEST}")
    warnings = (_FUZZY,) if given.get("fuzzymatching", "false").lower() == "true" else ()
    return Query(
        level, len(within), tuple(wanted), tuple(include), everything, min(limit, MOST[level]), offset, warnings,
        tuple(keys),
    )  # fmt: skip


def _number(given: Mapping[str, str], name: str, otherwise: int) -> int:
    text = given.get(name)
    if text is None:
        return otherwise
    if not (text.isascii() and text.isdigit() and len(text) < 10):
        raise InputError(f"{name} is no whole number")
    return int(text)


def _told(found: FoundStudy | FoundSeries | FoundInstance, query: Query, base: str) -> Json:
    """One result, its attributes in order of their tags."""
    if isinstance(found, FoundStudy):
        levels = {Level.STUDY: _of_study(found, base)}
    elif isinstance(found, FoundSeries):
        levels = {Level.STUDY: found.study_json, Level.SERIES: _of_series(found, base)}
    else:
        levels = {Level.STUDY: found.json, Level.SERIES: found.json, Level.INSTANCE: _of_instance(found, base)}
    made: Json = {"00080005": element("00080005", "ISO_IR 192"), "00080056": element("00080056", "ONLINE")}
    for level, source in levels.items():
        named = _ALWAYS[level] if query.within <= level else ()
        asked = [one.path[0] for one in query.include if one.level == level]
        every = tuple(source) if query.everything and level == query.level else ()
        for tag in (*named, *asked, *every, *_KEYS):
            if tag in source and "BulkDataURI" not in source[tag]:
                made[tag] = source[tag]
            elif tag in named and tag not in _WHERE_TOLD:
                made[tag] = element(tag)
    return {tag: made[tag] for tag in sorted(made)}


def _of_study(found: FoundStudy, base: str) -> Json:
    counts = {"00080061": found.modalities, "00201206": (found.series_count,), "00201208": (found.instance_count,)}
    return (
        found.json
        | {tag: element(tag, *values) for tag, values in counts.items()}
        | {"00081190": element("00081190", f"{base}/studies/{found.uid}")}
    )


def _of_series(found: FoundSeries, base: str) -> Json:
    of_series = {
        tag: told for tag, told in found.json.items() if Attribute((tag,)).level is Level.SERIES or tag == "00080201"
    }
    return of_series | {
        "0020000D": element("0020000D", found.study_uid),
        "00081190": element("00081190", f"{base}/studies/{found.study_uid}/series/{found.uid}"),
        "00201209": element("00201209", found.instance_count),
    }


def _of_instance(found: FoundInstance, base: str) -> Json:
    place = f"{base}/studies/{found.study_uid}/series/{found.series_uid}/instances/{found.uid}"
    return found.json | {
        "00081190": element("00081190", place),
        "00083002": element("00083002", found.syntax_uid),
    }


def element(tag: str, *values: Any) -> Json:
    """An element of DICOM JSON."""
    return {"vr": _vr(tag), "Value": list(values)} if values else {"vr": _vr(tag)}


def _vr(tag: str) -> str:
    return str(dictionary_VR(int(tag, 16)))
