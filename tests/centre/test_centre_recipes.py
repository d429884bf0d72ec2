"""Recipes of the centre: never changed, active or retired, and which of them a scan gets."""

import dataclasses
import json
from datetime import UTC, datetime

import psycopg
import pytest

from lampyris import recipes
from lampyris.centre.audit.chain import Entry, Kind
from lampyris.centre.jobs import queue
from lampyris.centre.recipes import library
from lampyris.centre.recipes.choice import Library, Rule, years_of
from lampyris.model import InputError, Recipe

BY = Entry(Kind.CONFIGURE, "wang", address="10.0.0.7")


@pytest.fixture
def with_connection(inside):
    """A connection of an opened centre, which put the package's recipes there; a bare one (`do`) finds none."""

    def run(action):
        async def whole(centre):
            async with centre.pool.connection() as connection:
                return await action(connection)

        return inside(whole)

    return run


def another(version="7-local", **changes) -> Recipe:
    return dataclasses.replace(recipes.recipe("routine"), version=version, **changes)


def test_the_recipes_of_the_package_are_active_on_the_first_day(with_connection):
    found = with_connection(library.listed)
    assert {(one.name, one.digest) for one in found} == {
        (name, recipes.recipe(name).digest()) for name in recipes.names()
    }
    assert all(one.active and one.origin == "package" for one in found)
    early = with_connection(lambda connection: library.library_at(connection, datetime(2020, 1, 1, tzinfo=UTC)))
    assert set(early.texts) == set(recipes.names()), "a scan from before the table was there has its recipe"


def test_a_recipe_is_never_changed(with_connection, rows):
    with_connection(library.listed)
    for statement in ("UPDATE recipe SET json = '{}'", "DELETE FROM recipe", "TRUNCATE recipe CASCADE"):
        with pytest.raises(psycopg.errors.RaiseException):
            rows(statement)
    uploaded = another(kernel="hann")
    with_connection(lambda connection: library.upload(connection, uploaded.to_json(), BY))
    same_version = another(kernel="shepp-logan").to_json()
    with pytest.raises(InputError, match="there already"):
        with_connection(lambda connection: library.upload(connection, same_version, BY))
    assert rows("SELECT who, detail ->> 'what' FROM audit") == [("wang", "recipe added")]


@pytest.mark.parametrize(
    "text",
    [
        "no JSON",
        "[]",
        json.dumps({**recipes.recipe("routine").as_dict(), "name": "../routine"}),
        json.dumps({**recipes.recipe("routine").as_dict(), "version": ""}),
        json.dumps({**recipes.recipe("routine").as_dict(), "kernel": "none such"}),
        json.dumps({**recipes.recipe("routine").as_dict(), "method": {"name": "guess"}}),
        json.dumps({**recipes.recipe("routine").as_dict(), "corrections": [{"name": "wish"}]}),
        " " * (library.LONGEST + 1),
    ],
)
def test_a_recipe_that_no_station_can_carry_out_is_refused(with_connection, text):
    with pytest.raises(InputError):
        with_connection(lambda connection: library.upload(connection, text, BY))


def test_one_version_is_active_and_a_scan_keeps_the_one_of_its_commit(with_connection):
    new = another(kernel="hann")

    async def action(connection):
        await library.upload(connection, new.to_json(), BY)
        before = datetime.now(UTC)
        await library.activate(connection, new.digest(), BY)
        after = datetime.now(UTC)
        with pytest.raises(InputError, match="active already"):
            await library.activate(connection, new.digest(), BY)
        at = [(await library.library_at(connection, moment)).recipe("routine") for moment in (before, after)]
        listed = [one for one in await library.listed(connection) if one.name == "routine"]
        await library.retire(connection, new.digest(), BY)
        with pytest.raises(InputError, match="retired already"):
            await library.retire(connection, new.digest(), BY)
        late = (await library.library_at(connection, datetime.now(UTC))).recipe("routine")
        return at, listed, late

    (before, after), listed, late = with_connection(action)
    assert (before.version, after.digest(), late) == (recipes.recipe("routine").version, new.digest(), None)
    assert [(one.version, one.active, one.by) for one in listed] == [
        ("7-local", True, "wang"),
        (before.version, False, "wang"),
    ]


def test_a_scan_that_names_a_retired_recipe_is_refused_with_the_reason(with_connection, site, inside):
    swift = recipes.recipe("swift").digest()
    before = site.send([b"piece"], recipe="swift")
    with_connection(lambda connection: library.retire(connection, swift, BY))
    after = site.send([b"another"], recipe="swift")

    async def started(centre):
        async with centre.pool.connection() as connection:
            cursor = await connection.execute("SELECT number, job, id FROM scan")
            return {
                row["id"]: (await queue.start(connection, row["number"], row["job"])).library
                for row in await cursor.fetchall()
            }

    libraries = inside(started)
    from lampyris.centre.jobs.reconstruct import recipe_of

    assert recipe_of(before, libraries[before.scan], None).name == "swift"
    with pytest.raises(InputError, match=r"'swift'.*retired"):
        recipe_of(after, libraries[after.scan], None)


def test_the_first_rule_that_fits_names_the_recipe():
    rules = (
        Rule("swift", body_part="HEAD", age_below=16.0),
        Rule("model", protocol="*low dose*"),
        Rule("routine", body_part="head"),
        Rule("model", age_from=65.0),
    )
    known = Library({}, rules, "industrial")
    assert known.meant("HEAD", "Head routine", "015Y") == "swift"
    assert known.meant("HEAD", "Head Low Dose", "016Y") == "model"
    assert known.meant("Head ", "Head routine", None) == "routine"
    assert known.meant("CHEST", None, "065Y") == "model"
    assert known.meant("CHEST", None, "064Y") == "industrial"
    assert known.meant(None, None, "many") == "industrial"
    assert years_of("026W") == pytest.approx(0.498, abs=1e-3)
    for wrong in ({"body_part": ""}, {"age_from": 5.0, "age_below": 5.0}, {"age_from": -1.0}, {"protocol": "x" * 65}):
        with pytest.raises(InputError):
            Rule("routine", **wrong)


def test_rules_are_changed_by_whoever_saw_the_last_ones_and_keep_their_history(with_connection):
    async def action(connection):
        before = datetime.now(UTC)
        await library.order(connection, [Rule("swift", body_part="HEAD")], BY, based_on=0)
        with pytest.raises(InputError, match="meanwhile"):
            await library.order(connection, [], BY, based_on=0)
        held = await library.protocols(connection)
        with pytest.raises(InputError, match="no recipe"):
            await library.order(connection, [Rule("best")], BY, based_on=held.number)
        with pytest.raises(InputError, match="1 rules"):
            await library.retire(connection, recipes.recipe("swift").digest(), BY)
        return held, await library.protocols(connection, before), (await library.use(connection, "swift")).rules

    held, before, rules = with_connection(action)
    assert (held.rules, held.who, before.rules, rules) == ((Rule("swift", body_part="HEAD"),), "wang", (), 1)


def test_differences_of_two_versions_are_told_entry_by_entry():
    before = recipes.recipe("routine")
    after = dataclasses.replace(before, version="7-local", kernel="hann", corrections=before.corrections[:-1])
    found = {one.entry: (one.before, one.after) for one in library.differences(before, after)}
    assert found["version"] == (f'"{before.version}"', '"7-local"')
    assert found["kernel"] == (f'"{before.kernel}"', '"hann"')
    assert found[f"corrections[{before.corrections[-1].name}].name"][1] is None
    assert library.differences(before, before) == []
