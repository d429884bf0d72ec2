"""One irradiation → an X-Ray Radiation Dose SR: the dose that a CT scan gave, as every dose registry reads it.

Sources: PS3.3 A.35.8 (X-Ray Radiation Dose SR IOD); PS3.16 TID 10011 (CT Radiation Dose), 10012 (Accumulated Dose
Data), 10013 (CT Irradiation Event Data), 10014 (Scanning Length), 1004 and 1021 (devices); CID 10013, 10021, 10023,
10024, 4030, 4052. A number that is not known has no value and says so; a text, a time or a device is left out.
"""

from datetime import datetime, timedelta

from pydicom.dataset import Dataset
from pydicom.sequence import Sequence
from pydicom.uid import XRayRadiationDoseSRStorage

from lampyris.dicom.enhanced import region
from lampyris.dicom.header import CTDI_PHANTOM_CODES
from lampyris.dicom.structured.document import Kind, Occasion, dress, observer
from lampyris.dicom.structured.irradiation import Irradiation, Told
from lampyris.dicom.structured.tree import (
    MODIFIER,
    OBSERVATION,
    PROPERTIES,
    SCT,
    Code,
    coded,
    container,
    dcm,
    moment,
    number,
    reference,
    text,
)

DOSE = Kind(XRayRadiationDoseSRStorage, "SR", 991, "Radiation dose", "dose report")

ACQUISITION_TYPES: dict[str, Code] = {
    "SPIRAL": ("116152004", SCT, "Spiral Acquisition"),
    "SEQUENCED": dcm("113804", "Sequenced Acquisition"),
    "STATIONARY": dcm("113806", "Stationary Acquisition"),
    "CONSTANT_ANGLE": dcm("113805", "Constant Angle Acquisition"),
    "FREE": dcm("113807", "Free Acquisition"),
}
"""CT Acquisition Type, CID 10013, by Acquisition Type (0018,9302)."""

_COMMENT = dcm("121106", "Comment")
_METHOD: Code = ("370129005", SCT, "Measurement Method")
_DERIVATION = dcm("121401", "Derivation")
_ESTIMATED: Code = ("414135002", SCT, "Estimated")
_MM, _S, _MA, _KV = ("mm", "mm"), ("s", "s"), ("mA", "mA"), ("kV", "kV")
_MGY, _MGY_CM = ("mGy", "mGy"), ("mGy.cm", "mGy.cm")
_SOURCES = {
    "reported": dcm("113856", "Automated Data Collection"),
    "computed": dcm("113940", "System Calculated"),
    "estimated": dcm("113940", "System Calculated"),
}


def dose_report(occasion: Occasion, events: list[Irradiation]) -> Dataset:
    """The dose report of these irradiations, all of one study."""
    report = dress(Dataset(), DOSE, occasion)
    report.CompletionFlag, report.VerificationFlag = "COMPLETE", "UNVERIFIED"
    report.PerformedProcedureCodeSequence = Sequence()
    report.update(_tree(occasion, events))
    return report


def _tree(occasion: Occasion, events: list[Irradiation]) -> Dataset:
    intent = coded(("363703001", SCT, "Has Intent"), ("261004008", SCT, "Diagnostic Intent"), MODIFIER)
    study = reference(dcm("110180", "Study Instance UID"), occasion.study_uid, PROPERTIES)
    below = [
        coded(dcm("121058", "Procedure reported"), ("77477000", SCT, "CT"), MODIFIER, [intent]),
        *observer(occasion.provenance.software_version),
        *_times(events),
        coded(dcm("113705", "Scope of Accumulation"), dcm("113014", "Study"), OBSERVATION, [study]),
        _accumulated(events),
        *[_event(one, occasion) for one in events],
        *[coded(dcm("113854", "Source of Dose Information"), source) for source in _sources(events)],
    ]
    return container(dcm("113701", "X-Ray Radiation Dose Report"), below, template="10011")


def _sources(events: list[Irradiation]) -> list[Code]:
    """CID 10021: told by the scanner, or reckoned by us, as a virtual scanner does and where nothing is told."""
    origins = {"computed" if one.ctdivol is None else one.ctdivol.origin for one in events}
    return list(dict.fromkeys(_SOURCES[origin] for origin in sorted(origins, reverse=True)))


def _times(events: list[Irradiation]) -> list[Dataset]:
    """Start and end of irradiation, where the scanner told when it was and how long."""
    started = [one.acquisition.AcquisitionDateTime for one in events]
    known = [each for each in started if each is not None]
    if len(known) < len(events):
        return []
    made = [moment(dcm("113809", "Start of X-Ray Irradiation"), min(known), OBSERVATION)]
    ends = [end for one in events if (end := _end(one)) is not None]
    if len(ends) == len(events):
        made.append(moment(dcm("113810", "End of X-Ray Irradiation"), max(ends), OBSERVATION))
    return made


def _end(event: Irradiation) -> str | None:
    """Start and exposure time, in the start's own form."""
    start, lasted = event.acquisition.AcquisitionDateTime, event.exposure_time_s
    if start is None or lasted is None or len(start) < 14:
        return None
    zone = start[-5:] if start[-5] in "+-" else ""
    digits = start.removesuffix(zone) if zone else start
    form = "%Y%m%d%H%M%S.%f" if "." in digits else "%Y%m%d%H%M%S"
    return (datetime.strptime(digits, form) + timedelta(seconds=lasted)).strftime("%Y%m%d%H%M%S.%f") + zone


def _accumulated(events: list[Irradiation]) -> Dataset:
    """TID 10012; the total is known only when the DLP of every event is."""
    known = [one.dlp.value for one in events if one.dlp is not None]
    total = sum(known) if len(known) == len(events) else None
    below = [
        number(dcm("113812", "Total Number of Irradiation Events"), len(events), ("{events}", "events")),
        number(dcm("113813", "CT Dose Length Product Total"), total, _MGY_CM),
    ]
    return container(dcm("113811", "CT Accumulated Dose Data"), below)


def _event(event: Irradiation, occasion: Occasion) -> Dataset:
    """TID 10013."""
    acquisition = event.acquisition
    protocol = acquisition.ProtocolName
    below = [] if protocol is None else [text(dcm("125203", "Acquisition Protocol"), protocol)]
    below.append(coded(dcm("123014", "Target Region"), region(acquisition.BodyPartExamined)))
    kind = ACQUISITION_TYPES.get(acquisition.AcquisitionType or "")
    below += [] if kind is None else [coded(dcm("113820", "CT Acquisition Type"), kind)]
    below.append(reference(dcm("113769", "Irradiation Event UID"), event.uid))
    if acquisition.AcquisitionDateTime is not None:
        below.append(moment(dcm("111526", "DateTime Started"), acquisition.AcquisitionDateTime))
    below.append(_parameters(event))
    if acquisition.AcquisitionType != "CONSTANT_ANGLE":
        below.append(_dose(event))
    if event.exposure.ExposureModulationType is not None:
        below.append(text(dcm("113842", "X-Ray Modulation Type"), event.exposure.ExposureModulationType))
    below.append(text(_COMMENT, " ".join([*_origins(event), *_fraction(occasion)])))
    return container(dcm("113819", "CT Acquisition"), below + _scanner(event))


def _parameters(event: Irradiation) -> Dataset:
    """How the scanner was set, and its one tube."""
    acquisition, exposure = event.acquisition, event.exposure
    spiral, collimation = acquisition.AcquisitionType == "SPIRAL", acquisition.TotalCollimationWidth
    below = [
        number(dcm("113824", "Exposure Time"), event.exposure_time_s, _S),
        number(dcm("113825", "Scanning Length"), event.scanned_mm, _MM),
    ]
    if spiral:
        exposed = None if event.scanned_mm is None or collimation is None else event.scanned_mm + collimation
        below.append(number(dcm("113899", "Exposed Range"), exposed, _MM))
    below += [
        number(dcm("113826", "Nominal Single Collimation Width"), acquisition.SingleCollimationWidth, _MM),
        number(dcm("113827", "Nominal Total Collimation Width"), collimation, _MM),
    ]
    if spiral or acquisition.SpiralPitchFactor is not None:
        below.append(number(dcm("113828", "Pitch Factor"), acquisition.SpiralPitchFactor, ("{ratio}", "ratio")))
    tube = [
        text(dcm("113832", "Identification of the X-Ray Source"), "1"),
        number(dcm("113733", "KVP"), acquisition.KVP, _KV),
        number(dcm("113833", "Maximum X-Ray Tube Current"), event.largest_current_ma, _MA),
        number(dcm("113734", "X-Ray Tube Current"), exposure.XRayTubeCurrentInmA, _MA),
        number(dcm("113834", "Exposure Time per Rotation"), acquisition.RevolutionTime, _S),
    ]
    below += [
        number(dcm("113823", "Number of X-Ray Sources"), 1, ("{X-Ray sources}", "X-Ray sources")),
        container(dcm("113831", "CT X-Ray Source Parameters"), tube),
    ]
    return container(dcm("113822", "CT Acquisition Parameters"), below)


def _dose(event: Irradiation) -> Dataset:
    """CTDIvol and its phantom, DLP, size and size-specific dose estimate."""
    phantom = CTDI_PHANTOM_CODES.get(event.acquisition.CTDIPhantomDiameter or 0.0)
    below = [_figure(dcm("113830", "Mean CTDIvol"), event.ctdivol, _MGY)]
    below += [] if phantom is None else [coded(dcm("113835", "CTDIw Phantom Type"), dcm(*phantom))]
    below.append(_figure(dcm("113838", "DLP"), event.dlp, _MGY_CM))
    if event.ssde is not None:
        how = [coded(_METHOD, dcm("113989", "Arithmetic Average of SSDE(z)"), MODIFIER)]
        below.append(number(dcm("113930", "Size Specific Dose Estimate"), event.ssde.value, _MGY, how))
    if event.water_equivalent_mm is not None:
        across = dcm("113982", "Water Equivalent Diameter Integrated Across Scan Range")
        how = [coded(_METHOD, across, MODIFIER)]
        below.append(number(dcm("113980", "Water Equivalent Diameter"), event.water_equivalent_mm.value, _MM, how))
    return container(dcm("113829", "CT Dose"), below)


def _figure(name: Code, told: Told | None, unit: tuple[str, str]) -> Dataset:
    estimated = told is not None and told.origin == "estimated"
    how = [coded(_DERIVATION, _ESTIMATED, MODIFIER)] if estimated else []
    return number(name, None if told is None else told.value, unit, how)


def _origins(event: Irradiation) -> list[str]:
    """One sentence a figure: who says so, and how."""
    named = (
        ("Mean CTDIvol", event.ctdivol),
        ("DLP", event.dlp),
        ("SSDE", event.ssde),
        ("Water equivalent diameter", event.water_equivalent_mm),
    )
    return [
        f"{name}: not known." if told is None else f"{name}: {told.origin}{f' ({told.how})' if told.how else ''}."
        for name, told in named
    ]


def _fraction(occasion: Occasion) -> list[str]:
    sentence = occasion.provenance.dose_level()
    return [] if sentence is None else [sentence]


def _scanner(event: Irradiation) -> list[Dataset]:
    """The device that irradiated, TID 1021; nothing where it is not known."""
    acquisition = event.acquisition
    if acquisition.Manufacturer is None:
        return []
    named = (
        ("113877", "Device Name", acquisition.StationName),
        ("113878", "Device Manufacturer", acquisition.Manufacturer),
        ("113879", "Device Model Name", acquisition.ManufacturerModelName),
        ("113880", "Device Serial Number", acquisition.DeviceSerialNumber),
    )
    about = [text(dcm(value, meaning), said, PROPERTIES) for value, meaning, said in named if said is not None]
    return [coded(dcm("113876", "Device Role in Procedure"), dcm("113859", "Irradiating Device"), below=about)]
