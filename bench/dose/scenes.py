"""A scene's name → subject, scanner, slices and truth: held-out anatomy and phantoms, none of them seen in training.

Every scene is scanned once without noise; doses and seeds are realisations of it, so that all methods and all doses
meet the same raw data. 200 mAs per turn at 120 kV are the full dose; slices are 1 mm.
"""

import dataclasses
import os
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import nibabel as nib
import numpy as np

from lampyris import dicom, phantom, simulate
from lampyris.model import Grid, GridRequest, InputError, RawScan, Volume
from lampyris.model.volume import DEFAULT_AXES
from lampyris.phantom import Insert, Part, Phantom
from lampyris.phantom.shapes import Ellipsoid
from lampyris.quality.truth import on_grid
from lampyris.simulate.run import beam_of, effective_energy_kev

DATA = Path(os.environ.get("LAMPYRIS_DATA", "../shared/data")) / "ct"
MAS = 200.0
"""Per turn at full dose: a CTDIvol as reference levels for the abdomen have it."""
ROWS = 24
"""Of the 64 rows: enough for 12 slices, so that a study of many doses, seeds and methods can be made on two cores."""
VIEWS = 768
SLICES_MM = 1.0
SLICES = 12


@dataclass(frozen=True, slots=True, eq=False)
class Scene:
    """What lies in the scanner, where it is imaged (`y_mm`: middle of the slices), and what is known of it.

    `labels` are organ numbers on the lattice of the subject; `title` is what a table calls it; `why` what it is for.
    """

    name: str
    title: str
    why: str
    subject: Phantom | Volume
    y_mm: float
    scanner: str = "mdct64"
    labels: Volume | None = None
    field_mm: float = 400.0
    slices: int = SLICES
    rows: int = ROWS

    @property
    def machine(self) -> simulate.Scanner:
        machine = simulate.scanner(self.scanner)
        return dataclasses.replace(machine, rows=min(self.rows, machine.rows), views_per_turn=VIEWS)

    def protocol(self, *, noise: bool) -> simulate.Protocol:
        return simulate.Protocol(
            "axial", mas=MAS, first_mm=self.y_mm - 1, last_mm=self.y_mm + 1, noise=noise, truncated_ok=True
        )  # fmt: skip

    def grid(self) -> GridRequest:
        """The slices that are imaged."""
        half = (self.slices - 1) / 2 * SLICES_MM
        return GridRequest(
            512, self.field_mm, (0.0, 0.0), SLICES_MM, first_mm=self.y_mm - half, last_mm=self.y_mm + half
        )


def quiet_scan(scene: Scene) -> RawScan:
    """The expectation of every count."""
    return simulate.scan(scene.subject, scene.machine, scene.protocol(noise=False))


def truth_on(scene: Scene, grid: Grid) -> Volume:
    """The truth in HU on an image's own lattice: averages over each voxel, at the beam's effective energy."""
    if isinstance(scene.subject, Volume):
        return on_grid(scene.subject, grid)
    spectrum = beam_of(scene.machine, scene.protocol(noise=False))
    return phantom.voxelise(scene.subject, grid, energy_kev=effective_energy_kev(spectrum), quantity="HU")


def names() -> tuple[str, ...]:
    """All scenes."""
    return tuple(_SCENES)


@cache
def scene(name: str) -> Scene:
    """A scene by name; the real volumes are read from the shared data folder."""
    return _SCENES[name]()


def _volume(file: str) -> Volume:
    """A CT volume in the gantry frame about its own middle."""
    series = dicom.subject(DATA / file)
    x, y, z = (float(each) for each in series.volume.grid.centre_mm)
    return series.volume.lift(series.acquisition.PatientPosition, (x, y, z)).along(DEFAULT_AXES)


def _anatomy(file: str, y_mm: float, *, scale: float = 1.0) -> Volume:
    """40 mm of a volume about y, without its noise, on a lattice of 1 mm; `scale` makes the body larger or smaller.

    The noise is taken out by anisotropic diffusion (Perona & Malik 1990, IEEE PAMI 12:629): what is scanned is its
    result, so that this is the truth and not a blurred copy of it.
    """
    whole = _volume(file)
    whole = dataclasses.replace(
        whole,
        grid=Grid(
            whole.grid.shape,
            tuple(scale * step for step in whole.grid.spacing_mm),
            scale * whole.grid.first_voxel_mm,
            whole.grid.axes,
        ),
    )
    step = whole.grid.spacing_mm
    first = max(0, int(whole.grid.index((0, y_mm - 26.0, 0))[0]))
    last = min(whole.grid.shape[0], int(np.ceil(whole.grid.index((0, y_mm + 26.0, 0))[0])) + 1)
    values = diffused(np.clip(whole.values[first:last], -1000.0, 3000.0))
    slab = whole.grid.slab(first, last)
    fine = Grid.centred(
        tuple(int((n - 1) * d / 1.0) for n, d in zip(slab.shape, step, strict=True)),
        (1.0, 1.0, 1.0),
        tuple(float(each) for each in slab.centre_mm),
    )
    found = on_grid(Volume(values, slab, "HU"), fine)
    return Volume(np.where(np.isfinite(found.values), found.values, np.float32(-1000.0)), fine, "HU")


def diffused(hu: np.ndarray, *, steps: int = 12, edge_hu: float = 45.0) -> np.ndarray:
    """HU smoothed where neighbours differ by less than `edge_hu`, left alone across edges."""
    values = hu.astype(np.float32)
    for _ in range(steps):
        flow = np.zeros_like(values)
        for axis in range(3):
            step = np.diff(values, axis=axis)
            step *= np.exp(-((step / edge_hu) ** 2))
            pads = [[(0, 0)] * 3 for _ in range(2)]
            pads[0][axis], pads[1][axis] = (0, 1), (1, 0)
            flow += np.pad(step, pads[0]) - np.pad(step, pads[1])
        values += np.float32(1 / 7) * flow
    return values


def _labels() -> Volume:
    """Organ numbers on the lattice of the CT volume that they were drawn on, (slices, rows, columns)."""
    image = nib.load(DATA / LABELS)
    if not np.allclose(image.affine, nib.load(DATA / TOTAL).affine):
        raise InputError(f"{LABELS} does not lie on the lattice of {TOTAL}")
    values = np.asarray(nib.as_closest_canonical(image).dataobj, np.float32)  # to right, anterior, superior
    return Volume(np.ascontiguousarray(values[::-1, ::-1].T), _volume(TOTAL).grid, "HU")


def _abdomen() -> Scene:
    return Scene(
        "abdomen", "abdomen (TotalSegmentator example)", "soft organs, 36 cm wide", _anatomy(TOTAL, 121.5), 121.5,
        labels=_labels(),
    )  # fmt: skip


def _pelvis() -> Scene:
    return Scene(
        "pelvis", "pelvis with a metal hip (TotalSegmentator example)", "metal, two hips in one line",
        _anatomy(TOTAL, -139.5), -139.5, labels=_labels(),
    )  # fmt: skip


def _large() -> Scene:
    return Scene(
        "large", "abdomen, 45 cm wide (the same, 1.25 times as large)", "starved rays",
        _anatomy(TOTAL, 97.5 * 1.25, scale=1.25), 97.5 * 1.25, field_mm=480.0,
    )  # fmt: skip


def _child() -> Scene:
    return Scene(
        "child", "abdomen, 20 cm wide (the same, 0.56 times as large)", "a child's size",
        _anatomy(TOTAL, 121.5 * 0.56, scale=0.56), 121.5 * 0.56, field_mm=220.0,
    )  # fmt: skip


def _neck() -> Scene:
    return Scene(
        "neck", "neck on the 16-row scanner (TCGA-THCA)", "anatomy and scanner not trained on",
        _anatomy("tcga_thca_E3-A3E5_lower_neck_only.tar.xz", 0.0), 0.0, scanner="mdct16", field_mm=280.0,
    )  # fmt: skip


LESION_Y_MM = 20.0
NODULES = ((4.0, (-45.0, 13.5)), (6.0, (53.0, -46.0)), (8.0, (-53.0, -46.0)), (10.0, (67.0, 32.5)))
"""Diameter mm and place (x, z) mm of solid nodules, where no vessel of the phantom runs."""
PATCHES = ((0.03, (-92.5, -10.0)), (0.10, (93.0, -12.0)))
"""Share of emphysema and place (x, z) mm of two cylinders of lung."""
PATCH_MM = 15.0
HOLES_MM = (1.6, 3.0)
"""Radii of the holes of emphysema."""
LUNG, EMPHYSEMA = "lung*0.6", "lung*0.05"


def _thorax() -> Scene:
    """The thorax phantom with solid nodules of four sizes and two patches of emphysema at one level."""
    body, rng = phantom.thorax(), np.random.default_rng(11)
    parts, inserts = [], []
    for size, (x, z) in NODULES:
        centre = (x, LESION_Y_MM, z)
        parts.append(Part(Ellipsoid(centre, (size / 2,) * 3), "soft_tissue", LUNG))
        inserts.append(Insert(f"solid nodule {size:g} mm", centre, size / 2, "soft_tissue"))
    for share, (x, z) in PATCHES:
        parts += [Part(Ellipsoid(at, (r, r, r)), EMPHYSEMA, LUNG) for at, r in _holes(share, x, z, rng)]
        inserts.append(Insert(f"emphysema {100 * share:g} %", (x, LESION_Y_MM, z), PATCH_MM, LUNG))
    whole = Phantom((*body.parts, *parts), tuple(inserts), "thorax with lesions")
    return Scene(
        "thorax",
        "thorax phantom, nodules and emphysema",
        "lung",
        whole,
        LESION_Y_MM,
        field_mm=370.0,
        slices=24,
        rows=64,
    )


def _holes(
    share: float, x: float, z: float, rng: np.random.Generator
) -> list[tuple[tuple[float, float, float], float]]:
    """Balls that do not touch, in a cylinder along y, until they fill that share of it."""
    half = 12.0 + 3.0
    wanted, filled = share * np.pi * PATCH_MM**2 * 2 * half, 0.0
    holes: list[tuple[tuple[float, float, float], float]] = []
    while filled < wanted:
        r = float(rng.uniform(*HOLES_MM))
        angle, out = rng.uniform(0, 2 * np.pi), (PATCH_MM - r) * np.sqrt(rng.uniform())
        at = (
            float(x + out * np.cos(angle)),
            float(LESION_Y_MM + rng.uniform(-half, half)),
            float(z + out * np.sin(angle)),
        )
        if all(np.linalg.norm(np.subtract(at, other)) > r + s + 0.3 for other, s in holes):
            holes.append((at, r))
            filled += 4 / 3 * np.pi * r**3
    return holes


def _rods() -> Scene:
    """The sensitometry section of the image-quality phantom, as large as a slim adult."""
    return Scene(
        "rods", "image-quality phantom, 32 cm: rods", "resolution by contrast", phantom.image_quality(320.0), -40.0
    )


def _contrast() -> Scene:
    return Scene(
        "contrast",
        "image-quality phantom, 32 cm: low contrast",
        "detectability",
        phantom.image_quality(320.0),
        0.0,
        field_mm=340.0,
    )


LABELS = "totalsegmentator/example_seg_fast_force_split.nii.gz"
TOTAL = "totalsegmentator/example_ct.nii.gz"
_SCENES: dict[str, Callable[[], Scene]] = {
    "abdomen": _abdomen,
    "thorax": _thorax,
    "rods": _rods,
    "contrast": _contrast,
    "pelvis": _pelvis,
    "large": _large,
    "child": _child,
    "neck": _neck,
}
