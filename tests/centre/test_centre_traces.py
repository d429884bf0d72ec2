"""A scan's way is one trace under its own id, of interface and worker; nothing is sent unless that is asked for."""

import dataclasses
import json
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from centre_site import Site, served
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from lampyris.centre import service
from lampyris.centre.api import create
from lampyris.centre.jobs.worker import work
from lampyris.centre.observe.traces import Traced, Traces, traces_of
from lampyris.model import CalibrationError, MachineError
from lampyris.transfer import ReturnedSeries

PIECES = [b"first" * 1000, b"second" * 1000]


@pytest.fixture
def sent(monkeypatch) -> InMemorySpanExporter:
    """Where the spans of every process that is opened from now on are gathered."""
    exporter = InMemorySpanExporter()
    exporter.shutdown = lambda: None  # it outlives each process that sends to it
    monkeypatch.setattr(service, "traces_of", lambda _endpoint, name: Traces(exporter, name))
    return exporter


def journey(site, inside, make):
    """A scan is sent, and a worker empties the queue."""
    manifest = site.send(PIECES)

    async def run(centre):
        named = dataclasses.replace(centre, traces=service.traces_of(None, "lampyris-worker"))
        await work(named, ("routine",), make=make, signals=False, wait=False)
        named.traces.close()

    inside(run)
    return manifest


def makes(work, manifest, folder, watch):
    for station, done in (("fetch", 0.0), ("correct", 0.0), ("correct", 1.0), ("reconstruct", 0.5)):
        watch(station, done)
    return [], "pass"


def test_a_scans_way_is_one_trace_under_its_id(sent, settings, invite, inside):
    with served(create(settings)) as client:
        site = Site(client, "st-anna", invite("st-anna"))
        manifest = journey(site, inside, makes)
        (listed,) = site.ask("GET", "/returns").json()["series"]
        body = json.dumps({"digest": ReturnedSeries.of(listed).digest()})
        for _ in range(2):
            assert site.ask("POST", f"/scans/{manifest.scan}/acknowledge", content=body).status_code == 200
        assert site.ask("GET", "/scans/not-a-scan").status_code == 400
    spans = sent.get_finished_spans()
    assert {span.context.trace_id for span in spans} == {int(manifest.scan, 16)}
    root = Traced("st-anna", manifest.scan).ids[1]
    by_name = {span.name: span for span in spans}
    opened, tried = by_name["POST /v1/scans"], by_name["try"]
    assert (opened.parent, opened.context.span_id) == (None, root)
    stations = [span.name for span in spans if span.parent and span.parent.span_id == tried.context.span_id]
    assert stations == ["fetch", "correct", "reconstruct"]
    others = [span for span in spans if span.name not in stations and span is not opened]
    assert {span.parent.span_id for span in others} == {root}
    assert [span.name for span in others if span.name.startswith("PUT")] == ["PUT /v1/scans/{scan}/chunks/{digest}"] * 2
    assert {"POST /v1/scans/{scan}/commit", "return", "POST /v1/scans/{scan}/acknowledge"} <= set(by_name)
    assert [span.name for span in spans].count("return") == 1
    assert dict(tried.attributes) == {"lampyris.site": "st-anna", "lampyris.attempt": 1, "lampyris.state": "done"}
    assert tried.start_time <= by_name["fetch"].start_time <= by_name["fetch"].end_time <= tried.end_time
    assert by_name["fetch"].end_time == by_name["correct"].start_time
    names = {span.resource.attributes["service.name"] for span in spans}
    assert names == {"lampyris-api", "lampyris-worker"}


def test_a_try_that_ends_badly_tells_its_code(sent, settings, invite, inside):
    def refuses(*_):
        raise CalibrationError("Anna")

    with served(create(settings)) as client:
        journey(Site(client, "st-anna", invite("st-anna")), inside, refuses)
    (tried,) = [span for span in sent.get_finished_spans() if span.name == "try"]
    assert (tried.attributes["lampyris.state"], tried.attributes["lampyris.code"]) == ("refused", "INPUT_CALIBRATION")
    assert "Anna" not in str([span.to_json() for span in sent.get_finished_spans()])


def test_spans_reach_a_collector_by_otlp():
    """A server on loopback gets what a collector would."""
    got: list[ExportTraceServiceRequest] = []

    class Collector(BaseHTTPRequestHandler):
        def do_POST(self):
            assert self.path == "/v1/traces"
            got.append(ExportTraceServiceRequest.FromString(self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(200)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_):
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Collector) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            traces = traces_of(f"http://127.0.0.1:{server.server_port}/", "lampyris-api")
            traces.span(Traced("st-anna", "0f" * 16), "try", (5, 7), told={"lampyris.state": "done"})
            traces.close()
        finally:
            server.shutdown()
            thread.join()
    (span,) = got[0].resource_spans[0].scope_spans[0].spans
    assert (span.trace_id, span.name) == (bytes.fromhex("0f" * 16), "try")
    assert (span.start_time_unix_nano, span.end_time_unix_nano) == (5, 7)


def test_without_the_setting_nothing_of_it_is_loaded(settings, inside):
    assert settings.traces is None

    async def look(centre):
        return centre.traces.span(Traced("st-anna", "0f" * 16), "try", (5, 7))

    assert inside(look) is None


def test_what_is_asked_for_and_not_installed_is_said(monkeypatch):
    monkeypatch.setitem(sys.modules, "opentelemetry.exporter.otlp.proto.http.trace_exporter", None)
    with pytest.raises(MachineError, match=r"lampyris\[otel\]"):
        traces_of("http://127.0.0.1:4318", "lampyris-api")
    assert traces_of(None, "lampyris-api").span(Traced("a", "1" * 32), "try", (1, 2)) is None
