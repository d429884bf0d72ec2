"""Requests to the console itself: its first page, and how somebody likes it to look."""

from fastapi import APIRouter, Request
from fastapi.responses import RedirectResponse, Response

from lampyris.centre.console import words
from lampyris.centre.console.navigation import entries_of
from lampyris.centre.console.page import LANGUAGE, THEME, THEMES, remember
from lampyris.centre.people.callers import Own
from lampyris.centre.refusals import refusal
from lampyris.centre.request import This, form_of

router = APIRouter(include_in_schema=False)


@router.get("/")
async def first(caller: Own) -> Response:
    """To the first page that the caller may open; their account when there is none."""
    entries = entries_of(caller)
    return RedirectResponse(entries[0].path if entries else "/account", 303)


@router.post("/preferences")
async def prefer(request: Request, centre: This, caller: Own) -> Response:
    """Language (kept with the account) or theme (kept by the browser); the page is then loaded again."""
    form = await form_of(request)
    answer = Response(status_code=204, headers={"HX-Refresh": "true"})
    language, theme = form.get("language"), form.get("theme")
    if language in words.LANGUAGES:
        async with centre.pool.connection() as connection:
            await connection.execute("UPDATE person SET language = %s WHERE number = %s", (language, caller.person))
        remember(request, answer, LANGUAGE, language)
    elif theme in THEMES:
        remember(request, answer, THEME, theme)
    else:
        raise refusal(422, "PREFERENCE", "expected a language or a theme of this console")
    return answer
