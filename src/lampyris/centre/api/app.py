"""Settings → the ASGI application of a centre, with every error turned into a refusal that the protocol knows."""

import asyncio
import contextlib
import os
import signal
import threading
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

import psycopg
import structlog
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response
from psycopg_pool import PoolTimeout
from starlette.exceptions import HTTPException
from starlette.routing import Match, Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from lampyris import __version__
from lampyris.centre.api import access, scans, watch
from lampyris.centre.api.guard import Guard
from lampyris.centre.api.schema import PROBLEMS
from lampyris.centre.archive import dicomweb
from lampyris.centre.body import Gate
from lampyris.centre.console import assets, dose, home, journey, page, sites, study
from lampyris.centre.console.access import router as entrance
from lampyris.centre.console.administration import routes as administration
from lampyris.centre.dimse import routes as network
from lampyris.centre.observe.logs import to_stderr, where
from lampyris.centre.observe.traces import Traced
from lampyris.centre.refusals import Refusal, refusal, wait
from lampyris.centre.service import Centre, opened
from lampyris.centre.settings import VARIABLE, Settings
from lampyris.centre.viewer import page as viewer
from lampyris.centre.watching.bell import Bell
from lampyris.model import InputError, MachineError
from lampyris.transfer import Problem

_CONNECTIONS = 16
_OF_SITES = (access.router, scans.router, watch.router)
_OF_PEOPLE = (
    assets.router,
    home.router,
    entrance,
    viewer.router,
    network.router,
    journey.router,
    dose.router,
    *dicomweb.ROUTERS,
    *administration.ROUTERS,
    *study.ROUTERS,
    sites.router,
)
ROUTERS = (*_OF_SITES, *_OF_PEOPLE)
"""All there is to be asked. The document at /openapi.json is of the sites' protocol alone."""


def application() -> FastAPI:
    """The application of a server process that was started with its settings in the environment."""
    to_stderr()
    return create(Settings.from_json(os.environ[VARIABLE]))


def create(settings: Settings) -> FastAPI:
    """The application; everything it holds is opened when the server starts it and closed when it ends."""

    @asynccontextmanager
    async def life(app: FastAPI) -> AsyncIterator[None]:
        async with opened(settings, connections=_CONNECTIONS, service="lampyris-api") as centre:
            app.state.centre, app.state.draining = centre, False
            app.state.gate, app.state.bell = Gate(settings.bodies), Bell(centre.dsn)
            listening = asyncio.create_task(app.state.bell.listen())
            _on_signal(partial(_drain, app))
            try:
                yield
            finally:
                _drain(app)
                listening.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    await listening

    app = FastAPI(
        title="Lampyris centre",
        version=__version__,
        description="The transfer protocol of docs/protocol.md: raw scans in, judged series out.",
        lifespan=life,
        docs_url=None,
        redoc_url=None,
    )
    for router in ROUTERS:
        app.include_router(router, include_in_schema=router in _OF_SITES)
    for kind in (Refusal, InputError, MachineError, psycopg.Error, PoolTimeout, HTTPException, RequestValidationError):
        app.add_exception_handler(kind, _refused)
    app.add_exception_handler(Exception, _refused)
    app.add_middleware(Guard, settings=settings)
    app.add_middleware(_Logged)
    return app


def _drain(app: FastAPI) -> None:
    """Be ready no more, and end what would never end: a server waits for its last answer before it goes."""
    app.state.draining = True
    app.state.bell.end()


def _on_signal(action: Callable[[], None]) -> None:
    """Do something as soon as this process is told to stop, before its server has waited for its streams.

    The loop of a server process hears of signals through a file descriptor and does its own part then; the function
    that Python calls for them is free. A server in a thread, as in tests, has no signals.
    """
    if threading.current_thread() is not threading.main_thread():
        return
    loop = asyncio.get_running_loop()
    for each in (signal.SIGTERM, signal.SIGINT):
        signal.signal(each, lambda *_: loop.call_soon_threadsafe(action))


async def _refused(request: Request, error: Exception) -> Response:
    """Every error as the protocol tells it, or as a page; what is ours is logged, and nothing of it is told."""
    refused = _refusal_of(error)
    body = refused.problem.as_dict()
    if refused.problem.code in ("TOKEN", "REPLAYED"):
        body["error"] = "invalid_client"
    headers = {} if refused.retry_after is None else {"Retry-After": str(refused.retry_after)}
    if refused.problem.status == 401:
        headers["WWW-Authenticate"] = "Bearer"
    if refused.problem.status == 405:
        headers["Allow"] = ", ".join(sorted(_methods(request)))
    if refused.problem.code == "SIGN_IN" and "hx-request" in request.headers:
        headers["HX-Redirect"] = page.SIGN_IN
    if page.wants_page(request):
        return await page.refused(request, request.app.state.centre, refused.problem, headers)
    return JSONResponse(body, refused.problem.status, headers=headers, media_type=PROBLEMS)


def _methods(request: Request) -> set[str]:
    """Methods that the path of a request has."""
    routes = [each for router in ROUTERS for each in router.routes if isinstance(each, Route)]
    found = [each for each in routes if each.matches(request.scope)[0] is not Match.NONE]
    return {method for each in found for method in each.methods or ()}


def _refusal_of(error: Exception) -> Refusal:
    if isinstance(error, Refusal):
        return error
    if isinstance(error, InputError):
        return Refusal(Problem.of_error(error, 422))
    log = structlog.get_logger()
    if isinstance(error, (MachineError, psycopg.OperationalError, PoolTimeout)):
        log.error("the machine fails", kind=type(error).__name__, reason=str(error))
        return wait(503, 5, "the centre's disk or database is away for the moment")
    if isinstance(error, RequestValidationError):
        fields = sorted({str(each.get("loc", ("?",))[-1]) for each in error.errors()})
        return refusal(400, "REQUEST", f"path or query is malformed: {', '.join(fields)}")
    if isinstance(error, HTTPException):
        code = "NOT_FOUND" if error.status_code == 404 else "REQUEST"
        return refusal(error.status_code, code, str(error.detail))
    log.error("program error", kind=type(error).__name__, where=where(error))
    return refusal(500, "PROGRAM", "the centre made a mistake; its operator can see which", retry=True)


class _Logged:
    """Counts, logs and traces every answer: route, status, seconds; never a body, a header or a query."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app
        self._log = structlog.get_logger()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        began, began_ns, status = time.monotonic(), time.time_ns(), 500

        async def noted(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self._app(scope, receive, noted)
        finally:
            route = getattr(scope.get("route"), "path", "?")
            centre: Centre = scope["app"].state.centre
            centre.metrics.answers.labels(route, str(status)).inc()
            _trace(centre, scope, (began_ns, time.time_ns()), status)
            parameters: dict[str, Any] = scope.get("path_params", {}) if status < 400 else {}
            took = round(time.monotonic() - began, 4)
            self._log.info(
                "answered", method=scope["method"], route=route, status=status, s=took, scan=parameters.get("scan")
            )


def _trace(centre: Centre, scope: Scope, time_ns: tuple[int, int], status: int) -> None:
    """The span of a request about a scan of a site that was let in; that which opened the scan is the root."""
    state = scope.get("state", {})
    site, scan = state.get("site"), state.get("scan")
    if site is not None and scan is not None:
        route, method = getattr(scope.get("route"), "path", "?"), scope["method"]
        opened = method == "POST" and status == 201
        told = {"http.request.method": method, "http.route": route, "http.response.status_code": status}
        centre.traces.span(Traced(site, scan), f"{method} {route}", time_ns, root=opened, told=told)
