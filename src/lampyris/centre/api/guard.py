"""Every request and every answer → within the limits of size and rate, with the headers that keep browsers in bounds.

Rates are counted by each API process: by session or token, and twenty times as generously by address, behind which
there may be a hospital. The sites' protocol has limits of its own, and what looks after the centre has none.
"""

import hashlib
import math
import time
from collections import OrderedDict
from collections.abc import Callable

from fastapi.responses import JSONResponse
from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from lampyris.centre.api.schema import PROBLEMS
from lampyris.centre.people import patience
from lampyris.centre.people.rules import Action
from lampyris.centre.people.sessions import cookie_of
from lampyris.centre.refusals import Refusal, refusal, wait
from lampyris.centre.request import address_of
from lampyris.centre.service import Centre
from lampyris.centre.settings import Settings
from lampyris.transfer import limits

_OWN_LIMITS = (limits.PREFIX, "/healthz", "/readyz", "/metrics")
_BODY_BYTES = 1 << 20
"""Longest body of a request of people that stores no images."""
_BURST_S = 60.0
"""A bucket holds what comes into it in this time: a viewer asks for a series of a thousand images at once."""
_OF_ADDRESS = 20.0
_BUCKETS = 20_000
_HSTS_S = 31_536_000
_API = "default-src 'none'; frame-ancestors 'none'; base-uri 'none'; form-action 'none'"
_HEADERS = {
    "Content-Security-Policy": _API,
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "SAMEORIGIN",
    "Referrer-Policy": "same-origin",
    "Permissions-Policy": "camera=(), microphone=(), geolocation=(), payment=(), usb=(), browsing-topics=()",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cross-Origin-Embedder-Policy": "require-corp",
    "Cache-Control": "no-store",
}
"""Of every answer that does not say otherwise itself, as pages, pictures and the viewer do."""


class Buckets:
    """How many requests each key may make: so many a second in the long run, and what came together in a minute."""

    def __init__(self, per_s: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._per_s, self._clock = per_s, clock
        self._level: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def take(self, key: str) -> int:
        """Take one; 0, or the seconds to wait for it. Of very many keys those that were not seen for longest go."""
        now = self._clock()
        full = self._per_s * _BURST_S
        level, at = self._level.pop(key, (full, now))
        level = min(full, level + (now - at) * self._per_s)
        self._level[key] = (max(level - 1.0, 0.0) if level >= 1.0 else level, now)
        if len(self._level) > _BUCKETS:
            self._level.popitem(last=False)
        return 0 if level >= 1.0 else math.ceil((1.0 - level) / self._per_s)


class Guard:
    """The outermost layer but the log."""

    def __init__(self, app: ASGIApp, settings: Settings) -> None:
        self._app, self._settings = app, settings
        self._callers = Buckets(settings.requests_per_s)
        self._addresses = Buckets(settings.requests_per_s * _OF_ADDRESS)
        self._tls = settings.audience.startswith("https:")

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        request, received = Request(scope), 0
        free = scope["path"].startswith(_OWN_LIMITS)
        largest = self._largest(scope["path"])

        async def measured() -> Message:
            nonlocal received
            message = await receive()
            received += len(message.get("body", b""))
            if received > largest:
                raise _too_long(largest)
            return message

        async def headed(message: Message) -> None:
            if message["type"] == "http.response.start":
                self._head(MutableHeaders(scope=message))
            await send(message)

        refused = None if free else self._refused(request, largest)
        if refused is not None:
            headers = {} if refused.retry_after is None else {"Retry-After": str(refused.retry_after)}
            answer = JSONResponse(refused.problem.as_dict(), refused.problem.status, headers, media_type=PROBLEMS)
            await answer(scope, receive, headed)
            return
        try:
            await self._app(scope, receive if free else measured, headed)
        finally:
            await self._spend(scope, received)

    def _refused(self, request: Request, largest: int) -> Refusal | None:
        """Why a request is not even looked at: too many of them, or too long."""
        address = patience.network_of(address_of(request))
        seconds = max(self._callers.take(self._key(request.headers, request.cookies, address)),
                      self._addresses.take(address))  # fmt: skip
        if seconds:
            return wait(429, seconds, f"too many requests at once: wait {seconds} s")
        length = request.headers.get("content-length", "0")
        return _too_long(largest) if length.isdigit() and int(length[:20]) > largest else None

    def _key(self, headers: Headers, cookies: dict[str, str], address: str) -> str:
        shown = headers.get("authorization") or cookies.get(cookie_of(self._settings.audience))
        return address if shown is None else hashlib.sha256(shown.encode()).hexdigest()

    def _largest(self, path: str) -> int:
        return self._settings.upload_bytes if path.startswith("/dicomweb") else _BODY_BYTES

    def _head(self, headers: MutableHeaders) -> None:
        for name, value in _HEADERS.items():
            headers.setdefault(name, value)
        if self._tls:
            headers.setdefault("Strict-Transport-Security", f"max-age={_HSTS_S}; includeSubDomains")

    async def _spend(self, scope: Scope, received: int) -> None:
        """Count what somebody stored against their quota of the day."""
        caller = scope.get("state", {}).get("caller")
        if received and caller is not None and caller.action is Action.STUDY_STORE:
            centre: Centre = scope["app"].state.centre
            async with centre.pool.connection() as connection:
                await patience.spend(connection, caller.person, received)


def _too_long(largest: int) -> Refusal:
    return refusal(413, "LENGTH", f"the body has more than {largest} bytes")
