"""What a site must not lose → files on its disk: the spool of scans, and whole files."""

from lampyris.site.store import files
from lampyris.site.store.lock import alone
from lampyris.site.store.spool import NEXT, PART, Entry, Place, Source, Spool, State

__all__ = ["NEXT", "PART", "Entry", "Place", "Source", "Spool", "State", "alone", "files"]
