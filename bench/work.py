"""The common work: one geometry, one object with a closed form, one truth, given to every peer alike."""

from dataclasses import dataclass

import numpy as np

from lampyris.model import Gantry, Geometry, Grid

SOURCE_TO_ISOCENTRE_MM = 1000.0
SOURCE_TO_DETECTOR_MM = 1500.0
CELL_MM = 1.2
CELLS = 384
VOXELS = 256
VOXEL_MM = 1.0


@dataclass(frozen=True)
class Blob:
    """A Gaussian exp(−½ Σ ((p − centre)/width)²) · value: smooth, so that what is measured is not its edge."""

    centre_mm: tuple[float, float, float]
    width_mm: float
    value_per_mm: float


BLOBS = (
    Blob((0.0, 0.0, 0.0), 38.0, 0.020),
    Blob((31.0, -17.0, 22.0), 9.0, 0.011),
    Blob((-42.0, 24.0, -13.0), 6.0, -0.008),
    Blob((12.0, 38.0, -36.0), 4.0, 0.015),
)


def cone(views: int, *, curved: bool = False) -> Geometry:
    """A full circle of `views`, 384 × 384 cells of 1.2 mm."""
    gantry = Gantry(SOURCE_TO_ISOCENTRE_MM, SOURCE_TO_DETECTOR_MM, CELLS, CELLS, (CELL_MM, CELL_MM), curved)
    return Geometry.circular(gantry, np.arange(views) * 360.0 / views)


def helix(views: int, *, curved: bool = False) -> Geometry:
    """The same detector on a helix of two turns that travels 120 mm."""
    gantry = Gantry(SOURCE_TO_ISOCENTRE_MM, SOURCE_TO_DETECTOR_MM, CELLS, CELLS, (CELL_MM, CELL_MM), curved)
    return Geometry.helical(gantry, views=views, views_per_turn=views // 2, table_feed_mm=60.0)


def grid() -> Grid:
    return Grid.centred((VOXELS, VOXELS, VOXELS), (VOXEL_MM, VOXEL_MM, VOXEL_MM))


def integrals(geometry: Geometry) -> np.ndarray:
    """Exact line integrals of the blobs: value · width · √(2π) · exp(−distance²/2 width²), (views, rows, columns)."""
    out = np.zeros(geometry.shape, np.float32)
    for view in range(geometry.views):
        origins, directions = geometry.rays(view)
        for blob in BLOBS:
            offset = np.asarray(blob.centre_mm) - origins
            along = np.einsum("rci,rci->rc", offset, directions)
            squared = np.einsum("rci,rci->rc", offset, offset) - along**2
            out[view] += (
                blob.value_per_mm * blob.width_mm * np.sqrt(2 * np.pi) * np.exp(-squared / (2 * blob.width_mm**2))
            )
    return out


def truth() -> np.ndarray:
    """The blobs at the voxel centres of `grid`, 1/mm."""
    lattice = grid()
    index = np.stack(np.meshgrid(*(np.arange(n) for n in lattice.shape), indexing="ij"), -1).astype(np.float32)
    out = np.zeros(lattice.shape, np.float32)
    for start in range(0, VOXELS, 32):
        points = lattice.position_mm(index[start : start + 32])
        for blob in BLOBS:
            squared = ((points - np.asarray(blob.centre_mm)) ** 2).sum(-1)
            out[start : start + 32] += blob.value_per_mm * np.exp(-squared / (2 * blob.width_mm**2))
    return out


def root_mean_square_per_m(image: np.ndarray) -> dict[str, float]:
    """RMSE to the truth inside the fully measured ball of 100 mm radius, in 1/m."""
    centre = (VOXELS - 1) / 2
    axes = [(np.arange(VOXELS) - centre) ** 2 for _ in range(3)]
    inside = axes[0][:, None, None] + axes[1][:, None] + axes[2] < 100.0**2
    return {"rmse_per_m": float(1000 * np.sqrt(np.mean((image - truth())[inside] ** 2)))}
