"""The observer that searches a lung for nodules: balls, vessels and noise."""

import numpy as np
import pytest

from lampyris.model import InputError
from lampyris.quality.tasks.search import Mark, dot_response, marks, sought

SPACING = (0.6, 0.5, 0.4)
SHAPE = (40, 52, 61)


def places(shape=SHAPE, spacing=SPACING):
    return np.stack(np.meshgrid(*(np.arange(n) * d for n, d in zip(shape, spacing, strict=True)), indexing="ij"))


def blob(centre_mm, width_mm, height_hu):
    offset = places() - np.reshape(centre_mm, (3, 1, 1, 1))
    return (height_hu * np.exp(-0.5 * (offset**2).sum(axis=0) / width_mm**2)).astype(np.float32)


def ball(centre_mm, diameter_mm, height_hu, edge_mm=0.4):
    offset = places() - np.reshape(centre_mm, (3, 1, 1, 1))
    radius = np.sqrt((offset**2).sum(axis=0))
    return (height_hu / (1 + np.exp((radius - diameter_mm / 2) / (edge_mm / 2)))).astype(np.float32)


def vessel(through_mm, direction, diameter_mm, height_hu, edge_mm=0.4):
    along = np.asarray(direction) / np.linalg.norm(direction)
    offset = places() - np.reshape(through_mm, (3, 1, 1, 1))
    away = offset - along[:, None, None, None] * np.einsum("i,i...->...", along, offset)
    radius = np.sqrt((away**2).sum(axis=0))
    return (height_hu / (1 + np.exp((radius - diameter_mm / 2) / (edge_mm / 2)))).astype(np.float32)


def test_the_middle_of_a_gaussian_blob_answers_as_its_closed_form_says():
    """λ = −A·(s²/S²)^1.5·σ²/S² along every axis, S² = s² + σ²: the response is |λ|. The filter's Gaussians are cut at
    4 σ and sampled at 0.4 σ: 1 %."""
    centre, s, height, diameter = (12.0, 13.5, 11.6), 1.7, -37.0, 6.0
    sigma = diameter / 4
    wide = s * s + sigma * sigma
    expected = 37.0 * (s * s / wide) ** 1.5 * sigma * sigma / wide
    index = tuple(round(c / d) for c, d in zip(centre, SPACING, strict=True))
    bright = dot_response(-blob(centre, s, height), SPACING, diameter)
    assert bright[index] == pytest.approx(expected, rel=0.01)
    assert dot_response(blob(centre, s, height), SPACING, diameter)[index] == 0.0


def test_a_vessel_answers_much_less_than_a_ball_of_its_width():
    around = ball((12.0, 13.5, 11.6), 5.0, 700.0)
    long = vessel((12.0, 13.5, 11.6), (1.0, 0.7, -0.4), 5.0, 700.0)
    inner = (slice(12, 28), slice(15, 37), slice(17, 42))  # the ends of the vessel are not in the image's middle
    ratio = dot_response(long, SPACING, 5.0)[inner].max() / dot_response(around, SPACING, 5.0)[inner].max()
    assert ratio < 0.02


def test_nodules_are_found_first_and_where_they_are():
    nodules = (((7.0, 8.0, 8.4), 4.0), ((14.4, 17.0, 16.0), 6.0))
    image = np.full(SHAPE, -850.0, np.float32) + vessel((12.0, 6.0, 20.0), (1.0, 0.1, 0.2), 3.0, 600.0)
    for centre, size in nodules:
        image += ball(centre, size, 700.0)
    image += np.random.default_rng(3).normal(0, 40, SHAPE).astype(np.float32)
    found = marks(image, np.ones(SHAPE, np.bool_), SPACING)
    assert [one.false_marks_above for one in sought(found, nodules)] == [0, 0]
    assert found[0].place_mm == pytest.approx(nodules[1][0], abs=0.8)


def test_a_faint_nodule_in_noise_is_behind_false_marks_or_not_found():
    centre = (14.4, 17.0, 16.0)
    image = np.random.default_rng(4).normal(-850, 200, SHAPE).astype(np.float32) + ball(centre, 4.0, 30.0)
    (one,) = sought(marks(image, np.ones(SHAPE, np.bool_), SPACING), [(centre, 4.0)])
    assert one.false_marks_above > 5


def test_only_the_lung_is_searched():
    image = np.full(SHAPE, -850.0, np.float32) + ball((7.0, 8.0, 8.4), 4.0, 700.0)
    lung = np.ones(SHAPE, np.bool_)
    lung[:, :26] = False
    assert all(one.place_mm[1] >= 26 * SPACING[1] for one in marks(image, lung, SPACING))


def test_one_nodule_has_one_mark():
    image = np.full(SHAPE, -850.0, np.float32) + ball((12.0, 13.5, 11.6), 8.0, 700.0)
    strong = [one for one in marks(image, np.ones(SHAPE, np.bool_), SPACING) if one.score_hu > 50]
    assert len(strong) == 1


def test_marks_within_a_nodule_count_for_it_and_all_others_are_false():
    found = (Mark((0.0, 0.0, 9.0), 90.0, 4.0), Mark((1.0, 0.0, 0.0), 80.0, 4.0), Mark((0.0, 0.0, 0.0), 70.0, 6.0))
    first, second = sought(found, [((0.0, 0.5, 0.0), 4.0), ((20.0, 0.0, 0.0), 6.0)])
    assert (first.score_hu, first.false_marks_above) == (80.0, 1)
    assert (second.score_hu, second.false_marks_above) == (None, 1)


@pytest.mark.parametrize("broken", ["shape", "nan", "empty"])
def test_what_cannot_be_searched_is_refused(broken):
    image, lung = np.zeros(SHAPE, np.float32), np.ones(SHAPE, np.bool_)
    if broken == "shape":
        lung = lung[1:]
    elif broken == "nan":
        image[3, 4, 5] = np.nan
    else:
        lung[:] = False
    with pytest.raises(InputError):
        marks(image, lung, SPACING)
