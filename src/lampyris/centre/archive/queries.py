"""Who asks, and for what → studies, series and instances that they may see, from the index alone."""

import dataclasses
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, TypeVar

from lampyris.centre.archive.entry import Json
from lampyris.centre.archive.index import whole
from lampyris.centre.database import Connection
from lampyris.centre.people.callers import Caller

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Condition:
    """A condition in SQL with its values, in their order. Its text is ours alone: what anybody sends is a value."""

    text: str
    values: tuple[Any, ...] = ()


EVERYTHING = Condition("true")


@dataclass(frozen=True, slots=True)
class Visible:
    """What somebody may see: conditions on the tables `study` and `series`; an instance goes with its series.

    `all_of_study` holds for studies that are seen whole: of others only shared series, and counts say so.
    """

    study: Condition
    series: Condition
    all_of_study: Condition


@dataclass(frozen=True, slots=True)
class After:
    """Where a page of a list begins: behind the last row of another, studies by (date, number), others by number.

    `skip` is for those who count instead, as QIDO-RS does.
    """

    date: str | None = None
    number: int | None = None
    skip: int = 0


@dataclass(frozen=True, slots=True)
class FoundStudy:
    """A study of a site. Dates are YYYYMMDD, names have their groups parted by "="; `json` is what QIDO gives of it.

    Counts, modalities and bytes are of what the one who asks may see. `complete` tells that this is all of the study.
    """

    number: int
    site: str
    uid: str
    patient_id: str
    issuer: str
    patient_name: str
    birth_date: str
    sex: str
    study_date: str
    study_time: str
    accession: str
    study_id: str
    description: str
    referring: str
    modalities: tuple[str, ...]
    series_count: int
    instance_count: int
    bytes: int
    json: Json
    complete: bool
    created: datetime
    updated: datetime


@dataclass(frozen=True, slots=True)
class FoundSeries:
    """A series. `scan` is the number of the scan that it was made of; `role` image, noise, bias, dose, report or other.

    `json` is the metadata of its first instance.
    """

    number: int
    study: int
    study_uid: str
    site: str
    scan: int | None
    uid: str
    modality: str
    series_number: int | None
    description: str
    body_part: str
    recipe: str | None
    role: str
    instance_count: int
    json: Json
    study_json: Json
    created: datetime


@dataclass(frozen=True, slots=True)
class FoundFile:
    """The file of an instance: `store.path_of(prefix, sha256)` or `store.stream(prefix, sha256, …)` gives it.

    `frames` is 0 for what has no pixels; `pixel_at` and `pixel_bytes` tell where native pixel data lie in the file,
    None for others.
    """

    number: int
    study: int
    series: int
    site: str
    study_uid: str
    series_uid: str
    uid: str
    class_uid: str
    syntax_uid: str
    instance_number: int | None
    frames: int
    prefix: str
    bytes: int
    sha256: str
    pixel_at: int | None
    pixel_bytes: int | None


@dataclass(frozen=True, slots=True)
class FoundInstance(FoundFile):
    """An instance: its file, and in `json` all of its metadata, bulk data left out."""

    json: Json


_MANY = 50
_AMONG_MANY = "IN (SELECT unnest(%s::text[]))"
"""So that the planner does not weigh each of a thousand sites; of few it does, and finds the index by them."""


def visible(caller: Caller) -> Visible:
    """What a caller may see: studies of their sites, shared with a tenant of theirs, or opened by breaking the glass.

    Conditions are arrays that the database fills once a query, so that an index finds the rows.
    """
    now, sites, tenants = "(until IS NULL OR until > now())", list(caller.sites), list(caller.tenants)
    among = _AMONG_MANY if len(tenants) > _MANY else "= ANY(%s)"
    complete = Condition(
        f"(site {among} OR study.number = ANY(ARRAY("
        f"SELECT shared.study FROM shared WHERE tenant {among} AND shared.series IS NULL AND {now}"
        " UNION ALL SELECT glass.study FROM glass WHERE person = %s AND until > now())))",
        (sites, tenants, caller.person),
    )
    single = f"ARRAY(SELECT shared.{{}} FROM shared WHERE tenant {among} AND shared.series IS NOT NULL AND {now})"
    return Visible(
        Condition(f"({complete.text} OR study.number = ANY({single.format('study')}))", (*complete.values, tenants)),
        Condition(f"({complete.text} OR series.number = ANY({single.format('series')}))", (*complete.values, tenants)),
        complete,
    )


def of_sites(sites: Iterable[str]) -> Visible:
    """Everything of these sites and nothing else: by what a node, or an action on what one owns, is bounded."""
    mine = Condition("site = ANY(%s)", (list(sites),))
    return Visible(mine, mine, mine)


def study_is(uid: str) -> Condition:
    """The study with this StudyInstanceUID."""
    return Condition("study.uid = %s", (uid,))


def series_is(uid: str) -> Condition:
    """The series with this SeriesInstanceUID."""
    return Condition("series.uid = %s", (uid,))


def instance_is(uid: str) -> Condition:
    """The instance with this SOPInstanceUID."""
    return Condition("instance.uid = %s", (uid,))


async def find_studies(
    connection: Connection,
    seen: Visible,
    wanted: Sequence[Condition] = (),
    *,
    after: After | None = None,
    limit: int = 100,
) -> list[FoundStudy]:
    """Studies that fulfil all conditions (on `study`), the newest first."""
    start = after or After()
    behind = Condition("true")
    if start.number is not None:
        behind = Condition("(study_date, study.number) < (%s, %s)", (start.date, start.number))
    text, values = _all((seen.study, *wanted, behind))
    cursor = await connection.execute(
        f"SELECT study.*, {seen.all_of_study.text} AS complete FROM study WHERE {text}"
        " ORDER BY study_date DESC, study.number DESC LIMIT %s OFFSET %s".encode(),
        (*seen.all_of_study.values, *values, limit, start.skip),
        prepare=False,
    )
    rows = await cursor.fetchall()
    partly = await _partly(connection, seen, [row["number"] for row in rows if not row["complete"]])
    return [_made(FoundStudy, row | partly.get(row["number"], {})) for row in rows]


async def find_study(connection: Connection, seen: Visible, uid: str) -> FoundStudy | None:
    """The study with this UID; the one that came first where several sites have it."""
    found = await find_studies(connection, seen, [study_is(uid)])
    return min(found, key=lambda one: one.number, default=None)


async def find_series(
    connection: Connection,
    seen: Visible,
    wanted: Sequence[Condition] = (),
    *,
    after: After | None = None,
    limit: int = 1000,
) -> list[FoundSeries]:
    """Series that fulfil all conditions (on `study` and `series`), in the order in which they came."""
    start = after or After()
    text, values = _all((seen.series, *wanted, _behind("series", start)))
    cursor = await connection.execute(
        "SELECT series.*, study.uid AS study_uid, site, study.json AS study_json FROM series"
        f" JOIN study ON study.number = study WHERE {text} ORDER BY series.number LIMIT %s OFFSET %s".encode(),
        (*values, limit, start.skip),
        prepare=False,
    )
    return [_made(FoundSeries, row) for row in await cursor.fetchall()]


async def find_files(
    connection: Connection,
    seen: Visible,
    wanted: Sequence[Condition] = (),
    *,
    after: After | None = None,
    limit: int = 100_000,
) -> list[FoundFile]:
    """Files of instances that fulfil all conditions (on `study`, `series` and `instance`), as they came."""
    return [_made(FoundFile, row) for row in await _instances(connection, seen, wanted, after or After(), limit)]


async def find_instances(
    connection: Connection,
    seen: Visible,
    wanted: Sequence[Condition] = (),
    *,
    after: After | None = None,
    limit: int = 1000,
) -> list[FoundInstance]:
    """Instances with their metadata, as `find_files` finds them."""
    rows = await _instances(connection, seen, wanted, after or After(), limit, more=", own")
    cursor = await connection.execute(
        "SELECT number, json FROM series WHERE number = ANY(%s)", (list({row["series"] for row in rows}),)
    )
    common = {row["number"]: row["json"] for row in await cursor.fetchall()}
    return [_made(FoundInstance, row | {"json": whole(common.get(row["series"], {}), row["own"])}) for row in rows]


_ABOVE = ("site", "study_uid", "series_uid")
_FILE = ", ".join(f"instance.{one.name}" for one in dataclasses.fields(FoundFile) if one.name not in _ABOVE)


async def _instances(
    connection: Connection, seen: Visible, wanted: Sequence[Condition], start: After, limit: int, more: str = ""
) -> list[dict[str, Any]]:
    text, values = _all((seen.series, *wanted, _behind("instance", start)))
    cursor = await connection.execute(
        f"SELECT {_FILE}{more}, study.uid AS study_uid, series.uid AS series_uid, site FROM instance"
        " JOIN series ON series.number = instance.series JOIN study ON study.number = series.study"
        f" WHERE {text} ORDER BY instance.number LIMIT %s OFFSET %s".encode(),
        (*values, limit, start.skip),
        prepare=False,
    )
    return await cursor.fetchall()


def _behind(table: str, after: After) -> Condition:
    return EVERYTHING if after.number is None else Condition(f"{table}.number > %s", (after.number,))


def _all(conditions: Iterable[Condition]) -> tuple[str, tuple[Any, ...]]:
    kept = list(conditions)
    return " AND ".join(one.text for one in kept), tuple(value for one in kept for value in one.values)


async def _partly(connection: Connection, seen: Visible, studies: list[int]) -> dict[int, dict[str, Any]]:
    """Counts of studies of which single series are seen."""
    if not studies:
        return {}
    cursor = await connection.execute(
        "SELECT study.number, count(*) AS series_count, sum(series.instance_count) AS instance_count,"
        " array_agg(DISTINCT modality ORDER BY modality) AS modalities, sum("
        "(SELECT sum(instance.bytes) FROM instance WHERE instance.series = series.number))::bigint AS bytes"
        f" FROM series JOIN study ON study.number = study WHERE study.number = ANY(%s) AND {seen.series.text}"
        " GROUP BY study.number".encode(),
        (studies, *seen.series.values),
        prepare=False,
    )
    return {row["number"]: row for row in await cursor.fetchall()}


def _made(kind: type[T], row: dict[str, Any]) -> T:
    """A row as what it stands for; columns that nobody outside needs are left out."""
    told = {one.name: row[one.name] for one in dataclasses.fields(kind)}  # type: ignore[arg-type]
    return kind(**told | ({"modalities": tuple(told["modalities"])} if "modalities" in told else {}))
