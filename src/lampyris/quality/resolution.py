"""Edge of a rod, cross-section of a wire, bead through the slices → task transfer function and slice profile."""

from dataclasses import dataclass

import numpy as np
from scipy import interpolate, optimize, special

from lampyris.model import Float64, InputError, Volume
from lampyris.quality.regions import Cylinder, bounds, positions

NEEDED_CNR = 15.0
"""CNR·√n below which TG-233 does not trust a task transfer function."""


@dataclass(frozen=True, slots=True, eq=False)
class Transfer:
    """Modulation `transfer` (frequencies,) over `frequency_per_mm`, 1 at 0, up to twice Nyquist; how it was made."""

    frequency_per_mm: Float64
    transfer: Float64
    contrast: float
    cnr: float
    slices: int
    centre_mm: tuple[float, float, float]
    settings: tuple[tuple[str, float | int | str], ...]

    def frequency_at(self, level: float) -> float:
        """The frequency in 1/mm where the transfer first falls to `level`, e.g. f50 = frequency_at(0.5)."""
        below = np.flatnonzero(self.transfer < level)
        if not len(below) or below[0] == 0:
            raise InputError(
                f"the transfer function does not fall to {level} below {self.frequency_per_mm[-1]:.2f} /mm"
            )
        end = int(below[0])
        x, y = self.frequency_per_mm[end - 1 : end + 1], self.transfer[end - 1 : end + 1]
        return float(x[0] + (y[0] - level) / (y[0] - y[1]) * (x[1] - x[0]))


@dataclass(frozen=True, slots=True, eq=False)
class _Section:
    """Slices about a rod or wire averaged into one, with the pixels' places in its own plane."""

    image: Float64
    across_mm: Float64  # (rows, columns, 2): offset along the grid's columns and rows
    noise: float  # of one slice, in the background
    slices: int
    pixel_mm: float


def ttf(
    volume: Volume,
    rod: Cylinder,
    *,
    margin_mm: float | None = None,
    bin_pixels: float = 0.1,
    needed_cnr: float = NEEDED_CNR,
) -> Transfer:
    """Task transfer function of a rod that stands along the slices' normal, after AAPM TG-233 (2019).

    The slices that the rod's length spans are averaged, centre, radius, contrast and blur are fitted to an
    error-function edge, pixels are sorted by their distance from the fitted centre into bins of `bin_pixels`, the
    edge-spread function is differentiated, windowed, and the magnitude of its Fourier transform divided by that at 0
    and by the response of bin and difference. Needs a uniform background of `margin_mm` all round; default: 0.8 radii,
    at least six pixels.

    Raises InputError when the rod is oblique, lies at the border, the margin is less than four times the fitted
    blur, or CNR·√slices is below `needed_cnr`.
    """
    margin = max(0.8 * rod.radius_mm, 6 * max(volume.grid.spacing_mm[1:])) if margin_mm is None else margin_mm
    section = _section(volume, rod, rod.radius_mm + margin)
    fit = _fit_disc(section, rod.radius_mm)
    cnr = abs(fit.contrast) / section.noise if section.noise > 0 else np.inf
    if cnr * np.sqrt(section.slices) < needed_cnr:
        raise InputError(
            f"CNR·√n is {cnr * np.sqrt(section.slices):.1f} (contrast {fit.contrast:.4g}, noise {section.noise:.4g},"
            f" {section.slices} slices), expected at least {needed_cnr:g}: average more slices or raise the dose"
        )
    distance = np.hypot(*(section.across_mm - fit.centre).transpose(2, 0, 1))
    reach = min(margin, 0.9 * fit.radius)
    if reach < 4 * fit.blur_mm:
        raise InputError(
            f"the edge is blurred by {fit.blur_mm:.2f} mm (σ), but only {reach:.2f} mm on either side of it are known:"
            " expected 4 σ, a larger rod or margin"
        )
    step = bin_pixels * section.pixel_mm
    edge = _binned(distance, section.image, fit.radius - reach, fit.radius + reach, step)
    line = np.diff(edge)
    line = line * _taper(len(line))
    frequency, transfer = _transform(line, step, 1 / section.pixel_mm)
    settings = (
        ("bin_pixels", bin_pixels),
        ("fitted_radius_mm", round(fit.radius, 4)),
        ("margin_mm", round(reach, 4)),
        ("method", "TG-233 circular edge"),
        ("slices", section.slices),
        ("window", "Tukey 0.5"),
    )
    return Transfer(
        frequency, transfer, fit.contrast, float(cnr), section.slices, _place(volume, rod, fit.centre), settings
    )


def wire(
    volume: Volume, place: Cylinder, *, wire_radius_mm: float = 0.0, bin_pixels: float = 0.25, reach_mm: float = 5.0
) -> Transfer:
    """Modulation transfer function from a thin wire or point along the slices' normal.

    The point-spread function is sorted by its distance from the fitted centre, the background (outer fifth) taken
    away, and Hankel transformed: T(f) = ∫ p(r) J₀(2πfr) r dr / ∫ p(r) r dr; a wire of known radius a is divided out as
    2 J₁(2πfa)/(2πfa) (Boone 2001). `place` spans the slices to average; its radius bounds the search for the wire.
    """
    section = _section(volume, place, reach_mm)
    fit = _fit_point(section, place.radius_mm)
    cnr = abs(fit.contrast) / section.noise if section.noise > 0 else np.inf
    if cnr * np.sqrt(section.slices) < NEEDED_CNR:
        raise InputError(f"the wire's CNR·√n is {cnr * np.sqrt(section.slices):.1f}, expected at least {NEEDED_CNR:g}")
    distance = np.hypot(*(section.across_mm - fit.centre).transpose(2, 0, 1))
    outer = (distance > 0.8 * reach_mm) & (distance <= reach_mm)
    step = bin_pixels * section.pixel_mm
    spread = _binned(distance, section.image - section.image[outer].mean(), 0.0, reach_mm, step)
    radius = (np.arange(len(spread)) + 0.5) * step
    frequency = np.linspace(0, 1 / section.pixel_mm, 401)
    kernel = special.j0(2 * np.pi * frequency[:, None] * radius) * radius * spread
    transfer = kernel.sum(axis=1) / kernel[0].sum()
    phase = 2 * np.pi * frequency * wire_radius_mm
    known = phase < 2.5  # beyond, the wire itself has no power left that could be divided out
    transfer = transfer[known] / np.where(phase > 0, 2 * special.j1(phase) / np.where(phase > 0, phase, 1), 1)[known]
    settings = (
        ("bin_pixels", bin_pixels),
        ("method", "wire, Hankel transform"),
        ("reach_mm", reach_mm),
        ("slices", section.slices),
        ("wire_radius_mm", wire_radius_mm),
    )
    return Transfer(
        frequency[known],
        transfer,
        fit.contrast,
        float(cnr),
        section.slices,
        _place(volume, place, fit.centre),
        settings,
    )


@dataclass(frozen=True, slots=True, eq=False)
class SliceProfile:
    """Slice sensitivity `signal` (slices,), 1 at its top, over `position_mm` along the slices' normal from the bead."""

    position_mm: Float64
    signal: Float64
    fwhm_mm: float
    fwtm_mm: float
    cnr: float


def slice_profile(
    volume: Volume, centre_mm: tuple[float, float, float], radius_mm: float, *, reach_mm: float
) -> SliceProfile:
    """Slice sensitivity profile from a bead or thin disc: its mean over `radius_mm` in each slice, background off.

    The top is that of a parabola through the three highest slices; full widths at half and tenth of it by monotone
    cubic interpolation. The object's own thickness is not taken out: keep it below a third of the slice. `reach_mm`
    is how far to look on either side; its outermost slices are background.

    Raises InputError when the profile has fewer than three slices above half maximum: reconstruct a smaller increment.
    """
    normal = volume.grid.axes[0]
    pillar = Cylinder(centre_mm, radius_mm, 2 * reach_mm, (normal[0], normal[1], normal[2]))
    window = bounds(volume.grid, pillar)
    points = positions(volume.grid, window)
    chosen = pillar.inside(points)
    values = np.asarray(volume.values[window], np.float64)
    met = [index for index, mask in enumerate(chosen) if mask.any()]
    signal = np.array([values[index][chosen[index]].mean() for index in met])
    position = np.array([(points[index][chosen[index]] - pillar.middle_mm).mean(0) @ normal for index in met])
    if len(signal) < 7:
        raise InputError(f"{len(signal)} slices within ±{reach_mm} mm, a profile needs at least 7")
    ends = max(1, len(signal) // 8)
    background = np.concatenate([signal[:ends], signal[-ends:]])
    signal = signal - background.mean()
    if abs(signal.min()) > signal.max():
        signal = -signal
    spread = float(background.std(ddof=1))
    cnr = float(signal.max() / spread) if spread > 0 else np.inf
    top = int(signal.argmax())
    signal = signal / _height(signal[max(top - 1, 0) : top + 2])
    if np.count_nonzero(signal > 0.5) < 3:
        raise InputError(
            f"only {np.count_nonzero(signal > 0.5)} slices lie above half of the bead's signal at an increment of"
            f" {volume.grid.spacing_mm[0]} mm, a width needs 3: reconstruct with a smaller increment"
        )
    return SliceProfile(position, signal, _width(position, signal, 0.5), _width(position, signal, 0.1), cnr)


@dataclass(frozen=True, slots=True, eq=False)
class _Fit:
    centre: Float64  # (2,) mm in the section's plane, along columns and rows, from the nominal centre
    radius: float
    blur_mm: float
    contrast: float


def _section(volume: Volume, rod: Cylinder, reach_mm: float) -> _Section:
    """Average the slices about a rod, with all pixels within `reach_mm` of it."""
    normal = volume.grid.axes[0]
    axis = np.asarray(rod.axis, np.float64) / np.linalg.norm(rod.axis)
    if abs(axis @ normal) < 0.9998:
        lean = np.degrees(np.arccos(abs(axis @ normal)))
        raise InputError(f"the rod's axis {rod.axis} leans {lean:.1f}° to the slices' normal, allowed are 1.1°")
    window = bounds(volume.grid, Cylinder(rod.centre_mm, reach_mm, rod.length_mm, rod.axis))
    stack = np.asarray(volume.values[window], np.float64)
    if not np.isfinite(stack).all():
        raise InputError("the image about the rod holds NaN or infinity")
    offset = positions(volume.grid, window)[0] - np.asarray(rod.centre_mm)
    across = np.stack([offset @ volume.grid.axes[2], offset @ volume.grid.axes[1]], axis=-1)
    distance = np.hypot(across[..., 0], across[..., 1])
    ring = (distance <= reach_mm) & (distance >= 0.5 * (reach_mm + min(rod.radius_mm, reach_mm)))
    if len(stack) < 1 or ring.sum() < 8:
        raise InputError(f"{len(stack)} slices and {ring.sum()} background pixels about the rod are too few")
    noise = float(np.sqrt(np.mean(stack[:, ring].var(axis=1, ddof=1))))
    pixel = float(np.sqrt(volume.grid.spacing_mm[1] * volume.grid.spacing_mm[2]))
    return _Section(stack.mean(axis=0), across, noise, len(stack), pixel)


def _fit_disc(section: _Section, radius_mm: float) -> _Fit:
    """Least squares of background + contrast · ½ erfc((r − R)/(√2 s)) for centre, R, s, contrast and background."""
    distance = np.hypot(section.across_mm[..., 0], section.across_mm[..., 1])
    inner, outer = distance < 0.6 * radius_mm, distance > 1.2 * radius_mm
    if inner.sum() < 4 or outer.sum() < 8:
        raise InputError(
            f"a rod of {radius_mm} mm radius covers {inner.sum()} pixels: too thin for its edge, use the wire"
        )
    background, middle = float(section.image[outer].mean()), float(section.image[inner].mean())

    def residual(p: Float64) -> Float64:
        r = np.hypot(section.across_mm[..., 0] - p[0], section.across_mm[..., 1] - p[1])
        blurred = 0.5 * special.erfc((r - p[2]) / (np.sqrt(2) * np.exp(p[3])))
        return np.asarray((p[4] + p[5] * blurred - section.image).ravel(), np.float64)

    scale = max(abs(middle - background), 1e-12)
    start = np.array([0.0, 0.0, radius_mm, np.log(section.pixel_mm), background, middle - background])
    found = optimize.least_squares(
        residual, start, x_scale=np.array([1.0, 1.0, 1.0, 1.0, scale, scale]), ftol=1e-10, xtol=1e-10
    )
    x = found.x
    shift = float(np.hypot(x[0], x[1]))
    if not found.success or shift > 0.5 * radius_mm or not 0.6 < x[2] / radius_mm < 1.4:
        raise InputError(
            f"no rod of {radius_mm} mm found: the best fit is {shift:.2f} mm away with a radius of {x[2]:.2f} mm"
        )
    return _Fit(np.asarray(x[:2], np.float64), float(x[2]), float(np.exp(x[3])), float(x[5]))


def _fit_point(section: _Section, search_mm: float) -> _Fit:
    """Least squares of a Gaussian spot on a flat background, started at the most deviating pixel of the search disc."""
    distance = np.hypot(section.across_mm[..., 0], section.across_mm[..., 1])
    background = float(np.median(section.image))
    deviation = np.where(distance <= search_mm, section.image - background, 0)
    top = np.unravel_index(int(np.abs(deviation).argmax()), deviation.shape)

    def residual(p: Float64) -> Float64:
        r2 = (section.across_mm[..., 0] - p[0]) ** 2 + (section.across_mm[..., 1] - p[1]) ** 2
        return np.asarray((p[3] + p[4] * np.exp(-r2 / (2 * np.exp(2 * p[2]))) - section.image).ravel(), np.float64)

    height = float(deviation[top])
    if height == 0:
        raise InputError(f"the image is flat within {search_mm} mm of where the wire should be")
    start = np.array([*section.across_mm[top], np.log(section.pixel_mm), background, height])
    # Narrower than a pixel's own width, a spot between pixels would have any height.
    low = np.array([-np.inf, -np.inf, np.log(0.5 * section.pixel_mm), -np.inf, -np.inf])
    scale = np.array([1.0, 1.0, 1.0, abs(height), abs(height)])
    found = optimize.least_squares(residual, start, x_scale=scale, bounds=(low, np.full(5, np.inf)))
    centre = np.asarray(found.x[:2], np.float64)
    if not found.success or np.hypot(*(centre - section.across_mm[top])) > 3 * section.pixel_mm:
        raise InputError("no wire found: the brightest pixel is not the top of a spot")
    return _Fit(centre, 0.0, float(np.exp(found.x[2])), height)


def _binned(distance: Float64, values: Float64, low: float, high: float, step: float) -> Float64:
    """Mean of the values in bins of distance, each at the mean distance of its pixels, read at the bins' middles."""
    bins = round((high - low) / step)
    index = np.floor((distance - low) / step).astype(int)
    use = (index >= 0) & (index < bins)
    count = np.bincount(index[use], minlength=bins)
    total = np.bincount(index[use], values[use], minlength=bins)
    place = np.bincount(index[use], distance[use], minlength=bins)
    filled = np.flatnonzero(count)
    if len(filled) < bins / 2:
        raise InputError(f"{bins - len(filled)} of {bins} bins of {step:.3f} mm hold no pixel: take wider bins")
    middles = low + (np.arange(bins) + 0.5) * step
    return np.asarray(np.interp(middles, place[filled] / count[filled], total[filled] / count[filled]), np.float64)


def _taper(n: int) -> Float64:
    """Tukey window, flat over the middle half: noise far from the edge is kept out, the edge is untouched."""
    x = np.abs(np.linspace(-1, 1, n))
    return np.asarray(np.where(x < 0.5, 1.0, 0.5 * (1 + np.cos(np.pi * (x - 0.5) / 0.5))), np.float64)


def _transform(line: Float64, step: float, highest: float) -> tuple[Float64, Float64]:
    """|DFT| of the line-spread function over its value at 0, the response of bins and difference divided out."""
    n = 8 * len(line)
    frequency = np.asarray(np.fft.rfftfreq(n, step), np.float64)
    keep = frequency <= highest
    magnitude = np.abs(np.fft.rfft(line, n))[keep]
    frequency = frequency[keep]
    response = np.sinc(frequency * step) ** 2
    return frequency, magnitude / magnitude[0] / response


def _height(three: Float64) -> float:
    """Top of the parabola through the highest sample and its neighbours."""
    if len(three) < 3:
        return float(three.max())
    left, middle, right = three
    curve = left - 2 * middle + right
    return float(middle - (right - left) ** 2 / (8 * curve)) if curve < 0 else float(middle)


def _width(position: Float64, signal: Float64, level: float) -> float:
    """Full width at a level of the profile's top, between the crossings next to the top."""
    fine = np.linspace(position[0], position[-1], 64 * len(position))
    smooth = interpolate.PchipInterpolator(position, signal)(fine)
    top = int(smooth.argmax())
    ends = []
    for side in (slice(top, None, -1), slice(top, None)):
        x, y = fine[side], smooth[side]
        below = np.flatnonzero(y < level)
        if not len(below):
            raise InputError(f"the slice profile does not fall to {level} within the slices given: reach further")
        end = int(below[0])
        ends.append(x[end - 1] + (y[end - 1] - level) / (y[end - 1] - y[end]) * (x[end] - x[end - 1]))
    return float(abs(ends[1] - ends[0]))


def _place(volume: Volume, rod: Cylinder, across: Float64) -> tuple[float, float, float]:
    found = np.asarray(rod.centre_mm) + across[0] * volume.grid.axes[2] + across[1] * volume.grid.axes[1]
    return float(found[0]), float(found[1]), float(found[2])
