"""What an iterative method works on: beside the scan field there is nothing, whatever the analytic image says there."""

from dataclasses import replace

import numpy as np

from lampyris.model import Gantry, Geometry, Grid, GridRequest, Projections
from lampyris.recon.field import beyond, measured_reach
from lampyris.recon.iterative.domain import prepare
from lampyris.recon.iterative.fidelity import WeightedSquares

GANTRY = Gantry(541.0, 949.0, 4, 90, (3.1, 4.1), True, 0.25, 0.0)


def test_beyond_is_told_by_hand():
    """Columns at x = −3, −1, 1, 3 and rows at z = 2, 0, −2 (mm): corners are √13 = 3.6 away, sides 3."""
    grid = Grid((2, 3, 4), (1.0, 2.0, 2.0), np.array([-3.0, 0.5, 2.0]))
    expected = np.array([[True, False, False, True], [False] * 4, [True, False, False, True]])
    np.testing.assert_array_equal(beyond(grid, 3.1), expected)


def test_what_lies_beside_the_scan_field_is_not_taken_off_the_rays():
    """A stand-in for the analytic method gives 0.5 /mm everywhere: only within the scan field is it believed."""
    geometry = Geometry.circular(GANTRY, np.arange(0.0, 360.0, 8.0))
    data = np.full(geometry.shape, 0.7, np.float32)
    projections = Projections(data, np.ones_like(data), geometry, water_per_mm=0.02)
    reach = max(measured_reach(geometry))

    def analytic(request: GridRequest) -> tuple[np.ndarray, Grid]:
        side = request.field_of_view_mm or 0.0
        n, slices = request.matrix, 2
        x, z = request.centre_mm or (0.0, 0.0)
        grid = Grid.centred((slices, n, n), (2.0, side / n, side / n), (x, 0.0, z))
        return np.full(grid.shape, 0.5, np.float32), grid

    def likelihood(views: slice) -> WeightedSquares:
        return WeightedSquares(data[views], np.ones_like(data[views]))

    request = GridRequest(24, 1.2 * reach, (0.0, 0.0), 2.0)
    domain = prepare(projections, likelihood, request, analytic)
    assert domain.outer is not None
    values, grid = domain.outer
    outside = beyond(grid, reach)
    assert outside.any()
    assert not values[:, outside].any()
    # The body fills the detector: the lattice is 1.25 × 1.2 reaches wide, which leaves 1 − 1.5²/π = 0.28 of the circle.
    assert abs((values[:, ~outside] == 0.5).mean() - 0.28) < 0.03
    wide = replace(request, field_of_view_mm=2.4 * reach)
    domain = prepare(projections, likelihood, wide, analytic)
    assert not domain.start[:, beyond(domain.lattice.grid, reach)].any()
