"""Kernels: their names, their theory and the filter that carries them."""

import array_api_strict
import numpy as np
import pytest
from scipy import fft

from lampyris.model import RecipeError
from lampyris.recon.analytic.filtering import filter_rows, ramp_filter
from lampyris.recon.kernels import KERNELS, kernel

MDCT_MM = 1.2858 * 595 / 1085.6
"""Cell of the 64-row preset at the isocentre."""


def test_an_unknown_kernel_is_refused_with_the_names_known():
    with pytest.raises(RecipeError, match="'bone' is unknown; known are ramp, shepp-logan, hann, body, lung"):
        kernel("bone")


@pytest.mark.parametrize("name", KERNELS)
def test_every_kernel_keeps_the_mean_and_is_cut_at_nyquist(name):
    response = kernel(name).response(np.array([0.0, 0.71, 0.75]), 0.7)
    assert response[0] == pytest.approx(1.0)
    assert response[1] >= 0.0
    assert response[2] == 0.0  # Nyquist is 0.714 /mm


def test_f50_of_the_textbook_kernels_solves_their_equation():
    """Without aperture: ramp sinc²(x) = ½ at x = 0.442946; Hann cos²(πx)·sinc²(x) = ½, x = f·Δ."""
    assert kernel("ramp").f50_per_mm(0.5) == pytest.approx(0.442946 / 0.5, rel=1e-5)
    x = kernel("hann").f50_per_mm(0.5) * 0.5
    assert np.cos(np.pi * x) ** 2 * np.sinc(x) ** 2 == pytest.approx(0.5, abs=1e-6)


def test_body_and_lung_mean_the_same_on_every_scanner():
    """Compensated kernels have their own f50, whatever the sampling: cos²(πf/2) = ½ at 0.5 /mm."""
    for sampling in (0.5, 0.6, MDCT_MM):
        assert kernel("body").f50_per_mm(sampling) == pytest.approx(0.5, rel=1e-6)
        assert kernel("lung").f50_per_mm(sampling) == pytest.approx(0.6627, rel=1e-3)


def test_on_the_64_row_scanner_body_is_soft_and_lung_is_sharp():
    assert 0.40 < kernel("body").f50_per_mm(MDCT_MM, MDCT_MM) < 0.50
    assert kernel("lung").f50_per_mm(MDCT_MM, MDCT_MM) > 0.60


def test_the_ramp_of_a_row_is_the_direct_sum_of_kak_and_slaney(rng):
    """q(i) = Δ Σ_j p(j)·h(i − j), h(0) = 1/4Δ², h(odd n) = −1/(πnΔ)²."""
    step, columns = 0.7, 23
    p = rng.random((2, 3, columns)).astype(np.float32)
    lag = np.arange(columns)[:, None] - np.arange(columns)[None, :]
    safe = np.where(lag == 0, 1, lag)
    h = np.where(lag == 0, 0.25, np.where(lag % 2 == 0, 0.0, -1 / (np.pi * safe) ** 2)) / step**2
    expected = step * p @ h.T
    found = filter_rows(p, ramp_filter(columns, step, kernel("ramp")))
    np.testing.assert_allclose(found, expected, atol=3e-6)


def test_the_ramp_of_an_equiangular_fan_is_multiplied_by_gamma_over_sine(rng):
    """Kak and Slaney eq. 3.129: h(nγ)·(nγ/sin nγ)²; here in mm at the isocentre, so Δ stays the arc."""
    step, angle, columns = 0.7, 0.03, 23
    p = rng.random((1, 2, columns)).astype(np.float32)
    lag = np.arange(columns)[:, None] - np.arange(columns)[None, :]
    safe = np.where(lag == 0, 1, lag)
    stretch = np.where(lag == 0, 1.0, safe * angle / np.sin(safe * angle)) ** 2
    h = np.where(lag == 0, 0.25, np.where(lag % 2 == 0, 0.0, -1 / (np.pi * safe) ** 2)) / step**2 * stretch
    found = filter_rows(p, ramp_filter(columns, step, kernel("ramp"), fan_step_rad=angle))
    np.testing.assert_allclose(found, step * p @ h.T, atol=3e-6)


def test_a_wave_comes_out_times_its_frequency_and_apodisation():
    """A long cosine of frequency f is |f|·A(f) times itself in its middle; a window of 150 mm adds |x|/σ²/2π < 2e-4."""
    step, columns, cycles = 0.6, 2000, 0.3
    x = np.arange(columns) * step
    window = np.exp(-0.5 * ((x - x.mean()) / 150.0) ** 2)
    wave = (window * np.cos(2 * np.pi * cycles * x)).astype(np.float32)[None, None]
    for name in KERNELS:
        found = filter_rows(wave, ramp_filter(columns, step, kernel(name)))[0, 0, 980:1020]
        gain = cycles * float(kernel(name).response(np.array(cycles), step))
        np.testing.assert_allclose(found, gain * wave[0, 0, 980:1020], atol=2e-4)


def test_weights_multiply_before_the_filter_and_out_may_be_the_input(rng):
    p = rng.random((5, 2, 31)).astype(np.float32)
    view, cell = rng.random((5, 1, 1)).astype(np.float32), rng.random((2, 31)).astype(np.float32)
    ramp = ramp_filter(31, 1.3, kernel("hann"))
    expected = filter_rows((p * view * cell).astype(np.float32), ramp)
    found = filter_rows(p, ramp, weights=(view, cell), out=p)
    assert found is p
    np.testing.assert_allclose(found, expected, atol=1e-6)


def test_a_row_that_breaks_off_is_continued_smoothly():
    """The edge of a broken-off plateau rings far less when the row runs out as cos²."""
    p = np.ones((1, 1, 64), np.float32)
    ramp = ramp_filter(64, 1.0, kernel("ramp"))
    broken, continued = filter_rows(p, ramp), filter_rows(p, ramp, continuation=16)
    assert abs(continued[0, 0, -1]) < 0.25 * abs(broken[0, 0, -1])


def test_padding_is_long_enough_and_quick():
    ramp = ramp_filter(384, 1.0, kernel("ramp"))
    assert ramp.length >= 2 * 384 - 1
    assert ramp.length == fft.next_fast_len(ramp.length, real=True)


def test_the_strict_array_api_filters_alike(rng):
    """What a card's arrays must offer and no more: 37 columns, continued, weighted, three rows at a time."""
    p, cell = rng.standard_normal((7, 3, 37), dtype=np.float32), rng.random((3, 37), dtype=np.float32) + 0.5
    ramp = ramp_filter(37, 0.7, kernel("hann"))
    expected = filter_rows(p, ramp, weights=(cell,), continuation=9)
    strict, weight = array_api_strict.asarray(p), array_api_strict.asarray(cell)
    found = filter_rows(strict, ramp, weights=(weight,), continuation=9, chunk_bytes=3 * 3 * 4 * ramp.length)
    assert isinstance(found, type(strict))
    np.testing.assert_allclose(np.asarray(found), expected, rtol=0, atol=2e-6 * np.abs(expected).max())
