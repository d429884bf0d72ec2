"""An image of the study and the truth → figures of one cell, and of all seeds of a dose and recipe together."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

import numpy as np

from lampyris import path
from lampyris.dose_study.plan import Original, key
from lampyris.dose_study.store import Outcome
from lampyris.model import (
    Assessment,
    Bool,
    Float32,
    GridRequest,
    InputError,
    ProgramError,
    Projections,
    RawScan,
    Recipe,
    Spectrum,
    Volume,
)
from lampyris.model.arrays import new_digest, update_digest
from lampyris.phantom import Phantom, voxelise
from lampyris.physics.detector import hounsfield
from lampyris.quality import regions
from lampyris.quality.tasks import Split, split_error
from lampyris.quality.truth import BONE_HU, SOFT_HU, on_grid
from lampyris.recon import Checkpoint

KEPT_SLICES = 16
"""Slices about the middle that every cell keeps: the voxels that are compared between seeds."""
BEHIND_WATER_MM = 200.0
"""Water before a piece of the phantom for the HU that its material is expected to show."""
FEWEST_VOXELS = 500
"""A tissue of fewer voxels in the box has no error worth parting."""
EMPHYSEMA_HU = -950.0
MARGIN_MM = 12.0
"""What is kept around the body."""

Box = tuple[slice, slice, slice]


@dataclass(frozen=True, slots=True, eq=False)
class Ground:
    """What all cells of a study share: the grid, the truth on it, where the tissues are, and the box that is kept."""

    reference: Volume
    truth: Volume
    box: Box
    tissues: Mapping[str, Bool]
    known: path.Reference
    key: str

    @staticmethod
    def of(original: Original, reference: Volume) -> "Ground":
        """Bring the truth onto the reference image's grid and find the tissues in it."""
        truth = _truth(original, reference)
        tissues, inside = _tissues(truth)
        box = _box(truth, inside)
        digest = new_digest()
        update_digest(digest, "truth", truth.values)
        told = key(digest.hexdigest(), repr(box), repr(original.inserts))
        return Ground(
            reference, truth, box, {name: mask[box] for name, mask in tissues.items()},
            path.Reference(truth, original.inserts), told,
        )  # fmt: skip

    @property
    def spacing_mm(self) -> tuple[float, float, float]:
        return self.truth.grid.spacing_mm

    @property
    def shown(self) -> Float32:
        """The truth in the box; where it is not known, air."""
        values = self.truth.values[self.box]
        return np.where(np.isfinite(values), values, np.float32(-1000.0 if self.truth.quantity == "HU" else 0.0))

    def request(self, baseline: GridRequest) -> GridRequest:
        """The baseline's slices on the field of view of its image: images of other voxels could not be compared."""
        grid = self.reference.grid
        x, _, z = (float(each) for each in grid.centre_mm)
        return replace(baseline, field_of_view_mm=grid.shape[2] * grid.spacing_mm[2], centre_mm=(x, z))


def image(scan: RawScan, recipe: Recipe, watch: path.Watch) -> tuple[Volume, tuple[tuple[str, float], ...]]:
    """The reconstructed volume and the seconds of each station."""
    journey = path.travel((scan, recipe), Volume, watch=watch)
    return journey.the(Volume), journey.seconds


def measure(
    corrected: path.Journey, recipe: Recipe, ground: Ground, watch: path.Watch, checkpoint: Checkpoint
) -> Outcome:
    """Reconstruct and judge one cell of a corrected scan. Raises the error of whatever station fails."""
    scan = corrected.the(RawScan)
    given = (scan, corrected.the(Projections), recipe, ground.known)
    journey = path.travel(given, Assessment, watch=watch, checkpoint=checkpoint)
    volume = journey.the(Volume)
    _same_grid(volume, ground)
    lost = int(np.count_nonzero(~np.isfinite(volume.values)))
    if lost:
        raise ProgramError(f"the image holds {lost} NaN or infinite voxels of {volume.values.size}")
    return Outcome(
        (*corrected.seconds, *journey.seconds),
        scan.acquisition.CTDIvol,
        journey.the(Assessment),
        image=np.ascontiguousarray(volume.values[ground.box]),
    )


@dataclass(frozen=True, slots=True, eq=False)
class Seeds:
    """All seeds of one dose and recipe: how many, and the error of each tissue, in the box, in its parts.

    `splits` is empty for one seed: noise is what differs between seeds. `emphysema` is, for each seed, how far the
    share of the lung below −950 HU (LAA-950; Gevenois et al. 1995) is from the truth's, in percentage points; empty
    without lung.
    """

    seeds: int
    unit: str
    splits: tuple[Split, ...]
    emphysema: tuple[float, ...]


def over_seeds(images: Iterable[Float32], ground: Ground) -> Seeds:
    """The split error of images of one dose and recipe; tissues too small for its fit stay out."""
    stack = np.stack(list(images))
    unit, truth = ground.truth.quantity, ground.shown
    lung = ground.tissues.get("lung")
    shifts: tuple[float, ...] = ()
    if lung is not None and lung.any():
        real = np.mean(truth[lung] < EMPHYSEMA_HU)
        shifts = tuple(100 * float(np.mean(one[lung] < EMPHYSEMA_HU) - real) for one in stack)
    if len(stack) < 2:
        return Seeds(1, unit, (), shifts)
    large = {name: mask for name, mask in ground.tissues.items() if mask.sum() >= FEWEST_VOXELS}
    return Seeds(len(stack), unit, split_error(stack, truth, large, ground.spacing_mm), shifts)


def _truth(original: Original, reference: Volume) -> Volume:
    given = original.truth
    if given is None:
        return reference
    if reference.quantity != "HU":
        raise InputError(f"{original.title} gives an image in {reference.quantity}, a truth is in HU: leave it out")
    if isinstance(given, Volume):
        return on_grid(given, reference.grid)
    return _phantom(given, original.scan.spectrum, reference)


def _phantom(body: Phantom, spectrum: Spectrum | None, reference: Volume) -> Volume:
    """The phantom's voxels at the HU that each material shows in the scan's beam behind some water."""
    if spectrum is None:
        raise InputError("the scan's spectrum is not known, so what a phantom's materials show in HU is not either")
    hu = {name: hounsfield(name, spectrum, behind_water_mm=BEHIND_WATER_MM) for name in body.materials}
    relative = {name: 1 + value / 1000 for name, value in hu.items()} | {"water": 1.0}
    return voxelise(body, reference.grid, per_mm=relative, quantity="HU")


def _tissues(truth: Volume) -> tuple[dict[str, Bool], Bool]:
    """Voxel masks of body, lung, soft tissue and bone as `quality.truth.compare` parts them, and the body in blocks."""
    blocks = regions.coarse(truth)
    threshold = -500.0 if truth.quantity == "HU" else regions.otsu(blocks.values)
    inside = regions.body(blocks, threshold)
    every = slice(0, truth.grid.shape[0])
    known = np.isfinite(truth.values) if truth.valid is None else truth.valid
    body = blocks.spread(inside, every) & known
    if truth.quantity != "HU":
        return {"body": body}, body
    lung = blocks.spread(regions.lungs(blocks, inside), every) & known
    soft = body & (truth.values > SOFT_HU[0]) & (truth.values < SOFT_HU[1])
    return {"body": body, "lung": lung, "soft_tissue": soft, "bone": body & (truth.values > BONE_HU)}, body


def _box(truth: Volume, body: Bool) -> Box:
    """The middle slices that hold some body, cut to the body and a margin."""
    holding = np.flatnonzero(body.any(axis=(1, 2)))
    if holding.size == 0:
        raise InputError("the truth holds no body in the field of view: another place or frame?")
    middle = int(holding[holding.size // 2])
    first = max(0, min(middle - KEPT_SLICES // 2, truth.grid.shape[0] - KEPT_SLICES))
    kept = slice(first, min(first + KEPT_SLICES, truth.grid.shape[0]))
    sides = []
    for axis, (count, step) in enumerate(zip(truth.grid.shape[1:], truth.grid.spacing_mm[1:], strict=True)):
        seen = np.flatnonzero(body[kept].any(axis=(0, 2 - axis)))
        margin = int(np.ceil(MARGIN_MM / step))
        sides.append(slice(max(0, int(seen[0]) - margin), min(count, int(seen[-1]) + margin + 1)))
    return kept, sides[0], sides[1]


def _same_grid(volume: Volume, ground: Ground) -> None:
    wanted, found = ground.truth.grid, volume.grid
    near = found.shape == wanted.shape and np.allclose(found.spacing_mm, wanted.spacing_mm, rtol=1e-6)
    if not near or not np.allclose(found.first_voxel_mm, wanted.first_voxel_mm, atol=1e-3):
        raise InputError(
            f"the image is {found.shape} of {found.spacing_mm} mm, the study's {wanted.shape} of"
            f" {wanted.spacing_mm} mm: they cannot be compared voxel by voxel"
        )
