"""`.lraw`: what comes back is what went in, read in parts, the same bytes for the same scan."""

import dataclasses
import json
import zipfile

import numpy as np
import pytest
import zarr

from lampyris import raw
from lampyris.model import (
    Acquisition,
    Bowtie,
    FormatError,
    Geometry,
    InputError,
    Noise,
    RawScan,
    Spectrum,
)


@pytest.fixture
def scan(lopsided_helix, rng):
    """Everything that a scan can hold, in 97 views of 7 × 61 cells, 41 views a turn."""
    energy = np.array([31.0, 47.0, 76.5])
    bowtie = Bowtie(np.array([-0.11, 0.02, 0.13]), ("aluminium", "teflon"), rng.uniform(1, 9, (3, 2)))
    cells = (7, 61)
    return RawScan(
        rng.integers(0, 65535, lopsided_helix.shape, endpoint=True).astype(np.uint16),
        lopsided_helix,
        rng.uniform(0.2, 0.4, 97),
        dark=rng.uniform(20, 40, cells),
        air=rng.uniform(3e4, 6e4, (2, *cells)),
        air_exposure_mas=0.37,
        bad_cells=rng.random(cells) > 0.9,
        spectrum=Spectrum(energy, energy**2, energy * 0.7, 80.0, (("Al", 2.5), ("Sn", 0.6)), bowtie),
        noise=Noise(1.7, 4.2),
        acquisition=Acquisition(PatientPosition="FFP", KVP=80.0, ProtocolName="胸部", SpiralPitchFactor=0.93),
        applied=("scatter",),
        water_per_mm=0.0193,
    )


def test_a_scan_comes_back_whole(scan, tmp_path):
    raw.write(scan, tmp_path / "x.lraw")
    again = raw.read(tmp_path / "x.lraw")
    assert again.id == scan.id == dataclasses.replace(again, id="").digest()
    assert again.facts() == scan.facts()
    assert again.arrays().keys() == scan.arrays().keys()
    for name, array in scan.arrays().items():
        assert array.dtype == again.arrays()[name].dtype
        np.testing.assert_array_equal(array, again.arrays()[name])
    assert again.counts.dtype == np.uint16
    np.testing.assert_array_equal(scan.counts, np.asarray(again.counts))
    raw.verify(tmp_path / "x.lraw")


@pytest.mark.parametrize("dtype", ["u1", "u2", ">u2", "i4", "f4", "f8"])
def test_every_type_of_count_is_kept(lopsided_helix, rng, tmp_path, dtype):
    counts = (rng.random(lopsided_helix.shape) * 200).astype(dtype)
    scan = RawScan(counts, lopsided_helix, np.ones(97))
    raw.write(scan, tmp_path / "x.lraw")
    raw.verify(tmp_path / "x.lraw")
    again = raw.read(tmp_path / "x.lraw")
    assert again.id == scan.id
    np.testing.assert_array_equal(counts, again.counts[:])


def test_counts_of_nothing_but_zeros_are_stored(lopsided_helix, tmp_path):
    """Zarr would leave such chunks out, and a lost one could not be told from them."""
    scan = RawScan(np.zeros(lopsided_helix.shape, np.uint16), lopsided_helix, np.ones(97))
    raw.write(scan, tmp_path / "x.lraw")
    assert len([n for n in zipfile.ZipFile(tmp_path / "x.lraw").namelist() if n.startswith("counts/c/")]) == 3
    assert not raw.read(tmp_path / "x.lraw").counts[:].any()


def test_part_of_a_scan_is_the_part_of_the_array(scan, tmp_path):
    raw.write(scan, tmp_path / "x.lraw")
    counts, whole = raw.read(tmp_path / "x.lraw").counts, np.asarray(scan.counts)
    indices = (
        5, -1, slice(3, 9), slice(80, None), slice(90, 20, -7), slice(2, 95, 11), slice(50, 50), ...,
        (slice(4, 60), 3), (slice(None), slice(1, 5), slice(None, None, 2)), (17, 2, 44), (np.array([5, 96, 5]), 1),
        np.arange(97) % 10 == 3,
    )  # fmt: skip
    for index in indices:
        np.testing.assert_array_equal(counts[index], whole[index])
    assert len(counts) == 97
    with pytest.raises(IndexError):
        counts[97]


def test_a_part_costs_no_more_than_its_turn(lopsided_gantry, rng, tmp_path, bytes_read):
    """One view of five turns is read from one chunk, not from the file: under a tenth of its bytes."""
    geometry = Geometry.helical(lopsided_gantry, views=2500, views_per_turn=500, table_feed_mm=4.0)
    scan = RawScan(rng.integers(0, 60000, geometry.shape).astype(np.uint16), geometry, np.ones(2500))
    raw.write(scan, tmp_path / "x.lraw")
    counts = raw.read(tmp_path / "x.lraw").counts
    bytes_read.clear()
    np.testing.assert_array_equal(counts[1234], np.asarray(scan.counts)[1234])
    # a chunk holds 250 of 2500 views; the shard's index adds 16 bytes a chunk and a checksum
    assert sum(bytes_read) < 0.11 * scan.counts.nbytes


def test_it_is_a_plain_zarr_sharded_by_turn(scan, tmp_path):
    """Anyone's Zarr 3 opens it: shards of one turn (41 views) and whole rows, checksums in the chunks."""
    raw.write(scan, tmp_path / "x.lraw")
    store = zarr.storage.ZipStore(tmp_path / "x.lraw", mode="r")
    group = zarr.open_group(store, mode="r")
    np.testing.assert_array_equal(group["counts"][:], scan.counts)
    assert group["counts"].shards == (41, 7, 61)
    sharding = json.loads(zipfile.ZipFile(tmp_path / "x.lraw").read("counts/zarr.json"))["codecs"][0]["configuration"]
    assert [each["name"] for each in sharding["codecs"]] == ["bytes", "blosc", "crc32c"]
    assert sharding["index_codecs"][-1]["name"] == "crc32c"
    np.testing.assert_array_equal(group["air"][:], scan.air)
    store.close()


def test_rows_and_long_turns_are_divided_into_chunks(lopsided_gantry, tmp_path):
    gantry = dataclasses.replace(lopsided_gantry, rows=20)
    geometry = Geometry.circular(gantry, np.arange(601) * 0.6)
    raw.write(RawScan(np.ones(geometry.shape, np.uint8), geometry, np.ones(601)), tmp_path / "x.lraw")
    store = zarr.storage.ZipStore(tmp_path / "x.lraw", mode="r")
    counts = zarr.open_group(store, mode="r")["counts"]
    # 600 views a turn: three chunks of 200; 20 rows: two chunks of 16
    assert (counts.chunks, counts.shards) == ((200, 16, 61), (600, 32, 61))
    store.close()


def test_the_same_scan_gives_the_same_bytes(scan, tmp_path):
    raw.write(scan, tmp_path / "a.lraw")
    raw.write(raw.read(tmp_path / "a.lraw"), tmp_path / "b.lraw")
    assert (tmp_path / "a.lraw").read_bytes() == (tmp_path / "b.lraw").read_bytes()


def test_an_open_scan_survives_its_replacement(scan, tmp_path):
    raw.write(scan, tmp_path / "x.lraw")
    old = raw.read(tmp_path / "x.lraw")
    raw.write(dataclasses.replace(scan, counts=np.zeros_like(scan.counts), id=""), tmp_path / "x.lraw")
    np.testing.assert_array_equal(old.counts[40:60], np.asarray(scan.counts)[40:60])
    assert not raw.read(tmp_path / "x.lraw").counts[:].any()


def test_info_shows_what_is_there_and_no_identity(scan, tmp_path):
    named = dataclasses.replace(
        scan, acquisition=Acquisition(KVP=80.0, DeviceSerialNumber="SN-4711", StationName="ROOM-3"), id=""
    )
    raw.write(named, tmp_path / "x.lraw")
    told = raw.info(tmp_path / "x.lraw")
    assert (told.shape, told.dtype, told.id, told.version) == ((97, 7, 61), "uint16", named.id, 1)
    assert told.views_per_turn == pytest.approx(41)
    assert told.counts_bytes == 97 * 7 * 61 * 2
    text = json.dumps(told.as_dict())
    assert "SN-4711" not in text
    assert "ROOM-3" not in text
    assert told.facts["acquisition"]["KVP"] == 80.0


def test_progress_reaches_one(scan, tmp_path):
    seen = []
    raw.write(scan, tmp_path / "x.lraw", progress=seen.append)
    assert seen == sorted(seen)
    assert seen[-1] == 1.0
    raw.verify(tmp_path / "x.lraw", progress=seen.append)
    assert seen[-1] == 1.0


def test_counts_changed_since_the_scan_was_made_are_refused(scan, tmp_path):
    scan.counts[3, 2, 1] ^= 1
    with pytest.raises(InputError, match="changed after it was made"):
        raw.write(scan, tmp_path / "x.lraw")
    assert not list(tmp_path.iterdir())


def test_nan_counts_are_refused(lopsided_helix, tmp_path):
    counts = np.ones(lopsided_helix.shape, np.float32)
    counts[50, 3, 3] = np.nan
    with pytest.raises(InputError, match=r"views 41…81 hold 1 NaN"):
        raw.write(RawScan(counts, lopsided_helix, np.ones(97)), tmp_path / "x.lraw")
    assert not list(tmp_path.iterdir())


def test_another_suffix_is_refused(scan, tmp_path):
    with pytest.raises(InputError, match=r"ends in \.lraw"):
        raw.write(scan, tmp_path / "x.zip")


def test_options_of_another_format_are_refused(scan, tmp_path):
    raw.write(scan, tmp_path / "x.lraw")
    with pytest.raises(InputError, match="central_column: not an option of Lampyris"):
        raw.read(tmp_path / "x.lraw", central_column=3.0)


def test_unknown_files_are_refused_with_what_is_understood(tmp_path):
    (tmp_path / "notes.txt").write_text("hello")
    with pytest.raises(FormatError, match=r"none of: Lampyris .lraw, DICOM-CT-PD, XCIST"):
        raw.read(tmp_path / "notes.txt")
    with pytest.raises(FormatError, match="none of"):
        raw.read(tmp_path)
    with pytest.raises(InputError, match="nothing at"):
        raw.read(tmp_path / "absent.lraw")


def test_prep_is_refused_with_the_reason(tmp_path):
    (tmp_path / "a.prep").write_bytes(b"\0" * 64)
    for place in (tmp_path, tmp_path / "a.prep"):
        with pytest.raises(FormatError, match="clamped to 0"):
            raw.read(place)
