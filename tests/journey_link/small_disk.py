"""A folder → the same folder on a disk so small that it can be filled; a loud skip where nothing may be mounted."""

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest


class Disk:
    """A file system of so many bytes at a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder, self._ballast = folder, folder / ".ballast"

    @contextmanager
    def full(self) -> Iterator[None]:
        """While this lasts there is no byte left."""
        with self._ballast.open("ab", buffering=0) as file, pytest.raises(OSError, match="No space left"):
            for _ in iter(lambda: file.write(bytes(4096)), 0):
                pass
        try:
            yield
        finally:
            self._ballast.unlink()


@contextmanager
def small_disk(folder: Path, megabytes: int) -> Iterator[Disk]:
    """A disk in memory; what is mounted is taken away at the end, whatever still uses it."""
    folder.mkdir(parents=True, exist_ok=True)
    command = ["mount", "-t", "tmpfs", "-o", f"size={megabytes}m,mode=0700", "tmpfs", str(folder)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        pytest.skip("there is no mount: a full disk is simulated in tests/site and tests/centre alone")
    if done.returncode:
        pytest.skip(
            f"no disk may be mounted here ({done.stderr.strip()}): it is simulated in tests/site and tests/centre"
        )
    try:
        yield Disk(folder)
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)
