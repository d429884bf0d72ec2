"""Who tries to sign in, who stores how much → how long they wait; in the database, so that all processes know it.

A try is counted before it is answered: a hundred at once are a hundred tries. Each login has five, each address thirty,
without waiting; from then on the wait doubles with each failure. A day without a failure forgets them.
"""

import hashlib
from dataclasses import dataclass
from ipaddress import IPv6Address, ip_address

from lampyris.centre.database import Connection
from lampyris.centre.refusals import refusal, wait

_FREE = {"login": 5, "address": 30}
_LONGEST_S = {"login": 300, "address": 900}
"""A stranger can make the owner of a login wait: so not for longer than this."""


@dataclass(frozen=True, slots=True)
class Try:
    """A try to sign in that was counted: `keys` of its login and its address."""

    keys: tuple[tuple[str, str], ...]


async def counted(connection: Connection, address: str, login: str | None = None) -> Try:
    """Count a try to sign in, at a provider without a login; Refusal 429 with the seconds to wait for another."""
    of_login = () if login is None else (("login", hashlib.sha256(login.encode()).hexdigest()),)
    found = Try((*of_login, ("address", network_of(address))))
    for kind, key in found.keys:
        await _count(connection, kind, f"{kind}:{key}")
    return found


def of_address(address: str) -> Try:
    """What was counted of a try at a provider."""
    return Try((("address", network_of(address)),))


async def forgiven(connection: Connection, tried: Try) -> None:
    """The try was good: its login begins anew; its address has one failure less."""
    for kind, key in tried.keys:
        if kind == "login":
            await connection.execute("DELETE FROM attempt WHERE key = %s", (f"{kind}:{key}",))
        else:
            await connection.execute(
                "UPDATE attempt SET failures = greatest(failures - 1, 0), until = now() WHERE key = %s",
                (f"{kind}:{key}",),
            )


async def check_quota(connection: Connection, person: int, size: int, most: int) -> None:
    """Refusal 413 when so many bytes would be more than somebody may store in a day (UTC)."""
    cursor = await connection.execute(
        "SELECT bytes FROM stored WHERE who = %s AND day = (now() AT TIME ZONE 'UTC')::date", (f"person:{person}",)
    )
    stored = int((await cursor.fetchone() or {"bytes": 0})["bytes"])
    if stored + size > most:
        raise refusal(413, "QUOTA", f"{stored} bytes were stored today of {most} (UTC); {size} more are too many")


async def spend(connection: Connection, person: int, size: int) -> None:
    """Count bytes that somebody has stored today."""
    await connection.execute(
        "INSERT INTO stored (who, day, bytes) VALUES (%s, (now() AT TIME ZONE 'UTC')::date, %s)"
        " ON CONFLICT (who, day) DO UPDATE SET bytes = stored.bytes + excluded.bytes",
        (f"person:{person}", size),
    )


async def reserve(connection: Connection, title: str, size: int, most: int) -> bool:
    """Count bytes that a DICOM node is about to store today; False, and nothing counted, where they are too many."""
    cursor = await connection.execute(
        "INSERT INTO stored (who, day, bytes) SELECT %(who)s, (now() AT TIME ZONE 'UTC')::date, %(size)s"
        " WHERE %(size)s <= %(most)s"
        " ON CONFLICT (who, day) DO UPDATE SET bytes = stored.bytes + excluded.bytes"
        " WHERE stored.bytes + excluded.bytes <= %(most)s RETURNING bytes",
        {"who": f"node:{title}", "size": size, "most": most},
    )
    return await cursor.fetchone() is not None


async def sweep(connection: Connection) -> None:
    """Delete what is over: sessions, links, tries, sign-ins under way, yesterday's quotas."""
    for statement in (
        "DELETE FROM session WHERE expires < now()",
        "DELETE FROM link WHERE expires < now()",
        "DELETE FROM flow WHERE expires < now()",
        "DELETE FROM attempt WHERE last < now() - interval '1 day'",
        "DELETE FROM stored WHERE day < (now() AT TIME ZONE 'UTC')::date",
    ):
        await connection.execute(statement)


def network_of(address: str) -> str:
    """What a rate is counted by: an IPv4 address, or the /64 that one subscriber of IPv6 has to choose from."""
    try:
        parsed = ip_address(address)
    except ValueError:
        return address
    if isinstance(parsed, IPv6Address):
        return str(parsed.ipv4_mapped or IPv6Address(int(parsed) >> 64 << 64))
    return str(parsed)


async def _count(connection: Connection, kind: str, key: str) -> None:
    cursor = await connection.execute(
        """
        INSERT INTO attempt AS old (key, failures, last, until) VALUES (%(key)s, 1, now(), now())
        ON CONFLICT (key) DO UPDATE SET last = now(),
            failures = CASE WHEN old.last < now() - interval '1 day' THEN 1 ELSE old.failures + 1 END,
            until = now() + make_interval(secs => CASE
                WHEN old.last < now() - interval '1 day' OR old.failures + 1 < %(free)s THEN 0
                ELSE least(power(2, least(old.failures + 1 - %(free)s, 20)), %(longest)s) END)
        WHERE old.until <= now() RETURNING failures
        """,
        {"key": key, "free": _FREE[kind], "longest": _LONGEST_S[kind]},
    )
    if await cursor.fetchone() is not None:
        return
    cursor = await connection.execute(
        "SELECT greatest(ceil(extract(epoch FROM until - now())), 1)::int AS seconds FROM attempt WHERE key = %s",
        (key,),
    )
    seconds = int((await cursor.fetchone() or {"seconds": 1})["seconds"])
    raise wait(429, seconds, f"too many tries to sign in: wait {seconds} s")
