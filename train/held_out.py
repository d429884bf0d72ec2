"""Anatomy that training never saw → virtual scans at a fifth and a tenth of a dose, several noises each, kept in files.

The TotalSegmentator example (thorax to pelvis), the TCGA-THCA neck and `phantom.thorax()` as it stands; the first two
are smoothed as training volumes are, and resized so that a voxel is about 1 mm. Rods of known contrast stand in each.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scipy.ndimage import zoom

from lampyris import dicom
from lampyris.model import Float32, Gantry, Grid, GridRequest
from lampyris.phantom import thorax, voxelise
from train import scans, shapes, sources
from train.bodies import AIR, Body

DOSES = (0.2, 0.1)
NOISES = 4
RODS = ((500.0, 6.0), (100.0, 6.0), (-100.0, 6.0), (30.0, 6.0))
"""Contrast in HU and radius in mm of the rods in every body."""
CASES = (("example_ct", "body"), ("example_ct", "lung"), ("neck", "body"), ("thorax", "body"), ("thorax", "lung"))
SCANNER = scans.Scanner(Gantry(595.0, 1085.6, 16, 8, (1.82, 1.19), True), 576, None, 3e5, 1.1, 10.0, 17.0)
MATRIX, SLICES, THICKNESS_MM = 256, 5, 2.0


@dataclass(frozen=True, slots=True, eq=False)
class Scan:
    """One held-out case: arrays as in `scans.Pair`, and where the rods' axes are, in pixels (row, column)."""

    name: str
    kernel: str
    dose: float
    pixel_mm: float
    clean: Float32
    noise: Float32
    level: Float32
    rods: tuple[tuple[float, float], ...]


def load(data: Path, work: Path) -> list[Scan]:
    """All cases, made once and kept in `work`/held-out."""
    folder = work / "held-out"
    folder.mkdir(parents=True, exist_ok=True)
    found = []
    for number, (name, kernel) in enumerate(CASES):
        for dose in DOSES:
            path = folder / f"{name}-{kernel}-{dose}.npz"
            if not path.is_file():
                made = _scan(data, name, kernel, dose, np.random.default_rng([99, number, round(100 * dose)]))
                np.savez(
                    path, clean=made.clean, noise=made.noise, level=made.level, rods=made.rods, pixel=made.pixel_mm
                )
            with np.load(path) as stored:
                rods = tuple((float(row), float(column)) for row, column in stored["rods"])
                arrays = (stored["clean"], stored["noise"], stored["level"])
                found.append(Scan(name, kernel, dose, float(stored["pixel"]), *arrays, rods))
    return found


def _scan(data: Path, name: str, kernel: str, dose: float, rng: np.random.Generator) -> Scan:
    subject, at_mm = body(data, name)
    still = scans.projected(subject, SCANNER)
    half = (SLICES - 1) / 2 * THICKNESS_MM
    side = min(256.0, 2 * subject.reach_mm)
    request = GridRequest(MATRIX, side, (0.0, 0.0), THICKNESS_MM, first_mm=-half, last_mm=half)
    wanted = scans.Wanted(dose, kernel, request)
    parts = [scans.scanned(rng, subject, SCANNER, still, wanted) for _ in range(NOISES // 2)]
    noise, pixel_mm = np.concatenate([each.noise for each in parts]), side / MATRIX
    rods = tuple(((MATRIX - 1) / 2 + row / pixel_mm, (MATRIX - 1) / 2 + column / pixel_mm) for row, column in at_mm)
    return Scan(name, kernel, dose, pixel_mm, parts[0].clean, noise, scans.local_level(noise, pixel_mm), rods)


def body(data: Path, name: str) -> tuple[Body, list[tuple[float, float]]]:
    """The body, and where its rods stand: (row, column) in mm from the axis."""
    hu, spacing = _thorax() if name == "thorax" else _real(data, name)
    grid = Grid.centred((hu.shape[0], hu.shape[1], hu.shape[2]), spacing)
    rows, columns = np.nonzero((hu > -700).any(axis=0))
    away = np.hypot(rows - (hu.shape[1] - 1) / 2, columns - (hu.shape[2] - 1) / 2)
    rods = []
    for number, (contrast, radius_mm) in enumerate(RODS):
        at = _soft_place(hu, spacing[2], radius_mm, [(r, c) for r, c in rods], number)
        rods.append(at)
        shapes.rod(hu, np.array(at), radius_mm / spacing[2], contrast, add=True)
    middle = (np.asarray(hu.shape[1:]) - 1) / 2
    placed = [(float((r - middle[0]) * spacing[1]), float((c - middle[1]) * spacing[2])) for r, c in rods]
    return Body(np.clip(hu, AIR, 3000.0), grid, name, float(away.max() + 1.5) * spacing[2]), placed


def _thorax() -> tuple[Float32, tuple[float, float, float]]:
    spacing = (1.25, 0.9, 0.9)
    grid = Grid.centred((20, 288, 400), spacing, (0.0, 20.0, 0.0))
    made = voxelise(thorax(), grid, energy_kev=68.0, quantity="HU", oversample=2)
    return np.maximum(made.values, np.float32(AIR)), spacing


def _real(data: Path, name: str) -> tuple[Float32, tuple[float, float, float]]:
    if name == "neck":
        volume = dicom.subject(data / "ct/tcga_thca_E3-A3E5_lower_neck_only.tar.xz").volume
        values, spacing, first = sources.averaged(volume.values, 2), volume.grid.spacing_mm, 20
        spacing = (spacing[0], 2 * spacing[1], 2 * spacing[2])
        factor = (1.0, 1.0, 1.0)
    else:
        volume = dicom.subject(data / "ct/totalsegmentator/example_ct.nii.gz").volume
        values, spacing, first = volume.values, volume.grid.spacing_mm, 80
        factor = (3.0, 3.0, 3.0)
    thick = int(np.ceil(26.0 / spacing[0]))
    piece = np.clip(values[first : first + thick], AIR, 3000.0).astype(np.float32)
    piece = zoom(sources.guided(piece, 25.0), factor, order=3, grid_mode=True, mode="nearest")
    fine = tuple(one / by for one, by in zip(spacing, factor, strict=True))
    return np.ascontiguousarray(piece, np.float32), (fine[0], fine[1], fine[2])


def _soft_place(
    hu: Float32, pixel_mm: float, radius_mm: float, taken: list[tuple[float, float]], number: int
) -> tuple[float, float]:
    """The most uniform place of soft tissue within 100 mm of the axis, away from the rods that stand already."""
    reach = round(1.8 * radius_mm / pixel_mm)
    best, chosen = np.inf, (0.0, 0.0)
    middle = (np.asarray(hu.shape[1:]) - 1) / 2
    rng = np.random.default_rng(number)
    for _ in range(600):
        angle, away = rng.uniform(0, 2 * np.pi), 100.0 / pixel_mm * np.sqrt(rng.random())
        row, column = round(middle[0] + away * np.sin(angle)), round(middle[1] + away * np.cos(angle))
        window = hu[:, max(row - reach, 0) : row + reach + 1, max(column - reach, 0) : column + reach + 1]
        near = any(np.hypot(row - r, column - c) < 3.6 * radius_mm / pixel_mm for r, c in taken)
        if window.size == 0 or near or not -150 < float(window.mean()) < 150:
            continue
        if float(window.std()) < best:
            best, chosen = float(window.std()), (float(row), float(column))
    return chosen
