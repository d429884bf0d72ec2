"""Views of a fan on the card → cone-parallel views there: azimuthal cubic convolution, then the radial cubic.

What `recon.analytic.rebinning` tells of a scan is worked out in float64: of every direction, spot and column the view
that has it, as a whole number and a float32 remainder. The sums over 4 rays of 4 views are float32 alone.
"""

import math
from typing import Any, NamedTuple

import numpy as np
from numba import cuda, float32, int32

from lampyris.model import Float32, Float64
from lampyris.projector.cuda.card import to_kernels, up, xp
from lampyris.projector.cuda.feet import launch

ROWS = 8
"""Detector rows of a thread: weights are worked out once for them."""
_HALF, _ONE, _TWO = np.float32(0.5), np.float32(1.0), np.float32(2.0)
_RISE, _DIP = np.float32(1.5), np.float32(2.5)


class Bundle(NamedTuple):
    """Spots whose rays are read together, and every view of each of them.

    `angle_rad` (spots, most) ascending gantry angles of each spot's `views` (spots,), of which `order` (spots, most) is
    the place among them; `ray_rad` (spots, columns) the direction of each ray to the gantry angle. View n of spot s is
    view first[s] + stride·n of the scan, modulo their number where the scan `wraps`. Sample j at ξ is Σ share[j, k] of
    the rays take[j, k] = spot·columns + column, (ξs, 4).
    """

    angle_rad: Float64
    order: Float64
    views: np.ndarray[Any, Any]
    ray_rad: Float64
    first: np.ndarray[Any, Any]
    stride: int
    take: np.ndarray[Any, Any]
    share: Float32
    wraps: bool


class Rebinning:
    """Makes cone-parallel views of one bundle, at directions `theta_rad` (θs,), on the card."""

    def __init__(self, bundle: Bundle, theta_rad: Float64) -> None:
        self._bundle = bundle
        spots, columns = bundle.ray_rad.shape
        shape = (len(theta_rad), spots, columns)
        self._theta, self._taken = up(np.asarray(theta_rad, np.float64)), (up(bundle.take), up(bundle.share))
        self._scan = tuple(up(each) for each in (bundle.angle_rad, bundle.order, bundle.ray_rad))
        self._first, self._views = up(bundle.first.astype(np.int32)), up(bundle.views.astype(np.int32))
        self._shape = shape

    def __call__(self, integrals: Any, begin: int, part: slice) -> Any:
        """The directions `part`, (θs, rows, ξs) on the card, of `integrals` there, the views from `begin` on."""
        bundle, count, (_, spots, columns) = self._bundle, part.stop - part.start, self._shape
        wholes = xp().empty((count, spots, columns), dtype=np.int32)
        parts = xp().empty((count, spots, columns), dtype=np.float32)
        made = xp().empty((count, integrals.shape[1], len(bundle.take)), dtype=np.float32)
        theta, wholes_, parts_, values = to_kernels(self._theta[part], wholes, parts, made)
        first, views, cells, take, share = to_kernels(self._first, self._views, integrals, *self._taken)
        grid, block = launch(columns, spots, count)
        find_views[grid, block](theta, *to_kernels(*self._scan), views, bundle.wraps, wholes_, parts_)
        grid, block = launch(len(bundle.take), -(-integrals.shape[1] // ROWS), count)
        sum_rays[grid, block](
            cells, begin, first, views, bundle.stride, wholes_, parts_, take, share, bundle.wraps, values
        )
        return made


@cuda.jit
def find_views(theta, angles, order, rays, views, wraps, wholes, parts):  # type: ignore[no-untyped-def]
    """The view of a spot (grid y) in which a column's ray (grid x) had a direction (grid z); held at the ends."""
    c, spot, i = cuda.grid(3)
    if i >= wholes.shape[0] or spot >= wholes.shape[1] or c >= wholes.shape[2]:
        return
    wanted = theta[i] - rays[spot, c]
    if wraps:
        off = wanted - angles[spot, 0]
        wanted = angles[spot, 0] + (off - 2.0 * math.pi * math.floor(off / (2.0 * math.pi)))
    low, high = 0, views[spot] - 1
    if wraps:
        high += 1  # the first view once more, a turn on
    wanted = min(max(wanted, angles[spot, low]), angles[spot, high])
    while high - low > 1:
        middle = (low + high) // 2
        if angles[spot, middle] <= wanted:
            low = middle
        else:
            high = middle
    slope = (order[spot, high] - order[spot, low]) / (angles[spot, high] - angles[spot, low])
    place = order[spot, low] + slope * (wanted - angles[spot, low])
    whole = math.floor(place)
    wholes[i, spot, c], parts[i, spot, c] = int32(whole), float32(place - whole)


@cuda.jit
def sum_rays(  # type: ignore[no-untyped-def]
    integrals, begin, first, views, stride, wholes, parts, take, share, wraps, values
):
    """A sample of `ROWS` rows of one cone-parallel view (grid: ξ, rows, θ), of 4 rays of 4 views each."""
    j, chunk, i = cuda.grid(3)
    if i >= values.shape[0] or chunk * ROWS >= values.shape[1] or j >= values.shape[2]:
        return
    sums = cuda.local.array(ROWS, float32)
    for row in range(ROWS):
        sums[row] = float32(0.0)
    columns, rows = wholes.shape[2], values.shape[1]
    for k in range(4):
        spot, c = take[j, k] // columns, take[j, k] % columns
        left, f, weight = wholes[i, spot, c], parts[i, spot, c], share[j, k]
        for m in range(4):
            one = left - 1 + m
            one = one % views[spot] if wraps else min(max(one, 0), views[spot] - 1)
            view = first[spot] + stride * one - begin
            factor = weight * _keys(f, m)
            for row in range(ROWS):
                sums[row] += factor * integrals[view, min(chunk * ROWS + row, rows - 1), c]
    for row in range(ROWS):
        if chunk * ROWS + row < rows:
            values[i, chunk * ROWS + row, j] = sums[row]


@cuda.jit(device=True)
def _keys(f, m):  # type: ignore[no-untyped-def]
    """Weight of the m-th of the four views around a place, `f` beyond the second: cubic convolution, a = −½."""
    if m == 0:
        return ((_ONE - _HALF * f) * f - _HALF) * f
    if m == 1:
        return (_RISE * f - _DIP) * f * f + _ONE
    if m == 2:
        return ((_TWO - _RISE * f) * f + _HALF) * f
    return (_HALF * f - _HALF) * f * f
