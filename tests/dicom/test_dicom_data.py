"""Real series: size, place and posture, told by anatomy. None of these numbers come from our own reader.

Shapes and spacings are those of the table in the data's README; heights and padding were looked up in the headers with
pydicom; anatomy is what everybody has: the spine behind, the table under the back, the liver on the right.
"""

import nibabel
import numpy as np
import pytest

from lampyris.dicom import read_series, subject
from lampyris.model import Grid, Volume

pytestmark = pytest.mark.data


def thinned(volume: Volume) -> Volume:
    """Every second slice and every fourth row and column: anatomy needs no more."""
    values = volume.values[::2, ::4, ::4].copy()
    slices, rows, columns = volume.grid.spacing_mm
    grid = Grid(values.shape, (2 * slices, 4 * rows, 4 * columns), volume.grid.first_voxel_mm, volume.grid.axes)
    return Volume(values, grid, "HU", "patient")


def centre(volume: Volume, mask: np.ndarray) -> np.ndarray:
    """Mean place of a mask in patient coordinates, mm."""
    return volume.grid.position_mm(np.argwhere(mask).mean(axis=0))


def behind(volume: Volume, mask: np.ndarray) -> float:
    """How far the mean of a mask lies towards posterior of the mean of the body, mm."""
    return centre(volume, mask)[1] - centre(volume, volume.values > -300)[1]


def test_low_dose_chest_in_jpeg_ls(shared_data):
    series = read_series(shared_data / "ct" / "nlst_101287_chest_ldct")
    volume = series.volume
    assert (volume.grid.shape, volume.grid.spacing_mm) == ((143, 512, 512), (2.0, 0.54, 0.54))
    np.testing.assert_allclose(volume.grid.first_voxel_mm, [-150.7812, -160.9375, 928.0])
    np.testing.assert_array_equal(volume.grid.axes, [[0, 0, 1], [0, 1, 0], [1, 0, 0]])
    # The field is round and a little larger than inscribed: 56252 pixels of padding in every image of the middle.
    assert (~volume.valid[71]).sum() == 56252
    assert volume.valid[71, 256, 256]
    assert volume.values.min() > -1500
    assert (volume.values[~volume.valid] == -1000).all()
    lung = volume.values[71][(volume.values[71] < -700) & (volume.values[71] > -950)]
    assert -930 < np.median(lung) < -800  # a lung in deep inspiration
    coarse = thinned(volume)
    assert behind(coarse, coarse.values > 350) > 10
    assert (series.acquisition.KVP, series.acquisition.SpiralPitchFactor) == (120, 1.5)
    assert "PatientPosition is not given: HFS assumed" in series.notes
    # The liver stands under the right lung: soft tissue at the inferior end, towards −L, where lung is higher up.
    right = coarse.values[:, 30:100, 15:60]
    liver = ((right > 20) & (right < 90)).sum(axis=(1, 2))
    assert liver[:5].mean() > 5 * liver[25:35].mean()


def test_abdomen_feet_first_in_an_archive(shared_data):
    series = read_series(shared_data / "ct" / "tcga_ov_09-2043_abdomen_pelvis.tar.xz")
    volume = series.volume
    assert (volume.grid.shape, volume.grid.spacing_mm) == ((160, 512, 512), (3.0, 1.03, 1.03))
    np.testing.assert_allclose(volume.grid.first_voxel_mm, [-276.3671, -263.6718, 1055.0])
    assert series.acquisition.PatientPosition == "FFS"
    assert (~volume.valid[80]).mean() == pytest.approx(0.294, abs=0.001)
    assert series.study.StudyInstanceUID.startswith("1.3.6.1.4.1.14519.5.2.1.7695")
    coarse = thinned(volume)
    pelvis = coarse.values > 300
    pelvis[40:] = False  # above it there is contrast in bowel and ureters
    assert behind(coarse, pelvis) > 5
    # Lung stands at the superior end, and the liver, the largest even organ under it, on the right (−L).
    lung = ((coarse.values < -600) & (coarse.values > -950))[:, 37:90, 32:95].sum(axis=(1, 2))
    assert lung[-10:].mean() > 5 * lung[10:30].mean()
    organ, body = ((coarse.values > low) & (coarse.values < 160) for low in (80, -300))
    for mask in (organ, body):
        mask[:60] = mask[70:] = False
    assert centre(coarse, organ)[0] < centre(coarse, body)[0] - 10


def test_neck_with_overlapping_slices(shared_data):
    series = read_series(shared_data / "ct" / "tcga_thca_E3-A3E5_lower_neck_only.tar.xz")
    volume = series.volume
    assert (volume.grid.shape, volume.grid.spacing_mm) == ((65, 512, 512), (1.5, 0.515625, 0.515625))
    assert series.SliceThickness == 3.0  # twice the step: the slices overlap
    np.testing.assert_allclose(volume.grid.position_mm((64, 0, 0)), [-120.0, 0.0, 443.5])
    assert volume.values.min() == -1024  # stored 0 with intercept −1024, measured air and no padding
    assert volume.valid is None
    middle = np.zeros(volume.grid.shape, np.bool_)
    middle[32, 180:, 220:320] = True
    windpipe, spine = middle & (volume.values < -800), middle & (volume.values > 300)
    assert centre(volume, spine)[1] > centre(volume, windpipe)[1] + 20
    # The tops of the lungs stand at the inferior end.
    inside = volume.values[:, 250:450, 100:400]
    lung = ((inside < -600) & (inside > -960)).sum(axis=(1, 2))
    assert lung[:10].mean() > 5 * lung[-10:].mean()


def test_nifti_with_organ_labels(shared_data):
    folder = shared_data / "ct" / "totalsegmentator"
    volume = subject(folder / "example_ct.nii.gz").volume
    assert (volume.grid.shape, volume.grid.spacing_mm) == ((112, 101, 122), (3.0, 3.0, 3.0))
    np.testing.assert_allclose(volume.grid.axes, [[0, 0, 1], [0, 1, 0], [1, 0, 0]], atol=1e-6)
    # Affine: x = 3i − 177.956, y = 3j + 11.319 (RAS), so the left-most voxel is at L = 177.956 − 3·121.
    assert volume.grid.first_voxel_mm[0] == pytest.approx(177.95632935 - 3 * 121)
    # Labels stored as (i, j, k) = (to the right… to the left, …): turned by hand to slices S, rows P, columns L.
    labels = np.asarray(nibabel.load(folder / "example_seg_fast_force_split.nii.gz").dataobj).T[:, ::-1, ::-1]
    spleen, right_kidney, left_kidney, liver, spine = 1, 2, 3, 5, range(26, 51)
    assert centre(volume, labels == liver)[0] < centre(volume, labels == spleen)[0]
    assert centre(volume, labels == right_kidney)[0] < centre(volume, labels == left_kidney)[0]
    assert behind(volume, np.isin(labels, spine)) > 20
    assert 0 < volume.values[labels == liver].mean() < 150
