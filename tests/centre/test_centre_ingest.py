"""Scans arrive once, whole and byte for byte, however often and in whatever order a site asks."""

import dataclasses
import hashlib
import json
from concurrent.futures import ThreadPoolExecutor

import pytest

from lampyris.centre import store

PIECES = [b"first" * 1000, b"second" * 777, b"third" * 3]


def stored(settings) -> dict[str, bytes]:
    """Every object of the store by its name."""
    return {path.name: path.read_bytes() for path in (settings.folder / "objects").rglob("*") if path.is_file()}


def test_a_scan_goes_from_open_to_queued_and_its_bytes_are_kept(site, settings, rows):
    manifest = site.manifest(PIECES, priority="stat")
    answer = site.open(manifest)
    assert (answer.status_code, answer.json()["state"]) == (201, "open")
    missing = site.announce(manifest).json()
    assert missing == {"missing": [chunk.digest for chunk in manifest.parts[0].chunks], "more": False}
    for piece in PIECES[::-1]:
        assert site.put(manifest.scan, piece).status_code == 204
    assert site.announce(manifest).json() == {"missing": [], "more": False}
    assert site.state(manifest.scan)["received_bytes"] == manifest.size
    answer = site.commit(manifest)
    assert answer.status_code == 202
    assert (answer.json()["state"], answer.json()["manifest"]) == ("queued", manifest.digest())
    assert stored(settings) == {hashlib.sha256(piece).hexdigest(): piece for piece in PIECES}
    assert rows("SELECT count(*) FROM chunk") == [(0,)]
    assert rows("SELECT queue_name FROM procrastinate_jobs") == [("stat",)]
    assert [state for (state,) in rows("SELECT state FROM event ORDER BY number")] == ["open", "queued"]


def test_every_request_may_be_repeated(site, settings, rows):
    manifest = site.manifest(PIECES)
    assert [site.open(manifest).status_code for _ in range(2)] == [201, 200]
    assert [site.put(manifest.scan, piece).status_code for piece in PIECES * 2] == [204] * 6
    assert [site.commit(manifest).status_code for _ in range(3)] == [202, 200, 200]
    assert site.open(manifest).json()["state"] == "queued"
    assert site.put(manifest.scan, PIECES[0]).status_code == 204
    assert site.announce(manifest).json() == {"missing": [], "more": False}
    assert len(stored(settings)) == 3
    assert rows("SELECT count(*) FROM procrastinate_jobs") == [(1,)]
    assert rows("SELECT count(*) FROM chunk") == [(0,)]


def test_a_commit_without_all_chunks_says_which_are_missing(site):
    manifest = site.manifest(PIECES)
    site.open(manifest)
    site.put(manifest.scan, PIECES[1])
    answer = site.commit(manifest)
    assert (answer.status_code, answer.json()["code"], answer.json()["retry"]) == (409, "CHUNKS_MISSING", True)
    assert answer.json()["missing"] == [manifest.parts[0].chunks[each].digest for each in (0, 2)]
    assert site.state(manifest.scan)["state"] == "open"


def test_many_commits_at_once_make_one_job(site, rows):
    manifest = site.manifest(PIECES)
    site.open(manifest)
    for piece in PIECES:
        site.put(manifest.scan, piece)
    with ThreadPoolExecutor(6) as pool:
        answers = [one.status_code for one in pool.map(lambda _: site.commit(manifest), range(6))]
    assert sorted(answers) == [200] * 5 + [202]
    assert rows("SELECT count(*) FROM procrastinate_jobs") == [(1,)]


def test_the_same_scan_opened_from_many_threads_is_one(site, rows):
    manifest = site.manifest(PIECES)
    with ThreadPoolExecutor(6) as pool:
        answers = [one.status_code for one in pool.map(lambda _: site.open(manifest), range(6))]
    assert sorted(answers) == [200] * 5 + [201]
    assert rows("SELECT count(*) FROM scan") == [(1,)]


def test_a_chunk_that_was_changed_on_the_way_is_refused(site, settings):
    manifest = site.manifest(PIECES)
    site.open(manifest)
    flipped = bytes([PIECES[0][0] ^ 1]) + PIECES[0][1:]
    answer = site.put(manifest.scan, flipped, manifest.parts[0].chunks[0].digest)
    assert (answer.status_code, answer.json()["code"], answer.json()["retry"]) == (422, "CHUNK_DIGEST", True)
    assert stored(settings) == {}


def test_a_chunk_of_another_scan_is_not_found(site):
    """No scan can be committed with bytes that were sent for another: not even of the same site."""
    first, second = site.manifest(PIECES), site.manifest(PIECES)
    site.open(first)
    site.open(second)
    for piece in PIECES:
        site.put(first.scan, piece)
    assert site.commit(second).json()["code"] == "CHUNKS_MISSING"


def test_a_size_that_a_chunk_does_not_have_is_refused(site):
    manifest = site.manifest(PIECES)
    site.open(manifest)
    for piece in PIECES:
        site.put(manifest.scan, piece)
    whole = json.loads(manifest.to_json())
    whole["parts"][0]["chunks"][0][1] += 1
    text = site.key.sign(json.dumps(whole).encode(), "lampyris-manifest+jws")
    answer = site.ask("POST", f"/scans/{manifest.scan}/commit", kind="application/jose", content=text)
    assert (answer.status_code, answer.json()["code"]) == (422, "INPUT_MANIFEST")


@pytest.mark.parametrize("change", [{"priority": "stat"}, {"study": (("PatientID", "x"),)}, {"recipe": "swift"}])
def test_what_the_skeleton_said_is_not_changed_on_commit(site, change):
    manifest = site.manifest(PIECES)
    site.open(manifest)
    for piece in PIECES:
        site.put(manifest.scan, piece)
    changed = dataclasses.replace(manifest, **change)
    assert site.commit(changed).json()["code"] == "CONFLICT"
    assert site.open(changed).json()["code"] == "CONFLICT"
    assert site.commit(manifest).status_code == 202


def test_another_manifest_after_the_commit_is_a_conflict(site):
    manifest = site.send(PIECES)
    other = dataclasses.replace(manifest, content="ab" * 32)
    assert site.commit(other).json()["code"] == "CONFLICT"


def test_a_withdrawn_scan_is_refused_and_takes_nothing_more(site, rows):
    manifest = site.manifest(PIECES)
    site.open(manifest)
    site.put(manifest.scan, PIECES[0])
    for _ in range(2):
        answer = site.ask("POST", f"/scans/{manifest.scan}/withdraw")
        assert (answer.status_code, answer.json()["state"], answer.json()["reason"]["code"]) == (
            200,
            "refused",
            "WITHDRAWN",
        )
    assert site.put(manifest.scan, PIECES[1]).status_code == 409
    assert site.announce(manifest).status_code == 409
    assert site.commit(manifest).status_code == 409
    assert rows("SELECT count(*) FROM chunk") == [(0,)]


def test_what_was_committed_cannot_be_withdrawn(site):
    manifest = site.send(PIECES)
    assert site.ask("POST", f"/scans/{manifest.scan}/withdraw").status_code == 409


def test_a_site_with_enough_open_scans_is_told_to_wait_and_stat_is_let_in(site):
    """Three may be open here, and as many again for STAT."""
    for _ in range(3):
        assert site.open(site.manifest(PIECES)).status_code == 201
    answer = site.open(site.manifest(PIECES))
    assert (answer.status_code, answer.json()["code"], answer.json()["retry"]) == (429, "WAIT", True)
    assert int(answer.headers["retry-after"]) > 0
    assert site.open(site.manifest(PIECES, priority="stat")).status_code == 201


def test_a_centre_that_is_behind_asks_routine_scans_to_wait(site, other):
    for _ in range(3):
        site.send(PIECES)
    assert other.open(other.manifest(PIECES)).status_code == 503
    assert other.open(other.manifest(PIECES, priority="stat")).status_code == 201


def test_a_centre_without_space_takes_nothing_and_loses_nothing(site, client, app, monkeypatch):
    manifest = site.manifest(PIECES)
    site.open(manifest)
    monkeypatch.setattr(app.state.centre.store, "free_bytes", lambda: 0)
    assert site.put(manifest.scan, PIECES[0]).status_code == 503
    assert site.open(site.manifest(PIECES)).status_code == 503
    assert client.get("/readyz").status_code == 503
    monkeypatch.undo()
    assert site.put(manifest.scan, PIECES[0]).status_code == 204


def test_a_disk_that_fails_is_told_as_waiting(site, client, app, monkeypatch):
    manifest = site.manifest(PIECES)
    site.open(manifest)

    def fail(_folder, _key, _data):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(store, "_settle", fail)
    answer = site.put(manifest.scan, PIECES[0])
    assert (answer.status_code, answer.json()["code"]) == (503, "WAIT")
    monkeypatch.undo()
    assert site.announce(manifest).json()["missing"][0] == manifest.parts[0].chunks[0].digest


def test_scans_are_listed_in_pages(site):
    for _ in range(3):
        site.open(site.manifest(PIECES))
    first = site.ask("GET", "/scans?limit=2").json()["scans"]
    rest = site.ask("GET", f"/scans?after={first[-1]['scan']}").json()["scans"]
    ids = [one["scan"] for one in first + rest]
    assert len(ids) == 3
    assert ids == sorted(ids)
