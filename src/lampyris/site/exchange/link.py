"""A request of the transfer protocol → its answer, or an error that says whether to wait, and how long.

Nothing here sleeps or repeats but for a new access token: whoever asks decides what is sent next.
"""

import random
import secrets
import socket
import ssl
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from email.utils import parsedate_to_datetime
from typing import Any, ClassVar, TypeVar

import httpx

from lampyris.model import InputError, MachineError
from lampyris.site.config import CentreLink
from lampyris.site.exchange.enrolment import Site
from lampyris.transfer import ASSERTION_TYPE, ManifestError, Problem, ScanStatus, assertion, limits, parse_object

JSON, JOSE, BYTES = "application/json", "application/jose", "application/octet-stream"
PIECE = 256 << 10
"""Bytes that are sent at a time: how soon a limit, or a more urgent scan, is noticed."""
_LONGEST_WAIT_S = 3600.0
T = TypeVar("T")


class LinkError(MachineError):
    """No answer, or one that asks for patience: repeat the request after `wait_s`, or after a back-off when None."""

    code = "MACHINE_LINK"

    def __init__(self, text: str, *, wait_s: float | None = None) -> None:
        super().__init__(text)
        self.wait_s = wait_s


class Refusal(InputError):  # noqa: N818 - it is an answer of the protocol
    """The centre will not have it, now or later."""

    code: ClassVar[str] = "INPUT_REFUSED"

    def __init__(self, problem: Problem) -> None:
        super().__init__(f"the centre refused: {problem.detail} [{problem.code}]")
        self.problem = problem


class Preempted(Exception):  # noqa: N818 - not an error: something more urgent goes first
    """A request was broken off for a more urgent scan."""


class Backoff:
    """1 s after the first failure, twice as long after each, up to 60 s, with a random quarter more or less."""

    def __init__(self, rng: random.Random, *, longest_s: float = 60.0) -> None:
        self._rng, self._longest_s, self._failures = rng, longest_s, 0

    def failed(self, wait_s: float | None = None) -> float:
        """Seconds to wait after another failure; what the centre asked for, if it did."""
        self._failures += 1
        if wait_s is not None:
            return min(wait_s, _LONGEST_WAIT_S)
        steady = min(self._longest_s, 2.0 ** min(self._failures - 1, 30))
        return steady * self._rng.uniform(0.75, 1.25)

    def succeeded(self) -> None:
        self._failures = 0


class _Body:
    """The bytes of a chunk, piece by piece; gone through again when the request is repeated with a new token."""

    def __init__(self, data: bytes, bucket: "Bucket", give_way: Callable[[], bool]) -> None:
        self._data, self._bucket, self._give_way = data, bucket, give_way

    def __iter__(self) -> Iterator[bytes]:
        for first in range(0, len(self._data), PIECE):
            if self._give_way():
                raise Preempted
            piece = self._data[first : first + PIECE]
            self._bucket.take(len(piece))
            yield piece


class Bucket:
    """Tokens for bytes: `rate` a second, a second's worth in store; rate 0 = no limit."""

    def __init__(
        self,
        rate: float,
        *,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._rate, self._clock, self._sleep = rate, clock, sleep
        self._level, self._at = rate, clock()
        self._lock = threading.Lock()

    def take(self, size: int) -> None:
        """Wait until that many bytes may go."""
        if not self._rate:
            return
        with self._lock:  # whoever waits holds the line: shares are as the threads come
            now = self._clock()
            self._level = min(self._rate, self._level + (now - self._at) * self._rate) - size
            self._at = now
            if self._level < 0:
                self._sleep(-self._level / self._rate)


def client(link: CentreLink, transport: httpx.BaseTransport | None = None) -> httpx.Client:
    """An HTTP client of the centre; what the environment says of proxies is not believed."""
    try:
        context: Any = ssl.create_default_context(cafile=None if link.ca_file is None else str(link.ca_file))
    except (OSError, ssl.SSLError) as error:
        raise MachineError("centre.ca_file holds no certificates in PEM, or cannot be read") from error
    if transport is None:
        pool = httpx.Limits(max_connections=limits.IN_FLIGHT, max_keepalive_connections=limits.IN_FLIGHT)
        transport = httpx.HTTPTransport(verify=context, proxy=link.proxy, limits=pool, socket_options=steadfast())
    return httpx.Client(
        base_url=link.url, transport=transport, trust_env=False, timeout=httpx.Timeout(60.0, connect=10.0)
    )


def steadfast() -> list[tuple[int, int, bytes]]:
    """Options of a socket that keeps its speed when packets are lost: TCP's BBR, where this machine lets us have it.

    A line by radio loses packets without being full. CUBIC takes each for a sign that it is, and comes to a crawl.
    """
    if sys.platform != "linux":
        return []
    wanted = (socket.IPPROTO_TCP, socket.TCP_CONGESTION, b"bbr")
    with socket.socket() as probe:
        try:
            probe.setsockopt(*wanted)
        except OSError:
            return []
    return [wanted]


class Link:
    """Requests with the site's access token. Safe to use from several threads.

    `rate` and `rate_down` are bytes a second for chunks and for returned files; 0 = no limit.
    """

    def __init__(
        self, http: httpx.Client, site: Site, *, now: Callable[[], float], rate: float = 0.0, rate_down: float = 0.0
    ) -> None:
        self.site, self.bucket, self.bucket_down = site, Bucket(rate), Bucket(rate_down)
        self.last_answer: float | None = None
        self.trouble: str | None = None
        self.sent_bytes = 0
        self._http, self._now = http, now
        self._lock = threading.Lock()
        self._token, self._good_until = "", 0.0

    def ask(
        self, method: str, path: str, *, ok: tuple[int, ...] = (200,), kind: str | None = None, **more: Any
    ) -> httpx.Response:
        """The answer to a request under `/v1`, whose status is one of `ok`. Raises LinkError or Refusal."""
        for last in (False, True):
            token = self._fresh_token()
            headers = {"Authorization": f"Bearer {token}", **more.get("headers", {})}
            if kind is not None:
                headers["Content-Type"] = kind
            answer = self._answer(method, path, **(more | {"headers": headers}))
            if answer.status_code in ok:
                self._heard()
                return answer
            if last or answer.status_code != 401:
                break
            self._forget(token)
        raise self._wrong(answer)

    def status(self, method: str, path: str, **more: Any) -> ScanStatus:
        """An answer that tells where a scan is."""
        answer = self.ask(method, path, **more)
        return self.understood(lambda: ScanStatus.parse(answer.content))

    def object(self, method: str, path: str, **more: Any) -> dict[str, Any]:
        """An answer that is a JSON object."""
        answer = self.ask(method, path, **more)
        return self.understood(lambda: parse_object(answer.content, largest=64 << 20, what="the answer"))

    def put(self, path: str, data: bytes, give_way: Callable[[], bool]) -> None:
        """Bring a chunk, no faster than the limit. Raises Preempted as soon as `give_way` says so."""

        body = _Body(data, self.bucket, give_way)
        headers = {"Content-Length": str(len(data))}
        self.ask("PUT", path, ok=(204,), kind=BYTES, content=body, headers=headers)
        with self._lock:
            self.sent_bytes += len(data)

    def stream(self, path: str, first: int) -> Iterator[tuple[int, bytes]]:
        """Pieces of a file and where they lie: from byte `first` on, or from the front if the centre prefers it."""
        headers = {"Accept-Encoding": "identity"} | ({"Range": f"bytes={first}-"} if first else {})
        with self._streamed(path, headers) as answer:
            place = first if answer.status_code == 206 else 0
            for piece in answer.iter_bytes():
                self.bucket_down.take(len(piece))  # what is not read yet waits at the centre
                yield place, piece
                place += len(piece)

    def lines(self, path: str, headers: dict[str, str]) -> Iterator[str]:
        """Lines of an answer as they come, until the centre ends it."""
        with self._streamed(path, headers) as answer:
            yield from answer.iter_lines()

    @contextmanager
    def _streamed(self, path: str, headers: dict[str, str]) -> Iterator[httpx.Response]:
        """An answer whose body is read piece by piece."""
        token = self._fresh_token()
        try:
            whole = headers | {"Authorization": f"Bearer {token}"}
            with self._http.stream("GET", f"{limits.PREFIX}{path}", headers=whole) as answer:
                if answer.status_code not in (200, 206):
                    answer.read()
                    if answer.status_code == 401:
                        self._forget(token)
                    raise self._wrong(answer)
                yield answer
        except httpx.RequestError as error:
            raise self._broken(error) from error
        self._heard()

    def understood(self, read: Callable[[], T]) -> T:
        """What an answer says; a page of some machine in between is no answer."""
        try:
            return read()
        except ManifestError as error:
            raise self._trouble(f"the answer is not what the protocol says ({error}): a machine in between?") from error

    def _answer(self, method: str, path: str, **more: Any) -> httpx.Response:
        try:
            return self._http.request(method, f"{limits.PREFIX}{path}", **more)
        except httpx.RequestError as error:
            raise self._broken(error) from error

    def _fresh_token(self) -> str:
        """The access token, a new one half a minute before it ends."""
        with self._lock:
            if self._now() < self._good_until:
                return self._token
            site, now = self.site, self._now()
            said = assertion(
                site.enrolment.site, site.enrolment.audience, site.key, now=int(now), jti=secrets.token_urlsafe(24)
            )
            form = {"grant_type": "client_credentials", "client_assertion_type": ASSERTION_TYPE}
            answer = self._answer("POST", "/token", data=form | {"client_assertion": said})
            if answer.status_code == 401:
                raise self._trouble(
                    "the centre does not know this site's key (401): is the clock right, was the key taken back?"
                )
            if answer.status_code != 200:
                raise self._wrong(answer)
            values = self.understood(lambda: parse_object(answer.content, largest=1 << 16, what="the token"))
            token, seconds = values.get("access_token"), values.get("expires_in")
            if not isinstance(token, str) or not token.isascii() or not isinstance(seconds, int):
                raise self._trouble("the answer holds no access token: a machine in between?")
            self._token, self._good_until = token, now + max(seconds - 30, seconds / 2)
            return token

    def _forget(self, token: str) -> None:
        with self._lock:
            if self._token == token:
                self._good_until = 0.0

    def _wrong(self, answer: httpx.Response) -> LinkError | Refusal:
        """What to make of a status that was not hoped for; only the centre itself can refuse."""
        status, kind = answer.status_code, answer.headers.get("content-type", "")
        problem = Problem.parse(status, answer.content)
        speaks = kind.partition(";")[0].strip() == "application/problem+json" and not problem.code.startswith("HTTP_")
        if speaks and 400 <= status < 500 and not problem.retry and status not in (401, 408, 429):
            self._heard()
            return Refusal(problem)
        wait_s = _retry_after(answer.headers.get("retry-after"), self._now()) if status in (429, 503) else None
        if wait_s is not None:
            self._heard()
            return LinkError(
                f"the centre asks to wait {wait_s:.0f} s: {problem.detail} [{problem.code}]", wait_s=wait_s
            )
        who = "the centre" if speaks else "a machine in between"
        return self._trouble(f"{who} answered {status}: {problem.detail} [{problem.code}]")

    def _heard(self) -> None:
        self.last_answer, self.trouble = self._now(), None

    def _broken(self, error: httpx.RequestError) -> LinkError:
        return self._trouble(f"no answer from the centre ({type(error).__name__}): {str(error)[:120]}")

    def _trouble(self, text: str) -> LinkError:
        self.trouble = text
        return LinkError(text)


def _retry_after(text: str | None, now: float) -> float | None:
    if text is None:
        return None
    if text.strip().isdigit():
        return min(float(text), _LONGEST_WAIT_S)
    try:
        return min(max(parsedate_to_datetime(text).timestamp() - now, 0.0), _LONGEST_WAIT_S)
    except (ValueError, TypeError):
        return None
