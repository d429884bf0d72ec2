"""What every solver must do: states without end, descent to the same minimum, no NaN, resuming; with every prior."""

import itertools

import numpy as np
import pytest

from lampyris.model import Gantry, Geometry, Grid, InputError, Step
from lampyris.projector import Projector
from lampyris.recon.iterative.certainty import certainty
from lampyris.recon.iterative.fidelity import WeightedSquares
from lampyris.recon.iterative.priors import prior
from lampyris.recon.iterative.solver import Settings, State, ordered_subsets

SOLVERS = {"ordered subsets": ordered_subsets}
PRIORS = {
    "quadratic": {},
    "huber": {"delta_hu": 30.0},
    "hyperbola": {"delta_hu": 30.0},
    "qggmrf": {"c_hu": 30.0},
    "tv": {"delta_hu": 5.0},
    "half": {"delta_hu": 60.0},
}
WATER = 0.02
BEAM = Gantry(541.0, 949.0, 5, 31, (3.4, 4.1), True, 1.6, 16.25)
GEOMETRY = Geometry.helical(BEAM, views=36, views_per_turn=23, table_feed_mm=-7.0, start_angle_deg=27.0)
GRID = Grid.centred((6, 11, 13), (1.9, 6.1, 5.3), (3.7, 0.9, -5.2))


@pytest.fixture(params=SOLVERS)
def solver(request):
    return SOLVERS[request.param]


@pytest.fixture
def projector():
    return Projector(GEOMETRY, GRID)


@pytest.fixture
def fidelity(projector, rng):
    truth = np.full(GRID.shape, 0.3 * WATER, np.float32)
    truth[1:5, 3:9, 2:10] = WATER
    integrals = projector.forward(truth)
    noise = rng.normal(0, 0.02, integrals.shape).astype(np.float32)
    return WeightedSquares(integrals + noise, rng.uniform(100, 900, integrals.shape).astype(np.float32))


@pytest.fixture
def start(rng):
    return rng.uniform(0, 1.5 * WATER, GRID.shape).astype(np.float32)


def chosen(name, projector, fidelity):
    kappa = certainty(projector, fidelity.weights)
    return prior(Step.of(name, **PRIORS[name]), spacing_mm=GRID.spacing_mm, water_per_mm=WATER, certainty=kappa)


def cost(projector, fidelity, pull, image, strength):
    return fidelity.misfit(projector.forward(image), slice(None)) + strength * pull.value(image)


@pytest.mark.parametrize("name", PRIORS)
def test_the_cost_falls_with_every_prior(solver, projector, fidelity, start, name):
    """To less than a twentieth in ten passes of four subsets, further in thirty more; the image stays finite, ≥ 0."""
    pull = chosen(name, projector, fidelity)
    settings = Settings(strength=50.0, subsets=4, passes=12)
    states = solver(projector, fidelity, pull, start, settings=settings)
    costs = [cost(projector, fidelity, pull, start, 50.0)]
    for state in itertools.islice(states, 40):
        if state.iteration in (10, 40):
            costs.append(cost(projector, fidelity, pull, state.image, 50.0))
    assert costs[1] < costs[0] / 20
    assert costs[2] <= costs[1] * 1.001
    assert np.isfinite(state.image).all()
    assert state.image.min() >= 0.0
    assert state.image.dtype == np.float32


def test_every_start_ends_in_the_same_image(solver, projector, fidelity, start):
    """The cost is strictly convex: from noise and from water, within 1 HU RMS."""
    pull = chosen("hyperbola", projector, fidelity)
    settings = Settings(strength=50.0, subsets=1)
    ends = []
    for first in (start, np.full(GRID.shape, WATER, np.float32)):
        states = solver(projector, fidelity, pull, first, settings=settings)
        ends.append(next(state for state in states if state.iteration == 250).image)
    assert np.sqrt(((ends[0] - ends[1]) ** 2).mean()) < 1e-3 * WATER


def test_states_go_on_without_end_and_tell_what_they_spent(solver, projector, fidelity, start):
    pull = chosen("quadratic", projector, fidelity)
    states = solver(projector, fidelity, pull, start, settings=Settings(subsets=3, passes=2))
    seen = [(state.iteration, state.passes, state.update_rms) for state in itertools.islice(states, 9)]
    assert [iteration for iteration, _, _ in seen] == list(range(1, 10))
    assert [passes for _, passes, _ in seen] == [float(n) for n in range(2, 11)]  # one to set up
    assert seen[-1][2] < seen[0][2]


def test_a_run_on_real_rays_resumes_to_the_bit(solver, projector, fidelity, start):
    pull = chosen("hyperbola", projector, fidelity)
    settings = Settings(strength=50.0, subsets=4, passes=8)

    def after(passes, first):
        states = solver(projector, fidelity, pull, first, settings=settings)
        return next(state for state in states if state.iteration == passes)

    kept = {name: np.array(array) for name, array in after(3, start).arrays().items()}
    np.testing.assert_array_equal(after(8, State.from_arrays(kept)).image, after(8, start).image)


def test_a_start_with_nan_is_refused(solver, projector, fidelity, start):
    start[2, 3, 4] = np.nan
    with pytest.raises(InputError, match="holds 1 NaN"):
        next(solver(projector, fidelity, chosen("quadratic", projector, fidelity), start, settings=Settings()))
