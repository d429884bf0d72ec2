"""Primary signal of one view → the forward-scattered signal that reaches each cell.

Ohnesorge et al. (1999), Eur. Radiol. 9:563: what a ray scatters forward is proportional to p·exp(−p), p = −ln(primary
over air); it spreads smoothly over the detector.
"""

import numpy as np
from scipy import ndimage

from lampyris.model import Float32
from lampyris.simulate.scanners import Scanner

SOFTENING = 0.9
"""Mean energy of scattered over that of primary photons: one Compton scattering at CT energies takes about a tenth."""


def forward_scatter(primary_kev: Float32, air_kev: Float32, energy_kev: float, scanner: Scanner) -> Float32:
    """(2, rows, columns) float32: mean scattered keV, and keV per scattered photon.

    The blur is computed on cells binned to about a fifth of its width, and zero beyond the detector.
    """
    rows, columns = primary_kev.shape
    scale = scanner.source_to_detector_mm / scanner.source_to_isocentre_mm
    sigma = [scanner.scatter.sigma_mm * scale / cell for cell in scanner.cell_mm]
    bins = [max(1, min(n, int(s / 5))) for n, s in zip((rows, columns), sigma, strict=True)]
    ratio = np.maximum(primary_kev, 1e-6 * air_kev) / air_kev
    source = air_kev * ratio * -np.log(np.minimum(ratio, 1.0))
    blocks = [np.arange(0, n, b) for n, b in zip((rows, columns), bins, strict=True)]
    coarse = np.add.reduceat(np.add.reduceat(source, blocks[0], axis=0), blocks[1], axis=1)
    spread = ndimage.gaussian_filter(coarse, [s / b for s, b in zip(sigma, bins, strict=True)], mode="constant")
    spread = spread / (bins[0] * bins[1])
    places = [(np.arange(n) - (b - 1) / 2) / b for n, b in zip((rows, columns), bins, strict=True)]
    fine = ndimage.map_coordinates(spread, np.meshgrid(*places, indexing="ij"), order=1, mode="nearest")
    out = np.empty((2, rows, columns), np.float32)
    out[0], out[1] = scanner.scatter.strength * fine, SOFTENING * energy_kev
    return out
