"""Signing in at an OpenID provider, judged by a small real one on the loopback interface."""

import re
import time

import httpx
import pytest
from centre_console import PAGE
from centre_provider import CLIENT, SECRET, Provider
from centre_site import AUDIENCE, served
from joserfc.jwk import ECKey

from lampyris.centre.people import oidc
from lampyris.centre.people.sessions import cookie_of
from lampyris.model import InputError

BACK = AUDIENCE + oidc.CALLBACK
CONFIG = """
issuer = "{issuer}"
client_id = "{client}"
name = "Hospital ID"
[[grant]]
value = "ct"
role = "radiologist"
tenant = "st-anna"
[[grant]]
value = "boss"
role = "operator"
tenant = "centre"
[[grant]]
value = "ct"
role = "expert"
tenant = "no-such-tenant"
"""


@pytest.fixture
def provider(settings, tmp_path, monkeypatch):
    made = Provider()
    monkeypatch.setenv(oidc.SECRET, SECRET)
    with served(made.app) as http:
        made.issuer = str(http.base_url).rstrip("/")
        path = tmp_path / "oidc.toml"
        path.write_text(CONFIG.format(issuer=made.issuer, client=CLIENT), "utf-8")
        object.__setattr__(settings, "oidc", str(path))
        yield made


@pytest.fixture
def browse(provider, client, invite):
    """Go to the provider and back, as a browser does: what the centre says in the end."""
    invite("st-anna")

    def go(then: str = "/account", *, change=lambda url: url, flow: str | None = None) -> httpx.Response:
        away = client.get("/sign-in/provider", params={"next": then})
        assert away.status_code == 303, away.text
        cookie = re.search(r"__Host-lampyris_flow=([^;]+);", away.headers["set-cookie"])[1]
        there = httpx.get(away.headers["location"], trust_env=False)
        assert there.headers["location"].startswith(BACK + "?")
        where = change(there.headers["location"].removeprefix(AUDIENCE))
        return client.get(where, headers={"Cookie": f"__Host-lampyris_flow={flow or cookie}"})

    return go


def test_the_provider_signs_somebody_in_with_the_roles_of_their_groups(browse, client, rows, provider):
    assert "Sign in with Hospital ID" in client.get("/sign-in", headers=PAGE).text
    answer = browse("/account")
    assert (answer.status_code, answer.headers["location"]) == (303, "/account")
    cookie = re.search(f"{cookie_of(AUDIENCE)}=([^;]+);", answer.headers["set-cookie"])[1]
    page = client.get("/account", headers=PAGE | {"Cookie": f"{cookie_of(AUDIENCE)}={cookie}"})
    assert "王 伟" in page.text
    granted = "SELECT login, role, tenant, origin FROM granted JOIN person ON person.number = person ORDER BY role"
    assert rows(granted) == [("wang.wei", "radiologist", "st-anna", "oidc")]
    rows("INSERT INTO granted (person, role, tenant) VALUES (1, 'physicist', 'st-anna')")
    provider.claims = {"sub": "1234", "preferred_username": "another-name", "groups": ["boss", "x"]}
    assert browse().headers["location"] == "/account"
    assert rows(granted) == [
        ("wang.wei", "operator", "centre", "oidc"), ("wang.wei", "physicist", "st-anna", "local")
    ], "what the provider gave goes with its claim, what was given here stays"  # fmt: skip
    assert rows("SELECT who, outcome, detail->>'by' FROM audit WHERE kind = 'login'") == [
        ("wang.wei", "success", "oidc")
    ] * 2  # fmt: skip


def test_nobody_gets_another_s_account_by_its_name_or_address(browse, rows, provider):
    rows("INSERT INTO person (login, name) VALUES ('wang.wei', 'Local'), ('a@b.example', 'Local')")
    for sub, more in (("1", {"preferred_username": "wang.wei"}), ("2", {"email": "A@B.example"})):
        provider.claims = {"sub": sub, "groups": ["ct"]} | more
        assert browse().headers["location"] == "/account"
    assert rows("SELECT person.login FROM session JOIN person ON person.number = person WHERE subject IS NULL") == []
    assert {login[:5] for (login,) in rows("SELECT login FROM person WHERE subject IS NOT NULL")} == {"oidc-"}


def test_whoever_has_no_role_or_is_shut_out_gets_no_session(browse, rows, provider):
    provider.claims = {"sub": "9", "groups": ["somebody"]}
    assert browse().headers["location"] == "/sign-in?said=role"
    assert rows("SELECT count(*) FROM person") == [(0,)], "no account is made"
    provider.claims = {"sub": "9", "groups": "ct"}
    assert browse().headers["location"] == "/account"
    rows("UPDATE person SET disabled = true")
    assert browse().headers["location"] == "/sign-in?said=role"
    provider.claims, _ = {"sub": "9", "groups": []}, rows("UPDATE person SET disabled = false")
    assert browse().headers["location"] == "/sign-in?said=role", "the claim is gone, and the role with it"
    assert rows("SELECT count(*) FROM granted") == [(0,)]


def test_an_id_token_that_lies_proves_nothing(browse, rows, provider):
    now = int(time.time())
    for lie in (
        {"iss": "https://evil.example"}, {"aud": "another"}, {"aud": [CLIENT, "another"]}, {"nonce": "another"},
        {"exp": now - 120}, {"iat": now + 3600}, {"sub": ""}, {"sub": 7}, {"azp": "another"}, {"nbf": now + 3600},
    ):  # fmt: skip
        provider.lies = lie
        assert browse().headers["location"] == "/sign-in?said=provider", lie
    provider.lies, provider.signed_with = {}, ECKey.generate_key("P-256", {"kid": "one"}, auto_kid=False)
    assert browse().headers["location"] == "/sign-in?said=provider", "signed with another key"
    assert rows("SELECT count(*) FROM session") == [(0,)]


def test_a_sign_in_that_another_began_or_that_is_over_ends_nowhere(browse, client, rows, provider):
    def refused(**how) -> bool:
        return browse(**how).headers["location"] == "/sign-in?said=provider"

    assert refused(flow="the cookie of somebody else's browser")
    assert refused(change=lambda url: url.replace("state=", "state=x"))
    assert refused(change=lambda url: url.replace("code=", "x="))
    assert refused(change=lambda url: url.replace("code=", "code=x"))
    assert refused(change=lambda url: url + "&iss=https://evil.example"), "RFC 9207"
    assert client.get("/sign-in/provider/back").headers["location"] == "/sign-in?said=provider"
    seen: list[str] = []
    assert browse(change=lambda url: seen.append(url) or url).headers["location"] == "/account"
    assert client.get(seen[0]).headers["location"] == "/sign-in?said=provider", "a code is used once"
    assert rows("SELECT count(*) FROM session") == [(1,)]
    for said in provider.asked:
        assert said["redirect_uri"] == BACK
    assert len({said["nonce"] for said in provider.asked}) == len(provider.asked)


def test_nobody_is_led_elsewhere_by_the_way_of_the_provider(browse):
    assert browse("https://evil.example/").headers["location"] == "/"


def test_a_provider_that_is_away_or_another_is_told_in_words(browse, client, provider):
    whole, provider.issuer = provider.issuer, "https://another.example"
    answer = client.get("/sign-in/provider")
    assert (answer.status_code, answer.json()["code"]) == (503, "WAIT")
    provider.issuer = whole


def test_settings_name_a_provider_that_is_reached_by_tls(tmp_path, settings):
    for number, wrong in enumerate(("http://id.example", "https://u:p@id.example", "file:///etc/passwd", "id.example",
                                    "http://169.254.169.254/latest", "ftp://127.0.0.1")):  # fmt: skip
        path = tmp_path / f"{number}.toml"
        path.write_text(CONFIG.format(issuer=wrong, client=CLIENT), "utf-8")
        object.__setattr__(settings, "oidc", str(path))
        with pytest.raises(InputError, match="https"):
            oidc.provider_of(settings)
    god = CONFIG.format(issuer="https://x", client="x").replace("expert", "god")
    half = 'issuer = "https://x"\nclient_id = "x"\n[[grant]]\nvalue = "x"'
    for number, text in enumerate(("", "issuer = 1", half, god)):
        path = tmp_path / f"wrong-{number}.toml"
        path.write_text(text, "utf-8")
        object.__setattr__(settings, "oidc", str(path))
        with pytest.raises(InputError, match="does not describe"):
            oidc.provider_of(settings)


def test_a_centre_without_a_provider_has_no_way_to_one(client):
    assert client.get("/sign-in/provider").status_code == 404
    assert "Hospital ID" not in client.get("/sign-in", headers=PAGE).text
