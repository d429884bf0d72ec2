"""A packed scan is its `.lraw` in parts: made while the scan arrives, joined byte for byte, opened before its end."""

import dataclasses
import hashlib
import json
import math
import struct
import zipfile
import zlib

import imagecodecs
import numpy as np
import pytest
import zarr
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from test_raw_damage import rewritten

from lampyris import correct, path, phantom, raw, simulate
from lampyris.model import FormatError, GridRequest, InputError, Noise, RawScan, Step, Volume
from lampyris.raw.lazy import LazyCounts

CODINGS = tuple(raw.CODINGS)
SIZE = 5_003


@pytest.fixture
def scan(lopsided_helix, rng):
    """97 views of 7 × 61 cells, 41 views a turn; darks that differ; some ten to a thousand quanta."""
    mean = np.geomspace(10, 1000, 61)
    counts = 5.3 * rng.poisson(np.broadcast_to(mean, lopsided_helix.shape)) + 8.1 * rng.standard_normal(
        lopsided_helix.shape
    )
    return RawScan(
        np.rint(counts + 111).astype(np.uint16),
        lopsided_helix,
        rng.uniform(0.2, 0.4, 97),
        dark=rng.uniform(90, 111, (7, 61)),
        air=rng.uniform(6000, 8000, (2, 7, 61)),
        air_exposure_mas=0.28,
        noise=Noise(5.3, 8.1),
    )


def decided(coding: str) -> raw.Decision:
    return raw.Decision(coding, "a test")


def packed(scan: RawScan, coding: str, size: int = SIZE) -> list[raw.Part]:
    return list(raw.pack(scan, decided(coding), part_bytes=size))


def joined(parts: list[raw.Part]) -> bytes:
    return b"".join(part.content for part in parts)


@pytest.mark.parametrize("coding", CODINGS)
def test_the_parts_are_the_file(scan, tmp_path, coding):
    """What a site sends is what `write` writes and what the centre stores, byte for byte."""
    parts = packed(scan, coding)
    raw.write(scan, tmp_path / "x.lraw", decision=decided(coding))
    assert joined(parts) == (tmp_path / "x.lraw").read_bytes()
    raw.unpack((part.content for part in parts), tmp_path / "y.lraw")
    assert (tmp_path / "y.lraw").read_bytes() == (tmp_path / "x.lraw").read_bytes()
    raw.verify(tmp_path / "y.lraw")
    assert len(parts) > 5
    assert [part.number for part in parts] == list(range(len(parts)))
    assert [part.offset for part in parts] == [SIZE * number for number in range(len(parts))]
    assert {len(part.content) for part in parts[:-1]} == {SIZE}
    assert 0 < len(parts[-1].content) <= SIZE
    assert all(part.sha256 == hashlib.sha256(part.content).hexdigest() for part in parts)


@pytest.mark.parametrize("size", [SIZE, 1 << 20])
@pytest.mark.parametrize("coding", CODINGS)
def test_a_file_is_cut_into_the_parts_that_it_was_packed_in(scan, tmp_path, coding, size):
    parts = packed(scan, coding, size)
    raw.unpack((part.content for part in parts), tmp_path / "x.lraw")
    again = list(raw.cut(tmp_path / "x.lraw", part_bytes=size))
    assert [dataclasses.astuple(part) for part in again] == [dataclasses.astuple(part) for part in parts]


def test_parts_are_of_8_mib_unless_asked_otherwise(scan):
    assert raw.PART_BYTES == 8 * 2**20
    assert len(list(raw.pack(scan, decided("sigma/4")))) == 1
    with pytest.raises(InputError, match="parts of 0 bytes"):
        packed(scan, "lossless", 0)


def test_packed_losslessly_a_scan_keeps_its_identity(scan, tmp_path):
    parts = packed(scan, "lossless")
    back = raw.unpack((part.content for part in parts), tmp_path / "x.lraw")
    assert back.id == scan.id == parts[-1].scan_id == dataclasses.replace(back, id="").digest()
    assert back.coding is None
    assert back.counts.dtype == np.uint16
    np.testing.assert_array_equal(back.counts[:], scan.counts)
    told = raw.info(tmp_path / "x.lraw")
    assert (told.decision, told.source_id, told.version) == ({"coding": "lossless", "reason": "a test"}, "", 2)


@pytest.mark.parametrize(("coding", "k"), [("sigma/4", 4.0), ("sigma/2", 2.0)])
def test_coarsened_a_scan_is_another_and_names_the_one_it_was(scan, tmp_path, coding, k):
    """Its id is the digest of what is decoded; all else but counts, noise and coding is what it was."""
    parts = packed(scan, coding)
    back = raw.unpack((part.content for part in parts), tmp_path / "x.lraw")
    assert back.id == parts[-1].scan_id == dataclasses.replace(back, id="").digest()
    assert back.id != scan.id
    assert back.coding == dataclasses.replace(raw.codec.coding_of(scan, k), source_id=scan.id)
    assert back.noise == back.coding.noise_after
    assert back.counts.dtype == np.float32
    assert {*back.facts()} - {*scan.facts()} == {"coding"}
    for name, array in scan.arrays().items():
        np.testing.assert_array_equal(back.arrays()[name], array)
    error = back.counts[:] - scan.counts.astype(np.float64)
    net = np.maximum(scan.counts - back.coding.pedestal_counts, 0)
    step = np.sqrt(5.3 * net + 8.1**2 + 0.375 * 5.3**2) / k
    assert np.abs(error / step).max() < 0.8  # half a step, and what whole counts and the unbiased middle shift it by
    told = raw.info(tmp_path / "x.lraw")
    assert (told.source_id, told.decision["coding"], told.dtype) == (scan.id, coding, "float32")


def test_coarsened_lazily_it_is_the_scan_that_comes_back(scan, tmp_path):
    raw.write(scan, tmp_path / "x.lraw", decision=decided("sigma/4"))
    lazy = raw.coarsened(scan, raw.codec.coding_of(scan, 4.0))
    back = raw.read(tmp_path / "x.lraw")
    assert dataclasses.replace(lazy, id="").digest() == back.id
    for index in (5, slice(90, 20, -7), [3, 96, 3], (slice(4, 60), 3)):
        np.testing.assert_array_equal(lazy.counts[index], back.counts[index])


@pytest.mark.parametrize("coding", CODINGS)
@pytest.mark.parametrize("kind", ["u1", ">u2", "u4", "i4", "f4", "f8"])
def test_every_type_of_count_is_packed(lopsided_helix, rng, tmp_path, kind, coding):
    counts = (20 + 0.9 * rng.poisson(100, lopsided_helix.shape)).astype(kind)
    scan = RawScan(counts, lopsided_helix, np.ones(97), dark=np.full((7, 61), 20.0), noise=Noise(0.9, 0.4))
    back = raw.unpack((part.content for part in packed(scan, coding)), tmp_path / "x.lraw")
    raw.verify(tmp_path / "x.lraw")
    if coding == "lossless":
        assert back.id == scan.id
        np.testing.assert_array_equal(back.counts[:], counts)
    else:
        assert np.abs(back.counts[:] - counts).max() < 0.9 * 20 / float(coding[-1])


def test_part_of_a_coded_scan_is_the_part_of_the_array(scan, tmp_path):
    raw.write(scan, tmp_path / "x.lraw", decision=decided("sigma/4"))
    counts = raw.read(tmp_path / "x.lraw").counts
    whole = np.asarray(counts)
    indices = (5, -1, slice(3, 9), slice(90, 20, -7), slice(50, 50), ..., (slice(4, 60), 3), (17, 2, 44), [5, 96, 5])
    for index in indices:
        np.testing.assert_array_equal(counts[index], whole[index])
    exact = raw.unpack((part.content for part in packed(scan, "lossless")), tmp_path / "y.lraw").counts
    exact[10:20][:] = 0
    np.testing.assert_array_equal(exact[10:20], scan.counts[10:20])


def test_the_same_scan_is_packed_into_the_same_bytes(scan):
    assert joined(packed(scan, "sigma/4")) == joined(packed(scan, "sigma/4"))


def test_what_is_written_for_a_disk_is_still_version_1(scan, tmp_path):
    raw.write(scan, tmp_path / "x.lraw")
    assert raw.info(tmp_path / "x.lraw").version == 1
    assert raw.info(tmp_path / "x.lraw").decision is None


def test_a_coded_scan_can_be_kept_again_but_not_coded_again(scan, tmp_path):
    raw.write(scan, tmp_path / "x.lraw", decision=decided("sigma/4"))
    back = raw.read(tmp_path / "x.lraw")
    for name, decision in (("disk", None), ("link", decided("lossless"))):
        raw.write(back, tmp_path / f"{name}.lraw", decision=decision)
        again = raw.read(tmp_path / f"{name}.lraw")
        raw.verify(tmp_path / f"{name}.lraw")
        assert (again.id, again.coding) == (back.id, back.coding)
    with pytest.raises(InputError, match="already coded in 4 steps"):
        packed(back, "sigma/2")


def test_the_documented_bytes_are_enough(scan, stored):
    """A shard read as docs/raw.md says, with nothing of ours: index, header, codestream, and levels to counts."""
    with zipfile.ZipFile(stored) as archive:
        shard = archive.read("counts/c/1/0/0")
    at, length = struct.unpack_from("<2Q", shard, len(shard) - 20)
    chunk = shard[at : at + length]
    assert chunk[:8] == b"LCT1u2u2"
    views, rows, columns, k, gain, electronic, pedestal = struct.unpack_from("<3I4d", chunk, 8)
    size, content, whole = struct.unpack_from("<3I", chunk, 52)
    levels = imagecodecs.htj2k_decode(chunk[64 : 64 + size]).reshape(views, rows, columns)
    assert (zlib.crc32(levels), zlib.crc32(chunk[:60] + chunk[64:])) == (content, whole)
    s = math.sqrt(0.375 * gain**2 + electronic**2)
    counts_of_step: dict[int, list[int]] = {}
    for count in range(65536):
        x = count - pedestal
        step = round(k * 2 * x / (math.sqrt(gain * max(x, 0) + s * s) + s))
        counts_of_step.setdefault(step, []).append(count)
    values = []
    for _, counts in sorted(counts_of_step.items()):
        middle = (counts[0] + counts[-1]) / 2
        wide = middle > pedestal and math.sqrt(gain * (middle - pedestal) + s * s) > k
        values.append(middle - gain / (12 * k * k) * wide)
    np.testing.assert_allclose(raw.read(stored).counts[41:82], np.array(values)[levels], rtol=1e-6)


# ── while it arrives ──


def arriving(scan: RawScan, read: list[int]) -> RawScan:
    """The scan as the site has it before its end: no id, counts that tell which views were asked for."""

    def load(views):
        read.extend(views)
        return np.asarray(scan.counts)[np.asarray(views)]

    return dataclasses.replace(scan, counts=LazyCounts(scan.geometry.shape, np.uint16, load), id=raw.ARRIVING)


@pytest.mark.parametrize("coding", CODINGS)
def test_a_scan_is_packed_while_it_arrives(scan, coding):
    """Every view is read once, in order, and parts come out before later turns are read; the id is found on the way."""
    read: list[int] = []
    seen, parts = [], []
    for part in raw.pack(arriving(scan, read), decided(coding), part_bytes=SIZE):
        parts.append(part)
        seen.append(len(read))
        assert part.views <= len(read)
    assert read == list(range(97))
    assert min(seen) == 41
    assert 82 in seen
    assert joined(parts) == joined(packed(scan, coding))
    assert {part.scan_id for part in parts[:-1]} == {""}
    assert parts[-1].views == 97


@pytest.mark.parametrize("coding", CODINGS)
def test_whole_turns_are_opened_before_the_scan_is_whole(scan, tmp_path, coding):
    parts = packed(scan, coding)
    whole = raw.unpack((part.content for part in parts), tmp_path / "x.lraw")
    for many in range(1, len(parts) + 1):
        (tmp_path / "some").write_bytes(joined(parts[:many]))
        early = raw.arrived(tmp_path / "some")
        views = parts[many - 1].views
        assert views in (0, 41, 82, 97)
        if not views:
            assert early is None
            continue
        assert (early.views, early.id) == (views, raw.ARRIVING)
        np.testing.assert_array_equal(early.counts[:], whole.counts[:views])
        np.testing.assert_array_equal(early.counts[[2, 40]], whole.counts[[2, 40]])
        np.testing.assert_array_equal(early.geometry.source, whole.geometry.source[:views])
        np.testing.assert_array_equal(early.exposure_mas, whole.exposure_mas[:views])
        assert early.facts() == whole.facts()
    assert views == 97


@pytest.mark.parametrize("coding", CODINGS)
def test_a_scan_that_is_coming_is_known_as_it_will_be(scan, tmp_path, coding):
    """Header, and after how many bytes which views are whole: what early work is filed under."""
    parts = packed(scan, coding)
    whole = raw.unpack((part.content for part in parts), tmp_path / "x.lraw")
    ends = raw.ends(tmp_path / "x.lraw")
    assert [views for _, views in ends] == [41, 82, 97]
    content = joined(parts)
    for number, (size, views) in enumerate(ends):
        (tmp_path / "some").write_bytes(content[:size])
        coming = raw.coming(tmp_path / "some")
        assert (coming.views, coming.ends) == (views, ends[: number + 1])
        assert coming.scan.geometry.shape == whole.geometry.shape
        assert raw.header_digest(coming.scan) == raw.header_digest(whole)
        np.testing.assert_array_equal(coming.scan.counts[views - 3 : views], whole.counts[views - 3 : views])
        (tmp_path / "some").write_bytes(content[: size - 1])
        before = raw.coming(tmp_path / "some")
        assert before is None if number == 0 else before.views < views
    other = dataclasses.replace(whole, exposure_mas=whole.exposure_mas * 1.01)
    assert raw.header_digest(other) != raw.header_digest(whole)


@given(length=st.integers(0, 10**6))
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_beginning_is_nothing_or_whole_turns(scan, tmp_path, length):
    content = joined(packed(scan, "sigma/4"))
    (tmp_path / "some").write_bytes(content[: length % len(content)])
    early = raw.arrived(tmp_path / "some")
    assert early is None or early.views in (41, 82, 97)


def test_what_does_not_begin_a_packed_scan_is_refused(scan, tmp_path):
    raw.write(scan, tmp_path / "disk.lraw")
    with pytest.raises(FormatError, match="not packed for a link"):
        raw.arrived(tmp_path / "disk.lraw")
    (tmp_path / "text").write_bytes(b"hello" * 20)
    with pytest.raises(FormatError, match="no member starts at byte 0"):
        raw.arrived(tmp_path / "text")
    with zipfile.ZipFile(tmp_path / "x.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("counts/zarr.json", b"{}" * 100)
    with pytest.raises(FormatError, match="compressed, streamed or doubled"):
        raw.arrived(tmp_path / "x.zip")
    for content in (
        b"{}",
        b"[" * 100_000,
        json.dumps({"attributes": {"lampyris": {"facts": 3, "arrays": []}}}).encode(),
    ):
        with zipfile.ZipFile(tmp_path / "x.zip", "w") as archive:
            archive.writestr("counts/zarr.json", content)
        with pytest.raises(FormatError):
            raw.arrived(tmp_path / "x.zip")


def test_counts_changed_since_the_scan_was_made_are_refused(scan):
    scan.counts[96, 2, 1] ^= 1
    with pytest.raises(InputError, match="changed after it was made"):
        packed(scan, "sigma/4")


# ── what became of it later ──


def test_the_history_of_an_image_begins_with_the_coding(scan, tmp_path):
    raw.write(scan, tmp_path / "x.lraw", decision=decided("sigma/4"))
    back = raw.read(tmp_path / "x.lraw")
    made = correct.correct(back, (Step("dark_air"), Step("log")))
    first, *rest = made.history
    assert [one.name for one in rest] == [
        one.name for one in correct.correct(scan, (Step("dark_air"), Step("log"))).history
    ]
    assert first.as_dict() == {
        "name": "coding",
        "steps_per_sigma": 4.0,
        "added_noise": pytest.approx(0.0026, abs=5e-5),
        "source_id": scan.id,
    }


@pytest.mark.slow
@pytest.mark.parametrize(("coding", "most"), [("sigma/4", 0.01), ("sigma/2", 0.015)])
def test_an_image_keeps_its_noise_and_its_hu(tmp_path, rng, coding, most):
    """Noise of the image grows by 0.26 and 1.04 % in theory; its mean stays within 4 standard errors.

    The image's noise is what changes when as much noise again is added to the counts: reconstruction is linear.
    """
    body, scanner = phantom.water_cylinder(200.0), simulate.scanner("small")
    scan = simulate.scan(body, scanner, simulate.Protocol("axial", mas=120.0), seed=7)
    recipe = dataclasses.replace(path.recipe("routine"), grid=GridRequest(128, 180.0, (0.0, 0.0), 2.0))

    def image(counts):
        made = path.travel((dataclasses.replace(scan, counts=counts, id=""), recipe), Volume).the(Volume)
        return made.values[:, 34:94, 34:94]

    counts = np.asarray(scan.counts[:])
    net = np.maximum(counts - np.asarray(scan.dark, np.float64), 0)
    sigma = np.sqrt(scan.noise.gain_counts * net + scan.noise.electronic_counts**2)
    first = image(counts)
    noise = image(counts + sigma * rng.standard_normal(net.shape)) - first
    raw.write(scan, tmp_path / "x.lraw", decision=decided(coding))
    change = image(raw.read(tmp_path / "x.lraw").counts[:]) - first
    assert np.sqrt(1 + change.var() / noise.var()) - 1 < most
    assert abs(change.mean()) < 4 * change.std() / np.sqrt(change.size / 25)  # voxels share their noise with neighbours


def test_a_coded_scan_is_not_taken_for_a_quiet_one(scan, tmp_path, rng):
    """Its counts are real numbers, but they were digitised with their noise."""
    raw.write(scan, tmp_path / "x.lraw", decision=decided("sigma/4"))
    with pytest.raises(InputError, match="counts are uint16: they were digitised"):
        simulate.realise(raw.read(tmp_path / "x.lraw"), 0.5, rng)


# ── damaged and hostile ──


def test_parts_that_are_no_scan_leave_nothing(scan, tmp_path):
    contents = [part.content for part in packed(scan, "sigma/4")]
    first, second, *rest = contents
    for wrong in ([], contents[:-1], [second, first, *rest], contents[1:], [*contents[:3], *contents[4:]]):
        with pytest.raises(FormatError):
            raw.unpack(wrong, tmp_path / "x.lraw")
        assert not list(tmp_path.iterdir())
    with pytest.raises(InputError, match=r"ends in \.lraw"):
        raw.unpack(contents, tmp_path / "x.zip")


@given(place=st.integers(0, 10**7), bit=st.integers(0, 7))
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_no_flipped_bit_of_a_packed_scan_goes_unseen(scan, tmp_path, place, bit):
    content = bytearray(joined(packed(scan, "sigma/4")))
    content[place % len(content)] ^= 1 << bit
    (tmp_path / "x.lraw").write_bytes(content)
    try:
        raw.verify(tmp_path / "x.lraw")
    except FormatError:
        return
    # names, dates and attributes of the zip itself say nothing about the scan: the content must be what it was
    back = raw.read(tmp_path / "x.lraw")
    assert dataclasses.replace(back, id="").digest() == back.id


@pytest.fixture
def stored(scan, tmp_path):
    raw.write(scan, tmp_path / "stored.lraw", decision=decided("sigma/4"))
    return tmp_path / "stored.lraw"


def forged(stored, tmp_path, change):
    """The metadata of the counts changed, all digests renewed."""
    with zipfile.ZipFile(stored) as archive:
        metadata = json.loads(archive.read("counts/zarr.json"))
    change(metadata["codecs"][0]["configuration"]["codecs"], metadata)
    content = {"counts/zarr.json": json.dumps(metadata).encode()}
    return rewritten(stored, tmp_path / "forged.lraw", content, forge=True)


def another_codec(codecs, _metadata):
    codecs[:] = [
        {"name": "bytes", "configuration": {"endian": "little"}},
        {"name": "gzip", "configuration": {"level": 1}},
    ]


def other_steps(codecs, _metadata):
    codecs[0]["configuration"]["coding"]["steps_per_sigma"] = 2.0


def no_steps(codecs, _metadata):
    codecs[0]["configuration"]["coding"] = None


def steps_of_nothing(codecs, _metadata):
    codecs[0]["configuration"]["coding"]["noise"]["gain_counts"] = -1.0


def objects(codecs, _metadata):
    codecs[0]["configuration"]["coding"]["dtype"] = "|O"


def no_configuration(codecs, _metadata):
    codecs[0].pop("configuration")


def other_values(_codecs, metadata):
    metadata["data_type"] = "uint32"


@pytest.mark.parametrize(
    "change", [another_codec, other_steps, no_steps, steps_of_nothing, objects, no_configuration, other_values]
)
def test_forged_metadata_are_refused(stored, tmp_path, change):
    with pytest.raises(FormatError):
        raw.read(forged(stored, tmp_path, change)).counts[:]


def test_facts_that_deny_the_coding_are_refused(stored, tmp_path):
    with zipfile.ZipFile(stored) as archive:
        root = json.loads(archive.read("zarr.json"))
    root["attributes"]["lampyris"]["facts"].pop("coding")
    path = rewritten(stored, tmp_path / "x.lraw", {"zarr.json": json.dumps(root).encode()}, forge=True)
    with pytest.raises(FormatError, match="the facts say None"):
        raw.read(path)


def test_a_decision_of_nonsense_is_refused(stored, tmp_path):
    for entry in ({"coding": "best", "reason": "x"}, {"coding": "lossless"}, 3):
        with zipfile.ZipFile(stored) as archive:
            root = json.loads(archive.read("zarr.json"))
        root["attributes"]["lampyris"]["decision"] = entry
        path = rewritten(stored, tmp_path / "x.lraw", {"zarr.json": json.dumps(root).encode()}, forge=True)
        with pytest.raises(FormatError, match="manifest is incomplete"):
            raw.read(path)


def test_the_turn_of_another_scan_is_refused(scan, stored, tmp_path):
    """A shard with sound checksums of its own, of the same shape but another noise: its chunks say so."""
    other = dataclasses.replace(scan, noise=Noise(4.9, 8.1), id="")
    raw.write(other, tmp_path / "other.lraw", decision=decided("sigma/4"))
    with zipfile.ZipFile(tmp_path / "other.lraw") as archive:
        foreign = archive.read("counts/c/1/0/0")
    path = rewritten(stored, tmp_path / "x.lraw", {"counts/c/1/0/0": foreign}, forge=True)
    with pytest.raises(FormatError, match="a chunk of another scan"):
        raw.read(path).counts[50]


def test_other_counts_under_renewed_digests_are_found_by_the_id(scan, stored, tmp_path):
    other = dataclasses.replace(scan, counts=np.ascontiguousarray(scan.counts[::-1]), id="")
    raw.write(other, tmp_path / "other.lraw", decision=decided("sigma/4"))
    with zipfile.ZipFile(tmp_path / "other.lraw") as archive:
        foreign = archive.read("counts/c/1/0/0")
    path = rewritten(stored, tmp_path / "x.lraw", {"counts/c/1/0/0": foreign}, forge=True)
    with pytest.raises(FormatError, match="the content has digest"):
        raw.verify(path)


def test_any_zarr_reads_the_levels(scan, stored):
    """With the codec of this package registered, anyone's Zarr 3: levels as stored, shards of one turn."""
    store = zarr.storage.ZipStore(stored, mode="r")
    levels = zarr.open_group(store, mode="r")["counts"]
    assert (levels.dtype, levels.shards) == (np.uint16, (41, 7, 61))
    coding = raw.codec.coding_of(scan, 4.0)
    np.testing.assert_array_equal(levels[:], raw.codec.quantise(np.asarray(scan.counts), coding))
    store.close()


def test_one_view_of_a_packed_scan_costs_one_chunk(lopsided_gantry, rng, tmp_path, bytes_read):
    from lampyris.model import Geometry

    geometry = Geometry.helical(lopsided_gantry, views=2500, views_per_turn=500, table_feed_mm=4.0)
    counts = rng.integers(0, 60000, geometry.shape).astype(np.uint16)
    scan = RawScan(counts, geometry, np.ones(2500), dark=np.zeros((7, 61)), noise=Noise(5.3, 8.1))
    raw.write(scan, tmp_path / "x.lraw", decision=decided("lossless"))
    stored = raw.read(tmp_path / "x.lraw").counts
    bytes_read.clear()
    np.testing.assert_array_equal(stored[1234], counts[1234])
    assert sum(bytes_read) < 0.12 * counts.nbytes


def test_neighbouring_views_are_decoded_once(scan, tmp_path, monkeypatch):
    """Blocks of 10 views with 3 more on either side, as corrections read them: three turns, three chunks."""
    raw.write(scan, tmp_path / "x.lraw", decision=decided("sigma/4"))
    counts = raw.read(tmp_path / "x.lraw").counts
    whole, unwrap, decoded = np.asarray(counts), raw.codec.unwrap, []

    def spy(content):
        decoded.append(len(content))
        return unwrap(content)

    monkeypatch.setattr(raw.codec, "unwrap", spy)
    for first in range(0, 97, 10):
        views = slice(max(first - 3, 0), min(first + 13, 97))
        block = counts[views]
        np.testing.assert_array_equal(block, whole[views])
        block[:] = 0  # what was handed out is the taker's own
    assert len(decoded) == 3


def test_the_id_of_the_source_is_guarded_by_the_manifest(stored, tmp_path):
    with zipfile.ZipFile(stored) as archive:
        root = json.loads(archive.read("zarr.json"))
    root["attributes"]["lampyris"]["source_id"] = "0" * 64
    path = rewritten(stored, tmp_path / "x.lraw", {"zarr.json": json.dumps(root).encode()})
    with pytest.raises(FormatError, match="differs from its digest"):
        raw.read(path)
