"""A centre in memory that keeps docs/protocol.md to the letter, counts what it is told, and fails when asked to."""

import hashlib
import json
import re
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs

import httpx

from lampyris.transfer import (
    Enrolment,
    Manifest,
    Problem,
    ReturnedFile,
    ReturnedSeries,
    ScanStatus,
    check_assertion,
    check_enrolment,
    key_id,
    parse_object,
    parse_parts,
    verify_manifest,
)

AUDIENCE = "https://centre.example"
MOMENT = "2026-11-21T08:16:40Z"
Fault = Callable[[httpx.Request], "httpx.Response | None"]


def problem(status: int, code: str, *, retry: bool = False, missing: tuple[str, ...] = (), **headers: str):
    body = Problem(status, code, "for a test", retry, missing).as_dict()
    kind = {"content-type": "application/problem+json"}
    return httpx.Response(status, content=json.dumps(body).encode(), headers=kind | headers)


class Cut(httpx.SyncByteStream):
    """An answer that breaks off in its middle."""

    def __init__(self, data: bytes) -> None:
        self._data = data

    def __iter__(self):
        yield self._data
        raise httpx.ReadError("the link broke")


class FakeCentre:
    """Handler of httpx.MockTransport; its faults are asked `before` or `after` a request did its work."""

    def __init__(self, now: Callable[[], float]) -> None:
        self.now, self.lock = now, threading.RLock()
        self.codes: dict[str, str] = {}
        self.keys: dict[str, dict] = {}
        self.jtis: set[str] = set()
        self.tokens: dict[str, str] = {}
        self.scans: dict[str, dict] = {}
        self.returns: dict[str, tuple[ReturnedSeries, dict[str, bytes]]] = {}
        self.acknowledged: Counter[str] = Counter()
        self.asked: list[str] = []
        self.reports: list[bytes] | None = None  # None: a centre of minor version 1, which does not listen
        self.put_bytes = 0
        self.before: list[Fault] = []
        self.after: list[Fault] = []

    def transport(self) -> httpx.MockTransport:
        return httpx.MockTransport(self.handle)

    def handle(self, request: httpx.Request) -> httpx.Response:
        with self.lock:
            self.asked.append(f"{request.method} {request.url.path}")
            return (
                next((found for fault in self.before if (found := fault(request)) is not None), None)
                or self._after(request, self._answer(request))
            )  # fmt: skip

    def _after(self, request: httpx.Request, answer: httpx.Response) -> httpx.Response:
        return next((found for fault in self.after if (found := fault(request)) is not None), None) or answer

    def _answer(self, request: httpx.Request) -> httpx.Response:
        path = request.url.path.removeprefix("/v1")
        if path == "/enrolments":
            return self._enrol(request)
        if path == "/token":
            return self._token(request)
        site = self.tokens.get(request.headers.get("authorization", "").removeprefix("Bearer "))
        if site is None:
            return problem(401, "TOKEN")
        for method, pattern, answer in (
            ("POST", r"/scans", self._open),
            ("GET", r"/scans/(\w+)", self._status),
            ("POST", r"/scans/(\w+)/parts", self._announce),
            ("PUT", r"/scans/(\w+)/chunks/(\w+)", self._put),
            ("POST", r"/scans/(\w+)/commit", self._commit),
            ("POST", r"/scans/(\w+)/withdraw", self._withdraw),
            ("POST", r"/status", self._report),
            ("GET", r"/returns", self._returns),
            ("GET", r"/scans/(\w+)/series/(.+)", self._file),
            ("POST", r"/scans/(\w+)/acknowledge", self._acknowledge),
        ):
            match = re.fullmatch(pattern, path)
            if method == request.method and match:
                scan = match.groups()[0] if match.groups() else None
                if scan is not None and scan not in self.scans and answer != self._file:
                    return problem(404, "NOT_FOUND")
                return answer(request, *match.groups())
        return problem(404, "NOT_FOUND")

    def _enrol(self, request: httpx.Request) -> httpx.Response:
        found = check_enrolment(request.content.decode(), now=int(self.now()))
        held = self.codes.get(found.code)
        if held is None:
            return problem(403, "CODE")
        if held not in ("", found.key_id):
            return problem(403, "CODE_USED")
        self.codes[found.code], self.keys[found.key_id] = found.key_id, dict(found.key)
        told = Enrolment("st-anna", found.key_id, AUDIENCE).as_dict() | {"of a later minor version": 1}
        return httpx.Response(201, json=told)

    def _token(self, request: httpx.Request) -> httpx.Response:
        form = parse_qs(request.content.decode())
        said = check_assertion(
            form["client_assertion"][0], AUDIENCE, now=int(self.now()), key_of=lambda site, kid: self.keys.get(kid)
        )
        if said.jti in self.jtis:
            return problem(401, "REPLAYED")
        self.jtis.add(said.jti)
        token = f"token-{len(self.jtis)}"
        self.tokens[token] = said.site
        return httpx.Response(200, json={"access_token": token, "token_type": "Bearer", "expires_in": 300})

    def _told(self, scan: str, status: int = 200) -> httpx.Response:
        held = self.scans[scan]
        reason = held.get("reason")
        told = ScanStatus(scan, held["state"], held["skeleton"].priority, MOMENT, reason=reason).as_dict()
        return httpx.Response(status, json=told)

    def _open(self, request: httpx.Request) -> httpx.Response:
        skeleton = Manifest.parse(request.content)
        new = skeleton.scan not in self.scans
        if new:
            self.scans[skeleton.scan] = {"skeleton": skeleton, "state": "open", "chunks": {}, "commits": 0}
        elif self.scans[skeleton.scan]["skeleton"] != skeleton:
            return problem(409, "CONFLICT")
        return self._told(skeleton.scan, 201 if new else 200)

    def _status(self, request: httpx.Request, scan: str) -> httpx.Response:
        return self._told(scan)

    def _missing(self, scan: str, parts) -> list[str]:
        held = self.scans[scan]["chunks"]
        return [digest for digest in {c.digest: 0 for part in parts for c in part.chunks} if digest not in held]

    def _announce(self, request: httpx.Request, scan: str) -> httpx.Response:
        if self.scans[scan]["state"] == "refused":
            return problem(409, "CONFLICT")
        values = parse_object(request.content, largest=1 << 22, what="parts")
        missing = self._missing(scan, parse_parts(values["parts"]))
        return httpx.Response(200, json={"missing": missing[:3], "more": len(missing) > 3})

    def _put(self, request: httpx.Request, scan: str, digest: str) -> httpx.Response:
        data = request.content
        assert int(request.headers["content-length"]) == len(data)
        self.put_bytes += len(data)
        if hashlib.sha256(data).hexdigest() != digest:
            return problem(422, "CHUNK_DIGEST", retry=True)
        self.scans[scan]["chunks"][digest] = data
        return httpx.Response(204)

    def _commit(self, request: httpx.Request, scan: str) -> httpx.Response:
        signed = verify_manifest(request.content.decode(), lambda kid: self.keys.get(kid))
        assert key_id(self.keys[signed.key_id]) == signed.key_id
        held = self.scans[scan]
        if held["state"] != "open":
            return self._told(scan) if held.get("digest") == signed.digest else problem(409, "CONFLICT")
        if signed.manifest.skeleton() != held["skeleton"]:
            return problem(409, "CONFLICT")
        if missing := self._missing(scan, signed.manifest.parts):
            return problem(409, "CHUNKS_MISSING", missing=tuple(missing))
        held |= {"state": "queued", "manifest": signed.manifest, "digest": signed.digest}
        held["commits"] += 1
        return self._told(scan, 202)

    def _withdraw(self, request: httpx.Request, scan: str) -> httpx.Response:
        if self.scans[scan]["state"] != "open":
            return problem(409, "CONFLICT")
        self.scans[scan] |= {"state": "refused", "reason": ("WITHDRAWN", "by the site")}
        return self._told(scan)

    def _report(self, request: httpx.Request) -> httpx.Response:
        if self.reports is None:
            return problem(404, "NOT_FOUND")
        self.reports.append(request.content)
        return httpx.Response(204)

    def _returns(self, request: httpx.Request) -> httpx.Response:
        after, count = int(request.url.params["after"]), int(request.url.params["limit"])
        listed = [series for scan, (series, _) in self.returns.items() if not self.acknowledged[scan]]
        page = sorted((one for one in listed if one.cursor > after), key=lambda one: one.cursor)[:count]
        return httpx.Response(200, json={"series": [one.as_dict() for one in page]})

    def _file(self, request: httpx.Request, scan: str, name: str) -> httpx.Response:
        data = self.returns[scan][1][name]
        first = re.fullmatch(r"bytes=(\d+)-", request.headers.get("range", ""))
        if first is None:
            return httpx.Response(200, content=data)
        return httpx.Response(206, content=data[int(first[1]) :])

    def _acknowledge(self, request: httpx.Request, scan: str) -> httpx.Response:
        if json.loads(request.content)["digest"] != self.returns[scan][0].digest():
            return problem(409, "CONFLICT")
        self.acknowledged[scan] += 1
        return self._told(scan)

    # what a test asks of the centre

    def packed(self, scan: str) -> bytes:
        """The bytes that arrived, laid out."""
        held = self.scans[scan]
        return b"".join(held["chunks"][chunk.digest] for part in held["manifest"].parts for chunk in part.chunks)

    def reconstruct(self, scan: str, files: dict[str, bytes], verdict: str = "pass") -> ReturnedSeries:
        """End a committed scan with these files."""
        listed = tuple(
            ReturnedFile(name, len(data), hashlib.sha256(data).hexdigest()) for name, data in sorted(files.items())
        )
        sealed = self.scans[scan]["skeleton"].sealed
        series = ReturnedSeries(scan, len(self.returns) + 1, MOMENT, verdict, listed, sealed)
        self.scans[scan]["state"] = "done"
        self.returns[scan] = (series, files)
        return series


@contextmanager
def served(centre: FakeCentre) -> Iterator[str]:
    """The same centre behind a real server on the loopback interface: its URL."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def answer(self) -> None:
            body = self.rfile.read(int(self.headers.get("content-length", 0)))
            found = centre.handle(
                httpx.Request(self.command, f"http://x{self.path}", headers=dict(self.headers), content=body)
            )
            self.send_response(found.status_code)
            for name, value in found.headers.items():
                if name != "content-length":
                    self.send_header(name, value)
            self.send_header("Content-Length", str(len(found.content)))
            self.end_headers()
            self.wfile.write(found.content)

        do_GET = do_POST = do_PUT = answer  # noqa: N815 - the server's names

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()
