"""The page: windows, orientation of its pictures, every figure in its table, nothing loaded from elsewhere."""

import base64
import io
import re

import numpy as np
import pytest
from PIL import Image

from lampyris.model import (
    Acquisition,
    Applied,
    Assessment,
    Curve,
    Figure,
    Grid,
    Recipe,
    Step,
    StorageError,
    Volume,
)
from lampyris.report import Column, write_page
from lampyris.report.page import number
from lampyris.report.pictures import LUNG, SOFT_TISSUE, Window, planes, png, shown, windows_for


@pytest.fixture
def volume():
    """9 slices of 2 mm, 5 × 7 pixels of 1 × 0.5 mm; bright at the top slice, the first row and the last column."""
    values = np.full((9, 5, 7), -1000.0, np.float32)
    values[8, 0, 6] = 40.0
    values[8, 2, 3] = 140.0
    return Volume(values, Grid.centred((9, 5, 7), (2.0, 1.0, 0.5)), "HU")


@pytest.fixture
def column(volume):
    figures = (
        Figure("noise_sd", 12.345, "HU"),
        Figure("ssde", 4.5, "mGy", "estimated"),
        Figure("odd", float("nan"), "1"),
    )
    curve = Curve("nps", (0.0, 0.5, 1.0), (0.0, 7.0, 1.0), "1/mm", "HU²mm²")
    recipe = Recipe("routine", "3", "words", (), Step.of("auto"), "body")
    assessment = Assessment(figures, (curve,), "look", ("noise_sd 12.3 HU above 10 <HU>",))
    history = (Applied.of("log", floor=0.5),)
    return Column(
        "full dose", volume, assessment, recipe, Acquisition(), history, (("correct", 1.5),), "full", (9, 2, 3), "fbp"
    )


def test_window_ends_are_black_and_white():
    assert shown(np.array([[-160.0, 40.0, 240.0, 9e9, -9e9]]), SOFT_TISSUE).tolist() == [[0, 128, 255, 255, 0]]
    assert LUNG.centre - LUNG.width / 2 == -1350


def test_coronal_picture_has_the_head_up_and_the_left_on_the_right(volume):
    coronal = next(plane for plane in planes(volume) if plane.name == "coronal")
    assert coronal.values[0, 3] == 140.0
    assert coronal.aspect == pytest.approx(4.0)


def test_picture_has_square_pixels(volume):
    data = png(planes(volume)[1], SOFT_TISSUE).split(",")[1]
    assert Image.open(io.BytesIO(base64.b64decode(data))).size == (7, 36)


def test_image_without_hu_gets_one_window_of_its_own(volume, rng):
    values = rng.uniform(0, 0.03, volume.values.shape).astype(np.float32)
    (window,) = windows_for(Volume(values, volume.grid, "1/mm"))
    assert isinstance(window, Window)
    assert 0.02 < window.width < 0.03


@pytest.mark.parametrize(
    ("value", "text"), [(None, "–"), (float("nan"), "not measurable"), (0.0123456, "0.01235"), (-1000.4, "-1000")]
)
def test_numbers_are_written_for_people(value, text):
    assert number(value) == text


def test_page_shows_every_figure_and_reason_and_loads_nothing(column, tmp_path):
    write_page(tmp_path / "report.html", "A <title>", "phantom", [column, column])
    text = (tmp_path / "report.html").read_text("utf-8")
    for expected in (
        "noise sd",
        "12.35",
        "ssde",
        "estimated",
        "not measurable",
        "above 10 &lt;HU&gt;",
        "A &lt;title&gt;",
    ):
        assert expected in text
    assert column.recipe.digest() in text
    assert text.count('src="data:image/png') == 2 * 2 * 3
    assert not re.search(r"(src|href)=\"(?!data:)", text)
    assert text.count('src="data:image/svg+xml') == 1


def test_page_that_cannot_be_written_leaves_nothing(column, tmp_path):
    place = tmp_path / "report.html"
    place.mkdir()
    with pytest.raises(StorageError, match=r"report\.html"):
        write_page(place, "t", "s", [column])
    assert [entry.name for entry in tmp_path.iterdir()] == ["report.html"]
