"""Files of one CT series → cuts through the patient, axial, coronal and sagittal, with their place in millimetres.

A cut is seen as radiology sees it: axial from the feet, coronal from the front, both with the patient's left at the
viewer's right; sagittal from the left; the head up. The letters at its edges are what its axes say, not what is hoped.
"""

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from lampyris.dicom import read_series
from lampyris.dicom.voxels import upright
from lampyris.model import Float32, Float64, InputError, Volume
from lampyris.model.volume import Quantity

PLANES = ("axial", "coronal", "sagittal")
THINNEST = 0.1
"""A volume that is less high than this part of its breadth is shown in axial cuts alone: others would be stripes."""
_LETTERS = (("L", "R"), ("P", "A"), ("H", "F"))
_PARALLEL = 1e-3


@dataclass(frozen=True, slots=True, eq=False)
class Cut:
    """Values (rows, columns) of a plane; millimetres along its axes of the first value, and from one to the next.

    `at_mm` is its place along its normal. `letters` stand left, right, above and below. `axes` (2, 3) are unit vectors
    to the right and downwards, in patient coordinates.
    """

    plane: str
    values: Float32
    first_mm: tuple[float, float]
    step_mm: tuple[float, float]
    at_mm: float
    axes: Float64
    quantity: Quantity

    @property
    def letters(self) -> tuple[str, str, str, str]:
        right, down = self.axes
        return letter(-right), letter(right), letter(-down), letter(down)

    @property
    def size_mm(self) -> tuple[float, float]:
        """Breadth and height."""
        rows, columns = self.values.shape
        return columns * self.step_mm[0], rows * self.step_mm[1]


def letter(direction: Float64) -> str:
    """The side of the patient that a direction points to: L R P A H F.

    >>> letter(np.array([-0.9, 0.1, 0.0]))
    'R'
    """
    axis = int(np.abs(direction).argmax())
    return _LETTERS[axis][0 if direction[axis] > 0 else 1]


def volume_of(files: Sequence[Path], series_uid: str) -> Volume:
    """The series that lies in these files, upright in the patient. Raises SeriesError, FormatError, StorageError.

    One file of many gives the one slice that it holds.
    """
    with tempfile.TemporaryDirectory(prefix="lampyris-cut-") as folder:
        for number, file in enumerate(files):
            (Path(folder) / f"{number:05d}.dcm").symlink_to(file)
        return upright(read_series(folder, series_uid=series_uid).volume)


def cut(volume: Volume, plane: str, at_mm: float | None = None) -> Cut:
    """The cut nearest to a place along the plane's normal, the middle one if none is given. InputError."""
    if plane not in PLANES:
        raise InputError(f"there is no plane {plane[:20]!a}: there are {', '.join(PLANES)}")
    axis = PLANES.index(plane)
    values, axes, first, step = volume.values, volume.grid.axes, *_ladder(volume)
    count = values.shape[axis]
    index = count // 2 if at_mm is None else min(max(round((at_mm - first[axis]) / step[axis]), 0), count - 1)
    place = first[axis] + index * step[axis]
    if plane == "axial":
        return Cut(plane, values[index], (first[2], first[1]), (step[2], step[1]), place, axes[[2, 1]], volume.quantity)
    top = -(first[0] + (values.shape[0] - 1) * step[0])  # the last slice is nearest to the head, and stands above
    across = 2 if plane == "coronal" else 1
    shown = values[::-1, index, :] if plane == "coronal" else values[::-1, :, index]
    shown = np.ascontiguousarray(shown)
    down = np.array([axes[across], -axes[0]])
    return Cut(plane, shown, (first[across], top), (step[across], step[0]), place, down, volume.quantity)


def planes_of(volume: Volume) -> tuple[str, ...]:
    """The planes in which the volume has something to show."""
    slices, _, columns = volume.values.shape
    height, breadth = slices * volume.grid.spacing_mm[0], columns * volume.grid.spacing_mm[2]
    return PLANES if height >= THINNEST * breadth else PLANES[:1]


def parallel(one: Cut, other: Cut) -> bool:
    """Whether two cuts lie in planes with the same axes, so that they can be laid upon each other."""
    return one.plane == other.plane and bool(np.abs(one.axes - other.axes).max() < _PARALLEL)


def _ladder(volume: Volume) -> tuple[list[float], list[float]]:
    """Where the first voxel lies along slices, rows and columns, and the steps along them."""
    grid = volume.grid
    return [float(axis @ grid.first_voxel_mm) for axis in grid.axes], [float(step) for step in grid.spacing_mm]
