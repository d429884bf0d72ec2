"""Files of scanners, beamlines and simulators → RawScan, and our own archive `.lraw`, for a disk or for a link."""

from lampyris.raw import codec, container, ctpd
from lampyris.raw.codec import CODINGS, Decision, Policy
from lampyris.raw.container import (
    ARRIVING,
    PART_BYTES,
    Coming,
    Info,
    Part,
    arrived,
    coarsened,
    coming,
    cut,
    ends,
    header_digest,
    info,
    pack,
    unpack,
    verify,
    write,
)
from lampyris.raw.read import FORMATS, Format, read

__all__ = [
    "ARRIVING",
    "CODINGS",
    "FORMATS",
    "PART_BYTES",
    "Coming",
    "Decision",
    "Format",
    "Info",
    "Part",
    "Policy",
    "arrived",
    "coarsened",
    "codec",
    "coming",
    "container",
    "ctpd",
    "cut",
    "ends",
    "header_digest",
    "info",
    "pack",
    "read",
    "unpack",
    "verify",
    "write",
]
