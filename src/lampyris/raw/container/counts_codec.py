"""Zarr's chunk of an array ↔ a chunk of `raw.codec`: HTJ2K inside a shard, "lampyris.counts" in the metadata.

And Zarr's own Blosc, which reserves what a chunk claims to unfold to, held to the size of a chunk.
"""

import asyncio
import os
import threading
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
import zarr
from zarr.abc.codec import ArrayBytesCodec
from zarr.codecs import BloscCodec
from zarr.core.array_spec import ArraySpec
from zarr.core.buffer import Buffer, NDBuffer
from zarr.registry import register_codec

from lampyris.model import Coding, FormatError
from lampyris.raw import codec
from lampyris.raw.container.facts import coding_facts, coding_from

NAME = "lampyris.counts"
_AT_ONCE = threading.BoundedSemaphore(os.cpu_count() or 1)
"""Zarr codes ten chunks at a time, and each takes ten times its size: more than processors is memory for nothing."""


@dataclass(frozen=True)
class CountsCodec(ArrayBytesCodec):  # type: ignore[misc]  # mypy sees Zarr as Any
    """Stores an array's values as they are; `coding` says which steps they are levels of, None = they are counts."""

    coding: Coding | None

    is_fixed_size = False

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> "CountsCodec":
        """Raises FormatError for a configuration that is not one of ours."""
        try:
            coding = data["configuration"]["coding"]
            return cls(None if coding is None else coding_from(coding))
        except (KeyError, TypeError) as error:
            raise FormatError(f"the counts' codec has no configuration of ours ({error!r}): tampered with?") from error

    def to_dict(self) -> dict[str, Any]:
        coding = None if self.coding is None else coding_facts(self.coding)
        return {"name": NAME, "configuration": {"coding": coding}}

    def compute_encoded_size(self, input_byte_length: int, chunk_spec: ArraySpec) -> int:
        raise NotImplementedError  # Zarr's word for: it depends on the content

    async def _encode_single(self, chunk_array: NDBuffer, chunk_spec: ArraySpec) -> Buffer:
        content = await asyncio.to_thread(self._content, chunk_array.as_numpy_array())
        return chunk_spec.prototype.buffer.from_bytes(content)

    async def _decode_single(self, chunk_bytes: Buffer, chunk_spec: ArraySpec) -> NDBuffer:
        values = await asyncio.to_thread(self._values, chunk_bytes.to_bytes(), chunk_spec)
        return chunk_spec.prototype.nd_buffer.from_numpy_array(values)

    def _content(self, values: np.ndarray) -> bytes:
        with _AT_ONCE:
            return codec.wrap(values, self.coding)

    def _values(self, content: bytes, chunk_spec: ArraySpec) -> np.ndarray:
        with _AT_ONCE:
            chunk = codec.unwrap(content)
        wanted = (chunk_spec.shape, chunk_spec.dtype.to_native_dtype().newbyteorder("<"), self.coding)
        found = (chunk.stored.shape, chunk.stored.dtype.newbyteorder("<"), chunk.coding)
        if found != wanted:
            raise FormatError(f"a chunk holds {found}, the array's metadata say {wanted}: a chunk of another scan?")
        return chunk.stored


class _BoundedBlosc(BloscCodec):  # type: ignore[misc]  # mypy sees Zarr as Any
    """Blosc whose chunks unfold to what the array says, or not at all."""

    def _decode_sync(self, chunk_bytes: Buffer, chunk_spec: ArraySpec) -> Buffer:
        claimed = int.from_bytes(chunk_bytes.to_bytes()[4:8], "little")  # Blosc's header: nbytes
        wanted = int(np.prod(chunk_spec.shape)) * chunk_spec.dtype.to_native_dtype().itemsize
        if claimed != wanted:
            raise FormatError(f"a chunk claims to unfold to {claimed} bytes, expected {wanted}: tampered with?")
        return super()._decode_sync(chunk_bytes, chunk_spec)


def bounded(array: Any) -> Any:
    """The same sharded array, read by a Blosc that is held to the size of a chunk."""
    sharding = array.metadata.codecs[0]
    codecs = tuple(_bound(each) if type(each) is BloscCodec else each for each in sharding.codecs)
    metadata = replace(array.metadata, codecs=(replace(sharding, codecs=codecs),))
    return zarr.Array(zarr.AsyncArray(metadata, array.store_path))


def _bound(blosc: BloscCodec) -> _BoundedBlosc:
    return _BoundedBlosc(**{each.name: getattr(blosc, each.name) for each in fields(blosc) if each.init})


register_codec(NAME, CountsCodec)
