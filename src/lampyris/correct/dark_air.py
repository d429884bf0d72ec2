"""RawScan with dark and air → net counts and the open beam of every view: t = (N − dark)/(air − dark)·mAs_air/mAs.

The ratio itself is taken by the logarithm, which needs both numbers to know how far a ray is starved.
"""

from dataclasses import dataclass

import numpy as np

from lampyris.correct.block import Block, read_counts, sampled_views, settings
from lampyris.model import Applied, Bool, CalibrationError, Float32, RawScan, Step

BRIGHTEST = 1.5
"""A cell may look this much brighter than air (drift, phase fringes at a synchrotron) before units are doubted."""


@dataclass(frozen=True, slots=True, eq=False)
class OpenBeam:
    """Checked calibration: `dark` (rows, columns), `net_air` (spots, rows, columns) at `air_exposure_mas`."""

    scan: RawScan
    dark: Float32
    net_air: Float32
    made_by_scanner: bool

    @staticmethod
    def of(scan: RawScan, step: Step, *, mends_cells: bool) -> "OpenBeam":
        """Check the calibration before any work; `mends_cells` says that dead cells will be interpolated later.

        Raises CalibrationError where dark or air is missing or air is empty.
        """
        settings(step)
        done = "dark_air" in scan.applied
        rows, columns = scan.geometry.rows, scan.geometry.columns
        zero = np.zeros((rows, columns), np.float32)
        if not done and (scan.dark is None or scan.air is None):
            lacking = " and ".join(n for n, have in (("dark", scan.dark), ("air", scan.air)) if have is None)
            raise CalibrationError(
                f"the scan has no {lacking} map: dark_air needs both; was the calibration left at the scanner?"
            )
        dark = zero if done or scan.dark is None else scan.dark
        air = np.ones((1, rows, columns), np.float32) if scan.air is None else scan.air
        beam = OpenBeam(scan, dark, np.asarray(air - dark, np.float32), done)
        beam._check_air(mends_cells)
        return beam

    @property
    def working(self) -> Bool:
        """(rows, columns): cells that see the beam in every focal spot."""
        return np.asarray((self.net_air > 0).all(axis=0), np.bool_)

    def block(self, first: int, last: int) -> Block:
        """Net counts and open beam of some views."""
        net = read_counts(self.scan, first, last)
        net -= self.dark
        ratio = (self.scan.exposure_mas[first:last] / self.scan.air_exposure_mas).astype(np.float32)
        spots = np.arange(first, last) % len(self.net_air)
        open_ = np.maximum(self.net_air, 0)[spots] * ratio[:, None, None]
        return Block(first, last, net, open_)

    def record(self) -> Applied:
        if self.made_by_scanner:
            return Applied.of("dark_air", made_by="scanner")
        exposure = self.scan.exposure_mas / self.scan.air_exposure_mas
        return Applied.of(
            "dark_air",
            focal_spots=len(self.net_air),
            exposure_over_air=[float(exposure.min()), float(exposure.max())],
            mean_dark=float(self.dark.mean(dtype=np.float64)),
            mean_net_air=float(self.net_air.mean(dtype=np.float64)),
        )

    def _check_air(self, mends_cells: bool) -> None:
        marked = self.scan.bad_cells
        silent = ~self.working if marked is None else ~self.working & ~marked
        if silent.all():
            raise CalibrationError(
                f"air is nowhere above dark (mean air − dark = {self.net_air.mean():.4g} counts): an air scan with"
                " the beam off, or dark and air exchanged?"
            )
        if silent.any() and not mends_cells:
            row, column = (int(i) for i in np.argwhere(silent)[0])
            raise CalibrationError(
                f"{int(silent.sum())} cells have air ≤ dark and are not marked bad, first at row {row}, column"
                f" {column}: mark them or put the step bad_cells into the recipe"
            )

    def check_exposure(self) -> None:
        """Raise CalibrationError where the brightest cells of views all over the scan outshine air by more than noise
        can: then air and exposure are not of this scan."""
        scan = self.scan
        wanted = sampled_views(scan.views, 16)
        blocks = [self.block(view, view + 1) for view in wanted]
        net = np.stack([one.net[0] for one in blocks]).sum(0, dtype=np.float64)
        open_ = np.stack([one.open_[0] for one in blocks]).sum(0, dtype=np.float64)
        usable = self.working if scan.bad_cells is None else self.working & ~scan.bad_cells
        if not usable.any():
            raise CalibrationError(f"all {usable.size} cells are marked bad or see no beam: a mask turned inside out?")
        brightest = float(np.quantile(net[usable] / open_[usable], 0.99))
        spread = 0.0
        if scan.noise is not None:
            variance = scan.noise.gain_counts * open_ + len(wanted) * scan.noise.electronic_counts**2
            spread = float(np.median(np.sqrt(variance[usable]) / open_[usable]))
        if brightest > BRIGHTEST + 5 * spread:
            raise CalibrationError(
                f"the brightest cells show {brightest:.3g}× the counts of air at the same exposure: is air_exposure_mas"
                f" ({scan.air_exposure_mas:g}) in the unit of exposure_mas ({scan.exposure_mas.mean():g} a view)?"
            )
