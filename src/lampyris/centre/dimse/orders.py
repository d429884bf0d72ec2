"""What was ordered of a site → scheduled procedure steps, and what its modalities tell of those that they perform."""

import dataclasses
import re
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import psycopg
from psycopg.types.json import Jsonb
from pydicom.dataset import Dataset

from lampyris.centre.audit.chain import Entry, Kind, note
from lampyris.centre.database import Connection
from lampyris.model import InputError

_DATE = re.compile(r"[0-9]{4}(0[1-9]|1[0-2])(0[1-9]|[12][0-9]|3[01])")
_TIME = re.compile(r"([01][0-9]|2[0-3])([0-5][0-9]([0-5][0-9])?)?")
_LONGEST = 64
"""Characters of a PN group or an LO (PS3.5 table 6.2-1); an SH has 16."""
_SHORT = ("step", "accession", "procedure", "modality", "station")
_STEP_STATES = {"IN PROGRESS": "in_progress", "COMPLETED": "completed", "DISCONTINUED": "discontinued"}


@dataclass(frozen=True, slots=True)
class Order:
    """A scheduled procedure step (PS3.3 C.4.10); dates and times are those of the place. Raises InputError.

    What is empty of `step`, `accession`, `procedure` and `study_uid` is given by `add`.
    """

    site: str
    patient_id: str
    patient_name: str
    date: str
    time: str = ""
    step: str = ""
    accession: str = ""
    study_uid: str = ""
    procedure: str = ""
    description: str = ""
    issuer: str = ""
    birth_date: str = ""
    sex: str = ""
    referring: str = ""
    modality: str = "CT"
    station: str = ""
    state: str = "scheduled"

    def __post_init__(self) -> None:
        if not self.patient_id.strip() or not self.patient_name.strip(" ^="):
            raise InputError("an order needs the patient's number and name")
        for name in ("date", "birth_date"):
            if (value := getattr(self, name)) and not _DATE.fullmatch(value):
                raise InputError(f"{name} of an order is not YYYYMMDD")
        if not self.date or (self.time and not _TIME.fullmatch(self.time)):
            raise InputError("an order needs a date, and its time is HH, HHMM or HHMMSS")
        if self.sex not in ("", "M", "F", "O"):
            raise InputError("sex in an order is M, F, O or empty")
        for each in dataclasses.fields(self):
            self._check_text(each.name, str(getattr(self, each.name)))

    def _check_text(self, name: str, value: str) -> None:
        most = 16 if name in _SHORT else _LONGEST
        groups = value.split("=") if name in ("patient_name", "referring") else [value]
        if len(groups) > 3 or any(len(group) > most for group in groups):
            raise InputError(f"{name} of an order is longer than the {most} characters that DICOM gives it")
        if "\\" in value or any(ord(one) < 32 for one in value):
            raise InputError(f"{name} of an order holds a backslash or a control character")


_COLUMNS = ", ".join(each.name for each in dataclasses.fields(Order))


async def listed(connection: Connection, sites: Sequence[str], *, state: str | None = None) -> list[Order]:
    """Orders of these sites, those first that are due first; at most a thousand."""
    cursor = await connection.execute(
        f"SELECT {_COLUMNS} FROM worklist WHERE site = ANY(%(sites)s)"
        " AND (%(state)s::text IS NULL OR state = %(state)s) ORDER BY date, time, number LIMIT 1000",
        {"sites": list(sites), "state": state},
    )
    return [Order(**row) for row in await cursor.fetchall()]


async def add(connection: Connection, order: Order, who: str, address: str | None = None) -> Order:
    """Schedule it: the order with all that was given it. Raises InputError for an unknown site or a step that is."""
    token = uuid.uuid4()
    given = {
        "step": order.step or f"S{token.hex[:12].upper()}",
        "accession": order.accession or f"A{token.hex[:12].upper()}",
        "procedure": order.procedure or f"P{token.hex[:12].upper()}",
        "study_uid": order.study_uid or f"2.25.{token.int}",
    }
    made = dataclasses.replace(order, state="scheduled", **given)
    values = dataclasses.asdict(made) | {"who": who}
    places = ", ".join(f"%({name})s" for name in values)
    try:
        async with connection.transaction():
            await connection.execute(f"INSERT INTO worklist ({', '.join(values)}) VALUES ({places})", values)
            told = {"worklist": "added", "step": made.step}
            await note(connection, Entry(Kind.STORE, who, "success", address, made.site, made.study_uid, told))
    except psycopg.errors.UniqueViolation as error:
        raise InputError(f"the site has a step {made.step!a} already") from error
    except psycopg.errors.ForeignKeyViolation as error:
        raise InputError(f"there is no site {made.site[:63]!a}") from error
    return made


async def withdraw(
    connection: Connection, sites: Sequence[str], step: str, who: str, address: str | None = None
) -> None:
    """Take a step that nobody has begun off the worklist. Raises InputError when there is none."""
    async with connection.transaction():
        cursor = await connection.execute(
            "UPDATE worklist SET state = 'withdrawn', updated = now()"
            " WHERE site = ANY(%s) AND step = %s AND state = 'scheduled' RETURNING site, study_uid",
            (list(sites), step),
        )
        row = await cursor.fetchone()
        if row is None:
            raise InputError(f"no scheduled step {step[:16]!a} waits there: begun, withdrawn, or never ordered?")
        told = {"worklist": "withdrawn", "step": step}
        await note(connection, Entry(Kind.DELETE, who, "success", address, row["site"], row["study_uid"], told))


async def begin(connection: Connection, node: str, site: str, uid: str, step: Dataset) -> bool:
    """A modality performs a step (N-CREATE): it is kept, and bound to its order. False when the UID is taken."""
    scheduled = next(iter(step.get("ScheduledStepAttributesSequence") or []), Dataset())
    study = str(scheduled.get("StudyInstanceUID") or "")
    async with connection.transaction():
        cursor = await connection.execute(
            "SELECT number FROM worklist WHERE site = %(site)s AND state <> 'withdrawn'"
            " AND (step = %(step)s OR (%(step)s = '' AND study_uid = %(study)s))"
            " AND (%(study)s IN ('', study_uid)) ORDER BY number LIMIT 1",
            {"site": site, "study": study, "step": str(scheduled.get("ScheduledProcedureStepID") or "")},
        )
        order = (await cursor.fetchone() or {"number": None})["number"]
        found = await connection.execute(
            "INSERT INTO performed (uid, site, node, worklist, study_uid, state, json)"
            " VALUES (%s, %s, %s, %s, %s, 'IN PROGRESS', %s) ON CONFLICT DO NOTHING",
            (uid, site, node, order, study, Jsonb(step.to_json_dict())),
        )
        if found.rowcount:
            await _follow(connection, order, "IN PROGRESS")
    return bool(found.rowcount)


async def go_on(connection: Connection, node: str, uid: str, changes: Dataset) -> str | None:
    """A modality tells more of a step (N-SET): its state before; None when this node has no such step.

    A step that has ended is not changed (PS3.4 F.7.2.2.2).
    """
    async with connection.transaction():
        cursor = await connection.execute(
            "SELECT state, worklist FROM performed WHERE uid = %s AND node = %s FOR UPDATE", (uid, node)
        )
        row = await cursor.fetchone()
        if row is None or row["state"] != "IN PROGRESS":
            return None if row is None else str(row["state"])
        state = str(changes.get("PerformedProcedureStepStatus") or "IN PROGRESS")
        await connection.execute(
            "UPDATE performed SET state = %s, json = json || %s, updated = now() WHERE uid = %s",
            (state, Jsonb(changes.to_json_dict()), uid),
        )
        await _follow(connection, row["worklist"], state)
    return "IN PROGRESS"


async def _follow(connection: Connection, order: int | None, state: str) -> None:
    """The order stands as its modality says; what was completed stays completed."""
    await connection.execute(
        "UPDATE worklist SET state = %s, updated = now()"
        " WHERE number = %s AND state IN ('scheduled', 'in_progress', 'discontinued')",
        (_STEP_STATES[state], order),
    )


async def due(connection: Connection, site: str) -> list[dict[str, Any]]:
    """Steps of a site that wait to be performed, and whatever a worklist query may ask about them."""
    cursor = await connection.execute(
        f"SELECT {_COLUMNS} FROM worklist WHERE site = %s AND state = 'scheduled' ORDER BY date, time, number", (site,)
    )
    return list(await cursor.fetchall())
