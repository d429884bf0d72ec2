"""Images of a scene → pictures for docs/evidence: the methods side by side, and the places where `micro` errs most."""

from pathlib import Path

import numpy as np
from PIL import Image as Canvas
from PIL import ImageDraw
from scipy import ndimage

from bench.dose import measure
from bench.dose.scenes import scene
from bench.dose.tables import FULL, Scope, fraction
from lampyris.model import Float32

WINDOWS = {"thorax": (-1350.0, 150.0)}
SOFT = (-160.0, 240.0)
DIFFERENCE = (-100.0, 100.0)
TILE = 300
WORST_MM = 40.0
"""Side of the crops that show failures."""


def side_by_side(name: str, scope: Scope, folder: Path) -> str:
    """Truth, full dose and every method at the lowest dose; below, the difference from the truth."""
    real = measure.truth(name).values
    middle = len(real) // 2
    box = _body(real[middle])
    dose = min(scope.doses)
    cells = [FULL, *((method, dose) for method in scope.methods)]
    top = [("truth", _grey(real[middle][box], WINDOWS.get(name, SOFT)))]
    bottom = [("", np.full_like(top[0][1], 255))]
    for method, d in cells:
        values = measure.image(name, method, d, 0).volume.values[middle]
        top.append((f"{method} {fraction(d)}", _grey(values[box], WINDOWS.get(name, SOFT))))
        bottom.append(("minus truth, 100 HU", _grey((values - real[middle])[box], DIFFERENCE)))
    return _save([top, bottom], folder / f"dose-{name}.png", scene(name).title)


def failures(names: tuple[str, ...], scope: Scope, folder: Path, *, method: str = "micro") -> str:
    """For each scene the place where the method at the lowest dose is furthest from the truth, smoothed over 2 mm."""
    rows, dose = [], min(scope.doses)
    for name in names:
        real = measure.truth(name).values
        made = measure.image(name, method, dose, 0).volume
        spacing = made.grid.spacing_mm[1]
        inside = np.logical_or.reduce(list(measure.regions(name).values()))
        error = np.where(inside, ndimage.gaussian_filter(made.values - real, [0, 2 / spacing, 2 / spacing]), 0)
        k, row, column = np.unravel_index(int(np.abs(error).argmax()), error.shape)
        half = round(WORST_MM / 2 / spacing)
        box = (_span(int(row), half, real.shape[1]), _span(int(column), half, real.shape[2]))
        centre = float(np.median(real[k][box]))
        window = (centre - 400, centre + 400) if abs(centre) > 300 else SOFT
        full = measure.image(name, *FULL, 0).volume.values
        tiles = [(f"{name}: truth", _grey(real[k][box], window)), ("routine 1", _grey(full[k][box], window))]
        tiles += [
            (f"{m} {fraction(dose)}", _grey(measure.image(name, m, dose, 0).volume.values[k][box], window))
            for m in scope.methods
        ]
        tiles.append((f"{method} minus truth", _grey((made.values - real)[k][box], (-200.0, 200.0))))
        rows.append(tiles)
    return _save(rows, folder / "dose-failures.png", f"where {method} errs most")


def _body(real: Float32) -> tuple[slice, slice]:
    found = np.argwhere(real > -500)
    (top, left), (bottom, right) = found.min(axis=0), found.max(axis=0)
    return slice(max(int(top) - 6, 0), int(bottom) + 7), slice(max(int(left) - 6, 0), int(right) + 7)


def _span(middle: int, half: int, size: int) -> slice:
    start = min(max(middle - half, 0), size - 2 * half)
    return slice(start, start + 2 * half)


def _grey(values: Float32, window: tuple[float, float]) -> np.ndarray:
    low, high = window
    return np.asarray(np.clip((values - low) / (high - low) * 255, 0, 255), np.uint8)


def _save(rows: list[list[tuple[str, np.ndarray]]], file: Path, title: str) -> str:
    """One sheet of captioned tiles; what stands in the document for it."""
    width = TILE * max(len(row) for row in rows)
    heights = [max(round(TILE * tile.shape[0] / tile.shape[1]) for _, tile in row) + 16 for row in rows]
    sheet = Canvas.new("L", (width, sum(heights)), 255)
    draw, y = ImageDraw.Draw(sheet), 0
    for row, height in zip(rows, heights, strict=True):
        for k, (caption, tile) in enumerate(row):
            size = (TILE - 2, round(TILE * tile.shape[0] / tile.shape[1]))
            sheet.paste(Canvas.fromarray(tile).resize(size, Canvas.Resampling.BICUBIC), (k * TILE, y + 14))
            draw.text((k * TILE + 3, y + 1), caption, fill=0)
        y += height
    sheet.save(file, optimize=True)
    return f"![{title}]({file.name})"
