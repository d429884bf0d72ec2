"""Images of a study → the same crop of each, in the same window, as pictures."""

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image
from scipy import ndimage

from lampyris.dose_study.engine import Results
from lampyris.dose_study.measure import Ground
from lampyris.dose_study.tables import Row
from lampyris.model import Float32, Float64
from lampyris.report.pictures import LUNG, SOFT_TISSUE, Plane, Window, png, shown

SIDE_MM = 130.0
"""Side of the square that is shown."""
EDGES_HU = (-160.0, 240.0)
"""CT numbers between which an edge counts as worth looking at."""
INSIDE = 0.9
"""Part of the square that has to lie in the body."""
DIVERGING = ((33, 102, 172), (247, 247, 247), (178, 24, 43))
"""Too low, true, too high (ColorBrewer RdBu)."""


@dataclass(frozen=True, slots=True)
class Crop:
    """Which slice of the kept box, and which rows and columns of it."""

    index: int
    rows: slice
    columns: slice

    def of(self, image: Float32) -> Float32:
        return np.asarray(image[self.index, self.rows, self.columns])


@dataclass(frozen=True, slots=True)
class Tile:
    """One picture: a data URI, or the sentence that stands in its place."""

    picture: str | None
    missing: str = ""


def crop(ground: Ground) -> Crop:
    """The square of the middle slice with the strongest edges of soft tissue, nine tenths of it in the body."""
    truth, body = ground.shown, ground.tissues["body"]
    index = len(truth) // 2
    sides = [
        min(n, max(8, round(SIDE_MM / step))) for n, step in zip(truth.shape[1:], ground.spacing_mm[1:], strict=True)
    ]
    low, high = EDGES_HU if ground.truth.quantity == "HU" else np.percentile(truth, (1, 99))
    slopes = ndimage.gaussian_gradient_magnitude(np.clip(truth[index], low, high).astype(np.float64), 1.0)
    inner = ndimage.binary_erosion(body[index], iterations=3)
    weight = _sums(np.where(inner, slopes, 0.0), sides)
    covered = _sums(body[index].astype(np.float64), sides) / (sides[0] * sides[1])
    allowed = covered >= min(INSIDE, covered.max() - 1e-9)
    row, column = np.unravel_index(int(np.argmax(np.where(allowed, weight, -1.0))), weight.shape)
    return Crop(index, slice(int(row), int(row) + sides[0]), slice(int(column), int(column) + sides[1]))


def windows(ground: Ground) -> tuple[Window, ...]:
    """Soft tissue, and lung where there is any; for 1/mm one window over the truth."""
    if ground.truth.quantity != "HU":
        low, high = np.percentile(ground.shown, (1.0, 99.5))
        return (Window("Attenuation", float(low + high) / 2, float(max(high - low, 1e-12))),)
    return (SOFT_TISSUE, LUNG) if ground.tissues["lung"].any() else (SOFT_TISSUE,)


def difference_width(rows: Sequence[Row]) -> float:
    """Width of the window of differences: four times the middle error of the study, rounded up to 1, 2 or 5 · 10ⁿ."""
    errors = [row.estimates["rmse_body"].value for row in rows if "rmse_body" in row.estimates]
    wanted = 4 * float(np.median(errors)) if errors else 0.0
    if not wanted > 0:
        return 1.0
    decade = 10.0 ** np.floor(np.log10(wanted))
    return float(next(m * decade for m in (1, 2, 5, 10) if m * decade >= wanted))


def tiles(results: Results, place: Crop, window: Window) -> list[list[Tile]]:
    """One row for each dose, one picture for each recipe: the first seed's image."""
    return [
        [_image(results, dose, one.name, place, window) for one in results.study.recipes]
        for dose in results.study.doses
    ]


def differences(results: Results, place: Crop, width: float) -> list[list[Tile]]:
    """The mean over seeds minus the truth: what is left when noise is averaged down; blue too low, red too high."""
    truth = place.of(results.ground.shown)
    found = []
    for dose in results.study.doses:
        line = []
        for recipe in results.study.recipes:
            seeds = results.seeds_mean(dose, recipe.name)
            line.append(Tile(None, "no image") if seeds is None else Tile(coloured(place.of(seeds) - truth, width)))
        found.append(line)
    return found


def truth_tile(ground: Ground, place: Crop, window: Window) -> str:
    """The truth in the same crop and window."""
    return png(Plane("axial", place.of(ground.shown), _aspect(ground)), window)


def coloured(plane: Float32, width: float) -> str:
    """A data URI of a difference: white at 0, blue at −width/2, red at +width/2."""
    grey = shown(plane, Window("Difference", 0.0, width)).astype(np.float64) / 255
    stops = np.array(DIVERGING, np.float64)
    colours = np.stack([np.interp(grey, (0.0, 0.5, 1.0), stops[:, channel]) for channel in range(3)], axis=-1)
    buffer = io.BytesIO()
    Image.fromarray(np.rint(colours).astype(np.uint8)).save(buffer, "PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()


def _image(results: Results, dose: float, recipe: str, place: Crop, window: Window) -> Tile:
    cells = results.of(dose, recipe)
    for cell, one in cells:
        if one.failure is None:
            return Tile(png(Plane("axial", place.of(results.image(cell)), _aspect(results.ground)), window))
    failure = cells[0][1].failure
    assert failure is not None
    return Tile(None, f"failed: {failure.message}")


def _aspect(ground: Ground) -> float:
    return ground.spacing_mm[1] / ground.spacing_mm[2]


def _sums(values: Float64, sides: Sequence[int]) -> Float64:
    """Sum over every square that fits, by its first row and column."""
    total = np.pad(values.cumsum(axis=0).cumsum(axis=1), ((1, 0), (1, 0)))
    a, b = sides
    return np.asarray(total[a:, b:] - total[:-a, b:] - total[a:, :-b] + total[:-a, :-b], np.float64)
