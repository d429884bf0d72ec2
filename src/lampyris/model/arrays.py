"""Array types and the checks that every noun makes once, on creation."""

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray

from lampyris.model.errors import InputError

Float32: TypeAlias = NDArray[np.float32]
Float64: TypeAlias = NDArray[np.float64]
Bool: TypeAlias = NDArray[np.bool_]
Progress: TypeAlias = Callable[[float], None]
"""Called by long work with the fraction done, 0…1."""


def silent(_fraction: float) -> None:
    """A progress that tells nobody."""


class Shelf(Protocol):
    """What was made of a scan's first views while the others were still coming: arrays by name, under what they are.

    `what` tells one product of a recipe from all others, `views` how many views, from the first on, it was made of.
    Whoever gives a shelf answers for it that what lies there is of the same views, header, recipe, program and kind of
    machine: then it is, bit for bit, what would be made now.
    """

    def holds(self, what: str, views: int) -> bool: ...
    def load(self, what: str, views: int) -> Mapping[str, NDArray[Any]] | None: ...
    def keep(self, what: str, views: int, arrays: Mapping[str, NDArray[Any]]) -> None: ...


@dataclass(frozen=True, slots=True, eq=False)
class Above:
    """A shelf for what is made of views that were made themselves: `below(n)` says of how many views the first n were.

    `label` tells those views from others that the same views below become.
    """

    shelf: Shelf
    label: str
    below: Callable[[int], int]

    def holds(self, what: str, views: int) -> bool:
        return self.shelf.holds(f"{self.label}: {what}", self.below(views))

    def load(self, what: str, views: int) -> Mapping[str, NDArray[Any]] | None:
        return self.shelf.load(f"{self.label}: {what}", self.below(views))

    def keep(self, what: str, views: int, arrays: Mapping[str, NDArray[Any]]) -> None:
        self.shelf.keep(f"{self.label}: {what}", self.below(views), arrays)


class Counts(Protocol):
    """What stored counts must answer: an array in memory, or one that reads its views when it is indexed."""

    @property
    def shape(self) -> tuple[int, ...]: ...
    @property
    def dtype(self) -> np.dtype[Any]: ...
    def __getitem__(self, index: Any, /) -> Any: ...


def frozen(values: Any, dtype: Any, name: str, shape: tuple[int | None, ...]) -> NDArray[Any]:
    """A read-only array of `dtype`, checked against `shape` (None = any length) and for NaN and infinity.

    Raises InputError with the shape or the number of bad values found.
    """
    array = np.array(values, dtype=dtype, order="C")
    fits = array.ndim == len(shape) and all(want in (None, have) for want, have in zip(shape, array.shape, strict=True))
    if not fits:
        wanted = tuple("any" if want is None else want for want in shape)
        raise InputError(f"{name} has shape {array.shape}, expected {wanted}: axes swapped or another scan's array?")
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        bad = int(array.size - np.isfinite(array).sum())
        raise InputError(
            f"{name} holds {bad} NaN or infinite of {array.size} values: a broken writer or a 0/0 upstream?"
        )
    array.setflags(write=False)
    return array


def canonical_json(value: Mapping[str, Any] | list[Any] | tuple[Any, ...]) -> str:
    """The one JSON text of a value: keys sorted, no spaces, no NaN; the text that digests are taken of."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False, ensure_ascii=False)


def update_digest(digest: Any, name: str, array: NDArray[Any]) -> None:
    """Feed one named array into a hash: name, dtype, shape and little-endian bytes."""
    little = np.ascontiguousarray(array, dtype=array.dtype.newbyteorder("<"))
    digest.update(canonical_json([name, little.dtype.str, list(little.shape)]).encode())
    digest.update(little.data)


def new_digest() -> Any:
    """The project's hash, SHA-256."""
    return hashlib.sha256()
