"""Somebody looks at a study → one entry of the audit, not one for each of its images."""

import time
from collections import OrderedDict

from lampyris.centre.audit.chain import Entry, Kind, note
from lampyris.centre.database import Connection
from lampyris.centre.people.callers import Caller

ONCE_MINUTES = 10
"""Who goes on looking at a study is noted again after so long."""
_REMEMBERED = 10_000
_LATELY: OrderedDict[tuple[str, str, str], float] = OrderedDict()
"""When this process noted a view, or found it noted: a viewer asks hundreds of times."""


async def note_view(connection: Connection, caller: Caller, study_uid: str, site: str) -> None:
    """Note that a caller looks at a study of a site, unless that was noted in the same session a short time ago."""
    session = (caller.session or "")[:16]
    key, now = (session or caller.login, study_uid, site), time.monotonic()
    if now - _LATELY.get(key, float("-inf")) < ONCE_MINUTES * 60:
        return
    _LATELY[key] = now
    while len(_LATELY) > _REMEMBERED:
        _LATELY.popitem(last=False)
    try:
        cursor = await connection.execute(
            "SELECT FROM audit WHERE object = %s AND kind = %s AND who = %s AND site = %s"
            " AND detail ->> 'session' = %s AND at > now() - make_interval(mins => %s) LIMIT 1",
            (study_uid, Kind.VIEW, caller.login, site, session, ONCE_MINUTES),
        )
        if await cursor.fetchone() is None:
            told = {"session": session}
            await note(connection, Entry(Kind.VIEW, caller.login, "success", caller.address, site, study_uid, told))
    except BaseException:
        _LATELY.pop(key, None)
        raise
