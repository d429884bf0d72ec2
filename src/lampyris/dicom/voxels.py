"""Volume → 16-bit stored values with the attributes that explain them, and back: orientation, rescale, padding.

Source: DICOM PS3.3 C.7.6.3 (Image Pixel), C.8.2.1 (CT Image: rescale), C.7.5.1.1.2 (Pixel Padding Value).
"""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence

from lampyris.dicom.header import code, put
from lampyris.model import InputError, Volume
from lampyris.model.volume import Quantity

LOWEST, HIGHEST = -32767, 32767
"""Stored values that carry image; −32768 is kept for padding."""

HU_INTERCEPT = -1024.0
"""With signed 16 bits: −33791…31743 HU in steps of 1 HU."""

AIR_HU = -1000.0
"""What a padded voxel reads as; `valid` says that it was not measured."""

KNOWN_PADDING_HU = (-2000.0, -2048.0, -3024.0, -3072.0)
"""Vendors' undeclared padding: a stored −2000 or −2048, with intercept 0 or −1024."""

_LPS_PAGE = np.array([[0.0, 0.0, 1.0], [0.0, 1.0, 0.0], [1.0, 0.0, 0.0]])


def upright(volume: Volume) -> Volume:
    """The same voxels, re-indexed so that slices run most towards S, rows towards P and columns towards L.

    Only transposes and reversals: no value changes and every voxel stays where it is. The patient then lies on the
    page as radiology reads it, seen from the feet with the left at the viewer's right, for all eight positions.
    """
    if volume.frame != "patient":
        raise InputError("the volume is in the gantry frame: place it in the patient first (Volume.place)")
    return volume.along(_LPS_PAGE)


@dataclass(frozen=True, slots=True)
class Rescale:
    """value = slope · stored + intercept; `padding` is the stored value declared as “not measured”, None = none is."""

    slope: float
    intercept: float
    padding: int | None = None

    def store(self, values: NDArray[np.float32], valid: NDArray[np.bool_] | None) -> NDArray[np.int16]:
        """Nearest stored value, little-endian signed 16 bits, any shape; the range was checked by `rescale_of`."""
        if valid is not None:
            values = np.where(valid, values, np.float32(self.intercept))
        stored = np.rint((values.astype(np.float64) - self.intercept) / self.slope).astype("<i2")
        if valid is not None and self.padding is not None:
            stored[~valid] = self.padding
        return stored


def rescale_of(volume: Volume) -> Rescale:
    """The rescale that holds every measured value of the volume: HU in steps of 1, 1/mm in steps of 1, 2 or 5 · 10ⁿ.

    Raises InputError for NaN or infinity, and for HU outside −33791…31743: nothing is clipped.
    """
    values = volume.values if volume.valid is None else volume.values[volume.valid]
    bad = int(values.size - np.isfinite(values).sum())
    if bad:
        raise InputError(f"{bad} of {values.size} voxels are NaN or infinite: a reconstruction that diverged?")
    low, high = (float(values.min()), float(values.max())) if values.size else (0.0, 0.0)
    if volume.quantity == "1/mm":
        return Rescale(_decimal_step(max(abs(low), abs(high))), 0.0, _padding(volume, low, None))
    least, most = LOWEST + HU_INTERCEPT, HIGHEST + HU_INTERCEPT
    if low < least - 0.5 or high >= most + 0.5:
        raise InputError(
            f"voxels reach from {low:.6g} to {high:.6g} HU, 16 bits hold {least:.0f}…{most:.0f} HU:"
            " a wrong water attenuation, or 1/mm labelled HU?"
        )
    return Rescale(1.0, HU_INTERCEPT, _padding(volume, low, HU_INTERCEPT))


def fine_rescale_of(volume: Volume) -> Rescale:
    """The finest of steps 1, 2, 5 · 10ⁿ that holds every measured value. InputError for NaN or infinity."""
    values = volume.values if volume.valid is None else volume.values[volume.valid]
    bad = int(values.size - np.isfinite(values).sum())
    if bad:
        raise InputError(f"{bad} of {values.size} voxels of the map are NaN or infinite")
    return Rescale(_decimal_step(float(np.abs(values).max(initial=0.0))), 0.0, LOWEST - 1)


def _padding(volume: Volume, low: float, intercept: float | None) -> int:
    """−2048 HU where no measured value lies there or below: readers that ignore the tag know it; else −32768.

    It is declared also where nothing is padded, so that no measured value is ever taken for undeclared padding.
    """
    if volume.valid is not None and intercept is not None and low > -2047:
        return int(-2048 - intercept)
    return LOWEST - 1


def _decimal_step(largest: float) -> float:
    """The smallest of 1, 2, 5 · 10ⁿ with which `largest` fits: a step that a decimal string holds exactly."""
    if largest <= 0:
        return 1e-6
    decade = math.floor(math.log10(largest / HIGHEST))
    steps = (float(f"{digit}e{decade + up}") for up in (0, 1) for digit in (1, 2, 5))
    return next(step for step in steps if largest <= HIGHEST * step)


def padded(stored: NDArray[Any], rescale: Rescale, limit: int | None, quantity: Quantity) -> NDArray[np.bool_]:
    """Where one stored image (rows, columns) was not measured.

    Declared: from Pixel Padding Value to Pixel Padding Range Limit, and nothing else. Undeclared, in HU only: exactly
    −2000, −2048, −3024 or −3072 HU; and outside the inscribed circle, a value below −1024 HU that all corners share.
    """
    if rescale.padding is not None:
        low, high = sorted((rescale.padding, rescale.padding if limit is None else limit))
        return np.asarray((stored >= low) & (stored <= high), np.bool_)
    mask = np.zeros(stored.shape, np.bool_)
    if quantity != "HU":
        return mask
    for known in KNOWN_PADDING_HU:
        mask |= stored == (known - rescale.intercept) / rescale.slope
    corners = np.unique(stored[:: max(stored.shape[0] - 1, 1), :: max(stored.shape[1] - 1, 1)])
    if len(corners) == 1 and corners[0] * rescale.slope + rescale.intercept < -1024:
        mask |= (stored == corners[0]) & _outside_circle(stored.shape[0], stored.shape[1])
    return mask


def _outside_circle(rows: int, columns: int) -> NDArray[np.bool_]:
    y, x = np.ogrid[:rows, :columns]
    squared = (y - (rows - 1) / 2) ** 2 + (x - (columns - 1) / 2) ** 2
    return np.asarray(squared > (min(rows, columns) / 2) ** 2, np.bool_)


def padded_hu(values: NDArray[np.float32]) -> NDArray[np.bool_]:
    """Where HU values, any shape, are exactly a vendor's undeclared padding."""
    return np.isin(values, np.asarray(KNOWN_PADDING_HU, np.float32))


def put_pixels(dataset: Dataset, page: Volume, rescale: Rescale, slices: slice) -> None:
    """Image Pixel module: signed 16 bits, one sample, the chosen slices one after another."""
    dataset.SamplesPerPixel = 1
    dataset.PhotometricInterpretation = "MONOCHROME2"
    dataset.Rows, dataset.Columns = page.grid.shape[1:]
    dataset.BitsAllocated = dataset.BitsStored = 16
    dataset.HighBit = 15
    dataset.PixelRepresentation = 1
    dataset.PixelPaddingValue = rescale.padding
    dataset.LossyImageCompression = "00"
    dataset.BurnedInAnnotation = "NO"
    valid = None if page.valid is None else page.valid[slices]
    dataset.add_new("PixelData", "OW", rescale.store(page.values[slices], valid).tobytes())


def window(page: Volume, rescale: Rescale, *, whole: bool = False) -> Dataset:
    """VOI: soft tissue and lung for HU; for 1/mm, and if asked, the whole range, exactly linear for widths below 1."""
    found = Dataset()
    if page.quantity == "HU" and not whole:
        put(found, "WindowCenter", [40, -600])
        put(found, "WindowWidth", [400, 1500])
        found.WindowCenterWidthExplanation = ["SOFT_TISSUE", "LUNG"]
        return found
    measured = page.values if page.valid is None else page.values[page.valid]
    low, high = (float(measured.min()), float(measured.max())) if measured.size else (0.0, 0.0)
    put(found, "WindowCenter", (low + high) / 2)
    put(found, "WindowWidth", max(high - low, rescale.slope))
    found.VOILUTFunction = "LINEAR_EXACT"
    return found


def per_mm_mapping(rescale: Rescale) -> Sequence:
    """Real-world value mapping to 1/mm: says with a unit what RescaleType US leaves unspecified (decision 0071)."""
    mapping = Dataset()
    mapping.RealWorldValueIntercept = rescale.intercept
    mapping.RealWorldValueSlope = rescale.slope
    mapping.add_new("RealWorldValueFirstValueMapped", "SS", LOWEST)
    mapping.add_new("RealWorldValueLastValueMapped", "SS", HIGHEST)
    mapping.LUTExplanation = "Linear attenuation coefficient in 1/mm"
    mapping.LUTLabel = "MU_PER_MM"
    mapping.MeasurementUnitsCodeSequence = code("/mm", "UCUM", "per millimeter")
    return Sequence([mapping])
