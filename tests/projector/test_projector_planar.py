"""Backprojection of a single slice: the same sum as the one for stacks, a hand-computed view, and its refusals."""

import numpy as np
import pytest

from lampyris.model import FocalSpotShift, Gantry, Geometry, GeometryError, Grid, InputError
from lampyris.projector.backprojection import PlanarBackprojector, backproject, fits

ANGLES = 13.0 + np.arange(7) * 25.7
BEAMS = {
    "parallel": Geometry.parallel_beam(ANGLES, rows=1, columns=53, cell_mm=(1.0, 1.7), central_column=24.2),
    "flat": Geometry.circular(Gantry(541.0, 949.0, 1, 53, (1.0, 2.9), False, 0.0, 24.2), ANGLES),
    "curved": Geometry.circular(Gantry(541.0, 949.0, 1, 53, (1.0, 2.9), True, 0.0, 24.2), ANGLES),
}
SLICE = Grid.centred((1, 40, 33), (1.0, 1.3, 1.1), (3.0, 0.0, -5.0))


@pytest.mark.parametrize("weighting", ["fdk", "none"])
@pytest.mark.parametrize("beam", BEAMS)
def test_a_slice_is_that_of_the_stack(beam, weighting, rng):
    """float32 places of 50 columns: 2⁻²⁴·50 cells times the step between cells, seven views."""
    projections = rng.random((7, 1, 53), dtype=np.float32)
    planar = PlanarBackprojector(BEAMS[beam], SLICE, weighting=weighting)
    planar.add(projections[:3])
    planar.add(projections[3:], 3)
    expected = backproject(projections, BEAMS[beam], SLICE, weighting=weighting)
    np.testing.assert_allclose(planar.image(), expected, atol=5e-5)


def test_one_view_from_above_by_hand():
    """Source 100 mm above the isocentre, detector 200 mm below it, cells of 3 mm: at the isocentre's height a voxel x
    falls on column x + 1.5, weight 1; 20 mm nearer to the source the scale is 300/80 and the weight (100/80)²."""
    geometry = Geometry.circular(Gantry(100.0, 300.0, 1, 4, (1.0, 3.0), False), np.zeros(1))
    grid = Grid((1, 2, 2), (1.0, 20.0, 0.8), np.array([-0.4, 0.0, 20.0]))
    planar = PlanarBackprojector(geometry, grid)
    planar.add(np.array([[[1.0, 2.0, 4.0, 8.0]]], np.float32))

    def between(x, scale):
        return float(np.interp(x * scale / 3.0 + 1.5, np.arange(4), [1.0, 2.0, 4.0, 8.0]))

    near = [1.5625 * between(x, 3.75) for x in (-0.4, 0.4)]
    far = [between(x, 3.0) for x in (-0.4, 0.4)]
    np.testing.assert_allclose(planar.image()[0], [near, far], rtol=1e-6)


def test_what_it_cannot_take_is_refused():
    tall = Geometry.circular(Gantry(541.0, 949.0, 2, 53, (1.0, 2.9)), ANGLES)
    with pytest.raises(GeometryError, match="one detector row and the slice in its plane, found 2 rows and 1 slices"):
        PlanarBackprojector(tall, SLICE)
    assert not fits(BEAMS["flat"], Grid.centred((1, 4, 4), (1.0, 1.0, 1.0), (0.0, 0.3, 0.0)))
    flying = FocalSpotShift.alternating(7, (-0.001, 0.001))
    flown = Geometry.circular(Gantry(541.0, 949.0, 1, 53, (1.0, 2.9)), ANGLES, shift=flying)
    assert not fits(flown, SLICE)
    with pytest.raises(InputError, match=r"expected float32 \(≤ 7, 1, 53\)"):
        PlanarBackprojector(BEAMS["flat"], SLICE).add(np.zeros((7, 1, 52), np.float32))
