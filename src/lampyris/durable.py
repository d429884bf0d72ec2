"""A file or folder → the disk: what a new name needs to last through a power cut."""

import os
from pathlib import Path


def sync(place: Path) -> None:
    """Make a file's content, or the names in a folder, last; Windows opens no folders. Raises OSError."""
    if os.name == "posix":
        handle = os.open(place, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
