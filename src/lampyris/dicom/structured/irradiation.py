"""Projections and their assessment → what is known of one irradiation, each figure with who says so."""

from dataclasses import dataclass, field
from typing import Literal, TypeAlias

from lampyris.dicom.ids import uid
from lampyris.dicom.provenance import Exposure, Provenance, turns
from lampyris.model import Acquisition, Assessment, Origin, Projections

Source: TypeAlias = Literal["reported", "computed"]
"""CTDIvol: what the scanner told, or what a virtual one reckoned from its table."""

_MM = {"mm": 1.0, "cm": 10.0}


@dataclass(frozen=True, slots=True)
class Told:
    """One figure and where it comes from, in plain language."""

    value: float
    origin: Origin
    how: str = ""


@dataclass(frozen=True, slots=True)
class Irradiation:
    """One irradiation event, in mm, s, mA, mGy and mGy·cm; None = not known, and left out or declared unknown.

    `uid` is the same whenever the same scan is reconstructed, with whatever recipe. CTDIvol is that of the exposure as
    it was made: a scan at a tenth of its protocol's dose has a tenth of its CTDIvol. `factors` names the report whose
    size factors made `ssde`.
    """

    uid: str
    acquisition: Acquisition = field(default_factory=Acquisition)
    exposure: Exposure = field(default_factory=Exposure)
    exposure_time_s: float | None = None
    largest_current_ma: float | None = None
    scanned_mm: float | None = None
    ctdivol: Told | None = None
    dlp: Told | None = None
    ssde: Told | None = None
    water_equivalent_mm: Told | None = None

    @staticmethod
    def of(projections: Projections, provenance: Provenance, assessment: Assessment, ctdivol: Source) -> "Irradiation":
        """What projections and assessment say; CTDIvol is the scan's own, whether or not a body was found in it."""
        acquisition, exposure = projections.acquisition, provenance.exposure
        rounds, seconds = turns(projections), acquisition.RevolutionTime
        views = projections.exposure_mas
        largest = None
        if exposure.XRayTubeCurrentInmA is not None and views is not None:
            largest = exposure.XRayTubeCurrentInmA * float(views.max() / views.mean())
        return Irradiation(
            uid=uid(projections.scan_id, "irradiation event"),
            acquisition=acquisition,
            exposure=exposure,
            exposure_time_s=rounds * seconds if rounds and seconds else None,
            largest_current_ma=largest,
            scanned_mm=projections.geometry.scanned_mm(acquisition.TotalCollimationWidth),
            ctdivol=None if acquisition.CTDIvol is None else Told(acquisition.CTDIvol, ctdivol),
            dlp=_told(assessment, "dlp"),
            ssde=_told(assessment, "ssde"),
            water_equivalent_mm=_told(assessment, "wed"),
        )


def _told(assessment: Assessment, name: str) -> Told | None:
    found = next((one for one in assessment.figures if one.name == name), None)
    if found is None:
        return None
    how = ", ".join(f"{key.replace('_', ' ')} {value}" for key, value in found.settings)
    return Told(found.value * _MM.get(found.unit, 1.0), found.origin, how)
