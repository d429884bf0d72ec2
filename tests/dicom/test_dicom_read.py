"""Series as other makers write them: order, gaps, padding, codecs, tilt; and what is refused, without patient data."""

import contextlib
import dataclasses
import io
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import pydicom
import pytest
from dicom_of_others import SECRET, foreign_image
from pydicom.config import disable_value_validation
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEGLosslessSV1,
    JPEGLSLossless,
    MediaStorageDirectoryStorage,
    MRImageStorage,
    RLELossless,
)

from lampyris.dicom import Provenance, read_series, source, subject, write_series
from lampyris.model import FormatError, InputError, LampyrisError, SeriesError

SECRETS = ("Geheim", "張", "𠮷", "4711")


def refused(path, error, match, **options):
    """The message of a refusal, which must not tell whose images they are."""
    with pytest.raises(error, match=match) as refusal:
        read_series(path, **options)
    assert not any(secret in str(refusal.value) for secret in SECRETS)
    return str(refusal.value)


def stored(images) -> np.ndarray:
    """What the images hold, from foot to head."""
    ordered = sorted(images, key=lambda image: float(image.ImagePositionPatient[2]))
    return np.stack([image.pixel_array for image in ordered])


def test_slices_stand_in_order_of_position_whatever_their_names_and_numbers_say(foreign, ladder):
    images = ladder([31.5, 22.5, 28.5, 25.5])
    series = read_series(foreign(images))
    grid = series.volume.grid
    assert (grid.shape, grid.spacing_mm) == ((4, 6, 9), (3.0, 0.75, 0.5))
    np.testing.assert_array_equal(grid.first_voxel_mm, [-12.5, 40.0, 22.5])
    np.testing.assert_array_equal(grid.axes, [[0, 0, 1], [0, 1, 0], [1, 0, 0]])
    np.testing.assert_array_equal(series.volume.values, stored(images))
    assert (series.volume.frame, series.volume.quantity, series.volume.valid) == ("patient", "HU", None)


@pytest.mark.parametrize(
    ("cosines", "axes"),
    [
        ([1, 0, 0, 0, 1, 0], [[0, 0, 1], [0, 1, 0], [1, 0, 0]]),
        ([-1, 0, 0, 0, 1, 0], [[0, 0, -1], [0, 1, 0], [-1, 0, 0]]),
        ([1, 0, 0, 0, 0, -1], [[0, 1, 0], [0, 0, -1], [1, 0, 0]]),  # coronal, from front to back
        ([0, 1, 0, 0, 0, -1], [[-1, 0, 0], [0, 0, -1], [0, 1, 0]]),  # sagittal, from left to right
    ],
)
def test_left_posterior_and_superior_come_from_the_direction_cosines(cosines, axes, foreign, rng):
    normal = np.cross(cosines[:3], cosines[3:])
    images = [
        foreign_image(rng.integers(0, 9, (6, 9), np.int16), tuple(step * normal), step, ImageOrientationPatient=cosines)
        for step in (2, 1, 3)
    ]
    volume = read_series(foreign(images)).volume
    np.testing.assert_array_equal(volume.grid.axes, axes)
    np.testing.assert_allclose(volume.grid.first_voxel_mm, normal)
    upright = subject(foreign(images, "again")).volume
    assert (np.diag(upright.grid.axes[:, ::-1]) > 0.9).all()
    for place in ((0, 0, 0), (2, 5, 8), (1, 3, 2)):
        index = tuple(np.rint(upright.grid.index(volume.grid.position_mm(place))).astype(int))
        assert upright.values[index] == volume.values[place]


def test_doubled_slices_are_refused_by_number_and_height(foreign, ladder):
    images = ladder([10.0, 13.0, 16.0, 13.0, 19.0])
    images[3].SOPInstanceUID = "1.2.9"
    message = refused(foreign(images), SeriesError, "1 positions are taken twice")
    assert "number 3 and number 3 at 13.00 mm" in message


def test_a_series_that_is_there_twice_is_refused_as_doubled(foreign, ladder):
    refused(
        foreign(ladder([10.0, 13.0, 16.0]) + ladder([10.0, 13.0, 16.0])), SeriesError, "3 positions are taken twice"
    )


def test_missing_slices_are_refused_with_how_many_and_where(foreign, ladder):
    images = [image for image in ladder([3.0 * n for n in range(12)]) if image.InstanceNumber not in (4, 5, 9)]
    message = refused(foreign(images), SeriesError, "slices are missing from a step of 3.000 mm")
    assert "2 between number 6 at 18.00 mm and number 3 at 27.00 mm" in message
    assert "1 between number 10 at 6.00 mm and number 8 at 12.00 mm" in message


def test_uneven_slices_are_refused_and_rounded_positions_are_not(foreign, ladder):
    refused(foreign(ladder([0.0, 3.0, 6.5, 9.0, 12.0])), SeriesError, "number 3 at 6.500 mm lies 0.500 mm")
    rounded = [round(0.625 * n + 0.01, 1) for n in range(20)]  # a maker that writes a tenth of a millimetre
    volume = read_series(foreign(ladder(rounded), "rounded")).volume
    assert volume.grid.spacing_mm[0] == pytest.approx((rounded[-1] - rounded[0]) / 19)


def test_micrometre_slices_are_not_taken_for_doubles(foreign, ladder):
    volume = read_series(foreign(ladder([0.004 * n for n in range(4)]))).volume
    assert volume.grid.spacing_mm[0] == pytest.approx(0.004)


def test_overlapping_slices_are_spaced_by_position_not_by_thickness(foreign, ladder):
    series = read_series(foreign(ladder([0.0, 1.5, 3.0], SliceThickness=3.0)))
    assert series.volume.grid.spacing_mm[0] == 1.5
    assert series.SliceThickness == 3.0


@pytest.mark.parametrize(
    ("change", "what"),
    [
        ({"PixelSpacing": [0.75, 0.51]}, "pixel spacing"),
        ({"ImageOrientationPatient": [1, 0, 0, 0, 0, -1]}, "orientation"),
        ({"Rows": 5}, "matrix"),
    ],
)
def test_an_image_unlike_the_others_is_refused(change, what, foreign, ladder):
    images = ladder([0.0, 3.0, 6.0])
    for keyword, value in change.items():
        setattr(images[1], keyword, value)
    refused(foreign(images), SeriesError, f"differ in {what}")


def test_an_image_beside_the_line_is_refused(foreign, ladder):
    images = ladder([0.0, 3.0, 6.0, 9.0])
    images[2].ImagePositionPatient = [-12.5, 41.0, 6.0]
    refused(foreign(images), SeriesError, "number 2 lies 1.00 mm to the side")


def test_one_image_is_as_thick_as_it_says_or_refused(foreign, ladder):
    assert read_series(foreign(ladder([5.0]))).volume.grid.spacing_mm[0] == 3.0
    refused(foreign(ladder([5.0], SliceThickness=None), "thin"), SeriesError, "without SliceThickness")


def padded_images(padding, intercept, rng, **changes):
    """Three images whose corners outside the circle hold `padding` as stored."""
    y, x = np.mgrid[:21, :21] - 10.0
    outside = y**2 + x**2 > 10.5**2
    noise = rng.normal(-1000 - intercept, 90, (3, 21, 21))
    values = np.where(outside, padding, np.rint(noise)).astype(np.int16)
    return (
        values,
        outside,
        [foreign_image(values[n], (0, 0, 3.0 * n), n, RescaleIntercept=intercept, **changes) for n in range(3)],
    )


@pytest.mark.parametrize(
    ("padding", "intercept", "declared"),
    [
        (-2048, 0, {}),
        (-2000, 0, {}),
        (-2000, -1024, {}),
        (-2048, -1024, {}),
        (-1500, 0, {}),
        (-1111, 0, {"PixelPaddingValue": -1111}),
        (-30000, -1024, {"PixelPaddingValue": -32768, "PixelPaddingRangeLimit": -29000}),
    ],
)
def test_padding_reads_as_air_that_was_not_measured(padding, intercept, declared, foreign, rng):
    values, outside, images = padded_images(padding, intercept, rng, **declared)
    hidden = np.broadcast_to(outside, values.shape)
    if declared.get("PixelPaddingValue") == -1111:
        hidden = values == -1111  # what is declared holds wherever it stands
    series = read_series(foreign(images))
    np.testing.assert_array_equal(series.volume.valid, ~hidden)
    assert (series.volume.values[hidden] == -1000).all()
    np.testing.assert_array_equal(series.volume.values[~hidden], values[~hidden] + intercept)
    assert any("padding" in note for note in series.notes)


def test_noise_below_air_is_measured(foreign, rng):
    """Without padding nothing is masked, down to the values that a low dose gives air."""
    values = np.rint(rng.normal(-1000, 250, (21, 21))).astype(np.int16)
    assert values.min() < -1500
    series = read_series(foreign([foreign_image(values, (0, 0, 0), 1)]))
    assert series.volume.valid is None
    np.testing.assert_array_equal(series.volume.values[0], values)


def test_a_round_field_is_told_by_all_four_corners(foreign, rng):
    """Three corners alike may be chance; then the few voxels with that value stay measured."""
    values, _outside, images = padded_images(-1500, 0, rng)
    values[:, 20, 20] = -990
    for image, changed in zip(images, values, strict=True):
        image.PixelData = changed.astype("<i2").tobytes()
    series = read_series(foreign(images))
    assert series.volume.valid is None
    np.testing.assert_array_equal(series.volume.values, values)


@pytest.mark.parametrize("intercept", [0, -1024, -8192])
def test_unsigned_values_and_any_intercept(intercept, foreign, rng):
    values = rng.integers(0, 4096, (6, 9), np.uint16)
    values[0, 0] = 60000
    image = foreign_image(values, (0, 0, 0), 1, RescaleIntercept=intercept, RescaleSlope=0.5)
    volume = read_series(foreign([image])).volume
    np.testing.assert_array_equal(volume.values[0], values * 0.5 + intercept)


def test_twelve_bits_in_sixteen_are_read(foreign, rng):
    values = rng.integers(0, 4096, (6, 9), np.uint16)
    image = foreign_image(values, (0, 0, 0), 1, BitsStored=12, HighBit=11, RescaleIntercept=-1024)
    np.testing.assert_array_equal(read_series(foreign([image])).volume.values[0], values - 1024.0)


@pytest.mark.parametrize(
    "syntax", [ImplicitVRLittleEndian, ExplicitVRBigEndian, DeflatedExplicitVRLittleEndian, JPEGLSLossless, RLELossless]
)
def test_every_lossless_transfer_syntax_gives_the_same_values(syntax, tmp_path, ladder):
    folder = tmp_path / "coded"
    folder.mkdir()
    images = ladder([0.0, 3.0, 6.0])
    expected = stored(images)
    for image in images:
        if syntax.is_compressed and syntax != DeflatedExplicitVRLittleEndian:
            image.compress(syntax)
        elif syntax == ExplicitVRBigEndian:
            image.PixelData = image.pixel_array.astype(">i2").tobytes()
        image.file_meta.TransferSyntaxUID = syntax
        plain = {"little_endian": syntax != ExplicitVRBigEndian, "implicit_vr": syntax == ImplicitVRLittleEndian}
        pydicom.dcmwrite(folder / f"{image.InstanceNumber}.dcm", image, enforce_file_format=True, **plain)
    np.testing.assert_array_equal(read_series(folder).volume.values, expected)


def test_a_transfer_syntax_without_decoder_is_named(foreign, ladder):
    images = ladder([0.0, 3.0])
    for image in images:
        image.file_meta.TransferSyntaxUID = JPEGLosslessSV1
        image.PixelData = encapsulate([b"\xff\xd8\xff\xd9"])
        image["PixelData"].VR = "OB"
    refused(foreign(images), FormatError, r"stored as JPEG Lossless, Non-Hierarchical, First-Order")


def test_a_damaged_code_stream_is_refused(foreign, ladder):
    images = ladder([0.0, 3.0])
    images[0].compress(JPEGLSLossless)
    images[0].PixelData = encapsulate([b"\xff\xd8\xff\xf7 nothing more"])
    refused(foreign(images), FormatError, "JPEG-LS")


def test_two_series_are_refused_and_one_can_be_chosen(foreign, ladder):
    images = ladder([0.0, 3.0, 6.0]) + ladder([0.0, 2.0], SeriesInstanceUID="1.2.3", SeriesNumber=8)
    for image in images[3:]:
        image.SOPInstanceUID = f"1.2.8.{image.InstanceNumber}"
        image.SeriesDescription = SECRET
    folder = foreign(images)
    message = refused(folder, SeriesError, "2 CT series here, expected one")
    assert "number 3 with 3 files" in message
    assert "number 8 with 2 files, UID 1.2.3" in message
    chosen = read_series(folder, series_uid="1.2.3")
    assert chosen.volume.grid.spacing_mm[0] == 2.0
    assert "chose one of 2 CT series" in chosen.notes
    refused(folder, SeriesError, "no CT series 9.9 here", series_uid="9.9")


def test_localizers_and_other_objects_are_skipped_with_a_note(foreign, ladder):
    images = ladder([0.0, 3.0, 6.0])
    scout = foreign_image(np.zeros((6, 9), np.int16), (0, 0, 0), 99, ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"])
    other = foreign_image(np.zeros((6, 9), np.int16), (0, 0, 0), 98, SOPClassUID=MRImageStorage)
    folder = foreign([*images, scout, other])
    (folder / "LICENSE").write_text("terms")
    series = read_series(folder)
    assert series.volume.grid.shape[0] == 3
    assert series.notes == ("1 files are not DICOM and were left alone", "skipped 1 × MR Image Storage, 1 × localizer")


def test_a_folder_without_ct_says_what_it_holds(foreign, tmp_path):
    mr = foreign_image(np.zeros((6, 9), np.int16), (0, 0, 0), 1, SOPClassUID=MRImageStorage, Modality="MR")
    refused(foreign([mr]), SeriesError, "found 1 × MR Image Storage and 0 other files")
    empty = tmp_path / "empty"
    empty.mkdir()
    refused(empty, SeriesError, "no DICOM object and 0 other files")
    (empty / "note.txt").write_text(SECRET)
    refused(empty, SeriesError, "no DICOM object and 1 other files")
    refused(empty / "note.txt", SeriesError, "no DICOM object and 1 other files")


def test_a_path_to_nothing_is_refused(tmp_path):
    with pytest.raises(InputError, match="no file or folder"):
        read_series(tmp_path / "gone")
    with pytest.raises(InputError, match="no file or folder"):
        subject(str(tmp_path / "gone"))


@pytest.mark.parametrize("keyword", ["ImagePositionPatient", "PixelSpacing", "RescaleSlope", "Rows"])
def test_a_missing_essential_is_named(keyword, foreign, ladder):
    images = ladder([0.0, 3.0])
    delattr(images[1], keyword)
    refused(foreign(images), FormatError, f"image number 1 has no .*{keyword}")


def test_another_quantity_is_refused(foreign, ladder):
    refused(foreign(ladder([0.0, 3.0], RescaleType="Z_EFF")), FormatError, "'Z_EFF', neither HU")


def test_truncated_files_are_refused_at_any_length(foreign, ladder):
    folder = foreign(ladder([0.0, 3.0]))
    victim = sorted(folder.iterdir())[0]
    whole = victim.read_bytes()
    for length in [*range(133, len(whole) - 1, 11), len(whole) - 1]:
        victim.write_bytes(whole[:length])
        with pytest.raises(LampyrisError) as refusal:
            read_series(folder)
        assert not any(secret in str(refusal.value) for secret in SECRETS)
    message = refused(folder, FormatError, "file 1 .in name order.|image number")
    assert "truncated" in message


def test_a_private_object_and_a_directory_are_skipped(foreign, ladder):
    private = foreign_image(np.zeros((6, 9), np.int16), (0, 0, 0), 9, SOPClassUID="1.2.3.4")
    private.file_meta.MediaStorageSOPClassUID = "1.2.3.4"
    directory = Dataset()
    directory.FileSetID = "DISC"
    directory.file_meta = FileMetaDataset()
    directory.file_meta.MediaStorageSOPClassUID = MediaStorageDirectoryStorage
    directory.file_meta.MediaStorageSOPInstanceUID = "1.2.3.5"
    directory.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    series = read_series(foreign([*ladder([0.0, 3.0, 6.0]), private, directory]))
    assert series.notes == ("skipped 1 × 1.2.3.4, 1 × Media Storage Directory Storage",)


def test_flipped_bytes_never_escape_as_a_foreign_error(foreign, ladder, rng):
    folder = foreign(ladder([0.0, 3.0]))
    victim = sorted(folder.iterdir())[0]
    whole = bytearray(victim.read_bytes())
    for _ in range(150):
        damaged = bytearray(whole)
        for place in rng.integers(132, len(whole), 3):
            damaged[place] = rng.integers(256)
        victim.write_bytes(damaged)
        with contextlib.suppress(LampyrisError):
            read_series(folder)


@pytest.mark.parametrize("kind", ["tar.xz", "tar", "zip"])
def test_an_archive_reads_like_its_folder(kind, foreign, ladder, tmp_path):
    folder = foreign(ladder([0.0, 3.0, 6.0]))
    (folder / "LICENSE").write_text("terms")
    archive = tmp_path / f"series.{kind}"
    if kind == "zip":
        with zipfile.ZipFile(archive, "w") as packed:
            for file in folder.iterdir():
                packed.write(file, f"../../{file.name}")
    else:
        with tarfile.open(archive, "w:xz" if kind == "tar.xz" else "w") as packed:
            packed.add(folder, "../../series")
    before = sorted(tmp_path.rglob("*"))
    series = read_series(archive)
    np.testing.assert_array_equal(series.volume.values, read_series(folder).volume.values)
    assert "1 files are not DICOM and were left alone" in series.notes
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize("mode", ["w:xz", "w:gz"])
def test_a_truncated_archive_is_refused(mode, foreign, ladder, tmp_path):
    archive = tmp_path / "series.tar"
    with tarfile.open(archive, mode) as packed:
        packed.add(foreign(ladder([0.0, 3.0, 6.0])), "series")
    whole = archive.read_bytes()
    for part in (0.5, 0.9):
        archive.write_bytes(whole[: int(part * len(whole))])
        refused(archive, FormatError, "damaged, truncated")


def test_an_archive_bomb_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(source, "MAXIMUM_BYTES", 2**20)
    archive = tmp_path / "series.tar.xz"
    with tarfile.open(archive, "w:xz") as packed:
        member = tarfile.TarInfo("zeros")
        member.size = 2**20 + 1
        packed.addfile(member, io.BytesIO(bytes(member.size)))
    assert archive.stat().st_size < 2000
    refused(archive, FormatError, "more than .* GiB unpacked")


def tilted_images(angle_deg: float) -> list:
    """A field that is linear in space, seen in images leaning by the angle while the table moves along S."""
    angle = np.radians(angle_deg)
    down = np.array([0, np.cos(angle), -np.sin(angle)])
    rows, columns = np.mgrid[:14, :11]
    images = []
    for n in range(12):
        position = np.array([-12.5, 40.0, 100.0 + 2.0 * n])
        points = position + np.outer(rows.ravel() * 0.75, down) + np.outer(columns.ravel() * 0.5, [1, 0, 0])
        field = (linear(points) / 0.01).reshape(rows.shape)
        images.append(
            foreign_image(
                np.rint(field).astype(np.int16),
                tuple(position),
                n + 1,
                ImageOrientationPatient=[1, 0, 0, *np.round(down, 6)],
                RescaleSlope=0.01,
            )
        )
    return images


def linear(points: np.ndarray) -> np.ndarray:
    return points @ np.array([1.3, -2.1, 0.7]) + 11.0


@pytest.mark.parametrize("angle_deg", [12.0, -20.5])
def test_a_tilted_gantry_is_straightened_and_told(angle_deg, foreign):
    """Trilinear interpolation is exact for a linear field: only the stored step of 0.01 remains."""
    series = read_series(foreign(tilted_images(angle_deg)))
    volume = series.volume
    np.testing.assert_allclose(volume.grid.axes, [[0, 0, 1], [0, 1, 0], [1, 0, 0]], atol=1e-6)
    assert volume.grid.spacing_mm == pytest.approx((2.0, 0.75, 0.5))
    assert any(f"tilted by {abs(angle_deg):.2f}°" in note and "resampled" in note for note in series.notes)
    places = volume.grid.position_mm(np.argwhere(volume.valid))
    np.testing.assert_allclose(volume.values[volume.valid], linear(places), atol=0.011)
    assert (volume.values[~volume.valid] <= 0).all()
    # The leaning block 24 mm long holds, on the upright grid, all but the two wedges at its ends.
    wedge = 13 * 0.75 * abs(np.sin(np.radians(angle_deg)))
    assert volume.valid[:, 5, 5].sum() * 2.0 >= 22.0 - wedge - 2.0


def test_a_tilted_gantry_is_refused_where_resampling_is_not_wanted(foreign):
    refused(foreign(tilted_images(12.0)), SeriesError, "sheared by 12.00°.*resample_tilt", resample_tilt=False)


def test_oblique_images_along_their_normal_are_no_tilt(foreign, rng):
    down = np.array([0, np.cos(0.3), -np.sin(0.3)])
    normal = np.cross([1, 0, 0], down)
    images = [
        foreign_image(
            rng.integers(0, 9, (6, 9), np.int16), tuple(2.0 * n * normal), n, ImageOrientationPatient=[1, 0, 0, *down]
        )
        for n in range(4)
    ]
    series = read_series(foreign(images), resample_tilt=False)
    np.testing.assert_allclose(series.volume.grid.axes[0], normal, atol=1e-9)


@pytest.mark.parametrize(
    ("declared", "encoding", "name"),
    [
        ("GB18030", "gb18030", "张^𠮷三"),
        ("GBK", "gbk", "张^三"),
        ("ISO_IR 100", "gb18030", "张^𠮷三"),
        (None, "gb18030", "张^𠮷三"),
        ("ISO_IR 192", "gb18030", "张^三"),
        (None, "utf-8", "Zhang^San=张^𠮷三"),
        ("ISO_IR 100", "gb18030", "Zhang^San=张^三"),
        ("ISO_IR 100", "latin-1", "Müller^Zoéé"),
        ("ISO_IR 192", "utf-8", "Müller^Zoé=張^𠮷三"),
    ],
)
def test_names_are_read_as_they_were_meant(declared, encoding, name, ladder, tmp_path):
    (image,) = ladder([0.0])
    image.SpecificCharacterSet = declared
    image.PatientName = "X" * len(name.encode(encoding))
    buffer = io.BytesIO()
    pydicom.dcmwrite(buffer, image, enforce_file_format=True)
    file = tmp_path / "one.dcm"
    file.write_bytes(buffer.getvalue().replace(b"X" * len(name.encode(encoding)), name.encode(encoding)))
    study = read_series(file).study
    assert study.PatientName == name
    assert repr(study) == "Study(…)"


def test_study_and_acquisition_come_back_from_both_kinds(
    gantry_volume, provenance, patient, acquisition, tmp_path, now
):
    for kind in ("ct", "enhanced"):
        folder = tmp_path / kind
        placed = gantry_volume.place("HFS", (1.0, 2.0, 3.0))
        write_series(placed, folder, study=patient, provenance=provenance, now=now, kind=kind)
        series = read_series(folder)
        uid, study_uid = series.acquisition.FrameOfReferenceUID, series.study.StudyInstanceUID
        assert series.study == dataclasses.replace(patient, StudyInstanceUID=study_uid)
        expected = dataclasses.replace(acquisition, FrameOfReferenceUID=uid, CTDIvol=0.33, dose_fraction=1.0)
        assert series.acquisition == expected
        assert (series.SeriesNumber, series.ConvolutionKernel, series.SliceThickness) == (1, "body", 2.5)
        assert series.volume.FrameOfReferenceUID == uid


def test_an_unknown_patient_position_is_assumed_aloud(foreign, ladder):
    series = read_series(foreign(ladder([0.0, 3.0], PatientPosition="")))
    assert series.acquisition.PatientPosition == "HFS"
    assert series.notes == ("PatientPosition is not given: HFS assumed",)


def test_text_that_could_not_be_written_again_is_left_out_with_a_note(foreign, ladder, tmp_path, now, gantry_volume):
    """Otherwise a journey of minutes would end at the last station because of an old scanner's habits."""
    (image,) = ladder([0.0])
    with disable_value_validation():
        image.BodyPartExamined = "Chest routine"
        image.StationName = "A station with a long name"
        image.PatientSex = "weiblich Geheim"
        image.AcquisitionDate, image.AcquisitionTime = "2001.02.03", "10:11:12"
        image.StudyTime = "10:11"
    series = read_series(foreign([image]))
    assert {note.split(" is no valid DICOM")[0] for note in series.notes} == {
        "BodyPartExamined",
        "StationName",
        "PatientSex",
        "StudyTime",
    }
    assert not any(secret in note for note in series.notes for secret in SECRETS)
    assert (series.study.PatientSex, series.acquisition.BodyPartExamined) == ("", None)
    assert series.acquisition.AcquisitionDateTime is None
    made_by = Provenance("scan", series.acquisition)
    write_series(series.volume, tmp_path / "again", study=series.study, provenance=made_by, now=now)


def test_hidden_files_and_begun_series_are_not_read(foreign, ladder):
    folder = foreign(ladder([0.0, 3.0]))
    begun = folder / ".dicom.5f5f.partial"
    begun.mkdir()
    for file in folder.iterdir():
        if file.is_file():
            (begun / file.name).write_bytes(file.read_bytes())
            (folder / f"._{file.name}").write_bytes(file.read_bytes())
    assert read_series(folder).volume.grid.shape[0] == 2


def test_lossy_compression_is_told(foreign, ladder):
    series = read_series(foreign(ladder([0.0, 3.0], LossyImageCompression="01")))
    assert "compressed with loss" in series.notes[0]


def test_progress_runs_to_one(foreign, ladder):
    seen = []
    read_series(foreign(ladder([0.0, 3.0, 6.0])), progress=seen.append)
    assert seen == pytest.approx([1 / 3, 2 / 3, 1.0])


def test_one_file_may_be_read_by_its_path(foreign, ladder):
    folder = foreign(ladder([5.0]))
    (file,) = folder.iterdir()
    assert read_series(Path(file)).volume.grid.shape == (1, 6, 9)
