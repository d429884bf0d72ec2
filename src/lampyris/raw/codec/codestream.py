"""A two-dimensional array of integers ↔ an HTJ2K codestream (ISO/IEC 15444-15), reversible; hostile ones are refused.

OpenJPH reserves what a codestream's header claims and reports no error in its body, so that everything which decides
about memory and time is checked here first, and what comes out is checked by whoever calls (a checksum of the content).
"""

import struct

import imagecodecs
import numpy as np

from lampyris.model import FormatError

_SOC, _SIZ, _CAP, _COD, _QCD, _COM, _SOT, _SOD = 0xFF4F, 0xFF51, 0xFF50, 0xFF52, 0xFF5C, 0xFF64, 0xFF90, 0xFF93
_SIZE = struct.Struct(">HIIIIIIIIHBBB")
_STYLE = struct.Struct(">BBHBBBBBB")
_TILE = struct.Struct(">HIBB")
MOST_DECOMPOSITIONS = 8


def encode(image: np.ndarray) -> bytes:
    """The codestream of (height, width) integers of one, two or four bytes."""
    return bytes(imagecodecs.htj2k_encode(np.ascontiguousarray(image), reversible=True))


def decode(data: bytes, height: int, width: int, dtype: np.dtype[np.generic]) -> np.ndarray:
    """The (height, width) integers of `dtype`; FormatError when the codestream is damaged or of anything else.

    A body that is damaged on purpose may decode to other numbers without an error.
    """
    check(data, height, width, dtype)
    image = np.zeros((height, width), dtype)
    try:
        imagecodecs.htj2k_decode(data, out=image)
    except (imagecodecs.Htj2kError, ValueError) as error:
        raise FormatError(f"HTJ2K of {height} × {width} {dtype} cannot be decoded ({error}): tampered with?") from error
    return image


def check(data: bytes, height: int, width: int, dtype: np.dtype[np.generic]) -> None:
    """One tile, one component, of this size and type, reversible; FormatError for all else."""
    try:
        header, start = _segments(data)
        _check_size(header[_SIZ], height, width, dtype)
        _check_style(header[_COD])
        if len(header[_QCD]) != 2 + 3 * header[_COD][5] or header[_QCD][0] & 0x1F:
            raise FormatError("HTJ2K: its quantisation is not that of a reversible transform: tampered with?")
        marker, length = struct.unpack_from(">HH", data, start)
        tile, size, part, parts = _TILE.unpack_from(data, start + 4)
        following = struct.unpack_from(">H", data, start + 2 + length)[0]
    except (struct.error, KeyError, IndexError) as error:
        raise FormatError(f"HTJ2K of {len(data)} bytes ends or lacks a marker in its header ({error})") from error
    whole = (marker, length, tile, part, parts, following) == (_SOT, 10, 0, 0, 1, _SOD)
    if not whole or size not in (0, len(data) - 2 - start) or data[-2:] != b"\xff\xd9":
        raise FormatError(f"HTJ2K of {len(data)} bytes is not one whole tile of {size} bytes: truncated, or joined?")


def _segments(data: bytes) -> tuple[dict[int, bytes], int]:
    """Content of every marker segment of the main header, each once, and where the first tile starts."""
    if struct.unpack_from(">HH", data) != (_SOC, _SIZ):
        raise FormatError("it does not start as an HTJ2K codestream does: another codec, or tampered with?")
    found: dict[int, bytes] = {}
    place = 2
    while (marker := struct.unpack_from(">H", data, place)[0]) != _SOT:
        if marker not in (_SIZ, _CAP, _COD, _QCD, _COM) or (marker in found and marker != _COM):
            raise FormatError(f"HTJ2K: marker {marker:#06x} in the main header is doubled or not one that we write")
        length = struct.unpack_from(">H", data, place + 2)[0]
        found[marker] = data[place + 4 : place + 2 + length]
        place += 2 + length
    return found, place


def _check_size(siz: bytes, height: int, width: int, dtype: np.dtype[np.generic]) -> None:
    """SIZ (15444-1, A.5.1): image and tile of this size at the origin, one component with its depth, unsubsampled."""
    _, x, y, x0, y0, tile_x, tile_y, tile_x0, tile_y0, components, depth, step_x, step_y = _SIZE.unpack(siz)
    declared = (x, y, x0, y0, tile_x0, tile_y0, components, depth, step_x, step_y)
    bits = 8 * dtype.itemsize - 1 + (0x80 if dtype.kind == "i" else 0)
    if declared != (width, height, 0, 0, 0, 0, 1, bits, 1, 1) or tile_x < width or tile_y < height:
        raise FormatError(
            f"HTJ2K declares {y} × {x} in tiles of {tile_y} × {tile_x}, {components} components, depth byte {depth:#x};"
            f" expected one tile and component of {height} × {width}, {bits:#x}: tampered with?"
        )


def _check_style(cod: bytes) -> None:
    """COD (15444-1, A.6.1): no packet markers, one layer, few decompositions, blocks of up to 4096, reversible 5/3."""
    style, _, layers, transform, decompositions, wide, high, block, wavelet = _STYLE.unpack_from(cod)
    blocks = wide <= 8 and high <= 8 and wide + high <= 8
    if (style & ~1, layers, transform, wavelet) != (0, 1, 0, 1) or decompositions > MOST_DECOMPOSITIONS or not blocks:
        raise FormatError(
            f"HTJ2K declares style {style:#x}, {layers} layers, {decompositions} decompositions, blocks of"
            f" 2^{wide + 2} × 2^{high + 2}, wavelet {wavelet}: not a coding that we write"
        )
    if block != 0x40 or len(cod) != _STYLE.size + (decompositions + 1 if style & 1 else 0):
        raise FormatError(f"HTJ2K declares block style {block:#x} in {len(cod)} bytes: tampered with?")
