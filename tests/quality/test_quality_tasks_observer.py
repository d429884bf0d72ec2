"""Channelised Hotelling observer where its d′ is known in closed form, and on simulated low-contrast images."""

import tarfile
from pathlib import Path

import numpy as np
import pytest
from scipy import special

from lampyris.model import InputError
from lampyris.quality.tasks import (
    Channels,
    Viewing,
    dense_difference_of_gaussians,
    gabor,
    hotelling,
    mann_whitney,
    trained_and_tested,
)

SIZE = 33


def spot(height: float, sigma: float = 2.6) -> np.ndarray:
    place = np.arange(SIZE) - (SIZE - 1) / 2
    return height * np.exp(-(place[:, None] ** 2 + place[None, :] ** 2) / (2 * sigma**2))


def known_snr(channels: Channels, signal: np.ndarray, root: np.ndarray) -> float:
    """√(ΔᵀK⁻¹Δ) with K = UᵀΣU, Σ = root·rootᵀ applied by convolution: the channelised observer's closed form."""
    response = np.fft.fft2(root)
    seen = np.fft.ifft2(np.fft.fft2(channels.profiles) * np.conj(response)).real.reshape(len(channels.profiles), -1)
    delta = channels.outputs(signal[None])[0]
    return float(np.sqrt(delta @ np.linalg.solve(seen @ seen.T, delta)))


def colour() -> np.ndarray:
    """A short kernel on the periodic patch that takes low frequencies away: noise like a ramp's."""
    kernel = np.zeros((SIZE, SIZE))
    kernel[0, 0] = 10.0
    for shift in ((0, 1), (1, 0), (0, -1), (-1, 0)):
        kernel[shift] -= 2.0
    return kernel


def noisy(rng: np.random.Generator, n: int, kernel: np.ndarray) -> np.ndarray:
    return np.fft.ifft2(np.fft.fft2(rng.normal(size=(n, SIZE, SIZE))) * np.fft.fft2(kernel)).real


WHITE = np.zeros((SIZE, SIZE))
WHITE[0, 0] = 10.0


@pytest.mark.parametrize("kernel", [WHITE, colour()], ids=["white", "coloured"])
@pytest.mark.parametrize("channels", [dense_difference_of_gaussians(SIZE, channels=6, start=0.015), gabor(SIZE,
    frequencies=(3 / 64, 3 / 32, 3 / 16), orientations=3)], ids=["D-DOG", "Gabor"])  # fmt: skip
def test_the_snr_is_that_of_the_closed_form(rng: np.random.Generator, kernel: np.ndarray, channels: Channels) -> None:
    """250 + 250 patches: d′ = 2 is known to √(2/250 + d′²/1000)/d′ = 5 %, 4σ = 20 %; the 99.9 % interval holds it."""
    signal = spot(1.0)
    signal *= 2.0 / known_snr(channels, signal, kernel)
    present, absent = signal + noisy(rng, 250, kernel), noisy(rng, 250, kernel)
    found = hotelling(present, absent, channels, viewing=Viewing(confidence=0.999))
    assert found.snr_interval[0] < 2.0 < found.snr_interval[1]
    assert found.snr == pytest.approx(2.0, rel=0.2)
    assert found.auc == pytest.approx(special.ndtr(found.snr / np.sqrt(2)))
    assert found.auc_interval[0] < special.ndtr(np.sqrt(2)) < found.auc_interval[1]


def test_few_patches_neither_flatter_nor_slander(rng: np.random.Generator) -> None:
    """SNR² = 4 from 15 + 12 patches, 6 channels: unbiased, and 80 % intervals hold it in 80 % of 150 trials (σ 3.3 %).

    Without correction the mean of Δ̂ᵀS⁻¹Δ̂ is (m+n−2)/(m+n−p−3)·(δ + p)/(mn/(m+n)) = 25/18·(26.7 + 6)/6.67 = 6.8.
    """
    channels = dense_difference_of_gaussians(SIZE, channels=6, start=0.015)
    signal = spot(1.0)
    signal *= 2.0 / known_snr(channels, signal, WHITE)
    held, squares = 0, []
    for _ in range(150):
        made = hotelling(
            signal + noisy(rng, 15, WHITE), noisy(rng, 12, WHITE), channels, viewing=Viewing(confidence=0.8)
        )
        held += made.snr_interval[0] <= 2.0 <= made.snr_interval[1]
        squares.append(made.snr**2)
    assert held / 150 == pytest.approx(0.8, abs=0.1)
    assert np.mean(squares) == pytest.approx(4.0, abs=4 * np.std(squares) / np.sqrt(150))


def test_no_signal_is_not_seen(rng: np.random.Generator) -> None:
    channels = dense_difference_of_gaussians(SIZE, channels=5, start=0.015)
    found = hotelling(noisy(rng, 60, WHITE), noisy(rng, 60, WHITE), channels, viewing=Viewing(confidence=0.99))
    assert found.snr_interval[0] == 0.0
    assert found.auc_interval[0] == 0.5


def test_internal_noise_takes_away_as_it_is_told(rng: np.random.Generator) -> None:
    """One channel and internal noise as large as the external: d′ falls by √2."""
    channels = dense_difference_of_gaussians(SIZE, channels=1, start=0.03)
    signal = spot(1.0)
    signal *= 2.0 / known_snr(channels, signal, WHITE)
    present, absent = signal + noisy(rng, 900, WHITE), noisy(rng, 900, WHITE)
    tired = hotelling(present, absent, channels, viewing=Viewing(internal_noise=1.0, rng=rng))
    # 900 each: d′ is known to √(2/900)/1.41 = 3.5 %, 3σ.
    assert tired.snr == pytest.approx(np.sqrt(2), rel=0.11)
    assert dict(tired.settings)["internal_noise"] == 1.0


def test_trained_and_tested_reach_the_closed_form(rng: np.random.Generator) -> None:
    """AUC = Φ(d′/√2) less what 200 + 200 training patches for 6 channels cost, below 1 %."""
    channels = dense_difference_of_gaussians(SIZE, channels=6, start=0.015)
    kernel = colour()
    signal = spot(1.0)
    signal *= 1.5 / known_snr(channels, signal, kernel)
    training = signal + noisy(rng, 200, kernel), noisy(rng, 200, kernel)
    testing = signal + noisy(rng, 200, kernel), noisy(rng, 200, kernel)
    found = trained_and_tested(training, testing, channels, viewing=Viewing(confidence=0.999))
    assert found.auc_interval[0] < special.ndtr(1.5 / np.sqrt(2)) < found.auc_interval[1]
    assert found.auc == pytest.approx(special.ndtr(1.5 / np.sqrt(2)), abs=0.07)
    assert found.snr == pytest.approx(np.sqrt(2) * special.ndtri(found.auc))


def test_mann_whitney_counts_pairs() -> None:
    """By hand: 2 > 1, 2 > 0, 1 = 1 (½), 1 > 0, 3 > both: 5½ of 6."""
    area, (low, high) = mann_whitney(np.array([2.0, 1.0, 3.0]), np.array([1.0, 0.0]))
    assert area == pytest.approx(5.5 / 6)
    assert 0 < low < area < high < 1
    area, (low, high) = mann_whitney(np.arange(5, 9.0), np.arange(4.0))
    assert (area, high) == (1.0, 1.0)
    assert low == pytest.approx(0.025**0.25)
    assert mann_whitney(np.arange(4.0), np.arange(5, 9.0))[1][0] == 0.0


def test_channels_have_unit_energy_and_their_passband() -> None:
    """D-DOG has no response to a constant (but for its cut border); a Gabor's octave ends at half of its top."""
    dog = dense_difference_of_gaussians(64, channels=5, start=0.03)
    assert (dog.profiles**2).sum(axis=(1, 2)) == pytest.approx(1.0)
    assert np.abs(dog.outputs(np.full((1, 64, 64), 1.0))).max() < 0.05 * 64
    assert dog.profiles[2] == pytest.approx(dog.profiles[2][::-1, ::-1], abs=1e-12)
    wave = gabor(256, frequencies=(3 / 32,), orientations=1).profiles[0]
    spectrum = np.abs(np.fft.fft(wave.sum(axis=0)))
    assert spectrum[16] / spectrum[24] == pytest.approx(0.5, abs=0.01)
    assert spectrum[32] / spectrum[24] == pytest.approx(0.5, abs=0.01)
    assert gabor(32, phases=(0.0, np.pi / 2)).profiles.shape == (50, 32, 32)


def test_bad_input_is_refused(rng: np.random.Generator) -> None:
    channels = dense_difference_of_gaussians(SIZE, channels=6, start=0.015)
    patches = noisy(rng, 30, WHITE)
    with pytest.raises(InputError, match="4 \\+ 5 patches for 6 channels"):
        hotelling(patches[:4], patches[4:9], channels)
    with pytest.raises(InputError, match="the channels are made for"):
        hotelling(patches[:, 1:], patches, channels)
    twice = Channels(np.concatenate([channels.profiles, channels.profiles[:1]]), ())
    with pytest.raises(InputError, match="repeat each other"):
        hotelling(patches, patches[::-1], twice)
    with pytest.raises(InputError, match="no variance"):
        hotelling(np.ones((9, SIZE, SIZE)), np.zeros((9, SIZE, SIZE)), channels)
    spoilt = patches.copy()
    spoilt[3, 2, 1] = np.nan
    with pytest.raises(InputError, match="NaN"):
        hotelling(spoilt, patches, channels)
    with pytest.raises(InputError, match="hand in an rng"):
        Viewing(internal_noise=0.5)
    with pytest.raises(InputError, match="training patches for 6 channels"):
        trained_and_tested((patches[:4], patches[4:9]), (patches, patches), channels)
    with pytest.raises(InputError, match="at least two finite"):
        mann_whitney(np.array([1.0]), np.array([0.0, 1.0]))
    with pytest.raises(InputError, match="Gabor channels"):
        gabor(SIZE, frequencies=(0.7,))
    with pytest.raises(InputError, match="channels of 4²"):
        dense_difference_of_gaussians(4)


# Inserts of the simulated phantom (row, column) and HU, read from its ground truth: 3 to 10 mm discs.
INSERTS = {14: (94.5, 160.5), 7: (94.5, 94.5), 5: (160.5, 94.5), 3: (160.5, 160.5)}


@pytest.fixture(scope="module")
def stacks(shared_data: Path) -> dict[tuple[str, str, str], np.ndarray]:
    """(method, dose, kind) → images (10, 256, 256); the headers tell the byte order."""
    read: dict[tuple[str, str, str], np.ndarray] = {}
    with tarfile.open(shared_data / "lowcontrast" / "lcd_mita_small_dataset.tar.xz") as archive:
        files = {one.name: archive.extractfile(one) for one in archive if one.isfile()}
        raw = {name: file.read() for name, file in files.items() if file is not None}
    for header, text in raw.items():
        parts = header.split("/")
        if not header.endswith(".mhd") or len(parts) != 5:
            continue
        big = b"ElementByteOrderMSB = True" in text
        images = [
            np.frombuffer(raw[header.replace(".mhd", f"_{k:03d}.raw")], ">i2" if big else "<i2") for k in range(1, 11)
        ]
        read[parts[1], parts[2], parts[4][:-4]] = np.stack(images).reshape(10, 256, 256).astype(np.float64)
    return read


def patch(images: np.ndarray, place: tuple[float, float], size: int = 24) -> np.ndarray:
    row, column = (int(each + 0.5) - size // 2 for each in place)
    return images[:, row : row + size, column : column + size]


def look(
    stacks: dict[tuple[str, str, str], np.ndarray], method: str, dose: str, insert: int
) -> tuple[np.ndarray, np.ndarray]:
    """Patches with one insert, and without any at the four places of the same radius, turned to lie alike."""
    row, column = INSERTS[insert]
    present = patch(stacks[method, dose, "signal_present"], (row, column))
    without = stacks[method, dose, "signal_absent"]
    # The phantom's middle is 127.5: a quarter turn about it carries one place into the next.
    absent = [patch(np.rot90(without, k, axes=(1, 2)), (row, column)) for k in range(4)]
    return present, np.concatenate(absent)


@pytest.mark.parametrize("method", ["fbp", "DL_denoised"])
def test_more_dose_makes_low_contrast_inserts_easier_to_see(
    stacks: dict[tuple[str, str, str], np.ndarray], method: str
) -> None:
    """d′² of all inserts together grows from dose 10 to 55 to 100 %, for filtered and for denoised images.

    Ten images with each insert are few: d′ of one is known to ±0.9. Summed over four, d′² (to grow tenfold in FBP)
    of a tenth of the dose lies below half of that of the others; 55 and 100 % need not differ.
    """
    channels = dense_difference_of_gaussians(24, channels=5, start=0.02)
    total = {
        dose: sum(hotelling(*look(stacks, method, dose, insert), channels).snr ** 2 for insert in INSERTS)
        for dose in ("dose_010", "dose_055", "dose_100")
    }
    assert total["dose_010"] < 0.5 * total["dose_055"]
    assert total["dose_010"] < 0.4 * total["dose_100"]


def test_ten_images_at_a_tenth_of_the_dose_do_not_tell_a_denoiser_from_fbp(
    stacks: dict[tuple[str, str, str], np.ndarray],
) -> None:
    """The denoised images' d′ is higher in all four, yet no claim can be made: every pair of intervals overlaps."""
    channels = dense_difference_of_gaussians(24, channels=5, start=0.02)
    for insert in INSERTS:
        plain = hotelling(*look(stacks, "fbp", "dose_010", insert), channels)
        clean = hotelling(*look(stacks, "DL_denoised", "dose_010", insert), channels)
        assert clean.snr_interval[0] <= plain.snr_interval[1]
