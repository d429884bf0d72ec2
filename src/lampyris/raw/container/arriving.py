"""The first bytes of a packed scan → a RawScan of the turns that are whole so far, for an early image."""

import json
import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import zarr

from lampyris.model import FormatError, RawScan, StorageError
from lampyris.raw.container.bundle import BundleReader
from lampyris.raw.container.counts_codec import bounded
from lampyris.raw.container.facts import scan_from
from lampyris.raw.container.opened import check_shards, check_version, coding_in, decoding, small_array, stored_counts
from lampyris.raw.container.writer import ARRIVING
from lampyris.raw.lazy import LazyCounts

_COUNTS = "counts/zarr.json"


def arrived(path: str | os.PathLike[str]) -> RawScan | None:
    """The scan of the whole turns in the first bytes of a packed scan, None before the first.

    `path` holds its parts so far, from the first on, in order, under any name. The id is `ARRIVING`: what it will be is
    not known yet, and nothing is held against the digests at the end; arrays and chunks are checked by their own
    checksums. Raises FormatError when the bytes do not begin a packed scan.
    """
    try:
        store = BundleReader(Path(path), arriving=True)
    except OSError as error:
        raise StorageError(f"{Path(path).name} cannot be read ({error.strerror or error})") from error
    if _COUNTS not in store.names():
        return None
    name = store.path.name
    head = _head(store)
    with decoding(store.path, "metadata"):
        array = zarr.open_array(store, path="counts", mode="r", zarr_format=3)
        facts, coding = dict(head["facts"]), coding_in(array, dict(head["facts"]))
        views = _whole_views(store, check_shards(array), array.shape[0])
    if not views:
        return None
    arrays = {each: _array(store, str(each)) for each in head["arrays"]}
    scan = scan_from(facts, arrays, stored_counts(bounded(array), store, coding), ARRIVING, name)
    return _first(scan, views)


def _head(store: BundleReader) -> dict[str, Any]:
    try:
        head = dict(json.loads(store.read(_COUNTS))["attributes"]["lampyris"])
        complete = isinstance(head["facts"], dict) and isinstance(head["arrays"], list)
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise FormatError(
            f"{store.path.name}: {_COUNTS} does not tell what is coming ({error!r}): not packed for a link?"
        ) from error
    if not complete:
        raise FormatError(f"{store.path.name}: {_COUNTS} holds no facts and arrays: tampered with?")
    check_version(head, store.path.name)
    return head


def _array(store: BundleReader, name: str) -> np.ndarray:
    with decoding(store.path, name):
        stored = sum(store.bytes_of(key) for key in store.names() if key.startswith(f"{name}/c"))
        return small_array(zarr.open_array(store, path=name, mode="r", zarr_format=3), stored)


def _whole_views(store: BundleReader, shard_views: int, views: int) -> int:
    """How many views from the first on are in shards that are there."""
    shards = 0
    while f"counts/c/{shards}/0/0" in store.names():
        shards += 1
    return min(shards * shard_views, views)


def _first(scan: RawScan, views: int) -> RawScan:
    def load(chosen: Sequence[int] | range) -> np.ndarray:
        index = slice(chosen.start, chosen.stop, chosen.step) if isinstance(chosen, range) else list(chosen)
        return np.asarray(scan.counts[index])

    counts = LazyCounts((views, *scan.geometry.shape[1:]), scan.counts.dtype, load)
    geometry = scan.geometry.subset(slice(0, views))
    return replace(scan, counts=counts, geometry=geometry, exposure_mas=scan.exposure_mas[:views])
