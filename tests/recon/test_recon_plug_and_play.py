"""Counts and a learned prior in turn: who has the last word, what stays, how a run goes on, and what is refused."""

from dataclasses import replace

import numpy as np
import pytest
from scipy.sparse.linalg import LinearOperator, cg

from lampyris.model import Applied, Gantry, Geometry, GridRequest, InputError, Projections, RecipeError, Step
from lampyris.phantom.assembly import line_integrals
from lampyris.phantom.shapes import Cylinder
from lampyris.projector import load
from lampyris.recon import reconstruct
from lampyris.recon.iterative import plug_and_play
from lampyris.recon.iterative.domain import prepare
from lampyris.recon.iterative.fidelity import expected_squares
from lampyris.recon.learned import denoiser

WATER = 0.0193
SMALL = GridRequest(50, field_of_view_mm=165.0, centre_mm=(9.0, -6.0), slice_thickness_mm=2.0)
NETWORK = {"denoiser": "firefly-1", "denoiser_sha256": denoiser.digest_of("firefly-1")}
NAMED = Step.of("plug_and_play", **NETWORK)
FINER = 5
"""Rays that a cell's integral is the mean of: one alone knows nothing of the body's edge beside it."""


def geometry(kind, finer=1):
    """A short scan of cone beams; "tilted" by 13°, or a helix of less than two turns."""
    tilt = 13.0 if kind == "tilted" else 0.0
    gantry = Gantry(
        541.0, 949.0, 8, 121 * finer, (3.4, 3.25 / finer), True, 3.7, finer * 60.75 - 0.5, tilt
    )  # fmt: skip
    if kind == "helix":
        return Geometry.helical(gantry, views=220, views_per_turn=120, table_feed_mm=-12.0, start_angle_deg=17.0)
    return Geometry.circular(gantry, 23.0 + np.arange(120) * 3.0)


def scan(kind, quanta, rng):
    """A trunk of water; Poisson noise of `quanta` in the open beam."""
    coarse = geometry(kind)
    rays = line_integrals(Cylinder((9.0, 0.0, -6.0), (52.0, 43.0), 400.0), geometry(kind, FINER), WATER)
    integrals = rays.reshape(*coarse.shape, FINER).mean(-1, dtype=np.float64)
    counts = np.maximum(rng.poisson(quanta * np.exp(-integrals)), 1).astype(np.float32)
    return Projections(
        np.log(np.float32(quanta) / counts), counts, coarse, water_per_mm=WATER, scan_id=f"{kind} of {quanta:g}"
    )


def disc(grid, radius):
    """(rows, columns) True within `radius` of the trunk's axis."""
    columns = grid.first_voxel_mm[0] + np.arange(grid.shape[2]) * grid.spacing_mm[2]
    rows = grid.first_voxel_mm[2] - np.arange(grid.shape[1]) * grid.spacing_mm[1]
    return np.hypot(columns[None, :] - 9.0, rows[:, None] + 6.0) < radius


def analytic(projections):
    """1/mm, as the door of the package makes it."""

    def start(request):
        volume = reconstruct(projections, Step("auto"), "body", request)
        return ((volume.values / 1000 + 1) * WATER).astype(np.float32), volume.grid

    return start


class Liar:
    """A prior that always says the same: the first image it was shown, and a nodule that is not there."""

    def __init__(self, planted_hu=0.0):
        self.planted_hu, self.said, self.blob = planted_hu, None, None
        self.calls = 0

    def denoise(self, image_hu, noise_hu):
        self.calls += 1
        if self.said is None:
            s, r, c = np.indices(image_hu.shape)
            slices, rows, columns = image_hu.shape
            away = ((s - slices / 2) / 2) ** 2 + ((r - rows / 2 + 1) / 4) ** 2 + ((c - columns / 2 - 2) / 4) ** 2
            self.blob = np.exp(-away / 2).astype(np.float32)
            self.said = image_hu + np.float32(self.planted_hu) * self.blob
        return self.said


@pytest.fixture
def believe(monkeypatch):
    """Put another prior in the network's place."""

    def put(prior):
        monkeypatch.setattr(plug_and_play.Denoiser, "load", staticmethod(lambda *_named, **_engine: prior))
        return prior

    return put


def image(projections, noise_hu, method=NAMED, **options):
    """HU, of a scan whose analytic image has that noise everywhere."""
    values, _ = plug_and_play.image(
        projections, method, "body", SMALL, options.pop("progress", lambda _done: None),
        analytic=analytic(projections), noise=lambda _request, grid: np.full(grid.shape, noise_hu, np.float32),
        engine=load("cpu"), **options,
    )  # fmt: skip
    return values * np.float32(1000 / WATER) - np.float32(1000)


def left_of(blob_hu, projections, noise_hu, method):
    """(AᵀWA + R)⁻¹ R b by conjugate gradients: what the minimum keeps of b, as the problem is linear."""
    data = expected_squares(projections.integrals, projections.weights)
    domain = prepare(projections, data, SMALL, analytic(projections))
    slab = domain.slab(0)
    trust = dict(method.settings).get("trust", plug_and_play.DEFAULTS["trust"])
    precision = 1 / (max(trust * noise_hu, plug_and_play.LEAST_HU) * WATER / 1000) ** 2
    weights = slab.fidelity.curvature(slice(None))

    def normal(x):
        x = x.reshape(slab.grid.shape).astype(np.float32)
        return (slab.projector.adjoint(weights * slab.projector.forward(x)) / precision + x).ravel()

    n = blob_hu.size
    found, failed = cg(LinearOperator((n, n), normal, dtype=np.float64), blob_hu.ravel().astype(float), rtol=1e-3)
    assert not failed
    return found.reshape(slab.grid.shape)


# ---- what the counts say, and what the prior


def kept_share(believe, projections, noise_hu):
    """Share of a planted nodule's volume (zero frequency) that the image keeps: found, and at the minimum."""
    believe(Liar())
    without = image(projections, noise_hu)
    liar = believe(Liar(300.0))
    kept = image(projections, noise_hu) - without
    best = left_of(300 * liar.blob, projections, noise_hu, NAMED)
    margin = (len(best) - len(kept)) // 2
    inner = slice(margin, len(best) - margin)
    whole = 300 * float(liar.blob[inner].sum())
    return float(kept.sum()) / whole, float(best[inner].sum()) / whole


def test_what_the_counts_deny_goes_and_more_of_it_where_they_are_more(believe, rng):
    """A nodule of 300 HU that no ray has seen, FWHM 31 mm, at full dose (σ = 3.6 HU) and a twentieth of it (16 HU).

    Rays know low frequencies best: the counts' precision of a sum over the nodule is many times that of a voxel, so its
    volume goes first. At full dose the prior is trusted to 1 HU, the least, more than a quarter of σ; at a twentieth to
    4 HU, a quarter, so it may keep more. Conjugate gradients on the same normal equations say how much.
    """
    shares = {}
    for dose, noise_hu in ((1.0, 3.6), (0.05, 16.0)):
        found, best = kept_share(believe, scan("axial", 2e6 * dose, rng), noise_hu)
        assert found == pytest.approx(best, abs=0.02)
        shares[dose] = found
    assert shares[1.0] < 0.3
    assert shares[0.05] > 1.2 * shares[1.0]


def test_the_mean_of_the_body_stays_where_the_counts_put_it(rng):
    """Real network, a tenth of the dose: by less than 2 HU from the analytic one, in every slice, and air is air.

    Noise falls by a quarter at least; no more is asked, for voxels are five times those that the network was made for.
    Of these voxels strength 20 smooths nothing: they end at 0.15 /mm; 300 lets half pass at 0.066 /mm.
    """
    projections = scan("axial", 1e5, rng)
    plain = reconstruct(projections, Step("auto"), "body", SMALL)
    made = reconstruct(projections, Step.of("plug_and_play", **NETWORK, strength=300.0), "body", SMALL)
    inside, outside = disc(made.grid, 36.0), ~disc(made.grid, 60.0)
    moved = (made.values - plain.values)[:, inside].mean(axis=1)
    assert np.abs(moved).max() < 2.0
    assert abs(made.values[:, outside].mean() - plain.values[:, outside].mean()) < 2.0
    assert made.values[:, inside].std() < 0.75 * plain.values[:, inside].std()


@pytest.mark.parametrize("kind", ["tilted", "helix"])
def test_tilted_and_helical_scans_have_the_analytic_grid_and_water_is_water(kind, rng):
    projections = scan(kind, 5e5, rng)
    request = replace(SMALL, slice_thickness_mm=3.0)
    plain = reconstruct(projections, Step("auto"), "body", request)
    made = reconstruct(projections, NAMED, "body", request)
    assert made.quantity == "HU"
    np.testing.assert_array_equal(made.grid.axes, plain.grid.axes)
    np.testing.assert_array_equal(made.grid.first_voxel_mm, plain.grid.first_voxel_mm)
    assert made.values.shape == plain.values.shape
    means = made.values[:, disc(plain.grid, 33.0)].mean(axis=1)
    assert np.abs(means - plain.values[:, disc(plain.grid, 33.0)].mean(axis=1)).max() < 3.0


def test_the_prior_is_told_its_share_of_the_noise_of_the_voxels_that_it_is_shown(believe, rng):
    """Slices of 6 mm every 3 mm come from voxels of 3 mm, noisier than they are: within 15 % of what those vary by."""
    heard = []

    class Listener:
        def denoise(self, image_hu, noise_hu):
            heard.append(noise_hu)
            return image_hu

    believe(Listener())
    projections = scan("helix", 1e5, rng)
    request = replace(SMALL, slice_thickness_mm=6.0, slice_increment_mm=3.0)
    once = Step.of("plug_and_play", **NETWORK, iterations=1, returns=1, left=0.5)
    grid = reconstruct(projections, once, "body", request).grid
    (told,) = heard
    voxels = reconstruct(projections, Step("auto"), "body", replace(SMALL, slice_thickness_mm=3.0)).values
    slices = reconstruct(projections, Step("auto"), "body", request).values
    inside = disc(grid, 36.0)
    assert np.median(told[:, inside]) == pytest.approx(0.5 * voxels[:, inside].std(), rel=0.15)
    assert np.median(told[:, inside]) > 1.2 * 0.5 * slices[:, inside].std()


# ---- checkpoints


class Memory:
    """Keeps copies, as a disk would."""

    def __init__(self):
        self.arrays = None

    def load(self):
        return self.arrays

    def save(self, arrays):
        self.arrays = {name: np.array(array) for name, array in arrays.items()}


class StoppedError(Exception):
    pass


SHORT = Step.of("plug_and_play", **NETWORK, iterations=3, returns=3, subsets=6)


class Halver:
    """A prior whose word depends on what it is shown."""

    calls = 0

    def denoise(self, image_hu, noise_hu):
        self.calls += 1
        return image_hu - np.float32(0.5) * noise_hu


@pytest.mark.parametrize(("after", "asked_again"), [(0.3, 1), (0.8, 0), (1.0, 0)])
def test_a_run_stopped_at_any_pass_ends_in_the_same_image(after, asked_again, believe, rng):
    """The way back begins at ½: stopped on it, neither the first image is made again nor the network asked again."""
    projections = scan("axial", 1e5, rng)
    memory, reported = Memory(), []

    def progress(done):
        if done >= after:
            raise StoppedError

    believe(Halver())
    straight = image(projections, 10.0, SHORT)
    with pytest.raises(StoppedError):
        image(projections, 10.0, SHORT, progress=progress, checkpoint=memory)
    prior = believe(Halver())
    resumed = image(projections, 10.0, SHORT, progress=reported.append, checkpoint=memory)
    np.testing.assert_array_equal(resumed, straight)
    assert prior.calls == asked_again
    assert reported[0] >= after - 1 / 6 - 1e-9  # 2 × 3 passes: one is lost at most
    assert reported[-1] == 1.0


def test_a_checkpoint_of_another_scan_or_recipe_is_refused(believe, rng):
    believe(Halver())
    memory = Memory()
    image(scan("axial", 1e5, rng), 10.0, SHORT, checkpoint=memory)
    words = r"the checkpoint is of [0-9a-f]{12}, this scan and recipe are"
    with pytest.raises(InputError, match=words):
        image(scan("axial", 2e5, rng), 10.0, SHORT, checkpoint=memory)
    memory.arrays["key"] = memory.arrays["key"][::-1]
    with pytest.raises(InputError, match=words):
        image(scan("axial", 1e5, rng), 10.0, SHORT, checkpoint=memory)


# ---- refusals


def refused(projections, method, words):
    """Before any work: no analytic image is made and no noise is measured."""

    def never(*_asked):
        raise AssertionError("it should have been refused first")

    with pytest.raises(RecipeError, match=words):
        plug_and_play.image(
            projections, method, "body", SMALL, lambda _done: None, analytic=never, noise=never, engine=load("cpu")
        )


@pytest.fixture(scope="module")
def blank():
    coarse = geometry("axial")
    nothing = np.zeros(coarse.shape, np.float32)
    return Projections(nothing, nothing + 1, coarse, water_per_mm=WATER, scan_id="blank")


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"denoiser_sha256": "0" * 64}, r"has the SHA-256 [0-9a-f]{64}, the recipe asks for 0{64}"),
        ({"denoiser_sha256": None}, "denoiser 'firefly-1' and denoiser_sha256 None: it needs both"),
        ({"denoiser": "glow-worm"}, "no network 'glow-worm'; there are .*firefly-1"),
        ({"sharpness": 3}, r"unknown settings \['sharpness'\]; known are"),
        ({"trust": 0}, "trust is 0, expected a number above 0"),
        ({"trust": -0.25}, r"trust is -0\.25"),
        ({"trust": float("nan")}, "trust is nan"),
        ({"left": "some"}, "left is 'some'"),
        ({"returns": 0}, "returns is 0, expected a whole number ≥ 1"),
        ({"returns": True}, "returns is True"),
        ({"edge": 0}, "edge is 0, expected a number above 0, in units of the analytic image's noise"),
        ({"edge": 0.3, "delta_hu": 20.0}, "gives both edge and delta_hu: which of them"),
        ({"prior": "quadratic"}, "prior 'quadratic' has no edge"),
        ({"prior": "wish"}, "prior 'wish' is unknown"),
        ({"strength": -1}, "strength is -1"),
        ({"iterations": 0}, "passes is 0"),
        ({"iterations": 2.5}, r"passes is 2\.5"),
        ({"subsets": 7.5}, r"subsets is 7\.5"),
    ],
)
def test_unknown_or_unfit_settings_are_refused_before_any_work(settings, words, blank):
    chosen = {name: value for name, value in (NETWORK | settings).items() if value is not None}
    refused(blank, Step.of("plug_and_play", **chosen), words)


def test_a_recipe_without_a_network_is_refused(blank):
    refused(blank, Step("plug_and_play"), "denoiser None and denoiser_sha256 None: it needs both")


def test_where_water_is_not_known_there_is_no_prior_in_hu(blank):
    refused(replace(blank, water_per_mm=None), NAMED, "needs HU, and the attenuation of water is not known")


def test_where_the_noise_is_not_known_nothing_can_be_weighed(blank):
    assumed = (Applied.of("dark_air"), Applied.of("log", noise="assumed"))
    refused(replace(blank, history=assumed), NAMED, "does not say how noisy they are")
