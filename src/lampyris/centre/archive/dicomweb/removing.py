"""A study that is to go → its rows and files, deleted and noted.

Deletion is no transaction of DICOM; this one has the form that other archives gave it.
"""

import asyncio
from typing import Annotated

from fastapi import APIRouter, Depends
from fastapi.responses import Response

from lampyris.centre.archive import queries
from lampyris.centre.audit.chain import Entry, Kind, note
from lampyris.centre.database import Connection
from lampyris.centre.people.callers import Caller, needs
from lampyris.centre.people.rules import Action
from lampyris.centre.refusals import conflict, not_found
from lampyris.centre.request import This
from lampyris.centre.service import Centre
from lampyris.centre.store import remade_prefix, series_prefix

router = APIRouter(prefix="/dicomweb")
Deleter = Annotated[Caller, Depends(needs(Action.STUDY_DELETE))]


@router.delete("/studies/{study}", status_code=204)
async def delete(centre: This, caller: Deleter, study: str) -> Response:
    """Delete a study of the caller's sites. Refusal 409 while a site has not fetched a series of it."""
    async with centre.pool.connection() as connection:
        found = await queries.find_studies(connection, queries.of_sites(caller.sites), [queries.study_is(study)])
        if not found:
            raise not_found()
        for one in found:
            async with connection.transaction():
                prefixes = await _forget(connection, one.number)
                detail = {"instances": one.instance_count, "bytes": one.bytes}
                entry = Entry(Kind.DELETE, caller.login, "success", caller.address, one.site, one.uid, detail)
                await note(connection, entry)
            await _delete_objects(centre, prefixes)
    return Response(status_code=204)


async def _forget(connection: Connection, study: int) -> list[str]:
    """Take a study out of the index, and its scans' series off the list of those to fetch; where their files lie."""
    cursor = await connection.execute("SELECT DISTINCT prefix FROM instance WHERE study = %s", (study,))
    prefixes = {row["prefix"] for row in await cursor.fetchall()}
    cursor = await connection.execute(
        "SELECT scan.number, scan.site, id, returned, series_deleted FROM scan WHERE number IN"
        " (SELECT scan FROM series WHERE study = %s) FOR UPDATE",
        (study,),
    )
    for row in await cursor.fetchall():
        if row["returned"] is None and row["series_deleted"] is None:
            raise conflict("the site has not fetched a series of this study yet: delete it when it has")
        prefixes |= {series_prefix(row["site"], row["id"]), remade_prefix(row["site"], row["id"])}
        await connection.execute(
            "UPDATE scan SET series_deleted = coalesce(series_deleted, now()) WHERE number = %s", (row["number"],)
        )
    await connection.execute("DELETE FROM study WHERE number = %s", (study,))
    return sorted(prefixes)


async def _delete_objects(centre: Centre, prefixes: list[str]) -> None:
    for prefix in prefixes:
        await asyncio.to_thread(centre.store.delete_all, prefix)
