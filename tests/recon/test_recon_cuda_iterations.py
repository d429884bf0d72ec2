"""Iterative and learned reconstruction on the card: the processor's image to 1 HU, by every method and likelihood."""

import numpy as np
import pytest

from lampyris.model import EngineUnavailable, Gantry, Geometry, Grid, GridRequest, Projections, Quanta, Step
from lampyris.phantom.assembly import line_integrals
from lampyris.phantom.shapes import Cylinder
from lampyris.projector import Projector, load
from lampyris.recon import reconstruct
from lampyris.recon.learned.denoiser import digest_of

WATER = 0.0193
ITERATIVE_HU = 1.0
GEOMETRY = Geometry.circular(Gantry(541.0, 949.0, 4, 16, (9.7, 16.9), True, 1.2, 7.75), 11.0 + np.arange(9) * 40.0)
REQUEST = GridRequest(7, 130.0, (5.0, -4.0), 11.0)
NETWORK = {"denoiser": "firefly-1", "denoiser_sha256": digest_of("firefly-1")}


@pytest.fixture(autouse=True)
def _card(monkeypatch: pytest.MonkeyPatch) -> None:
    """And little of what tells the noise, for the simulator's sake."""
    monkeypatch.setattr("lampyris.recon.noise.MATRIX_OF_FEW", 8)
    try:
        load("cuda")
    except EngineUnavailable as error:
        pytest.skip(f"{error}; judged in a simulator by test_recon_cuda_simulated")


@pytest.fixture
def projections(rng: np.random.Generator) -> Projections:
    """A lopsided body, counted with 2e5 quanta a ray, some of which do not come through."""
    integrals = line_integrals(Cylinder((9.0, 0.0, -6.0), (42.0, 31.0), 400.0), GEOMETRY, WATER)
    integrals += line_integrals(Cylinder((21.0, 0.0, 4.0), (9.0, 9.0), 400.0), GEOMETRY, 0.25 * WATER)
    air = np.full((1, *GEOMETRY.shape[1:]), 2e5)
    counts = rng.poisson(air * np.exp(-integrals)).astype(np.float32)
    seen = np.log(air / counts).astype(np.float32)
    quanta = Quanta(counts, air, np.ones(GEOMETRY.views), np.zeros(GEOMETRY.views, int), 30.0)
    return Projections(seen, counts, GEOMETRY, water_per_mm=WATER, quanta=quanta, scan_id="lopsided")


METHODS = {
    "least squares, their edge in units of the noise": Step.of("pwls", iterations=2, subsets=3, edge=0.4),
    "counted quanta, total variation": Step.of("poisson", iterations=1, subsets=3, prior="tv"),
    "plug and play": Step.of("plug_and_play", iterations=1, subsets=3, returns=1, **NETWORK),
    "a denoised analytic image": Step.of("fdk", **NETWORK),
}


@pytest.mark.parametrize("name", METHODS)
def test_the_card_makes_the_same_image(name: str, projections: Projections) -> None:
    expected = reconstruct(projections, METHODS[name], "body", REQUEST)
    found = reconstruct(projections, METHODS[name], "body", REQUEST, engine="cuda")
    assert np.ptp(expected.values) > 500.0
    np.testing.assert_allclose(found.values, expected.values, rtol=0, atol=ITERATIVE_HU)


def test_the_transpose_takes_arrays_where_they_lie_and_leaves_what_it_makes_there(rng: np.random.Generator) -> None:
    memory = load("cuda").memory
    grid = Grid.centred((5, 6, 7), (6.1, 16.3, 14.9), (3.7, 0.9, -5.2))
    image, data = rng.random(grid.shape, dtype=np.float32), rng.random(GEOMETRY.shape, dtype=np.float32)
    card, judge = Projector(GEOMETRY, grid, "cuda"), Projector(GEOMETRY, grid, "cpu")
    projected, back = card.forward(memory.up(image)), card.adjoint(memory.up(data))
    assert type(projected) is type(back) is type(memory.xp.empty(0))
    for found, expected in ((projected, judge.forward(image)), (back, judge.adjoint(data))):
        np.testing.assert_allclose(memory.down(found), expected, rtol=0, atol=1e-5 * expected.max())
