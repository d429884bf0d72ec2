"""The error split against a texture, a transfer, an offset and a noise whose parts are known on paper."""

import numpy as np
import pytest

from lampyris.model import InputError
from lampyris.quality.tasks import Fit, Split, split_bands, split_error, tissues

SPACING = (1.5, 0.7, 0.8)
SHAPE = (6, 130, 117)
KNOTS = (0.0, 0.1, 0.25, 0.45, 0.7)
PLANE = (1.0, 0.95, 0.7, 0.3, 0.1)


def texture(rng: np.random.Generator, sd: float) -> np.ndarray:
    return rng.normal(0, sd, SHAPE)


def blurred(truth: np.ndarray, axial: float = 0.0) -> np.ndarray:
    """The transfer of PLANE between KNOTS; `axial`: that much of each neighbouring slice for as much of its own."""
    f = np.hypot(np.fft.fftfreq(SHAPE[1], SPACING[1])[:, None], np.fft.fftfreq(SHAPE[2], SPACING[2]))
    made = np.fft.ifft2(np.fft.fft2(truth) * np.interp(f, KNOTS, PLANE)).real
    around = np.concatenate([truth[:1], truth[:-1]]) + np.concatenate([truth[1:], truth[-1:]]) - 2 * truth
    return made + axial * around


def power(transfer_at: np.ndarray) -> float:
    """Mean of (1 − H)² over the lattice of frequencies: what white texture of variance 1 loses."""
    f = np.hypot(np.fft.fftfreq(SHAPE[1], SPACING[1])[:, None], np.fft.fftfreq(SHAPE[2], SPACING[2]))
    return float(np.mean((1 - np.interp(f, KNOTS, transfer_at)) ** 2))


def middle() -> np.ndarray:
    mask = np.zeros(SHAPE, np.bool_)
    mask[:, 14:-11, 12:-15] = True
    return mask


def seeds(rng: np.random.Generator, mean: np.ndarray, sd: float, n: int) -> np.ndarray:
    return np.stack([mean + rng.normal(0, sd, SHAPE) for _ in range(n)]).astype(np.float32)


def split(images: np.ndarray, truth: np.ndarray, **settings: object) -> Split:
    (found,) = split_error(
        images, truth.astype(np.float32), {"body": middle()}, SPACING, fit=Fit(knots_per_mm=KNOTS, **settings)
    )
    return found


def test_blur_offset_and_noise_are_told_apart(rng: np.random.Generator) -> None:
    """White texture τ 40: resolution² = τ²⟨(1−H)²⟩; bias = the offset; noise = σ; each squared adds up to the total.

    N = 56 700 voxels: a variance is known to √(2/N) = 0.6 %, 3σ = 1.8 %; padding costs resolution some 1 % more.
    """
    truth = texture(rng, 40.0)
    found = split(seeds(rng, blurred(truth) + 3.0, 25.0, 5), truth)
    assert found.noise.square == pytest.approx(25.0**2, rel=0.015)
    assert found.resolution.square == pytest.approx(40.0**2 * power(np.array(PLANE)), rel=0.03)
    # The mean of 5 × N noises: 25/√(5N) = 0.05 HU, and the texture at the padded border.
    assert found.bias.root == pytest.approx(3.0, rel=0.06)
    parts = found.noise.square + found.resolution.square + found.bias.square
    assert found.total.square == pytest.approx(parts, rel=1e-9)
    assert found.shared.square == pytest.approx(0, abs=1e-8 * parts)
    assert found.transfer.plane == pytest.approx(PLANE, abs=0.03)
    assert found.transfer.axial == pytest.approx(0, abs=0.02)


def test_the_total_is_the_mean_square_error(rng: np.random.Generator) -> None:
    truth = texture(rng, 40.0)
    images = seeds(rng, blurred(truth) - 5.0, 12.0, 3)
    difference = (images - truth.astype(np.float32))[:, middle()].astype(np.float64)
    assert split(images, truth).total.square == pytest.approx(float(np.mean(difference**2)), rel=1e-6)


def test_two_seeds_and_twenty_agree_on_every_part(rng: np.random.Generator) -> None:
    """Without the correction for the noise of the mean, two seeds would tell a bias of 30/√2 = 21 HU."""
    truth = texture(rng, 40.0)
    mean = blurred(truth)
    few, many = (split(seeds(rng, mean, 30.0, n), truth) for n in (2, 20))
    for part in ("noise", "resolution", "bias"):
        # The mean of two's square spreads by 30²/2·√(2/N) = 2.7 HU²; 4σ.
        assert getattr(few, part).square == pytest.approx(getattr(many, part).square, abs=11.0, rel=0.02)
    assert abs(few.bias.square) < 11.0
    assert few.bias.interval is None


def test_blur_through_the_slices_is_lost_resolution(rng: np.random.Generator) -> None:
    """A quarter of each neighbour: told with `axial`, and taken for bias without, by what can be done on paper.

    Without, the four inner slices leave 2·¼² τ², both end slices ¼² τ², and of the own slice's share (−½ inside, −¼ at
    the ends) the spread about its mean, ¼²·⅓·⅔ τ², is left too: 0.1181 τ².
    """
    truth = texture(rng, 40.0)
    images = seeds(rng, blurred(truth, axial=0.25), 4.0, 3)
    told, blind = split(images, truth), split(images, truth, axial=False)
    assert told.bias.square < 0.02 * told.resolution.square
    assert told.transfer.axial == pytest.approx(0.25, abs=0.02)
    assert blind.bias.square == pytest.approx((4 * 0.125 + 2 * 0.0625) / 6 * 1600 + 0.0625 * 2 / 9 * 1600, rel=0.03)
    assert told.total.square == pytest.approx(blind.total.square)


def test_the_fitted_transfer_gives_the_blurred_truth_back(rng: np.random.Generator) -> None:
    truth = texture(rng, 40.0)
    mean = blurred(truth, axial=0.1)
    found = split(seeds(rng, mean, 1.0, 3), truth)
    difference = (found.transfer.applied(truth.astype(np.float32)) - mean)[middle()]
    assert np.sqrt(np.mean(difference**2)) < 0.06 * np.sqrt(np.mean((truth - mean)[middle()] ** 2))


def test_the_bands_add_up_and_hold_what_belongs_to_them(rng: np.random.Generator) -> None:
    """A constant error lies in the lowest band, white noise in each by its share of the lattice."""
    truth = texture(rng, 40.0)
    images = seeds(rng, truth + 6.0, 20.0, 4)
    whole = split(images, truth, bands_per_mm=(0.08, 0.3, 0.6))
    bands = split_bands(images, truth.astype(np.float32), middle(), whole)
    for part in ("total", "noise", "resolution", "bias", "shared"):
        total = sum(getattr(one, part).square for one in bands)
        assert total == pytest.approx(getattr(whole, part).square, abs=1e-5 * whole.total.square)
    f = np.hypot(np.fft.fftfreq(SHAPE[1], SPACING[1])[:, None], np.fft.fftfreq(SHAPE[2], SPACING[2]))
    for one, (low, high) in zip(bands, ((-1, 0.08), (0.08, 0.3), (0.3, 0.6), (0.6, 9)), strict=True):
        share = np.mean((f > low) & (f <= high))
        assert one.noise.square == pytest.approx(20.0**2 * share, rel=0.08)
    assert bands[0].bias.square > 0.95 * whole.bias.square
    assert bands[-1].name == "body_0.6_inf_per_mm"


def test_the_intervals_cover_the_truth_as_often_as_they_say(rng: np.random.Generator) -> None:
    """80 % intervals of noise² and of the offset's square, five seeds; 40 trials spread by 6 %, 3σ = 19 %."""
    truth = rng.normal(0, 30.0, (3, 24, 22)).astype(np.float32)
    region = {"all": np.ones(truth.shape, np.bool_)}
    covered = np.zeros(2)
    for _ in range(40):
        images = truth + 5.0 + rng.normal(0, 20.0, (5, *truth.shape))
        (found,) = split_error(images, truth, region, SPACING, fit=Fit(KNOTS, axial=False, confidence=0.8))
        for index, (part, real) in enumerate(((found.noise, 400.0), (found.bias, 25.0))):
            assert part.interval is not None
            covered[index] += part.interval[0] <= real <= part.interval[1]
    assert (covered / 40 > 0.6).all()
    assert (covered / 40 < 1.0).all()


def test_each_tissue_has_its_own_transfer(rng: np.random.Generator) -> None:
    truth = texture(rng, 30.0)
    truth[:, :, : SHAPE[2] // 2] -= 800
    images = truth.copy()
    images[:, :, SHAPE[2] // 2 :] = blurred(truth)[:, :, SHAPE[2] // 2 :]
    body = middle()
    body[:, :, SHAPE[2] // 2 - 12 : SHAPE[2] // 2 + 12] = False  # their common edge belongs to neither
    masks = tissues(truth.astype(np.float32), body)
    assert set(masks) == {"body", "lung", "soft"}
    found = {
        one.name: one
        for one in split_error(
            seeds(rng, images, 5.0, 3), truth.astype(np.float32), masks, SPACING, fit=Fit(KNOTS, axial=False)
        )
    }
    assert found["soft"].resolution.square > 20 * abs(found["lung"].resolution.square)
    assert found["lung"].transfer.plane[-1] == pytest.approx(1.0, abs=0.03)
    assert found["soft"].transfer.plane[-1] == pytest.approx(0.1, abs=0.05)


def test_figures_keep_settings_and_intervals(rng: np.random.Generator) -> None:
    truth = texture(rng, 40.0)
    found = split(seeds(rng, truth + 2.0, 10.0, 4), truth)
    noise = {one.name: one for one in found.figures()}["body_noise_rmse"]
    settings = dict(noise.settings)
    low, high = settings["interval"]
    assert low < noise.value < high
    assert settings["seeds"] == 4
    assert settings["knots_per_mm"] == list(KNOTS)


def test_bad_input_is_refused(rng: np.random.Generator) -> None:
    truth = texture(rng, 40.0).astype(np.float32)
    images = seeds(rng, truth, 10.0, 3)
    region = {"body": middle()}
    with pytest.raises(InputError, match="1 seeds, expected at least 2"):
        split_error(images[:1], truth, region, SPACING)
    with pytest.raises(InputError, match="two of the seeds are the same image"):
        split_error(images[[0, 1, 0]], truth, region, SPACING)
    spoilt = images.copy()
    spoilt[1, 2, 3, 4] = np.nan
    with pytest.raises(InputError, match="images hold 1 NaN"):
        split_error(spoilt, truth, region, SPACING)
    with pytest.raises(InputError, match="put the truth on the images' grid"):
        split_error(images, truth[1:], region, SPACING)
    few = np.zeros(SHAPE, np.bool_)
    few[0, 0, :30] = True
    with pytest.raises(InputError, match="holds 30 voxels, a fit of 17 unknowns"):
        split_error(images, truth, {"rib": few}, SPACING)
    with pytest.raises(InputError, match="spacing is"):
        split_error(images, truth, region, (1.0, 0.0, 1.0))
    with pytest.raises(InputError, match=r"first knot is at 0\.1"):
        Fit(knots_per_mm=(0.1, 0.2))
    whole = split_error(images, truth, region, SPACING)[0]
    with pytest.raises(InputError, match="not over these"):
        split_bands(images[:2], truth, middle(), whole)
    with pytest.raises(InputError, match="the body is"):
        tissues(truth, middle()[1:])
