"""Subject, scanner and protocol → RawScan: the virtual scanner.

Views are simulated in blocks, each view with its own random stream, so that counts depend on the seed alone and not on
blocks or threads.
"""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numba as nb
import numpy as np

from lampyris.model import (
    Float32,
    Float64,
    InputError,
    Noise,
    ProgramError,
    Progress,
    RawScan,
    Spectrum,
    Volume,
    silent,
)
from lampyris.phantom import Phantom
from lampyris.physics.attenuation import linear_attenuation_per_mm
from lampyris.physics.bowtie import bowtie
from lampyris.physics.detector import water_attenuation_per_mm
from lampyris.physics.tube import tube_spectrum
from lampyris.simulate import exposure, measure, optics
from lampyris.simulate.beam import rebin
from lampyris.simulate.protocol import Protocol, acquisition, plan
from lampyris.simulate.scanners import Scanner
from lampyris.simulate.scatter import forward_scatter
from lampyris.simulate.subjects import Subject, subject_of

SCOUTS_PER_TURN = 16
CELLS, DARK, AIR, VIEWS = range(4)
"""Random streams of one seed."""


def scan(
    subject: Phantom | Volume,
    scanner: Scanner,
    protocol: Protocol,
    *,
    dose: float = 1.0,
    seed: int = 0,
    progress: Progress = silent,
) -> RawScan:
    """Scan a phantom, or a volume in HU in the gantry frame, at `dose` × the protocol's mAs.

    Counts are uint16, or uint32 where these could overflow; float32 without rounding if the protocol is noise-free.
    Raises InputError for a voltage, bowtie, range or dose that the scanner has not, for a detector that would
    saturate, for a truncated volume.
    """
    if not 0 < dose <= 100:
        raise InputError(f"dose {dose}: expected a factor on the protocol's mAs, 0…100")
    spectrum = beam_of(scanner, protocol)
    stands = subject_of(subject, effective_energy_kev(spectrum), truncated_ok=protocol.truncated_ok)
    machine = _Machine(scanner, protocol, spectrum, stands, dose, seed)
    counts = machine.measure(progress)
    facts = acquisition(scanner, protocol, machine.plan, dose)
    bad = np.zeros(counts.shape[1:], np.bool_)
    for cell in scanner.bad_cells:
        bad[cell] = True
    return RawScan(
        counts, machine.plan.geometry, machine.exposure_mas, machine.dark_scan(), machine.air_scan(),
        machine.nominal_mas, bad, spectrum, machine.noise(), facts,
    )  # fmt: skip


def beam_of(scanner: Scanner, protocol: Protocol) -> Spectrum:
    """The spectrum at the isocentre, with bowtie and the detector's response."""
    voltage, name = protocol.tube_voltage_kv, scanner.bowtie if protocol.bowtie is None else protocol.bowtie
    if voltage not in scanner.tube_voltages_kv:
        raise InputError(f"{scanner.name} has no {voltage:g} kV; it has {scanner.tube_voltages_kv}")
    if name not in scanner.bowties:
        raise InputError(f"{scanner.name} has no bowtie {name!r}; it has {', '.join(scanner.bowties)}")
    shaped = None if name == "none" else bowtie(name, scanner.source_to_isocentre_mm)
    made = tube_spectrum(
        voltage, filtration=scanner.filtration, anode_angle_deg=scanner.anode_angle_deg,
        distance_mm=scanner.source_to_isocentre_mm, bowtie=shaped,
    )  # fmt: skip
    return scanner.detector.watching(made)


def effective_energy_kev(spectrum: Spectrum) -> float:
    """The energy at which water attenuates as it does for the whole beam at zero thickness."""
    energies = np.linspace(30.0, 120.0, 1801)
    water = linear_attenuation_per_mm("water", energies)
    return float(np.interp(-water_attenuation_per_mm(spectrum), -water, energies))


@dataclass(frozen=True, slots=True, eq=False)
class _Scout:
    """What a few views of the subject tell: view index, largest line integral, deepest mm of each material."""

    at: Float64
    depth: Float64
    deepest_mm: Float64


class _Machine:
    """One scan in the making: beams of all focal spots, cells, exposures."""

    def __init__(
        self, scanner: Scanner, protocol: Protocol, spectrum: Spectrum, subject: Subject, dose: float, seed: int
    ) -> None:
        self.scanner, self.protocol, self.spectrum, self.subject = scanner, protocol, spectrum, subject
        self.plan = planned = plan(scanner, protocol, subject.extent_mm)
        self.seed = seed
        views, per_turn = planned.geometry.views, scanner.views_per_turn
        scout = self._scout(range(0, views, max(1, per_turn // SCOUTS_PER_TURN)))
        self.nominal_mas = protocol.mas / per_turn
        current = exposure.relative_current(scout.depth, scout.at, views, per_turn, protocol.modulation)
        self.exposure_mas = self.nominal_mas * dose * current
        nodes = rebin(spectrum, subject.materials, scout.deepest_mm.tolist())
        self.beams = [optics.beam(scanner, spectrum, nodes, planned.geometry, spot) for spot in range(planned.spots)]
        self.cells = self._cells()
        self.air_moments = [self._moments(self._empty(), beam, self.nominal_mas) for beam in self.beams]

    def _scout(self, at: range) -> _Scout:
        found = self.subject.lengths_mm(self.plan.geometry.subset(list(at)))
        energy = np.array([effective_energy_kev(self.spectrum)])
        per_mm = [float(linear_attenuation_per_mm(name, energy)[0]) for name in self.subject.materials]
        depth = np.tensordot(np.array(per_mm, np.float32), found, 1).max(axis=(1, 2))
        deepest = 1.2 * found.max(axis=(1, 2, 3)) + 1 / np.array(per_mm)  # small parts may lie between the scouts
        return _Scout(np.asarray(at, np.float64), depth.astype(np.float64), deepest)

    def _cells(self) -> measure.Cells:
        shape, scanner = self.plan.geometry.shape[1:], self.scanner
        spread = 1 + scanner.cell_spread * self._rng(CELLS).standard_normal(shape)
        sensitivity = scanner.detector.counts_per_kev * np.clip(spread, 0.5, 1.5)
        for cell in scanner.bad_cells:
            sensitivity[cell] = 0.0
        dark = scanner.dark_counts * (1 + scanner.cell_spread * self._rng(DARK).standard_normal(shape))
        talk_v, talk_u = scanner.detector.cross_talk
        return measure.Cells(sensitivity, dark, talk_v, talk_u, scanner.detector.electronic_counts)

    def _rng(self, *stream: int) -> np.random.Generator:
        return np.random.default_rng(np.random.SeedSequence(self.seed, spawn_key=stream))

    def _empty(self) -> Float32:
        return np.zeros((1, len(self.subject.materials), *self.plan.geometry.shape[1:]), np.float32)

    def _moments(self, lengths: Float32, beam: measure.Beam, mas: float) -> Float32:
        moments = np.empty((4, *self.plan.geometry.shape[1:]), np.float32)
        measure.expect(lengths, beam, mas, moments)
        return moments

    def measure(self, progress: Progress) -> np.ndarray:
        """The counts of every view."""
        views, step = self.plan.geometry.views, self.subject.views_at_once
        counts = np.empty(self.plan.geometry.shape, self._dtype())
        blocks = [range(first, min(first + step, views)) for first in range(0, views, step)]
        threads = nb.get_num_threads()
        with ThreadPoolExecutor(threads) as pool:
            if self.subject.one_thread:
                for first in range(0, len(blocks), threads):
                    some = blocks[first : first + threads]
                    list(pool.map(lambda block: self._views(block, self._lengths(block), counts), some))
                    progress(some[-1].stop / views)
            else:  # the projector brings its own threads, and may only be called by one
                for block in blocks:
                    lengths = self._lengths(block)
                    list(
                        pool.map(
                            lambda view, x=lengths, at=block: self._view(x[:, :, view - at.start], view, counts[view]),
                            block,
                        )
                    )
                    progress(block.stop / views)
        return counts

    def _lengths(self, block: range) -> Float32:
        """(subrays, materials, views, rows, columns) mm."""
        part = self.plan.geometry.subset(slice(block.start, block.stop))
        rays = optics.subrays(part, self.scanner, self.protocol.rays_per_cell)
        found = [self.subject.lengths_mm(each) for each in rays]
        return found[0][None] if len(found) == 1 else np.stack(found)  # no copy of the usual case

    def _views(self, block: range, lengths: Float32, counts: np.ndarray) -> None:
        for i, view in enumerate(block):
            self._view(lengths[:, :, i], view, counts[view])

    def _view(self, lengths: Float32, view: int, out: np.ndarray) -> None:
        beam = self.beams[view % self.plan.spots]
        mas = float(self.exposure_mas[view])
        moments = self._moments(lengths, beam, mas)
        scatter = np.zeros_like(moments[:2])
        scatter[1] = 1.0
        if self.protocol.scatter:
            energy = float(moments[1].sum(dtype=np.float64) / moments[0].sum(dtype=np.float64))
            air = self.air_moments[view % self.plan.spots][0] * np.float32(mas / self.nominal_mas)
            scatter = forward_scatter(moments[0], air, energy, self.scanner)
        signal, counts = (moments[0] + scatter[0]).astype(np.float64), np.empty(moments.shape[1:])
        if not self.protocol.noise:
            measure.convert(signal, self.cells, counts)
            out[:] = counts
            return
        rng = self._rng(VIEWS, view)
        measure.detect(rng, lengths, beam, mas, moments, scatter, signal)
        measure.convert(signal, self.cells, counts)
        if not measure.digitise(rng, self.cells, counts, float(np.iinfo(out.dtype).max), out):
            raise ProgramError(f"view {view} left the range of {out.dtype}: the converter's range was chosen wrongly")

    def _dtype(self) -> np.dtype[np.generic]:
        """The narrowest integer that the brightest cell cannot overflow; refuses a saturated converter."""
        if not self.protocol.noise:
            return np.dtype(np.float32)
        brightest = max(float((each[0] * self.cells.counts_per_kev).max()) for each in self.air_moments)
        brightest *= float(self.exposure_mas.max()) / self.nominal_mas
        noise = self.noise()
        top = (
            brightest + self.cells.dark.max() + 10 * np.sqrt(noise.gain_counts * brightest + noise.electronic_counts**2)
        )
        if top > 2**self.scanner.adc_bits - 1:
            raise InputError(
                f"unattenuated cells would reach {top:.0f} counts, the {self.scanner.adc_bits}-bit converter of"
                f" {self.scanner.name} ends at {2**self.scanner.adc_bits - 1}: fewer mAs, please"
            )
        return np.dtype(np.uint16 if top < 2**16 - 1 else np.uint32)

    def noise(self) -> Noise:
        """Variance of a net count, at the central cell in air: cross-talk averages neighbours and so lowers it."""
        moments = self.air_moments[0]
        middle = tuple(n // 2 for n in moments.shape[1:])
        gain = float(moments[1][middle] / moments[0][middle]) * self.scanner.detector.counts_per_kev
        averaging = float((self.scanner.detector.cross_talk_kernel() ** 2).sum())
        rounding = 1 / 12
        return Noise(gain * averaging, float(np.sqrt(self.scanner.detector.electronic_counts**2 + rounding)))

    def air_scan(self) -> Float32:
        """(spots, rows, columns): mean of `air_views` views without object, with the noise that is left."""
        maps = []
        for spot, moments in enumerate(self.air_moments):
            counts = np.empty(moments.shape[1:])
            measure.convert(moments[0].astype(np.float64), self.cells, counts)
            maps.append(counts + self._averaged((AIR, spot), counts - self.cells.dark))
        return np.asarray(maps, np.float32)

    def dark_scan(self) -> Float32:
        """(rows, columns): mean of `air_views` views without beam."""
        return np.asarray(self.cells.dark + self._averaged((AIR, self.plan.spots), 0 * self.cells.dark), np.float32)

    def _averaged(self, stream: tuple[int, ...], net: Float64) -> Float64:
        if not self.protocol.noise:
            return np.zeros_like(net)
        noise = self.noise()
        sigma = np.sqrt((noise.gain_counts * net + noise.electronic_counts**2) / self.scanner.air_views)
        return np.asarray(sigma * self._rng(*stream).standard_normal(net.shape), np.float64)
