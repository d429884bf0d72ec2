"""Filtered projections, geometry and grid → image, voxel by voxel: cone beams, single slices, rebinned helices."""

from lampyris.projector.backprojection.helical import ConeParallelData, ConeParallelScan, backproject_helical
from lampyris.projector.backprojection.planar import PlanarBackprojector, fits
from lampyris.projector.backprojection.voxels import Backprojector, backproject

__all__ = [
    "Backprojector",
    "ConeParallelData",
    "ConeParallelScan",
    "PlanarBackprojector",
    "backproject",
    "backproject_helical",
    "fits",
]
