"""What every prior must do: nothing for a constant, the derivative as gradient, and a parabola that lies above."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from lampyris.model import Step
from lampyris.recon.iterative.priors import Anchor, Prior, prior

SHAPE = (4, 5, 6)
WATER = 0.0193
SPACING = (1.9, 0.8, 0.7)
HU = WATER / 1000


def _named(name: str, **settings: Any) -> Callable[[np.ndarray], Prior]:
    return lambda kappa: prior(Step.of(name, **settings), spacing_mm=SPACING, water_per_mm=WATER, certainty=kappa)


PRIORS: dict[str, Callable[[np.ndarray], Any]] = {
    "quadratic": _named("quadratic"),
    "quadratic, faces": _named("quadratic", neighbours=6),
    "huber": _named("huber", neighbours=18),
    "hyperbola": _named("hyperbola"),
    "qggmrf": _named("qggmrf"),
    "qggmrf, in the plane": _named("qggmrf", neighbours=8, q=1.0),
    "tv": _named("tv"),
    "half": _named("half"),
    "anchor": lambda kappa: Anchor(np.full(SHAPE, 0.021), kappa**2),
}


@pytest.fixture(params=PRIORS)
def chosen(request: pytest.FixtureRequest, rng: np.random.Generator) -> Any:
    """With a certainty that differs from voxel to voxel."""
    return PRIORS[request.param](0.2 + rng.random(SHAPE))


def noisy(rng: np.random.Generator, spread_hu: float) -> np.ndarray:
    return np.asarray(0.021 + spread_hu * HU * rng.standard_normal(SHAPE))


def test_the_best_image_costs_nothing(chosen: Any) -> None:
    constant = np.full(SHAPE, 0.021)
    assert chosen.value(constant) == 0.0
    assert np.abs(chosen.gradient(constant)).max() == 0.0


@pytest.mark.parametrize("spread_hu", [0.3, 8.0, 300.0])
def test_the_gradient_is_the_derivative(chosen: Any, rng: np.random.Generator, spread_hu: float) -> None:
    """Along a random direction of the image's own size, central difference with h = 10⁻⁴ of it.

    The error is h²·ψ‴/6: 10⁻⁸ times curvatures that change within a fraction of a HU, at most some 10² of them.
    """
    image, way = noisy(rng, spread_hu), spread_hu * HU * rng.standard_normal(SHAPE)
    h = 1e-4 / max(1.0, spread_hu)
    slope = (chosen.value(image + h * way) - chosen.value(image - h * way)) / (2 * h)
    scale = float(np.abs(chosen.gradient(image) * way).sum())
    assert float((chosen.gradient(image) * way).sum()) == pytest.approx(slope, abs=2e-6 * scale)


@pytest.mark.parametrize("spread_hu", [0.3, 8.0, 300.0])
@pytest.mark.parametrize("step_hu", [0.1, 10.0, 500.0])
def test_the_parabola_lies_above(chosen: Any, rng: np.random.Generator, spread_hu: float, step_hu: float) -> None:
    """R(y) ≤ R(x) + ⟨∇R, y − x⟩ + ½Σ c·(y − x)², for random steps and for the worst, chequered ones."""
    chequered = (-1.0) ** np.indices(SHAPE).sum(0)
    for way in (rng.standard_normal(SHAPE), chequered, chequered * rng.random(SHAPE)):
        x = noisy(rng, spread_hu)
        d = step_hu * HU * way
        gradient, curvature = chosen.majoriser(x)
        bound = chosen.value(x) + float((gradient * d).sum()) + 0.5 * float((curvature * d * d).sum())
        assert chosen.value(x + d) <= bound * (1 + 1e-12)


def test_curvature_of_a_constant_holds_everywhere(chosen: Any, rng: np.random.Generator) -> None:
    """What a solver with momentum relies on."""
    bound = chosen.curvature(np.full(SHAPE, 0.02))
    for spread_hu in (0.3, 8.0, 300.0):
        assert (chosen.curvature(noisy(rng, spread_hu)) <= bound * (1 + 1e-12)).all()


def test_the_parabola_is_not_idle(chosen: Any) -> None:
    """About a constant, the bound in the chequered direction is met within a factor of 4: no wasted steps.

    Diagonal neighbours of equal colour differ by nothing, which the bound cannot know.
    """
    flat = np.full(SHAPE, 0.021)
    d = 1e-3 * HU * (-1.0) ** np.indices(SHAPE).sum(0)
    assert chosen.value(flat + d) >= 0.25 * 0.5 * float((chosen.curvature(flat) * d * d).sum())


def test_majoriser_is_gradient_and_curvature(chosen: Any, rng: np.random.Generator) -> None:
    image = noisy(rng, 20.0)
    gradient, curvature = chosen.majoriser(image)
    np.testing.assert_array_equal(gradient, chosen.gradient(image))
    np.testing.assert_array_equal(curvature, chosen.curvature(image))


def test_the_image_is_left_alone(chosen: Any, rng: np.random.Generator) -> None:
    image = noisy(rng, 20.0)
    before = image.copy()
    chosen.value(image)
    chosen.majoriser(image)
    np.testing.assert_array_equal(image, before)
