"""Requests for the list of studies: what somebody searches for, page by page, and the same as CSV."""

from datetime import date
from typing import Annotated
from urllib.parse import urlencode

from fastapi import APIRouter, Depends, Query, Request
from fastapi.responses import Response

from lampyris.centre.archive.queries import After
from lampyris.centre.audit.chain import Entry, Kind, note
from lampyris.centre.console.page import render
from lampyris.centre.console.tables import csv_of
from lampyris.centre.database import Connection
from lampyris.centre.people.callers import Caller, needs
from lampyris.centre.people.rules import Action
from lampyris.centre.recipes.library import active
from lampyris.centre.request import This
from lampyris.centre.study import listing
from lampyris.centre.study.listing import PAGE, VERDICTS, Row, Search

router = APIRouter(prefix="/studies", include_in_schema=False)
Reader = Annotated[Caller, Depends(needs(Action.STUDY_READ))]
_CSV_ROWS = 10_000
_SITES = 200
_COLUMNS = (
    "study_date", "study_time", "patient_id", "patient_name", "accession", "description", "body_parts", "site",
    "modalities", "series", "images", "bytes", "recipes", "verdict", "study_uid",
)  # fmt: skip


async def search_of(
    patient: str = "", accession: str = "", first: str = "", last: str = "", site: str = "", recipe: str = "",
    verdict: str = "",
) -> Search:  # fmt: skip
    """What an address says is searched for. Raises InputError."""
    return Search(*(text.strip() for text in (patient, accession, first, last, site, recipe, verdict)))


Searched = Annotated[Search, Depends(search_of)]


@router.get("")
async def listed(
    request: Request,
    centre: This,
    caller: Reader,
    search: Searched,
    date: Annotated[str | None, Query(pattern=r"^\d{0,8}$")] = None,
    number: Annotated[int | None, Query(ge=0, lt=1 << 62)] = None,
) -> Response:
    """A page of the list; `date` and `number` are those of the last row of the page before."""
    after = After(date or "", number)
    async with centre.pool.connection() as connection:
        rows = await listing.studies(connection, caller, search, after, limit=PAGE + 1)
        await _noted(connection, caller, search, Kind.QUERY, len(rows[:PAGE]))
        recipes = await active(connection)
    return await render(
        request, centre, caller, "studies.html.jinja", rows=rows[:PAGE], search=search, verdicts=VERDICTS,
        mine=frozenset(caller.sites),
        recipes=recipes, sites=sorted(caller.sites) if len(caller.sites) <= _SITES else [],
        csv=_address("/studies/studies.csv", search.given),
        back="" if number is None else _address("/studies", search.given),
        on=_address("/studies", search.given | _place(rows[PAGE - 1])) if len(rows) > PAGE else "", day_of=day_of,
    )  # fmt: skip


@router.get("/studies.csv")
async def saved(caller: Reader, centre: This, search: Searched) -> Response:
    """Every study that fits, the newest first, up to ten thousand."""
    async with centre.pool.connection() as connection:
        rows = await listing.studies(connection, caller, search, After(), limit=_CSV_ROWS)
        await _noted(connection, caller, search, Kind.EXPORT, len(rows))
    return csv_of("studies", _COLUMNS, (_cells(row) for row in rows))


def day_of(text: str) -> date | None:
    """A date as DICOM writes it, PS3.5 6.2 (DA); None for what is none."""
    try:
        return date.fromisoformat(text)
    except ValueError:
        return None


async def _noted(connection: Connection, caller: Caller, search: Search, kind: Kind, count: int) -> None:
    """What was searched by, never what for: that may be a patient's number."""
    detail = {"of": "studies", "by": sorted(search.given), "found": count}
    await note(connection, Entry(kind, caller.login, address=caller.address, detail=detail))


def _place(row: Row) -> dict[str, str]:
    return {"date": row.study.study_date, "number": str(row.study.number)}


def _address(path: str, asked: dict[str, str]) -> str:
    return f"{path}?{urlencode(asked)}" if asked else path


def _cells(row: Row) -> list[object]:
    study = row.study
    return [
        day_of(study.study_date) or study.study_date, study.study_time, study.patient_id, study.patient_name,
        study.accession, study.description, " ".join(row.body_parts), study.site, " ".join(study.modalities),
        study.series_count, study.instance_count, study.bytes, " ".join(row.recipes), row.verdict, study.uid,
    ]  # fmt: skip
