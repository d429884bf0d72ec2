"""Path lengths of one view and a random generator → the counts that the detector writes.

Mean signal Σ_k W_k·exp(−Σ_m μ_mk·L_m); quantum noise is compound Poisson: below 100 detected photons every energy is
drawn by itself, above, a normal deviate with the exact variance and, by Cornish & Fisher (1937), skewness. Then optical
cross-talk, conversion to counts, electronic noise, dark offset and rounding.
"""

import math
from typing import Any, NamedTuple

import numba as nb
import numpy as np

from lampyris.model import Float32, Float64

FEW_PHOTONS = 100.0
LOG2_E = 1.4426950408889634


class Beam(NamedTuple):
    """One focal spot's beam: `energy` (k,) keV, `signal` (k,) keV per mAs and mm², `per_mm` (materials, k), the last
    ones for the bowtie; `bowtie_mm` (bowtie materials, rows, columns); `area_mm2` (rows, columns) of the cells as seen
    at the isocentre.
    """

    energy: Float32
    signal: Float32
    per_mm: Float32
    bowtie_mm: Float32
    area_mm2: Float32


class Cells(NamedTuple):
    """The detector: sensitivity in counts per keV and dark offset, (rows, columns); cross-talk to each neighbour along
    rows' axis and columns' axis; electronic noise in counts.
    """

    counts_per_kev: Float64
    dark: Float64
    talk_v: float
    talk_u: float
    electronic: float


@nb.njit(cache=True, error_model="numpy", fastmath={"contract", "nsz", "arcp"})
def _exp(x: Any, out: Any, power: Any) -> None:
    """out = exp(x) for float32 x ≤ 0, relative error below 2e−7: 2^n·2^f with a Taylor polynomial in f ln 2."""
    scale = power.view(np.float32)
    for i in range(len(x)):
        t = max(x[i] * np.float32(LOG2_E), np.float32(-126.0))
        n = np.floor(t + np.float32(0.5))
        f = (t - n) * np.float32(0.6931471805599453)
        p = np.float32(1 / 5040)
        p = p * f + np.float32(1 / 720)
        p = p * f + np.float32(1 / 120)
        p = p * f + np.float32(1 / 24)
        p = p * f + np.float32(1 / 6)
        p = p * f + np.float32(0.5)
        p = p * f + np.float32(1.0)
        out[i] = p * f + np.float32(1.0)
        power[i] = (np.int32(n) + np.int32(127)) << np.int32(23)
    for i in range(len(x)):
        out[i] *= scale[i]


@nb.njit(cache=True, nogil=True, fastmath={"contract", "nsz", "arcp"})
def expect(lengths: Any, beam: Any, exposure_mas: float, moments: Any) -> None:
    """Fill `moments` (4, rows, columns) float32: mean signal keV, Σ w·E, Σ w·E², detected photons Σ w/E.

    `lengths` (rays, materials, rows, columns) float32; rays are the subrays of each cell, averaged.
    """
    rays, materials, rows, columns = lengths.shape
    depth, left = np.empty(columns, np.float32), np.empty(columns, np.float32)
    power = np.empty(columns, np.int32)
    for row in range(rows):
        moments[:, row] = np.float32(0.0)
        for k in range(len(beam.energy)):
            energy, inverse = beam.energy[k], np.float32(1.0) / beam.energy[k]
            for ray in range(rays):
                depth[:] = np.float32(0.0)
                for m in range(materials):
                    per_mm, length = -beam.per_mm[m, k], lengths[ray, m, row]
                    for i in range(columns):
                        depth[i] += per_mm * length[i]
                for b in range(len(beam.bowtie_mm)):
                    per_mm, length = -beam.per_mm[materials + b, k], beam.bowtie_mm[b, row]
                    for i in range(columns):
                        depth[i] += per_mm * length[i]
                _exp(depth, left, power)
                scale, area = np.float32(beam.signal[k] * exposure_mas / rays), beam.area_mm2[row]
                for i in range(columns):
                    w = scale * area[i] * left[i]
                    moments[0, row, i] += w
                    moments[1, row, i] += w * energy
                    moments[2, row, i] += w * energy * energy
                    moments[3, row, i] += w * inverse


@nb.njit(cache=True)
def _few(rng: Any, lengths: Any, beam: Any, exposure_mas: float, row: int, column: int) -> float:
    """A starved cell's signal in keV: for every energy a Poisson number of photons."""
    rays, materials = lengths.shape[0], lengths.shape[1]
    total = 0.0
    for k in range(len(beam.energy)):
        mean = 0.0
        for ray in range(rays):
            depth = 0.0
            for m in range(materials):
                depth += beam.per_mm[m, k] * lengths[ray, m, row, column]
            for b in range(len(beam.bowtie_mm)):
                depth += beam.per_mm[materials + b, k] * beam.bowtie_mm[b, row, column]
            mean += math.exp(-depth)
        mean *= beam.signal[k] * exposure_mas / rays * beam.area_mm2[row, column]
        total += rng.poisson(mean / beam.energy[k]) * beam.energy[k]
    return total


@nb.njit(cache=True, nogil=True)
def detect(rng: Any, lengths: Any, beam: Any, exposure_mas: float, moments: Any, scatter: Any, signal: Any) -> None:
    """Draw the quantum noise: `signal` (rows, columns) keV from `moments` of the primary, plus scatter.

    `scatter` (2, rows, columns): mean keV and energy per photon in keV.
    """
    _, rows, columns = moments.shape
    for row in range(rows):
        for i in range(columns):
            stray, energy = scatter[0, row, i], scatter[1, row, i]
            mean = moments[0, row, i] + stray
            photons = moments[3, row, i] + stray / energy
            if photons < FEW_PHOTONS:
                signal[row, i] = _few(rng, lengths, beam, exposure_mas, row, i)
                signal[row, i] += rng.poisson(stray / energy) * energy
                continue
            variance = moments[1, row, i] + stray * energy
            sigma = math.sqrt(variance)
            skewness = (moments[2, row, i] + stray * energy * energy) / (variance * sigma)
            z = rng.standard_normal()
            bent = (z + skewness / 6.0 * (z * z - 1.0)) / math.sqrt(1.0 + skewness * skewness / 18.0)
            signal[row, i] = mean + sigma * bent


@nb.njit(cache=True, nogil=True)
def convert(signal: Any, cells: Any, counts: Any) -> None:
    """Cross-talk and conversion: `signal` keV → unrounded `counts` (rows, columns), dark offset included.

    What would leave the detector at its edges stays in the outermost cells.
    """
    rows, columns = signal.shape
    for row in range(rows):
        above, below = max(row - 1, 0), min(row + 1, rows - 1)
        for i in range(columns):
            left, right = max(i - 1, 0), min(i + 1, columns - 1)
            own = (1.0 - 2.0 * (cells.talk_v + cells.talk_u)) * signal[row, i]
            own += cells.talk_v * (signal[above, i] + signal[below, i])
            own += cells.talk_u * (signal[row, left] + signal[row, right])
            counts[row, i] = own * cells.counts_per_kev[row, i] + cells.dark[row, i]


@nb.njit(cache=True, nogil=True)
def digitise(rng: Any, cells: Any, counts: Any, limit: float, out: Any) -> bool:
    """Add electronic noise and round into integers; False if any would leave 0…limit."""
    rows, columns = counts.shape
    fits = True
    for row in range(rows):
        for i in range(columns):
            value = math.floor(counts[row, i] + cells.electronic * rng.standard_normal() + 0.5)
            if value < 0.0 or value > limit:
                fits = False
                value = 0.0
            out[row, i] = int(value)
    return fits
