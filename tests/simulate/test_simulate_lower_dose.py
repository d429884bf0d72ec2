"""A lower dose: the mean scales, the variance is that of the lower dose, and an independent scanner agrees."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from lampyris.model import Acquisition, CalibrationError, Gantry, Geometry, InputError, Noise, RawScan
from lampyris.phantom import water_cylinder
from lampyris.simulate import Protocol, lower_dose, realise, scan, scanner

GAIN, ELECTRONIC, DARK = 3.1, 5.3, 170.0


def _flat(mean: float, rng: np.random.Generator, dtype: str = "uint16", views: int = 400) -> RawScan:
    """A detector in constant light: scaled Poisson of that gain, electronic noise that includes rounding."""
    shape = (views, 7, 61)
    net = GAIN * rng.poisson(mean / GAIN, shape) + np.sqrt(ELECTRONIC**2 - 1 / 12) * rng.standard_normal(shape)
    counts = net + DARK
    counts = np.rint(counts) if np.issubdtype(dtype, np.integer) else counts
    geometry = Geometry.circular(Gantry(541.0, 949.0, 7, 61, (1.7, 2.9), True, 2.6, 31.25), 0.9 * np.arange(views))
    return RawScan(
        counts.astype(dtype), geometry, np.full(views, 0.4), np.full((7, 61), DARK), np.full((7, 61), DARK + mean), 0.4,
        noise=Noise(GAIN, ELECTRONIC), acquisition=Acquisition(CTDIvol=8.0, dose_fraction=0.5),
    )  # fmt: skip


@pytest.mark.parametrize("dtype", ["uint16", "float32"])
@pytest.mark.parametrize(("mean", "fraction"), [(9000.0, 0.1), (400.0, 0.23), (25.0, 0.5)])
def test_mean_and_variance_are_those_of_the_lower_dose(mean, fraction, dtype, rng):
    """170 800 samples: σ of a variance is √(2/n) = 0.34 %, 4σ allowed. Where the mean of nine cells (σ ≈ 4) can be
    negative, cutting it there adds up to a quarter of a per cent."""
    low = lower_dose(_flat(mean, rng, dtype), fraction, rng)
    net = low.counts.astype(np.float64) - DARK
    variance = GAIN * fraction * mean + ELECTRONIC**2
    assert low.counts.dtype == np.dtype(dtype)
    assert net.mean() == pytest.approx(fraction * mean, abs=4 * np.sqrt(variance / net.size) + 1e-3)
    assert net.var() == pytest.approx(variance, rel=0.017)
    assert low.noise.gain_counts == GAIN
    assert low.noise.electronic_counts == pytest.approx(ELECTRONIC, rel=1e-9)


def test_starved_rays_stay_unbiased(rng):
    """Net counts around one tenth of the electronic noise, half of them negative: nothing is cut at zero."""
    low = lower_dose(_flat(5.0, rng), 0.1, rng)
    net = low.counts.astype(np.float64) - DARK
    assert (net < 0).mean() > 0.4
    assert net.mean() == pytest.approx(0.5, abs=4 * ELECTRONIC / np.sqrt(net.size))


def test_two_steps_down_are_one(rng):
    scan_ = _flat(900.0, rng, "float32")
    twice = lower_dose(lower_dose(scan_, 0.5, rng), 0.3, rng)
    once = lower_dose(scan_, 0.15, rng)
    for name in ("exposure_mas",):
        np.testing.assert_allclose(getattr(twice, name), getattr(once, name))
    assert twice.acquisition == once.acquisition
    assert np.var(twice.counts) == pytest.approx(np.var(once.counts), rel=0.02)
    assert twice.noise.electronic_counts == pytest.approx(once.noise.electronic_counts)


def test_the_lower_scan_says_what_it_is(rng):
    full = _flat(900.0, rng)
    low = lower_dose(full, 0.25, rng)
    assert (low.acquisition.CTDIvol, low.acquisition.dose_fraction) == (2.0, 0.125)
    np.testing.assert_allclose(low.exposure_mas, 0.1)
    assert low.air_exposure_mas == 0.4  # the air scan is what it was
    assert low.id not in ("", full.id)
    assert lower_dose(full, 1.0, rng) is full
    again = lower_dose(full, 0.25, np.random.default_rng(3)).id
    assert again == lower_dose(full, 0.25, np.random.default_rng(3)).id


def test_counts_that_would_not_fit_are_stored_wider_not_cut(rng):
    """Without an offset, half of the starved counts are negative: uint16 cannot hold them."""
    full = _flat(2.0, rng, views=20)
    bare = replace(full, counts=np.maximum(full.counts.astype(int) - 170, 0).astype(np.uint16), dark=np.zeros((7, 61)))
    low = lower_dose(bare, 0.1, rng)
    assert low.counts.dtype == np.int32
    assert low.counts.min() < -5


def test_cross_talk_gives_the_added_noise_its_neighbours(rng):
    low = lower_dose(_flat(9000.0, rng, "float32"), 0.1, rng, cross_talk=(0.0, 0.05))
    net = low.counts.astype(np.float64) - DARK
    net -= net.mean()
    along = (net[:, :, 1:] * net[:, :, :-1]).mean() / (net**2).mean()
    share = 0.9 * GAIN * 900 / (GAIN * 900 + ELECTRONIC**2)  # of the variance that was added with correlation
    assert along == pytest.approx(share * 2 * 0.05 * 0.9 / (0.9**2 + 2 * 0.05**2), abs=0.006)
    assert (net**2).mean() == pytest.approx(GAIN * 900 + ELECTRONIC**2, rel=0.017)


def test_our_scanner_at_a_fifth_is_our_scan_lowered_to_a_fifth():
    """The same cylinder, scanned at 0.2 and lowered to 0.2: variance of counts, bowtie, hardening and all.

    6 rows × 44 columns × 174 views: √(2/45900) = 0.7 % each, 4σ of the difference allowed; half as many at the edge.
    """
    machine = scanner("small")
    protocol = Protocol(kind="axial", mas=4.0)
    body = water_cylinder(160.0, 300.0)
    full, fifth = (scan(body, machine, protocol, dose=dose, seed=2) for dose in (1.0, 0.2))
    low = lower_dose(full, 0.2, np.random.default_rng(9), cross_talk=machine.detector.cross_talk)
    for columns in (slice(40, 84), slice(0, 22)):
        ratio = [np.var(each.counts.astype(float), axis=0)[:, columns] for each in (low, fifth)]
        assert (ratio[0] / ratio[1]).mean() == pytest.approx(1.0, abs=0.055 if columns.start == 0 else 0.028)
        means = [each.counts.astype(float).mean(0)[:, columns].mean() for each in (low, fifth)]
        assert means[0] == pytest.approx(means[1], rel=2e-3)


def test_what_cannot_be_lowered_is_refused(rng):
    full = _flat(900.0, rng, views=20)
    for fraction in (0.0, -0.1, 1.5, float("nan")):
        with pytest.raises(InputError, match="above 0 and at most 1"):
            lower_dose(full, fraction, rng)
    with pytest.raises(CalibrationError, match="nothing of its noise"):
        lower_dose(replace(full, noise=None), 0.1, rng)
    with pytest.raises(CalibrationError, match="no dark counts"):
        lower_dose(replace(full, dark=None), 0.1, rng)
    with pytest.raises(InputError, match="before the logarithm"):
        lower_dose(replace(full, applied=("dark_air", "log")), 0.1, rng)


def _catsim(folder: Path) -> tuple[np.ndarray, np.ndarray]:
    counts = np.fromfile(folder / "catsim_axial.scan", "<f4").reshape(360, 8, 600)
    return counts, np.fromfile(folder / "catsim_axial.air", "<f4").reshape(8, 600)


def _ripple(values: np.ndarray) -> np.ndarray:
    """Second difference along rows, variance kept: free of the object, which hardly changes from row to row."""
    values = values.astype(np.float64)
    return (values[:, :-2] - 2 * values[:, 1:-1] + values[:, 2:]) / np.sqrt(6)


@pytest.mark.data
def test_a_tenth_of_an_xcist_scan_is_as_noisy_as_the_scan_at_a_tenth(shared_data):
    """XCIST at 200 mA lowered to a tenth, against XCIST at 20 mA: σ of net counts and of −ln behind water to 3 %.

    The gain, 17 electrons/keV × Σ wE/Σ w, is measured on the 200 mA scan itself where the object is smooth, as a site
    would; electronic noise 3500 electrons as its settings say.
    """
    full, air = _catsim(shared_data / "raw/catsim/lopsided_axial")
    low, low_air = _catsim(shared_data / "raw/catsim/lopsided_axial_20mA")
    smooth = (full[:, 1:-1] > 1.5e7) & (full[:, 1:-1] < 4.5e7)
    quantum = _ripple(full)[smooth].var() - 3500.0**2
    gain = quantum / full[:, 1:-1][smooth].mean(dtype=np.float64)
    assert 17 * 65 < gain < 17 * 90
    geometry = Geometry.circular(Gantry(540.0, 950.0, 8, 600, (1.0, 1.0), True, None, 299.75), np.arange(360.0))
    raw = RawScan(full, geometry, np.full(360, 1.0), np.zeros((8, 600)), air, noise=Noise(float(gain), 3500.0))
    lowered = lower_dose(raw, 0.1, np.random.default_rng(1)).counts
    for bottom, top in ((1e5, 6e5), (6e5, 1e6), (1e6, 2e6), (2e6, 4e6)):
        shadow = (low[:, 1:-1] > bottom) & (low[:, 1:-1] < top)
        assert shadow.sum() > 1e5
        sigmas = [_ripple(each)[shadow].std() for each in (lowered, low)]
        assert sigmas[0] == pytest.approx(sigmas[1], rel=0.03)
        logs = [_ripple(-np.log(each / low_air))[shadow].std() for each in (lowered, low)]
        assert logs[0] == pytest.approx(logs[1], rel=0.03)
    neighbours = [_correlation(_ripple(each), low) for each in (lowered, low)]
    np.testing.assert_allclose(neighbours[0], neighbours[1], atol=0.02)


def _correlation(ripple: np.ndarray, counts: np.ndarray) -> list[float]:
    """Between neighbouring columns and views, in units of the local noise."""
    scaled = np.where(counts[:, 1:-1] < 4e6, ripple / np.sqrt(1350.0 * counts[:, 1:-1] + 3500.0**2), 0.0)
    power = (scaled**2).mean()
    return [(scaled[:, :, 1:] * scaled[:, :, :-1]).mean() / power, (scaled[1:] * scaled[:-1]).mean() / power]


@pytest.mark.parametrize(("mean", "dose"), [(9000.0, 0.1), (40.0, 0.2), (3.0, 1.7)])
def test_a_realisation_has_the_moments_of_a_scan(mean, dose, rng):
    """Mean d·ȳ and variance g·d·ȳ + e²; 170 800 samples: 4σ of a variance is 1.4 %, a little more with few quanta."""
    quiet = replace(_flat(mean, rng, "float32"), counts=np.full((400, 7, 61), DARK + mean, np.float32))
    made = realise(quiet, dose, rng)
    net = made.counts.astype(np.float64) - DARK
    variance = GAIN * dose * mean + ELECTRONIC**2
    assert net.mean() == pytest.approx(dose * mean, abs=4 * np.sqrt(variance / net.size))
    assert net.var() == pytest.approx(variance, rel=0.017)
    assert (made.counts == np.rint(made.counts)).all()
    np.testing.assert_allclose(made.exposure_mas, dose * quiet.exposure_mas)
    assert made.acquisition.dose_fraction == pytest.approx(0.5 * dose)


def test_a_realisation_varies_as_the_scanner_itself_does(rng):
    """Behind 320 mm of water, without cross-talk: variances of the two agree to 5 % (174 views × 6 rows × 20 columns:
    σ 1 % each) and the means to what noise allows."""
    machine = scanner("small")
    machine = replace(machine, detector=replace(machine.detector, cross_talk=(0.0, 0.0)))
    body, order = water_cylinder(240.0), Protocol("axial", mas=60.0)
    quiet = scan(body, machine, replace(order, noise=False))
    measured = scan(body, machine, order).counts.astype(np.float64)
    drawn = realise(quiet, 1.0, rng).counts.astype(np.float64)
    middle = np.s_[:, :, 53:73]
    assert (drawn - quiet.counts)[middle].var() == pytest.approx((measured - quiet.counts)[middle].var(), rel=0.05)
    assert drawn[middle].mean() == pytest.approx(measured[middle].mean(), rel=2e-3)


def test_only_a_quiet_scan_is_realised(rng):
    with pytest.raises(InputError, match="counts are uint16: they were digitised"):
        realise(_flat(900.0, rng), 0.5, rng)
    with pytest.raises(InputError, match="dose 0: expected a factor above 0"):
        realise(_flat(900.0, rng, "float32"), 0, rng)
