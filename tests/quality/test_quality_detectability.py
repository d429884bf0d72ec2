"""Detectability against the reference's vector and against integrals that can be done on paper."""

import numpy as np
import pytest

from lampyris.model import InputError
from lampyris.quality.detectability import Disc, Eye, Spot, npw

F = np.linspace(0, 40, 4001)
FLAT = np.ones_like(F)


def test_a_disc_in_white_noise_has_the_detectability_of_the_reference() -> None:
    """C√(πr²)/(σΔ) = 6.6467 for 15 HU, 2.5 mm, σ 20 at 0.5 mm; of a disc's energy 2/(πx), x = 2πrF, lies beyond F."""
    found = npw(Disc(2.5, 15.0), (F, FLAT), (F, 100 * FLAT))
    assert found.value == pytest.approx(6.6467, rel=0.002)
    assert found.beyond == pytest.approx(2 / (np.pi * 2 * np.pi * 2.5 * 40), rel=0.1)


def test_up_to_nyquist_alone_the_lost_energy_is_told() -> None:
    f = np.linspace(0.02, 1.0, 50)
    found = npw(Disc(2.5, 15.0), (np.linspace(0, 2, 80), np.ones(80)), (f, np.full(50, 100.0)))
    assert found.highest_per_mm == 1.0
    assert found.value == pytest.approx(6.6467 * np.sqrt(1 - found.beyond), rel=1e-3)
    assert 0.01 < found.beyond < 0.05


def test_a_gaussian_task_through_a_gaussian_system() -> None:
    """W = 2πCs² e^(−2π²s²f²), T = e^(−2π²b²f²), white N: d′² = (∬W²T²)²/(N∬W²T²) = πC²s⁴/(N (s² + b²))."""
    c, s, b, n = 12.0, 1.7, 0.6, 90.0
    blur = np.exp(-2 * (np.pi * b * F) ** 2)
    found = npw(Spot(s, c), (F, blur), (F, n * FLAT))
    assert found.value == pytest.approx(np.sqrt(np.pi * c**2 * s**4 / (n * (s**2 + b**2))), rel=1e-3)
    assert found.beyond == pytest.approx(0, abs=1e-3)


def test_coloured_noise_counts_where_the_task_has_power() -> None:
    """N(f) = n e^(−4π²q²f²): the denominator's exponent grows by q², ∬W²T²N = n·πC²s⁴/(s² + q²) with T = 1."""
    c, s, q, n = 12.0, 1.7, 0.5, 90.0
    # The noise must stay above zero: at 3 /mm it is e^(−89) of its start, the task e^(−1026).
    f = np.linspace(0, 3, 3001)
    found = npw(Spot(s, c), (f, np.ones_like(f)), (f, n * np.exp(-4 * (np.pi * q * f) ** 2)))
    signal = np.pi * c**2 * s**2
    spread = n * np.pi * c**2 * s**4 / (s**2 + q**2)
    assert found.value == pytest.approx(signal / np.sqrt(spread), rel=1e-3)


def test_the_law_of_contrast_and_dose() -> None:
    """d′ grows with contrast and with the root of the dose."""
    f = np.linspace(0, 1, 60)
    t, n = np.exp(-3 * f**2), 80 * (0.2 + f)
    one = npw(Disc(3.0, 10.0), (f, t), (f, n)).value
    assert npw(Disc(3.0, 30.0), (f, t), (f, n)).value == pytest.approx(3 * one)
    assert npw(Disc(3.0, 10.0), (f, t), (f, n / 4)).value == pytest.approx(2 * one)


def test_the_eye_filter_enters_squared_above_and_to_the_fourth_below() -> None:
    """Against the sums written out on another grid."""
    eye = Eye()
    f = np.linspace(1e-4, 1.5, 60001)
    t, n, task = np.exp(-2 * f**2), 70 * (0.1 + f), Disc(2.0, 20.0)
    rho = f * 475 * np.pi / 180
    e = rho**1.5 * np.exp(-3.22 * rho**0.68)
    w2 = task.spectrum(f) ** 2 * t**2 * 2 * np.pi * f
    expected = np.sum(w2 * e**2) / np.sqrt(np.sum(w2 * e**4 * n)) * np.sqrt(f[1] - f[0])
    coarse = np.linspace(0, 1.5, 3001)
    found = npw(task, (coarse, np.exp(-2 * coarse**2)), (coarse[1:], 70 * (0.1 + coarse[1:])), eye=eye)
    assert found.value == pytest.approx(expected, rel=2e-3)
    assert found.value != pytest.approx(npw(task, (f, t), (f, n)).value, rel=0.01)


def test_a_larger_screen_lowers_the_frequency_on_the_eye() -> None:
    np.testing.assert_allclose(Eye(magnification=2.0).response(np.array([0.8])), Eye().response(np.array([0.4])))


def test_the_disc_at_zero_frequency_is_contrast_times_area() -> None:
    assert Disc(2.0, 3.0).spectrum(np.array([0.0]))[0] == pytest.approx(3 * np.pi * 4)
    assert Disc(2.0, 3.0).energy() == pytest.approx(9 * np.pi * 4)
    assert Spot(2.0, 3.0).spectrum(np.array([0.0]))[0] == pytest.approx(3 * 2 * np.pi * 4)
    assert Spot(2.0, 3.0).energy() == pytest.approx(9 * np.pi * 4)


def test_bad_curves_are_refused() -> None:
    with pytest.raises(InputError, match="transfer's frequencies must ascend"):
        npw(Disc(1, 1), (F[::-1], FLAT), (F, FLAT))
    with pytest.raises(InputError, match="zero or negative"):
        npw(Disc(1, 1), (F, FLAT), (F, 0 * FLAT))
