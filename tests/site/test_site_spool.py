"""What goes into the spool: whole scans, arriving scans, mended scans; and what a full or failing disk does to it."""

import dataclasses
import errno
import json
import threading

import numpy as np
import pytest
from conftest import STUDY, rounds
from fake_centre import FakeCentre, problem

from lampyris import raw
from lampyris.model import Gantry, Geometry, InputError, RawScan, StorageError
from lampyris.site import Order, client, status
from lampyris.site.config import Keeping
from lampyris.site.exchange import Bucket, link
from lampyris.site.store import NEXT, alone, files
from lampyris.transfer import PlannedImage, limits


def only(found):
    (one,) = found
    return one


@pytest.mark.parametrize("packed", [True, False])
def test_a_scan_that_the_centre_gave_up_waiting_for_is_sent_under_a_new_id(
    agent, centre, drop, series, packed, config, small_chunks
):
    """The line was down for three weeks in the middle of it."""
    path = drop()
    for _ in range(14 if packed else 4):
        agent.take_in()
    entry = only(agent.spool.entries())
    centre.before.append(
        lambda request: problem(503, "WAIT", retry=True, **{"Retry-After": "40"}) if request.method == "PUT" else None
    )
    agent.send()
    centre.before.clear()
    centre.scans[entry.scan] |= {"state": "refused", "reason": ("ABANDONED", "14 days"), "chunks": {}}
    if packed:
        path.unlink()
    rounds(agent, 30)
    (new,) = [scan for scan, held in centre.scans.items() if held["state"] == "queued"]
    assert new != entry.scan
    assert len(centre.packed(new)) > 40_000
    centre.reconstruct(new, series(centre, new))
    rounds(agent, 14)
    assert only(config.pacs[0].folder.iterdir()).name == new
    assert agent.spool.entries() == []


def test_stat_goes_before_a_routine_scan_that_is_on_its_way(agent_of, config, centre, drop, small_chunks, replaced):
    config = replaced(config, centre=replaced(config.centre, in_flight=1))
    agent = agent_of(config)
    drop("routine.lraw")
    puts = []

    def meanwhile(request):
        """At the third chunk of the routine scan a STAT scan is there, packed."""
        if request.method == "PUT":
            puts.append(centre.scans[request.url.path.split("/")[3]]["skeleton"].priority)
            if len(puts) == 3:
                drop("stat.lraw", priority="stat")
                for _ in range(20):
                    agent.take_in()

    while not agent.spool.having("packed"):
        agent.take_in()
    centre.before.append(meanwhile)
    rounds(agent, 20)
    assert puts[:3] == ["routine"] * 3
    assert set(puts[3 : 3 + puts.count("stat")]) == {"stat"}
    assert puts.count("stat") > 5
    assert [held["state"] for held in centre.scans.values()] == ["queued", "queued"]


def test_a_stat_scan_that_is_told_to_wait_holds_up_no_routine_scan(agent, centre, drop):
    drop("stat.lraw", priority="stat")
    drop("routine.lraw")
    wait = {"Retry-After": "3600"}
    centre.before.append(
        lambda request: (
            problem(429, "WAIT", retry=True, **wait)
            if request.url.path == "/v1/scans" and b'"stat"' in request.content
            else None
        )
    )
    rounds(agent, 20)
    assert only(centre.scans.values())["state"] == "queued"


def test_chunks_keep_to_the_limit(agent, centre, drop, small_chunks):
    waited = []
    agent.link.bucket = Bucket(10_000, clock=lambda: 0.0, sleep=waited.append)
    drop()
    rounds(agent, 14)
    size = len(centre.packed(only(centre.scans)))
    assert max(waited) == pytest.approx((size - 10_000) / 10_000)


def test_returned_files_keep_to_a_limit_of_their_own(agent, centre, drop, series):
    waited = []
    agent.link.bucket_down = Bucket(100, clock=lambda: 0.0, sleep=waited.append)
    drop()
    rounds(agent, 20, until=lambda: agent.spool.having("committed"))
    scan = only(centre.scans)
    made = series(centre, scan)
    centre.reconstruct(scan, made)
    rounds(agent, 40, until=lambda: not agent.spool.entries())
    size = sum(len(content) for content in made.values())
    assert max(waited) == pytest.approx((size - 100) / 100)


def test_each_direction_has_the_limit_that_its_name_says(agent_of, config, replaced, monkeypatch):
    rates = []
    monkeypatch.setattr(link, "Bucket", lambda rate: rates.append(rate) or Bucket(rate))
    agent_of(replaced(config, centre=replaced(config.centre, limit_mbit_per_s=16.0, limit_down_mbit_per_s=4.0)))
    assert rates == [2e6, 0.5e6]


@pytest.mark.parametrize("how", ["reserve", "full"])
def test_a_full_disk_says_so_and_loses_nothing(agent_of, config, centre, drop, replaced, how, monkeypatch):
    full = replaced(config, spool=Keeping(free_gb=1e6)) if how == "reserve" else config
    agent = agent_of(full)
    source, fsync = drop(), files.os.fsync
    if how == "full":

        def fails(handle):
            raise OSError(errno.ENOSPC, "No space left on device")

        monkeypatch.setattr(files.os, "fsync", fails)
    rounds(agent, 5)
    why = agent._patience.reasons()
    assert any("free some space" in reason for _, reason in why.values()), why
    assert source.exists()
    assert centre.scans == {}
    assert [path for path in (config.folder / "spool").rglob("*") if path.is_file()] == []
    monkeypatch.setattr(files.os, "fsync", fsync)
    rounds(agent_of(config), 14)
    assert only(centre.scans.values())["state"] == "queued"


@pytest.mark.parametrize("state", ["committed", "returned"])
def test_a_disk_that_is_full_when_the_series_comes_home_loses_nothing(
    agent, config, centre, drop, series, state, monkeypatch
):
    """In the spool, and on its way from there to the PACS."""
    drop()
    rounds(agent, 14)
    sent = only(centre.scans)
    centre.reconstruct(sent, series(centre, sent))
    while agent.spool.place(sent).state != state:
        agent.fetch()

    def fails(handle):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(files.os, "fsync", fails)
    rounds(agent, 5)
    why = agent._patience.reasons()
    assert any("No space left" in reason for _, reason in why.values()), why
    assert agent.spool.place(sent).state == state
    assert centre.acknowledged[sent] == (state == "returned")
    assert (agent.spool.stored_bytes(sent) > 40_000) == (state == "committed")
    monkeypatch.undo()
    rounds(agent, 14)
    assert centre.acknowledged[sent] == 1
    assert {path.name for path in (config.pacs[0].folder / sent).iterdir()} == set(centre.returns[sent][1])
    assert agent.spool.entries() == []


def test_a_chunk_that_the_disk_changed_is_packed_again(agent, centre, drop, small_chunks):
    drop()
    while not agent.spool.having("packed"):
        agent.take_in()
    entry = only(agent.spool.entries())
    digest = agent.spool.parts(entry.scan)[0].chunks[3].digest
    path = only(agent.spool.folder.rglob(digest))
    path.write_bytes(bytes([path.read_bytes()[0] ^ 1]) + path.read_bytes()[1:])
    rounds(agent, 30)
    assert only(centre.scans.values())["state"] == "queued"
    raw_bytes = centre.packed(entry.scan)
    assert len(raw_bytes) > 40_000


def test_a_file_that_is_found_twice_is_one_scan_also_after_it_was_delivered(agent_of, config, centre, drop, series):
    path = drop()
    rounds(agent_of(config), 14)
    sent = only(centre.scans)
    centre.reconstruct(sent, series(centre, sent))
    rounds(agent_of(config), 14)
    order = Order.parse(path.with_name(f"{path.name}.json").read_bytes())
    agent = agent_of(config)
    rounds(agent, 5)
    assert agent.intake.take(path, order) == (sent, False)
    other, new = agent.intake.take(path, order, again=True)
    assert new
    assert other != sent


def test_where_the_image_is_to_lie_travels_with_the_scan_and_makes_it_another(agent, centre, drop):
    path = drop()
    rounds(agent, 14)
    text = json.loads(path.with_name(f"{path.name}.json").read_bytes())
    planned = {"field_of_view_mm": 250.0, "centre_mm": [3.0, -1.5], "first_mm": -20.0, "last_mm": 31.5}
    scan, new = agent.intake.take(path, Order.parse(json.dumps(text | {"image": planned}).encode()))
    assert new
    rounds(agent, 14)
    assert {held["manifest"].image for held in centre.scans.values()} == {
        None, PlannedImage(250.0, (3.0, -1.5), -20.0, 31.5)}  # fmt: skip
    assert centre.scans[scan]["manifest"].image is not None
    with pytest.raises(InputError, match="last slice lies before"):
        Order.parse(json.dumps(text | {"image": planned | {"last_mm": -21}}).encode())


def test_a_scan_that_changes_while_it_is_packed_is_not_sent(agent, centre, drop, scan, replaced, small_chunks, config):
    path = drop()
    for _ in range(3):
        agent.take_in()
        agent.send()
    drop(scan=replaced(scan, exposure_mas=scan.exposure_mas * 2, id=""))
    assert path.exists()
    rounds(agent, 40)
    states = sorted(held["state"] for held in centre.scans.values())
    assert states == ["queued", "refused"]
    assert "changed while it was packed" in only(status(config)["not_taken"])["reason"][1]


def test_sources_are_deleted_only_where_that_was_asked_and_after_they_were_packed(
    agent_of, config, centre, drop, replaced
):
    agent = agent_of(replaced(config, watch=replaced(config.watch, after="delete")))
    path = drop()
    agent.take_in()
    assert path.exists()
    rounds(agent, 10)
    assert list(config.watch.folder.iterdir()) == []
    assert only(centre.scans.values())["state"] == "queued"


def test_without_an_order_a_scan_is_not_taken(agent, drop, config):
    path = drop()
    path.with_name(f"{path.name}.json").unlink()
    rounds(agent, 5)
    assert agent.spool.entries() == []


def test_a_settled_folder_needs_no_order(agent_of, config, drop, replaced, now):
    watch = replaced(config.watch, complete="settled", settle_s=30.0, purpose="phantom")
    agent = agent_of(replaced(config, watch=watch))
    path = drop()
    path.with_name(f"{path.name}.json").unlink()
    rounds(agent, 3)
    now.at += 29.0
    rounds(agent, 3)
    assert agent.spool.entries() == []
    now.at += 2.0
    rounds(agent, 3)
    entry = only(agent.spool.entries())
    assert entry.coding == ("lossless", "purpose phantom")
    assert entry.skeleton.study == ()


@pytest.mark.parametrize(
    ("order", "message"),
    [
        (b"{", "no JSON"),
        (b"[]", "expected an object"),
        (b'{"urgency": 1}', "urgency"),
        (b'{"priority": "now"}', "not known"),
        (b'{"purpose": 3}', "are texts"),
        (b'{"recipe": "../x"}', "no name of a recipe"),
        (b'{"study": {"PatientsName": "Zhang"}}', "PatientsName"),
        (b'{"study": {"PatientID": 4711}}', "no text"),
        (b'{"study": {"PatientName": "Zhang"}}', "without PatientID"),
    ],
)
def test_a_bad_order_is_told_without_what_it_holds(agent, drop, config, order, message):
    path = drop("Zhang.lraw")
    path.with_name("Zhang.lraw.json").write_bytes(order)
    drop("good.lraw")
    rounds(agent, 6)
    told = only(status(config)["not_taken"])["reason"]
    assert message in told[1]
    assert "Zhang" not in told[1].replace("PatientsName", "")
    assert "4711" not in told[1]
    assert len(agent.spool.entries()) == 1
    path.with_name("Zhang.lraw.json").write_text(json.dumps({"study": STUDY, "recipe": "mended"}))
    rounds(agent, 6)
    assert len(agent.spool.entries()) == 2


def test_what_is_no_scan_is_told_and_holds_up_nothing(agent, drop, config, scan):
    path = drop("Zhang_cut.lraw")
    path.write_bytes(path.read_bytes()[:-100])
    (config.watch.folder / "notes.txt").write_text("not a scan")
    (config.watch.folder / "notes.txt.json").write_text(json.dumps({"study": STUDY}))
    broken = drop("nan.lraw")
    broken.write_bytes(b"")
    drop("good.lraw")
    rounds(agent, 10)
    told = [each["reason"][1] for each in status(config)["not_taken"]]
    assert len(told) == 3
    assert not [text for text in told if "Zhang" in text]
    assert len(agent.spool.entries()) == 1


def test_policy_and_line_decide_the_coding_and_the_manifest_tells(agent_of, config, drop, replaced):
    slow = replaced(config, centre=replaced(config.centre, link_mbit_per_s=100.0, limit_mbit_per_s=20.0))
    agent = agent_of(slow)
    drop()
    drop("qa.lraw", purpose="quality")
    rounds(agent, 2)
    said = {dict(entry.skeleton.packing)["reason"]: entry.coding[0] for entry in agent.spool.entries()}
    assert said == {"link of 20 Mbit/s, slow is under 50": "sigma/2", "purpose quality": "lossless"}


def test_a_reason_in_any_script_fits_the_manifest(agent_of, config, drop, scan, replaced, centre):
    rules = replaced(config.policy, protocols={"胸部*": "lossless"})
    agent = agent_of(replaced(config, policy=rules))
    drop(scan=replaced(scan, acquisition=replaced(scan.acquisition, ProtocolName="胸部 低剂量"), id=""))
    rounds(agent, 14)
    held = only(centre.scans.values())
    assert dict(held["manifest"].packing)["reason"] == "protocol like ??*"


def test_a_scan_with_damaged_files_of_state_holds_up_no_other(agent_of, config, centre, drop):
    agent = agent_of(config)
    drop("a.lraw")
    drop("b.lraw", recipe="b")
    agent.take_in()
    first, _ = agent.spool.entries()
    only(agent.spool.folder.rglob(f"{first.scan}/state.json")).write_bytes(b"\0" * 40)
    rounds(agent_of(config), 14)
    assert only(centre.scans.values())["state"] == "queued"
    assert status(config)["damaged"] == [first.scan]


def test_there_is_one_agent_for_a_spool(agent):
    with alone(agent.spool.folder):
        with pytest.raises(StorageError, match="another agent"), alone(agent.spool.folder):
            pass
        with pytest.raises(StorageError, match="another agent"):
            agent.run(threading.Event())


def test_every_state_but_the_last_has_a_next_one():
    assert {state for states in NEXT.values() for state in states} | {"accepted"} == set(NEXT)
    assert {state for state, after in NEXT.items() if not after} == {"delivered", "refused", "rejected"}


def test_it_runs_until_it_is_told_to_stop(config, site, centre: FakeCentre, drop, series):
    """Four threads, real time."""
    from lampyris.site import Agent, Surroundings

    agent = Agent(config, site, client(config.centre, centre.transport()), Surroundings(now=centre.now))
    drop()
    stop = threading.Event()
    running = threading.Thread(target=agent.run, args=(stop,))
    running.start()
    waiting = threading.Event()
    try:
        for _ in range(600):
            if centre.scans and only(centre.scans.values())["state"] == "queued":
                sent = only(centre.scans)
                centre.reconstruct(sent, series(centre, sent))
            if centre.acknowledged and not agent.spool.entries():
                break
            waiting.wait(0.05)
    finally:
        stop.set()
        running.join()
    assert centre.acknowledged.total() == 1
    assert status(config, now=centre.now)["finished"] == 1


def test_a_scan_of_nan_is_refused_before_anything_is_sent(agent, scan, replaced, config, tmp_path):
    counts = np.array(scan.counts, np.float32)
    counts[3, 2, 1] = np.nan
    path = tmp_path / "nan.lraw"
    with pytest.raises(InputError):
        raw.write(replaced(scan, counts=counts, id=""), path)
    with pytest.raises(InputError):
        agent.intake.take(path, Order("phantom"))
    assert limits.CHUNK_BYTES == 8 << 20


def test_a_failing_share_is_told_without_the_name_of_the_file(agent, drop, monkeypatch):
    """The reader's own message names its file, which may be called after the patient."""

    def fails(path):
        raise StorageError(f"{path.name} cannot be read (Input/output error)")

    drop("Zhang_San.lraw")
    monkeypatch.setattr(raw, "read", fails)
    agent.take_in()
    assert agent._patience.reasons()["look"][1] == "the scan cannot be read (Input/output error)"
    monkeypatch.undo()
    agent._patience.succeeded("look")
    agent.take_in()
    entry = only(agent.spool.entries())
    agent._packer.keep(set())
    monkeypatch.setattr(raw, "read", fails)
    agent.take_in()
    assert agent._patience.reasons()[entry.scan][1] == "the scan cannot be read (Input/output error)"


def test_a_scan_for_a_slow_line_is_cut_smaller(config, agent_of, tmp_path):
    """7 Mbit/s: chunks of 1 MiB, in a scan of 2.5 MB of random counts."""
    gantry = Gantry(541.0, 949.0, 16, 61, (1.7, 2.9), True, 2.6, 31.25)
    geometry = Geometry.helical(gantry, views=1300, views_per_turn=41, table_feed_mm=-6.3)
    counts = np.random.default_rng(3).integers(900, 60_000, geometry.shape, dtype=np.uint16)
    noisy = RawScan(counts, geometry, np.full(1300, 0.3), air=np.full((1, 16, 61), 65_000.0), air_exposure_mas=0.3)
    path = tmp_path / "noisy.lraw"
    raw.write(noisy, path, decision=raw.Decision("lossless", "a test"))
    agent = agent_of(dataclasses.replace(config, centre=dataclasses.replace(config.centre, link_mbit_per_s=7.0)))
    scan, _ = agent.intake.take(path, Order("phantom"))
    while agent.take_in():
        pass
    (part,) = agent.spool.parts(scan)
    assert {chunk.size for chunk in part.chunks[:-1]} == {1 << 20}
    assert (len(part.chunks), part.size) == (3, path.stat().st_size)
