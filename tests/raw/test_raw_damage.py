"""A `.lraw` that was cut, changed, half written or forged is refused; a failed write leaves what was there."""

import hashlib
import io
import json
import os
import signal
import subprocess
import sys
import textwrap
import time
import zipfile
from pathlib import Path

import google_crc32c
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lampyris import raw
from lampyris.model import FormatError, Gantry, Geometry, InputError, RawScan, StorageError
from lampyris.model.arrays import canonical_json
from lampyris.raw.container import bundle


def small_scan(views: int = 60, scale: int = 900) -> RawScan:
    gantry = Gantry(541.0, 949.0, 5, 31, (1.7, 2.9), True, 1.6, 14.25)
    geometry = Geometry.helical(gantry, views=views, views_per_turn=25, table_feed_mm=3.0)
    counts = np.random.default_rng(5).integers(0, scale, geometry.shape).astype(np.uint16)
    return RawScan(counts, geometry, np.full(views, 0.3), air=np.full((5, 31), 1e3), dark=np.zeros((5, 31)))


@pytest.fixture(scope="module")
def stored(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("lraw") / "x.lraw"
    raw.write(small_scan(), path)
    return path


def rewritten(stored: Path, target: Path, change: dict[str, bytes | None], forge: bool = False) -> Path:
    """The same zip with some members replaced (None = left out, new names = added); `forge` renews all digests."""
    with zipfile.ZipFile(stored) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    members |= {name: content for name, content in change.items() if content is not None}
    members = {name: content for name, content in members.items() if change.get(name, b"") is not None}
    if forge:
        root = json.loads(members["zarr.json"])
        manifest = root["attributes"]["lampyris"]
        manifest.pop("sha256")
        manifest["members"] = {
            name: [len(content), hashlib.sha256(content).hexdigest()]
            for name, content in members.items()
            if name != "zarr.json"
        }
        manifest["sha256"] = hashlib.sha256(canonical_json(manifest).encode()).hexdigest()
        members["zarr.json"] = json.dumps(root).encode()
    with zipfile.ZipFile(target, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return target


def manifest_of(stored: Path) -> dict:
    with zipfile.ZipFile(stored) as archive:
        return json.loads(archive.read("zarr.json"))


def with_facts(stored: Path, target: Path, **facts) -> Path:
    """A forgery: facts replaced and the manifest's digest renewed."""
    root = manifest_of(stored)
    manifest = root["attributes"]["lampyris"]
    manifest["facts"] |= facts
    manifest.pop("sha256")
    text = json.dumps(manifest, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    manifest["sha256"] = hashlib.sha256(text.encode()).hexdigest()
    return rewritten(stored, target, {"zarr.json": json.dumps(root).encode()})


def test_a_rewritten_copy_is_still_good(stored, tmp_path):
    """So that the refusals below are of the damage, not of the copying."""
    for forge in (False, True):
        path = rewritten(stored, tmp_path / "y.lraw", {}, forge)
        raw.verify(path)
        assert raw.read(path).id == small_scan().id


def test_truncated_files_do_not_open(stored, tmp_path):
    whole = stored.read_bytes()
    for share in (0.0, 0.1, 0.5, 0.9, 0.999):
        (tmp_path / "y.lraw").write_bytes(whole[: int(share * len(whole))])
        with pytest.raises(FormatError, match=r"truncated"):
            raw.read(tmp_path / "y.lraw")


def test_a_changed_count_is_found_and_named(stored, tmp_path):
    with zipfile.ZipFile(stored) as archive:
        shard = bytearray(archive.read("counts/c/1/0/0"))
    shard[40] ^= 1
    path = rewritten(stored, tmp_path / "y.lraw", {"counts/c/1/0/0": bytes(shard)})
    again = raw.read(path)
    np.testing.assert_array_equal(again.counts[:25], small_scan().counts[:25])
    with pytest.raises(FormatError, match=r"y.lraw: counts cannot be decoded.*damaged"):
        again.counts[30]
    with pytest.raises(FormatError, match=r"1 of \d+ members .*counts/c/1/0/0 \(views 25…49\)"):
        raw.verify(path)


def test_a_forged_count_is_found_by_the_id(stored, tmp_path):
    """All digests of members renewed: only the scan's own id still tells."""
    other = tmp_path / "other.lraw"
    scan = small_scan()
    counts = np.array(scan.counts)
    counts[30, 2, 2] += 1
    raw.write(RawScan(counts, scan.geometry, scan.exposure_mas, air=scan.air, dark=scan.dark), other)
    with zipfile.ZipFile(other) as archive:
        shard = archive.read("counts/c/1/0/0")
    path = rewritten(stored, tmp_path / "y.lraw", {"counts/c/1/0/0": shard}, forge=True)
    raw.read(path)
    with pytest.raises(FormatError, match="renewed the members' digests"):
        raw.verify(path)


def test_a_changed_calibration_is_found_on_opening(stored, tmp_path):
    with zipfile.ZipFile(stored) as archive:
        air = bytearray(archive.read("air/c/0/0/0"))
    air[3] ^= 0x40
    path = rewritten(stored, tmp_path / "y.lraw", {"air/c/0/0/0": bytes(air)})
    with pytest.raises(FormatError, match=r"member air/c/0/0/0 differs from its digest"):
        raw.read(path)


@pytest.mark.parametrize("name", ["counts/c/2/0/0", "source/c/0/0", "counts/zarr.json"])
def test_a_missing_member_is_named(stored, tmp_path, name):
    path = rewritten(stored, tmp_path / "y.lraw", {name: None})
    with pytest.raises(FormatError, match=rf"{name} \(None bytes stored"):
        raw.read(path)


def test_a_forged_file_without_a_shard_is_refused(stored, tmp_path):
    """Zarr would fill the gap with zeros."""
    path = rewritten(stored, tmp_path / "y.lraw", {"counts/c/2/0/0": None}, forge=True)
    with pytest.raises(FormatError, match="need 3 shards, the file holds 2"):
        raw.read(path)


def test_an_added_member_is_named(stored, tmp_path):
    path = rewritten(stored, tmp_path / "y.lraw", {"virus.exe": b"MZ"})
    with pytest.raises(FormatError, match=r"virus.exe \(2 bytes stored"):
        raw.read(path)


def test_a_forged_shape_is_refused_before_memory_is_taken(stored, tmp_path):
    """10^9 declared views in the bytes of 60, for the counts and for a small array."""
    for name, says in (("counts", "need 40000000 shards"), ("exposure_mas", "8000000000")):
        with zipfile.ZipFile(stored) as archive:
            meta = json.loads(archive.read(f"{name}/zarr.json"))
        meta["shape"][0] = 10**9
        if name == "exposure_mas":
            meta["chunk_grid"]["configuration"]["chunk_shape"] = [10**9]
            says = r"\(1000000000,\) float64 declared, 484 bytes stored"
        path = rewritten(stored, tmp_path / "y.lraw", {f"{name}/zarr.json": json.dumps(meta).encode()}, forge=True)
        with pytest.raises(FormatError, match=says):
            raw.read(path)


def test_a_giant_shard_is_refused(stored, tmp_path):
    with zipfile.ZipFile(stored) as archive:
        meta = json.loads(archive.read("counts/zarr.json"))
    meta["chunk_grid"]["configuration"]["chunk_shape"][0] = 25 * 10**6
    meta["shape"][0] = 25 * 10**6
    change = {"counts/zarr.json": json.dumps(meta).encode(), "counts/c/1/0/0": None, "counts/c/2/0/0": None}
    with pytest.raises(FormatError, match="unfold to more than"):
        raw.read(rewritten(stored, tmp_path / "y.lraw", change, forge=True))


def test_a_newer_version_asks_for_an_update(stored, tmp_path):
    root = manifest_of(stored)
    root["attributes"]["lampyris"]["version"] = 3
    path = rewritten(stored, tmp_path / "y.lraw", {"zarr.json": json.dumps(root).encode()})
    with pytest.raises(FormatError, match="version 3, this program reads up to 2: update"):
        raw.read(path)


@pytest.mark.parametrize(
    ("facts", "says"),
    [
        ({"air_exposure_mas": float("nan")}, "manifest"),
        ({"air_exposure_mas": "0.3"}, "finite number"),
        ({"rows": 5.0}, "whole numbers"),
        ({"rows": 4}, "transposed frames"),
        ({"noise": {"gain_counts": -1.0, "electronic_counts": 0.0}}, "noise gain"),
        ({"colour": "red"}, "unknown facts.*colour"),
        ({"acquisition": {"PatientMood": "good"}}, "unknown acquisition facts.*PatientMood"),
        ({"acquisition": {"KVP": "high"}}, "KVP|finite"),
        ({"curvature_mm": True}, "finite number"),
    ],
)
def test_forged_facts_are_refused(stored, tmp_path, facts, says):
    with pytest.raises(FormatError, match=says):
        raw.read(with_facts(stored, tmp_path / "y.lraw", **facts))


def test_facts_that_do_not_fit_their_digest_are_refused(stored, tmp_path):
    root = manifest_of(stored)
    root["attributes"]["lampyris"]["facts"]["air_exposure_mas"] = 2.0
    with pytest.raises(FormatError, match="manifest differs from its digest"):
        raw.read(rewritten(stored, tmp_path / "y.lraw", {"zarr.json": json.dumps(root).encode()}))


def test_other_zips_are_refused(tmp_path):
    with zipfile.ZipFile(tmp_path / "y.lraw", "w") as archive:
        archive.writestr("hello.txt", "hello")
    with pytest.raises(FormatError, match=r"zip without zarr.json"):
        raw.read(tmp_path / "y.lraw")
    with zipfile.ZipFile(tmp_path / "z.lraw", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("zarr.json", "{}" * 900)
    with pytest.raises(FormatError, match="compressed by zip"):
        raw.read(tmp_path / "z.lraw")
    with zipfile.ZipFile(tmp_path / "w.lraw", "w") as archive:
        archive.writestr("zarr.json", '{"zarr_format":3,"node_type":"group","attributes":{}}')
    with pytest.raises(FormatError, match="no manifest of Lampyris"):
        raw.read(tmp_path / "w.lraw")


def attempt(path: Path) -> RawScan | None:
    """Open, read and verify; None where it was refused as it should be. Any other exception escapes."""
    try:
        scan = raw.read(path)
        np.asarray(scan.counts)
        raw.verify(path)
    except InputError:
        return None
    return scan


FUZZ = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@FUZZ
@given(place=st.floats(0, 1, exclude_max=True), bit=st.integers(0, 7))
def test_any_flipped_bit_is_refused_or_changes_nothing(stored, tmp_path, place, bit):
    """Dates and attributes of zip members carry no content; a flip there may pass."""
    content = bytearray(stored.read_bytes())
    content[int(place * len(content))] ^= 1 << bit
    (tmp_path / "y.lraw").write_bytes(content)
    scan = attempt(tmp_path / "y.lraw")
    assert scan is None or (scan.id == small_scan().id and np.array_equal(scan.counts[:], small_scan().counts))


@FUZZ
@given(place=st.floats(0, 1, exclude_max=True))
def test_any_truncation_is_refused(stored, tmp_path, place):
    content = stored.read_bytes()
    (tmp_path / "y.lraw").write_bytes(content[: int(place * len(content))])
    assert attempt(tmp_path / "y.lraw") is None


@FUZZ
@given(place=st.floats(0, 1, exclude_max=True), junk=st.binary(min_size=1, max_size=40))
def test_any_overwritten_bytes_are_refused_or_change_nothing(stored, tmp_path, place, junk):
    content = bytearray(stored.read_bytes())
    start = int(place * len(content))
    content[start : start + len(junk)] = junk
    (tmp_path / "y.lraw").write_bytes(content)
    scan = attempt(tmp_path / "y.lraw")
    assert scan is None or np.array_equal(scan.counts[:], small_scan().counts)


# ---- failed and killed writes


@pytest.mark.parametrize("after", [0, 3, 9, 20])
def test_a_full_disk_is_told_and_leaves_the_older_file(stored, tmp_path, monkeypatch, after):
    """ENOSPC after so many writes to the file."""
    target = tmp_path / "x.lraw"
    target.write_bytes(stored.read_bytes())
    left = [after]

    class Full(io.FileIO):
        def write(self, data, /):
            left[0] -= 1
            if left[0] < 0:
                raise OSError(28, "No space left on device")
            return super().write(data)

    monkeypatch.setattr(Path, "open", lambda self, mode="r", **_: Full(self, "xb" if "x" in mode else mode))
    with pytest.raises(StorageError, match="No space left on device"):
        raw.write(small_scan(scale=500), target)
    monkeypatch.undo()
    assert [each.name for each in tmp_path.iterdir()] == ["x.lraw"]
    assert target.read_bytes() == stored.read_bytes()


@pytest.mark.skipif(os.name != "posix", reason="limits of file size are POSIX")
def test_a_limit_of_the_file_system_is_told(tmp_path):
    """A real one: the process may not write files above 100 kB."""
    code = """
    import resource, sys
    sys.path.insert(0, sys.argv[1])
    from test_raw_damage import small_scan
    from lampyris import raw
    from lampyris.model import StorageError
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
    try:
        raw.write(small_scan(800), sys.argv[2])
    except StorageError as error:
        print(error)
    """
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", textwrap.dedent(code), Path(__file__).parent, tmp_path / "x.lraw"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert "File too large" in done.stdout
    assert done.stderr == ""
    assert not list(tmp_path.iterdir())


def test_a_missing_folder_is_told(tmp_path):
    with pytest.raises(StorageError, match="folder missing"):
        raw.write(small_scan(), tmp_path / "absent" / "x.lraw")


@pytest.mark.skipif(os.name != "posix", reason="SIGKILL is POSIX")
@pytest.mark.parametrize("point", ["begun", "half", "closed", "before rename"])
def test_a_killed_write_leaves_nothing_that_opens(tmp_path, stored, point):
    """The process kills itself at a named point; what lies about does not open, what was there still does."""
    code = """
    import os, signal, sys
    sys.path.insert(0, sys.argv[1])
    from pathlib import Path
    from test_raw_damage import small_scan
    from lampyris import raw
    from lampyris.raw.container import archive
    point = sys.argv[3]
    die = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
    if point == "begun":
        archive.fill = die
    elif point == "closed":
        archive.os.fsync = die
    elif point == "before rename":
        Path.replace = die
    progress = die if point == "half" else (lambda _: None)
    raw.write(small_scan(800), sys.argv[2], progress=progress)
    """
    target = tmp_path / "x.lraw"
    target.write_bytes(stored.read_bytes())
    arguments = [str(Path(__file__).parent), str(target), point]
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(code), *arguments], capture_output=True, check=False)
    assert done.returncode == -signal.SIGKILL
    left = [each for each in tmp_path.iterdir() if each != target]
    assert len(left) == 1
    for each in left:
        with pytest.raises(FormatError, match="never finished"):
            raw.read(each)
    assert raw.read(target).id == small_scan().id
    raw.write(small_scan(30), target)
    assert raw.read(target).views == 30


@pytest.mark.skipif(os.name != "posix", reason="SIGKILL is POSIX")
def test_a_write_killed_at_any_moment_leaves_no_target(tmp_path):
    code = """
    import sys
    sys.path.insert(0, sys.argv[1])
    from test_raw_damage import small_scan
    from lampyris import raw
    scan = small_scan(3000)
    print("ready", flush=True)
    while True:
        raw.write(scan, sys.argv[2])
    """
    target = tmp_path / "x.lraw"
    arguments = [sys.executable, "-c", textwrap.dedent(code), str(Path(__file__).parent), str(target)]
    with subprocess.Popen(arguments, stdout=subprocess.PIPE) as process:
        process.stdout.readline()
        time.sleep(0.13)
        process.kill()
    for each in tmp_path.iterdir():
        if each == target:
            raw.verify(each)
        else:
            with pytest.raises(FormatError):
                raw.read(each)


def test_a_member_is_written_once():
    with bundle.BundleWriter(io.BytesIO()) as store:
        assert store.supports_writes
        store.members["x"] = bundle.Member(1, "")
        assert store.names() == ["x"]


def forged_metadata(stored, tmp_path, member, change):
    """A member's metadata changed, all digests renewed."""
    with zipfile.ZipFile(stored) as archive:
        metadata = json.loads(archive.read(member))
    change(metadata)
    return rewritten(stored, tmp_path / "forged.lraw", {member: json.dumps(metadata).encode()}, forge=True)


def test_other_codecs_than_ours_are_refused_before_they_run(stored, tmp_path):
    """A gzip that would unfold to anything: in a small array, in the counts, in the index of the shards."""
    gzip = {"name": "gzip", "configuration": {"level": 1}}

    def in_small_array(metadata):
        metadata["codecs"].append(gzip)

    def in_counts(metadata):
        metadata["codecs"][0]["configuration"]["codecs"].append(gzip)

    def in_index(metadata):
        metadata["codecs"][0]["configuration"]["index_codecs"].append(gzip)

    for member, change in (
        ("air/zarr.json", in_small_array),
        ("counts/zarr.json", in_counts),
        ("counts/zarr.json", in_index),
    ):
        with pytest.raises(FormatError, match="not as we write"):
            raw.read(forged_metadata(stored, tmp_path, member, change))


def test_a_chunk_that_claims_two_gigabytes_is_refused(stored, tmp_path):
    """Blosc's header says how much to reserve; the chunk's checksum is renewed, so that only the claim is wrong."""
    with zipfile.ZipFile(stored) as archive:
        shard = bytearray(archive.read("counts/c/0/0/0"))
    index = len(shard) - 20  # one chunk: offset, length, CRC-32C
    length = int.from_bytes(shard[index + 8 : index + 16], "little")
    shard[4:8] = (2**31 - 64).to_bytes(4, "little")
    shard[length - 4 : length] = google_crc32c.value(bytes(shard[: length - 4])).to_bytes(4, "little")
    path = rewritten(stored, tmp_path / "forged.lraw", {"counts/c/0/0/0": bytes(shard)}, forge=True)
    with pytest.raises(FormatError, match="claims to unfold to 2147483584 bytes, expected 7750"):
        raw.read(path).counts[:]
