"""Volume, study and provenance → DICOM CT series; DICOM series, archive or NIfTI → Volume in patient coordinates."""

from lampyris.dicom.image import write_map, write_series
from lampyris.dicom.nifti import read_nifti
from lampyris.dicom.provenance import MAPS, Dose, Exposure, Map, Provenance
from lampyris.dicom.read import Series, read_series, subject
from lampyris.dicom.structured import (
    DoseEvent,
    Irradiation,
    KeySlice,
    Occasion,
    Told,
    choose,
    is_dose_report,
    read_dose_report,
    write_documents,
)
from lampyris.dicom.voxels import upright

__all__ = [
    "MAPS",
    "Dose",
    "DoseEvent",
    "Exposure",
    "Irradiation",
    "KeySlice",
    "Map",
    "Occasion",
    "Provenance",
    "Series",
    "Told",
    "choose",
    "is_dose_report",
    "read_dose_report",
    "read_nifti",
    "read_series",
    "subject",
    "upright",
    "write_documents",
    "write_map",
    "write_series",
]
