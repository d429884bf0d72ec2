"""Who is let in: one code, one key, one use of an assertion, and a token that opens nothing but its site's scans."""

import base64
import json
import time

import pytest
from joserfc import jwt
from joserfc.jwk import OctKey

from lampyris.centre import access, administration
from lampyris.transfer import SiteKey, enrolment_request

PIECES = [b"first" * 1000]


def token_of(site, text):
    return site.client.get("/v1/scans", headers={"Authorization": text})


def test_a_code_lets_one_key_in_and_a_lost_answer_costs_nothing(client, invite, site):
    code = invite("st-anna")
    again = SiteKey.generate()
    first, second = site.enrol(code, again), site.enrol(code.lower(), again)
    assert (first.status_code, second.status_code) == (201, 201)
    assert first.json() == second.json() == {
        "site": "st-anna", "key_id": again.key_id, "audience": "https://centre.example"}  # fmt: skip
    stolen = site.enrol(code, SiteKey.generate())
    assert (stolen.status_code, stolen.json()["code"]) == (403, "CODE_USED")


def test_an_unknown_or_old_code_lets_nobody_in(site, invite, rows):
    assert site.enrol("0" * 20).json()["code"] == "CODE"
    code = invite("late-site")
    rows("UPDATE enrolment_code SET expires = now() - interval '1 second'")
    assert site.enrol(code, SiteKey.generate()).json()["code"] == "CODE"


def test_a_code_is_not_in_the_database(invite, rows):
    code = invite("st-anna")
    assert code.replace("-", "") not in str(rows("SELECT * FROM enrolment_code"))


def test_a_key_belongs_to_one_site(client, site, invite):
    answer = site.enrol(invite("thief"), site.key)
    assert (answer.status_code, answer.json()["code"]) == (409, "CONFLICT")


def test_an_assertion_is_good_for_one_token(site, other):
    shown = site.assertion()
    assert site.show(shown).status_code == 200
    again = site.show(shown)
    assert (again.status_code, again.json()["code"], again.json()["error"]) == (401, "REPLAYED", "invalid_client")
    jti = "a" * 22
    assert [each.show(each.assertion(jti=jti)).status_code for each in (site, other)] == [200, 200]


def bad_assertions(site, other):
    yield site.assertion(now=int(time.time()) - 500)
    yield site.assertion(audience="https://elsewhere.example")
    yield site.assertion(key=other.key)
    yield site.assertion(key=SiteKey.generate())
    yield site.assertion()[:-4] + "AAAA"
    yield "a.b.c"
    yield ""


def test_no_other_assertion_is_good(site, other):
    for text in bad_assertions(site, other):
        answer = site.show(text)
        assert (answer.status_code, answer.json()["code"]) == (401, "TOKEN"), text
        assert "access_token" not in answer.text


@pytest.mark.parametrize(
    "form",
    [
        {},
        {"grant_type": "password"},
        {"grant_type": "client_credentials", "client_assertion_type": "x"},
        {"grant_type": ["client_credentials"] * 2},
    ],
)
def test_no_other_grant_is_known(client, form):
    answer = client.post("/v1/token", data=form, headers={"Content-Type": "application/x-www-form-urlencoded"})
    assert (answer.status_code, answer.json()["code"]) == (400, "REQUEST")


def part(value) -> str:
    return base64.urlsafe_b64encode(json.dumps(value).encode()).rstrip(b"=").decode()


def test_no_other_text_is_a_token(site):
    head, body, signature = site.token.split(".")
    claims = json.loads(base64.urlsafe_b64decode(body + "=="))
    kid = json.loads(base64.urlsafe_b64decode(head + "=="))["kid"]
    own = OctKey.import_key(b"x" * 32)
    late = int(time.time()) + 200
    texts = [
        "", "Bearer", f"Basic {site.token}", f"Bearer {head}.{body}.", f"Bearer {head}.{body}.AAAA",
        f"Bearer {part({'alg': 'none'})}.{body}.", f"Bearer {head}.{part(claims | {'sub': 'other-site'})}.{signature}",
        f"Bearer {site.assertion()}", "Bearer é".encode("latin-1"), f"Bearer {'a' * 9000}",
        "Bearer " + jwt.encode({"alg": "HS256", "kid": kid}, claims | {"exp": late}, own),
        "Bearer " + jwt.encode({"alg": "HS256", "kid": "x"}, claims, own),
        "Bearer " + jwt.encode({"alg": "HS256"}, claims, own),
    ]  # fmt: skip
    for text in texts:
        answer = token_of(site, text)
        assert answer.status_code in (400, 401, 431), text
    assert token_of(site, f"bearer {site.token}").status_code == 200


def test_a_token_lives_five_minutes(site, inside):
    now = int(time.time())

    async def issue(centre):
        async with centre.pool.connection() as connection:
            return [await centre.tokens.issue(connection, "st-anna", site.key.key_id, now - age) for age in (305, 200)]

    old, young = inside(issue)
    assert token_of(site, f"Bearer {old}").json()["code"] == "TOKEN"
    assert token_of(site, f"Bearer {young}").status_code == 200


def test_a_token_ends_with_the_key_that_it_was_got_with(site):
    fresh = SiteKey.generate()
    body = enrolment_request(access.NO_CODE, fresh, now=int(time.time()))
    site.ask("POST", "/keys", kind="application/jose", content=body)
    old_token, old, site.key = site.token, site.key, fresh
    site.token = site.fresh_token()
    assert site.ask("DELETE", f"/keys/{old.key_id}").status_code == 204
    assert token_of(site, f"Bearer {old_token}").json()["code"] == "TOKEN"
    assert site.ask("GET", "/scans").status_code == 200


def test_another_sites_scan_is_as_one_that_never_was(site, other):
    manifest = site.send(PIECES)
    digest = manifest.parts[0].chunks[0].digest
    never = "f" * 32
    for scan in (manifest.scan, never):
        answers = [
            other.ask("GET", f"/scans/{scan}"),
            other.ask("POST", f"/scans/{scan}/parts", content='{"parts":[]}'),
            other.put(scan, PIECES[0]),
            other.ask("POST", f"/scans/{scan}/withdraw"),
            other.ask("GET", f"/scans/{scan}/series/ct/1.dcm"),
            other.ask("POST", f"/scans/{scan}/acknowledge", content=json.dumps({"digest": digest})),
        ]
        assert [(one.status_code, one.json()["code"]) for one in answers] == [(404, "NOT_FOUND")] * 6
    assert other.ask("GET", "/scans").json() == {"scans": []}
    assert other.ask("GET", "/returns").json() == {"series": []}


def test_two_sites_may_choose_the_same_id(site, other):
    first = site.manifest(PIECES)
    second = other.manifest([b"something else"], scan=first.scan)
    assert site.open(first).status_code == other.open(second).status_code == 201
    site.put(first.scan, PIECES[0])
    assert other.state(first.scan)["received_bytes"] == 0


def test_a_site_cannot_send_in_anothers_name(site, other):
    manifest = site.manifest(PIECES)
    foreign = other.ask("POST", "/scans", content=manifest.skeleton().to_json())
    assert (foreign.status_code, foreign.json()["code"]) == (422, "INPUT_MANIFEST")
    site.open(manifest)
    site.put(manifest.scan, PIECES[0])
    assert site.commit(manifest, key=other.key).json()["code"] == "INPUT_SIGNATURE"
    assert other.commit(manifest).json()["code"] == "INPUT_SIGNATURE"
    assert site.state(manifest.scan)["state"] == "open"


def test_keys_are_changed_without_a_gap(site):
    fresh = SiteKey.generate()
    body = enrolment_request(access.NO_CODE, fresh, now=int(time.time()))
    assert site.ask("POST", "/keys", kind="application/jose", content=body).json()["key_id"] == fresh.key_id
    old, site.key = site.key, fresh
    site.token = site.fresh_token()
    assert site.ask("DELETE", f"/keys/{old.key_id}").status_code == 204
    assert site.show(site.assertion(key=old)).status_code == 401
    assert site.ask("DELETE", f"/keys/{old.key_id}").status_code == 404
    last = site.ask("DELETE", f"/keys/{fresh.key_id}")
    assert (last.status_code, last.json()["code"]) == (409, "CONFLICT")
    assert site.send(PIECES)


def test_a_site_has_four_keys_at_most(site):
    answers = []
    for _ in range(4):
        body = enrolment_request(access.NO_CODE, SiteKey.generate(), now=int(time.time()))
        answers.append(site.ask("POST", "/keys", kind="application/jose", content=body).status_code)
    assert answers == [201, 201, 201, 409]


def test_a_suspended_site_is_shut_out_at_once(site, invite, inside):
    manifest = site.send(PIECES)

    async def suspend(centre):
        async with centre.pool.connection() as connection:
            await administration.suspend(connection, "st-anna")

    code = invite("st-anna")
    assert site.ask("GET", "/returns").status_code == 200
    inside(suspend)
    assert site.show(site.assertion()).status_code == 401
    answers = [
        site.open(site.manifest(PIECES)),
        site.put(manifest.scan, PIECES[0]),
        site.commit(manifest),
        *(site.ask("GET", path) for path in (f"/scans/{manifest.scan}", "/scans", "/returns", "/events")),
        site.ask("GET", f"/scans/{manifest.scan}/series/ct/1.dcm"),
        site.ask("POST", f"/scans/{manifest.scan}/acknowledge", content=json.dumps({"digest": "0" * 64})),
    ]
    assert [(one.status_code, one.json()["code"]) for one in answers] == [(401, "TOKEN")] * len(answers)
    assert site.enrol(code, SiteKey.generate()).json()["code"] == "CODE"
