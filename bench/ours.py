"""Our cases, on the common work."""

from collections.abc import Callable
from typing import Any

import numpy as np

from bench import work
from bench.peers import VOXEL_COUNT, Case, parallel_disc
from lampyris.model import Gantry, Geometry, GridRequest, Projections, Step
from lampyris.projector import Projector, backproject
from lampyris.recon import reconstruct


def _projections(integrals: np.ndarray, geometry: Geometry) -> Projections:
    return Projections(integrals, np.ones_like(integrals), geometry)


def backprojection() -> Case:
    """Voxel-driven FDK backprojection alone, 90 views of 384², 256³."""
    geometry, grid = work.cone(90), work.grid()
    ones = np.ones(geometry.shape, np.float32)
    return lambda: backproject(ones, geometry, grid, weighting="fdk"), VOXEL_COUNT * 90


def backprojection_curved() -> Case:
    """The same on a curved detector."""
    geometry, grid = work.cone(90, curved=True), work.grid()
    ones = np.ones(geometry.shape, np.float32)
    return lambda: backproject(ones, geometry, grid, weighting="fdk"), VOXEL_COUNT * 90


def _fdk(curved: bool) -> Case:
    geometry = work.cone(360, curved=curved)
    projections = _projections(work.integrals(geometry), geometry)
    request = GridRequest(
        matrix=work.VOXELS, field_of_view_mm=work.VOXELS * work.VOXEL_MM, centre_mm=(0.0, 0.0),
        slice_thickness_mm=work.VOXEL_MM, first_mm=-(work.VOXELS - 1) / 2, last_mm=(work.VOXELS - 1) / 2,
    )  # fmt: skip

    def run() -> np.ndarray:
        return reconstruct(projections, Step.of("fdk"), "ramp", request).values

    return run, VOXEL_COUNT * 360, work.root_mean_square_per_m


def fdk() -> Case:
    """FDK 256³ from 360 views of 384², weighting and filtering included."""
    return _fdk(False)


def fdk_curved() -> Case:
    """The same on a curved detector."""
    return _fdk(True)


def _pair(direction: str, geometry: Geometry) -> Case:
    projector = Projector(geometry, work.grid())
    if direction == "forward":
        image, exact = work.truth(), work.integrals(geometry)

        def score(projections: np.ndarray) -> dict[str, float]:
            return {"rms_error": float(np.sqrt(np.mean((projections - exact) ** 2)))}

        return lambda: projector.forward(image), VOXEL_COUNT * geometry.views, score
    ones = np.ones(geometry.shape, np.float32)
    return lambda: projector.adjoint(ones), VOXEL_COUNT * geometry.views


def forward_flat() -> Case:
    return _pair("forward", work.cone(90))


def forward_curved() -> Case:
    return _pair("forward", work.cone(90, curved=True))


def forward_helical() -> Case:
    return _pair("forward", work.helix(90, curved=True))


def adjoint_flat() -> Case:
    return _pair("adjoint", work.cone(90))


def adjoint_curved() -> Case:
    return _pair("adjoint", work.cone(90, curved=True))


def adjoint_helical() -> Case:
    return _pair("adjoint", work.helix(90, curved=True))


def _one_slice(integrals: np.ndarray, geometry: Geometry, method: str, pixel_mm: float) -> Callable[[], Any]:
    request = GridRequest(
        matrix=512,
        field_of_view_mm=512 * pixel_mm,
        centre_mm=(0.0, 0.0),
        slice_thickness_mm=1.0,
        first_mm=0.0,
        last_mm=0.0,
    )
    projections = _projections(integrals, geometry)
    return lambda: reconstruct(projections, Step.of(method), "ramp", request).values


def fbp_parallel() -> Case:
    """2-D FBP 512² from 984 × 888, parallel."""
    sinogram, angles = parallel_disc()
    geometry = Geometry.parallel_beam(angles, rows=1, columns=888, cell_mm=(1.0, 1.0))
    return _one_slice(sinogram[:, None], geometry, "fbp", 1.0), 512**2 * 984


def fbp_fan() -> Case:
    """2-D FBP 512² from a full turn of 984 × 888, equiangular fan."""
    gantry = Gantry(1000.0, 1500.0, 1, 888, (1.5, 1.5), curved=True)
    geometry = Geometry.circular(gantry, np.arange(984) * 360.0 / 984)
    return _one_slice(np.ones(geometry.shape, np.float32), geometry, "fbp", 1.0), 512**2 * 984


def fbp_stack() -> Case:
    """64 slices at once, parallel: the rate of a stack."""
    sinogram, angles = parallel_disc()
    geometry = Geometry.parallel_beam(angles, rows=64, columns=888, cell_mm=(1.0, 1.0))
    request = GridRequest(
        matrix=512, field_of_view_mm=512.0, centre_mm=(0.0, 0.0), slice_thickness_mm=1.0, first_mm=-31.5, last_mm=31.5
    )
    projections = _projections(np.ascontiguousarray(np.repeat(sinogram[:, None], 64, 1)), geometry)
    return lambda: reconstruct(projections, Step.of("fbp"), "ramp", request).values, 64 * 512**2 * 984


def _helical(slices: int) -> Case:
    """The 64-row scanner, 1152 views per turn, pitch 0.9; turns enough for the slices, 512² of 0.2 mm spacing."""
    gantry = Gantry(595.0, 1085.6, 64, 736, (1.0947, 1.2858), True, 31.5, 367.75)
    feed = 0.9 * gantry.collimation_mm
    geometry = Geometry.helical(gantry, views=5 * 1152, views_per_turn=1152, table_feed_mm=feed)
    projections = _projections(np.ones(geometry.shape, np.float32), geometry)
    spacing = 0.6
    half = (slices - 1) / 2 * spacing
    request = GridRequest(
        matrix=512,
        field_of_view_mm=400.0,
        centre_mm=(0.0, 0.0),
        slice_thickness_mm=spacing,
        first_mm=-half,
        last_mm=half,
    )

    def run() -> np.ndarray:
        return reconstruct(projections, Step.of("wfbp"), "body", request).values

    # A voxel is lit by its source for about one turn over the pitch: that many views update it.
    return run, slices * 512**2 * 1152 / 0.9


def helical_50() -> Case:
    return _helical(50)


def helical_100() -> Case:
    return _helical(100)


def helical_200() -> Case:
    return _helical(200)
