"""A scan that is packed, sent, reconstructed by the table of stations and fetched: what was measured, byte for byte."""

import dataclasses
import hashlib
import io
import os
import signal
from types import SimpleNamespace

import pydicom
import pytest

from lampyris import dicom, raw, simulate
from lampyris.centre.jobs.hand import Hand
from lampyris.centre.jobs.reconstruct import lay_out, recipe_of, reconstruct
from lampyris.centre.jobs.worker import work
from lampyris.centre.recipes.choice import Library
from lampyris.centre.store import Store
from lampyris.model import Acquisition, InputError, MachineError
from lampyris.phantom import water_cylinder
from lampyris.transfer import Chunk, Manifest, Part, ReturnedSeries

LIBRARY = Library.of_package()

EVERY = ("stat", "routine", "batch")


@pytest.fixture(scope="module")
def packed() -> tuple[list[bytes], str]:
    """A water cylinder on the small scanner, packed for a link, and the id of what it unpacks to."""
    made = simulate.scan(
        water_cylinder(120.0), simulate.scanner("small"), simulate.Protocol(kind="axial", mas=50.0), seed=5
    )
    parts = list(raw.pack(made, raw.Decision("sigma/4", "a test"), part_bytes=30_000))
    return [part.content for part in parts], parts[-1].scan_id


@pytest.fixture
def worked(inside, settings):
    """Let a worker empty the queues; it reconstructs in this process unless `make` says otherwise."""
    store = Store(settings)

    def here(work, manifest, folder, watch):
        return reconstruct(store, manifest, folder, library=LIBRARY, committed=work.committed, watch=watch)

    def run(make=here):
        inside(lambda centre: work(centre, EVERY, make, signals=False, wait=False))

    return run


def fetched(site, scan: str) -> tuple[ReturnedSeries, dict[str, bytes]]:
    listed = [ReturnedSeries.of(one) for one in site.ask("GET", "/returns").json()["series"]]
    series = next(one for one in listed if one.scan == scan)
    return series, {one.name: site.ask("GET", f"/scans/{scan}/series/{one.name}").content for one in series.files}


def test_a_packed_scan_comes_back_as_a_judged_series_and_the_same_one_every_time(site, worked, packed, settings):
    """Done twice, as by a worker that was thought dead: the same files under the same digests."""
    pieces, content = packed
    assert len(pieces) > 2
    said = {"content": content, "study": (("PatientID", "7f1c22"), ("PatientSex", "F")), "recipe": "routine-head"}
    manifest = site.send(pieces, **said)
    made = []

    store = Store(settings)

    def twice(work, manifest, folder, watch):
        for name in ("first", "second"):
            (folder / name).mkdir()
            made.append(
                reconstruct(store, manifest, folder / name, library=LIBRARY, committed=work.committed, watch=watch)
            )
        return made[-1]

    worked(twice)
    status = site.state(manifest.scan)
    assert (status["state"], status["reason"]) == ("done", None)
    assert made[0] == made[1]
    series, files = fetched(site, manifest.scan)
    assert {one.name: one.sha256 for one in series.files} == {
        name: hashlib.sha256(data).hexdigest() for name, data in files.items()
    }
    assert series.verdict in ("pass", "look", "stop")
    (event,) = dicom.read_dose_report(pydicom.dcmread(io.BytesIO(files["structured/dose.dcm"])))
    scanner = simulate.scanner("small")
    assert event.ctdivol_mgy == pytest.approx(scanner.ctdivol_mgy(120.0, 50.0, 1.0, 32), rel=1e-5)
    assert event.source == "System Calculated"
    assert {"structured/assessment.dcm", "structured/key_images.dcm"} <= set(files)
    assert {"assessment.json", "report.html"} <= set(files)
    image = pydicom.dcmread(io.BytesIO(files["ct_00001.dcm"]))
    assert (image.Modality, image.PatientID, str(image.PatientName)) == ("CT", "7f1c22", "")


def test_what_arrives_at_the_worker_is_what_was_sent(site, inside, packed, tmp_path):
    pieces, _ = packed
    manifest = site.send(pieces)

    async def laid_out(centre):
        return lay_out(centre.store, manifest, tmp_path)

    assert inside(laid_out).read_bytes() == b"".join(pieces)


def test_many_parts_lie_under_their_names(site, inside, tmp_path):
    manifest = site.manifest(
        [b"a"], parts=(Part("x/a", (Chunk.of(b"a"),)), Part("b", (Chunk.of(b"b"), Chunk.of(b"a"))))
    )
    site.open(manifest)
    for piece in (b"a", b"b"):
        site.put(manifest.scan, piece)
    assert site.commit(manifest).status_code == 202

    async def laid_out(centre):
        (tmp_path / "raw").mkdir()
        return lay_out(centre.store, manifest, tmp_path / "raw")

    folder = inside(laid_out)
    assert {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()} == {
        "x/a": b"a", "b": b"ba"}  # fmt: skip


def refused(site, worked, pieces, **said) -> dict[str, str]:
    manifest = site.send(pieces, **said)
    worked()
    status = site.state(manifest.scan)
    assert status["state"] == "refused", status
    return dict(status["reason"])


def test_a_scan_that_is_not_what_it_says_is_refused(site, worked, packed):
    pieces, content = packed
    assert "manifest says" in refused(site, worked, pieces, content="ab" * 32)["message"]
    assert refused(site, worked, [b"PK\3\4" + b"zip" * 100])["code"] == "INPUT_FORMAT"
    assert refused(site, worked, pieces[:-1], content=content)["code"] == "INPUT_FORMAT"
    assert "no recipe" in refused(site, worked, pieces, recipe="methods.json")["message"]


def test_an_unknown_recipe_is_the_fault_of_whoever_named_it():
    manifest = Manifest("0" * 32, "st-anna", "2026-11-21T08:15:02Z", "lraw")
    with pytest.raises(MachineError, match="no recipe 'best'"):
        recipe_of(manifest, dataclasses.replace(LIBRARY, default="best"), SimpleNamespace(acquisition=Acquisition()))
    with pytest.raises(InputError, match=r"no recipe 'methods\.json'"):
        recipe_of(dataclasses.replace(manifest, recipe="methods.json"), LIBRARY, None)
    assert recipe_of(dataclasses.replace(manifest, recipe="swift"), LIBRARY, None).name == "swift"


def test_a_damaged_store_is_noticed_and_the_scan_is_not_refused_for_it(site, worked, packed, settings):
    """A bit that flipped on the centre's disk is the centre's fault, and may pass when the disk is restored."""
    pieces, _ = packed
    manifest = site.send(pieces)
    digest = manifest.parts[0].chunks[1].digest
    (place,) = (settings.folder / "objects").rglob(digest)
    place.write_bytes(bytes([pieces[1][0] ^ 1]) + pieces[1][1:])
    worked()
    status = site.state(manifest.scan)
    assert (status["state"], status["reason"]["code"]) == ("queued", "MACHINE_DAMAGED")


def test_a_hand_that_dies_is_told_of_and_the_next_one_does_the_work(site, worked, packed, settings, rows):
    """The process that computes is killed in the middle of a scan, as by the kernel for want of memory."""
    manifest = site.send(packed[0], recipe="routine-head", content=packed[1])
    hand, killed = Hand(settings), []

    def make(work, manifest, folder, watch):
        def killing(station, done):
            watch(station, done)
            if not killed:
                killed.append(hand.pid)
                os.kill(hand.pid, signal.SIGKILL)

        return hand.make(work, manifest, folder, killing)

    try:
        worked(make)
        status = site.state(manifest.scan)
        assert (status["state"], status["reason"]["code"]) == ("queued", "WORKER_DIED")
        assert "signal 9" in status["reason"]["message"]
        rows("UPDATE procrastinate_jobs SET scheduled_at = now()")
        worked(make)
        assert site.state(manifest.scan)["state"] == "done"
        bad = site.send([b"no scan"])
        worked(make)
        assert site.state(bad.scan)["reason"]["code"] == "INPUT_FORMAT"
    finally:
        hand.close()
    assert hand.pid is None
