"""NIfTI file → Volume in patient coordinates.

Source: NIfTI-1 (Cox 2004): the affine maps voxel (i, j, k) to RAS mm. Ours is LPS: x and y change sign.
"""

import zlib
from pathlib import Path

import nibabel
import numpy as np
from nibabel.filebasedimages import ImageFileError
from nibabel.spatialimages import SpatialImage
from numpy.typing import NDArray

from lampyris.dicom.voxels import AIR_HU, padded_hu
from lampyris.model import FormatError, GeometryError, Grid, InputError, Volume
from lampyris.model.volume import Quantity

_RAS_TO_LPS = np.diag([-1.0, -1.0, 1.0])
_UNIT_MM = {"unknown": 1.0, "mm": 1.0, "meter": 1e3, "micron": 1e-3}


def read_nifti(path: Path | str, *, quantity: Quantity = "HU") -> Volume:
    """Read a three-dimensional NIfTI image; slices, rows, columns are its k, j, i axes, none resampled or flipped.

    Vendors' padding (exactly −2000, −2048, −3024 or −3072 HU) reads as −1000 HU with `valid` False. Raises InputError
    (no such file), FormatError (no NIfTI, truncated, not 3-D, no orientation, NaN, or values that are not `quantity`)
    and GeometryError (a sheared affine).
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(f"there is no file {path}")
    try:
        image = nibabel.load(path)
        values = np.asarray(image.dataobj, dtype=np.float32)
    except (ImageFileError, OSError, EOFError, ValueError, zlib.error) as error:
        raise FormatError(f"the NIfTI file cannot be read ({type(error).__name__}): truncated or no NIfTI?") from None
    values = values[..., 0] if values.ndim == 4 and values.shape[3] == 1 else values
    if values.ndim != 3:
        raise FormatError(
            f"the NIfTI image has shape {values.shape}, expected three axes: a time series or a vector field?"
        )
    grid = _grid(image, (values.shape[2], values.shape[1], values.shape[0]))
    values = np.ascontiguousarray(values.T)
    _check(values, quantity)
    padding = padded_hu(values) if quantity == "HU" else np.zeros(values.shape, np.bool_)
    if padding.any():
        values[padding] = AIR_HU
    return Volume(values, grid, quantity, "patient", valid=~padding if padding.any() else None)


def _grid(image: SpatialImage, shape: tuple[int, int, int]) -> Grid:
    """The lattice of the affine, in LPS mm."""
    header = image.header
    if isinstance(header, nibabel.Nifti1Header):
        if int(header["sform_code"]) == 0 and int(header["qform_code"]) == 0:
            raise FormatError(
                "the NIfTI header has no orientation (sform and qform code 0): left and right are unknown"
            )
        unit = _UNIT_MM[header.get_xyzt_units()[0]]
    else:
        raise FormatError(f"the file is a {type(image).__name__}, expected NIfTI")
    steps = (_RAS_TO_LPS @ image.affine[:3, :3] * unit).T[::-1]
    spacing = np.linalg.norm(steps, axis=1)
    if not np.isfinite(image.affine).all() or spacing.min() <= 0:
        raise FormatError(f"the NIfTI affine has voxels of {spacing.tolist()} mm")
    axes = steps / spacing[:, None]
    worst = float(np.abs(axes @ axes.T - np.eye(3)).max())
    if worst > 1e-4:
        angle = float(np.degrees(np.arcsin(min(worst, 1.0))))
        raise GeometryError(
            f"the NIfTI affine is sheared by {angle:.2f}°: a tilted gantry? Read the DICOM series, or resample the file"
        )
    first = _RAS_TO_LPS @ image.affine[:3, 3] * unit
    return Grid(shape, (float(spacing[0]), float(spacing[1]), float(spacing[2])), first, axes)


def _check(values: NDArray[np.float32], quantity: Quantity) -> None:
    """Refuse what cannot be the quantity: a label map, values offset by 1024, 1/mm called HU, HU called 1/mm."""
    bad = int(values.size - np.isfinite(values).sum())
    if bad:
        raise FormatError(f"{bad} of {values.size} NIfTI voxels are NaN or infinite")
    low, high = float(values.min()), float(values.max())
    if quantity == "HU" and (low >= 0 or low < -32768 or high > 65535 or high - low < 10):
        raise FormatError(
            f"NIfTI values reach from {low:g} to {high:g}, that is not HU: a label map, values offset by 1024, or 1/mm?"
        )
    if quantity == "1/mm" and (high > 50 or low < -50):
        raise FormatError(f"NIfTI values reach from {low:g} to {high:g}, that is not attenuation in 1/mm: HU?")
