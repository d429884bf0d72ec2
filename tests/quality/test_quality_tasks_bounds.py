"""Bounds from counts and from noise power, and the dose of equal detectability, against closed forms."""

import numpy as np
import pytest

from lampyris.model import InputError
from lampyris.quality.detectability import Disc, Spot, npw
from lampyris.quality.tasks import dose_of_equal_detectability, ideal_bound, prewhitening

F = np.linspace(0, 3, 3001)


def test_the_counts_bound_is_the_log_likelihood_ratios(rng: np.random.Generator) -> None:
    """10 000 draws of λ = Σ w Δp (p − Δp/2): its means differ by d′², its SD is d′; known to 1 %."""
    weights = rng.uniform(50, 400, (7, 3, 11))
    signal = rng.uniform(0, 0.02, weights.shape)
    bound = ideal_bound(weights, signal)
    draws = rng.normal(size=(10_000, weights.size)) / np.sqrt(weights.ravel())
    ratio = draws @ (weights * signal).ravel()
    gap = ((weights * signal).ravel() * signal.ravel()).sum()
    assert gap / ratio.std() == pytest.approx(bound, rel=0.03)


def test_the_counts_bound_grows_with_the_root_of_dose_and_in_blocks(rng: np.random.Generator) -> None:
    weights = rng.uniform(50, 400, (150, 2, 5)).astype(np.float32)
    signal = rng.uniform(0, 0.02, weights.shape).astype(np.float32)
    assert ideal_bound(10 * weights, signal) == pytest.approx(np.sqrt(10) * ideal_bound(weights, signal))
    assert ideal_bound(weights, signal) == pytest.approx(
        np.sqrt((weights.astype(np.float64) * signal.astype(np.float64) ** 2).sum())
    )


def test_an_image_of_parallel_rays_cannot_beat_the_rays() -> None:
    """Gaussian spot, weights w per ray at pitch Δ, M angles over π: d′² = wM/Δ ∫ p² = wM/Δ·C²2πs²·√π s.

    The image's prewhitening d′ with NPS = π f Δ/(M w) (ramp, T = 1) is the same: nothing was lost on the way.
    """
    c, s, w, views, pitch = 0.002, 2.1, 3000.0, 90, 0.25
    place = np.arange(-80, 81) * pitch
    line = c * np.sqrt(2 * np.pi) * s * np.exp(-(place**2) / (2 * s**2))
    rays = np.tile(line, (views, 1))
    bound = ideal_bound(np.full(rays.shape, w), rays)
    assert bound == pytest.approx(np.sqrt(w * views / pitch * c**2 * 2 * np.pi * s**2 * np.sqrt(np.pi) * s), rel=1e-6)
    f = np.linspace(1e-6, 1.0, 4001)
    image = prewhitening(Spot(s, c), (f, np.ones_like(f)), (f, np.pi * f * pitch / (views * w)))
    assert image.value == pytest.approx(bound, rel=1e-3)


def test_in_white_noise_prewhitening_changes_nothing() -> None:
    task = Disc(2.5, 15.0)
    f = np.linspace(0, 10, 2001)
    both = prewhitening(task, (f, np.ones_like(f)), (f, np.full_like(f, 100.0)))
    plain = npw(task, (f, np.ones_like(f)), (f, np.full_like(f, 100.0)))
    assert both.value == pytest.approx(plain.value, rel=1e-9)
    assert both.beyond == plain.beyond


def test_in_coloured_noise_the_closed_form_holds_and_beats_npw() -> None:
    """N = n e^(−4π²q²f²): d′² = ∬W²/N = πC²s⁴/(n (s² − q²))."""
    c, s, q, n = 12.0, 1.7, 0.5, 90.0
    noise = n * np.exp(-4 * (np.pi * q * F) ** 2)
    found = prewhitening(Spot(s, c), (F, np.ones_like(F)), (F, noise))
    assert found.value == pytest.approx(np.sqrt(np.pi * c**2 * s**4 / (n * (s**2 - q**2))), rel=1e-3)
    assert found.value > npw(Spot(s, c), (F, np.ones_like(F)), (F, noise)).value


def test_what_the_kernel_cut_from_both_is_not_missed() -> None:
    """A kernel that ends at 1 /mm takes task and noise alike; the spot's whole energy lies below."""
    edge = (F <= 1.0).astype(np.float64)
    found = prewhitening(Spot(1.7, 12.0), (F, edge), (F, 90.0 * edge))
    assert found.value == pytest.approx(np.sqrt(np.pi * 144 * 1.7**2 / 90), rel=1e-3)


def test_the_dose_of_equal_detectability_follows_the_power_law() -> None:
    """d′ = 3·dose^0.4 reaches 2 at (2/3)^2.5, wherever the doses were taken and in whatever order."""
    doses = [1.0, 0.05, 0.2, 0.5, 0.1]
    found = dose_of_equal_detectability(doses, [3 * d**0.4 for d in doses], 2.0)
    assert found.value == pytest.approx((2 / 3) ** 2.5)
    assert dict(found.settings)["doses"] == sorted(doses)


def test_a_value_that_falls_back_moves_the_dose_up() -> None:
    """0.2 was above the reference by chance: 0.5 is not, so the dose lies between 0.5 and 1."""
    found = dose_of_equal_detectability([0.1, 0.2, 0.5, 1.0], [1.0, 2.2, 1.9, 2.8], 2.0)
    assert 0.5 < found.value < 1.0
    assert dict(found.settings)["falls"] == 1


def test_nothing_is_extrapolated() -> None:
    with pytest.raises(InputError, match="at or above it from the lowest dose on"):
        dose_of_equal_detectability([0.1, 0.2, 1.0], [2.0, 2.5, 3.0], 1.9)
    with pytest.raises(InputError, match="below it at the highest dose"):
        dose_of_equal_detectability([0.1, 0.2, 1.0], [2.0, 2.5, 3.0], 3.1)


def test_bad_input_is_refused() -> None:
    with pytest.raises(InputError, match="expected the same"):
        ideal_bound(np.ones((2, 3)), np.ones((3, 2)))
    with pytest.raises(InputError, match="negative weight"):
        ideal_bound(np.array([1.0, -1.0]), np.ones(2))
    with pytest.raises(InputError, match="negative weight"):
        ideal_bound(np.array([1.0, np.nan]), np.ones(2))
    with pytest.raises(InputError, match="beside the scan field"):
        ideal_bound(np.ones(4), np.zeros(4))
    with pytest.raises(InputError, match="must ascend"):
        prewhitening(Spot(1.0, 1.0), (F[::-1], F), (F, F + 1))
    with pytest.raises(InputError, match="would be infinite"):
        prewhitening(Spot(1.0, 1.0), (F, np.ones_like(F)), (F, np.zeros_like(F)))
    with pytest.raises(InputError, match="no dose be given twice"):
        dose_of_equal_detectability([0.1, 0.1], [1.0, 2.0], 1.5)
    with pytest.raises(InputError, match="NaN or infinite"):
        dose_of_equal_detectability([0.1, 0.2], [1.0, np.nan], 1.5)
    with pytest.raises(InputError, match="at least two"):
        dose_of_equal_detectability([0.1], [1.0], 1.0)
