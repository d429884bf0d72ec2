"""Provinces, cities, counties, sites → a tree; who may change what of it, and of the people who have roles in it."""

from collections.abc import Iterable
from dataclasses import dataclass

from lampyris.centre.audit.chain import Entry, Kind, note
from lampyris.centre.database import Connection
from lampyris.centre.people.rules import MAY_GRANT, Action, Role, roles_with
from lampyris.centre.refusals import refusal
from lampyris.model import InputError
from lampyris.transfer import limits

KINDS = ("centre", "province", "city", "county", "site")
"""From the root down; a tenant's parent is of a kind before its own."""
ROOT = "centre"
_LONGEST_NAME = 120


@dataclass(frozen=True, slots=True)
class By:
    """Who changes something: their number, login and address; `person` None = the operator at the command line."""

    who: str
    person: int | None = None
    address: str | None = None


MACHINE = By("operator")
"""Whoever may run commands as the user of the centre: there is nobody above them."""


@dataclass(frozen=True, slots=True)
class Tenant:
    """A tenant: its place in the tree (`depth` 0 = as high as the asker sees), and how many people have roles there."""

    id: str
    parent: str | None
    kind: str
    name: str
    depth: int
    people: int


async def tenants(connection: Connection, by: By) -> list[Tenant]:
    """The tree as far as somebody may manage people in it, each parent before its children."""
    cursor = await connection.execute(
        """
        WITH RECURSIVE tree AS (
            SELECT tenant.*, 0 AS depth, ARRAY[tenant.name, tenant.id] AS path FROM tenant
            WHERE id = ANY(%(tops)s)
            UNION ALL
            SELECT tenant.*, depth + 1, path || tenant.name || tenant.id
            FROM tenant JOIN tree ON tenant.parent = tree.id
        ), deepest AS (SELECT DISTINCT ON (id) * FROM tree ORDER BY id, depth DESC)
        SELECT id, parent, kind, name, depth,
               (SELECT count(DISTINCT person) FROM granted WHERE tenant = deepest.id) AS people
        FROM deepest ORDER BY path
        """,
        {"tops": await _tops(connection, by, roles_with(Action.PEOPLE_MANAGE))},
    )
    return [Tenant(**row) for row in await cursor.fetchall()]


async def create(connection: Connection, by: By, id: str, *, kind: str, name: str, parent: str = ROOT) -> None:  # noqa: A002
    """A province, city or county. Sites become tenants when they are invited. Raises InputError, Refusal 403 or 404."""
    if not limits.SITE.fullmatch(id):
        raise InputError("a tenant's id is 1 … 63 lower-case letters, digits and dashes, beginning with no dash")
    if kind not in KINDS[1:-1]:
        raise InputError(f"a tenant is made as one of {', '.join(KINDS[1:-1])}; a site by its invitation")
    name = checked_name(name)
    async with connection.transaction():
        await check_holds(connection, by, (Role.OPERATOR,), parent)
        _check_order(kind, await _kind_of(connection, parent))
        found = await connection.execute(
            "INSERT INTO tenant (id, parent, kind, name) VALUES (%s, %s, %s, %s) ON CONFLICT DO NOTHING",
            (id, parent, kind, name),
        )
        if not found.rowcount:
            raise InputError("there is a tenant of that id: choose another")
        await _noted(connection, by, "tenant.create", id, kind=kind, parent=parent)


async def move(connection: Connection, by: By, id: str, parent: str) -> None:  # noqa: A002
    """Put a tenant, and all below it, under another. Needs an operator of both places. Raises as `create`."""
    async with connection.transaction():
        await connection.execute("LOCK TABLE tenant IN SHARE ROW EXCLUSIVE MODE")
        cursor = await connection.execute(
            "SELECT kind, coalesce(parent, id) AS parent FROM tenant WHERE id = %s", (id,)
        )
        row = await cursor.fetchone()
        if row is None:
            raise no_tenant()
        before = str(row["parent"])
        for place in (before, parent):
            await check_holds(connection, by, (Role.OPERATOR,), place)
        if row["kind"] == ROOT:
            raise InputError("the centre is above everything and stays there")
        _check_order(row["kind"], await _kind_of(connection, parent))
        await connection.execute("UPDATE tenant SET parent = %s WHERE id = %s", (parent, id))
        await _noted(connection, by, "tenant.move", id, parent=parent, before=before)


async def rename(connection: Connection, by: By, id: str, name: str) -> None:  # noqa: A002
    """Another name for people to read; the id stays. Raises as `create`."""
    name = checked_name(name)
    async with connection.transaction():
        await check_holds(connection, by, roles_with(Action.PEOPLE_MANAGE), id)
        await connection.execute("UPDATE tenant SET name = %s WHERE id = %s", (name, id))
        await _noted(connection, by, "tenant.rename", id)


async def check_holds(connection: Connection, by: By, roles: Iterable[Role], tenant: str) -> None:
    """Refusal 404 for a tenant where they manage nobody, as if it were not; 403 when none of these roles is theirs."""
    if not await holds(connection, by, roles_with(Action.PEOPLE_MANAGE), tenant):
        raise no_tenant()
    if not await holds(connection, by, roles, tenant):
        raise refusal(403, "ROLE", "nobody gives or changes what is not theirs to give: ask somebody above")


async def check_may_grant(connection: Connection, by: By, role: Role, tenant: str) -> None:
    """Refusal unless they hold, at this tenant or above it, a role that gives this one."""
    await check_holds(connection, by, [each for each in Role if role in MAY_GRANT[each]], tenant)


async def holds(connection: Connection, by: By, roles: Iterable[Role], tenant: str) -> bool:
    """Whether somebody has one of these roles at a tenant that there is, or above it."""
    cursor = await connection.execute(
        """
        WITH RECURSIVE above AS (
            SELECT id, parent FROM tenant WHERE id = %(tenant)s
            UNION SELECT tenant.id, tenant.parent FROM tenant JOIN above ON tenant.id = above.parent
        )
        SELECT FROM above WHERE %(person)s::bigint IS NULL OR EXISTS (
            SELECT FROM granted WHERE granted.tenant = above.id AND person = %(person)s AND role = ANY(%(roles)s))
        LIMIT 1
        """,
        {"tenant": tenant, "person": by.person, "roles": [str(role) for role in roles]},
    )
    return await cursor.fetchone() is not None


async def reach(connection: Connection, by: By) -> tuple[str, ...]:
    """Every tenant where somebody manages people, those below included."""
    return tuple(one.id for one in await tenants(connection, by))


def no_tenant() -> Exception:
    return refusal(404, "NOT_FOUND", "there is no such tenant")


def checked_name(name: str) -> str:
    """A name of a tenant or a person, without what is not seen. Raises InputError."""
    name = " ".join(name.split())
    if not 0 < len(name) <= _LONGEST_NAME or not name.isprintable():
        raise InputError(f"a name has 1 … {_LONGEST_NAME} characters that can be printed")
    return name


async def _tops(connection: Connection, by: By, roles: Iterable[Role]) -> list[str]:
    if by.person is None:
        return [ROOT]
    cursor = await connection.execute(
        "SELECT DISTINCT tenant FROM granted WHERE person = %s AND role = ANY(%s)",
        (by.person, [str(role) for role in roles]),
    )
    return [row["tenant"] for row in await cursor.fetchall()]


async def _kind_of(connection: Connection, tenant: str) -> str:
    cursor = await connection.execute("SELECT kind FROM tenant WHERE id = %s", (tenant,))
    row = await cursor.fetchone()
    if row is None:
        raise no_tenant()
    return str(row["kind"])


def _check_order(kind: str, above: str) -> None:
    if KINDS.index(above) >= KINDS.index(kind):
        raise InputError(f"a {kind} cannot be below a {above}: the order is {', '.join(KINDS)}")


async def _noted(connection: Connection, by: By, what: str, tenant: str, **detail: str) -> None:
    entry = Entry(Kind.CONFIGURE, by.who, address=by.address, object=tenant, detail={"what": what} | detail)
    await note(connection, entry)
