"""A spool, and when calibration scans came → what an agent tells the centre of itself; no identity, no file names."""

import re
from pathlib import Path

from lampyris import __version__
from lampyris.model import FormatError, StorageError
from lampyris.site.store import Spool, files
from lampyris.transfer import SiteReport, limits

CALIBRATED = "calibrated.json"
"""{scanner: seconds of the epoch}: when its last calibration scan was accepted."""
_UNNAMED = "scanner"
_UNPRINTED = re.compile(r"[^A-Za-z0-9._-]+")


def note_calibration(folder: Path, station: str | None, at: float) -> None:
    """A calibration scan of a scanner was accepted. Raises StorageError."""
    named = _UNPRINTED.sub("-", station or "").strip("-._")[:64] or _UNNAMED
    known = _calibrated(folder)
    if named in known or len(known) < limits.CALIBRATIONS:
        files.write_json(folder / CALIBRATED, known | {named: at})


def report_of(spool: Spool, folder: Path) -> SiteReport:
    """The agent's version, what waits to be sent, and how old each scanner's last calibration scan is."""
    waiting, now = spool.having("accepted", "packed"), spool.now()
    return SiteReport(
        version=__version__,
        spool_scans=len(waiting),
        spool_bytes=sum(spool.stored_bytes(entry.scan) for entry in waiting),
        oldest_s=max([0.0, *(now - entry.accepted for entry in waiting)]),
        calibrations={name: max(now - at, 0.0) for name, at in _calibrated(folder).items()},
    )


def _calibrated(folder: Path) -> dict[str, float]:
    try:
        found = files.read_json(folder / CALIBRATED)
    except (FileNotFoundError, FormatError, StorageError):
        return {}
    return {name: float(at) for name, at in found.items() if isinstance(at, (int, float))}
