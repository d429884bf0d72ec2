"""What somebody searches for → studies that they may see, the newest first, with what was made of them here."""

import re
from dataclasses import dataclass, fields
from typing import Any

from lampyris.centre.archive import queries
from lampyris.centre.archive.index import keys_of
from lampyris.centre.archive.queries import After, Condition, FoundStudy, Visible
from lampyris.centre.database import Connection
from lampyris.centre.people.callers import Caller
from lampyris.model import InputError

PAGE = 50
VERDICTS = ("pass", "look", "stop")
_DAY = re.compile(r"\d{4}-\d{2}-\d{2}")
_LONGEST = 64


@dataclass(frozen=True, slots=True)
class Search:
    """What is searched for; all that is given must hold. Beginnings of PatientID, name or accession number; days of
    the study as YYYY-MM-DD; a site, a recipe, a verdict of the gate."""

    patient: str = ""
    accession: str = ""
    first: str = ""
    last: str = ""
    site: str = ""
    recipe: str = ""
    verdict: str = ""

    def __post_init__(self) -> None:
        for one in fields(self):
            if len(getattr(self, one.name)) > _LONGEST:
                raise InputError(f"{one.name}: at most {_LONGEST} characters")
        for day in (self.first, self.last):
            if day and not _DAY.fullmatch(day):
                raise InputError("a day is given as YYYY-MM-DD")

    @property
    def given(self) -> dict[str, str]:
        """What is searched for, by name: what an address says."""
        return {one.name: text for one in fields(self) if (text := getattr(self, one.name))}


@dataclass(frozen=True, slots=True)
class Row:
    """A study of the list: the recipes and the parts of the body of its images, and the verdict of its first scan."""

    study: FoundStudy
    recipes: tuple[str, ...]
    body_parts: tuple[str, ...]
    verdict: str | None


async def studies(
    connection: Connection, caller: Caller, search: Search, after: After, *, limit: int = PAGE
) -> list[Row]:
    """At most `limit` studies behind a place of the list."""
    seen = queries.visible(caller)
    found = await queries.find_studies(connection, seen, conditions(search, seen), after=after, limit=limit)
    cursor = await connection.execute(
        "SELECT study.number, array_remove(array_agg(DISTINCT recipe), NULL) AS recipes,"
        " array_remove(array_agg(DISTINCT nullif(body_part, '')), NULL) AS body_parts,"
        " (SELECT verdict FROM scan WHERE scan.number = min(series.scan)) AS verdict"
        " FROM series JOIN study ON study.number = series.study"
        f" WHERE study.number = ANY(%s) AND {seen.series.text} GROUP BY study.number".encode(),
        ([one.number for one in found], *seen.series.values),
        prepare=False,
    )
    told = {row["number"]: row for row in await cursor.fetchall()}
    return [_row(one, told.get(one.number, {})) for one in found]


def conditions(search: Search, seen: Visible) -> list[Condition]:
    """What is searched for, as conditions on `study`; series that are not seen are not found either."""
    wanted = []
    if search.patient:
        begins = f"{_literal(search.patient)}%"
        name = next(iter(keys_of(search.patient)), "")
        wanted.append(
            Condition(
                "(patient_id LIKE %s OR patient_keys[1] LIKE %s OR patient_keys[2] LIKE %s OR patient_keys[3] LIKE %s)",
                (begins, *[f"{_literal(name)}%"] * 3),
            )
        )
    if search.accession:
        wanted.append(Condition("accession LIKE %s", (f"{_literal(search.accession)}%",)))
    if search.first:
        wanted.append(Condition("study_date >= %s", (search.first.replace("-", ""),)))
    if search.last:
        wanted.append(Condition("study_date <= %s", (search.last.replace("-", ""),)))
    if search.site:
        wanted.append(Condition("study.site = %s", (search.site,)))
    for said, text in (
        ("series.recipe", search.recipe),
        ("(SELECT scan.verdict FROM scan WHERE scan.number = series.scan)", search.verdict),
    ):
        if text:
            found = (
                f"EXISTS (SELECT FROM series WHERE series.study = study.number AND {said} = %s AND {seen.series.text})"
            )
            wanted.append(Condition(found, (text, *seen.series.values)))
    return wanted


def _row(study: FoundStudy, told: dict[str, Any]) -> Row:
    return Row(
        study, tuple(sorted(told.get("recipes", ()))), tuple(sorted(told.get("body_parts", ()))), told.get("verdict")
    )


def _literal(text: str) -> str:
    """A text in which LIKE finds nothing but itself."""
    return re.sub(r"([%_\\])", r"\\\1", text)
