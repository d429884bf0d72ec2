"""Scans at the right moments → the requests that a site's agent makes for them, and when each step was over.

Same requests, same order, same pauses as `lampyris.site`: enrolment, a token every few minutes, open, announce, chunks
four at a time, announce, commit; a look every ten seconds while something is under way, every five minutes otherwise;
the files of a series three at a time, verified, acknowledged. Nothing touches a disk.
"""

import asyncio
import hashlib
import json
import random
import secrets
import time
from collections import Counter, defaultdict
from dataclasses import dataclass, field
from datetime import UTC, datetime
from urllib.parse import urlencode

from bench.province.wire import Answer, Wire
from lampyris.transfer import (
    ASSERTION_TYPE,
    Chunk,
    Enrolment,
    Manifest,
    Part,
    Priority,
    ReturnedFile,
    ReturnedSeries,
    SiteKey,
    assertion,
    enrolment_request,
    limits,
    sign_manifest,
)

LOOK_S = 10.0
IDLE_LOOK_S = 300.0
IN_FLIGHT, FETCHED_AT_ONCE = 4, 3
_JSON, _JOSE, _BYTES = "application/json", "application/jose", "application/octet-stream"
_FORM = "application/x-www-form-urlencoded"


@dataclass(slots=True)
class Told:
    """What became of one scan; moments in seconds of the monotonic clock."""

    scan: str
    priority: Priority
    ready: float
    committed: float = 0.0
    home: float = 0.0


@dataclass(slots=True)
class Books:
    """What all sites saw together: scans, seconds of every kind of request, and how often they were told to wait."""

    scans: list[Told] = field(default_factory=list)
    seconds: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    waits: Counter[str] = field(default_factory=Counter)
    broken: int = 0


class Site:
    """One site: its key, its connections, and the scans that it waits for."""

    def __init__(self, port: int, audience: str, books: Books) -> None:
        self._wire, self._audience, self._books = Wire(port), audience, books
        self._key, self._name = SiteKey.generate(), ""
        self._token, self._good_until = "", 0.0
        self._lock = asyncio.Lock()
        self._under_way: dict[str, Told] = {}
        self.home: ReturnedSeries | None = None
        """The last series that was brought home."""

    async def enrol(self, code: str) -> None:
        body = enrolment_request(code, self._key, now=int(time.time())).encode()
        answer = await self._ask("enrol", "POST", "/enrolments", (201,), {"content-type": _JOSE}, body)
        self._name = Enrolment.parse(answer.body).site

    async def send(self, priority: Priority, pieces: list[bytes]) -> None:
        """One scan, from the scanner's last view to the commit."""
        manifest = self.manifest(priority, pieces)
        told = Told(manifest.scan, priority, time.monotonic())
        self._books.scans.append(told)
        await self.open(manifest)
        of = {chunk.digest: piece for chunk, piece in zip(manifest.parts[0].chunks, pieces, strict=True)}
        places = asyncio.Semaphore(IN_FLIGHT)

        async def put(digest: str) -> None:
            async with places:
                await self.put(manifest.scan, digest, of[digest])

        while missing := await self.announce(manifest):
            await asyncio.gather(*map(put, missing))
        await self.commit(manifest)
        told.committed = time.monotonic()
        self._under_way[told.scan] = told

    def manifest(self, priority: Priority, pieces: list[bytes]) -> Manifest:
        return Manifest(
            scan=secrets.token_hex(16),
            site=self._name,
            started=datetime.now(UTC).isoformat(timespec="seconds").replace("+00:00", "Z"),
            format="lraw",
            priority=priority,
            parts=(Part("scan.lraw", tuple(Chunk.of(piece) for piece in pieces)),),
        )

    async def open(self, manifest: Manifest) -> None:
        await self.known("open", "POST", "/scans", (200, 201), _JSON, manifest.skeleton().to_json())

    async def announce(self, manifest: Manifest) -> list[str]:
        """Digests that the centre lacks."""
        body = json.dumps({"parts": [part.as_dict() for part in manifest.parts]}).encode()
        answer = await self.known("announce", "POST", f"/scans/{manifest.scan}/parts", (200,), _JSON, body)
        missing: list[str] = json.loads(answer.body)["missing"]
        return missing

    async def put(self, scan: str, digest: str, piece: bytes) -> None:
        await self.known("chunk", "PUT", f"/scans/{scan}/chunks/{digest}", (204,), _BYTES, piece)

    async def commit(self, manifest: Manifest) -> None:
        signed = sign_manifest(manifest, self._key).encode()
        await self.known("commit", "POST", f"/scans/{manifest.scan}/commit", (200, 202), _JOSE, signed)

    async def status(self, scan: str) -> None:
        await self.known("status", "GET", f"/scans/{scan}", (200,))

    async def returns(self) -> list[ReturnedSeries]:
        answer = await self.known("returns", "GET", "/returns?after=0&limit=100", (200,))
        return [ReturnedSeries.of(one) for one in json.loads(answer.body)["series"]]

    async def file(self, scan: str, file: ReturnedFile) -> None:
        """Fetch a file of a series, and verify it."""
        found = await self.known("file", "GET", f"/scans/{scan}/series/{file.name}", (200,))
        if hashlib.sha256(found.body).hexdigest() != file.sha256:
            raise AssertionError(f"a file of scan {scan} is not what was promised")

    async def acknowledge(self, series: ReturnedSeries) -> None:
        body = json.dumps({"digest": series.digest()}).encode()
        await self.known("acknowledge", "POST", f"/scans/{series.scan}/acknowledge", (200,), _JSON, body)

    async def look(self, rng: random.Random) -> None:
        """Ask after scans for ever, and bring home what was made of them."""
        await asyncio.sleep(rng.uniform(0.0, LOOK_S))
        looked = time.monotonic() - rng.uniform(0.0, IDLE_LOOK_S)
        while True:
            waiting = list(self._under_way)
            for scan in waiting:
                await self.status(scan)
            if waiting or time.monotonic() - looked >= IDLE_LOOK_S:
                looked = time.monotonic()
                for series in await self.returns():
                    if series.scan in self._under_way:
                        await self._bring(series)
            await asyncio.sleep(LOOK_S)

    def close(self) -> None:
        self._wire.close()

    async def _bring(self, series: ReturnedSeries) -> None:
        places = asyncio.Semaphore(FETCHED_AT_ONCE)

        async def fetch(file: ReturnedFile) -> None:
            async with places:
                await self.file(series.scan, file)

        await asyncio.gather(*map(fetch, series.files))
        await self.acknowledge(series)
        self._under_way.pop(series.scan).home = time.monotonic()
        self.home = series

    async def known(
        self, kind: str, method: str, path: str, ok: tuple[int, ...], media: str = "", body: bytes = b""
    ) -> Answer:
        """The answer to a request with an access token, a new one if it is nearly out of date."""
        async with self._lock:
            if time.monotonic() >= self._good_until:
                await self.renew()
        headers = {"authorization": f"Bearer {self._token}"} | ({"content-type": media} if media else {})
        return await self._ask(kind, method, path, ok, headers, body)

    async def renew(self) -> None:
        """Get another access token."""
        said = assertion(self._name, self._audience, self._key, now=int(time.time()), jti=secrets.token_urlsafe(24))
        form = {
            "grant_type": "client_credentials",
            "client_assertion_type": ASSERTION_TYPE,
            "client_assertion": said,
        }
        answer = await self._ask("token", "POST", "/token", (200,), {"content-type": _FORM}, urlencode(form).encode())
        values = json.loads(answer.body)
        self._token, self._good_until = values["access_token"], time.monotonic() + values["expires_in"] - 30

    async def _ask(
        self, kind: str, method: str, path: str, ok: tuple[int, ...], headers: dict[str, str], body: bytes = b""
    ) -> Answer:
        """The answer, however often the centre asks for patience; anything else that was not hoped for is an error."""
        while True:
            began = time.monotonic()
            try:
                answer = await self._wire.ask(method, f"{limits.PREFIX}{path}", headers, body)
            except (OSError, EOFError):  # a kept connection that the centre closed at this very moment
                self._books.broken += 1
                await asyncio.sleep(1.0)
                continue
            self._books.seconds[kind].append(time.monotonic() - began)
            if answer.status in (429, 503) and "retry-after" in answer.headers:
                self._books.waits[f"{answer.status} {kind}"] += 1
                await asyncio.sleep(float(answer.headers["retry-after"]))
                continue
            if answer.status not in ok:
                raise AssertionError(f"{kind}: {answer.status} {answer.body[:300]!r}")
            return answer
