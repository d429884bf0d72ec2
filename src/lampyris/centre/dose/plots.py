"""Course and distribution of doses → pictures in SVG, in the console's two lights; saved, they are for paper.

Only presentation attributes: a page's policy lets no style into a picture that is opened by itself.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from xml.sax.saxutils import escape

from lampyris.centre.dose.levels import Level
from lampyris.centre.dose.statistics import Point

WIDTH, HEIGHT = 640, 300
_LEFT, _RIGHT, _TOP, _BOTTOM = 58, 14, 20, 40


@dataclass(frozen=True, slots=True)
class Light:
    """Colours of a picture: ground, text, lines, what is shown, what it is compared with."""

    ground: str
    text: str
    line: str
    shown: str
    quiet: str
    level: str


LIGHTS = {
    "dark": Light("#161b1e", "#9dabab", "#2b3439", "#d2e868", "#4a5526", "#e6bb62"),
    "light": Light("#ffffff", "#52605e", "#d5dbd5", "#4b6300", "#d3dfa4", "#7a5200"),
}


@dataclass(frozen=True, slots=True)
class Said:
    """The words of a picture in the reader's language; `month` and `number` write a month and a number in it."""

    title: str
    axis: str
    level: str
    month: Callable[[datetime], str]
    number: Callable[[float], str]


def course(points: Sequence[Point], level: Level | None, said: Said, light: str) -> str:
    """Median of each month as a line, 25 … 75 % as a band, the reference level as a dashed line."""
    colours = LIGHTS[light]
    most = _round_up(max([one.quartiles.high for one in points] + ([level.high] if level else [])))
    x = _places(len(points))

    def y(value: float) -> float:
        return HEIGHT - _BOTTOM - value / most * (HEIGHT - _TOP - _BOTTOM)

    above = [f"{at:.1f},{y(one.quartiles.high):.1f}" for at, one in zip(x, points, strict=True)]
    below = [f"{at:.1f},{y(one.quartiles.low):.1f}" for at, one in zip(x, points, strict=True)]
    middle = [f"{at:.1f},{y(one.quartiles.median):.1f}" for at, one in zip(x, points, strict=True)]
    drawn = [
        f'<polygon points="{" ".join(above + below[::-1])}" fill="{colours.quiet}"/>',
        f'<polyline points="{" ".join(middle)}" fill="none" stroke="{colours.shown}" stroke-width="2"/>',
    ]
    drawn += [
        f'<circle cx="{at:.1f}" cy="{y(one.quartiles.median):.1f}" r="3.5" fill="{colours.shown}"><title>'
        f"{escape(said.month(one.month))}: {said.number(one.quartiles.median)} (n = {one.quartiles.count})"
        "</title></circle>"
        for at, one in zip(x, points, strict=True)
    ]
    if level is not None:
        drawn += _level_across(y(level.high), said.level, colours)
    every = max(1, math.ceil(len(points) / 7))
    ticks = [(at, said.month(one.month)) for count, (at, one) in enumerate(zip(x, points, strict=True))
             if count % every == 0]  # fmt: skip
    return _framed([*_grid(most, y, said, colours), *drawn, *_below(ticks, colours)], said, colours)


def distribution(width: float, counts: Sequence[int], level: Level | None, said: Said, light: str) -> str:
    """How many irradiations lie in each bin, the reference level as a dashed line."""
    colours = LIGHTS[light]
    most = _round_up(max(counts))
    inner = (WIDTH - _LEFT - _RIGHT) / len(counts)

    def y(value: float) -> float:
        return HEIGHT - _BOTTOM - value / most * (HEIGHT - _TOP - _BOTTOM)

    drawn = [
        f'<rect x="{_LEFT + index * inner + 1:.1f}" y="{y(count):.1f}" width="{inner - 2:.1f}"'
        f' height="{HEIGHT - _BOTTOM - y(count):.1f}" fill="{colours.shown}"><title>{said.number(index * width)} …'
        f" {said.number((index + 1) * width)}: {count}</title></rect>"
        for index, count in enumerate(counts)
    ]
    ticks = [
        (_LEFT + index * inner, said.number(index * width)) for index in range(0, len(counts), max(1, len(counts) // 6))
    ]
    if level is not None and level.high < width * len(counts):
        at = _LEFT + level.high / width * inner
        drawn += [
            f'<line x1="{at:.1f}" y1="{_TOP}" x2="{at:.1f}" y2="{HEIGHT - _BOTTOM}" stroke="{colours.level}"'
            ' stroke-width="1.5" stroke-dasharray="6 4"/>',
            f'<text x="{at:.1f}" y="{_TOP - 6}" text-anchor="{"end" if at > WIDTH / 2 else "start"}" font-size="12"'
            f' fill="{colours.level}">{escape(said.level)}</text>',
        ]
    return _framed([*_grid(most, y, said, colours), *drawn, *_below(ticks, colours)], said, colours)


def _places(count: int) -> list[float]:
    """Middles of so many places along the axis."""
    inner = (WIDTH - _LEFT - _RIGHT) / count
    return [_LEFT + (index + 0.5) * inner for index in range(count)]


def _step(most: float) -> float:
    """The least of 1, 2, 5 · 10ⁿ of which five reach a value."""
    step = float(10 ** math.floor(math.log10(most / 5)))
    return step * next(each for each in (1, 2, 5, 10) if each * step * 5 >= most * (1 - 1e-9))


def _round_up(value: float) -> float:
    """The next whole step above a value, so that a grid of at most five lines has plain numbers."""
    if value <= 0:
        return 1.0
    step = _step(value)
    return math.ceil(value / step * (1 - 1e-9)) * step


def _grid(most: float, y: Callable[[float], float], said: Said, colours: Light) -> list[str]:
    step = _step(most)
    drawn = []
    for index in range(round(most / step) + 1):
        at = y(index * step)
        drawn.append(
            f'<line x1="{_LEFT}" y1="{at:.1f}" x2="{WIDTH - _RIGHT}" y2="{at:.1f}" stroke="{colours.line}"/>'
            f'<text x="{_LEFT - 8}" y="{at + 4:.1f}" text-anchor="end" font-size="12" fill="{colours.text}">'
            f"{said.number(index * step)}</text>"
        )
    return drawn


def _below(ticks: Sequence[tuple[float, str]], colours: Light) -> list[str]:
    return [
        f'<text x="{at:.1f}" y="{HEIGHT - _BOTTOM + 18}" text-anchor="middle" font-size="12" fill="{colours.text}">'
        f"{escape(text)}</text>"
        for at, text in ticks
    ]


def _level_across(at: float, text: str, colours: Light) -> list[str]:
    return [
        f'<line x1="{_LEFT}" y1="{at:.1f}" x2="{WIDTH - _RIGHT}" y2="{at:.1f}" stroke="{colours.level}"'
        ' stroke-width="1.5" stroke-dasharray="6 4"/>',
        f'<text x="{WIDTH - _RIGHT}" y="{at - 6:.1f}" text-anchor="end" font-size="12" fill="{colours.level}">'
        f"{escape(text)}</text>",
    ]


def _framed(drawn: Sequence[str], said: Said, colours: Light) -> str:
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" width="{WIDTH}" height="{HEIGHT}"'
        ' role="img" font-family="Inter, Segoe UI, Noto Sans, Noto Sans CJK SC, sans-serif">'
        f'<title>{escape(said.title)}</title><rect width="{WIDTH}" height="{HEIGHT}" fill="{colours.ground}"/>'
        f"{''.join(drawn)}"
        f'<text x="{WIDTH - _RIGHT}" y="{HEIGHT - 6}" text-anchor="end" font-size="12" fill="{colours.text}">'
        f"{escape(said.axis)}</text></svg>"
    )


def blank(text: str, light: str) -> str:
    """A picture of nothing, which says so."""
    colours = LIGHTS[light]
    middle = f'x="{WIDTH // 2}" y="{HEIGHT // 2}" text-anchor="middle" font-size="15"'
    return _framed(
        [f'<text {middle} fill="{colours.text}">{escape(text)}</text>'], Said(text, "", "", str, str), colours
    )
