"""RawScan ↔ `.lraw`, the archive of our own: one file, checked, written whole or not at all, sent in parts."""

from lampyris.raw.container.archive import Info, info, read, recognises, verify, write
from lampyris.raw.container.arriving import arrived
from lampyris.raw.container.packing import PART_BYTES, Part, cut, pack, unpack
from lampyris.raw.container.writer import ARRIVING, coarsened

__all__ = [
    "ARRIVING",
    "PART_BYTES",
    "Info",
    "Part",
    "arrived",
    "coarsened",
    "cut",
    "info",
    "pack",
    "read",
    "recognises",
    "unpack",
    "verify",
    "write",
]
