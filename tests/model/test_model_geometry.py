"""Geometry: points computed by hand, the orbit recovered, and what must be refused."""

import numpy as np
import pytest

from lampyris.model import FocalSpotShift, Gantry, Geometry, GeometryError, InputError, Orbit


def test_source_stands_above_at_zero_and_right_at_ninety_degrees():
    gantry = Gantry(540.0, 950.0, 4, 6, (1.0, 2.0), curved=False)
    geometry = Geometry.circular(gantry, np.array([0.0, 90.0]), axial_mm=7.0)
    np.testing.assert_allclose(geometry.source, [[0, 7, 540], [540, 7, 0]], atol=1e-9)
    np.testing.assert_allclose(geometry.detector, [[0, 7, -410], [-410, 7, 0]], atol=1e-9)
    np.testing.assert_allclose(geometry.u, [[2, 0, 0], [0, 0, -2]], atol=1e-9)
    np.testing.assert_allclose(geometry.v, [[0, 1, 0], [0, 1, 0]], atol=1e-9)


def test_flat_cell_stands_where_hand_arithmetic_puts_it():
    gantry = Gantry(500.0, 1000.0, 4, 6, (1.5, 2.0), curved=False, central_row=1.0, central_column=2.25)
    geometry = Geometry.circular(gantry, np.array([0.0]))
    # cell (row 3, column 5): x = (5 − 2.25)·2, y = (3 − 1)·1.5, z = 500 − 1000
    np.testing.assert_allclose(geometry.cells_mm(0)[3, 5], [5.5, 3.0, -500.0], atol=1e-9)


def test_curved_cell_stands_where_hand_arithmetic_puts_it():
    gantry = Gantry(500.0, 1000.0, 4, 6, (1.5, 2.0), curved=True, central_row=1.0, central_column=2.25)
    geometry = Geometry.circular(gantry, np.array([0.0]))
    angle = (5 - 2.25) * 2.0 / 1000.0
    expected = [1000 * np.sin(angle), 3.0, 500 - 1000 * np.cos(angle)]
    np.testing.assert_allclose(geometry.cells_mm(0)[3, 5], expected, atol=1e-9)


def test_curved_cells_are_equally_far_from_the_resting_focal_spot(lopsided_helix):
    orbit = Orbit.of(lopsided_helix)
    phi, y = orbit.gantry_angle_rad[5], orbit.axial_mm[5]
    spot = np.array([541.0 * np.sin(phi), y, 541.0 * np.cos(phi)])
    cells = lopsided_helix.cells_mm(5)
    radius = np.hypot(cells[..., 0] - spot[0], cells[..., 2] - spot[2])
    np.testing.assert_allclose(radius, 949.0, atol=0.02)


def test_positive_tilt_leans_the_top_away_from_the_entering_table():
    gantry = Gantry(500.0, 1000.0, 4, 6, (1.5, 2.0), tilt_deg=20.0)
    geometry = Geometry.circular(gantry, np.array([0.0]))
    np.testing.assert_allclose(geometry.source[0], [0, 500 * np.sin(np.pi / 9), 500 * np.cos(np.pi / 9)], atol=1e-9)


def test_parallel_rays_share_the_sense_of_rotation_of_the_fan():
    geometry = Geometry.parallel_beam(np.array([30.0]), rows=3, columns=9, cell_mm=(1.0, 2.0), central_column=3.0)
    cells, direction = geometry.rays(0)
    np.testing.assert_allclose(direction[0, 0], [-np.sin(np.pi / 6), 0, -np.cos(np.pi / 6)], atol=1e-12)
    np.testing.assert_allclose(cells[1, 3], 0, atol=1e-9)  # the ray through the axis
    np.testing.assert_allclose(cells[2, 5], [4 * np.cos(np.pi / 6), 1.0, -4 * np.sin(np.pi / 6)], atol=1e-9)


@pytest.mark.parametrize("curved", [True, False])
@pytest.mark.parametrize("tilt_deg", [0.0, -11.0])
def test_orbit_makes_the_same_twelve_numbers_again(curved, tilt_deg):
    gantry = Gantry(541.0, 949.0, 7, 61, (1.7, 2.9), curved, 2.6, 31.25, tilt_deg)
    spots = FocalSpotShift.alternating(96, (-0.0009, 0.0011), (-0.6, 0.6), (0.3, -0.2))
    made = Geometry.helical(
        gantry, views=96, views_per_turn=41, table_feed_mm=-6.3, start_angle_deg=200.0, start_axial_mm=11.0, shift=spots
    )
    orbit = Orbit.of(made)
    again = Geometry.circular(
        orbit.gantry, np.rad2deg(orbit.gantry_angle_rad), axial_mm=orbit.axial_mm, shift=orbit.shift
    )
    for name in ("source", "detector", "u", "v"):
        np.testing.assert_allclose(getattr(again, name), getattr(made, name), atol=0.02)
    assert orbit.table_feed_mm == pytest.approx(-6.3, abs=1e-6)
    assert orbit.views_per_turn == pytest.approx(41, rel=1e-3)
    assert orbit.gantry.central_column == pytest.approx(31.25, abs=0.01)
    assert orbit.gantry.tilt_deg == pytest.approx(tilt_deg, abs=1e-9)


def test_orbit_refuses_a_free_trajectory(lopsided_helix):
    source = lopsided_helix.source.copy()
    source[40] += (0.0, 0.0, 3.0)
    detector = lopsided_helix.detector.copy()
    detector[41] += (0.0, 0.0, 2.0)
    bent = Geometry(source, detector, lopsided_helix.u, lopsided_helix.v, 7, 61, 949.0)
    with pytest.raises(GeometryError, match="not a third-generation orbit"):
        Orbit.of(bent)


def test_orbit_refuses_parallel_rays():
    with pytest.raises(GeometryError, match="no focal spot"):
        Orbit.of(Geometry.parallel_beam(np.arange(5.0), rows=1, columns=4, cell_mm=(1.0, 1.0)))


def test_mirrored_columns_are_refused(lopsided_helix):
    with pytest.raises(GeometryError, match="mirrored"):
        Geometry(lopsided_helix.source, lopsided_helix.detector, -lopsided_helix.u, lopsided_helix.v, 7, 61, 949.0)


def test_nan_position_is_refused(lopsided_helix):
    source = lopsided_helix.source.copy()
    source[3, 1] = np.nan
    with pytest.raises(InputError, match=r"geometry\.source holds 1 NaN"):
        Geometry(source, lopsided_helix.detector, lopsided_helix.u, lopsided_helix.v, 7, 61, 949.0)


def test_exchanged_distances_are_refused():
    with pytest.raises(GeometryError, match="exchanged"):
        Gantry(1085.6, 595.0, 64, 736, (1.0, 1.0))


def test_collimation_is_the_rows_scaled_to_the_isocentre():
    gantry = Gantry(500.0, 1000.0, 6, 9, (1.5, 2.0))
    assert gantry.row_at_isocentre_mm == pytest.approx(0.75)
    assert gantry.collimation_mm == pytest.approx(4.5)


def test_an_orbit_of_one_view_stands_still():
    orbit = Orbit.of(Geometry.circular(Gantry(500.0, 1000.0, 6, 9, (1.5, 2.0)), np.array([17.0]), axial_mm=4.0))
    assert orbit.angle_step_rad == 0
    assert orbit.table_feed_mm == 0


def test_table_feed_keeps_its_sign_whichever_way_the_gantry_turns():
    gantry = Gantry(500.0, 1000.0, 6, 9, (1.5, 2.0))
    angle = np.arange(49) * 7.5
    for turn in (1.0, -1.0):
        orbit = Orbit.of(Geometry.circular(gantry, turn * angle, axial_mm=-0.25 * np.arange(49)))
        assert orbit.table_feed_mm == pytest.approx(-12.0)
        assert orbit.views_per_turn == pytest.approx(48.0)
        assert orbit.angle_step_rad == pytest.approx(turn * np.deg2rad(7.5))


@pytest.mark.parametrize(("rows", "columns"), [(0, 61), (7, 0)])
def test_a_detector_without_cells_is_refused(lopsided_helix, rows, columns):
    with pytest.raises(GeometryError, match="is no scan"):
        Geometry(
            lopsided_helix.source, lopsided_helix.detector, lopsided_helix.u, lopsided_helix.v, rows, columns, 949.0
        )


def test_one_view_whose_cells_have_no_area_is_found(lopsided_helix):
    u = lopsided_helix.u.copy()
    u[30] = lopsided_helix.v[30]
    with pytest.raises(GeometryError, match="parallel in view 30"):
        Geometry(lopsided_helix.source, lopsided_helix.detector, u, lopsided_helix.v, 7, 61, 949.0)


def test_a_focal_spot_that_does_not_fly_stays_where_the_gantry_put_it():
    spots = FocalSpotShift.alternating(4, angular_rad=(0.001, -0.001))
    np.testing.assert_array_equal(spots.axial_mm, 0.0)
    np.testing.assert_array_equal(spots.radial_mm, 0.0)
    np.testing.assert_array_equal(spots.angular_rad, [0.001, -0.001, 0.001, -0.001])


def test_a_scan_is_as_long_as_its_table_travelled(lopsided_helix):
    """97 views at 41 a turn of −6.3 mm, with a spot that flies ±0.6 mm along the axis: 97/41·6.3 mm."""
    assert lopsided_helix.scanned_mm(99.0) == pytest.approx(97 / 41 * 6.3)


@pytest.mark.parametrize(
    ("places", "scanned"),
    [([3.0] * 6, 12.5), ([0.0, 0.0, 7.0, 7.0, 14.0, 14.0], 21.0), ([0.0, 2.0, 4.0, 3.0, 1.0, -1.0], None)],
)
def test_steps_rest_and_shuttles_have_their_own_lengths(lopsided_gantry, places, scanned):
    """At rest the collimation, in steps the step times the scans, to and fro nothing that one number tells."""
    geometry = Geometry.circular(lopsided_gantry, np.arange(6) * 60.0, axial_mm=np.array(places))
    assert geometry.scanned_mm(12.5) == (None if scanned is None else pytest.approx(scanned))
