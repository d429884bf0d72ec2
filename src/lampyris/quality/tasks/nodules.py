"""Lung image and a place → volume of the solid nodule that lies there, or the reason why it cannot be told."""

from dataclasses import dataclass

import numpy as np
from scipy import ndimage, optimize, special

from lampyris.model import Bool, Figure, Float32, Float64, InputError
from lampyris.quality.tasks.stack import checked_spacing

Place = tuple[float, float, float]


@dataclass(frozen=True, slots=True)
class Search:
    """Where a nodule is sought and what is refused.

    `largest_mm`: the largest diameter to be met. `drift_mm`: how far from the place it may begin. `smooth_mm`: Gaussian
    σ of the image the component is found in (the volume is summed from the image itself). `halo_mm`: how far beyond the
    half-level surface its blur is collected. `background_mm`: thickness of the shell of lung outside the halo.
    `most_elongated`: longest over shortest principal extent, above which a vessel is thought to be attached.
    `least_cnr`: contrast over the background's standard deviation.
    """

    largest_mm: float = 12.0
    drift_mm: float = 2.0
    smooth_mm: float = 0.7
    halo_mm: float = 1.6
    background_mm: float = 3.0
    most_elongated: float = 1.8
    least_cnr: float = 3.0

    def __post_init__(self) -> None:
        if min(self.largest_mm, self.drift_mm, self.halo_mm, self.background_mm) <= 0 or self.smooth_mm < 0:
            raise InputError(f"{self}: expected lengths above 0 mm")


@dataclass(frozen=True, slots=True)
class Nodule:
    """Volume of a nodule, its level and its lung's; `blur_mm` is the σ of its edge, `noise_hu` the lung's spread."""

    volume_mm3: float
    level_hu: float
    background_hu: float
    noise_hu: float
    blur_mm: float
    centre_mm: Place
    elongation: float
    search: Search

    @property
    def diameter_mm(self) -> float:
        """Diameter of the sphere of this volume."""
        return float((6 * self.volume_mm3 / np.pi) ** (1 / 3))

    def figure(self, name: str = "nodule_volume") -> Figure:
        settings = (
            ("background_hu", round(self.background_hu, 2)),
            ("background_mm", self.search.background_mm),
            ("blur_mm", round(self.blur_mm, 3)),
            ("halo_mm", self.search.halo_mm),
            ("largest_mm", self.search.largest_mm),
            ("level_hu", round(self.level_hu, 2)),
            ("method", "local half level, partial volume"),
            ("noise_hu", round(self.noise_hu, 2)),
            ("smooth_mm", self.search.smooth_mm),
        )
        return Figure(name, self.volume_mm3, "mm3", settings=settings)


@dataclass(frozen=True, slots=True, eq=False)
class _Box:
    """The image about the place: `offset_mm` (3, …) from the place along slices, rows, columns."""

    values: Float64
    smooth: Float64
    offset_mm: Float64
    spacing_mm: tuple[float, float, float]


def nodule_volume(
    image_hu: Float32, centre_mm: Place, spacing_mm: tuple[float, float, float], *, search: Search | None = None
) -> Nodule:
    """Volume of a solid nodule in lung by a local half level with partial volume.

    `image_hu` (slices, rows, columns); `centre_mm` along those axes from the centre of voxel [0, 0, 0]. The component
    above the middle between nodule and lung tells where the nodule is; its volume is the sum of the voxels' fractions

        V = ΔV · Σ (v − background) / (level − background)

    over it and a halo that holds its blur, so that blur moves nothing (a half-level surface of a ball of radius R
    shrinks by σ²/R); what the blur carries beyond the halo is added as the fitted ball tells it. The background is the
    median of the shell of lung outside the halo, without what lies above half
    level. The level is that of a blurred ball fitted to the voxels (centre, radius, level, blur): small nodules have
    no core that the blur leaves alone. Reference values: 1 mm slices, ≥ 6 mm, noise ≤ 120 HU: bias ≤ 2 %, SD ≤ 4 %.

    Raises InputError (“not measured”) when nothing stands out at the place, or what does reaches out of the search (a
    vessel, the chest wall), is elongated, or leaves no lung about it.
    """
    chosen = search or Search()
    box = _cut(image_hu, centre_mm, checked_spacing(spacing_mm), chosen)
    component, background, noise = _component(box, chosen)
    elongation = _elongation(component, box)
    if elongation > chosen.most_elongated:
        raise InputError(
            f"nodule not measured: it is {elongation:.1f} times as long as wide, allowed are {chosen.most_elongated:g}:"
            " a vessel is attached"
        )
    outside = ndimage.distance_transform_edt(~component, sampling=box.spacing_mm)
    region = outside <= chosen.halo_mm
    ball = _ball(box, outside <= chosen.halo_mm + 1, background, component)
    mass = float((box.values[region] - background).sum()) * float(np.prod(box.spacing_mm))
    centre = np.asarray(centre_mm) + ball.middle_mm
    return Nodule(
        mass / ball.height / ball.kept(box, region), background + ball.height, background, noise, ball.blur_mm,
        (float(centre[0]), float(centre[1]), float(centre[2])), elongation, chosen,
    )  # fmt: skip


def _cut(image: Float32, centre: Place, spacing: tuple[float, float, float], search: Search) -> _Box:
    """The box of voxels about the place that the search needs."""
    if image.ndim != 3:
        raise InputError(f"the image is {image.shape}, expected (slices, rows, columns)")
    half = search.largest_mm / 2 + search.drift_mm + search.halo_mm + search.background_mm
    step = np.asarray(spacing)
    first = np.ceil((np.asarray(centre) - half) / step).astype(int)
    last = np.floor((np.asarray(centre) + half) / step).astype(int)
    if (first < 0).any() or (last >= image.shape).any():
        raise InputError(
            f"nodule not measured: the search of ±{half:g} mm reaches from voxel {first.tolist()} to {last.tolist()},"
            f" the image has {image.shape} voxels"
        )
    window = tuple(slice(a, b + 1) for a, b in zip(first, last, strict=True))
    values = np.asarray(image[window], np.float64)
    if not np.isfinite(values).all():
        raise InputError("nodule not measured: the image about it holds NaN or infinity")
    axes = [np.arange(a, b + 1) * d - c for a, b, d, c in zip(first, last, step, centre, strict=True)]
    smooth = ndimage.gaussian_filter(values, [search.smooth_mm / each for each in spacing], mode="nearest")
    return _Box(values, smooth, np.stack(np.meshgrid(*axes, indexing="ij")), spacing)


def _component(box: _Box, search: Search) -> tuple[Bool, float, float]:
    """The nodule's component above half level, the lung's median about it, and that lung's standard deviation."""
    distance = np.sqrt((box.offset_mm**2).sum(axis=0))
    rim = distance > search.largest_mm / 2 + search.drift_mm
    background, noise = float(np.median(box.values[rim])), 0.0
    component: Bool = np.zeros(distance.shape, np.bool_)
    near = distance <= search.drift_mm
    level = float(box.smooth[near].max())
    for _ in range(3):  # level and background tell the component, the component tells both better
        labels, _ = ndimage.label(box.smooth > (level + background) / 2)
        seed = int(labels[np.unravel_index(int(np.where(near, box.smooth, -np.inf).argmax()), labels.shape)])
        component = np.asarray(labels == seed, np.bool_)
        outside = ndimage.distance_transform_edt(~component, sampling=box.spacing_mm)
        shell = (outside > search.halo_mm) & (outside <= search.halo_mm + search.background_mm)
        lung = shell & (box.smooth < (level + background) / 2)
        if seed == 0 or (component & rim).any():
            raise InputError(
                "nodule not measured: what lies at the place reaches beyond a diameter of"
                f" {search.largest_mm:g} mm: a vessel or the chest wall is attached, or there is no nodule"
            )
        if lung.sum() < 0.7 * shell.sum():
            raise InputError(
                f"nodule not measured: {100 - 100 * lung.sum() / max(shell.sum(), 1):.0f} % of the shell about it are"
                " not lung, allowed are 30 %"
            )
        background, noise = float(np.median(box.values[lung])), float(box.values[lung].std(ddof=1))
        depth = ndimage.distance_transform_edt(component, sampling=box.spacing_mm)
        level = float(box.smooth[depth >= 0.6 * depth.max()].mean())
    if level - background < search.least_cnr * noise:
        raise InputError(
            f"nodule not measured: its contrast of {level - background:.0f} HU is below {search.least_cnr:g} times the"
            f" spread of {noise:.0f} HU of the lung about it: noise, or no nodule"
        )
    return component, background, noise


@dataclass(frozen=True, slots=True, eq=False)
class _Ball:
    """A blurred ball on a flat background; `middle_mm` (3,) from the place along slices, rows and columns."""

    middle_mm: Float64
    radius_mm: float
    blur_mm: float
    height: float

    def kept(self, box: _Box, region: Bool) -> float:
        """The share of its volume that lies in a region of the box."""
        distance = np.sqrt(((box.offset_mm[:, region] - self.middle_mm[:, None]) ** 2).sum(axis=0))
        inside = blurred_ball(np.maximum(distance, 1e-6), self.radius_mm, self.blur_mm).sum()
        return float(inside * np.prod(box.spacing_mm) / (4 / 3 * np.pi * self.radius_mm**3))


def _ball(box: _Box, near: Bool, background: float, component: Bool) -> _Ball:
    """The blurred ball that fits the voxels `near` best (least squares)."""
    points, values = box.offset_mm[:, near], box.values[near]
    volume = float(component.sum() * np.prod(box.spacing_mm))
    radius = (3 * volume / (4 * np.pi)) ** (1 / 3)
    middle = box.offset_mm[:, component].mean(axis=1)
    top = float(np.quantile(box.smooth[component], 0.9)) - background

    def residual(p: Float64) -> Float64:
        r = np.maximum(np.sqrt(((points - p[:3, None]) ** 2).sum(axis=0)), 1e-6)
        return np.asarray(background + p[5] * blurred_ball(r, p[3], p[4]) - values, np.float64)

    low = np.array([*(middle - 2), 0.4 * radius, 0.15, 0.3 * top])
    high = np.array([*(middle + 2), 1.6 * radius, max(1.5, radius), 3 * top])
    start = np.array([*middle, radius, min(0.6, 0.9 * radius), top])
    scale = np.array([1, 1, 1, 1, 1, abs(top)])
    found = optimize.least_squares(residual, start, bounds=(low, high), x_scale=scale, ftol=1e-6, xtol=1e-6)
    filled = float(blurred_ball(np.array([1e-6]), found.x[3], found.x[4])[0])
    if not found.success or filled < 0.7:
        raise InputError(
            f"nodule not measured: blur of {found.x[4]:.2f} mm leaves {100 * filled:.0f} % of the contrast at the"
            f" centre of a radius of {found.x[3]:.1f} mm, expected 70 %: too small for this image"
        )
    x = np.asarray(found.x, np.float64)
    return _Ball(x[:3], float(x[3]), float(x[4]), float(x[5]))


def blurred_ball(distance_mm: Float64, radius_mm: float, blur_mm: float) -> Float64:
    """A ball of radius R and height 1 under a Gaussian σ at distances r > 0 from its centre (convolved in closed form).

    ½[erf((R − r)/√2σ) + erf((R + r)/√2σ)] − σ/(√2π r)·[exp(−(R − r)²/2σ²) − exp(−(R + r)²/2σ²)].
    """
    inner, outer = (radius_mm - distance_mm) / blur_mm, (radius_mm + distance_mm) / blur_mm
    body = special.ndtr(inner) + special.ndtr(outer) - 1
    skin = blur_mm / (np.sqrt(2 * np.pi) * distance_mm) * (np.exp(-(inner**2) / 2) - np.exp(-(outer**2) / 2))
    return np.asarray(body - skin, np.float64)


def _elongation(component: Bool, box: _Box) -> float:
    """Longest over shortest principal extent of a component, each voxel with its own size; 1 = ball."""
    points = box.offset_mm[:, component]
    own = np.diag(np.asarray(box.spacing_mm) ** 2 / 12)
    spread = np.linalg.eigvalsh(np.cov(points, bias=True).reshape(3, 3) + own)
    return float(np.sqrt(spread[-1] / spread[0]))
