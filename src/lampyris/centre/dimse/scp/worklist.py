"""Modality worklist (C-FIND) and modality performed procedure steps (N-CREATE, N-SET) → answers over the orders.

PS3.4 annexes K and F.
"""

from collections.abc import Callable, Iterator
from typing import Any

from pydicom.dataset import Dataset
from pydicom.uid import UID
from pynetdicom import evt
from pynetdicom.events import Event

from lampyris.centre.audit.chain import Kind
from lampyris.centre.dimse import orders
from lampyris.centre.dimse.scp import matching
from lampyris.centre.dimse.scp.server import Door
from lampyris.dicom.source import settle_text

PENDING, SUCCESS, CANCELLED, OUT_OF_RESOURCES, NOT_UNDERSTOOD = 0xFF00, 0x0000, 0xFE00, 0xA700, 0xC000
_FAILED, _DUPLICATE, _INVALID, _MISSING, _UNKNOWN = 0x0110, 0x0111, 0x0106, 0x0120, 0x0112
_ENDED = 0xA710
"""Error ID of a step that may no longer be updated (PS3.4 F.7.2.2.2)."""
_STATES = ("IN PROGRESS", "DISCONTINUED", "COMPLETED")


def find(door: Door, event: Event) -> Iterator[tuple[int, Dataset | None]]:
    """Answer a worklist query: the site's steps that wait and match."""
    node = door.node_of(event)
    query = _read(lambda: event.identifier)
    if query is None:
        yield NOT_UNDERSTOOD, None
        return
    waiting = door.ask(lambda connection: orders.due(connection, node.site))
    count = 0
    for row in waiting:
        if event.is_cancelled:
            yield CANCELLED, None
            return
        step = step_of(row)
        if matching.matches(query, step):
            count += 1
            yield PENDING, matching.answer(query, step, node.charset)
    door.noted(event, Kind.QUERY, "success", None, level="WORKLIST", matches=count)


def step_of(row: dict[str, Any]) -> Dataset:
    """A scheduled procedure step with all that may be asked of it (PS3.4 table K.6-1)."""
    step = Dataset()
    step.Modality = row["modality"]
    step.ScheduledStationAETitle = row["station"]
    step.ScheduledProcedureStepStartDate = row["date"]
    step.ScheduledProcedureStepStartTime = row["time"]
    step.ScheduledProcedureStepID = row["step"]
    step.ScheduledProcedureStepDescription = row["description"]
    step.ScheduledProcedureStepStatus = "SCHEDULED"
    made = Dataset()
    made.ScheduledProcedureStepSequence = [step]
    made.RequestedProcedureID = row["procedure"]
    made.RequestedProcedureDescription = row["description"]
    made.StudyInstanceUID = row["study_uid"]
    made.AccessionNumber = row["accession"]
    made.ReferringPhysicianName = row["referring"]
    made.PatientName = row["patient_name"]
    made.PatientID = row["patient_id"]
    made.IssuerOfPatientID = row["issuer"]
    made.PatientBirthDate = row["birth_date"]
    made.PatientSex = row["sex"]
    return made


def created(door: Door, event: Event) -> tuple[int | Dataset, Dataset | None]:
    """A modality begins (N-CREATE)."""
    node, uid = door.node_of(event), str(getattr(event.request, "AffectedSOPInstanceUID", None) or "")
    step = _read(lambda: event.attribute_list)
    if step is None:
        return _FAILED, None
    if not UID(uid).is_valid or not uid:
        return _INVALID, None
    if not step.get("PerformedProcedureStepID") or "ScheduledStepAttributesSequence" not in step:
        return _MISSING, None
    if step.get("PerformedProcedureStepStatus") != "IN PROGRESS":
        return _INVALID, None
    if not door.ask(lambda connection: orders.begin(connection, node.aet, node.site, uid, step)):
        return _DUPLICATE, None
    door.noted(event, Kind.STORE, "success", uid, mpps="IN PROGRESS")
    step.AffectedSOPClassUID = event.request.AffectedSOPClassUID
    return SUCCESS, step


def changed(door: Door, event: Event) -> tuple[int | Dataset, Dataset | None]:
    """A modality tells more, or that it has ended (N-SET)."""
    node, uid = door.node_of(event), str(getattr(event.request, "RequestedSOPInstanceUID", None) or "")
    changes = _read(lambda: event.modification_list)
    if changes is None:
        return _FAILED, None
    state = changes.get("PerformedProcedureStepStatus")
    if state not in (None, *_STATES):
        return _INVALID, None
    before = door.ask(lambda connection: orders.go_on(connection, node.aet, uid, changes))
    if before is None:
        return _UNKNOWN, None
    if before != "IN PROGRESS":
        refused = Dataset()
        refused.Status, refused.ErrorID = _FAILED, _ENDED
        refused.ErrorComment = "Performed Procedure Step Object may no longer be updated"
        return refused, None
    door.noted(event, Kind.STORE, "success", uid, mpps=state or "IN PROGRESS")
    return SUCCESS, changes


def _read(encoded: Callable[[], Dataset]) -> Dataset | None:
    """What a peer sent, its text as UTF-8; None for bytes that are no data set."""
    try:
        return settle_text(encoded())
    except Exception:  # whatever a peer's bytes make of the library
        return None


def handlers(door: Door) -> list[Any]:
    """How performed steps are answered; queries come by `find`."""
    return [
        (evt.EVT_N_CREATE, lambda event: created(door, event)),
        (evt.EVT_N_SET, lambda event: changed(door, event)),
    ]
