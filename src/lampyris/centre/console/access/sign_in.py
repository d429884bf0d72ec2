"""A login and a password, or a link that is good once → a session; and the end of one."""

from ipaddress import ip_address

from fastapi import APIRouter, Request
from fastapi.responses import RedirectResponse, Response

from lampyris.centre.audit.chain import Entry, Kind, note
from lampyris.centre.console.page import own_path, render
from lampyris.centre.database import Connection
from lampyris.centre.people import oidc, passwords, patience, sessions
from lampyris.centre.people.callers import Own, Visitor, session_of
from lampyris.centre.refusals import Refusal, not_found
from lampyris.centre.request import This, address_of, form_of, from_here
from lampyris.centre.service import Centre
from lampyris.model import InputError

router = APIRouter()
_PAGE, _ONCE = "sign_in.html.jinja", "sign_in_once.html.jinja"


@router.get("/sign-in")
async def page(request: Request, centre: This, caller: Visitor) -> Response:
    """The page to sign in; whoever is signed in is led on."""
    then = own_path(request.query_params.get("next"))
    if caller is not None:
        return RedirectResponse(then, 303)
    return await _page(request, centre, then, said=request.query_params.get("said", ""))


@router.post("/sign-in")
async def sign_in(request: Request, centre: This, _caller: Visitor) -> Response:
    """A session for a login and a password; any other pair is answered alike, and later each time."""
    from_here(request)
    form = await form_of(request)
    login, then = form.get("login", "").strip().lower(), own_path(form.get("next"))
    address = address_of(request)
    async with centre.pool.connection() as connection:
        try:
            tried = await patience.counted(connection, address, login)
        except Refusal as error:
            page = await _page(request, centre, then, login=login, wait_s=error.retry_after or 1, status=429)
            page.headers["Retry-After"] = str(error.retry_after)
            return page
        person = await passwords.check(connection, login, form.get("password", ""))
        if person is None:
            who = login if await passwords.known(connection, login) else "unknown"  # it may be a password
            await note(connection, Entry(Kind.LOGIN, who, "refused", address=address))
        else:
            await patience.forgiven(connection, tried)
            session = await begin(connection, request, person, login)
    if person is None:
        return await _page(request, centre, then, login=login, wrong=True, status=401)
    return signed_in(centre, session, then)


@router.post("/sign-out")
async def sign_out(centre: This, caller: Own) -> Response:
    """The end of the session that asks for it."""
    session = session_of(caller)
    async with centre.pool.connection() as connection:
        await sessions.end(connection, session)
        await note(connection, Entry(Kind.LOGOUT, caller.login, address=caller.address))
    answer = Response(status_code=204, headers={"HX-Redirect": "/sign-in?said=out"})
    name = sessions.cookie_of(centre.settings.audience)
    answer.delete_cookie(name, secure=name.startswith("__Host-"), httponly=True, samesite="lax")
    return answer


@router.get("/sign-in/once/{code}")
async def once(code: str, request: Request, centre: This, _caller: Visitor) -> Response:
    """The page that a link leads to. It is not used up by being looked at: mail programs look at links."""
    async with centre.pool.connection() as connection:
        _, login, purpose = await _linked(connection, request, code)
    return await render(request, centre, None, _ONCE, code=code, login=login, purpose=purpose, trouble="")


@router.post("/sign-in/once/{code}")
async def use(code: str, request: Request, centre: This, _caller: Visitor) -> Response:
    """A password by a link, or a session of the demonstration; the link is used up."""
    from_here(request)
    form = await form_of(request)
    async with centre.pool.connection() as connection:
        person, login, purpose = await _linked(connection, request, code)
        if purpose == "demo":
            if not await passwords.use(connection, code):
                raise not_found()
            return signed_in(centre, await begin(connection, request, person, login, by="link"), "/")
        password = form.get("password", "")
        trouble = "" if password == form.get("again") else "differ"
        if not trouble:
            try:
                async with connection.transaction():
                    if not await passwords.use(connection, code):
                        raise not_found()
                    await passwords.choose(connection, person, password)
                    detail = {"what": "person.password", "by": "link"}
                    address = address_of(request)
                    await note(connection, Entry(Kind.PEOPLE, login, address=address, object=login, detail=detail))
            except InputError:
                trouble = "weak"
    if trouble:
        return await render(request, centre, None, _ONCE, 422, code=code, login=login, purpose=purpose, trouble=trouble)
    return RedirectResponse("/sign-in?said=password", 303)


async def begin(
    connection: Connection, request: Request, person: int, login: str, *, by: str = "password"
) -> sessions.Session:
    """A session of somebody who has shown who they are, in place of the one that the browser had."""
    name = sessions.cookie_of(request.app.state.centre.settings.audience)
    address = address_of(request)
    async with connection.transaction():
        if before := request.cookies.get(name):
            await sessions.end(connection, sessions.digest_of(before))
        session = await sessions.begin(connection, person, address, request.headers.get("user-agent", ""))
        await note(connection, Entry(Kind.LOGIN, login, address=address, detail={"by": by}))
    return session


def signed_in(centre: Centre, session: sessions.Session, then: str) -> Response:
    """The answer that gives a browser its session and leads it on."""
    answer = RedirectResponse(then, 303)
    name = sessions.cookie_of(centre.settings.audience)
    answer.set_cookie(name, session.cookie, secure=name.startswith("__Host-"), httponly=True, samesite="lax")
    return answer


async def _page(
    request: Request, centre: Centre, then: str, *, status: int = 200, login: str = "", wrong: bool = False,
    wait_s: int = 0, said: str = "",
) -> Response:  # fmt: skip
    provider = oidc.provider_of(centre.settings)
    return await render(
        request, centre, None, _PAGE, status, next=then, login=login, wrong=wrong, wait_s=wait_s, said=said,
        provider=None if provider is None else provider.name,
    )  # fmt: skip


async def _linked(connection: Connection, request: Request, code: str) -> tuple[int, str, str]:
    """Person, login and purpose of a link; one of the demonstration is good on this machine alone. Refusal 404."""
    found = await passwords.linked(connection, code)
    if found is None or (found[2] == "demo" and not _is_here(address_of(request))):
        raise not_found()
    return found


def _is_here(address: str) -> bool:
    try:
        return ip_address(address).is_loopback
    except ValueError:
        return False
