"""Limits of size and rate, quotas, and the headers of every answer."""

import pytest
from centre_console import PAGE
from fastapi import Request

from lampyris.centre.api.guard import Buckets
from lampyris.centre.people.callers import Caller, needs
from lampyris.centre.people.rules import Action


@pytest.fixture
def routed(app):
    from fastapi import Depends

    @app.post("/dicomweb/stored")
    async def stored(request: Request, caller: Caller = Depends(needs(Action.STUDY_STORE))) -> int:  # noqa: B008
        return len(await request.body())

    return app


def test_every_answer_keeps_browsers_in_bounds(client, signed_in):
    person = signed_in(("radiologist", "centre"))
    for answer in (
        client.get("/sign-in", headers=PAGE), person.get("/account", headers=PAGE), client.get("/nowhere"),
        client.get("/nowhere", headers=PAGE), client.get("/v1"), client.get("/healthz"), client.get("/account"),
        client.get("/openapi.json"), client.post("/sign-in", content=b"x" * (2 << 20)),
    ):  # fmt: skip
        headers, where = answer.headers, (str(answer.url), answer.status_code)
        policy = dict(each.strip().partition(" ")[::2] for each in headers["content-security-policy"].split(";"))
        assert policy["default-src"] in ("'self'", "'none'"), where
        assert policy["frame-ancestors"] in ("'self'", "'none'"), where
        assert "'unsafe-inline'" not in policy.get("script-src", ""), where
        assert "'unsafe-eval'" not in str(policy), where
        assert headers["x-content-type-options"] == "nosniff", where
        assert headers["referrer-policy"] == "same-origin", where
        assert headers["cross-origin-opener-policy"] == "same-origin", where
        assert headers["cross-origin-resource-policy"] == "same-origin", where
        assert headers["cross-origin-embedder-policy"] == "require-corp", where
        assert "camera=()" in headers["permissions-policy"], where
        assert headers["strict-transport-security"].startswith("max-age=31536000"), where
        assert headers["cache-control"] == "no-store", where
        assert "server" not in headers or "uvicorn" in headers["server"], "the test's own server"
        assert "access-control-allow-origin" not in headers, "nobody else's page reads it"


def test_a_bucket_gives_what_came_into_it_and_lets_others_be():
    now = 0.0
    buckets = Buckets(2.0, clock=lambda: now)
    assert [buckets.take("a") for _ in range(121)] == [0] * 120 + [1]
    assert buckets.take("b") == 0
    now = 0.6
    assert [buckets.take("a"), buckets.take("a")] == [0, 1]
    for number in range(20_001):
        buckets.take(str(number))
    assert buckets.take("b") == 0


@pytest.fixture
def impatient(settings):
    object.__setattr__(settings, "requests_per_s", 0.05)
    object.__setattr__(settings, "stored_bytes", 3 << 20)
    object.__setattr__(settings, "upload_bytes", 2 << 20)


def test_a_caller_who_asks_too_often_waits_and_sites_do_not(impatient, client, signed_in):
    one, other = signed_in(login="one"), signed_in(login="other")
    assert [one.get("/account").status_code for _ in range(4)] == [200, 200, 200, 429]
    refused = one.get("/account")
    assert (refused.json()["code"], refused.headers["retry-after"]) == ("WAIT", "20")
    assert other.get("/account").status_code == 200
    assert [client.get("/v1").status_code for _ in range(9)] == [200] * 9
    assert [client.get("/healthz").status_code for _ in range(9)] == [200] * 9


def test_an_address_that_changes_its_name_waits_too(impatient, client):
    answers = [client.get("/account", headers={"Authorization": f"Bearer lyt_{number}"}) for number in range(61)]
    assert [each.status_code for each in answers] == [401] * 60 + [429]


def test_a_body_has_a_limit_whether_its_length_is_announced_or_not(impatient, routed, client, signed_in):
    technologist = signed_in(("technologist", "centre"))

    def pieces(count: int):
        yield from (b"x" * 65536 for _ in range(count))

    assert technologist.post("/dicomweb/stored", content=b"x" * (3 << 20)).status_code == 413
    assert technologist.post("/dicomweb/stored", content=pieces(40)).status_code == 413
    assert client.post("/sign-in", content=pieces(40)).status_code in (403, 413)


def test_somebody_stores_no_more_in_a_day_than_their_quota(impatient, routed, signed_in, rows):
    technologist = signed_in(("technologist", "centre"))
    assert technologist.post("/dicomweb/stored", content=b"x" * (2 << 20)).status_code == 200
    assert rows("SELECT bytes FROM stored") == [(2 << 20,)]
    refused = technologist.post("/dicomweb/stored", content=b"x" * (2 << 20))
    assert (refused.status_code, refused.json()["code"]) == (413, "QUOTA")
    rows("UPDATE stored SET day = day - 1")
    assert technologist.post("/dicomweb/stored", content=b"x").status_code == 200
