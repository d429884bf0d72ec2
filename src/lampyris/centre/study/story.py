"""What was made of a scan → how it was made and judged: figures, curves, tasks and provenance, as pages tell them.

All of it stands in `assessment.json` beside the images; no image is opened for it. One that was written before it told
of its making has figures alone.
"""

import asyncio
import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import structlog

from lampyris.centre.archive.queries import FoundSeries
from lampyris.centre.database import Connection
from lampyris.centre.store import Store, remade_prefix, series_prefix
from lampyris.model import Applied, Curve, Detection, Figure, StorageError
from lampyris.model.arrays import canonical_json

_NAME = "assessment.json"


@dataclass(frozen=True, slots=True)
class Making:
    """The way from counts to image: scan, software, recipe with its digest, method, corrections in order, in words."""

    scan: str
    software: str
    recipe: dict[str, Any]
    recipe_digest: str
    method: dict[str, Any]
    corrections: tuple[Applied, ...]
    derivation: str
    views: int
    engine: str = "cpu"
    """What computed the image; series that do not tell are of a time when the processor computed all."""


@dataclass(frozen=True, slots=True)
class Story:
    """What is known of one image besides its pixels. `acquisition` has DICOM keywords; `making` None = not told."""

    verdict: str
    reasons: tuple[str, ...]
    figures: tuple[Figure, ...]
    curves: tuple[Curve, ...]
    detections: tuple[Detection, ...]
    making: Making | None
    acquisition: dict[str, Any]

    def figure(self, name: str) -> Figure | None:
        return next((one for one in self.figures if one.name == name), None)

    def curve(self, name: str) -> Curve | None:
        return next((one for one in self.curves if one.name == name), None)


@dataclass(frozen=True, slots=True)
class ScanOfStudy:
    """The scan of a study: its row, id and site, when its series was made, and what may still be done with it."""

    number: int
    site: str
    scan: str
    priority: str
    verdict: str | None
    raw_here: bool


@dataclass(frozen=True, slots=True)
class Image:
    """One reconstruction in a study: its series, its maps, and its story where it was made here."""

    series: FoundSeries
    noise: FoundSeries | None
    bias: FoundSeries | None
    story: Story | None

    @property
    def name(self) -> str:
        """What it is called beside others: its recipe, or its description."""
        return self.series.recipe or self.series.description or f"{self.series.modality} {self.series.series_number}"


async def images(connection: Connection, store: Store, series: list[FoundSeries]) -> list[Image]:
    """The reconstructions among the series of a study, our own with their stories, in the order in which they came."""
    found = []
    for one in series:
        if one.role != "image" or one.modality != "CT":
            continue
        same = [each for each in series if one.scan is not None and (each.scan, each.recipe) == (one.scan, one.recipe)]
        maps = {each.role: each for each in same}
        found.append(Image(one, maps.get("noise"), maps.get("bias"), await story_of(connection, store, one)))
    return found


async def story_of(connection: Connection, store: Store, series: FoundSeries) -> Story | None:
    """The story of a series of ours; None for one that came from elsewhere, or whose story is not to be had."""
    if series.scan is None:
        return None
    cursor = await connection.execute(
        "SELECT scan.id, file.sha256, true AS again FROM remake_output AS file"
        " JOIN remake ON remake.number = file.remake JOIN scan ON scan.number = remake.scan"
        " WHERE remake.scan = %(scan)s AND remake.recipe = %(recipe)s AND remake.state = 'done'"
        " AND file.name = %(name)s"
        " UNION ALL SELECT scan.id, file.sha256, false FROM output AS file JOIN scan ON scan.number = file.scan"
        " WHERE file.scan = %(scan)s AND file.name = %(name)s ORDER BY again DESC LIMIT 1",
        {"scan": series.scan, "recipe": series.recipe, "name": _NAME},
    )
    row = await cursor.fetchone()
    if row is None:
        return None
    prefix = (remade_prefix if row["again"] else series_prefix)(series.site, row["id"])
    try:
        text = await asyncio.to_thread(store.get, prefix, row["sha256"])
        return read(json.loads(text))
    except (StorageError, ValueError, KeyError, TypeError) as error:
        structlog.get_logger().warning("story left out", series=series.uid, reason=type(error).__name__)
        return None


async def scan_of(connection: Connection, number: int) -> ScanOfStudy | None:
    """The scan with this row."""
    cursor = await connection.execute(
        "SELECT number, site, id AS scan, priority, verdict, state = 'done' AND raw_deleted IS NULL"
        " AND series_deleted IS NULL AS raw_here FROM scan WHERE number = %s",
        (number,),
    )
    row = await cursor.fetchone()
    return None if row is None else ScanOfStudy(**row)


def read(told: dict[str, Any]) -> Story:
    """What `assessment.json` tells; entries that a later version has added are passed by.

    KeyError, TypeError or ValueError for one that lacks what every version tells.
    """
    making = told.get("provenance")
    return Story(
        verdict=str(told["verdict"]),
        reasons=tuple(told["reasons"]),
        figures=tuple(_settled(Figure, one) for one in told["figures"]),
        curves=tuple(
            replace(_settled(Curve, one), x=tuple(one["x"]), y=tuple(one["y"])) for one in told["curves"] if one["x"]
        ),
        detections=tuple(Detection(**one) for one in told.get("detections", ())),
        making=None if making is None else _making(making),
        acquisition=told.get("acquisition", {}),
    )


def _making(told: dict[str, Any]) -> Making:
    corrections = tuple(Applied.of(one["name"], **one["settings"]) for one in told["corrections"])
    known = {one.name: told[one.name] for one in fields(Making) if one.name in told}
    return Making(**{**known, "corrections": corrections})


def _settled(kind: Any, told: dict[str, Any]) -> Any:
    return kind(**{**told, "settings": tuple(sorted(told["settings"].items()))})


def table_of(story: Story, name: str) -> tuple[Sequence[str], list[Sequence[object]]] | None:
    """Columns and rows of `figures`, `tasks`, `corrections`, or of the curve of that name; None for any other."""
    if name == "figures":
        figures = [
            (one.name, one.value, one.unit, one.origin, canonical_json(dict(one.settings))) for one in story.figures
        ]
        return ("figure", "value", "unit", "origin", "settings"), list(figures)
    if name == "tasks":
        tasks = [[getattr(one, column) for column in Detection.__slots__] for one in story.detections]
        return Detection.__slots__, list(tasks)
    if name == "corrections" and story.making is not None:
        steps = [(one.name, settings_of(one), digest_of(one)) for one in story.making.corrections]
        return ("correction", "settings", "sha256"), list(steps)
    if curve := story.curve(name):
        return (f"x ({curve.x_unit})", f"y ({curve.y_unit})"), list(zip(curve.x, curve.y, strict=True))
    return None


def settings_of(correction: Applied) -> str:
    """Settings of a correction, and what it found, in canonical JSON."""
    return canonical_json(dict(correction.settings))


def digest_of(correction: Applied) -> str:
    """SHA-256 of a correction's name and settings in canonical JSON: two that are alike have the same."""
    return hashlib.sha256(canonical_json(correction.as_dict()).encode()).hexdigest()
