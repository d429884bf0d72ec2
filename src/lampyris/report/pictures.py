"""Volumes and curves → PNG and SVG, ready to stand inside a page."""

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib import rc_context
from matplotlib.figure import Figure as Plot
from PIL import Image

from lampyris.model import Curve, Volume


@dataclass(frozen=True, slots=True)
class Window:
    """A display window: black at centre − width/2, white at centre + width/2."""

    name: str
    centre: float
    width: float


LUNG = Window("Lung", -600.0, 1500.0)
SOFT_TISSUE = Window("Soft tissue", 40.0, 400.0)


def windows_for(volume: Volume) -> tuple[Window, ...]:
    """Lung and soft tissue for HU; for an image in 1/mm one window that spans its 1st to 99.5th percentile."""
    if volume.quantity == "HU":
        return LUNG, SOFT_TISSUE
    low, high = np.percentile(volume.values, (1.0, 99.5))
    return (Window("Attenuation", float(low + high) / 2, float(max(high - low, 1e-12))),)


def shown(plane: np.ndarray, window: Window) -> np.ndarray:
    """8-bit grey values of a plane; the display, and only the display, saturates at the window's ends."""
    grey = (plane - (window.centre - window.width / 2)) / window.width
    return np.asarray(np.rint(255 * np.clip(grey, 0.0, 1.0)), np.uint8)


@dataclass(frozen=True, slots=True, eq=False)
class Plane:
    """One cut through a volume as an observer stands: patient's left on the right, head up where there is a head."""

    name: str
    values: np.ndarray
    aspect: float


def planes(volume: Volume) -> tuple[Plane, ...]:
    """The middle axial, coronal and sagittal cut; `aspect` is the height of a sample over its width."""
    slices, rows, columns = volume.values.shape
    dz, dr, dc = volume.grid.spacing_mm
    axial = Plane("axial", volume.values[slices // 2], dr / dc)
    if slices < 8:
        return (axial,)
    upright = volume.values[::-1]  # slices run towards +y, the head of a head-first patient
    return (
        axial,
        Plane("coronal", upright[:, rows // 2], dz / dc),
        Plane("sagittal", upright[:, :, columns // 2], dz / dr),
    )


def png(plane: Plane, window: Window) -> str:
    """A data URI of the windowed plane, square pixels, as bright as the window says."""
    image = Image.fromarray(shown(plane.values, window))
    if abs(plane.aspect - 1) > 1e-3:
        image = image.resize((image.width, max(1, round(image.height * plane.aspect))), Image.Resampling.BILINEAR)
    buffer = io.BytesIO()
    image.save(buffer, "PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()


def plot(curves: Sequence[tuple[str, Curve]], title: str) -> str:
    """A data URI of an SVG: the curves of the same name from several images, labelled by image."""
    figure = Plot(figsize=(5.4, 3.2), layout="constrained")
    axes = figure.subplots()
    for (label, curve), colour in zip(curves, _colours(len(curves)), strict=True):
        axes.plot(curve.x, curve.y, label=label, color=colour, linewidth=1.8)
    first = curves[0][1]
    axes.set(title=title, xlabel=first.x_unit, ylabel=first.y_unit, ylim=(0, None), xlim=(0, None))
    axes.grid(alpha=0.25)
    axes.legend(frameon=False, fontsize=8)
    buffer = io.StringIO()
    with rc_context({"svg.hashsalt": "lampyris"}):  # else its names are random, and no page is like another
        figure.savefig(buffer, format="svg", metadata={"Date": None})
    return "data:image/svg+xml;base64," + base64.b64encode(buffer.getvalue().encode()).decode()


def _colours(count: int) -> list[str]:
    palette = ("#2a6fdb", "#e07a1f", "#2c9c69", "#b3446c", "#6c5fc7", "#8a8f98")
    return [palette[i % len(palette)] for i in range(count)]
