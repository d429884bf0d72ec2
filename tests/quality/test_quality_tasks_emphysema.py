"""LAA-950 of a lung whose noise-free and noisy indices are the reference's numbers and Gaussian integrals."""

import numpy as np
import pytest
from scipy import special

from lampyris.model import InputError
from lampyris.quality.tasks import low_attenuation, noise_shift

SHARE, EMPHYSEMA, NORMAL = 0.02947, (-975.0, 5.0), (-859.2, 27.79)
"""A lung of two Gaussians, solved for the reference's 3.0 % at no noise and 7.5, 15.6, 24.1 % at 50, 80, 120 HU.

Three unknowns (share, mean and spread of normal lung) meet four numbers: they are consistent to 0.01 %.
"""


def index(share: float, noise: float) -> float:
    """LAA-950 in percent of the two Gaussians under noise, closed form."""
    low, normal = (special.ndtr((-950 - m) / np.hypot(s, noise)) for m, s in (EMPHYSEMA, NORMAL))
    return float(100 * (share * low + (1 - share) * normal))


def lung(rng: np.random.Generator, share: float, noise: float, n: int = 150_000) -> np.ndarray:
    ill = rng.random(n) < share
    values = np.where(ill, rng.normal(*EMPHYSEMA, n), rng.normal(*NORMAL, n)) + rng.normal(0, noise, n)
    return values.astype(np.float32).reshape(-1, 50, 60)


def everywhere(image: np.ndarray) -> np.ndarray:
    return np.ones(image.shape, np.bool_)


@pytest.mark.parametrize(("noise", "reads"), [(0, 3.0), (50, 7.5), (80, 15.6), (120, 24.1)])
def test_the_references_numbers_come_from_one_lung(rng: np.random.Generator, noise: float, reads: float) -> None:
    """Closed form within rounding of the reference; the image within 4σ of counting, √(p(1−p)/N) = 0.11 %."""
    assert index(SHARE, noise) == pytest.approx(reads, abs=0.05)
    image = lung(rng, SHARE, noise)
    found = low_attenuation(image, everywhere(image), float(noise), denoised=True)
    assert found.value == pytest.approx(reads, abs=0.5)
    assert found.name == "laa-950"


@pytest.mark.parametrize("noise", [50, 80, 120])
@pytest.mark.parametrize("share", [0.001, SHARE, 0.1])
def test_an_index_that_noise_moved_is_refused(rng: np.random.Generator, noise: float, share: float) -> None:
    image = lung(rng, share, noise)
    with pytest.raises(InputError, match="not measured"):
        low_attenuation(image, everywhere(image), float(noise))


@pytest.mark.parametrize("noise", [50, 80])
@pytest.mark.parametrize("share", [0.001, SHARE])
def test_the_expected_shift_is_near_the_true_one(rng: np.random.Generator, noise: float, share: float) -> None:
    """An inversion: 20 % is what its smoothness leaves, derived from lungs of 0 to 10 % emphysema."""
    image = lung(rng, share, noise)
    found = noise_shift(image, everywhere(image), float(noise))
    assert found.deconvolved == pytest.approx(index(share, noise) - index(share, 0), rel=0.2)


def test_noise_that_moves_nothing_lets_the_index_pass(rng: np.random.Generator) -> None:
    """At 10 HU the closed form moves by less than 0.05 points."""
    image = lung(rng, SHARE, 10.0)
    assert abs(index(SHARE, 10) - index(SHARE, 0)) < 0.05
    found = low_attenuation(image, everywhere(image), 10.0)
    assert found.value == pytest.approx(3.0, abs=0.3)
    assert abs(dict(found.settings)["expected_shift_points"]) < 0.3


def test_a_map_of_one_noise_is_that_noise(rng: np.random.Generator) -> None:
    image = lung(rng, SHARE, 60.0)
    flat = noise_shift(image, everywhere(image), 60.0)
    level = noise_shift(image, everywhere(image), np.full(image.shape, 60.0, np.float32))
    assert level.deconvolved == pytest.approx(flat.deconvolved, rel=1e-6)
    assert level.again == pytest.approx(flat.again, rel=1e-6)


def test_only_the_lung_counts(rng: np.random.Generator) -> None:
    image = lung(rng, SHARE, 0.0)
    mask = everywhere(image)
    image[:, :, :20], mask[:, :, :20] = -1000, False
    assert low_attenuation(image, mask, 0.0).value == pytest.approx(3.0, abs=0.3)


def test_bad_input_is_refused(rng: np.random.Generator) -> None:
    image = lung(rng, SHARE, 0.0)
    mask = everywhere(image)
    with pytest.raises(InputError, match="at least 1000"):
        low_attenuation(image, np.zeros_like(mask), 10.0)
    with pytest.raises(InputError, match="noise map is"):
        low_attenuation(image, mask, np.ones(5, np.float32))
    with pytest.raises(InputError, match="NaN or negative"):
        low_attenuation(image, mask, -1.0)
    image[0, 0, 0] = np.nan
    with pytest.raises(InputError, match="holds NaN"):
        low_attenuation(image, mask, 10.0)
