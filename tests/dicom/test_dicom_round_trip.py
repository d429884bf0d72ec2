"""What is written is what is read: values to half a step, places exactly, mask as it was."""

import tempfile
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lampyris.dicom import Provenance, read_series, write_series
from lampyris.model import PATIENT_POSITIONS, Acquisition, Grid, Study, Volume

NOW = datetime(2026, 11, 21, tzinfo=UTC)

lengths = st.integers(1, 6)
spacings = st.floats(0.05, 9.0)
places = st.floats(-900.0, 900.0)
hounsfield = st.floats(-33790.0, 31740.0)


def trip(volume: Volume, acquisition: Acquisition, kind: str) -> Volume:
    """Out to disk and back."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "series"
        made_by = Provenance("scan", acquisition)
        write_series(volume, out, study=Study(), provenance=made_by, now=NOW, kind=kind)
        series = read_series(out)
    assert series.acquisition.PatientPosition == acquisition.PatientPosition
    assert series.acquisition.DataCollectionCenterPatient == pytest.approx(acquisition.DataCollectionCenterPatient)
    return series.volume


def compare(back: Volume, volume: Volume, step: float) -> None:
    """Every voxel of `volume` is found in `back` at its place, and there are no others."""
    assert sorted(back.grid.shape) == sorted(volume.grid.shape)
    indices = np.array(list(np.ndindex(*volume.grid.shape)))
    found = back.grid.index(volume.grid.position_mm(indices))
    nearest = np.rint(found).astype(int)
    np.testing.assert_allclose(found, nearest, atol=1e-6)  # DS keeps 16 characters
    valid = np.ones(volume.values.shape, np.bool_) if volume.valid is None else volume.valid
    valid_back = np.ones(back.values.shape, np.bool_) if back.valid is None else back.valid
    here, there = tuple(indices.T), tuple(nearest.T)
    np.testing.assert_array_equal(valid_back[there], valid[here])
    values, values_back = volume.values[here].astype(float), back.values[there].astype(float)
    measured = valid[here]
    rounding = 2e-7 * np.abs(values[measured]).max(initial=0)  # of float32
    assert np.abs(values_back - values)[measured].max(initial=0) <= step / 2 + rounding


@settings(max_examples=30, deadline=None)
@given(
    st.tuples(lengths, lengths, lengths),
    st.tuples(spacings, spacings, spacings),
    st.tuples(places, places, places),
    st.tuples(places, places, places),
    st.sampled_from(PATIENT_POSITIONS),
    st.sampled_from(["ct", "enhanced"]),
    st.booleans(),
    st.tuples(hounsfield, hounsfield),
    st.integers(0, 2**32),
)
def test_any_volume_comes_back(shape, spacing, first, origin, position, kind, masked, span, seed):
    rng = np.random.default_rng(seed)
    values = rng.uniform(min(span), max(span), shape).astype(np.float32)
    valid = rng.random(shape) > 0.2 if masked else None
    volume = Volume(values, Grid(shape, spacing, np.array(first)), "HU", valid=valid).place(position, origin)
    acquisition = Acquisition(PatientPosition=position, DataCollectionCenterPatient=origin)
    compare(trip(volume, acquisition, kind), volume, step=1.0)


@settings(max_examples=15, deadline=None)
@given(st.floats(-7.0, 4.0), st.sampled_from(["ct", "enhanced"]), st.booleans(), st.integers(0, 2**32))
def test_attenuation_of_any_size_comes_back_to_a_ten_thousandth(decade, kind, masked, seed):
    """The step is 1, 2 or 5 · 10ⁿ, so at most 2.5 times the finest that 32767 steps allow."""
    rng = np.random.default_rng(seed)
    values = (rng.uniform(-0.2, 1.0, (3, 4, 5)) * 10.0**decade).astype(np.float32)
    valid = rng.random((3, 4, 5)) > 0.2 if masked else None
    grid = Grid.centred((3, 4, 5), (2.0, 0.7, 0.9))
    volume = Volume(values, grid, "1/mm", valid=valid).place("HFP", (1.0, 2.0, 3.0))
    acquisition = Acquisition(PatientPosition="HFP", DataCollectionCenterPatient=(1.0, 2.0, 3.0))
    back = trip(volume, acquisition, kind)
    assert back.quantity == "1/mm"
    compare(back, volume, step=2.5 * float(np.abs(values).max()) / 32767)


@settings(max_examples=15, deadline=None)
@given(st.tuples(*[st.floats(-1.0, 1.0)] * 4), st.sampled_from(["ct", "enhanced"]))
def test_any_direction_comes_back(quaternion, kind):
    w, x, y, z = np.array(quaternion) / (np.linalg.norm(quaternion) or 1.0)
    if abs(np.linalg.norm([w, x, y, z]) - 1) > 1e-9:
        return
    turn = np.array(
        [
            [1 - 2 * (y * y + z * z), 2 * (x * y - z * w), 2 * (x * z + y * w)],
            [2 * (x * y + z * w), 1 - 2 * (x * x + z * z), 2 * (y * z - x * w)],
            [2 * (x * z - y * w), 2 * (y * z + x * w), 1 - 2 * (x * x + y * y)],
        ]
    )
    values = np.arange(3 * 4 * 5, dtype=np.float32).reshape(3, 4, 5)
    volume = Volume(values, Grid((3, 4, 5), (2.0, 0.7, 0.9), np.array([5.0, -80.0, 300.0]), turn), "HU", "patient")
    compare(trip(volume, Acquisition(), kind), volume, step=1.0)
