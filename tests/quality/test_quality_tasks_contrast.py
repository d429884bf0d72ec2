"""Transfer of blurred rods from the mean over seeds: the closed form of the blur, where one seed alone is refused."""

from dataclasses import replace

import numpy as np
import pytest
from scipy import special

from lampyris.model import Grid, InputError, Volume
from lampyris.quality.regions import Cylinder
from lampyris.quality.resolution import ttf
from lampyris.quality.tasks import contrast_transfer, mean_volume

BLUR = 0.55
ROD = Cylinder((3.4, 0.0, -2.3), 7.0, 3.9)


def rod(contrast: float) -> np.ndarray:
    """A rod on water under a Gaussian, exact to curvature (σ²/2R = 0.02 mm), 5 slices."""
    grid = scene_grid()
    points = grid.position_mm(np.stack(np.meshgrid(*map(np.arange, grid.shape), indexing="ij"), axis=-1))
    r = np.hypot(points[..., 0] - 3.4, points[..., 2] + 2.3)
    return np.asarray(0.5 * contrast * special.erfc((r - 7.0) / (np.sqrt(2) * BLUR)))


def scene_grid() -> Grid:
    return Grid.centred((5, 64, 71), (1.0, 0.6, 0.6))


def volumes(rng: np.random.Generator, contrast: float, sd: float, n: int) -> list[Volume]:
    clean = rod(contrast)
    return [Volume((clean + rng.normal(0, sd, clean.shape)).astype(np.float32), scene_grid(), "HU") for _ in range(n)]


@pytest.mark.parametrize("contrast", [-900.0, 300.0, 1000.0])
def test_f50_is_that_of_the_blur_at_each_contrast(rng: np.random.Generator, contrast: float) -> None:
    """f50 = 0.1874/σ. CNR·√(slices·seeds) is 35 at 300 HU, hence the slope of the edge known to some 2 %."""
    found = contrast_transfer(volumes(rng, contrast, 30.0, 4), ROD)
    assert found.f50_per_mm == pytest.approx(0.1874 / BLUR, rel=0.04)
    assert found.transfer.contrast == pytest.approx(contrast, rel=0.03)
    assert found.interval is not None
    assert found.interval[0] < found.f50_per_mm < found.interval[1]
    settings = dict(found.figure("ttf_f50").settings)
    assert settings["seeds"] == 4
    assert settings["method"] == "TG-233 circular edge"


def test_many_seeds_reach_the_cnr_that_one_does_not(rng: np.random.Generator) -> None:
    """300 HU in 90 HU: CNR·√n of one seed's 3 slices is 6, of nine seeds 17."""
    several = volumes(rng, 300.0, 90.0, 9)
    with pytest.raises(InputError, match="average more slices or raise the dose"):
        ttf(several[0], ROD)
    assert contrast_transfer(several, ROD).f50_per_mm == pytest.approx(0.1874 / BLUR, rel=0.08)


def test_one_seed_is_the_plain_transfer_without_an_interval(rng: np.random.Generator) -> None:
    (one,) = volumes(rng, 1000.0, 20.0, 1)
    found = contrast_transfer([one], ROD)
    assert found.interval is None
    assert found.f50_per_mm == pytest.approx(ttf(one, ROD).frequency_at(0.5))


def test_only_alike_volumes_are_averaged(rng: np.random.Generator) -> None:
    first, second = volumes(rng, 300.0, 10.0, 2)
    holes = np.ones(first.grid.shape, np.bool_)
    holes[0] = False
    mean = mean_volume([first, replace(second, valid=holes)])
    assert mean.valid is holes
    assert mean.values == pytest.approx((first.values.astype(np.float64) + second.values) / 2, abs=1e-3)
    moved = replace(second, grid=Grid.centred(first.grid.shape, (1.0, 0.6, 0.6), (0.3, 0.0, 0.0)))
    with pytest.raises(InputError, match="volume 1 is on another grid"):
        mean_volume([first, moved])
    with pytest.raises(InputError, match="volume 1 is on another grid"):
        mean_volume([first, replace(second, quantity="1/mm")])
    with pytest.raises(InputError, match="no volume"):
        mean_volume([])
