"""Values on a regular lattice in space: grid and volume, and the way from the gantry's frame to the patient's.

Arrays are (slices, rows, columns). In the gantry frame (IEC 61217 fixed, carried by the table) the default axes are
slices +y, rows −z, columns +x: already a head-first supine DICOM stack. Source: IEC 61217; DICOM PS3.3 C.7.3.1.1.2.
"""

import itertools
from dataclasses import dataclass, field, replace
from typing import Literal, TypeAlias

import numpy as np

from lampyris.model.arrays import Float32, Float64, frozen
from lampyris.model.errors import GeometryError, InputError

Quantity: TypeAlias = Literal["HU", "1/mm"]
Frame: TypeAlias = Literal["gantry", "patient"]

DEFAULT_AXES = np.array([[0.0, 1.0, 0.0], [0.0, 0.0, -1.0], [1.0, 0.0, 0.0]])
"""Unit vectors (x, y, z) along slices, rows and columns."""

# Where the patient's left (+L), posterior (+P) and superior (+S) point in the gantry frame.
_DIRECTIONS = {
    "HFS": ("+x", "-z", "+y"),
    "HFP": ("-x", "+z", "+y"),
    "FFS": ("-x", "-z", "-y"),
    "FFP": ("+x", "+z", "-y"),
    "HFDR": ("+z", "+x", "+y"),
    "HFDL": ("-z", "-x", "+y"),
    "FFDR": ("+z", "-x", "-y"),
    "FFDL": ("-z", "+x", "-y"),
}
PATIENT_POSITIONS = tuple(_DIRECTIONS)


def patient_axes(PatientPosition: str) -> Float64:
    """Rows are the patient's L, P and S as unit vectors of the gantry frame, for DICOM (0018,5100).

    The product with a gantry vector is the same vector in DICOM patient coordinates.
    """
    if PatientPosition not in _DIRECTIONS:
        raise InputError(f"PatientPosition {PatientPosition!r} is none of {', '.join(PATIENT_POSITIONS)}")
    axes = np.zeros((3, 3))
    for row, direction in enumerate(_DIRECTIONS[PatientPosition]):
        axes[row, "xyz".index(direction[1])] = 1.0 if direction[0] == "+" else -1.0
    return axes


@dataclass(frozen=True, slots=True, eq=False)
class Grid:
    """A lattice of voxels: `shape` (slices, rows, columns), `spacing_mm` along the same three,
    `first_voxel_mm` (x, y, z) centre of voxel [0, 0, 0], `axes` (3, 3) unit vectors along slices, rows, columns.
    """

    shape: tuple[int, int, int]
    spacing_mm: tuple[float, float, float]
    first_voxel_mm: Float64
    axes: Float64 = field(default_factory=lambda: DEFAULT_AXES)

    def __post_init__(self) -> None:
        shape = tuple(int(n) for n in self.shape)
        spacing = tuple(float(d) for d in self.spacing_mm)
        if len(shape) != 3 or min(shape) < 1 or len(spacing) != 3 or not min(spacing) > 0:
            raise GeometryError(f"grid of {self.shape} voxels spaced {self.spacing_mm} mm: expected three of each, > 0")
        object.__setattr__(self, "shape", shape)
        object.__setattr__(self, "spacing_mm", spacing)
        object.__setattr__(self, "first_voxel_mm", frozen(self.first_voxel_mm, np.float64, "first_voxel_mm", (3,)))
        object.__setattr__(self, "axes", frozen(self.axes, np.float64, "grid.axes", (3, 3)))
        if not np.allclose(self.axes @ self.axes.T, np.eye(3), atol=1e-4):
            raise GeometryError(f"grid axes {self.axes.tolist()} are not perpendicular unit vectors")

    @staticmethod
    def centred(
        shape: tuple[int, int, int],
        spacing_mm: tuple[float, float, float],
        centre_mm: tuple[float, float, float] = (0.0, 0.0, 0.0),
    ) -> "Grid":
        """A grid with the default axes whose middle lies at `centre_mm` (x, y, z)."""
        half = (np.asarray(shape) - 1) / 2 * np.asarray(spacing_mm)
        return Grid(shape, spacing_mm, np.asarray(centre_mm) - half @ DEFAULT_AXES)

    @property
    def steps_mm(self) -> Float64:
        """(3, 3) mm: displacement to the next slice, row and column."""
        return np.asarray(self.axes * np.asarray(self.spacing_mm)[:, None], np.float64)

    @property
    def centre_mm(self) -> Float64:
        return self.position_mm((np.asarray(self.shape) - 1) / 2)

    def position_mm(self, index: object) -> Float64:
        """Points (…, 3) mm of fractional indices (…, 3) in the order (slice, row, column)."""
        return np.asarray(self.first_voxel_mm + np.asarray(index, np.float64) @ self.steps_mm, np.float64)

    def index(self, position_mm: object) -> Float64:
        """Fractional indices (…, 3) of points (…, 3) mm: the inverse of `position_mm`."""
        offset = np.asarray(position_mm, np.float64) - self.first_voxel_mm
        return np.asarray(offset @ self.axes.T / np.asarray(self.spacing_mm), np.float64)

    def slab(self, start: int, stop: int) -> "Grid":
        """The slices [start, stop) of this grid, in place."""
        return replace(
            self, shape=(stop - start, *self.shape[1:]), first_voxel_mm=self.position_mm((float(start), 0.0, 0.0))
        )


@dataclass(frozen=True, slots=True, eq=False)
class Volume:
    """Image values float32 on a grid; `quantity` says HU or 1/mm, `frame` whose axes the grid is written in.

    `valid` (slices, rows, columns) is False where nothing was measured (padding of a DICOM series, outside the scan
    field); None = valid everywhere.
    """

    values: Float32
    grid: Grid
    quantity: Quantity
    frame: Frame = "gantry"
    FrameOfReferenceUID: str | None = None
    valid: np.ndarray | None = None

    def __post_init__(self) -> None:
        values = np.asarray(self.values)
        if values.shape != self.grid.shape:
            raise InputError(f"volume of {values.shape} voxels on a grid of {self.grid.shape}")
        if values.dtype != np.float32:
            raise InputError(f"volume values are {values.dtype}, expected float32")
        if self.valid is not None and (self.valid.shape != values.shape or self.valid.dtype != np.bool_):
            raise InputError(f"valid is {self.valid.dtype} {self.valid.shape}, expected bool {values.shape}")
        if self.quantity not in ("HU", "1/mm") or self.frame not in ("gantry", "patient"):
            raise InputError(f"quantity {self.quantity!r}, frame {self.frame!r}: not HU | 1/mm and gantry | patient")

    def along(self, axes: Float64) -> "Volume":
        """The same voxels in C order, re-indexed so that slices, rows and columns run most towards those three axes.

        `axes` (3, 3) unit vectors in this volume's frame. Only transposes and reversals: nothing is resampled and
        every voxel stays where it is.
        """
        grid = self.grid
        toward = grid.axes @ np.asarray(axes).T
        order = max(itertools.permutations(range(3)), key=lambda p: sum(abs(toward[p[k], k]) for k in range(3)))
        backwards = np.array([toward[order[k], k] < 0 for k in range(3)])
        corner = np.zeros(3)
        corner[list(order)] = np.where(backwards, np.asarray(grid.shape)[list(order)] - 1, 0)
        flip = tuple(slice(None, None, -1 if back else 1) for back in backwards)
        turned = Grid(
            (grid.shape[order[0]], grid.shape[order[1]], grid.shape[order[2]]),
            (grid.spacing_mm[order[0]], grid.spacing_mm[order[1]], grid.spacing_mm[order[2]]),
            grid.position_mm(corner),
            grid.axes[list(order)] * np.where(backwards, -1.0, 1.0)[:, None],
        )
        valid = None if self.valid is None else np.ascontiguousarray(self.valid.transpose(order)[flip])
        return replace(self, values=np.ascontiguousarray(self.values.transpose(order)[flip]), grid=turned, valid=valid)

    def place(self, PatientPosition: str, origin_mm: object) -> "Volume":
        """This gantry volume in patient coordinates, no voxel touched.

        `origin_mm` is where the gantry frame's origin lies in the patient, DICOM (0018,9313).
        """
        if self.frame != "gantry":
            raise InputError("the volume is already in patient coordinates")
        turn = patient_axes(PatientPosition)
        first = turn @ self.grid.first_voxel_mm + np.asarray(origin_mm, np.float64)
        grid = Grid(self.grid.shape, self.grid.spacing_mm, first, self.grid.axes @ turn.T)
        return replace(self, grid=grid, frame="patient")

    def lift(self, PatientPosition: str, origin_mm: object) -> "Volume":
        """The inverse of `place`: this patient volume in the gantry frame, no voxel touched."""
        if self.frame != "patient":
            raise InputError("the volume is already in the gantry frame")
        turn = patient_axes(PatientPosition)
        first = turn.T @ (self.grid.first_voxel_mm - np.asarray(origin_mm, np.float64))
        grid = Grid(self.grid.shape, self.grid.spacing_mm, first, self.grid.axes @ turn)
        return replace(self, grid=grid, frame="gantry")
