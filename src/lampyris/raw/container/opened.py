"""A `.lraw` file → its manifest, small arrays and lazy counts, checked as far as can be without reading the counts."""

import contextlib
import hashlib
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import zarr

from lampyris.model import FormatError, ProgramError, StorageError
from lampyris.model.arrays import canonical_json
from lampyris.raw.container.bundle import ROOT, BundleReader, Member, sha256_of
from lampyris.raw.lazy import LazyCounts

FORMAT, VERSION = "lraw", 1
SUFFIX, UNFINISHED = ".lraw", ".partial"
LARGEST_SHARD_BYTES = 1 << 30
"""Readers refuse more: what a shard claims to unfold to is reserved in memory before it can be checked."""


def stored_counts(array: Any, store: BundleReader) -> LazyCounts:
    """Counts that are read when they are indexed; FormatError when the bytes asked for are damaged."""

    def load(views: Sequence[int] | range) -> np.ndarray:
        with decoding(store.path, "counts"):
            if isinstance(views, range):
                return np.asarray(array[views.start : views.stop : views.step])
            return np.asarray(array.oindex[np.asarray(views)])

    return LazyCounts(tuple(array.shape), array.dtype, load)


class Opened:
    """A `.lraw` whose table of contents, manifest, metadata and small arrays agree with their digests."""

    def __init__(self, path: Path) -> None:
        self.name = path.name
        if path.name.endswith(UNFINISHED):
            raise FormatError(f"{path.name} was never finished: the process that wrote it was stopped; delete it")
        try:
            self.store = BundleReader(path)
        except OSError as error:
            raise StorageError(f"{path.name} cannot be read ({error.strerror or error})") from error
        manifest = self._manifest()
        try:
            self.id, self.facts = str(manifest["id"]), dict(manifest["facts"])
            self.names = [str(name) for name in manifest["arrays"]]
            self.members = {name: Member(int(n), str(sha)) for name, (n, sha) in manifest["members"].items()}
        except (KeyError, TypeError, ValueError) as error:
            raise FormatError(f"{self.name}: its manifest is incomplete ({error!r}): tampered with?") from error
        self._check_members()
        with decoding(path, "metadata"):
            self.group = zarr.open_group(self.store, mode="r", zarr_format=3)
            array = self.group["counts"]
            self._check_counts(array)
        self.counts = stored_counts(array, self.store)

    def arrays(self) -> dict[str, np.ndarray]:
        """Every array but the counts, by name and in the order that they were digested in."""
        found = {}
        for name in self.names:
            with decoding(self.store.path, name):
                array = self.group[name]
                declared = int(np.prod(array.shape)) * array.dtype.itemsize
                stored = sum(n.bytes for key, n in self.members.items() if key.startswith(f"{name}/c"))
                if stored != declared + 4:  # one uncompressed chunk and its CRC-32C
                    raise ValueError(f"{array.shape} {array.dtype} declared, {stored} bytes stored")
                found[name] = np.asarray(array[...])
        return found

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
        if manifest.get("format") != FORMAT or not isinstance(manifest.get("version"), int):
            raise FormatError(f"{self.name} says format {manifest.get('format')!r}, expected {FORMAT!r}")
        if manifest["version"] > VERSION:
            raise FormatError(
                f"{self.name} has version {manifest['version']}, this program reads up to {VERSION}: update Lampyris"
            )
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
        shards = array.shards
        if len(array.shape) != 3 or shards is None or shards[1] < array.shape[1] or shards[2] != array.shape[2]:
            raise ValueError(f"counts of {array.shape} in shards of {shards}: expected shards of whole views")
        if int(np.prod(shards)) * array.dtype.itemsize > LARGEST_SHARD_BYTES and shards[0] > 1:
            raise ValueError(f"shards of {shards} {array.dtype} unfold to more than {LARGEST_SHARD_BYTES} bytes")
        self.shard_views = int(shards[0])
        stored = {name for name in self.members if name.startswith("counts/c/")}
        wanted = -(-array.shape[0] // self.shard_views)
        if wanted != len(stored) or stored != {f"counts/c/{turn}/0/0" for turn in range(wanted)}:
            raise ValueError(f"counts of {array.shape} need {wanted} shards, the file holds {len(stored)}")


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
