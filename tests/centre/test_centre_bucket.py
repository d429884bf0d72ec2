"""The store keeps its word on a bucket of S3 as on a folder; an independent server judges (moto)."""

import asyncio
import dataclasses
import hashlib
import json
from collections.abc import Iterator

import httpx
import obstore
import pytest
from centre_site import Site, served

from lampyris.centre import Settings, opened
from lampyris.centre.api import create
from lampyris.centre.jobs.reconstruct import keep
from lampyris.centre.jobs.worker import work
from lampyris.centre.store import DamagedError, Store, series_prefix
from lampyris.model import StorageError
from lampyris.transfer import ReturnedSeries

pytestmark = pytest.mark.judge
DATA = b"content" * 1000
DIGEST = hashlib.sha256(DATA).hexdigest()


@pytest.fixture
def endpoint(package, monkeypatch) -> Iterator[str]:
    """A server of S3 with one bucket, and the environment that an operator gives."""
    package("moto")
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    address = f"http://{host}:{port}"
    for name, value in {
        "AWS_ENDPOINT_URL": address, "AWS_ALLOW_HTTP": "true", "AWS_REGION": "us-east-1",
        "AWS_ACCESS_KEY_ID": "key", "AWS_SECRET_ACCESS_KEY": "secret",
    }.items():  # fmt: skip
        monkeypatch.setenv(name, value)
    # What one server of a process was given the next one would still have.
    assert httpx.post(f"{address}/moto-api/reset", trust_env=False).status_code == 200
    assert httpx.put(f"{address}/bucket", trust_env=False).status_code == 200
    yield address
    server.stop()


@pytest.fixture
def store(endpoint, tmp_path) -> Store:
    return Store(Settings(tmp_path, store="s3://bucket/deep/prefix"))


def keys(store: Store) -> list[str]:
    return [one["path"] for page in obstore.list(store.store) for one in page]


def test_what_is_put_comes_back_once(store):
    for _ in range(2):
        asyncio.run(store.put("raw/a/b", DIGEST, [DATA]))
    assert store.get("raw/a/b", DIGEST) == DATA
    assert keys(store) == [f"raw/a/b/{DIGEST[:2]}/{DIGEST}"]
    assert store.free_bytes() is None


def test_a_file_in_several_parts_comes_back_in_any_range(store, tmp_path):
    """Above 5 MiB an upload has parts; none is left open, and what is fetched in ranges is the same."""
    data = bytes(range(251)) * 60_000
    (tmp_path / "file").write_bytes(data)
    size, digest = store.put_file("series/a/b", tmp_path / "file")
    assert (size, digest) == (len(data), hashlib.sha256(data).hexdigest())

    async def ranged(first: int, last: int) -> bytes:
        return b"".join([piece async for piece in store.stream("series/a/b", digest, first, last)])

    assert asyncio.run(ranged(0, size - 1)) == data
    assert asyncio.run(ranged(4_194_303, 9_000_001)) == data[4_194_303:9_000_002]


def test_what_changed_or_is_gone_is_noticed(store):
    asyncio.run(store.put("raw/a/b", DIGEST, [DATA]))
    obstore.put(store.store, f"raw/a/b/{DIGEST[:2]}/{DIGEST}", DATA[:-1])
    with pytest.raises(DamagedError, match="not what was stored"):
        store.get("raw/a/b", DIGEST)
    with pytest.raises(DamagedError, match="gone"):
        store.get("raw/a/c", DIGEST)


def test_deleting_takes_every_object_of_one_scan_and_no_neighbour(store, monkeypatch):
    """More than five pages of a listing, and than one request deletes (500)."""
    monkeypatch.setenv("MOTO_S3_DEFAULT_MAX_KEYS", "100")
    for each in range(503):  # one after the other: the server loses some of those that come together
        obstore.put(store.store, f"raw/a/b/{each:04}", b"x")
    for prefix in ("raw/a/bc", "raw/ab/b"):
        asyncio.run(store.put(prefix, DIGEST, [DATA]))
    assert [store.delete_all("raw/a/b") for _ in range(2)] == [503, 0]
    assert store.get("raw/a/bc", DIGEST) == store.get("raw/ab/b", DIGEST) == DATA
    assert len(keys(store)) == 2


def test_a_bucket_that_is_not_there_is_the_operators_matter(endpoint, tmp_path):
    store = Store(Settings(tmp_path, store="s3://another/prefix"))
    with pytest.raises(StorageError):
        asyncio.run(store.put("raw/a/b", DIGEST, [DATA]))


def test_a_scan_goes_through_a_bucket_and_comes_home(endpoint, settings, invite):
    """Sent, reconstructed by a worker that shares nothing but bucket and database, fetched, and forgotten."""
    bucket = dataclasses.replace(settings, store="s3://bucket/centre")

    def make(work, manifest, folder, watch):
        chunk = manifest.parts[0].chunks[0]
        assert Store(bucket).get(f"raw/{manifest.site}/{manifest.scan}", chunk.digest) == DATA
        (folder / "CT_1.dcm").write_bytes(b"image")
        return keep(Store(bucket), series_prefix(manifest.site, manifest.scan), folder), "pass"

    async def worker() -> None:
        async with opened(bucket, connections=4) as centre:
            await work(centre, ("routine",), make=make, signals=False, wait=False)

    with served(create(bucket)) as client:
        site = Site(client, "st-anna", invite("st-anna"))
        manifest = site.send([DATA])
        asyncio.run(worker())
        (listed,) = site.ask("GET", "/returns").json()["series"]
        series = ReturnedSeries.of(listed)
        assert site.ask("GET", f"/scans/{manifest.scan}/series/ct_1.dcm").content == b"image"
        body = json.dumps({"digest": series.digest()})
        assert site.ask("POST", f"/scans/{manifest.scan}/acknowledge", content=body).status_code == 200
    assert len(keys(Store(bucket))) == 2
