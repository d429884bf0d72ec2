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
OWN, FOREIGN, NOWHERE = "st-anna", "other-site", "never-was"
STUDY = {
    OWN: "1.2.826.0.1.3680043.10.1.1",
    FOREIGN: "1.2.826.0.1.3680043.10.1.2",
    NOWHERE: "1.2.826.0.1.3680043.10.1.3",
}
LOGIN = {OWN: "their-colleague", FOREIGN: "somebody-else", NOWHERE: "nobody-at-all"}
SCAN = {OWN: "0a" * 16, FOREIGN: "0b" * 16, NOWHERE: "0c" * 16}
_PLACE = {each: each for each in STUDY}
_SERIES = {each: f"{uid}.1" for each, uid in STUDY.items()}
THINGS = {
    "site": _PLACE,
    "tenant": _PLACE,
    "scan": SCAN,
    "study": STUDY,
    "study_uid": STUDY,
    "series": _SERIES,
    "series_uid": _SERIES,
    "instance": {each: f"{uid}.1" for each, uid in _SERIES.items()},
    "login": LOGIN,
    "key": {OWN: "o" * 43, FOREIGN: "f" * 43, NOWHERE: "n" * 43},
    "aet": {OWN: "PACS_OWN", FOREIGN: "PACS_FOREIGN", NOWHERE: "PACS_NOWHERE"},
    "step": {OWN: f"{STUDY[OWN]}.9", FOREIGN: f"{STUDY[FOREIGN]}.9", NOWHERE: f"{STUDY[NOWHERE]}.9"},
}
"""Parameters that name a thing of a tenant, by example."""
CHOICES = {
    "number": "1", "numbers": "1", "path": "7FE00010", "name": "ttf", "plane": "axial", "window": "lung",
    "form": "json", "kind": "raw", "place": "1", "role": "technologist", "change": "suspend",
    "code": "x" * 43, "digest": "0" * 64,
}  # fmt: skip
"""Parameters that name nobody's thing: which part of one, or what is one's own anyway."""
CENTRE_WIDE = ("/administration/audit/verify", "/administration/recipes", "/administration/protocols",
               "/administration/retention")  # fmt: skip
"""What belongs to the whole centre: a role at one site may read of it, and is refused (403) where it would change."""


REFERS = "/studies/{study}"
"""The page on which whoever may share a study chooses with whom: it names tenants, and nothing else of them."""


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
        rows("INSERT INTO site_key (id, site, key) VALUES (%s, %s, '{}')", THINGS["key"][tenant], tenant)
        rows("INSERT INTO study (site, uid, json) VALUES (%s, %s, '{}')", tenant, STUDY[tenant])
        rows("INSERT INTO series (study, uid, json) VALUES (%s, %s, '{}')", number, THINGS["series"][tenant])
        rows("INSERT INTO scan (site, id, state, priority, skeleton, signed, reason_code, finished)"
             " VALUES (%s, %s, 'failed', 'routine', '{}', '', 'PROGRAM', now())", tenant, SCAN[tenant])  # fmt: skip


def foreign_marks() -> list[str]:
    return [FOREIGN, STUDY[FOREIGN], LOGIN[FOREIGN], SCAN[FOREIGN], THINGS["aet"][FOREIGN]]


class Person:
    """Somebody with a role at a site who is signed in; no request that the matrix makes of them ends their session."""

    def __init__(self, settings, client: httpx.Client, role: Role | None) -> None:
        session = sign_in(settings, f"as-{role}".lower().replace("_", "-"), [] if role is None else [(role, OWN)])
        self._client = client
        self._cookie = {"Cookie": f"{cookie_of(AUDIENCE)}={session.cookie}"}
        self._csrf = {CSRF_HEADER: session.csrf}

    def ask(self, found: Found, tenant: str, *, csrf: bool = True) -> httpx.Response:
        return asked(self._client, found, tenant, self._cookie | (self._csrf if csrf else {}))


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
    nobody = Person(settings, client, None)
    for found in of_people(app):
        (action,) = set(found.actions)
        if action is Action.OPEN:
            continue
        where = (found.method, found.path)
        for headers in ({}, {"Cookie": f"{cookie_of(AUDIENCE)}=x"}, {"Authorization": "Bearer lyt_x"},
                        {"Authorization": "Basic eDp5"}):  # fmt: skip
            answer = asked(client, found, OWN, headers)
            assert (answer.status_code, code_of(answer)) == (401, "SIGN_IN"), (where, headers)
        if found.method not in ("GET", "OPTIONS"):
            forged = nobody.ask(found, OWN, csrf=False)
            assert (forged.status_code, code_of(forged)) == (403, "CSRF"), where
        if action is not Action.SELF:
            refused = nobody.ask(found, OWN)
            assert (refused.status_code, code_of(refused)) == (403, "ROLE"), where


def as_if_it_were_not(person: Person, found: Found) -> str:
    """Empty, or how another tenant's thing is told from one that never was."""
    foreign, nowhere = person.ask(found, FOREIGN), person.ask(found, NOWHERE)
    said = [answer.text for answer in (foreign, nowhere)]
    for example in THINGS.values():
        said = [text.replace(example[which], "X") for text, which in zip(said, (FOREIGN, NOWHERE), strict=True)]
    if foreign.status_code != nowhere.status_code or said[0] != said[1]:
        return f"another's thing is answered {foreign.status_code}, what never was {nowhere.status_code}"
    if foreign.status_code < 400 and foreign.status_code != 204:  # 204: a search that finds nothing (PS3.18, 10.6)
        return f"another's thing is answered {foreign.status_code}"
    return ""


def amiss(person: Person, role: Role, found: Found) -> str:
    """Empty, or what a role gets that it should not, or does not get that it should."""
    (action,) = set(found.actions)
    own = person.ask(found, OWN)
    refused = (own.status_code, code_of(own)) == (403, "ROLE")
    if action not in MAY[role]:
        return "" if refused else f"the role does not allow it, and is answered {own.status_code}"
    if own.status_code in (401, 403) and not (refused and found.path.startswith(CENTRE_WIDE)):
        return f"refused: {own.status_code} {code_of(own)}"
    if own.status_code >= 500 and not found.path.startswith("/viewer"):  # which may not be installed
        return f"fails: {own.status_code}"
    marks = [mark for mark in foreign_marks() if mark != FOREIGN or found.path != REFERS]
    if own.is_stream_consumed and any(mark in own.text for mark in marks):
        return "shows what is another's"
    return as_if_it_were_not(person, found) if found.of_things else ""


@pytest.mark.parametrize("role", list(Role))
def test_a_role_does_what_is_its_own_at_its_own_tenant_and_sees_nothing_of_another(
    role, app, client, settings, rows, things
):
    person = Person(settings, client, role)
    asked_for = [each for each in of_people(app) if not {Action.OPEN, Action.SELF} & set(each.actions)]
    wrong = {f"{found.method} {found.path}": what for found in asked_for if (what := amiss(person, role, found))}
    assert wrong == {}
    assert rows("SELECT count(*) FROM scan") == rows("SELECT count(*) FROM site") == [(2,)]
