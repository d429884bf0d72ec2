"""A reason and the UID of a study that is not theirs to see → an hour in which somebody sees it; everybody hears of it.

What opens the study is a row of `glass`, which the archive's rule of visibility reads. The reason stands there and not
in the audit, which holds its digest: people write what they should not.
"""

import hashlib
from dataclasses import dataclass
from datetime import datetime

import structlog

from lampyris.centre.audit.chain import Entry, Kind, note
from lampyris.centre.database import Connection
from lampyris.centre.people.callers import Caller
from lampyris.centre.refusals import not_found, wait
from lampyris.model import InputError

HOURS = 1
SHORTEST, _LONGEST = 10, 500
_A_DAY = 20


@dataclass(frozen=True, slots=True)
class Opened:
    """A study that somebody opened without a right to it: who, whose study, why, from when until when."""

    login: str
    name: str
    site: str
    study_uid: str
    reason: str
    at: datetime
    until: datetime


async def break_(connection: Connection, caller: Caller, study_uid: str, reason: str) -> datetime:
    """Open a study for an hour; until when. Raises InputError for a short reason, Refusal 404 and 429."""
    reason = " ".join(reason.split())
    if not SHORTEST <= len(reason) <= _LONGEST or not reason.isprintable():
        raise InputError(f"the reason has {SHORTEST} … {_LONGEST} characters, this one has {len(reason)}")
    async with connection.transaction():
        await connection.execute("SELECT FROM person WHERE number = %s FOR UPDATE", (caller.person,))
        cursor = await connection.execute(
            "SELECT count(*) AS today FROM glass WHERE person = %s AND at > now() - interval '1 day'", (caller.person,)
        )
        if (await cursor.fetchone() or {"today": 0})["today"] >= _A_DAY:
            raise wait(429, 3600, f"{_A_DAY} studies were opened in an emergency within a day: ask the site's admin")
        cursor = await connection.execute(
            "INSERT INTO glass (person, study, reason, until)"
            " SELECT %s, number, %s, now() + make_interval(hours => %s) FROM study WHERE uid = %s"
            " RETURNING until, (SELECT site FROM study WHERE number = glass.study) AS site",
            (caller.person, reason, HOURS, study_uid),
        )
        rows = await cursor.fetchall()
        outcome = "success" if rows else "refused"
        detail = {"reason_sha256": hashlib.sha256(reason.encode()).hexdigest()}
        for site in [row["site"] for row in rows] or [None]:
            entry = Entry(Kind.GLASS, caller.login, outcome, caller.address, site, study_uid[:64], detail)
            await note(connection, entry)
            structlog.get_logger().warning("glass broken", who=caller.login, site=site, outcome=outcome)
    if not rows:
        raise not_found()
    return datetime.fromisoformat(str(rows[0]["until"]))


async def own(connection: Connection, caller: Caller) -> list[Opened]:
    """What somebody has opened and may still see."""
    return await _listed(connection, "glass.person = %s AND glass.until > now()", caller.person)


async def opened(connection: Connection, caller: Caller) -> list[Opened]:
    """Studies of the sites of whoever asks that others have opened, the latest first."""
    return await _listed(connection, "study.site = ANY(%s)", list(caller.sites))


async def _listed(connection: Connection, where: str, value: object) -> list[Opened]:
    """`where` is one of this module's own conditions."""
    cursor = await connection.execute(
        "SELECT login, person.name, study.site, study.uid AS study_uid, reason, at, until"
        " FROM glass JOIN person ON person.number = glass.person JOIN study ON study.number = glass.study"
        f" WHERE {where} ORDER BY at DESC LIMIT 500".encode(),
        (value,),
    )
    return [Opened(**row) for row in await cursor.fetchall()]
