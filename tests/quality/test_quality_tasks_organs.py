"""Organ biases with a known offset, erosion that keeps the blur out, and a low pass with a closed form."""

import numpy as np
import pytest
from scipy import ndimage

from lampyris.model import InputError
from lampyris.quality.tasks import Core, lowpass_difference, organ_biases

SPACING = (1.5, 0.7, 0.8)
SHAPE = (17, 60, 55)
NAMES = {3: "kidney_left", 5: "liver", 9: "gland"}


def scene() -> tuple[np.ndarray, np.ndarray]:
    """Truth and labels: a liver 60, a kidney 35 that reaches the image's border, a gland too small for a core."""
    labels = np.zeros(SHAPE, np.uint8)
    labels[3:14, 8:40, 10:33] = 5
    labels[5:17, 20:52, 38:55] = 3
    labels[1:3, 2:5, 2:5] = 9
    truth = np.full(SHAPE, -100, np.float32)
    for label, value in ((5, 60.0), (3, 35.0), (9, 20.0)):
        truth[labels == label] = value
    return truth, labels


def test_an_organs_offset_is_found_within_its_standard_error(rng: np.random.Generator) -> None:
    truth, labels = scene()
    offset = np.where(labels == 5, 2.5, -1.0).astype(np.float32)
    images = truth + offset + rng.normal(0, 20.0, (8, *SHAPE))
    found = organ_biases(images, truth, labels, NAMES, SPACING)
    assert [one.name for one in found.measured] == ["kidney_left", "liver"]
    assert found.left_out == ((9, "gland", 0),)
    for one, real in zip(found.measured, (-1.0, 2.5), strict=True):
        assert one.standard_error is not None
        # 20/√(8N) is the closed form for white noise; over 8 seeds it is known to 27 %, 3σ = 80 %.
        assert one.standard_error == pytest.approx(20 / np.sqrt(8 * one.voxels), rel=0.8)
        assert abs(one.bias - real) < 4 * 20 / np.sqrt(8 * one.voxels)
    assert found.worst.name == "liver"
    figure = found.worst.figure()
    assert figure.name == "bias_liver"
    assert dict(figure.settings)["margin_mm"] == 3.0


def test_blur_across_the_border_is_not_bias() -> None:
    """σ = 0.8 mm: 3 mm inside a plane border its effect is 160 HU · Φ(−3.75) = 0.014 HU; without margin, HU."""
    truth, labels = scene()
    blurred = ndimage.gaussian_filter(truth, [0.8 / each for each in SPACING])
    kept = organ_biases(blurred[None], truth, labels, NAMES, SPACING).measured[1]
    bare = organ_biases(blurred[None], truth, labels, NAMES, SPACING, core=Core(margin_mm=0.0)).measured[1]
    assert abs(kept.bias) < 0.05
    assert bare.bias < -5
    assert kept.standard_error is None


def test_the_images_border_is_no_organs_border() -> None:
    truth, labels = scene()
    found = organ_biases(truth[None] + 1, truth, labels, NAMES, SPACING).measured[0]
    # The kidney reaches the last column and slice: 4 mm lie in front of it there, 3 mm are taken off elsewhere.
    slices, rows, columns = (np.arange(n) * s for n, s in zip((12, 32, 17), SPACING, strict=True))
    kept = (slices + 1.5 > 3).sum() * ((rows + 0.7 > 3) & (rows[::-1] + 0.7 > 3)).sum() * (columns + 0.8 > 3).sum()
    assert found.voxels == kept


def test_the_low_pass_keeps_a_constant_up_to_the_masks_border(rng: np.random.Generator) -> None:
    truth = rng.normal(0, 50, SHAPE).astype(np.float32)
    mask = np.zeros(SHAPE, np.bool_)
    mask[2:-3, 5:-9, 7:-4] = True
    image = np.where(mask, truth + 4, 3000).astype(np.float32)
    found = lowpass_difference(image, truth, 2.5, SPACING, mask=mask)
    assert found[mask] == pytest.approx(4.0, abs=1e-3)
    assert np.isnan(found[~mask]).all()


def test_the_low_pass_leaves_the_noise_of_its_closed_form(rng: np.random.Generator) -> None:
    """White σ 30 through a Gaussian s: 30·√(v/((4π)^1.5 s³)); about 140 independent places: 6 %, 3σ = 18 %."""
    truth = np.zeros((24, 60, 55), np.float32)
    image = rng.normal(0, 30, truth.shape).astype(np.float32)
    mask = np.ones(truth.shape, np.bool_)
    found = lowpass_difference(image, truth, 2.0, SPACING, mask=mask)[5:-5, 9:-9, 9:-9]
    expected = 30 * np.sqrt(np.prod(SPACING) / ((4 * np.pi) ** 1.5 * 2.0**3))
    assert np.sqrt(np.mean(found**2)) == pytest.approx(expected, rel=0.2)


def test_bad_input_is_refused() -> None:
    truth, labels = scene()
    with pytest.raises(InputError, match="1 without a name"):
        organ_biases(truth[None], truth, labels, {3: "kidney", 5: "liver"}, SPACING)
    with pytest.raises(InputError, match="labels are float32"):
        organ_biases(truth[None], truth, truth, NAMES, SPACING)
    with pytest.raises(InputError, match="hold 0 without a name"):
        organ_biases(truth[None], truth, np.zeros_like(labels), NAMES, SPACING)
    with pytest.raises(InputError, match="margin ≥ 0"):
        Core(margin_mm=-1.0)
    with pytest.raises(InputError, match="no low pass"):
        lowpass_difference(truth, truth, 0.1, SPACING, mask=labels > 0)
    with pytest.raises(InputError, match="with 0 voxels"):
        lowpass_difference(truth, truth, 2.0, SPACING, mask=labels > 99)
