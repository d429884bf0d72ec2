"""The mathematics of one voxel column and one view, against the geometry's own points and closed forms."""

import itertools
import math

import numpy as np
import pytest

from lampyris.model import FocalSpotShift, Gantry, Geometry, GeometryError, Grid
from lampyris.projector import ray
from lampyris.projector.plan import Plan

GRID = Grid.centred((5, 7, 9), (1.3, 2.1, 1.7), (3.0, -2.0, 4.0))
SPOTS = FocalSpotShift.alternating(3, (0.0, 0.004, -0.003), (0.0, 0.8, -0.6), (0.0, 1.5, -2.5))


def gantry(*, curved: bool) -> Gantry:
    return Gantry(541.0, 949.0, 7, 61, (1.7, 2.9), curved, 2.6, 33.25)


BUNDLES = {
    "parallel": Geometry.parallel_beam(
        np.array([13.0, 111.0, 250.0]), rows=7, columns=61, cell_mm=(1.7, 2.9), central_row=2.6, central_column=33.25
    ),
    "flat": Geometry.circular(gantry(curved=False), np.array([13.0, 111.0, 250.0]), axial_mm=2.0, shift=SPOTS),
    "curved": Geometry.circular(gantry(curved=True), np.array([13.0, 111.0, 250.0]), axial_mm=2.0, shift=SPOTS),
}


@pytest.mark.parametrize("name", BUNDLES)
def test_a_point_on_the_ray_to_a_cell_lands_in_that_cell(name: str) -> None:
    """Geometry says where cells are; a point part of the way from the source must come back to the same indices."""
    geometry = BUNDLES[name]
    plan = Plan.of(geometry, GRID)
    for view, record in enumerate(plan.views.tolist()):
        numbers = ray.View(*record)
        origin, direction = geometry.rays(view)
        for row, column in itertools.product((0, 3, 6), (0, 17, 60)):
            t = -np.dot(origin[row, column], direction[row, column]) + 37.0
            a, r, c = GRID.index(origin[row, column] + t * direction[row, column]) * np.asarray(GRID.spacing_mm)
            magnified = ray.magnification(plan.kind, numbers, r, c)
            start, slope = ray.axial(plan.kind, numbers, magnified, r, c)
            assert ray.column(plan.kind, numbers, magnified, r, c) == pytest.approx(column + 0.5, abs=1e-7)
            assert start + slope * a == pytest.approx(row + 0.5, abs=1e-7)


@pytest.mark.parametrize("name", BUNDLES)
def test_obliquity_is_the_length_of_a_ray_over_its_length_on_the_ground(name: str) -> None:
    geometry = BUNDLES[name]
    plan = Plan.of(geometry, GRID)
    for view, record in enumerate(plan.views.tolist()):
        numbers = ray.View(*record)
        _, direction = geometry.rays(view)
        for row, column in itertools.product((0, 3, 6), (0, 17, 60)):
            expected = 1 / math.hypot(direction[row, column, 0], direction[row, column, 2])
            length = ray.ground(plan.kind, numbers, column + 0.5)
            assert ray.obliquity(plan.kind, numbers, row + 0.5, length) == pytest.approx(expected, rel=1e-9)


def test_chord_is_the_way_through_the_middle_of_a_rectangle() -> None:
    """A cell of 3 × 5 mm, 100 mm away: along c, 5; at 45°, 3·√2; at 60° to c, 3/sin 60°."""
    plan = Plan.of(BUNDLES["flat"], GRID)
    numbers = ray.View(*plan.views[0].tolist())
    for angle, expected in ((0.0, 5.0), (45.0, 3 * math.sqrt(2)), (60.0, 3 / math.sin(math.pi / 3))):
        source = numbers._replace(
            source_r=-100 * math.sin(math.radians(angle)), source_c=-100 * math.cos(math.radians(angle))
        )
        assert ray.chord(ray.FLAT, source, 0.0, 0.0, 3.0, 5.0) == pytest.approx(expected, rel=1e-12)


def test_arc_angle_is_atan2_up_to_a_right_angle() -> None:
    for angle in np.linspace(-math.pi / 2, math.pi / 2, 181):
        found = ray.arc_angle(713.0 * math.sin(angle), 713.0 * math.cos(angle), 713.0)
        assert found == pytest.approx(angle, abs=1e-10)


def test_ascending_sorts_every_order() -> None:
    for order in itertools.permutations((1.5, -2.0, 7.0, 3.25)):
        assert ray.ascending(*order) == (-2.0, 1.5, 3.25, 7.0)


def test_area_below_a_trapezoid_is_its_integral() -> None:
    """Corners 1, 3, 4, 8: half of 2, plus 1, plus half of 4; at 2 a triangle of 1 × ½, at 6 all but 2 × ½."""
    corners = (1.0, 3.0, 4.0, 8.0)
    for x, expected in ((0.0, 0.0), (2.0, 0.25), (3.0, 1.0), (3.5, 1.5), (6.0, 3.5), (9.0, 4.0)):
        assert ray.trapezoid_below(x, corners) == pytest.approx(expected, abs=1e-12)
    assert ray.trapezoid_below(5.0, (2.0, 2.0, 5.0, 5.0)) == pytest.approx(3.0, abs=1e-9)


def test_rows_per_slice_bounds_every_voxel_column() -> None:
    for geometry in BUNDLES.values():
        plan = Plan.of(geometry, GRID)
        least, most = plan.rows_per_slice
        for record in plan.views.tolist():
            view = ray.View(*record)
            for r, c in itertools.product(np.linspace(0, 6, 4) * 2.1, np.linspace(0, 8, 5) * 1.7):
                slope = ray.axial(plan.kind, view, ray.magnification(plan.kind, view, r, c), r, c)[1]
                assert least - 1e-12 <= slope * 1.3 <= most + 1e-12


def test_a_tilted_gantry_needs_a_tilted_grid() -> None:
    tilted = Gantry(541.0, 949.0, 7, 61, (1.7, 2.9), True, tilt_deg=12.0)
    geometry = Geometry.circular(tilted, np.array([10.0, 200.0]))
    with pytest.raises(GeometryError, match=r"leans .* mm from the slices' axis .* give the grid the same tilt"):
        Plan.of(geometry, GRID)
    rows = geometry.v[0] / np.linalg.norm(geometry.v[0])
    axes = np.stack([rows, np.cross([1.0, 0.0, 0.0], rows), [1.0, 0.0, 0.0]])
    assert Plan.of(geometry, Grid((5, 7, 9), (1.3, 2.1, 1.7), np.array([-7.0, -3.0, -6.0]), axes)).rows == 7


def test_a_grid_that_reaches_the_source_is_refused() -> None:
    with pytest.raises(GeometryError, match=r"view 1 .* the source's plane .* smaller field of view"):
        Plan.of(
            Geometry.circular(gantry(curved=True), np.array([0.0, 90.0])),
            Grid.centred((5, 7, 9), (1.3, 2.1, 120.0), (60.0, 0.0, 0.0)),
        )
