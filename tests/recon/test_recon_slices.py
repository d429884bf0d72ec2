"""Slices: where they lie, how thick they are, and what is refused."""

from dataclasses import replace

import array_api_strict
import numpy as np
import pytest

from lampyris.model import CardFullError, GridRequest, InputError, silent
from lampyris.projector.cuda import memory as card_memory
from lampyris.projector.engine import HOST, Card
from lampyris.recon.field import Field
from lampyris.recon.slices import Coverage, average_slabs, box_taps, box_width, plan_slices

ALL = Coverage((-20.3, 31.7), (-25.0, 36.0))


def test_by_default_the_slices_fill_what_is_fully_measured():
    plan = plan_slices(GridRequest(slice_thickness_mm=2.0), 0.6, ALL)
    box = box_width(2.0, 0.6)  # more than a row
    last = plan.first_mm + (plan.slices - 1) * plan.increment_mm
    assert plan.increment_mm == 2.0
    assert plan.first_mm - box / 2 >= -20.3
    assert last + box / 2 <= 31.7
    assert plan.first_mm - box / 2 + 20.3 < 2.0  # no further slice would fit
    assert (plan.first_mm + last) / 2 == pytest.approx((-20.3 + 31.7) / 2)


def test_first_last_and_increment_are_taken_as_asked():
    request = GridRequest(slice_thickness_mm=3.0, slice_increment_mm=1.25, first_mm=-7.5, last_mm=10.1)
    plan = plan_slices(request, 0.6, ALL)
    assert (plan.first_mm, plan.increment_mm, plan.slices) == (-7.5, 1.25, 15)
    grid = plan.grid(Field((3.0, -4.0), 100.0, 8))
    np.testing.assert_allclose(grid.position_mm((0, 3.5, 3.5)), [3.0, -7.5, -4.0])
    np.testing.assert_allclose(grid.position_mm((14, 3.5, 3.5)), [3.0, 10.0, -4.0])


def test_thin_slices_lie_under_their_slice():
    """Slice i is the mean of thin slices i·stride … about its own place."""
    plan = plan_slices(GridRequest(slice_thickness_mm=3.0, slice_increment_mm=1.25, first_mm=-7.5), 0.6, ALL)
    places = plan.thin_first_mm + (4 * plan.stride + np.arange(len(plan.taps))) * plan.thin_step_mm
    assert plan.thin_step_mm <= 0.6 * 1.001 + 0.03
    assert plan.taps @ places == pytest.approx(-7.5 + 4 * 1.25)
    assert plan.taps.sum() == pytest.approx(1.0)


@pytest.mark.parametrize("thickness", [0.8, 1.0, 2.0, 5.0])
def test_the_profile_is_as_wide_as_the_slice_is_thick(thickness):
    """Box ∗ quadratic B-spline (three boxes of a row), convolved here on a fine raster: FWHM is the thickness."""
    row, fine = 0.6, 0.001
    one = np.ones(round(row / fine)) * fine / row
    profile = np.convolve(np.convolve(one, one), one)
    box = np.ones(round(box_width(thickness, row) / fine))
    profile = np.convolve(profile, box)
    width = (profile > profile.max() / 2).sum() * fine
    assert width == pytest.approx(thickness, abs=0.004)


def test_a_row_thick_slice_is_native():
    assert box_width(0.6, 0.6) == 0.0
    assert box_taps(0.0, 0.3).tolist() == [1.0]


def test_a_box_is_shared_by_overlap():
    """2.5 mm over samples 1 mm apart: 0.75, 1, 0.75."""
    np.testing.assert_allclose(box_taps(2.5, 1.0), np.array([0.75, 1.0, 0.75]) / 2.5)


def test_thinner_than_a_row_is_refused():
    with pytest.raises(InputError, match=r"slices of 0\.5 mm asked for, but a detector row is 0\.6 mm"):
        plan_slices(GridRequest(slice_thickness_mm=0.5), 0.6, ALL)


@pytest.mark.parametrize(("first", "last"), [(-26.0, 0.0), (0.0, 37.5), (5.0, -5.0)])
def test_slices_outside_the_scan_are_refused_with_the_numbers(first, last):
    with pytest.raises(InputError, match=r"can be reconstructed from -24\.70 to 35\.70 mm"):
        plan_slices(GridRequest(slice_thickness_mm=0.6, first_mm=first, last_mm=last), 0.6, ALL)


def test_a_slice_thicker_than_the_scan_is_refused():
    with pytest.raises(InputError, match=r"covers only -25\.00 … 36\.00 mm"):
        plan_slices(GridRequest(slice_thickness_mm=70.0), 0.6, ALL)


def test_averaging_goes_slab_by_slab_to_the_same_end(monkeypatch):
    """A volume that is y² everywhere: its mean over a slice is y² plus the taps' variance."""
    plan = plan_slices(GridRequest(slice_thickness_mm=3.0, slice_increment_mm=2.0), 0.6, ALL)
    field = Field((0.0, 0.0), 10.0, 2)

    def parabola(grid, progress):
        progress(0.5)
        y = grid.position_mm(np.stack([np.arange(grid.shape[0]), np.zeros(grid.shape[0]), np.zeros(grid.shape[0])], 1))
        return np.broadcast_to((y[:, 1] ** 2)[:, None, None], grid.shape).astype(np.float32)

    done = []
    whole = average_slabs(plan, field, parabola, done.append)
    monkeypatch.setattr("lampyris.recon.slices.SLAB_BYTES", 4 * 4 * 20)
    parts = average_slabs(plan, field, parabola, done.append, most=7)
    np.testing.assert_allclose(parts, whole, rtol=1e-6)
    offsets = (np.arange(len(plan.taps)) - (len(plan.taps) - 1) / 2) * plan.thin_step_mm
    y = plan.first_mm + np.arange(plan.slices) * 2.0
    np.testing.assert_allclose(whole[:, 0, 1], y**2 + plan.taps @ offsets**2, rtol=1e-5)
    assert done[:2] == [0.5, 1.0]
    assert done[-1] == 1.0
    assert np.all(np.diff(done[2:]) > 0)


class Full:
    """A card that holds so many thin slices."""

    def __init__(self, slices, monkeypatch):
        self.slices, self.asked = slices, []
        monkeypatch.setattr(card_memory, "SIMULATED", True)
        monkeypatch.setattr(card_memory, "card", lambda: Card("small", (9, 0), 1 << 30, 1 << 20, True))
        self.memory = replace(HOST, in_parts=card_memory.in_parts)

    def thin(self, grid, _progress):
        self.asked.append(grid.shape[0])
        if grid.shape[0] > self.slices:
            raise MemoryError
        height = grid.position_mm(np.stack([np.arange(grid.shape[0]), *2 * [np.zeros(grid.shape[0])]], 1))[:, 1]
        return np.broadcast_to(height[:, None, None], grid.shape).astype(np.float32)


def test_a_full_card_makes_a_slab_in_halves_of_the_same_slices(monkeypatch):
    plan = plan_slices(GridRequest(slice_thickness_mm=3.0, slice_increment_mm=2.0), 0.6, ALL)
    field, roomy, small = Field((0.0, 0.0), 10.0, 3), Full(1000, monkeypatch), Full(30, monkeypatch)
    whole = average_slabs(plan, field, roomy.thin, silent, memory=roomy.memory)
    parts = average_slabs(plan, field, small.thin, silent, memory=small.memory)
    np.testing.assert_allclose(parts, whole, rtol=1e-5, atol=1e-5)
    assert sum(asked > 30 for asked in small.asked) > 1
    assert len(roomy.asked) == 1


def test_a_card_that_does_not_hold_one_slice_refuses_with_the_slices(monkeypatch):
    plan, small = plan_slices(GridRequest(slice_thickness_mm=3.0), 0.6, ALL), Full(2, monkeypatch)
    with pytest.raises(CardFullError, match=r"slices 0 to \d+ of \d+, 1 of \d+ at a time: the card is full"):
        average_slabs(plan, Field((0.0, 0.0), 10.0, 3), small.thin, silent, memory=small.memory)


def test_the_strict_array_api_averages_alike(monkeypatch, rng):
    """Slices that come in an array of another library are averaged there and come down once."""
    plan = plan_slices(GridRequest(slice_thickness_mm=3.0, slice_increment_mm=2.0), 0.6, ALL)
    thin = rng.random((plan.thin_slices, 3, 3), dtype=np.float32)
    field, down = Field((0.0, 0.0), 10.0, 3), []

    def to_host(array):
        down.append(type(array))
        return np.asarray(array)

    expected = average_slabs(plan, field, lambda _grid, _progress: thin, silent)
    there = replace(HOST, down=to_host)
    found = average_slabs(plan, field, lambda _grid, _progress: array_api_strict.asarray(thin), silent, memory=there)
    np.testing.assert_allclose(found, expected, rtol=1e-6)
    assert down == [type(array_api_strict.asarray(thin))]
