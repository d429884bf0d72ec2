"""Restored sinograms: no bias down to one quantum, edges as deep as they were, less noise where there was most."""

import numpy as np
import pytest

from lampyris.correct import correct
from lampyris.correct.restoration import Restoration, spot_cycle, spreads
from lampyris.model import FocalSpotShift, Gantry, Geometry, Noise, Quanta, RawScan, RecipeError, Step

OPEN = 20_000.0
SHAPE = (20, 16, 150)
STILL = Geometry.parallel_beam(np.arange(20.0), rows=16, columns=150, cell_mm=(1.1, 0.9))


def quanta(net, electronic=0.0, open_=OPEN):
    views = len(net)
    return Quanta(
        np.asarray(net, np.float32),
        np.full((1, *net.shape[1:]), open_),
        np.ones(views),
        np.zeros(views, int),
        electronic**2,
    )


def restored(net, start, weights, *, electronic=0.0, geometry=STILL, **settings):
    """(integrals, weights) after the step, from the given start and weights."""
    integrals = np.broadcast_to(start, net.shape).astype(np.float32)
    given = np.broadcast_to(weights, net.shape).astype(np.float32)
    integrals, given = integrals.copy(), given.copy()
    settings = {"strength": 10.0, "shares": (1.0, 1.0, 1.0)} | settings
    Restoration.of(geometry, Step.of("restore", **settings)).apply(integrals, given, quanta(net, electronic))
    return integrals, given


@pytest.mark.parametrize(("strength", "reach"), [(3.0, 1e3), (30.0, 1e3), (30.0, 2.0)])
@pytest.mark.parametrize("electronic", [0.0, 3.0])
@pytest.mark.parametrize("mean", [100.0, 30.0, 10.0, 3.0, 1.0])
def test_no_bias_down_to_one_quantum_a_ray(rng, mean, electronic, strength, reach):
    """From true integrals and weights to the least of the objective: what is left is the restoration's own bias. Bound
    0.1 % of the integral (0.005 … 0.01); the mean of 48 000 rays is known to √(V/48 000)/mean, 0.0145 at one quantum
    behind electronics of three, elsewhere far less, and four of these are allowed for. Without the term b it is 0.17 %
    at 1 … 3 quanta without electronics, and 0.7 % with."""
    net = rng.poisson(mean, SHAPE) + electronic * rng.standard_normal(SHAPE)
    truth, variance = -np.log(mean / OPEN), mean + electronic**2
    found, _ = restored(
        net, truth, mean**2 / variance, electronic=electronic, strength=strength, sweeps=40, reach=reach
    )
    known_to = np.sqrt(variance / net.size) / mean
    assert abs(found.mean() - truth) < 0.001 * truth + 4 * known_to
    assert found.std() < np.sqrt(variance) / mean


def test_spreads_are_those_of_the_lattice():
    """w·g and w·v by summing over the lattice's frequencies, 64³ of them, at five weights and lopsided shares."""
    shares = (2.0, 0.3, 1.0)
    turns = 2 * np.pi * (np.arange(64) + 0.5) / 64
    waves = [share * (2 - 2 * np.cos(turns)) for share in shares]
    laplacian = waves[0][:, None, None] + waves[1][:, None] + waves[2]
    table = spreads(shares)
    for node in (44, 52, 56, 63, 80):
        x = 2.0 ** (node / 4 - 14)
        assert table[0, node] == pytest.approx((x / (x + laplacian)).mean(), rel=2e-3)
        assert table[1, node] == pytest.approx((x / (x + laplacian)) ** 2 @ np.ones(64) @ np.ones(64) @ np.ones(64)
                                               / 64**3, rel=2e-3)  # fmt: skip


def test_noise_falls_as_the_lattice_says(rng):
    """30 quanta, strength 30, no electronics and a far edge: variance v of the even field, to the 5 % that the noise of
    48 000 rays with neighbours in common, 3 % second-order terms and the borders make."""
    net = rng.poisson(30.0, SHAPE).astype(np.float64)
    found, _ = restored(net, -np.log(30 / OPEN), 30.0, strength=30.0, edge=1e3, reach=1e3, sweeps=40)
    expected = spreads((1.0, 1.0, 1.0))[1, 56] / 30
    assert found[3:-3, 3:-3, 3:-3].var() == pytest.approx(expected, rel=0.08)


def test_a_ray_of_as_many_quanta_as_the_strength_spreads_over_one_cell():
    """Along columns alone w/(w + s·ω²) is an exponential in space: a jump of the counts, too small for an edge, decays
    by 2 + 1/… : roots of z² − (2 + w/s)·z + 1, here (3 − √5)/2 = 0.382 a cell."""
    net = np.full((1, 1, 150), 100.0)
    net[..., 75:] = 101.0
    start = -np.log(net / OPEN)
    geometry = Geometry.parallel_beam(np.zeros(1), rows=1, columns=150, cell_mm=(1.0, 1.0))
    found, _ = restored(
        net, start, 100.0, geometry=geometry, strength=100.0, shares=(0.0, 0.0, 1.0), reach=1e3, sweeps=60
    )
    away = found[0, 0] - found[0, 0, 40]
    assert away[72] / away[73] == pytest.approx(0.382, abs=0.01)
    assert away[73] / away[74] == pytest.approx(0.382, abs=0.01)


def test_nothing_is_done_where_quanta_are_plenty(rng):
    net = rng.poisson(5000.0, SHAPE).astype(np.float64)
    start = -np.log(net / OPEN)
    found, weights = restored(net, start, net, strength=10.0)
    assert (found == start.astype(np.float32)).all()
    assert weights == pytest.approx(net, rel=1e-5)


def test_a_rod_s_shadow_keeps_its_depth_and_its_edges(rng):
    """Columns 70–79 at 30 quanta beside 400: the step of 2.6 is 13 standard deviations of its noise, so that the pull
    of an edge, strength·δ a neighbour with δ = 3·√(1/30 + 1/400) = 0.57, moves the outermost column by at most
    10·0.57/30 = 0.19 for the two edges of its sweep … one here; the middle by e^(−4) of that. A filter of the same
    noise would take half the step."""
    means = np.full(SHAPE, 400.0)
    means[:, :, 70:80] = 30.0
    truth = -np.log(means / OPEN)
    found = np.mean([restored(rng.poisson(means).astype(float), truth, means, sweeps=20)[0] for _ in range(4)], axis=0)
    profile = (found - truth).mean(axis=(0, 1))
    assert np.abs(profile[73:77]).max() < 0.012
    assert np.abs(profile[[70, 79]]).max() < 0.2
    assert np.abs(profile[[69, 80]]).max() < 10 * 0.57 / 400 + 0.01
    plain, _ = restored(rng.poisson(means).astype(float), truth, means, sweeps=20, edge=1e3)
    assert abs((plain - truth)[:, :, [70, 79]].mean()) > np.abs(profile[[70, 79]]).max()


def test_every_sweep_lowers_the_objective(rng):
    """Cost by NumPy from the formula of the module; from a bad start, with counts below −r among the others."""
    means = np.geomspace(0.5, 900, 150) * np.ones(SHAPE)
    net = rng.poisson(means) + 3.0 * rng.standard_normal(SHAPE)
    net[4, 5, :3] = (-9.5, -14.0, -20.0)
    weights = means**2 / (means + 9)
    start = -np.log(means / OPEN) + rng.standard_normal(SHAPE)
    costs = [
        _cost(restored(net, start, weights, electronic=3.0, sweeps=n)[0] if n else start, net, weights)
        for n in (0, 1, 2, 3, 5, 8, 20, 60)
    ]
    assert (np.diff(costs) < 0).all()
    assert costs[-2] - costs[-1] < 1e-3 * (costs[0] - costs[-1])


def _cost(p, net, weights, strength=10.0, edge=3.0, reach=3.0, r=9.0):
    p = p.astype(np.float64)
    mean = OPEN * np.exp(-p)
    count_mean = 0.5 * (weights + np.sqrt(weights**2 + 4 * weights * r))
    nodes = np.log2(weights / strength + 1 / reach**2) * 4 + 56
    own, spread = (np.interp(nodes, np.arange(113), row) for row in spreads((1.0, 1.0, 1.0)))
    tilt = 0.5 * spread - r / (count_mean + r) * (own - spread)
    total = (mean + r - (net + r) * np.log(mean + r) + tilt * p).sum()
    for axis in range(3):
        apart = np.diff(p, axis=axis)
        variance = 1 / weights
        first, last = [slice(None)] * 3, [slice(None)] * 3
        first[axis], last[axis] = slice(1, None), slice(None, -1)
        both = variance[tuple(first)] + variance[tuple(last)]
        limit = edge**2 * both
        total += (limit * (np.sqrt(1 + apart**2 / limit) - 1) / (1 / strength + both / 2 / reach**2)).sum()
    return total


def test_weights_are_those_of_the_restored_expectation(rng):
    net = rng.poisson(20.0, SHAPE) + 3.0 * rng.standard_normal(SHAPE)
    found, weights = restored(net, -np.log(20 / OPEN), 400 / 29, electronic=3.0)
    mean = OPEN * np.exp(-found.astype(np.float64))
    assert weights == pytest.approx(mean**2 / (mean + 9), rel=1e-4)


def test_a_cell_without_say_takes_after_its_neighbours(rng):
    net = np.full(SHAPE, 40.0)
    net[:, 7, 70] = 3000.0
    given = quanta(net)
    air = given.air.copy()
    air[0, 7, 70] = 0
    integrals = np.full(SHAPE, -np.log(40 / OPEN), np.float32)
    integrals[:, 7, 70] = 9.0
    weights = np.full(SHAPE, 40.0, np.float32)
    weights[:, 7, 70] = 0
    silent = Quanta(given.measured, air, given.exposure, given.spot, 0.0)
    Restoration.of(STILL, Step("restore")).apply(integrals, weights, silent)
    assert integrals[:, 7, 70] == pytest.approx(np.full(20, -np.log(40 / OPEN)), abs=0.02)
    assert (weights[:, 7, 70] == 0).all()


def test_views_of_one_focal_spot_are_neighbours(lopsided_gantry, rng):
    """A spot that alternates pairs view i with i ± 2: two sinograms that differ by 1.2 do not meet."""
    angles = np.arange(24.0) * 8
    flying = FocalSpotShift.alternating(24, (-0.0009, 0.0011), (-0.7, 0.5), (0.3, -0.2))
    flown = Geometry.circular(lopsided_gantry, angles, shift=flying)
    assert spot_cycle(flown) == 2
    assert spot_cycle(Geometry.circular(lopsided_gantry, angles)) == 1
    assert spot_cycle(Geometry.helical(lopsided_gantry, views=24, views_per_turn=41, table_feed_mm=-6.3)) == 1
    assert spot_cycle(STILL) == 1
    truth = np.where(np.arange(24) % 2, 6.0, 7.2)[:, None, None] * np.ones((24, 7, 61))
    means = OPEN * np.exp(-truth)
    found, _ = restored(means, truth, means, geometry=flown, edge=1e3, shares=(1.0, 0.0, 0.0), sweeps=20)
    assert np.abs(found - truth).max() < 0.02  # b·p alone moves them, by v/2


def test_the_chain_restores_a_starved_body_without_bias(known, rng):
    """A body whose longest chords are 171 mm half-axis, 3000 quanta in air, electronics of three: mean integral of rays
    sorted by their true mean unbiased to 0.5 %, error of rays below 100 quanta less than half as large as before."""
    scene = known(open_counts=3000.0, views=41, half_axes_mm=(190.0, 150.0))
    scan = scene.scan(rng.poisson(scene.means) + 3.0 * rng.standard_normal(scene.means.shape))
    plain = correct(scan, (Step("dark_air"), Step("log")))
    made = correct(scan, (Step("dark_air"), Step("log"), Step.of("restore", strength=10, shares=[0.2, 1, 1])))
    error, before = made.integrals - scene.integrals, plain.integrals - scene.integrals
    assert scene.means.min() < 4
    for low, high in ((300, 1000), (100, 300), (30, 100), (10, 30), (2, 10)):
        rays = (scene.means >= low) & (scene.means < high)
        assert rays.sum() > 1000
        assert abs(error[rays].mean()) < 0.005 * scene.integrals[rays].mean(), (low, high)
    few = scene.means < 30
    assert error[few].std() < 0.6 * before[few].std()
    record = made.history[-1].as_dict()
    assert record["name"] == "restore"
    assert record["restored_rays"] == int((plain.weights <= 3000).sum())
    assert record["rms_last_move_in_noise"] < 0.01


def test_hardening_comes_after_it_and_blocks_make_no_difference(known, rng, monkeypatch):
    from lampyris.correct import block as blocks
    from lampyris.physics.tube import monochromatic

    scene = known(open_counts=3000.0)
    scan = scene.scan(rng.poisson(scene.means).astype(float), spectrum=monochromatic(70.0))
    steps = (Step("dark_air"), Step.of("log", keep_quanta=True), Step("restore"), Step("water_beam_hardening"))
    told = []
    whole = correct(scan, steps, progress=told.append)
    assert told == sorted(told)
    assert told[-1] == pytest.approx(1.0)
    assert [one.name for one in whole.history] == ["dark_air", "log", "restore", "water_beam_hardening"]
    assert whole.quanta is not None
    assert whole.quanta.hardening is not None
    monkeypatch.setattr(blocks, "CELLS_PER_BLOCK", 1)
    parts = correct(scan, steps)
    assert parts.integrals == pytest.approx(whole.integrals, abs=1e-4)


def test_impossible_settings_are_refused():
    for settings, match in (
        ({"strength": 0}, "strength 0.0"),
        ({"edge": -1}, "edge -1.0"),
        ({"reach": 0}, "reach 0.0"),
        ({"sweeps": 0}, "sweeps 0"),
        ({"shares": (1, 1)}, r"shares \(1.0, 1.0\): expected three"),
        ({"shares": (0, 0, 0)}, "expected three"),
        ({"shares": (1, -1, 1)}, "expected three"),
        ({"strenght": 1}, "no setting strenght; it knows edge, reach, shares, strength, sweeps"),
    ):
        with pytest.raises(RecipeError, match=match):
            Restoration.of(STILL, Step.of("restore", **settings))


def test_a_scan_of_the_raw_container_type_goes_through(rng):
    """Unsigned counts, one row, few views: nothing needs three axes of neighbours."""
    gantry = Gantry(541.0, 949.0, 1, 61, (1.7, 2.9), True, None, 31.25)
    geometry = Geometry.circular(gantry, np.array([3.0, 50.0]))
    counts = rng.poisson(30.0, geometry.shape).astype(np.uint16)
    scan = RawScan(
        counts, geometry, np.ones(2), np.zeros((1, 61)), np.full((1, 61), OPEN), noise=Noise(1.0, 0.0), id="x"
    )
    made = correct(scan, (Step("dark_air"), Step("log"), Step("restore")))
    assert np.isfinite(made.integrals).all()
    assert made.integrals.std() < correct(scan, (Step("dark_air"), Step("log"))).integrals.std()
