"""What a request accepts and where it came → how it is answered: media types, addresses, JSON, validators.

Sources: DICOM PS3.18 8.7 (media types), 8.3.3 (query parameters in place of headers), RFC 9110 12.5.1 (Accept), 13
(conditional requests), 14 (ranges).
"""

import hashlib
import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any
from urllib.parse import urlsplit

from fastapi import Request
from fastapi.responses import Response

from lampyris.centre.refusals import Refusal, refusal
from lampyris.centre.service import Centre
from lampyris.dicom.ids import uid as constant_uid

DICOM, DICOM_JSON, OCTETS, MULTIPART = (
    "application/dicom",
    "application/dicom+json",
    "application/octet-stream",
    "multipart/related",
)
SERVICE = "lampyris"
"""Our name in a Warning header."""
PRIVATE = {"Cache-Control": "private, no-cache", "Vary": "Accept, Authorization, Cookie"}
"""Headers of every answer with somebody's data: a browser may keep it, and asks each time whether it still may."""
_RANGE = re.compile(r"bytes=([0-9]{0,15})-([0-9]{0,15})")
_LISTED = 32


@dataclass(frozen=True, slots=True)
class Accepted:
    """One media type that a request accepts, in lower case: `kind` alone or as the type of the parts of a multipart."""

    kind: str
    multipart: bool = False
    syntax: str | None = None
    quality: float = 1.0
    rest: dict[str, str] = field(default_factory=dict)

    def takes(self, kind: str, *, multipart: bool) -> bool:
        """Whether an answer of this kind would do."""
        if self.kind == "*/*" and not self.multipart:
            return True
        family = self.kind.endswith("/*") and kind.startswith(self.kind[:-1])
        return self.multipart == multipart and (self.kind in (kind, "*/*") or family)


def accepted(request: Request) -> list[Accepted]:
    """What a request accepts, the best first: its parameter `accept`, or else its header; everything without either.

    Refusal 406 when nothing of it can be read.
    """
    said = request.query_params.getlist("accept") or request.headers.getlist("accept")
    text = ",".join(said)
    if not text.strip():
        return [Accepted("*/*")]
    found = [one for one in map(_accepted, _split(text, ",")[:_LISTED]) if one is not None and one.quality > 0]
    if not found:
        raise not_acceptable("the Accept header names no media type")
    return sorted(found, key=lambda one: -one.quality)


def parameters(text: str) -> tuple[str, dict[str, str]]:
    """A media type in lower case, and its parameters.

    >>> parameters('multipart/related; type="application/dicom"; boundary=x')
    ('multipart/related', {'type': 'application/dicom', 'boundary': 'x'})
    """
    kind, *rest = _split(text, ";") or [""]
    told = {}
    for each in rest:
        name, _, value = each.partition("=")
        told[name.strip().lower()] = value.strip().strip('"')
    return kind.lower(), told


def _accepted(text: str) -> Accepted | None:
    kind, told = parameters(text)
    if not re.fullmatch(r"[\w.+*-]+/[\w.+*-]+", kind):
        return None
    try:
        quality = float(told.pop("q", "1"))
    except ValueError:
        return None
    multipart = kind == MULTIPART
    syntax = told.pop("transfer-syntax", None)
    inner = told.pop("type", "*/*").lower() if multipart else kind
    return Accepted(inner, multipart, syntax, quality, told)


def _split(text: str, at: str) -> list[str]:
    """Parts of a header, not split within quotes."""
    return [one.strip() for one in re.findall(rf'(?:"[^"]*"|[^"{at}])+', text)]


def not_acceptable(detail: str) -> Refusal:
    return refusal(406, "NOT_ACCEPTABLE", detail)


def base_of(request: Request, centre: Centre) -> str:
    """The address of our DICOMweb service as this client reached it; a proxy's TLS is known by the public name."""
    public, host = urlsplit(centre.settings.audience), request.headers.get("host", "")
    scheme = public.scheme if host == public.netloc else request.url.scheme
    return f"{scheme}://{host or public.netloc}/dicomweb"


def json_answer(
    request: Request, found: Any, *, status: int = 200, headers: Mapping[str, str] = MappingProxyType({})
) -> Response:
    """DICOM JSON. Refusal 406 for a request that accepts none."""
    accepts_json(request)
    text = json.dumps(found, ensure_ascii=False, separators=(",", ":")).encode()
    return Response(text, status, media_type=DICOM_JSON, headers={**PRIVATE, **headers})


def accepts_json(request: Request) -> None:
    """Refusal 406 for a request that accepts no JSON."""
    kinds = (DICOM_JSON, "application/json")
    if not any(one.takes(kind, multipart=False) for one in accepted(request) for kind in kinds):
        raise not_acceptable(f"this is given as {DICOM_JSON} alone")


def warning(text: str) -> str:
    """A Warning header: 299, who says it, what."""
    return f'299 {SERVICE}: "{text}"'


def tag_of(parts: Iterable[str]) -> str:
    """An entity tag: of one object its own digest, of several the digest of theirs."""
    found = list(parts)
    whole = found[0] if len(found) == 1 else hashlib.sha256("\n".join(found).encode()).hexdigest()
    return f'"{whole}"'


def unchanged(request: Request, tag: str) -> bool:
    """Whether the client has this already."""
    said = request.headers.get("if-none-match", "")
    return said == "*" or tag in (one.strip().removeprefix("W/") for one in said.split(","))


def range_of(request: Request, size: int, tag: str) -> tuple[int, int] | None:
    """First and last byte of the one range that is asked for; None for all. Refusal 416 for one that lies outside.

    Several ranges are answered with all, as RFC 9110 14.2 allows, and so is a range of another version.
    """
    found = _RANGE.fullmatch(request.headers.get("range", ""))
    if found is None or found[0] == "bytes=-" or request.headers.get("if-range", tag) != tag:
        return None
    if found[1]:
        first, last = int(found[1]), min(int(found[2]) if found[2] else size - 1, size - 1)
    else:
        first, last = max(0, size - int(found[2])), size - 1
    if first > last:
        raise refusal(416, "RANGE", f"the object has {size} bytes")
    return first, last


def boundary_of(tag: str) -> str:
    """A boundary that stands for what is answered: the same answer is the same bytes, and no file holds its digest."""
    return constant_uid("boundary", tag)
