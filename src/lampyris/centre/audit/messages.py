"""A link of the chain → an audit message as DICOM PS3.15 A.5 has it: one XML element, on one line.

Of patients nothing is told: the chain holds UIDs, and a repository finds the patient by the study.
"""

import base64
import json
import re
from dataclasses import dataclass
from ipaddress import ip_address
from xml.etree import ElementTree
from xml.etree.ElementTree import Element, SubElement

from pydicom.uid import RE_VALID_UID

from lampyris.centre.audit.chain import Entry, Kind, Link


@dataclass(frozen=True, slots=True)
class Code:
    """A coded term: value and meaning, of DCM unless it says otherwise."""

    value: str
    meaning: str
    system: str = "DCM"


@dataclass(frozen=True, slots=True)
class Event:
    """What A.5.3 calls an event: its id, its type if it has one, and its action (C, R, U, D, E)."""

    code: Code
    action: str
    type: Code | None = None


_AUTHENTICATION, _ALERT = Code("110114", "User Authentication"), Code("110113", "Security Alert")
_TRANSFERRED = Code("110104", "DICOM Instances Transferred")
_PROCEDURE = Code("110111", "Procedure Record")
EVENTS: dict[Kind, Event] = {
    Kind.LOGIN: Event(_AUTHENTICATION, "E", Code("110122", "Login")),
    Kind.LOGOUT: Event(_AUTHENTICATION, "E", Code("110123", "Logout")),
    Kind.QUERY: Event(Code("110112", "Query"), "E"),
    Kind.VIEW: Event(Code("110103", "DICOM Instances Accessed"), "R"),
    Kind.EXPORT: Event(Code("110106", "Export"), "R"),
    Kind.STORE: Event(_TRANSFERRED, "C"),
    Kind.SEND: Event(_TRANSFERRED, "R"),
    Kind.DELETE: Event(Code("110105", "DICOM Study Deleted"), "D"),
    Kind.SHARE: Event(_ALERT, "E", Code("110135", "Object Security Attributes Changed")),
    Kind.GLASS: Event(_ALERT, "E", Code("110127", "Emergency Override Started")),
    Kind.REMAKE: Event(_PROCEDURE, "U"),
    Kind.RETRY: Event(_PROCEDURE, "U"),
    Kind.CONFIGURE: Event(_ALERT, "E", Code("110131", "Software Configuration")),
    Kind.PEOPLE: Event(_ALERT, "E", Code("110136", "Security Roles Changed")),
    Kind.AUDIT: Event(Code("110101", "Audit Log Used"), "R"),
    Kind.APPLICATION: Event(Code("110100", "Application Activity"), "E", Code("110120", "Application Start")),
}
_SOURCE, _DESTINATION = Code("110153", "Source Role ID"), Code("110152", "Destination Role ID")
_MEDIA = Code("110154", "Destination Media")
_ROLES: dict[Kind, tuple[Code, Code]] = {
    Kind.QUERY: (_SOURCE, _DESTINATION),
    Kind.STORE: (_SOURCE, _DESTINATION),
    Kind.SEND: (_DESTINATION, _SOURCE),
    Kind.EXPORT: (_MEDIA, _SOURCE),
    Kind.APPLICATION: (Code("110151", "Application Launcher"), Code("110150", "Application")),
}
"""What whoever asks, and what the centre, is in a movement of data."""
_SECURITY = Code("110129", "Security Configuration")
"""What a change is that is about a site: its codes, keys, and whether it is let in."""
_STOP = Code("110121", "Application Stop")
_OUTCOME = {"success": "0", "refused": "4", "failed": "8"}
_SERVER = "4"
"""Audit source type: application server process."""


def message_of(link: Link, source: str) -> str:
    """The message of a link; `source` names the centre that tells of it."""
    entry = link.entry
    event = EVENTS[entry.kind]
    kind_of_event = _type_of(entry)
    root = Element("AuditMessage")
    identified = SubElement(
        root,
        "EventIdentification",
        EventActionCode=event.action,
        EventDateTime=link.at.isoformat(timespec="milliseconds"),
        EventOutcomeIndicator=_OUTCOME[entry.outcome],
    )
    _coded(identified, "EventID", event.code)
    if kind_of_event is not None:
        _coded(identified, "EventTypeCode", kind_of_event)
    if entry.outcome != "success":
        SubElement(identified, "EventOutcomeDescription").text = entry.outcome
    _participants(root, entry, source)
    told = SubElement(root, "AuditSourceIdentification", AuditSourceID=source)
    SubElement(told, "AuditSourceTypeCode", {"csd-code": _SERVER})
    _object(root, link)
    return ElementTree.tostring(root, encoding="unicode")


def _type_of(entry: Entry) -> Code | None:
    """The type of an event, where its id alone does not say it."""
    if entry.kind is Kind.CONFIGURE and entry.site is not None:
        return _SECURITY
    if entry.kind is Kind.APPLICATION and entry.detail.get("what") == "stop":
        return _STOP
    return EVENTS[entry.kind].type


def _participants(root: Element, entry: Entry, source: str) -> None:
    asks = {"UserID": entry.who, "UserIsRequestor": "true"}
    if entry.address:
        asks |= {"NetworkAccessPointID": entry.address, "NetworkAccessPointTypeCode": _access_point(entry.address)}
    theirs, ours = _ROLES.get(entry.kind, (None, None))
    _participant(root, theirs, asks)
    _participant(root, ours, {"UserID": source, "UserIsRequestor": "false"})


def _participant(root: Element, role: Code | None, said: dict[str, str]) -> None:
    participant = SubElement(root, "ActiveParticipant", said)
    if role is not None:
        _coded(participant, "RoleIDCode", role)
    if role is _MEDIA:
        _coded(SubElement(participant, "MediaIdentifier"), "MediaType", Code("110037", "URI"))


def _object(root: Element, link: Link) -> None:
    """What it was about: the audit itself, a study, or a thing of the centre, with the details of the entry."""
    entry = link.entry
    name = entry.object or entry.site or "centre"
    of_study = "." in name and len(name) <= 64 and re.fullmatch(RE_VALID_UID, name) is not None
    if entry.kind is Kind.AUDIT:
        role, code = "13", Code("12", "URI", "RFC-3881")
    elif entry.kind is Kind.PEOPLE:
        role, code = "11", Code("11", "User Identifier", "RFC-3881")
    elif of_study:
        role, code = "3", Code("110180", "Study Instance UID")
    else:
        role, code = "4", Code("110182", "Node ID")
    found = SubElement(
        root,
        "ParticipantObjectIdentification",
        ParticipantObjectID=name,
        ParticipantObjectTypeCode="2",
        ParticipantObjectTypeCodeRole=role,
    )
    _coded(found, "ParticipantObjectIDTypeCode", code)
    if entry.kind is Kind.QUERY:
        text = json.dumps(entry.detail, ensure_ascii=False, sort_keys=True)
        SubElement(found, "ParticipantObjectQuery").text = _packed(text)
    else:
        named = "Security Audit Log" if entry.kind is Kind.AUDIT else name
        SubElement(found, "ParticipantObjectName").text = named
    told = {**entry.detail, "number": link.number, "digest": link.digest, "tenant": entry.site}
    for key, value in sorted(told.items()):
        if value is not None:
            text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, sort_keys=True)
            SubElement(found, "ParticipantObjectDetail", type=key, value=_packed(text))
    if of_study:
        held = SubElement(SubElement(found, "ParticipantObjectDescription"), "ParticipantObjectContainsStudy")
        SubElement(held, "StudyIDs", UID=name)


def _coded(above: Element, name: str, code: Code) -> None:
    SubElement(above, name, {"csd-code": code.value, "codeSystemName": code.system, "originalText": code.meaning})


def _packed(text: str) -> str:
    return base64.b64encode(text.encode()).decode()


def _access_point(address: str) -> str:
    """2 for an IP address, 1 for a name of a machine."""
    try:
        ip_address(address)
    except ValueError:
        return "1"
    return "2"
