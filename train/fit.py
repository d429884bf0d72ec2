"""Folder of pairs and a budget → checkpoint with the trained weights, resumable at any step.

Loss, with e = (output − clean)/level for the two noises of a crop:  ⟨e²⟩ + BIAS·⟨e₁·e₂⟩ + Σ_k MEANS_k·⟨ē₁·ē₂⟩_k,
ē_k the mean of e over k × k pixels. As the two noises are independent, ⟨e₁·e₂⟩ is the square of the error that is left
after averaging over noise, estimated without bias: what the network would do to the anatomy itself. Weighing it higher
than the variance gives up some smoothness for resolution and true means. Crops of a step depend on seed and step alone,
so that a run that was broken off and resumed ends with the very weights of one that was not.
"""

import math
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from train.crops import Batch, Pairs
from train.network import WIDTHS, Firefly

BIAS = 8.0
MEANS = {8: 4.0, 16: 16.0, 32: 64.0}
AVERAGE = 0.999
"""Share of the running mean of the weights that a step keeps; the mean is what is exported."""
CHECKED_EVERY = 20
"""Every so many bodies one is kept from training, to watch."""


@dataclass(frozen=True, slots=True)
class Budget:
    """`steps` sets the cosine schedule; `minutes` of wall clock, if given, shorten it. Sizes of a batch."""

    steps: int
    minutes: float | None = None
    crops: int = 8
    size: int = 128
    rate: float = 1.5e-3
    warm_up: int = 100
    keep_every_s: float = 120.0
    tell_every: int = 100
    widths: tuple[int, int, int] = WIDTHS

    def spent(self, step: int, seconds: float) -> float:
        share = step / self.steps
        return share if self.minutes is None else max(share, seconds / 60 / self.minutes)


@dataclass(slots=True)
class Run:
    """Everything that a checkpoint holds."""

    network: Firefly
    mean: Firefly
    optimiser: torch.optim.Optimizer
    step: int = 0
    seconds: float = 0.0
    pairs: int = 0
    curve: list[tuple[int, float, float, float]] = field(default_factory=list)

    @staticmethod
    def fresh(seed: int, budget: Budget, device: str) -> "Run":
        torch.manual_seed(seed)
        network, mean = (Firefly(budget.widths).to(device, memory_format=torch.channels_last) for _ in range(2))
        mean.load_state_dict(network.state_dict())
        return Run(network, mean, torch.optim.AdamW(network.parameters(), lr=budget.rate, weight_decay=1e-4))

    def save(self, path: Path) -> None:
        state = {name: getattr(self, name).state_dict() for name in ("network", "mean", "optimiser")}
        state |= {name: getattr(self, name) for name in ("step", "seconds", "pairs", "curve")}
        half_made = path.with_suffix(".part")
        torch.save(state, half_made)
        half_made.replace(path)

    def load(self, path: Path) -> None:
        state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
        for name in ("network", "mean", "optimiser"):
            getattr(self, name).load_state_dict(state[name])
        for name in ("step", "seconds", "pairs", "curve"):
            setattr(self, name, state[name])


def fit(work: Path, checkpoint: Path, budget: Budget, *, seed: int, until: int | None = None) -> Run:
    """Train on `work`/pair-*.npz from `checkpoint`, if it is there, to the end of the budget (or to step `until`)."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    run = Run.fresh(seed, budget, device)
    if checkpoint.is_file():
        run.load(checkpoint)
    learned, watched = (Pairs.load(paths) for paths in split(sorted(work.glob("pair-*.npz"))))
    run.pairs = len(learned.clean)
    began, kept = time.monotonic() - run.seconds, time.monotonic()
    seen: list[float] = []
    while budget.spent(run.step, run.seconds) < 1 and run.step != until:
        batch = learned.batch(np.random.default_rng([seed, run.step]), budget.crops, budget.size)
        seen.append(_step(run, batch, budget, device))
        run.step += 1
        run.seconds = time.monotonic() - began
        if run.step % budget.tell_every == 0:
            error, bias = watch(run.mean, watched, budget, device)
            run.curve.append((run.step, float(np.mean(seen)), error, bias))
            sys.stdout.write(
                f"{run.step} {run.seconds:.0f} s: loss {np.mean(seen):.4f}, watched {error:.4f} {bias:.4f}\n"
            )
            sys.stdout.flush()
            seen = []
        if time.monotonic() - kept > budget.keep_every_s:
            run.save(checkpoint)
            kept = time.monotonic()
    run.save(checkpoint)
    return run


def split(paths: list[Path]) -> tuple[list[Path], list[Path]]:
    """Pairs to learn from and pairs to watch, by body; the first body is watched, and learned from if it is alone."""
    watched = [path for path in paths if int(path.stem.split("-")[1]) % CHECKED_EVERY == 0]
    return [path for path in paths if path not in watched] or watched, watched or paths[:1]


def losses(output: Tensor, batch: Batch) -> tuple[Tensor, Tensor, Tensor]:
    """Mean squared error, mean squared error after averaging over noise, and the weighted one of local means."""
    error = (output - batch.clean) / batch.level
    first, second = error.chunk(2)
    means = torch.zeros((), device=error.device)
    for pixels, weight in MEANS.items():
        one, other = (functional.avg_pool2d(each, pixels) for each in (first, second))
        means = means + weight * (one * other).mean()
    return (error**2).mean(), (first * second).mean(), means


@torch.no_grad()
def watch(network: Firefly, pairs: Pairs, budget: Budget, device: str) -> tuple[float, float]:
    """Squared error and squared bias, in squares of the noise level, on crops that are always the same."""
    network.eval()
    batch = _moved(pairs.batch(np.random.default_rng(0), 2 * budget.crops, budget.size), device)
    squared, bias, _ = losses(network(batch.image, batch.told), batch)
    return float(squared), float(bias)


def _step(run: Run, batch: Batch, budget: Budget, device: str) -> float:
    spent = budget.spent(run.step, run.seconds)
    cosine = (1 + math.cos(math.pi * spent)) / 2
    rate = budget.rate * min(1.0, (run.step + 1) / budget.warm_up) * (0.01 + 0.99 * cosine)
    for group in run.optimiser.param_groups:
        group["lr"] = rate
    batch = _moved(batch, device)
    run.network.train()
    squared, bias, means = losses(run.network(batch.image, batch.told), batch)
    loss = squared + BIAS * bias + means
    run.optimiser.zero_grad()
    loss.backward()  # type: ignore[no-untyped-call]
    torch.nn.utils.clip_grad_norm_(run.network.parameters(), 1.0)
    run.optimiser.step()
    keep = min(AVERAGE, (1 + run.step) / (10 + run.step))
    with torch.no_grad():
        for mean, one in zip(run.mean.parameters(), run.network.parameters(), strict=True):
            mean.lerp_(one, 1 - keep)
    return float(squared.detach())


def _moved(batch: Batch, device: str) -> Batch:
    return Batch(*(getattr(batch, name).to(device) for name in ("image", "clean", "level", "told")))
