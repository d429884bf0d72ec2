"""A study and another tenant → who may see it besides its owner, and until when."""

from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta

from lampyris.centre.archive import queries
from lampyris.centre.archive.queries import FoundStudy
from lampyris.centre.audit.chain import Entry, Kind, note
from lampyris.centre.database import Connection
from lampyris.centre.people.callers import Caller
from lampyris.centre.refusals import not_found
from lampyris.model import InputError

LONGEST = timedelta(days=366)


@dataclass(frozen=True, slots=True)
class Share:
    """A tenant that sees a study, or one series of it: since when and until when (None: until it is taken back)."""

    tenant: str
    name: str
    kind: str
    whole: bool
    at: datetime
    until: datetime | None


@dataclass(frozen=True, slots=True)
class Place:
    """A tenant that a study can be shared with."""

    id: str
    name: str
    kind: str


async def shares(connection: Connection, study: int) -> list[Share]:
    """With whom a study is shared now, by name."""
    cursor = await connection.execute(
        "SELECT tenant, name, kind, bool_or(series IS NULL) AS whole, min(at) AS at,"
        " CASE WHEN bool_or(until IS NULL) THEN NULL ELSE max(until) END AS until"
        " FROM shared JOIN tenant ON tenant.id = tenant WHERE study = %s AND (until IS NULL OR until > now())"
        " GROUP BY tenant, name, kind ORDER BY name, tenant",
        (study,),
    )
    return [Share(**row) for row in await cursor.fetchall()]


async def places(connection: Connection, study: FoundStudy) -> list[Place]:
    """Every tenant but the study's own site: to whom one refers a patient need not be below oneself."""
    cursor = await connection.execute(
        "SELECT id, name, kind FROM tenant WHERE id <> %s AND kind <> 'centre' ORDER BY name, id", (study.site,)
    )
    return [Place(**row) for row in await cursor.fetchall()]


async def share(connection: Connection, caller: Caller, uid: str, tenant: str, until: str) -> None:
    """Let a tenant see a study of the caller's sites until the end of a day (ISO 8601, UTC), or until it is taken back.

    Raises InputError for another date, Refusal 404 for a study or a tenant that there is not.
    """
    ends = _end_of(until)
    async with connection.transaction():
        study = await _own(connection, caller, uid)
        found = await connection.execute(
            "INSERT INTO shared (study, tenant, until) SELECT %s, id, %s FROM tenant WHERE id = %s AND id <> %s"
            " AND kind <> 'centre' ON CONFLICT (study, coalesce(series, 0), tenant) DO UPDATE"
            " SET until = excluded.until, at = now()",
            (study.number, ends, tenant, study.site),
        )
        if not found.rowcount:
            raise not_found()
        detail = {"tenant": tenant, "until": None if ends is None else ends.isoformat()}
        await _noted(connection, caller, study, detail)


async def take_back(connection: Connection, caller: Caller, uid: str, tenant: str) -> None:
    """A tenant sees the study no more. Refusal 404 when it did not, or the study is not of the caller's sites."""
    async with connection.transaction():
        study = await _own(connection, caller, uid)
        found = await connection.execute("DELETE FROM shared WHERE study = %s AND tenant = %s", (study.number, tenant))
        if not found.rowcount:
            raise not_found()
        await _noted(connection, caller, study, {"tenant": tenant, "until": "taken back"})


async def _own(connection: Connection, caller: Caller, uid: str) -> FoundStudy:
    """The study among those of the caller's sites: what was shared with somebody is not theirs to share on."""
    found = await queries.find_study(connection, queries.of_sites(caller.sites), uid)
    if found is None:
        raise not_found()
    return found


async def _noted(connection: Connection, caller: Caller, study: FoundStudy, detail: dict[str, str | None]) -> None:
    entry = Entry(Kind.SHARE, caller.login, address=caller.address, site=study.site, object=study.uid, detail=detail)
    await note(connection, entry)


def _end_of(day: str) -> datetime | None:
    if not day:
        return None
    try:
        ends = datetime.combine(date.fromisoformat(day), time.max, UTC)
    except ValueError:
        raise InputError("until when: a day as YYYY-MM-DD, or nothing") from None
    now = datetime.now(UTC)
    if not now < ends < now + LONGEST:
        raise InputError(f"until when: a day from today on and within {LONGEST.days} days")
    return ends
