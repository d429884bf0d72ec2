"""NIfTI: RAS to LPS by hand, and what is refused."""

import gzip

import nibabel
import numpy as np
import pytest

from lampyris.dicom import read_nifti, subject
from lampyris.model import FormatError, GeometryError, InputError, LampyrisError

AFFINE = np.array([[-0.7, 0, 0, 30.0], [0, 1.1, 0, -50.0], [0, 0, 2.5, 400.0], [0, 0, 0, 1]])
"""i towards the left, j towards anterior, k towards superior."""


@pytest.fixture
def saved(tmp_path):
    """Write values (i, j, k) with an affine under a name; returns the path."""

    def save(values, affine=AFFINE, name="image.nii.gz", **header):
        image = nibabel.Nifti1Image(values, affine)
        image.header.set_xyzt_units("mm")
        for key, value in header.items():
            image.header[key] = value
        nibabel.save(image, tmp_path / name)
        return tmp_path / name

    return save


@pytest.fixture
def values(rng):
    return rng.integers(-1000, 800, (7, 6, 4)).astype(np.int16)


def test_a_voxel_lies_where_the_affine_puts_it_with_left_and_posterior_positive(saved, values):
    volume = read_nifti(saved(values))
    assert volume.grid.shape == (4, 6, 7)
    assert volume.grid.spacing_mm == pytest.approx((2.5, 1.1, 0.7))
    # Voxel (i, j, k) = (2, 3, 1): RAS = (30 − 1.4, −50 + 3.3, 402.5), so LPS = (−28.6, 46.7, 402.5).
    np.testing.assert_allclose(volume.grid.position_mm((1, 3, 2)), [-28.6, 46.7, 402.5])
    assert volume.values[1, 3, 2] == values[2, 3, 1]
    np.testing.assert_allclose(volume.grid.axes, [[0, 0, 1], [0, -1, 0], [1, 0, 0]], atol=1e-6)
    assert (volume.frame, volume.quantity) == ("patient", "HU")


def test_a_subject_stands_upright_on_the_page(saved, values):
    series = subject(saved(values))
    np.testing.assert_allclose(series.volume.grid.axes, [[0, 0, 1], [0, 1, 0], [1, 0, 0]], atol=1e-6)
    index = np.rint(series.volume.grid.index((-28.6, 46.7, 402.5))).astype(int)
    assert series.volume.values[tuple(index)] == values[2, 3, 1]
    assert series.notes == ("NIfTI says nothing of the acquisition: HFS assumed",)
    assert series.volume.values.flags.c_contiguous


def test_scaling_of_the_header_is_applied(saved, values, tmp_path):
    image = nibabel.Nifti1Image(values, AFFINE)
    image.header.set_slope_inter(0.5, -7.0)
    nibabel.save(image, tmp_path / "scaled.nii")
    stored = np.asarray(nibabel.load(tmp_path / "scaled.nii").dataobj)
    np.testing.assert_allclose(read_nifti(tmp_path / "scaled.nii").values, stored.T, atol=1e-4)


def test_a_fourth_axis_of_one_is_dropped(saved, values):
    np.testing.assert_array_equal(read_nifti(saved(values[..., None])).values, values.T)


def test_vendors_padding_is_not_valid(saved, values):
    values[0, :, :] = -2048
    values[1, 2, 3] = -3024
    volume = read_nifti(saved(values))
    hidden = (values == -2048) | (values == -3024)
    np.testing.assert_array_equal(volume.valid, ~hidden.T)
    assert (volume.values[hidden.T] == -1000).all()


def test_other_units_of_length_become_millimetres(saved, values):
    code = nibabel.nifti1.unit_codes["micron"]
    volume = read_nifti(saved(values, np.diag([700.0, 1100.0, 2500.0, 1.0]), xyzt_units=int(code)))
    assert volume.grid.spacing_mm == pytest.approx((2.5, 1.1, 0.7))


def test_attenuation_is_read_when_it_is_said_to_be(saved, values):
    attenuation = (values * 2e-5 + 0.02).astype(np.float32)
    volume = read_nifti(saved(attenuation), quantity="1/mm")
    assert volume.quantity == "1/mm"
    np.testing.assert_array_equal(volume.values, attenuation.T)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda v: (v > 0).astype(np.int16), "not HU: a label map"),
        (lambda v: (v + 1024).astype(np.int16), "offset by 1024"),
        (lambda v: v.astype(np.float32) * 1e-4, "not HU"),
        (lambda v: np.where(v > 700, np.nan, v).astype(np.float32), "are NaN or infinite"),
        (lambda v: np.stack([v, v], -1), r"shape \(7, 6, 4, 2\), expected three axes"),
    ],
)
def test_what_is_no_ct_is_refused(change, message, saved, values):
    with pytest.raises(FormatError, match=message):
        read_nifti(saved(change(values)))


def test_hounsfield_units_are_no_attenuation(saved, values):
    with pytest.raises(FormatError, match="not attenuation in 1/mm"):
        read_nifti(saved(values), quantity="1/mm")


def test_a_sheared_affine_is_refused_with_its_angle(saved, values):
    sheared = AFFINE.copy()
    sheared[1, 2] = 2.5 * np.tan(np.radians(15))
    with pytest.raises(GeometryError, match=r"sheared by 15.00°"):
        read_nifti(saved(values, sheared))


def test_an_image_without_orientation_is_refused(saved, values, tmp_path):
    image = nibabel.Nifti1Image(values, None)
    image.header["sform_code"] = image.header["qform_code"] = 0
    nibabel.save(image, tmp_path / "lost.nii")
    with pytest.raises(FormatError, match="left and right are unknown"):
        read_nifti(tmp_path / "lost.nii")


def test_damaged_and_foreign_files_are_refused(saved, values, tmp_path):
    with pytest.raises(InputError, match="no file"):
        read_nifti(tmp_path / "gone.nii")
    whole = saved(values).read_bytes()
    for length in (0, 3, 100, len(whole) // 2, len(whole) - 1):
        (tmp_path / "cut.nii.gz").write_bytes(whole[:length])
        with pytest.raises(LampyrisError):
            read_nifti(tmp_path / "cut.nii.gz")
    plain = gzip.decompress(whole)
    (tmp_path / "cut.nii").write_bytes(plain[:-3])
    with pytest.raises(FormatError, match="truncated"):
        read_nifti(tmp_path / "cut.nii")
    (tmp_path / "text.nii").write_text("no image")
    with pytest.raises(FormatError, match="truncated or no NIfTI"):
        read_nifti(tmp_path / "text.nii")
