"""WADO-RS: an instance and numbers of frames → the frames, as they are stored or in Explicit VR Little Endian.

Source: DICOM PS3.18 10.4.1.1.6, and 8.7.3.5 for what is given to whom names no transfer syntax.
"""

import asyncio
import re
from functools import partial
from typing import Annotated

from fastapi import APIRouter, Depends, Request
from fastapi.responses import Response

from lampyris.centre.archive.dicomweb import pixels
from lampyris.centre.archive.dicomweb.answers import OCTETS, Accepted, accepted, base_of, not_acceptable
from lampyris.centre.archive.dicomweb.pixels import PLAIN, Frames
from lampyris.centre.archive.dicomweb.retrieve import found_files, place_of
from lampyris.centre.archive.dicomweb.streaming import Content, Part, Stretch, multipart, single
from lampyris.centre.archive.queries import FoundFile
from lampyris.centre.people.callers import Caller, needs
from lampyris.centre.people.rules import Action
from lampyris.centre.refusals import refusal
from lampyris.centre.request import This

router = APIRouter(prefix="/dicomweb/studies/{study}/series/{series}/instances/{instance}/frames")
Reader = Annotated[Caller, Depends(needs(Action.STUDY_READ))]
_MOST = 5000


@router.get("/{numbers}")
async def frames(
    request: Request, centre: This, caller: Reader, study: str, series: str, instance: str, numbers: str
) -> Response:
    """Frames of an instance, by a list of numbers that begin with 1; one frame alone too, with ranges."""
    wanted = numbers_of(numbers)
    (file,) = await found_files(centre, caller, study, series, instance)
    image = await asyncio.to_thread(Frames.of, centre.store, file)
    image.check(wanted)
    place = place_of(file, base_of(request, centre))
    for one in accepted(request):
        for kind, syntax in _offers(file, one):
            alone = len(wanted) == 1 and one.takes(kind, multipart=False) and one.kind != "*/*"
            if not alone and not one.takes(kind, multipart=True):
                continue
            told = f"{kind}; transfer-syntax={syntax}"
            parts = [
                Part(told, f"{place}/frames/{number}", await _content(image, number, syntax, len(wanted)))
                for number in wanted
            ]
            if alone:
                return single(request, centre.store, parts[0], digest=f"{file.sha256}-{wanted[0]}-{syntax}")
            return multipart(request, centre.store, parts, kind, digests=[file.sha256, syntax, numbers])
    raise not_acceptable(
        f"frames are held in {file.syntax_uid} as {pixels.kind_of(file.syntax_uid)}:"
        f' ask for multipart/related; type="{OCTETS}"; transfer-syntax=*, or for transfer-syntax={PLAIN}'
    )


def numbers_of(text: str) -> list[int]:
    """Numbers of frames, parted by commas, from 1. Refusal 400 for anything else."""
    if not re.fullmatch(r"[0-9]{1,6}(?:,[0-9]{1,6})*", text) or text.count(",") >= _MOST:
        raise refusal(400, "REQUEST", f"frames are given by numbers from 1, with commas, at most {_MOST}")
    return [int(one) for one in text.split(",")]


def _offers(file: FoundFile, asked: Accepted) -> list[tuple[str, str]]:
    """Media type and syntax of what can be given, the best first, to whom asks so."""
    stored, kind = file.syntax_uid, pixels.kind_of(file.syntax_uid)
    offers = [(OCTETS, PLAIN)] if pixels.given_as(stored, PLAIN) else []
    if kind != OCTETS:
        compressed = [(kind, stored), (OCTETS, stored)]
        offers = [*compressed, *offers] if asked.syntax == "*" else [*offers, *compressed]
    if asked.syntax is None:  # octets that nobody said more of are those of Explicit VR Little Endian
        return [one for one in offers if one != (OCTETS, stored) or stored == PLAIN]
    return [one for one in offers if asked.syntax in ("*", one[1])]


async def _content(image: Frames, number: int, syntax: str, frames: int) -> Content:
    if syntax == PLAIN and (place := image.native(number)) is not None:
        return Stretch(image.file.prefix, image.file.sha256, *place)
    make = partial(image.plain if syntax == PLAIN else image.stored, number)
    return await asyncio.to_thread(make) if frames == 1 else make
