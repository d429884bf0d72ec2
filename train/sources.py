"""Folder of shared CT series → volumes in HU with most of their own noise taken out, kept in one file.

Only what may be trained on is read: the abdomen and pelvis of TCGA-OV, the low-dose chest of NLST, the aorta crop of
TotalSegmentator. The held-out volumes (TotalSegmentator `example_ct`, the TCGA-THCA neck) are not named here at all.

Their own noise is lowered twice: the two DICOM series are averaged 2 × 2 in the plane, and every volume is smoothed by
a self-guided filter (He, Sun, Tang 2013, IEEE TPAMI 35:1397), which leaves edges far above the noise alone. The voxels
are then taken to be smaller than they were (`bodies` says by how much), which makes the anatomy as fine as a new scan.
"""

from pathlib import Path

import numpy as np
from scipy.ndimage import uniform_filter

from lampyris import dicom
from lampyris.model import Float32

SERIES = {
    "abdomen": ("ct/tcga_ov_09-2043_abdomen_pelvis.tar.xz", 2, 22.0),
    "chest": ("ct/nlst_101287_chest_ldct", 2, 45.0),
    "aorta": ("ct/totalsegmentator/aorta_ct_cropped.nii.gz", 1, 25.0),
}
"""Name: place below the data folder, in-plane averaging, HU above which a local deviation is taken for structure."""
WINDOW = (3, 3, 3)
PASSES = 2


def load(data: Path, work: Path) -> dict[str, Float32]:
    """The volumes (slices, rows, columns) in HU by name; made once and kept in `work`/sources.npz."""
    kept = work / "sources.npz"
    if not kept.is_file():
        volumes = {name: _prepared(data / place, shrink, hu) for name, (place, shrink, hu) in SERIES.items()}
        work.mkdir(parents=True, exist_ok=True)
        np.savez(kept, **volumes)
    with np.load(kept) as stored:
        return {name: stored[name] for name in SERIES}


def _prepared(path: Path, shrink: int, structure_hu: float) -> Float32:
    values = np.clip(dicom.subject(path).volume.values, -1000.0, 3000.0)
    image = averaged(values, shrink)
    for _ in range(PASSES):
        image = guided(image, structure_hu)
    return image


def averaged(values: Float32, shrink: int) -> Float32:
    """Means over `shrink`² pixels of each slice."""
    rows, columns = (n // shrink * shrink for n in values.shape[1:])
    squares = values[:, :rows, :columns].reshape(len(values), rows // shrink, shrink, columns // shrink, shrink)
    return np.asarray(squares.mean(axis=(2, 4)), np.float32)


def guided(image: Float32, structure_hu: float) -> Float32:
    """The self-guided filter: local mean where the local deviation is below `structure_hu`, the image where above."""
    mean = uniform_filter(image, WINDOW)
    variance = np.maximum(uniform_filter(image * image, WINDOW) - mean * mean, 0.0)
    slope = variance / (variance + np.float32(structure_hu**2))
    level = uniform_filter(mean * (1 - slope), WINDOW)
    return np.asarray(uniform_filter(slope, WINDOW) * image + level, np.float32)
