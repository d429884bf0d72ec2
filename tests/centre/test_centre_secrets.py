"""What opens a door stands in no log, whichever way somebody takes; and what a stranger sends breaks nothing."""

import re
from urllib.parse import quote

import structlog
from centre_console import PAGE

from lampyris.centre.people import accounts, passwords, tokens
from lampyris.centre.people.accounts import Newcomer
from lampyris.centre.people.rules import Role
from lampyris.centre.people.tenants import MACHINE

PASSWORD = "correct horse 电池"
HERE = PAGE | {"Sec-Fetch-Site": "same-origin"}


def test_no_secret_is_in_a_log(client, do, capfd):
    structlog.configure(cache_logger_on_first_use=False)

    async def make(connection):
        number = await accounts.create(connection, MACHINE, Newcomer("li", "张^三", Role.RADIOLOGIST, "centre"))
        await passwords.choose(connection, number, PASSWORD)
        token = await tokens.issue(connection, MACHINE, number, "script", 1)
        return token, await accounts.password_link(connection, MACHINE, "li")

    token, code = do(make)
    answer = client.post("/sign-in", data={"login": "li", "password": PASSWORD}, headers=HERE)
    cookie = re.search(r"session=([^;]+);", answer.headers["set-cookie"])[1]
    client.get("/account", headers={"Cookie": f"__Host-lampyris_session={cookie}"})
    client.get("/account", headers={"Authorization": f"Bearer {token}"})
    client.get("/account", auth=("li", token))
    client.get(f"/sign-in/once/{code}", headers=PAGE)
    client.post("/sign-in", data={"login": PASSWORD, "password": PASSWORD}, headers=HERE)
    client.get("/sign-in/provider/back", params={"code": "c0de-of-provider", "state": "st4te"})
    client.get("/studies", params={"PatientName": "张^三", "token": token})
    said = "".join(capfd.readouterr())
    assert "answered" in said
    for secret in (PASSWORD, cookie, token, code, "c0de-of-provider", "st4te", "张^三"):
        assert secret not in said


NASTY = (
    "' OR 1=1 --", "'; DROP TABLE person; --", "%00", "\x00", "<script>alert(1)</script>",
    '"><img src=x onerror=alert(1)>', "{{7*7}}", "../../../../etc/passwd", "..%2f..%2fetc%2fpasswd", "A" * 20_000,
    "𠮷" * 3000, "\r\nSet-Cookie: a=b",
)  # fmt: skip


def test_whatever_a_stranger_types_is_answered_in_order(client, rows):
    for text in NASTY:
        form = {"login": text, "password": text, "next": text}
        answer = client.post("/sign-in", data=form, headers=HERE)
        assert answer.status_code in (400, 401, 413, 429), text[:20]
        assert "<script>alert" not in answer.text
        assert "<img src=x" not in answer.text
        assert "{{7*7}}" in answer.text or "7*7" not in text
        rows("DELETE FROM attempt")
        sent = quote(text[:500])
        for path in (f"/sign-in?next={sent}", f"/sign-in/once/{sent}", f"/static/{sent}/x", f"/static/x/{sent}"):
            found = client.get(path, headers=PAGE)
            assert found.status_code < 500, path[:60]
            assert "root:" not in found.text
            assert "set-cookie" not in found.headers
    assert rows("SELECT count(*) FROM person") == [(0,)]
