"""A step of a recipe, the grid's spacing, water and certainty → the prior it names."""

import math
from typing import Any

from array_api_compat import array_namespace

from lampyris.model import InputError, RecipeError, Step
from lampyris.recon.iterative.priors.edges import relief
from lampyris.recon.iterative.priors.neighbours import NeighbourPrior, Prior, check, pairs
from lampyris.recon.iterative.priors.potentials import (
    GeneralisedGaussian,
    Half,
    Huber,
    Hyperbola,
    Potential,
    Quadratic,
)
from lampyris.recon.iterative.priors.variation import TotalVariation

DEFAULTS: dict[str, dict[str, float]] = {
    "quadratic": {"neighbours": 26},
    "huber": {"neighbours": 26, "delta_hu": 10.0},
    "hyperbola": {"neighbours": 26, "delta_hu": 10.0},
    "qggmrf": {"neighbours": 26, "p": 2.0, "q": 1.2, "c_hu": 10.0},
    "tv": {"delta_hu": 1.0},
    "half": {"neighbours": 26, "delta_hu": 10.0},
}
"""Every prior by its name in a recipe, and its settings with their defaults."""
EDGES = {"edge_hu": 50.0, "relief": 1.0}
"""Settings that all priors have."""


def prior(
    step: Step,
    *,
    spacing_mm: tuple[float, float, float],
    water_per_mm: float | None,
    certainty: Any = None,
    start: Any = None,
    noise: Any = None,
) -> Prior:
    """The prior that `step` names, for images in 1/mm with voxels of `spacing_mm` (slices, rows, columns).

    | name | cost of a difference t | settings and defaults |
    |---|---|---|
    | quadratic | ½t² | |
    | huber | ½t² up to δ, then straight | delta_hu 10 |
    | hyperbola | δ²(√(1 + (t/δ)²) − 1) | delta_hu 10 |
    | qggmrf | ½t²/(1 + abs(t/c)^(2−q)) | c_hu 10, q 1.2, p 2 |
    | tv | hyperbola of the gradient's length: isotropic total variation rounded below δ | delta_hu 1 |
    | half | 2δ²((1 + (t/δ)²)^¼ − 1): L½ rounded below δ | delta_hu 10 |

    All but "tv" take `neighbours` 6, 18 or 26 (default), or 8 in the plane of a slice. HU are turned into 1/mm by
    `water_per_mm`. `certainty` κ > 0 (slices, rows, columns), see `recon.iterative.certainty`, weighs every pair with
    κ_j·κ_k. Every ψ is ½t² about zero, and the sum over neighbours ½|∇x|² per voxel in the plane: strengths of
    all priors, neighbourhoods and grids mean the same there.

    All take `relief`, 0 to 1 (default: no relief): the penalty's share that is left at edges of the `start` image
    (1/mm) that are higher than `edge_hu` (50) and three times its standard deviation `noise` (1/mm; array or number).
    With "quadratic", edges of all contrasts above then have one transfer function; see `priors.edges`.

    Raises RecipeError for an unknown prior or setting, a value out of range, or relief without a start image;
    InputError for a certainty, start or noise that is NaN or of another shape, a certainty or noise below zero.

    >>> from lampyris.model import Step
    >>> smooth = prior(Step.of("hyperbola", delta_hu=5.0), spacing_mm=(1.0, 0.7, 0.7), water_per_mm=0.02)
    """
    if step.name not in DEFAULTS:
        raise RecipeError(f"prior {step.name!r} is unknown; known are {', '.join(DEFAULTS)}")
    given = dict(step.settings)
    known = DEFAULTS[step.name] | EDGES
    if unknown := sorted(set(given) - set(known)):
        raise RecipeError(f"prior {step.name!r} has unknown settings {unknown}; known are {', '.join(known)}")
    chosen = known | given
    if len(spacing_mm) != 3 or not all(math.isfinite(d) and d > 0 for d in spacing_mm):
        raise InputError(f"the prior's voxels are spaced {spacing_mm} mm: expected three lengths above 0")
    if certainty is not None:
        _check_map(certainty, "certainty")
    potential = _potential(step.name, chosen, water_per_mm)
    certainty = _relieved(chosen, water_per_mm, certainty, start, noise)
    if step.name == "tv":
        return TotalVariation(potential, spacing_mm, certainty)
    return NeighbourPrior(potential, pairs(spacing_mm, chosen["neighbours"]), certainty)


def _potential(name: str, chosen: dict[str, Any], water_per_mm: float | None) -> Potential:
    if name == "quadratic":
        return Quadratic()
    edge = _per_mm(f"prior {name!r}", "c_hu" if name == "qggmrf" else "delta_hu", chosen, water_per_mm)
    if name == "qggmrf":
        if chosen["p"] != 2:
            raise RecipeError(
                f"qggmrf has p = {chosen['p']}: only 2 is known; below it no parabola lies above ψ at zero"
            )
        if not 1 <= chosen["q"] <= 2:
            raise RecipeError(f"qggmrf has q = {chosen['q']}, expected 1 (edges kept) to 2 (quadratic)")
        return GeneralisedGaussian(edge, chosen["q"])
    if name == "huber":
        return Huber(edge)
    return Half(edge) if name == "half" else Hyperbola(edge)


def _per_mm(name: str, setting: str, chosen: dict[str, Any], water_per_mm: float | None) -> float:
    """A difference given in HU, in 1/mm."""
    edge = chosen[setting]
    if isinstance(edge, bool) or not isinstance(edge, int | float) or not (math.isfinite(edge) and edge > 0):
        raise RecipeError(f"{name} has {setting} = {edge!r}, expected a number above 0")
    if water_per_mm is None or not water_per_mm > 0:
        raise RecipeError(
            f"{name} has {setting} in HU, but the scan's water is {water_per_mm!r} 1/mm: correct beam"
            " hardening, or take 'quadratic'"
        )
    return float(edge) * water_per_mm / 1000.0


def _relieved(chosen: dict[str, Any], water_per_mm: float | None, certainty: Any, start: Any, noise: Any) -> Any:
    """The certainty, lowered at the edges of the start image where the recipe asks for it."""
    rest = chosen["relief"]
    if isinstance(rest, bool) or not isinstance(rest, int | float) or not 0 < rest <= 1:
        raise RecipeError(f"the prior's relief is {rest!r}, expected above 0 (edges let go) to 1 (no relief)")
    if rest == 1:
        return certainty
    if start is None:
        raise RecipeError(f"the prior's relief is {rest}, which needs a start image to find edges in")
    height = _per_mm("relief", "edge_hu", chosen, water_per_mm)
    check(start, certainty)
    if noise is not None and not isinstance(noise, int | float):
        _check_map(noise, "noise", start)
    factor = relief(start, height=height, rest=rest, noise=noise)
    return factor if certainty is None else factor * certainty


def _check_map(values: Any, name: str, like: Any = None) -> None:
    """Refuse a map that is NaN, below zero or of another shape."""
    check(values, like)
    lowest = float(array_namespace(values).min(values))
    if lowest < 0:
        raise InputError(f"{name} goes down to {lowest:.4g}, expected none below 0")
