"""DICOM files for tests of the archive: small, lopsided, with what the test says of them."""

import hashlib
import io
from typing import Any

import httpx
import numpy as np
from pydicom import config
from pydicom.dataelem import DataElement
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.filewriter import dcmwrite
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian

from lampyris.dicom.ids import uid

ROWS, COLUMNS = 24, 32


def dataset(study: str, series: str, number: int = 1, **more: Any) -> Dataset:
    """A CT image in Explicit VR Little Endian; the UIDs derive from the names of study and series."""
    made = Dataset()
    made.SpecificCharacterSet = "ISO_IR 192"
    made.SOPClassUID = CTImageStorage
    made.StudyInstanceUID, made.SeriesInstanceUID = uid(study), uid(study, series)
    made.SOPInstanceUID = uid(study, series, str(number))
    made.StudyDate, made.StudyTime, made.Modality = "20261121", "081502", "CT"
    made.PatientName, made.PatientID, made.StudyID = "Zhang^San=张^三", "7f1c22", "1"
    made.AccessionNumber, made.ReferringPhysicianName = f"A-{study}", "Li^Si"
    made.SeriesNumber, made.InstanceNumber = 3, number
    made.Rows, made.Columns, made.SamplesPerPixel = ROWS, COLUMNS, 1
    made.PhotometricInterpretation, made.PixelRepresentation = "MONOCHROME2", 1
    made.BitsAllocated, made.BitsStored, made.HighBit = 16, 16, 15
    made.RescaleIntercept, made.RescaleSlope = -1024, 1
    made.WindowCenter, made.WindowWidth = 40, 400
    made.PixelData = pixels(number).tobytes()
    for keyword, value in more.items():
        setattr(made, keyword, value)
    made.preamble, made.file_meta = bytes(128), FileMetaDataset()
    made.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    made.file_meta.MediaStorageSOPClassUID = made.SOPClassUID
    made.file_meta.MediaStorageSOPInstanceUID = made.SOPInstanceUID
    return made


def pixels(number: int = 1) -> np.ndarray:
    """Stored values (rows, columns) that no mirroring leaves alone."""
    rows, columns = np.mgrid[:ROWS, :COLUMNS]
    return (1000 + 7 * rows + 3 * columns + number).astype("<i2")


def raw_text(made: Dataset, keyword: str, value: bytes, charset: str | None) -> Dataset:
    """The dataset with these very bytes as a text, under a character set that may lie about them."""
    if charset is None:
        del made.SpecificCharacterSet
    else:
        made.SpecificCharacterSet = charset
    element = made[keyword]
    with config.disable_value_validation():
        made[keyword] = DataElement(element.tag, "UN", value)
    return made


def encoded(made: Dataset) -> bytes:
    """The file."""
    file = io.BytesIO()
    dcmwrite(file, made, enforce_file_format=True)
    return file.getvalue()


def digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def stow(client: httpx.Client, *files: bytes, path: str = "/dicomweb/studies", boundary: str = "x-7") -> httpx.Response:
    """Store files, one request."""
    head = f"--{boundary}\r\nContent-Type: application/dicom\r\n\r\n".encode()
    body = b"".join(head + each + b"\r\n" for each in files) + f"--{boundary}--".encode()
    kind = f'multipart/related; type="application/dicom"; boundary={boundary}'
    return client.post(path, content=body, headers={"Content-Type": kind, "Accept": "application/dicom+json"})


def parts(answer: httpx.Response) -> list[tuple[dict[str, str], bytes]]:
    """Headers in lower case and content of the parts of an answer, by the letter of RFC 2046."""
    assert answer.status_code == 200, answer.text
    boundary = answer.headers["content-type"].split("boundary=")[1].strip('"').encode()
    first, *middle, last = (b"\r\n" + answer.content).split(b"\r\n--" + boundary)
    assert first == b""
    assert last == b"--\r\n"
    found = []
    for each in middle:
        head, _, content = each.removeprefix(b"\r\n").partition(b"\r\n\r\n")
        lines = (line.partition(b": ") for line in head.split(b"\r\n"))
        found.append(({name.decode().lower(): value.decode() for name, _, value in lines}, content))
    return found
