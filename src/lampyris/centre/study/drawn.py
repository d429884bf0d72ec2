"""A series in the store and what is wanted of it → the picture, drawn once and then kept for a while.

A picture is kept under the digest of all that it shows, so that none outlives what it was drawn of as anything but
bytes that nobody asks for; retention sweeps these away.
"""

import asyncio
import hashlib
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from lampyris.centre.archive.queries import FoundInstance
from lampyris.centre.store import Store, drawn_prefix
from lampyris.centre.study import cuts, pictures
from lampyris.centre.study.cuts import Cut
from lampyris.model import InputError, Volume
from lampyris.model.arrays import canonical_json

MAP = "map"
"""In the place of a window: values in colours, with their bar."""
_POSITION, _ORIENTATION = "00200032", "00200037"
_whole_volumes = asyncio.Semaphore(1)
"""One volume at a time: a large one takes half a gigabyte."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """A picture: its plane, a window by name or `MAP`, and which slice from the feet, counted from 0 (None: middle)."""

    plane: str = "axial"
    window: str = "soft"
    slice: int | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Source:
    """A series as its files: those of its slices from the feet to the head where each slice is a file of its own."""

    site: str
    uid: str
    instances: tuple[FoundInstance, ...]
    heights_mm: tuple[float, ...]

    @staticmethod
    def of(instances: Sequence[FoundInstance]) -> "Source":
        """Raises InputError for a series without images."""
        images = [one for one in instances if one.frames > 0]
        if not images:
            raise InputError("the series holds no image")
        placed = [_height_mm(one) for one in images]
        if None in placed or any(one.frames != 1 for one in images):
            return Source(images[0].site, images[0].series_uid, tuple(images), ())
        order = sorted(zip(placed, images, strict=True), key=lambda pair: (pair[0], pair[1].number))
        heights = tuple(float(height) for height, _ in order if height is not None)
        return Source(images[0].site, images[0].series_uid, tuple(one for _, one in order), heights)

    @property
    def slices(self) -> int:
        return len(self.instances)

    def near(self, at_mm: float) -> int:
        """The slice nearest to a height."""
        return int(np.abs(np.asarray(self.heights_mm) - at_mm).argmin())


def key_of(source: Source, wanted: Wanted, like: Source | None = None) -> str:
    """The digest of all that a picture shows: the same picture, the same digest."""
    of = [[one.sha256 for one in each.instances] for each in (source, like) if each is not None]
    told = [pictures.DRAWN, of, wanted.plane, wanted.window, wanted.slice]
    return hashlib.sha256(canonical_json(told).encode()).hexdigest()


async def picture(store: Store, source: Source, wanted: Wanted, like: Source | None = None) -> bytes:
    """The PNG. With `like` it lies as that series' picture does: the same place, the same millimetres.

    Raises InputError for what cannot be drawn (and its children for a series that cannot be read), StorageError.
    """
    key, prefix = key_of(source, wanted, like), drawn_prefix(source.site)
    kept = await asyncio.to_thread(store.find, prefix, key)
    if kept is not None:
        return kept
    if wanted.plane == "axial" and source.heights_mm and (like is None or like.heights_mm):
        made = {key: await asyncio.to_thread(_slice, store, source, wanted, like)}
    else:
        async with _whole_volumes:
            kept = await asyncio.to_thread(store.find, prefix, key)
            if kept is not None:
                return kept
            made = await asyncio.to_thread(_all_of, store, source, wanted, like)
    for name, content in made.items():
        await asyncio.to_thread(store.leave, prefix, name, content)
    return made[key]


def planes(source: Source) -> tuple[str, ...]:
    """The planes in which a series has something to show, by its heights alone."""
    if len(source.heights_mm) < 2:
        return cuts.PLANES[:1]
    metadata = source.instances[0].json
    spacing = metadata.get("00280030", {}).get("Value", [1.0])
    columns = metadata.get("00280011", {}).get("Value", [512])
    height = source.heights_mm[-1] - source.heights_mm[0]
    return cuts.PLANES if height >= cuts.THINNEST * float(spacing[-1]) * int(columns[0]) else cuts.PLANES[:1]


def _slice(store: Store, source: Source, wanted: Wanted, like: Source | None) -> bytes:
    """One axial cut, of one file; or of two, of which the other says how it lies."""
    first = source if like is None else like
    chosen = first.slices // 2 if wanted.slice is None else min(max(wanted.slice, 0), first.slices - 1)
    with _files(store, first.instances[chosen : chosen + 1]) as files:
        volume = cuts.volume_of(files, first.uid)
    frame = cuts.cut(volume, "axial")
    if like is None:
        return _drawn(frame, volume, wanted, frame)
    nearest = source.near(frame.at_mm)
    with _files(store, source.instances[nearest : nearest + 1]) as files:
        volume = cuts.volume_of(files, source.uid)
    return _drawn(cuts.cut(volume, "axial"), volume, wanted, frame)


def _all_of(store: Store, source: Source, wanted: Wanted, like: Source | None) -> dict[str, bytes]:
    """The wanted picture and, as the whole volume is here, every other middle one of it."""
    with _files(store, source.instances) as files:
        volume = cuts.volume_of(files, source.uid)
    if like is not None:
        with _files(store, like.instances) as files:
            frame = cuts.cut(cuts.volume_of(files, like.uid), wanted.plane)
        return {
            key_of(source, wanted, like): _drawn(cuts.cut(volume, wanted.plane, frame.at_mm), volume, wanted, frame)
        }
    windows = (MAP,) if wanted.window == MAP else pictures.windows_for(volume)
    each = {Wanted(plane, window): cuts.cut(volume, plane) for plane in cuts.planes_of(volume) for window in windows}
    if wanted not in each:
        each[wanted] = cuts.cut(volume, wanted.plane, _height_of(volume, wanted.slice))
    return {key_of(source, one): _drawn(cut, volume, one, cut) for one, cut in each.items()}


def _drawn(cut: Cut, volume: Volume, wanted: Wanted, frame: Cut) -> bytes:
    if wanted.window == MAP:
        return pictures.coloured(cut, pictures.bounds_of(volume), volume.quantity)
    if not cuts.parallel(cut, frame):
        raise InputError("the two series do not lie in parallel planes: they cannot be laid upon each other")
    return pictures.grey(cut, pictures.window_of(wanted.window, volume), pictures.canvas_of(frame))


def _height_of(volume: Volume, number: int | None) -> float | None:
    """Where a slice lies along its normal."""
    if number is None:
        return None
    return float(volume.grid.axes[0] @ volume.grid.first_voxel_mm + number * volume.grid.spacing_mm[0])


def _height_mm(instance: FoundInstance) -> float | None:
    """Where an image lies along its normal, turned to the head; None for one that does not say."""
    position, orientation = (
        np.asarray(instance.json.get(tag, {}).get("Value", ()), np.float64) for tag in (_POSITION, _ORIENTATION)
    )
    if position.shape != (3,) or orientation.shape != (6,):
        return None
    normal = np.cross(orientation[:3], orientation[3:])
    return float(position @ normal) * (-1.0 if normal[2] < 0 else 1.0)


@contextmanager
def _files(store: Store, instances: Sequence[FoundInstance]) -> Iterator[list[Path]]:
    """The instances as files: where they lie in a folder, or fetched from a bucket for the while."""
    with tempfile.TemporaryDirectory(prefix="lampyris-cut-") as folder:
        found = []
        for one in instances:
            path = store.path_of(one.prefix, one.sha256)
            if path is None:
                path = Path(folder) / one.sha256
                path.write_bytes(store.get(one.prefix, one.sha256))
            found.append(path)
        yield found
