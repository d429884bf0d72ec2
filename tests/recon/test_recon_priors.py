"""Priors of iterative reconstruction: costs by hand, gradients as derivatives, parabolas above, and what is refused."""

import math
from dataclasses import replace
from typing import Any

import array_api_strict
import numpy as np
import pytest
from scipy.optimize import minimize_scalar

from lampyris.model import InputError, RecipeError, Step
from lampyris.recon.iterative.priors import Anchor, edges, prior
from lampyris.recon.iterative.priors import neighbours as neighbours_module
from lampyris.recon.iterative.priors.choose import DEFAULTS
from lampyris.recon.iterative.priors.edges import relief
from lampyris.recon.iterative.priors.potentials import GeneralisedGaussian, Half, Huber, Hyperbola, Potential, Quadratic

WATER = 0.0193
SPACING = (1.9, 0.8, 0.7)
DELTA = 10.0 * WATER / 1000


def named(name: str, **settings: Any) -> Any:
    return prior(Step.of(name, **settings), spacing_mm=SPACING, water_per_mm=WATER)


def two_voxels(t: float) -> np.ndarray:
    """One pair along the columns."""
    return np.array([[[0.02 + t, 0.02]]])


# --- costs of one pair, by hand ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "settings", "cost"),
    [
        # t = 3δ throughout, in units of δ²; one pair along the columns.
        ("quadratic", {}, 4.5),
        ("huber", {"delta_hu": 10.0}, 3 - 0.5),
        ("hyperbola", {"delta_hu": 10.0}, math.sqrt(10) - 1),
        ("qggmrf", {"c_hu": 10.0, "q": 1.2}, 4.5 / (1 + 3**0.8)),
        ("half", {"delta_hu": 10.0}, 2 * (10**0.25 - 1)),
    ],
)
def test_one_pair_costs_what_the_formula_says(name: str, settings: dict[str, float], cost: float) -> None:
    """Faces weigh 1/d before scaling; Σ w·d² over the plane is w_rows·0.8² + w_columns·0.7² = 0.8 + 0.7, halved 0.75.

    So the pair along the columns weighs (1/0.7)/0.75.
    """
    found = named(name, neighbours=6, **settings).value(two_voxels(3 * DELTA))
    assert found == pytest.approx(cost * DELTA**2 / 0.7 / 0.75, rel=1e-9)


def test_total_variation_of_one_step_is_by_hand() -> None:
    """In-plane spacing √((0.8² + 0.7²)/2); its gradient length times that spacing over δ = 1 HU, in the hyperbola."""
    plane = math.sqrt((0.8**2 + 0.7**2) / 2)
    delta = WATER / 1000
    g = plane / 0.7 * 40 * delta
    expected = delta**2 * (math.sqrt(1 + (g / delta) ** 2) - 1) / plane**2
    assert named("tv").value(two_voxels(40 * delta)) == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("name", DEFAULTS)
@pytest.mark.parametrize("neighbours", [6, 8, 18, 26])
def test_a_faint_ramp_in_the_plane_costs_half_its_squared_slope(name: str, neighbours: int) -> None:
    """R → Σ ½|∇x|² for differences far below δ, mean of a ramp along rows and one along columns.

    Counted inside: every voxel but the last ones of each axis has all its pairs; to second order in t/δ = 10⁻³ only,
    q-GGMRF to |t/c|^0.8 = 4·10⁻³ of its value. Hence the difference of two volumes, one a slice, row and column larger.
    """
    settings = {} if name == "tv" else {"neighbours": neighbours}
    chosen = named(name, **settings)
    slope = 1e-3 * DELTA / 0.8 / (10 if name == "tv" else 1)

    def cost(n: int) -> float:
        along_rows = np.broadcast_to(slope * 0.8 * np.arange(n)[None, :, None], (n, n, n)).copy()
        along_columns = np.broadcast_to(slope * 0.7 * np.arange(n)[None, None, :], (n, n, n)).copy()
        return 0.5 * (chosen.value(along_rows) + chosen.value(along_columns)) / (0.5 * slope**2)

    # The cost of n³ voxels is a cubic in n whose third difference is 6 per voxel of the bulk.
    values = [cost(n) for n in (7, 8, 9, 10)]
    bulk = (values[3] - 3 * values[2] + 3 * values[1] - values[0]) / 6
    assert bulk == pytest.approx(1.0, rel=0.05 if name == "qggmrf" else 2e-3)


# --- derivatives and majorisers ---------------------------------------------------------------------------------------

POTENTIALS = [Quadratic(), Huber(0.4), Hyperbola(0.4), GeneralisedGaussian(0.4, 1.2), Half(0.4)]


@pytest.mark.parametrize("potential", POTENTIALS, ids=lambda each: type(each).__name__)
def test_the_weight_is_the_slope_over_the_difference(potential: Potential) -> None:
    """Central difference of ψ(t) with step 1e-5 t: error 1e-10 of ψ′ and 1e-16/1e-5 of rounding."""
    t = np.geomspace(1e-3, 30, 97)
    up, down = (potential.value((t * (1 + e)) ** 2) for e in (1e-5, -1e-5))
    weight = potential.weight(t * t)
    found = np.ones_like(t) if weight is None else weight
    np.testing.assert_allclose(found, (up - down) / (2e-5 * t * t), rtol=1e-6)


@pytest.mark.parametrize("potential", POTENTIALS, ids=lambda each: type(each).__name__)
def test_the_weight_never_rises_so_that_the_parabola_lies_above(potential: Potential) -> None:
    weight = potential.weight(np.linspace(0, 9, 1001) ** 2)
    assert weight is None or (weight[0] == pytest.approx(1.0, abs=1e-6) and np.diff(weight).max() < 0 + 1e-12)


def test_qggmrf_is_that_of_thibault() -> None:
    """mbirjax and svmbir write |t|^p/(pσ^p)·v/(1 + v), v = |t/(Tσ)|^(2−p), with our q as p and c = Tσ.

    Ours is that times pσ²T^(2−p)/2 = the same with ½t² about zero.
    """
    p, sigma, tee = 1.2, 0.3, 2.0
    t = np.linspace(0.01, 5, 50)
    v = np.abs(t / (tee * sigma)) ** (2 - p)
    theirs = t**p / (p * sigma**p) * v / (1 + v)
    ours = GeneralisedGaussian(tee * sigma, p).value(t * t)
    np.testing.assert_allclose(ours, theirs * p * sigma**2 * tee ** (2 - p) / 2, rtol=1e-10)


# --- half thresholding ------------------------------------------------------------------------------------------------


def half_threshold(x: float, strength: float) -> float:
    """argmin over u of (u − x)² + λ√|u|: u = ⅔x(1 + cos(⅔π − ⅔φ)), cos φ = (λ/8)(|x|/3)^−1.5, or 0 below the threshold.

    Xu, Chang, Xu & Zhang 2012, IEEE Trans. Neural Netw. Learn. Syst. 23:1013, eqs. 23–25.
    """
    if abs(x) <= 54 ** (1 / 3) / 4 * strength ** (2 / 3):
        return 0.0
    return 2 / 3 * x * (1 + math.cos(2 / 3 * math.pi - 2 / 3 * math.acos(strength / 8 * (abs(x) / 3) ** -1.5)))


@pytest.mark.parametrize("strength", [0.03, 1.0, 7.0])
@pytest.mark.parametrize("share", [0.3, 0.999, 1.001, 1.5, 20.0, -1.2])
def test_half_threshold_is_the_minimum_found_by_brute_force(strength: float, share: float) -> None:
    """(u − x)² + λ√|u| on a lattice of 2·10⁵ points, refined; x is `share` of the threshold, on both sides of zero."""
    edge = 54 ** (1 / 3) / 4 * strength ** (2 / 3)
    size = abs(share) * edge

    def cost(u: Any) -> Any:
        return (u - size) ** 2 + strength * np.sqrt(u)

    lattice = np.linspace(0, size, 200_001)
    best = float(lattice[cost(lattice).argmin()])
    if best > 0:
        best = float(minimize_scalar(cost, bounds=(best - size / 1e5, best + size / 1e5), method="bounded").x)
    found = half_threshold(share * edge, strength)
    assert found == pytest.approx(math.copysign(best, share), abs=2e-5 * edge)


def test_half_rounded_at_nothing_descends_to_the_half_threshold() -> None:
    """Minimising (u − x)² + λ√|u| by the majorising parabolas of the rounded ψ, δ → 0, ends at the closed form.

    2δ²((1 + (u/δ)²)^¼ − 1) → 2δ^1.5·√|u|, so λ = 2δ^1.5·β; the rounding changes ψ′ by ¾(δ/u)², 10⁻⁶ here.
    """
    delta, x, strength = 1e-3, 2.3, 1.0
    beta = strength / (2 * delta**1.5)
    u = np.array([x])
    for _ in range(100):
        u = 2 * x / (2 + beta * Half(delta).weight(u * u))
    assert float(u[0]) == pytest.approx(half_threshold(x, strength), rel=1e-5)


# --- weights, blocks, array types -------------------------------------------------------------------------------------


def test_certainty_weighs_each_pair_with_both_its_voxels() -> None:
    kappa = np.array([[[3.0, 5.0]]])
    chosen = prior(Step.of("quadratic", neighbours=6), spacing_mm=SPACING, water_per_mm=None, certainty=kappa)
    plain = prior(Step.of("quadratic", neighbours=6), spacing_mm=SPACING, water_per_mm=None)
    assert chosen.value(two_voxels(0.01)) == pytest.approx(15 * plain.value(two_voxels(0.01)), rel=1e-12)


@pytest.mark.parametrize("name", DEFAULTS)
def test_blocks_change_nothing(name: str, monkeypatch: pytest.MonkeyPatch, rng: np.random.Generator) -> None:
    """One block or many: only the order of a voxel's sums."""
    image = 0.02 + 1e-3 * rng.standard_normal((5, 7, 9))
    kappa = rng.random(image.shape)
    chosen = prior(Step.of(name), spacing_mm=SPACING, water_per_mm=WATER, certainty=kappa)
    whole = chosen.majoriser(image)
    for voxels in (1, 20, 70, 130):
        monkeypatch.setattr(neighbours_module, "CACHE_VOXELS", voxels)
        for one, other in zip(chosen.majoriser(image), whole, strict=True):
            np.testing.assert_allclose(one, other, rtol=1e-11, atol=1e-11 * np.abs(other).max())


@pytest.mark.parametrize("name", DEFAULTS)
def test_the_strict_array_api_gives_the_same(name: str, rng: np.random.Generator) -> None:
    image = (0.02 + 1e-3 * rng.standard_normal((3, 4, 5))).astype(np.float32)
    kappa = rng.random(image.shape, dtype=np.float32)
    strict, strict_kappa = array_api_strict.asarray(image), array_api_strict.asarray(kappa)
    ours = prior(Step.of(name), spacing_mm=SPACING, water_per_mm=WATER, certainty=kappa)
    theirs = replace(ours, certainty=strict_kappa)
    assert theirs.value(strict) == pytest.approx(ours.value(image), rel=1e-6)
    for method in ("gradient", "curvature"):
        found = getattr(theirs, method)(strict)
        assert isinstance(found, type(strict))
        assert found.dtype == array_api_strict.float32
        np.testing.assert_allclose(np.asarray(found), getattr(ours, method)(image), rtol=1e-5, atol=1e-9)


def test_the_anchor_proximal_step_is_a_stationary_point(rng: np.random.Generator) -> None:
    """u − x + step·gradient(u) = 0."""
    z, x, r = rng.random((3, 2, 4, 5))
    anchor = Anchor(z, r)
    u = anchor.prox(x, 0.7)
    np.testing.assert_allclose(u - x + 0.7 * anchor.gradient(u), 0, atol=1e-14)


# --- relief of edges --------------------------------------------------------------------------------------------------


def step_image(height: float) -> np.ndarray:
    """A step between columns 4 and 5 of a volume with sides that differ."""
    image = np.full((4, 6, 10), 0.02)
    image[:, :, 5:] += height
    return image


def test_relief_of_a_sharp_step_is_by_hand() -> None:
    """Sobel's height of a step is the step itself in its two columns, and nothing in all others."""
    height = 3.0e-4
    factor = relief(step_image(6.0e-4), height=height, rest=0.1)
    beside = math.sqrt((1 + 0.1 * 16) / (1 + 16))  # s = 2
    expected = np.ones((4, 6, 10))
    expected[:, :, 4:6] = beside
    np.testing.assert_allclose(factor, expected, rtol=1e-9)


def test_noise_raises_the_height_an_edge_must_have() -> None:
    """√(h² + (3σ)²) with h = 3, σ = 4/3 is 5, in 10⁻⁴/mm; the step of 5 is half relieved."""
    image = step_image(5.0e-4)
    for noise in (4e-4 / 3, np.full(image.shape, 4e-4 / 3)):
        factor = relief(image, height=3.0e-4, rest=0.1, noise=noise)
        np.testing.assert_allclose(factor[:, :, 4:6] ** 2, 0.55, rtol=1e-9)


def test_relief_weighs_the_pairs_of_the_prior() -> None:
    """One pair across a step far above `edge_hu` keeps the share `relief` of its cost."""
    t, step = two_voxels(0.02), Step.of("quadratic", neighbours=6, relief=0.2, edge_hu=5.0)
    plain = named("quadratic", neighbours=6).value(t)
    eased = prior(step, spacing_mm=SPACING, water_per_mm=WATER, start=t).value(t)
    assert eased == pytest.approx(0.2 * plain, rel=1e-6)


def test_relief_in_blocks_and_strict_arrays_is_the_same(
    monkeypatch: pytest.MonkeyPatch, rng: np.random.Generator
) -> None:
    image = 0.02 + 1e-3 * rng.standard_normal((5, 6, 7))
    whole = relief(image, height=1e-3, rest=0.1)
    monkeypatch.setattr(edges, "CACHE_VOXELS", 84)
    np.testing.assert_allclose(relief(image, height=1e-3, rest=0.1), whole, rtol=1e-12)
    strict = relief(array_api_strict.asarray(image), height=1e-3, rest=0.1)
    np.testing.assert_allclose(np.asarray(strict), whole, rtol=1e-12)


# --- refusals ---------------------------------------------------------------------------------------------------------


def test_an_unknown_prior_is_refused_with_the_list_of_known_ones() -> None:
    with pytest.raises(
        RecipeError, match=r"'magic' is unknown; known are quadratic, huber, hyperbola, qggmrf, tv, half"
    ):
        named("magic")


@pytest.mark.parametrize(
    ("name", "settings", "message"),
    [
        ("huber", {"delta_hu": -3.0}, r"delta_hu = -3.0, expected a number above 0"),
        ("tv", {"delta_hu": math.nan}, r"delta_hu = nan"),
        ("half", {"delta_hu": "ten"}, r"delta_hu = 'ten'"),
        ("hyperbola", {"delta": 3.0}, r"unknown settings \['delta'\]; known are neighbours, delta_hu, edge_hu, relief"),
        ("quadratic", {"neighbours": 7}, r"7 neighbours; known are 6, 8, 18, 26"),
        ("tv", {"neighbours": 6}, r"unknown settings \['neighbours'\]"),
        ("qggmrf", {"p": 1.5}, r"p = 1.5: only 2"),
        ("qggmrf", {"q": 0.5}, r"q = 0.5, expected 1"),
        ("huber", {"relief": 0.0}, r"relief is 0.0, expected above 0"),
        ("huber", {"relief": 0.3}, r"relief is 0.3, which needs a start image"),
    ],
)
def test_settings_out_of_range_are_refused(name: str, settings: dict[str, object], message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        named(name, **settings)


def test_hu_without_water_are_refused() -> None:
    with pytest.raises(RecipeError, match=r"delta_hu in HU, but the scan's water is None"):
        prior(Step.of("huber"), spacing_mm=SPACING, water_per_mm=None)


@pytest.mark.parametrize("name", DEFAULTS)
def test_nan_and_other_shapes_are_refused(name: str) -> None:
    image = np.full((3, 4, 5), 0.02, np.float32)
    chosen = prior(Step.of(name), spacing_mm=SPACING, water_per_mm=WATER, certainty=np.ones_like(image))
    broken = image.copy()
    broken[1, 2, 3] = np.nan
    for method in ("value", "gradient", "curvature", "majoriser"):
        with pytest.raises(InputError, match=r"1 NaN or infinite of 60 voxels"):
            getattr(chosen, method)(broken)
        with pytest.raises(InputError, match=r"\(2, 4, 5\) voxels, certainty of \(3, 4, 5\)"):
            getattr(chosen, method)(image[:2])


def test_certainty_below_zero_or_nan_is_refused() -> None:
    for value, message in ((-0.5, "certainty goes down to -0.5"), (np.nan, "1 NaN or infinite of 60")):
        kappa = np.ones((3, 4, 5))
        kappa[0, 1, 2] = value
        with pytest.raises(InputError, match=message):
            prior(Step.of("quadratic"), spacing_mm=SPACING, water_per_mm=WATER, certainty=kappa)


def test_a_start_or_noise_that_does_not_fit_is_refused() -> None:
    step, start = Step.of("quadratic", relief=0.3), np.full((3, 4, 5), 0.02)
    broken = start.copy()
    broken[2, 1, 0] = np.inf
    for given, message in (
        ({"start": broken}, "1 NaN or infinite of 60"),
        ({"start": start, "noise": np.ones((3, 4, 6))}, r"\(3, 4, 6\) voxels"),
        ({"start": start, "noise": -start}, "noise goes down to -0.02"),
        ({"start": start, "certainty": np.ones((3, 4, 6))}, r"certainty of \(3, 4, 6\)"),
    ):
        with pytest.raises(InputError, match=message):
            prior(step, spacing_mm=SPACING, water_per_mm=WATER, **given)


def test_spacing_that_is_none_is_refused() -> None:
    with pytest.raises(InputError, match="expected three lengths above 0"):
        prior(Step.of("quadratic"), spacing_mm=(1.0, 0.0, 0.7), water_per_mm=WATER)


def test_an_anchor_with_negative_precision_is_refused() -> None:
    with pytest.raises(InputError, match=r"precision of an anchor is -1"):
        Anchor(np.zeros((2, 3, 4)), -1.0)
    with pytest.raises(InputError, match=r"\(2, 3, 4\)"):
        Anchor(np.zeros((2, 3, 4)), np.ones((2, 3, 5)))
