"""Make golden/version1.lraw and golden/version1.npz: a small scan as version 1 of the format writes it.

The arrays come from formulas, not from reading the file back. Run once per format version; never to mend a test:
files of users are older than any change. `python tests/golden/make_lraw_v1.py`
"""

from pathlib import Path

import numpy as np

from lampyris import raw
from lampyris.model import Acquisition, Bowtie, Geometry, Noise, RawScan, Spectrum

HERE = Path(__file__).parent


def scan() -> RawScan:
    """Seven views of 2 × 5 cells, nothing square, centred or symmetric."""
    views = np.arange(7)
    phi = np.deg2rad(17.0 + 50.0 * views)
    source = np.stack([541 * np.sin(phi), 0.7 * views, 541 * np.cos(phi)], 1)
    detector = np.stack([-408 * np.sin(phi), 0.7 * views + 0.3, -408 * np.cos(phi)], 1)
    u = 2.9 * np.stack([np.cos(phi), 0 * phi, -np.sin(phi)], 1)
    v = np.broadcast_to([0.0, 1.7, 0.0], u.shape)
    counts = (1000 * views[:, None, None] + 10 * np.arange(2)[:, None] + np.arange(5)).astype(np.uint16)
    bowtie = Bowtie(np.array([-0.1, 0.0, 0.2]), ("aluminium",), np.array([[3.0], [1.0], [5.0]]))
    energy = np.array([30.0, 50.0, 70.0])
    return RawScan(
        counts,
        Geometry(source, detector, u, v, 2, 5, 949.0),
        0.2 + 0.01 * views,
        dark=np.full((2, 5), 12.5),
        air=np.full((1, 2, 5), 9000.0),
        air_exposure_mas=0.25,
        bad_cells=np.eye(2, 5, dtype=bool),
        spectrum=Spectrum(energy, 2 * energy, energy, 80.0, (("Al", 3.0),), bowtie),
        noise=Noise(1.5, 6.0),
        acquisition=Acquisition(PatientPosition="FFS", KVP=80.0, ProtocolName="金"),
        applied=("scatter",),
        water_per_mm=0.0199,
    )


if __name__ == "__main__":
    made = scan()
    raw.write(made, HERE / "version1.lraw")
    np.savez_compressed(HERE / "version1.npz", counts=made.counts, id=made.id, **made.arrays())
