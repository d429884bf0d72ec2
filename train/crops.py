"""Files of pairs → batches of random crops: image (n, 3, …), its target, the true and the told noise level.

Every crop comes twice, with the two noises a·cos θ + b·sin θ and b·cos θ − a·sin θ of a random angle: as correlated as
the two that were simulated, uncorrelated with each other, and new each time.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from lampyris.model import Float32, InputError

SCALE = (0.15, 1.15)
"""Range of the factor on noise and level, even in its logarithm."""
LEVEL_ERROR = 0.08
"""Standard deviation of the logarithm of told over true level: a measured level is not exact."""
EMPTY = 0.3
"""Crops with a smaller share of body than this are drawn again, once."""


@dataclass(frozen=True, slots=True, eq=False)
class Batch:
    """Tensors in HU: `image` (2n, 3, size, size), the others (2n, 1, …); crop i and i + n differ in noise alone."""

    image: Tensor
    clean: Tensor
    level: Tensor
    told: Tensor


@dataclass(frozen=True, slots=True, eq=False)
class Pairs:
    """All pairs in memory, half precision as they were stored."""

    clean: tuple[np.ndarray, ...]
    noise: tuple[np.ndarray, ...]
    level: tuple[np.ndarray, ...]

    @staticmethod
    def load(paths: list[Path]) -> "Pairs":
        """Raises InputError where there are none."""
        if not paths:
            raise InputError("no pair-*.npz there: make pairs first")
        loaded = []
        for path in paths:
            with np.load(path) as stored:
                loaded.append((stored["clean"], stored["noise"], stored["level"]))
        clean, noise, level = zip(*loaded, strict=True)
        return Pairs(clean, noise, level)

    def batch(self, rng: np.random.Generator, crops: int, size: int) -> Batch:
        """`crops` random crops of size² pixels, each with two noises."""
        drawn = [self._crop(rng, size) for _ in range(crops)]
        first, second, clean, level, told = (torch.from_numpy(np.stack(each)) for each in zip(*drawn, strict=True))
        return Batch(torch.cat([first, second]), clean.repeat(2, 1, 1, 1), level.repeat(2, 1, 1, 1),
                     told.repeat(2, 1, 1, 1))  # fmt: skip

    def _crop(self, rng: np.random.Generator, size: int) -> tuple[Float32, Float32, Float32, Float32, Float32]:
        which, slices, window = self._place(rng, size)
        if (self.clean[which][slices[1]][window] > 50).mean() < EMPTY:
            which, slices, window = self._place(rng, size)
        scale = np.float32(np.exp(rng.uniform(*np.log(SCALE))))
        clean = self.clean[which][slices][(slice(None), *window)].astype(np.float32)
        noise = scale * self.noise[which][:, slices][(slice(None), slice(None), *window)].astype(np.float32)
        level = scale * self.level[which][slices[1:2]][(slice(None), *window)].astype(np.float32)
        turn, flip = int(rng.integers(4)), bool(rng.integers(2))
        clean, noise, level = (_turned(each, turn, flip) for each in (clean, noise, level))
        angle = rng.uniform(0, 2 * np.pi)
        c, s = np.float32(np.cos(angle)), np.float32(np.sin(angle))
        told = level * np.float32(np.exp(LEVEL_ERROR * rng.standard_normal()))
        return clean + c * noise[0] + s * noise[1], clean + c * noise[1] - s * noise[0], clean[1:2], level, told

    def _place(self, rng: np.random.Generator, size: int) -> tuple[int, list[int], tuple[slice, slice]]:
        which = int(rng.integers(len(self.clean)))
        slices, rows, columns = self.clean[which].shape
        middle = int(rng.integers(slices))
        row, column = int(rng.integers(rows - size + 1)), int(rng.integers(columns - size + 1))
        beside = [max(middle - 1, 0), middle, min(middle + 1, slices - 1)]
        return which, beside, (slice(row, row + size), slice(column, column + size))


def _turned(array: Float32, turn: int, flip: bool) -> Float32:
    array = np.rot90(array, turn, axes=(-2, -1))
    return np.ascontiguousarray(array[..., ::-1] if flip else array)
