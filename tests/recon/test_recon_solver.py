"""The solver: hand-computed steps, a closed-form minimum, laws of descent, resuming, and runs that must be stopped."""

from dataclasses import dataclass, replace

import array_api_strict
import numpy as np
import pytest
from array_api_compat import array_namespace

from lampyris.model import DivergenceError, InputError, Quanta, RecipeError, Step
from lampyris.recon.iterative.fidelity import ShiftedPoisson, WeightedSquares, expected_squares
from lampyris.recon.iterative.priors import Anchor, prior
from lampyris.recon.iterative.priors.choose import DEFAULTS
from lampyris.recon.iterative.solver import Settings, State, ordered_subsets, spread_order

VIEWS, ROWS, COLUMNS = 30, 1, 9
SHAPE = (2, 3, 5)


@dataclass(frozen=True)
class Matrix:
    """A (views, cells, voxels): a projector of nothing but numbers, for any array library."""

    matrix: object

    def forward(self, image):
        xp = array_namespace(image)
        views, cells, voxels = self.matrix.shape
        return xp.reshape(xp.reshape(self.matrix, (-1, voxels)) @ xp.reshape(image, (-1,)), (views, ROWS, cells))

    def adjoint(self, projections):
        xp = array_namespace(projections)
        voxels = self.matrix.shape[-1]
        flat = xp.reshape(self.matrix, (-1, voxels))
        return xp.reshape(xp.permute_dims(flat, (1, 0)) @ xp.reshape(projections, (-1,)), SHAPE)

    def subset(self, views):
        return Matrix(self.matrix[views, ...])


@pytest.fixture
def matrix(rng):
    """Non-negative as line integrals are, unequal in every voxel and view."""
    lengths = rng.uniform(0, 1, (VIEWS, COLUMNS, 30)) ** 4
    return (lengths * np.linspace(0.5, 2.0, 30)).astype(np.float32)


@pytest.fixture
def truth(rng):
    return rng.uniform(0.2, 1.0, SHAPE).astype(np.float32)


@pytest.fixture
def fidelity(matrix, truth, rng):
    integrals = Matrix(matrix).forward(truth)
    noisy = integrals + rng.normal(0, 0.3, integrals.shape).astype(np.float32)
    return WeightedSquares(noisy, rng.uniform(0.2, 3.0, integrals.shape).astype(np.float32))


SMOOTH = prior(Step.of("quadratic"), spacing_mm=(2.0, 1.1, 0.7), water_per_mm=0.02)
START = np.full(SHAPE, 0.5, np.float32)


def run(states, passes):
    for state in states:
        if state.iteration == passes:
            return state
    raise AssertionError("a run has no end")


def minimum(matrix, fidelity, strength, pull):
    """Of ½(Ax − p)ᵀW(Ax − p) + strength·½xᵀRx without the bound x ≥ 0, by linear algebra; R from its gradient."""
    flat = matrix.reshape(-1, 30).astype(np.float64)
    weights = np.asarray(fidelity.weights, np.float64).ravel()
    unit = np.eye(30, dtype=np.float32).reshape(30, *SHAPE)
    r = np.stack([pull.gradient(each).ravel() for each in unit], 1)
    right = flat.T @ (weights * np.asarray(fidelity.integrals, np.float64).ravel())
    return np.linalg.solve(flat.T @ (weights[:, None] * flat) + strength * r, right).reshape(SHAPE)


def test_one_step_is_the_one_computed_by_hand():
    """Two voxels in one ray each of length 2 and 3, p = 1 and 1, weights 1 and 2, u = 1: D = 4 and 18,
    slopes 2·(2·0.25 − 1) = −1 and 3·2·(3·0.25 − 1) = −1.5; x = 0.25 + 1/4 and 0.25 + 1.5/18."""

    class Two:
        def forward(self, image):
            return (image.ravel() * np.array([2, 3], np.float32)).reshape(1, 1, 2)

        def adjoint(self, projections):
            return (projections.ravel() * np.array([2, 3], np.float32)).reshape(1, 1, 2)

        def subset(self, _views):
            return self

    data = WeightedSquares(np.ones((1, 1, 2), np.float32), np.array([1, 2], np.float32).reshape(1, 1, 2))
    nothing = Anchor(np.zeros((1, 1, 2), np.float32), 0.0)
    start = np.full((1, 1, 2), 0.25, np.float32)
    state = next(ordered_subsets(Two(), data, nothing, start, settings=Settings(subsets=1)))
    np.testing.assert_allclose(state.image.ravel(), [0.5, 1 / 3], rtol=1e-6)
    assert state.passes == 2.0  # one for D, one for the step
    assert state.update_rms == pytest.approx(np.sqrt((0.25**2 + (1 / 12) ** 2) / 2), rel=1e-6)
    assert state.cost == pytest.approx(0.5 * 0.5**2 + 0.5 * 2 * 0.25**2)
    np.testing.assert_array_equal(start, 0.25)  # the start is the caller's


@pytest.mark.parametrize(("subsets", "passes", "close"), [(1, 400, 2e-5), (5, 120, 5e-3)])
def test_the_minimum_is_that_of_linear_algebra(matrix, fidelity, subsets, passes, close):
    """All views at once to float32; relaxed subsets, of six views each, within 1/50 of the way from the start."""
    settings = Settings(strength=2.0, subsets=subsets, passes=40)
    expected = minimum(matrix, fidelity, 2.0, SMOOTH)
    assert expected.min() > 0.05  # the bound has no say
    found = run(ordered_subsets(Matrix(matrix), fidelity, SMOOTH, START, settings=settings), passes).image
    np.testing.assert_allclose(found, expected, atol=close)


def test_the_bound_holds_and_its_voxels_want_to_go_further_down(matrix, fidelity):
    """Karush–Kuhn–Tucker: the gradient is 0 where x > 0 and not negative where x = 0."""
    low = WeightedSquares(fidelity.integrals - 2.5, fidelity.weights)
    settings = Settings(strength=0.1, subsets=1)
    found = run(ordered_subsets(Matrix(matrix), low, SMOOTH, START, settings=settings), 600).image
    operator = Matrix(matrix)
    gradient = operator.adjoint(low.slope(operator.forward(found), slice(None))) + 0.1 * SMOOTH.gradient(found)
    scale = np.abs(operator.adjoint(low.slope(operator.forward(START), slice(None)))).max()
    assert found.min() == 0.0
    assert (found > 0).any()
    assert np.abs(gradient[found > 0]).max() < 1e-4 * scale
    assert gradient[found == 0].min() > -1e-4 * scale


def test_with_all_views_the_cost_falls_to_its_end(matrix, fidelity):
    state = run(ordered_subsets(Matrix(matrix), fidelity, SMOOTH, START, settings=Settings(subsets=1)), 80)
    costs = np.array(state.costs)
    assert len(costs) == 80
    assert costs[-1] < 0.1 * costs[0]
    assert (np.maximum.accumulate(costs[::-1])[::-1] - costs < 0.02 * costs[0]).all()  # momentum's ripples at most
    assert costs[-1] == pytest.approx(costs.min(), rel=1e-5)


def test_subsets_are_faster_than_all_views_at_once(matrix, fidelity):
    expected = minimum(matrix, fidelity, 2.0, SMOOTH)
    errors = []
    for subsets in (1, 5):
        settings = Settings(strength=2.0, subsets=subsets, passes=6)
        found = run(ordered_subsets(Matrix(matrix), fidelity, SMOOTH, START, settings=settings), 6).image
        errors.append(float(np.abs(found - expected).max()))
    assert errors[1] < 0.5 * errors[0]


def counted(fidelity):
    """Quanta that show the same integrals, some of them less than nothing."""
    beam = np.full((1, ROWS, COLUMNS), 400.0)
    measured = beam * np.exp(-fidelity.integrals) - 3.0
    return Quanta(measured.astype(np.float32), beam, np.ones(VIEWS), np.zeros(VIEWS, int), electronic=20.0)


@pytest.mark.parametrize("likelihood", ["squares", "poisson"])
@pytest.mark.parametrize("name", [*DEFAULTS, "anchor"])
def test_any_array_library_gives_the_same(name, likelihood, matrix, fidelity, truth, rng):
    """Every prior and both likelihoods: array-api-strict takes nothing that only NumPy does, and no NumPy array."""
    kappa = rng.uniform(0.5, 1.0, SHAPE).astype(np.float32)

    def image(array):
        data, counts = expected_squares(fidelity.integrals, fidelity.weights, array), counted(fidelity)
        chosen = data(slice(0, VIEWS)) if likelihood == "squares" else ShiftedPoisson(counts, array)
        pull = (
            Anchor(array(truth), array(kappa))
            if name == "anchor"
            else prior(Step.of(name), spacing_mm=(2.0, 1.1, 0.7), water_per_mm=20.0, certainty=array(kappa))
        )
        settings = Settings(strength=1.5, subsets=5, passes=6)
        return run(ordered_subsets(Matrix(array(matrix)), chosen, pull, array(START), settings=settings), 4).image

    found, expected = image(array_api_strict.asarray), image(np.asarray)
    assert isinstance(found, type(array_api_strict.asarray(START)))
    assert found.dtype == array_api_strict.float32
    assert np.ptp(expected) > 0.1
    np.testing.assert_allclose(np.asarray(found), expected, rtol=2e-4)


@pytest.mark.parametrize("stop", [1, 4])
def test_a_resumed_run_is_the_uninterrupted_one_to_the_bit(matrix, fidelity, stop):
    settings = Settings(strength=2.0, subsets=4, passes=9)
    edges = prior(Step.of("huber", delta_hu=5.0), spacing_mm=(2.0, 1.1, 0.7), water_per_mm=0.02)
    whole = run(ordered_subsets(Matrix(matrix), fidelity, edges, START, settings=settings), 9)
    halfway = run(ordered_subsets(Matrix(matrix), fidelity, edges, START, settings=settings), stop)
    kept = {name: np.array(array) for name, array in halfway.arrays().items()}
    resumed = run(ordered_subsets(Matrix(matrix), fidelity, edges, State.from_arrays(kept), settings=settings), 9)
    for name, array in whole.arrays().items():
        np.testing.assert_array_equal(resumed.arrays()[name], array, err_msg=name)


def test_a_damaged_checkpoint_is_refused(matrix, fidelity):
    arrays = next(ordered_subsets(Matrix(matrix), fidelity, SMOOTH, START, settings=Settings())).arrays()
    with pytest.raises(InputError, match="lacks costs, extrapolated"):
        State.from_arrays({name: each for name, each in arrays.items() if name not in ("costs", "extrapolated")})
    with pytest.raises(InputError, match=r"'image': \(1, 3, 5\)"):
        State.from_arrays({**arrays, "image": arrays["image"][:1]})


def test_a_gradient_of_another_function_is_stopped_with_its_story(matrix, fidelity):
    """Ascent: cost and steps grow from the first pass on."""

    @dataclass(frozen=True)
    class Ascent:
        inner: WeightedSquares

        @property
        def shape(self):
            return self.inner.shape

        def misfit(self, projected, views):
            return self.inner.misfit(projected, views)

        def slope(self, projected, views):
            return -self.inner.slope(projected, views)

        def curvature(self, views):
            return self.inner.curvature(views)

    with pytest.raises(DivergenceError, match=r"grow instead of falling: pass 1: cost .*/mm, pass .*: cost"):
        run(ordered_subsets(Matrix(matrix), Ascent(fidelity), SMOOTH, 3 * START, settings=Settings(subsets=1)), 500)


def test_a_curvature_too_low_is_stopped(matrix, fidelity):
    """Steps 40 times too long run away within a few passes, and never into a silent NaN."""

    class Flat(WeightedSquares):
        __slots__ = ()

        def curvature(self, views):
            return self.weights[views] / 40

    flat = Flat(fidelity.integrals, fidelity.weights)
    with pytest.raises(DivergenceError, match="pass 1: cost"):
        run(ordered_subsets(Matrix(matrix), flat, SMOOTH, START, settings=Settings(subsets=1)), 500)


def test_infinity_is_stopped_at_once(matrix, fidelity):
    class Broken:
        def value(self, _image):
            return 0.0

        def gradient(self, image):
            return np.full_like(image, -np.inf)

        def curvature(self, image):
            return np.ones_like(image)

    with np.errstate(invalid="ignore"), pytest.raises(DivergenceError, match="no longer finite: pass 1"):
        next(ordered_subsets(Matrix(matrix), fidelity, Broken(), START, settings=Settings(subsets=1)))


def test_voxels_that_nothing_knows_of_stay_as_they_were(matrix, fidelity):
    """No ray and no prior: neither 0/0 nor a step."""
    blind = matrix.copy()
    blind[..., 7] = 0.0
    nothing = Anchor(np.zeros(SHAPE, np.float32), 0.0)
    state = run(ordered_subsets(Matrix(blind), fidelity, nothing, START, settings=Settings(subsets=5)), 3)
    assert state.image.ravel()[7] == 0.5
    assert np.isfinite(state.image).all()


@pytest.mark.parametrize("subsets", [1, 2, 5, 7, 16, 24])
def test_every_subset_has_its_turn(subsets):
    assert sorted(spread_order(subsets)) == list(range(subsets))


def test_neighbours_in_time_are_apart_in_angle():
    order = np.array(spread_order(16))
    apart = np.abs(np.diff(order))
    assert np.minimum(apart, 16 - apart).min() >= 5


def test_steps_relax_after_three_tenths_of_the_passes():
    settings = Settings(passes=20, subsets=8)
    assert [settings.relaxation(at) for at in (0.0, 6.0, 8.0, 16.0)] == [1.0, 1.0, 0.5, 1 / 6]
    assert replace(settings, subsets=1).relaxation(100.0) == 1.0


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"strength": -1.0}, "strength of the prior is -1.0"),
        ({"strength": float("nan")}, "strength of the prior is nan"),
        ({"subsets": 0}, "subsets is 0, expected a whole number"),
        ({"passes": 2.5}, r"passes is 2\.5"),
        ({"prior_per_pass": True}, "prior_per_pass is True"),
    ],
)
def test_settings_out_of_range_are_refused(wrong, words):
    with pytest.raises(RecipeError, match=words):
        Settings(**wrong)


def test_a_start_with_nan_or_of_another_scan_is_refused(matrix, fidelity):
    broken = START.copy()
    broken[0, 1, 2] = np.nan
    with pytest.raises(InputError, match="start image holds 1 NaN or infinite of 30 voxels"):
        next(ordered_subsets(Matrix(matrix), fidelity, SMOOTH, broken, settings=Settings()))
    with pytest.raises(InputError, match=r"makes \(29, 1, 9\) projections, measured were \(30, 1, 9\)"):
        next(ordered_subsets(Matrix(matrix[1:]), fidelity, SMOOTH, START, settings=Settings(subsets=1)))
