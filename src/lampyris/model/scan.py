"""What a scanner measured, and what correction makes of it: RawScan, Quanta and Projections."""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from typing import Any

import numpy as np

from lampyris.model.arrays import Bool, Counts, Float32, Float64, canonical_json, frozen, new_digest, update_digest
from lampyris.model.errors import CalibrationError, InputError
from lampyris.model.geometry import Geometry
from lampyris.model.spectrum import Spectrum


@dataclass(frozen=True, slots=True)
class Acquisition:
    """Facts of the acquisition that are only carried into DICOM, under their DICOM keywords, letter for letter.

    `DataCollectionCenterPatient` (x, y, z) mm is where the origin of the gantry frame lies in patient coordinates.
    `dose_fraction` is 1 for the protocol's full dose; a virtual or lowered scan says what it stands for.
    None = not known: it stays out of the image, it is never guessed.
    """

    PatientPosition: str = "HFS"
    DataCollectionCenterPatient: tuple[float, float, float] = (0.0, 0.0, 0.0)
    FrameOfReferenceUID: str | None = None
    Manufacturer: str | None = None
    ManufacturerModelName: str | None = None
    DeviceSerialNumber: str | None = None
    StationName: str | None = None
    ProtocolName: str | None = None
    BodyPartExamined: str | None = None
    AcquisitionDateTime: str | None = None
    AcquisitionType: str | None = None
    KVP: float | None = None
    RevolutionTime: float | None = None
    SpiralPitchFactor: float | None = None
    TableFeedPerRotation: float | None = None
    SingleCollimationWidth: float | None = None
    TotalCollimationWidth: float | None = None
    DataCollectionDiameter: float | None = None
    GantryDetectorTilt: float | None = None
    FilterType: str | None = None
    CTDIvol: float | None = None
    CTDIPhantomDiameter: float | None = None
    dose_fraction: float = 1.0


@dataclass(frozen=True, slots=True)
class Noise:
    """Variance of a net count: `gain_counts` · mean + `electronic_counts`².

    `gain_counts` is the compound-Poisson variance over mean (counts per noise-equivalent quantum), `electronic_counts`
    the standard deviation with the beam off, quantisation included.
    """

    gain_counts: float
    electronic_counts: float

    def __post_init__(self) -> None:
        if not (self.gain_counts > 0 and self.electronic_counts >= 0):
            raise InputError(
                f"noise gain {self.gain_counts}, electronic {self.electronic_counts}: expected > 0 and ≥ 0"
            )


@dataclass(frozen=True, slots=True)
class Coding:
    """How counts were coarsened on their way: in `steps_per_sigma` steps per standard deviation of each count's noise.

    `noise` and `pedestal_counts` (no dark count lies above it) made the steps; `dtype` is what the counts were; they
    are float32 since. `source_id` names the scan as it was measured; it is no part of the content.
    """

    steps_per_sigma: float
    pedestal_counts: float
    noise: Noise
    dtype: str
    source_id: str = ""

    def __post_init__(self) -> None:
        gain, electronic = self.noise.gain_counts, self.noise.electronic_counts
        if not (0.25 <= self.steps_per_sigma <= 64 and 1e-6 <= gain <= 1e9 and electronic <= 1e9):
            raise InputError(
                f"{self.steps_per_sigma} steps per σ, gain {gain}, electronic {electronic}: expected 0.25…64, 1e-6…1e9"
                " and at most 1e9"
            )
        if not abs(self.pedestal_counts) <= 1e9:
            raise InputError(f"pedestal of {self.pedestal_counts} counts: expected within ±1e9")

    @property
    def added_noise(self) -> float:
        """Relative growth of the standard deviation of a count, √(1 + 1/(12 k²)) − 1: 0.0026 at σ/4."""
        return float(np.sqrt(1 + 1 / (12 * self.steps_per_sigma**2)) - 1)

    @property
    def noise_after(self) -> Noise:
        """The noise of the coded counts: a step of √(g·x + 3/8·g² + e²)/k adds its square over 12 to the variance."""
        share, gain = 1 / (12 * self.steps_per_sigma**2), self.noise.gain_counts
        variance = (1 + share) * self.noise.electronic_counts**2 + share * 3 / 8 * gain**2
        return Noise(gain * (1 + share), float(np.sqrt(variance)))


@dataclass(frozen=True, slots=True, eq=False)
class RawScan:
    """Counts as they left the detector, with everything that is needed to understand them.

    `counts` (views, rows, columns), any real type, in memory or lazy; `geometry` of every view.
    `exposure_mas` (views,): tube current × view time; relative units are allowed if `air_exposure_mas` is in the same.
    `dark` (rows, columns): mean count without beam; `air` (spots, rows, columns): mean count, dark not subtracted,
    without object at `air_exposure_mas`; view i belongs to focal spot i mod spots. `bad_cells` (rows, columns).
    None = was not delivered; the correction chain refuses what it needs and lacks.
    `applied` names the corrections that the scanner made already (they are not made again). `water_per_mm` is the
    attenuation of water that the scanner's own beam-hardening correction refers to, where a file says so. `coding` says
    how the counts were coarsened on their way here, None = they are as measured.
    `id` is the digest of the content.
    """

    counts: Counts
    geometry: Geometry
    exposure_mas: Float64
    dark: Float32 | None = None
    air: Float32 | None = None
    air_exposure_mas: float = 1.0
    bad_cells: Bool | None = None
    spectrum: Spectrum | None = None
    noise: Noise | None = None
    acquisition: Acquisition = field(default_factory=Acquisition)
    applied: tuple[str, ...] = ()
    water_per_mm: float | None = None
    coding: Coding | None = None
    id: str = ""

    def __post_init__(self) -> None:
        if tuple(self.counts.shape) != self.geometry.shape:
            raise InputError(
                f"counts are {tuple(self.counts.shape)}, the geometry says (views, rows, columns) ="
                f" {self.geometry.shape}: transposed frames, or a geometry of another scan?"
            )
        views, rows, columns = self.geometry.shape
        set_ = object.__setattr__
        set_(self, "exposure_mas", frozen(self.exposure_mas, np.float64, "exposure_mas", (views,)))
        if self.exposure_mas.min() <= 0 or not self.air_exposure_mas > 0:
            raise InputError(
                f"exposure of view {int(self.exposure_mas.argmin())} is {self.exposure_mas.min()} mAs, expected > 0"
            )
        _check_water(self.water_per_mm)
        if self.dark is not None:
            set_(self, "dark", _calibration(self.dark, "dark", (rows, columns)))
        if self.air is not None:
            air = np.asarray(self.air)
            set_(self, "air", _calibration(air[None] if air.ndim == 2 else air, "air", (None, rows, columns)))
        if self.bad_cells is not None:
            set_(self, "bad_cells", frozen(self.bad_cells, np.bool_, "bad_cells", (rows, columns)))
        if not self.id:
            set_(self, "id", self.digest())

    @property
    def views(self) -> int:
        return self.geometry.views

    @property
    def focal_spots(self) -> int:
        """Number of air maps, one for each spot of a flying focal spot."""
        return 1 if self.air is None else len(self.air)

    def read(self, views: slice) -> np.ndarray:
        """Counts of some views, in memory, (views, rows, columns)."""
        return np.asarray(self.counts[views])

    def digest(self) -> str:
        """SHA-256 over counts, calibration, geometry, spectrum and acquisition, independent of how they are stored."""
        digest = new_digest()
        for name, array in self.arrays().items():
            update_digest(digest, name, array)
        digest.update(canonical_json(self.facts()).encode())
        views = self.views
        digest.update(
            canonical_json(
                ["counts", np.dtype(self.counts.dtype).newbyteorder("<").str, list(self.counts.shape)]
            ).encode()
        )
        for first in range(0, views, 64):
            block = np.ascontiguousarray(self.counts[first : first + 64])
            digest.update(block.astype(block.dtype.newbyteorder("<"), copy=False).data)
        return str(digest.hexdigest())

    def facts(self) -> dict[str, Any]:
        """Everything that is not an array, as JSON values."""
        spectrum, coding = self.spectrum, self.coding
        coded = {}  # a scan as it was measured keeps the id that it had before there was a coding
        if coding is not None:
            coded["coding"] = {key: value for key, value in dataclasses.asdict(coding).items() if key != "source_id"}
        return coded | {
            "rows": self.geometry.rows,
            "columns": self.geometry.columns,
            "curvature_mm": self.geometry.curvature_mm,
            "parallel": self.geometry.parallel,
            "air_exposure_mas": self.air_exposure_mas,
            "noise": None if self.noise is None else dataclasses.asdict(self.noise),
            "tube_voltage_kv": None if spectrum is None else spectrum.tube_voltage_kv,
            "filtration": None if spectrum is None else [list(each) for each in spectrum.filtration],
            "bowtie_materials": None
            if spectrum is None or spectrum.bowtie is None
            else list(spectrum.bowtie.materials),
            "acquisition": {f.name: _plain(getattr(self.acquisition, f.name)) for f in fields(Acquisition)},
            "applied": list(self.applied),
            "water_per_mm": self.water_per_mm,
        }

    def arrays(self) -> dict[str, np.ndarray]:
        """Every array but the counts, by name: with `facts`, all that a container has to keep."""
        geometry, spectrum = self.geometry, self.spectrum
        named: dict[str, np.ndarray | None] = {
            "source": geometry.source,
            "detector": geometry.detector,
            "u": geometry.u,
            "v": geometry.v,
            "exposure_mas": self.exposure_mas,
            "dark": self.dark,
            "air": self.air,
            "bad_cells": self.bad_cells,
        }
        if spectrum is not None:
            named |= {
                "energy_kev": spectrum.energy_kev,
                "photons_per_mas_mm2": spectrum.photons_per_mas_mm2,
                "response_kev": spectrum.response_kev,
            }
            if spectrum.bowtie is not None:
                named |= {
                    "bowtie_fan_angle_rad": spectrum.bowtie.fan_angle_rad,
                    "bowtie_thickness_mm": spectrum.bowtie.thickness_mm,
                }
        return {name: array for name, array in named.items() if array is not None}


@dataclass(frozen=True, slots=True)
class Applied:
    """One correction that was made: its name, its settings and what it found, as JSON values."""

    name: str
    settings: tuple[tuple[str, Any], ...] = ()

    @staticmethod
    def of(name: str, **settings: Any) -> "Applied":
        return Applied(name, tuple(sorted(settings.items())))

    def as_dict(self) -> dict[str, Any]:
        return {"name": self.name, **dict(self.settings)}


@dataclass(frozen=True, slots=True, eq=False)
class Quanta:
    """What was counted, in noise-equivalent quanta: what a counting likelihood needs beside the integrals.

    A ray of view i whose water-corrected line integral is q shows on average `open_beam`·exp(−P(q − offset)), with
    variance that mean + `electronic`; `open_beam` = air[spot[i]]·exposure[i]. P gives the integral that a beam of many
    energies shows: of every column by linear interpolation at q = 0, 1/`nodes_per_unit` …, going on straight beyond
    both ends; P(q) = q where `hardening` is None. P is increasing and concave.

    `measured` (views, rows, columns) float32 net counts over the noise gain, scatter subtracted, negative ones as they
    are; `air` (spots, rows, columns) float32 mean quanta without object at exposure 1, 0 = the cell has no say;
    `exposure`, `spot` (views,); `electronic` variance in quanta²; `hardening` (columns, nodes) or None; `offset`
    (views, rows, columns): what corrections after the logarithm added to the integrals, None = nothing.
    """

    measured: Float32
    air: Float32
    exposure: Float64
    spot: np.ndarray
    electronic: float
    hardening: Float64 | None = None
    nodes_per_unit: float = 24.0
    offset: Float32 | None = None

    def __post_init__(self) -> None:
        measured = np.asarray(self.measured)
        if measured.ndim != 3 or measured.dtype != np.float32:
            raise InputError(f"measured quanta are {measured.dtype} {measured.shape}, expected float32 in three axes")
        if not np.isfinite(measured.sum(dtype=np.float64)):
            bad = ~np.isfinite(measured)
            place = tuple(int(i) for i in np.argwhere(bad)[0])
            raise InputError(
                f"measured quanta hold {int(bad.sum())} NaN or infinite, first at view, row, column {place}"
            )
        views, rows, columns = measured.shape
        set_ = object.__setattr__
        set_(self, "air", frozen(self.air, np.float32, "air quanta", (None, rows, columns)))
        set_(self, "exposure", frozen(self.exposure, np.float64, "exposure", (views,)))
        set_(self, "spot", frozen(self.spot, np.intp, "spot", (views,)))
        if self.air.min() < 0 or self.exposure.min() <= 0 or not 0 <= self.electronic < np.inf:
            raise InputError(
                f"air quanta from {self.air.min():g}, exposure from {self.exposure.min():g}, electronic variance"
                f" {self.electronic:g}: expected ≥ 0, > 0 and ≥ 0"
            )
        if self.spot.min() < 0 or self.spot.max() >= len(self.air):
            raise InputError(f"spots {self.spot.min()} … {self.spot.max()}, but there are {len(self.air)} air maps")
        set_(self, "electronic", float(self.electronic))
        if self.hardening is not None:
            set_(self, "hardening", _hardening(self.hardening, columns))
        if not self.nodes_per_unit > 0:
            raise InputError(f"{self.nodes_per_unit} nodes per unit of the hardening table, expected > 0")
        if self.offset is not None and (self.offset.shape != measured.shape or self.offset.dtype != np.float32):
            raise InputError(f"offset is {self.offset.dtype} {self.offset.shape}, expected float32 {measured.shape}")

    @property
    def shape(self) -> tuple[int, int, int]:
        """(views, rows, columns)."""
        views, rows, columns = self.measured.shape
        return views, rows, columns

    def open_beam(self, views: slice | Sequence[int]) -> Float32:
        """Mean quanta of some views without an object, (views, rows, columns)."""
        exposure = self.exposure[views].astype(np.float32)
        return np.asarray(self.air[self.spot[views]] * exposure[:, None, None], np.float32)

    def of_views(self, views: slice | Sequence[int]) -> "Quanta":
        """The same for some views, as `Geometry.subset` chooses them; without a copy where `views` is a slice."""
        return dataclasses.replace(
            self,
            measured=self.measured[views],
            exposure=self.exposure[views],
            spot=self.spot[views],
            offset=None if self.offset is None else self.offset[views],
        )

    def moved(self, change: Float32) -> "Quanta":
        """The same counts after the integrals were changed by `change` (views, rows, columns)."""
        return dataclasses.replace(self, offset=change if self.offset is None else self.offset + change)


@dataclass(frozen=True, slots=True, eq=False)
class Projections:
    """Line integrals of attenuation with their statistical weights.

    `integrals` (views, rows, columns) float32, dimensionless; `weights` the same shape, inverse variance of the
    integral (relative where the noise is unknown); `water_per_mm` is the attenuation of water that the integrals refer
    to (None: not known, the image stays in 1/mm); `history` every correction made, in order.
    """

    integrals: Float32
    weights: Float32
    geometry: Geometry
    water_per_mm: float | None = None
    spectrum: Spectrum | None = None
    acquisition: Acquisition = field(default_factory=Acquisition)
    exposure_mas: Float64 | None = None
    history: tuple[Applied, ...] = ()
    scan_id: str = ""
    quanta: Quanta | None = None

    def __post_init__(self) -> None:
        for name in ("integrals", "weights"):
            array = getattr(self, name)  # looked at, not taken: integrals may be made when they are asked for
            shape, kind = getattr(array, "shape", None), getattr(array, "dtype", None)
            if shape != self.geometry.shape or kind != np.float32:
                raise InputError(f"{name} are {kind} {shape}, expected float32 {self.geometry.shape}")
        if self.quanta is not None and self.quanta.shape != self.geometry.shape:
            raise InputError(f"quanta are {self.quanta.shape}, the geometry says {self.geometry.shape}: other views?")
        _check_water(self.water_per_mm)

    def with_correction(self, integrals: Float32, correction: Applied, **changes: Any) -> "Projections":
        """The same projections after one more correction; quanta, where kept, learn what it changed."""
        if self.quanta is not None and "quanta" not in changes:
            changes["quanta"] = self.quanta.moved(integrals - self.integrals)
        return dataclasses.replace(self, integrals=integrals, history=(*self.history, correction), **changes)


def _calibration(values: Any, name: str, shape: tuple[int | None, ...]) -> Any:
    try:
        return frozen(values, np.float32, name, shape)
    except InputError as error:
        raise CalibrationError(f"{error}; another collimation or another scanner's calibration?") from error


def _hardening(table: Any, columns: int) -> Any:
    """The table, if every column climbs and bends downwards, as −ln of a mean over energies does."""
    checked = frozen(table, np.float64, "hardening table", (columns, None))
    if checked.shape[1] < 3:
        raise InputError(f"hardening table has {checked.shape[1]} nodes, expected at least 3")
    steps = np.diff(checked, axis=1)
    if steps.min() <= 0 or np.diff(steps, axis=1).max() > 1e-3 * steps.max():
        raise InputError(
            "hardening table must climb and bend downwards in every column: measured over corrected integrals,"
            f" smallest step {steps.min():.3g}, largest growth of a step {np.diff(steps, axis=1).max():.3g}"
        )
    return checked


def _check_water(water_per_mm: float | None) -> None:
    if water_per_mm is not None and not 1e-3 < water_per_mm < 1:
        raise InputError(f"water attenuation {water_per_mm} /mm: expected 0.001…1; given in 1/cm?")


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value
