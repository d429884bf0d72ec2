"""Frames of one series → their order, the grid they stand on, and what is wrong with them.

Source: DICOM PS3.3 C.7.6.2.1.1 (image plane). Order is by position along the normal, never by InstanceNumber.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from lampyris.dicom.voxels import AIR_HU, Rescale
from lampyris.model import Float64, Grid, SeriesError, Volume
from lampyris.model.volume import Quantity

SAME_PLACE = 0.05
"""Two slices nearer than this part of a step are one slice twice."""

UNEVEN = 0.1
"""No slice may lie further from the even ladder than this part of a step: half a millimetre in a 5 mm series."""

UPRIGHT_PIXELS = 0.1
"""A drift of the whole stack below this part of a pixel is rounding, not gantry tilt."""


@dataclass(frozen=True, slots=True, eq=False)
class Frame:
    """One image of the series: where it is stored, where it lies, and how its values are to be read."""

    entry: int
    index: int
    number: int
    position_mm: Float64
    orientation: Float64
    spacing_mm: tuple[float, float]
    shape: tuple[int, int]
    thickness_mm: float | None
    rescale: Rescale
    padding_limit: int | None
    quantity: Quantity

    def __str__(self) -> str:
        return f"number {self.number}"


@dataclass(frozen=True, slots=True, eq=False)
class Stack:
    """Frames in order along `grid`'s slices; `step_mm` (x, y, z) from one image to the next.

    `tilt_deg` is the angle between the step and the normal of the images, 0 for an upright stack: then `grid` is exact.
    """

    frames: tuple[Frame, ...]
    grid: Grid
    step_mm: Float64
    tilt_deg: float


def stack(frames: Sequence[Frame]) -> Stack:
    """Order the frames and find their grid; SeriesError says which are doubled, missing, uneven or different."""
    _alike(frames)
    along_row, down_column, normal = _axes(frames[0].orientation)
    order = sorted(frames, key=lambda frame: float(frame.position_mm @ normal))
    heights = np.array([float(frame.position_mm @ normal) for frame in order])
    if len(order) == 1:
        step = normal * _lone_thickness(order[0])
    else:
        _check_ladder(order, heights)
        step = (order[-1].position_mm - order[0].position_mm) / (len(order) - 1)
    sideways = _sideways(order, step, normal)
    tilt = math.degrees(math.atan2(float(np.linalg.norm(sideways)), float(step @ normal)))
    rows, columns = order[0].shape
    spacing = (float(step @ normal), *order[0].spacing_mm)
    grid = Grid((len(order), rows, columns), spacing, order[0].position_mm, np.array([normal, down_column, along_row]))
    drift = float(np.linalg.norm(sideways)) * (len(order) - 1)
    upright = drift <= UPRIGHT_PIXELS * min(order[0].spacing_mm)
    return Stack(tuple(order), grid, step, 0.0 if upright else tilt)


def _alike(frames: Sequence[Frame]) -> None:
    """All frames must have the first one's shape, spacing, direction and quantity."""
    first = frames[0]
    for what, same in (
        ("matrix", lambda one: one.shape == first.shape),
        ("pixel spacing", lambda one: np.allclose(one.spacing_mm, first.spacing_mm, rtol=1e-4, atol=0)),
        ("orientation", lambda one: np.allclose(one.orientation, first.orientation, atol=1e-3)),
        ("quantity", lambda one: one.quantity == first.quantity),
    ):
        others = [frame for frame in frames if not same(frame)]
        if others:
            raise SeriesError(
                f"{len(others)} of {len(frames)} images differ in {what} from image {first}, such as {_some(others)}:"
                " two stacks or a reformatted image in one series?"
            )


def _axes(orientation: Float64) -> tuple[Float64, Float64, Float64]:
    """Unit vectors along a row, down a column, and their normal; six rounded cosines are made perpendicular."""
    along, down = orientation[:3], orientation[3:]
    lengths = np.linalg.norm(along), np.linalg.norm(down)
    if min(lengths) < 0.99 or max(lengths) > 1.01 or abs(along @ down) > 1e-2:
        raise SeriesError(f"ImageOrientationPatient {orientation.tolist()}: expected two perpendicular unit vectors")
    along = along / np.linalg.norm(along)
    down = down - (down @ along) * along
    down = down / np.linalg.norm(down)
    return along, down, np.cross(along, down)


def _lone_thickness(frame: Frame) -> float:
    if not frame.thickness_mm:
        raise SeriesError("one image without SliceThickness: its extent along the patient is not known")
    return frame.thickness_mm


def _check_ladder(order: Sequence[Frame], heights: Float64) -> None:
    steps = np.diff(heights)
    apart = steps[steps > SAME_PLACE * steps.max()]
    step = float(np.median(apart)) if len(apart) else 0.0
    double = np.flatnonzero(steps <= SAME_PLACE * step).tolist()
    if double:
        pairs = [f"{order[i]} and {order[i + 1]} at {heights[i]:.2f} mm" for i in double]
        raise SeriesError(
            f"{len(pairs)} positions are taken twice: {_some(pairs)}; a file copied, or several phases in one series?"
        )
    gaps = np.flatnonzero(steps > 1.5 * step).tolist()
    if gaps:
        holes = [
            f"{round(steps[i] / step) - 1} between {order[i]} at {heights[i]:.2f} mm and {order[i + 1]} at"
            f" {heights[i + 1]:.2f} mm"
            for i in gaps
        ]
        raise SeriesError(f"slices are missing from a step of {step:.3f} mm: {_some(holes)}; not all was sent?")
    even = np.linspace(heights[0], heights[-1], len(heights))
    off = np.abs(heights - even)
    worst = int(off.argmax())
    if off[worst] > UNEVEN * step:
        raise SeriesError(
            f"slices are uneven: {order[worst]} at {heights[worst]:.3f} mm lies {off[worst]:.3f} mm from the even"
            f" ladder of {step:.3f} mm, at most {UNEVEN * step:.3f} mm is read as even"
        )


def _sideways(order: Sequence[Frame], step: Float64, normal: Float64) -> Float64:
    """The part of the step that lies in the image; images that wander instead of stepping evenly are refused."""
    sideways = np.asarray(step - (step @ normal) * normal)
    for count, frame in enumerate(order):
        offset = frame.position_mm - order[0].position_mm
        wander = float(np.linalg.norm(offset - (offset @ normal) * normal - count * sideways))
        if wander > 0.5 * min(frame.spacing_mm):
            raise SeriesError(f"image {frame} lies {wander:.2f} mm to the side of the line of its neighbours")
    return sideways


def straightened(volume: Volume, step_mm: Float64) -> Volume:
    """A tilted stack resampled (trilinear) onto an upright grid: slices along the step, columns as they were.

    The new grid has the old spacing (the step's length along slices) and holds every voxel of the old one; what lay
    outside is air and not valid.
    """
    grid = volume.grid
    length = float(np.linalg.norm(step_mm))
    slices = step_mm / length
    columns = grid.axes[2] - (grid.axes[2] @ slices) * slices
    columns = columns / np.linalg.norm(columns)
    rows = np.cross(slices, columns)
    rows = rows if rows @ grid.axes[1] > 0 else -rows
    axes = np.array([slices, rows, columns])
    spacing = (length, grid.spacing_mm[1], grid.spacing_mm[2])
    old_steps = np.array([step_mm, grid.steps_mm[1], grid.steps_mm[2]])
    corners = np.array(list(np.ndindex(2, 2, 2))) * (np.asarray(grid.shape) - 1) @ old_steps
    reach = corners @ axes.T / spacing
    low = np.floor(reach.min(axis=0) + 1e-6)
    shape = np.ceil(reach.max(axis=0) - 1e-6).astype(int) - low.astype(int) + 1
    first = grid.first_voxel_mm + (low * spacing) @ axes
    upright = Grid((int(shape[0]), int(shape[1]), int(shape[2])), spacing, first, axes)
    matrix = (upright.steps_mm @ np.linalg.inv(old_steps)).T
    offset = (first - grid.first_voxel_mm) @ np.linalg.inv(old_steps)
    fill = AIR_HU if volume.quantity == "HU" else 0.0
    values = ndimage.affine_transform(volume.values, matrix, offset, upright.shape, order=1, cval=fill)
    measured = np.ones(grid.shape, np.float32) if volume.valid is None else volume.valid.astype(np.float32)
    weight = ndimage.affine_transform(measured, matrix, offset, upright.shape, order=1, cval=0.0)
    return Volume(values, upright, volume.quantity, "patient", volume.FrameOfReferenceUID, weight > 0.999)


def _some(items: Sequence[object]) -> str:
    """The first five, and how many more."""
    shown = "; ".join(str(one) for one in items[:5])
    return shown if len(items) <= 5 else f"{shown}; and {len(items) - 5} more"
