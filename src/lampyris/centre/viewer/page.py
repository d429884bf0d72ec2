"""Requests for the reading viewer → its page, for whoever may read studies, and its files, which are the same for all.

The viewer asks our DICOMweb for images with the session of the page; what somebody may see is decided there, each time.
"""

from typing import Annotated

from fastapi import APIRouter, Depends, Request
from fastapi.responses import FileResponse, RedirectResponse, Response

from lampyris.centre.console.page import render
from lampyris.centre.people.callers import Caller, needs
from lampyris.centre.people.rules import Action
from lampyris.centre.refusals import not_found
from lampyris.centre.request import This
from lampyris.centre.viewer.prepare import PLACE, release_of

router = APIRouter(include_in_schema=False)
POLICY = (
    "default-src 'self'; script-src 'self' 'wasm-unsafe-eval'; style-src 'self' 'unsafe-inline';"
    " img-src 'self' data: blob:; worker-src 'self' blob:; connect-src 'self' blob: data:; object-src 'none';"
    " base-uri 'none'; form-action 'none'; frame-ancestors 'self'"
)
"""The console's, and what the viewer cannot do without: decoders in WebAssembly, styles that it sets by script, images
and workers that it makes itself. No script in the page, and nothing from another origin."""
_ALONE = {
    "Content-Security-Policy": POLICY,
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Embedder-Policy": "require-corp",
    "Cross-Origin-Resource-Policy": "same-origin",
    "X-Content-Type-Options": "nosniff",
}
"""A page that shares its process with no other origin may share memory with its workers; these have the policy of the
file that they are made of."""
_STUDIES = "StudyInstanceUIDs"
Reader = Annotated[Caller, Depends(needs(Action.STUDY_READ))]


@router.get(f"{PLACE}/files/{{release}}/{{name:path}}")
async def file(release: str, name: str, request: Request, centre: This) -> Response:
    """A file of the viewer. Its address holds the release, so that a browser keeps it for a year."""
    folder = centre.settings.viewer_folder
    found = release_of(folder)
    if found is None or found.id != release or name not in found.files:
        raise not_found()
    headers = {"Cache-Control": "public, max-age=31536000, immutable", "Vary": "Accept-Encoding"} | _ALONE
    if name in found.packed and "gzip" in request.headers.get("accept-encoding", ""):
        headers["Content-Encoding"] = "gzip"
        return FileResponse(folder / f"{name}.gz", media_type=found.files[name], headers=headers)
    return FileResponse(folder / name, media_type=found.files[name], headers=headers)


@router.get(PLACE)
@router.get(f"{PLACE}/read")
async def page(request: Request, centre: This, caller: Reader) -> Response:
    """The viewer with the studies of ?StudyInstanceUIDs=UID,…; the console where none is named; how to install it."""
    release = release_of(centre.settings.viewer_folder)
    if release is None:
        return await render(request, centre, caller, "viewer_absent.html.jinja", 503, folder=centre.settings.folder)
    if not request.query_params.get(_STUDIES):
        return RedirectResponse("/", 303)
    answer = await render(request, centre, caller, "viewer.html.jinja", release=release)
    answer.headers.update(_ALONE)
    return answer
