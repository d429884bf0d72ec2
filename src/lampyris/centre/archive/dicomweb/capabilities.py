"""The routes of this service → what it can do, told to machines in WADL.

Source: DICOM PS3.18 8.9.
"""

from collections.abc import Sequence
from typing import Annotated
from xml.sax.saxutils import quoteattr

from fastapi import APIRouter, Depends, Request
from fastapi.responses import Response
from fastapi.routing import APIRoute

from lampyris.centre.archive.dicomweb.answers import (
    DICOM,
    DICOM_JSON,
    MULTIPART,
    OCTETS,
    accepted,
    base_of,
    not_acceptable,
)
from lampyris.centre.people.callers import Caller, needs
from lampyris.centre.people.rules import Action
from lampyris.centre.request import This

WADL = "application/vnd.sun.wadl+xml"
_NAMESPACE = "http://wadl.dev.java.net/2009/02"
_PARTS = {kind: f'{MULTIPART}; type="{kind}"' for kind in (DICOM, OCTETS)}
_GIVES = (
    ("/frames/{numbers}", (_PARTS[OCTETS], OCTETS)),
    ("/bulkdata/{path:path}", (_PARTS[OCTETS], OCTETS)),
    ("/rendered", ("image/jpeg", "image/png")),
    ("/thumbnail", ("image/jpeg", "image/png")),
    ("/metadata", (DICOM_JSON,)),
    ("/instances/{instance}", (_PARTS[DICOM], DICOM)),
    ("/series/{series}", (_PARTS[DICOM],)),
    ("/{study}", (_PARTS[DICOM],)),
    ("", (DICOM_JSON,)),
)
"""How a path ends, and the media types that a GET of it gives."""


def router_of(routers: Sequence[APIRouter]) -> APIRouter:
    """The route that tells of these routers."""
    resources: dict[str, list[str]] = {}
    for route in (one for each in routers for one in each.routes):
        if isinstance(route, APIRoute):
            path = route.path.removeprefix("/dicomweb")
            resources.setdefault(path, []).extend(_method(path, name) for name in sorted(route.methods or ()))
    listed = "".join(
        f"<resource path={quoteattr(path[1:].replace(':path', ''))}>{''.join(methods)}</resource>"
        for path, methods in sorted(resources.items())
    )
    router = APIRouter(prefix="/dicomweb")

    @router.options("/")
    async def capabilities(
        request: Request, centre: This, _caller: Annotated[Caller, Depends(needs(Action.STUDY_READ))]
    ) -> Response:
        """What this service can do."""
        kinds = (WADL, "application/xml")
        if not any(one.takes(kind, multipart=False) for one in accepted(request) for kind in kinds):
            raise not_acceptable(f"capabilities are given as {WADL}")
        base = quoteattr(base_of(request, centre) + "/")
        text = f'<application xmlns="{_NAMESPACE}"><resources base={base}>{listed}</resources></application>'
        return Response('<?xml version="1.0" encoding="UTF-8"?>' + text, media_type=WADL)

    return router


def _method(path: str, name: str) -> str:
    if name == "POST":
        body = f"<request><representation mediaType={quoteattr(_PARTS[DICOM])}/></request>"
        return f'<method name="POST">{body}{_gives((DICOM_JSON,))}</method>'
    kinds = next(kinds for end, kinds in _GIVES if path.endswith(end)) if name == "GET" else ()
    return f"<method name={quoteattr(name)}>{_gives(kinds)}</method>"


def _gives(kinds: tuple[str, ...]) -> str:
    told = "".join(f"<representation mediaType={quoteattr(kind)}/>" for kind in kinds)
    return f"<response>{told}</response>" if told else ""
