"""Curves → an SVG that stands alone: axes with even numbers, a line each, and which is which.

Drawn with attributes alone, so that a page's content-security-policy has nothing to forbid.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from xml.sax.saxutils import escape, quoteattr

from lampyris.model import Curve

_WIDTH, _HEIGHT = 560, 340
_LEFT, _RIGHT, _TOP, _BOTTOM = 76, 16, 40, 56
_GROUND, _TEXT, _MUTED, _LINE = "#161b1e", "#dde4e2", "#9dabab", "#2b3439"
_COLOURS = ("#d2e868", "#6fb7e8", "#f2a65e", "#c79bf2")
_DASHES = ("", "7 4", "2 4", "9 3 2 3")
_FONT = "system-ui, 'Noto Sans', 'Noto Sans CJK SC', sans-serif"


@dataclass(frozen=True, slots=True)
class Axes:
    """What a plot is called, and what its axes say."""

    title: str
    across: str
    up: str


def svg(curves: Sequence[tuple[str, Curve]], axes: Axes) -> str:
    """The plot of at least one curve of one kind, each with the name of its image; both axes begin at 0."""
    across = _ticks(max(max(curve.x) for _, curve in curves))
    up = _ticks(max(max(curve.y) for _, curve in curves))
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {_HEIGHT}" width="{_WIDTH}" height="{_HEIGHT}"'
        f' role="img" aria-label={quoteattr(axes.title)} font-family="{_FONT}" font-size="13">',
        f'<rect width="{_WIDTH}" height="{_HEIGHT}" rx="8" fill="{_GROUND}"/>',
        _text(_LEFT, 24, axes.title, anchor="start", fill=_TEXT, size=15),
    ]
    for value in across:
        x = _x(value, across[-1])
        parts.append(f'<line x1="{x}" y1="{_TOP}" x2="{x}" y2="{_HEIGHT - _BOTTOM}" stroke="{_LINE}"/>')
        parts.append(_text(x, _HEIGHT - _BOTTOM + 18, f"{value:g}"))
    for value in up:
        y = _y(value, up[-1])
        parts.append(f'<line x1="{_LEFT}" y1="{y}" x2="{_WIDTH - _RIGHT}" y2="{y}" stroke="{_LINE}"/>')
        parts.append(_text(_LEFT - 8, y + 4, f"{value:g}", anchor="end"))
    parts.append(_text((_LEFT + _WIDTH - _RIGHT) / 2, _HEIGHT - 14, axes.across))
    middle = (_TOP + _HEIGHT - _BOTTOM) / 2
    parts.append(
        f'<text x="18" y="{middle}" fill="{_MUTED}" text-anchor="middle" transform="rotate(-90 18 {middle})">'
        f"{escape(axes.up)}</text>"
    )
    for number, (label, curve) in enumerate(curves):
        parts += _curve(number, label, curve, (across[-1], up[-1]))
    return "".join([*parts, "</svg>"])


def _curve(number: int, label: str, curve: Curve, reach: tuple[float, float]) -> list[str]:
    colour, dash = _COLOURS[number % len(_COLOURS)], _DASHES[number % len(_DASHES)]
    points = " ".join(f"{_x(x, reach[0])},{_y(y, reach[1])}" for x, y in zip(curve.x, curve.y, strict=True))
    how = f'fill="none" stroke="{colour}" stroke-width="2" stroke-linejoin="round"'
    how += f' stroke-dasharray="{dash}"' if dash else ""
    y = _TOP + 16 + 20 * number
    return [
        f'<polyline points="{points}" {how}/>',
        f'<line x1="{_WIDTH - _RIGHT - 34}" y1="{y}" x2="{_WIDTH - _RIGHT - 6}" y2="{y}" {how}/>',
        _text(_WIDTH - _RIGHT - 40, y + 4, label, anchor="end", fill=_TEXT),
    ]


def _text(x: float, y: float, text: str, *, anchor: str = "middle", fill: str = _MUTED, size: int = 13) -> str:
    return f'<text x="{x}" y="{y}" fill="{fill}" text-anchor="{anchor}" font-size="{size}">{escape(text)}</text>'


def _x(value: float, reach: float) -> float:
    return round(_LEFT + value / reach * (_WIDTH - _LEFT - _RIGHT), 2)


def _y(value: float, reach: float) -> float:
    return round(_HEIGHT - _BOTTOM - max(value, 0.0) / reach * (_HEIGHT - _TOP - _BOTTOM), 2)


def _ticks(largest: float) -> list[float]:
    """From 0 to beyond a number in four to eight steps of 1, 2 or 5 · 10ⁿ.

    >>> _ticks(0.71)
    [0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8]
    """
    if not largest > 0:
        return [0.0, 1.0]
    decade = 10.0 ** math.floor(math.log10(largest))
    step = next(part * decade for part in (0.1, 0.2, 0.5, 1.0, 2.0) if largest / (part * decade) <= 8)
    return [round(number * step, 12) for number in range(math.ceil(largest / step - 1e-9) + 1)]
