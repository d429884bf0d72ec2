"""C-STORE → an object in the archive of the node's site, safely there before it is answered (PS3.4 annex B)."""

from collections.abc import Callable
from typing import Any

from pynetdicom import evt
from pynetdicom.dimse_primitives import C_STORE
from pynetdicom.events import Event

from lampyris.centre.archive.entry import Entry
from lampyris.centre.archive.index import Filed
from lampyris.centre.archive.intake import take
from lampyris.centre.audit.chain import Kind
from lampyris.centre.database import ABSENT
from lampyris.centre.dimse.scp.server import Door
from lampyris.centre.people import patience
from lampyris.model import FormatError, StorageError

SUCCESS, OUT_OF_RESOURCES, MISMATCH, NOT_UNDERSTOOD, NOT_AUTHORISED = 0x0000, 0xA700, 0xA900, 0xC000, 0x0124
DUPLICATE = 0x0111


class MismatchError(FormatError):
    """An object is not the one that the message announced."""

    code = "INPUT_MISMATCH"


def _as_said(request: C_STORE) -> Callable[[Entry], None]:
    """Whether an object is of the class and has the UID that the message says."""

    def check(entry: Entry) -> None:
        if (entry.class_uid, entry.uid) != (str(request.AffectedSOPClassUID), str(request.AffectedSOPInstanceUID)):
            raise MismatchError("the object has another SOP class or instance than its message")

    return check


def store(door: Door, event: Event) -> int:
    """Keep an object; every outcome has its status (PS3.4 table B.2-1, PS3.7 annex C)."""
    node, request = door.node_of(event), event.request
    assert isinstance(request, C_STORE)
    uid = str(request.AffectedSOPInstanceUID or "")
    if "store" not in node.may:
        door.noted(event, Kind.STORE, "refused", uid)
        return NOT_AUTHORISED
    size, most = event.dataset_path.stat().st_size, door.centre.settings.stored_bytes
    try:
        if not door.ask(lambda connection: patience.reserve(connection, node.aet, size, most)):
            door.log.warning("object refused", node=node.aet, reason=f"{most} bytes a day are its quota")
            door.noted(event, Kind.STORE, "refused", uid, reason="quota of the day")
            return OUT_OF_RESOURCES
        taken = door.run(take(door.centre, node.site, event.dataset_path, check=_as_said(request)))
    except MismatchError:
        return MISMATCH
    except FormatError as error:
        door.log.warning("object refused", node=node.aet, reason=str(error))
        return NOT_UNDERSTOOD
    except (StorageError, TimeoutError, *ABSENT) as error:
        door.log.error("object not kept", node=node.aet, kind=type(error).__name__, reason=str(error))
        return OUT_OF_RESOURCES
    if taken.filed is Filed.DIFFERS:
        door.noted(event, Kind.STORE, "refused", uid, reason="another object has this UID")
        return DUPLICATE
    door.stored(event, taken.entry.study_uid)
    return SUCCESS


def handlers(door: Door) -> list[Any]:
    """What takes objects in."""
    return [(evt.EVT_C_STORE, lambda event: store(door, event))]
