"""Stored values → a CT Image as another maker writes it, of a patient whose name must never be told."""

import numpy as np
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, generate_uid

SECRET = "Geheim^Person=張^𠮷三"
"""𠮷 (U+20BB7) takes four bytes in GB18030 and in UTF-8."""


def foreign_image(stored: np.ndarray, position: tuple[float, float, float], number: int, **changes: object) -> Dataset:
    """A CT Image as another maker writes it: only what is needed, of a patient whose name must never be told."""
    image = Dataset()
    image.file_meta = FileMetaDataset()
    image.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    image.file_meta.MediaStorageSOPClassUID = CTImageStorage
    image.SpecificCharacterSet = "ISO_IR 192"
    image.SOPClassUID = CTImageStorage
    image.SOPInstanceUID = generate_uid(entropy_srcs=["image", str(position), str(number)])
    image.file_meta.MediaStorageSOPInstanceUID = image.SOPInstanceUID
    image.StudyInstanceUID = generate_uid(entropy_srcs=["study"])
    image.SeriesInstanceUID = generate_uid(entropy_srcs=["series"])
    image.FrameOfReferenceUID = generate_uid(entropy_srcs=["frame"])
    image.PatientName, image.PatientID, image.PatientPosition = SECRET, "G-4711", "HFS"
    image.Modality, image.ImageType = "CT", ["ORIGINAL", "PRIMARY", "AXIAL"]
    image.SeriesNumber, image.InstanceNumber = 3, number
    image.ImagePositionPatient = list(position)
    image.ImageOrientationPatient = [1, 0, 0, 0, 1, 0]
    image.PixelSpacing, image.SliceThickness = [0.75, 0.5], 3.0
    image.Rows, image.Columns = stored.shape
    image.SamplesPerPixel, image.PhotometricInterpretation = 1, "MONOCHROME2"
    image.BitsAllocated = image.BitsStored = 16
    image.HighBit, image.PixelRepresentation = 15, int(stored.dtype.kind == "i")
    image.RescaleIntercept, image.RescaleSlope = 0, 1
    image.PixelData = stored.astype(stored.dtype.newbyteorder("<")).tobytes()
    for keyword, value in changes.items():
        setattr(image, keyword, value)
    return image
