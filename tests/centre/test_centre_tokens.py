"""Access tokens of machines and scripts: Bearer and Basic, what they may do, and how they end."""

import base64
from typing import Annotated

import httpx
import pytest
from fastapi import Depends

from lampyris.centre.people import tokens
from lampyris.centre.people.callers import Caller, needs, session_of
from lampyris.centre.people.rules import Action
from lampyris.centre.people.tenants import MACHINE
from lampyris.model import InputError


@pytest.fixture
def routed(app):
    @app.post("/stored")
    async def stored(caller: Annotated[Caller, Depends(needs(Action.STUDY_STORE))]) -> dict[str, object]:
        return {"login": caller.login, "sites": caller.sites, "csrf": caller.csrf}

    @app.post("/own")
    async def own(caller: Annotated[Caller, Depends(needs(Action.SELF))]) -> str:
        return session_of(caller)

    return app


@pytest.fixture
def token(routed, signed_in, do, invite) -> str:
    """A token of `orthanc`, technologist at the site `st-anna`."""
    invite("st-anna")
    signed_in(("technologist", "st-anna"), login="orthanc")
    return do(lambda c: tokens.issue(c, MACHINE, 1, "STOW", 30))


def basic(login: str, password: str) -> dict[str, str]:
    return {"Authorization": "Basic " + base64.b64encode(f"{login}:{password}".encode()).decode()}


def test_a_token_is_taken_as_bearer_and_as_the_password_of_basic(client, token):
    for header in ({"Authorization": f"Bearer {token}"}, {"Authorization": f"bearer {token}"}, basic("orthanc", token)):
        answer = client.post("/stored", headers=header)
        assert answer.json() == {"login": "orthanc", "sites": ["st-anna"], "csrf": None}
    assert httpx.post(client.base_url.join("/stored"), auth=("orthanc", token), trust_env=False).status_code == 200


def test_nothing_else_is_taken_for_a_token(client, token, do):
    wrong = [
        {"Authorization": f"Bearer {token[:-1]}"}, {"Authorization": f"Bearer {token}x"}, {"Authorization": "Bearer"},
        {"Authorization": token}, {"Authorization": "Basic %%%"}, {"Authorization": "Basic"},
        {"Authorization": "Basic " + base64.b64encode(b"\xff\xfe").decode()}, {"Authorization": "Bearer lyt_"},
        {"Authorization": "Bearer " + "x" * 5000}, basic("wang", token), basic("", token), basic("orthanc", "password"),
    ]  # fmt: skip
    for header in wrong:
        assert client.post("/stored", headers=header).status_code == 401, header


def test_a_wrong_token_is_not_made_good_by_a_session(routed, signed_in, invite):
    """A caller who says who they are is that one or nobody."""
    person = signed_in(("technologist", "centre"))
    assert person.post("/stored").status_code == 200
    assert person.post("/stored", headers={"Authorization": "Bearer lyt_wrong"}).status_code == 401


def test_a_token_does_not_do_what_would_make_it_last_longer(client, token):
    answer = client.post("/own", headers={"Authorization": f"Bearer {token}"})
    assert (answer.status_code, answer.json()["code"]) == (403, "SESSION")


def test_a_token_ends_with_its_days_when_taken_back_and_with_its_account(client, token, do, rows):
    header = {"Authorization": f"Bearer {token}"}

    def works() -> bool:
        return client.post("/stored", headers=header).status_code == 200

    assert works()
    assert rows("SELECT address FROM access_token WHERE used IS NOT NULL") == [("127.0.0.1",)]
    rows("UPDATE person SET disabled = true")
    assert not works()
    rows("UPDATE person SET disabled = false")
    rows("UPDATE access_token SET expires = now() - interval '1 second'")
    assert not works()
    rows("UPDATE access_token SET expires = now() + interval '1 day'")
    assert works()
    assert not do(lambda c: tokens.take_back(c, MACHINE, 2, 1)), "not another's"
    assert do(lambda c: tokens.take_back(c, MACHINE, 1, 1))
    assert not works()


def test_a_token_is_kept_as_a_digest_and_an_account_has_no_end_of_them(token, do, rows):
    assert token not in str(rows("SELECT * FROM access_token")) + str(rows("SELECT * FROM audit"))
    for number in range(19):
        do(lambda c, number=number: tokens.issue(c, MACHINE, 1, f"script {number}", 1))
    with pytest.raises(InputError, match="at most 20"):
        do(lambda c: tokens.issue(c, MACHINE, 1, "one more", 1))
    for wrong in (("", 30), ("x", 0), ("x", 367), ("a\nb\0", 1)):
        with pytest.raises(InputError):
            do(lambda c, wrong=wrong: tokens.issue(c, MACHINE, 1, *wrong))
