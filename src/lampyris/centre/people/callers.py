"""A request → who makes it and what of whom they may see; a dependency for every route that people and machines use."""

import hmac
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from fastapi import Request

from lampyris.centre.database import Connection
from lampyris.centre.people.rules import MAY, Action, Role, roles_with
from lampyris.centre.people.sessions import COOKIE, IDLE_MINUTES, digest_of
from lampyris.centre.refusals import refusal, unauthorised
from lampyris.centre.request import This

CSRF_HEADER = "X-CSRF-Token"
_SAFE = frozenset({"GET", "HEAD", "OPTIONS"})


@dataclass(frozen=True, slots=True)
class Caller:
    """Whoever makes a request: their account, the action that the route names, and where they may do it.

    `tenants` are those where a role of theirs allows the action, and all below; `sites` are the sites among them. Every
    statement about anybody's data is bounded by one of the two. `csrf` is None for a caller without a session.
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
        request.state.caller = caller
        return caller

    caller_of.action = action  # type: ignore[attr-defined]
    return caller_of


async def identify(connection: Connection, request: Request, action: Action) -> Caller | None:
    """Who a request comes from, by its session; None for a stranger."""
    cookie = request.cookies.get(COOKIE)
    if cookie is None:
        return None
    digest = digest_of(cookie)
    cursor = await connection.execute(
        "UPDATE session SET seen = now() FROM person WHERE digest = %s AND person.number = session.person"
        " AND NOT disabled AND expires > now() AND seen > now() - make_interval(mins => %s)"
        " RETURNING person.number, login, name, language, csrf",
        (digest, IDLE_MINUTES),
    )
    row = await cursor.fetchone()
    if row is None:
        return None
    roles, tenants, sites = await _reach(connection, int(row["number"]), action)
    address = request.client.host if request.client else ""
    return Caller(
        row["number"], row["login"], row["name"], row["language"], roles, action, tenants, sites, digest, row["csrf"],
        address,
    )  # fmt: skip


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
