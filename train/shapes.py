"""Random shapes → HU added to or replaced in a volume: ellipsoids, rods, vessels, bones and textures, edges covered.

All lengths are in voxels of the volume, (slices, rows, columns).
"""

import numpy as np
from scipy.ndimage import gaussian_filter

from lampyris.model import Float32, Float64


def ball(volume: Float32, centre: Float64, radii: Float64, hu: float | Float32, *, add: bool = False) -> None:
    """Replace (or raise by) `hu` within an ellipsoid; a voxel on its surface by its share."""
    window, cover = _covered(volume.shape, centre, radii)
    if window is None:
        return
    part = volume[window]
    value = hu[window] if isinstance(hu, np.ndarray) else np.float32(hu)
    part += cover * value if add else cover * (value - part)


def rod(volume: Float32, centre: Float64, radius: float, hu: float, *, add: bool = False) -> None:
    """A cylinder through all slices."""
    ball(volume, np.array([volume.shape[0] / 2, *centre]), np.array([1e4, radius, radius]), hu, add=add)


def vessel(
    volume: Float32, rng: np.random.Generator, start: Float64, radius: float, hu: float, inside: Float32
) -> None:
    """A tube that winds, tapers and forks, drawn only where `inside` is above a half."""
    direction = rng.standard_normal(3) * (0.5, 1.0, 1.0)
    point = start.copy()
    for _ in range(int(rng.integers(25, 70))):
        direction += 0.35 * rng.standard_normal(3)
        direction /= np.linalg.norm(direction)
        point = point + direction * max(0.6 * radius, 0.7)
        index = np.round(point).astype(int)
        if (index < 0).any() or (index >= volume.shape).any() or inside[tuple(index)] < 0.5:
            return
        ball(volume, point, np.full(3, radius), hu)
        radius *= 0.985
        if radius > 1.0 and rng.random() < 0.06:
            vessel(volume, rng, point, 0.7 * radius, hu, inside)


def texture(shape: tuple[int, ...], rng: np.random.Generator, scale: float, deviation: float) -> Float32:
    """A random field of mean 0 with correlations over `scale` voxels and the given standard deviation."""
    field = gaussian_filter(rng.standard_normal(shape, dtype=np.float32), scale)
    return np.asarray(field * (deviation / max(float(field.std()), 1e-9)), np.float32)


def _covered(
    shape: tuple[int, ...], centre: Float64, radii: Float64
) -> tuple[tuple[slice, ...], Float32] | tuple[None, None]:
    low = np.maximum(np.floor(centre - radii - 1), 0).astype(int)
    high = np.minimum(np.ceil(centre + radii + 2), shape).astype(int)
    if (low >= high).any():
        return None, None
    axes = [((np.arange(a, b) - c) / r) ** 2 for a, b, c, r in zip(low, high, centre, radii, strict=True)]
    away = np.sqrt(axes[0][:, None, None] + axes[1][:, None] + axes[2]).astype(np.float32)
    cover = np.clip(0.5 - (away - 1) * np.float32(radii.min()), 0.0, 1.0)
    return tuple(slice(a, b) for a, b in zip(low, high, strict=True)), cover
