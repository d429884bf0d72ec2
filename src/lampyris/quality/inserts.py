"""Image and known inserts → HU and its error, uniformity, transfer functions of the rods and the wire among them."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from lampyris.model import Curve, Figure, Float64, InputError, Spectrum, Volume
from lampyris.phantom import Insert
from lampyris.physics.detector import hounsfield
from lampyris.quality import resolution
from lampyris.quality.gate import NOT_MEASURED
from lampyris.quality.regions import Cylinder, Sphere, Statistics, bounds, positions, statistics

CORE = 0.7
"""Part of an insert's radius that is measured: its blurred edge stays out (ACR CT manual uses about the same)."""
EDGE_CONTRAST_HU = 50.0
"""Contrast below which an insert is not tried as an edge."""
BEHIND_WATER_MM = 200.0
"""Water in front of an insert for the HU that its material is expected to show: the middle of a slim body."""
EDGES = ("right", "left", "top", "bottom")


@dataclass(frozen=True, slots=True)
class Rod:
    """A rod of known length along the slices' normal and of known HU, in the volume's own frame."""

    name: str
    centre_mm: tuple[float, float, float]
    radius_mm: float
    length_mm: float
    expected_hu: float | None = None
    material: str = ""


@dataclass(frozen=True, slots=True, eq=False)
class Found:
    """Figures, curves and transfer functions of some inserts, and why others were not measured."""

    figures: tuple[Figure, ...]
    curves: tuple[Curve, ...]
    transfers: tuple[tuple[str, resolution.Transfer], ...]
    missing: tuple[str, ...]


def slug(name: str) -> str:
    """An insert's name as a part of a figure's name."""
    return name.replace(" ", "_")


def measure(
    volume: Volume,
    inserts: Sequence[Insert | Rod],
    truth: Volume | None = None,
    spectrum: Spectrum | None = None,
) -> Found:
    """Everything that can be told of inserts at known places, in the volume's own frame.

    HU: mean over the inner 0.7 radii, a ball (a cylinder for a `Rod`, and where the image is thinner than the ball).
    Its error too, where the expected value is told by the rod, the truth, a material that is the same in every beam
    (air, water and water at another density), or a material seen by `spectrum` behind 200 mm of water. Uniformity:
    largest |edge − centre| of inserts called "… centre", "… right" and so on. Transfer functions where an insert proves
    to be a rod in a flat background, or a wire thinner than a pixel.
    `truth` lies on the volume's grid.
    """
    figures: list[Figure] = []
    curves: list[Curve] = []
    transfers: list[tuple[str, resolution.Transfer]] = []
    means: dict[str, float] = {}
    inside, missing = _within(volume, inserts)
    for insert in inside:
        name = slug(insert.name)
        goal = f"hu_{name}"
        try:
            if insert.radius_mm < 0.5 * max(volume.grid.spacing_mm[1:]):
                goal = _titled(name, "f50")
                transfers.append((name, _wire(volume, insert)))
                continue
            core = _core(volume, insert)
            inner = statistics(volume, core)
            means[insert.name] = inner.mean
            figures += _hu(
                name, inner, core, _expected(insert, core, truth, volume.quantity, spectrum), volume.quantity
            )
            goal = _titled(name, "f50")
            if (rod := _as_rod(volume, insert, inner.mean)) is not None:
                transfers.append((name, resolution.ttf(volume, rod)))
        except InputError as error:
            missing.append(f"{NOT_MEASURED}{goal}: {error}")
    for name, transfer in transfers:
        curves.append(_transfer_curve(name, transfer))
        for label, level in (("f50", 0.5), ("f10", 0.1)):
            try:
                figures.append(_transfer_figure(_titled(name, label), transfer, level))
            except InputError as error:
                missing.append(f"{NOT_MEASURED}{_titled(name, label)}: {error}")
    figures += _uniformity(means, volume.quantity)
    return Found(tuple(figures), tuple(curves), tuple(transfers), tuple(missing))


def _within(volume: Volume, inserts: Sequence[Insert | Rod]) -> tuple[list[Insert | Rod], list[str]]:
    """The inserts whose middle lies in the image, and one sentence about those that do not."""
    last = np.asarray(volume.grid.shape) - 0.5
    inside: list[Insert | Rod] = []
    beyond: list[Insert | Rod] = []
    for insert in inserts:
        index = volume.grid.index(insert.centre_mm)
        (inside if ((index >= -0.5) & (index <= last)).all() else beyond).append(insert)
    names = ", ".join(f"hu_{slug(insert.name)}" for insert in beyond)
    return inside, [f"{NOT_MEASURED}{names}: outside the image"] if beyond else []


def expected_hu(material: str) -> float | None:
    """HU of a material that is the same in every beam: air, water, and "water*f" at f times its density; else None."""
    if material == "air":
        return -1000.0
    if material == "water":
        return 0.0
    base, star, factor = material.partition("*")
    if base == "water" and star:
        return 1000.0 * (float(factor) - 1.0)
    return None


def _core(volume: Volume, insert: Insert | Rod) -> Sphere | Cylinder:
    """What is measured of an insert: of a ball that is taller than the image, the cylinder inscribed in its slices."""
    axis = _normal(volume)
    radius = CORE * insert.radius_mm
    if isinstance(insert, Rod):
        return Cylinder(insert.centre_mm, radius, 0.8 * insert.length_mm, axis)
    here = float(volume.grid.index(insert.centre_mm)[0])
    half = (min(here, volume.grid.shape[0] - 1 - here) + 0.5) * volume.grid.spacing_mm[0]
    if 0 < half < radius:
        return Cylinder(insert.centre_mm, float(np.sqrt(radius**2 - half**2)), 2 * half, axis)
    return Sphere(insert.centre_mm, radius)


def _normal(volume: Volume) -> tuple[float, float, float]:
    """Direction of the slices' normal."""
    x, y, z = (float(each) for each in volume.grid.axes[0])
    return x, y, z


def _expected(
    insert: Insert | Rod, core: Sphere | Cylinder, truth: Volume | None, quantity: str, spectrum: Spectrum | None
) -> tuple[float, str] | None:
    if isinstance(insert, Rod) and insert.expected_hu is not None:
        return insert.expected_hu, "told with the rod"
    if truth is not None:
        try:
            return statistics(truth, core).mean, "truth"
        except InputError:
            pass  # the truth does not reach so far; the material may still tell
    if quantity != "HU" or not insert.material:
        return None
    hu = expected_hu(insert.material)
    if hu is not None:
        return hu, f"material {insert.material}"
    if spectrum is None:
        return None
    told = f"material {insert.material} in this beam behind {BEHIND_WATER_MM:g} mm of water"
    return hounsfield(insert.material, spectrum, behind_water_mm=BEHIND_WATER_MM), told


def _hu(
    name: str, inner: Statistics, core: Sphere | Cylinder, expected: tuple[float, str] | None, unit: str
) -> list[Figure]:
    settings: tuple[tuple[str, Any], ...] = (
        ("centre_mm", list(core.centre_mm)),
        ("median", inner.median),
        ("radius_mm", core.radius_mm),
        ("shape", type(core).__name__.lower()),
        ("standard_deviation", inner.standard_deviation),
        ("voxels", inner.voxels),
    )
    figures = [Figure(f"hu_{name}", inner.mean, unit, "computed", settings)]
    if expected is not None:
        told = (("expected_from", expected[1]), ("expected_hu", expected[0]))
        figures.append(Figure(f"hu_error_{name}", inner.mean - expected[0], unit, "computed", told))
    return figures


def _uniformity(means: dict[str, float], unit: str) -> list[Figure]:
    """|edge − centre| of the worst edge, over every set of centre and edges among the inserts."""
    worst: tuple[float, str, str] | None = None
    for name, centre in means.items():
        if not name.endswith("centre"):
            continue
        stem = name.removesuffix("centre")
        for edge in EDGES:
            if stem + edge in means:
                difference = means[stem + edge] - centre
                if worst is None or abs(difference) > abs(worst[0]):
                    worst = (difference, name, stem + edge)
    if worst is None:
        return []
    settings = (("centre", worst[1]), ("signed", worst[0]), ("worst_edge", worst[2]))
    return [Figure("uniformity", abs(worst[0]), unit, "computed", settings)]


def _profile(volume: Volume, centre_mm: tuple[float, float, float], radius_mm: float) -> tuple[Float64, int, float]:
    """Signal (slices,) at a place above the ring about it in each slice, the place's own slice, and the signal's noise.

    Raises InputError where the ring leaves the image.
    """
    grid = volume.grid
    outer = 1.6 * radius_mm + 2 * max(grid.spacing_mm[1:])
    window = bounds(grid, Cylinder(centre_mm, outer, grid.spacing_mm[0], _normal(volume)))
    here = round(float(grid.index(centre_mm)[0]))
    offset = positions(grid, (slice(here, here + 1), window[1], window[2]))[0] - np.asarray(centre_mm)
    distance = np.hypot(offset @ grid.axes[1], offset @ grid.axes[2])
    inner = distance <= max(0.5 * radius_mm, 0.75 * max(grid.spacing_mm[1:]))
    ring = (distance >= 1.3 * radius_mm + max(grid.spacing_mm[1:])) & (distance <= outer)
    stack = np.asarray(volume.values[:, window[1], window[2]], np.float64)
    signal = stack[:, inner].mean(axis=1) - stack[:, ring].mean(axis=1)
    noise = float(stack[here, ring].std() / np.sqrt(inner.sum()))
    return signal, here, noise


def _plateau(signal: Float64, here: int, drop: float) -> tuple[int, int]:
    """First and last slice about `here` whose signal stays within `drop` of that slice's, without a gap."""
    level = float(np.median(signal[max(here - 1, 0) : here + 2]))
    same = np.abs(signal - level) <= drop * abs(level)
    first = last = here
    while first > 0 and same[first - 1]:
        first -= 1
    while last < len(signal) - 1 and same[last + 1]:
        last += 1
    return first, last


def _as_rod(volume: Volume, insert: Insert | Rod, inner_mean: float) -> Cylinder | None:
    """The insert as a cylinder over the slices that it fills, or None where it is no rod in a flat background.

    An `Insert` says only where to measure: a ball, a rod or a place in an organ. It is a rod when its signal stays
    the same over more slices than a ball of its radius has (or over the whole image), and when the ring about it
    is flat to a tenth of its contrast beyond noise.
    """
    grid = volume.grid
    if insert.radius_mm < 5 * max(grid.spacing_mm[1:]):
        return None
    axis = _normal(volume)
    if isinstance(insert, Rod):
        return Cylinder(insert.centre_mm, insert.radius_mm, insert.length_mm, axis)
    signal, here, noise = _profile(volume, insert.centre_mm, insert.radius_mm)
    contrast = float(signal[here])
    least = EDGE_CONTRAST_HU if volume.quantity == "HU" else 0.0
    if abs(contrast) < max(least, 10 * noise):
        return None
    first, last = _plateau(signal, here, 0.1 + 4 * noise / abs(contrast))
    whole = first == 0 and last == len(signal) - 1
    length = (last - first + 1) * grid.spacing_mm[0]
    if not whole and length < 2.4 * insert.radius_mm:
        return None
    if not whole:  # partial volume at the ends
        first, last = first + 1, last - 1
    if not _flat_around(volume, insert, slice(first, last + 1), abs(contrast), inner_mean):
        return None
    middle = np.asarray(insert.centre_mm) + ((first + last) / 2 - grid.index(insert.centre_mm)[0]) * grid.steps_mm[0]
    centre = (float(middle[0]), float(middle[1]), float(middle[2]))
    return Cylinder(centre, insert.radius_mm, (last - first + 0.5) * grid.spacing_mm[0], axis)


def _flat_around(volume: Volume, insert: Insert, slices: slice, contrast: float, inner_mean: float) -> bool:
    """Whether eight sectors of the ring 1.2…1.8 radii about an insert agree, and differ from its inside."""
    grid = volume.grid
    window = bounds(grid, Cylinder(insert.centre_mm, 1.8 * insert.radius_mm, grid.spacing_mm[0], _normal(volume)))
    offset = positions(grid, window)[0] - np.asarray(insert.centre_mm)
    down, right = offset @ grid.axes[1], offset @ grid.axes[2]
    distance = np.hypot(down, right) / insert.radius_mm
    ring = (distance > 1.2) & (distance < 1.8)
    sector = np.floor((np.arctan2(down, right)[ring] + np.pi) / (2 * np.pi) * 8).astype(int) % 8
    image = np.asarray(volume.values[slices, window[1], window[2]].mean(axis=0, dtype=np.float64))
    means = np.bincount(sector, image[ring], minlength=8) / np.maximum(np.bincount(sector, minlength=8), 1)
    return bool(np.ptp(means) < 0.1 * contrast and abs(inner_mean - means.mean()) > 0.8 * contrast)


def _wire(volume: Volume, insert: Insert | Rod) -> resolution.Transfer:
    """Transfer function of a wire thinner than a pixel, over the slices in which it shows."""
    grid = volume.grid
    axis = _normal(volume)
    if isinstance(insert, Rod):
        place = Cylinder(insert.centre_mm, 2.0, insert.length_mm, axis)
    else:
        signal, here, _ = _profile(volume, insert.centre_mm, 2 * max(grid.spacing_mm[1:]))
        first, last = _plateau(signal, here, 0.25)
        middle = (
            np.asarray(insert.centre_mm) + ((first + last) / 2 - grid.index(insert.centre_mm)[0]) * grid.steps_mm[0]
        )
        centre = (float(middle[0]), float(middle[1]), float(middle[2]))
        place = Cylinder(centre, 2.0, max(last - first - 0.5, 0.5) * grid.spacing_mm[0], axis)
    return resolution.wire(volume, place, wire_radius_mm=insert.radius_mm)


def _titled(name: str, label: str) -> str:
    """Name of the figure for a rod's or the wire's frequency."""
    return f"wire_{label}" if name == "wire" else f"ttf_{label}_{name}"


def _transfer_figure(title: str, transfer: resolution.Transfer, level: float) -> Figure:
    settings: tuple[tuple[str, Any], ...] = (
        *transfer.settings,
        ("centre_mm", [round(each, 3) for each in transfer.centre_mm]),
        ("cnr", round(transfer.cnr, 2)),
        ("contrast", round(transfer.contrast, 3)),
    )
    return Figure(title, transfer.frequency_at(level), "1/mm", "computed", tuple(sorted(settings)))


def _transfer_curve(name: str, transfer: resolution.Transfer) -> Curve:
    step = max(1, len(transfer.frequency_per_mm) // 200)
    x, y = transfer.frequency_per_mm[::step], transfer.transfer[::step]
    title = "wire_mtf" if name == "wire" else f"ttf_{name}"
    return Curve(title, tuple(map(float, x)), tuple(map(float, y)), "1/mm", "", transfer.settings)
