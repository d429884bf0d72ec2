"""A request → who makes it and what of whom they may see; a dependency for every route that people and machines use."""

import hmac
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Annotated

from fastapi import Depends, Request
from psycopg.rows import DictRow

from lampyris.centre.body import declared_length
from lampyris.centre.database import Connection
from lampyris.centre.people import patience
from lampyris.centre.people.rules import MAY, Action, Role, roles_with
from lampyris.centre.people.sessions import IDLE_MINUTES, cookie_of, digest_of
from lampyris.centre.people.tenants import By
from lampyris.centre.people.tokens import shown
from lampyris.centre.refusals import refusal, unauthorised
from lampyris.centre.request import This, address_of

CSRF_HEADER = "X-CSRF-Token"
_SAFE = frozenset({"GET", "HEAD", "OPTIONS"})


@dataclass(frozen=True, slots=True)
class Caller:
    """Whoever makes a request: their account, the action that the route names, and where they may do it.

    `tenants` are those where a role of theirs allows the action, and all below; `sites` are the sites among them. Every
    statement about anybody's data is bounded by one of the two. `session` is the digest of theirs; it and `csrf` are
    None for a machine or a script, which shows an access token with each request.
    """

    person: int
    login: str
    name: str
    language: str | None
    roles: frozenset[Role]
    action: Action
    tenants: tuple[str, ...]
    sites: tuple[str, ...]
    session: str | None
    csrf: str | None
    address: str

    def may(self, action: Action) -> bool:
        """Whether any role of theirs, anywhere, allows this: what a page offers. Routes ask again, with the place."""
        return action in (Action.OPEN, Action.SELF) or any(action in MAY[role] for role in self.roles)

    @property
    def by(self) -> By:
        """Who this is for functions that change accounts and tenants."""
        return By(self.login, self.person, self.address)


def needs(action: Action) -> Callable[[Request, This], Awaitable[Caller]]:
    """The dependency of a route that does this: `Annotated[Caller, Depends(needs(Action.STUDY_READ))]`.

    Refusal 401 when nobody is signed in, 403 when no role of theirs allows it anywhere or an unsafe request of a
    session bears no token. Things of tenants beyond `tenants` are answered 404, as if they were not.
    """

    async def caller_of(request: Request, centre: This) -> Caller:
        async with centre.pool.connection() as connection:
            caller = await identify(connection, request, action)
        if caller is None:
            raise unauthorised("SIGN_IN", "nobody is signed in, or the session is over: sign in")
        if caller.csrf is not None and request.method not in _SAFE:
            given = request.headers.get(CSRF_HEADER, "")
            if not hmac.compare_digest(given.encode(), caller.csrf.encode()):
                raise refusal(403, "CSRF", f"the request bears no {CSRF_HEADER} of this session: load the page again")
        if not caller.may(action):
            raise refusal(403, "ROLE", f"no role of this account allows {action}")
        if action is Action.STUDY_STORE and request.method not in _SAFE:
            async with centre.pool.connection() as connection:
                size, most = declared_length(request) or 0, centre.settings.stored_bytes
                await patience.check_quota(connection, caller.person, size, most)
        request.state.caller = caller
        return caller

    caller_of.action = action  # type: ignore[attr-defined]
    return caller_of


async def anyone(request: Request, centre: This) -> Caller | None:
    """The dependency of a route that is open to strangers: who it is, if somebody is signed in."""
    async with centre.pool.connection() as connection:
        return await identify(connection, request, Action.OPEN)


anyone.action = Action.OPEN  # type: ignore[attr-defined]
Visitor = Annotated[Caller | None, Depends(anyone)]


Own = Annotated[Caller, Depends(needs(Action.SELF))]
"""Whoever is signed in, for what is their own."""


def session_of(caller: Caller) -> str:
    """The digest of a caller's session; Refusal 403 for an access token, which must not make itself last longer."""
    if caller.session is None:
        raise refusal(403, "SESSION", "an access token does not do this: sign in with a browser")
    return caller.session


async def identify(connection: Connection, request: Request, action: Action) -> Caller | None:
    """Who a request comes from, by its access token or else its session; None for a stranger."""
    address = address_of(request)
    authorization = request.headers.get("authorization")
    if authorization is not None:
        row, session = await _of_token(connection, authorization, address), None
    else:
        cookie = request.cookies.get(cookie_of(request.app.state.centre.settings.audience))
        session = None if cookie is None else digest_of(cookie)
        watches = request.headers.get("accept") == "text/event-stream"
        row = None if session is None else await _of_session(connection, session, used=not watches)
    if row is None:
        return None
    roles, tenants, sites = await _reach(connection, int(row["number"]), action)
    return Caller(
        row["number"], row["login"], row["name"], row["language"], roles, action, tenants, sites, session, row["csrf"],
        address,
    )  # fmt: skip


async def _of_session(connection: Connection, digest: str, *, used: bool) -> DictRow | None:
    """Whose session it is. That it was used is written twice a minute: a viewer asks hundreds of times.

    A stream that opens itself again is no use of it: a page that nobody looks at any more does not keep it alive.
    """
    cursor = await connection.execute(
        "SELECT person.number, login, name, language, csrf, seen < now() - interval '30 seconds' AS due"
        " FROM session JOIN person ON person.number = session.person"
        " WHERE digest = %s AND NOT disabled AND expires > now() AND seen > now() - make_interval(mins => %s)",
        (digest, IDLE_MINUTES),
    )
    row = await cursor.fetchone()
    if row is not None and used and row["due"]:
        await connection.execute("UPDATE session SET seen = now() WHERE digest = %s", (digest,))
    return row


async def _of_token(connection: Connection, authorization: str, address: str) -> DictRow | None:
    """Whose access token it is; with Basic it must be theirs who are named. That it was used is written as above."""
    found = shown(authorization)
    if found is None:
        return None
    login, token = found
    digest = digest_of(token)
    cursor = await connection.execute(
        "SELECT person.number, login, person.name, language, NULL AS csrf,"
        " used IS NULL OR used < now() - interval '30 seconds' OR address IS DISTINCT FROM %(address)s AS due"
        " FROM access_token JOIN person ON person.number = access_token.person"
        " WHERE digest = %(digest)s AND NOT disabled AND expires > now()"
        " AND (%(login)s::text IS NULL OR login = %(login)s)",
        {"digest": digest, "login": login, "address": address},
    )
    row = await cursor.fetchone()
    if row is not None and row["due"]:
        await connection.execute(
            "UPDATE access_token SET used = now(), address = %s WHERE digest = %s", (address, digest)
        )
    return row


async def _reach(
    connection: Connection, person: int, action: Action
) -> tuple[frozenset[Role], tuple[str, ...], tuple[str, ...]]:
    """All roles of a person; the tenants where one of them allows the action, and all below; the sites of these."""
    cursor = await connection.execute(
        """
        WITH RECURSIVE below AS (
            SELECT tenant.id, tenant.kind FROM tenant JOIN granted ON tenant.id = granted.tenant
            WHERE person = %(person)s AND role = ANY(%(roles)s)
            UNION SELECT tenant.id, tenant.kind FROM tenant JOIN below ON tenant.parent = below.id
        )
        SELECT (SELECT coalesce(array_agg(DISTINCT role), '{}') FROM granted WHERE person = %(person)s) AS roles,
               coalesce(array_agg(id), '{}') AS tenants,
               coalesce(array_agg(id) FILTER (WHERE kind = 'site'), '{}') AS sites
        FROM below
        """,
        {"person": person, "roles": [str(role) for role in roles_with(action)]},
    )
    row = await cursor.fetchone()
    assert row is not None
    return frozenset(Role(one) for one in row["roles"]), tuple(row["tenants"]), tuple(row["sites"])
