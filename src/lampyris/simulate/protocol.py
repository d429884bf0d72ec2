"""A protocol, a scanner and where the subject lies → the geometry and the exposure of every view."""

from dataclasses import dataclass
from typing import Literal, TypeAlias, get_args

import numpy as np

from lampyris.model import Acquisition, FocalSpotShift, Geometry, InputError
from lampyris.simulate.scanners import Scanner

Kind: TypeAlias = Literal["helical", "axial"]
Modulation: TypeAlias = Literal["none", "angular", "z", "both"]
FlyingSpot: TypeAlias = Literal["none", "z", "inplane", "both"]

MARGIN_TURNS = 0.1
"""Beyond the last view that sees the range, so that interpolation between views has neighbours."""


MANUFACTURER = "Lampyris"
"""What a virtual scan names as its maker: its dose was computed, not reported by a scanner."""


@dataclass(frozen=True, slots=True)
class Protocol:
    """What the radiographer chooses.

    `mas` per turn (tube current × rotation time); `pitch` table feed per turn over collimation, negative moves the
    source towards −y. `first_mm`, `last_mm` bound the slices that are to be reconstructed, None = the whole subject: a
    helix begins and ends where its rays no longer see them. An "axial" scan is one turn (or `arc_deg` of it)
    in the middle of the range, which must fit the collimation if it is given. `bowtie` None = the scanner's usual one.
    `rays_per_cell` > 1 spreads rays over the focal spot and the cell, at as many times the cost; 1 is a point source
    and a point detector. `scatter` adds scattered radiation, `noise` False leaves out all randomness but the cells'
    fixed spread. `truncated_ok` lets a Volume be scanned whose flanks were cut by its field of view.
    """

    kind: Kind = "helical"
    tube_voltage_kv: float = 120.0
    mas: float = 100.0
    pitch: float = 1.0
    first_mm: float | None = None
    last_mm: float | None = None
    rotation_time_s: float | None = None
    start_angle_deg: float = 0.0
    arc_deg: float = 360.0
    modulation: Modulation = "none"
    flying_focal_spot: FlyingSpot = "none"
    bowtie: str | None = None
    rays_per_cell: int = 1
    scatter: bool = False
    noise: bool = True
    truncated_ok: bool = False

    def __post_init__(self) -> None:
        chosen = (("kind", Kind), ("modulation", Modulation), ("flying_focal_spot", FlyingSpot))
        for name, allowed in chosen:
            if getattr(self, name) not in get_args(allowed):
                raise InputError(f"{name} {getattr(self, name)!r}: known are {', '.join(get_args(allowed))}")
        if not self.mas > 0 or not 0.05 <= abs(self.pitch) <= 2 or self.rays_per_cell < 1:
            raise InputError(
                f"protocol of {self.mas} mAs, pitch {self.pitch}, {self.rays_per_cell} rays per cell: expected mAs > 0,"
                " pitch 0.05…2, at least one ray"
            )
        if not 0 < self.arc_deg <= 3600:
            raise InputError(f"arc of {self.arc_deg}°: expected 0…3600")
        if self.first_mm is not None and self.last_mm is not None and self.first_mm > self.last_mm:
            raise InputError(f"range {self.first_mm}…{self.last_mm} mm runs backwards: the pitch gives the direction")


@dataclass(frozen=True, slots=True, eq=False)
class Plan:
    """The views of a scan, and how often a flying focal spot repeats."""

    geometry: Geometry
    spots: int
    rotation_time_s: float
    table_feed_mm: float | None


def plan(scanner: Scanner, protocol: Protocol, extent_mm: tuple[float, float]) -> Plan:
    """Lay out the views over `extent_mm` (first, last y of the subject) or the protocol's own range."""
    rotation = scanner.rotation_time_s if protocol.rotation_time_s is None else protocol.rotation_time_s
    if rotation not in scanner.rotation_times_s:
        raise InputError(f"{scanner.name} does not turn in {rotation} s; it does in {scanner.rotation_times_s}")
    first = extent_mm[0] if protocol.first_mm is None else protocol.first_mm
    last = extent_mm[1] if protocol.last_mm is None else protocol.last_mm
    gantry, per_turn = scanner.gantry, scanner.views_per_turn
    if protocol.kind == "axial":
        given = protocol.first_mm is not None and protocol.last_mm is not None
        if given and last - first > gantry.collimation_mm:
            raise InputError(
                f"an axial turn covers {gantry.collimation_mm:.1f} mm, the range {last - first:.1f} mm: scan helically"
            )
        views = round(per_turn * protocol.arc_deg / 360)
        angles = protocol.start_angle_deg + 360.0 * np.arange(views) / per_turn
        spots, shift = flying_spot(scanner, protocol.flying_focal_spot, views)
        geometry = Geometry.circular(gantry, angles, axial_mm=(first + last) / 2, shift=shift)
        return Plan(geometry, spots, rotation, None)
    feed = protocol.pitch * gantry.collimation_mm
    sees = gantry.collimation_mm / 2 * (1 + scanner.scan_field_mm / 2 / gantry.source_to_isocentre_mm)
    margin = sees + MARGIN_TURNS * abs(feed)
    views = int(np.ceil((last - first + 2 * margin) / abs(feed) * per_turn)) + 1
    spots, shift = flying_spot(scanner, protocol.flying_focal_spot, views)
    start = first - margin if feed > 0 else last + margin
    geometry = Geometry.helical(
        gantry, views=views, views_per_turn=per_turn, table_feed_mm=feed, start_angle_deg=protocol.start_angle_deg,
        start_axial_mm=start, shift=shift,
    )  # fmt: skip
    return Plan(geometry, spots, rotation, feed)


def flying_spot(scanner: Scanner, mode: FlyingSpot, views: int) -> tuple[int, FocalSpotShift | None]:
    """Number of spots and their shifts: neighbouring spots interleave their rays at the isocentre.

    With the detector fixed, ±a at the source moves a ray at the isocentre by ±a·(SDD − SID)/SDD; half a cell between
    the spots there gives a = cell·SID/(4·(SDD − SID)). Kachelrieß et al. (2006), Med. Phys. 33:2435.
    """
    if mode == "none":
        return 1, None
    sid, sdd = scanner.source_to_isocentre_mm, scanner.source_to_detector_mm
    axial, across = (cell * sid / (4 * (sdd - sid)) for cell in scanner.cell_mm)
    turn = across / sid
    patterns = {"z": ([0.0, 0.0], [-1.0, 1.0]), "inplane": ([-1.0, 1.0], [0.0, 0.0]),
                "both": ([-1.0, 1.0, -1.0, 1.0], [-1.0, -1.0, 1.0, 1.0])}  # fmt: skip
    angular, along = (np.array(each) for each in patterns[mode])
    return len(angular), FocalSpotShift.alternating(views, tuple(turn * angular), tuple(axial * along))


def acquisition(scanner: Scanner, protocol: Protocol, planned: Plan, dose: float) -> Acquisition:
    """The facts of the scan for DICOM. CTDIvol comes from the preset's table, for the phantom that fits the bowtie."""
    gantry, helical = scanner.gantry, protocol.kind == "helical"
    pitch = abs(protocol.pitch) if helical else 1.0
    bowtie = scanner.bowtie if protocol.bowtie is None else protocol.bowtie
    phantom_cm = 16 if bowtie in ("small", "head") else 32
    turns = 1.0 if helical else protocol.arc_deg / 360
    return Acquisition(
        Manufacturer=MANUFACTURER,
        ManufacturerModelName=scanner.model,
        AcquisitionType="SPIRAL" if helical else "SEQUENCED",
        KVP=protocol.tube_voltage_kv,
        RevolutionTime=planned.rotation_time_s,
        SpiralPitchFactor=pitch if helical else None,
        TableFeedPerRotation=None if planned.table_feed_mm is None else abs(planned.table_feed_mm),
        SingleCollimationWidth=gantry.row_at_isocentre_mm,
        TotalCollimationWidth=gantry.collimation_mm,
        DataCollectionDiameter=scanner.scan_field_mm,
        GantryDetectorTilt=0.0,
        FilterType="FLAT" if bowtie == "none" else "WEDGE",
        CTDIvol=scanner.ctdivol_mgy(protocol.tube_voltage_kv, protocol.mas * dose * turns, pitch, phantom_cm),
        CTDIPhantomDiameter=10.0 * phantom_cm,
        dose_fraction=dose,
    )
