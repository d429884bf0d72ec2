"""Noise power spectra against white noise, filtered noise of known spectrum, and the traps that TG-233 warns of."""

import numpy as np
import pytest

from lampyris.model import Grid, InputError, Volume
from lampyris.quality import noise

SPACING = (0.47, 0.53)


def shaped(rng: np.random.Generator, n: int, size: int, sigma_mm: float) -> np.ndarray:
    """White noise of 20 blurred by a periodic Gaussian of sigma_mm: NPS = 400 Δx Δy exp(−4π²σ²f²) exactly."""
    white = 20.0 * rng.standard_normal((n, size, size))
    v, u = np.meshgrid(np.fft.fftfreq(size, SPACING[0]), np.fft.fftfreq(size, SPACING[1]), indexing="ij")
    blur = np.exp(-2 * (np.pi * sigma_mm) ** 2 * (u**2 + v**2))
    return np.fft.ifft2(np.fft.fft2(white) * blur).real


def test_white_noise_of_20_hu_at_half_a_millimetre_has_100_hu2_mm2(rng: np.random.Generator) -> None:
    """σ²Δ² = 400 · 0.25. With 100 patches of 64² the mean over all bins is known to 1/√(100·4096) = 0.16 %."""
    found = noise.nps(20.0 * rng.standard_normal((100, 64, 64)), (0.5, 0.5))
    assert np.average(found.power, weights=found.frequency_per_mm) == pytest.approx(100.0, rel=0.01)
    assert found.integral == pytest.approx(400.0, rel=0.01)
    assert found.frequency_per_mm[-1] <= 1.0
    assert found.sufficient


def test_the_integral_is_the_variance(rng: np.random.Generator) -> None:
    """Parseval, to rounding, on patches that are neither isotropic nor white."""
    found = noise.nps(shaped(rng, 7, 32, 0.6), SPACING)
    assert found.integral == pytest.approx(found.standard_deviation**2, rel=1e-12)
    assert not found.sufficient


def test_a_known_spectrum_is_found_at_every_frequency(rng: np.random.Generator) -> None:
    """400 patches: a ring of ≥ 8 samples is known to 1/√3200 = 1.8 %; four of those. The fit takes the lowest rings."""
    found = noise.nps(shaped(rng, 400, 64, 0.35), SPACING)
    f = found.frequency_per_mm[3:]
    expected = 400 * SPACING[0] * SPACING[1] * np.exp(-4 * (np.pi * 0.35 * f) ** 2)
    np.testing.assert_allclose(found.power[3:], expected, rtol=0.07)


def test_mean_frequency_of_a_gaussian_spectrum(rng: np.random.Generator) -> None:
    """∫ f e^(−af²) / ∫ e^(−af²) = 1/√(πa) with a = 4π²σ²: 1/(2π^1.5 σ); σ large enough that Nyquist cuts nothing."""
    found = noise.nps(shaped(rng, 300, 64, 0.6), SPACING, detrend="mean")
    assert found.mean_per_mm == pytest.approx(1 / (2 * np.pi**1.5 * 0.6), rel=0.04)


def test_peak_frequency_of_a_ring_of_noise(rng: np.random.Generator) -> None:
    size, peak = 64, 0.41
    white = rng.standard_normal((200, size, size))
    v, u = np.meshgrid(np.fft.fftfreq(size, SPACING[0]), np.fft.fftfreq(size, SPACING[1]), indexing="ij")
    band = np.exp(-((np.hypot(u, v) - peak) ** 2) / (2 * 0.08**2))
    found = noise.nps(np.fft.ifft2(np.fft.fft2(white) * band).real, SPACING)
    assert found.peak_per_mm == pytest.approx(peak, abs=0.02)


def test_a_shading_ramp_does_not_reach_the_spectrum(rng: np.random.Generator) -> None:
    """The trap of the reference: with a ramp of 500 HU, subtracting only the mean turns 100 into thousands."""
    white = 20.0 * rng.standard_normal((60, 64, 64))
    ramp = np.linspace(0, 500, 64)[None, :, None] + 30 * np.linspace(-1, 1, 64) ** 2
    clean, shaded = noise.nps(white, (0.5, 0.5)), noise.nps(white + ramp, (0.5, 0.5))
    np.testing.assert_allclose(shaded.power, clean.power, rtol=1e-6)
    assert noise.nps(white + ramp, (0.5, 0.5), detrend="mean").power[0] > 3000


def test_repeated_scans_give_the_noise_of_one(rng: np.random.Generator) -> None:
    """Anatomy goes with the mean; σ 20 known to 1/√(2·40·1024) = 0.35 % of σ, 0.7 % of σ²."""
    anatomy = 300 * rng.standard_normal((40, 32, 32))
    scans = [anatomy + 20 * rng.standard_normal(anatomy.shape) for _ in range(2)]
    two = noise.nps_of_repeats(scans, SPACING)
    assert two.standard_deviation == pytest.approx(20.0, rel=0.015)
    difference = noise.nps((scans[0] - scans[1]), SPACING, detrend="mean")
    np.testing.assert_allclose(two.power_2d, difference.power_2d / 2, rtol=1e-9, atol=1e-9)
    five = noise.nps_of_repeats([anatomy + 20 * rng.standard_normal(anatomy.shape) for _ in range(5)], SPACING)
    assert five.standard_deviation == pytest.approx(20.0, rel=0.01)


def test_half_scans_give_the_noise_of_the_whole(rng: np.random.Generator) -> None:
    """Each half has √2 of the whole's noise: halves of 20√2 → 20."""
    anatomy = 300 * rng.standard_normal((40, 32, 32))
    even, odd = (anatomy + 20 * np.sqrt(2) * rng.standard_normal(anatomy.shape) for _ in range(2))
    assert noise.nps_of_halves(even, odd, SPACING).standard_deviation == pytest.approx(20.0, rel=0.015)


def test_streaks_show_as_one_strong_direction(rng: np.random.Generator) -> None:
    white = rng.standard_normal((100, 64, 64))
    assert noise.nps(white, (0.5, 0.5)).anisotropy == pytest.approx(1.0, abs=0.1)
    streaks = white + 1.5 * rng.standard_normal((100, 64, 1))
    assert noise.nps(streaks, (0.5, 0.5)).anisotropy > 2


def test_neighbouring_slices_correlate_as_they_were_made(rng: np.random.Generator) -> None:
    """A running mean of three slices: ρ = 2/3, 1/3, 0. With 4·13·1024 pixels ρ is known to 0.5 %."""
    white = rng.standard_normal((4, 18, 32, 32))
    stack = (white[:, :-2] + white[:, 1:-1] + white[:, 2:]) / 3
    found = noise.slice_correlation(stack)
    np.testing.assert_allclose(found, [1, 2 / 3, 1 / 3, 0, 0], atol=0.03)
    exact = np.array([1, 2 / 3, 1 / 3])
    assert noise.independent_slices(10, exact) == pytest.approx(10 / (1 + 2 * (0.9 * 2 / 3 + 0.8 / 3)))
    assert noise.independent_slices(10, np.array([1.0, -0.1])) == 10


def test_patches_come_from_where_they_are_asked() -> None:
    values = np.arange(3 * 11 * 13, dtype=np.float32).reshape(3, 11, 13)
    volume = Volume(values, Grid.centred((3, 11, 13), (1.0, 0.5, 0.5)), "HU")
    found = noise.patches_at(volume, [(2, 1, 4), (0, 2, 5)], 8)
    np.testing.assert_array_equal(found[0], values[2, 1:9, 4:12])
    np.testing.assert_array_equal(found[1], values[0, 2:10, 5:13])
    with pytest.raises(InputError, match="reaches out of the image"):
        noise.patches_at(volume, [(0, 4, 4)], 8)
    with pytest.raises(InputError, match="expected \\(at least 1, 3\\)"):
        noise.patches_at(volume, [(0, 4)], 8)


@pytest.mark.parametrize(
    ("patches", "story"),
    [
        (np.zeros((3, 8, 9)), "expected \\(patches, size, size\\)"),
        (np.zeros((3, 6, 6)), "size ≥ 8"),
        (np.full((1, 8, 8), np.nan), "NaN"),
        (np.where(np.arange(64).reshape(1, 8, 8) == 9, np.inf, 0.0), "NaN or infinity"),
    ],
)
def test_bad_patches_are_refused(patches: np.ndarray, story: str) -> None:
    with pytest.raises(InputError, match=story):
        noise.nps(patches, SPACING)


def test_unknown_detrending_and_single_scans_are_refused() -> None:
    with pytest.raises(InputError, match="none of quadratic"):
        noise.nps(np.ones((1, 8, 8)), SPACING, detrend="cubic")
    with pytest.raises(InputError, match="at least two stacks"):
        noise.nps_of_repeats([np.zeros((1, 8, 8))], SPACING)
    with pytest.raises(InputError, match="at least 2 slices"):
        noise.slice_correlation(np.zeros((1, 1, 8, 8)))
    with pytest.raises(InputError, match="without any noise"):
        noise.slice_correlation(np.zeros((1, 4, 8, 8)))
