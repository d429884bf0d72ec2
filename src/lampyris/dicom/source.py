"""Folder, archive or file → the DICOM objects in it, headers first; nothing is unpacked to disk.

Messages name a file by its place in name order, never by its name: files are often named after patients.
"""

import contextlib
import io
import lzma
import re
import struct
import tarfile
import warnings
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pydicom
from pydicom import config
from pydicom.datadict import dictionary_VR
from pydicom.dataelem import DataElement
from pydicom.dataset import Dataset
from pydicom.errors import BytesLengthException, InvalidDicomError
from pydicom.multival import MultiValue
from pydicom.tag import BaseTag

from lampyris.model import FormatError, InputError, StorageError

MAXIMUM_BYTES = 4 * 2**30
"""What an archive may hold unpacked: a thousand slices of 1024² are 2 GiB."""

_OFTEN_WRONG = ("", "ISO_IR 6", "ISO_IR 100", "ISO_IR 192")
_SEVERAL = frozenset({"LO", "PN", "SH", "UC"})
_TEXTS = _SEVERAL | {"LT", "ST", "UT"}
"""Value representations whose bytes depend on the character set; of some an attribute may hold several."""
_GROUP_OF_CHINESE = re.compile(
    rb"(?:[\x81-\xfe][\xa1-\xfe]|[\x81-\xfe][0-9][\x81-\xfe][0-9]|[\x00-\x40\x5b-\x60\x7b-\x7f])+"
)

DECODING_ERRORS = (
    BytesLengthException,
    InvalidDicomError,
    AttributeError,
    EOFError,
    IndexError,
    KeyError,
    NotImplementedError,
    OverflowError,
    TypeError,
    ValueError,
    struct.error,
    zlib.error,
)
"""What pydicom is known to raise on damaged bytes."""

_ARCHIVE_ERRORS = (tarfile.TarError, zipfile.BadZipFile, EOFError, zlib.error, lzma.LZMAError, RuntimeError)


@dataclass(frozen=True, slots=True, eq=False)
class Entry:
    """One DICOM object: its place among the files (from 1, in name order), its header, and where its bytes are."""

    place: int
    header: Dataset
    content: Path | bytes

    def whole(self) -> Dataset:
        """The object with its pixels; FormatError if it cannot be read."""
        return _parse(self.content, self.place, stop_before_pixels=False)


@dataclass(frozen=True, slots=True, eq=False)
class Contents:
    """The DICOM objects of a source, in name order, and how many files were none."""

    entries: tuple[Entry, ...]
    others: int


@contextlib.contextmanager
def unquoted() -> Iterator[None]:
    """Keep pydicom from warning of values, which it quotes: what we need is checked here, the rest is carried."""
    with config.disable_value_validation(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def open_source(path: Path) -> Contents:
    """Headers of every DICOM object in a folder (with its subfolders), in a tar or zip archive, or of one file.

    A file without the mark “DICM” at byte 128 is counted and left alone; hidden files and folders, such as a series
    that is still being written, are not looked at. Raises InputError if there is nothing at
    `path`, FormatError for a damaged archive or DICOM file or an archive above `MAXIMUM_BYTES`, StorageError if the
    disk cannot be read.
    """
    try:
        if not path.exists():
            raise InputError(f"there is no file or folder {path}")
        if path.is_dir():
            files: Iterator[tuple[str, Path | bytes]] = ((str(each), each) for each in _files(path))
        else:
            files = _archived(path)
        entries, others = [], 0
        for place, (_name, content) in enumerate(sorted(files, key=lambda pair: pair[0]), start=1):
            if _marked(content):
                entries.append(Entry(place, _parse(content, place, stop_before_pixels=True), content))
            else:
                others += 1
    except OSError as error:
        raise StorageError(f"the series could not be read ({error.strerror or type(error).__name__})") from None
    return Contents(tuple(entries), others)


def _files(folder: Path) -> Iterator[Path]:
    for each in folder.rglob("*"):
        hidden = any(part.startswith(".") for part in each.relative_to(folder).parts)
        if not hidden and each.is_file():
            yield each


def _archived(path: Path) -> Iterator[tuple[str, Path | bytes]]:
    """The members of an archive as bytes, read in the order they are stored; a plain file is its own member."""
    try:
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as archive:
                yield from _bounded((one.filename, archive.open(one)) for one in archive.infolist() if not one.is_dir())
        elif tarfile.is_tarfile(path):
            with tarfile.open(path) as archive:
                yield from _bounded((one.name, archive.extractfile(one)) for one in archive if one.isfile())
        else:
            yield str(path), path
    except (*_ARCHIVE_ERRORS, OSError) as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise  # the disk; without a number it is the decompressor that speaks
        raise FormatError(f"the archive is damaged, truncated or locked ({type(error).__name__})") from None


def _bounded(members: Iterator[tuple[str, Any]]) -> Iterator[tuple[str, bytes]]:
    left = MAXIMUM_BYTES
    for name, stream in members:
        with stream:
            content = stream.read(left + 1)
        left -= len(content)
        if left < 0:
            raise FormatError(f"the archive holds more than {MAXIMUM_BYTES / 2**30:g} GiB unpacked: not a CT series?")
        yield name, content if _marked(content) else b""


def _marked(content: Path | bytes) -> bool:
    if isinstance(content, bytes):
        return content[128:132] == b"DICM"
    with content.open("rb") as file:
        return file.read(132)[128:] == b"DICM"


def _parse(content: Path | bytes, place: int, *, stop_before_pixels: bool) -> Dataset:
    source = io.BytesIO(content) if isinstance(content, bytes) else content
    try:
        return pydicom.dcmread(source, stop_before_pixels=stop_before_pixels)
    except OSError as error:
        raise StorageError(f"file {place} (in name order) could not be read ({error.strerror})") from None
    except DECODING_ERRORS as error:
        raise FormatError(
            f"file {place} (in name order) is marked as DICOM but cannot be read ({type(error).__name__}):"
            " truncated or damaged?"
        ) from None


def text(header: Dataset, keyword: str) -> str:
    """A text attribute as a string, empty if absent.

    A declared character set is believed, with one exception: where none, ASCII, Latin-1 or UTF-8 is declared, text
    that can only be UTF-8 or Chinese GB18030 is read as that. Hospitals' archives carry much of it (OHIF #2716). A
    value that cannot be decoded at all counts as absent.
    """
    if keyword not in header:
        return ""
    raw = header.get_item(keyword).value
    declared = header.get("SpecificCharacterSet") or ""
    if isinstance(raw, bytes) and declared in _OFTEN_WRONG and max(raw, default=0) > 127:
        return _mislabelled(raw.rstrip(b" \0"), latin=declared == "ISO_IR 100")
    try:
        value = header.get(keyword)
    except DECODING_ERRORS:
        return ""
    return "" if value is None else "\\".join(map(str, value)) if isinstance(value, list | MultiValue) else str(value)


def _mislabelled(raw: bytes, *, latin: bool) -> str:
    """UTF-8 if it is; GB18030 if the groups with high bytes hold no Latin letter; otherwise Latin-1."""
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError:
        chinese = all(_GROUP_OF_CHINESE.fullmatch(group) for group in raw.split(b"=") if max(group, default=0) > 127)
    try:
        return raw.decode("gb18030" if chinese or not latin else "latin-1")
    except UnicodeDecodeError:
        return raw.decode("latin-1")


def settle_text(dataset: Dataset) -> Dataset:
    """The dataset with every text that lies about its character set read as `text` reads it, items included.

    What is rightly labelled, and what cannot be decoded, is left as it is. The dataset is changed and given back.
    """
    _settle(dataset, "")
    return dataset


def _settle(dataset: Dataset, inherited: object) -> None:
    declared = dataset.get("SpecificCharacterSet") or inherited
    for tag in list(dataset.keys()):
        raw = dataset.get_item(tag)
        vr = raw.VR or _dictionary_vr(tag)
        if vr == "SQ":
            for one in _items(dataset, tag):
                _settle(one, declared)
        elif vr in _TEXTS and declared in _OFTEN_WRONG and isinstance(raw.value, bytes) and not raw.value.isascii():
            value = _mislabelled(raw.value.rstrip(b" \0"), latin=declared == "ISO_IR 100")
            dataset[tag] = DataElement(tag, vr, value.split("\\") if vr in _SEVERAL and "\\" in value else value)


def _items(dataset: Dataset, tag: BaseTag) -> list[Dataset]:
    """Items of a sequence; none where it cannot be read."""
    try:
        return list(dataset[tag].value or ())
    except DECODING_ERRORS:
        return []


def _dictionary_vr(tag: BaseTag) -> str:
    """The VR of an element whose encoding does not tell it; UN if nobody knows."""
    try:
        return str(dictionary_VR(tag))
    except KeyError:
        return "UN"
