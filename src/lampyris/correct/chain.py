"""RawScan and the steps of a recipe → Projections: checked before any work, made block by block, written down."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from lampyris.correct.bad_cells import BadCells
from lampyris.correct.beam_hardening import NODES_PER_UNIT, WaterHardening
from lampyris.correct.block import Block, spans
from lampyris.correct.dark_air import OpenBeam
from lampyris.correct.logarithm import HALO, Logarithm
from lampyris.correct.restoration import Restoration
from lampyris.correct.ring import Ring
from lampyris.correct.scatter import Scatter
from lampyris.model import Applied, Float32, Progress, Projections, Quanta, RawScan, RecipeError, Step, silent
from lampyris.physics.detector import water_attenuation_per_mm

ORDER = ("dark_air", "bad_cells", "scatter", "log", "restore", "water_beam_hardening", "ring")
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
    measured = np.empty(shape, np.float32) if chain.counts else None
    for first, last in spans(*shape):
        part = slice(first, last)
        integrals[part], weights[part], net = chain.views(first, last)
        if measured is not None:
            np.divide(net, chain.log.noise.gain_counts, out=measured[part])
        progress(chain.shares[0] * last / shape[0])
    quanta = chain.finish(integrals, weights, measured, progress)
    return Projections(
        integrals,
        weights,
        scan.geometry,
        water_per_mm=chain.water_per_mm,
        spectrum=scan.spectrum,
        acquisition=scan.acquisition,
        exposure_mas=scan.exposure_mas,
        history=tuple(chain.history()),
        scan_id=scan.id,
        quanta=quanta,
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
        self.restoration = Restoration.of(scan.geometry, wanted["restore"]) if "restore" in wanted else None
        self.ring = Ring.of(wanted["ring"], scan.geometry.columns) if "ring" in wanted else None
        self.ringed: Applied | None = None
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

    @property
    def counts(self) -> bool:
        """Whether the counts are needed after their logarithm is taken."""
        return self.log.keeps_quanta or self.restoration is not None

    @property
    def shares(self) -> tuple[float, float, float]:
        """Parts of the work: blocks of views, restoration, rings."""
        restore, ring = 2.0 * (self.restoration is not None), 0.1 * (self.ring is not None)
        return 1 / (1 + restore + ring), restore / (1 + restore + ring), ring / (1 + restore + ring)

    def views(self, first: int, last: int) -> tuple[Float32, Float32, Float32]:
        """Integrals, weights and net counts of some views, with their neighbours beside them for starved rays."""
        start, stop = max(0, first - HALO), min(self.scan.views, last + HALO)
        block: Block = self.beam.block(start, stop)
        if self.cells is not None:
            self.cells.apply(block)
        if self.scatter is not None:
            self.scatter.apply(block)
        inner = slice(first - start, last - start)
        integrals, weights = self.log.apply(block, inner)
        weights[:, self.without_weight] = 0.0
        return integrals, weights, block.net[inner]

    def finish(
        self, integrals: Float32, weights: Float32, measured: Float32 | None, progress: Progress
    ) -> Quanta | None:
        """The steps that look at the whole scan, in place; the quanta if they are to be kept."""
        blocks, restore, rings = self.shares
        quanta = None if measured is None else self._quanta(measured)
        if self.restoration is not None and quanta is not None:
            self.restoration.apply(integrals, weights, quanta, lambda done: progress(blocks + restore * done))
        if self.hardening is not None:
            self.hardening.apply(integrals)
        kept = quanta if self.log.keeps_quanta else None
        if kept is not None and self.hardening is not None:
            kept = replace(kept, hardening=self.hardening.inverse(), nodes_per_unit=NODES_PER_UNIT)
        if self.ring is not None:
            before = None if kept is None else integrals.copy()
            self.ringed = self.ring.apply(integrals, progress=lambda done: progress(1 - rings + rings * done))
            if kept is not None and before is not None:
                kept = kept.moved(np.subtract(integrals, before, out=before))
        return kept

    def _quanta(self, measured: Float32) -> Quanta:
        """Counts over the noise gain beside their open beam; cells without weight have none."""
        scan, noise = self.scan, self.log.noise
        air = np.where(self.without_weight, 0, np.maximum(self.beam.net_air, 0) / noise.gain_counts)
        spot = np.arange(scan.views) % len(air)
        exposure = scan.exposure_mas / scan.air_exposure_mas
        return Quanta(measured, air, exposure, spot, (noise.electronic_counts / noise.gain_counts) ** 2)

    def history(self) -> list[Applied]:
        """What was done to the counts on their way, what the scanner had made, then what was made here, in order."""
        made = [self.beam, self.cells, self.scatter, self.log, self.restoration, self.hardening]
        here = {one.name: one for one in (each.record() for each in made if each is not None)}
        if self.ringed is not None:
            here[self.ringed.name] = self.ringed
        scanner = [Applied.of(name, made_by="scanner") for name in self.scan.applied]
        return _coded(self.scan) + scanner + [here[name] for name in ORDER if name in self.wanted and name in here]


def _coded(scan: RawScan) -> list[Applied]:
    """How the counts were coarsened, with the scan as it was measured and the noise that the steps add."""
    coding = scan.coding
    if coding is None:
        return []
    return [
        Applied.of(
            "coding",
            steps_per_sigma=coding.steps_per_sigma,
            added_noise=coding.added_noise,
            source_id=coding.source_id,
        )
    ]


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
