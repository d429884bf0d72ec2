"""Projections, a learned prior and a grid request → image in 1/mm that counts and prior agree on: plug and play.

The learned prior takes the noise out of an image, z = D(x); the counts then have the last word,

    x ← argmin of ½‖Ax − q‖²_W + ½Σ (x − z)²/τ²,

with W the statistical weights of the integrals q and τ what z may be wrong by (Venkatakrishnan, Bouman, Wohlberg 2013,
IEEE GlobalSIP 945, split once for every round). Where the counts know better than the prior, x follows them: what they
deny cannot stay, and low frequencies, which the rays know best, keep their CT numbers. The next round begins with this
x, whose noise is less, and tells the network so.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from lampyris.model import Float32, Grid, GridRequest, Progress, Projections, RecipeError, Step
from lampyris.recon.iterative.domain import Analytic, Domain, Lattice, prepare
from lampyris.recon.iterative.fidelity import WeightedSquares, expected_weights
from lampyris.recon.iterative.priors import Anchor
from lampyris.recon.iterative.run import Keeper, key_of, solve
from lampyris.recon.iterative.solver import Checkpoint, Settings
from lampyris.recon.learned.denoiser import Denoiser

METHOD = "plug_and_play"
DEFAULTS = {"rounds": 2, "iterations": 6, "subsets": 16, "trust": 0.25, "left": 0.4}
"""`rounds` of `iterations` passes in `subsets`; `trust` is τ in units of the analytic image's noise, `left` the share
of that noise which the network is told of from the second round on."""
LEAST_HU = 1.0
"""No prior is trusted to less than this."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What a method's settings ask for, checked, and the learned prior."""

    denoiser: Denoiser
    rounds: int
    settings: Settings
    trust: float
    left: float

    @staticmethod
    def of(method: Step) -> "Plan":
        """Raises RecipeError for an unknown setting, one out of range, or another network than the recipe's."""
        given = dict(method.settings)
        name, digest = given.pop("denoiser", None), given.pop("denoiser_sha256", None)
        if name is None or digest is None:
            raise RecipeError(f"{METHOD} has denoiser {name!r} and denoiser_sha256 {digest!r}: it needs both")
        if unknown := sorted(set(given) - set(DEFAULTS)):
            raise RecipeError(f"{METHOD} has no setting {', '.join(unknown)}; known are {', '.join(sorted(DEFAULTS))}")
        chosen = DEFAULTS | given
        for each in ("trust", "left"):
            share = chosen[each]
            if isinstance(share, bool) or not isinstance(share, int | float) or not 0 < share <= 10:
                raise RecipeError(f"{METHOD} {each} is {share!r}, expected a number above 0, at most 10")
        rounds = chosen["rounds"]
        if isinstance(rounds, bool) or not isinstance(rounds, int) or rounds < 1:
            raise RecipeError(f"{METHOD} rounds is {rounds!r}, expected a whole number ≥ 1")
        settings = Settings(1.0, chosen["subsets"], chosen["iterations"], chosen["subsets"], -math.inf)
        return Plan(
            Denoiser.load(str(name), str(digest)), rounds, settings, float(chosen["trust"]), float(chosen["left"])
        )


def image(
    projections: Projections,
    method: Step,
    kernel: str,
    request: GridRequest,
    progress: Progress,
    *,
    analytic: Analytic,
    noise: Callable[[GridRequest, Grid], Float32],
    checkpoint: Checkpoint | None = None,
) -> tuple[Float32, Grid]:
    """The image (1/mm, NaN where `analytic` gives NaN) and its grid, from upright projections.

    `analytic` makes the image that the first round denoises, with `kernel`; `noise(request, grid)` is the standard
    deviation, HU, of the image of that request on that grid. Settings: `denoiser`, `denoiser_sha256`, and those of
    `DEFAULTS`. Raises RecipeError, also where water or the scan's noise is not known, InputError, DivergenceError.
    """
    plan = Plan.of(method)
    water = _water(projections)
    domain = prepare(
        projections, WeightedSquares(projections.integrals, expected_weights(projections.weights)), request, analytic
    )
    level = on_lattice(noise(domain.request, domain.lattice.image_grid), domain.lattice)
    tau = np.maximum(plan.trust * level, np.float32(LEAST_HU)) * np.float32(water / 1000)
    precision = 1 / np.square(tau)
    key = key_of(projections, method, kernel, request)
    values, first, anchor = domain.start, 0, None
    kept = None if checkpoint is None else Keeper(checkpoint, key).load()
    if kept is not None:
        first, anchor = int(kept["round"]), np.array(kept["anchor"])
    for number in range(first, plan.rounds):
        if anchor is None:
            told = level if number == 0 else np.float32(plan.left) * level
            anchor = denoised(values, told, plan.denoiser, water)
        keeper = Keeper(None if checkpoint is None else _Round(checkpoint, number, anchor), key)
        values = _solved(domain, anchor, precision, plan, keeper, _share(progress, number, plan.rounds))
        anchor = None
    return domain.lattice.image(values), domain.lattice.image_grid


def denoised(values: Float32, level_hu: Float32, denoiser: Denoiser, water_per_mm: float) -> Float32:
    """D(values) on the lattice, 1/mm."""
    hu = values * np.float32(1000 / water_per_mm) - np.float32(1000)
    return (denoiser.denoise(hu, level_hu) + np.float32(1000)) * np.float32(water_per_mm / 1000)


def on_lattice(image: Float32, lattice: Lattice) -> Float32:
    """A map of the image's slices on the lattice: that of the nearest slice and voxel."""
    slices, rows, columns = lattice.grid.shape
    nearest = np.rint((np.arange(slices) - lattice.margin - (len(lattice.taps) - 1) / 2) / lattice.stride)
    i = np.clip(nearest, 0, len(image) - 1).astype(int)
    r = np.clip(np.arange(rows) - lattice.pad, 0, image.shape[1] - 1)
    c = np.clip(np.arange(columns) - lattice.pad, 0, image.shape[2] - 1)
    return np.ascontiguousarray(image[np.ix_(i, r, c)])


def _solved(
    domain: Domain, anchor: Float32, precision: Float32, plan: Plan, keeper: Keeper, progress: Progress
) -> Float32:
    return solve(
        domain,
        lambda slab: Anchor(np.ascontiguousarray(slab.window(anchor)), np.ascontiguousarray(slab.window(precision))),
        anchor,
        plan.settings,
        progress=progress,
        keeper=keeper,
    )


@dataclass(frozen=True, slots=True, eq=False)
class _Round:
    """The checkpoint of one round: it also keeps which it is and the image it is anchored to."""

    checkpoint: Checkpoint
    number: int
    anchor: Float32

    def load(self) -> dict[str, np.ndarray] | None:
        """What this round has saved; None where another one was at work."""
        kept = self.checkpoint.load()
        return kept if kept is not None and int(kept["round"]) == self.number else None

    def save(self, arrays: dict[str, np.ndarray], /) -> None:
        self.checkpoint.save(arrays | {"round": np.array(self.number), "anchor": self.anchor})


def _share(progress: Progress, number: int, rounds: int) -> Progress:
    return lambda done: progress((number + done) / rounds)


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
