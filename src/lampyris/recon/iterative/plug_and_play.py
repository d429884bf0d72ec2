"""Projections, a learned prior and a grid request → image in 1/mm that counts and prior agree on: plug and play.

First an image by penalised least squares with a prior in a formula, whose edges stay (`run`, "pwls"). The learned prior
then takes out the noise that is left, z = D(x), and the counts have the last word,

    x ← argmin of ½‖Ax − q‖²_W + ½Σ (x − z)²/τ²,

with W the statistical weights of the integrals q and τ what z may be wrong by (Venkatakrishnan, Bouman, Wohlberg 2013,
IEEE GlobalSIP 945, split once). Where the counts know better than the prior, x follows them: what they deny cannot
stay, and low frequencies, which the rays know best, keep their CT numbers.
"""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from lampyris.model import Float32, Grid, GridRequest, Progress, Projections, RecipeError, Step
from lampyris.projector import Engine
from lampyris.recon.iterative.domain import Analytic, Domain, Lattice, Slab, prepare
from lampyris.recon.iterative.fidelity import expected_squares
from lampyris.recon.iterative.priors import Anchor
from lampyris.recon.iterative.run import Choice, Keeper, Noise, key_of, loudness, solve
from lampyris.recon.iterative.solver import Checkpoint, Settings
from lampyris.recon.learned.denoiser import Denoiser

METHOD = "plug_and_play"
FIRST = {"iterations": 12, "subsets": 16, "prior": "hyperbola", "strength": 20.0, "edge": 0.33}
"""The first image's settings, those of "pwls"."""
DEFAULTS = FIRST | {"left": 0.4, "returns": 4, "trust": 0.2}
"""And those of the way back: `left` is the share of the analytic image's noise that the network is told of, `trust` is
τ in the same units, `returns` the passes over the data that bring the network's image back to the counts."""
LEAST_HU = 1.0
"""No prior is trusted to less than this."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What a method's settings ask for, checked, and the learned prior."""

    denoiser: Denoiser
    first: Choice
    back: Settings
    trust: float
    left: float

    @staticmethod
    def of(method: Step, engine: Engine) -> "Plan":
        """Raises RecipeError for an unknown setting, one out of range, or another network than the recipe's, and
        EngineUnavailable where that does not run where `engine` works.
        """
        given = dict(method.settings)
        name, digest = given.pop("denoiser", None), given.pop("denoiser_sha256", None)
        if name is None or digest is None:
            raise RecipeError(f"{METHOD} has denoiser {name!r} and denoiser_sha256 {digest!r}: it needs both")
        chosen: dict[str, Any] = DEFAULTS | given
        shares = {each: chosen.pop(each) for each in ("trust", "left")}
        for each, share in shares.items():
            if isinstance(share, bool) or not isinstance(share, int | float) or not 0 < share <= 10:
                raise RecipeError(f"{METHOD} {each} is {share!r}, expected a number above 0, at most 10")
        returns = chosen.pop("returns")
        if isinstance(returns, bool) or not isinstance(returns, int) or returns < 1:
            raise RecipeError(f"{METHOD} returns is {returns!r}, expected a whole number ≥ 1")
        first = Choice.of(Step.of("pwls", **chosen))
        back = Settings(1.0, first.settings.subsets, returns, first.settings.subsets, -math.inf)
        loaded = Denoiser.load(str(name), str(digest), engine=engine)
        return Plan(loaded, first, back, float(shares["trust"]), float(shares["left"]))

    @property
    def shared(self) -> float:
        """The share of all passes that the first image takes."""
        return self.first.settings.passes / (self.first.settings.passes + self.back.passes)


def image(
    projections: Projections,
    method: Step,
    kernel: str,
    request: GridRequest,
    progress: Progress,
    *,
    analytic: Analytic,
    noise: Noise,
    engine: Engine,
    checkpoint: Checkpoint | None = None,
) -> tuple[Float32, Grid]:
    """The image (1/mm, NaN where `analytic` gives NaN) and its grid, from upright projections, on the host.

    `analytic` makes the start of the first image, with `kernel`; `noise(request, grid)` is the standard deviation, HU,
    of the analytic image of that request on that grid; `engine` does the work. Settings: `denoiser`, `denoiser_sha256`,
    and those of `DEFAULTS`. Raises RecipeError, also where water or the scan's noise is not known, InputError,
    DivergenceError.
    """
    plan = Plan.of(method, engine)
    water = _water(projections)
    likelihood = expected_squares(projections.integrals, projections.weights, engine.memory.up)
    domain = prepare(projections, likelihood, request, analytic, engine=engine)
    told = noise(domain.request, domain.lattice.image_grid)
    level = on_lattice(told, domain.lattice)
    key = key_of(projections, method, kernel, request)
    kept = None if checkpoint is None else Keeper(checkpoint, key).load()
    if kept is not None and "anchor" in kept:
        anchor = np.array(kept["anchor"])
    else:
        first = plan.first.at_noise(loudness(domain, told))
        values = solve(
            domain,
            first.prior_of,
            domain.start,
            first.settings,
            progress=lambda done: progress(plan.shared * done),
            keeper=Keeper(checkpoint, key),
        )
        anchor = denoised(values, np.float32(plan.left) * level, plan.denoiser, water)
    tau = np.maximum(np.float32(plan.trust) * level, np.float32(LEAST_HU)) * np.float32(water / 1000)
    values = _returned(
        domain,
        anchor,
        1 / np.square(tau),
        plan,
        keeper=Keeper(checkpoint, key, {"anchor": anchor}),
        progress=lambda done: progress(plan.shared + (1 - plan.shared) * done),
    )
    return domain.lattice.image(values), domain.lattice.image_grid


def denoised(values: Float32, level_hu: Float32, denoiser: Denoiser, water_per_mm: float) -> Float32:
    """D(values) on the lattice, 1/mm."""
    hu = values * np.float32(1000 / water_per_mm) - np.float32(1000)
    made = denoiser.denoise(hu, level_hu)
    return np.asarray((made + np.float32(1000)) * np.float32(water_per_mm / 1000), np.float32)


def on_lattice(image: Float32, lattice: Lattice) -> Float32:
    """A map of the image's slices on the lattice: that of the nearest slice and voxel."""
    slices, rows, columns = lattice.grid.shape
    nearest = np.rint((np.arange(slices) - lattice.margin - (len(lattice.taps) - 1) / 2) / lattice.stride)
    i = np.clip(nearest, 0, len(image) - 1).astype(int)
    r = np.clip(np.arange(rows) - lattice.pad, 0, image.shape[1] - 1)
    c = np.clip(np.arange(columns) - lattice.pad, 0, image.shape[2] - 1)
    return np.ascontiguousarray(image[np.ix_(i, r, c)])


def _returned(
    domain: Domain, anchor: Float32, precision: Float32, plan: Plan, *, keeper: Keeper, progress: Progress
) -> Float32:
    """The network's image after `returns` passes over the data."""
    up = domain.engine.memory.up

    def anchored(slab: Slab) -> Anchor:
        return Anchor(*(up(np.ascontiguousarray(slab.window(volume))) for volume in (anchor, precision)))

    return solve(domain, anchored, anchor, plan.back, progress=progress, keeper=keeper)


def _water(projections: Projections) -> float:
    if projections.water_per_mm is None:
        raise RecipeError(f"{METHOD} needs HU, and the attenuation of water is not known here")
    for step in projections.history:
        if step.name == "log" and dict(step.settings).get("noise") == "assumed":
            raise RecipeError(
                f"{METHOD} weighs the learned prior against the counts, and this scan does not say how noisy they are"
                " (gain, electronic noise): take an analytic recipe"
            )
    return projections.water_per_mm
