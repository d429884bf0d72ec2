"""Requests for files about a study: pictures drawn of its series, and all of it as a ZIP."""

from datetime import UTC, datetime
from typing import Annotated

from fastapi import APIRouter, Depends, Path, Query, Request
from fastapi.responses import Response, StreamingResponse

from lampyris.centre.archive import queries
from lampyris.centre.archive.viewing import note_view
from lampyris.centre.audit.chain import Entry, Kind, note
from lampyris.centre.people.callers import Caller, needs
from lampyris.centre.people.rules import Action
from lampyris.centre.refusals import not_found
from lampyris.centre.request import This
from lampyris.centre.study import drawn, export, whole
from lampyris.centre.study.cuts import PLANES
from lampyris.centre.study.drawn import MAP, Wanted
from lampyris.centre.study.pictures import WHOLE, WINDOWS

router = APIRouter(prefix="/studies", include_in_schema=False)
Reader = Annotated[Caller, Depends(needs(Action.STUDY_READ))]
Exporter = Annotated[Caller, Depends(needs(Action.STUDY_EXPORT))]
UID = r"^[0-9.]{1,64}$"
Study = Annotated[str, Path(pattern=UID)]
Series = Annotated[str, Path(pattern=UID)]
_PLANE = f"^(?:{'|'.join(PLANES)})$"
_WINDOW = f"^(?:{'|'.join((*WINDOWS, WHOLE, MAP))})$"
_FRESH_S = 600


@router.get("/{study}/series/{series}/{plane}-{window}.png")
async def picture(
    study: Study,
    series: Series,
    plane: Annotated[str, Path(pattern=_PLANE)],
    window: Annotated[str, Path(pattern=_WINDOW)],
    request: Request,
    centre: This,
    caller: Reader,
    slice: Annotated[int | None, Query(ge=0, le=100_000)] = None,  # noqa: A002 - a slice of a volume
    like: Annotated[str | None, Query(pattern=UID)] = None,
) -> Response:
    """A cut through a series, at a slice from the feet or in the middle; `like` another series, to be laid upon it."""
    wanted = Wanted(plane, window, slice)
    async with centre.pool.connection() as connection:
        found, _ = await whole.seen(connection, caller, study)
        source = await whole.source(connection, caller, study, series)
        other = None if like is None else await whole.source(connection, caller, study, like)
        await note_view(connection, caller, study, found.site)
    headers = {
        "ETag": f'"{drawn.key_of(source, wanted, other)[:32]}"',
        "Cache-Control": f"private, max-age={_FRESH_S}",
        "X-Content-Type-Options": "nosniff",
    }
    if request.headers.get("if-none-match") == headers["ETag"]:
        return Response(status_code=304, headers=headers)
    content = await drawn.picture(centre.store, source, wanted, other)
    return Response(content, media_type="image/png", headers=headers)


@router.get("/{study}/study.zip")
async def download(
    study: Study, centre: This, caller: Exporter, series: Annotated[str | None, Query(pattern=UID)] = None
) -> Response:
    """Every DICOM file of a study, or of one series of it, that the caller may take away."""
    wanted = [queries.study_is(study)] + ([] if series is None else [queries.series_is(series)])
    async with centre.pool.connection() as connection:
        found = await queries.find_instances(connection, queries.visible(caller), wanted)
        if not found:
            raise not_found()
        instances = [one for one in found if one.study == found[0].study]
        detail: dict[str, int | str] = {"files": len(instances), "bytes": sum(one.bytes for one in instances)}
        detail |= {} if series is None else {"series": series}
        await note(
            connection,
            Entry(
                Kind.EXPORT, caller.login, address=caller.address, site=instances[0].site, object=study, detail=detail
            ),
        )
    headers = {
        "Content-Disposition": f'attachment; filename="study-{study[-12:]}.zip"',
        "Cache-Control": "no-store",
        "X-Content-Type-Options": "nosniff",
    }
    flow = export.zipped(centre.store, instances, datetime.now(UTC))
    return StreamingResponse(flow, media_type="application/zip", headers=headers)
