"""Scatter: what a convolution added is found again, and the noise of starved rays passes through untouched."""

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter

from lampyris.correct import correct
from lampyris.correct.scatter import Scatter
from lampyris.model import RecipeError, Step


def added(scene, ratio, sigma_mm):
    """n₀·t·(−ln t) spread over the detector, at full resolution and from the true transmission; sigma at the
    isocentre, magnified by 949/541."""
    through = np.exp(-scene.integrals)
    potential = scene.beam * through * scene.integrals
    sigma = (0, *(sigma_mm * 949 / 541 / each for each in scene.geometry.cell_mm))
    return ratio * gaussian_filter(potential, sigma, mode="constant", truncate=4.0)


def test_added_scatter_is_taken_out(known):
    """5 % of the potential over 35 mm lowers the deepest integrals by a tenth or more; 97 % of that comes back."""
    scene = known()
    lit = scene.means + added(scene, 0.8, 35.0)
    chain = (Step("dark_air"), Step.of("scatter", ratio=0.8, sigma_mm=35.0, iterations=6), Step("log"))
    raw, mended = (correct(scene.scan(lit), one).integrals - scene.integrals for one in ((chain[0], chain[2]), chain))
    deep = scene.integrals > 4
    assert raw[deep].mean() < -0.1
    assert abs(mended[deep].mean()) < 0.03 * abs(raw[deep].mean())
    assert np.abs(mended[deep]).max() < 0.1 * np.abs(raw[deep]).max()


def test_the_estimate_says_how_much_there_was(known):
    scene = known()
    scatter = added(scene, 0.3, 26.0)
    made = correct(
        scene.scan(scene.means + scatter),
        (Step("dark_air"), Step.of("scatter", ratio=0.3, sigma_mm=26.0, iterations=6), Step("log")),
    )
    record = dict(made.history[1].settings)
    assert record["mean_scatter_to_air"] == pytest.approx((scatter / scene.beam).mean(), rel=0.03)
    assert record["largest_scatter_to_air"] == pytest.approx((scatter / scene.beam).max(), rel=0.03)


def test_nothing_is_taken_from_air(known):
    scene = known()
    step = Scatter.of(scene.geometry, Step("scatter"))
    beam = scene.beam[0].astype(np.float32)
    assert np.abs(step.estimate(beam, beam)).max() < 1e-5 * beam.max()


def test_counts_are_shifted_and_never_clipped(known):
    """Two views that differ in single negative counts get almost the same scatter: the counts keep their difference."""
    scene = known(open_counts=300.0)
    step = Scatter.of(scene.geometry, Step("scatter"))
    net = scene.means[3].astype(np.float32)
    disturbed = net.copy()
    disturbed[2, 100:120:7] = -40.0
    beam = scene.beam[3].astype(np.float32)
    change = np.abs(step.estimate(disturbed, beam) - step.estimate(net, beam)).max()
    assert change < 0.01 * np.abs(disturbed - net).max()


def test_binning_does_not_matter(known):
    """Convolved in bins of sigma/4 against single cells: within 2 % of the largest scatter, as 1/24·(1/4)² of a
    Gaussian's curvature and the coarse last bin allow."""
    scene = known()
    net, beam = scene.means[5].astype(np.float32), scene.beam[5].astype(np.float32)
    estimate = Scatter.of(scene.geometry, Step.of("scatter", ratio=0.1, sigma_mm=35.0, iterations=1)).estimate(
        net, beam
    )
    exact = added(scene, 0.1, 35.0)[5]
    assert np.abs(estimate - exact).max() < 0.02 * exact.max()


def test_impossible_kernels_are_refused(known):
    with pytest.raises(RecipeError, match="must lie in 0…1"):
        Scatter.of(known().geometry, Step.of("scatter", ratio=1.5))
    with pytest.raises(RecipeError, match="above 0"):
        Scatter.of(known().geometry, Step.of("scatter", sigma_mm=0))
