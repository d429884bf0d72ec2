"""Sites that somebody may see → their scans: found, counted, told one by one, and those that changed meanwhile.

Pages are turned by key (the number of the last scan shown), so that the thousandth costs what the first does.
"""

from dataclasses import dataclass
from datetime import datetime

from lampyris.centre.database import Connection
from lampyris.centre.refusals import not_found

PAGE = 50
STATIONS = ("fetch", "correct", "reconstruct", "passport", "assess", "write", "store")
"""Where a worker tells that it is, in order: its own first and last step around the stations of `lampyris.path`."""
_OVERLAP = 200
"""Events that are looked at again: one with a lower number may have been written later."""
_MOST_RECIPES = 200

_SCAN = """
    SELECT scan.number, scan.site, tenant.name AS site_name, scan.id AS scan, state, priority, recipe, opened,
           committed, finished, updated, attempts, station, progress, reason_code, reason, verdict,
           returned IS NOT NULL AS returned, raw_deleted IS NULL AS raw_here,
           CASE state WHEN 'open' THEN (SELECT coalesce(sum(chunk.bytes), 0) FROM chunk WHERE chunk.scan = scan.number)
                      ELSE bytes END::bigint AS bytes,
           extract(epoch FROM coalesce(finished, now()) - opened)::float8 AS age_s
    FROM scan JOIN tenant ON tenant.id = scan.site
"""


@dataclass(frozen=True, slots=True)
class Sought:
    """Which scans: of a site, in a state, with a recipe, opened in the last hours, whose id begins so."""

    site: str = ""
    state: str = ""
    recipe: str = ""
    hours: int = 0
    text: str = ""

    def conditions(self) -> list[str]:
        """SQL of those that are asked for, over the parameters `values`; a planner sees no others."""
        asked = {
            "scan.site = %(site)s": self.site,
            "state = %(state)s": self.state,
            "recipe = %(recipe)s": self.recipe,
            "opened > now() - make_interval(hours => %(hours)s)": self.hours,
            "scan.id LIKE %(text)s": self.text,
        }
        return [condition for condition, value in asked.items() if value]

    def values(self) -> dict[str, object]:
        whole = {name: getattr(self, name) for name in ("site", "state", "recipe", "hours")}
        return whole | {"text": self.text.replace("\\", "\\\\").replace("%", "\\%").replace("_", "\\_") + "%"}


@dataclass(frozen=True, slots=True)
class ScanSeen:
    """A scan as people see it: pseudonymous, where it is, since when, why it ended as it did. Times are UTC."""

    number: int
    site: str
    site_name: str
    scan: str
    state: str
    priority: str
    recipe: str | None
    opened: datetime
    committed: datetime | None
    finished: datetime | None
    updated: datetime
    attempts: int
    station: str | None
    progress: float
    reason_code: str | None
    reason: str | None
    verdict: str | None
    returned: bool
    raw_here: bool
    bytes: int
    age_s: float

    @property
    def may_retry(self) -> bool:
        return self.state == "failed" and self.raw_here

    @property
    def stations(self) -> list[tuple[str, str]]:
        """Each station, and whether it is past, now or next."""
        at = STATIONS.index(self.station) if self.station in STATIONS else -1
        return [(name, "past" if n < at else "now" if n == at else "next") for n, name in enumerate(STATIONS)]


@dataclass(frozen=True, slots=True)
class Happened:
    """One line of a scan's story: what it became, when, and how long that lasted (None: it still does)."""

    at: datetime
    state: str
    reason_code: str | None
    lasted_s: float | None


@dataclass(frozen=True, slots=True)
class Counts:
    """What is under way, and how it went in the last 24 hours; `oldest_s` of those that wait for a worker, in s."""

    open: int
    queued: int
    running: int
    stat: int
    oldest_s: float | None
    oldest_stat_s: float | None
    done: int
    refused: int
    failed: int


async def find(
    connection: Connection,
    sites: tuple[str, ...],
    sought: Sought,
    *,
    before: int = 0,
    after: int = 0,
    count: int = PAGE,
) -> list[ScanSeen]:
    """Scans of these sites, the newest first; those before and after a number, if it is given."""
    keys = {"scan.number < %(before)s": before, "scan.number > %(after)s": after}
    conditions = ["scan.site = ANY(%(sites)s)", *sought.conditions(), *(key for key, value in keys.items() if value)]
    cursor = await connection.execute(
        f"{_SCAN} WHERE {' AND '.join(conditions)} ORDER BY scan.number DESC LIMIT %(count)s".encode(),
        sought.values() | {"sites": list(sites), "before": before, "after": after, "count": count},
    )
    return [ScanSeen(**row) for row in await cursor.fetchall()]


async def one(connection: Connection, sites: tuple[str, ...], site: str, scan: str) -> ScanSeen:
    """A scan; Refusal 404 when it is not one of these sites'."""
    cursor = await connection.execute(
        f"{_SCAN} WHERE scan.site = %s AND scan.site = ANY(%s) AND scan.id = %s", (site, list(sites), scan)
    )
    row = await cursor.fetchone()
    if row is None:
        raise not_found()
    return ScanSeen(**row)


async def story(connection: Connection, number: int) -> list[Happened]:
    """What happened to a scan, in order."""
    cursor = await connection.execute(
        "SELECT at, state, reason_code,"
        " extract(epoch FROM lead(at) OVER (ORDER BY number) - at)::float8 AS lasted_s"
        " FROM event WHERE scan = %s ORDER BY number",
        (number,),
    )
    return [Happened(**row) for row in await cursor.fetchall()]


async def studies(connection: Connection, number: int) -> list[str]:
    """UIDs of the studies in the archive that hold what was made of a scan."""
    cursor = await connection.execute(
        "SELECT DISTINCT study.uid FROM series JOIN study ON study.number = series.study WHERE series.scan = %s",
        (number,),
    )
    return [str(row["uid"]) for row in await cursor.fetchall()]


async def counts(connection: Connection, sites: tuple[str, ...]) -> Counts:
    """How many scans of these sites are where."""
    cursor = await connection.execute(
        """
        SELECT under_way.*, ended.*,
               (SELECT count(*) FROM scan WHERE state = 'failed' AND site = ANY(%(sites)s)) AS failed
        FROM (
            SELECT count(*) FILTER (WHERE state = 'open') AS open, count(*) FILTER (WHERE state = 'queued') AS queued,
                   count(*) FILTER (WHERE state = 'running') AS running,
                   count(*) FILTER (WHERE priority = 'stat') AS stat,
                   extract(epoch FROM now() - min(committed) FILTER (WHERE state = 'queued'))::float8 AS oldest_s,
                   extract(epoch FROM now() - min(committed) FILTER (WHERE state = 'queued' AND priority = 'stat'))
                       ::float8 AS oldest_stat_s
            FROM scan WHERE state IN ('open', 'queued', 'running') AND site = ANY(%(sites)s)
        ) AS under_way, (
            SELECT count(*) FILTER (WHERE state = 'done') AS done, count(*) FILTER (WHERE state = 'refused') AS refused
            FROM scan WHERE finished > now() - interval '24 hours' AND site = ANY(%(sites)s)
        ) AS ended
        """,
        {"sites": list(sites)},
    )
    row = await cursor.fetchone()
    assert row is not None
    return Counts(**row)


async def recipes(connection: Connection, sites: tuple[str, ...]) -> list[str]:
    """Recipes that scans of these sites asked for: one step of the index for each, however many scans there are."""
    cursor = await connection.execute(
        """
        WITH RECURSIVE named AS (
            (SELECT recipe FROM scan WHERE recipe IS NOT NULL ORDER BY recipe USING ~<~ LIMIT 1)
            UNION ALL
            SELECT (SELECT recipe FROM scan WHERE recipe ~>~ named.recipe ORDER BY recipe USING ~<~ LIMIT 1)
            FROM named WHERE named.recipe IS NOT NULL
        )
        SELECT recipe FROM (SELECT recipe FROM named WHERE recipe IS NOT NULL LIMIT %(most)s) AS few
        WHERE EXISTS (SELECT FROM scan WHERE scan.recipe = few.recipe AND site = ANY(%(sites)s))
        """,
        {"sites": list(sites), "most": _MOST_RECIPES},
    )
    return [str(row["recipe"]) for row in await cursor.fetchall()]


async def names(connection: Connection, sites: tuple[str, ...]) -> dict[str, str]:
    """Name of each of these sites by its id, in the order of names."""
    cursor = await connection.execute(
        "SELECT id, name FROM tenant WHERE id = ANY(%s) ORDER BY name, id", (list(sites),)
    )
    return {row["id"]: row["name"] for row in await cursor.fetchall()}


@dataclass(frozen=True, slots=True)
class Mark:
    """How far a stream has told: the last event, the last change of one at a worker, and what it said of each scan."""

    event: int
    since: datetime
    told: dict[int, tuple[datetime, int]]


async def mark(connection: Connection) -> Mark:
    """Now."""
    cursor = await connection.execute("SELECT coalesce(max(number), 0) AS event, now() AS since FROM event")
    row = await cursor.fetchone()
    assert row is not None
    return Mark(row["event"], row["since"], {})


async def changed(
    connection: Connection, sites: tuple[str, ...], last: Mark, *, most: int = 2 * PAGE
) -> tuple[list[ScanSeen], Mark]:
    """Scans of these sites that changed, received more or moved on at a worker since; and the mark for next time."""
    newest = await mark(connection)
    asked = {"sites": list(sites), "event": last.event - _OVERLAP, "since": last.since, "most": most}
    cursor = await connection.execute(
        """
        SELECT scan AS number FROM event WHERE event.number > %(event)s AND event.site = ANY(%(sites)s)
        UNION SELECT number FROM scan WHERE state = 'running' AND updated > %(since)s AND site = ANY(%(sites)s)
        UNION (SELECT number FROM scan WHERE state = 'open' AND site = ANY(%(sites)s) ORDER BY number DESC
               LIMIT %(most)s)
        """,
        asked,
    )
    numbers = [row["number"] for row in await cursor.fetchall()]
    cursor = await connection.execute(
        f"{_SCAN} WHERE scan.number = ANY(%(numbers)s) ORDER BY scan.updated DESC LIMIT %(most)s".encode(),
        asked | {"numbers": numbers},
    )
    seen = [ScanSeen(**row) for row in await cursor.fetchall()]
    fresh = [each for each in seen if last.told.get(each.number) != (each.updated, each.bytes)]
    told = {each.number: (each.updated, each.bytes) for each in seen}
    moments = [each.updated for each in seen if each.state == "running"]
    return fresh, Mark(max(last.event, newest.event), max([last.since, *moments]), told)
