"""The logarithm of starved rays: no bias from a thousand quanta down to one, and no smearing of shadows."""

import numpy as np
import pytest

from lampyris.correct import correct
from lampyris.correct.block import Block
from lampyris.correct.logarithm import Logarithm
from lampyris.model import Gantry, Geometry, Noise, RawScan, RecipeError, Step

OPEN = 20_000.0
SHAPE = (20, 16, 150)


USUAL = Noise(1.0, 5.0)


def logarithm(net, noise=USUAL, open_=OPEN):
    step = Logarithm(noise, False, 100.0, 0.5)
    block = Block(0, len(net), net.astype(np.float32), np.broadcast_to(open_, net.shape).astype(np.float32))
    return step.apply(block, slice(0, len(net)))


@pytest.mark.parametrize("electronic", [0.0, 5.0])
@pytest.mark.parametrize("quanta", [1000.0, 300.0, 150.0, 100.0, 60.0, 30.0, 10.0, 3.0, 1.0])
def test_no_bias_down_to_one_quantum_a_ray(rng, quanta, electronic):
    """Bound 0.5 % of the integral, the house's limit of 4 HU: here 0.015 … 0.05. The mean of 48 000 rays is known to
    about 0.005 where windows of 4000 rays make them go together. Clipping at half a count, the naive way, breaks it."""
    net = rng.poisson(quanta, SHAPE) + electronic * rng.standard_normal(SHAPE)
    truth = -np.log(quanta / OPEN)
    integrals, _ = logarithm(net, Noise(1.0, electronic))
    assert abs(integrals.mean() - truth) < 0.005 * truth
    if quanta <= 3 and electronic:
        naive = -np.log(np.maximum(net, 0.5) / OPEN)
        assert abs(naive.mean() - truth) > 0.02 * truth


def test_gain_and_scale_do_not_matter(rng):
    """The same quanta in other units of counts give the same integrals and weights."""
    net = rng.poisson(40.0, SHAPE) + 2.0 * rng.standard_normal(SHAPE)
    one, weight = logarithm(net, Noise(1.0, 2.0))
    other, other_weight = logarithm(net * 1700.0, Noise(1700.0, 3400.0), OPEN * 1700.0)
    assert other == pytest.approx(one, abs=1e-4)
    assert other_weight == pytest.approx(weight, rel=1e-3)


def test_plenty_of_quanta_give_the_ordinary_logarithm(rng):
    net = rng.poisson(5000.0, SHAPE).astype(np.float64)
    integrals, weights = logarithm(net, Noise(1.0, 0.0))
    assert integrals == pytest.approx(-np.log(net / OPEN) - 0.5 / net, abs=2e-6)
    assert weights == pytest.approx(net, rel=1e-6)


def test_zero_and_negative_counts_pull_the_integral_up_in_proportion():
    """Linear in the ray's own count: equal steps down, through zero and below it, are equal steps up."""
    net = np.full(SHAPE, 9.0)
    values = np.array([-6.0, -1.0, 4.0, 9.0, 14.0])
    found = []
    for value in values:
        net[10, 8, 75] = value
        found.append(logarithm(net, Noise(1.0, 5.0))[0][10, 8, 75])
    steps = -np.diff(found)
    assert (steps > 0).all()
    assert steps == pytest.approx(np.full(4, steps.mean()), rel=0.03)  # the ray is itself 1/63 of the mean


def test_noise_of_a_starved_ray_is_bounded(rng):
    """λσ/m never exceeds structure/2 = 0.25, to which the local mean of 100 quanta adds 0.1: below 0.3 in all."""
    for quanta in (30.0, 5.0, 1.0):
        net = rng.poisson(quanta, SHAPE) + 5.0 * rng.standard_normal(SHAPE)
        assert logarithm(net)[0].std() < 0.3


def test_a_shadow_beside_bright_air_stays_dark(rng):
    """Columns 70–79 behind metal at 30 quanta, air at 20 000 beside them: the outermost column of the shadow lies
    within 0.2 of its integral 6.5. A mean over neighbours would put it at 1.1; three standard deviations above 30 are
    30 + 9/2 + 3√(30 + 9/4) = 51.5, about which the expansion errs by −ln(51.5/30) + 0.93·21.5/51.5 = −0.15."""
    means = np.full(SHAPE, OPEN)
    means[:, :, 70:80] = 30.0
    integrals, _ = logarithm(rng.poisson(means).astype(np.float64), Noise(1.0, 0.0))
    edge = integrals[:, :, [70, 79]].mean()
    assert edge == pytest.approx(-np.log(30 / OPEN), abs=0.2)
    assert integrals[:, :, [69, 80]].mean() == pytest.approx(0.0, abs=1e-3)


def test_rays_without_any_signal_are_counted_and_have_no_say(rng):
    step = Logarithm(Noise(1.0, 5.0), False, 100.0, 0.5)
    net = (5.0 * rng.standard_normal(SHAPE)).astype(np.float32)
    integrals, weights = step.apply(Block(0, 20, net, np.full(SHAPE, OPEN, np.float32)), slice(0, 20))
    record = dict(step.record().settings)
    assert record["rays_without_signal"] > 0.9 * net.size
    assert record["rays_not_above_zero"] == int((net <= 0).sum())
    assert np.isfinite(integrals).all()
    assert weights.max() < 0.1


def test_a_forty_centimetre_body_at_a_twentieth_of_the_dose_keeps_its_mean(rng):
    """Elliptic body 43 × 30 cm with two dense rods, 1/20 of 4·10⁵ quanta in air, electronic noise of three quanta,
    1152 views a turn about the lateral direction. Sorted by their true mean, the rays' integrals are unbiased to 0.5 %
    of themselves from 1000 quanta down to 1; the naive logarithm errs by several per cent."""
    gantry = Gantry(595.0, 1085.6, 12, 368, (1.1, 2.5716), True, None, 183.75)
    geometry = Geometry.circular(gantry, 63.0 + 0.3125 * np.arange(32))
    truth = 0.0195 * _chord(geometry, (215.0, 150.0), (8.0, -5.0)) + 0.025 * _chord(
        geometry, (26.0, 26.0), (112.0, 13.0)
    )
    air = 4e5 / 20
    means = air * np.exp(-truth)
    assert means.min() < 3
    counts = rng.poisson(means) + 3.0 * rng.standard_normal(means.shape)
    scan = RawScan(
        counts, geometry, np.ones(32), np.zeros((12, 368), np.float32), np.full((12, 368), air, np.float32),
        noise=Noise(1.0, 3.0),
    )  # fmt: skip
    error = correct(scan, (Step("dark_air"), Step("log"))).integrals - truth
    naive = -np.log(np.maximum(counts, 0.5) / air) - truth
    worst = 0.0
    for low, high in ((300, 1000), (100, 300), (30, 100), (10, 30), (5, 10), (1, 5)):
        rays = (means >= low) & (means < high)
        assert rays.sum() > 1000
        assert abs(error[rays].mean()) < 0.005 * truth[rays].mean(), (low, high)
        worst = max(worst, abs(naive[rays].mean()) / truth[rays].mean())
    assert worst > 0.02


def _chord(geometry, half_axes, centre):
    chords = np.empty(geometry.shape)
    for view in range(geometry.views):
        origin, way = geometry.rays(view)
        o = [(origin[..., i] - m) / h for i, m, h in zip((0, 2), centre, half_axes, strict=True)]
        d = [way[..., i] / h for i, h in zip((0, 2), half_axes, strict=True)]
        a, b, c = d[0] ** 2 + d[1] ** 2, o[0] * d[0] + o[1] * d[1], o[0] ** 2 + o[1] ** 2 - 1
        chords[view] = 2 * np.sqrt(np.maximum(b**2 - a * c, 0)) / a
    return chords


def test_impossible_settings_are_refused(known):
    with pytest.raises(RecipeError, match="expected all above 0"):
        correct(known().scan(), (Step("dark_air"), Step.of("log", quanta=0)))
