"""A request → the centre that answers it, its address, its form; what every router of the centre begins with."""

from typing import Annotated
from urllib.parse import parse_qsl, urlsplit

from fastapi import Depends, Request

from lampyris.centre.body import read_body
from lampyris.centre.refusals import refusal
from lampyris.centre.service import Centre

FORM = "application/x-www-form-urlencoded"
_FORM_BYTES = 65536


async def centre_of(request: Request) -> Centre:
    """The centre that this process serves."""
    centre: Centre = request.app.state.centre
    return centre


This = Annotated[Centre, Depends(centre_of)]


async def form_of(request: Request) -> dict[str, str]:
    """Fields of a form, none of them twice. Refusal 400, 408, 413 or 415 for any other body."""
    data = await read_body(request, FORM, _FORM_BYTES)
    try:
        pairs = parse_qsl(data.decode("utf-8"), keep_blank_values=True, max_num_fields=100, errors="strict")
    except (ValueError, UnicodeDecodeError):
        raise refusal(400, "REQUEST", "the body is no form in UTF-8") from None
    fields = dict(pairs)
    if len(fields) != len(pairs):
        raise refusal(400, "REQUEST", "a field of the form is repeated")
    if any("\0" in value for value in fields.values()):
        raise refusal(400, "REQUEST", "a field of the form holds what no text holds")
    return fields


def address_of(request: Request) -> str:
    """Where a request comes from. Behind a proxy of ours: what that one says, which is the last it has added."""
    settings = request.app.state.centre.settings
    if settings.behind_proxy:
        said = request.headers.get("x-forwarded-for", "").rpartition(",")[2].strip()
        if said:
            return said[:64]
    return request.client.host if request.client else ""


def from_here(request: Request) -> None:
    """Refusal 403 for an unsafe request that a page of another site made (Fetch metadata, or else Origin).

    For forms of strangers, who have no session whose token could say it.
    """
    site = request.headers.get("sec-fetch-site")
    origin = urlsplit(request.headers.get("origin", "")).netloc
    if site == "same-origin" or (site is None and origin and origin == request.headers.get("host")):
        return
    raise refusal(403, "CSRF", "the form was sent from elsewhere: open the page again and send it from there")
