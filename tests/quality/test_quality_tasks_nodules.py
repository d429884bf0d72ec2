"""Nodule volumes of analytic blurred balls in lung, with noise, vessels, and what has to be refused."""

import numpy as np
import pytest
from scipy import ndimage

from lampyris.model import InputError
from lampyris.quality.tasks import Nodule, Search, nodule_volume
from lampyris.quality.tasks.nodules import blurred_ball

SPACING = (1.0, 0.7, 0.8)
SHAPE = (31, 43, 39)
LUNG, SOLID = -850.0, 30.0


def offsets(shift: np.ndarray, along: float = 0.0) -> tuple[np.ndarray, tuple[float, float, float]]:
    centre = np.array([(n // 2) * s for n, s in zip(SHAPE, SPACING, strict=True)]) + shift
    axes = [np.arange(n) * s - c for n, s, c in zip(SHAPE, SPACING, centre, strict=True)]
    axes[0] = axes[0] + along
    return np.stack(np.meshgrid(*axes, indexing="ij")), (float(centre[0]), float(centre[1]), float(centre[2]))


def nodule(
    diameter: float, shift: tuple[float, float, float] = (0.2, -0.3, 0.15), blur: float = 0.5, vessel: float = 0.0
) -> tuple[np.ndarray, tuple[float, float, float]]:
    """A ball under a Gaussian, averaged over a slice of 1 mm; a vessel leaves it along the columns."""
    image = np.zeros(SHAPE)
    for sub in (np.arange(5) + 0.5) / 5 - 0.5:
        place, centre = offsets(np.asarray(shift), sub * SPACING[0])
        ball = blurred_ball(np.maximum(np.sqrt((place**2).sum(axis=0)), 1e-6), diameter / 2, blur)
        if vessel:
            tube = ndimage.gaussian_filter(
                (np.hypot(place[0], place[1]) <= vessel / 2) * (place[2] > 0.0),
                [blur / s for s in SPACING],
                output=float,
            )
            ball = np.maximum(ball, tube)
        image += ball / 5
    return (LUNG + (SOLID - LUNG) * image).astype(np.float32), centre


def ball_mm3(diameter: float) -> float:
    return float(np.pi * diameter**3 / 6)


def noise(rng: np.random.Generator, sd: float) -> np.ndarray:
    """Noise of `sd` without its lowest frequencies, as filtered back-projection makes it, a little blurred."""
    white = rng.normal(size=SHAPE)
    fine = ndimage.gaussian_filter(white, (0, 0.5, 0.5)) - ndimage.gaussian_filter(white, (0, 2.5, 2.5))
    return (sd * fine / fine.std()).astype(np.float32)


@pytest.mark.parametrize("diameter", [4, 6, 8, 10])
@pytest.mark.parametrize("blur", [0.35, 0.7])
def test_without_noise_the_volume_is_the_balls(diameter: float, blur: float) -> None:
    """The half-level surface alone would lose 3σ²/R²: 37 % at 4 mm and 0.7 mm blur. The slice's box makes 1 %."""
    image, centre = nodule(diameter, blur=blur)
    found = nodule_volume(image, centre, SPACING)
    assert found.volume_mm3 == pytest.approx(ball_mm3(diameter), rel=0.02)
    assert found.diameter_mm == pytest.approx(diameter, rel=0.01)
    assert np.asarray(found.centre_mm) == pytest.approx(centre, abs=0.05)
    assert found.background_hu == pytest.approx(LUNG, abs=1)


@pytest.mark.parametrize(("diameter", "bias", "spread"), [(4, 0.05, 0.12), (6, 0.02, 0.04), (8, 0.02, 0.04)])
def test_at_120_hu_of_noise_the_reference_holds(
    rng: np.random.Generator, diameter: float, bias: float, spread: float
) -> None:
    """From 6 mm on within 2 %, SD 4 % (reference; 4 mm is told, not promised). 12 trials: the SD is known to 21 %."""
    found = []
    for _ in range(12):
        image, centre = nodule(diameter, tuple(rng.uniform(-0.5, 0.5, 3)))
        found.append(nodule_volume(image + noise(rng, 120.0), centre, SPACING).volume_mm3 / ball_mm3(diameter))
    assert np.std(found, ddof=1) < spread
    assert abs(np.mean(found) - 1) < bias + 2 * spread / np.sqrt(12)


def test_a_nodule_off_its_place_is_found() -> None:
    image, centre = nodule(6)
    found = nodule_volume(image, (centre[0] + 0.9, centre[1] - 1.0, centre[2] + 0.5), SPACING)
    assert found.volume_mm3 == pytest.approx(ball_mm3(6), rel=0.02)
    assert np.asarray(found.centre_mm) == pytest.approx(centre, abs=0.05)


def test_a_thin_vessel_does_not_change_the_volume() -> None:
    """Of 1 mm its blurred level is below half: only its stump in the halo counts, π/4 · 1.6 mm³ = 1.1 % of 6 mm."""
    image, centre = nodule(6, vessel=1.0)
    assert nodule_volume(image, centre, SPACING).volume_mm3 == pytest.approx(ball_mm3(6), rel=0.03)


@pytest.mark.parametrize("vessel", [3.0, 5.0])
def test_a_thick_vessel_is_refused(vessel: float) -> None:
    image, centre = nodule(6, vessel=vessel)
    with pytest.raises(InputError, match=r"not measured: .*attached"):
        nodule_volume(image, centre, SPACING)


def test_a_short_stump_is_refused_by_its_length() -> None:
    image, centre = nodule(5, vessel=3.0)
    place, _ = offsets(np.array([0.2, -0.3, 0.15]))
    image[place[2] > 6.0] = LUNG
    with pytest.raises(InputError, match="times as long as wide"):
        nodule_volume(image, centre, SPACING)


def test_a_nodule_at_the_chest_wall_is_refused() -> None:
    image, centre = nodule(6)
    place, _ = offsets(np.array([0.2, -0.3, 0.15]))
    image[place[1] > 2.5] = 40
    with pytest.raises(InputError, match="chest wall"):
        nodule_volume(image, centre, SPACING)


def test_lung_without_a_nodule_is_refused(rng: np.random.Generator) -> None:
    """Noise of any kind, and a lung that is flat."""
    _, centre = nodule(6)
    for _ in range(3):
        with pytest.raises(InputError, match="not measured"):
            nodule_volume((LUNG + noise(rng, 100.0)).astype(np.float32), centre, SPACING)
    with pytest.raises(InputError, match="not measured"):
        nodule_volume(np.full(SHAPE, LUNG, np.float32), centre, SPACING)


def test_too_small_for_the_blur_is_refused() -> None:
    """2 mm under 1 mm of blur: the closed form leaves 20 % at its centre."""
    assert blurred_ball(np.array([1e-6]), 1.0, 1.0)[0] == pytest.approx(0.1987, abs=1e-3)
    image, centre = nodule(2, blur=1.0)
    with pytest.raises(InputError, match="too small for this image"):
        nodule_volume(image, centre, SPACING)


def test_bad_input_is_refused() -> None:
    image, centre = nodule(6)
    with pytest.raises(InputError, match="reaches from voxel"):
        nodule_volume(image, (3.0, *centre[1:]), SPACING)
    with pytest.raises(InputError, match=r"expected \(slices, rows, columns\)"):
        nodule_volume(image[0], centre, SPACING)
    with pytest.raises(InputError, match="spacing is"):
        nodule_volume(image, centre, (1.0, -1.0, 1.0))
    spoilt = image.copy()
    spoilt[15, 20, 20] = np.nan
    with pytest.raises(InputError, match="NaN"):
        nodule_volume(spoilt, centre, SPACING)
    with pytest.raises(InputError, match="above 0 mm"):
        Search(largest_mm=0.0)


def test_the_figure_keeps_its_settings() -> None:
    image, centre = nodule(8)
    found: Nodule = nodule_volume(image, centre, SPACING, search=Search(largest_mm=11.0))
    figure = found.figure("nodule_8mm")
    assert figure.unit == "mm3"
    assert dict(figure.settings)["largest_mm"] == 11.0
