"""The peers' cases: RTK, mbirjax, scikit-image and ASTRA on the common work, through their own Python doors.

Frames differ: RTK shares our axes but orders its arrays (z, y, x), so that ours[slice, row, column] is
theirs[z, y, x] with slices = y, rows = −z, columns = x. mbirjax and ASTRA turn about their z, our slices.
"""

from collections.abc import Callable
from typing import Any

import numpy as np

from bench import work
from lampyris.model import Geometry, Orbit

Case = (
    tuple[Callable[[], Any], float | None] | tuple[Callable[[], Any], float | None, Callable[[Any], dict[str, float]]]
)
VOXEL_COUNT = work.VOXELS**3


def _rtk_geometry(geometry: Geometry) -> Any:
    from itk import RTK

    orbit = Orbit.of(geometry)
    theirs = RTK.ThreeDCircularProjectionGeometry.New()
    for phi, y in zip(np.rad2deg(orbit.gantry_angle_rad), orbit.axial_mm, strict=True):
        source, detector = orbit.gantry.source_to_isocentre_mm, orbit.gantry.source_to_detector_mm
        theirs.AddProjection(source, detector, float(phi), 0.0, float(y), 0.0, 0.0, 0.0, float(y))
    return theirs


def _rtk_projections(array: np.ndarray) -> Any:
    import itk

    image = itk.image_from_array(np.ascontiguousarray(array, np.float32))
    half = (work.CELLS - 1) / 2 * work.CELL_MM
    image.SetSpacing([work.CELL_MM, work.CELL_MM, 1.0])
    image.SetOrigin([-half, -half, 0.0])
    return image


def _rtk_volume(array: np.ndarray | None = None) -> Any:
    import itk

    values = np.zeros((work.VOXELS,) * 3, np.float32) if array is None else array
    image = itk.image_from_array(values)
    half = (work.VOXELS - 1) / 2 * work.VOXEL_MM
    image.SetSpacing([work.VOXEL_MM] * 3)
    image.SetOrigin([-half] * 3)
    return image


def _from_rtk(array: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(array[::-1].transpose(1, 0, 2))


def _to_rtk(array: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(array.transpose(1, 0, 2)[::-1])


def _images() -> Any:
    import itk

    return itk.Image[itk.F, 3]


def rtk_fdk() -> Case:
    """FDK 256³ from 360 views, weighting and filtering included, Ram-Lak."""
    import itk
    from itk import RTK

    geometry = work.cone(360)
    projections, theirs = _rtk_projections(work.integrals(geometry)), _rtk_geometry(geometry)

    def run() -> np.ndarray:
        fdk = RTK.FDKConeBeamReconstructionFilter[_images()].New()
        fdk.SetInput(0, _rtk_volume())
        fdk.SetInput(1, projections)
        fdk.SetGeometry(theirs)
        fdk.Update()
        return np.asarray(itk.array_from_image(fdk.GetOutput()))

    return run, VOXEL_COUNT * 360, lambda image: work.root_mean_square_per_m(_from_rtk(image))


def _rtk_back(name: str, geometry: Geometry) -> Case:
    import itk
    from itk import RTK

    projections, theirs = _rtk_projections(np.ones(geometry.shape, np.float32)), _rtk_geometry(geometry)
    images = _images()
    kind = getattr(RTK, name)

    def run() -> np.ndarray:
        back = kind[images, images].New()
        back.SetInput(0, _rtk_volume())
        back.SetInput(1, projections)
        back.SetGeometry(theirs)
        back.Update()
        return np.asarray(itk.array_from_image(back.GetOutput()))

    return run, VOXEL_COUNT * geometry.views


def rtk_backprojection() -> Case:
    """Voxel-driven FDK backprojection alone, 90 views."""
    return _rtk_back("FDKBackProjectionImageFilter", work.cone(90))


def rtk_joseph_adjoint() -> Case:
    """Joseph's backprojection, the transpose of his forward projection, 90 views."""
    return _rtk_back("JosephBackProjectionImageFilter", work.cone(90))


def rtk_joseph_forward() -> Case:
    """Joseph's forward projection, 90 views."""
    import itk
    from itk import RTK

    geometry = work.cone(90)
    theirs, volume = _rtk_geometry(geometry), _rtk_volume(_to_rtk(work.truth()))
    images = _images()

    def run() -> np.ndarray:
        forward = RTK.JosephForwardProjectionImageFilter[images, images].New()
        forward.SetInput(0, _rtk_projections(np.zeros(geometry.shape, np.float32)))
        forward.SetInput(1, volume)
        forward.SetGeometry(theirs)
        forward.Update()
        return np.asarray(itk.array_from_image(forward.GetOutput()))

    exact = work.integrals(geometry)

    def score(projections: np.ndarray) -> dict[str, float]:
        return {"rms_error": float(np.sqrt(np.mean((projections - exact) ** 2)))}

    return run, VOXEL_COUNT * 90, score


def mbirjax_fdk() -> Case:
    """FDK 256³ from 360 views."""
    import mbirjax

    geometry = work.cone(360)
    angles = np.arange(360) * 2 * np.pi / 360
    model = mbirjax.ConeBeamModel(
        (360, work.CELLS, work.CELLS), angles,
        source_detector_dist=work.SOURCE_TO_DETECTOR_MM, source_iso_dist=work.SOURCE_TO_ISOCENTRE_MM,
    )  # fmt: skip
    model.set_params(
        no_warning=True, delta_det_channel=work.CELL_MM, delta_det_row=work.CELL_MM, delta_voxel=work.VOXEL_MM
    )
    model.set_params(no_warning=True, recon_shape=(work.VOXELS,) * 3)
    sinogram = work.integrals(geometry)
    return lambda: np.asarray(model.direct_recon(sinogram)), VOXEL_COUNT * 360


def parallel_disc() -> tuple[np.ndarray, np.ndarray]:
    """Sinogram (984 views, 888 cells of 1 pixel) of a disc of radius 150 px and μ 0.02, and its angles in degrees."""
    angles = np.arange(984) * 180.0 / 984
    s = np.arange(888) - 443.5
    offset = 40 * np.cos(np.deg2rad(angles))[:, None] + 25 * np.sin(np.deg2rad(angles))[:, None]
    half = np.sqrt(np.maximum(0.0, 150.0**2 - (s[None] - offset) ** 2))
    return np.asarray(0.02 * 2 * half, np.float32), angles


def skimage_fbp() -> Case:
    """2-D FBP 512² from 984 × 888, parallel."""
    from skimage.transform import iradon

    sinogram, angles = parallel_disc()
    columns = np.ascontiguousarray(sinogram.T)
    return lambda: iradon(columns, angles, output_size=512, filter_name="ramp", circle=False), 512**2 * 984


def astra_fbp() -> Case:
    """2-D FBP 512² from 984 × 888, parallel, on the CPU with the linear projector."""
    import astra

    sinogram, angles = parallel_disc()
    volume = astra.create_vol_geom(512, 512)
    geometry = astra.create_proj_geom("parallel", 1.0, 888, np.deg2rad(angles))
    projector = astra.create_projector("linear", geometry, volume)
    data, image = astra.data2d.create("-sino", geometry, sinogram), astra.data2d.create("-vol", volume)
    settings = astra.astra_dict("FBP")
    settings |= {"ProjectorId": projector, "ProjectionDataId": data, "ReconstructionDataId": image}
    algorithm = astra.algorithm.create(settings)

    def run() -> np.ndarray:
        astra.algorithm.run(algorithm)
        return np.asarray(astra.data2d.get(image))

    return run, 512**2 * 984
