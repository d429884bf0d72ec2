"""Volume, study and provenance → DICOM CT series; DICOM series, archive or NIfTI → Volume in patient coordinates."""

from lampyris.dicom.image import write_map, write_series
from lampyris.dicom.nifti import read_nifti
from lampyris.dicom.provenance import MAPS, Dose, Exposure, Map, Provenance
from lampyris.dicom.read import Series, read_series, subject

__all__ = [
    "MAPS",
    "Dose",
    "Exposure",
    "Map",
    "Provenance",
    "Series",
    "read_nifti",
    "read_series",
    "subject",
    "write_map",
    "write_series",
]
