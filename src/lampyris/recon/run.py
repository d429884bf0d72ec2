"""Projections, method, kernel and grid request → Volume in HU (1/mm where water is not known), in the gantry frame."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, TypeAlias

import numpy as np

from lampyris.model import (
    Float32,
    Float64,
    Geometry,
    GeometryError,
    Grid,
    GridRequest,
    InputError,
    Orbit,
    Progress,
    Projections,
    RecipeError,
    Shelf,
    Step,
    Volume,
    silent,
)
from lampyris.projector import Engine, load
from lampyris.recon import kernels
from lampyris.recon.analytic import fbp, fdk, helical
from lampyris.recon.field import beyond, lean_of, measured_reach, scaled, turned
from lampyris.recon.iterative import plug_and_play
from lampyris.recon.iterative import run as iterative
from lampyris.recon.iterative.solver import Checkpoint
from lampyris.recon.learned.denoiser import Denoiser
from lampyris.recon.noise import deviation, request_of_noise, shaken, shaken_above, shaken_views

AIR_HU = -1000.0
UPRIGHT_RAD = 1e-6
"""Tilts below this are rounding."""

Image: TypeAlias = tuple[Float32, Grid]


def reconstruct(
    projections: Projections,
    method: Step,
    kernel: str,
    grid: GridRequest,
    *,
    engine: str = "cpu",
    progress: Progress = silent,
    checkpoint: Checkpoint | None = None,
    shelf: Shelf | None = None,
) -> Volume:
    """The volume that `grid` asks for, slices along y (along the tilted axis of a tilted gantry).

    `method` "auto" takes "fbp" for parallel rays and single-row fans, "fdk" for a cone beam with the table at rest and
    "wfbp" for a helix or a flying focal spot. Settings: "wfbp" `flat_share` 0 … 1, the share of the detector's height
    that counts fully (default 0.6); `denoiser` and `denoiser_sha256`, a learned prior that takes the noise out of the
    analytic image, told how much there is by `noise.deviation`. "pwls", "poisson" and "plug_and_play" iterate; their
    settings stand in `iterative.run` and `iterative.plug_and_play`, and `checkpoint` keeps their state. `kernel` names
    one of `kernels.KERNELS`; iterative methods start from its image. HU = 1000·(μ − μ_w)/μ_w with the projections'
    `water_per_mm`. Voxels that the scan did not see whole (beyond the scan field; in a helix' outer slices beside the
    body) are air, and `valid` is False there. Slices that `ahead` put on the `shelf` are taken from there.

    `engine` "cuda" makes the image on this process's card: the same to less than 0.5 HU. Integrals go up, slices come
    down, and a scan that the card does not hold is worked on in parts.

    Raises EngineUnavailable where the engine cannot run here, RecipeError for an unknown or unfit method, kernel or
    setting, GeometryError for a geometry that the method cannot take, InputError for slices that the scan does not
    cover; the message says what would do.
    """
    chosen = _engine(engine)
    learned, plain = _without_denoiser(method, chosen)
    if learned is None:
        return _image(projections, plain, kernel, grid, chosen, progress, checkpoint, shelf)
    if projections.water_per_mm is None:
        raise RecipeError("a denoiser works in HU, and the attenuation of water is not known here: leave it out")
    volume = _image(projections, plain, kernel, grid, chosen, lambda done: progress(0.8 * done), shelf=shelf)
    again = partial(reconstruct, engine=engine)
    noise = deviation(
        projections, plain, kernel, grid, volume.grid, reconstruct=again, image=volume, memory=chosen.memory
    )
    progress(0.9)
    values = learned.denoise(volume.values, noise)
    if volume.valid is not None:
        values[~volume.valid] = AIR_HU
    progress(1.0)
    return replace(volume, values=values)


def ahead(
    projections: Callable[[], Projections],
    geometry: Geometry,
    recipe: tuple[Step, str, GridRequest],
    views: tuple[int, int],
    shelf: Shelf,
    *,
    engine: str = "cpu",
) -> Iterator[tuple[int, int]]:
    """Make the slices that the first `views[1]` views determine, and put those on the shelf that it lacks.

    Those that the first `views[0]` determined were made before. `recipe` is (method, kernel, grid) of an image for
    which `why_not_ahead` has nothing to say; `projections` are called for if there is something to make, and hold NaN
    where views are still to come. Gives first and last (exclusive) slice of each slab made. Raises as `reconstruct`.
    """
    method, kernel, grid = recipe
    chosen = _engine(engine)
    _, plain = _without_denoiser(method, chosen)
    upright = _Pose.of(geometry).upright(geometry)

    def turned() -> Projections:
        return replace(projections(), geometry=upright)

    yield from helical.ahead(
        turned, Orbit.of(upright), kernels.kernel(kernel), grid, views, shelf,
        engine=chosen, reach_mm=measured_reach(upright), flat_share=_flat_share(plain),
    )  # fmt: skip


def noise_ahead(
    projections: Callable[[], Projections],
    geometry: Geometry,
    recipe: tuple[Step, str, GridRequest],
    views: tuple[int, int],
    shelf: Shelf,
    *,
    engine: str = "cpu",
) -> Iterator[tuple[int, int]]:
    """The same for the image of which `noise.deviation` tells the noise of the image that is asked for."""
    method, kernel, grid = recipe
    pose = _Pose.of(geometry)
    planned = pose.back(helical.planned_grid(Orbit.of(pose.upright(geometry)), grid))
    request = request_of_noise(geometry, grid, planned)
    yield from ahead(
        lambda: shaken(projections()), geometry, (method, kernel, request),
        (shaken_views(views[0], geometry), shaken_views(views[1], geometry)), shaken_above(shelf, geometry),
        engine=engine,
    )  # fmt: skip


def why_not_ahead(geometry: Geometry, method: Step, grid: GridRequest) -> str | None:
    """Why no slice can be made before all views are there; None where slices can."""
    if method.name not in ("auto", "wfbp"):
        return f"the method {method.name!r} needs the whole scan"
    if geometry.parallel or np.ptp(geometry.source[:, 1]) < fdk.REST_MM:
        return "the table is at rest: every slice needs every view"
    if not helical.is_planned(grid):
        return "field of view and range are chosen from the whole scan: the site did not plan the image"
    return None


def complete(method: Step) -> Step:
    """The method with every setting of its own that it leaves to us, as an image must tell how it was made.

    >>> dict(complete(Step.of("pwls", iterations=7)).settings)["subsets"]
    16
    """
    left: dict[str, dict[str, Any]] = {
        **dict.fromkeys(iterative.METHODS, iterative.DEFAULTS),
        plug_and_play.METHOD: dict(plug_and_play.DEFAULTS),
    }
    return Step.of(method.name, **{**left.get(method.name, {}), **dict(method.settings)})


def _image(
    projections: Projections,
    method: Step,
    kernel: str,
    grid: GridRequest,
    engine: Engine,
    progress: Progress,
    checkpoint: Checkpoint | None = None,
    shelf: Shelf | None = None,
) -> Volume:
    """The image of one method, in the scan's own pose."""
    pose = _Pose.of(projections.geometry)
    upright = replace(projections, geometry=pose.upright(projections.geometry))
    orbit = None if upright.geometry.parallel else Orbit.of(upright.geometry)
    scan = _Scan(upright, orbit, kernels.kernel(kernel), pose.request(grid), engine, checkpoint, shelf)
    values, lattice = _METHODS[_choose(method, scan)](scan, method, progress)
    outside, water = beyond(lattice, max(measured_reach(upright.geometry))), projections.water_per_mm
    seen = scaled(values, outside, *((1.0, 0.0, 0.0) if water is None else (1000.0 / water, 1000.0, AIR_HU)))
    return Volume(
        values,
        pose.back(lattice),
        "1/mm" if water is None else "HU",
        FrameOfReferenceUID=projections.acquisition.FrameOfReferenceUID,
        valid=None if seen.all() else seen,
    )


def _engine(name: str) -> Engine:
    """The engine of that name, if images can be made on it. Raises EngineUnavailable, InputError."""
    if name == "reference":
        raise InputError("engine 'reference' makes no images: cpu and cuda do")
    return load(name)


def _without_denoiser(method: Step, engine: Engine) -> tuple[Denoiser | None, Step]:
    """The learned prior that a method asks for, checked before any work, and the method without it."""
    if method.name not in _SETTINGS:
        return None, method
    settings = dict(method.settings)
    name, digest = settings.pop("denoiser", None), settings.pop("denoiser_sha256", None)
    if (name is None) != (digest is None):
        raise RecipeError(f"denoiser is {name!r}, denoiser_sha256 {digest!r}: a recipe gives both or neither")
    return (None if name is None else Denoiser.load(name, str(digest), engine=engine)), Step.of(method.name, **settings)


@dataclass(frozen=True, slots=True, eq=False)
class _Pose:
    """Where a tilted gantry stands: p = origin_mm + lean @ p_upright. An upright one is left alone."""

    lean: Float64
    origin_mm: Float64

    @staticmethod
    def of(geometry: Geometry) -> "_Pose":
        """Refuses a tilt with a moving table, which shears the scan."""
        lean = lean_of(geometry)
        if np.abs(lean - np.eye(3)).max() < UPRIGHT_RAD:
            return _Pose(np.eye(3), np.zeros(3))
        orbit = Orbit.of(geometry)
        travel = float(np.ptp(orbit.axial_mm))
        if travel > fdk.REST_MM:
            raise GeometryError(
                f"gantry tilted by {orbit.gantry.tilt_deg:.2f}° while the table moves {travel:.1f} mm: a sheared helix"
                " is not supported; tilted axial scans are"
            )
        return _Pose(lean, np.array([0.0, float(orbit.axial_mm.mean()), 0.0]))

    def upright(self, geometry: Geometry) -> Geometry:
        moved = replace(geometry, source=geometry.source - self.origin_mm, detector=geometry.detector - self.origin_mm)
        return turned(moved, self.lean)

    def request(self, grid: GridRequest) -> GridRequest:
        """Slices of a tilted gantry are counted along its own axis, from the table position on."""
        first, last = (None if y is None else y - float(self.origin_mm[1]) for y in (grid.first_mm, grid.last_mm))
        return replace(grid, first_mm=first, last_mm=last)

    def back(self, grid: Grid) -> Grid:
        first = self.lean @ grid.first_voxel_mm + self.origin_mm
        return replace(grid, first_voxel_mm=first, axes=grid.axes @ self.lean.T)


@dataclass(frozen=True, slots=True, eq=False)
class _Scan:
    """What every method starts from; `orbit` is None for parallel rays."""

    projections: Projections
    orbit: Orbit | None
    kernel: kernels.Kernel
    request: GridRequest
    engine: Engine
    checkpoint: Checkpoint | None = None
    shelf: Shelf | None = None

    @property
    def rows(self) -> int:
        return self.projections.geometry.rows

    @property
    def resting(self) -> bool:
        """Neither table nor focal spot moves."""
        return self.orbit is None or fdk.motion(self.orbit) is None

    @property
    def source(self) -> Orbit:
        """The orbit, or a refusal."""
        if self.orbit is None:
            raise GeometryError("the rays are parallel: only method 'fbp' takes them")
        return self.orbit


def _fbp(scan: _Scan, _method: Step, progress: Progress) -> Image:
    if scan.orbit is None:
        return fbp.parallel_image(scan.projections, scan.kernel, scan.request, progress, scan.engine)
    if scan.rows > 1:
        raise GeometryError(
            f"fbp is two-dimensional, the detector has {scan.rows} rows of divergent rays: use 'fdk', or 'wfbp' for a"
            " helix"
        )
    return fdk.image(scan.projections, scan.orbit, scan.kernel, scan.request, progress, scan.engine)


def _fdk(scan: _Scan, _method: Step, progress: Progress) -> Image:
    return fdk.image(scan.projections, scan.source, scan.kernel, scan.request, progress, scan.engine)


def _wfbp(scan: _Scan, method: Step, progress: Progress) -> Image:
    return helical.image(
        scan.projections, scan.source, scan.kernel, scan.request, progress, engine=scan.engine,
        flat_share=_flat_share(method), shelf=scan.shelf,
    )  # fmt: skip


def _flat_share(method: Step) -> float:
    share = method.get("flat_share", helical.FLAT_SHARE)
    if not isinstance(share, int | float) or not 0 <= share < 1:
        raise RecipeError(f"wfbp flat_share is {share!r}, expected a number 0 ≤ share < 1")
    return float(share)


def _iterative(scan: _Scan, method: Step, progress: Progress) -> Image:
    return iterative.image(
        scan.projections,
        method,
        scan.kernel.name,
        scan.request,
        progress,
        analytic=_analytic(scan),
        noise=_noise(scan),
        engine=scan.engine,
        checkpoint=scan.checkpoint,
    )


def _plug_and_play(scan: _Scan, method: Step, progress: Progress) -> Image:
    return plug_and_play.image(
        scan.projections,
        method,
        scan.kernel.name,
        scan.request,
        progress,
        analytic=_analytic(scan),
        noise=_noise(scan),
        engine=scan.engine,
        checkpoint=scan.checkpoint,
    )


def _noise(scan: _Scan) -> iterative.Noise:
    """The noise of the analytic image of an upright scan, HU."""

    def noise(request: GridRequest, like: Grid) -> Float32:
        again = partial(reconstruct, engine=scan.engine.name)
        told = deviation(scan.projections, Step("auto"), scan.kernel.name, request, like, reconstruct=again)
        return np.asarray(told, np.float32)

    return noise


def _analytic(scan: _Scan) -> Callable[[GridRequest], Image]:
    """The analytic image of an upright scan on whatever grid an iterative method asks for."""
    auto = Step("auto")

    def image(request: GridRequest) -> Image:
        return _METHODS[_choose(auto, scan)](replace(scan, request=request, shelf=None), auto, silent)

    return image


_METHODS: dict[str, Callable[[_Scan, Step, Progress], Image]] = {
    "fbp": _fbp,
    "fdk": _fdk,
    "wfbp": _wfbp,
    **dict.fromkeys(iterative.METHODS, _iterative),
    plug_and_play.METHOD: _plug_and_play,
}
_SETTINGS = {"auto": {"flat_share"}, "fbp": set[str](), "fdk": set[str](), "wfbp": {"flat_share"}}
"""Settings of the analytic methods; the others check their own."""


def _choose(method: Step, scan: _Scan) -> str:
    if method.name != "auto" and method.name not in _METHODS:
        raise RecipeError(f"method {method.name!r} is unknown; known are auto, {', '.join(_METHODS)}")
    if method.name not in _SETTINGS:
        return method.name
    if unknown := {name for name, _ in method.settings} - _SETTINGS[method.name]:
        raise RecipeError(
            f"method {method.name!r} has no setting {', '.join(sorted(unknown))}; known are"
            f" {', '.join(sorted(_SETTINGS[method.name])) or 'none'}"
        )
    if method.name != "auto":
        return method.name
    if scan.orbit is None:
        return "fbp"
    if not scan.resting:
        return "wfbp"
    return "fbp" if scan.rows == 1 else "fdk"
