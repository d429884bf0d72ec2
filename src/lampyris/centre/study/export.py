"""Files of a study in the store → a ZIP that begins to flow at once and is nowhere whole.

Files are stored as they are: images are compressed, if at all, in their own way, and a reader may seek in them.
"""

import zipfile
from collections.abc import AsyncIterator, Sequence
from datetime import datetime

from lampyris.centre.archive.queries import FoundInstance
from lampyris.centre.store import Store

_FIRST_YEAR = 1980


class _Pipe:
    """What a ZIP is written into: it keeps what was not taken yet, and cannot go back."""

    def __init__(self) -> None:
        self._waiting: list[bytes] = []

    def write(self, data: bytes) -> int:
        self._waiting.append(bytes(data))
        return len(data)

    def flush(self) -> None:
        """Nothing is held back."""

    def take(self) -> bytes:
        taken = b"".join(self._waiting)
        self._waiting.clear()
        return taken


def names_of(instances: Sequence[FoundInstance]) -> list[str]:
    """Where each file lies in the ZIP: DICOM/S001/I00001, as media have it (PS3.10 8.2: eight capitals or digits)."""
    series: dict[int, int] = {}
    counts: dict[int, int] = {}
    names = []
    for one in instances:
        number = series.setdefault(one.series, len(series) + 1)
        counts[number] = counts.get(number, 0) + 1
        names.append(f"DICOM/S{number:03d}/I{counts[number]:05d}")
    return names


async def zipped(store: Store, instances: Sequence[FoundInstance], now: datetime) -> AsyncIterator[bytes]:
    """The ZIP in pieces. Raises StorageError in the middle when an object is gone: the file is then cut off."""
    pipe = _Pipe()
    moment = (max(now.year, _FIRST_YEAR), now.month, now.day, now.hour, now.minute, now.second)
    with zipfile.ZipFile(pipe, "w", zipfile.ZIP_STORED) as archive:  # type: ignore[call-overload]
        for name, one in zip(names_of(instances), instances, strict=True):
            entry = zipfile.ZipInfo(name, moment)
            entry.file_size = one.bytes
            with archive.open(entry, "w", force_zip64=one.bytes >= 1 << 31) as file:
                async for piece in store.stream(one.prefix, one.sha256, 0, one.bytes - 1):
                    file.write(piece)
                    yield pipe.take()
    yield pipe.take()
