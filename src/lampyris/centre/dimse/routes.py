"""What people ask of the network by HTTP → studies sent to nodes, and orders for the worklist."""

import dataclasses
import json
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Request
from fastapi.responses import JSONResponse

from lampyris.centre.body import read_body
from lampyris.centre.dimse import nodes, orders, send
from lampyris.centre.dimse.orders import Order
from lampyris.centre.dimse.send import Sending
from lampyris.centre.people.callers import Caller, needs
from lampyris.centre.people.rules import Action
from lampyris.centre.refusals import not_found, refusal
from lampyris.centre.request import This, form_of

router = APIRouter(include_in_schema=False)
_BODY_BYTES = 8192
_GIVEN = {each.name for each in dataclasses.fields(Order)} - {"state"}


@router.post("/studies/{study_uid}/send", status_code=202)
async def send_study(
    centre: This, request: Request, study_uid: str, caller: Annotated[Caller, Depends(needs(Action.STUDY_EXPORT))]
) -> JSONResponse:
    """Send a study, or the series of the field `series`, to the node of the field `node`."""
    said = await form_of(request)
    if "node" not in said or set(said) - {"node", "series"}:
        raise refusal(400, "REQUEST", "the form has the fields node and, for one series, series")
    async with centre.pool.connection() as connection:
        made = await send.request(
            connection, centre.jobs, caller, study_uid, said["node"], series_uid=said.get("series") or None
        )
    return JSONResponse([_told(one) for one in made], 202)


@router.get("/studies/{study_uid}/sendings")
async def sendings(
    centre: This, study_uid: str, caller: Annotated[Caller, Depends(needs(Action.STUDY_EXPORT))]
) -> JSONResponse:
    """What of a study was sent or is on its way, the newest first."""
    async with centre.pool.connection() as connection:
        return JSONResponse([_told(one) for one in await send.listed(connection, caller, study_uid)])


@router.get("/nodes")
async def targets(centre: This, caller: Annotated[Caller, Depends(needs(Action.STUDY_EXPORT))]) -> JSONResponse:
    """The nodes that a caller may send to: AE title, site, and the way."""
    async with centre.pool.connection() as connection:
        found = await nodes.listed(connection, caller.sites)
    return JSONResponse(
        [{"node": one.aet, "site": one.site, "way": "stow" if one.stow else "c-store"} for one in found]
    )


@router.get("/orders")
async def listed(centre: This, caller: Annotated[Caller, Depends(needs(Action.STUDY_STORE))]) -> JSONResponse:
    """The scheduled steps of the caller's sites, those first that are due first."""
    async with centre.pool.connection() as connection:
        found = await orders.listed(connection, caller.sites)
    return JSONResponse([dataclasses.asdict(one) for one in found])


@router.post("/orders", status_code=201)
async def add(
    centre: This, request: Request, caller: Annotated[Caller, Depends(needs(Action.STUDY_STORE))]
) -> JSONResponse:
    """Order a scheduled step at a site: the fields of an order as JSON."""
    said = await _said(request, _GIVEN)
    if said.get("site") not in caller.sites:
        raise not_found()
    try:
        order = Order(**said)
    except TypeError:
        raise refusal(400, "REQUEST", "an order needs site, patient_id, patient_name and date") from None
    async with centre.pool.connection() as connection:
        made = await orders.add(connection, order, caller.login, caller.address)
    return JSONResponse(dataclasses.asdict(made), 201)


@router.delete("/orders/{step}", status_code=200)
async def withdraw(
    centre: This, step: str, caller: Annotated[Caller, Depends(needs(Action.STUDY_STORE))]
) -> JSONResponse:
    """Take a step that nobody has begun off the worklist."""
    async with centre.pool.connection() as connection:
        await orders.withdraw(connection, caller.sites, step, caller.login, caller.address)
    return JSONResponse({"step": step, "state": "withdrawn"})


async def _said(request: Request, known: set[str]) -> dict[str, str]:
    """A JSON object of texts under these names. Refusal for anything else."""
    try:
        said: Any = json.loads(await read_body(request, "application/json", _BODY_BYTES))
    except ValueError:
        raise refusal(400, "REQUEST", "the body is not JSON") from None
    if not isinstance(said, dict) or set(said) - known or not all(isinstance(one, str) for one in said.values()):
        raise refusal(400, "REQUEST", f"the body is no object of texts named {', '.join(sorted(known))}")
    return said


def _told(one: Sending) -> dict[str, Any]:
    made = dataclasses.asdict(one)
    finished = None if one.finished is None else one.finished.isoformat()
    return made | {"created": one.created.isoformat(), "finished": finished}
