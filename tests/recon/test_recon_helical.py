"""Helical scans: HU, drift along y, places, ends and refusals; rebinning against rays computed by hand."""

from dataclasses import replace

import numpy as np
import pytest

from lampyris.model import (
    FocalSpotShift,
    Gantry,
    Geometry,
    GeometryError,
    GridRequest,
    InputError,
    Orbit,
    Projections,
    Step,
    silent,
)
from lampyris.phantom.assembly import line_integrals
from lampyris.phantom.shapes import Cylinder, Gaussian
from lampyris.projector import load
from lampyris.projector.cuda import memory as card_memory
from lampyris.projector.engine import HOST, Card
from lampyris.recon import reconstruct
from lampyris.recon.analytic import filtering, helical
from lampyris.recon.analytic.helical import row_weight
from lampyris.recon.analytic.rebinning import fans, resampler, resampling, spots, theta_range
from lampyris.recon.kernels import kernel

WATER = 0.0193
ROWS, ROW_MM = 8, 1.7 * 541 / 949
BODY = (
    (Cylinder((9.0, 0.0, -6.0), (62.0, 51.0), 600.0), WATER),
    (Cylinder((31.0, 0.0, 14.0), (9.0, 9.0), 600.0), 0.25 * WATER),
)


def helix(pitch, *, curved=True, sense=1, table=1, turns=3, views_per_turn=240, shift=None):
    gantry = Gantry(541.0, 949.0, ROWS, 181, (1.7, 2.17), curved, 3.3, 90.25)
    views = int(turns * views_per_turn)
    travel = table * pitch * gantry.collimation_mm * (np.arange(views) - (views - 1) / 2) / views_per_turn
    angle = 23.0 + sense * 360.0 * np.arange(views) / views_per_turn
    return Geometry.circular(gantry, angle, axial_mm=5.0 + travel, shift=shift)


def scan(geometry, parts=BODY):
    integrals = np.zeros(geometry.shape, np.float32)
    for shape, per_mm in parts:
        integrals += line_integrals(shape, geometry, per_mm)
    return Projections(integrals, np.broadcast_to(np.float32(1), integrals.shape), geometry, water_per_mm=WATER)


def disc(volume, x, z, radius):
    """Mean of a disc, slice by slice."""
    _, row, column = volume.grid.index((x, 0.0, z))
    rows, columns = np.mgrid[: volume.grid.shape[1], : volume.grid.shape[2]]
    inside = np.hypot(rows - row, columns - column) * volume.grid.spacing_mm[1] < radius
    return volume.values[:, inside].mean(1)


Z_FLIGHT = FocalSpotShift.alternating(1440, axial_mm=(-0.35, 0.35))
Z_FLIGHT_LONG = FocalSpotShift.alternating(2160, axial_mm=(-0.35, 0.35))
HALF_A_CELL = 2.17 * 541 / 949 / 2 / (541 * (1 - 541 / 949))
XZ_FLIGHT = FocalSpotShift.alternating(
    2880,
    (-HALF_A_CELL / 2, HALF_A_CELL / 2),
    (-0.35, -0.35, 0.35, 0.35),
    (0.1, 0.1, -0.1, -0.1),
)
SCANS = {
    "pitch 0.5": helix(0.5, turns=4),
    "pitch 0.9, table out, gantry backwards": helix(0.9, sense=-1, table=-1),
    "pitch 0.9, flat detector": helix(0.9, curved=False),
    "pitch 1.2": helix(1.2),
    "pitch 1.5": helix(1.5, table=-1),
    "spot flying in z": helix(0.8, views_per_turn=480, shift=Z_FLIGHT),
    "spot flying in z and in plane": helix(0.8, views_per_turn=960, shift=XZ_FLIGHT),
    "no pitch, spot flying in plane": helix(
        0.0, turns=1, views_per_turn=480, shift=FocalSpotShift.alternating(480, (-HALF_A_CELL / 2, HALF_A_CELL / 2))
    ),
}


@pytest.mark.parametrize("name", SCANS)
def test_water_is_zero_hu_in_every_slice_at_every_pitch(name):
    """The issue asks for no drift above 3 HU between slices; 1 HU is found with room to spare."""
    volume = reconstruct(scan(SCANS[name]), Step.of("auto"), "hann", GridRequest(112, slice_thickness_mm=1.0))
    for x, z in ((9, -6), (58, -6), (-42, -6), (9, 34)):
        water = disc(volume, x, z, 5.0)
        np.testing.assert_allclose(water, 0.0, atol=2.0)
        assert np.ptp(water) < 2.0
    np.testing.assert_allclose(disc(volume, 31.0, 14.0, 5.5), 250.0, atol=2.0)
    np.testing.assert_allclose(disc(volume, 9.0, 53.0, 2.0), -1000.0, atol=15.0)


LONG = {
    "pitch 0.9": helix(0.9, turns=9),
    "pitch 1.5, table out": helix(1.5, table=-1, turns=9),
    "gantry backwards, spot flying in z": helix(0.8, sense=-1, turns=9, shift=Z_FLIGHT_LONG),
}


@pytest.mark.parametrize("name", LONG)
@pytest.mark.parametrize("turns", [4.5, 6.0])
def test_a_long_helix_filtered_in_parts_is_the_whole(name, turns, monkeypatch):
    """Only the slabs' middles, which differ in their last digits, make the two differ."""
    monkeypatch.setattr(filtering, "CHUNK_BYTES", filtering.CHUNK_BYTES // 6)
    projections, request = scan(LONG[name]), GridRequest(48, 120.0, (20.0, -10.0), 1.0)
    whole = reconstruct(projections, Step.of("wfbp"), "hann", request)
    held, make = [], helical.ConeParallelData

    def counted(part, weight, *, engine):
        held.append(4 * np.prod(part.shape))
        return make(part, weight, engine=engine)

    monkeypatch.setattr(helical, "ConeParallelData", counted)
    monkeypatch.setattr(helical, "DATA_BYTES", int(turns * projections.integrals.nbytes / 9))
    parts = reconstruct(projections, Step.of("wfbp"), "hann", request)
    assert len(held) > 1
    assert max(held) <= helical.DATA_BYTES
    np.testing.assert_allclose(parts.values, whole.values, rtol=0, atol=0.01)


def test_where_a_card_is_full_a_helix_is_filtered_in_smaller_parts(monkeypatch):
    """The card holds a third of the directions; the first that is tried is the whole scan."""
    monkeypatch.setattr(filtering, "CHUNK_BYTES", filtering.CHUNK_BYTES // 6)
    projections, request = scan(LONG["pitch 0.9"]), GridRequest(32, 120.0, (20.0, -10.0), 1.0)
    whole = reconstruct(projections, Step.of("wfbp"), "hann", request)
    make, tried = helical.ConeParallelData, []

    def full(part, weight, *, engine):
        tried.append(part.views)
        if part.views > 800:
            raise MemoryError
        return make(part, weight, engine=engine)

    monkeypatch.setattr(helical, "ConeParallelData", full)
    monkeypatch.setattr(card_memory, "SIMULATED", True)
    monkeypatch.setattr(card_memory, "card", lambda: Card("small", (9, 0), 1 << 30, 1 << 20, True))
    there = replace(HOST, refused=card_memory.refused, release=card_memory.release, in_parts=card_memory.in_parts)
    engine, orbit = replace(load("cpu"), memory=there), Orbit.of(projections.geometry)
    values, _ = helical.image(projections, orbit, kernel("hann"), request, silent, engine=engine)
    assert max(tried) > 800 > min(tried)
    seen = np.ones(values.shape, bool) if whole.valid is None else whole.valid
    found = 1000.0 / WATER * values[seen] - 1000.0
    np.testing.assert_allclose(found, whole.values[seen], rtol=0, atol=0.01)


@pytest.mark.parametrize("name", ["pitch 0.9, table out, gantry backwards", "spot flying in z and in plane"])
def test_a_helix_puts_blobs_where_they_are(name):
    """Centre of mass to 0.1 mm in the plane and 0.15 mm along y; mirrored or turned would be centimetres off."""
    places = [(33.0, 4.0, 12.0), (-25.0, 7.5, 31.0), (8.0, 6.0, -38.0)]
    blobs = [(Gaussian(place, (4.0, 1.6, 4.0), 1.0), 0.01 * (i + 2)) for i, place in enumerate(places)]
    volume = reconstruct(scan(SCANS[name], blobs), Step.of("wfbp"), "hann", GridRequest(112, 120.0, None, 0.97, 0.485))
    attenuation = (volume.values.astype(np.float64) / 1000 + 1) * WATER
    index = np.stack(np.meshgrid(*(np.arange(n) for n in volume.grid.shape), indexing="ij"), -1)
    position = volume.grid.position_mm(index)
    for i, place in enumerate(places):
        near = (np.abs(position - np.array(place)) < (14.0, 6.0, 14.0)).all(-1)
        weight = np.where(near, attenuation, 0)
        weight[weight < 0.1 * weight.max()] = 0
        centre = (position * weight[..., None]).sum((0, 1, 2)) / weight.sum()
        assert (np.abs(centre - place) < (0.1, 0.15, 0.1)).all(), (centre, place)
        assert attenuation[near].max() == pytest.approx(0.01 * (i + 2), rel=0.2)


def test_rows_count_fully_in_the_middle_and_fade_at_the_edge():
    """16 rows, Q = 0.5: |q| = 1/16 … 15/16 in steps of 1/8; beyond 0.5 cos²(π(|q| − 0.5))."""
    weight = row_weight(16, 0.5)
    np.testing.assert_allclose(weight[4:12], 1.0)
    np.testing.assert_allclose(weight[:4], np.cos(np.pi * (np.array([15, 13, 11, 9]) / 16 - 0.5)) ** 2, atol=1e-6)
    np.testing.assert_allclose(weight, weight[::-1])


def test_slices_outside_the_complete_part_are_refused_with_the_numbers():
    with pytest.raises(InputError, match=r"slices asked for from -30\.00 to 0\.00 mm .* can be reconstructed from"):
        reconstruct(
            scan(SCANS["pitch 1.2"]),
            Step.of("auto"),
            "body",
            GridRequest(32, slice_thickness_mm=1.0, first_mm=-30.0, last_mm=0.0),
        )


def test_the_first_slice_is_the_first_that_half_a_turn_sees():
    """On the axis a slice is seen while the source passes ± half the collimation: complete once that starts in time.

    The range found for the body must lie inside the one on the axis, (views that show it) from the first half turn on.
    """
    geometry = SCANS["pitch 0.9, flat detector"]
    volume = reconstruct(scan(geometry), Step.of("auto"), "hann", GridRequest(32, slice_thickness_mm=1.0))
    feed = 0.9 * ROWS * ROW_MM
    start = geometry.detector[0, 1] - ((ROWS - 1) / 2 - 3.3) * 1.7
    first = volume.grid.first_voxel_mm[1]
    low = start + (-0.5 - 3.3) * ROW_MM  # lowest point that the very first view can show
    assert low < first < start + feed
    assert volume.grid.shape[0] > 1.3 * feed


def test_a_pitch_too_high_for_the_detector_is_refused():
    with pytest.raises(GeometryError, match=r"pitch is too high for the detector: \d+ mm from the axis, .* not seen"):
        reconstruct(scan(helix(2.4)), Step.of("auto"), "body", GridRequest(32))


def test_less_than_half_a_turn_is_refused():
    with pytest.raises(GeometryError, match=r"wfbp needs 180° of parallel rays, the views give"):
        reconstruct(scan(helix(0.5, turns=0.5)), Step.of("auto"), "body", GridRequest(32))


def test_a_table_that_speeds_up_is_refused():
    even = helix(0.9)
    faster = 5e-5 * np.arange(even.views) ** 2
    move = np.stack([0 * faster, faster, 0 * faster], 1)
    uneven = Geometry(
        even.source + move, even.detector + move, even.u, even.v, even.rows, even.columns, even.curvature_mm
    )
    with pytest.raises(GeometryError, match=r"the table lies up to \d+\.\d+ mm from an even feed"):
        reconstruct(scan(uneven), Step.of("auto"), "body", GridRequest(32))


def test_a_spot_that_flies_anyhow_is_refused(rng):
    wild = FocalSpotShift(np.zeros(480), rng.normal(0, 0.4, 480), np.zeros(480))
    with pytest.raises(GeometryError, match="does not return to its place within 8 views"):
        reconstruct(scan(helix(0.8, turns=2, shift=wild)), Step.of("auto"), "body", GridRequest(32))


def test_rays_of_a_spot_are_those_of_the_geometry(lopsided_helix):
    """θ, ξ, foot and cell distance of every column against the rays that Geometry itself spans."""
    orbit = Orbit.of(lopsided_helix)
    for spot in spots(orbit):
        view = 7 * spot.views.step + spot.views.start
        origins, directions = lopsided_helix.rays(view)
        cells = lopsided_helix.cells_mm(view)
        row = 2
        in_plane = directions[row][:, [0, 2]] / np.hypot(directions[row][:, 0], directions[row][:, 2])[:, None]
        theta = orbit.gantry_angle_rad[view] + spot.theta_rad
        np.testing.assert_allclose(in_plane, -np.stack([np.sin(theta), np.cos(theta)], 1), atol=1e-9)
        source = origins[row][:, [0, 2]]
        np.testing.assert_allclose(
            spot.xi_mm, (source * np.stack([np.cos(theta), -np.sin(theta)], 1)).sum(1), atol=1e-6
        )
        np.testing.assert_allclose(spot.ahead_mm, -(source * in_plane).sum(1), atol=1e-6)
        reach = np.hypot(*(cells[row] - origins[row])[:, [0, 2]].T)
        np.testing.assert_allclose(spot.cell_mm, reach, atol=1e-6)
        table = orbit.axial_mm[view]
        assert lopsided_helix.source[view, 1] - table == pytest.approx(spot.axial_mm, abs=1e-6)
        np.testing.assert_allclose(cells[:, 0, 1] - table, spot.first_row_mm + 1.7 * np.arange(7), atol=1e-6)


def test_rebinned_rays_measure_what_true_parallel_rays_would():
    """Smooth closed form: a blob's integral along each (θ, ξ) in its row, against the resampled fan, lopsided."""
    geometry = helix(0.9, views_per_turn=480)
    sigma = 14.0
    blob = Gaussian((21.0, 0.0, -33.0), (sigma, 4000.0, sigma), 1.0)
    integrals = line_integrals(blob, geometry, 1.0)
    orbit = Orbit.of(geometry)
    (spot,) = spots(orbit)
    (fan,) = fans((spot,))
    low, high = theta_range(orbit, spot, 70.0)
    theta, xi = np.linspace(low, high, 37), np.arange(-61.0, 70.0, 3.1)
    where = resampling(orbit, fan, theta, xi, wraps=False)
    found = resampler(where, load("cpu"))(integrals, 0, slice(0, len(theta)))
    distance = xi[None] - (21.0 * np.cos(theta) + 33.0 * np.sin(theta))[:, None]
    in_plane = sigma * np.sqrt(2 * np.pi) * np.exp(-0.5 * (distance / sigma) ** 2)
    cell = np.interp(xi, fan.xi_mm, fan.cell_mm)
    height = spot.first_row_mm + 1.7 * np.arange(ROWS)
    oblique = np.sqrt(1 + (height[:, None] / cell[None, :]) ** 2)
    np.testing.assert_allclose(found, in_plane[:, None] * oblique[None], atol=2e-3 * in_plane.max())
