"""Analytic images with a learned prior, through the door: what is kept, what falls, and what is refused beforehand."""

from dataclasses import replace

import numpy as np
import pytest

from lampyris.model import Gantry, Geometry, GridRequest, Projections, RecipeError, Step
from lampyris.phantom.assembly import line_integrals
from lampyris.phantom.shapes import Cylinder
from lampyris.recon import reconstruct, run
from lampyris.recon.learned import denoiser

WATER = 0.0193
GANTRY = Gantry(541.0, 949.0, 6, 121, (3.4, 3.25), True, 2.7, 60.25)
GEOMETRY = Geometry.circular(GANTRY, 23.0 + np.arange(120) * 3.0)
WIDE = GridRequest(64, field_of_view_mm=260.0, slice_thickness_mm=2.0)
"""Wider than the scan field of 224 mm, so that corners are not seen."""
NAME, DIGEST = "firefly-1", denoiser.digest_of("firefly-1")


@pytest.fixture
def projections(rng):
    integrals = line_integrals(Cylinder((9.0, 0.0, -6.0), (62.0, 51.0), 400.0), GEOMETRY, WATER)
    counts = np.maximum(rng.poisson(2e4 * np.exp(-integrals)), 1).astype(np.float32)
    return Projections(np.log(np.float32(2e4) / counts), counts, GEOMETRY, water_per_mm=WATER, scan_id="noisy")


def inside(grid):
    columns = grid.first_voxel_mm[0] + np.arange(grid.shape[2]) * grid.spacing_mm[2]
    rows = grid.first_voxel_mm[2] - np.arange(grid.shape[1]) * grid.spacing_mm[1]
    return np.hypot(columns[None, :] - 9.0, rows[:, None] + 6.0) < 42.0


def test_noise_falls_the_mean_stays_and_what_was_not_seen_is_air(projections):
    plain = reconstruct(projections, Step("fdk"), "body", WIDE)
    done = []
    made = reconstruct(
        projections, Step.of("fdk", denoiser=NAME, denoiser_sha256=DIGEST), "body", WIDE, progress=done.append
    )
    body = inside(plain.grid)
    assert not plain.valid.all()
    np.testing.assert_array_equal(made.valid, plain.valid)
    np.testing.assert_array_equal(made.values[~made.valid], -1000.0)
    assert made.quantity == "HU"
    np.testing.assert_array_equal(made.grid.first_voxel_mm, plain.grid.first_voxel_mm)
    # Voxels six times as wide as those the network was made for: a quarter of the noise is little, and sure.
    assert made.values[:, body].std() < 0.75 * plain.values[:, body].std()
    # What is taken away has no mean over 16 voxels; the disc's rim cuts some of those.
    assert abs(made.values[:, body].mean() - plain.values[:, body].mean()) < 1.0
    assert done == sorted(done)
    assert done[-1] == 1.0


def test_the_network_is_told_the_noise_of_this_scan(projections, monkeypatch):
    """A prior that gives back what it was told: within a third of what neighbouring slices differ by."""

    class Echo:
        def denoise(self, image_hu, noise_hu):
            return noise_hu.copy()

    monkeypatch.setattr(run.Denoiser, "load", staticmethod(lambda *_named, **_engine: Echo()))
    near = GridRequest(48, field_of_view_mm=160.0, slice_thickness_mm=2.0)
    told = reconstruct(projections, Step.of("fdk", denoiser=NAME, denoiser_sha256=DIGEST), "body", near)
    image = reconstruct(projections, Step("fdk"), "body", near).values[:, inside(told.grid)]
    found = (image[2:] - image[:-2]).std() / np.sqrt(2)  # two slices apart: four rows share nothing
    assert np.median(told.values[:, inside(told.grid)]) == pytest.approx(found, rel=1 / 3)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"denoiser": NAME, "denoiser_sha256": "0" * 64}, f"has the SHA-256 {DIGEST}, the recipe asks for 0{{64}}"),
        ({"denoiser": "glow-worm", "denoiser_sha256": DIGEST}, "no network 'glow-worm'; there are .*firefly-1"),
        ({"denoiser": NAME}, "denoiser is 'firefly-1', denoiser_sha256 None: a recipe gives both or neither"),
        ({"denoiser_sha256": DIGEST}, "denoiser is None, .* both or neither"),
    ],
    ids=["digest", "name", "no digest", "no name"],
)
def test_a_network_that_is_not_the_recipe_s_is_refused_before_any_work(settings, words, projections, monkeypatch):
    monkeypatch.setattr(run, "_image", None)  # calling it would be a TypeError
    with pytest.raises(RecipeError, match=words):
        reconstruct(projections, Step.of("auto", **settings), "body", WIDE)


def test_attenuation_without_water_is_refused_before_any_work(projections, monkeypatch):
    monkeypatch.setattr(run, "_image", None)
    method = Step.of("auto", denoiser=NAME, denoiser_sha256=DIGEST)
    with pytest.raises(RecipeError, match="works in HU, and the attenuation of water is not known"):
        reconstruct(replace(projections, water_per_mm=None), method, "body", WIDE)
