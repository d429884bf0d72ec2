"""The learned denoiser: what it refuses, what holds for any image, and what it does to the noise of a scan."""

from dataclasses import replace

import numpy as np
import onnxruntime
import pytest

from lampyris.model import (
    EngineUnavailable,
    Float32,
    Gantry,
    Geometry,
    GridRequest,
    InputError,
    Projections,
    RecipeError,
    Step,
)
from lampyris.phantom import Cylinder, line_integrals
from lampyris.projector import HOST, load
from lampyris.recon import reconstruct
from lampyris.recon.learned import Denoiser, denoiser, known

NAME = "firefly-1"
ROUNDING_HU = 2e-3
"""Sums of some thousand float32 products of tens of HU, in another order."""


@pytest.fixture(scope="module")
def network() -> Denoiser:
    return Denoiser.load(NAME, denoiser.digest_of(NAME), threads=1)


@pytest.fixture
def picture(rng: np.random.Generator) -> tuple[Float32, Float32]:
    """Lopsided anatomy with white noise, and a level that is not the same everywhere."""
    shape = (3, 40, 57)
    slices, rows, columns = np.indices(shape)
    image = np.where(np.hypot(rows - 17, columns - 30 - slices) < 11, 60.0, -80.0)
    level = 15.0 + 0.2 * columns
    return (image + level * rng.standard_normal(shape)).astype(np.float32), level.astype(np.float32)


def test_another_digest_is_refused_with_both_named() -> None:
    found = denoiser.digest_of(NAME)
    with pytest.raises(RecipeError, match=rf"{found}.*{'0' * 64}"):
        Denoiser.load(NAME, "0" * 64)


def test_an_unknown_network_is_refused_with_the_known_listed() -> None:
    with pytest.raises(RecipeError, match=f"no network 'glow-worm'.*{NAME}"):
        Denoiser.load("glow-worm", "0" * 64)
    assert NAME in known()


@pytest.mark.skipif("CUDAExecutionProvider" in onnxruntime.get_available_providers(), reason="it is there")
def test_where_onnxruntime_knows_no_card_the_network_is_refused_and_not_run_elsewhere() -> None:
    card = replace(load("cpu"), memory=replace(HOST, device="cuda"))
    with pytest.raises(EngineUnavailable, match=r"run on 'cuda', onnxruntime here has .*: install onnxruntime-gpu"):
        Denoiser.load(NAME, denoiser.digest_of(NAME), engine=card)


def test_what_is_no_image_is_refused(network: Denoiser, picture: tuple[Float32, Float32]) -> None:
    image, level = picture
    hole, negative = image.copy(), level.copy()
    hole[1, 2, 3], negative[0, 0, 5] = np.nan, -3.0
    for wrong, noise, words in (
        (hole, level, r"image holds 1 NaN or infinite of 6840 values"),
        (image, hole, r"noise holds 1 NaN"),
        (image, negative, r"noise is -3 HU at its least"),
        (image, level[:, :, 1:], r"image is \(3, 40, 57\), its noise \(3, 40, 56\)"),
        (image.astype(np.float64), level, r"image is float64 \(3, 40, 57\), expected float32"),
        (image[0], level, r"image is float32 \(40, 57\)"),
    ):
        with pytest.raises(InputError, match=words):
            network.denoise(wrong, noise)


def test_it_commutes_with_scale_and_offset(network: Denoiser, picture: tuple[Float32, Float32]) -> None:
    image, level = picture
    once = network.denoise(image, level)
    assert float((once - image).std()) > 5.0
    np.testing.assert_allclose(network.denoise(3 * image, 3 * level), 3 * once, atol=3 * ROUNDING_HU)
    # 700 HU more cost float32 another 700·6e-8 HU in every voxel, some tens of which are summed.
    np.testing.assert_allclose(network.denoise(image + 700, level), once + 700, atol=2 * ROUNDING_HU)


def test_without_noise_nothing_is_done(network: Denoiser, picture: tuple[Float32, Float32]) -> None:
    image, _ = picture
    np.testing.assert_array_equal(network.denoise(image, np.zeros_like(image)), image)


def test_results_do_not_depend_on_tiles_and_blocks(network: Denoiser, rng: np.random.Generator) -> None:
    """Wider than a tile with its halo on both sides; slices one by one."""
    image = rng.normal(0, 30, (3, 48, 900)).astype(np.float32)
    image[:, 20:30, 100:800:7] += 150
    level = np.full_like(image, 30)
    small = replace(network, tile=100, block_pixels=1).denoise(image, level)
    np.testing.assert_allclose(small, network.denoise(image, level), atol=ROUNDING_HU)


def test_results_do_not_depend_on_how_arrays_lie_in_memory(network: Denoiser, picture: tuple[Float32, Float32]) -> None:
    """Whole multiples of what the network takes, so that no copy for the border puts them in order."""
    image, level = (np.ascontiguousarray(each[:, :32, :48]) for each in picture)
    expected = network.denoise(image, level)
    for turned in (np.asfortranarray, lambda each: np.repeat(each, 2, axis=2)[:, :, ::2]):
        np.testing.assert_array_equal(network.denoise(turned(image), turned(level)), expected)


def test_the_outer_slices_are_their_own_neighbours(network: Denoiser, picture: tuple[Float32, Float32]) -> None:
    image, level = picture
    thick = np.concatenate([image[:1], image, image[-1:]])
    wide = np.concatenate([level[:1], level, level[-1:]])
    np.testing.assert_allclose(network.denoise(thick, wide)[1:-1], network.denoise(image, level), atol=ROUNDING_HU)


def test_no_mean_is_moved(network: Denoiser, rng: np.random.Generator) -> None:
    """Linear interpolation between means keeps their sum: what is taken away sums to zero, whatever the network is."""
    image = rng.normal(40, 25, (2, 64, 96)).astype(np.float32)
    level = np.full_like(image, 25)
    away = network.denoise(image, level).astype(np.float64) - image
    assert away.std() > 5.0
    assert np.abs(away.mean(axis=(1, 2))).max() < 1e-3


def test_noise_of_a_scan_falls_to_less_than_half_and_a_rod_keeps_its_contrast(network: Denoiser) -> None:
    """Cylinder of water with a rod of +120 HU, FDK: noise of the ramp filter, not white."""
    clean, noisy = _scan(np.random.default_rng(6))
    noise = noisy - clean
    level = np.full_like(clean, float(noise[:, 20:-20, 20:-20].std()))
    denoised = network.denoise(noisy, level)
    rows, columns = np.indices(clean.shape[1:])
    away = np.hypot(rows - 63.5, columns - 83.5)
    flat = (np.hypot(rows - 63.5, columns - 63.5) < 45) & (away > 14)
    left = (denoised - clean)[:, flat]
    assert float(left.std()) < 0.5 * float(noise[:, flat].std())
    core, ring = away < 5, (away > 12) & (away < 16)
    contrast = [float(one[:, core].mean() - one[:, ring].mean()) for one in (clean, noisy, denoised)]
    assert contrast[0] == pytest.approx(120, rel=0.1)
    # The noisy image's own contrast is off by its noise; beyond that, 5 %.
    assert contrast[2] == pytest.approx(contrast[1], abs=0.05 * 120)


def _scan(rng: np.random.Generator) -> tuple[Float32, Float32]:
    """HU of four slices of 128² voxels of 1 mm: without and with noise of some 40 HU."""
    gantry = Gantry(595.0, 1085.6, 6, 110, (1.8, 3.0), True, None, 54.75)
    geometry = Geometry.circular(gantry, np.arange(220) * 360 / 220)
    water = 0.02
    integrals = line_integrals(Cylinder((0, 0, 0), (60.0, 60.0), 400.0), geometry, water)
    integrals = integrals + line_integrals(Cylinder((20.0, 0, 0), (8.0, 8.0), 400.0), geometry, 0.12 * water)
    quanta = np.exp(-integrals) * 3e3
    noise = rng.standard_normal(integrals.shape) / np.sqrt(quanta)
    request = GridRequest(128, 128.0, (0.0, 0.0), 1.0, first_mm=-1.5, last_mm=1.5)
    images = []
    for values in (integrals, integrals + noise):
        values = np.asarray(values, np.float32)
        scan = Projections(values, np.ones_like(values), geometry, water_per_mm=water)
        images.append(reconstruct(scan, Step("fdk"), "shepp-logan", request).values)
    return images[0], images[1]
