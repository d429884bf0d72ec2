"""A caller and a study's UID → all that the study's page shows, in a few questions to the index."""

from dataclasses import dataclass

from lampyris.centre.archive import queries
from lampyris.centre.archive.queries import FoundSeries, FoundStudy
from lampyris.centre.database import Connection
from lampyris.centre.jobs import remakes
from lampyris.centre.jobs.remakes import Remake
from lampyris.centre.people.callers import Caller
from lampyris.centre.refusals import not_found
from lampyris.centre.store import Store
from lampyris.centre.study import drawn, story
from lampyris.centre.study.drawn import Source
from lampyris.centre.study.story import Image, ScanOfStudy
from lampyris.model import InputError


@dataclass(frozen=True, slots=True)
class Whole:
    """A study with all its series; the reconstructions among them; the scan that they were made of, and its remakes."""

    study: FoundStudy
    series: tuple[FoundSeries, ...]
    images: tuple[Image, ...]
    scan: ScanOfStudy | None
    remakes: tuple[Remake, ...]

    def image(self, uid: str | None) -> Image | None:
        """The reconstruction of that series, the first one if none is named. Refusal 404 for another series."""
        if uid is None:
            return self.images[0] if self.images else None
        found = next((one for one in self.images if one.series.uid == uid), None)
        if found is None:
            raise not_found()
        return found

    def beside(self, image: Image, uid: str | None) -> Image | None:
        """What an image is compared with: the one asked for, or else the routine recipe's, or else any other."""
        others = [one for one in self.images if one is not image and one.series.scan == image.series.scan]
        if uid is not None:
            return self.image(uid)
        routine = [one for one in others if (one.series.recipe or "").partition("-")[0] == remakes.ROUTINE]
        return next(iter(routine + others), None)


async def whole(connection: Connection, store: Store, caller: Caller, uid: str) -> Whole:
    """Refusal 404 for a study that the caller does not see."""
    study, series = await seen(connection, caller, uid)
    images = await story.images(connection, store, series)
    number = next((one.scan for one in series if one.scan is not None), None)
    scan = None if number is None else await story.scan_of(connection, number)
    again = () if number is None else await remakes.of_scan(connection, number)
    return Whole(study, tuple(series), tuple(images), scan, tuple(again))


async def seen(connection: Connection, caller: Caller, uid: str) -> tuple[FoundStudy, list[FoundSeries]]:
    """A study and its series, as far as the caller sees them. Refusal 404."""
    may = queries.visible(caller)
    study = await queries.find_study(connection, may, uid)
    if study is None:
        raise not_found()
    of_study = queries.Condition("study.number = %s", (study.number,))
    return study, await queries.find_series(connection, may, [of_study])


async def source(connection: Connection, caller: Caller, uid: str, series: str) -> Source:
    """The files of a series that the caller sees, to be drawn. Refusal 404; InputError for one without images."""
    found = await queries.find_instances(
        connection, queries.visible(caller), [queries.study_is(uid), queries.series_is(series)]
    )
    if not found:
        raise not_found()
    return Source.of([one for one in found if one.study == found[0].study])


async def planes(connection: Connection, caller: Caller, image: Image) -> tuple[tuple[str, ...], int]:
    """The planes that an image is shown in, and its number of slices; none where it cannot be drawn."""
    try:
        found = await source(connection, caller, image.series.study_uid, image.series.uid)
    except InputError:
        return (), 0
    return drawn.planes(found), len(found.heights_mm)


async def scan_seen(connection: Connection, caller: Caller, uid: str) -> int | None:
    """The row of the scan that a study is of; None for one that came from elsewhere. Refusal 404."""
    _, series = await seen(connection, caller, uid)
    return next((one.scan for one in series if one.scan is not None), None)


async def own_scan(connection: Connection, caller: Caller, uid: str) -> ScanOfStudy:
    """The scan of a study of the caller's own sites. Refusal 404: also for what was shared with them."""
    found = await queries.find_series(connection, queries.of_sites(caller.sites), [queries.study_is(uid)])
    number = next((one.scan for one in found if one.scan is not None), None)
    scan = None if number is None else await story.scan_of(connection, number)
    if scan is None:
        raise not_found()
    return scan
