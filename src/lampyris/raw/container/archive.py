"""RawScan ↔ one `.lraw` file: a Zarr 3 hierarchy in a zip, lossless, sharded by turn, with digests of every part.

Inside: every array of `RawScan.arrays()` as one uncompressed chunk; `counts` (views, rows, columns), sharded along
views by one turn of the gantry, in chunks of some 250 views × 16 rows × all columns, each with a checksum, compressed
for a disk (Blosc: bit shuffle and LZ4) or for a link (HTJ2K, exact or in steps of the noise); and, written last, the
root attributes under "lampyris": format version, the facts, the scan's id, and size and SHA-256 of every other member.
Decisions 0040 and 0111 say why.
"""

import contextlib
import dataclasses
import os
import secrets
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from lampyris.durable import sync
from lampyris.model import FormatError, InputError, Progress, RawScan, StorageError, silent
from lampyris.raw.codec import Decision
from lampyris.raw.container.bundle import BundleWriter, sha256_of
from lampyris.raw.container.facts import scan_from
from lampyris.raw.container.opened import SUFFIX, UNFINISHED, Opened
from lampyris.raw.container.writer import begun, fill, little, views_per_turn


@dataclass(frozen=True, slots=True)
class Info:
    """What a raw scan holds, without identity: everything can be shown, logged and sent."""

    id: str
    version: int
    shape: tuple[int, int, int]
    dtype: str
    views_per_turn: float
    stored_bytes: int
    counts_bytes: int
    arrays: tuple[str, ...]
    facts: dict[str, Any]
    decision: dict[str, str] | None
    source_id: str

    def as_dict(self) -> dict[str, Any]:
        return dataclasses.asdict(self)


def write(
    scan: RawScan,
    path: str | os.PathLike[str],
    *,
    decision: Decision | None = None,
    progress: Progress = silent,
) -> None:
    """Write a scan to one `.lraw` file: whole, or not at all.

    Without a decision the counts are kept exactly, compressed for a fast disk; with one they are coded for a link as it
    says, and what is read back is the coded scan, with an id of its own where counts were coarsened.

    Raises InputError when the counts hold NaN or do not belong to `scan.id`, what `coding_of` raises when they cannot
    be coarsened, StorageError when the disk is full, read-only or failing.
    """
    with whole(Path(path)) as file, BundleWriter(file) as store:
        for written in fill(store, scan, decision):
            progress(written.views / scan.views)


@contextlib.contextmanager
def whole(target: Path) -> Iterator[BinaryIO]:
    """A file that takes its target's place when it is complete.

    It grows under a hidden name beside its target (".NAME.….partial"), reaches the disk and only then takes the
    target's place; until then an older file of that name stays what it was. What a killed process leaves does not open.
    """
    if target.suffix != SUFFIX:
        raise InputError(f"a raw scan is written to a name that ends in {SUFFIX}, not to {target.name}")
    partial = target.with_name(f".{target.name}.{secrets.token_hex(4)}{UNFINISHED}")
    try:
        with partial.open("xb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        partial.replace(target)
        sync(target.parent)
    except OSError as error:
        raise StorageError(
            f"{target.name} could not be written ({error.strerror or error}): is the disk full, the folder missing or"
            " read-only? Nothing was left behind"
        ) from error
    finally:
        with contextlib.suppress(OSError):
            partial.unlink(missing_ok=True)


def recognises(path: Path) -> bool:
    """A single file that starts as a zip does, or was meant to be one of ours."""
    if not path.is_file():
        return False
    with path.open("rb") as file:
        return file.read(4) == b"PK\3\4" or path.suffix in (SUFFIX, UNFINISHED)


def read(path: str | os.PathLike[str]) -> RawScan:
    """The scan of a `.lraw` file, its counts left where they are until they are indexed.

    Table of contents, metadata and every array but the counts are checked against their digests; `verify` checks all.
    Raises FormatError when the file is truncated, tampered with, of a newer version or no raw scan at all.
    """
    return scan_of(Opened(Path(path)))


def scan_of(opened: Opened) -> RawScan:
    """The scan of an opened file; its coding, if it has one, names the scan that it was made from."""
    scan = scan_from(opened.facts, opened.arrays(), opened.counts, opened.id, opened.name)
    if scan.coding is None:
        return scan
    return dataclasses.replace(scan, coding=dataclasses.replace(scan.coding, source_id=opened.source_id))


def info(path: str | os.PathLike[str]) -> Info:
    """What a `.lraw` holds, without reading its counts; raises FormatError like `read`."""
    opened = Opened(Path(path))
    scan = scan_of(opened)
    private = ("AcquisitionDateTime", "DeviceSerialNumber", "StationName", "FrameOfReferenceUID")
    acquisition = {key: value for key, value in opened.facts["acquisition"].items() if key not in private}
    stored = sum(member.bytes for name, member in opened.members.items() if name.startswith("counts/"))
    return Info(
        id=opened.id,
        version=opened.version,
        shape=scan.geometry.shape,
        dtype=str(opened.counts.dtype),
        views_per_turn=views_per_turn(scan.geometry.source),
        stored_bytes=stored,
        counts_bytes=int(np.prod(scan.geometry.shape)) * opened.counts.dtype.itemsize,
        arrays=tuple(opened.names),
        facts={**opened.facts, "acquisition": acquisition},
        decision=opened.decision,
        source_id=opened.source_id,
    )


def ends(path: str | os.PathLike[str]) -> tuple[tuple[int, int], ...]:
    """After how many bytes of a `.lraw` how many views are whole, as `Coming.ends` was while it arrived."""
    return tuple(Opened(Path(path)).shard_ends())


def header_digest(scan: RawScan) -> str:
    """SHA-256 of all that a scan's counts are understood by: arrays and facts, type and shape of the counts.

    It is the same while the scan arrives and when it is whole.
    """
    return str(begun(scan.arrays(), scan.facts(), scan.counts).hexdigest())


def verify(path: str | os.PathLike[str], *, progress: Progress = silent) -> None:
    """Read every byte, compare it with its digest, decode it and compare the content with the scan's id.

    Raises FormatError that names every member that is damaged, and the views it stands for.
    """
    opened = Opened(Path(path))
    damaged = [
        opened.describe(name)
        for name, member in opened.members.items()
        if sha256_of(opened.store, name) != member.sha256
    ]
    if damaged:
        raise FormatError(
            f"{opened.name}: {len(damaged)} of {len(opened.members)} members differ from their digest:"
            f" {'; '.join(damaged)}: a failing disk, or tampered with?"
        )
    digest = begun(opened.arrays(), opened.facts, opened.counts)
    views, step = opened.counts.shape[0], opened.shard_views
    for first in range(0, views, step):
        digest.update(little(opened.counts[first : first + step]).data)
        progress(min(first + step, views) / views)
    if digest.hexdigest() != opened.id:
        raise FormatError(
            f"{opened.name}: the content has digest {digest.hexdigest()[:12]}…, the file says {opened.id[:12]}…:"
            " tampered with by someone who renewed the members' digests?"
        )
