"""Field of view, scan field and tilt: what the request leaves open is taken from the scan."""

import numpy as np
import pytest

from lampyris.model import Gantry, Geometry, GeometryError, GridRequest, Projections
from lampyris.phantom.assembly import line_integrals
from lampyris.phantom.shapes import Cylinder
from lampyris.recon.field import Circle, choose_field, lean_of, measured_reach, native_slice_mm, shadow

DISC = Cylinder((23.0, 0.0, -41.0), (66.0, 66.0), 90.0)
FAN = Gantry(541.0, 949.0, 3, 301, (1.7, 1.9), True, 0.6, 157.25)
BEAMS = {
    "curved": Geometry.circular(FAN, 17.0 + np.arange(60) * 6.0),
    "flat": Geometry.circular(Gantry(541.0, 949.0, 3, 301, (1.7, 1.9), False, 0.6, 157.25), 17.0 - np.arange(60) * 6.0),
    "parallel": Geometry.parallel_beam(
        np.arange(90) * 2.0, rows=2, columns=301, cell_mm=(1.7, 1.1), central_column=140.0
    ),
}  # fmt: skip


def scan(geometry, shape=DISC, per_mm=0.02):
    integrals = line_integrals(shape, geometry, per_mm)
    return Projections(integrals, np.ones_like(integrals), geometry)


@pytest.mark.parametrize("beam", BEAMS)
def test_the_shadow_s_circle_is_the_disc(beam):
    """Edges are known to one cell, 1.1 mm at the isocentre, and the threshold leaves out chords below 6 mm: 0.07 mm."""
    seen = shadow(scan(BEAMS[beam]))
    assert seen.body.x_mm == pytest.approx(23.0, abs=1.2)
    assert seen.body.z_mm == pytest.approx(-41.0, abs=1.2)
    assert seen.body.radius_mm == pytest.approx(66.0, abs=1.2)
    assert seen.truncated == 0.0


def test_noise_in_air_does_not_widen_the_body(rng):
    measured = scan(BEAMS["curved"])
    noisy = measured.integrals + rng.normal(0, 0.02, measured.integrals.shape).astype(np.float32)
    seen = shadow(Projections(noisy, measured.weights, measured.geometry))
    assert seen.body.radius_mm == pytest.approx(66.0, abs=1.5)


def test_a_body_that_leaves_the_detector_is_seen_as_truncated():
    narrow = Geometry.circular(Gantry(541.0, 949.0, 1, 81, (1.7, 1.9)), np.arange(60) * 6.0)
    seen = shadow(scan(narrow))
    assert seen.truncated > 0.5
    assert seen.body.reach_mm <= np.sqrt(2) * max(measured_reach(narrow))


def test_nothing_in_the_beam_gives_the_scan_field():
    empty = Projections(
        np.zeros(BEAMS["flat"].shape, np.float32), np.ones(BEAMS["flat"].shape, np.float32), BEAMS["flat"]
    )
    assert shadow(empty).body.radius_mm == pytest.approx(max(measured_reach(BEAMS["flat"])))


def test_measured_reach_is_that_of_the_outer_edges_of_the_outer_cells():
    """γ = 157.75 · 1.9/949 on the low side and 143.25 · 1.9/949 on the high side, reach 541·sin γ."""
    low, high = measured_reach(BEAMS["curved"])
    assert low == pytest.approx(541 * np.sin(157.75 * 1.9 / 949), rel=1e-9)
    assert high == pytest.approx(541 * np.sin(143.25 * 1.9 / 949), rel=1e-9)
    low, high = measured_reach(BEAMS["flat"])
    assert low == pytest.approx(541 * np.sin(np.arctan(157.75 * 1.9 / 949)), rel=1e-9)


def test_the_field_holds_the_body_and_a_wish_is_a_wish():
    body = Circle(12.0, -7.0, 95.0)
    free = choose_field(GridRequest(matrix=300), body)
    assert (free.centre_mm, free.side_mm) == ((12.0, -7.0), 198.0)  # 190 · 1.04 = 197.6
    about = choose_field(GridRequest(centre_mm=(0.0, 0.0)), body)
    assert about.side_mm / 2 > 95 + np.hypot(12, 7)
    assert choose_field(GridRequest(field_of_view_mm=250.0), body).centre_mm == (0.0, 0.0)
    assert choose_field(GridRequest(field_of_view_mm=250.0, centre_mm=(3.0, 4.0)), body).side_mm == 250.0


def test_the_thinnest_slice_is_a_row_at_the_isocentre():
    assert native_slice_mm(BEAMS["curved"]) == pytest.approx(1.7 * 541 / 949)
    assert native_slice_mm(BEAMS["flat"]) == pytest.approx(1.7 * 541 / 949)
    assert native_slice_mm(BEAMS["parallel"]) == pytest.approx(1.7)


def test_the_lean_of_a_tilted_gantry_makes_its_rows_upright():
    tilted = Geometry.circular(Gantry(541.0, 949.0, 3, 61, (1.7, 2.9), tilt_deg=12.0), np.arange(8) * 45.0)
    lean = lean_of(tilted)
    np.testing.assert_allclose(tilted.v @ lean, np.broadcast_to([0.0, 1.7, 0.0], (8, 3)), atol=1e-12)
    np.testing.assert_allclose((tilted.source @ lean)[:, 1], 0.0, atol=1e-10)


def test_rows_across_the_axis_are_no_gantry():
    turned = Geometry.parallel_beam(np.arange(4.0), rows=2, columns=5, cell_mm=(1.0, 1.0))
    swapped = Geometry(turned.source, turned.detector, -turned.v, turned.u, 5, 2, parallel=True)
    with pytest.raises(GeometryError, match="detector rows run along"):
        lean_of(swapped)
