"""512³ from 720 views of 768² of a cone beam → seconds of FDK, backprojection and forward, ours and ASTRA's, one run.

ASTRA turns about its z, our slices: theirs (x, y, z) is our (x, −z, y), so that volumes have the same order of axes and
are the same array; projections lie (rows, views, columns) there. ASTRA comes as a wheel, and is left out aloud where it
is not installed or sees no card: its kernels end the process then.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from bench.gpu.ceilings import Ceilings, seconds
from bench.gpu.chest import OPERATIONS
from lampyris.model import Float32, Gantry, Geometry, Grid, GridRequest, Projections, Step
from lampyris.projector import Projector, backproject, load
from lampyris.recon import reconstruct

SOURCE_MM, DETECTOR_MM, CELL_MM = 1000.0, 1500.0, 0.6


@dataclass(frozen=True, slots=True, eq=False)
class Cone:
    """A flat square detector of so many cells a side, so many views of a turn, so many voxels a side."""

    cells: int
    views: int
    voxels: int

    @property
    def scale(self) -> float:
        """Cells and voxels of a smaller case are larger, so that it sees the same."""
        return 768 / self.cells

    @property
    def geometry(self) -> Geometry:
        cell = CELL_MM * self.scale
        gantry = Gantry(SOURCE_MM, DETECTOR_MM, self.cells, self.cells, (cell, cell), False)
        return Geometry.circular(gantry, np.linspace(0.0, 360.0, self.views, endpoint=False))

    @property
    def voxel_mm(self) -> float:
        """As high as a row at the isocentre, so that a slice is one slice of voxels for everybody."""
        return CELL_MM * self.scale * SOURCE_MM / DETECTOR_MM

    @property
    def grid(self) -> Grid:
        return Grid.centred((self.voxels,) * 3, (self.voxel_mm,) * 3)

    def floor_s(self, limits: Ceilings, *, over_the_link: bool) -> float:
        """The greatest of: volume and projections once through memory (and over the link), `OPERATIONS` a voxel and
        view."""
        voxels = float(self.voxels**3)
        moved = 4.0 * (voxels + float(np.prod(self.geometry.shape)))
        link = moved / limits.link_bytes_per_s if over_the_link else 0.0
        return max(link, moved / limits.bytes_per_s, OPERATIONS * voxels * self.views / limits.flops_per_s)


FULL, TINY = Cone(768, 720, 512), Cone(12, 6, 8)


@dataclass(frozen=True, slots=True)
class Row:
    """What was done, by whom, in what time, and how many times its floor; `off` the RMS difference to ours over our
    RMS, where ours is not 0 and both are of one meaning (backprojections are weighted each in its own way)."""

    what: str
    whose: str
    seconds: float
    over_floor: float
    off: float | None = None


def rows(cone: Cone, limits: Ceilings) -> list[Row | str]:
    """Ours, then ASTRA's; a string says why there is none."""
    image = _blob(cone)
    ours = _ours(cone, image)
    made = {what: _on_host(work()) for what, work in ours.items()}
    found: list[Row | str] = [_row(cone, limits, what, "ours", work) for what, work in ours.items()]
    theirs = _astra(cone, image, made["forward, on the card"])
    if isinstance(theirs, str):
        return [*found, theirs]
    for what, work in theirs.items():
        found.append(_row(cone, limits, what, "ASTRA", work, made[what]))
    return found


def _row(
    cone: Cone, limits: Ceilings, what: str, whose: str, work: Callable[[], Any], expected: Float32 | None = None
) -> Row:
    took, floor = seconds(work), cone.floor_s(limits, over_the_link="whole" in what)
    off = None
    if expected is not None and "backprojection" not in what:
        got, seen = _on_host(work()), expected != 0
        off = float(np.sqrt(((got - expected)[seen] ** 2).mean() / (expected[seen] ** 2).mean()))
    return Row(what, whose, took, took / floor, off)


def _on_host(made: Any) -> Float32:
    return np.asarray(made if isinstance(made, np.ndarray) else load("cuda").memory.down(made), np.float32)


def _ours(cone: Cone, image: Float32) -> dict[str, Callable[[], Any]]:
    memory, geometry, grid = load("cuda").memory, cone.geometry, cone.grid
    projector, there = Projector(geometry, grid, "cuda"), memory.up(image)
    cells = projector.forward(there)
    integrals = np.asarray(memory.down(cells))
    scan = Projections(integrals, np.broadcast_to(np.float32(1), integrals.shape), geometry)
    last = (cone.voxels - 1) / 2 * cone.voxel_mm
    request = GridRequest(
        cone.voxels, cone.voxels * cone.voxel_mm, (0.0, 0.0), cone.voxel_mm, first_mm=-last, last_mm=last
    )
    return {
        "forward, on the card": lambda: projector.forward(there),
        "backprojection, on the card": lambda: backproject(cells, geometry, grid, weighting="none", engine="cuda"),
        "FDK, whole": lambda: reconstruct(scan, Step("fdk"), "ramp", request, engine="cuda").values,
    }


def _astra(cone: Cone, image: Float32, cells: Float32) -> dict[str, Callable[[], Any]] | str:
    """The same three of ASTRA; a string says why not."""
    try:
        import astra
        from astra import experimental
    except ImportError as error:
        return f"ASTRA is left out: it cannot be imported ({error}); pip install 'lampyris[bench]'"
    if not astra.use_cuda():
        return "ASTRA is left out: it is installed and sees no card"
    memory = load("cuda").memory
    half, cell = cone.voxels * cone.voxel_mm / 2, CELL_MM * cone.scale
    angles = np.deg2rad(np.linspace(0.0, 360.0, cone.views, endpoint=False))
    beam = astra.create_proj_geom(
        "cone", cell, cell, cone.cells, cone.cells, angles, SOURCE_MM, DETECTOR_MM - SOURCE_MM
    )
    lattice = astra.create_vol_geom(cone.voxels, cone.voxels, cone.voxels, *(-half, half) * 3)
    projector = astra.create_projector("cuda3d", beam, lattice)
    turned = np.ascontiguousarray(cells.transpose(1, 0, 2))
    volume, sums = memory.up(image), memory.xp.empty((cone.voxels,) * 3, dtype=memory.xp.float32)
    rays, lines = memory.up(turned), memory.xp.empty(turned.shape, dtype=memory.xp.float32)

    def forward() -> Any:
        experimental.direct_FP3D(projector, volume, lines)
        return lines.transpose(1, 0, 2)

    def back() -> Any:
        experimental.direct_BP3D(projector, sums, rays)
        return sums

    def fdk() -> Any:
        given, made = astra.data3d.create("-proj3d", beam, turned), astra.data3d.create("-vol", lattice)
        settings = astra.astra_dict("FDK_CUDA")
        settings |= {"ProjectionDataId": given, "ReconstructionDataId": made}
        algorithm = astra.algorithm.create(settings)
        astra.algorithm.run(algorithm)
        image = np.asarray(astra.data3d.get(made))
        astra.algorithm.delete(algorithm)
        astra.data3d.delete([given, made])
        return image

    return {"forward, on the card": forward, "backprojection, on the card": back, "FDK, whole": fdk}


def _blob(cone: Cone) -> Float32:
    """A smooth lopsided body, so that a mirrored or transposed image does not pass for ours."""
    at = (np.arange(cone.voxels) - (cone.voxels - 1) / 2) * cone.voxel_mm
    y, rows, columns = (
        np.exp(-0.5 * ((at - middle) / width) ** 2).astype(np.float32)
        for middle, width in ((17.0, 31.0), (-23.0, 37.0), (29.0, 43.0))
    )
    return 0.02 * y[:, None, None] * rows[None, :, None] * columns[None, None, :]
