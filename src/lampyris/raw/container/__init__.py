"""RawScan ↔ `.lraw`, the archive of our own: one file, lossless, checked, written whole or not at all."""

from lampyris.raw.container.archive import Info, info, read, recognises, verify, write

__all__ = ["Info", "info", "read", "recognises", "verify", "write"]
