"""RawScan ↔ one `.lraw` file: a Zarr 3 hierarchy in a zip, lossless, sharded by turn, with digests of every part.

Inside: `counts` (views, rows, columns), sharded along views by one turn of the gantry, compressed (Blosc: bit shuffle
and LZ4) in chunks of some 250 views × 16 rows × all columns, each with a CRC-32C; every array of `RawScan.arrays()` as
one uncompressed chunk; and, written last, the root attributes under "lampyris": format version, the facts, the scan's
id, and size and SHA-256 of every other member. Decision 0040 says why.
"""

import contextlib
import dataclasses
import json
import os
import secrets
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import zarr
from zarr.codecs import BloscCodec, Crc32cCodec

from lampyris.model import FormatError, InputError, Progress, RawScan, StorageError, silent
from lampyris.model.arrays import Float64, canonical_json, new_digest, update_digest
from lampyris.raw.container.bundle import BundleWriter, sha256_of
from lampyris.raw.container.facts import scan_from
from lampyris.raw.container.opened import FORMAT, SUFFIX, UNFINISHED, VERSION, Opened, sha256_of_json

CHUNK_VIEWS, CHUNK_ROWS = 250, 16
SHARD_BYTES = 256 << 20


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

    def as_dict(self) -> dict[str, Any]:
        return dataclasses.asdict(self)


def write(scan: RawScan, path: str | os.PathLike[str], *, progress: Progress = silent) -> None:
    """Write a scan to one `.lraw` file: whole, or not at all.

    The file grows under a hidden name beside its target (".NAME.….partial"), reaches the disk and only then takes the
    target's place; until then an older file of that name stays what it was. What a killed process leaves does not open.

    Raises InputError when the counts hold NaN or do not belong to `scan.id`, StorageError when the disk is full,
    read-only or failing.
    """
    target = Path(path)
    if target.suffix != SUFFIX:
        raise InputError(f"a raw scan is written to a name that ends in {SUFFIX}, not to {target.name}")
    partial = target.with_name(f".{target.name}.{secrets.token_hex(4)}{UNFINISHED}")
    try:
        with partial.open("xb") as file:
            _fill(file, scan, progress)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(target)
        _sync_folder(target.parent)
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
    opened = Opened(Path(path))
    return scan_from(opened.facts, opened.arrays(), opened.counts, opened.id, opened.name)


def info(path: str | os.PathLike[str]) -> Info:
    """What a `.lraw` holds, without reading its counts; raises FormatError like `read`."""
    opened = Opened(Path(path))
    scan = scan_from(opened.facts, opened.arrays(), opened.counts, opened.id, opened.name)
    private = ("AcquisitionDateTime", "DeviceSerialNumber", "StationName", "FrameOfReferenceUID")
    acquisition = {key: value for key, value in opened.facts["acquisition"].items() if key not in private}
    stored = sum(member.bytes for name, member in opened.members.items() if name.startswith("counts/"))
    return Info(
        id=opened.id,
        version=VERSION,
        shape=scan.geometry.shape,
        dtype=str(opened.counts.dtype),
        views_per_turn=views_per_turn(scan.geometry.source),
        stored_bytes=stored,
        counts_bytes=int(np.prod(scan.geometry.shape)) * opened.counts.dtype.itemsize,
        arrays=tuple(opened.names),
        facts={**opened.facts, "acquisition": acquisition},
    )


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
    digest = new_digest()
    for name, array in opened.arrays().items():
        update_digest(digest, name, array)
    _update_with_facts(digest, opened.facts, opened.counts)
    views, step = opened.counts.shape[0], opened.shard_views
    for first in range(0, views, step):
        digest.update(_little(opened.counts[first : first + step]).data)
        progress(min(first + step, views) / views)
    if digest.hexdigest() != opened.id:
        raise FormatError(
            f"{opened.name}: the content has digest {digest.hexdigest()[:12]}…, the file says {opened.id[:12]}…:"
            " tampered with by someone who renewed the members' digests?"
        )


def views_per_turn(source: Float64) -> float:
    """Mean number of views per turn of the source (views, 3) about the y axis; all views where it stands still."""
    angle = np.unwrap(np.arctan2(source[:, 0], source[:, 2]))
    step = abs(float(angle[-1] - angle[0])) / max(len(source) - 1, 1)
    return 2 * np.pi / step if step > 1e-9 else float(len(source))


def _fill(file: BinaryIO, scan: RawScan, progress: Progress) -> None:
    with BundleWriter(file) as store:
        digest = new_digest()
        arrays = scan.arrays()
        for name, array in arrays.items():
            little = _little(array)
            _create(store, name, little.shape, little.dtype)[...] = little
            update_digest(digest, name, array)
        facts = _json_facts(scan)
        _update_with_facts(digest, facts, scan.counts)
        _write_counts(store, scan, digest, progress)
        if digest.hexdigest() != scan.id:
            raise InputError(
                f"the content has digest {digest.hexdigest()[:12]}…, the scan is called {scan.id[:12]}…:"
                " was it changed after it was made? Make a new RawScan with id=''"
            )
        manifest = {
            "format": FORMAT,
            "version": VERSION,
            "id": scan.id,
            "arrays": list(arrays),
            "facts": facts,
            "members": {name: [member.bytes, member.sha256] for name, member in store.members.items()},
        }
        manifest["sha256"] = sha256_of_json(manifest)
        zarr.open_group(store, mode="r+", zarr_format=3).attrs["lampyris"] = manifest


def _json_facts(scan: RawScan) -> dict[str, Any]:
    try:
        facts: dict[str, Any] = json.loads(canonical_json(scan.facts()))
    except (TypeError, ValueError) as error:
        raise InputError(f"the scan's facts are no JSON values ({error}): NaN, infinity or a foreign type?") from error
    return facts


def _write_counts(store: BundleWriter, scan: RawScan, digest: Any, progress: Progress) -> None:
    chunk, shard = _layout(scan)
    dtype = np.dtype(scan.counts.dtype).newbyteorder("<")
    if dtype.kind not in "uif":
        raise InputError(f"counts are {scan.counts.dtype}, expected integers or real numbers")
    stored = _create(store, "counts", scan.geometry.shape, dtype, chunk, shard)
    for first in range(0, scan.views, shard[0]):
        block = _little(scan.counts[first : first + shard[0]])
        if dtype.kind == "f" and not np.isfinite(block).all():
            bad = int(block.size - np.isfinite(block).sum())
            raise InputError(f"counts of views {first}…{first + len(block) - 1} hold {bad} NaN or infinite values")
        digest.update(block.data)
        stored[first : first + len(block)] = block
        progress((first + len(block)) / scan.views)


def _layout(scan: RawScan) -> tuple[tuple[int, int, int], tuple[int, int, int]]:
    """Shapes of chunk and shard: a shard is a turn (or what fits 256 MiB), a whole number of chunks each way."""
    views, rows, columns = scan.geometry.shape
    chunk_rows = min(rows, CHUNK_ROWS)
    shard_rows = -(-rows // chunk_rows) * chunk_rows
    view_bytes = shard_rows * columns * np.dtype(scan.counts.dtype).itemsize
    turn = min(views, max(1, round(views_per_turn(scan.geometry.source))), max(1, SHARD_BYTES // view_bytes))
    chunks = -(-turn // CHUNK_VIEWS)
    chunk_views = -(-turn // chunks)
    return (chunk_views, chunk_rows, columns), (chunk_views * chunks, shard_rows, columns)


def _create(
    store: BundleWriter,
    name: str,
    shape: tuple[int, ...],
    dtype: Any,
    chunk: tuple[int, ...] | None = None,
    shard: tuple[int, ...] | None = None,
) -> Any:
    compress = (BloscCodec(cname="lz4", clevel=5, shuffle="bitshuffle"),) if shard else ()
    return zarr.create_array(
        store,
        name=name,
        shape=shape,
        dtype=dtype,
        chunks=chunk or shape,
        shards=shard,
        filters=(),
        compressors=(*compress, Crc32cCodec()),
        fill_value=0,
        config={"write_empty_chunks": True},  # a missing chunk must be damage, never zeros
    )


def _update_with_facts(digest: Any, facts: dict[str, Any], counts: Any) -> None:
    """The middle of `RawScan.digest`: facts as they stand in the file, then type and shape of the counts."""
    digest.update(canonical_json(facts).encode())
    dtype = np.dtype(counts.dtype).newbyteorder("<").str
    digest.update(canonical_json(["counts", dtype, list(counts.shape)]).encode())


def _little(values: Any) -> np.ndarray:
    """Contiguous and little-endian, as it is stored and digested."""
    array = np.ascontiguousarray(values)
    return array.astype(array.dtype.newbyteorder("<"), copy=False)


def _sync_folder(folder: Path) -> None:
    """Make a rename last through a power cut, where folders can be opened."""
    if os.name == "posix":
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
