"""Slices of a helix that its first views determine: the same bits whatever comes after them, made before it comes."""

from dataclasses import replace

import numpy as np
import pytest

from lampyris.model import Gantry, Geometry, GridRequest, Orbit, Projections, Step
from lampyris.phantom.assembly import line_integrals
from lampyris.phantom.shapes import Cylinder, Ellipsoid
from lampyris.recon import ahead, noise_ahead, reconstruct, why_not_ahead
from lampyris.recon.analytic import filtering, helical
from lampyris.recon.field import measured_reach
from lampyris.recon.noise import BATCH_VIEWS, deviation, shaken, shaken_above, shaken_views

WATER = 0.0193
BODY = (
    (Cylinder((9.0, 0.0, -6.0), (62.0, 51.0), 600.0), WATER),
    (Ellipsoid((21.0, 4.0, 14.0), (11.0, 23.0, 9.0)), 0.25 * WATER),
)
AUTO = Step("auto")
PLANNED = GridRequest(
    44, field_of_view_mm=143.0, centre_mm=(7.0, -4.0), slice_thickness_mm=1.3, first_mm=-24.7, last_mm=31.2
)


def helix(*, sense=1, table=1, spots=1):
    gantry = Gantry(541.0, 949.0, 8, 131, (1.7, 3.1), True, 3.3, 65.25)
    per_turn, turns = 120 * spots, 11
    views = turns * per_turn
    travel = table * 0.9 * gantry.collimation_mm * (np.arange(views) - (views - 1) / 2) / per_turn
    shift = None
    if spots == 2:
        from lampyris.model import FocalSpotShift

        shift = FocalSpotShift.alternating(views, axial_mm=(-0.35, 0.35))
    angle = 23.0 + sense * 360.0 * np.arange(views) / per_turn
    return Geometry.circular(gantry, angle, axial_mm=5.0 + travel, shift=shift)


def scan_of(geometry):
    integrals = np.zeros(geometry.shape, np.float32)
    for shape, per_mm in BODY:
        integrals += line_integrals(shape, geometry, per_mm)
    integrals += np.random.default_rng(4).normal(0, 0.01, integrals.shape).astype(np.float32)
    return Projections(integrals, np.broadcast_to(np.float32(1), integrals.shape), geometry, water_per_mm=WATER)


@pytest.fixture(autouse=True)
def fine(monkeypatch):
    """Groups and slabs as small beside this scan as they are beside a patient's."""
    monkeypatch.setattr(filtering, "CHUNK_BYTES", 4 * 288 * 8 * 20)
    monkeypatch.setattr(helical, "THICKEST_SLAB", 9)


SCANS = {
    "table in": helix(),
    "gantry backwards, table out": helix(sense=-1, table=-1),
    "spot flying in z": helix(spots=2),
}


@pytest.fixture(params=SCANS, scope="module")
def scan(request):
    return scan_of(SCANS[request.param])


def slabs_of(scan, grid=PLANNED):
    return helical.settled(Orbit.of(scan.geometry), grid, measured_reach(scan.geometry))


def until(scan, views):
    """The scan with nothing known from view `views` on."""
    integrals = scan.integrals.copy()
    integrals[views:] = np.nan
    return replace(scan, integrals=integrals)


def test_slabs_are_settled_one_after_the_other_as_views_come(scan):
    found = slabs_of(scan)
    views = [one.views for one in found]
    known = [count for count in views if count is not None]
    assert len(known) >= 4
    assert views[0] is None or views[-1] is None or len(known) < len(found) or known[-1] <= scan.geometry.views
    assert known == sorted(known, reverse=known[0] > known[-1])
    assert len(set(known)) == len(known)
    assert min(known) < 0.6 * scan.geometry.views, "the first slab has to wait for little more than its own turns"
    assert (found[0].start, found[-1].stop) == (0, 44)
    assert [one.start for one in found[1:]] == [one.stop for one in found[:-1]]


def test_what_comes_after_its_views_does_not_move_a_slab_by_a_bit_and_what_belongs_to_them_does(scan):
    whole = reconstruct(scan, AUTO, "hann", PLANNED)
    slabs = [one for one in slabs_of(scan) if one.views is not None]
    slab = min(slabs, key=lambda one: one.views)
    other = scan.integrals.copy()
    other[slab.views :] *= np.float32(0.9)
    moved = reconstruct(replace(scan, integrals=other), AUTO, "hann", PLANNED)
    inside = slice(slab.start, slab.stop)
    np.testing.assert_array_equal(moved.values[inside], whole.values[inside])
    assert not np.array_equal(moved.values, whole.values)
    other[slab.views - 160 :] = scan.integrals[slab.views - 160 :] * np.float32(0.9)
    moved = reconstruct(replace(scan, integrals=other), AUTO, "hann", PLANNED)
    assert not np.array_equal(moved.values[inside], whole.values[inside])


@pytest.mark.parametrize("share", [0.3, 0.61, 0.9, 1.0])
def test_the_image_is_the_same_to_the_last_bit_with_slabs_made_beforehand(scan, share, kept):
    whole = reconstruct(scan, AUTO, "hann", PLANNED)
    shelf, views = kept(), int(share * scan.geometry.views)
    made = list(ahead(lambda: until(scan, views), scan.geometry, (AUTO, "hann", PLANNED), (0, views), shelf))
    due = [(one.start, one.stop) for one in slabs_of(scan) if one.views is not None and one.views <= views]
    assert made == due
    assert len(made) == len(shelf) == len(due)
    again = reconstruct(scan, AUTO, "hann", PLANNED, shelf=shelf)
    assert shelf.taken == len(made)
    np.testing.assert_array_equal(again.values, whole.values)
    np.testing.assert_array_equal(again.valid, whole.valid)
    assert again.grid == whole.grid or np.array_equal(again.grid.first_voxel_mm, whole.grid.first_voxel_mm)
    assert share < 0.9 or len(made) >= 4


def test_going_on_makes_only_what_is_new(scan, kept):
    shelf, total = kept(), scan.geometry.views
    how = (AUTO, "hann", PLANNED)
    first = list(ahead(lambda: until(scan, total // 2), scan.geometry, how, (0, total // 2), shelf))
    second = list(ahead(lambda: scan, scan.geometry, how, (0, total), shelf))
    assert set(first).isdisjoint(second)
    assert len(second) > 0
    assert list(ahead(lambda: pytest.fail("nothing is left to make"), scan.geometry, how, (total, total), shelf)) == []


def test_a_body_that_leaves_the_detector_later_is_no_hit(scan, kept):
    """Rows of a truncated body are continued beyond the detector, in all views: what was made without that is left."""
    views = scan.geometry.views
    shelf = kept()
    list(ahead(lambda: until(scan, views // 2), scan.geometry, (AUTO, "hann", PLANNED), (0, views // 2), shelf))
    assert len(shelf) > 0
    wide = scan.integrals.copy()
    wide[views // 2 :, :, :6] = 2.0
    wider = replace(scan, integrals=wide)
    again = reconstruct(wider, AUTO, "hann", PLANNED, shelf=shelf)
    assert shelf.taken == 0
    np.testing.assert_array_equal(again.values, reconstruct(wider, AUTO, "hann", PLANNED).values)


def test_the_noise_that_is_told_is_the_same_with_points_made_beforehand(scan, kept):
    image = reconstruct(scan, AUTO, "hann", PLANNED)
    shelf, views = kept(), int(0.8 * scan.geometry.views)
    made = list(noise_ahead(lambda: until(scan, views), scan.geometry, (AUTO, "hann", PLANNED), (0, views), shelf))
    assert len(made) >= 2
    told = [
        deviation(scan, AUTO, "hann", PLANNED, image.grid, reconstruct=reconstruct, image=image, shelf=each)
        for each in (None, shelf)
    ]
    assert shelf.taken == len(made)
    np.testing.assert_array_equal(told[0], told[1])


def test_shaken_views_are_determined_as_far_as_is_said(scan, kept):
    """NaN from view n on reaches as far back as the fourth difference and its bounds do, and not further."""
    geometry = scan.geometry
    for views in (1, 70, BATCH_VIEWS + 5, 400, geometry.views - 1, geometry.views):
        known = np.isfinite(shaken(until(scan, views)).integrals).all(axis=(1, 2))
        settled = shaken_views(views, geometry)
        assert known[:settled].all()
        asked = kept()
        if settled:
            shaken_above(asked, geometry).keep("points", settled, {})
            ((_, below),) = asked
            assert below <= views
    assert shaken_views(geometry.views, geometry) == geometry.views


def test_it_is_said_why_no_slice_can_be_early(scan):
    free = replace(PLANNED, first_mm=None)
    resting = Geometry.circular(Gantry(541.0, 949.0, 8, 131, (1.7, 3.1), True, 3.3, 65.25), np.arange(0.0, 360.0, 3.0))
    assert why_not_ahead(scan.geometry, AUTO, PLANNED) is None
    assert "did not plan" in why_not_ahead(scan.geometry, AUTO, free)
    assert "at rest" in why_not_ahead(resting, AUTO, PLANNED)
    assert "whole scan" in why_not_ahead(scan.geometry, Step.of("pwls"), PLANNED)
    assert slabs_of(scan, free) == []
