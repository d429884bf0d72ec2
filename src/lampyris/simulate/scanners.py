"""Name of a preset → a virtual scanner: gantry, tube, filters, detector, output and scatter, from presets/*.json."""

import json
from dataclasses import dataclass, field, fields
from importlib import resources
from typing import Any

from lampyris.model import FormatError, Gantry, InputError
from lampyris.physics.detector import Detector


@dataclass(frozen=True, slots=True)
class Scatter:
    """Forward scatter: `strength` × a blur, `sigma_mm` at the isocentre, of air·p·exp(−p), p = −ln(primary/air)."""

    strength: float
    sigma_mm: float


@dataclass(frozen=True, slots=True)
class Scanner:
    """Everything that is fixed when a protocol is chosen.

    `quarter_offset_columns` is how far the central ray meets the detector beyond its middle. `focal_spot_mm` (in plane,
    along the axis) as seen from the isocentre. `cell_spread` is the relative standard deviation of the cells'
    sensitivity; `air_views` how many views are averaged into the air and dark scans. `ctdivol_mgy_per_100mas`:
    by phantom diameter in cm and tube voltage, per 100 mAs and turn at pitch 1. `bad_cells` (row, column) are dead.
    """

    name: str
    model: str
    source_to_isocentre_mm: float
    source_to_detector_mm: float
    rows: int
    columns: int
    cell_mm: tuple[float, float]
    curved: bool
    quarter_offset_columns: float
    views_per_turn: int
    rotation_times_s: tuple[float, ...]
    rotation_time_s: float
    anode_angle_deg: float
    filtration: tuple[tuple[str, float], ...]
    bowties: tuple[str, ...]
    bowtie: str
    tube_voltages_kv: tuple[float, ...]
    scan_field_mm: float
    focal_spot_mm: tuple[float, float]
    detector: Detector
    dark_counts: float
    cell_spread: float
    adc_bits: int
    air_views: int
    ctdivol_mgy_per_100mas: dict[str, dict[str, float]]
    scatter: Scatter
    source: str
    bad_cells: tuple[tuple[int, int], ...] = field(default=())

    def __post_init__(self) -> None:
        outside = [cell for cell in self.bad_cells if not (0 <= cell[0] < self.rows and 0 <= cell[1] < self.columns)]
        if outside:
            raise InputError(f"bad cells {outside} lie outside the {self.rows} × {self.columns} detector")
        if self.dark_counts < 8 * self.detector.electronic_counts:
            raise InputError(
                f"dark offset {self.dark_counts} counts with electronic noise {self.detector.electronic_counts}:"
                " expected at least eight times the noise, or counts would be cut at zero"
            )

    @property
    def gantry(self) -> Gantry:
        """The fixed dimensions, central ray at the middle row."""
        middle = (self.columns - 1) / 2 + self.quarter_offset_columns
        return Gantry(
            self.source_to_isocentre_mm, self.source_to_detector_mm, self.rows, self.columns, self.cell_mm, self.curved,
            None, middle,
        )  # fmt: skip

    def ctdivol_mgy(self, tube_voltage_kv: float, mas: float, pitch: float, phantom_cm: int) -> float | None:
        """CTDIvol = table(phantom, kV) · mAs/100 / pitch in mGy, mAs per turn; None for a voltage not in the table."""
        per_100 = self.ctdivol_mgy_per_100mas[str(phantom_cm)].get(f"{tube_voltage_kv:g}")
        return None if per_100 is None else per_100 * mas / 100 / pitch


def scanner_names() -> tuple[str, ...]:
    """Names of the presets."""
    found = (entry.name for entry in resources.files("lampyris.simulate").joinpath("presets").iterdir())
    return tuple(sorted(name.removesuffix(".json") for name in found if name.endswith(".json")))


def scanner(name: str = "mdct64") -> Scanner:
    """The preset of that name. Raises InputError with the list of names for another."""
    if name not in scanner_names():
        raise InputError(f"scanner {name!r} is not known; known are {', '.join(scanner_names())}")
    text = resources.files("lampyris.simulate").joinpath("presets", f"{name}.json").read_text(encoding="utf-8")
    return from_json(text)


def from_json(text: str) -> Scanner:
    """A scanner from the text of a preset. Raises FormatError naming unknown and missing entries."""
    try:
        data = json.loads(text)
        known = {one.name for one in fields(Scanner)}
        if unknown := set(data) - known:
            raise FormatError(f"scanner preset has unknown entries {sorted(unknown)}; known are {sorted(known)}")
        data["detector"] = Detector(**{name: _frozen(value) for name, value in data["detector"].items()})
        data["scatter"] = Scatter(**data["scatter"])
        return Scanner(**{name: _frozen(value) for name, value in data.items()})
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise FormatError(f"scanner preset cannot be read: {type(error).__name__}: {error}") from error


def _frozen(value: Any) -> Any:
    return tuple(_frozen(each) for each in value) if isinstance(value, list) else value
