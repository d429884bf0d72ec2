"""Hostile requests: refused with a reason the page knows, never with a 500, and nothing else is disturbed."""

import json
import re
import threading
from pathlib import Path

from centre_site import raw_request, settle, slow_put
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from lampyris.centre import body as bodies
from lampyris.centre import ingest
from lampyris.transfer import limits

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "protocol.md").read_text("utf-8")
CODES = set(re.findall(r"`([A-Z_]+)`", PAGE))
PIECE = b"piece" * 100
D = "0a" * 32


def refused(answer) -> None:
    """A problem as section 10 of the page has it."""
    assert 400 <= answer.status_code < 500, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    problem = answer.json()
    assert problem["code"] in CODES
    assert problem["status"] == answer.status_code
    assert isinstance(problem["retry"], bool)


PATHS = [
    "/scans/../../etc/passwd", "/scans/%2e%2e%2f%2e%2e", "/scans/" + "A" * 32, "/scans/" + "a" * 31, "/scans/x'--",
    f"/scans/{'a' * 32}/series/..%2f..%2fetc%2fpasswd", f"/scans/{'a' * 32}/series//etc/passwd",
    f"/scans/{'a' * 32}/series/%00", f"/scans/{'a' * 32}/series/a%0d%0aSet-Cookie:x", "/scans?limit=0",
    "/scans?limit=1001", "/scans?limit=x", "/scans?after=%27%20OR%201=1--", "/returns?after=-1", "/returns?limit=101",
    "/returns?after=99999999999999999999999", "/nothing", "/keys/abc",
]  # fmt: skip


def test_paths_that_lead_elsewhere_are_refused(site):
    for path in PATHS:
        refused(site.ask("GET", path))


def test_wrong_methods_and_media_types_are_refused(site):
    manifest = site.manifest([PIECE])
    answer = site.ask("DELETE", "/scans")
    refused(answer)
    assert (answer.status_code, answer.headers["allow"]) == (405, "GET, POST")
    refused(site.ask("POST", "/scans", kind="text/plain", content=manifest.skeleton().to_json()))
    refused(site.ask("POST", "/enrolments", content="{}"))
    site.open(manifest)
    refused(site.ask("PUT", f"/scans/{manifest.scan}/chunks/{D}", kind="image/png", content=PIECE))
    refused(site.ask("POST", f"/scans/{manifest.scan}/commit", content=b"{}"))
    refused(site.ask("POST", f"/scans/{manifest.scan}/commit", kind="application/jose", content=b"\xff\xfe"))
    refused(site.ask("POST", f"/scans/{manifest.scan}/parts", content=b'{"parts":[],"more":1}'))
    refused(site.ask("POST", f"/scans/{manifest.scan}/parts", content=b'{"parts":{}}'))
    refused(site.ask("POST", f"/scans/{manifest.scan}/acknowledge", content=b'{"digest":"x"}'))


def test_a_scan_with_parts_or_content_is_no_skeleton(site):
    manifest = site.manifest([PIECE])
    refused(site.ask("POST", "/scans", content=manifest.to_json()))
    text = json.dumps(json.loads(manifest.skeleton().to_json()) | {"content": D})
    refused(site.ask("POST", "/scans", content=text))


def test_bodies_that_are_too_long_are_refused_before_they_are_read(site):
    manifest = site.manifest([PIECE])
    site.open(manifest)
    answer = site.put(manifest.scan, b"x" * (limits.CHUNK_BYTES + 1), D)
    assert (answer.status_code, answer.json()["code"]) == (413, "LENGTH")
    assert site.ask("POST", "/scans", content=b" " * (limits.REQUEST_BYTES + 1)).status_code == 413
    endless = (b" " * 65536 for _ in range(100))
    assert site.ask("POST", "/scans", content=endless).status_code == 413
    unsized = (PIECE for _ in range(1))
    answer = site.ask("PUT", f"/scans/{manifest.scan}/chunks/{D}", kind="application/octet-stream", content=unsized)
    assert (answer.status_code, answer.json()["code"]) == (411, "LENGTH")


def test_a_body_that_stands_still_is_ended_and_gives_its_place_back(site, app, monkeypatch):
    monkeypatch.setattr(bodies, "IDLE_S", 0.3)
    manifest = site.manifest([PIECE])
    site.open(manifest)
    with slow_put(site, manifest.scan, 1000, D) as connection:
        connection.sendall(b"x")
        assert b" 408 " in connection.recv(4096).splitlines()[0]
    assert app.state.gate.held == 0
    assert site.put(manifest.scan, PIECE).status_code == 204


def test_a_body_that_ends_early_leaves_nothing(site, app, settings):
    manifest = site.manifest([PIECE])
    site.open(manifest)
    with slow_put(site, manifest.scan, 1000, D) as connection:
        connection.sendall(b"x" * 10)
    settle(app, 0)
    assert not [path for path in (settings.folder / "objects").rglob("*") if path.is_file()]


def test_many_slow_bodies_leave_room_for_stat(site, other, app):
    """Four bodies at a time here, and one more for STAT; the fifth routine one is told to wait."""
    slow, urgent = site.manifest([PIECE]), other.manifest([PIECE], priority="stat")
    site.open(slow)
    other.open(urgent)
    held = [slow_put(site, slow.scan, 1000, D) for _ in range(4)]
    try:
        settle(app, 4)
        answer = site.put(slow.scan, PIECE)
        assert (answer.status_code, answer.json()["code"]) == (503, "WAIT")
        assert int(answer.headers["retry-after"]) > 0
        assert other.put(urgent.scan, PIECE).status_code == 204
    finally:
        for each in held:
            each.close()


def test_headers_cannot_be_smuggled_and_broken_http_ends_nothing(site):
    for head in ("GET /v1 HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\n", "nonsense\r\n\r\n",
                 "PUT /v1/scans HTTP/1.1\r\nHost: x\r\nContent-Length: -1\r\n\r\n"):  # fmt: skip
        with raw_request(site, head) as connection:
            assert b" 400 " in connection.recv(4096).splitlines()[0]
    assert site.client.get("/healthz").status_code == 200


PLAIN = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=40)
LISTS = st.lists(PLAIN | st.lists(PLAIN, max_size=4), max_size=4)
JSONS = PLAIN | LISTS | st.dictionaries(st.text(max_size=12), PLAIN | LISTS, max_size=4)


@hypothesis_settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(value=JSONS, name=st.sampled_from(["scan", "site", "parts", "packing", "study", "sealed", "priority", "recipe"]))
def test_any_skeleton_is_opened_or_refused(site, value, name):
    whole = json.loads(site.manifest([PIECE]).skeleton().to_json()) | {name: value}
    answer = site.ask("POST", "/scans", content=json.dumps(whole))
    if answer.status_code not in (200, 201, 429):
        refused(answer)


@hypothesis_settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.binary(max_size=300), path=st.sampled_from(["/enrolments", "/token", "/scans", "/keys"]),
       kind=st.sampled_from(["application/jose", "application/json", "application/x-www-form-urlencoded"]))  # fmt: skip
def test_any_bytes_are_refused(site, data, path, kind):
    refused(site.ask("POST", path, kind=kind, content=data))


def test_hostile_values_in_the_database_stay_values(site, rows):
    """What looks like SQL in the fields that take text."""
    evil = "x'); DROP TABLE scan; --"
    manifest = site.manifest([PIECE], packing=(("codec", evil),))
    site.open(manifest)
    site.put(manifest.scan, PIECE)
    assert site.commit(manifest).status_code == 202
    assert evil in rows("SELECT skeleton FROM scan")[0][0]


def test_metrics_are_not_passed_on_by_a_proxy(client):
    assert client.get("/metrics").status_code == 200
    assert client.get("/metrics", headers={"X-Forwarded-For": "203.0.113.7"}).status_code == 404


def test_a_program_error_tells_nothing_of_itself(site, monkeypatch, capfd):
    """What went wrong may hold what must not be told: neither the site nor the log gets to read it."""

    async def fail(*_):
        raise RuntimeError("Anna^Müller")

    monkeypatch.setattr(ingest, "statuses", fail)
    answer = site.ask("GET", "/scans")
    assert (answer.status_code, answer.json()["code"], answer.json()["retry"]) == (500, "PROGRAM", True)
    assert "Anna" not in answer.text
    assert "Anna" not in "".join(capfd.readouterr())


def test_the_document_describes_every_route_of_the_page(client):
    """Each request that docs/protocol.md names is in the OpenAPI document with that method."""
    document = client.get("/openapi.json").json()
    written = {"{scan}": "S", "{digest}": "D", "{key}": "KID", "{name}": "NAME"}
    known = set()
    for path, methods in document["paths"].items():
        for name, letter in written.items():
            path = path.replace(name, letter)
        known |= {(method.upper(), path) for method in methods}
    named = set(re.findall(r"\b(GET|POST|PUT|DELETE) +(/v1[\w/]*)", PAGE))
    assert named <= known
    assert len(named) >= 14


def test_threads_of_strangers_do_not_disturb_a_site(site, other):
    """A hundred bad requests beside a good scan."""
    manifest = site.manifest([PIECE])
    site.open(manifest)

    def disturb():
        for _ in range(25):
            other.put(manifest.scan, PIECE)

    threads = [threading.Thread(target=disturb) for _ in range(4)]
    for thread in threads:
        thread.start()
    assert site.put(manifest.scan, PIECE).status_code == 204
    assert site.commit(manifest).status_code == 202
    for thread in threads:
        thread.join()
