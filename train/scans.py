"""Training body and random generator → a pair: noise-free reconstruction, two noisy ones, the local noise level, in HU.

Both come from the same geometry, kernel and slices, so that what tells them apart is noise alone: correlated by the
ramp filter, streaked by starved rays, as reconstruction makes it. Counts are quanta of variance gain · mean with
electronic noise, behind a bowtie, at 1 … 1/16 of 1–2·10⁵ quanta a ray of 1152 views; our own `correct` makes
integrals of them.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from scipy.ndimage import gaussian_filter

from lampyris import correct, recon
from lampyris.model import (
    Float32,
    Gantry,
    Geometry,
    GridRequest,
    Noise,
    Projections,
    RawScan,
    Step,
)
from lampyris.projector import Projector
from train.bodies import Body, body

WATER_PER_MM = 0.0192
KERNELS = (("body", 0.35), ("lung", 0.2), ("shepp-logan", 0.15), ("hann", 0.15), ("ramp", 0.15))
HELICAL_SHARE = 0.06
VIEWS = (300, 520)
ROWS = 8
FULL_VIEWS = 1152
"""Views a turn among which the quanta of a full dose are shared; fewer views get more each."""
IMAGES = 3
"""Reconstructions with other kernels, doses, slices and fields of view that are made of one body's projections."""
POOL_MM = 5.0
"""Standard deviation of the Gaussian that pools the noise's square: a window of some 15 mm."""
LEAST_HU = 0.5
STEPS = (Step("dark_air"), Step("log"))
SILENT = "silent"


@dataclass(frozen=True, slots=True, eq=False)
class Pair:
    """Arrays (slices, rows, columns) float32 in HU: `clean`, `noise` (2, …), `level` the local standard deviation."""

    clean: Float32
    noise: Float32
    level: Float32
    facts: dict[str, float | str]

    def save(self, path: Path) -> None:
        """Half precision about air, where differences are finest; 30 000 HU would still fit."""
        facts = np.array([f"{name}={value}" for name, value in self.facts.items()])
        half = [each.astype(np.float16) for each in (self.clean + 1000, self.noise, self.level)]
        np.savez(path, clean=half[0], noise=half[1], level=half[2], facts=facts)


@dataclass(frozen=True, slots=True)
class Scanner:
    """A scanner like the presets `mdct16` and `mdct64` with fewer rows and views; `pitch` None = the table rests."""

    gantry: Gantry
    views_per_turn: int
    pitch: float | None
    quanta: float
    gain: float
    electronic: float
    start_deg: float

    @staticmethod
    def draw(rng: np.random.Generator) -> "Scanner":
        radius = float(rng.uniform(540.0, 610.0))
        distance = radius * float(rng.uniform(1.7, 1.85))
        row_mm, column_mm = float(rng.uniform(0.7, 1.5)), float(rng.uniform(0.5, 0.75))
        cell = (row_mm * distance / radius, column_mm * distance / radius)
        views = int(rng.integers(*VIEWS))
        return Scanner(
            gantry=Gantry(radius, distance, ROWS, 8, cell, True),
            views_per_turn=views,
            pitch=float(rng.uniform(0.5, 1.2)) if rng.random() < HELICAL_SHARE else None,
            quanta=float(10 ** rng.uniform(5.0, 5.3)) * FULL_VIEWS / views,
            gain=float(rng.uniform(1.0, 1.25)),
            electronic=float(rng.uniform(8.0, 12.0)),
            start_deg=float(rng.uniform(0.0, 360.0)),
        )

    @property
    def body_length_mm(self) -> float:
        """What the rays of the slices meet, the cone's spread beside the axis included."""
        return self.gantry.collimation_mm * (1.4 if self.pitch is None else 3.0)

    def geometry(self, reach_mm: float) -> Geometry:
        """Enough columns for the body, with a quarter offset; one turn, or as many as a helix needs."""
        g = self.gantry
        half = np.arcsin(min(reach_mm + 6.0, 0.9 * g.source_to_isocentre_mm) / g.source_to_isocentre_mm)
        columns = 2 * int(np.ceil(half * g.source_to_detector_mm / g.cell_mm[1])) + 4
        gantry = replace(g, columns=columns, central_column=(columns - 1) / 2 + 0.25)
        if self.pitch is None:
            angles = self.start_deg + 360.0 * np.arange(self.views_per_turn) / self.views_per_turn
            return Geometry.circular(gantry, angles)
        feed = self.pitch * g.collimation_mm
        views = int(np.ceil((2.6 * g.collimation_mm + 0.2 * feed) / feed * self.views_per_turn))
        return Geometry.helical(
            gantry, views=views, views_per_turn=self.views_per_turn, table_feed_mm=feed, start_angle_deg=self.start_deg
        )


@dataclass(frozen=True, slots=True)
class Wanted:
    """Dose and image of one pair."""

    dose: float
    kernel: str
    request: GridRequest

    @staticmethod
    def draw(rng: np.random.Generator, scanner: Scanner, reach_mm: float) -> "Wanted":
        """A field of view within the body, three to seven slices that all views see on the axis."""
        row_mm, collimation_mm = scanner.gantry.row_at_isocentre_mm, scanner.gantry.collimation_mm
        thickness = float(np.clip(row_mm * rng.choice((1.0, 1.0, 1.5, 2.0)), 0.7, 3.0))
        slices = int(min(7, max(3, np.floor(0.92 * collimation_mm / thickness))))
        half = (slices - 1) / 2 * thickness
        matrix = int(rng.choice((224, 256, 288)))
        side = min(matrix * float(rng.uniform(0.4, 1.0)), 2.1 * reach_mm)
        centre = rng.uniform(-0.35, 0.35, 2) * reach_mm
        return Wanted(
            dose=float(np.exp(rng.uniform(np.log(1 / 16), 0.0))),
            kernel=str(rng.choice([name for name, _ in KERNELS], p=[share for _, share in KERNELS])),
            request=GridRequest(
                matrix, side, (float(centre[0]), float(centre[1])), thickness, first_mm=-half, last_mm=half
            ),
        )


def pairs(rng: np.random.Generator, sources: dict[str, Float32]) -> Iterator[Pair]:
    """The pairs of one random body: it is projected once and scanned anew for each of them."""
    scanner = Scanner.draw(rng)
    subject = body(rng, sources, scanner.body_length_mm)
    still = projected(subject, scanner)
    for _ in range(IMAGES):
        yield scanned(rng, subject, scanner, still, Wanted.draw(rng, scanner, subject.reach_mm))


def projected(subject: Body, scanner: Scanner) -> Projections:
    """Line integrals of the body without noise."""
    geometry = scanner.geometry(subject.reach_mm)
    attenuation = np.asarray((subject.hu / 1000 + 1) * WATER_PER_MM, np.float32)
    integrals = Projector(geometry, subject.grid).forward(attenuation)
    return Projections(integrals, np.ones_like(integrals), geometry, water_per_mm=WATER_PER_MM)


def scanned(rng: np.random.Generator, subject: Body, scanner: Scanner, still: Projections, wanted: Wanted) -> Pair:
    """Reconstruct as the integrals are, and twice from noisy counts."""
    air = _air(still.geometry, scanner, subject.reach_mm)
    clean = _image(still, wanted)
    noise = np.stack([_image(_measured(rng, still, air, scanner, wanted.dose), wanted) - clean for _ in range(2)])
    request = wanted.request
    pixel_mm = (request.field_of_view_mm or 1.0) / request.matrix
    facts: dict[str, float | str] = {
        "kind": subject.kind, "kernel": wanted.kernel, "dose": wanted.dose, "views": scanner.views_per_turn,
        "pitch": scanner.pitch or 0.0, "thickness_mm": request.slice_thickness_mm, "pixel_mm": pixel_mm,
        "reach_mm": subject.reach_mm,
    }  # fmt: skip
    return Pair(clean, noise, local_level(noise, pixel_mm), facts)


def local_level(noise: Float32, pixel_mm: float) -> Float32:
    """Standard deviation (slices, rows, columns) of realisations (n, slices, rows, columns), pooled over some 15 mm."""
    width = (1.0, POOL_MM / pixel_mm, POOL_MM / pixel_mm)
    level = np.sqrt(gaussian_filter((noise**2).mean(axis=0), width, truncate=3.0))
    return np.asarray(np.maximum(level, LEAST_HU), np.float32)


def _air(geometry: Geometry, scanner: Scanner, reach_mm: float) -> Float32:
    """Mean quanta of the open beam (rows, columns) at full exposure: a bowtie that half evens a body out."""
    g = scanner.gantry
    angle = (np.arange(geometry.columns) - (geometry.columns - 1) / 2 - 0.25) * g.cell_mm[1] / g.source_to_detector_mm
    away = g.source_to_isocentre_mm * np.abs(np.sin(angle))
    evened = 0.7 * reach_mm
    spared = 2 * (evened - np.sqrt(np.maximum(evened**2 - away**2, 0.0)))
    shape = np.maximum(np.exp(-0.5 * WATER_PER_MM * spared), 0.06)
    return np.broadcast_to(scanner.quanta * shape, (geometry.rows, geometry.columns)).astype(np.float32)


def _measured(rng: np.random.Generator, still: Projections, air: Float32, scanner: Scanner, dose: float) -> Projections:
    """Counts with quantum and electronic noise → corrected integrals."""
    mean = air * np.float32(dose) * np.exp(-still.integrals)
    counts = _quanta(rng, mean / np.float32(scanner.gain)) * np.float32(scanner.gain)
    counts += np.float32(scanner.electronic) * rng.standard_normal(mean.shape, dtype=np.float32)
    exposure = np.full(still.geometry.views, dose)
    scan = RawScan(
        counts, still.geometry, exposure, dark=np.zeros_like(air), air=air,
        noise=Noise(scanner.gain, scanner.electronic), water_per_mm=WATER_PER_MM, id=SILENT,
    )  # fmt: skip
    return correct.correct(scan, STEPS)


def _quanta(rng: np.random.Generator, mean: Float32) -> Float32:
    """Poisson numbers; above 200 a normal one of the same mean and variance."""
    counts = rng.standard_normal(mean.shape, dtype=np.float32)
    counts *= np.sqrt(mean)
    counts += mean
    few = mean < 200
    counts[few] = rng.poisson(mean[few])
    return counts


def _image(projections: Projections, wanted: Wanted) -> Float32:
    return recon.reconstruct(projections, Step("auto"), wanted.kernel, wanted.request).values
