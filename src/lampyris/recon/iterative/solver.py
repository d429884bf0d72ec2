"""Projector, fidelity, prior and a start image → ever better images: relaxed ordered subsets with momentum.

Minimises Φ(x) = fidelity(A x) + strength·prior(x) over x ≥ 0 with non-uniform separable quadratic surrogates (Kim et
al. 2013, IEEE TMI 32:1965) and Nesterov's momentum over ordered subsets (Kim, Ramani, Fessler 2015, IEEE TMI 34:167,
table I). Ordered subsets circle around the minimum instead of reaching it, momentum the more: steps are therefore
relaxed as 1/(1 + passes/2) once the coarse work is done, which ends in the minimum (Ahn, Fessler 2003, IEEE TMI
22:613). Momentum is dropped where it points uphill (O'Donoghue, Candès 2015, §3.2).
"""

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from types import EllipsisType
from typing import Any, Protocol, TypeAlias

import numpy as np
from array_api_compat import array_namespace

from lampyris.model import DivergenceError, InputError, RecipeError
from lampyris.recon.iterative.blocks import at_a_time
from lampyris.recon.iterative.fidelity import Fidelity
from lampyris.recon.iterative.priors import Prior

BLOCK_VOXELS = 1 << 18
"""Voxels updated at a time by a processor, so that temporaries stay in its cache."""
PATIENCE = 4
"""Passes in a row with rising cost and growing steps before a run counts as diverging."""
UNRELAXED = 0.3
"""Share of a run's passes that take full steps."""
AIR_SHARE = 0.2
"""How far air is expected to move, relative to the body: the u of the non-uniform surrogate."""
RISE = 1.002
"""A cost that rises by less is rounding, or subsets that see it differently."""
RUNAWAY = 30.0
"""A cost so many times that of the start needs no patience."""


Part: TypeAlias = tuple[slice, EllipsisType]


class Operator(Protocol):
    """What the solver asks of a projector (`projector.Projector` has it)."""

    def forward(self, image: Any, /) -> Any: ...
    def adjoint(self, projections: Any, /) -> Any: ...
    def subset(self, views: slice, /) -> "Operator": ...


class Checkpoint(Protocol):
    """Where a long run leaves its state. `save` may be called after every pass and may decline to write.

    `save` must copy or write the arrays before it returns: they go on changing. Those of a run on a card come down from
    it when they are asked for, and not where `save` declines.
    """

    def load(self) -> dict[str, np.ndarray] | None: ...
    def save(self, arrays: Mapping[str, np.ndarray], /) -> None: ...


@dataclass(frozen=True, slots=True)
class Settings:
    """`strength` of the prior; `subsets` of views; `passes` over the data, of which 3 in 10 are not yet relaxed.

    `prior_per_pass` is how often the prior's gradient is evaluated in a pass (None: for every subset); between, the
    last one is used. Where the prior outweighs the data, momentum on a stale gradient diverges.
    `least` is the lowest value allowed, 1/mm; −inf makes the problem of a quadratic prior a linear one.
    """

    strength: float = 1.0
    subsets: int = 16
    passes: int = 18
    prior_per_pass: int | None = None
    least: float = 0.0

    def __post_init__(self) -> None:
        if not (math.isfinite(self.strength) and self.strength >= 0):
            raise RecipeError(f"strength of the prior is {self.strength}, expected a finite number ≥ 0")
        for name in ("subsets", "passes", "prior_per_pass"):
            count = getattr(self, name)
            if name == "prior_per_pass" and count is None:
                continue
            if isinstance(count, bool) or not isinstance(count, int) or count < 1:
                raise RecipeError(f"{name} is {count!r}, expected a whole number ≥ 1")

    def relaxation(self, passes: float) -> float:
        """Share of the full step after so many passes over the data; 1 for ever with one subset, which needs none."""
        if self.subsets == 1:
            return 1.0
        return 1 / (1 + max(0.0, passes - UNRELAXED * self.passes) / 2)


@dataclass(frozen=True, slots=True, eq=False)
class State:
    """Where a run stands after a pass over the data.

    `image` (slices, rows, columns) 1/mm and `extrapolated`, the point the next step is taken from, are working arrays:
    they change when the next state is drawn. `data_curvature` is the diagonal of the fidelity's majoriser. `passes`
    counts forward + adjoint pairs spent, set-up included; `update_rms` (1/mm) is the way the image went in this pass:
    the sum of its steps' root mean squares. `costs` holds Φ before every pass (as its subsets saw it), `steps` the
    `update_rms` of every pass; `backed_off` how many times the subsets were halved because the cost rose.
    """

    image: Any
    extrapolated: Any
    data_curvature: Any
    iteration: int = 0
    passes: float = 0.0
    momentum: float = 1.0
    backed_off: int = 0
    costs: tuple[float, ...] = ()
    steps: tuple[float, ...] = ()

    @property
    def update_rms(self) -> float:
        return self.steps[-1] if self.steps else math.inf

    @property
    def cost(self) -> float:
        return self.costs[-1] if self.costs else math.inf

    def arrays(self) -> dict[str, Any]:
        """Everything a resumed run needs for bit-identical results; no copies."""
        figures = [self.iteration, self.passes, self.momentum, self.backed_off]
        return {
            "image": self.image,
            "extrapolated": self.extrapolated,
            "data_curvature": self.data_curvature,
            "figures": np.array(figures, np.float64),
            "costs": np.array(self.costs, np.float64),
            "steps": np.array(self.steps, np.float64),
        }

    @staticmethod
    def from_arrays(arrays: Mapping[str, Any]) -> "State":
        """The state that `arrays` came from; raises InputError for missing entries or volumes of different shapes."""
        volumes = ("image", "extrapolated", "data_curvature")
        if missing := {*volumes, "figures", "costs", "steps"} - set(arrays):
            raise InputError(f"the checkpoint lacks {', '.join(sorted(missing))}: written by another version?")
        shapes = {name: tuple(arrays[name].shape) for name in volumes}
        if len(set(shapes.values())) > 1 or tuple(arrays["figures"].shape) != (4,):
            raise InputError(f"the checkpoint's volumes have shapes {shapes}: damaged, or put together by hand?")
        iteration, passes, momentum, backed_off = (float(each) for each in arrays["figures"])
        costs, steps = (tuple(float(each) for each in arrays[name]) for name in ("costs", "steps"))
        image, extrapolated, curvature = (arrays[name] for name in volumes)
        return State(image, extrapolated, curvature, int(iteration), passes, momentum, int(backed_off), costs, steps)


def ordered_subsets(
    projector: Operator, fidelity: Fidelity, prior: Prior, start: Any, *, settings: Settings
) -> Iterator[State]:
    """States without end, one after every pass over the data, from a start image or from a `State` to go on with.

    Raises InputError for a start with NaN or of another shape, DivergenceError when the image stops being finite or
    cost and steps grow from pass to pass; its message tells their course.

    >>> class Half:  # A = ½, on an image of one voxel and one ray
    ...     def forward(self, image): return image / 2
    ...     def adjoint(self, projections): return projections / 2
    ...     def subset(self, views): return self
    >>> class Seven:  # ½(q − 7)²
    ...     shape = (1, 1, 1)
    ...     def misfit(self, projected, views): return float(((projected - 7) ** 2).sum() / 2)
    ...     def slope(self, projected, views): return projected - 7
    ...     def curvature(self, views): return np.ones((1, 1, 1), np.float32)
    >>> class Nothing:
    ...     def value(self, image): return 0.0
    ...     def gradient(self, image): return 0 * image
    ...     def curvature(self, image): return 0 * image
    >>> run = ordered_subsets(Half(), Seven(), Nothing(), np.ones((1, 1, 1), np.float32), settings=Settings())
    >>> float(next(run).image[0, 0, 0])
    14.0
    """
    sets = _Subsets(projector, fidelity, min(settings.subsets, fidelity.shape[0]))
    state = start if isinstance(start, State) else _begin(sets, start, settings.least)
    while True:
        wanted = min(max(1, settings.subsets >> state.backed_off), fidelity.shape[0])
        if sets.number != wanted:
            sets = _Subsets(projector, fidelity, wanted)
        state = _judged(_pass(sets, prior, state, settings), sets.number)
        yield state


class _Subsets:
    """Views in `number` interleaved subsets, visited so that neighbours in time are far apart in angle."""

    def __init__(self, projector: Operator, fidelity: Fidelity, number: int) -> None:
        views = fidelity.shape[0]
        self.fidelity = fidelity
        self.number = number
        self.views = [slice(m, views, self.number) for m in spread_order(self.number)]
        self.shares = [len(range(*each.indices(views))) / views for each in self.views]
        self.projectors = [projector if self.number == 1 else projector.subset(each) for each in self.views]

    def gradient(self, m: int, image: Any) -> tuple[Any, float]:
        """The fidelity's gradient and misfit as the m-th subset sees them, the gradient not yet scaled up."""
        projected = self.projectors[m].forward(image)
        misfit = self.fidelity.misfit(projected, self.views[m])
        slope = self.fidelity.slope(projected, self.views[m])
        return self.projectors[m].adjoint(slope), misfit

    def majoriser(self, image: Any) -> Any:
        """Aᵀ(c · A image), subset by subset, so that projections of all views are never held at once."""
        total = None
        for projector, views in zip(self.projectors, self.views, strict=True):
            projected = projector.forward(image)
            curvature = self.fidelity.curvature(views)
            if tuple(projected.shape) != tuple(curvature.shape):
                raise InputError(
                    f"the projector makes {tuple(projected.shape)} projections, measured were {tuple(curvature.shape)}:"
                    " another scan's?"
                )
            projected *= curvature
            part = projector.adjoint(projected)
            total = part if total is None else total + part
        return total


def spread_order(number: int) -> list[int]:
    """0 … number − 1, each as far as can be from those just before it: multiples of the golden section's step.

    >>> spread_order(8)
    [0, 5, 2, 7, 4, 1, 6, 3]
    """
    step = round(number * (math.sqrt(5) - 1) / 2)
    step = next((s for d in range(number) for s in (step + d, step - d) if s > 0 and math.gcd(s, number) == 1), 1)
    return [m * step % number for m in range(number)]


def _begin(sets: _Subsets, start: Any, least: float) -> State:
    """The first state: a copy of the start, and the fidelity's diagonal majoriser Aᵀ(c · A u)/u."""
    xp = array_namespace(start)
    if not bool(xp.all(xp.isfinite(start))):
        bad = int(xp.sum(xp.astype(~xp.isfinite(start), xp.int64)))
        raise InputError(f"the start image holds {bad} NaN or infinite of {math.prod(start.shape)} voxels")
    image = xp.asarray(start, copy=True)
    _each_block(image, lambda part: _put(image, part, xp.maximum(image[part], least)))
    reach = _reach(image)
    curvature = sets.majoriser(reach)
    curvature /= reach
    return State(image, xp.asarray(image, copy=True), curvature, passes=1.0)


def _reach(image: Any) -> Any:
    """u: how far each voxel is expected to move, 1 in the body and `AIR_SHARE` in air, from the start image."""
    xp = array_namespace(image)
    total, squares = float(xp.sum(image)), float(xp.sum(image * image))
    if total <= 0:
        return xp.ones_like(image)
    reach = image * (2 * total / squares)  # the attenuation-weighted mean is the body's
    return xp.minimum(xp.maximum(reach, AIR_SHARE), 1.0)


def _pass(sets: _Subsets, prior: Prior, state: State, settings: Settings) -> State:
    """One step for every subset. The image and the extrapolated point are changed in place."""
    x, y, t = state.image, state.extrapolated, state.momentum
    step = _steps(state.data_curvature, prior.curvature(x), settings.strength)
    cost = settings.strength * prior.value(y)
    every = max(1, math.ceil(sets.number / (settings.prior_per_pass or sets.number)))
    way, uphill, pull = 0.0, 0.0, None
    for m in range(sets.number):
        if m % every == 0:
            pull = prior.gradient(y)
        slope, misfit = sets.gradient(m, y)
        t, before = (1 + math.sqrt(1 + 4 * t * t)) / 2, t
        stride = settings.relaxation(state.iteration + m / sets.number)
        gradient = _Gradient(slope, 1 / sets.shares[m], pull, settings.strength)
        moved, against = _move((x, y), (step, stride), gradient, (before - 1) / t, settings.least)
        cost, way, uphill = cost + misfit, way + moved, uphill + against
        if not math.isfinite(moved):
            break
    if uphill > 0:
        t = 1.0
        _each_block(y, lambda part: _put(y, part, x[part]))
    return replace(
        state, iteration=state.iteration + 1, passes=state.passes + 1, momentum=t,
        costs=(*state.costs, cost), steps=(*state.steps, way),
    )  # fmt: skip


def _steps(data: Any, prior: Any, strength: float) -> Any:
    """1/(data + strength·prior) per voxel, 0 where neither ray nor prior reaches: such a voxel stays as it is."""
    xp = array_namespace(data)
    step = xp.empty_like(data)

    def block(part: Part) -> None:
        total = data[part] + strength * prior[part]
        seen = total > 0
        step[part] = xp.where(seen, 1 / xp.where(seen, total, xp.ones_like(total)), xp.zeros_like(total))

    _each_block(data, block)
    return step


@dataclass(frozen=True, slots=True, eq=False)
class _Gradient:
    """slope·scale + pull·strength, summed where it is used."""

    slope: Any
    scale: float
    pull: Any
    strength: float

    def block(self, part: Part) -> Any:
        total = self.slope[part] * self.scale
        total += self.pull[part] * self.strength
        return total


def _move(
    points: tuple[Any, Any], step: tuple[Any, float], gradient: _Gradient, beta: float, least: float
) -> tuple[float, float]:
    """x ← max(y − step·gradient, least), y ← x + beta·(x − x before); gives the RMS of x's step and gradientᵀstep."""
    x, y = points
    xp = array_namespace(x)
    squares = against = 0.0

    def block(part: Part) -> None:
        nonlocal squares, against
        slope = gradient.block(part)
        new = step[0][part] * slope
        new *= -step[1]
        new += y[part]
        new = xp.maximum(new, least)
        change = new - x[part]
        squares += float(xp.sum(change * change))
        against += float(xp.sum(change * slope))
        x[part] = new
        change *= beta
        y[part] = new + change

    _each_block(x, block)
    return math.sqrt(squares / math.prod(x.shape)), against


def _judged(state: State, subsets: int) -> State:
    """The state, with fewer subsets from now on if the cost rose twice running; or the end of a diverging run."""
    costs, steps = state.costs, state.steps
    if not (math.isfinite(costs[-1]) and math.isfinite(steps[-1])):
        raise DivergenceError(f"the image is no longer finite: {_story(state)}")
    growing = [b > RISE * a > 0 and d > c for a, b, c, d in zip(costs, costs[1:], steps, steps[1:], strict=False)]
    if costs[-1] > RUNAWAY * abs(costs[0]) > 0 or (len(growing) >= PATIENCE and all(growing[-PATIENCE:])):
        raise DivergenceError(f"cost and steps grow instead of falling: {_story(state)}")
    rose = len(costs) > 2 and costs[-1] > RISE * costs[-2] > RISE**2 * costs[-3] > 0
    if rose and subsets > 1:
        return replace(state, momentum=1.0, backed_off=state.backed_off + 1)
    return state


def _story(state: State) -> str:
    """Costs and steps of the first and the last passes."""
    told = sorted({0, *range(max(0, len(state.costs) - PATIENCE - 1), len(state.costs))})
    course = ", ".join(f"pass {p + 1}: cost {state.costs[p]:.4g}, step {state.steps[p]:.3g}/mm" for p in told)
    return f"{course}; weights or strength out of range, a gradient that is not the cost's, or too many subsets?"


def _each_block(image: Any, work: Callable[[Part], None]) -> None:
    """Call `work` with an index of every few slices, `BLOCK_VOXELS` in all, one after the other."""
    slices = image.shape[0]
    each = max(1, at_a_time(image, BLOCK_VOXELS) // max(1, math.prod(image.shape[1:])))
    for first in range(0, slices, each):
        work((slice(first, min(first + each, slices)), ...))


def _put(image: Any, part: Part, values: Any) -> None:
    image[part] = values
