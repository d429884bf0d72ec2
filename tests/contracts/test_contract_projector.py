"""What every projector engine must do: hand-computed points, a smooth closed form on lopsided scans, algebraic laws."""

import math
from dataclasses import replace

import numpy as np
import pytest

from lampyris.model import EngineUnavailable, FocalSpotShift, Gantry, Geometry, Grid
from lampyris.projector import Projector, load

ENGINES = ("cpu", "reference", "cuda")
CURVED = Gantry(541.0, 949.0, 9, 47, (3.4, 3.1), True, 3.6, 24.25)
FLAT = Gantry(541.0, 949.0, 9, 47, (3.4, 3.1), False, 3.6, 24.25)
FAN = Gantry(541.0, 949.0, 1, 47, (9.7, 3.1), False, 0.1, 24.25)
ANGLES = np.array([17.0, 102.0, 161.0, 248.0, 322.0])
SPOTS = FocalSpotShift.alternating(7, (-0.002, 0.003), (-0.7, 0.5), (1.3, -0.9))
GEOMETRIES = {
    "parallel": Geometry.parallel_beam(
        ANGLES, rows=9, columns=47, cell_mm=(2.1, 1.9), central_row=3.6, central_column=24.25
    ),
    "fan": Geometry.circular(FAN, ANGLES, axial_mm=0.4),
    "flat": Geometry.circular(FLAT, ANGLES, axial_mm=1.3),
    "curved": Geometry.circular(CURVED, ANGLES, axial_mm=1.3),
    "helical": Geometry.helical(
        CURVED, views=7, views_per_turn=5, table_feed_mm=-6.3, start_angle_deg=27.0, start_axial_mm=4.5
    ),
    "flying": Geometry.circular(CURVED, np.linspace(12.0, 294.0, 7), axial_mm=1.3, shift=SPOTS),
    "flying flat": Geometry.circular(FLAT, np.linspace(12.0, 294.0, 7), axial_mm=1.3, shift=SPOTS),
}
TURN = math.radians(54.0)
AXES = np.array([[0.0, -1.0, 0.0], [math.sin(TURN), 0.0, -math.cos(TURN)], [-math.cos(TURN), 0.0, -math.sin(TURN)]])
"""Slices against y, the lattice turned by 54° in the plane of the gantry."""


def turned(grid: Grid) -> Grid:
    """The same lattice with AXES, about its own middle."""
    half = (np.asarray(grid.shape) - 1) / 2 * np.asarray(grid.spacing_mm)
    return Grid(grid.shape, grid.spacing_mm, grid.centre_mm - half @ AXES, AXES)


FINE = Grid.centred((56, 37, 43), (0.47, 1.7, 1.5), (3.7, 0.9, -5.2))
COARSE = Grid.centred((17, 11, 13), (1.6, 6.1, 5.3), (3.7, 0.9, -5.2))
"""Slices, rows and columns all different, none centred on the isocentre; one for smooth things, one for laws."""


@pytest.fixture(params=ENGINES)
def engine(request: pytest.FixtureRequest) -> str:
    name = str(request.param)
    try:
        load(name)
    except EngineUnavailable as error:
        pytest.skip(f"{error}; its kernels are judged in a simulator by tests/projector/test_projector_cuda.py")
    return name


@pytest.fixture(params=GEOMETRIES)
def geometry(request: pytest.FixtureRequest) -> Geometry:
    return GEOMETRIES[request.param]


@pytest.fixture(params=[COARSE, turned(COARSE)], ids=["default axes", "turned axes"])
def grid(request: pytest.FixtureRequest) -> Grid:
    return request.param


class Blob:
    """A Gaussian exp(−½ qᵀ C⁻¹ q) with principal widths along x, y, z, and its line integral in closed form."""

    def __init__(
        self, centre: tuple[float, ...], widths: tuple[float, ...], covariance: np.ndarray | None = None
    ) -> None:
        self.centre = np.asarray(centre)
        self.covariance = np.diag(np.square(widths)) if covariance is None else covariance
        self.inverse = np.linalg.inv(self.covariance)

    def values(self, grid: Grid) -> np.ndarray:
        index = np.stack(np.meshgrid(*map(np.arange, grid.shape), indexing="ij"), -1)
        q = grid.position_mm(index) - self.centre
        return np.exp(-0.5 * np.einsum("...i,ij,...j->...", q, self.inverse, q)).astype(np.float32)

    def as_voxels(self, grid: Grid) -> tuple["Blob", float]:
        """The blob convolved with a voxel, to second order, and its height: mass and second moments are exact.

        A box of width Δ has variance Δ²/12, and second moments of a convolution add.
        """
        covariance = self.covariance + grid.axes.T @ np.diag(np.square(grid.spacing_mm) / 12) @ grid.axes
        return Blob(self.centre, (), covariance), math.sqrt(np.linalg.det(self.covariance) / np.linalg.det(covariance))

    def line_integrals(self, geometry: Geometry) -> np.ndarray:
        """√(2π/a)·exp(−½(c − b²/a)) with a = dᵀC⁻¹d, b = dᵀC⁻¹q, c = qᵀC⁻¹q; mean over 3 × 3 Gauss points a cell."""
        node = math.sqrt(0.6) / 2
        total = np.zeros(geometry.shape)
        for at_row, weight_row in ((-node, 5 / 18), (0.0, 8 / 18), (node, 5 / 18)):
            for at_column, weight_column in ((-node, 5 / 18), (0.0, 8 / 18), (node, 5 / 18)):
                for view in range(geometry.views):
                    cells = geometry.cells_mm(
                        view, np.arange(geometry.rows) + at_row, np.arange(geometry.columns) + at_column
                    )
                    total[view] += weight_row * weight_column * self._along(geometry, view, cells)
        return total

    def _along(self, geometry: Geometry, view: int, cells: np.ndarray) -> np.ndarray:
        if geometry.parallel:
            d = np.broadcast_to(geometry.detector[view] - geometry.source[view], cells.shape)
        else:
            d = cells - geometry.source[view]
        d = d / np.linalg.norm(d, axis=-1, keepdims=True)
        q = cells - self.centre
        a, b, c = (np.einsum("...i,ij,...j->...", e, self.inverse, f) for e, f in ((d, d), (d, q), (q, q)))
        return np.sqrt(2 * np.pi / a) * np.exp(-0.5 * (c - b * b / a))


@pytest.mark.parametrize("grid", [FINE, turned(FINE)], ids=["default axes", "turned axes"])
def test_forward_of_a_blob_is_its_closed_form(engine: str, geometry: Geometry, grid: Grid) -> None:
    """The voxelised blob is known to second order and the cell's mean to sixth, so little is left to disagree about.

    Left over, relative to the peak: the staircase of voxels of Δ = 0.47 mm seen through rows of b = 1.94 mm, whose
    first harmonic is f′·Δ²/(π²b) = (0.6/2.9)·0.221/(9.87·1.94) = 2.4·10⁻³; across, every ray cuts the lattice by 6° or
    more and so meets all phases of its staircase within the blob. One magnification and one trapezoid for the whole
    voxel: (Δ/2)/depth = 0.9/470 of a position that counts up to exp(−½), halved by front against back: 6·10⁻⁴. The
    ends of the grid, 3.9σ away: 5·10⁻⁴. Together 3.5·10⁻³. A shift by a twentieth of a cell would be 2·10⁻².
    """
    blob = Blob((5.1, 0.3, -8.3), (5.9, 2.9, 4.6))
    voxels, height = blob.as_voxels(grid)
    expected = height * voxels.line_integrals(geometry)
    found = Projector(geometry, grid, engine).forward(blob.values(grid))
    assert expected.max() > 8
    np.testing.assert_allclose(found, expected, rtol=0, atol=3.5e-3 * expected.max())


def test_adjoint_is_the_transpose_of_forward(
    engine: str, geometry: Geometry, grid: Grid, rng: np.random.Generator
) -> None:
    """⟨Ax, y⟩ = ⟨x, Aᵀy⟩ with signs, so that nothing hides behind positive sums: float32 rounding of √N terms."""
    operator = Projector(geometry, grid, engine)
    image = rng.standard_normal(grid.shape, dtype=np.float32)
    projections = rng.standard_normal(geometry.shape, dtype=np.float32)
    forward = operator.forward(image).astype(np.float64)
    left = float(np.vdot(forward, projections))
    right = float(np.vdot(image.astype(np.float64), operator.adjoint(projections)))
    assert left == pytest.approx(right, abs=1e-6 * np.linalg.norm(forward) * np.linalg.norm(projections))


def test_forward_and_adjoint_are_linear(engine: str, geometry: Geometry, rng: np.random.Generator) -> None:
    operator = Projector(geometry, COARSE, engine)
    for apply, shape in ((operator.forward, COARSE.shape), (operator.adjoint, geometry.shape)):
        one, other = (rng.standard_normal(shape, dtype=np.float32) for _ in range(2))
        together = apply(np.float32(0.7) * one - np.float32(2.3) * other)
        apart = np.float32(0.7) * apply(one) - np.float32(2.3) * apply(other)
        np.testing.assert_allclose(together, apart, rtol=0, atol=1e-5 * np.abs(apart).max())


def test_no_weight_is_negative(engine: str, geometry: Geometry, grid: Grid, rng: np.random.Generator) -> None:
    """Positive images and projections give nothing below zero beyond the rounding of a position, 10⁻⁵ of the peak."""
    operator = Projector(geometry, grid, engine)
    for result in (
        operator.forward(rng.random(grid.shape, dtype=np.float32)),
        operator.adjoint(rng.random(geometry.shape, dtype=np.float32)),
    ):
        assert result.max() > 0
        assert result.min() >= -1e-5 * result.max()


SPECK = (3.2, 1.4, 21.6)
"""x, y, z mm of the one voxel of the hand-computed points."""
FINE_CELLS = Gantry(541.0, 949.0, 77, 301, (0.34, 0.31), False, 33.6, 168.25)


@pytest.mark.parametrize(
    ("geometry", "row", "column", "magnification"),
    [
        # Source at (0, 0, 541), depth 541 − 21.6 = 519.4: magnified 949/519.4 = 1.827108.
        # Column 168.25 + 3.2·1.827108/0.31, row 33.6 + 1.4·1.827108/0.34.
        pytest.param(Geometry.circular(FINE_CELLS, np.array([0.0])), 41.123, 187.110, 1.82711, id="flat, source above"),
        # A quarter turn: source at (541, 0, 0), u = (0, 0, −1), depth 541 − 3.2 = 537.8, magnified 1.764597.
        # Column 168.25 − 21.6·1.764597/0.31, row 33.6 + 1.4·1.764597/0.34.
        pytest.param(
            Geometry.circular(FINE_CELLS, np.array([90.0])), 40.866, 45.297, 1.76460, id="flat, quarter turn"
        ),
        # The arc about (541, 0, 0): angle −atan(21.6/537.8) = −0.040142, column 168.25 − 0.040142·949/0.31;
        # in-plane distance 538.2336, magnified 1.763175.
        pytest.param(
            Geometry.circular(replace(FINE_CELLS, curved=True), np.array([90.0])), 40.860, 45.364, 1.76317, id="curved"
        ),
        # The table has moved source and detector by 5: the rows see 1.4 − 5.
        pytest.param(
            Geometry.circular(FINE_CELLS, np.array([0.0]), axial_mm=5.0), 14.254, 187.110, 1.82711, id="table moved"
        ),
        # Only the source flies, by 2 mm along y: the shadow moves by −2·(1.827108 − 1)/0.34 rows from 41.123.
        pytest.param(
            Geometry.circular(FINE_CELLS, np.array([0.0]), shift=FocalSpotShift.alternating(1, axial_mm=(2.0,))),
            36.258, 187.110, 1.82711, id="flying in z",
        ),
        # The source flies by 0.01 rad to x = 5.4099, z = 540.9730, the plane stays: magnified 948.9730/519.3730 =
        # 1.827151, lands at x = 5.4099 + (3.2 − 5.4099)·1.827151 = 1.3721.
        pytest.param(
            Geometry.circular(FINE_CELLS, np.array([0.0]), shift=FocalSpotShift.alternating(1, angular_rad=(0.01,))),
            41.124, 172.676, 1.82715, id="flying in plane",
        ),
        # Parallel from above: column 168.25 + 3.2/0.19, row 33.6 + 1.4/0.21.
        pytest.param(
            Geometry.parallel_beam(
                np.array([0.0]), rows=77, columns=301, cell_mm=(0.21, 0.19), central_row=33.6, central_column=168.25
            ),
            40.267, 185.092, 1.0, id="parallel",
        ),
    ],
)  # fmt: skip
def test_a_speck_casts_its_shadow_where_the_hand_says(
    engine: str, geometry: Geometry, row: float, column: float, magnification: float
) -> None:
    """Centroid and sum of one voxel's shadow.

    A shadow 8 cells wide with edges inside cells has its centroid moved by up to 2·(1/8)/8 = 0.03 of a cell. The sum
    times the cell's area is the voxel's volume times the square of the magnification; rays within 2.4° of the normal
    make it 1/cos³ ≤ 1.0026 more.
    """
    grid = Grid.centred((3, 3, 3), (1.9, 1.4, 1.6), SPECK)
    image = np.zeros(grid.shape, np.float32)
    image[1, 1, 1] = 2.0
    shadow = Projector(geometry, grid, engine).forward(image)[0].astype(np.float64)
    rows, columns = np.indices(shadow.shape)
    assert (shadow * rows).sum() / shadow.sum() == pytest.approx(row, abs=0.03)
    assert (shadow * columns).sum() / shadow.sum() == pytest.approx(column, abs=0.03)
    area = math.prod(geometry.cell_mm)
    assert shadow.sum() * area == pytest.approx(2.0 * 1.9 * 1.4 * 1.6 * magnification**2, rel=3e-3)
