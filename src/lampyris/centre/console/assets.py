"""Files of `static/` → answers that a browser keeps for a year, at addresses that hold the digest of their content."""

import gzip
import hashlib
import mimetypes
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from importlib.resources.abc import Traversable

from fastapi import APIRouter, Request
from fastapi.responses import Response

from lampyris.centre.refusals import not_found

router = APIRouter(include_in_schema=False)
PREFIX = "/static"
_YEAR = "public, max-age=31536000, immutable"
_SHORTENED = ("text/", "application/json", "image/svg")


@dataclass(frozen=True, slots=True)
class Asset:
    """A file: its media type, content, the same shortened by gzip if that is worth it, and its digest."""

    media_type: str
    content: bytes
    short: bytes | None
    digest: str


@cache
def assets() -> dict[str, Asset]:
    """Every file of the console that is served as it is, by its path below `static/`."""
    return dict(_found(files(__package__) / "static", ""))


def address(name: str) -> str:
    """Where a file is served: `/static/DIGEST/NAME`. KeyError for a file that is not there."""
    return f"{PREFIX}/{assets()[name].digest}/{name}"


@router.get(f"{PREFIX}/{{digest}}/{{name:path}}")
async def static(digest: str, name: str, request: Request) -> Response:
    """A file. One that is asked for by another digest, as a page of another release does, is not kept."""
    found = assets().get(name)
    if found is None:
        raise not_found()
    headers = {
        "Cache-Control": _YEAR if digest == found.digest else "no-cache",
        "X-Content-Type-Options": "nosniff",
        "Vary": "Accept-Encoding",
    }
    if found.short is not None and "gzip" in request.headers.get("accept-encoding", ""):
        return Response(found.short, media_type=found.media_type, headers=headers | {"Content-Encoding": "gzip"})
    return Response(found.content, media_type=found.media_type, headers=headers)


def _found(folder: Traversable, prefix: str) -> list[tuple[str, Asset]]:
    found: list[tuple[str, Asset]] = []
    for each in folder.iterdir():
        if each.is_dir():
            found += _found(each, f"{prefix}{each.name}/")
        else:
            found.append((prefix + each.name, _asset(each.name, each.read_bytes())))
    return found


def _asset(name: str, content: bytes) -> Asset:
    kind = mimetypes.guess_type(name)[0] or "application/octet-stream"
    short = gzip.compress(content, mtime=0) if kind.startswith(_SHORTENED) else None
    worth = short if short is not None and len(short) < len(content) else None
    return Asset(kind, content, worth, hashlib.sha256(content).hexdigest()[:16])
