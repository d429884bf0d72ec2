"""A folder of XCIST/CatSim output (.scan, .air, .offset with a .json or .cfg files) → RawScan.

XCIST's frame (x, y, z) is left-handed like that of DICOM-CT-PD; ours is (x, z, y) of it, so that nothing is mirrored
(the drawing in its wiki, seen from behind the gantry, differs by half a turn about the vertical). Formulas of
`Gantry_Helical` and `Detector_ThirdgenCurved`, checked against closed-form shadows; decision 0041. Counts are
electrons. Exposure is tube current × rotation time / views per turn; a rotation of 1 s, XCIST's own, where none is
stated.
"""

import ast
import json
import operator
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from lampyris.model import (
    Acquisition,
    Bowtie,
    Float32,
    Float64,
    FocalSpotShift,
    FormatError,
    Gantry,
    Geometry,
    InputError,
    Noise,
    RawScan,
    Spectrum,
)
from lampyris.physics.attenuation import linear_attenuation_per_mm
from lampyris.physics.detector import Detector, compound_gain, detected_weights
from lampyris.physics.tube import tube_spectrum
from lampyris.raw.lazy import LazyCounts

INHERENT_AL_MM = 4.5
"""What stands between a bare anode and XCIST's "_filt" spectra, as a water calibration gives it: behind 20…280 mm of
water XCIST's integrals at 120 kV are met to 0.2 %, though its cross sections of water are 0.6 % below NIST's."""
BOWTIE_CENTRE_AL_MM = {"large": 2.55, "medium": 0.94, "small": 1.10}
"""Aluminium of XCIST's bowties at their thinnest; the rest of their shape is taken from the air scan."""
DETECTOR = Detector("gos", 3.0)
"""3 mm of a scintillator that, like XCIST's Lumex, absorbs nearly all."""


@dataclass(frozen=True, slots=True)
class Setup:
    """XCIST's parameters under our names; lengths in mm, offsets in cells, angles in degrees, times in s."""

    sid_mm: float
    sdd_mm: float
    rows: int
    columns: int
    row_mm: float
    column_mm: float
    views: int
    views_per_turn: int
    tube_current_ma: float
    column_offset: float = 0.0
    row_offset: float = 0.0
    columns_per_module: int = 1
    curved: bool = True
    feed_mm: float = 0.0
    start_z_mm: float = 0.0
    start_angle_deg: float = 0.0
    first_view: int = 0
    direction: int = 1
    tilt_deg: float = 0.0
    wobble_mm: float = 0.0
    spot_offset_mm: tuple[float, float, float] = (0.0, 0.0, 0.0)
    turn_s: float | None = None
    electrons_per_kev: float = 17.0
    electronic_noise: float = 3500.0
    tube_voltage_kv: float | None = None
    filtration: tuple[tuple[str, float], ...] = (("Al", 3.0),)
    bowtie: str | None = "large"
    anode_angle_deg: float = 7.0

    @property
    def column_step_rad(self) -> float:
        """Angle from column to column of the curved detector; its modules are flat and touch each other."""
        width_mm = self.columns_per_module * self.column_mm
        return float(2 * np.arctan(width_mm / 2 / self.sdd_mm)) / self.columns_per_module

    @property
    def column_offset_rad(self) -> float:
        return float(np.arctan(self.column_offset * self.column_mm / self.sdd_mm))

    def geometry(self) -> Geometry:
        """β = startAngle ± 2π·i/viewsPerRotation, φ = −β; z = −(startZ + feed·turns) along our y."""
        turn = (self.first_view + np.arange(self.views)) / self.views_per_turn
        beta = np.deg2rad(self.start_angle_deg) + 2 * np.pi * turn * self.direction
        pitch_mm = self.sdd_mm * self.column_step_rad if self.curved else self.column_mm
        off = self.column_offset_rad / self.column_step_rad if self.curved else self.column_offset
        gantry = Gantry(
            self.sid_mm, self.sdd_mm, self.rows, self.columns, (self.row_mm, pitch_mm), self.curved,
            (self.rows - 1) / 2 - self.row_offset, (self.columns - 1) / 2 - off, -self.tilt_deg,
        )  # fmt: skip
        across = self.spot_offset_mm[0] + self.wobble_mm * ((self.first_view + np.arange(self.views)) % 2 * 2 - 1)
        outward = self.sid_mm + self.spot_offset_mm[1]
        radial = np.hypot(across, outward) - self.sid_mm
        shift = FocalSpotShift(np.arctan2(across, outward), np.full(self.views, self.spot_offset_mm[2]), radial)
        axial = -(self.start_z_mm + self.feed_mm * turn)
        return Geometry.circular(gantry, -np.rad2deg(beta), axial_mm=axial, shift=shift)

    def fan_angles_rad(self) -> Float64:
        """Fan angle of every column."""
        column = np.arange(self.columns) - (self.columns - 1) / 2
        if self.curved:
            return np.asarray(column * self.column_step_rad + self.column_offset_rad, np.float64)
        return np.asarray(np.arctan((column + self.column_offset) * self.column_mm / self.sdd_mm), np.float64)


def recognises(path: Path) -> bool:
    """A folder that holds a .scan beside a .json or .cfg, or such a .scan itself."""
    folder = path if path.is_dir() else path.parent
    scans = path.suffix == ".scan" if path.is_file() else any(folder.glob("*.scan"))
    return scans and any(each.suffix in (".json", ".cfg") for each in folder.iterdir())


def read(
    path: str | Path,
    *,
    tube_voltage_kv: float | None = None,
    filtration: tuple[tuple[str, float], ...] | None = None,
    bowtie: str | None = None,
    spectrum: Spectrum | None = None,
) -> RawScan:
    """The scan of a folder (or of one .scan in it).

    What the files do not say of the beam can be given: `tube_voltage_kv`; `filtration` beyond XCIST's inherent one, by
    default its own 3 mm Al; `bowtie` "large" (its own), "medium", "small" or "none"; or `spectrum` as a whole. Without
    a voltage the scan has neither spectrum nor noise gain. Raises FormatError for missing or truncated files and
    parameters, InputError for a folder with several scans.
    """
    place = Path(path)
    scan_file = _the_scan(place)
    setup = _setup(scan_file)
    shape = (setup.views, setup.rows, setup.columns)
    counts = _counts(scan_file, shape)
    air = _calibration(scan_file.with_suffix(".air"), shape)
    dark = _calibration(scan_file.with_suffix(".offset"), shape)
    voltage = setup.tube_voltage_kv if tube_voltage_kv is None else tube_voltage_kv
    if spectrum is None and voltage is not None:
        layers = setup.filtration if filtration is None else filtration
        spectrum = _spectrum(setup, voltage, layers, setup.bowtie if bowtie is None else bowtie, air - dark)
    seconds = 1.0 if setup.turn_s is None else setup.turn_s
    exposure = setup.tube_current_ma * seconds / setup.views_per_turn
    return RawScan(
        counts,
        setup.geometry(),
        np.full(setup.views, exposure),
        dark=dark,
        air=air,
        air_exposure_mas=exposure,
        spectrum=spectrum,
        noise=None if spectrum is None else _noise(setup, spectrum),
        acquisition=_acquisition(setup, spectrum),
    )


def _the_scan(place: Path) -> Path:
    scans = sorted(place.glob("*.scan")) if place.is_dir() else [place]
    if len(scans) != 1:
        raise InputError(f"{place.name} holds {len(scans)} .scan files ({[each.name for each in scans][:4]}): name one")
    return scans[0]


def _counts(path: Path, shape: tuple[int, int, int]) -> LazyCounts:
    expected = int(np.prod(shape)) * 4
    if path.stat().st_size != expected:
        raise FormatError(
            f"{path.name} has {path.stat().st_size} bytes, its parameters say {shape} float32 = {expected}:"
            " truncated, or parameters of another scan?"
        )
    stored = np.memmap(path, "<f4", "r", shape=shape)

    def load(views: Sequence[int] | range) -> Float32:
        chosen = slice(views.start, views.stop, views.step) if isinstance(views, range) else np.asarray(views)
        counts = np.array(stored[chosen])
        if not np.isfinite(counts).all():
            raise FormatError(f"{path.name} holds NaN or infinite electrons in views {views[0]}…{views[-1]}")
        return counts

    return LazyCounts(shape, np.float32, load)


def _calibration(path: Path, shape: tuple[int, int, int]) -> Float32:
    """Mean of the views of an .air or .offset file, (rows, columns)."""
    if not path.exists():
        raise FormatError(f"{path.name} is missing beside the scan: was it left behind?")
    size = path.stat().st_size
    if not size or size % (4 * shape[1] * shape[2]):
        raise FormatError(f"{path.name} has {size} bytes, no multiple of {shape[1:]} float32: truncated?")
    views: Float32 = np.fromfile(path, "<f4").reshape(-1, *shape[1:])
    return np.asarray(views.mean(0, dtype=np.float64), np.float32)


def _spectrum(
    setup: Setup, voltage_kv: float, filtration: tuple[tuple[str, float], ...], bowtie: str | None, air: Float32
) -> Spectrum:
    """The beam on the central ray before the bowtie, and the bowtie that the air scan shows."""
    total = (("Al", INHERENT_AL_MM), *filtration)
    beam = tube_spectrum(voltage_kv, filtration=total, anode_angle_deg=setup.anode_angle_deg, distance_mm=setup.sid_mm)
    beam = DETECTOR.watching(beam)
    if bowtie in (None, "none"):
        return beam
    name = str(bowtie).removesuffix(".txt")
    if name not in BOWTIE_CENTRE_AL_MM:
        raise InputError(f"bowtie {bowtie!r} is not one of {', '.join(BOWTIE_CENTRE_AL_MM)} or none")
    angle = setup.fan_angles_rad()
    profile = air.mean(0, dtype=np.float64)
    if not setup.curved:
        profile = profile / np.cos(angle) ** 3  # oblique and farther away, not filtered more
    if profile.min() <= 0:
        raise FormatError(f"air is not above offset in column {int(profile.argmin())}: no air scan?")
    weights = detected_weights(beam, np.zeros(1))[0]
    depth_mm = np.linspace(0.0, 120.0, 1201)
    signal = np.exp(-depth_mm[:, None] * linear_attenuation_per_mm("Al", beam.energy_kev)) @ weights
    centre = np.exp(np.interp(BOWTIE_CENTRE_AL_MM[name], depth_mm, np.log(signal)))
    thickness = np.interp(-np.log(centre * profile / profile.max()), -np.log(signal), depth_mm)
    ends = np.array([angle[0] - 0.01, *angle, angle[-1] + 0.01])  # room for a focal spot that wobbles
    shape = np.array([thickness[0], *thickness, thickness[-1]])
    return Spectrum(
        beam.energy_kev, beam.photons_per_mas_mm2, beam.response_kev, beam.tube_voltage_kv, beam.filtration,
        Bowtie(ends, ("aluminium",), shape[:, None]),
    )  # fmt: skip


def _noise(setup: Setup, spectrum: Spectrum) -> Noise:
    """Electrons per keV times the compound-Poisson gain in keV of the central ray in air."""
    gain = float(compound_gain(spectrum, detected_weights(spectrum, np.zeros(1))[0]))
    return Noise(setup.electrons_per_kev * gain, setup.electronic_noise)


def _acquisition(setup: Setup, spectrum: Spectrum | None) -> Acquisition:
    row_mm = setup.row_mm * setup.sid_mm / setup.sdd_mm
    helical = setup.feed_mm != 0
    return Acquisition(
        Manufacturer="XCIST",
        AcquisitionType="SPIRAL" if helical else "SEQUENCED",
        KVP=None if spectrum is None else spectrum.tube_voltage_kv,
        RevolutionTime=setup.turn_s,
        TableFeedPerRotation=abs(setup.feed_mm) if helical else None,
        SpiralPitchFactor=abs(setup.feed_mm) / (setup.rows * row_mm) if helical else None,
        SingleCollimationWidth=row_mm,
        TotalCollimationWidth=setup.rows * row_mm,
        GantryDetectorTilt=-setup.tilt_deg if setup.tilt_deg else None,
    )


_JSON = {
    "sid": "sid_mm", "sdd": "sdd_mm", "rows": "rows", "cols": "columns", "rowSize": "row_mm", "colSize": "column_mm",
    "viewCount": "views", "viewsPerRotation": "views_per_turn", "mA": "tube_current_ma", "colOffset": "column_offset",
    "rowOffset": "row_offset", "tableFeed_mm_per_rot": "feed_mm", "startZ": "start_z_mm",
    "startAngle": "start_angle_deg", "wobble": "wobble_mm", "eNoise_electrons": "electronic_noise",
    "gain_e_per_keV": "electrons_per_kev", "rotationTime": "turn_s", "tube_voltage_kv": "tube_voltage_kv",
    "filtration": "filtration", "bowtie": "bowtie", "tilt": "tilt_deg",
}  # fmt: skip
_CFG = {
    "scanner.sid": "sid_mm", "scanner.sdd": "sdd_mm", "scanner.detectorRowCount": "rows",
    "scanner.detectorColCount": "columns", "scanner.detectorRowSize": "row_mm", "scanner.detectorColSize": "column_mm",
    "scanner.detectorColOffset": "column_offset", "scanner.detectorRowOffset": "row_offset",
    "scanner.detectorColsPerMod": "columns_per_module", "scanner.detectionGain": "electrons_per_kev",
    "scanner.eNoise": "electronic_noise", "scanner.targetAngle": "anode_angle_deg",
    "protocol.viewCount": "views", "protocol.viewsPerRotation": "views_per_turn", "protocol.mA": "tube_current_ma",
    "protocol.startZ": "start_z_mm", "protocol.startAngle": "start_angle_deg", "protocol.startViewId": "first_view",
    "protocol.rotationDirection": "direction", "protocol.tiltAngle": "tilt_deg", "protocol.rotationTime": "turn_s",
    "protocol.wobbleDistance": "wobble_mm", "protocol.focalspotOffset": "spot_offset_mm",
}  # fmt: skip


def _setup(scan_file: Path) -> Setup:
    """The parameters beside a scan: its own .json, the only .json, or all .cfg files together."""
    folder = scan_file.parent
    beside = sorted(folder.glob("*.json"))
    own = [each for each in beside if each.stem == scan_file.stem] or beside
    try:
        if len(own) == 1:
            said = json.loads(own[0].read_text("utf-8"))
            values = {ours: said[theirs] for theirs, ours in _JSON.items() if theirs in said}
        elif configs := sorted(folder.glob("*.cfg")):
            values = _from_cfg(_evaluated("\n".join(each.read_text("utf-8") for each in configs)))
        else:
            raise FormatError(f"{len(own)} .json and no .cfg files beside {scan_file.name}: whose parameters are they?")
        return Setup(**{name: _typed(name, value) for name, value in values.items()})
    except (ValueError, TypeError, SyntaxError, RecursionError) as error:
        raise FormatError(
            f"the parameters beside {scan_file.name} make no scan ({error}): incomplete or damaged?"
        ) from error


def _from_cfg(said: dict[str, Any]) -> dict[str, Any]:
    values = {ours: said[theirs] for theirs, ours in _CFG.items() if theirs in said}
    shape = str(said.get("scanner.detectorCallback", "Detector_ThirdgenCurved"))
    if shape not in ("Detector_ThirdgenCurved", "Detector_ThirdgenFlat"):
        raise ValueError(f"detector {shape} is not understood")
    values["curved"] = shape == "Detector_ThirdgenCurved"
    if "protocol.stopViewId" in said:
        values["views"] = said["protocol.stopViewId"] - said.get("protocol.startViewId", 0) + 1
    values["feed_mm"] = said.get("protocol.tableSpeed", 0.0) * said.get("protocol.rotationTime", 1.0)
    if found := re.search(r"(?:_|kVp)(\d{2,3})_", str(said.get("protocol.spectrumFilename", ""))):
        values["tube_voltage_kv"] = float(found[1])
    layers = said.get("protocol.flatFilter")
    if layers is not None:
        values["filtration"] = list(zip(layers[::2], layers[1::2], strict=True))
    if "protocol.bowtie" in said:
        values["bowtie"] = said["protocol.bowtie"] or "none"
    return values


def _typed(name: str, value: Any) -> Any:
    """A parameter of the type that `Setup` wants; ValueError for what is no number and fractions of a view."""
    if name in ("curved", "bowtie"):
        return value if value is None or isinstance(value, bool) else str(value)
    if name == "filtration":
        return tuple((str(material), _finite(name, thickness)) for material, thickness in value)
    if name == "spot_offset_mm":
        x, y, z = (_finite(name, each) for each in value)
        return (x, y, z)
    if value is None and name in ("turn_s", "tube_voltage_kv"):
        return None
    number = _finite(name, value)
    if name not in _LEAST:
        return number
    if number != int(number) or number < _LEAST[name]:
        raise ValueError(f"{name} is {value}, expected a whole number ≥ {_LEAST[name]}")
    return int(number)


_LEAST = {
    "rows": 1, "columns": 1, "views": 1, "views_per_turn": 1, "columns_per_module": 1, "first_view": 0, "direction": -1,
}  # fmt: skip
"""Whole numbers, and the smallest that makes sense."""


def _finite(name: str, value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not np.isfinite(value):
        raise ValueError(f"{name} is {value!r}, expected a number")
    return float(value)


_ARITHMETIC = {ast.Add: operator.add, ast.Sub: operator.sub, ast.Mult: operator.mul, ast.Div: operator.truediv}


def _evaluated(text: str) -> dict[str, Any]:
    """`group.name = value` lines of .cfg files: literals, names set before, + − × ÷; nothing is executed."""
    found: dict[str, Any] = {}
    for statement in ast.parse(text).body:
        if isinstance(statement, ast.Assign) and len(statement.targets) == 1:
            found[ast.unparse(statement.targets[0])] = _value(statement.value, found)
    return found


def _value(node: ast.expr, names: dict[str, Any]) -> Any:
    match node:
        case ast.Constant(value):
            return value
        case ast.List(items) | ast.Tuple(items):
            return [_value(each, names) for each in items]
        case ast.UnaryOp(ast.USub(), operand):
            return -_value(operand, names)
        case ast.BinOp(left, action, right) if type(action) in _ARITHMETIC:
            return _ARITHMETIC[type(action)](_value(left, names), _value(right, names))
        case ast.Attribute() | ast.Name() if ast.unparse(node) in names:
            return names[ast.unparse(node)]
    return None  # a function or a path of XCIST's own; refused later if a number was needed
