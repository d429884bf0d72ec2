"""Signing in and out: sessions, cookies, links, and whoever guesses."""

import re
import time

import httpx
import pytest
from centre_console import PAGE
from centre_site import AUDIENCE

from lampyris.centre.people import accounts, passwords, patience
from lampyris.centre.people.accounts import Newcomer
from lampyris.centre.people.rules import Role
from lampyris.centre.people.sessions import cookie_of
from lampyris.centre.people.tenants import MACHINE

PASSWORD = "correct horse 电池"
HERE = PAGE | {"Sec-Fetch-Site": "same-origin"}
COOKIE = cookie_of(AUDIENCE)


@pytest.fixture
def li(do) -> int:
    """A radiologist of the centre with a password."""

    async def make(connection):
        number = await accounts.create(connection, MACHINE, Newcomer("li", "李 医生", Role.RADIOLOGIST, "centre"))
        await passwords.choose(connection, number, PASSWORD)
        return number

    return do(make)


def sign_in(client, login="li", password=PASSWORD, headers=HERE, **more):
    return client.post("/sign-in", data={"login": login, "password": password} | more, headers=headers)


def bearing(client, cookie: str) -> httpx.Client:
    return httpx.Client(base_url=client.base_url, trust_env=False, timeout=20.0, cookies={COOKIE: cookie})


def cookie_from(answer) -> str:
    return re.search(f"{COOKIE}=([^;]+);", answer.headers["set-cookie"])[1]


def test_whoever_knows_the_password_comes_in_and_out(client, li, rows):
    answer = sign_in(client, " LI ", next="/account")
    assert (answer.status_code, answer.headers["location"]) == (303, "/account")
    with bearing(client, cookie_from(answer)) as browser:
        page = browser.get("/account", headers=PAGE)
        assert page.status_code == 200
        assert "李 医生" in page.text
        csrf = re.search(r'X-CSRF-Token&#34;: &#34;([^&]+)|"X-CSRF-Token": "([^"]+)"', page.text)
        token = csrf[1] or csrf[2]
        assert browser.post("/sign-out").status_code == 403, "without the token of the session"
        out = browser.post("/sign-out", headers={"X-CSRF-Token": token})
        assert (out.status_code, out.headers["hx-redirect"]) == (204, "/sign-in?said=out")
        browser.cookies.set(COOKIE, cookie_from(answer))
        assert browser.get("/account").status_code == 401, "the cookie is worth nothing any more"
    assert rows("SELECT kind, who, outcome FROM audit WHERE kind IN ('login', 'logout') ORDER BY number") == [
        ("login", "li", "success"), ("logout", "li", "success")
    ]  # fmt: skip


def test_the_cookie_is_for_this_host_alone_and_no_script_reads_it(client, li):
    cookie = sign_in(client).headers["set-cookie"]
    assert cookie.startswith("__Host-lampyris_session=")
    assert {each.strip().lower() for each in cookie.split(";")[1:]} == {"path=/", "httponly", "secure", "samesite=lax"}
    assert cookie_of("http://127.0.0.1:8470") == "lampyris_session"


def test_the_database_keeps_no_cookie_and_no_password(client, li, rows):
    cookie = cookie_from(sign_in(client))
    kept = "".join(str(rows(f"SELECT * FROM {table}")) for table in ("session", "person", "audit", "attempt"))
    assert cookie not in kept
    assert PASSWORD not in kept


def test_a_wrong_login_and_a_wrong_password_are_answered_alike_and_as_late(client, li):
    def tried(login: str) -> tuple[str, float]:
        began = time.monotonic()
        answer = sign_in(client, login, "some other password")
        assert answer.status_code == 401
        return answer.text.replace(f'value="{login}"', "LOGIN"), time.monotonic() - began

    known, unknown = zip(*((tried("li"), tried("zz")) for _ in range(4)), strict=True)
    assert {text for text, _ in known} == {text for text, _ in unknown}
    fastest_known, fastest_unknown = min(s for _, s in known), min(s for _, s in unknown)
    assert fastest_unknown > 0.3 * fastest_known, "a login that there is not must not be told by its speed"


def test_what_was_typed_as_a_login_is_not_written_down(client, li, rows):
    """It is a password at times."""
    sign_in(client, "Sup3r-secret", "x")
    sign_in(client, "li", "x")
    assert rows("SELECT who, outcome FROM audit WHERE kind = 'login' ORDER BY number") == [
        ("unknown", "refused"), ("li", "refused")
    ]  # fmt: skip
    assert "sup3r" not in str(rows("SELECT * FROM attempt")).lower()


def test_a_guesser_waits_longer_each_time_in_every_process(client, li, rows):
    for _ in range(5):
        assert sign_in(client, password="wrong").status_code == 401
    rows("UPDATE attempt SET until = now() WHERE starts_with(key, 'login:')")
    waits = []
    for _ in range(3):
        assert sign_in(client, password="wrong").status_code == 401
        refused = sign_in(client)
        assert refused.status_code == 429, "also with the right password"
        assert "Wait" in refused.text
        waits.append(int(refused.headers["retry-after"]))
        rows("UPDATE attempt SET until = now() WHERE starts_with(key, 'login:')")
    assert waits == sorted(waits)
    assert waits[-1] > waits[0]
    assert sign_in(client).status_code == 303
    assert rows("SELECT count(*) FROM attempt WHERE starts_with(key, 'login:')") == [(0,)], "forgiven"


def test_an_address_waits_that_tries_one_login_after_the_other(client, rows):
    rows("INSERT INTO attempt VALUES ('address:127.0.0.1', 40, now(), now() + interval '1 minute')")
    assert sign_in(client, "someone-new").status_code == 429


def test_an_address_of_ipv6_is_counted_by_its_subscriber():
    assert patience.network_of("2001:db8:1:2:3:4:5:6") == patience.network_of("2001:db8:1:2::99") == "2001:db8:1:2::"
    assert patience.network_of("::ffff:192.0.2.7") == "192.0.2.7"
    assert patience.network_of("") == ""


def test_a_form_of_another_site_signs_nobody_in(client, li):
    for headers in (
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-site"},
        {"Sec-Fetch-Site": "none"},
        {"Origin": "https://evil.example"},
        {"Origin": "null"},
        {},
        {"Sec-Fetch-Site": "cross-site", "Origin": AUDIENCE},
    ):
        answer = sign_in(client, headers=headers)
        assert (answer.status_code, answer.json()["code"]) == (403, "CSRF"), headers
        assert "set-cookie" not in answer.headers


def test_an_old_browser_that_says_its_origin_comes_in(client, li):
    assert sign_in(client, headers={"Origin": str(client.base_url).rstrip("/")}).status_code == 303


ELSEWHERE = (
        "https://evil.example", "//evil.example", "/\\evil.example", "\\\\evil.example", "javascript:alert(1)",
        "/ok\r\nSet-Cookie: x=y", "http:evil.example", "/\t/evil.example", "", "account", " //evil.example", "///evil",
)  # fmt: skip


def test_nobody_is_led_elsewhere_after_signing_in(client, li):
    answer = sign_in(client, next=ELSEWHERE[0])
    assert (answer.status_code, answer.headers["location"]) == (303, "/")
    with bearing(client, cookie_from(answer)) as browser:
        for elsewhere in ELSEWHERE:
            assert browser.get("/sign-in", params={"next": elsewhere}).headers["location"] == "/", elsewhere
        assert browser.get("/sign-in", params={"next": "/studies/1.2?a=b"}).headers["location"] == "/studies/1.2?a=b"


def test_signing_in_again_ends_the_session_that_the_browser_had(client, li, rows):
    first = cookie_from(sign_in(client))
    with bearing(client, first) as browser:
        second = cookie_from(sign_in(browser))
    assert first != second
    assert rows("SELECT count(*) FROM session") == [(1,)]


def test_whoever_is_shut_out_does_not_come_in(client, li, do):
    do(lambda c: accounts.disable(c, MACHINE, "li"))
    assert sign_in(client).status_code == 401


def test_a_link_leads_to_a_password_once(client, li, do):
    code = do(lambda c: accounts.password_link(c, MACHINE, "li"))
    where = f"/sign-in/once/{code}"
    for _ in range(2):
        assert "li" in client.get(where, headers=PAGE).text, "being looked at does not use it up"
    new = {"password": "another horse 电池", "again": "another horse 电池"}
    assert client.post(where, data=new).status_code == 403
    assert client.post(where, data=new | {"again": "x"}, headers=HERE).status_code == 422
    assert client.post(where, data={"password": "short", "again": "short"}, headers=HERE).status_code == 422
    assert client.post(where, data=new, headers=HERE).headers["location"] == "/sign-in?said=password"
    assert client.post(where, data=new, headers=HERE).status_code == 404
    assert client.get(where).status_code == 404
    assert sign_in(client).status_code == 401
    assert sign_in(client, password=new["password"]).status_code == 303


def test_a_link_of_the_demonstration_is_good_on_this_machine_alone(settings, client, li, do):
    code = do(lambda c: passwords.link(c, li, "demo"))
    object.__setattr__(settings, "behind_proxy", True)
    away = HERE | {"X-Forwarded-For": "127.0.0.1, 192.0.2.7"}
    assert client.get(f"/sign-in/once/{code}", headers=away).status_code == 404
    assert client.post(f"/sign-in/once/{code}", headers=away, data={"x": ""}).status_code == 404
    object.__setattr__(settings, "behind_proxy", False)
    answer = client.post(f"/sign-in/once/{code}", headers=away, data={"x": ""})
    assert answer.headers["location"] == "/"
    with bearing(client, cookie_from(answer)) as browser:
        assert browser.get("/account").status_code == 200
    assert client.post(f"/sign-in/once/{code}", headers=HERE, data={"x": ""}).status_code == 404


def test_pages_to_sign_in_are_said_in_chinese(client, li, do):
    code = do(lambda c: accounts.password_link(c, MACHINE, "li"))
    chinese = PAGE | {"Accept-Language": "zh-CN"}
    assert "登录" in client.get("/sign-in", headers=chinese).text
    assert "设置密码" in client.get(f"/sign-in/once/{code}", headers=chinese).text
