"""Files of a returned series, named again → the PACS of the house, and which of them it has confirmed.

What is confirmed is written down by the caller; what is not is sent again. A DICOM instance keeps its UID, so that a
PACS that was told twice holds it once.
"""

import io
import json
import secrets
import ssl
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import httpx
import pydicom
from pydicom.uid import UID
from pynetdicom import AE

from lampyris.durable import sync
from lampyris.model import MachineError, StorageError
from lampyris.site.config import Dicom, Folder, Pacs, Stow
from lampyris.site.store.files import growing

BATCH = 32
"""Files that are held in memory, and confirmed, together."""
DICOM_SUFFIX = ".dcm"
_DUPLICATE = 0x0111
_DICOM_JSON = "application/dicom+json"
_REFERENCED, _FAILED, _INSTANCE, _REASON = "00081199", "00081198", "00081155", "00081197"


class PacsError(MachineError):
    """A PACS did not answer, or did not take what it was given; it is asked again later."""

    code = "MACHINE_PACS"


@dataclass(frozen=True, slots=True, eq=False)
class Item:
    """One file of a series: its name, and its content when it is no DICOM."""

    name: str
    dataset: pydicom.Dataset | None
    content: bytes = b""

    def encoded(self) -> bytes:
        if self.dataset is None:
            return self.content
        file = io.BytesIO()
        self.dataset.save_as(file, enforce_file_format=True)
        return file.getvalue()


@dataclass(frozen=True, slots=True)
class Outcome:
    """Names that are safe at the PACS, and why others are not."""

    confirmed: tuple[str, ...]
    trouble: str | None = None


def takes(pacs: Pacs, name: str) -> bool:
    """A PACS takes DICOM, a folder everything."""
    return isinstance(pacs, Folder) or name.endswith(DICOM_SUFFIX)


def deliver(pacs: Pacs, scan: str, items: Sequence[Item], *, transport: httpx.BaseTransport | None = None) -> Outcome:
    """Send some files. Raises PacsError when the PACS cannot be reached, StorageError when a folder is at fault."""
    match pacs:
        case Dicom():
            return _store(pacs, items)
        case Stow():
            return _stow(pacs, items, transport)
        case Folder():
            return _write(pacs, scan, items)


def _store(pacs: Dicom, items: Sequence[Item]) -> Outcome:
    """C-STORE, one association. Warnings count as stored, and so does an instance that is there already."""
    entity = AE(ae_title=pacs.calling)
    entity.acse_timeout = entity.dimse_timeout = entity.network_timeout = entity.connection_timeout = pacs.timeout_s
    datasets = [(item.name, item.dataset) for item in items if item.dataset is not None]
    for contexts in {(each.SOPClassUID, each.file_meta.TransferSyntaxUID) for _, each in datasets}:
        entity.add_requested_context(contexts[0], [contexts[1]])
    association: Any = entity.associate(pacs.host, pacs.port, ae_title=pacs.called)
    if not association.is_established:
        why = "it rejected the AE titles or the presentation contexts" if association.is_rejected else "no answer"
        raise PacsError(f"pacs {pacs.name}: no association ({why}): is it running, does it know {pacs.calling}?")
    confirmed: list[str] = []
    trouble = None
    try:
        for name, dataset in datasets:
            status = _stored(association, dataset)
            if status is None:
                trouble = f"pacs {pacs.name}: no answer to C-STORE, or the SOP class was not accepted"
                if not association.is_established:
                    break
            elif status == 0 or status & 0xF000 == 0xB000 or status == _DUPLICATE:
                confirmed.append(name)
            else:
                trouble = f"pacs {pacs.name}: C-STORE was answered 0x{status:04X}"
    finally:
        if association.is_established:
            association.release()
    return Outcome(tuple(confirmed), trouble)


def _stored(association: Any, dataset: pydicom.Dataset) -> int | None:
    """The status of one C-STORE, None when there was none."""
    try:
        status = association.send_c_store(dataset)
    except (ValueError, RuntimeError):  # no accepted context for it, or the association has ended
        return None
    found = status.get("Status")
    return None if found is None else int(found)


def _stow(pacs: Stow, items: Sequence[Item], transport: httpx.BaseTransport | None) -> Outcome:
    """STOW-RS, one request (DICOM PS3.18, 10.5)."""
    boundary = secrets.token_hex(16)
    headers = {
        "Content-Type": f'multipart/related; type="application/dicom"; boundary={boundary}',
        "Accept": _DICOM_JSON,
    }
    head = f"\r\n--{boundary}\r\nContent-Type: application/dicom\r\n\r\n".encode()
    body = b"".join(head + item.encoded() for item in items) + f"\r\n--{boundary}--\r\n".encode()
    try:
        if pacs.authorization_file is not None:
            headers["Authorization"] = pacs.authorization_file.read_text("ascii").strip()
        context = ssl.create_default_context(cafile=None if pacs.ca_file is None else str(pacs.ca_file))
        with httpx.Client(verify=context, trust_env=False, timeout=pacs.timeout_s, transport=transport) as client:
            answer = client.post(f"{pacs.url.rstrip('/')}/studies", content=body, headers=headers)
    except httpx.RequestError as error:
        raise PacsError(f"pacs {pacs.name}: no answer to STOW-RS ({type(error).__name__})") from error
    except (OSError, ValueError) as error:
        raise PacsError(f"pacs {pacs.name}: its certificates or authorization cannot be read") from error
    if answer.status_code not in (200, 202, 409):
        raise PacsError(f"pacs {pacs.name}: STOW-RS was answered {answer.status_code}")
    return _confirmed(pacs, items, answer)


def _confirmed(pacs: Stow, items: Sequence[Item], answer: httpx.Response) -> Outcome:
    """By the response's own lists; an answer of 200 without them says that all are stored."""
    try:
        found = json.loads(answer.content)
        listed = _instances(found, _REFERENCED)
        failed = {uid: reason for uid, reason in _instances(found, _FAILED).items() if reason != _DUPLICATE}
        duplicates = set(_instances(found, _FAILED)) - set(failed)
    except (ValueError, AttributeError, KeyError, TypeError, IndexError):
        listed, failed, duplicates = {}, {}, set()
    names = {str(item.dataset.SOPInstanceUID): item.name for item in items if item.dataset is not None}
    stored = set(listed) | duplicates
    if answer.status_code == 200 and not listed:
        stored = set(names) - set(failed)
    confirmed = tuple(name for uid, name in names.items() if uid in stored)
    if len(confirmed) == len(items):
        return Outcome(confirmed)
    codes = ", ".join(sorted({f"0x{reason:04X}" for reason in failed.values()})) or "no reason told"
    lacking = len(items) - len(confirmed)
    return Outcome(confirmed, f"pacs {pacs.name}: STOW-RS did not store {lacking} of {len(items)} ({codes})")


def _instances(found: Any, tag: str) -> dict[str, int]:
    """SOP Instance UIDs in a sequence of the response, with their failure reasons (0 = none)."""
    listed = found.get(tag, {}).get("Value", [])
    return {str(UID(each[_INSTANCE]["Value"][0])): int(each.get(_REASON, {}).get("Value", [0])[0]) for each in listed}


def _write(pacs: Folder, scan: str, items: Sequence[Item]) -> Outcome:
    """Every file below FOLDER/SCAN, whole or not at all."""
    for item in items:
        target = pacs.folder / scan / item.name
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise StorageError(f"pacs {pacs.name}: the folder cannot be made ({error.strerror})") from error
        with growing(target) as file:
            file.write(item.encoded())
        sync(target.parent)
    return Outcome(tuple(item.name for item in items))
