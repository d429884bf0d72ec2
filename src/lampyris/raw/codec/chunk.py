"""One block of counts (views, rows, columns) ↔ one self-describing chunk of bytes: header, then an HTJ2K codestream.

The header, 64 bytes, little-endian: "LCT1" · what is stored (kind `u`, `i` or `f`, and bytes each) · what was counted
(the same) · shape (3 × uint32) · steps per σ, gain, electronic noise, pedestal (4 × float64, all zero where counts are
kept as they are) · length of the codestream, CRC-32 of the content, CRC-32 of header and codestream (3 × uint32). The
image has views × rows lines of columns; types of eight bytes are two images side by side, low and high half.
"""

import struct
import zlib
from dataclasses import dataclass

import numpy as np

from lampyris.model import Coding, FormatError, InputError, Noise
from lampyris.raw.codec import codestream
from lampyris.raw.codec.steps import quantise, restore

MAGIC = b"LCT1"
LARGEST_BYTES = 1 << 28
"""Readers refuse chunks that unfold to more."""
_HEADER = struct.Struct("<4s2s2s3I4d2I")
_CRC = struct.Struct("<I")
_KINDS = ("u1", "u2", "u4", "u8", "i1", "i2", "i4", "i8", "f4", "f8")
_LEVELS = np.dtype("<u2")


@dataclass(frozen=True, slots=True, eq=False)
class Chunk:
    """What a chunk holds: counts as they were, or levels where `coding` says which steps were made."""

    stored: np.ndarray
    coding: Coding | None


def encode(counts: np.ndarray, coding: Coding | None = None) -> bytes:
    """The chunk of a block of counts, (views, rows, columns); without a coding, exactly.

    Raises InputError as `quantise` does, and for other shapes and types than whole and real numbers.
    """
    return wrap(counts if coding is None else quantise(counts, coding), coding)


def decode(data: bytes) -> np.ndarray:
    """The counts of a chunk, float32 where they were coded. Raises FormatError for bytes that are no chunk of ours."""
    chunk = unwrap(data)
    return chunk.stored if chunk.coding is None else restore(chunk.stored, chunk.coding)


def wrap(stored: np.ndarray, coding: Coding | None) -> bytes:
    """The chunk of counts as they are (no coding), or of the levels that `quantise` made."""
    kind = stored.dtype.newbyteorder("<").str[1:]
    if stored.ndim != 3 or not stored.size or stored.nbytes > LARGEST_BYTES or kind not in _KINDS:
        raise InputError(
            f"a chunk of {stored.dtype} {stored.shape}: expected three axes of whole or real numbers, up to"
            f" {LARGEST_BYTES} bytes"
        )
    steps = (0.0, 0.0, 0.0, 0.0)
    if coding is not None:
        noise = coding.noise
        steps = (coding.steps_per_sigma, noise.gain_counts, noise.electronic_counts, coding.pedestal_counts)
    little = np.ascontiguousarray(stored, stored.dtype.newbyteorder("<"))
    body = codestream.encode(_image(little))
    counted = kind if coding is None else coding.dtype[1:]
    header = _HEADER.pack(
        MAGIC, kind.encode(), counted.encode(), *little.shape, *steps, len(body), zlib.crc32(little.data)
    )
    return header + _CRC.pack(zlib.crc32(body, zlib.crc32(header))) + body


def unwrap(data: bytes) -> Chunk:
    """What `wrap` was given. Raises FormatError for anything that is not a whole, undamaged chunk.

    What the header declares is checked before anything is reserved for it, and the content once it is decoded.
    """
    size = _HEADER.size + _CRC.size
    if len(data) < size or not data.startswith(MAGIC):
        raise FormatError(f"{len(data)} bytes that start with {data[:4]!r}: no chunk of counts, expected {MAGIC!r}")
    _, kind, counted, *shape, k, gain, electronic, pedestal, length, content = _HEADER.unpack_from(data)
    body = data[size:]
    declared = _CRC.unpack_from(data, _HEADER.size)[0]
    if length != len(body) or declared != zlib.crc32(body, zlib.crc32(data[: _HEADER.size])):
        raise FormatError(
            f"a chunk of {len(body)} bytes, {length} declared, differs from its checksum: truncated or damaged?"
        )
    if {kind, counted} - {each.encode() for each in _KINDS} or (any((k, gain, electronic, pedestal)) and kind != b"u2"):
        raise FormatError(f"a chunk stores {kind!r} of {counted!r}: not types that counts have")
    dtype = np.dtype(f"<{kind.decode()}")
    if not 0 < shape[0] * shape[1] * shape[2] * dtype.itemsize <= LARGEST_BYTES:
        raise FormatError(f"a chunk declares {tuple(shape)} {dtype}: expected up to {LARGEST_BYTES} bytes")
    coding = _coding(k, gain, electronic, pedestal, counted.decode())
    if coding is None and counted != kind:
        raise FormatError(f"a chunk stores {kind!r} of {counted!r} without saying in which steps: tampered with?")
    stored = _decoded(body, (shape[0], shape[1], shape[2]), dtype)
    if zlib.crc32(stored.data) != content:
        raise FormatError(f"a chunk of {tuple(shape)} {dtype} decodes to another content than declared: tampered with?")
    return Chunk(stored, coding)


def _coding(k: float, gain: float, electronic: float, pedestal: float, counted: str) -> Coding | None:
    if k == gain == electronic == pedestal == 0:
        return None
    try:
        return Coding(k, pedestal, Noise(gain, electronic), f"<{counted}" if counted[1] != "1" else f"|{counted}")
    except InputError as error:
        raise FormatError(f"a chunk declares impossible steps ({error}): tampered with?") from error


def _image(little: np.ndarray) -> np.ndarray:
    """(views·rows, columns) of integers of up to four bytes; floats by their bits, eight bytes as two halves."""
    views, rows, columns = little.shape
    flat = little.reshape(views * rows, columns)
    if little.dtype.itemsize == 8:
        halves = flat.view("<i4").reshape(views * rows, columns, 2)
        return np.concatenate([halves[..., 0], halves[..., 1]], axis=1)
    return flat.view("<i4") if little.dtype.kind == "f" else flat


def _decoded(body: bytes, shape: tuple[int, int, int], dtype: np.dtype[np.generic]) -> np.ndarray:
    """The inverse of `_image`."""
    views, rows, columns = shape
    if dtype.itemsize == 8:
        image = codestream.decode(body, views * rows, 2 * columns, np.dtype("<i4"))
        halves = np.stack([image[:, :columns], image[:, columns:]], axis=-1)
        return np.ascontiguousarray(halves).view(dtype).reshape(shape)
    plain = np.dtype("<i4") if dtype.kind == "f" else dtype
    return codestream.decode(body, views * rows, columns, plain).view(dtype).reshape(shape)
