"""RawScan and how it is to be coded → the members of a `.lraw`, turn by turn, in the order that they are sent in."""

import json
from collections.abc import Iterator
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
import zarr
from zarr.codecs import BloscCodec, Crc32cCodec

from lampyris.model import Coding, Float64, InputError, RawScan
from lampyris.model.arrays import canonical_json, new_digest, update_digest
from lampyris.raw.codec import Decision, coding_of, quantise, restore
from lampyris.raw.container.bundle import BundleWriter
from lampyris.raw.container.counts_codec import CountsCodec
from lampyris.raw.container.opened import FORMAT, PLAIN_VERSION, VERSION, sha256_of_json
from lampyris.raw.lazy import LazyCounts

CHUNK_VIEWS, CHUNK_ROWS = 250, 16
SHARD_BYTES = 256 << 20
ARRIVING = "arriving"
"""The id of a scan whose counts are still coming: it is found while the scan is written."""


def coarsened(scan: RawScan, coding: Coding) -> RawScan:
    """The scan as it is after coding: lazy float32 counts, its noise with what the steps add, and the coding.

    Its id is not known before all counts are: `ARRIVING`.
    """

    def load(views: Any) -> np.ndarray:
        chosen = slice(views.start, views.stop, views.step) if isinstance(views, range) else views
        return restore(quantise(little(scan.counts[chosen]), coding), coding)

    counts = LazyCounts(scan.geometry.shape, np.float32, load)
    named = replace(coding, source_id=scan.id)
    return replace(scan, counts=counts, noise=coding.noise_after, coding=named, id=ARRIVING)


class Written(NamedTuple):
    """How many views are written, and the id of all, once all are."""

    views: int
    id: str


def fill(store: BundleWriter, scan: RawScan, decision: Decision | None) -> Iterator[Written]:
    """Write all of a scan; yields once for each turn, and when the manifest is written too.

    Without a decision the counts are compressed for a fast disk (Blosc), else for a link (HTJ2K) as it says. What the
    store holds when this ends is whole; before, it does not open. Raises InputError when counts hold NaN, do not
    belong to `scan.id` or cannot be coded.
    """
    steps = None if decision is None else decision.steps_per_sigma
    coding = None if steps is None else coding_of(scan, steps)
    written = scan if coding is None else coarsened(scan, coding)
    facts = _json_facts(written)
    for name, array in scan.arrays().items():
        plain = little(array)
        _create(store, name, plain.shape, plain.dtype)[...] = plain
    version = PLAIN_VERSION if decision is None and scan.coding is None else VERSION
    head = {"format": FORMAT, "version": version, "arrays": list(scan.arrays()), "facts": facts}
    measured = begun(scan.arrays(), _json_facts(scan), scan.counts)
    content = measured if coding is None else begun(scan.arrays(), facts, written.counts)
    counts = _create_counts(store, scan, coding, None if decision is None else head)
    for first, block in _turns(scan, counts.shards[0]):
        measured.update(block.data)
        counts[first : first + len(block)] = block if coding is None else _coded(block, coding, content)
        yield Written(first + len(block), "")
    if scan.id not in (measured.hexdigest(), ARRIVING):
        raise InputError(
            f"the content has digest {measured.hexdigest()[:12]}…, the scan is called {scan.id[:12]}…:"
            " was it changed after it was made? Make a new RawScan with id=''"
        )
    if written.coding is not None:
        head["source_id"] = written.coding.source_id if coding is None else measured.hexdigest()
    if decision is not None:
        head["decision"] = {"coding": decision.coding, "reason": decision.reason}
    _seal(store, head | {"id": content.hexdigest()})
    yield Written(scan.views, content.hexdigest())


def _coded(block: np.ndarray, coding: Coding, digest: Any) -> np.ndarray:
    """Levels of a turn; what they stand for goes into the digest."""
    levels = quantise(block, coding)
    for start in range(0, len(levels), 64):
        digest.update(restore(levels[start : start + 64], coding).data)
    return levels


def begun(arrays: dict[str, np.ndarray], facts: dict[str, Any], counts: Any) -> Any:
    """`RawScan.digest` up to the counts: arrays, facts as they stand in the file, type and shape of the counts."""
    digest = new_digest()
    for name, array in arrays.items():
        update_digest(digest, name, array)
    digest.update(canonical_json(facts).encode())
    dtype = np.dtype(counts.dtype).newbyteorder("<").str
    digest.update(canonical_json(["counts", dtype, list(counts.shape)]).encode())
    return digest


def views_per_turn(source: Float64) -> float:
    """Mean number of views per turn of the source (views, 3) about the y axis; all views where it stands still."""
    angle = np.unwrap(np.arctan2(source[:, 0], source[:, 2]))
    step = abs(float(angle[-1] - angle[0])) / max(len(source) - 1, 1)
    return 2 * np.pi / step if step > 1e-9 else float(len(source))


def little(values: Any) -> np.ndarray:
    """Contiguous and little-endian, as it is stored and digested."""
    array = np.ascontiguousarray(values)
    return array.astype(array.dtype.newbyteorder("<"), copy=False)


def _turns(scan: RawScan, step: int) -> Iterator[tuple[int, np.ndarray]]:
    """Counts of every shard in turn, checked, with the number of their first view."""
    for first in range(0, scan.views, step):
        block = little(scan.counts[first : first + step])
        if block.dtype.kind == "f" and not np.isfinite(block).all():
            bad = int(block.size - np.isfinite(block).sum())
            raise InputError(f"counts of views {first}…{first + len(block) - 1} hold {bad} NaN or infinite values")
        yield first, block


def _json_facts(scan: RawScan) -> dict[str, Any]:
    try:
        facts: dict[str, Any] = json.loads(canonical_json(scan.facts()))
    except (TypeError, ValueError) as error:
        raise InputError(f"the scan's facts are no JSON values ({error}): NaN, infinity or a foreign type?") from error
    return facts


def _create_counts(store: BundleWriter, scan: RawScan, coding: Coding | None, head: dict[str, Any] | None) -> Any:
    """The empty array of counts; with a head it is one for a link, which tells from its start what is coming."""
    dtype = np.dtype(scan.counts.dtype).newbyteorder("<")
    if dtype.kind not in "uif":
        raise InputError(f"counts are {scan.counts.dtype}, expected integers or real numbers")
    chunk, shard = _layout(scan)
    if head is None:
        blosc = BloscCodec(cname="lz4", clevel=5, shuffle="bitshuffle")
        return _create(
            store, "counts", scan.geometry.shape, dtype, chunks=chunk, shards=shard, compressors=(blosc, Crc32cCodec())
        )
    return _create(
        store,
        "counts",
        scan.geometry.shape,
        dtype if coding is None else np.dtype("<u2"),
        chunks=chunk,
        shards=shard,
        serializer=CountsCodec(coding),
        compressors=(),
        attributes={"lampyris": head},
    )


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


def _create(store: BundleWriter, name: str, shape: tuple[int, ...], dtype: Any, **how: Any) -> Any:
    """A new array: one uncompressed chunk with a checksum, unless `how` says otherwise."""
    return zarr.create_array(
        store,
        name=name,
        shape=shape,
        dtype=dtype,
        filters=(),
        fill_value=0,
        config={"write_empty_chunks": True},  # a missing chunk must be damage, never zeros
        **({"chunks": shape, "compressors": (Crc32cCodec(),)} | how),
    )


def _seal(store: BundleWriter, head: dict[str, Any]) -> None:
    """The manifest: what the file is, with size and SHA-256 of every member, under a digest of its own."""
    manifest = head | {"members": {name: [member.bytes, member.sha256] for name, member in store.members.items()}}
    manifest["sha256"] = sha256_of_json(manifest)
    zarr.open_group(store, mode="r+", zarr_format=3).attrs["lampyris"] = manifest
