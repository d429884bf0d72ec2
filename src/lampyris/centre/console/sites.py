"""Requests about sites: how each is, live; a new one in a minute; shutting out, keys, and its place in the tree."""

from typing import Annotated
from urllib.parse import urlencode

from fastapi import APIRouter, Depends, Path, Query, Request
from fastapi.responses import Response

from lampyris.centre import access, administration
from lampyris.centre.audit.chain import Entry, Kind, note
from lampyris.centre.console.page import render, text_of
from lampyris.centre.console.streams import stream
from lampyris.centre.console.tables import csv_of
from lampyris.centre.console.words import N_
from lampyris.centre.database import Connection
from lampyris.centre.people import tenants
from lampyris.centre.people.callers import Caller, needs
from lampyris.centre.people.rules import Action, Role, roles_with
from lampyris.centre.refusals import conflict, not_found
from lampyris.centre.request import This, form_of
from lampyris.centre.watching import sites
from lampyris.model import InputError
from lampyris.transfer import limits

router = APIRouter(prefix="/sites", include_in_schema=False)
Reader = Annotated[Caller, Depends(needs(Action.SITE_READ))]
Manager = Annotated[Caller, Depends(needs(Action.SITE_MANAGE))]
Site = Annotated[str, Path(pattern=f"^{limits.SITE.pattern}$")]
Key = Annotated[str, Path(pattern=f"^{limits.KEY_ID.pattern}$")]
Text = Annotated[str, Query(max_length=64)]

_COLUMNS = (
    "site", "name", "place", "link", "suspended", "keys", "seen", "reported", "version", "spool_scans", "spool_bytes",
    "oldest_s", "calibration_s", "last_scan", "done", "refused", "failed",
)  # fmt: skip
_MOST = 100_000
_FORM_OF_ID = N_("1 to 63 lower-case letters, digits and dashes, beginning with no dash")
_TAKEN = N_("the id is taken: choose another")
AGAIN = {"HX-Refresh": "true"}


@router.get("")
async def listed(
    request: Request, centre: This, caller: Reader, text: Text = "",
    after: Annotated[str, Query(pattern=f"^(?:{limits.SITE.pattern})?$")] = "",
) -> Response:  # fmt: skip
    """The caller's sites by name; `after` turns pages."""
    async with centre.pool.connection() as connection:
        found = await sites.find(connection, caller.sites, text=text.strip(), after=after, count=sites.PAGE + 1)
    shown, asked = found[: sites.PAGE], {"text": text.strip()} if text.strip() else {}
    on = f"/sites?{urlencode(asked | {'after': shown[-1].site})}" if len(found) > sites.PAGE else ""
    here = urlencode(asked | ({"after": after} if after else {}))
    return await render(
        request, centre, caller, "sites.html.jinja", sites=shown, text=text.strip(), on=on,
        back=f"/sites?{urlencode(asked)}" if after else "", live=f"/sites/events?{here}",
    )  # fmt: skip


@router.get("/sites.csv")
async def saved(caller: Reader, centre: This, text: Text = "") -> Response:
    """Every site of the caller's."""
    async with centre.pool.connection() as connection:
        found = await sites.find(connection, caller.sites, text=text.strip(), count=_MOST)
        await note(connection, Entry(Kind.EXPORT, caller.login, address=caller.address, object="sites.csv"))
    return csv_of("sites", _COLUMNS, [[getattr(each, name) for name in _COLUMNS] for each in found])


@router.get("/events")
async def events(
    request: Request, centre: This, caller: Reader, text: Text = "",
    after: Annotated[str, Query(pattern=f"^(?:{limits.SITE.pattern})?$")] = "",
) -> Response:  # fmt: skip
    """Rows of sites whose state is another than it was."""
    told: dict[str, tuple[object, ...]] = {}

    async def look() -> list[tuple[str, str]]:
        async with centre.pool.connection() as connection:
            found = await sites.find(connection, caller.sites, text=text.strip(), after=after)
        changed = [each for each in found if told.get(each.site) != each.gist]
        told.update({each.site: each.gist for each in changed})
        if not changed:
            return []
        return [("rows", await text_of(request, centre, caller, "sites_rows.html.jinja", sites=changed))]

    return await stream(request, centre, caller, look)


@router.get("/new")
async def new(request: Request, centre: This, caller: Manager) -> Response:
    """The form to enrol a site."""
    async with centre.pool.connection() as connection:
        places = await sites.places(connection, caller.tenants)
    return await render(request, centre, caller, "sites_new.html.jinja", places=places, wrong=None, given={})


@router.post("/new")
async def invite(request: Request, centre: This, caller: Manager) -> Response:
    """A new site in its place of the tree, and its one-time code, which is shown once."""
    form = await form_of(request)
    site, place, name = form.get("site", "").strip(), form.get("place", ""), form.get("name", "")
    async with centre.pool.connection() as connection, connection.transaction():
        places = await sites.places(connection, caller.tenants)
        if place not in {each.id for each in places}:
            raise not_found()
        wrong = None if limits.SITE.fullmatch(site) else _FORM_OF_ID
        if wrong is None and await sites.known(connection, site):
            wrong = _TAKEN
        if wrong is not None:
            return await render(
                request, centre, caller, "sites_form.html.jinja", places=places, wrong=wrong, given=form
            )
        code = await access.invite(connection, site)
        await sites.put(connection, site, tenants.checked_name(name.strip() or site), place)
        await _noted(connection, caller, site, "site.invite", place=place)
        seen = await sites.one(connection, (site,), site)
    return await render(request, centre, caller, "sites_code.html.jinja", site=seen, code=code)


@router.get("/{site}")
async def shown(site: Site, request: Request, centre: This, caller: Reader) -> Response:
    """One site: how it is, its keys, and what may be done about it."""
    async with centre.pool.connection() as connection:
        seen = await sites.one(connection, caller.sites, site)
        keys = await administration.keys(connection, site)
        manages = await tenants.holds(connection, caller.by, roles_with(Action.SITE_MANAGE), site)
        movable = await tenants.reach(connection, caller.by) if Role.OPERATOR in caller.roles else ()
        places = await sites.places(connection, movable)
    return await render(
        request, centre, caller, "sites_site.html.jinja", site=seen, keys=keys, manages=manages, places=places,
        may_see_scans=caller.may(Action.SCAN_READ),
    )  # fmt: skip


@router.get("/{site}/events")
async def watched(site: Site, request: Request, centre: This, caller: Reader) -> Response:
    """How the site is, and whether its code was used, whenever that changes."""
    if site not in caller.sites:
        raise not_found()
    told: tuple[object, ...] = ()

    async def look() -> list[tuple[str, str]]:
        nonlocal told
        async with centre.pool.connection() as connection:
            seen = await sites.one(connection, caller.sites, site)
        if told == seen.gist:
            return []
        told = seen.gist
        return [
            ("facts", await text_of(request, centre, caller, "sites_facts.html.jinja", site=seen)),
            ("enrolled", await text_of(request, centre, caller, "sites_enrolled.html.jinja", site=seen)),
        ]

    return await stream(request, centre, caller, look)


@router.post("/{site}/code")
async def another(site: Site, request: Request, centre: This, caller: Manager) -> Response:
    """Another one-time code: for a site without a good key, or for another key of it."""
    async with centre.pool.connection() as connection, connection.transaction():
        seen = await sites.one(connection, caller.sites, site)
        if seen.suspended:
            raise conflict("the site is shut out: let it in first")
        code = await access.invite(connection, site)
        await _noted(connection, caller, site, "site.invite")
    return await render(request, centre, caller, "sites_code.html.jinja", site=seen, code=code)


@router.post("/{site}/{change}")
async def change(
    site: Site, change: Annotated[str, Path(pattern="^(?:suspend|admit)$")], centre: This, caller: Manager
) -> Response:
    """Shut a site out at once, or let it in again."""
    async with centre.pool.connection() as connection, connection.transaction():
        await sites.one(connection, caller.sites, site)
        await administration.suspend(connection, site, suspended=change == "suspend")
        await _noted(connection, caller, site, f"site.{change}")
    return Response(status_code=204, headers=AGAIN)


@router.delete("/{site}/keys")
async def revoke_all(site: Site, centre: This, caller: Manager) -> Response:
    """Take back all keys and codes of a site; its tokens end with this."""
    return await _revoke(centre, caller, site, None)


@router.delete("/{site}/keys/{key}")
async def revoke(site: Site, key: Key, centre: This, caller: Manager) -> Response:
    """Take back one key of a site; tokens that were got with it end with this."""
    return await _revoke(centre, caller, site, key)


@router.post("/{site}/tree/move")
async def move(site: Site, request: Request, centre: This, caller: Manager) -> Response:
    """Put a site under another county, city or province. Needs an operator of both places."""
    form = await form_of(request)
    async with centre.pool.connection() as connection:
        await sites.one(connection, caller.sites, site)
        await tenants.move(connection, caller.by, site, form.get("place", ""))
    return Response(status_code=204, headers=AGAIN)


async def _revoke(centre: This, caller: Caller, site: str, key: str | None) -> Response:
    async with centre.pool.connection() as connection, connection.transaction():
        await sites.one(connection, caller.sites, site)
        try:
            count = await administration.revoke(connection, site, key)
        except InputError:
            raise not_found() from None
        await _noted(connection, caller, site, "site.revoke", keys=str(count), **({"key": key} if key else {}))
    return Response(status_code=204, headers=AGAIN)


async def _noted(connection: Connection, caller: Caller, site: str, what: str, **detail: str) -> None:
    entry = Entry(
        Kind.CONFIGURE, caller.login, address=caller.address, site=site, object=site, detail={"what": what} | detail
    )
    await note(connection, entry)
