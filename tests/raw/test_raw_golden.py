"""Files of the first version of `.lraw` stay readable: a golden file against arrays that came from formulas."""

from pathlib import Path

import numpy as np

from lampyris import raw

GOLDEN = Path(__file__).parents[1] / "golden"


def test_version_1_is_read():
    expected = np.load(GOLDEN / "version1.npz")
    scan = raw.read(GOLDEN / "version1.lraw")
    np.testing.assert_array_equal(scan.counts[:], expected["counts"])
    arrays = scan.arrays()
    assert {"counts", "id", *arrays} == set(expected.files)
    for name, array in arrays.items():
        np.testing.assert_array_equal(array, expected[name])
    assert scan.id == str(expected["id"])
    assert (scan.acquisition.PatientPosition, scan.acquisition.ProtocolName) == ("FFS", "金")
    raw.verify(GOLDEN / "version1.lraw")
