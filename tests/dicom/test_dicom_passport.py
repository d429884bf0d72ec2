"""Maps about an image as DICOM: told apart from the image by everybody, values as they were."""

import dataclasses
import subprocess

import numpy as np
import pydicom
import pytest

from lampyris.dicom import MAPS, read_series, write_map, write_series
from lampyris.model import InputError


@pytest.fixture
def noise_map(gantry_volume):
    values = (3.0 + np.abs(gantry_volume.values) / 97.0).astype(np.float32)
    return dataclasses.replace(gantry_volume, values=values, valid=None).place("HFS", (1.0, 2.0, 3.0))


@pytest.mark.judge
@pytest.mark.parametrize("kind", MAPS)
def test_dciodvfy_finds_no_error_in_a_map(kind, noise_map, provenance, patient, tmp_path, now, program):
    for file in write_map(noise_map, tmp_path / "m", MAPS[kind], study=patient, provenance=provenance, now=now):
        told = subprocess.run([program("dciodvfy"), "-new", str(file)], capture_output=True, text=True, check=False)
        lines = (told.stdout + told.stderr).splitlines()
        assert "CTImage" in lines
        assert [line for line in lines if line.startswith("Error")] == []


def test_a_map_says_in_plain_language_what_it_is(noise_map, provenance, patient, tmp_path, now):
    first = write_map(noise_map, tmp_path / "m", MAPS["noise"], study=patient, provenance=provenance, now=now)[0]
    header = pydicom.dcmread(first)
    assert list(header.ImageType) == ["DERIVED", "SECONDARY", "AXIAL", "NOISE_SD"]
    assert header.SeriesDescription.startswith("noise map of routine")
    assert "standard deviation" in header.DerivationDescription
    assert header.RescaleType == "HU"
    assert header.SeriesNumber == 901


def test_values_survive_to_a_thousandth_of_the_largest(noise_map, provenance, patient, tmp_path, now):
    files = write_map(noise_map, tmp_path / "m", MAPS["noise"], study=patient, provenance=provenance, now=now)
    uid = pydicom.dcmread(files[0], stop_before_pixels=True).SeriesInstanceUID
    again = read_series(tmp_path / "m", series_uid=uid).volume
    np.testing.assert_allclose(
        np.sort(again.values, None), np.sort(noise_map.values, None), atol=noise_map.values.max() / 1e3
    )


def test_maps_beside_an_image_do_not_hide_it(gantry_volume, noise_map, provenance, patient, tmp_path, now):
    placed = gantry_volume.place("HFS", (1.0, 2.0, 3.0))
    image = write_series(placed, tmp_path / "o", study=patient, provenance=provenance, now=now)
    uids = {pydicom.dcmread(image[0]).SeriesInstanceUID}
    for kind, about in MAPS.items():
        place = tmp_path / "o" / "passport" / kind
        header = pydicom.dcmread(write_map(noise_map, place, about, study=patient, provenance=provenance, now=now)[0])
        uids.add(header.SeriesInstanceUID)
        assert header.FrameOfReferenceUID == pydicom.dcmread(image[0]).FrameOfReferenceUID
    assert len(uids) == 3
    series = read_series(tmp_path / "o")
    assert series.volume.values.shape == placed.values.shape
    assert any("map of a passport" in note for note in series.notes)


def test_a_map_has_the_same_uids_whenever_it_is_made(noise_map, provenance, patient, tmp_path, now):
    one, two = (
        write_map(noise_map, tmp_path / name, MAPS["bias"], study=patient, provenance=provenance, now=now)
        for name in "ab"
    )
    assert pydicom.dcmread(one[0]).SOPInstanceUID == pydicom.dcmread(two[0]).SOPInstanceUID


def test_a_map_with_holes_is_refused(noise_map, provenance, patient, tmp_path, now):
    values = np.array(noise_map.values)
    values[0, 0, :3] = np.nan
    broken = dataclasses.replace(noise_map, values=values)
    with pytest.raises(InputError, match="3 of"):
        write_map(broken, tmp_path / "m", MAPS["noise"], study=patient, provenance=provenance, now=now)
    assert not (tmp_path / "m").exists()
