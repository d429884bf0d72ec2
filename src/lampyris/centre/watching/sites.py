"""Sites that somebody may see → how each is: line, spool, keys, scans; and what an agent tells of itself."""

from dataclasses import dataclass
from datetime import datetime

from psycopg.types.json import Jsonb

from lampyris.centre.database import Connection
from lampyris.centre.refusals import not_found
from lampyris.transfer import SiteReport

PAGE = 100
SILENT_S = 180.0
"""A site that tells how it is does so every minute: after three it is silent."""
SILENT_OLD_S = 900.0
"""One of an older release gets itself a token every five minutes."""
STALE_CALIBRATION_S = 30 * 86400.0

_SITE = """
    SELECT site.id AS site, tenant.name, above.id AS place, above.name AS place_name, suspended, site.created,
           (SELECT count(*) FROM site_key WHERE site_key.site = site.id) AS keys,
           (SELECT max(expires) FROM enrolment_code
            WHERE enrolment_code.site = site.id AND used_by IS NULL AND expires > now()) AS code_until,
           seen, extract(epoch FROM now() - seen)::float8 AS seen_s,
           report.at AS reported, version, spool_scans, spool_bytes,
           oldest_s + extract(epoch FROM now() - report.at)::float8 AS oldest_s,
           (SELECT max(value::float8) FROM jsonb_each_text(calibrations))
               + extract(epoch FROM now() - report.at)::float8 AS calibration_s,
           coalesce(calibrations, '{}') AS calibrations,
           (SELECT opened FROM scan WHERE scan.site = site.id ORDER BY number DESC LIMIT 1) AS last_scan,
           coalesce(ended.done, 0) AS done, coalesce(ended.refused, 0) AS refused, coalesce(failed.failed, 0) AS failed
    FROM site JOIN tenant ON tenant.id = site.id JOIN tenant AS above ON above.id = tenant.parent
    LEFT JOIN site_report AS report ON report.site = site.id
    LEFT JOIN (
        SELECT site, count(*) FILTER (WHERE state = 'done') AS done,
               count(*) FILTER (WHERE state = 'refused') AS refused
        FROM scan WHERE finished > now() - interval '24 hours' AND site = ANY(%(sites)s) GROUP BY site
    ) AS ended ON ended.site = site.id
    LEFT JOIN (
        SELECT site, count(*) AS failed FROM scan WHERE state = 'failed' AND site = ANY(%(sites)s) GROUP BY site
    ) AS failed ON failed.site = site.id
    WHERE site.id = ANY(%(sites)s)
"""


@dataclass(frozen=True, slots=True)
class SiteSeen:
    """A site as people see it. Ages are in seconds and of now; None: the site has never said it.

    `seen` is when it last showed who it is, `code_until` how long a code that nobody has used is good, `place` the
    tenant above it; `done` and `refused` are of the last 24 hours, `failed` all that can be looked at.
    """

    site: str
    name: str
    place: str
    place_name: str
    suspended: bool
    created: datetime
    keys: int
    code_until: datetime | None
    seen: datetime | None
    seen_s: float | None
    reported: datetime | None
    version: str | None
    spool_scans: int | None
    spool_bytes: int | None
    oldest_s: float | None
    calibration_s: float | None
    calibrations: dict[str, float]
    last_scan: datetime | None
    done: int
    refused: int
    failed: int

    @property
    def link(self) -> str:
        """shut out, awaited (it has no key yet), keyless (its keys were taken back), up, or silent."""
        if self.suspended:
            return "shut"
        if not self.keys:
            return "awaited" if self.seen is None else "keyless"
        longest_s = SILENT_OLD_S if self.reported is None else SILENT_S
        return "up" if self.seen_s is not None and self.seen_s <= longest_s else "silent"

    @property
    def stale(self) -> bool:
        """Whether a calibration is older than a month."""
        return self.calibration_s is not None and self.calibration_s > STALE_CALIBRATION_S

    @property
    def gist(self) -> tuple[object, ...]:
        """What makes a row worth telling again, ages left out."""
        return (
            self.name, self.place, self.link, self.keys, self.code_until, self.version, self.spool_scans,
            self.last_scan, self.refused, self.failed, self.stale,
        )  # fmt: skip


@dataclass(frozen=True, slots=True)
class Place:
    """A tenant that sites may be put under."""

    id: str
    name: str
    kind: str


async def find(
    connection: Connection, sites: tuple[str, ...], *, text: str = "", after: str = "", count: int = PAGE
) -> list[SiteSeen]:
    """Sites by name; those whose name or id holds a text, those after a site, if they are given."""
    conditions = {
        "(strpos(lower(tenant.name), %(text)s) > 0 OR strpos(site.id, %(text)s) > 0)": text,
        "(tenant.name, site.id) > (SELECT name, id FROM tenant WHERE id = %(after)s)": after,
    }
    asked = "".join(f" AND {condition}" for condition, value in conditions.items() if value)
    cursor = await connection.execute(
        f"{_SITE}{asked} ORDER BY tenant.name, site.id LIMIT %(count)s".encode(),
        {"sites": list(sites), "text": text.lower(), "after": after, "count": count},
    )
    return [SiteSeen(**row) for row in await cursor.fetchall()]


async def one(connection: Connection, sites: tuple[str, ...], site: str) -> SiteSeen:
    """A site; Refusal 404 when it is not one of these."""
    found = await find(connection, (site,)) if site in sites else []
    if not found:
        raise not_found()
    return found[0]


async def places(connection: Connection, tenants: tuple[str, ...]) -> list[Place]:
    """Those of these tenants that sites may be put under, from the root down."""
    cursor = await connection.execute(
        "SELECT id, name, kind FROM tenant WHERE id = ANY(%s) AND kind <> 'site'"
        " ORDER BY array_position(ARRAY['centre', 'province', 'city', 'county'], kind), name, id",
        (list(tenants),),
    )
    return [Place(**row) for row in await cursor.fetchall()]


async def known(connection: Connection, site: str) -> bool:
    """Whether a tenant of that id is there, whoever may see it."""
    cursor = await connection.execute("SELECT FROM tenant WHERE id = %s", (site,))
    return await cursor.fetchone() is not None


async def put(connection: Connection, site: str, name: str, place: str) -> None:
    """Name a site that was just invited, and put it in its place of the tree."""
    await connection.execute("UPDATE tenant SET name = %s, parent = %s WHERE id = %s", (name, place, site))


async def note_seen(connection: Connection, site: str) -> None:
    """A site has shown who it is."""
    await connection.execute("UPDATE site SET seen = now() WHERE id = %s", (site,))


async def note_report(connection: Connection, site: str, report: SiteReport) -> None:
    """Keep what an agent tells, in the place of what it told before."""
    async with connection.transaction():
        await note_seen(connection, site)
        await connection.execute(
            "INSERT INTO site_report (site, at, version, spool_scans, spool_bytes, oldest_s, calibrations)"
            " VALUES (%s, now(), %s, %s, %s, %s, %s) ON CONFLICT (site) DO UPDATE SET at = excluded.at,"
            " version = excluded.version, spool_scans = excluded.spool_scans, spool_bytes = excluded.spool_bytes,"
            " oldest_s = excluded.oldest_s, calibrations = excluded.calibrations",
            (
                site, report.version, report.spool_scans, report.spool_bytes, report.oldest_s,
                Jsonb(report.calibrations),
            ),
        )  # fmt: skip
