"""A small lopsided scan whose line integrals are known in closed form."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pytest

from lampyris.model import Gantry, Geometry, Noise, RawScan


def ellipse_mm(geometry: Geometry, half_axes_mm, centre_mm=(0.0, 0.0)):
    """Chords (views, rows, columns) through an elliptic cylinder along y, from the quadratic equation."""
    chords = np.empty(geometry.shape)
    for view in range(geometry.views):
        origin, way = geometry.rays(view)
        ox, oz = (origin[..., 0] - centre_mm[0]) / half_axes_mm[0], (origin[..., 2] - centre_mm[1]) / half_axes_mm[1]
        dx, dz = way[..., 0] / half_axes_mm[0], way[..., 2] / half_axes_mm[1]
        a, b, c = dx**2 + dz**2, ox * dx + oz * dz, ox**2 + oz**2 - 1
        chords[view] = 2 * np.sqrt(np.maximum(b**2 - a * c, 0)) / a
    return chords


@dataclass(frozen=True)
class Known:
    """A geometry, true integrals and the means that make a scan."""

    geometry: Geometry
    integrals: np.ndarray
    open_counts: np.ndarray
    exposure_mas: np.ndarray
    dark: np.ndarray

    def scan(self, counts=None, **changes) -> RawScan:
        """A scan of these means (or of the given net counts), with dark and air to match."""
        means = self.means if counts is None else counts
        facts = {
            "dark": self.dark.astype(np.float32),
            "air": (self.open_counts + self.dark)[None].astype(np.float32),
            "air_exposure_mas": 2.5,
            "noise": Noise(1.0, 3.0),
        }
        return RawScan((means + self.dark).astype(np.float64), self.geometry, self.exposure_mas, **(facts | changes))

    @property
    def beam(self):
        return self.open_counts * (self.exposure_mas / 2.5)[:, None, None]

    @property
    def means(self):
        return self.beam * np.exp(-self.integrals)

    @property
    def expected(self):
        """What counts equal to their means must give: the integrals less the bias that noise would add, var/(2µ²)."""
        return self.integrals - 0.5 * (self.means + 3.0**2) / self.means**2


@pytest.fixture
def known() -> Callable[..., Known]:
    """A body of 0.0193/mm in a lopsided scan: uneven air and dark, modulated exposure."""

    def make(half_axes_mm=(171.0, 118.0), centre_mm=(7.0, -11.0), views=41, open_counts=2e6, columns=233) -> Known:
        gantry = Gantry(541.0, 949.0, 5, columns, (1.7, 4.1 * 233 / columns), True, 1.6, (columns - 1) / 2 + 1.25)
        geometry = Geometry.circular(gantry, 23.0 + 360.0 / views * np.arange(views))
        integrals = 0.0193 * ellipse_mm(geometry, half_axes_mm, centre_mm)
        row, column = np.mgrid[0:5, 0:columns]
        air = open_counts * (1 + 0.2 * np.sin(column * 6.3 / columns) + 0.03 * np.cos(2.1 * row + 5.3 * column))
        exposure = 2.1 + 0.7 * np.sin(np.arange(views) / 5.0)
        return Known(geometry, integrals, air, exposure, 40.0 + 3 * np.cos(row + 2.0 * column))

    return make
