"""Who changes what of whom → people and machines with roles at tenants, as the Administration page and operators do.

Nobody gives what they do not have: each function asks where the one who acts may do it, and writes it into the audit.
A person is in somebody's hands, to shut out or to give another password, when every role that the person has is theirs
to give. A person without any role is in the hands of the operators of the whole centre.
"""

from dataclasses import dataclass
from datetime import datetime

from lampyris.centre.audit.chain import Entry, Kind, note
from lampyris.centre.database import Connection
from lampyris.centre.people import passwords, tenants
from lampyris.centre.people.rules import Action, Role, roles_with
from lampyris.centre.people.tenants import By
from lampyris.centre.refusals import Refusal, refusal
from lampyris.model import InputError


@dataclass(frozen=True, slots=True)
class Granted:
    """A role at a tenant; `origin` oidc = by a claim of the provider, made anew at each sign-in."""

    role: Role
    tenant: str
    origin: str


@dataclass(frozen=True, slots=True)
class Person:
    """A person, or a machine with an account (`service`): what they may and how they sign in."""

    number: int
    login: str
    name: str
    service: bool
    disabled: bool
    has_password: bool
    single_sign_on: bool
    created: datetime
    seen: datetime | None
    granted: tuple[Granted, ...]


@dataclass(frozen=True, slots=True)
class Newcomer:
    """Who is to be added: the first role comes with the account, for somebody has to answer for it."""

    login: str
    name: str
    role: Role
    tenant: str
    service: bool = False


async def people(connection: Connection, by: By) -> list[Person]:
    """Everybody who has a role where somebody manages people, by login; the roles that they have there.

    The operators of the whole centre see those without any role, too.
    """
    within = await tenants.reach(connection, by)
    return await _persons(
        connection,
        "granted.tenant = ANY(%(within)s) OR (%(root)s = ANY(%(within)s) AND role IS NULL)",
        {"within": list(within), "root": tenants.ROOT},
    )


async def own(connection: Connection, person: int) -> Person:
    """Somebody's own account, with all of their roles."""
    return (await _persons(connection, "person.number = %(person)s", {"person": person}))[0]


async def change_own(connection: Connection, by: By, name: str, language: str) -> None:
    """Another name and language of one's own. Raises InputError."""
    await connection.execute(
        "UPDATE person SET name = %s, language = %s WHERE number = %s",
        (tenants.checked_name(name), language, by.person),
    )


async def create(connection: Connection, by: By, new: Newcomer) -> int:
    """A new person, or with `service` a machine, who cannot sign in yet; their number.

    `password_link` lets a person choose a password, `tokens.issue` gives a machine its token. Raises InputError for a
    login that is taken or malformed, Refusal 403 or 404 for a role or a place that is not theirs to give.
    """
    if not passwords.LOGIN.fullmatch(new.login):
        raise InputError("a login is 1 … 64 of a-z, 0-9, dot, dash, underscore, @, and begins with a letter or digit")
    name = tenants.checked_name(new.name)
    async with connection.transaction():
        await tenants.check_may_grant(connection, by, new.role, new.tenant)
        cursor = await connection.execute(
            "INSERT INTO person (login, name, service) VALUES (%s, %s, %s) ON CONFLICT DO NOTHING RETURNING number",
            (new.login, name, new.service),
        )
        row = await cursor.fetchone()
        if row is None:
            raise InputError("the login is taken: choose another")
        person = int(row["number"])
        await noted(connection, by, "person.create", new.login, service=new.service)
        await _grant(connection, by, (person, new.login), new.role, new.tenant)
    return person


async def grant(connection: Connection, by: By, login: str, role: Role, tenant: str) -> None:
    """Give somebody else a role at a tenant and everything below it. Raises as `create`."""
    async with connection.transaction():
        await tenants.check_may_grant(connection, by, role, tenant)
        person = await _known(connection, login)
        if person == by.person:
            raise refusal(403, "ROLE", "nobody gives a role to themselves: ask another")
        await _grant(connection, by, (person, login), role, tenant)


async def take_back(connection: Connection, by: By, login: str, role: Role, tenant: str) -> None:
    """Take a role of somebody back. The centre keeps one operator at its root. Raises InputError, Refusal."""
    async with connection.transaction():
        await tenants.check_may_grant(connection, by, role, tenant)
        person = await _known(connection, login)
        await _keep_one(connection, by, person, role=role, tenant=tenant)
        found = await connection.execute(
            "DELETE FROM granted WHERE person = %s AND role = %s AND tenant = %s AND origin = 'local'",
            (person, role, tenant),
        )
        if not found.rowcount:
            raise InputError("there is no such role that was given here; the provider's are taken back at the provider")
        await noted(connection, by, "role.take_back", login, role=str(role), tenant=tenant)


async def disable(connection: Connection, by: By, login: str, *, disabled: bool = True) -> None:
    """Shut somebody out at once, sessions and tokens, or let them in again. Raises InputError, Refusal."""
    async with connection.transaction():
        person = await in_hand(connection, by, login)
        if disabled and person == by.person:
            raise InputError("nobody shuts themselves out: ask another")
        if disabled:
            await _keep_one(connection, by, person)
        await connection.execute("UPDATE person SET disabled = %s WHERE number = %s", (disabled, person))
        if disabled:
            for table in ("session", "link"):
                await connection.execute(f"DELETE FROM {table} WHERE person = %s".encode(), (person,))
        await noted(connection, by, "person.disable" if disabled else "person.enable", login)


async def password_link(connection: Connection, by: By, login: str) -> str:
    """The code of a link by which somebody chooses a password, good once and for 72 hours. Raises InputError, Refusal.

    The old password is good until the new one is chosen. The link is `/sign-in/once/CODE` at the public URL.
    """
    async with connection.transaction():
        person = await in_hand(connection, by, login)
        cursor = await connection.execute("SELECT service OR disabled AS shut FROM person WHERE number = %s", (person,))
        if (await cursor.fetchone() or {})["shut"]:
            raise InputError("a machine has tokens and no password, and whoever is shut out has neither")
        code = await passwords.link(connection, person, "password")
        await noted(connection, by, "person.password_link", login)
    return code


async def in_hand(connection: Connection, by: By, login: str) -> int:
    """The number of somebody whose every role is theirs to give. Raises Refusal 403 or 404."""
    person = await _known(connection, login)
    if by.person is None:
        return person
    cursor = await connection.execute("SELECT role, tenant FROM granted WHERE person = %s", (person,))
    rows = await cursor.fetchall()
    manages = roles_with(Action.PEOPLE_MANAGE)
    seen = [await tenants.holds(connection, by, manages, row["tenant"]) for row in rows]
    if not any(seen) and not (not rows and await tenants.holds(connection, by, manages, tenants.ROOT)):
        raise _nobody()
    try:
        for row in rows:
            await tenants.check_may_grant(connection, by, Role(row["role"]), row["tenant"])
    except Refusal:
        raise refusal(403, "ROLE", "this account has roles that are not yours to give: ask somebody above") from None
    return person


async def _persons(connection: Connection, where: str, values: dict[str, object]) -> list[Person]:
    """People by login, with those of their roles that `where`, a condition of this module's own, lets through."""
    cursor = await connection.execute(
        f"""
        SELECT person.number, login, person.name, service, disabled, password IS NOT NULL AS has_password,
               subject IS NOT NULL AS single_sign_on, created,
               (SELECT max(seen) FROM session WHERE session.person = person.number) AS seen,
               coalesce(json_agg(json_build_array(role, tenant, origin) ORDER BY tenant, role)
                        FILTER (WHERE role IS NOT NULL), '[]') AS granted
        FROM person LEFT JOIN granted ON granted.person = person.number
        WHERE {where} GROUP BY person.number ORDER BY login
        """.encode(),
        values,
    )
    return [
        Person(**row | {"granted": tuple(Granted(Role(role), *rest) for role, *rest in row["granted"])})
        for row in await cursor.fetchall()
    ]


async def _grant(connection: Connection, by: By, who: tuple[int, str], role: Role, tenant: str) -> None:
    found = await connection.execute(
        "INSERT INTO granted (person, role, tenant) VALUES (%s, %s, %s) ON CONFLICT DO NOTHING", (who[0], role, tenant)
    )
    if found.rowcount:
        await noted(connection, by, "role.grant", who[1], role=str(role), tenant=tenant)


async def _keep_one(
    connection: Connection, by: By, person: int, *, role: Role = Role.OPERATOR, tenant: str = tenants.ROOT
) -> None:
    """Refuse to leave the centre without an operator, but at the command line, where another is made."""
    if by.person is None or (role, tenant) != (Role.OPERATOR, tenants.ROOT):
        return
    await connection.execute("LOCK TABLE granted IN SHARE ROW EXCLUSIVE MODE")
    cursor = await connection.execute(
        "SELECT person FROM granted JOIN person ON person.number = person"
        " WHERE role = %s AND tenant = %s AND NOT disabled AND NOT service",
        (role, tenant),
    )
    if {row["person"] for row in await cursor.fetchall()} == {person}:
        raise InputError("this is the last operator of the centre: make another first")


async def _known(connection: Connection, login: str) -> int:
    cursor = await connection.execute("SELECT number FROM person WHERE login = %s", (login,))
    row = await cursor.fetchone()
    if row is None:
        raise _nobody()
    return int(row["number"])


def _nobody() -> Refusal:
    return refusal(404, "NOT_FOUND", "there is no such person")


async def noted(connection: Connection, by: By, what: str, login: str, **detail: object) -> None:
    """Write into the audit what was done about somebody, in the caller's transaction."""
    detail = {"what": what} | detail
    site = str(detail["tenant"]) if "tenant" in detail else None
    await note(connection, Entry(Kind.PEOPLE, by.who, address=by.address, site=site, object=login, detail=detail))
