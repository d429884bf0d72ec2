"""Committed scans end in a state that lasts, once, whoever dies on the way; nobody waits behind another's hundred."""

import asyncio
import contextlib
import hashlib
import json
import threading
import time

import pytest
from obstore.exceptions import BaseError
from procrastinate.exceptions import ConnectorException

from lampyris.centre.jobs import queue, retention
from lampyris.centre.jobs.reconstruct import keep
from lampyris.centre.jobs.worker import work
from lampyris.centre.store import Store, series_prefix
from lampyris.model import CalibrationError, ProgramError, StorageError
from lampyris.transfer import ReturnedSeries

PIECES = [b"first" * 1000]
EVERY = ("stat", "routine", "batch")


def makes(settings, content=b"image", verdict="pass"):
    """A reconstruction that writes one file."""
    store = Store(settings)

    def make(work, manifest, folder, watch):
        watch("reconstruct", 0.5)
        (folder / "CT_1.dcm").write_bytes(content)
        return keep(store, series_prefix(manifest.site, manifest.scan), folder), verdict

    return make


def fails(error):
    def make(*_):
        raise error

    return make


@pytest.fixture
def worked(inside):
    """Let a worker empty the queues."""

    def run(make, queues=EVERY):
        inside(lambda centre: work(centre, queues, make=make, signals=False, wait=False))

    return run


def due_now(rows):
    """Bring what waits for its next try forward."""
    rows("UPDATE procrastinate_jobs SET scheduled_at = now() WHERE scheduled_at IS NOT NULL")


def test_a_scan_becomes_a_series_that_the_site_fetches_and_acknowledges(site, worked, rows, settings):
    manifest = site.send(PIECES, sealed="eyJ")
    worked(makes(settings))
    status = site.state(manifest.scan)
    assert (status["state"], status["reason"], status["returned"]) == ("done", None, False)
    (listed,) = site.ask("GET", "/returns").json()["series"]
    series = ReturnedSeries.of(listed)
    assert (series.scan, series.verdict, series.sealed) == (manifest.scan, "pass", "eyJ")
    (file,) = series.files
    assert (file.name, file.size, file.sha256) == ("ct_1.dcm", 5, hashlib.sha256(b"image").hexdigest())
    path = f"/scans/{manifest.scan}/series/{file.name}"
    whole = site.ask("GET", path)
    assert (whole.status_code, whole.content, whole.headers["etag"]) == (200, b"image", f'"{file.sha256}"')
    tail = site.ask("GET", path, headers={"Range": "bytes=2-"})
    assert (tail.status_code, tail.content, tail.headers["content-range"]) == (206, b"age", "bytes 2-4/5")
    assert site.ask("GET", path, headers={"Range": "bytes=1-2"}).content == b"ma"
    assert site.ask("GET", path, headers={"Range": "bytes=-2"}).content == b"ge"
    assert site.ask("GET", path, headers={"Range": "bytes=9-"}).status_code == 416
    wrong = site.ask("POST", f"/scans/{manifest.scan}/acknowledge", content=json.dumps({"digest": "0a" * 32}))
    assert wrong.json()["code"] == "CONFLICT"
    for _ in range(2):
        body = json.dumps({"digest": series.digest()})
        answer = site.ask("POST", f"/scans/{manifest.scan}/acknowledge", content=body)
        assert (answer.status_code, answer.json()["returned"]) == (200, True)
    assert site.ask("GET", "/returns").json() == {"series": []}
    assert rows("SELECT count(*) FROM procrastinate_jobs") == [(0,)]


@pytest.mark.parametrize(
    ("error", "state", "code"),
    [
        (CalibrationError("no air"), "refused", "INPUT_CALIBRATION"),
        (ProgramError("ours"), "failed", "PROGRAM"),
        (KeyError("Anna"), "failed", "PROGRAM"),
    ],
)
def test_what_will_not_pass_ends_at_once_with_its_reason(site, worked, rows, error, state, code):
    manifest = site.send(PIECES)
    worked(fails(error))
    status = site.state(manifest.scan)
    assert (status["state"], status["reason"]["code"]) == (state, code)
    assert "Anna" not in str(status)
    assert rows("SELECT attempts FROM scan") == [(1,)]


def test_what_may_pass_is_tried_three_times_and_then_fails(site, worked, rows):
    manifest = site.send(PIECES)
    for attempt in (1, 2):
        worked(fails(StorageError("disk full")))
        status = site.state(manifest.scan)
        assert (status["state"], status["reason"]["code"]) == ("queued", "MACHINE_STORAGE")
        assert rows("SELECT attempts FROM scan") == [(attempt,)]
        due_now(rows)
    worked(fails(OSError(5, "Input/output error")))
    status = site.state(manifest.scan)
    assert (status["state"], status["reason"]["code"]) == ("failed", "MACHINE_STORAGE")
    assert "after 3 tries" in status["reason"]["message"]


def full_in_words() -> StorageError:
    """As the store's library tells of a full disk."""
    error = StorageError("an object of 5 bytes cannot be stored: is the disk full?")
    error.__cause__ = BaseError("Generic LocalFileSystem error: No space left on device (os error 28)")
    return error


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), OSError(122, "Quota"), full_in_words()])
def test_a_full_disk_costs_no_try_and_the_scan_goes_on_when_there_is_room(site, worked, rows, settings, error):
    manifest = site.send(PIECES)
    for _ in range(5):
        worked(fails(error))
        status = site.state(manifest.scan)
        assert (status["state"], status["reason"]["code"]) == ("queued", "MACHINE_FULL")
        assert "free some space" in status["reason"]["message"]
        assert rows("SELECT attempts FROM scan") == [(0,)]
        due_now(rows)
    worked(makes(settings))
    assert (site.state(manifest.scan)["state"], site.state(manifest.scan)["reason"]) == ("done", None)


def test_a_scan_that_passes_at_its_second_try_is_done(site, worked, rows, settings):
    manifest = site.send(PIECES)
    worked(fails(StorageError("disk full")))
    due_now(rows)
    worked(makes(settings))
    assert (site.state(manifest.scan)["state"], site.state(manifest.scan)["reason"]) == ("done", None)


def test_a_failed_scan_can_be_released_by_the_operator(site, worked, inside, settings):
    manifest = site.send(PIECES)
    worked(fails(ProgramError("ours")))

    async def release(centre):
        async with centre.pool.connection() as connection:
            return [await queue.release(connection, centre.jobs, site.name, manifest.scan) for _ in range(2)]

    assert inside(release) == [True, False]
    worked(makes(settings))
    assert site.state(manifest.scan)["state"] == "done"


def test_a_scan_of_a_dead_worker_is_found_and_done_by_another(site, inside, rows, settings):
    """A worker that is gone without a word: its job is 'doing' and its heartbeat old."""
    manifest = site.send(PIECES)

    async def die_and_recover(centre):
        async with centre.pool.connection() as connection:
            worker = await (
                await connection.execute("SELECT worker_id FROM procrastinate_register_worker_v1()")
            ).fetchone()
            job = await centre.jobs.job_manager.fetch_job(queues=["routine"], worker_id=worker["worker_id"])
            assert await queue.start(connection, job.task_kwargs["number"], job.id)
            assert await queue.recover(connection, centre.jobs, silent_s=5, tries=3) == []
            await connection.execute("UPDATE procrastinate_workers SET last_heartbeat = now() - interval '6 seconds'")
            recovered = [await queue.recover(connection, centre.jobs, silent_s=5, tries=3) for _ in range(2)]
            late = await queue.finish(connection, job.task_kwargs["number"], job.id, (), "pass")
            return recovered, late

    recovered, late = inside(die_and_recover)
    assert [len(each) for each in recovered] == [1, 0]
    assert late is False
    assert site.state(manifest.scan)["reason"]["code"] == "WORKER_DIED"
    due_now(rows)
    inside(lambda centre: work(centre, EVERY, make=makes(settings), signals=False, wait=False))
    assert site.state(manifest.scan)["state"] == "done"


def test_a_scan_that_kills_every_worker_fails_after_three(site, inside, rows):
    manifest = site.send(PIECES)

    async def die(centre):
        async with centre.pool.connection() as connection:
            worker = await (
                await connection.execute("SELECT worker_id FROM procrastinate_register_worker_v1()")
            ).fetchone()
            job = await centre.jobs.job_manager.fetch_job(queues=["routine"], worker_id=worker["worker_id"])
            await queue.start(connection, job.task_kwargs["number"], job.id)
            await connection.execute("DELETE FROM procrastinate_workers")
            await queue.recover(connection, centre.jobs, silent_s=5, tries=3)

    for _ in range(3):
        inside(die)
        due_now(rows)
    status = site.state(manifest.scan)
    assert (status["state"], status["reason"]["code"]) == ("failed", "WORKER_DIED")
    assert rows("SELECT count(*) FROM procrastinate_jobs") == [(0,)]


def test_a_scan_whose_job_is_gone_is_queued_again(site, inside, rows):
    manifest = site.send(PIECES)
    rows("DELETE FROM procrastinate_jobs")

    async def recover(centre):
        async with centre.pool.connection() as connection:
            return await queue.recover(connection, centre.jobs, silent_s=5, tries=3)

    assert len(inside(recover)) == 1
    assert len(inside(recover)) == 0
    assert site.state(manifest.scan)["state"] == "queued"
    assert rows("SELECT count(*) FROM procrastinate_jobs") == [(1,)]


def test_two_recoveries_at_once_queue_one_job(site, inside, rows):
    site.send(PIECES)
    rows("DELETE FROM procrastinate_jobs")

    async def both(centre):
        async def recover():
            async with centre.pool.connection() as connection:
                return await queue.recover(connection, centre.jobs, silent_s=5, tries=3)

        await asyncio.gather(recover(), recover())

    inside(both)
    assert rows("SELECT count(*) FROM procrastinate_jobs") == [(1,)]


def test_sites_take_turns_and_stat_goes_first(site, other, settings, worked, rows):
    """One site has sent five scans before the other sends two, and one of these is STAT."""
    object.__setattr__(settings, "waiting_scans", 100)
    many = [site.send([b"%d" % each]).scan for each in range(5)]
    batch = site.send([b"batch"], priority="batch").scan
    one, urgent = other.send([b"one"]).scan, other.send([b"urgent"], priority="stat").scan
    order = []

    def note(work, manifest, folder, watch):
        order.append(manifest.scan)
        return [], "pass"

    worked(note)
    assert order == [urgent, many[0], one, *many[1:], batch]


def test_a_worker_serves_its_queues_alone(site, worked, settings):
    routine, urgent = site.send([b"a"]), site.send([b"b"], priority="stat")
    worked(makes(settings), queues=("stat",))
    assert [site.state(each.scan)["state"] for each in (routine, urgent)] == ["queued", "done"]
    assert queue.check_queues(["batch", "stat"]) == ("stat", "batch")
    with pytest.raises(ValueError, match="stat, routine, batch"):
        queue.check_queues(["fast"])


def test_a_worker_that_is_told_to_stop_ends_the_scan_in_hand_and_takes_no_other(site, inside, settings):
    first, second = site.send([b"a"]), site.send([b"b"])

    async def drain(centre):
        running = asyncio.get_running_loop()
        begun = asyncio.Event()

        def slow(work, manifest, folder, watch):
            running.call_soon_threadsafe(begun.set)
            time.sleep(0.4)
            return makes(settings)(work, manifest, folder, watch)

        worker = asyncio.create_task(work(centre, EVERY, make=slow, signals=False))
        await begun.wait()
        worker.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await worker

    inside(drain)
    assert [site.state(each.scan)["state"] for each in (first, second)] == ["done", "queued"]


def test_progress_is_seen_while_a_worker_is_at_it(site, inside):
    manifest = site.send(PIECES)
    seen, seen_it = [], threading.Event()

    async def watched(centre):
        def slow(work, manifest, folder, watch):
            watch("reconstruct", 0.25)
            seen_it.wait(20)
            return [], "look"

        worker = asyncio.create_task(work(centre, EVERY, make=slow, signals=False, wait=False))
        while not seen or seen[-1]["station"] is None:
            seen.append(await asyncio.to_thread(site.state, manifest.scan))
        seen_it.set()
        await worker

    inside(watched)
    assert [(one["state"], one["station"], one["progress"]) for one in seen[-1:]] == [("running", "reconstruct", 0.25)]
    assert site.ask("GET", "/returns").json()["series"][0]["verdict"] == "look"


def test_what_was_kept_long_enough_is_deleted_and_nothing_else(site, worked, inside, settings, rows):
    object.__setattr__(settings, "waiting_scans", 100)
    old, fresh, failed, patient = (site.send([name]) for name in (b"old", b"fresh", b"failed", b"patient"))
    worked(makes(settings))
    still = site.send([b"queued"])
    abandoned, alive = site.manifest([b"x"]), site.manifest([b"y"])
    site.open(abandoned)
    site.open(alive)
    site.put(alive.scan, b"y")
    for each in (old, fresh):
        series = ReturnedSeries.of(
            next(one for one in site.ask("GET", "/returns").json()["series"] if one["scan"] == each.scan)
        )
        site.ask("POST", f"/scans/{each.scan}/acknowledge", content=json.dumps({"digest": series.digest()}))
    long_ago = "now() - interval '31 days'"
    rows(f"UPDATE scan SET updated = {long_ago} WHERE state = 'open'")
    rows(f"UPDATE scan SET finished = {long_ago}, returned = {long_ago} WHERE id = %s", old.scan)
    failing = "UPDATE scan SET finished = now() - make_interval(days => %s), state = 'failed', reason_code = 'X'"
    rows(f"{failing} WHERE id = %s", 91, failed.scan)
    rows(f"{failing} WHERE id = %s", 89, patient.scan)

    async def sweep(centre):
        async with centre.pool.connection() as connection:
            return [dict(await retention.sweep(connection, centre.store)) for _ in range(2)]

    kinds = ("abandoned", "raw", "failed", "series")
    assert inside(sweep) == [dict.fromkeys(kinds, 1) | {"early": 0}, dict.fromkeys((*kinds, "early"), 0)]
    assert site.state(abandoned.scan)["reason"]["code"] == "ABANDONED"
    assert site.state(alive.scan)["state"] == "open"
    left = {path.name for path in (settings.folder / "objects" / "raw").rglob("*") if path.is_file()}
    kept = (fresh, patient, still)
    assert left == {each.parts[0].chunks[0].digest for each in kept} | {hashlib.sha256(b"y").hexdigest()}
    assert site.ask("GET", f"/scans/{old.scan}/series/ct_1.dcm").status_code == 404
    assert site.ask("GET", f"/scans/{fresh.scan}/series/ct_1.dcm").status_code == 200


def test_a_scan_is_forgotten_when_that_is_asked_for(site, worked, inside, settings, rows):
    """Also what was half written when a process was killed, of which the store's library says nothing."""
    manifest, running = site.send(PIECES), site.manifest(PIECES)
    site.open(running)
    worked(makes(settings))
    (chunk,) = (settings.folder / "objects" / "raw").rglob(manifest.parts[0].chunks[0].digest)
    chunk.with_name(f"{chunk.name}#1").write_bytes(PIECES[0][:10])

    async def forget(centre):
        async with centre.pool.connection() as connection:
            wanted = (manifest.scan, manifest.scan, running.scan)
            return [await retention.forget(connection, centre.store, site.name, scan) for scan in wanted]

    assert inside(forget) == [True, False, False]
    assert site.ask("GET", f"/scans/{manifest.scan}").status_code == 404
    assert not [path for path in (settings.folder / "objects").rglob("*") if path.is_file()]


def test_a_worker_that_is_cancelled_ends_though_its_database_went_first(inside):
    """A queue whose connections were closed meets the cancellation with an error of its own."""

    async def action(centre):
        begun = asyncio.Event()

        async def gone(**_options):
            begun.set()
            try:
                await asyncio.sleep(60)
            except asyncio.CancelledError:
                raise ConnectorException("the pool is closed") from None

        centre.jobs.run_worker_async = gone
        worker = asyncio.create_task(work(centre, ("stat",), lambda *_: ([], "pass"), signals=False))
        await begun.wait()
        worker.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asyncio.wait_for(worker, 30)

    inside(action)
