"""Start image (slices, rows, columns) → where it has edges, as a factor by which certainty falls there.

An edge-preserving ψ gives a high edge a weaker penalty than a low one, so that resolution depends on contrast. A
penalty lowered in advance, by the same factor at every edge that stands out of the noise, does not: with the quadratic
ψ the image stays linear in the data, and edges of 200 HU and 1000 HU have the same transfer function. What the start
image does not show above its noise is no edge here, and is smoothed as any other place.
"""

from typing import Any

from array_api_compat import array_namespace

from lampyris.recon.iterative.blocks import at_a_time
from lampyris.recon.iterative.priors.neighbours import CACHE_VOXELS

NOISE_FACTOR = 3.0
"""Standard deviations of the start image that an edge must stand out, beside its least height.

The height is read off Sobel's differences over two voxels: in white noise σ its root mean square is √(3·2·(3/8)²) σ =
0.92 σ. In correlated noise it is less.
"""


def relief(start: Any, *, height: float, rest: float, noise: Any = None) -> Any:
    """e (slices, rows, columns) for κ ← e·κ: 1 where `start` is flat, √`rest` at its edges.

    e² = (1 + rest·s⁴)/(1 + s⁴), s the height of the edge, from Sobel's differences along all axes, over
    √(`height`² + (3·`noise`)²); half relieved at s = 1. `noise` is the start image's standard deviation, an array like
    it or a number, in the same unit as `height`.
    """
    xp = array_namespace(start)
    factor = xp.empty_like(start)
    slices = start.shape[0]
    deep = max(1, at_a_time(start, CACHE_VOXELS) // (start.shape[1] * start.shape[2]))
    for first in range(0, slices, deep):
        last = min(first + deep, slices)
        below, above = max(first - 1, 0), min(last + 1, slices)
        squared = _height_squared(start[below:above, ...])[first - below : last - below, ...]
        least = height**2
        if noise is not None:
            spread = noise if isinstance(noise, int | float) else noise[first:last, ...]
            least = least + (NOISE_FACTOR * spread) ** 2
        s = (squared / least) ** 2
        factor[first:last, ...] = xp.sqrt((1.0 + rest * s) / (1.0 + s))
    return factor


def _height_squared(image: Any) -> Any:
    """Sum over the axes of (difference of the two neighbours, smoothed 1-2-1 along the other axes) squared."""
    total = array_namespace(image).zeros_like(image)
    for along in range(3):
        step = image
        for axis in range(3):
            before, after = _beside(step, axis)
            step = after - before if axis == along else 0.25 * (before + 2.0 * step + after)
        total += step * step
    return total


def _beside(image: Any, axis: int) -> tuple[Any, Any]:
    """The neighbours before and after every voxel; the first and last are their own."""
    xp = array_namespace(image)
    n = image.shape[axis]

    def part(start: int, stop: int) -> Any:
        return image[tuple(slice(start, stop) if k == axis else slice(None) for k in range(3))]

    return xp.concat([part(0, 1), part(0, n - 1)], axis=axis), xp.concat([part(1, n), part(n - 1, n)], axis=axis)
