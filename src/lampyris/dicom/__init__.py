"""Volume, study and provenance → DICOM CT series; DICOM series, archive or NIfTI → Volume in patient coordinates."""

from lampyris.dicom.image import write_series
from lampyris.dicom.provenance import Dose, Exposure, Provenance

__all__ = ["Dose", "Exposure", "Provenance", "write_series"]
