"""Dose reports of other makers: what is told is read, wherever it stands; what is not is None."""

import pytest
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence

from lampyris.dicom import is_dose_report, read_dose_report
from lampyris.model import FormatError

RDSR = "1.2.840.10008.5.1.4.1.1.88.67"


def code(value, meaning="", scheme="DCM"):
    item = Dataset()
    item.CodeValue, item.CodingSchemeDesignator, item.CodeMeaning = value, scheme, meaning
    return Sequence([item])


def node(kind, value, *below, meaning="spelt anyhow"):
    made = Dataset()
    made.ValueType, made.ConceptNameCodeSequence = kind, code(value, meaning)
    if below:
        made.ContentSequence = Sequence(below)
    return made


def num(name, value, unit, *below):
    made = node("NUM", name, *below)
    made.MeasuredValueSequence = Sequence()
    if value is not None:
        measured = Dataset()
        measured.NumericValue = value
        measured.MeasurementUnitsCodeSequence = code(unit, unit, "UCUM")
        made.MeasuredValueSequence = Sequence([measured])
    return made


def coded(name, value, meaning, scheme="DCM"):
    made = node("CODE", name)
    made.ConceptCodeSequence = code(value, meaning, scheme)
    return made


def told(name, value):
    made = node("TEXT", name)
    made.TextValue = value
    return made


def event(uid):
    made = node("UIDREF", "113769")
    made.UID = uid
    return made


def report(*below, sop_class=RDSR, title="113701"):
    made = node("CONTAINER", title, *below)
    made.SOPClassUID = sop_class
    made.SpecificCharacterSet = "ISO_IR 192"
    return made


def helical():
    """A helix with a second source, an old-style region, and SSDE beside a dose check."""
    return node(
        "CONTAINER", "113819",
        told("125203", "胸部平扫"),
        coded("123014", "T-D3000", "Chest", "SRT"),
        coded("113820", "P5-08001", "Spiral Acquisition", "SRT"),
        event("1.2.3.4"),
        node(
            "CONTAINER", "113822",
            num("113825", "31.4", "cm"),
            node("CONTAINER", "113831", num("113733", "100", "kV")),
            node("CONTAINER", "113831", num("113733", "140", "kV")),
        ),
        node(
            "CONTAINER", "113829",
            num("113830", "8.91", "mGy"),
            coded("113835", "113691", "IEC Body Dosimetry Phantom"),
            num("113838", "279.8", "mGycm"),
            num("113930", "11.2", "mGy", num("113980", "26.8", "cm")),
            node("CONTAINER", "113900", num("113901", "1000", "mGy.cm")),
        ),
    )  # fmt: skip


def localizer():
    return node("CONTAINER", "113819", coded("113820", "113805", "Constant Angle Acquisition"), event("1.2.3.3"))


def test_a_foreign_report_is_read_by_its_codes():
    first, second = read_dose_report(report(localizer(), helical(), coded("113854", "113856", "Automated")))
    assert (first.uid, first.kind, first.ctdivol_mgy, first.dlp_mgy_cm) == (
        "1.2.3.3",
        "Constant Angle Acquisition",
        None,
        None,
    )
    assert (second.uid, second.protocol, second.region, second.kind) == (
        "1.2.3.4", "胸部平扫", "Chest", "Spiral Acquisition",
    )  # fmt: skip
    assert (second.ctdivol_mgy, second.dlp_mgy_cm, second.phantom_mm) == (8.91, 279.8, 320.0)
    assert (second.ssde_mgy, second.water_equivalent_mm) == (11.2, 268.0)
    assert (second.scanned_mm, second.tube_voltage_kv) == (pytest.approx(314.0), 100.0)
    assert first.source == second.source == "Automated"


@pytest.mark.parametrize(("value", "unit"), [(None, "mGy"), ("", "mGy"), ("-1", "mGy"), ("8.91", "mSv"), ("8.91", "")])
def test_a_number_that_cannot_be_trusted_is_not_taken(value, unit):
    acquisition = node("CONTAINER", "113819", event("1.2"), node("CONTAINER", "113829", num("113830", value, unit)))
    assert read_dose_report(report(acquisition))[0].ctdivol_mgy is None


def test_a_gray_is_a_thousand_milligray():
    acquisition = node("CONTAINER", "113819", event("1.2"), node("CONTAINER", "113829", num("113830", "0.0089", "Gy")))
    assert read_dose_report(report(acquisition))[0].ctdivol_mgy == pytest.approx(8.9)


def test_a_report_filed_under_a_general_class_is_known_by_its_title():
    assert is_dose_report(report(helical(), sop_class="1.2.840.10008.5.1.4.1.1.88.22"))
    assert not is_dose_report(report(helical(), title="126000"))
    assert not is_dose_report(report(helical(), sop_class="1.2.840.10008.5.1.4.1.1.2"))


def test_a_report_of_projection_radiography_has_no_ct():
    assert read_dose_report(report(node("CONTAINER", "113706", event("1.2.9")))) == ()


def test_an_acquisition_without_its_event_is_refused():
    with pytest.raises(FormatError, match="Irradiation Event UID"):
        read_dose_report(report(node("CONTAINER", "113819", told("125203", "x"))))
