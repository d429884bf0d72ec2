"""A DICOM file → what the index keeps of it: its metadata in DICOM JSON and true UTF-8, and where its pixels lie.

Sources: DICOM PS3.18 Annex F (JSON model), PS3.10 7 (file format), PS3.5 7.1 (encoding of an element).
"""

import contextlib
import dataclasses
import hashlib
import io
import json
import math
import re
import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, BinaryIO

import pydicom
from pydicom.dataelem import DataElement
from pydicom.dataset import Dataset
from pydicom.uid import DeflatedExplicitVRLittleEndian, ExplicitVRBigEndian, ImplicitVRLittleEndian

from lampyris.dicom.source import DECODING_ERRORS, settle_text, unquoted
from lampyris.model import FormatError
from lampyris.model.arrays import canonical_json

Json = dict[str, Any]
"""A dataset in the DICOM JSON model: tag in eight hexadecimal digits → {"vr": …, "Value": […]}."""

LARGEST = 2 << 20
"""Bytes of metadata that one file may have in JSON, bulk data left out."""
_INLINE = 1024
"""Longest binary value that stands in the metadata itself."""
_INLINE_TEXT = 16384
_BULK = frozenset({"OB", "OD", "OF", "OL", "OV", "OW", "UN"})
_LONG = frozenset({"DS", "FL", "FD", "IS", "LT", "SL", "SS", "ST", "SV", "UC", "UL", "US", "UT", "UV"})
"""Value representations besides the binary ones that DICOM JSON may leave to a BulkDataURI, PS3.18 F.2.2."""
_UID = re.compile(r"[0-9]+(?:\.[0-9]+)*")
_IDENTITY = {"0020000D": "StudyInstanceUID", "0020000E": "SeriesInstanceUID", "00080018": "SOPInstanceUID",
             "00080016": "SOPClassUID"}  # fmt: skip
_UNDEFINED = 0xFFFFFFFF
_DOSE_REPORT = "1.2.840.10008.5.1.4.1.1.88.67"
_RECIPE = re.compile(r"\brecipe (\S+) \S+, SHA-256 [0-9a-f]{64}\b")


@dataclass(frozen=True)
class Entry:
    """One DICOM file: where it lies in the store, and what it says.

    `content` is the SHA-256 of metadata and pixels, which stays the same when a peer writes the file anew. `pixel_at`
    and `pixel_bytes` tell where native pixel data lie in the file; None where there are none or they are compressed.
    """

    prefix: str
    sha256: str
    bytes: int
    syntax_uid: str
    metadata: Json
    content: str
    has_pixels: bool
    pixel_at: int | None = None
    pixel_bytes: int | None = None
    meta_uid: str = ""
    """SOP Instance UID in the file's header, which a writer may have forgotten or left as it was."""

    def at(self, prefix: str) -> "Entry":
        """The same, lying there."""
        return dataclasses.replace(self, prefix=prefix)

    @property
    def study_uid(self) -> str:
        return value(self.metadata, "0020000D")

    @property
    def series_uid(self) -> str:
        return value(self.metadata, "0020000E")

    @property
    def uid(self) -> str:
        return value(self.metadata, "00080018")

    @property
    def class_uid(self) -> str:
        return value(self.metadata, "00080016")

    @property
    def frames(self) -> int:
        """Images in it; 0 for what has no pixels."""
        return (whole_number(self.metadata, "00280008") or 1) if self.has_pixels else 0

    @cached_property
    def role(self) -> str:
        """What it is among our own results: image, noise, bias, dose, report or other."""
        kinds = self.metadata.get("00080008", {}).get("Value", [])
        if self.class_uid == _DOSE_REPORT:
            return "dose"
        if value(self.metadata, "00080060") in ("SR", "KO"):
            return "report"
        if not self.has_pixels:
            return "other"
        return {"NOISE_SD": "noise", "BIAS": "bias"}.get(str(kinds[3]) if len(kinds) > 3 else "", "image")

    @cached_property
    def recipe(self) -> str | None:
        """The recipe that made it, as its contributing equipment tells; None for what no recipe of ours made."""
        for one in self.metadata.get("0018A001", {}).get("Value", []):
            if found := _RECIPE.search(value(one, "0018A003")):
                return found[1]
        return None


def value(metadata: Json, tag: str) -> str:
    """The first value of an attribute as text, empty if there is none; a name with its groups parted by "="."""
    found = metadata.get(tag, {}).get("Value", [])
    one = found[0] if found else None
    if isinstance(one, dict):
        groups = [one.get(group, "") for group in ("Alphabetic", "Ideographic", "Phonetic")]
        return "=".join(groups).rstrip("=")
    return "" if one is None else str(one)


def whole_number(metadata: Json, tag: str) -> int | None:
    """The first value of an attribute as a whole number that a database holds; None for anything else."""
    try:
        found = int(value(metadata, tag))
    except ValueError:
        return None
    return found if abs(found) < 2**31 else None


def read_entry(content: Path | bytes | BinaryIO, prefix: str, *, sha256: str, size: int) -> Entry | None:
    """What the index keeps of a file; None for one without the mark "DICM".

    Raises FormatError for a file that cannot be read, ends within its pixels, lacks one of its UIDs, or has more
    metadata than `LARGEST`.
    """
    with _opened(content) as file:
        if file.read(132)[128:] != b"DICM":
            return None
        file.seek(0)
        return _entry(file, prefix, sha256, size)


@contextlib.contextmanager
def _opened(content: Path | bytes | BinaryIO) -> Iterator[BinaryIO]:
    """The content as a file; one that was open stays so."""
    if isinstance(content, Path):
        with content.open("rb") as file:
            yield file
    else:
        yield io.BytesIO(content) if isinstance(content, bytes) else content


def _entry(file: BinaryIO, prefix: str, sha256: str, size: int) -> Entry:
    with unquoted():
        try:
            dataset = pydicom.dcmread(file, stop_before_pixels=True)
            syntax = str(dataset.file_meta.TransferSyntaxUID)
            at = file.tell()
            metadata = json_of(dataset)
            text = canonical_json(metadata)
        except (*DECODING_ERRORS, RecursionError) as error:
            raise FormatError(
                f"the file is marked as DICOM but cannot be read ({type(error).__name__}): truncated or damaged?"
            ) from None
    lacking = [name for tag, name in _IDENTITY.items() if not is_uid(value(metadata, tag))]
    if lacking:
        raise FormatError(f"the file has no valid {' or '.join(lacking)}")
    if len(text) > LARGEST:
        raise FormatError(f"its metadata are {len(text)} bytes long, at most {LARGEST} are kept: bulk data among them?")
    digest = hashlib.sha256(text.encode())
    file.seek(at)
    native, has_pixels = _native(file, syntax, dataset)
    if native is not None and sum(native) > size:
        raise FormatError(f"the file ends within its pixel data: {size} bytes of {sum(native)}")
    file.seek(at)
    while piece := file.read(1 << 20):
        digest.update(piece)
    pixel_at, pixel_bytes = native or (None, None)
    meta_uid = str(dataset.file_meta.get("MediaStorageSOPInstanceUID", ""))
    return Entry(
        prefix, sha256, size, syntax, metadata, digest.hexdigest(), has_pixels, pixel_at, pixel_bytes, meta_uid
    )


def is_uid(text: str) -> bool:
    """Whether it is a UID, PS3.5 9.1; zeros in front of a component, which some scanners write, are let pass."""
    return len(text) <= 64 and _UID.fullmatch(text) is not None


def _native(file: BinaryIO, syntax: str, dataset: Dataset) -> tuple[tuple[int, int] | None, bool]:
    """First byte and length of native pixel data, the file standing at their element; and whether there are pixels."""
    if syntax == DeflatedExplicitVRLittleEndian:
        return None, "Rows" in dataset
    head = file.read(12)
    order = ">" if syntax == ExplicitVRBigEndian else "<"
    if len(head) < 8 or struct.unpack(order + "HH", head[:4]) not in ((0x7FE0, 0x10), (0x7FE0, 8), (0x7FE0, 9)):
        return None, False
    implicit = syntax == ImplicitVRLittleEndian
    (length,) = struct.unpack(order + "I", head[4:8] if implicit else head[8:12])
    if length != _UNDEFINED:
        return (file.tell() - (4 if implicit else 0), length), True
    _check_fragments(file)
    return None, True


def _check_fragments(file: BinaryIO) -> None:
    """Raises FormatError for compressed pixels that end before their delimiter, PS3.5 A.4; the file stands at them."""
    while len(head := file.read(8)) == 8:
        group, number, length = struct.unpack("<HHI", head)
        if (group, number) == (0xFFFE, 0xE0DD):
            return
        if (group, number) != (0xFFFE, 0xE000) or length == _UNDEFINED:
            raise FormatError("the compressed pixel data are no sequence of fragments")
        file.seek(length, 1)
    raise FormatError("the file ends within its compressed pixel data")


def json_of(dataset: Dataset) -> Json:
    """A dataset in the DICOM JSON model, in true UTF-8; a value that JSON cannot hold is left out, its element stays.

    The BulkDataURI of a value that is too long is its path in the dataset: tag, or tag/item/tag.
    """
    settle_text(dataset)
    made = _json(dataset, "")
    if "00080005" in made:
        made["00080005"] = {"vr": "CS", "Value": ["ISO_IR 192"]}
    return made


def _json(dataset: Dataset, above: str) -> Json:
    made: Json = {}
    for tag in sorted(dataset.keys()):
        name = f"{tag:08X}"
        if tag.group == 2 or tag.element == 0:
            continue
        try:
            element = dataset[tag]
            made[name] = _element(element, f"{above}{name}")
        except DECODING_ERRORS:
            made[name] = {"vr": str(dataset.get_item(tag).VR or "UN")}
    return made


def _element(element: DataElement, path: str) -> Json:
    if element.VR == "SQ":
        items = [_json(item, f"{path}/{number}/") for number, item in enumerate(element.value or (), start=1)]
        return {"vr": "SQ", "Value": items} if items else {"vr": "SQ"}
    size = len(element.value) if isinstance(element.value, (bytes, str, Sequence)) else 0
    vr = str(element.VR)
    if (vr in _BULK and size > _INLINE) or (vr in _LONG and size > _INLINE_TEXT):
        return {"vr": vr, "BulkDataURI": path}
    return _sound(element.to_json_dict(None, 0))


def _sound(found: Json) -> Json:
    """An element without what neither JSON nor a database's text holds: NaN, infinity, NUL, half characters."""
    text = json.dumps(found)
    if "NaN" in text or "Infinity" in text or "\\u0000" in text or "\\ud" in text:
        cleaned: Json = _clean(found)
        return cleaned
    return found


def _clean(one: Any) -> Any:
    if isinstance(one, dict):
        return {name: _clean(inner) for name, inner in one.items()}
    if isinstance(one, list):
        return [_clean(inner) for inner in one]
    if isinstance(one, str):
        return one.replace("\0", "").encode("utf-8", "replace").decode("utf-8")
    return None if isinstance(one, float) and not math.isfinite(one) else one
