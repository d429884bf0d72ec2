"""Voxel-driven backprojection: points by hand, closed forms on a lopsided scan, brute force, laws, refusals."""

from dataclasses import replace
from typing import ClassVar

import numba as nb
import numpy as np
import pytest

from lampyris.model import EngineUnavailable, FocalSpotShift, Gantry, Geometry, GeometryError, Grid, InputError
from lampyris.projector import Backprojector, backproject, card, load

SINGLE = 2e-6  # relative rounding of a few dozen float32 sums and of a position in 1/2²⁴ of a cell


def lopsided_grid() -> Grid:
    """Neither square nor centred; 19 slices are more than a vector and no multiple of one."""
    return Grid.centred((19, 5, 7), (1.3, 7.1, 5.3), (9.0, 3.5, -14.0))


def flat_scan() -> Geometry:
    shift = FocalSpotShift.alternating(11, (0.0, 0.002), (0.4, -0.3, 0.1), (-1.5, 2.5))
    gantry = Gantry(541.0, 949.0, 5, 19, (5.1, 2.9), False, 1.6, 10.25)
    return Geometry.circular(gantry, 17.0 + 29.0 * np.arange(11), axial_mm=4.0 * np.arange(11) - 16, shift=shift)


def parallel_scan() -> Geometry:
    beam = Geometry.parallel_beam(
        7.0 + 31.0 * np.arange(9), rows=9, columns=43, cell_mm=(2.3, 1.9), central_row=3.7, central_column=22.3
    )
    return replace(beam, source=beam.source + np.array([20.0, 30.0, 0.0]) * beam.source[:, 2:] / 1000)  # oblique rays


def landing(geometry: Geometry, view: int, point: np.ndarray) -> tuple[float, float]:
    """(row, column), fractional indices, where the ray through a point lands: by solving, not by our formulas."""
    source, detector, u, v = (each[view] for each in (geometry.source, geometry.detector, geometry.u, geometry.v))
    start, direction = (point, detector - source) if geometry.parallel else (source, point - source)
    middle = (np.array([geometry.rows, geometry.columns]) - 1) / 2
    if geometry.curvature_mm is None:
        across, up, _ = np.linalg.solve(np.stack([u, v, -direction], 1), start - detector)
        return middle[0] + up, middle[1] + across
    low, high = 0.0, 10.0  # the distance from the arc's axis grows along the ray: halve until it is the radius
    axis = v / np.linalg.norm(v)
    normal = np.cross(v, u) / np.linalg.norm(np.cross(v, u))
    centre = detector - geometry.curvature_mm * normal
    for _ in range(80):
        between = (low + high) / 2
        off = start + between * direction - centre
        radial = off - (off @ axis) * axis
        low, high = (between, high) if np.linalg.norm(radial) < geometry.curvature_mm else (low, between)
    off = start + low * direction - centre
    angle = np.arctan2(off @ u / np.linalg.norm(u), off @ normal)
    column = angle * geometry.curvature_mm / np.linalg.norm(u)
    return middle[0] + off @ axis / np.linalg.norm(v), middle[1] + column


def brute_force(projections: np.ndarray, geometry: Geometry, grid: Grid) -> np.ndarray:
    """Σ over views of the bilinear value where each voxel lands, in float64, one voxel at a time."""
    image = np.zeros(grid.shape)
    for index in np.ndindex(grid.shape):
        for view in range(geometry.views):
            row, column = landing(geometry, view, grid.position_mm(index))
            if not (-0.5 <= row < geometry.rows - 0.5 and -0.5 <= column < geometry.columns - 0.5):
                continue
            row, column = np.clip(row, 0, geometry.rows - 1), np.clip(column, 0, geometry.columns - 1)
            r, c = int(row), int(column)
            r2, c2 = min(r + 1, geometry.rows - 1), min(c + 1, geometry.columns - 1)
            p, a, b = projections[view], row - r, column - c
            image[index] += (1 - a) * ((1 - b) * p[r, c] + b * p[r, c2]) + a * ((1 - b) * p[r2, c] + b * p[r2, c2])
    return image


@pytest.fixture(params=["cpu", "cuda"])
def engine(request: pytest.FixtureRequest) -> str:
    name = str(request.param)
    try:
        load(name)
    except EngineUnavailable as error:
        pytest.skip(f"{error}; its kernels are judged in a simulator by tests/projector/test_projector_cuda.py")
    return name


@pytest.mark.parametrize("kind", ["flat", "helical curved", "parallel"])
def test_every_voxel_takes_what_its_rays_measured(
    kind: str, engine: str, lopsided_helix: Geometry, rng: np.random.Generator
) -> None:
    """Sources, offsets and focal spots that move from view to view; edges of the detector cross the grid."""
    scans = {"flat": flat_scan(), "helical curved": lopsided_helix.subset(slice(30, 47)), "parallel": parallel_scan()}
    geometry, grid = scans[kind], lopsided_grid()
    projections = rng.random(geometry.shape, dtype=np.float32)
    expected = brute_force(projections, geometry, grid)
    assert 0 in expected  # some voxels are beyond the detector …
    assert (expected > 3).any()  # … and some are seen by many views
    image = backproject(projections, geometry, grid, weighting="none", engine=engine)
    assert image.dtype == np.float32
    np.testing.assert_allclose(image, expected, rtol=SINGLE * 40, atol=SINGLE * geometry.views)


@pytest.mark.parametrize("kind", ["flat", "curved", "mirrored"])
def test_engines_weigh_distances_alike_and_take_views_in_pieces(
    kind: str, engine: str, rng: np.random.Generator
) -> None:
    """Against the processor's sum of all views at once; float32 sums of some twenty terms in another order."""
    scan = flat_scan() if kind != "curved" else replace(flat_scan(), curvature_mm=949.0)
    geometry = replace(scan, u=-scan.u, v=-scan.v) if kind == "mirrored" else scan
    projections = rng.standard_normal(geometry.shape, dtype=np.float32)
    expected = backproject(projections, geometry, lopsided_grid())
    pieces = Backprojector(geometry, lopsided_grid(), engine=engine)
    for first, last in ((4, 11), (0, 4)):
        pieces.add(projections[first:last], first)
    np.testing.assert_allclose(pieces.image(), expected, rtol=0, atol=5 * SINGLE * np.abs(expected).max())


class OnCard(np.ndarray):  # type: ignore[type-arg]
    """What says of itself that it is on a card."""

    __cuda_array_interface__: ClassVar[dict[str, int]] = {"version": 3}


def test_cuda_arrays_are_summed_on_their_card_without_being_asked(rng: np.random.Generator) -> None:
    """And nowhere else: without a card they are refused, as they are by an engine that is not theirs."""
    projections = rng.standard_normal(flat_scan().shape, dtype=np.float32)
    there = projections.view(OnCard)
    try:
        load("cuda")
    except EngineUnavailable:
        with pytest.raises(EngineUnavailable, match="engine 'cuda' cannot run"):
            backproject(there, flat_scan(), lopsided_grid())
        return
    if not card().simulated:
        pytest.skip("this array only says that it is on a card")
    expected = backproject(projections, flat_scan(), lopsided_grid())
    found = backproject(there, flat_scan(), lopsided_grid())
    np.testing.assert_allclose(found, expected, rtol=0, atol=5 * SINGLE * np.abs(expected).max())
    there[3] = np.nan
    with pytest.raises(InputError, match="the image holds NaN or infinite values: so did the projections"):
        backproject(there, flat_scan(), lopsided_grid())


def test_an_engine_without_voxels_is_refused() -> None:
    with pytest.raises(InputError, match="cpu and cuda do"):
        Backprojector(flat_scan(), lopsided_grid(), engine="reference")


# ---- points by hand


def spot_image(geometry: Geometry, cell: tuple[int, int, int], grid: Grid, **options: str) -> np.ndarray:
    """Backprojection of a single lit cell (view, row, column)."""
    projections = np.zeros(geometry.shape, np.float32)
    projections[cell] = 1.0
    return backproject(projections, geometry, grid, **options)  # type: ignore[arg-type]


def one_voxel(x: float, y: float, z: float) -> Grid:
    return Grid.centred((1, 1, 1), (1.0, 1.0, 1.0), (x, y, z))


def test_a_voxel_lands_where_the_hand_puts_it_on_a_flat_detector() -> None:
    """R = 400, D = 1000; φ = 0: source above. Voxel (16, −8, 80), 320 below the source: times 3.125, u = 50, v = −25.

    Cells of 5 (rows) × 2 mm: column 12 + 25, row 10 − 5. At φ = 90° the source is at +x: depth 400 − 16 = 384, u = −z.
    """
    gantry = Gantry(400.0, 1000.0, 21, 49, (5.0, 2.0), False, 10.0, 12.0)
    above = Geometry.circular(gantry, np.array([0.0]))
    voxel = one_voxel(16.0, -8.0, 80.0)
    assert spot_image(above, (0, 5, 37), voxel, weighting="none")[0, 0, 0] == pytest.approx(1.0, abs=SINGLE)
    assert spot_image(above, (0, 5, 37), voxel)[0, 0, 0] == pytest.approx((400 / 320) ** 2, rel=SINGLE)
    for neighbour in [(0, 4, 37), (0, 6, 37), (0, 5, 36), (0, 5, 38), (0, 15, 37), (0, 5, 25)]:
        assert spot_image(above, neighbour, voxel)[0, 0, 0] == pytest.approx(0.0, abs=5 * SINGLE)
    right = Geometry.circular(replace(gantry, central_column=44.0), np.array([90.0]))
    # u = −z·1000/384 = −9.6·1000/384 = −25 mm: 12.5 columns to the left of 44; v = 3.84·1000/384 = 10 mm: 2 rows up
    voxel = one_voxel(16.0, 3.84, 9.6)
    for column in (31, 32):
        assert spot_image(right, (0, 12, column), voxel)[0, 0, 0] == pytest.approx(0.5 * (400 / 384) ** 2, rel=1e-5)


def test_a_voxel_lands_where_the_hand_puts_it_on_an_arc() -> None:
    """φ = 180°: source below, +u = −x. Voxel (−30, 6, −20) from R = 60: 40 deep, 30 aside, 50 away: γ = atan(3/4).

    With D = 200 and cells of 2.5 × 2 mm that is column 5 + 100·atan(3/4) = 69.35; y is magnified 200/50: row 3 + 9.6.
    """
    arc = Geometry.circular(Gantry(60.0, 200.0, 16, 90, (2.5, 2.0), True, 3.0, 5.0), np.array([180.0]))
    voxel = one_voxel(-30.0, 6.0, -20.0)
    share = 5 + 100 * np.arctan(0.75) - 69
    weight = (60 / 50) ** 2
    for cell, expected in {
        (0, 12, 69): 0.4 * (1 - share), (0, 13, 69): 0.6 * (1 - share),
        (0, 12, 70): 0.4 * share, (0, 13, 70): 0.6 * share, (0, 14, 69): 0.0, (0, 12, 68): 0.0,
    }.items():  # fmt: skip
        assert spot_image(arc, cell, voxel)[0, 0, 0] == pytest.approx(weight * expected, abs=1e-5)


def test_parallel_rays_are_neither_magnified_nor_weighted() -> None:
    """φ = 90°: u = −z. Voxel (77, 3, −5), cells of 3 × 2 mm: column 4 + 2.5, row 1 + 1, whatever its x."""
    beam = Geometry.parallel_beam(
        np.array([90.0]), rows=4, columns=9, cell_mm=(3.0, 2.0), central_row=1.0, central_column=4.0
    )
    for column in (6, 7):
        for weighting in ("fdk", "none"):
            image = spot_image(beam, (0, 2, column), one_voxel(77.0, 3.0, -5.0), weighting=weighting)
            assert image[0, 0, 0] == pytest.approx(0.5, abs=SINGLE)


@pytest.mark.parametrize(
    ("x", "y", "expected"),
    [(-2.99, 0.0, 1.0), (-3.01, 0.0, 0.0), (2.99, 0.0, 5.0), (3.01, 0.0, 0.0), (0.0, 4.49, 3.0), (0.0, 4.51, 0.0)],
)
def test_the_detector_ends_at_the_outer_edge_of_its_outer_cells(x: float, y: float, expected: float) -> None:
    """Three columns of 2 mm with the values 1, 3, 5 and three rows of 3 mm: edges at ±3 and ±4.5 mm."""
    beam = Geometry.parallel_beam(np.array([0.0]), rows=3, columns=3, cell_mm=(3.0, 2.0))
    projections = np.broadcast_to(np.array([1.0, 3.0, 5.0], np.float32), (1, 3, 3)).copy()
    for sign in (1, -1):
        image = backproject(projections, beam, one_voxel(x, sign * y, 5.0))
        assert image[0, 0, 0] == pytest.approx(expected, rel=SINGLE)


# ---- a smooth closed form on a lopsided scan


def smooth(column_mm: np.ndarray, row_mm: np.ndarray) -> np.ndarray:
    """A Gaussian hill on the detector, 40 × 25 mm wide, off centre."""
    return np.exp(-(((column_mm - 13.0) / 40.0) ** 2) / 2 - (((row_mm + 4.0) / 25.0) ** 2) / 2)


@pytest.mark.parametrize("curved", [True, False])
def test_smooth_projections_give_their_closed_form(curved: bool) -> None:
    """Σ (R/ℓ)²·hill(u, v) with u, v, ℓ from the gantry's angles. Linear interpolation errs by ≤ h²/8·max|f″| each way:

    (1.9/40)²/8 + (2.3/25)²/8 = 1.3·10⁻³ of the hill, times the largest weight 1.4 and 13 views.
    """
    machine = Gantry(541.0, 949.0, 61, 171, (2.3, 1.9), curved, 27.0, 90.25)
    angle, axial = np.deg2rad(23.0 + 29.0 * np.arange(13)), 0.7 * np.arange(13) - 5
    geometry = Geometry.circular(machine, np.rad2deg(angle), axial_mm=axial)
    grid = Grid.centred((21, 9, 11), (1.7, 8.1, 6.3), (11.0, 2.5, -9.0))
    columns, rows = (np.arange(171) - 90.25) * 1.9, (np.arange(61) - 27.0) * 2.3
    projections = np.broadcast_to(smooth(columns[None, :], rows[:, None]), geometry.shape).astype(np.float32)
    x, y, z = np.moveaxis(grid.position_mm(np.moveaxis(np.indices(grid.shape), 0, -1)), -1, 0)
    expected = np.zeros(grid.shape)
    for phi, table in zip(angle, axial, strict=True):
        across, depth = x * np.cos(phi) - z * np.sin(phi), 541.0 - x * np.sin(phi) - z * np.cos(phi)
        if curved:
            away = np.hypot(across, depth)
            expected += (541 / away) ** 2 * smooth(949 * np.arctan2(across, depth), (y - table) * 949 / away)
        else:
            expected += (541 / depth) ** 2 * smooth(949 * across / depth, (y - table) * 949 / depth)
    np.testing.assert_allclose(backproject(projections, geometry, grid), expected, atol=13 * 1.4 * 1.3e-3)


# ---- laws


def test_an_arc_and_a_plane_that_measured_the_same_rays_agree() -> None:
    """The same smooth function of the ray on both detectors, unweighted; each errs by its interpolation, 1.3·10⁻³."""
    angle, grid = 17.0 + 33.0 * np.arange(7), Grid.centred((9, 6, 8), (2.1, 9.3, 7.7), (5.0, 1.0, 8.0))
    fan, slope = (np.arange(181) - 88.5) * 1.9 / 949, (np.arange(61) - 27.0) * 2.3 / 949
    images = []
    for curved in (True, False):
        geometry = Geometry.circular(Gantry(541.0, 949.0, 61, 181, (2.3, 1.9), curved, 27.0, 88.5), angle)
        tangent = np.tan(fan) if curved else fan
        rise = slope[:, None] * (1.0 if curved else 1 / np.hypot(1, tangent))  # height over in-plane distance
        values = smooth(949 * tangent[None, :], 949 * rise)
        projections = np.broadcast_to(values, geometry.shape).astype(np.float32)
        images.append(backproject(projections, geometry, grid, weighting="none"))
    np.testing.assert_allclose(images[0], images[1], atol=7 * 2 * 1.5e-3)


def test_views_may_come_in_pieces(rng: np.random.Generator) -> None:
    geometry, grid = flat_scan(), lopsided_grid()
    projections = rng.random(geometry.shape, dtype=np.float32)
    pieces = Backprojector(geometry, grid)
    for first, last in ((6, 11), (0, 4), (4, 6)):
        pieces.add(projections[first:last], first)
    whole = backproject(projections, geometry, grid)
    np.testing.assert_allclose(pieces.image(), whole, rtol=geometry.views * 2.0**-23)


def test_a_grid_of_many_tiles_holds_the_same_voxels(rng: np.random.Generator) -> None:
    geometry, wide = flat_scan(), Grid.centred((19, 35, 51), (1.3, 1.1, 0.9), (9.0, 3.5, -14.0))
    part = replace(wide, shape=(19, 4, 3), first_voxel_mm=wide.position_mm((0, 30, 46)))
    projections = rng.random(geometry.shape, dtype=np.float32)
    whole, piece = backproject(projections, geometry, wide), backproject(projections, geometry, part)
    np.testing.assert_allclose(whole[:, 30:34, 46:49], piece, rtol=1e-4, atol=1e-5)


def test_the_image_does_not_depend_on_the_number_of_threads(rng: np.random.Generator) -> None:
    geometry, grid = flat_scan(), Grid.centred((19, 35, 51), (1.3, 1.1, 0.9), (9.0, 3.5, -14.0))
    projections = rng.random(geometry.shape, dtype=np.float32)
    before = nb.get_num_threads()
    images = []
    try:
        for threads in {1, min(2, before)}:
            nb.set_num_threads(threads)
            images.append(backproject(projections, geometry, grid))
    finally:
        nb.set_num_threads(before)
    np.testing.assert_array_equal(images[0], images[-1])


def test_a_detector_turned_upside_down_sees_the_same(rng: np.random.Generator) -> None:
    """u and v negated, rows and columns reversed: the same cells at the same places."""
    geometry, grid = flat_scan(), lopsided_grid()
    projections = rng.random(geometry.shape, dtype=np.float32)
    turned = replace(geometry, u=-geometry.u, v=-geometry.v)
    expected = backproject(projections, geometry, grid)
    np.testing.assert_allclose(backproject(projections[:, ::-1, ::-1], turned, grid), expected, rtol=1e-4, atol=1e-5)


def test_a_tilted_gantry_and_an_equally_tilted_grid_are_upright_together(rng: np.random.Generator) -> None:
    upright = Gantry(541.0, 949.0, 7, 61, (5.1, 2.9), True, 2.6, 31.25)
    angle, grid = 10.0 + 35.0 * np.arange(9), lopsided_grid()
    tilt = np.deg2rad(13.0)
    lean = np.array([[1, 0, 0], [0, np.cos(tilt), np.sin(tilt)], [0, -np.sin(tilt), np.cos(tilt)]])
    leaning = replace(grid, first_voxel_mm=lean @ grid.first_voxel_mm, axes=grid.axes @ lean.T)
    projections = rng.random((9, 7, 61), dtype=np.float32)
    expected = backproject(projections, Geometry.circular(upright, angle), grid)
    image = backproject(projections, Geometry.circular(replace(upright, tilt_deg=13.0), angle), leaning)
    np.testing.assert_allclose(image, expected, rtol=1e-4, atol=1e-5)


def test_progress_rises_to_one() -> None:
    told: list[float] = []
    geometry = flat_scan()
    backproject(np.zeros(geometry.shape, np.float32), geometry, lopsided_grid(), progress=told.append)
    assert told == sorted(told)
    assert told[-1] == 1.0


# ---- refusals


def test_projections_that_do_not_belong_to_the_geometry_are_refused() -> None:
    geometry, grid = flat_scan(), lopsided_grid()
    fits = np.zeros(geometry.shape, np.float32)
    with pytest.raises(InputError, match="float64 array, expected a float32"):
        backproject(fits.astype(np.float64), geometry, grid)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="axes swapped"):
        backproject(fits.transpose(0, 2, 1), geometry, grid)
    with pytest.raises(InputError, match="10 views, the geometry has 11"):
        backproject(fits[:10], geometry, grid)
    with pytest.raises(InputError, match="from view 1 on"):
        Backprojector(geometry, grid).add(fits, 1)
    fits[3, 1, 2] = np.nan
    with pytest.raises(InputError, match="1 NaN or infinite"):
        backproject(fits, geometry, grid)


def test_an_unknown_weighting_is_refused() -> None:
    with pytest.raises(InputError, match="'hamming' is none of"):
        Backprojector(flat_scan(), lopsided_grid(), weighting="hamming")  # type: ignore[arg-type]


def test_rows_that_do_not_run_along_the_slices_are_refused() -> None:
    tilted = Geometry.circular(Gantry(541.0, 949.0, 7, 61, (5.1, 2.9), tilt_deg=9.0), np.arange(5) * 70.0)
    with pytest.raises(GeometryError, match=r"same\s+tilt"):
        Backprojector(tilted, lopsided_grid())


def test_a_grid_at_the_source_is_refused() -> None:
    with pytest.raises(GeometryError, match="smaller field of view"):
        Backprojector(flat_scan(), Grid.centred((3, 9, 9), (1.0, 150.0, 150.0)))


def test_weighting_needs_the_isocentre_in_front_of_the_source() -> None:
    geometry, grid = flat_scan(), lopsided_grid()
    away = np.array([0.0, 0.0, 5000.0])
    moved = replace(geometry, source=geometry.source + away, detector=geometry.detector + away)
    there = replace(grid, first_voxel_mm=grid.first_voxel_mm + away)
    with pytest.raises(GeometryError, match="behind the source"):
        Backprojector(moved, there)
    Backprojector(moved, there, weighting="none")
