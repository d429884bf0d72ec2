"""Fidelities: misfits by hand and by SciPy, slopes as derivatives, parabolas above, scores without bias, bad inputs."""

import array_api_strict
import numpy as np
import pytest
from scipy.stats import poisson

from lampyris.model import InputError, Quanta
from lampyris.recon.iterative import fidelity as fidelities
from lampyris.recon.iterative.counted import FAR
from lampyris.recon.iterative.fidelity import ShiftedPoisson, WeightedSquares, expected_squares, expected_weights

SHAPE = (5, 3, 7)
EVERY = slice(None)
BEND = np.stack([(1 - 0.02 * c) * q - 0.011 * q**2 for c, q in ((c, np.arange(0, 12.01, 0.25)) for c in range(7))])
"""P(q) of seven columns at q = 0, ¼ … 12: climbs, bends downwards."""


def quanta(measured, *, electronic=9.0, hardening=None, offset=None, air=None):
    views, rows, columns = measured.shape
    beam = 20000.0 * (1 + 0.1 * np.arange(2 * rows * columns).reshape(2, rows, columns) / 42) if air is None else air
    exposure, spot = np.linspace(0.8, 1.3, views), np.arange(views) % 2
    return Quanta(np.asarray(measured, np.float32), beam, exposure, spot, electronic, hardening, 4.0, offset)


def mixed(rng):
    """Counts from bright to starved, some below zero and some below −r."""
    measured = rng.poisson(np.geomspace(0.3, 3e4, 105)).reshape(SHAPE) + 3.0 * rng.standard_normal(SHAPE)
    measured[0, 0, :3] = (-4.0, -9.0, -17.0)
    return measured


def test_weighted_squares_by_hand():
    """½(2·1² + 3·2²) = 7; slopes 2·1 and 3·(−2)."""
    p, w = np.array([[[1.0, 5.0, 4.0]]]), np.array([[[2.0, 3.0, 0.0]]])
    found = WeightedSquares(p, w)
    q = np.array([[[2.0, 3.0, 9.0]]])
    assert found.misfit(q, EVERY) == pytest.approx(7.0)
    assert found.slope(q, EVERY).ravel() == pytest.approx([2.0, -6.0, 0.0])
    assert found.curvature(EVERY).ravel() == pytest.approx([2.0, 3.0, 0.0])


def test_integrals_without_weight_may_be_anything():
    found = WeightedSquares(np.array([[[np.nan, 1.0]]]), np.array([[[0.0, 1.0]]]))
    q = np.array([[[3.0, 3.0]]])
    assert found.misfit(q, EVERY) == pytest.approx(2.0)
    assert found.slope(q, EVERY).ravel() == pytest.approx([0.0, 2.0])


def test_differences_of_the_misfit_are_those_of_the_poisson_likelihood(rng):
    """SciPy's Poisson log-probability of the count y + r at mean ȳ + r, whole numbers: −Δ ln = Δ misfit, to 1e-9."""
    measured = rng.poisson(12.0, SHAPE) - 3.0
    found = ShiftedPoisson(quanta(measured, electronic=5.0))
    beam = found.quanta.open_beam(EVERY).astype(np.float64)
    one, other = -np.log(rng.uniform(4, 20, SHAPE) / beam), -np.log(rng.uniform(4, 20, SHAPE) / beam)

    def likelihood(q):
        return -poisson.logpmf(measured + 5, beam * np.exp(-q) + 5).sum()

    assert found.misfit(one, EVERY) - found.misfit(other, EVERY) == pytest.approx(
        likelihood(one) - likelihood(other), rel=1e-9
    )


def test_without_electronics_the_slope_is_count_less_mean(rng):
    measured = rng.poisson(30.0, SHAPE)
    found = ShiftedPoisson(quanta(measured, electronic=0.0))
    beam = found.quanta.open_beam(EVERY).astype(np.float64)
    q = -np.log(rng.uniform(20, 45, SHAPE) / beam)
    assert found.slope(q, EVERY) == pytest.approx(measured - beam * np.exp(-q), rel=1e-6)


@pytest.mark.parametrize("hardening", [None, BEND])
@pytest.mark.parametrize("around", [0.3, 5.0, 11.0, -0.4])
def test_slope_is_the_derivative_of_the_misfit(rng, hardening, around):
    """Central differences of 1e-5 in double precision, from bright to starved to lost, inside and beyond the table; no
    node within the difference."""
    offset = (0.05 * rng.standard_normal(SHAPE)).astype(np.float32)
    found = ShiftedPoisson(quanta(mixed(rng), hardening=hardening, offset=offset))
    q = around + rng.uniform(0, 0.2, SHAPE)
    slope, step = found.slope(q, EVERY), 1e-5
    for place in ((0, 0, 0), (0, 0, 1), (0, 0, 2), (2, 1, 3), (4, 2, 6), (1, 2, 5)):
        low, high = q.copy(), q.copy()
        low[place] -= step
        high[place] += step
        derivative = (found.misfit(high, EVERY) - found.misfit(low, EVERY)) / (2 * step)
        assert derivative == pytest.approx(slope[place], rel=1e-4, abs=1e-4 * float(found.curvature(EVERY)[place]))


@pytest.mark.parametrize("hardening", [None, BEND])
@pytest.mark.parametrize("electronic", [0.05, 9.0, 400.0])
def test_the_parabola_lies_above_everywhere(rng, hardening, electronic):
    """Touching at any q ≥ 0 and evaluated at any other: misfit ≤ tangent + ½·curvature·distance². Each pair in turn
    moves all rays; a ray at a time, because one may not make up for another. The table is straight between nodes, so
    that a kink may stand out by P″·spacing·slope·¼, at most 0.022·¼·¼ of the slope."""
    measured = mixed(rng)
    found = ShiftedPoisson(quanta(measured, electronic=electronic, hardening=hardening))
    bound = found.curvature(EVERY)
    ray = [ShiftedPoisson(quanta(measured[:, :1, c : c + 1], electronic=electronic,
           hardening=None if hardening is None else hardening[c : c + 1],
           air=found.quanta.air[:, :1, c : c + 1])) for c in range(7)]  # fmt: skip
    for c, one in enumerate(ray):
        for view in range(5):
            values = np.arange(0.0, 13.0, 0.31)[:, None, None]
            cost = np.array([one.misfit(q[None], [view]) for q in values])
            slope = np.array([one.slope(q[None], [view])[0, 0, 0] for q in values])
            away = values.ravel()[None, :] - values.ravel()[:, None]
            parabola = cost[:, None] + slope[:, None] * away + 0.5 * bound[view, 0, c] * away**2
            kink = 0.0 if hardening is None else 0.0014 * np.abs(slope)[:, None]
            assert (cost[None, :] <= parabola + kink + 1e-6 * np.abs(cost).max()).all()


def test_the_bound_is_near_the_curvature_where_quanta_are_many():
    """At the best fit h″ = y²/(y + r); `most` is y + FAR²/2 + FAR·√y…, 4.1 % above 10 000: no more is lost."""
    found = ShiftedPoisson(quanta(np.full(SHAPE, 1e4), electronic=9.0))
    assert found.curvature(EVERY) == pytest.approx(1e4, rel=0.042)
    assert FAR == 4.0


def test_scores_are_unbiased_at_the_truth_down_to_half_a_quantum(rng):
    """Mean slope of 400 000 rays within four standard errors of 0; clipping counts at −r or at 0 breaks it."""
    shape = (8, 100, 500)
    for mean, electronic in ((0.5, 4.0), (3.0, 25.0), (40.0, 25.0), (0.5, 0.3)):
        noise = np.sqrt(electronic) * rng.standard_normal(shape)
        measured = (rng.poisson(mean, shape) + noise).astype(np.float32)
        air = np.full((1, 100, 500), 1000.0)

        def score(counts, air=air, electronic=electronic, mean=mean):
            given = Quanta(counts, air, np.ones(8), np.zeros(8, int), electronic)
            return ShiftedPoisson(given).slope(np.full(shape, -np.log(mean / 1000)), EVERY)

        slope = score(measured)
        error = slope.std() / np.sqrt(slope.size)
        assert abs(slope.mean()) < 4 * error
        assert slope.std() == pytest.approx(mean / np.sqrt(mean + electronic), rel=0.02)  # Fisher's information
        if mean < 1 < electronic:
            assert abs(score(np.maximum(measured, 0)).mean()) > 40 * error


def test_steps_on_the_parabola_only_descend_and_end_at_the_counts(rng):
    """From far off (the empty image) each ray's own steps end where ȳ = y, within 1 % of it after 60; cost never
    rises. Air needs no step, a count of 30 behind 20 000 some twenty."""
    measured = rng.poisson(np.geomspace(30, 2e4, 105)).reshape(SHAPE).astype(np.float64)
    found = ShiftedPoisson(quanta(measured, hardening=BEND))
    q, bound = np.zeros(SHAPE), found.curvature(EVERY)
    costs = []
    for _ in range(200):
        costs.append(found.misfit(q, EVERY))
        q = np.maximum(q - found.slope(q, EVERY) / bound, 0)
    assert (np.diff(costs) <= 1e-9 * costs[0]).all()
    beam = found.quanta.open_beam(EVERY)
    p = np.stack([np.interp(q[..., c], np.arange(0, 12.01, 0.25), BEND[c]) for c in range(7)], -1)
    free = q > 0
    assert free.sum() > 90
    assert (beam * np.exp(-p))[free] == pytest.approx(measured[free], rel=0.01)


def test_cells_without_beam_have_no_say(rng):
    air = np.full((2, 3, 7), 1e4)
    air[:, 1, 4] = 0
    found = ShiftedPoisson(quanta(mixed(rng), air=air))
    q = np.full(SHAPE, 2.0)
    far = q.copy()
    far[:, 1, 4] = 60.0
    assert (found.slope(q, EVERY)[:, 1, 4] == 0).all()
    assert (found.curvature(EVERY)[:, 1, 4] == 0).all()
    assert found.misfit(q, EVERY) == found.misfit(far, EVERY)


@pytest.mark.parametrize("kind", ["squares", "poisson"])
def test_blocks_and_subsets_are_parts_of_the_whole(rng, kind, monkeypatch):
    offset = (0.1 * rng.standard_normal(SHAPE)).astype(np.float32)
    found = (
        ShiftedPoisson(quanta(mixed(rng), hardening=BEND, offset=offset))
        if kind == "poisson"
        else WeightedSquares(rng.standard_normal(SHAPE), rng.uniform(0, 3, SHAPE))
    )
    q = rng.uniform(0, 9, SHAPE)
    whole = found.slope(q, EVERY), found.misfit(q, EVERY), found.curvature(EVERY)
    monkeypatch.setattr(fidelities, "CELLS_PER_BLOCK", 21)
    assert found.shape == SHAPE
    assert found.misfit(q, EVERY) == pytest.approx(whole[1], rel=1e-12)
    for views in (slice(1, 5, 2), [4, 0, 3], slice(4, None, -2)):
        assert found.slope(q[views], views) == pytest.approx(whole[0][views], rel=1e-12)
        assert found.curvature(views) == pytest.approx(whole[2][views], rel=1e-6)
    parts = [found.misfit(q[views], views) for views in (slice(0, None, 2), [1, 3])]
    assert sum(parts) == pytest.approx(whole[1], rel=1e-12)


@pytest.mark.parametrize("kind", ["squares", "poisson"])
def test_any_array_type_gives_the_same(rng, kind):
    q = rng.uniform(0, 9, SHAPE).astype(np.float32)
    p, w = rng.standard_normal(SHAPE).astype(np.float32), rng.uniform(0, 3, SHAPE).astype(np.float32)
    strict = array_api_strict.asarray
    if kind == "poisson":
        ours = theirs = ShiftedPoisson(quanta(mixed(rng), hardening=BEND))
    else:
        ours, theirs = WeightedSquares(p, w), WeightedSquares(strict(p), strict(w))
    for views in (slice(1, 4), [3, 0]):
        slope = theirs.slope(strict(q[views]), views)
        assert slope.dtype == array_api_strict.float32
        assert np.asarray(slope) == pytest.approx(ours.slope(q[views], views), rel=1e-4, abs=1e-4)
        assert theirs.misfit(strict(q[views]), views) == pytest.approx(ours.misfit(q[views], views), rel=1e-5)


def test_means_of_weights_are_the_same_of_any_array_type(rng):
    weights = np.where(rng.random((9, 4, 11)) < 0.2, 0, rng.uniform(1, 9, (9, 4, 11))).astype(np.float32)
    integrals = rng.random((9, 4, 11), dtype=np.float32)
    strict = array_api_strict.asarray
    ours, theirs = expected_squares(integrals, weights), expected_squares(integrals, weights, strict)
    for views in (slice(0, 4), slice(3, 9)):
        found, expected = theirs(views), ours(views)
        assert found.weights.dtype == array_api_strict.float32
        np.testing.assert_array_equal(np.asarray(found.weights), expected.weights)
        np.testing.assert_array_equal(np.asarray(found.integrals), integrals[views])


def test_quanta_go_where_they_are_worked_on(rng):
    """Counts, air and offset taken there once: slopes and curvatures are of that array type."""
    offset = (0.1 * rng.standard_normal(SHAPE)).astype(np.float32)
    given, q = quanta(mixed(rng), hardening=BEND, offset=offset), rng.uniform(0, 9, SHAPE).astype(np.float32)
    strict = array_api_strict.asarray
    ours, theirs = ShiftedPoisson(given), ShiftedPoisson(given, strict)
    for views in (slice(1, 4), [3, 0]):
        for found, expected in (
            (theirs.curvature(views), ours.curvature(views)),
            (theirs.slope(strict(q[views]), views), ours.slope(q[views], views)),
        ):
            assert found.dtype == array_api_strict.float32
            np.testing.assert_allclose(np.asarray(found), expected, rtol=1e-6)


def test_bad_weights_and_integrals_are_refused_with_their_place(rng):
    p, w = np.zeros(SHAPE), np.ones(SHAPE)
    w[3, 1, 2], w[4, 0, 0] = np.nan, np.inf
    with pytest.raises(InputError, match=r"2 weights are negative, NaN or infinite; first at .* \(3, 1, 2\)"):
        WeightedSquares(p, w)
    with pytest.raises(InputError, match=r"1 weights are negative.*\(0, 2, 5\)"):
        WeightedSquares(p, np.where(np.arange(105).reshape(SHAPE) == 19, -1.0, 1.0))
    with pytest.raises(InputError, match=r"105 integrals with a weight are NaN.*\(0, 0, 0\)"):
        WeightedSquares(np.full(SHAPE, np.nan), np.ones(SHAPE))
    with pytest.raises(InputError, match=r"expected both \(views, rows, columns\)"):
        WeightedSquares(p, np.ones((5, 7, 3)))
    strict = array_api_strict.asarray(w)
    with pytest.raises(InputError, match="2 weights"):
        WeightedSquares(array_api_strict.asarray(p), strict)


def test_projections_of_other_views_are_refused(rng):
    found = ShiftedPoisson(quanta(mixed(rng)))
    with pytest.raises(InputError, match=r"projected is \(5, 3, 7\), the views ask for \(2, 3, 7\)"):
        found.slope(np.zeros(SHAPE), [0, 2])


def test_negative_counts_without_electronics_are_refused(rng):
    with pytest.raises(InputError, match=r"3 counts are below zero though .* \(0, 0, 0\)"):
        ShiftedPoisson(quanta(np.where(np.arange(105).reshape(SHAPE) < 3, -1.0, 5.0), electronic=0.0))


def test_averaged_weights_take_the_bias_out_of_a_weighted_mean(rng):
    """Rays of 40 quanta: weights that are the counts themselves pull the mean integral down by 1/40 = 0.025.

    63 300 rays of deviation 1/√40 = 0.16 know the mean to 0.0006; of the bias 1/63 is left, 0.0004; 4σ allowed.
    """
    counts = rng.poisson(40.0, (60, 5, 211)).astype(np.float32)
    integrals = -np.log(counts / 40) - 0.5 / counts
    plain = float((counts * integrals).sum() / counts.sum())
    even = expected_weights(counts)
    assert plain == pytest.approx(-1 / 40, abs=0.003)
    assert float((even * integrals).sum() / even.sum()) == pytest.approx(0.0, abs=0.003)


def test_averaging_leaves_equal_weights_and_silent_rays_as_they_are():
    weights = np.full((5, 4, 11), 7.5, np.float32)
    weights[2, 1, 4] = 0.0
    np.testing.assert_allclose(expected_weights(weights), weights, rtol=1e-5)


def test_averaged_weights_do_not_show_the_blocks_that_they_were_made_in(rng, monkeypatch):
    """The mean over 3 × 3 × 7 seen neighbours, the outermost repeated, whether in blocks of 2 views or in one."""
    weights = rng.random((11, 5, 13), dtype=np.float32)
    weights[rng.random(weights.shape) < 0.1] = 0
    whole = expected_weights(weights)
    monkeypatch.setattr(fidelities, "CELLS_PER_BLOCK", 2 * 5 * 13)
    np.testing.assert_allclose(expected_weights(weights), whole, rtol=1e-5)
    around = np.pad(weights, ((1, 1), (1, 1), (3, 3)), mode="edge").astype(float)
    places = np.argwhere(weights > 0)
    for v, r, c in places[:: len(places) // 40]:
        near = around[v : v + 3, r : r + 3, c : c + 7]
        assert whole[v, r, c] == pytest.approx(near[near > 0].mean(), rel=1e-5)


def test_averaged_weights_of_some_views_are_those_of_the_whole_scan(rng):
    """A slab asks for its own views alone; their neighbours beside them count nevertheless."""
    weights = rng.random((11, 5, 13), dtype=np.float32)
    integrals = rng.random(weights.shape, dtype=np.float32)
    whole, likelihood = expected_weights(weights), expected_squares(integrals, weights)
    for views in (slice(0, 4), slice(3, 8), slice(6, 11), slice(0, 11)):
        slab = likelihood(views)
        np.testing.assert_allclose(slab.weights, whole[views], rtol=1e-5)
        np.testing.assert_array_equal(slab.integrals, integrals[views])


def test_a_bad_weight_is_refused_before_any_slab_is_begun():
    weights = np.ones((11, 4, 13), np.float32)
    weights[10, 2, 6] = np.nan
    with pytest.raises(InputError, match="weights are negative, NaN or infinite"):
        expected_squares(np.ones_like(weights), weights)


@pytest.mark.parametrize("bad", [np.nan, -1.0])
def test_weights_that_are_none_are_not_averaged(bad):
    weights = np.ones((5, 4, 11), np.float32)
    weights[3, 2, 6] = bad
    with pytest.raises(InputError, match="weights are negative, NaN or infinite"):
        expected_weights(weights)
