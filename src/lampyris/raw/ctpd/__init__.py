"""DICOM-CT-PD (projections of clinical scanners as DICOM files) ↔ RawScan."""

from lampyris.raw.ctpd.reader import read, recognises
from lampyris.raw.ctpd.writer import write

__all__ = ["read", "recognises", "write"]
