"""Projections, method and grid request → image in 1/mm by penalised likelihood, slab by slab, resumable at every pass.

"pwls" minimises ½Σw(q − Ax)² + β·R(x), w the statistical weights of the integrals q (Sauer, Bouman 1993, IEEE Trans.
Signal Process. 41:534); "poisson" puts the likelihood of the counted quanta in the first place.
"""

import dataclasses
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import numpy as np

from lampyris.model import (
    CardFullError,
    Float32,
    Grid,
    GridRequest,
    InputError,
    Progress,
    Projections,
    RecipeError,
    Step,
    silent,
)
from lampyris.model.arrays import canonical_json, new_digest, update_digest
from lampyris.projector import Engine
from lampyris.recon.iterative.blocks import Up, as_it_is
from lampyris.recon.iterative.certainty import strength as strength_of
from lampyris.recon.iterative.domain import Analytic, Domain, Slab, prepare
from lampyris.recon.iterative.fidelity import Likelihood, ShiftedPoisson, expected_squares
from lampyris.recon.iterative.priors import Prior, prior
from lampyris.recon.iterative.solver import Checkpoint, Settings, State, ordered_subsets

METHODS = ("pwls", "poisson")
REFERENCE_PER_MM = 0.44
"""Where low contrast passes half at strength 1, as with the kernel "body"; at strength s it is s^(−1/3) times this."""
DEFAULTS = {"iterations": 18, "subsets": 16, "strength": 20.0, "prior": "hyperbola"}
"""Settings that are not the prior's own."""
EDGES = {"hyperbola": "delta_hu", "huber": "delta_hu", "half": "delta_hu", "tv": "delta_hu", "qggmrf": "c_hu"}
"""Priors that spare large differences, and the setting that says from where on."""
HALVINGS = 3
"""How often a slab for which the card is full is halved."""
BODY_SHARE, LOUD = 0.5, 75.0
"""The noise that counts is this percentile of it where the image is above this share of water."""
Noise: TypeAlias = Callable[[GridRequest, Grid], Float32]
"""A request and a grid → standard deviation, HU, of the analytic image of that request on that grid."""


@dataclass(frozen=True, slots=True)
class Choice:
    """What a method's settings ask for, checked."""

    likelihood: str
    settings: Settings
    prior: Step
    edge: float | None = None
    """Where the prior begins to spare differences, in units of the analytic image's noise; None: HU in `prior`."""

    @staticmethod
    def of(method: Step) -> "Choice":
        """Raises RecipeError for an unknown method or setting, or one out of range."""
        if method.name not in METHODS:
            raise RecipeError(f"iterative method {method.name!r} is unknown; known are {', '.join(METHODS)}")
        given = dict(method.settings)
        known = {name: given.pop(name, default) for name, default in DEFAULTS.items()}
        share = known["strength"]
        if isinstance(share, bool) or not isinstance(share, int | float) or not (math.isfinite(share) and share >= 0):
            raise RecipeError(f"{method.name} strength is {share!r}, expected a finite number ≥ 0")
        settings = Settings(share * strength_of(REFERENCE_PER_MM), known["subsets"], known["iterations"])
        edge = given.pop("edge", None)
        step = Step.of(known["prior"], **given)
        prior(step, spacing_mm=(1.0, 1.0, 1.0), water_per_mm=1.0)
        chosen = Choice(method.name, settings, step, edge)
        if edge is not None:
            chosen.at_noise(1.0)
        return chosen

    def at_noise(self, noise_hu: float) -> "Choice":
        """The same with the prior's edge in HU. Raises RecipeError where the prior has none, or has it in HU."""
        if self.edge is None:
            return self
        setting = EDGES.get(self.prior.name)
        if setting is None:
            raise RecipeError(f"prior {self.prior.name!r} has no edge; {', '.join(EDGES)} have")
        if setting in dict(self.prior.settings):
            raise RecipeError(f"the recipe gives both edge and {setting}: which of them?")
        share = self.edge
        if isinstance(share, bool) or not isinstance(share, int | float) or not (math.isfinite(share) and share > 0):
            raise RecipeError(f"edge is {share!r}, expected a number above 0, in units of the analytic image's noise")
        step = Step.of(self.prior.name, **{**dict(self.prior.settings), setting: share * noise_hu})
        return dataclasses.replace(self, prior=step, edge=None)

    def fidelity(self, projections: Projections, up: Up = as_it_is) -> Likelihood:
        """`up` takes views to where they are worked on.

        Raises InputError where the scan does not hold what the likelihood needs.
        """
        if self.likelihood == "pwls":
            return expected_squares(projections.integrals, projections.weights, up)
        if projections.quanta is None:
            raise InputError("method 'poisson' needs the counted quanta, and these projections hold none: take 'pwls'")
        whole = ShiftedPoisson(projections.quanta)
        return lambda views: ShiftedPoisson(whole.quanta.of_views(views), up)

    def prior_of(self, slab: Slab) -> Prior:
        return prior(
            self.prior, spacing_mm=slab.grid.spacing_mm, water_per_mm=slab.water_per_mm, certainty=slab.certainty
        )


@dataclass(frozen=True, slots=True)
class Keeper:
    """A checkpoint that belongs to one scan and one recipe, by `key`; `beside` are arrays that this stage saves too."""

    checkpoint: Checkpoint | None
    key: str
    beside: Mapping[str, np.ndarray] = field(default_factory=dict)

    def load(self) -> dict[str, np.ndarray] | None:
        """What this stage has saved, or None; raises InputError where it belongs to another scan or recipe."""
        kept = None if self.checkpoint is None else self.checkpoint.load()
        if kept is None or not set(self.beside) <= set(kept):
            return None
        found = bytes(np.asarray(kept.get("key", np.zeros(0, np.uint8)), np.uint8)).decode(errors="replace")
        if found != self.key:
            raise InputError(
                f"the checkpoint is of {found[:12] or 'nothing known'}, this scan and recipe are {self.key[:12]}:"
                " another scan's or recipe's; remove it to start anew"
            )
        if missing := {"lattice", "cuts", "slab"} - set(kept):
            raise InputError(f"the checkpoint lacks {', '.join(sorted(missing))}: written by another version?")
        return kept

    def save(self, lattice: Float32, domain: Domain, slab: int, state: State | None) -> None:
        """`lattice` so far, where it is cut, the number of the slab at work and its state (None: not begun)."""
        if self.checkpoint is None:
            return
        arrays = {} if state is None else {f"state/{name}": array for name, array in state.arrays().items()}
        key = np.frombuffer(self.key.encode(), np.uint8)
        told = {"key": key, "lattice": lattice, "cuts": np.array(domain.cuts), "slab": np.array(slab)}
        self.checkpoint.save(_Fetched({**told, **arrays, **self.beside}, domain.engine.memory.down))


class _Fetched(Mapping[str, np.ndarray]):
    """Arrays on the host, those of a card fetched when they are asked for."""

    def __init__(self, arrays: Mapping[str, Any], down: Callable[[Any], Any]) -> None:
        self._arrays, self._down = arrays, down

    def __getitem__(self, name: str) -> np.ndarray:
        array = self._arrays[name]
        return np.asarray(array if isinstance(array, np.ndarray) else self._down(array))

    def __iter__(self) -> Iterator[str]:
        return iter(self._arrays)

    def __len__(self) -> int:
        return len(self._arrays)


NOTHING_KEPT = Keeper(None, "")


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

    `method` "pwls" or "poisson"; settings: `iterations` passes over the data (18), `subsets` (16), `prior` and its own
    settings (hyperbola; see `priors.prior`), `strength` (20): 1 lets low contrast pass half at 0.44 /mm, the same at
    every dose and place, 20 at 0.16 /mm; edges above `delta_hu` stay, or above `edge` times what `noise` tells of the
    analytic image, so that one recipe does the same to every dose and size. `kernel` is the one of the analytic image,
    the start. `engine` does the work.
    Raises RecipeError, InputError, DivergenceError.
    """
    choice = Choice.of(method)
    keeper = Keeper(checkpoint, key_of(projections, method, kernel, request))
    likelihood = choice.fidelity(projections, engine.memory.up)
    domain = prepare(projections, likelihood, request, analytic, engine=engine)
    if choice.edge is not None:
        choice = choice.at_noise(loudness(domain, noise(domain.request, domain.lattice.image_grid)))
    values = solve(domain, choice.prior_of, domain.start, choice.settings, progress=progress, keeper=keeper)
    return domain.lattice.image(values), domain.lattice.image_grid


def loudness(domain: Domain, level_hu: Float32) -> float:
    """One number, HU, for a noise map on the image's grid: what three quarters of the body keep below.

    Raises RecipeError where the attenuation of water is not known, as HU then mean nothing.
    """
    water = domain.projections.water_per_mm
    if water is None:
        raise RecipeError("an edge in units of the noise needs HU, and the attenuation of water is not known here")
    body = domain.lattice.image(domain.start) > BODY_SHARE * water
    return float(np.percentile(level_hu[body] if body.any() else level_hu, LOUD))


def solve(
    domain: Domain,
    prior_of: Callable[[Slab], Prior],
    start: Float32,
    settings: Settings,
    *,
    progress: Progress = silent,
    keeper: Keeper = NOTHING_KEPT,
) -> Float32:
    """`start` (on `domain.lattice.grid`; left as it is) after `settings.passes` passes in every slab.

    `prior_of(slab)` gives the prior on `slab.grid`; `slab.window(volume)` cuts a volume on the lattice to it. Slabs
    begin where those below have ended. Saved to `keeper` after every pass, and gone on with from there. A slab for
    which the card is full is begun anew in halves, as are those that follow.

    Raises CardFullError where eighths of a slab do not fit either.
    """
    kept = keeper.load()
    values = np.array(start if kept is None else kept["lattice"])
    number, state = (0, None) if kept is None else (int(kept["slab"]), _state(kept, domain.engine.memory.up))
    domain = domain if kept is None else domain.cut(kept["cuts"].tolist())
    work, halvings = _Work(domain, prior_of, settings, progress, keeper), 0
    while number < len(domain.spans):
        try:
            with domain.engine.memory.refused(f"slab {number + 1} of {len(domain.spans)}"):
                work.slab(number, state, values)
        except CardFullError:
            if halvings == HALVINGS:
                raise
            halvings += 1
        else:
            number, halvings = number + 1, 0
            keeper.save(values, domain, number, None)
        state = None
        if halvings:  # no traceback holds the slab's arrays any more
            domain.engine.memory.release()
            domain = domain.halved(number)
            work = dataclasses.replace(work, domain=domain)
    return values


@dataclass(frozen=True, slots=True, eq=False)
class _Work:
    """What is the same for every slab."""

    domain: Domain
    prior_of: Callable[[Slab], Prior]
    settings: Settings
    progress: Progress
    keeper: Keeper

    def slab(self, number: int, state: State | None, values: Float32) -> None:
        """Bring one slab to its end, from `state` on, and put what it keeps into `values`; nothing of it before."""
        slab, memory, settings = self.domain.slab(number), self.domain.engine.memory, self.settings
        begun = memory.up(np.ascontiguousarray(slab.window(values))) if state is None else state
        for now in ordered_subsets(slab.projector, slab.fidelity, self.prior_of(slab), begun, settings=settings):
            self.progress((number + min(1.0, now.iteration / settings.passes)) / len(self.domain.spans))
            if now.iteration >= settings.passes:
                values[slab.span.keep] = memory.down(now.image[slab.kept, ...])
                return
            self.keeper.save(values, self.domain, number, now)


def key_of(projections: Projections, method: Step, kernel: str, request: GridRequest) -> str:
    """What a checkpoint must agree with: the scan, the recipe and the image asked for."""
    digest = new_digest()
    asked = [
        projections.scan_id,
        method.as_dict(),
        kernel,
        dataclasses.asdict(request),
        list(projections.geometry.shape),
    ]
    digest.update(canonical_json(asked).encode())
    few = slice(0, None, max(1, projections.geometry.views // 16))
    for name in ("integrals", "weights"):
        update_digest(digest, name, getattr(projections, name)[few])
    return str(digest.hexdigest())


def _state(kept: Mapping[str, np.ndarray], up: Up) -> State | None:
    arrays = {name.removeprefix("state/"): np.array(array) for name, array in kept.items() if name.startswith("state/")}
    volumes = {name: up(array) if array.ndim == 3 else array for name, array in arrays.items()}
    return State.from_arrays(volumes) if arrays else None
