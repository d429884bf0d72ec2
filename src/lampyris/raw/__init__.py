"""Files of scanners, beamlines and simulators → RawScan, and the archive of our own: `.lraw`."""

from lampyris.raw import container, ctpd
from lampyris.raw.container import Info, info, verify, write
from lampyris.raw.read import FORMATS, Format, read

__all__ = ["FORMATS", "Format", "Info", "container", "ctpd", "info", "read", "verify", "write"]
