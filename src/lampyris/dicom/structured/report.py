"""Assessment of an image → Measurement Report SR: every figure with how it was found, the verdict and its reasons.

Sources: PS3.16 TID 1500 (Measurement Report), 1501 (Measurement and Qualitative Evaluation Group), 300 (Measurement);
UCUM. Written with highdicom. Figures that DICOM has no code for bear one of our own scheme, 99LAMPYRIS.
"""

import math
from collections.abc import Sequence

from highdicom import sr
from pydicom.dataset import Dataset
from pydicom.sr.coding import Code
from pydicom.uid import ComprehensiveSRStorage

from lampyris.dicom.ids import uid
from lampyris.dicom.structured.document import OBSERVER_NAME, OBSERVER_UID, Kind, Occasion, dress
from lampyris.model import Assessment, Figure

REPORT = Kind(ComprehensiveSRStorage, "SR", 992, "Image assessment", "assessment")
SCHEME = "99LAMPYRIS"

_NAMED = {
    "ctdivol": Code("113830", "DCM", "Mean CTDIvol"),
    "dlp": Code("113838", "DCM", "DLP"),
    "ssde": Code("113930", "DCM", "Size Specific Dose Estimate"),
    "wed": Code("113980", "DCM", "Water Equivalent Diameter"),
    "effective_dose": Code("113839", "DCM", "Effective Dose"),
}
"""The figures of dose, PS3.16 annex D; they make a group of their own."""

_ATTENUATION = Code("112031", "DCM", "Attenuation Coefficient")
_STANDARD_DEVIATION = Code("386136009", "SCT", "Standard Deviation")
_CT_NUMBERS = {
    "noise": _STANDARD_DEVIATION,
    "nps_noise": _STANDARD_DEVIATION,
    "hu_surroundings": Code("373099004", "SCT", "Median"),
}
"""Figures in HU that DICOM can name: an attenuation and how it was derived."""

_UNITS = {
    "HU": Code("[hnsf'U]", "UCUM", "Hounsfield unit"),
    "1/mm": Code("/mm", "UCUM", "per millimeter"),
    "mm": Code("mm", "UCUM", "mm"),
    "cm": Code("cm", "UCUM", "cm"),
    "mGy": Code("mGy", "UCUM", "mGy"),
    "mGy·cm": Code("mGy.cm", "UCUM", "mGy.cm"),
    "mSv": Code("mSv", "UCUM", "mSv"),
    "": Code("1", "UCUM", "no units"),
}
_VERDICTS = {"pass": "Passes", "look": "A person must look before use", "stop": "Held back"}
_COMMENT = sr.CodedConcept("121106", "DCM", "Comment")


def report(occasion: Occasion, assessment: Assessment, images: Sequence[Dataset]) -> Dataset:
    """The measurement report of these images (`images.pointers`).

    A figure that is no number is not written as one; the gate's reasons, which are, tell of it.
    """
    context = sr.ObservationContext(observer_device_context=device(occasion.provenance.software_version))
    content = sr.MeasurementReport(
        observation_context=context,
        procedure_reported=Code("77477000", "SCT", "Computed Tomography"),
        imaging_measurements=_groups(occasion, assessment, images),
        title=Code("126000", "DCM", "Imaging Measurement Report"),
    )
    series, instance = occasion.uids(REPORT)
    made = sr.ComprehensiveSR(
        evidence=images,
        content=content[0],
        series_instance_uid=series,
        series_number=REPORT.SeriesNumber,
        sop_instance_uid=instance,
        instance_number=1,
        manufacturer="Lampyris",
        is_complete=True,
    )
    return dress(made, REPORT, occasion)


def device(software_version: str) -> sr.ObserverContext:
    """Lampyris as observer, TID 1004."""
    return sr.ObserverContext(
        observer_type=Code("121007", "DCM", "Device"),
        observer_identifying_attributes=sr.DeviceObserverIdentifyingAttributes(
            uid=OBSERVER_UID,
            name=OBSERVER_NAME,
            manufacturer_name="Lampyris",
            model_name=OBSERVER_NAME,
            serial_number=f"lampyris-{software_version}",
        ),
    )


def _groups(
    occasion: Occasion, assessment: Assessment, images: Sequence[Dataset]
) -> list[sr.MeasurementsAndQualitativeEvaluations]:
    """The image's quality with the verdict, and the dose where anything of it is known."""
    sources = [sr.SourceImageForMeasurementGroup(one.SOPClassUID, one.SOPInstanceUID) for one in images]
    finite = [one for one in assessment.figures if math.isfinite(one.value)]
    version = occasion.provenance.software_version
    series, _ = occasion.uids(REPORT)
    verdict = sr.QualitativeEvaluation(
        _own("quality_gate", "Quality gate"), _own(assessment.verdict, _VERDICTS[assessment.verdict])
    )
    groups = []
    for name, dose in (("image quality", False), ("dose", True)):
        figures = [one for one in finite if (one.name in _NAMED) is dose]
        if dose and not figures:
            continue
        group = sr.MeasurementsAndQualitativeEvaluations(
            tracking_identifier=sr.TrackingIdentifier(uid=uid(series, "tracking", name), identifier=f"Lampyris {name}"),
            measurements=[_measurement(one, version) for one in figures],
            qualitative_evaluations=None if dose else [verdict],
            source_images=sources,
        )
        if not dose:
            group[0].ContentSequence.extend(
                sr.TextContentItem(_COMMENT, reason, sr.RelationshipTypeValues.CONTAINS)
                for reason in assessment.reasons
            )
        groups.append(group)
    return groups


def _measurement(figure: Figure, version: str) -> sr.Measurement:
    name, derivation = _NAMED.get(figure.name), None
    if name is None and figure.unit == "HU" and figure.name in _CT_NUMBERS:
        name, derivation = _ATTENUATION, _CT_NUMBERS[figure.name]
    parameters = [f"origin: {figure.origin}", *(f"{key}: {value}" for key, value in figure.settings)]
    return sr.Measurement(
        name=name or _own(figure.name, figure.name.replace("_", " ")),
        value=figure.value,
        unit=_unit(figure.unit),
        derivation=derivation,
        algorithm_id=sr.AlgorithmIdentification(f"Lampyris {figure.name}", version, parameters=parameters),
    )


def _unit(unit: str) -> Code:
    """UCUM; what it does not know is a number of things, which it writes in braces."""
    return _UNITS.get(unit) or Code(f"{{{unit}}}", "UCUM", unit)


def _own(value: str, meaning: str) -> sr.CodedConcept:
    return sr.CodedConcept(value, SCHEME, meaning)
