"""Which doses, of which sites → quartiles of groups, their course, their distribution, repeats, and all of them."""

from dataclasses import dataclass
from datetime import datetime
from typing import Any

from psycopg.rows import tuple_row

from lampyris.centre.database import Connection
from lampyris.centre.dose.levels import FEW, Level, Quantity, levels_for

BINS = 24
REPEATS = 12
"""How many repeats a page shows; the CSV has all."""
ROWS = (
    "site", "at", "study_uid", "event", "scanner", "examination", "protocol", "age_class", "size_mm", "ctdivol",
    "phantom_mm", "dlp", "ssde", "scanned_mm", "voltage_kv", "source", "level", "repeat_of",
)  # fmt: skip
"""Columns of all doses, as they are saved."""


@dataclass(frozen=True, slots=True)
class Which:
    """A choice of doses; `sites` are those that the caller may see, and bound every query.

    An irradiation that our own report and the scanner's tell of counts once. None and "" choose all, but for age:
    children are told apart from adults, and from those whose age is not told.
    """

    sites: tuple[str, ...]
    site: str = ""
    examination: str = ""
    age_class: str = ""
    since: datetime | None = None
    until: datetime | None = None

    def where(self) -> tuple[str, dict[str, Any]]:
        """The condition on `dose`, and its parameters."""
        terms = ["site = ANY(%(sites)s)", "told_in IS NULL"]
        for name in ("site", "examination", "age_class"):
            terms += [f"{name} = %({name})s"] if getattr(self, name) else []
        terms += [] if self.age_class else ["age_class <> 'child'"]
        terms += ["at >= %(since)s"] if self.since else []
        terms += ["at < %(until)s"] if self.until else []
        values = {name: getattr(self, name) for name in ("site", "examination", "age_class", "since", "until")}
        return " AND ".join(terms), values | {"sites": list(self.sites)}


@dataclass(frozen=True, slots=True)
class Quartiles:
    """25 %, median and 75 % of the irradiations for which a quantity is known."""

    count: int
    low: float
    median: float
    high: float


@dataclass(frozen=True, slots=True)
class Group:
    """Irradiations of one examination by one protocol at one site."""

    examination: str
    protocol: str
    site: str
    count: int
    ctdivol: Quartiles | None
    dlp: Quartiles | None
    ssde: Quartiles | None

    def judged(self, quantity: Quantity) -> tuple[str, Level | None]:
        """How the group's median stands to the first set of levels that has one, and that level.

        "above" the reference level, "below" the level under which images may be too noisy, "within", "few" when there
        are too few to judge, "" when nothing is to be compared with.
        """
        found: Quartiles | None = getattr(self, quantity)
        level = next((one for one in levels_for(self.examination) if one.quantity == quantity), None)
        if found is None or level is None:
            return "", level
        if found.count < FEW:
            return "few", level
        if found.median > level.high:
            return "above", level
        return ("below" if level.low is not None and found.median < level.low else "within"), level


@dataclass(frozen=True, slots=True)
class Overview:
    """All that a choice of doses comes to."""

    count: int
    unknown: int
    repeats: int
    groups: tuple[Group, ...]


@dataclass(frozen=True, slots=True)
class Point:
    """A month, and the quartiles of what was irradiated in it."""

    month: datetime
    quartiles: Quartiles


@dataclass(frozen=True, slots=True)
class Repeat:
    """An irradiation of a body part that was irradiated within the day before, in another study."""

    site: str
    study_uid: str
    at: datetime
    examination: str
    protocol: str
    dlp: float | None
    first_study_uid: str
    hours: float


async def overview(connection: Connection, which: Which) -> Overview:
    """Groups in the order of examination, protocol and site, and what they sum up to."""
    where, values = which.where()
    cursor = await connection.execute(
        f"""
        SELECT examination, protocol, site, count(*) AS count, count(ctdivol) AS ctdivol_count,
               count(dlp) AS dlp_count, count(ssde) AS ssde_count,
               {", ".join(_quartiles(name) for name in ("ctdivol", "dlp", "ssde"))}
        FROM dose WHERE {where} GROUP BY examination, protocol, site ORDER BY examination, protocol, site
        """.encode(),
        values,
    )
    groups = tuple(_group(row) for row in await cursor.fetchall())
    cursor = await connection.execute(
        f"SELECT count(*) AS count FROM dose WHERE repeat_of IS NOT NULL AND {where}".encode(), values
    )
    repeats = (await cursor.fetchone() or {})["count"]
    count = sum(one.count for one in groups)
    known = sum(one.ctdivol.count for one in groups if one.ctdivol is not None)
    return Overview(count, count - known, repeats, groups)


def _quartiles(name: str) -> str:
    return f"percentile_cont(ARRAY[0.25, 0.5, 0.75]) WITHIN GROUP (ORDER BY {name}) AS {name}"


def _group(row: dict[str, Any]) -> Group:
    told = {name: _told(row[f"{name}_count"], row[name]) for name in ("ctdivol", "dlp", "ssde")}
    return Group(row["examination"], row["protocol"], row["site"], row["count"], **told)


def _told(count: int, quartiles: list[float] | None) -> Quartiles | None:
    return Quartiles(count, *quartiles) if count and quartiles is not None else None


async def trend(connection: Connection, which: Which, quantity: Quantity) -> tuple[Point, ...]:
    """Quartiles of each month (UTC), in order."""
    where, values = which.where()
    cursor = await connection.execute(
        f"SELECT date_trunc('month', at, 'UTC') AS month, count({quantity}) AS count, {_quartiles(quantity)}"
        f" FROM dose WHERE {where} AND {quantity} IS NOT NULL GROUP BY 1 ORDER BY 1".encode(),
        values,
    )
    found = [(row["month"], _told(row["count"], row[quantity])) for row in await cursor.fetchall()]
    return tuple(Point(month, told) for month, told in found if told is not None)


async def histogram(connection: Connection, which: Which, quantity: Quantity) -> tuple[float, tuple[int, ...]]:
    """Width of a bin and how many irradiations fall into each, from 0; the last bin holds all that is beyond 99 %."""
    where, values = which.where()
    chosen = f"FROM dose WHERE {where} AND {quantity} IS NOT NULL"
    cursor = await connection.execute(
        f"SELECT percentile_cont(0.99) WITHIN GROUP (ORDER BY {quantity}) AS most {chosen}".encode(), values
    )
    most = (await cursor.fetchone() or {})["most"]
    counts = [0] * BINS
    if not most:  # none, or none above 0
        return 0.0, tuple(counts)
    width = float(most) / (BINS - 1)
    cursor = await connection.execute(
        f"SELECT least(floor({quantity} / %(width)s), {BINS - 1})::integer AS bin, count(*) AS count {chosen}"
        " GROUP BY 1".encode(),
        values | {"width": width},
    )
    for row in await cursor.fetchall():
        counts[row["bin"]] = row["count"]
    return width, tuple(counts)


async def repeats(connection: Connection, which: Which, count: int = REPEATS) -> tuple[Repeat, ...]:
    """The latest repeats."""
    where, values = which.where()
    cursor = await connection.execute(
        f"""
        SELECT chosen.*, first.study_uid AS first_study_uid,
               extract(epoch FROM chosen.at - first.at) / 3600 AS hours
        FROM (SELECT site, study_uid, at, examination, protocol, dlp, repeat_of FROM dose
              WHERE repeat_of IS NOT NULL AND {where} ORDER BY at DESC LIMIT %(count)s) AS chosen
        JOIN dose AS first ON first.number = chosen.repeat_of ORDER BY chosen.at DESC
        """.encode(),
        values | {"count": count},
    )
    return tuple(
        Repeat(
            row["site"], row["study_uid"], row["at"], row["examination"], row["protocol"], row["dlp"],
            row["first_study_uid"], float(row["hours"]),
        )
        for row in await cursor.fetchall()
    )  # fmt: skip


async def every(connection: Connection, which: Which) -> list[tuple[Any, ...]]:
    """All chosen doses, the latest first, as tuples of `ROWS`; a repeat is told by the event that it repeats."""
    where, values = which.where()
    names = ", ".join(f"dose.{name}" for name in ROWS if name != "repeat_of")
    async with connection.cursor(row_factory=tuple_row) as cursor:
        await cursor.execute(
            f"SELECT {names}, first.event FROM (SELECT * FROM dose WHERE {where}) AS dose"
            " LEFT JOIN dose AS first ON first.number = dose.repeat_of ORDER BY dose.at DESC, dose.number".encode(),
            values,
        )
        return await cursor.fetchall()
