"""Requests about recipes and protocols → what is active, what differs, and the rules that choose; never an edit."""

import json
from typing import Annotated

from fastapi import APIRouter, Depends, Request
from fastapi.responses import Response

from lampyris.centre.console.administration.frame import carried_out, check_whole, confirmed, entry_of, gone, page
from lampyris.centre.console.page import render
from lampyris.centre.console.tables import csv_of
from lampyris.centre.people.callers import Caller, needs
from lampyris.centre.people.rules import Action
from lampyris.centre.people.tenants import ROOT
from lampyris.centre.recipes import library
from lampyris.centre.recipes.choice import Rule
from lampyris.centre.recipes.library import Offered
from lampyris.centre.refusals import not_found
from lampyris.centre.request import This, form_of
from lampyris.model import InputError

router = APIRouter(include_in_schema=False)
Reader = Annotated[Caller, Depends(needs(Action.RECIPE_READ))]
Manager = Annotated[Caller, Depends(needs(Action.RECIPE_MANAGE))]
_PATH, _RULES = "/administration/recipes", "/administration/protocols"
_FIELDS = ("recipe", "body_part", "protocol")


@router.get(_PATH)
async def listed(request: Request, centre: This, caller: Reader) -> Response:
    """Every recipe, by name, the newest version first."""
    async with centre.pool.connection() as connection:
        found = await library.listed(connection)
    return await page(
        request, centre, caller, "administration_recipes.html.jinja", recipes=found, manages=_manages(caller), said={}
    )


@router.get(f"{_PATH}.csv")
async def saved(centre: This, _caller: Reader) -> Response:
    """The same as a table for a spreadsheet."""
    async with centre.pool.connection() as connection:
        found = await library.listed(connection)
    columns = ("name", "version", "active", "since", "until", "by", "origin", "added", "added_by", "digest")
    return csv_of("recipes", columns, [[getattr(one, name) for name in columns] for one in found])


@router.post(_PATH)
async def upload(request: Request, centre: This, caller: Manager) -> Response:
    """Add a recipe from JSON; or the form again with what is wrong."""
    check_whole(caller)
    said = await form_of(request)
    try:
        async with centre.pool.connection() as connection:
            recipe = await library.upload(connection, said.get("json", ""), entry_of(caller))
    except InputError as error:
        return await render(
            request, centre, caller, "administration_recipe_form.html.jinja", said=said, trouble={"json": str(error)}
        )
    return gone(f"{_PATH}/{recipe.digest()}")


@router.get(f"{_PATH}/{{digest}}")
async def shown(digest: str, request: Request, centre: This, caller: Reader, against: str = "") -> Response:
    """One recipe: its text, its history, and what is otherwise in another version."""
    async with centre.pool.connection() as connection:
        found = await library.listed(connection)
        one = _find(found, digest)
        others = [each for each in found if each.name == one.name and each.digest != digest]
        other = next((each for each in others if each.digest == against), others[0] if others else None)
        recipe = await library.recipe_of(connection, digest)
        differs = []
        if other is not None:
            differs = library.differences(await library.recipe_of(connection, other.digest), recipe)
    text = json.dumps(recipe.as_dict(), ensure_ascii=False, indent=2)
    return await page(
        request, centre, caller, "administration_recipe.html.jinja", recipe=one, others=others, other=other,
        differs=differs, text=text, manages=_manages(caller),
    )  # fmt: skip


@router.get(f"{_PATH}/{{digest}}/json")
async def text_of(digest: str, centre: This, _caller: Reader) -> Response:
    """The canonical JSON whose SHA-256 is the digest."""
    async with centre.pool.connection() as connection:
        one = _find(await library.listed(connection), digest)
        text = (await library.recipe_of(connection, digest)).to_json()
    headers = {"Content-Disposition": f'attachment; filename="{one.name}-{digest[:12]}.json"'}
    return Response(text, media_type="application/json", headers=headers)


@router.get(f"{_PATH}/{{digest}}/activate")
async def ask_activate(digest: str, request: Request, centre: This, caller: Manager) -> Response:
    """The question before a version becomes active."""
    check_whole(caller)
    async with centre.pool.connection() as connection:
        found = await library.listed(connection)
        one = _find(found, digest)
        use = await library.use(connection, one.name)
    before = next((each for each in found if each.name == one.name and each.active), None)
    return await confirmed(request, centre, caller, "activate", recipe=one, before=before, use=use)


@router.post(f"{_PATH}/{{digest}}/activate")
async def activate(digest: str, request: Request, centre: This, caller: Manager) -> Response:
    """Let new scans have this version."""
    check_whole(caller)

    async def change() -> None:
        async with centre.pool.connection() as connection:
            await library.activate(connection, digest, entry_of(caller))

    return await carried_out(request, centre, caller, change, _PATH)


@router.get(f"{_PATH}/{{digest}}/retire")
async def ask_retire(digest: str, request: Request, centre: This, caller: Manager) -> Response:
    """The question before a version is retired."""
    check_whole(caller)
    async with centre.pool.connection() as connection:
        one = _find(await library.listed(connection), digest)
        use = await library.use(connection, one.name)
    return await confirmed(request, centre, caller, "retire", recipe=one, use=use)


@router.post(f"{_PATH}/{{digest}}/retire")
async def retire(digest: str, request: Request, centre: This, caller: Manager) -> Response:
    """Give this version to no new scan."""
    check_whole(caller)

    async def change() -> None:
        async with centre.pool.connection() as connection:
            await library.retire(connection, digest, entry_of(caller))

    return await carried_out(request, centre, caller, change, _PATH)


@router.get(_RULES)
async def rules(request: Request, centre: This, caller: Reader) -> Response:
    """The rules that choose a recipe for scans that name none."""
    async with centre.pool.connection() as connection:
        held = await library.protocols(connection)
        names = await library.active(connection)
    return await page(
        request, centre, caller, "administration_protocols.html.jinja", held=held, names=list(names),
        manages=_manages(caller), said={}, default=centre.settings.recipe,
    )  # fmt: skip


@router.get(f"{_RULES}.csv")
async def rules_saved(centre: This, _caller: Reader) -> Response:
    """The same as a table for a spreadsheet."""
    async with centre.pool.connection() as connection:
        held = await library.protocols(connection)
    columns = ("body_part", "protocol", "age_from", "age_below", "recipe")
    return csv_of("protocols", columns, [[getattr(one, name) for name in columns] for one in held.rules])


@router.post(_RULES)
async def add_rule(request: Request, centre: This, caller: Manager) -> Response:
    """Put a rule at the end; or the form again with what is wrong."""
    check_whole(caller)
    said = await form_of(request)
    async with centre.pool.connection() as connection:
        try:
            held = await library.protocols(connection)
            rule = _rule(said)
            await library.order(connection, [*held.rules, rule], entry_of(caller), based_on=_number(said))
        except InputError as error:
            return await render(
                request, centre, caller, "administration_rule_form.html.jinja", said=said, held=held,
                names=list(await library.active(connection)), trouble={_field_of(str(error)): str(error)},
            )  # fmt: skip
    return gone(_RULES)


@router.post(f"{_RULES}/{{place}}")
async def change_rule(place: int, request: Request, centre: This, caller: Manager) -> Response:
    """Move a rule before the one above it, or take it away."""
    check_whole(caller)
    said = await form_of(request)

    async def change() -> None:
        async with centre.pool.connection() as connection:
            held = list((await library.protocols(connection)).rules)
            if not 0 <= place < len(held):
                raise InputError("there is no such rule: look at them again")
            moved = held.pop(place)
            if said.get("do") == "up":
                held.insert(max(place - 1, 0), moved)
            elif said.get("do") != "away":
                raise InputError("a rule goes up or away")
            await library.order(connection, held, entry_of(caller), based_on=_number(said))

    return await carried_out(request, centre, caller, change, _RULES)


def _manages(caller: Caller) -> bool:
    """Whether to offer changes; each is asked again."""
    return caller.may(Action.RECIPE_MANAGE) and ROOT in caller.tenants


def _find(found: list[Offered], digest: str) -> Offered:
    for one in found:
        if one.digest == digest:
            return one
    raise not_found()


def _rule(said: dict[str, str]) -> Rule:
    """Raises InputError."""
    texts = {name: said.get(name, "").strip() or None for name in _FIELDS}
    if texts["recipe"] is None:
        raise InputError("choose a recipe")
    ages = {name: _years(said.get(name, "")) for name in ("age_from", "age_below")}
    return Rule(texts["recipe"], texts["body_part"], texts["protocol"], ages["age_from"], ages["age_below"])


def _years(text: str) -> float | None:
    if not text.strip():
        return None
    try:
        return float(text)
    except ValueError:
        raise InputError("ages: expected years as numbers") from None


def _number(said: dict[str, str]) -> int:
    text = said.get("based_on", "")
    return int(text) if text.isascii() and text.isdigit() and len(text) < 10 else -1


def _field_of(message: str) -> str:
    for words, field in (("ages", "age_from"), ("body part", "body_part"), ("protocol:", "protocol")):
        if words in message:
            return field
    return "recipe"
