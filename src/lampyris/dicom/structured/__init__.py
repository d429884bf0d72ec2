"""One scan's exposure, assessment and images → its structured reports: dose, measurements, key images."""

from collections.abc import Sequence
from pathlib import Path

from lampyris.dicom.image import appearing_whole, save
from lampyris.dicom.structured.document import Occasion
from lampyris.dicom.structured.dose import dose_report
from lampyris.dicom.structured.images import pointers
from lampyris.dicom.structured.irradiation import Irradiation, Source, Told
from lampyris.dicom.structured.key_objects import KeySlice, choose, key_objects
from lampyris.dicom.structured.read_dose import DoseEvent, is_dose_report, read_dose_report
from lampyris.dicom.structured.report import report
from lampyris.model import Assessment

__all__ = [
    "DoseEvent",
    "Irradiation",
    "KeySlice",
    "Occasion",
    "Source",
    "Told",
    "choose",
    "dose_report",
    "is_dose_report",
    "key_objects",
    "read_dose_report",
    "report",
    "write_documents",
]


def write_documents(
    folder: Path,
    occasion: Occasion,
    *,
    irradiation: Irradiation,
    assessment: Assessment,
    images: Sequence[Path],
    keys: Sequence[KeySlice],
) -> tuple[Path, ...]:
    """Write dose report, assessment and key images into a new folder, whole or not at all, and return the files.

    `images` are the files of the series that was assessed, in slice order; `keys` are slices of it. The same scan,
    recipe, version and moment give the same bytes. Raises InputError and StorageError as `write_series` does.
    """
    shown = pointers(images, occasion)
    made = {
        "dose.dcm": dose_report(occasion, [irradiation]),
        "assessment.dcm": report(occasion, assessment, shown),
        "key_images.dcm": key_objects(occasion, keys, shown),
    }
    with appearing_whole(folder) as draft:
        for name, document in made.items():
            save(document, draft / name)
    return tuple(folder / name for name in made)
