"""The passport: noise, bias and tasks of images of which everything is known."""

from dataclasses import replace

import numpy as np
import pytest
from scipy import ndimage

from lampyris.model import Grid, InputError, Passport, Volume
from lampyris.quality import Analytic, Transfer, map_grid, passport
from lampyris.quality.detectability import Disc, npw

GRID = Grid.centred((4, 230, 250), (2.0, 0.9, 0.9), (7.0, -3.0, 11.0))
SIGMA = 12.0
SHARP = Transfer(np.linspace(0, 2.0, 65), np.ones(65), "none: pixels are points")


def phantom():
    rows, columns = np.mgrid[:230, :250]
    inside = ((rows - 110) / 95) ** 2 + ((columns - 130) / 105) ** 2 < 1
    return np.broadcast_to(np.where(inside, 20.0, -1000.0), GRID.shape).astype(np.float32)


def ramp_noise(rng):
    """Noise with NPS ∝ f up to a soft end, as filtered backprojection has it."""
    frequency = np.hypot(*np.meshgrid(np.fft.fftfreq(230, 0.9), np.fft.fftfreq(250, 0.9), indexing="ij"))
    shape = np.sqrt(frequency) * np.exp(-((frequency / 0.4) ** 2))
    field = np.fft.ifft2(np.fft.fft2(rng.standard_normal(GRID.shape)) * shape).real
    return (SIGMA * field / field.std()).astype(np.float32)


def volume(values):
    return Volume(values.astype(np.float32), GRID, "HU")


def level(value=SIGMA):
    grid = map_grid(GRID)
    return Volume(np.full(grid.shape, value, np.float32), grid, "HU")


def value(found: Passport, name):
    return next(one.value for one in found.figures if one.name == name)


def test_a_voxel_of_the_map_lies_in_the_middle_of_its_pixels():
    grid = map_grid(GRID)
    assert grid.shape == (4, 76, 83)
    assert grid.spacing_mm == pytest.approx((2.0, 2.7, 2.7))
    np.testing.assert_allclose(grid.position_mm((2, 5, 7)), GRID.position_mm((2, 16, 22)), atol=1e-9)


def test_noise_is_that_of_the_map(rng):
    found = passport(volume(phantom() + ramp_noise(rng)), level(), how=(("method", "told"),))
    assert value(found, "passport_noise") == pytest.approx(SIGMA)
    assert dict(found.figures[0].settings)["method"] == "told"
    assert any("passport_tasks_met" in reason for reason in found.reasons)


def test_noise_taken_out_is_no_bias(rng):
    """A denoiser that knows the truth: the difference is all noise, and what is left of it behind the low-pass is
    told within a third (the NPS at low frequencies is extrapolated)."""
    noisy = volume(phantom() + ramp_noise(rng))
    found = passport(volume(phantom()), level(1.0), analytic=Analytic(noisy, level()))
    assert value(found, "passport_bias_share") < 0.01
    assert value(found, "passport_bias_max") == 0.0
    settings = dict(next(one for one in found.figures if one.name == "passport_bias_rms").settings)
    assert found.bias is not None
    inside = phantom()[0, 1::3, 1::3][:76, :83] > 0
    assert settings["chance_rms"] == pytest.approx(np.std(found.bias.values[:, inside]), rel=0.33)


def test_a_planted_bias_is_found_where_it_is(rng):
    """A Gaussian of 9 HU and σ 12 mm behind a low-pass of 6 mm: 9·144/(144 + 36) = 7.2 HU at its middle."""
    truth = phantom()
    rows, columns = np.mgrid[:230, :250]
    lump = 9.0 * np.exp(-((rows - 140) ** 2 + (columns - 90) ** 2) * 0.81 / 2 / 144)
    found = passport(volume(truth + lump), level(1.0), analytic=Analytic(volume(truth + ramp_noise(rng)), level()))
    assert value(found, "passport_bias_max") == pytest.approx(7.2, abs=1.5)
    assert 0.02 < value(found, "passport_bias_share") < 0.3
    assert found.bias is not None
    _, row, column = np.unravel_index(
        ndimage.uniform_filter(found.bias.values, (4, 3, 3)).argmax(), found.bias.values.shape
    )
    assert np.hypot(3 * row + 1 - 140, 3 * column + 1 - 90) < 12


def test_tasks_are_those_of_theory(rng):
    """White noise σ at pixels Δ: d′ = C·√(πr²)/(σΔ) where all of the disc's energy lies below Nyquist; the measured
    spectrum against a constant one over the same frequencies."""
    white = SIGMA * rng.standard_normal(GRID.shape)
    found = passport(volume(phantom() + white), level(), transfer=SHARP)
    rod = next(one for one in found.detections if (one.contrast_hu, one.size_mm) == (10.0, 8.0))
    frequency = np.linspace(0, 0.5 / 0.9, 65)
    flat = npw(Disc(4.0, 10.0), (frequency, np.ones(65)), (frequency, np.full(65, (SIGMA * 0.9) ** 2))).value
    assert rod.detectability == pytest.approx(flat, rel=0.05)
    assert rod.detectability == pytest.approx(10 * np.sqrt(np.pi * 16) / (SIGMA * 0.9), rel=0.1)
    assert rod.met
    assert value(found, "passport_tasks_met") == sum(one.met for one in found.detections)
    assert {one.tissue for one in found.detections} == {"soft tissue"}


def test_twice_the_noise_is_half_the_detectability(rng):
    image = volume(phantom() + ramp_noise(rng))
    quiet, loud = (passport(image, level(each), transfer=SHARP).detections for each in (SIGMA, 2 * SIGMA))
    for one, other in zip(quiet, loud, strict=True):
        assert other.detectability == pytest.approx(one.detectability / 2)


def test_without_known_noise_the_bias_is_still_there(rng):
    found = passport(volume(phantom()), None, analytic=Analytic(volume(phantom() + ramp_noise(rng)), level()))
    assert found.noise is None
    assert {one.name for one in found.figures} == {f"passport_bias_{each}" for each in ("rms", "max", "share")}
    assert sum("not measured: passport_" in reason for reason in found.reasons) == 2


def test_an_empty_image_has_no_passport_to_speak_of():
    found = passport(volume(np.full(GRID.shape, -1000.0)), level(), transfer=SHARP)
    assert found.figures == ()
    assert len(found.reasons) == 2


def test_maps_of_another_lattice_are_refused():
    image = volume(phantom())
    with pytest.raises(InputError, match=r"noise map is \(4, 230, 250\)"):
        passport(image, volume(phantom()))
    moved = Volume(image.values, replace(GRID, first_voxel_mm=GRID.first_voxel_mm + 0.5), "HU")
    with pytest.raises(InputError, match=r"0\.5 mm away"):
        passport(image, level(), analytic=Analytic(moved, level()))


@pytest.mark.parametrize(("bad", "words"), [(np.nan, "5 NaN"), (-1.0, "below 0")])
def test_a_broken_noise_map_is_no_passport(bad, words):
    values = np.array(level().values)
    values[0, 0, :5] = bad
    with pytest.raises(InputError, match=words):
        Passport(noise=Volume(values, map_grid(GRID), "HU"))
