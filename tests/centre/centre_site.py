"""A site as docs/protocol.md has it, as small as can be, and a real server for it to speak to."""

import hashlib
import json
import secrets
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import httpx
import uvicorn
from fastapi import FastAPI

from lampyris.transfer import (
    ASSERTION_TYPE,
    Chunk,
    Manifest,
    Part,
    SiteKey,
    assertion,
    enrolment_request,
    sign_manifest,
)

AUDIENCE = "https://centre.example"


@contextmanager
def served(app: FastAPI) -> Iterator[httpx.Client]:
    """A client of the application behind a real server on the loopback interface."""
    server = uvicorn.Server(
        uvicorn.Config(app, port=0, log_config=None, proxy_headers=False, timeout_graceful_shutdown=1)
    )
    thread = threading.Thread(target=server.run)
    thread.start()
    while not server.started:
        assert thread.is_alive(), "the server ended before it began"
        time.sleep(0.005)
    port = server.servers[0].sockets[0].getsockname()[1]
    with httpx.Client(base_url=f"http://127.0.0.1:{port}", trust_env=False, timeout=20.0) as found:
        yield found
    server.should_exit = True
    thread.join()


def raw_request(site: "Site", head: str) -> socket.socket:
    """A connection on which that was said, and nothing yet heard."""
    url = site.client.base_url
    connection = socket.create_connection((url.host, url.port), timeout=60)
    connection.sendall(head.encode())
    return connection


def slow_put(site: "Site", scan: str, size: int, digest: str) -> socket.socket:
    """A chunk that was announced to come on this connection."""
    return raw_request(
        site,
        f"PUT /v1/scans/{scan}/chunks/{digest} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {site.token}\r\n"
        f"Content-Type: application/octet-stream\r\nContent-Length: {size}\r\n\r\n",
    )


def settle(app: FastAPI, held: int) -> None:
    """Wait until so many bodies are being received."""
    deadline = time.monotonic() + 60
    while app.state.gate.held != held:
        assert time.monotonic() < deadline, app.state.gate.held
        time.sleep(0.01)


class Site:
    """A site as docs/protocol.md has it, as small as can be."""

    def __init__(self, client: httpx.Client, name: str, code: str) -> None:
        self.client, self.name, self.key = client, name, SiteKey.generate()
        answer = self.enrol(code)
        assert answer.status_code == 201, answer.text
        self.token = self.fresh_token()

    def enrol(self, code: str, key: SiteKey | None = None):
        body = enrolment_request(code, key or self.key, now=int(time.time()))
        return self.client.post("/v1/enrolments", content=body, headers={"Content-Type": "application/jose"})

    def show(self, text: str):
        form = {
            "grant_type": "client_credentials", "client_assertion_type": ASSERTION_TYPE, "client_assertion": text,
        }  # fmt: skip
        return self.client.post("/v1/token", data=form)

    def assertion(self, **changes) -> str:
        said = {"audience": AUDIENCE, "key": self.key, "now": int(time.time()), "jti": secrets.token_hex(16)} | changes
        return assertion(self.name, **said)

    def fresh_token(self) -> str:
        return str(self.show(self.assertion()).json()["access_token"])

    def ask(self, method: str, path: str, *, kind: str = "application/json", headers=None, **body):
        whole = {"Authorization": f"Bearer {self.token}", **(headers or {})}
        if body:
            whole["Content-Type"] = kind
        return self.client.request(method, f"/v1{path}", headers=whole, **body)

    def manifest(self, pieces: list[bytes], **more) -> Manifest:
        parts = (Part("scan.lraw", tuple(Chunk.of(piece) for piece in pieces)),)
        said = {"scan": secrets.token_hex(16), "started": "2026-11-21T08:15:02Z", "format": "lraw", "parts": parts}
        return Manifest(site=self.name, **(said | more))

    def open(self, manifest: Manifest):
        return self.ask("POST", "/scans", content=manifest.skeleton().to_json())

    def announce(self, manifest: Manifest):
        body = json.dumps({"parts": [part.as_dict() for part in manifest.parts]})
        return self.ask("POST", f"/scans/{manifest.scan}/parts", content=body)

    def put(self, scan: str, piece: bytes, digest: str | None = None):
        named = digest or hashlib.sha256(piece).hexdigest()
        return self.ask("PUT", f"/scans/{scan}/chunks/{named}", kind="application/octet-stream", content=piece)

    def commit(self, manifest: Manifest, key: SiteKey | None = None):
        text = sign_manifest(manifest, key or self.key)
        return self.ask("POST", f"/scans/{manifest.scan}/commit", kind="application/jose", content=text)

    def state(self, scan: str) -> dict[str, Any]:
        return dict(self.ask("GET", f"/scans/{scan}").json())

    def send(self, pieces: list[bytes], **more) -> Manifest:
        """Everything from open to commit."""
        manifest = self.manifest(pieces, **more)
        assert self.open(manifest).status_code == 201
        for piece in pieces:
            assert self.put(manifest.scan, piece).status_code == 204
        answer = self.commit(manifest)
        assert answer.status_code == 202, answer.text
        return manifest
