"""RawScan ↔ `.lraw`, the archive of our own: one file, checked, written whole or not at all, sent in parts."""

from lampyris.raw.container.archive import Info, ends, header_digest, info, read, recognises, verify, write
from lampyris.raw.container.arriving import Coming, arrived, coming
from lampyris.raw.container.packing import PART_BYTES, Part, cut, pack, unpack
from lampyris.raw.container.writer import ARRIVING, coarsened

__all__ = [
    "ARRIVING",
    "PART_BYTES",
    "Coming",
    "Info",
    "Part",
    "arrived",
    "coarsened",
    "coming",
    "cut",
    "ends",
    "header_digest",
    "info",
    "pack",
    "read",
    "recognises",
    "unpack",
    "verify",
    "write",
]
