"""Dose report, assessment and key images: what stands in them, what does not, and that they are made alike twice."""

import dataclasses

import numpy as np
import pydicom
import pytest
from dicom_exposure import FIGURES, assessed, exposure
from dicom_of_others import SECRET

from lampyris.dicom import (
    Irradiation,
    KeySlice,
    Occasion,
    Provenance,
    choose,
    read_dose_report,
    read_series,
    upright,
    write_documents,
    write_map,
    write_series,
)
from lampyris.dicom.provenance import MAPS
from lampyris.model import Acquisition, Figure, FormatError, Grid, InputError, Study, Volume


@pytest.fixture
def making(recipe, patient, gantry_volume, tmp_path, now):
    """Write a series and its documents from an acquisition; returns the documents by name."""

    def make(acquisition: Acquisition, *, folder="made", study=patient, kind="ct", assessment=None, **how):
        projections, found = exposure(acquisition, **how), assessment or assessed()
        provenance = Provenance.of(projections, recipe, found)
        image = gantry_volume.place("HFS", (0.0, 0.0, 0.0))
        files = write_series(image, tmp_path / folder, study=study, provenance=provenance, now=now, kind=kind)
        written = write_documents(
            tmp_path / folder / "structured",
            Occasion(study, provenance, now),
            irradiation=Irradiation.of(projections, provenance, found, "reported"),
            assessment=found,
            images=files,
            keys=choose(upright(image), None),
        )
        return {path.stem: pydicom.dcmread(path) for path in written}

    return make


@pytest.fixture
def slow(acquisition) -> Acquisition:
    """The acquisition of the other tests with the collimation of this exposure."""
    return dataclasses.replace(acquisition, SpiralPitchFactor=1.2, TotalCollimationWidth=20.0, CTDIvol=0.73)


def numbers(item, found=None):
    """Every NUM below an item by its code: value or None."""
    found = {} if found is None else found
    for one in item.get("ContentSequence", []):
        if one.ValueType == "NUM":
            measured = one.MeasuredValueSequence
            value = float(measured[0].NumericValue) if measured else None
            found[one.ConceptNameCodeSequence[0].CodeValue] = value
        numbers(one, found)
    return found


def texts(item):
    return [one.TextValue for one in item.get("ContentSequence", []) if one.ValueType == "TEXT"] + [
        told for one in item.get("ContentSequence", []) for told in texts(one)
    ]


def test_the_dose_report_tells_the_exposure_as_it_can_be_reckoned(making, slow):
    """2.5 turns of 0.5 s with 24 mm of feed: 1.25 s, 60 mm; 14.4 mAs a turn are 28.8 mA, a fifth more at most."""
    told = numbers(making(slow)["dose"])
    assert told["113824"] == pytest.approx(1.25)
    assert told["113825"] == pytest.approx(60.0)
    assert told["113899"] == pytest.approx(80.0)
    assert told["113734"] == pytest.approx(28.8)
    assert told["113833"] == pytest.approx(34.56)
    assert told["113834"] == 0.5
    assert (told["113826"], told["113827"], told["113828"], told["113733"]) == (0.625, 20.0, 1.2, 120.0)
    assert (told["113830"], told["113838"], told["113813"]) == (0.73, 4.38, 4.38)
    assert (told["113930"], told["113980"]) == (0.91, 295.0)


def test_each_figure_of_dose_says_where_it_comes_from(making, slow):
    said = " ".join(texts(making(slow)["dose"]))
    assert "Mean CTDIvol: reported." in said
    assert "DLP: computed (over ranging included, scanned cm 6.0)." in said
    assert "SSDE: estimated (factors TG-204/220)." in said
    assert "stands for 10% of the protocol's dose" in said


def test_what_is_not_known_has_no_value_in_the_dose_report(making):
    """A scan of which nothing is told: no number but that of events and tubes, no time, no device, no dose."""
    dose = making(Acquisition(), assessment=assessed(figures=FIGURES[:1]), known=False)["dose"]
    known = {code: value for code, value in numbers(dose).items() if value is not None}
    assert known == {"113812": 1.0, "113823": 1.0, "113825": 60.0}
    unknown = next(one for one in walk(dose) if one.ConceptNameCodeSequence[0].CodeValue == "113830")
    assert unknown.NumericValueQualifierCodeSequence[0].CodeValue == "114010"
    codes = {one.ConceptNameCodeSequence[0].CodeValue for one in walk(dose)}
    assert not codes & {"113809", "113810", "111526", "113820", "113835", "113930", "113980", "113878"}
    assert "Mean CTDIvol: not known." in " ".join(texts(dose))


def walk(item):
    for one in item.get("ContentSequence", []):
        yield one
        yield from walk(one)


def test_a_table_that_stands_still_scans_its_collimation(making, slow):
    axial = dataclasses.replace(slow, AcquisitionType="SEQUENCED", SpiralPitchFactor=None)
    told = numbers(making(axial, moves=False)["dose"])
    assert told["113825"] == 20.0
    assert "113899" not in told
    assert "113828" not in told


def test_a_reported_dose_is_of_the_scan_even_where_no_body_was_found(making, slow):
    told = numbers(making(slow, assessment=assessed(figures=FIGURES[:2]))["dose"])
    assert told["113830"] == 0.73
    assert told["113838"] is None


def test_documents_of_the_same_scan_are_the_same_bytes(making, slow, tmp_path):
    making(slow, folder="a")
    making(slow, folder="b")
    for name in ("dose", "assessment", "key_images"):
        one, two = ((tmp_path / folder / "structured" / f"{name}.dcm").read_bytes() for folder in "ab")
        assert one == two


def test_documents_belong_to_the_study_and_event_of_their_images(making, slow, tmp_path):
    made = making(slow)
    image = pydicom.dcmread(tmp_path / "made" / "CT_00001.dcm", stop_before_pixels=True)
    assert {document.StudyInstanceUID for document in made.values()} == {image.StudyInstanceUID}
    assert str(image.PatientName) == SECRET
    assert {str(document.PatientName) for document in made.values()} == {SECRET}
    assert len({document.SeriesInstanceUID for document in made.values()} | {image.SeriesInstanceUID}) == 4
    assert read_dose_report(made["dose"])[0].uid == image.IrradiationEventUID
    assert "Research software" in made["dose"].ContributingEquipmentSequence[0].ContributionDescription


def test_the_assessment_points_at_every_image_and_tells_every_figure(making, slow, tmp_path):
    report = making(slow)["assessment"]
    images = {pydicom.dcmread(file).SOPInstanceUID for file in (tmp_path / "made").glob("CT_*.dcm")}
    shown = {one.ReferencedSOPSequence[0].ReferencedSOPInstanceUID for one in walk(report) if one.ValueType == "IMAGE"}
    assert shown == images
    evidence = report.CurrentRequestedProcedureEvidenceSequence[0].ReferencedSeriesSequence[0].ReferencedSOPSequence
    assert {one.ReferencedSOPInstanceUID for one in evidence} == images
    values = [float(one.MeasuredValueSequence[0].NumericValue) for one in walk(report) if one.ValueType == "NUM"]
    assert sorted(values) == sorted(one.value for one in FIGURES)
    verdict = next(one for one in walk(report) if one.ConceptNameCodeSequence[0].get("CodeValue") == "quality_gate")
    assert verdict.ConceptCodeSequence[0].CodeValue == "look"
    assert "look: noise is 31.25 HU, allowed −∞ … 20" in texts(report)


def test_a_figure_that_is_no_number_is_told_by_its_reason_alone(making, slow):
    broken = dataclasses.replace(
        assessed(figures=(*FIGURES, Figure("nps_peak", float("nan"), "1/mm"))), reasons=("stop: nps_peak is nan",)
    )
    report = making(slow, assessment=broken)["assessment"]
    assert sum(one.ValueType == "NUM" for one in walk(report)) == len(FIGURES)
    assert "stop: nps_peak is nan" in texts(report)


def test_key_images_are_the_quarters_the_noisiest_and_the_faulty():
    """Thirteen slices, a body in 4 … 12 with one value in slice 10: quarters at 6, 8 and 10.

    The map has three slices, at the places of 1, 5 and 9; of those beside the body the second is the noisiest, and 4 is
    the first that it is nearest to.
    """
    values = np.full((13, 8, 9), -1000.0, np.float32)
    values[:, 0, 0] = -999
    values[4:] = np.linspace(-200, 100, 72, dtype=np.float32).reshape(8, 9)
    values[10] = 7.0
    page = Volume(values, Grid.centred((13, 8, 9), (2.5, 0.75, 0.5), (7.0, -31.0, 4.0)), "HU", "patient")
    places = Grid((3, 2, 2), (10.0, 3.0, 2.0), page.grid.position_mm((1, 0, 0)), page.grid.axes)
    levels = np.array([30.0, 20.0, 10.0], np.float32)
    noise = Volume(np.broadcast_to(levels[:, None, None], (3, 2, 2)).copy(), places, "HU", "patient")
    chosen = choose(page, noise)
    assert chosen == (
        KeySlice(4, "noisiest slice"),
        KeySlice(6, "first quarter of the body"),
        KeySlice(8, "middle of the body"),
        KeySlice(10, "last quarter of the body, fault: no contrast"),
    )


def test_the_selection_says_why_each_slice_was_chosen(making, slow, tmp_path):
    selection = making(slow)["key_images"]
    assert selection.Modality == "KO"
    chosen = [
        one.ReferencedSOPSequence[0].ReferencedSOPInstanceUID for one in walk(selection) if one.ValueType == "IMAGE"
    ]
    third = pydicom.dcmread(tmp_path / "made" / "CT_00003.dcm").SOPInstanceUID
    assert third in chosen
    assert any("slice 3: " in said and "of the body" in said for said in texts(selection))


def test_an_enhanced_image_is_pointed_at_once(making, slow):
    made = making(slow, kind="enhanced")
    for name in ("assessment", "key_images"):
        shown = {
            one.ReferencedSOPSequence[0].ReferencedSOPInstanceUID
            for one in walk(made[name])
            if one.ValueType == "IMAGE"
        }
        assert len(shown) == 1


def test_a_folder_with_documents_still_holds_one_series(making, slow, tmp_path, recipe, patient, gantry_volume, now):
    making(slow)
    provenance = Provenance.of(exposure(slow), recipe, assessed())
    image = gantry_volume.place("HFS", (0.0, 0.0, 0.0))
    write_map(image, tmp_path / "made/passport/noise", MAPS["noise"], study=patient, provenance=provenance, now=now)
    found = read_series(tmp_path / "made")
    assert found.volume.grid.shape == (4, 6, 9)
    assert any("X-Ray Radiation Dose SR" in note for note in found.notes)


def test_documents_need_a_time_zone_and_a_scan(making, slow, recipe, now):
    provenance = Provenance.of(exposure(slow), recipe, assessed())
    with pytest.raises(InputError, match="time zone"):
        Occasion(Study(), provenance, now.replace(tzinfo=None))
    with pytest.raises(InputError, match="no id"):
        Occasion(Study(), dataclasses.replace(provenance, scan_id=""), now)


def test_our_own_dose_report_is_read_back(making, slow):
    (event,) = read_dose_report(making(slow)["dose"])
    assert (event.protocol, event.region, event.kind) == ("Chest", "Chest", "Spiral Acquisition")
    assert (event.ctdivol_mgy, event.dlp_mgy_cm, event.phantom_mm) == (0.73, 4.38, 320.0)
    assert (event.ssde_mgy, event.water_equivalent_mm, event.scanned_mm) == (0.91, 295.0, 60.0)
    assert (event.tube_voltage_kv, event.started) == (120.0, "20261120101112.5")
    assert event.source == "Automated Data Collection"


def test_an_image_is_no_dose_report(making, slow, tmp_path):
    making(slow)
    with pytest.raises(FormatError, match="113701"):
        read_dose_report(pydicom.dcmread(tmp_path / "made" / "CT_00001.dcm"))
