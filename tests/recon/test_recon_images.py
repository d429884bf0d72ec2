"""Images of closed-form bodies: HU, places and evenness, from every kind of circular scan."""

import numpy as np
import pytest

from lampyris.model import Gantry, Geometry, GridRequest, Projections, Step
from lampyris.phantom.assembly import line_integrals
from lampyris.phantom.shapes import Cylinder, Ellipsoid, Gaussian
from lampyris.recon import reconstruct

WATER = 0.0193
BODY = (
    (Cylinder((9.0, 0.0, -6.0), (62.0, 51.0), 400.0), WATER),
    (Cylinder((31.0, 0.0, 14.0), (9.0, 9.0), 400.0), 0.25 * WATER),
    (Cylinder((-22.0, 0.0, -29.0), (7.0, 7.0), 400.0), -WATER),
)
"""An off-centre elliptic trunk, an insert of +250 HU right above and one of air left below."""


def scan(geometry, parts=BODY, water=WATER):
    integrals = np.zeros(geometry.shape, np.float32)
    for shape, per_mm in parts:
        integrals += line_integrals(shape, geometry, per_mm)
    return Projections(integrals, np.broadcast_to(np.float32(1), integrals.shape), geometry, water_per_mm=water)


def mean_at(volume, x, z, radius, y=None):
    """Mean of a disc in one slice (the middle one)."""
    grid = volume.grid
    slice_, row, column = grid.index((x, grid.centre_mm[1] if y is None else y, z))
    rows, columns = np.mgrid[: grid.shape[1], : grid.shape[2]]
    inside = np.hypot((rows - row) * grid.spacing_mm[1], (columns - column) * grid.spacing_mm[2]) < radius
    return float(volume.values[round(float(slice_))][inside].mean())


def heights(volume):
    """y of every slice."""
    slices = np.arange(volume.grid.shape[0])
    return volume.grid.position_mm(np.stack([slices, 0 * slices, 0 * slices], 1))[:, 1]


def check(volume):
    """Water within 1 HU at five places (the issue asks 4), inserts within 2 HU of truth, air outside."""
    assert volume.quantity == "HU"
    for x, z in ((9, -6), (60, -6), (-45, -6), (9, 34), (0, -48)):
        assert mean_at(volume, x, z, 4.0) == pytest.approx(0.0, abs=1.0)
    assert mean_at(volume, 31, 14, 5.5) == pytest.approx(250.0, abs=2.0)
    assert mean_at(volume, -22, -29, 3.5) == pytest.approx(-1000.0, abs=2.0)
    assert mean_at(volume, 9, 52, 2.0) == pytest.approx(-1000.0, abs=12.0)


CURVED = Gantry(541.0, 949.0, 1, 271, (1.7, 1.45), True, None, 135.25)
FLAT = Gantry(541.0, 949.0, 1, 271, (1.7, 1.45), False, None, 133.0)
HALF = Gantry(541.0, 949.0, 1, 181, (1.7, 1.45), False, None, 45.25)
CIRCLES = {
    "half turn of parallel rays": Geometry.parallel_beam(
        7.0 + np.arange(300) * 0.6, rows=1, columns=181, cell_mm=(1.0, 0.83), central_column=87.3
    ),
    "full turn of parallel rays, backwards": Geometry.parallel_beam(
        7.0 - np.arange(400) * 0.9, rows=1, columns=181, cell_mm=(1.0, 0.83), central_column=90.25
    ),
    "parallel rays, axis near the edge": Geometry.parallel_beam(
        7.0 + np.arange(400) * 0.9, rows=1, columns=121, cell_mm=(1.0, 0.83), central_column=30.25
    ),
    "fan, full turn": Geometry.circular(CURVED, 23.0 + np.arange(400) * 0.9),
    "fan, more than a turn": Geometry.circular(CURVED, 23.0 + np.arange(500) * 0.9),
    "fan, short scan": Geometry.circular(CURVED, 23.0 + np.arange(240) * 0.9),
    "fan, over-scan, backwards": Geometry.circular(CURVED, 23.0 - np.arange(300) * 0.9),
    "flat fan, full turn": Geometry.circular(FLAT, 23.0 + np.arange(400) * 0.9),
    "flat fan, short scan, backwards": Geometry.circular(FLAT, 23.0 - np.arange(240) * 0.9),
    "flat fan, displaced detector": Geometry.circular(HALF, 23.0 + np.arange(400) * 0.9),
}  # fmt: skip


@pytest.mark.parametrize("name", CIRCLES)
def test_water_is_zero_hu_and_inserts_are_true_in_the_plane(name):
    geometry = CIRCLES[name]
    thickness = 1.0 if geometry.parallel else 1.7 * 541 / 949
    check(reconstruct(scan(geometry), Step.of("auto"), "hann", GridRequest(176, slice_thickness_mm=thickness)))


def cone(curved, views=400, axial=13.0):
    gantry = Gantry(541.0, 949.0, 16, 271, (1.7, 1.45), curved, 7.2, 135.25)
    return Geometry.circular(gantry, 23.0 + np.arange(views) * 0.9, axial_mm=axial)


@pytest.mark.parametrize(("curved", "views"), [(True, 400), (False, 400), (True, 240)])
def test_a_cone_beam_gives_the_same_in_every_slice(curved, views):
    """A body that does not change along y is exact in every slice: no drift, wherever the cone meets it."""
    volume = reconstruct(scan(cone(curved, views)), Step.of("auto"), "hann", GridRequest(128, slice_thickness_mm=1.0))
    check(volume)
    assert np.ptp(volume.values[:, 60:70, 60:70].mean((1, 2))) < 0.5
    assert volume.grid.centre_mm[1] == pytest.approx(13.0 + 0.3 * 1.7 * 541 / 949, abs=0.6)


def test_edge_slices_that_some_views_miss_are_continued():
    """The outermost slice on the axis, beyond the cone at the rim: rows are repeated, exact for this body."""
    request = GridRequest(128, slice_thickness_mm=1.0, first_mm=6.6, last_mm=6.7)
    assert cone(True).rows * 1.7 * 541 / 949 / 2 > 13.0 - 6.6
    check(reconstruct(scan(cone(True)), Step.of("fdk"), "hann", request))


def test_right_is_right_up_is_up_and_in_is_in():
    """Three unequal blobs: their centres of mass are where they were put, to a tenth of a millimetre, on every axis.

    An image mirrored or turned in any way would be off by centimetres, one shifted by half a cell by 0.4 mm.
    """
    places = [(33.0, 11.0, 12.0), (-25.0, 14.5, 31.0), (8.0, 15.0, -38.0)]
    blobs = [(Gaussian(place, (3.0, 1.5, 3.5), 1.0), 0.01 * (i + 2)) for i, place in enumerate(places)]
    request = GridRequest(128, field_of_view_mm=120.0, slice_thickness_mm=0.97, slice_increment_mm=0.5)
    for curved in (True, False):
        volume = reconstruct(scan(cone(curved), blobs), Step.of("fdk"), "hann", request)
        attenuation = (volume.values.astype(np.float64) / 1000 + 1) * WATER
        index = np.stack(np.meshgrid(*(np.arange(n) for n in volume.grid.shape), indexing="ij"), -1)
        position = volume.grid.position_mm(index)
        for i, place in enumerate(places):
            near = (np.abs(position - np.array(place)) < (12.0, 3.6, 12.0)).all(-1)
            weight = np.where(near, attenuation, 0)
            weight[weight < 0.1 * weight.max()] = 0
            centre = (position * weight[..., None]).sum((0, 1, 2)) / weight.sum()
            np.testing.assert_allclose(centre[[0, 2]], np.array(place)[[0, 2]], atol=0.1)
            assert centre[1] == pytest.approx(place[1], abs=0.25)  # cut by the last slice
            assert attenuation[near].max() == pytest.approx(0.01 * (i + 2), rel=0.25)


@pytest.mark.parametrize("beam", ["parallel", "fan", "flat fan"])
def test_a_disc_has_its_attenuation_to_a_thousandth(beam):
    """Normalisation is exact: mean over the inner disc, no inserts."""
    disc = [(Cylinder((5.0, 0.0, -3.0), (50.0, 50.0), 400.0), 0.0211)]
    geometry = {
        "parallel": CIRCLES["half turn of parallel rays"],
        "fan": CIRCLES["fan, full turn"],
        "flat fan": CIRCLES["flat fan, short scan, backwards"],
    }[beam]
    volume = reconstruct(scan(geometry, disc, None), Step.of("fbp"), "ramp", GridRequest(128, slice_thickness_mm=1.0))
    assert volume.quantity == "1/mm"
    assert mean_at(volume, 5.0, -3.0, 42.0) == pytest.approx(0.0211, rel=1e-3)


def test_field_of_view_and_centre_do_not_move_the_patient():
    """The same place has the same value in a wide and in a narrow, shifted field."""
    wide = reconstruct(scan(CIRCLES["fan, full turn"]), Step.of("fbp"), "hann", GridRequest(256, 150.0, None, 0.97))
    near = reconstruct(
        scan(CIRCLES["fan, full turn"]), Step.of("fbp"), "hann", GridRequest(128, 60.0, (25.0, 10.0), 0.97)
    )
    edge = [(31.0 + 9.0, 14.0), (31.0, 14.0 + 9.0), (31.0 - 9.0, 14.0)]
    for x, z in edge:
        assert mean_at(wide, x, z, 2.0) == pytest.approx(mean_at(near, x, z, 2.0), abs=4.0)


def test_a_stack_of_parallel_rows_puts_each_slice_at_its_height():
    """An ellipsoid in many rows, the lower half wider: its cross-sections are where they should be."""
    rows = 24
    geometry = Geometry.parallel_beam(
        np.arange(200) * 0.9, rows=rows, columns=121, cell_mm=(1.1, 0.83), central_row=4.0, central_column=59.0
    )
    ball = [(Ellipsoid((6.0, 9.0, -4.0), (20.0, 9.0, 15.0)), WATER)]
    volume = reconstruct(scan(geometry, ball), Step.of("auto"), "hann", GridRequest(96, slice_thickness_mm=1.1))
    y = heights(volume)
    area = (volume.values.astype(np.float64) / 1000 + 1).sum((1, 2)) * volume.grid.spacing_mm[1] ** 2
    expected = np.pi * 20 * 15 * np.clip(1 - ((y - 9.0) / 9.0) ** 2, 0, None)
    assert y[0] == pytest.approx(-4 * 1.1, abs=0.01)
    np.testing.assert_allclose(area, expected, atol=0.03 * np.pi * 20 * 15)


def test_thick_slices_are_the_mean_of_thin_ones():
    """A blob along y, σ 2.5 mm: a slice of thickness T through its middle is the mean over the box (and the rows)."""
    blob = [(Gaussian((4.0, 13.0, -3.0), (9.0, 2.5, 9.0), 1.0), 0.02)]
    geometry = cone(True)
    thin = reconstruct(scan(geometry, blob), Step.of("fdk"), "hann", GridRequest(96, 60.0, None, 0.97, 0.485))
    thick = reconstruct(
        scan(geometry, blob), Step.of("fdk"), "hann", GridRequest(96, 60.0, None, 4.0, None, 13.0, 13.0)
    )
    y = heights(thin)
    peak = (thin.values[:, 47:49, 47:49].mean((1, 2)) / 1000 + 1) * WATER
    box = np.abs(y - 13.0) < 3.88 / 2  # box of 4 mm less the native profile, see recon.slices
    assert (thick.values[0, 47:49, 47:49].mean() / 1000 + 1) * WATER == pytest.approx(peak[box].mean(), rel=0.03)
