"""What is one's own: name, password, sessions, tokens; and a study that is opened in an emergency."""

import re

import pytest
from centre_console import PAGE

from lampyris.centre.people import passwords, sessions, tokens
from lampyris.centre.people.tenants import MACHINE

OLD, NEW = "correct horse 电池", "another horse 电池"
UID = "1.2.826.0.1.3680043.10.1.7"


@pytest.fixture
def li(signed_in, do):
    """A client of `li`, radiologist of the centre, whose number is 1."""
    person = signed_in(("radiologist", "centre"), login="li")
    do(lambda c: passwords.choose(c, 1, OLD, keep=_digest(person)))
    return person


def _digest(client) -> str:
    return sessions.digest_of(next(iter(client.cookies.jar)).value)


def test_somebody_changes_their_name_and_language(li, rows):
    page = li.get("/account", headers=PAGE).text
    assert "<script>" not in page
    answer = li.post("/account", data={"name": "𠮷 <script>", "language": "zh_CN"})
    assert (answer.status_code, answer.headers["hx-refresh"]) == (204, "true")
    page = li.get("/account", headers=PAGE).text
    assert "𠮷 &lt;script&gt;" in page
    assert "访问令牌" in page
    assert li.post("/account", data={"name": "x", "language": "xx"}).status_code == 422
    assert li.post("/account", data={"name": "\u202e", "language": "en"}).status_code == 422


def test_another_password_ends_all_other_sessions(li, do, rows):
    do(lambda c: sessions.begin(c, 1, "192.0.2.7"))

    def change(**said) -> str:
        return li.post("/account/password", data={"old": OLD, "password": NEW, "again": NEW} | said).text

    assert "not the one" in change(old="wrong")
    assert "differ" in change(again="x")
    assert "too short" in change(password="short", again="short")
    assert rows("SELECT count(*) FROM session") == [(2,)]
    assert "another one now" in change()
    assert rows("SELECT count(*) FROM session") == [(1,)]
    assert li.get("/account").status_code == 200
    assert do(lambda c: passwords.check(c, "li", NEW)) == 1
    for _ in range(7):
        said = change(old="wrong")
    assert "Too many tries" in said


def test_somebody_ends_their_own_sessions_and_nobody_else_s(li, do, signed_in, rows):
    do(lambda c: sessions.begin(c, 1, "192.0.2.7", "Browser\x00 <b>"))
    other = signed_in(login="wang")
    numbers = dict(rows("SELECT address || person, number FROM session"))
    page = li.get("/account", headers=PAGE).text
    assert "192.0.2.7" in page
    assert "Browser &lt;b&gt;" in page
    assert li.delete(f"/account/sessions/{numbers['127.0.0.12']}").status_code == 404
    assert li.delete(f"/account/sessions/{numbers['192.0.2.71']}").status_code == 204
    do(lambda c: sessions.begin(c, 1, "192.0.2.8"))
    assert li.delete("/account/sessions").headers["hx-redirect"] == "/sign-in?said=out"
    assert li.get("/account").status_code == 401
    assert other.get("/account").status_code == 200


def test_a_person_has_at_most_twenty_sessions(li, do, rows):
    for _ in range(22):
        do(lambda c: sessions.begin(c, 1, "192.0.2.7"))
    assert rows("SELECT count(*) FROM session") == [(20,)]


def test_somebody_makes_a_token_sees_it_once_and_takes_it_back(li, client, do, rows):
    made = li.post("/account/tokens", data={"name": "script", "days": "30"}).text
    token = re.search(r"lyt_[\w-]+", made)[0]
    assert token not in li.get("/account").text
    header = {"Authorization": f"Bearer {token}"}
    assert client.get("/account", headers=header).status_code == 200
    for method, path in (("POST", "/account/tokens"), ("POST", "/account/password"), ("DELETE", "/account/sessions"),
                         ("DELETE", "/account/tokens/1"), ("POST", "/sign-out"), ("POST", "/account")):  # fmt: skip
        assert client.request(method, path, headers=header, data={"name": "x"}).json()["code"] == "SESSION", path
    assert li.post("/account/tokens", data={"name": "x", "days": "९"}).status_code == 422
    assert li.post("/account/tokens", data={"name": "x", "days": "9999"}).status_code == 422
    do(lambda c: c.execute("INSERT INTO person (login, name) VALUES ('wang', 'Wang')"))
    do(lambda c: tokens.issue(c, MACHINE, 2, "another's", 30))
    assert li.delete("/account/tokens/2").status_code == 404
    assert li.delete("/account/tokens/1").status_code == 204
    assert client.get("/account", headers=header).status_code == 401
    assert rows("SELECT detail->>'what' FROM audit WHERE who = 'li' ORDER BY number") == [
        ("token.issue",), ("token.take_back",)
    ]  # fmt: skip


def test_an_emergency_opens_one_study_for_an_hour_and_its_site_hears_of_it(client, invite, signed_in, rows):
    for name in ("st-anna", "other-site"):
        invite(name)
    for uid in (UID, UID + ".1"):
        rows("INSERT INTO study (site, uid, json) VALUES ('other-site', %s, '{}')", uid)
    radiologist = signed_in(("radiologist", "st-anna"))
    assert radiologist.get("/emergency", headers=PAGE).status_code == 200
    reason = "polytrauma,  transferred to us"
    assert radiologist.post("/emergency", data={"study": UID, "reason": " too       short "}).status_code == 422
    assert radiologist.post("/emergency", data={"study": "1.2.3", "reason": reason}).status_code == 404
    answer = radiologist.post("/emergency", data={"study": UID, "reason": reason})
    assert answer.headers["hx-redirect"] == f"/studies/{UID}"
    found = rows(
        "SELECT uid, reason, extract(epoch FROM until - at)::int FROM glass JOIN study ON study.number = glass.study"
    )
    assert found == [(UID, "polytrauma, transferred to us", 3600)]
    assert UID in radiologist.get("/emergency", headers=PAGE).text
    assert rows("SELECT outcome, site, object FROM audit WHERE kind = 'glass' ORDER BY number DESC LIMIT 2") == [
        ("success", "other-site", UID), ("refused", None, "1.2.3")
    ]  # fmt: skip
    assert "polytrauma" not in str(rows("SELECT detail FROM audit"))
    admin, elsewhere = signed_in(("site_admin", "other-site")), signed_in(("site_admin", "st-anna"))
    assert "polytrauma" in admin.get("/emergency/opened", headers=PAGE).text
    assert reason.replace("  ", " ") in admin.get("/emergency/opened.csv").text
    assert "polytrauma" not in elsewhere.get("/emergency/opened", headers=PAGE).text
    assert admin.post("/emergency", data={"study": UID, "reason": reason}).status_code == 403
    rows("INSERT INTO glass (person, study, reason, until) SELECT 1, 1, 'x', now() FROM generate_series(1, 20)")
    assert radiologist.post("/emergency", data={"study": UID, "reason": reason}).status_code == 429
