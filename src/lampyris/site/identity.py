"""Who was scanned → pseudonyms for the way and a sealed text for the return; the returned DICOM → named again.

Two secrets never leave the site: one makes pseudonyms (HMAC-SHA256, so that a patient keeps theirs), one seals identity
(JWE, "dir" with A256GCM). Without the files, nothing at the centre can be turned back into a person.
"""

import dataclasses
import hashlib
import hmac
import io
import os
import re
import secrets
import stat
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pydicom
from joserfc import jwe
from joserfc.errors import JoseError
from joserfc.jwk import OctKey
from pydicom.errors import InvalidDicomError

from lampyris.model import FormatError, InputError, StorageError, Study
from lampyris.model.arrays import canonical_json
from lampyris.site.store.files import write
from lampyris.transfer import ManifestError, parse_object

_SEAL = {"alg": "dir", "enc": "A256GCM", "typ": "lampyris-identity+jwe"}
_KEYWORDS = tuple(each.name for each in dataclasses.fields(Study))
_LARGEST = 8192
"""Bytes of a study's JSON: sealed, it still fits the protocol's 16384 characters."""


@dataclass(frozen=True, slots=True)
class Vault:
    """The site's two secrets, 32 bytes each."""

    _pseudonym: bytes = field(repr=False)
    _seal: bytes = field(repr=False)

    @staticmethod
    def open(folder: Path) -> "Vault":
        """The secrets in a folder, made at the first time. Raises StorageError when others may read them."""
        return Vault(_secret(folder / "pseudonym.key"), _secret(folder / "identity.key"))

    def pseudonyms(self, study: Study) -> tuple[tuple[str, str], ...]:
        """What of a study may travel: the manifest's `study`. Sex and age as they are, where they have their form."""
        found = {}
        if study.PatientID:
            found["PatientID"] = self._token(f"patient\0{study.IssuerOfPatientID or ''}\0{study.PatientID}", 16)
        if study.AccessionNumber:
            found["AccessionNumber"] = self._token(f"accession\0{study.AccessionNumber}", 16)
        if study.StudyInstanceUID:
            number = int(self._token(f"study\0{study.StudyInstanceUID}", 30), 16)
            found["StudyInstanceUID"] = f"2.25.{number}"
        if study.PatientSex in ("M", "F", "O"):
            found["PatientSex"] = study.PatientSex
        if age := _age(study):
            found["PatientAge"] = age
        return tuple(sorted(found.items()))

    def seal(self, scan: str, study: Study) -> str:
        """The study, readable with this vault alone and bound to its scan. Raises InputError when it is too long."""
        plain = canonical_json({"scan": scan, "study": dataclasses.asdict(study)}).encode()
        if len(plain) > _LARGEST:
            raise InputError(f"a study of {len(plain)} bytes cannot be sealed: expected at most {_LARGEST}")
        return jwe.encrypt_compact(dict(_SEAL), plain, OctKey.import_key(self._seal))

    def unseal(self, scan: str, sealed: str) -> Study:
        """The study that `seal` was given for this scan; FormatError when it is another's or was tampered with."""
        try:
            opened = jwe.decrypt_compact(sealed, OctKey.import_key(self._seal))
            values = parse_object(bytes(opened.plaintext or b""), largest=2 * _LARGEST, what="the sealed identity")
        except (JoseError, ValueError, TypeError, ManifestError) as error:
            raise FormatError("the sealed identity does not open: another site's keys, or tampered with?") from error
        if opened.headers() != _SEAL or values.get("scan") != scan:
            raise FormatError("the sealed identity belongs to another scan: mixed up on the way?")
        return study_of(values["study"])

    def _token(self, text: str, digits: int) -> str:
        return hmac.new(self._pseudonym, text.encode(), hashlib.sha256).hexdigest()[:digits]


def study_of(values: Any) -> Study:
    """A study from DICOM keywords and texts; InputError names a keyword that is not known, and never a value."""
    if not isinstance(values, dict):
        raise InputError(f"the study is a {type(values).__name__}, expected DICOM keywords with their texts")
    if unknown := sorted(str(name)[:40] for name in set(values) - set(_KEYWORDS)):
        raise InputError(f"the study holds {unknown[0]!a}; known are {', '.join(_KEYWORDS)}")
    given = {name: value for name, value in values.items() if value is not None}
    if bad := sorted(name for name, value in given.items() if not isinstance(value, str) or len(value) > 1024):
        raise InputError(f"the study's {bad[0]} is no text of at most 1024 characters")
    return Study(**given)


def study_in(place: Path) -> Study:
    """The study in the header of the first DICOM file of a scan; an empty one where there is none."""
    files = sorted(place.iterdir()) if place.is_dir() else [place]
    for file in files:
        if file.is_file():
            try:
                found = pydicom.dcmread(file, stop_before_pixels=True, specific_tags=list(_KEYWORDS))
            except (InvalidDicomError, EOFError):
                continue
            return study_of({name: str(value) for name in _KEYWORDS if (value := found.get(name)) is not None})
    return Study()


def restored(data: bytes, study: Study, pseudonyms: tuple[tuple[str, str], ...]) -> pydicom.Dataset:
    """A returned DICOM file with its patient and study named again; image, series and instance stay what they are.

    Every mention of the pseudonymous StudyInstanceUID is replaced, also in references. Text is written in UTF-8.
    Raises FormatError when the bytes are no DICOM file.
    """
    try:
        dataset = pydicom.dcmread(io.BytesIO(data))
        dataset.decode()  # by the character set that it says, before it says another
    except (InvalidDicomError, EOFError, ValueError, LookupError, NotImplementedError) as error:
        raise FormatError(f"a returned file of {len(data)} bytes is no DICOM ({type(error).__name__})") from error
    before, after = dict(pseudonyms).get("StudyInstanceUID"), study.StudyInstanceUID
    if before and after:
        for element in dataset.iterall():
            if element.VR == "UI" and element.value == before:
                element.value = after
    for name in _KEYWORDS:
        if value := getattr(study, name):
            setattr(dataset, name, value)
    dataset.SpecificCharacterSet = "ISO_IR 192"
    return dataset


def _age(study: Study) -> str | None:
    """As it was given, or in whole years at the day of the study."""
    if study.PatientAge:
        return study.PatientAge if re.fullmatch(r"[0-9]{3}[DWMY]", study.PatientAge) else None
    born, day = study.PatientBirthDate, study.StudyDate
    if not (len(born) == len(day) == 8 and born.isdigit() and day.isdigit() and born <= day):
        return None
    return f"{int(day[:4]) - int(born[:4]) - (day[4:] < born[4:]):03d}Y"


def _secret(path: Path) -> bytes:
    try:
        if not path.exists():
            write(path, secrets.token_bytes(32))
        mode, found = path.stat().st_mode, path.read_bytes()
    except OSError as error:
        raise StorageError(f"the key {path.name} cannot be read or made ({error.strerror})") from error
    if os.name == "posix" and stat.S_IMODE(mode) & 0o077:
        raise StorageError(f"the key {path.name} may be read by others (mode {stat.S_IMODE(mode):o}): chmod 600 it")
    if len(found) != 32:
        raise FormatError(f"the key {path.name} has {len(found)} bytes, expected 32: restore it from its backup")
    return found
