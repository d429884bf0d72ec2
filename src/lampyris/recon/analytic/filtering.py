"""Projections and a kernel → filtered projections (1/mm): FFT convolution with the apodised ramp, zero padded, float32.

The ramp is sampled in space and then transformed, which keeps its value at frequency 0 right and water free of an
offset (Kak and Slaney 1988, eq. 3.61); in a fan of equal angles it is multiplied by (γ/sin γ)² (ibid., eq. 3.129).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numba as nb
import numpy as np
from array_api_compat import array_namespace, is_numpy_namespace
from scipy import fft

from lampyris.model import Float32, Float64
from lampyris.recon.kernels import Kernel

CHUNK_BYTES = 3 * 2**20
"""Padded rows transformed at once: they and their spectrum stay in the second-level cache."""


@dataclass(frozen=True, slots=True, eq=False)
class RampFilter:
    """The filter for rows of `columns` samples: `length` of the FFT and its real multipliers (length//2 + 1,) 1/mm."""

    columns: int
    length: int
    multipliers: Float32


def ramp_filter(columns: int, sampling_mm: float, kernel: Kernel, *, fan_step_rad: float | None = None) -> RampFilter:
    """The apodised ramp for samples `sampling_mm` apart at the isocentre.

    h(0) = 1/4Δ², h(n odd) = −1/(πnΔ)², 0 for even n; the sum over samples carries the factor Δ. `fan_step_rad`, the
    angle between columns, makes it the filter of an equiangular fan.
    """
    length = _length(columns)
    lag = np.arange(length)
    lag = np.minimum(lag, length - lag).astype(np.float64)
    odd = lag % 2 == 1
    ramp = np.zeros(length)
    ramp[0] = 0.25
    if fan_step_rad is None:
        ramp[odd] = -1 / (np.pi * lag[odd]) ** 2
    else:
        reach = np.minimum(lag[odd], columns)  # lags beyond the detector are never used; sin must not return to 0
        ramp[odd] = -((fan_step_rad / (np.pi * np.sin(reach * fan_step_rad))) ** 2)
    frequency = np.arange(length // 2 + 1) / (length * sampling_mm)
    multipliers = fft.rfft(ramp).real * kernel.response(frequency, sampling_mm) / sampling_mm
    return RampFilter(columns, length, multipliers.astype(np.float32))


def chunk_views(columns: int, rows: int) -> int:
    """Views that are transformed at once: what starts at a multiple of these is filtered alike, bit for bit."""
    return max(1, CHUNK_BYTES // (4 * _length(columns) * rows))


def filter_rows(
    values: Any,
    ramp: RampFilter,
    *,
    weights: Sequence[Any] = (),
    continuation: int = 0,
    out: Any = None,
    chunk_bytes: int | None = None,
) -> Any:
    """Filter the last axis of (views, rows, columns), multiplied before by each of `weights` (broadcast against it).

    `continuation` > 0 lets every row run out over that many samples as edge·cos² instead of breaking off: for rows
    that the object leaves (Ohnesorge et al. 2000). `out` may be `values` itself; returned either way. Arrays of any
    namespace of the array API; `chunk_bytes` of padded rows, None = `CHUNK_BYTES`, are transformed at once.
    """
    xp = array_namespace(values)
    result = xp.empty_like(values) if out is None else out
    views, rows, columns = values.shape
    factors = [xp.broadcast_to(each, values.shape) for each in weights]
    chunk = max(1, (chunk_bytes or CHUNK_BYTES) // (4 * ramp.length * rows))
    margin = min(continuation, (ramp.length - columns) // 2)
    fade = np.cos(np.pi / 2 * (np.arange(1, margin + 1) / (margin + 1))).astype(np.float32) ** 2
    rising, falling, multipliers = (xp.asarray(each) for each in (fade[::-1].copy(), fade, ramp.multipliers))
    forth, back = _transforms(xp)
    padded = xp.zeros((min(chunk, views), rows, ramp.length), dtype=xp.float32)
    for first in range(0, views, chunk):
        part = slice(first, min(first + chunk, views))
        block = padded[: part.stop - first, ...]
        block[..., :columns] = values[part, ...]
        for factor in factors:
            block[..., :columns] *= factor[part, ...]
        if margin:
            block[..., columns : columns + margin] = block[..., columns - 1 : columns] * falling
            block[..., -margin:] = block[..., :1] * rising
        spectrum = forth(block)
        spectrum *= multipliers
        result[part, ...] = xp.astype(back(spectrum, n=ramp.length)[..., :columns], xp.float32, copy=False)
    return result


def _transforms(xp: Any) -> tuple[Any, Any]:
    """Real FFT along the last axis and its inverse: on the processor SciPy's, which use its threads."""
    if not is_numpy_namespace(xp):
        return xp.fft.rfft, xp.fft.irfft
    workers = nb.get_num_threads()
    return partial(fft.rfft, workers=workers), partial(fft.irfft, workers=workers, overwrite_x=True)


def _length(columns: int) -> int:
    """Of the FFT of a row."""
    return int(fft.next_fast_len(2 * columns - 1, real=True))


def cosine_weights(columns_mm: Float64, rows_mm: Float64, source_mm: float, *, curved: bool) -> Float32:
    """(rows, columns): cosine of the angle between each ray and the central one, which FDK puts before the filter.

    `columns_mm`, `rows_mm` distances of the cells from the central ray, measured on the detector (on the arc where
    curved), `source_mm` the focal spot's distance to it. Feldkamp, Davis, Kress 1984, eq. 28.
    """
    rise = rows_mm[:, None] / source_mm
    if curved:
        return np.asarray(np.cos(columns_mm / source_mm)[None, :] / np.sqrt(1 + rise**2), np.float32)
    return np.asarray(1 / np.sqrt(1 + (columns_mm / source_mm)[None, :] ** 2 + rise**2), np.float32)
