"""The first bytes of a packed scan → what of it is whole so far, for work that need not wait for the rest."""

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import zarr

from lampyris.model import FormatError, RawScan, StorageError
from lampyris.raw.container.bundle import BundleReader
from lampyris.raw.container.counts_codec import bounded
from lampyris.raw.container.facts import scan_from
from lampyris.raw.container.opened import (
    check_shards,
    check_version,
    coding_in,
    decoding,
    small_array,
    stored_counts,
    whole_at,
)
from lampyris.raw.container.writer import ARRIVING
from lampyris.raw.lazy import LazyCounts

_COUNTS = "counts/zarr.json"


@dataclass(frozen=True, slots=True, eq=False)
class Coming:
    """A packed scan of which some first turns are here: its header is that of all views.

    `scan` has every view's geometry and exposure; its counts may be read up to view `ends[-1][1]`. `ends`: after how
    many bytes of the file how many views are whole, one entry a turn.
    """

    scan: RawScan
    ends: tuple[tuple[int, int], ...]

    @property
    def views(self) -> int:
        """Views that are here, from the first on."""
        return self.ends[-1][1]


def arrived(path: str | os.PathLike[str]) -> RawScan | None:
    """The scan of the whole turns in the first bytes of a packed scan, None before the first; raises as `coming`."""
    begun = coming(path)
    return None if begun is None else _first(begun.scan, begun.views)


def coming(path: str | os.PathLike[str]) -> Coming | None:
    """A packed scan of which the first bytes are here, None before its first turn is.

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
        ends = whole_at(store, check_shards(array), array.shape[0])
    if not ends:
        return None
    arrays = {each: _array(store, str(each)) for each in head["arrays"]}
    scan = scan_from(facts, arrays, stored_counts(bounded(array), store, coding), ARRIVING, name)
    return Coming(scan, tuple(ends))


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


def _first(scan: RawScan, views: int) -> RawScan:
    def load(chosen: Sequence[int] | range) -> np.ndarray:
        index = slice(chosen.start, chosen.stop, chosen.step) if isinstance(chosen, range) else list(chosen)
        return np.asarray(scan.counts[index])

    counts = LazyCounts((views, *scan.geometry.shape[1:]), scan.counts.dtype, load)
    geometry = scan.geometry.subset(slice(0, views))
    return replace(scan, counts=counts, geometry=geometry, exposure_mas=scan.exposure_mas[:views])
