"""What is made of a scan while it arrives: taken if it is of the committed chunks, and the same bit for bit."""

import asyncio
import contextlib
import dataclasses
import os
import secrets
import signal
import time
from datetime import UTC, datetime

import pytest

from lampyris import raw, recipes, simulate
from lampyris.centre.jobs import early, idle, retention
from lampyris.centre.jobs.arriving import Arriving
from lampyris.centre.jobs.idle import EarlyHand, Idle
from lampyris.centre.jobs.reconstruct import recipe_of, reconstruct, shelf_of
from lampyris.centre.jobs.shelf import EarlyShelf
from lampyris.centre.jobs.worker import work
from lampyris.centre.recipes.choice import Library
from lampyris.centre.store import Store, early_prefix
from lampyris.correct import block as blocks
from lampyris.phantom import water_cylinder
from lampyris.recon.analytic import filtering, helical
from lampyris.transfer import PlannedImage

NOW = datetime(2026, 11, 21, 8, 20, tzinfo=UTC)
PLANNED = PlannedImage(field_of_view_mm=170.0, centre_mm=(3.0, -5.0), first_mm=-26.0, last_mm=25.0)
MUCH = 1 << 30
_RECIPE = recipes.recipe


def coarse(name: str):
    """A recipe of ours with few and thick slices."""
    chosen = _RECIPE(name)
    return dataclasses.replace(
        chosen, grid=dataclasses.replace(chosen.grid, matrix=60, slice_thickness_mm=2.3, field_of_view_mm=None)
    )


LIBRARY = Library({name: coarse(name).to_json() for name in recipes.names()})
FINE = (
    (blocks, "CELLS_PER_BLOCK", 756 * 100),
    (filtering, "CHUNK_BYTES", 4 * 250 * 6 * 30),
    (helical, "THICKEST_SLAB", 9),
    (recipes, "recipe", coarse),
)
"""Blocks, groups and slabs as small beside this scan as they are beside a patient's."""


@pytest.fixture(scope="module")
def packed() -> tuple[list[bytes], str]:
    """A water cylinder on the small scanner, eight turns of a helix, packed for a link."""
    protocol = simulate.Protocol(kind="helical", mas=60.0, pitch=0.9, first_mm=-30.0, last_mm=30.0)
    made = simulate.scan(water_cylinder(130.0), simulate.scanner("small"), protocol, seed=5)
    parts = list(raw.pack(made, raw.Decision("sigma/4", "a test"), part_bytes=120_000))
    assert len(parts) > 8
    return [part.content for part in parts], parts[-1].scan_id


@pytest.fixture
def fine(monkeypatch):
    """Asked for before `site`: a centre offers these recipes when it is opened."""
    for module, name, value in FINE:
        monkeypatch.setattr(module, name, value)


@pytest.fixture
def store(settings) -> Store:
    return Store(settings)


def fine_process(*arguments) -> None:
    """What `EarlyHand` starts, with small blocks."""
    for module, name, value in FINE:
        setattr(module, name, value)
    idle._carry_out(*arguments)


class FineHand(EarlyHand):
    def _target(self):
        return fine_process


def arriving_of(store, manifest, tmp_path) -> Arriving:
    return Arriving(store, manifest.skeleton(), tmp_path / "early", library=LIBRARY)


def put_all(site, manifest, pieces) -> None:
    assert site.open(manifest).status_code == 201
    for piece in pieces:
        assert site.put(manifest.scan, piece).status_code == 204


def series_of(store, manifest, folder, **more):
    """Names, sizes and digests of all files of the series, and what was found early."""
    found = []
    folder.mkdir()
    files, verdict = reconstruct(
        store, manifest, folder, library=LIBRARY, committed=NOW, watch=lambda *_: None,
        early=lambda *counted: found.append(counted),
    )  # fmt: skip
    return (files, verdict), found


def objects(settings, manifest) -> list[str]:
    folder = settings.folder / "objects" / early_prefix(manifest.site, manifest.scan)
    return sorted(each.name for each in folder.rglob("*") if each.is_file()) if folder.exists() else []


def test_a_series_is_the_same_file_for_file_with_early_work_and_without(site, packed, fine, store, settings, tmp_path):
    pieces, content = packed
    manifest = site.manifest(pieces, content=content, recipe="routine", image=PLANNED)
    put_all(site, manifest, pieces)
    plain, found = series_of(store, manifest, tmp_path / "plain")
    assert found == []
    work_on, told = arriving_of(store, manifest, tmp_path), []
    stories = [
        work_on.go_on(manifest.parts[0].chunks[:count], MUCH, told.append)
        for count in (1, len(pieces) // 2, len(pieces) - 1)
    ]
    assert stories[0] == "no turn is whole"
    assert stories[-1].endswith("views: corrections and slices")
    assert min(told) > 0
    made = objects(settings, manifest)
    assert len(made) >= 8
    again, found = series_of(store, manifest, tmp_path / "again")
    ((hits, _),) = found
    assert hits == len(made)
    assert again == plain
    other = arriving_of(store, manifest, tmp_path)
    assert other.go_on(manifest.parts[0].chunks[: len(pieces) - 1], MUCH, told.append) == stories[-1]
    assert objects(settings, manifest) == made, "a second time nothing is made"


@pytest.mark.parametrize(
    ("recipe", "image", "story"),
    [
        ("model", PLANNED, "corrections alone: the method 'pwls' needs the whole scan"),
        ("routine", None, "corrections alone: field of view and range are chosen from the whole scan"),
    ],
)
def test_a_recipe_that_needs_the_whole_scan_is_corrected_early_and_says_so(
    site, packed, fine, store, settings, tmp_path, recipe, image, story
):
    pieces, content = packed
    manifest = site.manifest(pieces, content=content, recipe=recipe, image=image)
    put_all(site, manifest, pieces)
    said = arriving_of(store, manifest, tmp_path).go_on(manifest.parts[0].chunks[:-2], MUCH, lambda _: None)
    assert story in said
    assert len(objects(settings, manifest)) >= 3


def test_what_was_made_of_another_chunk_is_not_taken(site, packed, fine, store, settings, tmp_path):
    """The site announced one file and commits another: the same header, another dose from the second turn on."""
    pieces, content = packed
    manifest = site.manifest(pieces, content=content, image=PLANNED)
    put_all(site, manifest, pieces)
    arriving_of(store, manifest, tmp_path).go_on(manifest.parts[0].chunks[:-1], MUCH, lambda _: None)
    assert objects(settings, manifest)
    place = tmp_path / "scan.lraw"
    place.write_bytes(b"".join(pieces))
    scan, ends = raw.read(place), raw.ends(place)
    recipe = recipe_of(manifest, LIBRARY, scan)
    changed = list(manifest.parts[0].chunks)
    changed[3] = dataclasses.replace(changed[3], digest="0a" * 32)
    for chunks, expected in ((manifest.parts[0].chunks, True), (tuple(changed), False)):
        shelf = EarlyShelf(store, site.name, manifest.scan)
        shelf.over(scan, recipe, ends, chunks)
        last = max(views for _, views in ends[:4])
        names = [f"corrected views {first} to {first + 100}" for first in range(0, last - 110, 100)]
        assert any(shelf.holds(name, int(name.split()[-1]) + 9) for name in names[3:]) is expected
    shelf.over(scan, dataclasses.replace(recipe, version="other"), ends, manifest.parts[0].chunks)
    assert not any(shelf.holds(name, int(name.split()[-1]) + 9) for name in names)


def test_a_damaged_object_is_a_miss(site, packed, fine, store, settings, tmp_path):
    pieces, content = packed
    manifest = site.manifest(pieces, content=content)
    put_all(site, manifest, pieces)
    arriving_of(store, manifest, tmp_path).go_on(manifest.parts[0].chunks[:-1], MUCH, lambda _: None)
    folder = settings.folder / "objects" / early_prefix(site.name, manifest.scan)
    victims = sorted(each for each in folder.rglob("*") if each.is_file())
    for number, victim in enumerate(victims):
        data = bytearray(victim.read_bytes())
        data[len(data) // 2] ^= 1
        victim.write_bytes(data[: len(data) - number])
    place = tmp_path / "scan.lraw"
    place.write_bytes(b"".join(pieces))
    scan = raw.read(place)
    shelf = shelf_of(store, manifest, place, scan, recipe_of(manifest, LIBRARY, scan))
    assert shelf.holds("corrected views 0 to 100", 109)
    assert shelf.load("corrected views 0 to 100", 109) is None
    assert (shelf.hits, shelf.misses) == (0, 1)


def test_no_more_is_kept_than_a_site_may_have(site, packed, fine, store, settings, tmp_path):
    pieces, content = packed
    manifest = site.manifest(pieces, content=content)
    put_all(site, manifest, pieces)
    kept = []
    room = 756 * 4 * 2 * 100 * 3
    said = arriving_of(store, manifest, tmp_path).go_on(manifest.parts[0].chunks[:-1], room, kept.append)
    assert said.endswith("the site's share is used up")
    assert 0 < kept[-1] <= room
    assert len(objects(settings, manifest)) == len(kept) == 2


@pytest.fixture
def asked(inside):
    """Ask something of the module `early` with a connection."""

    def run(action):
        async def whole(centre):
            async with centre.pool.connection() as connection:
                return await action(connection)

        return inside(whole)

    return run


CLAIM = {"hold_s": 60.0, "site_bytes": 1000}


def test_scans_that_arrive_are_taken_up_one_at_a_time_for_each_site_and_stat_first(site, other, asked, rows):
    pieces = [b"a" * 10, b"b" * 20, b"c" * 30]
    first, second = site.manifest(pieces), site.manifest(pieces, priority="stat")
    third = other.manifest(pieces)
    for who, manifest, count in ((site, first, 2), (site, second, 1), (other, third, 3)):
        who.open(manifest)
        assert who.announce(manifest).json()["missing"] != []
        for piece in pieces[:count]:
            who.put(manifest.scan, piece)
        who.announce(manifest)
    rest = lambda begun, story: asked(lambda connection: early.rest(connection, begun, 7, story))  # noqa: E731
    claim = lambda: asked(lambda connection: early.claim(connection, **CLAIM))  # noqa: E731
    one, two = claim(), claim()
    assert [one.skeleton.scan, two.skeleton.scan] == [second.scan, third.scan]
    assert [len(one.chunks), len(two.chunks)] == [1, 3]
    assert claim() is None, "the other scan of this site waits for its turn"
    rest(one, "told")
    three = claim()
    assert (three.skeleton.scan, len(three.chunks), three.room) == (first.scan, 2, 993)
    rest(three, None)
    assert claim().skeleton.scan == first.scan, "who was interrupted goes on"
    told = "SELECT story, early.bytes, looked FROM early JOIN scan ON number = scan WHERE id = %s"
    assert rows(told, second.scan) == [("told", 7, 1)]
    rows("UPDATE early SET bytes = 1000, held = NULL")
    assert claim() is None, "both sites have what they may have"


def test_early_work_ends_with_the_commit_and_what_nobody_committed_is_deleted(
    fine, site, asked, inside, rows, store, settings, tmp_path, packed
):
    pieces, content = packed
    withdrawn, silent, alive = (site.manifest(pieces, content=content) for _ in range(3))
    for manifest in (withdrawn, silent, alive):
        put_all(site, manifest, pieces)
        site.announce(manifest)
        begun = asked(lambda connection: early.claim(connection, hold_s=60.0, site_bytes=MUCH))
        assert begun.skeleton.scan == manifest.scan
        kept = [0]
        story = arriving_of(store, manifest, tmp_path).go_on(begun.chunks, begun.room, kept.append)
        asked(lambda connection, one=begun, size=kept[-1], said=story: early.rest(connection, one, size, said))
        assert objects(settings, manifest)
    site.ask("POST", f"/scans/{withdrawn.scan}/withdraw")
    rows("UPDATE early SET updated = now() - interval '2 days' FROM scan WHERE number = scan AND id = %s", silent.scan)
    held = asked(lambda connection: early.hold(connection, begun, 5, hold_s=60.0))
    assert held is True
    asked(lambda connection: early.rest(connection, begun, 5, None))

    async def sweep(centre):
        async with centre.pool.connection() as connection:
            return [await early.sweep(connection, centre.store, 1.0) for _ in range(2)]

    assert inside(sweep) == [2, 0]
    assert [bool(objects(settings, each)) for each in (withdrawn, silent, alive)] == [False, False, True]
    assert site.commit(alive).status_code == 202
    assert asked(lambda connection: early.hold(connection, begun, 5, hold_s=60.0)) is False
    assert site.state(silent.scan)["state"] == "open"


def test_forgetting_a_scan_forgets_what_was_made_of_it(fine, site, inside, rows, store, settings, packed, tmp_path):
    pieces, content = packed
    manifest = site.manifest(pieces, content=content)
    put_all(site, manifest, pieces)
    arriving_of(store, manifest, tmp_path).go_on(manifest.parts[0].chunks[:-1], MUCH, lambda _: None)
    site.ask("POST", f"/scans/{manifest.scan}/withdraw")

    async def forget(centre):
        async with centre.pool.connection() as connection:
            return await retention.forget(connection, centre.store, site.name, manifest.scan)

    assert inside(forget) is True
    assert objects(settings, manifest) == []


async def until(condition, *, within_s: float = 300.0):
    """Ask again and again, off the loop, until it is so."""
    ends = time.monotonic() + within_s
    while not (found := await asyncio.to_thread(condition)):
        assert time.monotonic() < ends
        await asyncio.sleep(0.05)
    return found


def test_a_worker_uses_its_idle_time_and_gives_way_and_a_process_that_is_killed_costs_nothing(
    fine, site, inside, rows, store, settings, packed, tmp_path
):
    """Killed while the first half is made; an urgent scan in between; then the rest, the commit, and the series."""
    pieces, content = packed
    manifest = site.manifest(pieces, content=content, recipe="routine", image=PLANNED)
    half, hand = len(pieces) // 2, FineHand(settings)
    done, found, while_urgent = [], [], []

    def make(begun, given, folder, watch):
        if given.priority == "stat":
            while_urgent.append(hand.pid)
            return [], "pass"
        done.append(reconstruct(store, given, folder, library=LIBRARY, committed=NOW, watch=watch, early=note))
        return done[-1]

    def note(*counted):
        found.append(counted)

    def first_half():
        put_all(site, manifest, pieces[:half])
        site.announce(manifest)

    def urgent():
        return site.send([secrets.token_bytes(50)], priority="stat").scan

    def second_half():
        for piece in pieces[half:-1]:
            site.put(manifest.scan, piece)
        site.announce(manifest)

    def end():
        assert site.state(manifest.scan)["state"] == "open"
        assert manifest.scan not in str(site.ask("GET", "/returns").json())
        site.put(manifest.scan, pieces[-1])
        assert site.commit(manifest).status_code == 202

    async def worked(centre):
        aside = Idle(centre, hand)
        worker = asyncio.create_task(work(centre, ("stat", "routine", "batch"), make, idle=aside, signals=False))
        await asyncio.to_thread(first_half)
        pid = await until(lambda: hand.pid)
        await until(lambda: objects(settings, manifest))
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
        await until(lambda: rows("SELECT looked FROM early") == [(half,)])
        made = len(objects(settings, manifest))
        scan = await asyncio.to_thread(urgent)
        await until(lambda: site.state(scan)["state"] == "done")
        await asyncio.to_thread(second_half)
        await until(lambda: rows("SELECT looked FROM early") == [(len(pieces) - 1,)])
        assert len(objects(settings, manifest)) > made
        await asyncio.to_thread(end)
        await until(lambda: site.state(manifest.scan)["state"] == "done")
        await until(lambda: objects(settings, manifest) == [])
        worker.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await worker
        hand.close()

    inside(worked)
    assert while_urgent == [None]
    ((hits, _),) = found
    assert hits >= 8
    assert rows("SELECT count(*) FROM early") == [(0,)]
    assert series_of(store, manifest, tmp_path / "plain") == (done[0], [])
