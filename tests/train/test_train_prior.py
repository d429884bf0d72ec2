"""The training package end to end at toy size: pairs, a fit that resumes to the very same weights, export, run."""

import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from lampyris.model import Float32, InputError

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def torch() -> ModuleType:
    """Torch is the `train` extra, no judge: where it is absent these tests are skipped, in CI too."""
    return pytest.importorskip("torch", reason="pip install 'lampyris[train]'")


@pytest.fixture(scope="module", autouse=True)
def _importable() -> None:
    """`train` stands beside `src`, like `bench`."""
    if str(ROOT) not in sys.path:
        sys.path.insert(0, str(ROOT))


@pytest.fixture(scope="module")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two files of pairs, random fields that are smooth in `clean` and rough in `noise`, of unlike sizes."""
    folder = tmp_path_factory.mktemp("pairs")
    rng = np.random.default_rng(5)
    for number, shape in enumerate(((3, 40, 48), (4, 48, 36))):
        clean = np.cumsum(rng.standard_normal(shape), axis=2).astype(np.float16) + np.float16(900)
        noise = (20 * rng.standard_normal((2, *shape))).astype(np.float16)
        np.savez(
            folder / f"pair-{number + 1:04d}-0.npz", clean=clean, noise=noise, level=np.full(shape, 20, np.float16)
        )
    return folder


def test_a_fit_that_was_broken_off_ends_with_the_same_weights_and_its_export_runs(
    torch: ModuleType, pairs: Path, tmp_path: Path
) -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnx", reason="pip install 'lampyris[train]'")
    from train import export, fit

    budget = fit.Budget(steps=3, crops=2, size=32, tell_every=2, widths=(4, 6, 8))
    whole = fit.fit(pairs, tmp_path / "whole.pt", budget, seed=3)
    fit.fit(pairs, tmp_path / "broken.pt", budget, seed=3, until=1)
    resumed = fit.fit(pairs, tmp_path / "broken.pt", budget, seed=3)
    assert whole.step == resumed.step == 3
    for one, other in zip(whole.mean.parameters(), resumed.mean.parameters(), strict=True):
        assert torch.equal(one, other)
    assert any(float(one.detach().abs().max()) > 0 for one in [whole.mean.tail.weight])

    digests = [
        export.export(tmp_path / f"{name}.pt", tmp_path / f"{name}.onnx", widths=budget.widths)
        for name in ("whole", "broken")
    ]
    assert digests[0] == digests[1] == export.digest(tmp_path / "broken.onnx")
    session = onnxruntime.InferenceSession(str(tmp_path / "whole.onnx"), providers=["CPUExecutionProvider"])
    rng = np.random.default_rng(8)
    image = rng.normal(40, 20, (2, 3, 32, 48)).astype(np.float32)
    level = np.full((2, 1, 32, 48), 20, np.float32)
    (found,) = session.run(None, {"image": image, "level": level})
    with torch.no_grad():
        expected = whole.mean.eval()(torch.from_numpy(image), torch.from_numpy(level)).numpy()
    # Two programs summing some hundred float32 products of about 20 HU each.
    np.testing.assert_allclose(found, expected, atol=2e-3)


def test_the_two_noises_of_a_crop_are_new_equally_strong_and_uncorrelated(torch: ModuleType, pairs: Path) -> None:
    from train.crops import Pairs

    loaded = Pairs.load(sorted(pairs.glob("pair-*.npz")))
    batch = loaded.batch(np.random.default_rng(1), 16, 32)
    first, second = (((batch.image[:, 1:2] - batch.clean) / batch.level).chunk(2)[i].numpy() for i in (0, 1))
    # 16 · 32² samples: a standard error of 0.008 of the correlation, 0.006 of the deviation.
    assert first.std() == pytest.approx(1.0, abs=0.03)
    assert second.std() == pytest.approx(1.0, abs=0.03)
    assert abs(float((first * second).mean())) < 0.04


def test_bias_is_counted_without_the_noise(torch: ModuleType) -> None:
    """An output that is wrong by half a level everywhere has a squared bias of 1/4, whatever its noise."""
    from train import fit
    from train.crops import Batch

    rng = np.random.default_rng(2)
    clean = torch.zeros(8, 1, 64, 64)
    level = torch.full_like(clean, 10.0)
    noise = torch.from_numpy(rng.normal(0, 10, clean.shape).astype(np.float32))
    squared, bias, means = fit.losses(clean + noise + 5.0, Batch(clean, clean, level, level))
    # Over 4 · 64² products of unit variance the mean is known to 0.012.
    assert float(bias) == pytest.approx(0.25, abs=0.05)
    assert float(squared) == pytest.approx(1.25, abs=0.05)
    assert float(means) == pytest.approx(0.25 * sum(fit.MEANS.values()), rel=0.1)


def test_no_pairs_are_refused(torch: ModuleType, tmp_path: Path) -> None:
    from train import fit

    with pytest.raises(InputError, match="make pairs first"):
        fit.fit(tmp_path, tmp_path / "x.pt", fit.Budget(steps=1), seed=0)


def test_a_scanned_body_gives_noise_of_the_told_level_about_the_clean_image() -> None:
    """The level's square is the noise's mean square: pooling moves it about but keeps its sum far from borders."""
    from train import bodies, scans

    rng = np.random.default_rng(4)
    hu = np.full((12, 60, 72), -1000, np.float32)
    rows, columns = np.indices(hu.shape[1:])
    hu[:, np.hypot(rows - 29.5, columns - 35.5) < 26] = 20.0
    subject = bodies.Body(hu, bodies.Grid.centred(hu.shape, (1.25, 2.0, 2.0)), "cylinder", 54.0)
    scanner = scans.Scanner(scans.Gantry(595.0, 1085.6, 8, 8, (1.82, 3.6), True), 90, None, 1e4, 1.1, 9.0, 5.0)
    still = scans.projected(subject, scanner)
    wanted = scans.Wanted(0.2, "hann", scans.GridRequest(64, 100.0, (0.0, 0.0), 1.0, first_mm=-1.0, last_mm=1.0))
    pair = scans.scanned(rng, subject, scanner, still, wanted)
    assert pair.clean.shape == pair.level.shape == (3, 64, 64)
    assert pair.noise.shape == (2, 3, 64, 64)
    inner = (slice(None), slice(12, 52), slice(12, 52))
    # 20 HU but for the cone beam and the voxels' staircase.
    assert float(pair.clean[inner].mean()) == pytest.approx(20.0, abs=6.0)
    noise, level = _inner(pair.noise[0], inner), _inner(pair.level, inner)
    # Correlated noise: 1600 pixels hold a few hundred independent ones, 2 · 5 % of their deviation.
    assert float(np.sqrt((noise**2).mean())) == pytest.approx(float(np.sqrt((level**2).mean())), rel=0.1)
    assert float(level.mean()) > 5.0


def test_training_bodies_hold_air_tissue_and_inserts_within_their_reach() -> None:
    """Told apart from an empty box and from a full one."""
    from train import bodies

    rng = np.random.default_rng(11)
    real = np.full((160, 256, 256), -1000, np.float32)
    real[:, 60:190, 20:230] = 30
    made = bodies.body(rng, dict.fromkeys(("abdomen", "chest", "aorta"), real), 6.0, columns=96)
    rows, columns = np.nonzero((made.hu > -700).any(axis=0))
    away = np.hypot(rows - (made.hu.shape[1] - 1) / 2, columns - (made.hu.shape[2] - 1) / 2)
    assert -1000.0 <= made.hu.min() < -900.0
    assert made.hu.max() <= 3000.0
    assert away.max() * made.grid.spacing_mm[2] < made.reach_mm
    assert 0.1 < float((made.hu > -700).mean()) < 0.95


def _inner(array: Float32, window: tuple[slice, ...]) -> Float32:
    return array[window]
