"""A template and what it shows → a page in the language, theme and time zone of whoever asked; errors as pages too."""

import asyncio
from functools import cache
from typing import Any
from urllib.parse import quote, urlsplit

import psycopg
from fastapi import Request
from fastapi.responses import HTMLResponse, RedirectResponse, Response
from jinja2 import Environment, PackageLoader, StrictUndefined, pass_context
from jinja2.runtime import Context
from psycopg_pool import PoolTimeout

from lampyris import __version__
from lampyris.centre.console import assets, words
from lampyris.centre.console.navigation import entries_of
from lampyris.centre.people.callers import Caller, identify
from lampyris.centre.people.rules import Action
from lampyris.centre.service import Centre
from lampyris.transfer import Problem

SIGN_IN = "/sign-in"
LANGUAGE, THEME, ZONE = "lampyris_language", "lampyris_theme", "lampyris_zone"
"""Cookies of taste: nothing depends on them but how a page looks."""
THEMES = ("dark", "light")
_ASKED = "language"
_YEAR_S = 31_536_000
POLICY = (
    "default-src 'self'; img-src 'self' data: blob:; object-src 'none'; base-uri 'none'; form-action 'self';"
    " frame-ancestors 'self'"
)
"""Content-Security-Policy of every page: no script and no style but ours, none of them inline."""
_HEADERS = {
    "Content-Security-Policy": POLICY,
    "Cache-Control": "no-store",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "same-origin",
}


async def render(
    request: Request, centre: Centre, caller: Caller | None, template: str, /, status: int = 200, **values: object
) -> HTMLResponse:
    """A page, or a fragment of one, of a template in `templates/`. A caller of None is a stranger."""
    answer = HTMLResponse(await text_of(request, centre, caller, template, **values), status, headers=_HEADERS)
    given = request.query_params.get(_ASKED)
    if caller is None and given in words.LANGUAGES:
        remember(request, answer, LANGUAGE, given)
    return answer


async def text_of(request: Request, centre: Centre, caller: Caller | None, template: str, /, **values: object) -> str:
    """What `render` answers with, as text: one event of a stream, say."""
    theme = request.cookies.get(THEME)
    language = _language(request, caller)
    said = {
        "words": words.words_of(language),
        "zone": words.zone_of(request.cookies.get(ZONE)),
        "theme": theme if theme in THEMES else THEMES[0],
        "caller": caller,
        "entries": entries_of(caller),
        "path": request.url.path,
        "audience": centre.settings.audience,
    }
    return await asyncio.to_thread(environment(language).get_template(template).render, said | values)


def _language(request: Request, caller: Caller | None) -> str:
    """The account's, or what a stranger asks for; then the browser's."""
    wish = request.query_params.get(_ASKED) if caller is None else caller.language
    return words.chosen(wish, request.cookies.get(LANGUAGE), accept=request.headers.get("accept-language", ""))


def wants_page(request: Request) -> bool:
    """Whether a browser asks for something that it will show to a person, and not a part of a page or an API."""
    accepted = request.headers.get("accept", "")
    return "text/html" in accepted and "hx-request" not in request.headers


async def refused(request: Request, centre: Centre, problem: Problem, headers: dict[str, str]) -> Response:
    """A refusal as people see it: the page to sign in for a stranger, else what went wrong and what helps."""
    if problem.status == 401 and request.method == "GET":
        return RedirectResponse(sign_in_then(request.url.path, request.url.query), 303, headers=_HEADERS)
    caller = await _caller(request, centre) if problem.status < 500 else None
    page = await render(request, centre, caller, "error.html.jinja", problem.status, problem=problem)
    page.headers.update(headers)
    return page


def sign_in_then(path: str, query: str = "") -> str:
    """Address of the page to sign in, which leads on to this one."""
    return f"{SIGN_IN}?next={quote(path + ('?' + query if query else ''), safe='')}"


def own_path(text: str | None) -> str:
    """A path of this console that somebody asks to be led to, or its first page instead (no open redirect)."""
    if not text or not text.startswith("/") or text[1:2] in ("/", "\\") or not text.isprintable():
        return "/"
    parts = urlsplit(text)
    return text if not parts.scheme and not parts.netloc and "\\" not in text else "/"


def remember(request: Request, answer: Response, name: str, value: str) -> None:
    """Keep a matter of taste in the browser, for a year."""
    answer.set_cookie(name, value, max_age=_YEAR_S, samesite="lax", secure=request.url.scheme == "https")


@cache
def environment(language: str) -> Environment:
    """Templates in a language. What is missing is an error, and all that is shown is escaped."""
    made = Environment(
        loader=PackageLoader(__package__),
        autoescape=True,
        undefined=StrictUndefined,
        extensions=["jinja2.ext.i18n"],
        trim_blocks=True,
        lstrip_blocks=True,
    )
    said = words.words_of(language)
    made.install_gettext_callables(said.gettext, said.ngettext, newstyle=True)  # type: ignore[attr-defined]
    made.filters.update(
        number=said.number, bytes=said.bytes, duration=said.duration, percent=said.percent, moment=_moment
    )
    made.globals.update(static=assets.address, version=__version__, languages=words.LANGUAGES, themes=THEMES)
    return made


@pass_context
def _moment(context: Context, when: Any, form: str = "medium") -> str:
    """In the reader's time zone: a template that imports macros which use this does so `with context`."""
    said: words.Words = context["words"]
    return said.moment(when, context["zone"], form)


async def _caller(request: Request, centre: Centre) -> Caller | None:
    """Who sees an error: their navigation stays. None where the database is away."""
    try:
        async with centre.pool.connection() as connection:
            return await identify(connection, request, Action.SELF)
    except (psycopg.Error, PoolTimeout):
        return None
