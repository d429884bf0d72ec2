"""Volume, study and provenance → DICOM CT series; DICOM series, archive or NIfTI → Volume in patient coordinates."""

from lampyris.dicom.image import write_series
from lampyris.dicom.nifti import read_nifti
from lampyris.dicom.provenance import Dose, Exposure, Provenance
from lampyris.dicom.read import Series, read_series, subject

__all__ = ["Dose", "Exposure", "Provenance", "Series", "read_nifti", "read_series", "subject", "write_series"]
