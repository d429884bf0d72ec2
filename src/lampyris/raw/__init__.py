"""Files of scanners, beamlines and simulators → RawScan, and the archive of our own: `.lraw`."""

from lampyris.raw.container import Info, info, verify, write
from lampyris.raw.read import FORMATS, Format, read

__all__ = ["FORMATS", "Format", "Info", "info", "read", "verify", "write"]
