"""A scan's chunks, header and recipe → a shelf in the store, on which only what belongs to exactly these is found.

A key is the digest of all that a product depends on: the chunks that hold its views, header, recipe, our source, the
numerical libraries and the kind of processor. So what was made of other bytes, for another recipe or by another
version is not found, and is deleted with the rest. An object is written once; what a power cut or a failing disk
leaves of it does not hash to its own first bytes, and counts as absent.
"""

import hashlib
import io
import platform
from collections.abc import Iterable, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import llvmlite.binding as llvm
import numba
import numpy as np
import scipy

import lampyris
from lampyris import raw
from lampyris.centre.store import Store, early_prefix
from lampyris.model import RawScan, Recipe
from lampyris.model.arrays import canonical_json
from lampyris.transfer import Chunk

_DIGEST_BYTES = 32


class UsedUpError(Exception):
    """The share of the site, or of the disk, is used up: nothing more is made early."""


class EarlyShelf:
    """What was, and is being, made of one scan while it arrives: a `lampyris.model.Shelf`.

    `room` is how many bytes may still be kept; keeping more raises UsedUpError. `hits`, `misses` count what was asked
    for by `load`, `kept_bytes` what was kept.
    """

    def __init__(self, store: Store, site: str, scan: str, *, room: int = 0) -> None:
        self._store, self._prefix = store, early_prefix(site, scan)
        self._basis, self._ends, self._chunks = "", tuple[tuple[int, int], ...](), tuple[Chunk, ...]()
        self.room = room
        self.hits = self.misses = self.kept_bytes = 0

    def over(self, scan: RawScan, recipe: Recipe, ends: Iterable[tuple[int, int]], chunks: Iterable[Chunk]) -> None:
        """Say of what all that follows is made: `ends` as `raw.Coming` has them, the chunks of the file in order."""
        basis = [recipe.digest(), raw.header_digest(scan), program(), machine()]
        self._basis, self._ends, self._chunks = canonical_json(basis), tuple(ends), tuple(chunks)

    def holds(self, what: str, views: int) -> bool:
        return self._store.size_of(self._prefix, self._key(what, views)) is not None

    def load(self, what: str, views: int) -> Mapping[str, np.ndarray] | None:
        """What lies there; None, and a miss, where nothing does or its bytes are not what they were."""
        found = self._store.find(self._prefix, self._key(what, views))
        made = None if found is None else _unpacked(found)
        self.hits, self.misses = self.hits + (made is not None), self.misses + (made is None)
        return made

    def keep(self, what: str, views: int, arrays: Mapping[str, np.ndarray]) -> None:
        data = _packed(arrays)
        if self.kept_bytes + len(data) > self.room:
            raise UsedUpError
        self._store.leave(self._prefix, self._key(what, views), data)
        self.kept_bytes += len(data)

    def _key(self, what: str, views: int) -> str:
        size = next(size for size, whole in self._ends if whole >= views)
        digests, at = [], 0
        for chunk in self._chunks:
            if at >= size:
                break
            digests.append(chunk.digest)
            at += chunk.size
        return hashlib.sha256(canonical_json([self._basis, what, views, digests]).encode()).hexdigest()


@cache
def program() -> str:
    """Digest of all our source, and the versions of what computes beside it."""
    ours = lampyris.source_digest(Path(lampyris.__file__).parent)
    versions = (lampyris.__version__, np.__version__, scipy.__version__, numba.__version__, platform.python_version())
    return " ".join((ours, *versions))


@cache
def machine() -> str:
    """What a number's last bit may depend on: the processor, what it is compiled for, and the number of threads."""
    compiled_for = numba.core.registry.cpu_target.target_context.codegen().magic_tuple()
    return f"{llvm.get_host_cpu_name()} {' '.join(compiled_for)} {numba.get_num_threads()}"


def _packed(arrays: Mapping[str, np.ndarray]) -> bytes:
    file = io.BytesIO()
    plain: dict[str, Any] = dict(arrays)
    np.savez(file, **plain)
    content = file.getbuffer()
    return hashlib.sha256(content).digest() + content


def _unpacked(data: bytes) -> dict[str, np.ndarray] | None:
    content = memoryview(data)[_DIGEST_BYTES:]
    if hashlib.sha256(content).digest() != data[:_DIGEST_BYTES]:
        return None
    with np.load(io.BytesIO(content), allow_pickle=False) as found:
        return {name: found[name] for name in found.files}
