"""Requests about what is one's own: name and language, password, sessions, access tokens."""

from fastapi import APIRouter, Request
from fastapi.responses import Response

from lampyris.centre.audit.chain import Entry, Kind, note
from lampyris.centre.console import words
from lampyris.centre.console.page import LANGUAGE, remember, render
from lampyris.centre.database import Connection
from lampyris.centre.people import accounts, passwords, patience, sessions, tenants, tokens
from lampyris.centre.people.callers import Caller, Own, session_of
from lampyris.centre.refusals import Refusal, not_found, refusal
from lampyris.centre.request import This, form_of
from lampyris.model import InputError

router = APIRouter(prefix="/account")
_AGAIN = {"HX-Refresh": "true"}
_DAYS = (7, 30, 90, 180, 366)


@router.get("")
async def page(request: Request, centre: This, caller: Own) -> Response:
    """The page of an account."""
    async with centre.pool.connection() as connection:
        own = await accounts.own(connection, caller.person)
        listed = await sessions.of(connection, caller.person, caller.session)
        held = await tokens.of(connection, caller.person)
    return await render(
        request, centre, caller, "account.html.jinja", own=own, sessions=listed, tokens=held, days=_DAYS, trouble="",
        shortest=passwords.SHORTEST,
    )  # fmt: skip


@router.post("")
async def change(request: Request, centre: This, caller: Own) -> Response:
    """Another name, another language."""
    session_of(caller)
    form = await form_of(request)
    name, language = tenants.checked_name(form.get("name", "")), form.get("language", "")
    if language not in words.LANGUAGES:
        raise refusal(422, "PREFERENCE", "expected a language of this console")
    async with centre.pool.connection() as connection:
        await accounts.change_own(connection, caller.by, name, language)
    answer = Response(status_code=204, headers=_AGAIN)
    remember(request, answer, LANGUAGE, language)
    return answer


@router.post("/password")
async def password(request: Request, centre: This, caller: Own) -> Response:
    """Another password for who knows the old one; all other sessions end."""
    session = session_of(caller)
    form = await form_of(request)
    trouble = "differ" if form.get("password") != form.get("again") else ""
    if not trouble:
        async with centre.pool.connection() as connection:
            try:
                tried = await patience.counted(connection, caller.address, caller.login)
                if await passwords.check(connection, caller.login, form.get("old", "")) != caller.person:
                    trouble = "wrong"
                else:
                    await patience.forgiven(connection, tried)
                    await passwords.choose(connection, caller.person, form.get("password", ""), keep=session)
                    await _noted(connection, caller)
            except InputError:
                trouble = "weak"
            except Refusal:
                trouble = "wait"
    return await render(
        request, centre, caller, "account_password.html.jinja", trouble=trouble or "none", shortest=passwords.SHORTEST
    )


@router.post("/tokens")
async def add_token(request: Request, centre: This, caller: Own) -> Response:
    """A new access token; the one time that it is shown."""
    session_of(caller)
    form = await form_of(request)
    days = form.get("days", "")
    if not (days.isascii() and days.isdigit() and len(days) < 5):
        raise refusal(422, "DAYS", "expected a number of days")
    async with centre.pool.connection() as connection:
        text = await tokens.issue(connection, caller.by, caller.person, form.get("name", ""), int(days))
        held = await tokens.of(connection, caller.person)
    return await render(request, centre, caller, "account_tokens.html.jinja", tokens=held, days=_DAYS, token=text)


@router.delete("/tokens/{number}")
async def remove_token(number: int, centre: This, caller: Own) -> Response:
    """Take one of one's own tokens back."""
    session_of(caller)
    async with centre.pool.connection() as connection:
        if not await tokens.take_back(connection, caller.by, caller.person, number):
            raise not_found()
    return Response(status_code=204, headers=_AGAIN)


@router.delete("/sessions/{number}")
async def end_session(number: int, centre: This, caller: Own) -> Response:
    """End one of one's own sessions."""
    session_of(caller)
    async with centre.pool.connection() as connection:
        if not await sessions.end_of(connection, caller.person, number):
            raise not_found()
        await note(connection, Entry(Kind.LOGOUT, caller.login, address=caller.address, detail={"session": number}))
    return Response(status_code=204, headers=_AGAIN)


@router.delete("/sessions")
async def end_sessions(centre: This, caller: Own) -> Response:
    """Sign out everywhere, here too."""
    session_of(caller)
    async with centre.pool.connection() as connection:
        count = await sessions.end_all(connection, caller.person)
        await note(connection, Entry(Kind.LOGOUT, caller.login, address=caller.address, detail={"sessions": count}))
    return Response(status_code=204, headers={"HX-Redirect": "/sign-in?said=out"})


async def _noted(connection: Connection, caller: Caller) -> None:
    detail = {"what": "person.password", "by": "old password"}
    entry = Entry(Kind.PEOPLE, caller.login, address=caller.address, object=caller.login, detail=detail)
    await note(connection, entry)
