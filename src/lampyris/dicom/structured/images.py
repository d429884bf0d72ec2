"""Files of a series → what a document needs to point at them: class and UIDs, without the pixels."""

from collections.abc import Sequence
from pathlib import Path

import pydicom
from pydicom.dataset import Dataset

from lampyris.dicom.structured.document import Occasion

_POINTERS = ["SOPClassUID", "SOPInstanceUID", "SeriesInstanceUID", "Rows", "Columns"]
_EMPTY = (
    "PatientID", "PatientName", "PatientBirthDate", "PatientSex", "AccessionNumber", "StudyID", "StudyDate",
    "StudyTime", "ReferringPhysicianName",
)  # fmt: skip


def pointers(files: Sequence[Path], occasion: Occasion) -> list[Dataset]:
    """One small data set an image, in the order of the files.

    Patient and study stay empty but for the study's UID: `document.dress` writes them, and a library that copies
    documents' headers from images has then nothing to judge or to log of a patient's name.
    """
    found = []
    for file in files:
        image = pydicom.dcmread(file, stop_before_pixels=True, specific_tags=_POINTERS)
        for keyword in _EMPTY:
            setattr(image, keyword, "")
        image.StudyInstanceUID = occasion.study_uid
        found.append(image)
    return found
