"""Fragments that a page shows → one server-sent event each, while a session stands; then the page asks anew."""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable

from fastapi import Request
from fastapi.responses import Response, StreamingResponse

from lampyris.centre.people.callers import Caller
from lampyris.centre.people.sessions import stands
from lampyris.centre.service import Centre
from lampyris.centre.watching.bell import Bell

LASTS_S = 300.0
"""A stream ends after so long and is opened again: whoever reads it is asked again who they are."""
_PING_S = 5.0
_CALM_S = 1.0
"""Between two looks: a page that changes more often is not read."""


async def stream(
    request: Request, centre: Centre, caller: Caller, look: Callable[[], Awaitable[list[tuple[str, str]]]]
) -> Response:
    """Events of a page: names and HTML that `look` gives at once, and again whenever one of the caller's sites rings.

    Refusal 429 when the caller has enough streams.
    """
    bell: Bell = request.app.state.bell
    events = _events(centre, bell, caller, look)
    first = await anext(events)  # a refusal must come before the answer begins
    headers = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
    return StreamingResponse(_from(first, events), media_type="text/event-stream", headers=headers)


async def _events(
    centre: Centre, bell: Bell, caller: Caller, look: Callable[[], Awaitable[list[tuple[str, str]]]]
) -> AsyncIterator[str]:
    ends = time.monotonic() + LASTS_S
    with bell.heard(f"person {caller.person}", caller.sites) as rung:
        yield ": here\n\n"
        while time.monotonic() < ends and not bell.over:
            rung.clear()
            async with centre.pool.connection() as connection:
                if caller.session is not None and not await stands(connection, caller.session):
                    return
            for name, text in await look():
                yield event(name, text)
            await asyncio.sleep(_CALM_S)
            try:
                await asyncio.wait_for(rung.wait(), _PING_S)
            except TimeoutError:
                yield ": still here\n\n"


def event(name: str, text: str) -> str:
    """A server-sent event; a text of several lines becomes as many of the event."""
    lines = [f"data: {line}" for line in text.splitlines() if line.strip()] or ["data:"]
    return "\n".join([f"event: {name}", *lines, "", ""])


async def _from(first: str, rest: AsyncIterator[str]) -> AsyncIterator[str]:
    yield first
    async for each in rest:
        yield each
