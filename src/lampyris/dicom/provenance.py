"""Scan, recipe, corrections, exposure and dose → what an image says of its own making, in plain language."""

import math
from dataclasses import dataclass, field
from typing import Any

import numpy as np

import lampyris
from lampyris.model import Acquisition, Applied, Assessment, InputError, Projections, Recipe, Step, Volume

STATEMENT = "Research software, not for diagnosis."

ANALYTIC_METHODS = ("auto", "fbp", "fdk", "wfbp")
"""Reconstruction methods that DICOM calls FILTER_BACK_PROJ, (0018,9315)."""

_DOSE_FIGURES = {"ctdivol": "CTDIvol", "dlp": "DLP", "ssde": "SSDE", "wed": "WaterEquivalentDiameter"}
"""Figures of an assessment, and the fields of `Dose` that they are."""

_TO_DOSE_UNITS = {"mGy": 1.0, "mGy·cm": 1.0, "mm": 1.0, "cm": 10.0}
_REASONS_TOLD = 10

_KERNEL_GROUPS = {"body": "SOFT_TISSUE", "soft": "SOFT_TISSUE", "lung": "LUNG", "bone": "BONE", "brain": "BRAIN"}

_PLAIN = {
    "coding": "counts sent in steps of their noise",
    "dark_air": "dark and air calibration",
    "bad_cells": "bad cells interpolated",
    "log": "logarithm",
    "scatter": "scatter",
    "water_beam_hardening": "water beam hardening",
    "bone_beam_hardening": "bone beam hardening",
    "ring": "ring correction",
    "restore": "noise taken out of the raw counts where they are few",
}


_LIKELIHOODS = {
    "pwls": "weighted least squares of the line integrals",
    "poisson": "the likelihood of the counted quanta",
}
"""Iterative methods with a prior in a formula."""
_TOLD_NOISE = "told how noisy this measurement is at every place"
_SHARES = ("left", "trust")
"""Settings of plug and play that go with the learned prior, not with the one in a formula."""


@dataclass(frozen=True, slots=True)
class Exposure:
    """Exposure facts under their DICOM keywords, mA, ms and mAs; None = not known."""

    XRayTubeCurrentInmA: float | None = None
    ExposureTimeInms: float | None = None
    ExposureInmAs: float | None = None
    ExposureModulationType: str | None = None


@dataclass(frozen=True, slots=True)
class Dose:
    """CTDIvol mGy, DLP mGy·cm, size-specific dose estimate mGy, water-equivalent diameter mm (mean over the scan)."""

    CTDIvol: float | None = None
    DLP: float | None = None
    SSDE: float | None = None
    WaterEquivalentDiameter: float | None = None


@dataclass(frozen=True, slots=True)
class Map:
    """A series that tells something about an image: its number, its name as fourth value of ImageType (0008,0008), what
    it is called and, in plain language, what its values mean."""

    SeriesNumber: int
    name: str
    title: str
    meaning: str


MAPS = {
    "noise": Map(
        901,
        "NOISE_SD",
        "noise map",
        "Not an image of the patient: each value is the estimated standard deviation, in the unit of the image, of the"
        " noise of the reconstructed image at this place. A difference to a neighbour smaller than about three times"
        " this value may be chance.",
    ),
    "bias": Map(
        902,
        "BIAS",
        "bias map",
        "Not an image of the patient: each value is the difference, in the unit of the image, between the reconstructed"
        " image and the analytic (filtered backprojection) image of the same measurement, smoothed over 14 mm. Away"
        " from zero by more than chance, the image does not show what was measured.",
    ),
}
"""Maps of a passport."""


@dataclass(frozen=True, slots=True)
class Provenance:
    """Where an image came from: everything that is written about its making, none of it computed with.

    `SliceThickness` mm, `ReconstructionDiameter` mm, `ReconstructionAngle` degrees of rotation that a point of the axis
    is reconstructed from, `ReconstructionAlgorithm` a DICOM defined term (None: derived for the analytic methods, left
    out otherwise); `verdict` and `reasons` of the gate; `map` where the values tell something about an
    image and are not the image; `method` the recipe's with the settings that it leaves to the reconstruction filled in;
    `engine` what computed it, in words.
    """

    scan_id: str
    acquisition: Acquisition = field(default_factory=Acquisition)
    recipe: Recipe | None = None
    history: tuple[Applied, ...] = ()
    software_version: str = lampyris.__version__
    exposure: Exposure = field(default_factory=Exposure)
    dose: Dose = field(default_factory=Dose)
    SliceThickness: float | None = None
    ConvolutionKernel: str | None = None
    ReconstructionAlgorithm: str | None = None
    ReconstructionDiameter: float | None = None
    ReconstructionAngle: float | None = None
    verdict: str | None = None
    reasons: tuple[str, ...] = ()
    map: Map | None = None
    method: Step | None = None
    engine: str | None = None

    def __post_init__(self) -> None:
        for name in ("SliceThickness", "ReconstructionDiameter"):
            value = getattr(self, name)
            if value is not None and not (math.isfinite(value) and value > 0):
                raise InputError(f"{name} is {value} mm, expected > 0")

    @staticmethod
    def of(
        projections: Projections,
        recipe: Recipe,
        assessment: Assessment | None = None,
        *,
        method: Step | None = None,
        engine: str | None = None,
    ) -> "Provenance":
        """The provenance of an image that this recipe made of these projections.

        `method` is the recipe's with every setting, where the recipe leaves some to the reconstruction. Exposure is
        written only with a known spectrum: without one, exposures may be in relative units.
        """
        figures = () if assessment is None else assessment.figures
        dose = {
            _DOSE_FIGURES[one.name]: one.value * _TO_DOSE_UNITS[one.unit]
            for one in figures
            if one.name in _DOSE_FIGURES
        }
        return Provenance(
            scan_id=projections.scan_id,
            acquisition=projections.acquisition,
            recipe=recipe,
            history=projections.history,
            exposure=_exposure(projections),
            dose=Dose(**dose),
            SliceThickness=recipe.grid.slice_thickness_mm,
            ReconstructionAngle=_angle(projections),
            verdict=None if assessment is None else assessment.verdict,
            reasons=() if assessment is None else assessment.reasons,
            method=method or recipe.method,
            engine=engine,
        )

    @property
    def recipe_digest(self) -> str:
        return "" if self.recipe is None else self.recipe.digest()

    @property
    def program(self) -> str:
        """What UIDs tell apart of ourselves: the version, and an engine whose last digits are not the processor's."""
        return self.software_version if self.engine in (None, "cpu") else f"{self.software_version} {self.engine}"

    @property
    def kernel(self) -> str | None:
        return self.ConvolutionKernel or (None if self.recipe is None else self.recipe.kernel)

    @property
    def kernel_group(self) -> str | None:
        """DICOM's group of the kernel, (0018,9316); None if its name does not say."""
        words = (self.kernel or "").lower().replace("-", "_").split("_")
        return next((_KERNEL_GROUPS[word] for word in words if word in _KERNEL_GROUPS), None)

    @property
    def algorithm(self) -> str | None:
        if self.ReconstructionAlgorithm or self.recipe is None:
            return self.ReconstructionAlgorithm
        return "FILTER_BACK_PROJ" if self.recipe.method.name in ANALYTIC_METHODS else None

    def series_description(self) -> str:
        """Recipe, kernel, thickness and dose fraction, such as “routine body 1 mm 10% dose”."""
        words = ["Lampyris" if self.recipe is None else self.recipe.name]
        words += [] if self.kernel is None else [self.kernel]
        words += [] if self.SliceThickness is None else [f"{self.SliceThickness:g} mm"]
        fraction = self.acquisition.dose_fraction
        words += [] if fraction == 1.0 else [f"{100 * fraction:.3g}% dose"]
        return " ".join(words)

    def derivation(self, volume: Volume) -> str:
        """How the image was made, or what the map means, for DerivationDescription (0008,2111)."""
        if self.map is not None:
            return _within(self.map.meaning, 1024)
        method = self.method or (None if self.recipe is None else self.recipe.method)
        how = "Reconstructed from the raw measurement." if method is None else _how(method, self.kernel)
        steps = [_corrected(one) for one in self.history]
        sentences = [how, f"Corrections: {', '.join(steps)}."] if steps else [how]
        sentences += [level] if (level := self.dose_level()) else []
        unit = "Hounsfield units" if volume.quantity == "HU" else "linear attenuation in 1/mm"
        return _within(" ".join([*sentences, f"Values are {unit}."]), 1024)

    def dose_level(self) -> str | None:
        """What part of its protocol's dose the scan stands for; None for all of it."""
        fraction = self.acquisition.dose_fraction
        return None if fraction == 1.0 else f"The measurement stands for {100 * fraction:.3g}% of the protocol's dose."

    def contribution(self) -> str:
        """What Lampyris did, for ContributionDescription (0018,A003)."""
        recipe = "no recipe"
        if self.recipe is not None:
            recipe = f"recipe {self.recipe.name} {self.recipe.version}, SHA-256 {self.recipe_digest}"
        engine = "" if self.engine is None else f" by engine {self.engine}"
        return _within(f"Reconstruction from raw counts{engine}, {recipe}, scan {self.scan_id}. {STATEMENT}", 1024)

    def comments(self, volume: Volume) -> str:
        """Everything a reader of the image should know, for ImageComments (0020,4000)."""
        dose = self.dose
        figures = (
            ("CTDIvol", dose.CTDIvol, "mGy"),
            ("DLP", dose.DLP, "mGy.cm"),
            ("SSDE", dose.SSDE, "mGy"),
            ("water-equivalent diameter", dose.WaterEquivalentDiameter, "mm"),
        )
        known = [f"{name} {value:.4g} {unit}" for name, value, unit in figures if value is not None]
        sentences = [STATEMENT, f"Lampyris {self.software_version}.", self.derivation(volume), self.contribution()]
        sentences += [f"Dose: {', '.join(known)}."] if known else []
        level = self.dose_level()
        sentences += [level] if level and self.map is not None else []  # an image's derivation says it
        sentences += [f"Quality gate: {self.verdict}."] if self.verdict else []
        told = list(self.reasons[:_REASONS_TOLD])
        told += [f"and {len(self.reasons) - _REASONS_TOLD} more"] if len(self.reasons) > _REASONS_TOLD else []
        sentences += [f"Because: {'; '.join(told)}."] if told else []
        return _within(" ".join(sentences), 10240)


def _how(method: Step, kernel: str | None) -> str:
    """What a method did, in plain language, with the settings that decide it."""
    chosen = dict(method.settings)
    network = f"the neural network {chosen.pop('denoiser', None)} (SHA-256 {chosen.pop('denoiser_sha256', None)})"
    learned = "denoiser" in dict(method.settings)
    sharpness = "" if kernel is None else f" with kernel {kernel}"
    begun = f", from a filtered backprojection{sharpness}"
    passes = f"{chosen.pop('iterations', '?')} passes over the data in {chosen.pop('subsets', '?')} subsets"
    if method.name in ANALYTIC_METHODS:
        text = f"Reconstructed from the raw measurement by filtered backprojection ({method.name}){sharpness}."
        return f"{text} Then {network} took noise out of the image, {_TOLD_NOISE}." if learned else text
    if method.name == "plug_and_play":
        back, shares = chosen.pop("returns", "?"), {each: chosen.pop(each) for each in _SHARES if each in chosen}
        return (
            f"Reconstructed iteratively from the raw measurement by counts and a learned prior in turn{begun}:"
            f" {passes} with a {chosen.pop('prior', '?')} prior{_listed(chosen)}; then {network} took noise out of the"
            f" image, {_TOLD_NOISE}; then {back} passes brought it back to what was counted{_listed(shares)}."
        )
    if method.name in _LIKELIHOODS:
        prior = f"a {chosen.pop('prior', '?')} prior{_listed(chosen)}"
        return (
            f"Reconstructed iteratively from the raw measurement by {_LIKELIHOODS[method.name]}{begun}: {passes}, where"
            f" {prior} smooths what the counts do not tell from noise."
        )
    return f"Reconstructed from the raw measurement by {method.name}{sharpness}."


def _listed(settings: dict[str, Any]) -> str:
    told = (f"{name} {value:g}" if isinstance(value, float) else f"{name} {value}" for name, value in settings.items())
    return f" ({', '.join(told)})" if settings else ""


def _corrected(done: Applied) -> str:
    """A correction in plain language; how strongly, where it is one of degree."""
    settings = dict(done.settings)
    strength = {"strength": settings["strength"]} if "strength" in settings else {}
    return _PLAIN.get(done.name, done.name.replace("_", " ")) + _listed(strength)


def _within(text: str, characters: int) -> str:
    if len(text) > characters:
        raise InputError(f"{len(text)} characters about the making of the image, DICOM takes {characters}")
    return text


def turns(projections: Projections) -> float:
    """How often the source went round; 0 if it did not."""
    source = projections.geometry.source
    if len(source) < 2:
        return 0.0
    angle = np.unwrap(np.arctan2(source[:, 0], source[:, 2]))
    swept = abs(float(angle[-1] - angle[0]))  # end to end: a flying focal spot swings to and fro in between
    return swept / (2 * math.pi) * len(source) / (len(source) - 1)


def _angle(projections: Projections) -> float | None:
    """Rotation that a point of the axis is seen during: one pitch-th of a turn in a helix, all of it otherwise."""
    rounds, pitch = turns(projections), projections.acquisition.SpiralPitchFactor
    if rounds == 0:
        return None
    return 360.0 * min(rounds, 1 / pitch) if pitch else 360.0 * rounds


def _exposure(projections: Projections) -> Exposure:
    """mAs per turn from exposures per view, and mA where the time of a turn is known too."""
    views, rounds = projections.exposure_mas, turns(projections)
    if views is None or projections.spectrum is None or rounds == 0:
        return Exposure()
    modulation = "NONE" if np.ptp(views) <= 1e-6 * views.max() else "PER_VIEW"
    per_turn, seconds = float(views.sum()) / rounds, projections.acquisition.RevolutionTime
    if not seconds:
        return Exposure(ExposureInmAs=per_turn, ExposureModulationType=modulation)
    return Exposure(per_turn / seconds, 1000 * seconds, per_turn, modulation)
