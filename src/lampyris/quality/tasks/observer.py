"""Patches with and without a signal → detectability of a channelised Hotelling observer, with its interval."""

from dataclasses import dataclass

import numpy as np
from scipy import optimize, special, stats

from lampyris.model import Figure, Float64, InputError


@dataclass(frozen=True, slots=True, eq=False)
class Channels:
    """Channel profiles (channels, size, size) about the middle of a patch, each of unit energy; how they were made."""

    profiles: Float64
    settings: tuple[tuple[str, float | int | str], ...]

    def outputs(self, patches: object) -> Float64:
        """Channel outputs (patches, channels) of patches (patches, size, size)."""
        stack = np.asarray(patches, np.float64)
        if stack.ndim != 3 or stack.shape[1:] != self.profiles.shape[1:]:
            raise InputError(
                f"patches are {stack.shape}, the channels are made for (patches, *{self.profiles.shape[1:]})"
            )
        if not np.isfinite(stack).all():
            raise InputError("patches hold NaN or infinity: they reach over padding?")
        return np.asarray(np.tensordot(stack, self.profiles, axes=((1, 2), (1, 2))), np.float64)


def dense_difference_of_gaussians(
    size: int, *, channels: int = 10, start: float = 0.005, ratio: float = 1.4, width: float = 1.67
) -> Channels:
    """Dense difference-of-Gaussian channels (Abbey & Barrett 2001, D-DOG), radially symmetric, without response at 0.

    C_j(ρ) = exp(−½ (ρ/Qσ_j)²) − exp(−½ (ρ/σ_j)²), σ_j = σ₀ αʲ, ρ and σ₀ = `start` in cycles per pixel, α = `ratio`,
    Q = `width`. Patches should hold the lowest channel: below a size of about 1/(2πσ₀) pixels it is cut.
    """
    if size < 8 or channels < 1 or not start > 0 or not ratio > 1 or not width > 1:
        raise InputError(
            f"{channels} channels of {size}² from {start}, ratio {ratio}, width {width}: expected ≥ 8², > 1"
        )
    f = np.fft.fftfreq(2 * size)  # twice as large: a channel must not meet itself around the patch's border
    radius2 = f[:, None] ** 2 + f[None, :] ** 2
    profiles = []
    for sigma in start * ratio ** np.arange(channels):
        spectrum = np.exp(-0.5 * radius2 / (width * sigma) ** 2) - np.exp(-0.5 * radius2 / sigma**2)
        # A patch of even size has its middle between pixels.
        shift = np.exp(-2j * np.pi * f * (size - 1) / 2)
        profiles.append(np.fft.ifft2(spectrum * shift[:, None] * shift[None, :]).real[:size, :size])
    settings = (("channels", channels), ("kind", "D-DOG"), ("ratio", ratio), ("start", start), ("width", width))
    return Channels(_unit(np.stack(profiles)), settings)


def gabor(
    size: int,
    *,
    frequencies: tuple[float, ...] = (3 / 256, 3 / 128, 3 / 64, 3 / 32, 3 / 16),
    orientations: int = 5,
    phases: tuple[float, ...] = (0.0,),
) -> Channels:
    """Gabor channels of one octave (Eckstein & Whiting 1996; Yu et al. 2013), frequencies in cycles per pixel.

    V(x, y) = exp(−4 ln 2 (x² + y²)/w²) cos(2πf(x cos θ + y sin θ) + β), w = 6 ln 2/(π f): the response at 2f/3 and
    4f/3, an octave apart, is half of that at f.
    """
    if (
        size < 8
        or not frequencies
        or orientations < 1
        or not phases
        or not 0 < min(frequencies) <= max(frequencies) < 0.5
    ):
        raise InputError(f"Gabor channels of {size}² at {frequencies}: expected ≥ 8² and 0 < frequency < 0.5 per pixel")
    place = np.arange(size) - (size - 1) / 2
    y, x = np.meshgrid(place, place, indexing="ij")
    profiles = []
    for frequency in frequencies:
        w = 6 * np.log(2) / (np.pi * frequency)
        envelope = np.exp(-4 * np.log(2) * (x * x + y * y) / w**2)
        for turn in np.arange(orientations) * np.pi / orientations:
            along = 2 * np.pi * frequency * (x * np.cos(turn) + y * np.sin(turn))
            profiles += [envelope * np.cos(along + phase) for phase in phases]
    settings = (
        ("frequencies", ", ".join(f"{each:g}" for each in frequencies)),
        ("kind", "Gabor"),
        ("orientations", orientations),
        ("phases", ", ".join(f"{each:g}" for each in phases)),
    )
    return Channels(_unit(np.stack(profiles)), settings)


@dataclass(frozen=True, slots=True)
class Observed:
    """What an observer achieves: `snr` = d′ and `auc` = Φ(d′/√2) of known signals, with intervals; how it was made."""

    snr: float
    snr_interval: tuple[float, float]
    auc: float
    auc_interval: tuple[float, float]
    settings: tuple[tuple[str, float | int | str], ...]

    def figures(self, name: str) -> tuple[Figure, Figure]:
        """ "<name>_snr" and "<name>_auc" with settings and interval."""
        made = []
        for kind in ("snr", "auc"):
            low, high = getattr(self, f"{kind}_interval")
            settings = tuple(sorted((*self.settings, ("interval", [low, high]))))
            made.append(Figure(f"{name}_{kind}", getattr(self, kind), "1", settings=settings))
        return made[0], made[1]


@dataclass(frozen=True, slots=True)
class Viewing:
    """`confidence` of the interval, and an observer's `internal_noise`: SD over that of each channel's own noise.

    Internal noise is drawn and added to the outputs (Abbey & Barrett 2001), for which `rng` is needed.
    """

    confidence: float = 0.95
    internal_noise: float = 0.0
    rng: np.random.Generator | None = None

    def __post_init__(self) -> None:
        if not 0 < self.confidence < 1 or self.internal_noise < 0:
            raise InputError(
                f"confidence {self.confidence}, internal noise {self.internal_noise}: expected 0…1 and ≥ 0"
            )
        if self.internal_noise > 0 and self.rng is None:
            raise InputError("internal noise is drawn at random: hand in an rng")


def hotelling(present: object, absent: object, channels: Channels, *, viewing: Viewing | None = None) -> Observed:
    """Channelised Hotelling observer with unbiased SNR² and exact confidence interval.

    `present`, `absent`: patches (m, size, size) and (n, size, size), independent, the signal in the same place. With Δ
    the difference of mean outputs, S their pooled covariance and p channels, T² = mn/(m+n)·ΔᵀS⁻¹Δ is a Hotelling T²:

        F = (m+n−p−1)/(p(m+n−2))·T² ~ F′(p, m+n−p−1; δ),  δ = mn/(m+n)·SNR²

    so that E gives an unbiased SNR² and the quantiles of F′ its interval (Wunderlich, Noo, Gallas & Heilbrun 2015). It
    tells how well the *ideal* template would do, without the loss of training, and is exact for Gaussian outputs of
    one covariance. An SNR² estimated below 0 gives SNR 0: nothing was seen.

    Raises InputError when m + n is not above p + 3 or channels repeat each other.
    """
    how = viewing or Viewing()
    with_signal, without = _outputs(present, absent, channels, how)
    m, n, p = len(with_signal), len(without), with_signal.shape[1]
    if min(m, n) < 2 or m + n <= p + 3:
        raise InputError(
            f"{m} + {n} patches for {p} channels, expected more than {p + 3}: fewer channels, more patches"
        )
    difference = with_signal.mean(axis=0) - without.mean(axis=0)
    pooled = _pooled(with_signal, without)
    scale = m * n / (m + n)
    t2 = scale * float(difference @ _solve(pooled, difference))
    rest = m + n - p - 1
    f = rest / (p * (m + n - 2)) * t2
    square = max((p * (rest - 2) / rest * f - p) / scale, 0.0)
    tail = (1 - how.confidence) / 2
    low, high = (_noncentrality(f, p, rest, level) / scale for level in (1 - tail, tail))
    snr, ends = float(np.sqrt(square)), (float(np.sqrt(low)), float(np.sqrt(high)))
    settings = (*_settings(channels, how, m, n), ("method", "Hotelling, exact interval"))
    return Observed(snr, ends, _auc(snr), (_auc(ends[0]), _auc(ends[1])), tuple(sorted(settings)))


def trained_and_tested(
    training: tuple[object, object],
    testing: tuple[object, object],
    channels: Channels,
    *,
    viewing: Viewing | None = None,
) -> Observed:
    """Hotelling template from one set of (present, absent) patches, AUC of its scores on another.

    AUC is the Mann–Whitney statistic with DeLong's variance (1988) and a normal interval of its logit; with every pair
    ranked right it is Clopper & Pearson's lower bound for the smaller class. SNR = √2 Φ⁻¹(AUC). Assumes no
    distribution, hence fits denoised images too; includes the loss that training on few patches means.

    Raises InputError as `hotelling`, and for fewer than two test patches of a kind.
    """
    how = viewing or Viewing()
    with_signal, without = _outputs(*training, channels, how)
    p = with_signal.shape[1]
    if min(len(with_signal), len(without)) < 2 or len(with_signal) + len(without) <= p + 3:
        raise InputError(
            f"{len(with_signal)} + {len(without)} training patches for {p} channels, expected more than {p + 3}"
        )
    template = _solve(_pooled(with_signal, without), with_signal.mean(axis=0) - without.mean(axis=0))
    tested = _outputs(*testing, channels, how)
    area, interval = mann_whitney(tested[0] @ template, tested[1] @ template, how.confidence)
    ends = (_snr(interval[0]), _snr(interval[1]))
    settings = (
        *_settings(channels, how, len(tested[0]), len(tested[1])),
        ("method", "Hotelling, trained and tested"),
        ("trained_absent", len(without)),
        ("trained_present", len(with_signal)),
    )
    return Observed(_snr(area), ends, area, interval, tuple(sorted(settings)))


def mann_whitney(present: Float64, absent: Float64, confidence: float = 0.95) -> tuple[float, tuple[float, float]]:
    """Area under the ROC curve of two sets of scores, and its confidence interval (see `trained_and_tested`)."""
    m, n = len(present), len(absent)
    if m < 2 or n < 2 or not (np.isfinite(present).all() and np.isfinite(absent).all()):
        raise InputError(f"{m} and {n} scores, expected at least two finite ones of each kind")
    wins = (present[:, None] > absent) + 0.5 * (present[:, None] == absent)
    area = float(wins.mean())
    bound = float(((1 - confidence) / 2) ** (1 / min(m, n)))
    if area in (0.0, 1.0):
        return area, (bound, 1.0) if area == 1 else (0.0, 1 - bound)
    variance = wins.mean(axis=1).var(ddof=1) / m + wins.mean(axis=0).var(ddof=1) / n
    reach = float(stats.norm.ppf(0.5 + confidence / 2) * np.sqrt(variance) / (area * (1 - area)))
    centre = special.logit(area)
    return area, (float(special.expit(centre - reach)), float(special.expit(centre + reach)))


def _outputs(present: object, absent: object, channels: Channels, how: Viewing) -> tuple[Float64, Float64]:
    """Channel outputs of both kinds, with internal noise of the pooled external spread."""
    both = channels.outputs(present), channels.outputs(absent)
    if how.internal_noise == 0 or how.rng is None:
        return both
    if min(len(each) for each in both) < 2:
        raise InputError("internal noise is relative to the patches' own: expected at least two of each kind")
    spread = how.internal_noise * np.sqrt(np.diag(_pooled(*both)))
    return (
        both[0] + how.rng.normal(size=both[0].shape) * spread,
        both[1] + how.rng.normal(size=both[1].shape) * spread,
    )


def _pooled(first: Float64, second: Float64) -> Float64:
    """Pooled covariance (channels, channels) about each kind's own mean."""
    deviations = np.concatenate([first - first.mean(axis=0), second - second.mean(axis=0)])
    return np.asarray(deviations.T @ deviations / (len(deviations) - 2), np.float64)


def _solve(covariance: Float64, vector: Float64) -> Float64:
    """covariance⁻¹ vector, with both scaled to unit variances first."""
    spread = np.sqrt(np.diag(covariance))
    if spread.min() <= 0:
        raise InputError("a channel has no variance: patches without noise, or copies of each other")
    correlation = covariance / np.outer(spread, spread)
    condition = float(np.linalg.cond(correlation))
    if not condition < 1e12:
        raise InputError(f"the channels' covariance has condition {condition:.1e}: they repeat each other, take fewer")
    return np.asarray(np.linalg.solve(correlation, vector / spread) / spread, np.float64)


def _noncentrality(f: float, first: int, second: int, level: float) -> float:
    """The noncentrality for which F′ falls below `f` with chance `level`; 0 when none does."""

    def excess(square_root: float) -> float:
        return float(special.ncfdtr(first, second, square_root**2, f)) - level

    if special.fdtr(first, second, f) <= level:
        return 0.0
    high = np.sqrt(first * f + 1) + 1
    while excess(high) > 0:
        high *= 1.5
    return float(optimize.brentq(excess, 1e-9, high, xtol=1e-9)) ** 2


def _settings(channels: Channels, how: Viewing, m: int, n: int) -> tuple[tuple[str, float | int | str], ...]:
    return (
        *channels.settings,
        ("absent", n),
        ("confidence", how.confidence),
        ("internal_noise", how.internal_noise),
        ("present", m),
        ("size", int(channels.profiles.shape[-1])),
    )


def _unit(profiles: Float64) -> Float64:
    return np.asarray(profiles / np.sqrt((profiles**2).sum(axis=(1, 2), keepdims=True)), np.float64)


def _auc(snr: float) -> float:
    return float(special.ndtr(snr / np.sqrt(2)))


def _snr(auc: float) -> float:
    return float(np.sqrt(2) * special.ndtri(auc))
