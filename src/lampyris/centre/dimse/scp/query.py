"""C-FIND, C-MOVE and C-GET → what the archive has of the node's site (PS3.4 annex C, Study Root and Patient Root).

The index narrows by what it has columns for; every key is then matched against the object's own attributes.
"""

import contextlib
from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence
from functools import partial
from typing import Any, TypeVar

from pydicom.datadict import dictionary_has_tag
from pydicom.dataset import Dataset
from pynetdicom import evt
from pynetdicom.events import Event
from pynetdicom.presentation import PresentationContext

from lampyris.centre.archive import queries
from lampyris.centre.archive.matching import Attribute, Level
from lampyris.centre.archive.matching import matches as archived
from lampyris.centre.archive.queries import EVERYTHING, Condition, FoundInstance
from lampyris.centre.audit.chain import Kind
from lampyris.centre.dimse import contexts, nodes, objects
from lampyris.centre.dimse.nodes import Node
from lampyris.centre.dimse.scp import matching, worklist
from lampyris.centre.dimse.scp.matching import values_of
from lampyris.centre.dimse.scp.server import Door
from lampyris.dicom.source import settle_text
from lampyris.model import InputError, StorageError

F = TypeVar("F", queries.FoundStudy, queries.FoundSeries, queries.FoundInstance)
PENDING, CANCELLED, MISMATCH, NOT_UNDERSTOOD = 0xFF00, 0xFE00, 0xA900, 0xC000
LEVELS = ("PATIENT", "STUDY", "SERIES", "IMAGE")
_UNIQUE = {
    "PATIENT": "PatientID",
    "STUDY": "StudyInstanceUID",
    "SERIES": "SeriesInstanceUID",
    "IMAGE": "SOPInstanceUID",
}
_PAGE = 500
_MOST = 65535
"""Sub-operations that an answer can count (PS3.7 table 9.1-4)."""
_TABLES = {"PATIENT": Level.STUDY, "STUDY": Level.STUDY, "SERIES": Level.SERIES, "IMAGE": Level.INSTANCE}


def find(door: Door, event: Event) -> Iterator[tuple[int, Dataset | None]]:
    """Answer a query about patients, studies, series or instances."""
    node = door.node_of(event)
    try:
        query = settle_text(event.identifier)
    except Exception:  # whatever a peer's bytes make of the library
        yield NOT_UNDERSTOOD, None
        return
    level = str(query.get("QueryRetrieveLevel") or "")
    if not _is_whole(query, level, str(event.request.AffectedSOPClassUID)):
        yield MISMATCH, None
        return
    count = 0
    for found in _found(door, node, query, level):
        if event.is_cancelled:
            yield CANCELLED, None
            return
        if matching.matches(query, found):
            count += 1
            yield PENDING, _answered(door, node, query, found)
    door.noted(
        event, Kind.QUERY, "success", str(query.get("StudyInstanceUID") or "") or None, level=level, matches=count
    )


def _is_whole(query: Dataset, level: str, model: str) -> bool:
    """Whether a level is one of the model's, and every unique key above it has a value (PS3.4 C.4.1.2.1)."""
    first = 0 if model in contexts.PATIENT_ROOT else 1
    if level not in LEVELS[first:]:
        return False
    above = LEVELS[first : LEVELS.index(level)]
    return all(_values(query, one) for one in above)


def _answered(door: Door, node: Node, query: Dataset, found: Dataset) -> Dataset:
    made = matching.answer(query, found, node.charset)
    made.QueryRetrieveLevel = query.QueryRetrieveLevel
    made.RetrieveAETitle = door.centre.settings.aet
    made.InstanceAvailability = "ONLINE"
    return made


def _found(door: Door, node: Node, query: Dataset, level: str) -> Iterator[Dataset]:
    """What the index finds, page by page: more of it than matches, never less."""
    seen, wanted = queries.of_sites([node.site]), narrowed(query, level)
    patients: set[tuple[str, str]] = set()
    if level in ("PATIENT", "STUDY"):
        for study in _pages(door, partial(queries.find_studies, seen=seen, wanted=wanted, limit=_PAGE)):
            who = (study.issuer, study.patient_id)
            if level == "STUDY" or who not in patients:
                patients.add(who)
                yield _study(study)
    elif level == "SERIES":
        for series in _pages(door, partial(queries.find_series, seen=seen, wanted=wanted, limit=_PAGE)):
            yield _series(series)
    else:
        for instance in _pages(door, partial(queries.find_instances, seen=seen, wanted=wanted, limit=_PAGE)):
            yield dataset_of(instance.json)


def _pages(door: Door, find: Callable[..., Awaitable[list[F]]]) -> Iterator[F]:
    """Everything that is found, without holding the database while a peer takes its time."""
    after: queries.After | None = None
    while True:
        rows = door.ask(partial(find, after=after))
        yield from rows
        if len(rows) < _PAGE:
            return
        last = rows[-1]
        after = queries.After(last.study_date if isinstance(last, queries.FoundStudy) else None, last.number)


def dataset_of(json: dict[str, Any]) -> Dataset:
    """Attributes as the index keeps them; what it leaves out is empty."""
    return Dataset.from_json(json, lambda *_: None)


def _study(study: queries.FoundStudy) -> Dataset:
    made = dataset_of(study.json)
    made.ModalitiesInStudy = list(study.modalities)
    made.NumberOfStudyRelatedSeries = study.series_count
    made.NumberOfStudyRelatedInstances = study.instance_count
    return made


def _series(series: queries.FoundSeries) -> Dataset:
    made = dataset_of(series.json | series.study_json)
    made.NumberOfSeriesRelatedInstances = series.instance_count
    return made


def narrowed(query: Dataset, level: str) -> list[Condition]:
    """Conditions on the index that every match of a query fulfils: what C-FIND and QIDO-RS have in common."""
    found = []
    for element in query:
        asked = [] if element.VR == "SQ" or int(element.tag) in matching.ASIDE else values_of(element)
        if not asked or not dictionary_has_tag(element.tag):
            continue
        what = Attribute((f"{int(element.tag):08X}",))
        if what.level <= _TABLES[level]:
            with contextlib.suppress(InputError):  # a value that the index does not search for is looked at afterwards
                found.append(archived(what, "\\".join(asked)) or EVERYTHING)
    return found


def move(door: Door, event: Event) -> Iterator[Any]:
    """Send what was asked for to another node of the same site, by C-STORE on an association of its own."""
    node, title = door.node_of(event), str(event.move_destination or "").strip()
    target = door.ask(lambda connection: nodes.find(connection, title, site=node.site))
    if target is None:
        yield None, None
        return
    instances = _wanted(door, node, event)
    if instances is None:
        raise ValueError("the identifier does not match the model")
    offered, *_ = contexts.proposed(((one.class_uid, one.syntax_uid) for one in instances), target.syntaxes)
    agreed: list[Any] = []
    told = {
        "contexts": offered,
        "tls_args": nodes.calling(door.centre.settings, target),
        "evt_handlers": [(evt.EVT_ACCEPTED, lambda accepted: agreed.append(accepted.assoc))],
    }
    yield target.host, target.port, told
    yield len(instances)
    door.noted_studies(event, Kind.SEND, instances, to=target.aet)
    yield from _given(door, event, instances, lambda: agreed[0].accepted_contexts)


def get(door: Door, event: Event) -> Iterator[Any]:
    """Send what was asked for on the same association."""
    instances = _wanted(door, door.node_of(event), event)
    if instances is None:
        yield 1
        yield MISMATCH, None
        return
    yield len(instances)
    door.noted_studies(event, Kind.EXPORT, instances)
    yield from _given(door, event, instances, lambda: event.assoc.accepted_contexts)


def _wanted(door: Door, node: Node, event: Event) -> list[FoundInstance] | None:
    """Instances that an identifier means; None for one that is not of its model."""
    try:
        query = event.identifier
        level = str(query.get("QueryRetrieveLevel") or "")
        whole = _is_whole(query, level, str(event.request.AffectedSOPClassUID)) and _says(query, level)
    except Exception:
        return None
    if not whole:
        return None
    keys = Dataset()
    for one in LEVELS[: LEVELS.index(level) + 1]:
        if _UNIQUE[one] in query:
            keys[_UNIQUE[one]] = query[_UNIQUE[one]]
    wanted = narrowed(keys, "IMAGE")
    if len(wanted) < len(keys) or EVERYTHING in wanted:  # a key that narrows nothing would mean the whole site
        return None
    return door.ask(
        lambda connection: queries.find_instances(connection, queries.of_sites([node.site]), wanted, limit=_MOST)
    )


def _says(query: Dataset, level: str) -> bool:
    """Whether the unique key of the level itself has values, and no wildcard is in any of them (PS3.4 C.4.2.1.4)."""
    return bool(_values(query, level)) and not any(
        "*" in value or "?" in value for one in LEVELS for value in _values(query, one)
    )


def _values(query: Dataset, level: str) -> list[str]:
    return values_of(query[_UNIQUE[level]]) if _UNIQUE[level] in query else []


def _given(
    door: Door, event: Event, instances: Iterable[FoundInstance], agreed: Callable[[], Sequence[PresentationContext]]
) -> Iterator[tuple[int, Dataset | None]]:
    for one in instances:
        if event.is_cancelled:
            yield CANCELLED, None
            return
        try:
            yield PENDING, objects.fitted(objects.load(door.centre.store, one), agreed())
        except (StorageError, objects.UntakenError) as error:
            door.log.warning("object not sent", reason=str(error))
            absent = Dataset()  # the library counts it as failed, and names it in its answer
            absent.SOPInstanceUID = one.uid
            yield PENDING, absent


def handlers(door: Door) -> list[Any]:
    """How queries are answered, and what is retrieved."""

    def ask(event: Event) -> Iterator[tuple[int, Dataset | None]]:
        asked = worklist.find if event.request.AffectedSOPClassUID == contexts.WORKLIST else find
        return asked(door, event)

    return [
        (evt.EVT_C_FIND, ask),
        (evt.EVT_C_MOVE, lambda event: move(door, event)),
        (evt.EVT_C_GET, lambda event: get(door, event)),
    ]
