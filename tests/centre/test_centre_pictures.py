"""Pictures of a series: what is left of the patient stands at the letter L, whatever lay how on the table."""

import io
from datetime import UTC, datetime
from xml.etree import ElementTree

import numpy as np
import pytest
from PIL import Image

from lampyris.centre.study import curves, cuts, pictures
from lampyris.centre.study.pictures import SIZE, WINDOWS, Canvas, Window
from lampyris.dicom import Provenance, write_series
from lampyris.model import Acquisition, Curve, Grid, InputError, Study, Volume
from lampyris.model.volume import PATIENT_POSITIONS, patient_axes
from lampyris.report import pictures as report

SPACING = (2.5, 0.8, 0.8)
SHAPE = (11, 40, 48)
SIDES = {"L": (1, 0, 0), "R": (-1, 0, 0), "P": (0, 1, 0), "A": (0, -1, 0), "H": (0, 0, 1), "F": (0, 0, -1)}


def written(folder, position: str, side: str):
    """A series of a box of water with something dense at one side of the patient; its files and UID."""
    grid = Grid.centred(SHAPE, SPACING, (3.0, 40.0, -2.0))
    towards = np.asarray(SIDES[side], float) @ patient_axes(position)
    places = grid.position_mm(np.moveaxis(np.indices(SHAPE), 0, -1)) - grid.centre_mm
    values = np.zeros(SHAPE, np.float32)
    values[places @ towards > 0.6 * np.abs(places @ towards).max()] = 1500.0
    volume = Volume(values, grid, "HU", "gantry").place(position, (7.0, -11.0, 300.0))
    provenance = Provenance("5ca1", Acquisition(PatientPosition=position))
    files = write_series(volume, folder, study=Study(), provenance=provenance, now=datetime(2026, 11, 22, tzinfo=UTC))
    from pydicom import dcmread

    return files, dcmread(files[0]).SeriesInstanceUID


@pytest.mark.parametrize("position", PATIENT_POSITIONS)
@pytest.mark.parametrize(("side", "plane"), [("L", "axial"), ("A", "axial"), ("H", "coronal"), ("R", "coronal"),
                                             ("A", "sagittal"), ("F", "sagittal")])  # fmt: skip
def test_what_is_at_a_side_of_the_patient_stands_at_its_letter(tmp_path, position, side, plane):
    cut = cuts.cut(cuts.volume_of(*written(tmp_path / "series", position, side)), plane)
    rows, columns = cut.values.shape
    dense = cut.values > 1000
    thirds = (
        dense[:, : columns // 4].mean(), dense[:, -(columns // 4) :].mean(), dense[: rows // 4].mean(),
        dense[-(rows // 4) :].mean(),
    )  # fmt: skip
    assert cut.letters[int(np.argmax(thirds))] == side
    assert cut.letters == {"axial": ("R", "L", "A", "P"), "coronal": ("R", "L", "H", "F"),
                           "sagittal": ("A", "P", "H", "F")}[plane]  # fmt: skip


def test_one_file_gives_the_slice_that_the_whole_series_has_there(tmp_path):
    files, uid = written(tmp_path / "series", "FFP", "A")
    whole, one = cuts.volume_of(files, uid), cuts.cut(cuts.volume_of(files[4:5], uid), "axial")
    same = cuts.cut(whole, "axial", one.at_mm)
    assert one.at_mm == pytest.approx(same.at_mm, abs=1e-3)
    np.testing.assert_array_equal(one.values, same.values)
    assert cuts.planes_of(whole) == cuts.PLANES
    assert cuts.planes_of(cuts.volume_of(files[:1], uid)) == ("axial",)
    with pytest.raises(InputError, match="no plane 'oblique'"):
        cuts.cut(whole, "oblique")


def picture(cut, window, canvas=None) -> np.ndarray:
    content = pictures.grey(cut, window, canvas or pictures.canvas_of(cut))
    return np.asarray(Image.open(io.BytesIO(content)), np.float64)


def flat(values: np.ndarray) -> cuts.Cut:
    axes = np.array([[1.0, 0.0, 0.0], [0.0, 1.0, 0.0]])
    return cuts.Cut("axial", values.astype(np.float32), (-40.0, -30.0), (2.0, 2.0), 12.5, axes, "HU")


@pytest.mark.parametrize(("name", "hu", "shown"), [("lung", -600, 128), ("soft", 140, 191), ("bone", -500, 0),
                                                   ("bone", 1300, 255), ("soft", 40, 128)])  # fmt: skip
def test_a_window_is_as_bright_as_it_says(name, hu, shown):
    made = picture(flat(np.full((30, 40), hu)), WINDOWS[name])
    assert made.shape == (SIZE, SIZE)
    middle = made[SIZE // 2 - 60 : SIZE // 2 - 20, SIZE // 2 - 60 : SIZE // 2 + 60]
    assert np.abs(middle - shown).max() <= 1
    assert made[40:60, 200:260].max() == 0  # above the image, which is broader than high


def test_windows_are_those_of_the_report():
    for ours, theirs in ((WINDOWS["lung"], report.LUNG), (WINDOWS["soft"], report.SOFT_TISSUE)):
        assert (ours.centre, ours.width) == (theirs.centre, theirs.width)


def test_a_place_in_the_patient_is_at_one_place_of_a_canvas_whatever_the_matrix():
    """Two series with other pixels and another field of view: a dense stripe from x = 10 to x = 20 mm in both."""
    canvas, found = Canvas((0.0, 0.0), 100.0 / SIZE), []
    for step, first, columns in ((2.0, -39.0, 40), (0.5, -24.75, 100)):
        x = first + step * np.arange(columns)
        values = np.tile(np.where((x > 10) & (x < 20), 400.0, -400.0), (60, 1)).astype(np.float32)
        axes = np.array([[1.0, 0.0, 0.0], [0.0, 1.0, 0.0]])
        cut = cuts.Cut("axial", values, (first, -29.5), (step, 1.0), 0.0, axes, "HU")
        row = picture(cut, Window(0.0, 100.0), canvas)[SIZE // 2 - 100]
        found.append(np.flatnonzero(row > 128)[[0, -1]] * canvas.pixel_mm - 50.0)
    np.testing.assert_allclose(found[0], [10.0, 20.0], atol=1.1)  # half a coarse pixel, and one of the canvas
    np.testing.assert_allclose(found[1], [10.0, 20.0], atol=0.5)


def test_a_map_is_in_colours_with_a_bar_and_a_bias_is_white_where_there_is_none():
    content = pictures.coloured(flat(np.zeros((30, 40))), (-4.0, 4.0), "HU")
    made = np.asarray(Image.open(io.BytesIO(content)))
    assert made.shape[1] > SIZE
    assert made[SIZE // 2 - 60, SIZE // 2 - 60].tolist() == [0xF7, 0xF7, 0xF7]
    grid = Grid((1, 4, 5), (1.0, 1.0, 1.0), np.zeros(3))
    noise = Volume(np.full((1, 4, 5), 3.0, np.float32), grid, "HU", "patient")
    assert pictures.bounds_of(noise) == (0.0, 3.0)


def test_a_plot_is_sound_xml_whose_line_ends_where_the_curve_does():
    curve = Curve("nps", (0.0, 0.25, 0.5), (0.0, 8.0, 4.0), "1/mm", "HU² mm²")
    text = curves.svg([("swift <1>", curve), ("routine", curve)], curves.Axes("噪声", "1/mm", "HU² & mm²"))
    root = ElementTree.fromstring(text)
    assert "style=" not in text
    lines = [each.get("points").split() for each in root.iter("{http://www.w3.org/2000/svg}polyline")]
    assert len(lines) == 2
    (x0, y0), (_, top), (x1, y1) = (tuple(map(float, point.split(","))) for point in lines[0])
    assert (x0, x1) == (76.0, 560.0 - 16.0)
    assert y0 == 340.0 - 56.0
    assert y1 == pytest.approx((y0 + top) / 2, abs=0.02)
    assert "swift <1>" in "".join(root.itertext())
