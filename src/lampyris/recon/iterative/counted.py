"""Counted quanta and projected values → the likelihood's misfit, slope and curvature of a block of rays.

For counts y of mean ȳ = n₀·e^(−p) and variance ȳ + r, r the electronics' share, y + r has the mean and variance of a
Poisson number (Snyder et al. 1993, J. Opt. Soc. Am. A 10:1014; Yavuz & Fessler 1998, Med. Image Anal. 2:363), which
makes the misfit of a ray, up to a constant,

    h(p) = ȳ + r − (y + r)·ln(ȳ + r),        h′(p) = ȳ·(y − ȳ)/(ȳ + r).

h′ is also the quasi-score of any y of that mean and variance (Wedderburn 1974, Biometrika 61:439): it is linear in y,
so that its mean at the truth is 0 whatever y's distribution. That is why y + r < 0, which no Poisson number can be and
electronics make now and then, is kept as it is: h then only falls with p, down to |y + r|·ln r, and the rare low count
balances the rare high one. Setting it to 0 would thicken what starved rays passed. Without electronics (r = 0) a
negative count has no likelihood and is refused.

Curvature. h″(p) = ȳ·(ȳ² + 2rȳ − r·y)/(ȳ + r)² grows with ȳ without end, so that a bound for all p ≥ 0 is near n₀,
thousands of times too high behind a body. Let most be the mean of which y is `FAR` standard deviations short,
most − y = FAR·√(most + r). Where ȳ(p) > most, h goes on as its own parabola of curvature c,

    c = most − r·most·(y + r)/(most + r)²   if y + r ≥ 0,         c = most − (y + r)/4   else.

For y + r ≥ 0 h″ changes sign once at most and grows with ȳ thereafter, so that h″ ≤ c below most; for y + r < 0
h″ = ȳ·[1 + r·|y + r|/(ȳ + r)²] ≤ most + |y + r|/4, because rȳ ≤ (ȳ + r)²/4. So a parabola of curvature c that
touches h anywhere lies above it everywhere, and steps to the least of a separable sum of such parabolas never raise
the misfit: descent is certain when all views are used at once, and with subsets as far as subsets balance. What the
parabola changes has a chance of 3·10⁻⁵ a ray at the truth. Behind many energies p = P(q), P concave (`model.Quanta`):

    |d²h/dq²| ≤ P′(0)²·c + max|P″|·(most·(most − y)/(most + r) + c·max(p_most, 0))       for q ≥ 0,

the largest slope that h can have there; true to the spacing of the table's nodes, between which P is straight.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from array_api_compat import array_namespace, device

from lampyris.model import Quanta
from lampyris.recon.iterative.blocks import Up, Views, of_views

FAR = 4.0
"""Standard deviations beyond which a count's misfit is its own parabola."""
TINY = 1e-30
"""A mean that is no longer told from nothing, where its logarithm must exist."""


@dataclass(frozen=True, slots=True, eq=False)
class Counted:
    """`Quanta` as arrays of one kind: `measured`, `offset` (views, rows, columns), `air` (spots, rows, columns),
    `exposure` (views, 1, 1), `spot` (views,), `table` (columns · nodes,); `bend` the table as it was given."""

    measured: Any
    offset: Any
    air: Any
    exposure: Any
    spot: Any
    table: Any
    bend: Any
    nodes_per_unit: float
    electronic: float

    @staticmethod
    def of(quanta: Quanta, up: Up) -> "Counted":
        bend = quanta.hardening
        return Counted(
            up(quanta.measured),
            None if quanta.offset is None else up(quanta.offset),
            up(quanta.air),
            up(quanta.exposure.astype(np.float32)[:, None, None]),
            up(quanta.spot),
            None if bend is None else up(np.ravel(bend)),
            bend,
            quanta.nodes_per_unit,
            quanta.electronic,
        )

    def open_beam(self, views: Views) -> Any:
        """Mean quanta of some views without an object, as `Quanta.open_beam`."""
        spots = array_namespace(self.air).take(self.air, of_views(self.spot, views), axis=0)
        return spots * of_views(self.exposure, views)


@dataclass(frozen=True, slots=True, eq=False)
class RayBlock:
    """A block of rays: counts y, open beam (1 where there is none, `lit` False), electronic variance r, most and c."""

    xp: Any
    counted: Counted
    lit: Any
    count: Any
    beam: Any
    most: Any
    bound: Any
    offset: Any

    @staticmethod
    def of(counted: Counted, views: Views, like: Any) -> "RayBlock":
        """The views' rays as arrays of `like`'s kind and type."""
        xp = array_namespace(like)

        def bring(values: Any) -> Any:
            return xp.asarray(values, dtype=like.dtype, device=device(like))

        count, beam = bring(of_views(counted.measured, views)), bring(counted.open_beam(views))
        lit = beam > 0
        positive, r = xp.where(count > 0, count, 0 * count), counted.electronic
        most = positive + FAR**2 / 2 + FAR * xp.sqrt(positive + (r + FAR**2 / 4))
        shifted = count + r
        bound = most - xp.where(shifted >= 0, r * most * shifted / (most + r) ** 2, shifted / 4)
        offset = None if counted.offset is None else bring(of_views(counted.offset, views))
        return RayBlock(xp, counted, lit, count, xp.where(lit, beam, 0 * beam + 1), most, bound, offset)

    def behind(self, projected: Any) -> tuple[Any, Any]:
        """P(q − offset) and its derivative."""
        xp, bend = self.xp, self.counted.bend
        corrected = projected if self.offset is None else projected - self.offset
        if bend is None:
            return corrected, 1.0
        nodes, per_unit = bend.shape[1], self.counted.nodes_per_unit
        place = corrected * per_unit
        low = xp.minimum(xp.maximum(xp.floor(place), 0.0), nodes - 2.0)
        columns = xp.arange(bend.shape[0], dtype=xp.int64, device=device(projected)) * nodes
        index = xp.reshape(xp.astype(low, xp.int64) + columns, (-1,))
        flat = xp.asarray(self.counted.table, dtype=projected.dtype, device=device(projected))
        here = xp.reshape(xp.take(flat, index), low.shape)
        step = xp.reshape(xp.take(flat, index + 1), low.shape) - here
        return here + (place - low) * step, step * per_unit

    def misfit(self, integral: Any) -> Any:
        """h less its least value, or less h at ȳ = 0 where the count is below −r."""
        xp, r = self.xp, self.counted.electronic
        mean = self._mean(integral)
        shifted = self.count + r
        scale = xp.where(shifted > 0, shifted, 0 * shifted + (r or 1.0))
        excess = (mean + r - scale) / scale
        seen = xp.where(mean + r > TINY, mean + r, 0 * mean + TINY)
        away = xp.where(excess > -0.5, xp.log1p(xp.where(excess > -0.5, excess, 0 * excess)), xp.log(seen / scale))
        inner = xp.where(shifted > 0, shifted * (excess - away), mean - shifted * away)
        beyond = self._beyond(integral)
        return xp.where(self.lit, inner + beyond * (self._steepest() + 0.5 * self.bound * beyond), 0 * inner)

    def slope(self, integral: Any) -> Any:
        """h′ by the integral P."""
        xp, mean = self.xp, self._mean(integral)
        found = mean * (self.count - mean) / (mean + self.counted.electronic) + self.bound * self._beyond(integral)
        return xp.where(self.lit, found, 0 * found)

    def curvature(self) -> Any:
        """The bound of h″ by the projected value q ≥ 0."""
        xp, table = self.xp, self.counted.bend
        found = self.bound
        if table is not None:
            per_unit = self.counted.nodes_per_unit
            steps = np.diff(table, axis=1) * per_unit
            bend = np.abs(np.diff(steps, axis=1)).max(axis=1) * per_unit
            farthest = xp.log(self.beam / self.most)
            steepest = self.bound * xp.where(farthest > 0, farthest, 0 * farthest) - self._steepest()
            first, most = (
                xp.asarray(each, dtype=found.dtype, device=device(found)) for each in (steps[:, 0] ** 2, bend)
            )
            found = found * first + steepest * most
        return xp.where(self.lit, found, 0 * found)

    def _mean(self, integral: Any) -> Any:
        """ȳ, held at most."""
        mean = self.beam * self.xp.exp(-integral)
        return self.xp.where(mean < self.most, mean, self.most)

    def _beyond(self, integral: Any) -> Any:
        """How far the integral lies below that of most: ≤ 0."""
        short = integral - self.xp.log(self.beam / self.most)
        return self.xp.where(short < 0, short, 0 * short)

    def _steepest(self) -> Any:
        """h′ at most: < 0."""
        return self.most * (self.count - self.most) / (self.most + self.counted.electronic)
