"""The way to the organisation's OpenID provider and back → a session."""

import structlog
from fastapi import APIRouter, Request
from fastapi.responses import RedirectResponse, Response

from lampyris.centre.audit.chain import Entry, Kind, note
from lampyris.centre.console.access.sign_in import begin, signed_in
from lampyris.centre.console.page import own_path
from lampyris.centre.people import oidc, patience
from lampyris.centre.people.callers import Visitor
from lampyris.centre.refusals import not_found
from lampyris.centre.request import This, address_of
from lampyris.centre.service import Centre

router = APIRouter(prefix="/sign-in/provider")
_FLOW = "lampyris_flow"
_FLOW_S = 600


@router.get("")
async def away(request: Request, centre: This, _caller: Visitor) -> Response:
    """To the provider, with a state that this browser keeps."""
    provider = _provider(centre)
    async with centre.pool.connection() as connection:
        await patience.counted(connection, address_of(request))
        then = own_path(request.query_params.get("next"))
        url, state = await oidc.begin(connection, provider, _redirect(centre), then)
    answer = RedirectResponse(url, 303)
    answer.set_cookie(
        _cookie(centre), state, max_age=_FLOW_S, secure=_cookie(centre) != _FLOW, httponly=True, samesite="lax"
    )
    return answer


@router.get("/back")
async def back(request: Request, centre: This, _caller: Visitor) -> Response:
    """From the provider, with a code: a session, or the page to sign in with the reason."""
    provider = _provider(centre)
    address, log = address_of(request), structlog.get_logger()
    async with centre.pool.connection() as connection:
        try:
            claims, then = await oidc.end(
                connection, provider, _redirect(centre), request.query_params, request.cookies.get(_cookie(centre), "")
            )
        except oidc.Unproven as error:
            log.warning("sign-in at the provider unproven", reason=str(error))
            await note(connection, Entry(Kind.LOGIN, "unknown", "refused", address=address, detail={"by": "oidc"}))
            return RedirectResponse("/sign-in?said=provider", 303)
        found = await oidc.person_of(connection, provider, claims)
        if found is None:
            await note(connection, Entry(Kind.LOGIN, "unknown", "refused", address=address, detail={"by": "oidc"}))
            return RedirectResponse("/sign-in?said=role", 303)
        await patience.forgiven(connection, patience.of_address(address))
        session = await begin(connection, request, *found, by="oidc")
    answer = signed_in(centre, session, own_path(then))
    answer.delete_cookie(_cookie(centre), secure=_cookie(centre) != _FLOW, httponly=True, samesite="lax")
    return answer


def _provider(centre: Centre) -> oidc.Provider:
    provider = oidc.provider_of(centre.settings)
    if provider is None:
        raise not_found()
    return provider


def _redirect(centre: Centre) -> str:
    return centre.settings.audience.rstrip("/") + oidc.CALLBACK


def _cookie(centre: Centre) -> str:
    return f"__Host-{_FLOW}" if centre.settings.audience.startswith("https:") else _FLOW
