"""What an operator and a site see while the centre works: readiness, metrics, events; and no secret in the log."""

import json
import threading
import time

import httpx
import structlog

from lampyris.centre import administration
from lampyris.centre.api import watch
from lampyris.centre.api.app import _drain
from lampyris.centre.jobs.worker import work
from lampyris.centre.observe import logs
from lampyris.transfer import ScanStatus, limits, plain_code

PIECES = [b"first" * 1000]


def test_the_limits_are_told_to_whoever_asks(client):
    told = client.get("/v1").json()
    assert (told["protocol"], told["minor"]) == ("lampyris/1", 2)
    assert told["limits"]["chunk_bytes"] == limits.CHUNK_BYTES
    assert len(told["limits"]) == 11


def test_a_centre_is_ready_while_its_database_answers(client, app):
    assert client.get("/readyz").json() == {"ready": True, "database": True, "space": True, "serving": True}
    app.state.draining = True
    assert (client.get("/readyz").status_code, client.get("/healthz").status_code) == (503, 200)


def test_metrics_tell_what_waits_and_what_was_done(site, client):
    site.send(PIECES, priority="stat")
    text = client.get("/metrics").text
    assert 'lampyris_scans{priority="stat",state="queued"} 1.0' in text
    assert "lampyris_chunk_bytes_total 5000.0" in text
    assert 'lampyris_scans_committed_total{priority="stat"} 1.0' in text
    assert 'lampyris_http_answers_total{route="/v1/scans/{scan}/commit",status="202"} 1.0' in text


def test_a_worker_counts_how_its_tries_end(site, inside):
    site.send(PIECES)
    told = []

    async def run(centre):
        def make(work, manifest, folder, watch):
            watch("correct", 0.0)
            return [], "pass"

        await work(centre, ("routine",), make=make, signals=False, wait=False)
        async with centre.pool.connection() as connection:
            told.append((await centre.metrics.text(connection)).decode())

    inside(run)
    assert 'lampyris_tries_total{state="done"} 1.0' in told[0]
    assert 'lampyris_station_seconds_count{station="correct"} 1.0' in told[0]


def test_a_server_that_is_being_stopped_waits_for_no_stream(site, client, app):
    """Else it would wait for thirty seconds, and then kill what it still receives."""
    with Stream(site) as stream:
        _drain(app)
        stream.ended(60)
    assert client.get("/readyz").status_code == 503


class Stream:
    """Events of a site, read by a thread of their own."""

    def __init__(self, site, **headers) -> None:
        self.events: list[tuple[str, ScanStatus]] = []
        self.begun = threading.Event()
        self._stop = threading.Event()
        whole = {"Authorization": f"Bearer {site.token}", **headers}
        self._client = httpx.Client(base_url=site.client.base_url, headers=whole, trust_env=False, timeout=20)
        self._thread = threading.Thread(target=self._read)

    def _read(self) -> None:
        last = ""
        with self._client.stream("GET", "/v1/events") as answer:
            assert answer.headers["content-type"].startswith("text/event-stream")
            for line in answer.iter_lines():
                self.begun.set()
                if line.startswith("id: "):
                    last = line[4:]
                if line.startswith("data: "):
                    self.events.append((last, ScanStatus.of(json.loads(line[6:]))))
                if self._stop.is_set():
                    return

    def ended(self, seconds: float) -> None:
        self._thread.join(seconds)
        assert not self._thread.is_alive(), "the stream goes on"

    def __enter__(self) -> "Stream":
        self._thread.start()
        assert self.begun.wait(20)
        return self

    def __exit__(self, *_) -> None:
        self._stop.set()
        self._thread.join(40)
        self._client.close()

    def wait(self, state: str) -> None:
        deadline = time.monotonic() + 20
        while state not in [status.state for _, status in self.events]:
            assert time.monotonic() < deadline, self.events
            time.sleep(0.01)


def test_a_site_hears_of_its_own_scans_and_goes_on_where_it_was(site, other, monkeypatch):
    monkeypatch.setattr(watch, "_PING_S", 0.5)
    with Stream(site) as stream:
        other.send(PIECES)
        manifest = site.send(PIECES)
        stream.wait("queued")
    assert {status.scan for _, status in stream.events} == {manifest.scan}
    last, status = stream.events[-1]
    assert status.state == "queued"
    site.ask("POST", f"/scans/{manifest.scan}/withdraw")
    later = site.manifest(PIECES)
    site.open(later)
    with Stream(site, **{"Last-Event-ID": last}) as stream:
        stream.wait("open")
    assert {status.scan for _, status in stream.events} == {later.scan}


def test_a_stream_needs_a_token_and_a_number(site, client):
    assert client.get("/v1/events").status_code == 401
    assert site.ask("GET", "/events", headers={"Last-Event-ID": "x"}).status_code == 400


def test_the_log_is_json_and_holds_neither_code_nor_token(site, client, invite, capfd):
    logs.to_stderr()
    try:
        code = invite("another")
        site.enrol(code)
        manifest = site.send(PIECES, study=(("PatientID", "7f1c22"),), sealed="sealedidentity")
        site.ask("GET", f"/scans/{manifest.scan}?name=Anna")
        text = capfd.readouterr().err
    finally:
        structlog.reset_defaults()
    lines = [json.loads(line) for line in text.splitlines()]
    assert {"event", "level", "timestamp"} <= set(lines[0])
    assert manifest.scan in text
    for secret in (code, plain_code(code), site.token, "7f1c22", "sealedidentity", "Anna"):
        assert secret not in text


def test_a_stream_ends_when_its_site_is_shut_out(site, other, inside, monkeypatch):
    """At once: not when the stream would look again by itself."""
    monkeypatch.setattr(watch, "_PING_S", 600.0)

    async def suspend(centre):
        async with centre.pool.connection() as connection:
            await administration.suspend(connection, site.name)

    with Stream(other) as goes_on, Stream(site) as stream:
        inside(suspend)
        stream._thread.join(100)
        assert not stream._thread.is_alive()
        assert goes_on._thread.is_alive()
        other.send(PIECES)


def test_where_an_error_came_from_is_told_without_what_it_held():
    def inner(name):
        raise ValueError(name)

    try:
        inner("Anna^Müller")
    except ValueError as error:
        told = logs.where(error)
    assert told[-1].startswith("test_centre_watch.py:")
    assert told[-1].endswith(" inner")
    assert "Anna" not in str(told)
