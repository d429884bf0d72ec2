"""Work folder, seed and bodies → files pair-BBBB-I.npz in it; image I of body B depends on the seed and B alone."""

import sys
import time
from pathlib import Path

import numpy as np

from train import scans, sources


def make(work: Path, data: Path, *, seed: int, first: int, bodies: int, stride: int = 1) -> None:
    """Scan bodies first, first + stride, … that are not there yet; several processes may share a folder."""
    anatomy = sources.load(data, work)
    for index in range(first, first + bodies * stride, stride):
        paths = [work / f"pair-{index:04d}-{image}.npz" for image in range(scans.IMAGES)]
        if paths[-1].exists():
            continue
        began = time.perf_counter()
        for path, made in zip(paths, scans.pairs(np.random.default_rng([seed, index]), anatomy), strict=True):
            half_made = work / f"making-{path.stem}.npz"
            made.save(half_made)
            half_made.rename(path)
            told = ", ".join(f"{name} {value:.3g}" if isinstance(value, float) else f"{value}"
                             for name, value in made.facts.items())  # fmt: skip
            level = float(np.median(made.level))
            sys.stdout.write(f"{path.name}: {time.perf_counter() - began:.1f} s, {level:.1f} HU, {told}\n")
            sys.stdout.flush()
