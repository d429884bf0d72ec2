"""WADO-RS: an image and how it is to look → a picture in JPEG or PNG; thumbnails of whatever has images.

Sources: DICOM PS3.18 8.3.5 (window, viewport, quality, annotation), 10.4.1.1.3 and 10.4.1.1.4; PS3.3 C.11.2.1.2 (the
three functions of a window). Nothing is burned into a picture.
"""

import asyncio
import io
import math
from dataclasses import dataclass
from typing import Annotated

import numpy as np
from fastapi import APIRouter, Depends, Request
from fastapi.responses import Response
from numpy.typing import NDArray
from PIL import Image
from pydicom.dataset import Dataset
from pydicom.pixels import apply_color_lut

from lampyris.centre.archive.dicomweb.answers import PRIVATE, accepted, not_acceptable, tag_of, unchanged, warning
from lampyris.centre.archive.dicomweb.frames import numbers_of
from lampyris.centre.archive.dicomweb.pixels import Frames
from lampyris.centre.archive.dicomweb.retrieve import found_files
from lampyris.centre.archive.queries import FoundFile
from lampyris.centre.people.callers import Caller, needs
from lampyris.centre.people.rules import Action
from lampyris.centre.refusals import not_found, refusal
from lampyris.centre.request import This
from lampyris.centre.store import Store
from lampyris.model import Float64

router = APIRouter(prefix="/dicomweb/studies/{study}")
Reader = Annotated[Caller, Depends(needs(Action.STUDY_READ))]
_KINDS = {"image/jpeg": "JPEG", "image/png": "PNG"}
_FUNCTIONS = ("linear", "linear-exact", "sigmoid")
_USAGE = "window=CENTRE,WIDTH,FUNCTION, viewport=WIDTH,HEIGHT[,X,Y,W,H], quality=1…100"
_LARGEST = 4096
_THUMBNAIL = 128


@dataclass(frozen=True, slots=True)
class Look:
    """How an image is to be drawn: window in the unit of the image, largest size, region of the source, quality."""

    kind: str
    window: tuple[float, float, str] | None = None
    size: tuple[int, int] | None = None
    region: tuple[float, float, float, float] | None = None
    quality: int = 90


@router.get("/series/{series}/instances/{instance}/rendered")
async def rendered(request: Request, centre: This, caller: Reader, study: str, series: str, instance: str) -> Response:
    """A picture of an instance; of one with many frames, of its first."""
    (file,) = await found_files(centre, caller, study, series, instance)
    return await _picture(request, centre.store, file, 1, look_of(request))


@router.get("/series/{series}/instances/{instance}/frames/{number}/rendered")
async def rendered_frame(
    request: Request, centre: This, caller: Reader, study: str, series: str, instance: str, number: str
) -> Response:
    """A picture of one frame."""
    chosen = numbers_of(number)
    if len(chosen) != 1:
        raise refusal(400, "REQUEST", "one frame at a time is drawn")
    (file,) = await found_files(centre, caller, study, series, instance)
    return await _picture(request, centre.store, file, chosen[0], look_of(request))


@router.get("/thumbnail")
async def thumbnail_of_study(request: Request, centre: This, caller: Reader, study: str) -> Response:
    """A small picture of a study: the middle of its first series that has images."""
    return await _thumbnail(request, centre, caller, study)


@router.get("/series/{series}/thumbnail")
async def thumbnail_of_series(request: Request, centre: This, caller: Reader, study: str, series: str) -> Response:
    """A small picture of a series: its middle image."""
    return await _thumbnail(request, centre, caller, study, series)


@router.get("/series/{series}/instances/{instance}/thumbnail")
async def thumbnail(request: Request, centre: This, caller: Reader, study: str, series: str, instance: str) -> Response:
    """A small picture of an instance: its middle frame."""
    return await _thumbnail(request, centre, caller, study, series, instance)


async def _thumbnail(request: Request, centre: This, caller: Caller, *uids: str) -> Response:
    images = [one for one in await found_files(centre, caller, *uids) if one.frames]
    if not images:
        raise not_found()
    first = [one for one in images if one.series == images[0].series]
    first.sort(key=lambda one: one.instance_number or 0)
    middle = first[len(first) // 2]
    look = look_of(request)
    small = Look(look.kind, look.window, look.size or (_THUMBNAIL, _THUMBNAIL), look.region, look.quality)
    return await _picture(request, centre.store, middle, (middle.frames + 1) // 2, small)


async def _picture(request: Request, store: Store, file: FoundFile, number: int, look: Look) -> Response:
    headers = {"ETag": tag_of([f"{file.sha256}-{number}", repr(look)])}
    if "annotation" in request.query_params:
        headers["Warning"] = warning("Annotations are not burned into pictures.")
    if unchanged(request, headers["ETag"]):
        return Response(status_code=304, headers=PRIVATE | headers)
    data = await asyncio.to_thread(draw, store, file, number, look)
    return Response(data, media_type=look.kind, headers=PRIVATE | headers)


def look_of(request: Request) -> Look:
    """The query parameters. Refusal 400 for one that is malformed, 406 when neither JPEG nor PNG is accepted."""
    given = request.query_params
    asked = accepted(request)
    kind = next((kind for one in asked for kind in _KINDS if one.takes(kind, multipart=False)), None)
    if kind is None:
        raise not_acceptable(f"pictures are given as {' or '.join(_KINDS)}")
    try:
        quality = int(given.get("quality", "90"))
        window = _window(given["window"]) if "window" in given else None
        size, region = _viewport(given["viewport"]) if "viewport" in given else (None, None)
    except ValueError:
        raise refusal(400, "QUERY", _USAGE) from None
    if not 1 <= quality <= 100:
        raise refusal(400, "QUERY", "quality is 1 … 100")
    return Look(kind, window, size, region, quality)


def _window(text: str) -> tuple[float, float, str]:
    centre, width, *function = text.split(",")
    name = (function or ["linear"])[0].lower()
    found = float(centre), float(width), name
    if name not in _FUNCTIONS or len(function) > 1 or not all(map(math.isfinite, found[:2])):
        raise ValueError
    if found[1] < (1.0 if name == "linear" else 1e-9):
        raise ValueError
    return found


def _viewport(text: str) -> tuple[tuple[int, int], tuple[float, float, float, float] | None]:
    width, height, *source = text.split(",")
    size = int(width), int(height)
    region = tuple(map(float, source))
    if (
        not all(1 <= one <= _LARGEST for one in size)
        or len(region) not in (0, 4)
        or not all(map(math.isfinite, region))
    ):
        raise ValueError
    return size, (region[0], region[1], region[2], region[3]) if region else None


def draw(store: Store, file: FoundFile, number: int, look: Look) -> bytes:
    """The picture of a frame. Refusal 404 or 406 for what has no such frame, or cannot be decoded."""
    image = Frames.of(store, file)
    image.check([number])
    array = image.decoded(number)
    if image.header.get("PhotometricInterpretation") == "PALETTE COLOR":
        array = apply_color_lut(array, image.header)
    coloured = array.ndim == 3
    picture = Image.fromarray(_eight_bits(array) if coloured else grey(array, image.header, number, look.window))
    picture = _fitted(picture, look)
    target = io.BytesIO()
    options = {"quality": look.quality} if look.kind == "image/jpeg" else {}
    picture.convert("L" if picture.mode == "L" else "RGB").save(target, _KINDS[look.kind], **options)
    return target.getvalue()


def _eight_bits(array: NDArray[np.generic]) -> NDArray[np.uint8]:
    """Colours of any depth as bytes."""
    return (array.astype(np.uint32) >> (8 * array.dtype.itemsize - 8)).astype(np.uint8)


def _fitted(picture: Image.Image, look: Look) -> Image.Image:
    """The region of the source that is asked for, as large as its viewport lets it be in its own proportions."""
    if look.region is not None:
        x, y, width, height = look.region
        left, right = sorted((x, x + width))
        top, bottom = sorted((y, y + height))
        box = (max(0, int(left)), max(0, int(top)), min(picture.width, int(right)), min(picture.height, int(bottom)))
        if box[0] >= box[2] or box[1] >= box[3]:
            raise refusal(400, "QUERY", "the region of the viewport lies beside the image")
        picture = picture.crop(box)
    if look.size is None:
        return picture
    scale = min(look.size[0] / picture.width, look.size[1] / picture.height)
    size = (max(1, round(picture.width * scale)), max(1, round(picture.height * scale)))
    return picture.resize(size, Image.Resampling.BILINEAR)


def grey(
    stored: NDArray[np.generic], header: Dataset, number: int, window: tuple[float, float, str] | None
) -> NDArray[np.uint8]:
    """Stored values → greys (rows, columns): rescaled to the unit of the image, windowed, inverted for MONOCHROME1."""
    values = stored.astype(np.float64)
    places = _places(header, number)
    slope, intercept = _first(places, "RescaleSlope"), _first(places, "RescaleIntercept")
    values = values * (1.0 if slope is None else slope) + (intercept or 0.0)
    centre, width, function = window or _own_window(places, values)
    if function == "sigmoid":
        share = 1.0 / (1.0 + np.exp(np.clip(-4.0 * (values - centre) / width, -700.0, 700.0)))
    else:
        exact = function == "linear-exact"
        middle, span = (centre, width) if exact else (centre - 0.5, max(width - 1.0, 1e-9))
        share = np.clip((values - middle) / span + 0.5, 0.0, 1.0)
    if header.get("PhotometricInterpretation") == "MONOCHROME1":
        share = 1.0 - share
    grey: NDArray[np.uint8] = np.rint(share * 255.0).astype(np.uint8)
    return grey


def _own_window(places: list[Dataset], values: Float64) -> tuple[float, float, str]:
    """The window that the image brings; without one all of its values."""
    centre, width = _first(places, "WindowCenter"), _first(places, "WindowWidth")
    if centre is not None and width is not None and width >= 1.0:
        return centre, width, "linear"
    low, high = float(values.min()), float(values.max())
    return (low + high) / 2, max(high - low, 1e-9), "linear-exact"


def _places(header: Dataset, number: int) -> list[Dataset]:
    """Where attributes of a frame may stand: its own functional groups, the shared ones, the top."""
    found = []
    for name, at in (("PerFrameFunctionalGroupsSequence", number - 1), ("SharedFunctionalGroupsSequence", 0)):
        groups = header.get(name) or []
        if at < len(groups):
            for macro in ("PixelValueTransformationSequence", "FrameVOILUTSequence"):
                found += list(groups[at].get(macro) or [])
    return [*found, header]


def _first(places: list[Dataset], keyword: str) -> float | None:
    """The first value of a number, where it is told and finite."""
    for place in places:
        told = place.get(keyword)
        values = [told] if isinstance(told, (int, float)) else list(told or [])
        if values and math.isfinite(float(values[0])):
            return float(values[0])
    return None
