"""An X-Ray Radiation Dose SR of any maker → the CT irradiations that it tells of.

Read by codes, never by meanings, wherever they stand below the acquisition: makers nest them unlike each other. What is
absent, empty or no number is None. Source: PS3.16 TID 10011, 10013, 10014.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass

from pydicom.dataset import Dataset
from pydicom.uid import XRayRadiationDoseSRStorage

from lampyris.dicom.header import items_of
from lampyris.dicom.source import text
from lampyris.model import FormatError

ENHANCED_SR, COMPREHENSIVE_SR = "1.2.840.10008.5.1.4.1.1.88.22", "1.2.840.10008.5.1.4.1.1.88.33"
"""Some scanners file their dose reports under these classes."""

_REPORT, _ACQUISITION, _EVENT, _CTDIVOL, _DLP, _SSDE, _SIZE = (
    "113701", "113819", "113769", "113830", "113838", "113930", "113980",
)  # fmt: skip
_PROTOCOL, _REGION, _TYPE, _STARTED, _LENGTH, _PHANTOM, _KVP, _SOURCE = (
    "125203", "123014", "113820", "111526", "113825", "113835", "113733", "113854",
)  # fmt: skip
_UNITS = {
    _CTDIVOL: {"mGy": 1.0, "Gy": 1000.0},
    _DLP: {"mGy.cm": 1.0, "mGycm": 1.0},
    _SSDE: {"mGy": 1.0, "Gy": 1000.0},
    _SIZE: {"mm": 1.0, "cm": 10.0},
    _LENGTH: {"mm": 1.0, "cm": 10.0},
    _KVP: {"kV": 1.0, "kVp": 1.0},
}
_PHANTOMS = {"113690": 160.0, "113691": 320.0}


@dataclass(frozen=True, slots=True)
class DoseEvent:
    """One CT irradiation as a dose report tells it: mGy, mGy·cm, mm, kV; texts are empty where nothing is told.

    `region` and `kind` are the meanings of codes as they stand in the report, `source` of where its figures come from.
    """

    uid: str
    protocol: str = ""
    region: str = ""
    kind: str = ""
    started: str = ""
    ctdivol_mgy: float | None = None
    phantom_mm: float | None = None
    dlp_mgy_cm: float | None = None
    ssde_mgy: float | None = None
    water_equivalent_mm: float | None = None
    scanned_mm: float | None = None
    tube_voltage_kv: float | None = None
    source: str = ""


def is_dose_report(document: Dataset) -> bool:
    """Whether this is a dose report of CT, by its class or, where that is a general one, by its title."""
    kind = text(document, "SOPClassUID")
    titled = _name(document) == _REPORT
    return titled and kind in (XRayRadiationDoseSRStorage, ENHANCED_SR, COMPREHENSIVE_SR)


def read_dose_report(document: Dataset) -> tuple[DoseEvent, ...]:
    """The irradiations of a dose report, in its order; none for one of projection radiography.

    Raises FormatError when it is no dose report or an acquisition has no Irradiation Event UID.
    """
    if not is_dose_report(document):
        raise FormatError("no X-Ray Radiation Dose Report: expected the title (113701, DCM)")
    source = next((_meaning(one) for one in _below(document) if _name(one) == _SOURCE), "")
    return tuple(_event(one, source) for one in _below(document) if _name(one) == _ACQUISITION)


def _event(acquisition: Dataset, source: str) -> DoseEvent:
    found: dict[str, Dataset] = {}
    for one in _below(acquisition):
        found.setdefault(_name(one), one)
    uid = text(found[_EVENT], "UID") if _EVENT in found else ""
    if not uid:
        raise FormatError("a CT Acquisition (113819, DCM) has no Irradiation Event UID (113769, DCM)")

    def told(name: str) -> float | None:
        return _value(found[name], _UNITS[name]) if name in found else None

    return DoseEvent(
        uid=uid,
        protocol=text(found[_PROTOCOL], "TextValue") if _PROTOCOL in found else "",
        region=_meaning(found[_REGION]) if _REGION in found else "",
        kind=_meaning(found[_TYPE]) if _TYPE in found else "",
        started=text(found[_STARTED], "DateTime") if _STARTED in found else "",
        ctdivol_mgy=told(_CTDIVOL),
        phantom_mm=_PHANTOMS.get(_code(found[_PHANTOM])) if _PHANTOM in found else None,
        dlp_mgy_cm=told(_DLP),
        ssde_mgy=told(_SSDE),
        water_equivalent_mm=told(_SIZE),
        scanned_mm=told(_LENGTH),
        tube_voltage_kv=told(_KVP),
        source=source,
    )


def _below(item: Dataset) -> Iterator[Dataset]:
    """Every content item below this one, depth first; an acquisition's own stay below it."""
    for one in items_of(item, "ContentSequence"):
        yield one
        if _name(item) == _ACQUISITION or _name(one) != _ACQUISITION:
            yield from _below(one)


def _value(item: Dataset, units: dict[str, float]) -> float | None:
    """The number in our unit; None where there is none, or in a unit that this figure is not told in."""
    measured = next(iter(items_of(item, "MeasuredValueSequence")), None)
    if measured is None:
        return None
    unit = next((text(one, "CodeValue") for one in items_of(measured, "MeasurementUnitsCodeSequence")), "")
    try:
        value = float(text(measured, "NumericValue"))
    except ValueError:
        return None
    scale = units.get(unit)
    return value * scale if scale is not None and math.isfinite(value) and value >= 0 else None


def _name(item: Dataset) -> str:
    return next((text(one, "CodeValue") for one in items_of(item, "ConceptNameCodeSequence")), "")


def _code(item: Dataset) -> str:
    return next((text(one, "CodeValue") for one in items_of(item, "ConceptCodeSequence")), "")


def _meaning(item: Dataset) -> str:
    return next((text(one, "CodeMeaning") for one in items_of(item, "ConceptCodeSequence")), "")
