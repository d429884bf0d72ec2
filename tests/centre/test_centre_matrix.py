"""The access matrix: every route × every role × what is one's own and what is another tenant's, made from the router.

A route without exactly one rule fails, a parameter without an example too: whoever adds a route says here whose it is.
"""

import itertools
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import httpx
import pytest
from centre_people import sign_in
from centre_site import AUDIENCE
from fastapi import APIRouter, FastAPI

from lampyris.centre.people.callers import CSRF_HEADER
from lampyris.centre.people.rules import MAY, Action, Role
from lampyris.centre.people.sessions import cookie_of

PROTOCOL = ("/v1", "/healthz", "/readyz", "/metrics", "/openapi.json")
"""What sites and machines of the operator ask, with rules of their own (docs/protocol.md)."""
FILES = ("/static/{digest}/{name:path}", "/viewer/files/{release}/{name:path}")
"""The same files for everybody: open to strangers."""
OWN, FOREIGN = "st-anna", "other-site"
STUDY = {OWN: "1.2.826.0.1.3680043.10.1.1", FOREIGN: "1.2.826.0.1.3680043.10.1.2"}
LOGIN = {OWN: "their-colleague", FOREIGN: "somebody-else"}
SCAN = {OWN: "0a" * 16, FOREIGN: "0b" * 16}

THINGS = {
    "site": {OWN: OWN, FOREIGN: FOREIGN},
    "tenant": {OWN: OWN, FOREIGN: FOREIGN},
    "scan": SCAN,
    "study": STUDY,
    "study_uid": STUDY,
    "series": {each: f"{uid}.1" for each, uid in STUDY.items()},
    "series_uid": {each: f"{uid}.1" for each, uid in STUDY.items()},
    "instance": {each: f"{uid}.1.1" for each, uid in STUDY.items()},
    "login": LOGIN,
    "aet": {OWN: "PACS_OWN", FOREIGN: "PACS_FOREIGN"},
    "step": {OWN: f"{STUDY[OWN]}.9", FOREIGN: f"{STUDY[FOREIGN]}.9"},
}
"""Parameters that name a thing of a tenant, by example."""
CHOICES = {
    "number": "1", "numbers": "1", "path": "7FE00010", "name": "ttf", "plane": "axial", "window": "lung",
    "form": "json", "kind": "raw", "place": "1", "role": "technologist", "change": "suspend",
    "code": "x" * 43, "digest": "0" * 64,
}  # fmt: skip
"""Parameters that name nobody's thing: which part of one, or what is one's own anyway."""


@dataclass(frozen=True, slots=True)
class Found:
    """A route: method, path as it was written, and the actions that its dependencies name."""

    method: str
    path: str
    actions: tuple[Action, ...]

    @property
    def parameters(self) -> list[str]:
        return re.findall(r"{(\w+)[^}]*}", self.path)

    @property
    def of_things(self) -> bool:
        return any(name in THINGS for name in self.parameters)

    def url(self, tenant: str) -> str:
        def filled(match: re.Match[str]) -> str:
            return THINGS[match[1]][tenant] if match[1] in THINGS else CHOICES[match[1]]

        return re.sub(r"{(\w+)[^}]*}", filled, self.path)


def routes_of(router: Any) -> Iterator[Any]:
    """Every route below, whether this release of FastAPI copies the routes of routers or keeps them in place."""
    for each in router.routes if isinstance(router, (FastAPI, APIRouter)) else router.effective_candidates():
        yield from routes_of(each) if hasattr(each, "effective_candidates") else (each,)


def actions_of(dependant: Any) -> tuple[Action, ...]:
    """What the rules among the dependencies of a route name."""
    own = getattr(dependant.call, "action", None)
    below = (actions_of(each) for each in dependant.dependencies)
    return tuple(itertools.chain(() if own is None else (own,), *below))


def found_in(app: FastAPI) -> list[Found]:
    found = []
    for route in routes_of(app):
        dependant = getattr(route, "dependant", None)
        actions = () if dependant is None else actions_of(dependant)
        found += [Found(method, route.path, actions) for method in sorted(set(route.methods or ()) - {"HEAD"})]
    return found


def of_people(app: FastAPI) -> list[Found]:
    return [each for each in found_in(app) if not each.path.startswith(PROTOCOL) and each.path not in FILES]


def test_every_route_has_one_rule_and_every_parameter_an_example(app):
    found = of_people(app)
    assert len(found) > 20
    assert [(each.method, each.path, each.actions) for each in found if len(set(each.actions)) != 1] == []
    named = {name for each in found for name in each.parameters}
    assert named - set(THINGS) - set(CHOICES) == set(), "say in THINGS or CHOICES whose it is"
    assert {path for path in FILES if path not in {each.path for each in found_in(app)}} == set()


def test_a_route_without_a_rule_is_found(app):
    @app.get("/forgotten/{secret}")
    async def forgotten(secret: str) -> str:
        return secret

    found = next(each for each in of_people(app) if each.path == "/forgotten/{secret}")
    assert (found.actions, found.parameters) == ((), ["secret"])


def test_every_role_does_what_the_table_says():
    """The table itself, once more and by hand: a change of it has to be meant."""
    reads = {Role.TECHNOLOGIST, Role.RADIOLOGIST, Role.EXPERT, Role.PHYSICIST}
    assert {role for role in Role if Action.STUDY_READ in MAY[role]} == reads
    assert {role for role in Role if Action.PEOPLE_MANAGE in MAY[role]} == {Role.SITE_ADMIN, Role.OPERATOR}
    assert {role for role in Role if Action.AUDIT_READ in MAY[role]} == {Role.AUDITOR}
    assert {role for role in Role if Action.GLASS_BREAK in MAY[role]} == {Role.RADIOLOGIST, Role.EXPERT}
    assert {role for role in Role if Action.RECIPE_MANAGE in MAY[role]} == {Role.OPERATOR}
    assert not any({Action.OPEN, Action.SELF} & MAY[role] for role in Role)


@pytest.fixture
def things(invite, rows) -> None:
    """For both sites: a scan, a study with a series and an instance, a colleague, a node."""
    for number, tenant in enumerate((OWN, FOREIGN), start=1):
        invite(tenant)
        rows("INSERT INTO person (login, name) VALUES (%s, %s)", LOGIN[tenant], LOGIN[tenant])
        rows("INSERT INTO granted (person, role, tenant) SELECT number, 'technologist', %s FROM person"
             " WHERE login = %s", tenant, LOGIN[tenant])  # fmt: skip
        rows("INSERT INTO study (site, uid, json) VALUES (%s, %s, '{}')", tenant, STUDY[tenant])
        rows("INSERT INTO series (study, uid, json) VALUES (%s, %s, '{}')", number, THINGS["series"][tenant])
        rows("INSERT INTO scan (site, id, state, priority, skeleton, signed, reason_code, finished)"
             " VALUES (%s, %s, 'failed', 'routine', '{}', '', 'PROGRAM', now())", tenant, SCAN[tenant])  # fmt: skip


def foreign_marks() -> list[str]:
    return [FOREIGN, STUDY[FOREIGN], LOGIN[FOREIGN], SCAN[FOREIGN], THINGS["aet"][FOREIGN]]


class Person:
    """Somebody with a role at a site, who signs in anew for each request: some of these end sessions."""

    def __init__(self, settings, client: httpx.Client, rows, role: Role | None) -> None:
        self.login = f"as-{role}".lower().replace("_", "-")
        self._client, self._rows = client, rows
        session = sign_in(settings, self.login, [] if role is None else [(role, OWN)])
        (self._number,) = rows("SELECT number FROM person WHERE login = %s", self.login)[0]
        self._kept = rows("SELECT digest, csrf, address, expires FROM session WHERE person = %s", self._number)[0]
        self.cookie, self.csrf = {"Cookie": f"{cookie_of(AUDIENCE)}={session.cookie}"}, {CSRF_HEADER: session.csrf}

    def ask(self, found: Found, tenant: str, *, csrf: bool = True) -> httpx.Response:
        self._rows("INSERT INTO session (person, digest, csrf, address, expires) VALUES (%s, %s, %s, %s, %s)"
                   " ON CONFLICT DO NOTHING", self._number, *self._kept)  # fmt: skip
        return asked(self._client, found, tenant, self.cookie | (self.csrf if csrf else {}))


def asked(client: httpx.Client, found: Found, tenant: str, headers: dict[str, str]) -> httpx.Response:
    """The answer; of a stream of events its beginning alone."""
    body = {} if found.method == "GET" else {"data": {"x": "x"}}
    with client.stream(found.method, found.url(tenant), headers=headers, **body) as answer:
        if not answer.headers.get("content-type", "").startswith("text/event-stream"):
            answer.read()
    return answer


def code_of(answer: httpx.Response) -> str:
    kind = answer.headers.get("content-type", "")
    return str(answer.json()["code"]) if kind.startswith("application/problem") else ""


def test_strangers_tokens_and_forgers_end_at_the_door_of_every_route(app, client, settings, rows, things):
    nobody = Person(settings, client, rows, None)
    for found in of_people(app):
        (action,) = set(found.actions)
        if action is Action.OPEN:
            continue
        where = (found.method, found.path)
        for headers in ({}, {"Cookie": f"{cookie_of(AUDIENCE)}=x"}, {"Authorization": "Bearer lyt_x"},
                        {"Authorization": "Basic eDp5"}):  # fmt: skip
            answer = asked(client, found, OWN, headers)
            assert (answer.status_code, code_of(answer)) == (401, "SIGN_IN"), (where, headers)
        if found.method not in ("GET", "HEAD"):
            forged = nobody.ask(found, OWN, csrf=False)
            assert (forged.status_code, code_of(forged)) == (403, "CSRF"), where
        if action is not Action.SELF:
            refused = nobody.ask(found, OWN)
            assert (refused.status_code, code_of(refused)) == (403, "ROLE"), where


@pytest.mark.parametrize("role", list(Role))
def test_a_role_does_what_is_its_own_at_its_own_tenant_and_sees_nothing_of_another(
    role, app, client, settings, rows, things
):
    person = Person(settings, client, rows, role)
    for found in of_people(app):
        (action,) = set(found.actions)
        where = (found.method, found.path, role)
        if action in (Action.OPEN, Action.SELF):
            continue
        if action not in MAY[role]:
            refused = person.ask(found, OWN)
            assert (refused.status_code, code_of(refused)) == (403, "ROLE"), where
            continue
        if found.of_things:
            foreign = person.ask(found, FOREIGN)
            assert foreign.status_code == 404, (where, "a thing of another tenant is as if it were not")
        own = person.ask(found, OWN)
        assert own.status_code not in (401, 403), (where, code_of(own))
        assert own.status_code < 500 or (own.status_code, found.path[:7]) == (503, "/viewer"), "not installed here"
        shown = own.text if own.is_stream_consumed else ""
        assert not [mark for mark in foreign_marks() if mark in shown], (where, "shows what is another's")
    assert rows("SELECT count(*) FROM scan") == rows("SELECT count(*) FROM site") == [(2,)]
