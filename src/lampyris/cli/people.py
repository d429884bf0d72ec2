"""`lampyris centre person | tenant …` → accounts, roles and the tree of tenants, as the operator of the machine."""

import argparse
import dataclasses
import os
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, TypeAlias, TypeVar

from lampyris.cli import terminal
from lampyris.cli.operating import moment, table, with_database
from lampyris.cli.words import command, json_option, place
from lampyris.model import InputError

if TYPE_CHECKING:  # help is printed without a database's libraries
    from lampyris.centre.database import Connection
    from lampyris.centre.people.rules import Role
    from lampyris.centre.people.tenants import By

T = TypeVar("T")
_Commands: TypeAlias = "argparse._SubParsersAction[argparse.ArgumentParser]"
_ROLES = ("technologist", "radiologist", "expert", "physicist", "site_admin", "auditor", "operator")
_KINDS = ("province", "city", "county")
_URL = "http://127.0.0.1:8470"


def add(centre: _Commands) -> None:
    """`lampyris centre person` and `lampyris centre tenant`, with the commands below them."""
    person = _group(centre, "person", "people and machines with accounts", "lampyris centre person list")
    json_option(_one(person, "list", "list everybody with their roles", people))
    made = _one(person, "add", "add somebody; prints the link by which they choose a password", create, "LOGIN")
    made.add_argument("--name", required=True, help="as people read it")
    _role(made)
    made.add_argument("--service", action="store_true", help="a machine: it has tokens and no password")
    _public(made)
    _role(_one(person, "grant", "give somebody a role at a tenant and all below it", grant, "LOGIN"))
    _role(_one(person, "revoke", "take a role back", revoke, "LOGIN"))
    shut = _one(person, "disable", "shut somebody out at once", disable, "LOGIN")
    shut.add_argument("--undo", action="store_true", help="let them in again")
    _public(_one(person, "password", "print a link, good once, to choose a password", password, "LOGIN"))
    token = _one(person, "token", "print an access token for a machine or a script", issue, "LOGIN")
    token.add_argument("--for", dest="purpose", required=True, metavar="TEXT", help="what it is for")
    token.add_argument("--days", type=int, default=90, metavar="N", help="good for so many days (default 90)")
    tenant = _group(centre, "tenant", "provinces, cities, counties, sites", "lampyris centre tenant list")
    json_option(_one(tenant, "list", "list the tree of tenants", tenants))
    made = _one(tenant, "add", "add a province, city or county", plant, "TENANT")
    made.add_argument("--kind", required=True, choices=_KINDS)
    made.add_argument("--name", required=True, help="as people read it")
    made.add_argument("--parent", default="centre", metavar="TENANT", help="above it (default centre)")
    moved = _one(tenant, "move", "put a tenant, and all below it, under another", move, "TENANT")
    moved.add_argument("--parent", required=True, metavar="TENANT", help="above it from now on")


def people(arguments: argparse.Namespace) -> int:
    """Everybody with their roles."""
    from lampyris.centre.people import accounts, tenants

    found = _asked(arguments, lambda connection: accounts.people(connection, tenants.MACHINE))
    if arguments.json:
        terminal.machine([dataclasses.asdict(one) for one in found])
    rows = (
        (one.login, one.name, _signs_in(one.service, one.disabled, one.has_password, one.single_sign_on),
         ", ".join(f"{each.role} at {each.tenant}" for each in one.granted), moment(one.seen))
        for one in found
    )  # fmt: skip
    table(("login", "name", "signs in by", "roles", "seen"), rows)
    return 0


def create(arguments: argparse.Namespace) -> int:
    """A new account and, for a person, the link to its first password."""
    from lampyris.centre.people import accounts, tenants
    from lampyris.centre.people.rules import Role

    new = accounts.Newcomer(
        arguments.login, arguments.name, Role(arguments.role), arguments.tenant, service=arguments.service
    )

    async def run(connection: "Connection") -> str | None:
        await accounts.create(connection, tenants.MACHINE, new)
        return None if new.service else await accounts.password_link(connection, tenants.MACHINE, new.login)

    code = _asked(arguments, run)
    terminal.say(f"{new.login} is {new.role} at {new.tenant}")
    if code is None:
        terminal.say(f"a token for it: lampyris centre person token {new.login} --for …")
    else:
        _show_link(arguments, code)
    return 0


def grant(arguments: argparse.Namespace) -> int:
    """A role more."""
    from lampyris.centre.people import accounts

    _change(arguments, accounts.grant)
    terminal.say(f"{arguments.login} is {arguments.role} at {arguments.tenant}")
    return 0


def revoke(arguments: argparse.Namespace) -> int:
    """A role less."""
    from lampyris.centre.people import accounts

    _change(arguments, accounts.take_back)
    terminal.say(f"{arguments.login} is no longer {arguments.role} at {arguments.tenant}")
    return 0


def disable(arguments: argparse.Namespace) -> int:
    """Shut somebody out, or let them in again."""
    from lampyris.centre.people import accounts, tenants

    disabled = not arguments.undo
    _asked(
        arguments,
        lambda connection: accounts.disable(connection, tenants.MACHINE, arguments.login, disabled=disabled),
    )
    terminal.say(f"{arguments.login} is {'shut out' if disabled else 'let in'}")
    return 0


def password(arguments: argparse.Namespace) -> int:
    """A link to another password."""
    from lampyris.centre.people import accounts, tenants

    code = _asked(arguments, lambda connection: accounts.password_link(connection, tenants.MACHINE, arguments.login))
    _show_link(arguments, code)
    return 0


def issue(arguments: argparse.Namespace) -> int:
    """An access token, on stdout alone."""
    from lampyris.centre.people import accounts, tenants, tokens

    async def run(connection: "Connection") -> str:
        person = await accounts.in_hand(connection, tenants.MACHINE, arguments.login)
        return await tokens.issue(connection, tenants.MACHINE, person, arguments.purpose, arguments.days)

    terminal.machine({"login": arguments.login, "token": _asked(arguments, run), "days": arguments.days})
    terminal.say("shown once: Authorization: Bearer TOKEN, or Basic with the login and the token as password")
    return 0


def tenants(arguments: argparse.Namespace) -> int:
    """The tree of tenants."""
    from lampyris.centre.people import tenants

    found = _asked(arguments, lambda connection: tenants.tenants(connection, tenants.MACHINE))
    if arguments.json:
        terminal.machine([dataclasses.asdict(one) for one in found])
    rows = (("  " * one.depth + one.id, one.kind, one.name, str(one.people) if one.people else "") for one in found)
    table(("tenant", "kind", "name", "people"), rows)
    return 0


def plant(arguments: argparse.Namespace) -> int:
    """A tenant more."""
    from lampyris.centre.people import tenants

    _asked(
        arguments,
        lambda connection: tenants.create(
            connection, tenants.MACHINE, arguments.tenant, kind=arguments.kind, name=arguments.name,
            parent=arguments.parent,
        ),
    )  # fmt: skip
    terminal.say(f"{arguments.tenant} is below {arguments.parent}")
    return 0


def move(arguments: argparse.Namespace) -> int:
    """A tenant elsewhere."""
    from lampyris.centre.people import tenants

    _asked(
        arguments,
        lambda connection: tenants.move(connection, tenants.MACHINE, arguments.tenant, arguments.parent),
    )
    terminal.say(f"{arguments.tenant} is below {arguments.parent}")
    return 0


def _asked(arguments: argparse.Namespace, action: "Callable[[Connection], Awaitable[T]]") -> T:
    """What the centre answers; a refusal is the fault of what was typed."""
    from lampyris.centre.refusals import Refusal

    try:
        return with_database(arguments, action)
    except Refusal as error:
        raise InputError(error.problem.detail) from None


def _change(arguments: argparse.Namespace, what: "Callable[[Connection, By, str, Role, str], Awaitable[None]]") -> None:
    from lampyris.centre.people.rules import Role
    from lampyris.centre.people.tenants import MACHINE

    role = Role(arguments.role)
    _asked(arguments, lambda connection: what(connection, MACHINE, arguments.login, role, arguments.tenant))


def _group(centre: _Commands, name: str, text: str, example: str) -> _Commands:
    made = command(centre, name, text, example)
    return made.add_subparsers(title="commands", required=True, metavar="COMMAND")


def _one(
    group: _Commands, name: str, text: str, run: Callable[[argparse.Namespace], int], *arguments: str
) -> argparse.ArgumentParser:
    made = command(group, name, text, " ".join(("lampyris centre …", name, *arguments)))
    place(made)
    for each in arguments:
        made.add_argument(each.lower(), metavar=each)
    made.set_defaults(run=run)
    return made


def _role(made: argparse.ArgumentParser) -> None:
    made.add_argument("--role", required=True, choices=_ROLES)
    made.add_argument("--tenant", required=True, metavar="TENANT", help="where, and at everything below it")


def _public(made: argparse.ArgumentParser) -> None:
    made.add_argument(
        "--public-url", default=os.environ.get("PUBLIC_URL", _URL), metavar="URL",
        help=f"what people know the centre by (default $PUBLIC_URL, or {_URL})",
    )  # fmt: skip


def _show_link(arguments: argparse.Namespace, code: str) -> None:
    from lampyris.centre.people.passwords import PASSWORD_HOURS

    terminal.say(f"good once, for {PASSWORD_HOURS} hours, for them alone to choose a password:")
    terminal.people.print(f"{arguments.public_url.rstrip('/')}/sign-in/once/{code}", soft_wrap=True, markup=False)


def _signs_in(service: bool, disabled: bool, has_password: bool, single_sign_on: bool) -> str:
    ways = [("token", service), ("password", has_password), ("provider", single_sign_on)]
    return "shut out" if disabled else ", ".join(name for name, is_so in ways if is_so) or "nothing yet"
