"""A `.lraw` file → its manifest, small arrays and lazy counts, checked as far as can be without reading the counts."""

import contextlib
import functools
import hashlib
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import zarr
from zarr.codecs import BloscCodec, BytesCodec, Crc32cCodec

from lampyris.model import Coding, FormatError, ProgramError, StorageError
from lampyris.model.arrays import canonical_json
from lampyris.raw.codec import CODINGS, restore
from lampyris.raw.container.bundle import ROOT, BundleReader, Member, sha256_of
from lampyris.raw.container.counts_codec import CountsCodec, bounded
from lampyris.raw.container.facts import coding_facts
from lampyris.raw.lazy import LazyCounts

FORMAT, PLAIN_VERSION, VERSION = "lraw", 1, 2
"""Version 1 has counts as they were measured, for a disk; what is coded or made for a link needs 2."""
SUFFIX, UNFINISHED = ".lraw", ".partial"
LARGEST_SHARD_BYTES = 1 << 30
"""Readers refuse more: what a shard claims to unfold to is reserved in memory before it can be checked."""


def stored_counts(array: Any, store: BundleReader, coding: Coding | None) -> LazyCounts:
    """Counts that are read when they are indexed; FormatError when the bytes asked for are damaged.

    With a coding the array holds its levels. Of a packed array the last two chunks stay decoded: corrections take fewer
    views at a time than a chunk has, with some neighbours.
    """
    packed = any(isinstance(each, CountsCodec) for each in array.metadata.codecs[0].codecs)
    chunk_views = int(array.chunks[0])

    @functools.lru_cache(maxsize=2)
    def chunk(number: int) -> np.ndarray:
        return np.asarray(array[number * chunk_views : (number + 1) * chunk_views])

    def stored(views: Sequence[int] | range) -> np.ndarray:
        if not isinstance(views, range):
            return np.asarray(array.oindex[np.asarray(views)])
        if not packed or views.step != 1 or len(views) > chunk_views:
            return np.asarray(array[views.start : views.stop : views.step])
        numbers = range(views.start // chunk_views, (views.stop - 1) // chunk_views + 1)
        starts = [number * chunk_views for number in numbers]
        parts = [chunk(n)[max(views.start - at, 0) : views.stop - at] for n, at in zip(numbers, starts, strict=True)]
        return np.concatenate(parts)

    def load(views: Sequence[int] | range) -> np.ndarray:
        with decoding(store.path, "counts"):
            return stored(views) if coding is None else restore(stored(views), coding)

    return LazyCounts(tuple(array.shape), array.dtype if coding is None else np.float32, load)


class Opened:
    """A `.lraw` whose table of contents, manifest, metadata and small arrays agree with their digests."""

    def __init__(self, path: Path, *, unfinished: bool = False) -> None:
        self.name = path.name
        if path.name.endswith(UNFINISHED) and not unfinished:
            raise FormatError(f"{path.name} was never finished: the process that wrote it was stopped; delete it")
        try:
            self.store = BundleReader(path)
        except OSError as error:
            raise StorageError(f"{path.name} cannot be read ({error.strerror or error})") from error
        manifest = self._manifest()
        try:
            self.id, self.facts = str(manifest["id"]), dict(manifest["facts"])
            self.names = [str(name) for name in manifest["arrays"]]
            self.version, self.source_id = int(manifest["version"]), str(manifest.get("source_id", ""))
            self.decision = None if "decision" not in manifest else _decision(manifest["decision"])
            self.members = {name: Member(int(n), str(sha)) for name, (n, sha) in manifest["members"].items()}
        except (KeyError, TypeError, ValueError) as error:
            raise FormatError(f"{self.name}: its manifest is incomplete ({error!r}): tampered with?") from error
        self._check_members()
        with decoding(path, "metadata"):
            self.group = zarr.open_group(self.store, mode="r", zarr_format=3)
            array = self.group["counts"]
            self._check_counts(array)
            coding = coding_in(array, self.facts)
            self.counts = stored_counts(bounded(array), self.store, coding)

    def arrays(self) -> dict[str, np.ndarray]:
        """Every array but the counts, by name and in the order that they were digested in."""
        found = {}
        for name in self.names:
            with decoding(self.store.path, name):
                stored = sum(n.bytes for key, n in self.members.items() if key.startswith(f"{name}/c"))
                found[name] = small_array(self.group[name], stored)
        return found

    def shard_ends(self) -> list[tuple[int, int]]:
        """As `whole_at`, for all views."""
        return whole_at(self.store, self.shard_views, self.counts.shape[0])

    def describe(self, member: str) -> str:
        """A member's name and, for counts, the views it stands for."""
        if not member.startswith("counts/c/"):
            return member
        first = int(member.split("/")[2]) * self.shard_views
        return f"{member} (views {first}…{min(first + self.shard_views, self.counts.shape[0]) - 1})"

    def _manifest(self) -> dict[str, Any]:
        if ROOT not in self.store.names():
            raise FormatError(f"{self.name} is a zip without {ROOT}: not a raw scan of Lampyris?")
        try:
            manifest = dict(json.loads(self.store.read(ROOT))["attributes"]["lampyris"])
            sha256, found = manifest.pop("sha256"), sha256_of_json(manifest)
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            raise FormatError(
                f"{self.name}: {ROOT} holds no manifest of Lampyris ({error!r}): another Zarr, or tampered with?"
            ) from error
        check_version(manifest, self.name)
        if found != sha256:
            raise FormatError(f"{self.name}: the manifest differs from its digest: tampered with?")
        return manifest

    def _check_members(self) -> None:
        stored = {name: self.store.bytes_of(name) for name in self.store.names() if name != ROOT}
        declared = {name: member.bytes for name, member in self.members.items()}
        if stored != declared:
            wrong = sorted(name for name in stored | declared if stored.get(name) != declared.get(name))
            raise FormatError(
                f"{self.name}: {len(wrong)} members are missing, added or of another size than declared, first"
                f" {wrong[0]} ({stored.get(wrong[0])} bytes stored, {declared.get(wrong[0])} declared): tampered with?"
            )
        for name, member in self.members.items():
            if not name.startswith("counts/c/") and sha256_of(self.store, name) != member.sha256:
                raise FormatError(f"{self.name}: member {name} differs from its digest: damaged or tampered with?")

    def _check_counts(self, array: Any) -> None:
        self.shard_views = check_shards(array)
        stored = {name for name in self.members if name.startswith("counts/c/")}
        wanted = -(-array.shape[0] // self.shard_views)
        if wanted != len(stored) or stored != {f"counts/c/{turn}/0/0" for turn in range(wanted)}:
            raise ValueError(f"counts of {array.shape} need {wanted} shards, the file holds {len(stored)}")


def whole_at(store: BundleReader, shard_views: int, views: int) -> list[tuple[int, int]]:
    """After how many bytes of the file how many views are whole, with all that they are understood by; ascending.

    One entry for each shard of counts from the first on, up to the last one that is there.
    """
    end = max(store.end_of(name) for name in store.names() if name != ROOT and not name.startswith("counts/c/"))
    found = []
    for turn in range(-(-views // shard_views)):
        name = f"counts/c/{turn}/0/0"
        if name not in store.names():
            break
        end = max(end, store.end_of(name))
        found.append((end, min((turn + 1) * shard_views, views)))
    return found


def coding_in(array: Any, facts: dict[str, Any]) -> Coding | None:
    """The steps that an array of counts holds levels of, None where it holds counts; ValueError for foreign codecs."""
    sharding = array.metadata.codecs[0]
    inner, kinds = sharding.codecs, tuple(type(each) for each in sharding.codecs)
    if tuple(type(each) for each in sharding.index_codecs) != (BytesCodec, Crc32cCodec):
        raise ValueError(f"the shards' index is coded by {sharding.index_codecs}: not as we write it")
    if kinds == (BytesCodec, BloscCodec, Crc32cCodec):
        return None
    if kinds != (CountsCodec,):
        raise ValueError(f"counts are compressed by {[kind.__name__ for kind in kinds]}: not as we write them")
    coding: Coding | None = inner[0].coding
    if coding is not None and (facts.get("coding") != coding_facts(coding) or array.dtype != np.dtype("<u2")):
        raise ValueError(f"counts are {array.dtype} levels of {coding}, the facts say {facts.get('coding')}")
    return coding


def small_array(array: Any, stored: int) -> np.ndarray:
    """An array that lies in one uncompressed chunk of `stored` bytes; ValueError when it claims to be anything else."""
    if tuple(type(each) for each in array.metadata.codecs) != (BytesCodec, Crc32cCodec):
        raise ValueError(f"coded by {array.metadata.codecs}: not as we write it")
    declared = int(np.prod(array.shape)) * array.dtype.itemsize
    if stored != declared + 4:  # its CRC-32C
        raise ValueError(f"{array.shape} {array.dtype} declared, {stored} bytes stored")
    return np.asarray(array[...])


def check_shards(array: Any) -> int:
    """Views of a shard of counts; ValueError unless shards are whole views that memory holds."""
    shards = array.shards
    if len(array.shape) != 3 or shards is None or shards[1] < array.shape[1] or shards[2] != array.shape[2]:
        raise ValueError(f"counts of {array.shape} in shards of {shards}: expected shards of whole views")
    if int(np.prod(shards)) * array.dtype.itemsize > LARGEST_SHARD_BYTES and shards[0] > 1:
        raise ValueError(f"shards of {shards} {array.dtype} unfold to more than {LARGEST_SHARD_BYTES} bytes")
    return int(shards[0])


def check_version(head: dict[str, Any], name: str) -> None:
    """FormatError unless it is our format, in a version that this program knows."""
    if head.get("format") != FORMAT or not isinstance(head.get("version"), int):
        raise FormatError(f"{name} says format {head.get('format')!r}, expected {FORMAT!r}")
    if head["version"] > VERSION:
        raise FormatError(f"{name} has version {head['version']}, this program reads up to {VERSION}: update Lampyris")


def _decision(entry: Any) -> dict[str, str]:
    if set(entry) != {"coding", "reason"} or entry["coding"] not in CODINGS:
        raise ValueError(f"decision {entry!r}")
    return {key: str(value) for key, value in entry.items()}


def sha256_of_json(value: dict[str, Any]) -> str:
    """SHA-256 of the canonical text; ValueError where a value is NaN or infinite."""
    return hashlib.sha256(canonical_json(value).encode()).hexdigest()


@contextlib.contextmanager
def decoding(path: Path, what: str) -> Iterator[None]:
    """Whatever Zarr or a codec says about bytes it cannot decode is a FormatError; a failing disk is not."""
    try:
        yield
    except OSError as error:
        raise StorageError(f"{path.name}: {what} cannot be read ({error.strerror or error})") from error
    except (ValueError, TypeError, KeyError, AttributeError, RuntimeError, AssertionError, OverflowError) as error:
        if isinstance(error, (FormatError, ProgramError)):
            raise
        raise FormatError(f"{path.name}: {what} cannot be decoded ({error}): damaged or tampered with?") from error
