"""A cut and a window → a PNG as a person reads it: the sides of the patient, a scale bar, the window, the place.

Nothing about the patient is written into it. Maps are drawn in colours, with a bar that says what they mean.
"""

import io
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from lampyris.centre.study.cuts import Cut
from lampyris.model import InputError, Volume

SIZE = 576
"""Pixels of a picture's side; more than the 512 of the usual matrix, so that no pixel is left out."""
DRAWN = "1"
"""Version of what is drawn: part of the name under which a picture is kept."""
_BAR = 92
_MARGIN = 10
_INK, _SHADE = 0xEC, 0
_NICE_MM = (1, 2, 5, 10, 20, 50, 100, 200)


@dataclass(frozen=True, slots=True)
class Window:
    """A display window in the unit of the image: black at centre − width/2, white at centre + width/2."""

    centre: float
    width: float


WINDOWS = {"lung": Window(-600.0, 1500.0), "soft": Window(40.0, 400.0), "bone": Window(400.0, 1800.0)}
"""By name, in HU: lung and soft tissue as they stand in our images, bone as readers set it."""
WHOLE = "whole"
"""The window of an image that is not in HU: its 1st to 99.5th percentile."""


@dataclass(frozen=True, slots=True)
class Canvas:
    """Where a picture lies: the millimetres of its middle along its axes, and of one of its pixels."""

    middle_mm: tuple[float, float]
    pixel_mm: float


def canvas_of(cut: Cut) -> Canvas:
    """A canvas that just holds a cut."""
    breadth, height = cut.size_mm
    middle = tuple(
        first + (count - 1) / 2 * step
        for first, count, step in zip(cut.first_mm, cut.values.shape[::-1], cut.step_mm, strict=True)
    )
    return Canvas((middle[0], middle[1]), max(breadth, height) / SIZE)


def windows_for(volume: Volume) -> tuple[str, ...]:
    """Names of the windows of a volume."""
    return tuple(WINDOWS) if volume.quantity == "HU" else (WHOLE,)


def window_of(name: str, volume: Volume) -> Window:
    """The window of that name for a volume. InputError for one that there is not."""
    if volume.quantity == "HU" and name in WINDOWS:
        return WINDOWS[name]
    if name != WHOLE or volume.quantity == "HU":
        raise InputError(f"there is no window {name[:20]!a} for an image in {volume.quantity}")
    low, high = np.percentile(volume.values, (1.0, 99.5))
    return Window(float(low + high) / 2, float(max(high - low, 1e-12)))


def grey(cut: Cut, window: Window, canvas: Canvas) -> bytes:
    """The PNG of a cut. The display, and only the display, saturates at the window's ends."""
    values = _laid(cut, canvas, window.centre - window.width)
    shown = np.clip((values - (window.centre - window.width / 2)) / window.width, 0.0, 1.0)
    image = Image.fromarray(np.rint(255 * shown).astype(np.uint8))
    _letter(image, cut, canvas, f"W {window.width:g}  L {window.centre:g}")
    return _png(image)


def coloured(cut: Cut, bounds: tuple[float, float], unit: str) -> bytes:
    """The PNG of a map between two values, with its colour bar: for a bias (a bound below 0) white is none."""
    low, high = bounds
    values = _laid(cut, canvas := canvas_of(cut), low)
    scale = np.clip((values - low) / max(high - low, 1e-12), 0.0, 1.0)
    table = _DIVERGING if low < 0 else _RISING
    image = Image.fromarray(_colours(scale, table))
    _letter(image, cut, canvas, "")
    whole = Image.new("RGB", (SIZE + _BAR, SIZE))
    whole.paste(image, (0, 0))
    _colour_bar(whole, bounds, unit, table)
    return _png(whole)


def bounds_of(volume: Volume) -> tuple[float, float]:
    """What a map's colours reach over: 0 to its 99.5th percentile, or as far below zero as above."""
    high = float(np.percentile(np.abs(volume.values), 99.5)) or 1.0
    return (-high if volume.values.min() < 0 else 0.0, high)


def _laid(cut: Cut, canvas: Canvas, outside: float) -> np.ndarray:
    """The cut's values on the canvas, linearly between its own."""
    across, down = (
        (
            canvas.pixel_mm / step,
            (middle - SIZE / 2 * canvas.pixel_mm - first) / step + 0.5,  # PIL counts from the corner of a pixel
        )
        for middle, first, step in zip(canvas.middle_mm, cut.first_mm, cut.step_mm, strict=True)
    )
    how = (across[0], 0.0, across[1], 0.0, down[0], down[1])
    laid = Image.fromarray(np.asarray(cut.values, np.float32)).transform(
        (SIZE, SIZE), Image.Transform.AFFINE, how, Image.Resampling.BILINEAR, fillcolor=outside
    )
    return np.asarray(laid)


def _letter(image: Image.Image, cut: Cut, canvas: Canvas, window: str) -> None:
    draw = ImageDraw.Draw(image)
    left, right, above, below = cut.letters
    middle = SIZE // 2
    for text, place, anchor in (
        (left, (_MARGIN, middle), "lm"), (right, (SIZE - _MARGIN, middle), "rm"),
        (above, (middle, _MARGIN), "mt"), (below, (middle, SIZE - _MARGIN), "mb"),
    ):  # fmt: skip
        _write(draw, text, place, anchor, 24)
    normal = {"axial": "H", "coronal": "P", "sagittal": "L"}[cut.plane]
    _write(draw, f"{normal} {cut.at_mm:+.1f} mm", (_MARGIN, _MARGIN), "lt", 15)
    if window:
        _write(draw, window, (_MARGIN, SIZE - _MARGIN), "lb", 15)
    _scale_bar(draw, canvas)


def _scale_bar(draw: ImageDraw.ImageDraw, canvas: Canvas) -> None:
    length = max((mm for mm in _NICE_MM if mm / canvas.pixel_mm <= SIZE / 4), default=_NICE_MM[0])
    x, y = SIZE - _MARGIN, SIZE - _MARGIN - 4
    start = x - length / canvas.pixel_mm
    for colour, thick in ((_SHADE, 5), (_INK, 2)):
        fill = _fill(draw, colour)
        draw.line((start, y, x, y), fill=fill, width=thick)
        for end in (start, x):
            draw.line((end, y - 5, end, y + 5), fill=fill, width=thick)
    _write(draw, f"{length} mm" if length < 10 else f"{length // 10} cm", ((start + x) / 2, y - 9), "mb", 15)


def _write(draw: ImageDraw.ImageDraw, text: str, place: tuple[float, float], anchor: str, size: int) -> None:
    font, ink, shade = ImageFont.load_default(size), _fill(draw, _INK), _fill(draw, _SHADE)
    draw.text(place, text, font=font, fill=ink, anchor=anchor, stroke_width=2, stroke_fill=shade)


def _fill(draw: ImageDraw.ImageDraw, value: int) -> int | tuple[int, int, int]:
    """A grey, as a picture in grey or in colours takes it."""
    return value if draw.mode == "L" else (value, value, value)


def _colour_bar(image: Image.Image, bounds: tuple[float, float], unit: str, table: tuple[str, ...]) -> None:
    low, high = bounds
    top, bottom, left, breadth = 46, SIZE - 24, SIZE + 14, 18
    ramp = _colours(np.linspace(1.0, 0.0, bottom - top)[:, None].repeat(breadth, axis=1), table)
    image.paste(Image.fromarray(ramp), (left, top))
    draw = ImageDraw.Draw(image)
    draw.rectangle((left - 1, top - 1, left + breadth, bottom), outline=_fill(draw, _INK))
    for share in (0.0, 0.25, 0.5, 0.75, 1.0):
        y = bottom - share * (bottom - top)
        draw.line((left + breadth, y, left + breadth + 5, y), fill=_fill(draw, _INK))
        _write(draw, f"{low + share * (high - low):.3g}", (left + breadth + 9, y), "lm", 14)
    _write(draw, unit, (left, top - 14), "ls", 15)


_RISING = ("#440154", "#46327e", "#365c8d", "#277f8e", "#1fa187", "#4ac16d", "#a0da39", "#fde725")
"""Viridis (Smith, van der Walt 2015, CC0): as light as it is large, also to the colour-blind."""
_DIVERGING = ("#2166ac", "#67a9cf", "#d1e5f0", "#f7f7f7", "#fddbc7", "#ef8a62", "#b2182b")
"""ColorBrewer RdBu turned round (Brewer 2002, Apache-2.0): blue below, red above."""


def _colours(scale: np.ndarray, table: tuple[str, ...]) -> np.ndarray:
    """Colours (…, 3) of 8 bits for 0 … 1, linear between those of a table."""
    stops = np.array([[int(one[k : k + 2], 16) for k in (1, 3, 5)] for one in table], np.float64)
    at = np.linspace(0.0, 1.0, len(table))
    return np.stack([np.rint(np.interp(scale, at, stops[:, k])) for k in range(3)], axis=-1).astype(np.uint8)


def _png(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "PNG", compress_level=3)
    return buffer.getvalue()
