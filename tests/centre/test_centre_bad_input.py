"""What a site with a wrong clock, a stale token or bad intent may send: refused, and nothing is lost."""

import dataclasses
import hashlib
import json
import time
import zipfile
from types import SimpleNamespace

import h5py
import numpy as np
import pytest
from centre_site import settle, slow_put

from lampyris import raw
from lampyris.centre.api import access as api_access
from lampyris.centre.jobs.reconstruct import reconstruct
from lampyris.centre.jobs.worker import work
from lampyris.centre.recipes.choice import Library
from lampyris.centre.store import Store
from lampyris.model import Gantry, Geometry, RawScan
from lampyris.site import Agent, Config, Surroundings
from lampyris.site import client as line
from lampyris.site import enrol as enrol_site
from lampyris.site.config import CentreLink, Folder, Keeping, Watch
from lampyris.transfer import Chunk, Part, SiteKey, enrolment_request, limits

LIBRARY = Library.of_package()

PIECES = [b"first" * 1000, b"second" * 777]


@pytest.mark.parametrize(("ahead_s", "status"), [(-400, 401), (-150, 401), (-30, 200), (30, 200), (150, 401)])
def test_a_clock_may_be_wrong_by_a_minute(site, ahead_s, status):
    answer = site.show(site.assertion(now=int(time.time()) + ahead_s))
    assert answer.status_code == status, answer.text


@pytest.mark.parametrize(("ahead_s", "status"), [(-400, 422), (-200, 201), (200, 201), (400, 422)])
def test_a_site_enrols_with_a_clock_that_is_wrong_by_minutes(client, invite, ahead_s, status):
    body = enrolment_request(invite("late-site"), SiteKey.generate(), now=int(time.time()) + ahead_s)
    answer = client.post("/v1/enrolments", content=body, headers={"Content-Type": "application/jose"})
    assert answer.status_code == status, answer.text


@pytest.fixture
def config(tmp_path, client) -> Config:
    (tmp_path / "scans").mkdir()
    return Config(
        tmp_path / "site",
        CentreLink(str(client.base_url).rstrip("/")),
        (Folder("archive", tmp_path / "archive"),),
        watch=Watch(tmp_path / "scans", poll_s=0.1),
        spool=Keeping(free_gb=0.0),
    )


@pytest.fixture
def small_scan(config, monkeypatch) -> bytes:
    """A scan of a dozen chunks in the scanner's folder."""
    monkeypatch.setattr(limits, "CHUNK_BYTES", 7_013)
    gantry = Gantry(541.0, 949.0, 16, 61, (1.7, 2.9), True, 2.6, 31.25)
    geometry = Geometry.helical(gantry, views=41, views_per_turn=41, table_feed_mm=-6.3)
    counts = np.random.default_rng(5).integers(900, 60_000, geometry.shape, dtype=np.uint16)
    scan = RawScan(counts, geometry, np.full(41, 0.3), air=np.full((1, 16, 61), 65_000.0), air_exposure_mas=0.3)
    packed = b"".join(part.content for part in raw.pack(scan, raw.Decision("lossless", "a test"), part_bytes=1 << 20))
    path = config.watch.folder / "scan.lraw"
    path.write_bytes(packed)
    path.with_name("scan.lraw.json").write_text(json.dumps({"purpose": "phantom"}), "utf-8")
    return packed


def rounds(agent: Agent, until) -> None:
    """Let the agent work until something is true; its waits are over at once, and far fewer rounds do."""
    for _ in range(500):
        if until():
            return
        agent.take_in()
        agent.send()
    raise AssertionError(agent.link.trouble)


def states(rows) -> list[str]:
    return [state for (state,) in rows("SELECT state FROM scan")]


class Clock:
    """Ten seconds at each look, so that nobody waits in earnest."""

    def __init__(self) -> None:
        self.at = 0.0

    def __call__(self) -> float:
        self.at += 10.0
        return self.at


def test_an_agent_whose_clock_is_wrong_says_so_and_goes_on_when_it_is_set(config, invite, small_scan, rows):
    ahead = [0.0]

    def now() -> float:
        return time.time() + ahead[0]

    with line(config.centre) as http:
        agent = Agent(
            config, enrol_site(http, config.folder, invite("st-anna"), now=now), http, Surroundings(now, Clock())
        )
        ahead[0] = 3600.0
        rounds(agent, lambda: agent.link.trouble is not None)
        assert "is the clock right" in agent.link.trouble
        assert states(rows) == []
        ahead[0] = 0.0
        rounds(agent, lambda: states(rows) == ["queued"])
        assert agent.link.trouble is None


def test_an_agent_whose_token_ends_in_the_middle_gets_another_and_goes_on(config, invite, small_scan, rows):
    """As when the operator deletes the secret; every chunk arrives, and none is put twice."""
    put = []

    def at(point: str) -> None:
        if point == "put":
            put.append(1)
            if len(put) % 5 == 0:
                rows("DELETE FROM token_secret")

    with line(config.centre) as http:
        site = enrol_site(http, config.folder, invite("st-anna"), now=time.time)
        agent = Agent(config, site, http, Surroundings(time.time, Clock(), at=at))
        rounds(agent, lambda: states(rows) == ["queued"])
    size = len(small_scan)
    assert len(put) == -(-size // limits.CHUNK_BYTES) > 10
    assert rows("SELECT bytes FROM scan") == [(size,)]


def test_a_chunk_that_began_under_a_good_token_is_taken_and_the_next_one_is_not(site, app, monkeypatch):
    now = [int(time.time())]
    monkeypatch.setattr(api_access, "time", SimpleNamespace(time=lambda: now[0]))
    manifest = site.manifest(PIECES)
    site.open(manifest)
    digest = hashlib.sha256(PIECES[0]).hexdigest()
    with slow_put(site, manifest.scan, len(PIECES[0]), digest) as connection:
        connection.sendall(PIECES[0][:100])
        settle(app, 1)
        now[0] += limits.TOKEN_SECONDS + 1
        connection.sendall(PIECES[0][100:])
        assert b" 204 " in connection.recv(4096).splitlines()[0]
    answer = site.put(manifest.scan, PIECES[1])
    assert (answer.status_code, answer.json()["code"]) == (401, "TOKEN")
    site.token = site.show(site.assertion(now=now[0])).json()["access_token"]
    assert site.announce(manifest).json()["missing"] == [hashlib.sha256(PIECES[1]).hexdigest()]


def test_a_commit_cannot_be_shown_for_another_scan_or_again(site, other, rows):
    first, second = site.send(PIECES), site.manifest(PIECES)
    site.open(second)
    for piece in PIECES:
        site.put(second.scan, piece)
    (text,) = rows("SELECT signed FROM scan WHERE id = %s", first.scan)[0]

    def replay(who, scan):
        answer = who.ask("POST", f"/scans/{scan}/commit", kind="application/jose", content=text)
        return answer.status_code, answer.json().get("code")

    assert replay(site, second.scan) == (422, "INPUT_SIGNATURE")
    assert replay(other, first.scan) == (422, "INPUT_SIGNATURE")
    assert replay(site, first.scan) == (200, None)
    assert site.state(second.scan)["state"] == "open"
    assert rows("SELECT count(*) FROM procrastinate_jobs") == [(1,)]
    rows("DELETE FROM scan WHERE id = %s", first.scan)
    assert replay(site, first.scan) == (404, "NOT_FOUND")


def test_a_chunk_of_no_bytes_or_another_length_is_refused(site, settings):
    manifest = site.manifest(PIECES)
    site.open(manifest)
    assert site.put(manifest.scan, b"").json()["code"] == "INPUT_MANIFEST"
    site.put(manifest.scan, PIECES[0])
    digest = hashlib.sha256(PIECES[0]).hexdigest()
    body = json.dumps({"parts": [{"name": "scan.lraw", "chunks": [[digest, len(PIECES[0]) - 1]]}]})
    assert site.ask("POST", f"/scans/{manifest.scan}/parts", content=body).json()["code"] == "INPUT_MANIFEST"
    with slow_put(site, manifest.scan, len(PIECES[1]), hashlib.sha256(PIECES[1]).hexdigest()) as connection:
        connection.sendall(PIECES[1] + b"GET /v1 HTTP/1.1\r\n")  # what is too much is another request, and none of ours
        assert b" 204 " in connection.recv(4096).splitlines()[0]
    stored = {path.name: path.read_bytes() for path in (settings.folder / "objects").rglob("*") if path.is_file()}
    assert stored == {hashlib.sha256(piece).hexdigest(): piece for piece in PIECES}


NAMES = ["../x", "/etc/x", "a/../../x", "a\\..\\x", ".x", "a/.x", "CON\0", "x" * 400, "a//x", "a/b/c/d/e", "ä", ""]


@pytest.mark.parametrize("name", NAMES)
def test_a_name_that_leads_elsewhere_is_neither_announced_nor_committed(site, settings, name):
    manifest = site.manifest(PIECES)
    site.open(manifest)
    for piece in PIECES:
        site.put(manifest.scan, piece)
    whole = json.loads(manifest.to_json())
    whole["parts"][0]["name"] = name
    text = site.key.sign(json.dumps(whole).encode(), "lampyris-manifest+jws")
    answers = [
        site.ask("POST", f"/scans/{manifest.scan}/commit", kind="application/jose", content=text),
        site.ask("POST", f"/scans/{manifest.scan}/parts", content=json.dumps({"parts": whole["parts"]})),
    ]
    assert [(each.status_code, each.json()["code"]) for each in answers] == [(422, "INPUT_MANIFEST")] * 2
    assert site.commit(manifest).status_code == 202


def test_a_manifest_of_another_sites_key_commits_nothing(site, other):
    """Neither in its own name nor in the other's; the scan is still there for whoever opened it."""
    manifest = site.manifest(PIECES)
    site.open(manifest)
    for piece in PIECES:
        site.put(manifest.scan, piece)
    named = dataclasses.replace(manifest, site=other.name)
    for who, what in ((site, manifest), (site, named), (other, named), (other, manifest)):
        answer = who.commit(what, key=other.key)
        assert answer.json()["code"] in ("INPUT_SIGNATURE", "NOT_FOUND"), answer.text
    assert site.commit(manifest).status_code == 202


def deflated(folder) -> bytes:
    """A zip that says it is a scan: 64 megabytes of zeros in 64 kilobytes."""
    with (
        zipfile.ZipFile(folder / "bomb.zip", "w", zipfile.ZIP_DEFLATED) as archive,
        archive.open("zarr.json", "w") as member,
    ):
        for _ in range(64):
            member.write(bytes(1 << 20))
    return (folder / "bomb.zip").read_bytes()


def sparse(folder) -> bytes:
    """A table of counts of which six views are stored, so that its axis is found: two gigabytes in a megabyte."""
    rng, shape = np.random.default_rng(5), (6000, 2048, 91)
    view = rng.integers(100, 60_000, shape[1:], dtype=np.uint16)
    with h5py.File(folder / "bomb.h5", "w") as file:
        data = file.create_dataset("exchange/data", shape, "u2", chunks=(1, *shape[1:]), compression="gzip")
        for number in range(3):
            data[number], data[-1 - number] = view, view[:, ::-1]
        file["exchange/theta"] = np.linspace(0.0, 180.0, shape[0])
    return (folder / "bomb.h5").read_bytes()


@pytest.mark.parametrize(("bomb", "name"), [(deflated, "scan.lraw"), (sparse, "scan.h5")])
def test_a_bomb_is_refused_before_it_goes_off(site, inside, settings, tmp_path, bomb, name):
    """And the worker goes on with the next one."""
    data, store = bomb(tmp_path), Store(settings)
    manifest = site.send([data], parts=(Part(name, (Chunk.of(data),)),))
    harmless = site.send(PIECES)

    def make(work, manifest, folder, watch):
        return reconstruct(store, manifest, folder, library=LIBRARY, committed=work.committed, watch=watch)

    inside(lambda centre: work(centre, ("routine",), make, signals=False, wait=False))
    for scan in (manifest.scan, harmless.scan):
        status = site.state(scan)
        assert (status["state"], status["reason"]["code"]) == ("refused", "INPUT_FORMAT"), status
    assert ("a bomb?" in site.state(manifest.scan)["reason"]["message"]) == (bomb is sparse)
