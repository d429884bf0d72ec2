"""RawScan and the steps of a recipe → Projections: checked before any work, made block by block, written down.

All steps up to the water correction look at a block of views and a few beside it, so that blocks can be made while the
others are still coming; `restore` and `ring` look at the whole scan.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from lampyris.correct.bad_cells import BadCells
from lampyris.correct.beam_hardening import NODES_PER_UNIT, WaterHardening
from lampyris.correct.block import Block, spans
from lampyris.correct.dark_air import OpenBeam
from lampyris.correct.logarithm import HALO, Logarithm
from lampyris.correct.restoration import Restoration
from lampyris.correct.ring import Ring
from lampyris.correct.scatter import Scatter
from lampyris.model import Applied, Float32, Progress, Projections, Quanta, RawScan, RecipeError, Shelf, Step, silent
from lampyris.physics.detector import water_attenuation_per_mm

ORDER = ("dark_air", "bad_cells", "scatter", "log", "restore", "water_beam_hardening", "ring")
"""The steps of the chain in the order in which they make sense; bone beam hardening needs a first image."""


WHOLE_SCAN = ("restore", "ring")
"""Steps after which a view's integrals depend on views all over the scan."""


def correct(
    scan: RawScan, steps: Sequence[Step], *, progress: Progress = silent, shelf: Shelf | None = None
) -> Projections:
    """Line integrals and inverse variances of a scan.

    `steps` come in the order of `ORDER`, "dark_air" and "log" among them; settings are those of each step's file. What
    `scan.applied` names was made by the scanner and is not made again; the history says so. Air of a scan whose
    "dark_air" is applied is the open beam without dark (None: the counts are transmissions). Blocks that `ahead` put
    on the `shelf` are taken from there.

    Raises RecipeError for unknown, repeated or misplaced steps and settings, CalibrationError for calibration that is
    missing or another scan's: both before the first view is corrected; CalibrationError for NaN in counts when met.
    """
    wanted = _checked(scan, steps)
    chain = _Chain(scan, wanted, whole=True)
    shape = scan.geometry.shape
    integrals, weights = np.empty(shape, np.float32), np.empty(shape, np.float32)
    measured = np.empty(shape, np.float32) if chain.counts else None
    for first, last in spans(*shape):
        part = slice(first, last)
        made = chain.found(first, last, shelf) or chain.made(first, last)
        integrals[part], weights[part] = made["integrals"], made["weights"]
        if measured is not None:
            measured[part] = made["measured"]
        chain.count(made["counted"])
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


@dataclass(frozen=True, slots=True, eq=False)
class Ahead:
    """The block of views [first, last) lies on the shelf; `integrals` (views, rows, columns) if they were asked for."""

    first: int
    last: int
    integrals: Float32 | None


def ahead(
    scan: RawScan, steps: Sequence[Step], views: int, shelf: Shelf, *, after: int = 0, give: bool = False
) -> Iterator[Ahead]:
    """Make the blocks that the first `views` views of a scan determine, and put those on the shelf that it lacks.

    Gives every block from view `after` on, with its integrals if `give`. Of the scan's counts no others are read.
    Blocks are made as if no cell were stuck; should one turn out to be, `correct` leaves them where they are. Raises
    as `correct`.
    """
    chain = _Chain(scan, _checked(scan, steps), whole=False)
    for first, last in spans(*scan.geometry.shape):
        if chain.needs(last) > views:
            return
        if first < after:
            continue
        name = _block_name(first, last)
        made = shelf.load(name, chain.needs(last)) if give else None
        if made is None and (give or not shelf.holds(name, chain.needs(last))):
            made = chain.made(first, last)
            shelf.keep(name, chain.needs(last), made)
        yield Ahead(first, last, made["integrals"] if give and made is not None else None)


def made_of(shape: tuple[int, int, int], views: int) -> int:
    """Of how many views of a scan of that shape the blocks are made that hold its first `views` views."""
    last = next(last for _, last in spans(*shape) if last >= views)
    return min(shape[0], last + HALO)


def _block_name(first: int, last: int) -> str:
    return f"corrected views {first} to {last}"


class _Chain:
    """The prepared steps of one scan: everything is checked here, before the first block."""

    def __init__(self, scan: RawScan, wanted: dict[str, Step], *, whole: bool) -> None:
        self.scan = scan
        self.beam = OpenBeam.of(scan, wanted.get("dark_air", Step("dark_air")), mends_cells="bad_cells" in wanted)
        if whole:
            self.beam.check_exposure()
        self.cells = BadCells.of(scan, self.beam, wanted["bad_cells"], whole=whole) if "bad_cells" in wanted else None
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

    def needs(self, last: int) -> int:
        """How many views, from the first on, the block that ends before view `last` is made of."""
        return min(self.scan.views, last + HALO)

    def found(self, first: int, last: int, shelf: Shelf | None) -> Mapping[str, np.ndarray] | None:
        """A block that was made `ahead`; None where there is none, or where cells are stuck, which it did not know."""
        if shelf is None or (self.cells is not None and self.cells.found["stuck"]):
            return None
        return shelf.load(_block_name(first, last), self.needs(last))

    def made(self, first: int, last: int) -> Mapping[str, np.ndarray]:
        """Integrals, weights, what was counted and, where it is needed, net quanta of some views.

        Starved rays are mended with the neighbouring views.
        """
        start, stop = max(0, first - HALO), self.needs(last)
        block: Block = self.beam.block(start, stop)
        log, scatter = self.log.fresh(), None if self.scatter is None else self.scatter.fresh()
        if self.cells is not None:
            self.cells.apply(block)
        if scatter is not None:
            scatter.apply(block)
        inner = slice(first - start, last - start)
        integrals, weights = log.apply(block, inner)
        weights[:, self.without_weight] = 0.0
        if self.hardening is not None and self.restoration is None:
            self.hardening.apply(integrals)
        made = {"integrals": integrals, "weights": weights}
        if self.counts:
            made["measured"] = block.net[inner] / np.float32(self.log.noise.gain_counts)
        counted = log.counted + ([] if scatter is None else scatter.counted)
        return made | {"counted": np.array(counted, np.float64)}

    def count(self, counted: np.ndarray) -> None:
        """Add what was found in a block to what is known of the scan."""
        log, scatter = [float(each) for each in counted[:4]], [float(each) for each in counted[4:]]
        self.log.add(log)
        if self.scatter is not None:
            self.scatter.add(scatter)

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
