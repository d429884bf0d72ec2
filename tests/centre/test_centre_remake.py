"""A scan that is done is made again with another recipe: a further series, and nothing that was returned changes."""

import io
import os
import signal

import pydicom
import pytest

from lampyris import raw, simulate
from lampyris.centre.jobs import queue, remakes, retention
from lampyris.centre.jobs.hand import Hand
from lampyris.centre.jobs.reconstruct import keep
from lampyris.centre.jobs.worker import work
from lampyris.centre.refusals import Refusal
from lampyris.centre.store import Store, remade_prefix, series_prefix
from lampyris.model import CalibrationError, StorageError
from lampyris.phantom import water_cylinder

EVERY = ("stat", "routine", "batch")
PIECES = [b"first" * 1000]


def makes(settings):
    """A reconstruction that writes one file, which tells its recipe."""
    store = Store(settings)

    def make(work, manifest, folder, watch):
        prefix_of = series_prefix if work.recipe is None else remade_prefix
        watch("reconstruct", 0.5)
        (folder / "CT_1.dcm").write_text(str(work.recipe))
        return keep(store, prefix_of(manifest.site, manifest.scan), folder), "pass"

    return make


@pytest.fixture
def worked(inside, settings):
    """Let a worker empty the queues."""

    def run(make=None):
        inside(lambda centre: work(centre, EVERY, make or makes(settings), signals=False, wait=False))

    return run


@pytest.fixture
def ask(inside, rows):
    """Ask for a remake of a scan; its number."""

    def asked(scan: str, recipe: str, who: str = "li") -> int:
        ((number,),) = rows("SELECT number FROM scan WHERE id = %s", scan)

        async def action(centre):
            async with centre.pool.connection() as connection:
                return await remakes.ask(connection, centre.jobs, number, recipe, who)

        return inside(action)

    return asked


def told(rows):
    """Recipe, state, code of the reason and verdict of every remake."""
    return rows("SELECT recipe, state, reason_code, verdict FROM remake ORDER BY number")


def test_another_recipe_gives_a_further_series_and_what_was_returned_stays(site, worked, ask, rows, settings):
    manifest = site.send(PIECES, recipe="swift")
    worked()
    before = site.ask("GET", "/returns").json()
    number = ask(manifest.scan, "routine")
    assert ask(manifest.scan, "routine", "wang") == number
    worked()
    assert told(rows) == [("routine", "done", None, "pass")]
    assert site.ask("GET", "/returns").json() == before
    assert rows("SELECT who, name, bytes FROM remake JOIN remake_output ON remake = number") == [
        ("li", "ct_1.dcm", len("routine"))
    ]
    assert ask(manifest.scan, "routine") == number
    assert rows("SELECT count(*) FROM procrastinate_jobs") == [(0,)]
    store = Store(settings)
    assert not store.is_empty(remade_prefix(site.name, manifest.scan))


def test_what_cannot_be_made_again_is_refused_and_says_why(site, worked, ask, rows):
    manifest = site.send(PIECES, recipe="swift")
    with pytest.raises(Refusal, match="no series yet"):
        ask(manifest.scan, "routine")
    worked()
    with pytest.raises(Refusal, match="no such recipe; it has routine"):
        ask(manifest.scan, "methods.json")
    with pytest.raises(Refusal, match="made with swift"):
        ask(manifest.scan, "swift")
    rows("UPDATE scan SET raw_deleted = '2026-11-20'")
    with pytest.raises(Refusal, match="raw data of the scan were deleted on 2026-11-20"):
        ask(manifest.scan, "routine")
    assert told(rows) == []


def test_a_remake_waits_behind_every_scan_and_a_companion_behind_remakes(site, worked, ask, settings):
    object.__setattr__(settings, "companion", "routine")
    first = site.send(PIECES, recipe="swift")
    worked()
    order = []

    def note(work, manifest, folder, watch):
        order.append((manifest.scan, work.recipe))
        return makes(settings)(work, manifest, folder, watch)

    object.__setattr__(settings, "companion", "routine-lung")
    batch = site.send([b"batch"], priority="batch", recipe="swift")
    ask(first.scan, "swift-lung")
    worked(note)
    assert order == [
        (batch.scan, None), (first.scan, "swift-lung"), (batch.scan, "routine-lung")
    ]  # fmt: skip


def test_the_centre_asks_for_the_companion_itself_but_never_for_the_same_recipe(site, worked, rows, settings):
    object.__setattr__(settings, "companion", "routine")
    site.send(PIECES, recipe="swift")
    site.send([b"other"], recipe="routine")
    worked()
    assert told(rows) == [("routine", "done", None, "pass")]
    assert rows("SELECT who FROM remake") == [("policy",)]


def test_a_remake_that_fails_is_tried_again_and_may_be_asked_for_anew(site, worked, ask, rows):
    def fails(error):
        def make(*_):
            raise error

        return make

    manifest = site.send(PIECES, recipe="swift")
    worked()
    number = ask(manifest.scan, "routine")
    for attempt in (1, 2):
        worked(fails(StorageError("a disk fails")))
        assert rows("SELECT state, attempts FROM remake") == [("queued", attempt)]
        rows("UPDATE procrastinate_jobs SET scheduled_at = now()")
    worked(fails(StorageError("a disk fails")))
    assert told(rows) == [("routine", "failed", "MACHINE_STORAGE", None)]
    assert ask(manifest.scan, "routine") == number
    worked(fails(CalibrationError("no air")))
    assert told(rows) == [("routine", "refused", "INPUT_CALIBRATION", None)]
    assert site.state(manifest.scan)["state"] == "done"
    ask(manifest.scan, "routine")
    worked()
    assert told(rows) == [("routine", "done", None, "pass")]


def test_a_remake_of_a_dead_worker_is_found_and_one_whose_job_is_gone(site, worked, ask, inside, rows):
    manifest = site.send(PIECES, recipe="swift")
    worked()
    number = ask(manifest.scan, "routine")

    async def die_and_recover(centre):
        async with centre.pool.connection() as connection:
            cursor = await connection.execute("SELECT worker_id FROM procrastinate_register_worker_v1()")
            worker = (await cursor.fetchone())["worker_id"]
            job = await centre.jobs.job_manager.fetch_job(queues=["batch"], worker_id=worker)
            assert await remakes.start(connection, number, job.id)
            await connection.execute("UPDATE procrastinate_workers SET last_heartbeat = now() - interval '6 seconds'")
            how = {"silent_s": 5, "tries": 3}
            assert await queue.recover(connection, centre.jobs, **how) == []
            found = [await remakes.recover(connection, centre.jobs, **how) for _ in range(2)]
            late = await remakes.finish(connection, number, job.id, (), "pass")
            await connection.execute("DELETE FROM procrastinate_jobs")
            return found, late, await remakes.recover(connection, centre.jobs, **how)

    assert inside(die_and_recover) == ([[number], []], False, [number])
    rows("UPDATE procrastinate_jobs SET scheduled_at = now()")
    worked()
    assert told(rows) == [("routine", "done", None, "pass")]


def test_retention_deletes_a_remake_with_the_series_and_waits_for_one_under_way(
    site, worked, ask, inside, rows, settings
):
    manifest = site.send(PIECES, recipe="swift")
    worked()
    ask(manifest.scan, "routine")
    rows("UPDATE scan SET returned = now() - interval '31 days', finished = now() - interval '31 days'")

    async def sweep(centre):
        async with centre.pool.connection() as connection:
            return dict(await retention.sweep(connection, centre.store))

    swept = inside(sweep)
    assert (swept["raw"], swept["series"]) == (0, 0)
    worked()
    assert told(rows) == [("routine", "done", None, "pass")]
    swept = inside(sweep)
    assert (swept["raw"], swept["series"]) == (1, 1)
    assert not [path for path in (settings.folder / "objects").rglob("*") if path.is_file()]
    with pytest.raises(Refusal, match="were deleted"):
        ask(manifest.scan, "routine-lung")


def test_a_real_remake_is_a_series_of_the_same_study_though_its_process_is_killed(site, inside, ask, rows, settings):
    made = simulate.scan(
        water_cylinder(120.0), simulate.scanner("small"), simulate.Protocol(kind="axial", mas=50.0), seed=5
    )
    packed = list(raw.pack(made, raw.Decision("sigma/4", "a test"), part_bytes=30_000))
    hand, killed = Hand(settings), []

    def make(work, manifest, folder, watch):
        def killing(station, done):
            watch(station, done)
            if work.recipe is not None and not killed:
                killed.append(hand.pid)
                os.kill(hand.pid, signal.SIGKILL)

        return hand.make(work, manifest, folder, killing)

    def worked():
        inside(lambda centre: work(centre, EVERY, make, signals=False, wait=False))

    try:
        manifest = site.send([part.content for part in packed], recipe="routine-head", content=packed[-1].scan_id)
        worked()
        ask(manifest.scan, "quality-control")
        worked()
        assert rows("SELECT state, reason_code FROM remake") == [("queued", "WORKER_DIED")]
        rows("UPDATE procrastinate_jobs SET scheduled_at = now()")
        worked()
    finally:
        hand.close()
    assert [row[:2] for row in told(rows)] == [("quality-control", "done")]
    first, second = (_image(settings, prefix, rows, table) for prefix, table in (
        (series_prefix, "output"), (remade_prefix, "remake_output")))  # fmt: skip
    assert first.StudyInstanceUID == second.StudyInstanceUID
    assert first.SeriesInstanceUID != second.SeriesInstanceUID
    assert first.FrameOfReferenceUID == second.FrameOfReferenceUID
    assert (first.SeriesDescription.split()[0], second.SeriesDescription.split()[0]) == (
        "routine-head",
        "quality-control",
    )


def _image(settings, prefix_of, rows, table):
    ((digest,),) = rows(f"SELECT sha256 FROM {table} WHERE name = 'ct_00001.dcm'")
    ((site, scan),) = rows("SELECT site, id FROM scan")
    return pydicom.dcmread(io.BytesIO(Store(settings).get(prefix_of(site, scan), digest)))
