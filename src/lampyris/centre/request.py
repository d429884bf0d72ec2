"""A request → the centre that answers it, and the fields of its form; what every router of the centre begins with."""

from typing import Annotated
from urllib.parse import parse_qsl

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
    return fields
