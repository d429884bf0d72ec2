"""Who a request comes from, and what of whom they may see."""

from typing import Annotated

import pytest
from fastapi import Depends

from lampyris.centre.people.callers import CSRF_HEADER, Caller, needs
from lampyris.centre.people.rules import Action


@pytest.fixture
def routed(app):
    """The centre with two routes for people."""

    @app.get("/seen")
    async def seen(caller: Annotated[Caller, Depends(needs(Action.STUDY_READ))]) -> dict[str, object]:
        return {"login": caller.login, "sites": sorted(caller.sites), "tenants": sorted(caller.tenants)}

    @app.post("/made")
    async def made(caller: Annotated[Caller, Depends(needs(Action.SELF))]) -> str:
        return caller.login

    return app


def test_a_stranger_is_refused(routed, client):
    assert client.get("/seen").status_code == 401


def test_a_role_without_the_action_is_refused(routed, signed_in):
    assert signed_in(("operator", "centre")).get("/seen").status_code == 403


def test_a_role_reaches_its_tenant_and_all_below_and_no_more(routed, invite, rows, signed_in):
    for name in ("st-anna", "other-site"):
        invite(name)
    rows("INSERT INTO tenant VALUES ('west', 'centre', 'province', 'West'), ('left', 'west', 'county', 'Left')")
    rows("UPDATE tenant SET parent = 'left' WHERE id = 'st-anna'")
    radiologist = signed_in(("radiologist", "west"), ("auditor", "centre"))
    found = radiologist.get("/seen").json()
    assert found["sites"] == ["st-anna"]
    assert found["tenants"] == ["left", "st-anna", "west"]


def test_an_unsafe_request_needs_the_token_of_its_session(routed, signed_in):
    person = signed_in()
    assert person.post("/made").status_code == 200
    person.headers[CSRF_HEADER] = "another"
    assert person.post("/made").status_code == 403


def test_a_session_ends_when_it_was_idle(routed, signed_in, rows):
    person = signed_in(("radiologist", "centre"))
    rows("UPDATE session SET seen = now() - interval '31 minutes'")
    assert person.get("/seen").status_code == 401


def test_the_audit_cannot_be_changed(inside, rows):
    import psycopg

    from lampyris.centre.audit.chain import Entry, Kind, note

    async def action(centre):
        async with centre.pool.connection() as connection:
            return [await note(connection, Entry(Kind.LOGIN, "li")) for _ in range(2)]

    assert inside(action) == [1, 2]
    with pytest.raises(psycopg.errors.RaiseException):
        rows("DELETE FROM audit")
