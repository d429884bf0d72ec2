"""Recipes that come with the package or are uploaded → a library in which none is ever changed, only active or retired.

One version of a name is active at a time. What a scan gets is what was active when it was committed, so that a second
try makes the same series, and a retirement meets new scans alone.
"""

import asyncio
import dataclasses
import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from importlib.resources import files
from typing import Any

import structlog
from psycopg import errors

from lampyris import __version__
from lampyris.centre.audit.chain import Entry, Kind, note
from lampyris.centre.database import Connection
from lampyris.centre.recipes.choice import Library, Rule
from lampyris.model import InputError, Recipe, RecipeError
from lampyris.transfer import limits

PACKAGE = "package"
"""Who adds and begins what comes with the package."""
LONGEST = 1 << 18
"""Bytes of an uploaded recipe."""
_SOURCES = ("recipes/methods.json", "recipes/regions.json", "recipes/others.json", "quality/limits.json")
_ACTIVE_AT = "since <= %(at)s AND coalesce(until, 'infinity') > %(at)s"


@dataclass(frozen=True, slots=True)
class Offered:
    """A recipe of the library; `since`, `until`, `by`: of the period that lasts, or of the last one."""

    digest: str
    name: str
    version: str
    origin: str
    added: datetime
    added_by: str
    active: bool
    since: datetime | None
    until: datetime | None
    by: str | None
    description: str


@dataclass(frozen=True, slots=True)
class Use:
    """How much hangs on a recipe's name: scans under way that name it, series of the last 30 days, rules."""

    waiting: int
    made: int
    rules: int


@dataclass(frozen=True, slots=True)
class Difference:
    """An entry of a recipe that two versions have otherwise, as a path; None = it is not there."""

    entry: str
    before: str | None
    after: str | None


async def offer(connection: Connection) -> None:
    """Add the recipes of the package, once for each release of it.

    A name that was never there is active for all scans; another version of one that is waits to be activated.
    """
    release = await asyncio.to_thread(_release)
    cursor = await connection.execute("SELECT FROM recipe_release WHERE digest = %s", (release,))
    if await cursor.fetchone() is not None:
        return
    texts = (await asyncio.to_thread(Library.of_package)).texts
    async with connection.transaction():
        await connection.execute("LOCK TABLE recipe_release IN SHARE ROW EXCLUSIVE MODE")
        for text in texts.values():
            recipe = Recipe.from_json(text)
            await _offer_one(connection, recipe)
        await connection.execute("INSERT INTO recipe_release (digest) VALUES (%s) ON CONFLICT DO NOTHING", (release,))


async def _offer_one(connection: Connection, recipe: Recipe) -> None:
    cursor = await connection.execute("SELECT digest FROM recipe WHERE name = %s", (recipe.name,))
    known = {row["digest"] for row in await cursor.fetchall()}
    if recipe.digest() in known:
        return
    added = await connection.execute(
        "INSERT INTO recipe (digest, name, version, json, origin, added_by) VALUES (%s, %s, %s, %s, 'package', %s)"
        " ON CONFLICT DO NOTHING",
        (recipe.digest(), recipe.name, recipe.version, recipe.to_json(), PACKAGE),
    )
    if not added.rowcount:
        structlog.get_logger().warning("recipe not offered", name=recipe.name, version=recipe.version,
                                       reason="another one has this name and version")  # fmt: skip
    elif not known:
        await connection.execute(
            "INSERT INTO recipe_period (digest, name, since, begun_by) VALUES (%s, %s, '-infinity', %s)",
            (recipe.digest(), recipe.name, PACKAGE),
        )


async def listed(connection: Connection) -> list[Offered]:
    """Every recipe, by name, the newest version first."""
    cursor = await connection.execute(
        """
        SELECT recipe.digest, recipe.name, version, origin, added, added_by,
               json::jsonb ->> 'description' AS description,
               last.digest IS NOT NULL AND last.until IS NULL AS active,
               nullif(last.since, '-infinity') AS since, last.until, coalesce(last.ended_by, last.begun_by) AS by
        FROM recipe LEFT JOIN LATERAL (
            SELECT * FROM recipe_period WHERE recipe_period.digest = recipe.digest ORDER BY since DESC LIMIT 1
        ) AS last ON true
        ORDER BY name, added DESC, version DESC
        """
    )
    return [Offered(**row) for row in await cursor.fetchall()]


async def recipe_of(connection: Connection, digest: str) -> Recipe:
    """A recipe of the library. Raises InputError for a digest that is none of them."""
    cursor = await connection.execute("SELECT json FROM recipe WHERE digest = %s", (digest,))
    row = await cursor.fetchone()
    if row is None:
        raise InputError("there is no such recipe")
    return Recipe.from_json(row["json"])


async def upload(connection: Connection, text: str, entry: Entry) -> Recipe:
    """Add a recipe from JSON, not yet active; `entry` says who does it. Raises InputError, RecipeError."""
    if len(text.encode()) > LONGEST:
        raise InputError(f"the recipe has more than {LONGEST} bytes: is it one?")
    recipe = await asyncio.to_thread(_checked, text)
    detail = {"what": "recipe added", "name": recipe.name, "version": recipe.version, "digest": recipe.digest()}
    try:
        async with connection.transaction():
            await connection.execute(
                "INSERT INTO recipe (digest, name, version, json, origin, added_by)"
                " VALUES (%s, %s, %s, %s, 'uploaded', %s)",
                (recipe.digest(), recipe.name, recipe.version, recipe.to_json(), entry.who),
            )
            await note(connection, dataclasses.replace(entry, object=recipe.digest(), detail=detail))
    except errors.UniqueViolation:
        raise InputError(
            f"{recipe.name} {recipe.version} is there already: a recipe is never changed, choose another version"
        ) from None
    return recipe


async def activate(connection: Connection, digest: str, entry: Entry) -> None:
    """Let new scans have this version; the one of its name that is active now is retired with that."""
    async with connection.transaction():
        recipe = await _locked(connection, digest)
        if await _ended(connection, recipe.name, entry.who, but=digest):
            raise InputError(f"{recipe.name} {recipe.version} is active already")
        await connection.execute(
            "INSERT INTO recipe_period (digest, name, since, begun_by) VALUES (%s, %s, now(), %s)",
            (digest, recipe.name, entry.who),
        )
        await _noted(connection, entry, "recipe activated", recipe)


async def retire(connection: Connection, digest: str, entry: Entry) -> None:
    """Give this version to no new scan. Raises InputError when it is not active, or rules name it."""
    async with connection.transaction():
        recipe = await _locked(connection, digest)
        if (count := (await use(connection, recipe.name)).rules) > 0:
            raise InputError(f"{count} rules of the protocols name {recipe.name}: let them name another one first")
        found = await connection.execute(
            "UPDATE recipe_period SET until = now(), ended_by = %s WHERE digest = %s AND until IS NULL",
            (entry.who, digest),
        )
        if not found.rowcount:
            raise InputError(f"{recipe.name} {recipe.version} is retired already")
        await _noted(connection, entry, "recipe retired", recipe)


async def use(connection: Connection, name: str) -> Use:
    """How much hangs on a recipe's name."""
    cursor = await connection.execute(
        "SELECT (SELECT count(*) FROM scan WHERE state IN ('open', 'queued', 'running')"
        " AND skeleton::json ->> 'recipe' = %(name)s) AS waiting,"
        " (SELECT count(*) FROM series WHERE recipe = %(name)s AND created > now() - interval '30 days') AS made",
        {"name": name},
    )
    row = await cursor.fetchone()
    assert row is not None
    named = [rule for rule in (await protocols(connection)).rules if rule.recipe == name]
    return Use(row["waiting"], row["made"], len(named))


async def active(connection: Connection) -> dict[str, str]:
    """The version of each name that new scans get."""
    cursor = await connection.execute(
        "SELECT recipe.name, version FROM recipe JOIN recipe_period USING (digest) WHERE until IS NULL ORDER BY added"
    )
    return {row["name"]: row["version"] for row in await cursor.fetchall()}


async def library_at(connection: Connection, at: datetime) -> Library:
    """What was active at a moment, and the rules of that moment."""
    cursor = await connection.execute(
        f"SELECT recipe.name, json FROM recipe JOIN recipe_period USING (digest) WHERE {_ACTIVE_AT}", {"at": at}
    )
    texts = {row["name"]: row["json"] for row in await cursor.fetchall()}
    return Library(texts, (await protocols(connection, at)).rules)


@dataclass(frozen=True, slots=True)
class Protocols:
    """The rules that hold, in their order: number of the table, since when, by whom. 0 = none was ever made."""

    number: int
    since: datetime | None
    who: str | None
    rules: tuple[Rule, ...]


async def protocols(connection: Connection, at: datetime | None = None) -> Protocols:
    """The rules of a moment, or of now."""
    cursor = await connection.execute(
        "SELECT number, since, who, rules FROM protocol WHERE since <= coalesce(%s, now())"
        " ORDER BY number DESC LIMIT 1",
        (at,),
    )
    row = await cursor.fetchone()
    if row is None:
        return Protocols(0, None, None, ())
    return Protocols(row["number"], row["since"], row["who"], tuple(Rule(**each) for each in row["rules"]))


async def order(connection: Connection, rules: Sequence[Rule], entry: Entry, *, based_on: int) -> None:
    """Let these rules hold from now on. Raises InputError for a recipe that is not active, or when another was faster.

    `based_on` is the number of the table that somebody saw who changes it.
    """
    async with connection.transaction():
        await connection.execute("LOCK TABLE protocol IN SHARE ROW EXCLUSIVE MODE")
        if (await protocols(connection)).number != based_on:
            raise InputError("somebody else has changed the rules meanwhile: look at them again")
        known = await active(connection)
        if unknown := [rule.recipe for rule in rules if rule.recipe not in known]:
            raise InputError(f"no recipe {unknown[0]} is active: activate it first, or choose another")
        plain = [rule.as_dict() for rule in rules]
        await connection.execute(
            "INSERT INTO protocol (since, who, rules) VALUES (now(), %s, %s)", (entry.who, json.dumps(plain))
        )
        await note(connection, dataclasses.replace(entry, detail={"what": "protocols changed", "rules": plain}))


def differences(before: Recipe, after: Recipe) -> list[Difference]:
    """Entries that two recipes do not have alike, in the order of a recipe."""
    old, new = _flat(before.as_dict()), _flat(after.as_dict())
    paths = [*old, *(path for path in new if path not in old)]
    return [Difference(path, old.get(path), new.get(path)) for path in paths if old.get(path) != new.get(path)]


def _flat(value: Any, path: str = "") -> dict[str, str]:
    if isinstance(value, dict):
        return {
            key: text for name, each in value.items() for key, text in _flat(each, f"{path}.{name}"[not path :]).items()
        }
    if isinstance(value, list) and value and isinstance(value[0], dict):
        names = [str(each.get("name") or each.get("figure") or number) for number, each in enumerate(value)]
        pairs = zip(names, value, strict=True)
        return {key: text for name, each in pairs for key, text in _flat(each, f"{path}[{name}]").items()}
    return {path: json.dumps(value, ensure_ascii=False)}


def _release() -> str:
    """Digest of all that the package's recipes are made of, which is read without loading what computes."""
    digest = hashlib.sha256(__version__.encode())
    for name in _SOURCES:
        digest.update(files("lampyris").joinpath(name).read_bytes())
    return digest.hexdigest()


def _checked(text: str) -> Recipe:
    """A recipe that the stations of this release can carry out. Raises RecipeError."""
    from lampyris import correct, recipes, recon  # with these comes numba

    recipe = Recipe.from_json(text)
    if not limits.TOKEN.fullmatch(recipe.name):
        raise RecipeError(f"a recipe's name is {limits.TOKEN.pattern}: a manifest could not name this one")
    if not 0 < len(recipe.version) <= 32 or not recipe.version.isprintable():
        raise RecipeError("a recipe's version has 1 … 32 characters that can be printed")
    steps = [step.name for step in recipe.corrections if step.name != correct.BONE]
    if unknown := [name for name in steps if name not in correct.ORDER]:
        raise RecipeError(f"correction {', '.join(unknown)} is not known; known are {', '.join(correct.ORDER)}")
    recon.kernel(recipe.kernel)
    methods = {"auto", *(recipes.recipe(name).method.name for name in recipes.names())}
    if recipe.method.name not in methods:
        raise RecipeError(f"method {recipe.method.name!r} is not known; known are {', '.join(sorted(methods))}")
    return recipe


async def _locked(connection: Connection, digest: str) -> Recipe:
    """A recipe, while nobody else activates or retires one."""
    await connection.execute("LOCK TABLE recipe_period IN SHARE ROW EXCLUSIVE MODE")
    return await recipe_of(connection, digest)


async def _ended(connection: Connection, name: str, who: str, *, but: str) -> bool:
    """End the period of a name that lasts; whether it is that of this very version, which is then left."""
    cursor = await connection.execute("SELECT digest FROM recipe_period WHERE name = %s AND until IS NULL", (name,))
    row = await cursor.fetchone()
    if row is not None and row["digest"] == but:
        return True
    await connection.execute(
        "UPDATE recipe_period SET until = now(), ended_by = %s WHERE name = %s AND until IS NULL", (who, name)
    )
    return False


async def _noted(connection: Connection, entry: Entry, what: str, recipe: Recipe) -> None:
    detail = {"what": what, "name": recipe.name, "version": recipe.version}
    await note(connection, dataclasses.replace(entry, object=recipe.digest(), detail=detail))


def entry_of(who: str, address: str | None) -> Entry:
    """Who changes recipes, for the audit."""
    return Entry(Kind.CONFIGURE, who, address=address)
