"""Requests by which a site becomes known: enrolment, access tokens, keys."""

import time
from typing import Annotated
from urllib.parse import parse_qs

from fastapi import APIRouter, Depends, Path, Request, Security
from fastapi.responses import JSONResponse, Response
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer

from lampyris.centre import access
from lampyris.centre.access import Grant
from lampyris.centre.api import schema
from lampyris.centre.audit.chain import Entry, Kind, note
from lampyris.centre.body import read_body
from lampyris.centre.database import Connection
from lampyris.centre.jobs import queue
from lampyris.centre.refusals import Refusal, refusal, unauthorised
from lampyris.centre.request import This, address_of
from lampyris.centre.watching.sites import note_seen
from lampyris.model import InputError
from lampyris.transfer import ASSERTION_TYPE, Assertion, PublicKey, check_assertion, check_enrolment, limits

router = APIRouter(prefix=limits.PREFIX, tags=["access"])
_SHORT = 8192


_BEARER = HTTPBearer(auto_error=False, description="access token of POST /v1/token")
_Bearer = Annotated[HTTPAuthorizationCredentials | None, Security(_BEARER)]


async def grant_of(request: Request, centre: This, given: _Bearer) -> Grant:
    """What the access token of a request grants; Refusal 401."""
    if given is None or not given.credentials:
        raise unauthorised("TOKEN", "there is no access token: Authorization: Bearer …")
    async with centre.pool.connection() as connection:
        grant = await centre.tokens.grant_of(connection, given.credentials.strip(), int(time.time()))
    scan = request.path_params.get("scan", "")
    request.state.site, request.state.scan = grant.site, scan if limits.SCAN.fullmatch(scan) else None
    return grant


Granted = Annotated[Grant, Depends(grant_of)]


async def site_of(grant: Granted) -> str:
    """The site that a request comes from."""
    return grant.site


Site = Annotated[str, Depends(site_of)]


@router.post(
    "/enrolments",
    status_code=201,
    **schema.described(
        {201: schema.ENROLMENT}, (400, 403, 408, 409, 413, 415, 422), body=(schema.JOSE, {"type": "string"})
    ),
)
async def enrol(request: Request, centre: This) -> Response:
    """Enrol a site by its one-time code and a key of its own."""
    found = check_enrolment(await _jose(request), now=int(time.time()))
    async with centre.pool.connection() as connection:
        try:
            async with connection.transaction():
                enrolment = await access.enrol(connection, found, centre.settings.audience)
                await _noted(connection, request, enrolment.site, "enrolled", found.key_id)
                await queue.ring(connection, enrolment.site)  # whoever showed the code sees at once that it was used
        except Refusal as refused:
            said = {"what": "enrolled", "code": refused.problem.code}
            await note(connection, Entry(Kind.CONFIGURE, "site:?", "refused", address_of(request), detail=said))
            raise
    return JSONResponse(enrolment.as_dict(), 201)


@router.post(
    "/keys",
    status_code=201,
    **schema.described(
        {201: schema.ENROLMENT}, (400, 401, 403, 408, 409, 413, 415, 422), body=(schema.JOSE, {"type": "string"})
    ),
)
async def add_key(request: Request, centre: This, site: Site) -> Response:
    """Bring another key; the code in the request is twenty zeros."""
    found = check_enrolment(await _jose(request), now=int(time.time()))
    async with centre.pool.connection() as connection, connection.transaction():
        enrolment = await access.add_key(connection, site, found, centre.settings.audience)
        await _noted(connection, request, site, "key added", found.key_id)
    return JSONResponse(enrolment.as_dict(), 201)


@router.delete("/keys/{key}", status_code=204, **schema.described({204: None}, (400, 401, 404, 409)))
async def remove_key(
    key: Annotated[str, Path(pattern=f"^{limits.KEY_ID.pattern}$")], request: Request, centre: This, site: Site
) -> Response:
    """Take a key back."""
    async with centre.pool.connection() as connection, connection.transaction():
        await access.remove_key(connection, site, key)
        await queue.ring(connection, site)  # streams that were opened with it end
        await _noted(connection, request, site, "key taken back", key)
    return Response(status_code=204)


_FORM = {
    "type": "object",
    "required": ["grant_type", "client_assertion_type", "client_assertion"],
    "properties": {
        "grant_type": {"const": "client_credentials"},
        "client_assertion_type": {"const": ASSERTION_TYPE},
        "client_assertion": {"type": "string"},
    },
}


@router.post("/token", **schema.described({200: schema.TOKEN}, (400, 401, 408, 413, 415), body=(schema.FORM, _FORM)))
async def token(request: Request, centre: This) -> Response:
    """An access token for an assertion (private_key_jwt, RFC 7523), once for each."""
    given = _form(await read_body(request, schema.FORM, _SHORT))
    if given.get("grant_type") != "client_credentials" or given.get("client_assertion_type") != ASSERTION_TYPE:
        raise refusal(
            400, "REQUEST", "expected grant_type=client_credentials and a client_assertion of type jwt-bearer"
        )
    now = int(time.time())
    async with centre.pool.connection() as connection:
        try:
            assertion = await _assertion(connection, given.get("client_assertion", ""), centre.settings.audience, now)
        except InputError as error:
            raise unauthorised("TOKEN", str(error)) from None
        try:
            await access.use_once(connection, assertion)
        except Refusal as refused:
            who, said = f"site:{assertion.site}", {"code": refused.problem.code}
            await note(connection, Entry(Kind.LOGIN, who, "refused", address_of(request), assertion.site, detail=said))
            raise
        await note_seen(connection, assertion.site)
        issued = await centre.tokens.issue(connection, assertion.site, assertion.key_id, now)
    body = {
        "access_token": issued,
        "token_type": "Bearer",
        "expires_in": limits.TOKEN_SECONDS,
    }
    return JSONResponse(body, headers={"Cache-Control": "no-store"})


async def _assertion(connection: Connection, text: str, audience: str, now: int) -> Assertion:
    """The assertion, checked with the keys of the site that it claims; InputError otherwise."""
    asked: list[str] = []

    def note(site: str, _key: str) -> PublicKey | None:
        asked.append(site)
        return None

    try:  # the first reading tells whose keys to fetch; nothing is believed of it
        check_assertion(text, audience, now=now, key_of=note)
    except InputError:
        if not asked:
            raise
    keys = await access.keys_of(connection, asked[0])
    return check_assertion(text, audience, now=now, key_of=lambda _site, key: keys.get(key))


async def _noted(connection: Connection, request: Request, site: str, what: str, key: str) -> None:
    """Write into the audit what a site changed of itself, in the caller's transaction."""
    who, detail = f"site:{site}", {"what": what, "key": key}
    await note(
        connection, Entry(Kind.CONFIGURE, who, address=address_of(request), site=site, object=site, detail=detail)
    )


async def _jose(request: Request) -> str:
    data = await read_body(request, schema.JOSE, _SHORT)
    try:
        return data.decode("ascii")
    except UnicodeDecodeError:
        raise refusal(400, "REQUEST", "the body is no JWS in compact form") from None


def _form(data: bytes) -> dict[str, str]:
    """A form without repeated fields; Refusal 400 otherwise."""
    try:
        fields = parse_qs(data.decode("ascii"), strict_parsing=True, max_num_fields=8, errors="strict")
    except (ValueError, UnicodeDecodeError):
        raise refusal(400, "REQUEST", "the body is no form") from None
    if any(len(values) != 1 for values in fields.values()):
        raise refusal(400, "REQUEST", "a field of the form is repeated")
    return {name: values[0] for name, values in fields.items()}
