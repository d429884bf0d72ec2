"""Lampyris: the open cloud-CT centre. Raw counts in, a calibrated and judged CT series out."""

import hashlib
import os
from importlib.metadata import version
from pathlib import Path

__version__ = version("lampyris")


def compiled_code_folder(package: Path) -> Path:
    """Where Numba may keep what it compiled from this very source: another source never meets it.

    Numba looks only at the file of the function that it cached, not at those that were inlined into it: after an
    upgrade in place it would run yesterday's mathematics. So the folder is named by the digest of all our source.
    """
    home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return home / "lampyris" / source_digest(package)[:16]


def source_digest(package: Path) -> str:
    """SHA-256 of all source files of a package, with their names."""
    digest = hashlib.sha256()
    for file in sorted(package.rglob("*.py")):
        digest.update(file.relative_to(package).as_posix().encode() + b"\0" + file.read_bytes())
    return digest.hexdigest()


os.environ.setdefault("NUMBA_CACHE_DIR", str(compiled_code_folder(Path(__file__).parent)))
