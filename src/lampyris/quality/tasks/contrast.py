"""Volumes of several seeds and a rod → transfer function of their mean at the rod's contrast, f50 with its interval."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from scipy import stats

from lampyris.model import Figure, Float32, InputError, Volume
from lampyris.quality.regions import Cylinder
from lampyris.quality.resolution import NEEDED_CNR, Transfer, ttf


@dataclass(frozen=True, slots=True, eq=False)
class ContrastTransfer:
    """The transfer function of the seeds' mean image; `f50_per_mm` with its interval over seeds (None below three)."""

    transfer: Transfer
    f50_per_mm: float
    interval: tuple[float, float] | None
    seeds: int
    confidence: float

    def figure(self, name: str) -> Figure:
        """`f50_per_mm` with the transfer function's settings, contrast and interval."""
        settings = dict(self.transfer.settings) | {
            "confidence": self.confidence,
            "contrast": round(self.transfer.contrast, 3),
            "interval": None if self.interval is None else list(self.interval),
        }
        return Figure(name, self.f50_per_mm, "1/mm", settings=tuple(sorted(settings.items())))


def mean_volume(volumes: Sequence[Volume]) -> Volume:
    """The mean of volumes of one grid, unit and frame; `valid` where all are. Raises InputError when they differ."""
    if not volumes:
        raise InputError("no volume to average")
    first = volumes[0]
    total = np.zeros(first.grid.shape, np.float64)
    valid = None
    for index, each in enumerate(volumes):
        same = (
            each.grid.shape == first.grid.shape
            and np.allclose(each.grid.spacing_mm, first.grid.spacing_mm, rtol=1e-6)
            and np.allclose(each.grid.first_voxel_mm, first.grid.first_voxel_mm, atol=1e-4)
            and np.allclose(each.grid.axes, first.grid.axes, atol=1e-6)
        )
        if not same or (each.quantity, each.frame) != (first.quantity, first.frame):
            raise InputError(f"volume {index} is on another grid, in another unit or frame than the first")
        total += each.values
        if each.valid is not None:
            valid = each.valid if valid is None else valid & each.valid
    mean: Float32 = (total / len(volumes)).astype(np.float32)
    return replace(first, values=mean, valid=valid)


def contrast_transfer(
    volumes: Sequence[Volume],
    rod: Cylinder,
    *,
    margin_mm: float | None = None,
    needed_cnr: float = NEEDED_CNR,
    confidence: float = 0.95,
) -> ContrastTransfer:
    """Task transfer function at a rod's contrast and the images' own dose, from the mean over seeds (AAPM TG-233).

    A non-linear method has one transfer for every contrast and dose: images are made at the dose asked about, each
    with its noise, and averaged *afterwards*, so that a rod of 300 HU at a tenth of the dose reaches the CNR that an
    edge needs. The interval is the jackknife over seeds with Student's t (Tukey 1958).

    Raises InputError as `resolution.ttf`.
    """
    found = ttf(mean_volume(volumes), rod, margin_mm=margin_mm, needed_cnr=needed_cnr)
    f50, n = found.frequency_at(0.5), len(volumes)
    interval = None
    if n >= 3:
        # The smaller means have √(n/(n−1)) times the noise; that alone must not refuse what n seeds were enough for.
        least = needed_cnr * np.sqrt((n - 2) / n)
        means = (mean_volume([*volumes[:k], *volumes[k + 1 :]]) for k in range(n))
        left_out = np.array([
            ttf(each, rod, margin_mm=margin_mm, needed_cnr=least).frequency_at(0.5) for each in means
        ])  # fmt: skip
        error = np.sqrt((n - 1) / n * ((left_out - left_out.mean()) ** 2).sum())
        reach = float(stats.t.ppf(0.5 + confidence / 2, n - 1) * error)
        interval = (f50 - reach, f50 + reach)
    settings = tuple(sorted((*found.settings, ("seeds", n))))
    return ContrastTransfer(replace(found, settings=settings), f50, interval, n, confidence)
