"""Make golden/ctpd/*.dcm and golden/ctpd.npz: DICOM-CT-PD as another writer might make it, from the published table.

Written tag by tag with pydicom, implicit VR (so that private values arrive as raw bytes), another private creator than
ours, frames not transposed in one file, InstanceNumber against the order of names. Expected points come from the
formulas of the DICOM-CT-PD manual, (x, y, z) there → (x, z, y) here, written out below and sharing no code with the
reader. `python tests/golden/make_ctpd.py`
"""

import math
import struct
from pathlib import Path

import numpy as np
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import CTImageStorage, ImplicitVRLittleEndian

HERE = Path(__file__).parent
ROWS, COLUMNS, DV, DU, X, Y = 3, 5, 1.7, 2.9, 2.25, 1.5
RHO, D0 = 541.0, 949.0
VIEWS = (  # φ0, z0, Δφ, Δz, Δρ, slope, intercept, mA
    (0.3, 11.0, 0.001, 0.5, 0.25, 0.001, -0.25, 200),
    (1.9, 10.5, -0.001, -0.5, -0.25, 0.002, 0.125, 180),
    (3.5, 10.0, 0.001, 0.5, 0.25, 0.0015, 0.0, 220),
)


def fl(*values: float) -> bytes:
    return struct.pack(f"<{len(values)}f", *values)


def raw_pixels(view: int) -> np.ndarray:
    """uint16 as the table orders them: [row 1 …, column 1 …]."""
    return (100 * view + 10 * np.arange(ROWS)[:, None] + np.arange(COLUMNS)).astype("<u2")


def dataset(view: int) -> Dataset:
    phi, z, dphi, dz, drho, slope, intercept, ma = VIEWS[view]
    one = Dataset()
    one.file_meta = FileMetaDataset()
    one.file_meta.TransferSyntaxUID = ImplicitVRLittleEndian
    one.file_meta.MediaStorageSOPClassUID = one.SOPClassUID = CTImageStorage
    one.file_meta.MediaStorageSOPInstanceUID = one.SOPInstanceUID = f"2.25.{4000 + view}"
    one.SeriesInstanceUID, one.StudyInstanceUID, one.Modality = "2.25.41", "2.25.42", "CT"
    one.InstanceNumber, one.KVP, one.ExposureTime, one.XRayTubeCurrent = 3 - view, "120", 500, ma
    one.RescaleSlope, one.RescaleIntercept, one.SpiralPitchFactor = str(slope), str(intercept), 0.75
    one.PatientPosition, one.DataCollectionDiameter = "FFP", "500"
    for group in (0x7029, 0x7031, 0x7033, 0x7037, 0x7039, 0x7041):
        one.add_new((group, 0x0010), "LO", "SOMEBODY ELSE 1.0")
    cells = {0x70291010: struct.pack("<H", ROWS), 0x70291011: struct.pack("<H", COLUMNS)}
    place = {0x70311001: fl(phi), 0x70311002: fl(z), 0x70311003: fl(RHO), 0x70311031: fl(D0), 0x70311033: fl(X, Y)}
    spot = {0x7033100B: fl(dphi), 0x7033100C: fl(dz), 0x7033100D: fl(drho), 0x7033100E: b"FFSXYZ"}
    count = {0x70331013: struct.pack("<H", 4), 0x70331065: fl(*(ma * (10 + c) for c in range(COLUMNS)))}
    kind = {0x70371009: b"HELICAL ", 0x7037100A: b"FANBEAM ", 0x7029100B: b"CYLINDRICAL "}
    flags = {0x70391003: b"YES ", 0x70391004: b"YES ", 0x70391005: b"YES ", 0x70391006: b"YES ", 0x70391007: b"YES "}
    rest = {0x70391008: b"NO", 0x70391009: b"YES ", 0x70411001: b"0.192 ", 0x70291002: fl(DU), 0x70291006: fl(DV)}
    for tag, content in sorted((cells | place | spot | count | kind | flags | rest).items()):
        one.add_new(tag, "UN", content)
    frame = raw_pixels(view) if view == 1 else raw_pixels(view).T
    one.Rows, one.Columns = frame.shape
    one.BitsAllocated = one.BitsStored = 16
    one.HighBit, one.PixelRepresentation, one.SamplesPerPixel = 15, 0, 1
    one.PhotometricInterpretation = "MONOCHROME2"
    one.PixelData = np.ascontiguousarray(frame).tobytes()
    return one


def expected() -> dict[str, np.ndarray]:
    """Source, cell points and integrals in our frame and order: views by InstanceNumber, our row 0 = their last."""
    source, points, integrals = [], [], []
    for view in (2, 1, 0):
        phi, z, dphi, dz, drho, slope, intercept, _ = VIEWS[view]
        sx, sy = -(RHO + drho) * math.sin(phi + dphi), (RHO + drho) * math.cos(phi + dphi)
        source.append((sx, z + dz, sy))
        cells = []
        for r in range(ROWS, 0, -1):
            for c in range(1, COLUMNS + 1):
                gamma = (c - X) * DU / D0
                x = -RHO * math.sin(phi) + D0 * math.sin(phi + gamma)
                y = RHO * math.cos(phi) - D0 * math.cos(phi + gamma)
                cells.append((x, z - (r - Y) * DV, y))
        points.append(np.reshape(cells, (ROWS, COLUMNS, 3)))
        integrals.append(raw_pixels(view)[::-1] * slope + intercept)
    return {"source": np.array(source), "points": np.array(points), "integrals": np.array(integrals)}


if __name__ == "__main__":
    (HERE / "ctpd").mkdir(exist_ok=True)
    for number in range(3):
        dataset(number).save_as(HERE / "ctpd" / f"view_{number}.dcm", enforce_file_format=True)
    np.savez_compressed(HERE / "ctpd.npz", **expected())
