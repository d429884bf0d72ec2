"""RawScan and the steps of a recipe → Projections: checked before any work, made block by block, written down."""

from collections.abc import Sequence

import numpy as np

from lampyris.correct.bad_cells import BadCells
from lampyris.correct.beam_hardening import WaterHardening
from lampyris.correct.block import Block, spans
from lampyris.correct.dark_air import OpenBeam
from lampyris.correct.logarithm import HALO, Logarithm
from lampyris.correct.ring import Ring
from lampyris.correct.scatter import Scatter
from lampyris.model import Applied, Progress, Projections, RawScan, RecipeError, Step, silent
from lampyris.physics.detector import water_attenuation_per_mm

ORDER = ("dark_air", "bad_cells", "scatter", "log", "water_beam_hardening", "ring")
"""The steps of the chain in the order in which they make sense; bone beam hardening needs a first image."""


def correct(scan: RawScan, steps: Sequence[Step], *, progress: Progress = silent) -> Projections:
    """Line integrals and inverse variances of a scan.

    `steps` come in the order of `ORDER`, "dark_air" and "log" among them; settings are those of each step's file. What
    `scan.applied` names was made by the scanner and is not made again; the history says so. Air of a scan whose
    "dark_air" is applied is the open beam without dark (None: the counts are transmissions).

    Raises RecipeError for unknown, repeated or misplaced steps and settings, CalibrationError for calibration that is
    missing or another scan's: both before the first view is corrected; CalibrationError for NaN in counts when met.
    """
    wanted = _checked(scan, steps)
    chain = _Chain(scan, wanted)
    shape = scan.geometry.shape
    integrals, weights = np.empty(shape, np.float32), np.empty(shape, np.float32)
    ring = Ring.of(wanted["ring"], shape[2]) if "ring" in wanted else None
    share = 0.9 if ring else 1.0
    for first, last in spans(*shape):
        integrals[first:last], weights[first:last] = chain.views(first, last)
        progress(share * last / shape[0])
    history = chain.history()
    if ring is not None:
        history.append(ring.apply(integrals, progress=lambda done: progress(share + (1 - share) * done)))
    return Projections(
        integrals,
        weights,
        scan.geometry,
        water_per_mm=chain.water_per_mm,
        spectrum=scan.spectrum,
        acquisition=scan.acquisition,
        exposure_mas=scan.exposure_mas,
        history=tuple(history),
        scan_id=scan.id,
    )


class _Chain:
    """The prepared steps of one scan: everything is checked here, before the first block."""

    def __init__(self, scan: RawScan, wanted: dict[str, Step]) -> None:
        self.scan = scan
        self.beam = OpenBeam.of(scan, wanted.get("dark_air", Step("dark_air")), mends_cells="bad_cells" in wanted)
        self.cells = BadCells.of(scan, self.beam, wanted["bad_cells"]) if "bad_cells" in wanted else None
        self.scatter = Scatter.of(scan.geometry, wanted["scatter"]) if "scatter" in wanted else None
        self.log = Logarithm.of(scan, self.beam, wanted["log"])
        hardening = "water_beam_hardening"
        self.hardening = WaterHardening.of(scan, wanted[hardening]) if hardening in wanted else None
        self.wanted = wanted
        silent_cells = ~self.beam.working
        self.without_weight = silent_cells if self.cells is None else silent_cells | self.cells.mask
        if scan.bad_cells is not None:
            self.without_weight = self.without_weight | scan.bad_cells

    @property
    def water_per_mm(self) -> float | None:
        """What the integrals refer to: our own water correction, else the scanner's, else the beam's on its way in."""
        if self.hardening is not None:
            return self.hardening.water_per_mm
        if self.scan.water_per_mm is not None:
            return self.scan.water_per_mm
        return None if self.scan.spectrum is None else water_attenuation_per_mm(self.scan.spectrum)

    def views(self, first: int, last: int) -> tuple[np.ndarray, np.ndarray]:
        """Integrals and weights of some views, with their neighbours beside them for starved rays."""
        start, stop = max(0, first - HALO), min(self.scan.views, last + HALO)
        block: Block = self.beam.block(start, stop)
        if self.cells is not None:
            self.cells.apply(block)
        if self.scatter is not None:
            self.scatter.apply(block)
        integrals, weights = self.log.apply(block, slice(first - start, last - start))
        weights[:, self.without_weight] = 0.0
        if self.hardening is not None:
            self.hardening.apply(integrals)
        return integrals, weights

    def history(self) -> list[Applied]:
        """What the scanner had made, then what was made here, in order."""
        made = [self.beam, self.cells, self.scatter, self.log, self.hardening]
        here = {one.name: one for one in (each.record() for each in made if each is not None)}
        scanner = [Applied.of(name, made_by="scanner") for name in self.scan.applied]
        return scanner + [here[name] for name in ORDER if name in self.wanted and name in here]


def _checked(scan: RawScan, steps: Sequence[Step]) -> dict[str, Step]:
    """The steps still to be made, by name; refused where they are unknown, repeated or out of order."""
    names = [step.name for step in steps]
    if unknown := [name for name in names if name not in ORDER]:
        raise RecipeError(f"correction {', '.join(unknown)} is not known; known are {', '.join(ORDER)}")
    if names != sorted(set(names), key=ORDER.index):
        raise RecipeError(f"corrections {', '.join(names)}: expected each once, in the order {', '.join(ORDER)}")
    for needed in ("dark_air", "log"):
        if needed not in (*names, *scan.applied):
            raise RecipeError(f"corrections lack {needed}, without which counts are no line integrals")
    if "log" in scan.applied:
        raise RecipeError("the scan says that its logarithm is taken: its reader must hand on counts, not integrals")
    return {step.name: step for step in steps if step.name not in scan.applied}
