"""A file in the store → its frames as they are stored or decoded, and the whole file in Explicit VR Little Endian.

Sources: DICOM PS3.5 8.2 and A.4 (encapsulated pixel data), PS3.18 tables 8.7.3-1 to 8.7.3-5 (media types of syntaxes).
"""

import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import BinaryIO

import numpy as np
import pydicom
from numpy.typing import NDArray
from pydicom.dataset import Dataset
from pydicom.encaps import encapsulate, get_frame
from pydicom.pixels import get_decoder
from pydicom.uid import UID, ExplicitVRBigEndian, ExplicitVRLittleEndian, ImplicitVRLittleEndian

from lampyris.centre.archive.dicomweb.answers import OCTETS, not_acceptable
from lampyris.centre.archive.queries import FoundFile
from lampyris.centre.refusals import Refusal, refusal
from lampyris.centre.store import Store
from lampyris.dicom.source import DECODING_ERRORS, settle_text, unquoted

PLAIN = str(ExplicitVRLittleEndian)
LARGEST_DECODED = 1 << 30
"""Bytes of pixels that one request may unfold in memory."""
_LARGEST_FRAME = 256 << 20
_NATIVE = frozenset({PLAIN, str(ImplicitVRLittleEndian)})
"""Syntaxes whose pixel data are, byte for byte, those of Explicit VR Little Endian."""
_CONVERTED = frozenset({str(ImplicitVRLittleEndian), str(ExplicitVRBigEndian)})
"""Syntaxes that DICOMweb does not give out: PS3.18 8.7.3.5.2."""
_KINDS = {
    "image/jpeg": ("4.50", "4.51", "4.57", "4.70"),
    "image/jls": ("4.80", "4.81"),
    "image/jp2": ("4.90", "4.91"),
    "image/jpx": ("4.92", "4.93"),
    "image/jphc": ("4.201", "4.202", "4.203"),
    "image/jxl": ("4.110", "4.111", "4.112"),
    "image/dicom-rle": ("5",),
}
_KIND_OF = {f"1.2.840.10008.1.2.{end}": kind for kind, ends in _KINDS.items() for end in ends}


_WORDS = {"OW": 2, "OL": 4, "OF": 4, "OD": 8, "OV": 8}
"""Bytes of a word of what pydicom keeps as bytes in the order of the file."""


def kind_of(syntax: str) -> str:
    """Media type of a frame as it is stored in this syntax."""
    return _KIND_OF.get(syntax, OCTETS)


def given_as(stored: str, wanted: str | None) -> str | None:
    """The syntax in which a file is given to whom wants this one ("*": any; None: the default); None if it cannot."""
    if wanted == "*":
        return PLAIN if stored in _CONVERTED else stored
    wanted = wanted or PLAIN
    if wanted == stored and stored not in _CONVERTED:
        return stored
    return PLAIN if wanted == PLAIN and _decodable(stored) else None


def _decodable(syntax: str) -> bool:
    try:
        return bool(get_decoder(UID(syntax)).is_available)
    except NotImplementedError:
        return False


def opened(store: Store, file: FoundFile) -> BinaryIO:
    """The file, to be read. Raises StorageError."""
    path = store.path_of(file.prefix, file.sha256)
    return path.open("rb") if path is not None and path.is_file() else io.BytesIO(store.get(file.prefix, file.sha256))


def plain_file(store: Store, file: FoundFile) -> bytes:
    """The file in Explicit VR Little Endian, its texts in UTF-8. Refusal 406 for one that cannot be decoded."""
    with opened(store, file) as content, unquoted():
        try:
            dataset = settle_text(pydicom.dcmread(content))
            if "PixelData" in dataset and _unfolded(dataset) > LARGEST_DECODED:
                raise not_acceptable(f"it unfolds to more than {LARGEST_DECODED} bytes: ask for it as it is stored")
            for one in dataset.iterall():  # every element is decoded, so that it is written in the other encoding
                if file.syntax_uid == ExplicitVRBigEndian and one.VR in _WORDS and one.value:
                    one.value = np.frombuffer(one.value, f">u{_WORDS[one.VR]}").astype(f"<u{_WORDS[one.VR]}").tobytes()
            if UID(file.syntax_uid).is_compressed and "PixelData" in dataset:
                dataset.decompress(as_rgb=True, generate_instance_uid=False)
            dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
            dataset.SpecificCharacterSet = "ISO_IR 192"
            target = io.BytesIO()
            pydicom.dcmwrite(target, dataset, implicit_vr=False, little_endian=True, enforce_file_format=True)
        except (*DECODING_ERRORS, RuntimeError) as error:
            raise _undecodable(error) from None
    return target.getvalue()


def _unfolded(dataset: Dataset) -> int:
    frames = int(dataset.get("NumberOfFrames") or 1)
    return frame_bytes(dataset) * frames


def frame_bytes(header: Dataset) -> int:
    """Bytes of one native frame. Refusal 406 for frames that do not end with a byte."""
    bits = (
        int(header.get("Rows") or 0) * int(header.get("Columns") or 0) * int(header.get("SamplesPerPixel") or 1)
        * int(header.get("BitsAllocated") or 0)
    )  # fmt: skip
    if bits % 8:
        raise not_acceptable("frames of single bits do not begin at whole bytes: ask for the instance")
    return bits // 8


@dataclass(frozen=True, slots=True, eq=False)
class Frames:
    """An image in the store, of which single frames are read: its file, and its header without pixels."""

    store: Store
    file: FoundFile
    header: Dataset

    @staticmethod
    def of(store: Store, file: FoundFile) -> "Frames":
        """Refusal 404 for what has no pixels."""
        if not file.frames:
            raise refusal(404, "NOT_FOUND", "the instance has no frames")
        with opened(store, file) as content:
            return Frames(store, file, pydicom.dcmread(content, stop_before_pixels=True))

    def check(self, numbers: Sequence[int]) -> None:
        """Refusal 404 for a frame that there is not; frames are counted from 1."""
        if wrong := [one for one in numbers if not 1 <= one <= self.file.frames]:
            raise refusal(404, "NOT_FOUND", f"there is no frame {wrong[0]}: the instance has {self.file.frames}")

    def native(self, number: int) -> tuple[int, int] | None:
        """First byte and length in the file of a frame that needs no decoding; None for others."""
        if self.file.syntax_uid not in _NATIVE or self.file.pixel_at is None:
            return None
        size = frame_bytes(self.header)
        if size * number > (self.file.pixel_bytes or 0):
            raise refusal(404, "NOT_FOUND", f"frame {number} is missing: the pixel data are cut off")
        return self.file.pixel_at + size * (number - 1), size

    def stored(self, number: int) -> bytes:
        """A frame as it is stored, compressed or not."""
        size = 0 if UID(self.file.syntax_uid).is_compressed else frame_bytes(self.header)
        try:
            with opened(self.store, self.file) as content:
                if self.file.pixel_at is not None:
                    content.seek(self.file.pixel_at + size * (number - 1))
                    return content.read(size)
                if size:  # deflated: nothing lies at a known place
                    return bytes(pydicom.dcmread(content).PixelData[size * (number - 1) :][:size])
                header = pydicom.dcmread(content, stop_before_pixels=True)
                content.seek(12, io.SEEK_CUR)
                table = (header.get("ExtendedOffsetTable"), header.get("ExtendedOffsetTableLengths"))
                return bytes(get_frame(
                    content, number - 1, number_of_frames=self.file.frames,
                    extended_offsets=None if None in table else table,
                ))  # fmt: skip
        except (*DECODING_ERRORS, RuntimeError) as error:
            raise _undecodable(error) from None

    def decoded(self, number: int) -> NDArray[np.generic]:
        """A frame (rows, columns) or (rows, columns, samples) of stored values. Refusal 406 without a decoder."""
        if frame_bytes(self.header) > _LARGEST_FRAME:
            raise not_acceptable(f"a frame has more than {_LARGEST_FRAME} bytes")
        syntax = UID(self.file.syntax_uid)
        if not _decodable(syntax):
            raise not_acceptable(f"pixels in {syntax.name} cannot be decoded here: ask for them as they are stored")
        one, data = pydicom.Dataset(), self.stored(number)
        one.update(self.header)
        one.file_meta = self.header.file_meta
        one.NumberOfFrames = 1
        one.PixelData = encapsulate([data]) if syntax.is_compressed and self.file.pixel_at is None else data
        one["PixelData"].VR = "OB" if syntax.is_compressed else "OW"
        try:
            with unquoted():
                array, _ = get_decoder(syntax).as_array(one, index=0)
        except (*DECODING_ERRORS, RuntimeError) as error:
            raise _undecodable(error) from None
        return np.asarray(array)

    def plain(self, number: int) -> bytes:
        """The bytes of a frame in Explicit VR Little Endian."""
        if self.native(number) is not None:
            return self.stored(number)
        array = self.decoded(number)
        return array.astype(array.dtype.newbyteorder("<")).tobytes()


def _undecodable(error: BaseException) -> Refusal:
    return not_acceptable(f"the pixels cannot be decoded ({type(error).__name__}): damaged, or of an unknown kind?")
