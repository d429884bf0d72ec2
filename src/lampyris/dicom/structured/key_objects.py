"""Images and their noise map → Key Object Selection: the few slices that a reader wants to see first.

Sources: PS3.3 A.35.4 (Key Object Selection Document), PS3.16 TID 2010. Written with highdicom.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from highdicom import ko
from pydicom.dataset import Dataset
from pydicom.sr.coding import Code
from pydicom.uid import KeyObjectSelectionDocumentStorage

from lampyris.dicom.structured.document import Kind, Occasion, dress
from lampyris.dicom.structured.report import device
from lampyris.model import Float64, Volume

KEY_IMAGES = Kind(KeyObjectSelectionDocumentStorage, "KO", 993, "Key images", "key images")
_BODY_HU = -500.0
_BODY_SHARE = 0.01
"""A slice holds a body when so much of it is denser than lung."""


@dataclass(frozen=True, slots=True)
class KeySlice:
    """One slice of an upright volume, counted from 0, and why somebody should see it."""

    index: int
    why: str


def choose(page: Volume, noise: Volume | None) -> tuple[KeySlice, ...]:
    """Three slices through the body at ¼, ½ and ¾ of its length, the noisiest, and any without contrast.

    `page` is upright (`voxels.upright`), `noise` the passport's map in the same frame. Sorted by slice; one that is
    chosen twice bears both reasons.
    """
    chosen: dict[int, list[str]] = {}
    body = _body(page)
    for share, where in ((0.25, "first quarter"), (0.5, "middle"), (0.75, "last quarter")):
        chosen.setdefault(int(body[round(share * (len(body) - 1))]), []).append(f"{where} of the body")
    if noise is not None:
        levels = _levels(page, noise)[body]
        if levels.max() > levels.min():
            chosen.setdefault(int(body[levels.argmax()]), []).append("noisiest slice")
    for index, image in enumerate(page.values):
        known = image if page.valid is None else image[page.valid[index]]
        if known.size and known.min() == known.max():
            chosen.setdefault(index, []).append("fault: no contrast")
            break
    return tuple(KeySlice(index, ", ".join(why)) for index, why in sorted(chosen.items()))


def _body(page: Volume) -> np.ndarray:
    """Slices that hold a body; all of them where none does, or values are no HU."""
    every = np.arange(len(page.values))
    if page.quantity != "HU":
        return every
    dense = np.array([(image[::4, ::4] > _BODY_HU).mean() for image in page.values])
    return every[dense > _BODY_SHARE] if (dense > _BODY_SHARE).any() else every


def _levels(page: Volume, noise: Volume) -> Float64:
    """(slices,) noise of the map's slice that lies nearest to each."""
    axis = page.grid.axes[0]
    places = np.array([page.grid.position_mm((index, 0, 0)) @ axis for index in range(page.grid.shape[0])])
    mapped = np.array([noise.grid.position_mm((index, 0, 0)) @ axis for index in range(noise.grid.shape[0])])
    level = noise.values.mean(axis=(1, 2), dtype=np.float64)
    return np.asarray(level[np.abs(places[:, None] - mapped[None, :]).argmin(axis=1)], np.float64)


def key_objects(occasion: Occasion, slices: Sequence[KeySlice], images: Sequence[Dataset]) -> Dataset:
    """The selection; `images` are the pointers to all slices in order, or to the one Enhanced CT that holds them."""
    whole = len(images) == 1
    chosen = [images[0]] if whole else [images[one.index] for one in slices]
    told = "; ".join(f"slice {one.index + 1}: {one.why}" for one in slices)
    content = ko.KeyObjectSelection(
        document_title=Code("113000", "DCM", "Of Interest"),
        referenced_objects=chosen,
        observer_device_context=device(occasion.provenance.software_version),
        description=told,
    )
    series, instance = occasion.uids(KEY_IMAGES)
    made = ko.KeyObjectSelectionDocument(
        evidence=chosen,
        content=content,
        series_instance_uid=series,
        series_number=KEY_IMAGES.SeriesNumber,
        sop_instance_uid=instance,
        instance_number=1,
        manufacturer="Lampyris",
    )
    return dress(made, KEY_IMAGES, occasion)
