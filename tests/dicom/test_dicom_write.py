"""Written series, read back with pydicom alone: places by hand, values, facts, refusals."""

import dataclasses
import os
import resource
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pydicom
import pytest

from lampyris.dicom import Provenance, write_series
from lampyris.model import PATIENT_POSITIONS, Acquisition, Grid, InputError, StorageError, Study, Volume

ORIGIN = (100.0, 200.0, 300.0)

# Where the point x = +30, y = +20, z = +10 mm of the gantry lies in the patient, told from the patient's posture:
# head first supine, the left hand is on the right of one who faces the gantry, the back is down, the head goes in.
SPECK_LPS = {
    "HFS": (+30, -10, +20),
    "HFP": (-30, +10, +20),
    "FFS": (-30, -10, -20),
    "FFP": (+30, +10, -20),
    "HFDR": (+10, +30, +20),
    "HFDL": (-10, -30, +20),
    "FFDR": (+10, -30, -20),
    "FFDL": (-10, +30, -20),
}


def planes(files: tuple[Path, ...]):
    """(position, orientation, pixel spacing, HU) of every plane, by the formulas of the standard."""
    for file in files:
        image = pydicom.dcmread(file)
        if "PerFrameFunctionalGroupsSequence" not in image:
            values = image.pixel_array * float(image.RescaleSlope) + float(image.RescaleIntercept)
            yield image.ImagePositionPatient, image.ImageOrientationPatient, image.PixelSpacing, values
            continue
        shared = image.SharedFunctionalGroupsSequence[0]
        rescale = shared.PixelValueTransformationSequence[0]
        for frame, stored in zip(image.PerFrameFunctionalGroupsSequence, image.pixel_array, strict=True):
            yield (
                frame.PlanePositionSequence[0].ImagePositionPatient,
                shared.PlaneOrientationSequence[0].ImageOrientationPatient,
                shared.PixelMeasuresSequence[0].PixelSpacing,
                stored * float(rescale.RescaleSlope) + float(rescale.RescaleIntercept),
            )


def brightest_mm(files: tuple[Path, ...]) -> np.ndarray:
    """Where the brightest pixel lies, PS3.3 C.7.6.2.1.1."""
    position, orientation, spacing, values = max(planes(files), key=lambda plane: plane[3].max())
    row, column = np.unravel_index(values.argmax(), values.shape)
    right, down = np.array(orientation[:3], float), np.array(orientation[3:], float)
    return np.array(position, float) + right * column * spacing[1] + down * row * spacing[0]


@pytest.mark.parametrize("kind", ["ct", "enhanced"])
@pytest.mark.parametrize("position", PATIENT_POSITIONS)
def test_a_speck_lies_where_the_patient_has_it(position, kind, tmp_path, now):
    grid = Grid((9, 11, 13), (5.0, 2.0, 3.0), np.array([30.0 - 3 * 7, 20.0 - 5 * 6, 10.0 + 2 * 4]))
    values = np.zeros(grid.shape, np.float32)
    values[6, 4, 7] = 700.0
    placed = Volume(values, grid, "HU").place(position, ORIGIN)
    made_by = Provenance("scan", Acquisition(PatientPosition=position, DataCollectionCenterPatient=ORIGIN))
    files = write_series(placed, tmp_path / "out", study=Study(), provenance=made_by, now=now, kind=kind)
    np.testing.assert_allclose(brightest_mm(files), np.add(ORIGIN, SPECK_LPS[position]), atol=1e-9)
    image = pydicom.dcmread(files[0])
    assert image.PatientPosition == position
    if kind == "enhanced":  # along the table's way the speck's slice lies 20 mm into the gantry, whoever lies how
        tables = [one.CTPositionSequence[0].TablePosition for one in image.PerFrameFunctionalGroupsSequence]
        bright = int(image.pixel_array.max(axis=(1, 2)).argmax())
        assert tables[bright] == pytest.approx(20.0)


@pytest.mark.parametrize("position", PATIENT_POSITIONS)
def test_every_patient_is_seen_from_the_feet_with_the_left_on_the_right(position, gantry_volume, tmp_path, now):
    placed = gantry_volume.place(position, ORIGIN)
    made_by = Provenance("scan", Acquisition(PatientPosition=position))
    files = write_series(placed, tmp_path / "out", study=Study(), provenance=made_by, now=now)
    images = [pydicom.dcmread(file) for file in files]
    assert all(list(image.ImageOrientationPatient) == [1, 0, 0, 0, 1, 0] for image in images)
    heights = [float(image.ImagePositionPatient[2]) for image in images]
    np.testing.assert_allclose(np.diff(heights), 2.5)
    assert [image.InstanceNumber for image in images] == [1, 2, 3, 4]
    lying = position[2:] in ("DR", "DL")  # on the side, what was across the table is now up the page
    assert (images[0].Rows, images[0].Columns) == ((9, 6) if lying else (6, 9))
    assert list(images[0].PixelSpacing) == ([0.5, 0.75] if lying else [0.75, 0.5])


def test_an_oblique_volume_keeps_its_places(gantry_volume, tmp_path, now):
    angle = np.radians(20)
    turn = np.array([[np.cos(angle), 0, np.sin(angle)], [0, 1, 0], [-np.sin(angle), 0, np.cos(angle)]])
    grid = gantry_volume.grid
    oblique = Grid(grid.shape, grid.spacing_mm, grid.first_voxel_mm, np.array([[0, 0, 1], [0, 1, 0], [1, 0, 0]]) @ turn)
    values = np.zeros(grid.shape, np.float32)
    values[1, 4, 2] = 900
    volume = Volume(values, oblique, "HU", "patient")
    files = write_series(volume, tmp_path / "out", study=Study(), provenance=Provenance("scan"), now=now)
    np.testing.assert_allclose(brightest_mm(files), oblique.position_mm((1, 4, 2)), atol=1e-9)
    cosines = pydicom.dcmread(files[0]).ImageOrientationPatient
    assert min(cosines[0], cosines[4]) == pytest.approx(np.cos(angle))  # still towards L and P, leaning as it was


def test_hounsfield_values_are_stored_to_half_a_unit(gantry_volume, provenance, patient, tmp_path, now):
    placed = gantry_volume.place("HFS", ORIGIN)
    files = write_series(placed, tmp_path / "out", study=patient, provenance=provenance, now=now)
    stored = np.stack([plane[3] for plane in planes(files)])
    assert np.abs(stored - placed.values).max() <= 0.5
    image = pydicom.dcmread(files[0])
    assert (image.RescaleType, float(image.RescaleSlope)) == ("HU", 1.0)


def test_attenuation_is_stored_in_a_decimal_step_and_says_its_unit(gantry_volume, provenance, patient, tmp_path, now):
    values = (gantry_volume.values * 1e-4).astype(np.float32)
    volume = dataclasses.replace(gantry_volume, values=values, quantity="1/mm").place("HFS", ORIGIN)
    files = write_series(volume, tmp_path / "out", study=patient, provenance=provenance, now=now)
    image = pydicom.dcmread(files[0])
    step = float(image.RescaleSlope)
    assert step == 5e-6  # the smallest of 1, 2, 5·10ⁿ that holds |μ| ≤ 0.1 in 32767 steps
    assert 2e-6 * 32767 < np.abs(values).max() <= 5e-6 * 32767
    assert np.abs(np.stack([plane[3] for plane in planes(files)]) - values).max() <= step / 2 + 1e-9
    assert image.RescaleType == "US"
    mapping = image.RealWorldValueMappingSequence[0]
    assert mapping.MeasurementUnitsCodeSequence[0].CodeValue == "/mm"
    assert mapping.RealWorldValueSlope == step
    assert image.VOILUTFunction == "LINEAR_EXACT"  # LINEAR cannot have a width below 1


def test_the_window_of_attenuation_is_its_whole_measured_range(gantry_volume, provenance, patient, tmp_path, now):
    values = np.full(gantry_volume.values.shape, 0.02, np.float32)
    values[0, 0, :3] = 0.01, 0.06, 9.0
    valid = values < 1
    volume = dataclasses.replace(gantry_volume, values=values, quantity="1/mm", valid=valid).place("HFS", ORIGIN)
    image = pydicom.dcmread(write_series(volume, tmp_path / "o", study=patient, provenance=provenance, now=now)[0])
    assert (image.WindowCenter, image.WindowWidth) == (pytest.approx(0.035), pytest.approx(0.05))


def test_an_image_of_nothing_can_be_written(gantry_volume, provenance, patient, tmp_path, now):
    for count, valid in enumerate((None, np.zeros(gantry_volume.values.shape, np.bool_))):
        nothing = np.zeros(gantry_volume.values.shape, np.float32)
        volume = dataclasses.replace(gantry_volume, values=nothing, quantity="1/mm", valid=valid).place("HFS", ORIGIN)
        made = write_series(volume, tmp_path / str(count), study=patient, provenance=provenance, now=now)
        image = pydicom.dcmread(made[0])
        assert (float(image.RescaleSlope), float(image.WindowWidth)) == (1e-6, 1e-6)


def test_what_was_not_measured_is_stored_as_padding(gantry_volume, provenance, patient, tmp_path, now):
    valid = np.ones(gantry_volume.values.shape, np.bool_)
    valid[:, 0, 3:] = False
    holes = np.where(valid, gantry_volume.values, np.nan).astype(np.float32)
    volume = dataclasses.replace(gantry_volume, values=holes, valid=valid).place("HFS", ORIGIN)
    files = write_series(volume, tmp_path / "out", study=patient, provenance=provenance, now=now)
    image = pydicom.dcmread(files[0])
    hounsfield = image.pixel_array + float(image.RescaleIntercept)
    assert image.PixelPaddingValue + float(image.RescaleIntercept) == -2048
    np.testing.assert_array_equal(hounsfield == -2048, ~valid[0])


def test_padding_leaves_room_for_measured_values_at_its_usual_place(gantry_volume, provenance, patient, tmp_path, now):
    values = gantry_volume.values.copy()
    values[0, 0, 0] = -2048.2
    valid = np.ones(values.shape, np.bool_)
    valid[1, 1, 1] = False
    volume = dataclasses.replace(gantry_volume, values=values, valid=valid).place("HFS", ORIGIN)
    files = write_series(volume, tmp_path / "out", study=patient, provenance=provenance, now=now)
    stored = np.stack([pydicom.dcmread(file).pixel_array for file in files])
    assert (stored == pydicom.dcmread(files[0]).PixelPaddingValue).sum() == 1


@pytest.mark.parametrize(
    ("value", "message"),
    [(np.nan, "1 of 216 voxels are NaN"), (32000.0, "to 32000 HU"), (-34000.0, "from -34000"), (np.inf, "infinite")],
)
def test_values_that_cannot_be_stored_are_refused_not_clipped(value, message, gantry_volume, provenance, tmp_path, now):
    values = gantry_volume.values.copy()
    values[2, 3, 4] = value
    volume = dataclasses.replace(gantry_volume, values=values).place("HFS", ORIGIN)
    with pytest.raises(InputError, match=message):
        write_series(volume, tmp_path / "out", study=Study(), provenance=provenance, now=now)
    assert list(tmp_path.iterdir()) == []


def test_the_whole_range_of_16_bits_is_held_exactly(gantry_volume, provenance, tmp_path, now):
    values = gantry_volume.values.copy()
    values[0, 0, 0], values[0, 0, 1] = -33791.0, 31743.0
    volume = dataclasses.replace(gantry_volume, values=values).place("HFS", ORIGIN)
    files = write_series(volume, tmp_path / "out", study=Study(), provenance=provenance, now=now)
    assert list(next(planes(files))[3][0, :2]) == [-33791.0, 31743.0]


def test_facts_of_exposure_dose_and_reconstruction_are_in_every_ct_image(
    gantry_volume, provenance, patient, tmp_path, now
):
    files = write_series(
        gantry_volume.place("HFS", ORIGIN), tmp_path / "out", study=patient, provenance=provenance, now=now
    )
    for file in files:
        image = pydicom.dcmread(file)
        assert list(image.ImageType) == ["DERIVED", "PRIMARY", "AXIAL"]
        assert (image.KVP, image.Exposure, image.ExposureInuAs, image.XRayTubeCurrent) == (120, 40, 40250, 80)
        assert (image.CTDIvol, image.SpiralPitchFactor, image.WaterEquivalentDiameter) == (0.33, 1.2, 301.0)
        assert image.CTDIPhantomTypeCodeSequence[0].CodeValue == "113691"
        assert (image.ConvolutionKernel, image.ReconstructionAlgorithm) == ("body", "FILTER_BACK_PROJ")
        assert (image.DataCollectionDiameter, image.ReconstructionDiameter) == (500, 4.5)
        assert (image.SliceThickness, image.SpacingBetweenSlices) == (2.5, 2.5)
        assert (image.BodyPartExamined, image.AcquisitionType) == ("CHEST", "SPIRAL")
        assert (image.AcquisitionDate, image.AcquisitionTime) == ("20261120", "101112.5")
        assert (list(image.WindowCenter), list(image.WindowWidth)) == ([40, -600], [400, 1500])
        assert "Laterality" not in image
        assert image.SeriesDescription == "routine body 2.5 mm 10% dose"


def test_facts_are_in_the_functional_groups_of_enhanced_ct(gantry_volume, provenance, patient, tmp_path, now):
    placed = gantry_volume.place("HFS", ORIGIN)
    (file,) = write_series(placed, tmp_path / "out", study=patient, provenance=provenance, now=now, kind="enhanced")
    image = pydicom.dcmread(file)
    shared = image.SharedFunctionalGroupsSequence[0]
    assert image.NumberOfFrames == 4
    assert image.ContentQualification == "RESEARCH"
    reconstruction = shared.CTReconstructionSequence[0]
    assert (reconstruction.ReconstructionAlgorithm, reconstruction.ConvolutionKernelGroup) == (
        "FILTER_BACK_PROJ",
        "SOFT_TISSUE",
    )
    exposure = shared.CTExposureSequence[0]
    assert (exposure.ExposureInmAs, exposure.CTDIvol) == (40.25, 0.33)
    assert shared.FrameAnatomySequence[0].AnatomicRegionSequence[0].CodeMeaning == "Chest"
    positions = [one.FrameContentSequence[0].InStackPositionNumber for one in image.PerFrameFunctionalGroupsSequence]
    assert positions == [1, 2, 3, 4]


def test_the_image_says_who_made_it_how_and_that_it_is_no_diagnosis(gantry_volume, provenance, patient, tmp_path, now):
    files = write_series(
        gantry_volume.place("HFS", ORIGIN), tmp_path / "out", study=patient, provenance=provenance, now=now
    )
    image = pydicom.dcmread(files[0])
    assert image.Manufacturer == "Lampyris"
    lampyris, scanner = image.ContributingEquipmentSequence
    assert lampyris.PurposeOfReferenceCodeSequence[0].CodeMeaning == "Processing Equipment"
    assert lampyris.SoftwareVersions == provenance.software_version
    assert provenance.recipe.digest() in lampyris.ContributionDescription
    assert "recipe routine 1.0" in lampyris.ContributionDescription
    assert "not for diagnosis" in lampyris.ContributionDescription
    assert (scanner.Manufacturer, scanner.StationName) == ("Testscan", "CT3")
    assert image.DerivationDescription == (
        "Reconstructed from the raw measurement by filtered backprojection (wfbp) with kernel body. Corrections: dark"
        " and air calibration, logarithm. The measurement stands for 10% of the protocol's dose. Values are Hounsfield"
        " units."
    )
    for fact in ("not for diagnosis", "DLP 12.5 mGy.cm", "SSDE 0.45 mGy", "10% of the protocol's dose", "gate: look"):
        assert fact in image.ImageComments


def test_chinese_names_are_utf8(gantry_volume, provenance, patient, tmp_path, now):
    files = write_series(
        gantry_volume.place("HFS", ORIGIN), tmp_path / "out", study=patient, provenance=provenance, now=now
    )
    image = pydicom.dcmread(files[0])
    assert image.SpecificCharacterSet == "ISO_IR 192"
    assert image.get_item("PatientName").value.rstrip() == "Geheim^Person=張^𠮷三".encode()
    assert image.InstitutionName == "县医院"


def test_the_same_image_twice_is_the_same_bytes(gantry_volume, provenance, patient, tmp_path, now):
    placed = gantry_volume.place("HFS", ORIGIN)
    for kind in ("ct", "enhanced"):
        first = write_series(placed, tmp_path / f"{kind}1", study=patient, provenance=provenance, now=now, kind=kind)
        again = write_series(placed, tmp_path / f"{kind}2", study=patient, provenance=provenance, now=now, kind=kind)
        assert [one.read_bytes() for one in first] == [one.read_bytes() for one in again]


def test_another_number_kind_or_version_is_another_series(gantry_volume, provenance, patient, tmp_path, now):
    placed = gantry_volume.place("HFS", ORIGIN)
    newer = dataclasses.replace(provenance, software_version="99.0")
    seen = set()
    for count, (changes, made_by) in enumerate(
        [({}, provenance), ({"series_number": 2}, provenance), ({"kind": "enhanced"}, provenance), ({}, newer)]
    ):
        files = write_series(placed, tmp_path / str(count), study=patient, provenance=made_by, now=now, **changes)
        image = pydicom.dcmread(files[0])
        seen.add((image.SeriesInstanceUID, image.SOPInstanceUID))
    assert len(seen) == len({series for series, _ in seen}) == 4


def test_a_study_uid_that_is_known_is_kept(gantry_volume, provenance, patient, tmp_path, now):
    study = dataclasses.replace(patient, StudyInstanceUID="1.2.840.1")
    placed = dataclasses.replace(gantry_volume.place("HFS", ORIGIN), FrameOfReferenceUID="1.2.840.2")
    image = pydicom.dcmread(write_series(placed, tmp_path / "o", study=study, provenance=provenance, now=now)[0])
    assert (image.StudyInstanceUID, image.FrameOfReferenceUID) == ("1.2.840.1", "1.2.840.2")


@pytest.mark.parametrize(
    ("change", "keyword"),
    [
        ({"PatientID": "G" * 65}, "PatientID"),
        ({"PatientBirthDate": "3.2.1958 Geheim"}, "PatientBirthDate"),
        ({"StudyInstanceUID": "Geheim"}, "StudyInstanceUID"),
        ({"PatientName": "Geheim\nPerson"}, "PatientName"),
        ({"AccessionNumber": "Geheim\\4711"}, "AccessionNumber"),
        ({"PatientSex": "Geheim weiblich"}, "PatientSex"),
    ],
)
def test_text_that_dicom_forbids_is_refused_without_repeating_it(
    change, keyword, gantry_volume, provenance, patient, tmp_path, now
):
    study = dataclasses.replace(patient, **change)
    with pytest.raises(InputError, match=f"{keyword} is no valid DICOM") as refusal:
        write_series(gantry_volume.place("HFS", ORIGIN), tmp_path / "o", study=study, provenance=provenance, now=now)
    assert "Geheim" not in str(refusal.value)
    assert refusal.value.__suppress_context__


def test_unfit_requests_are_refused(gantry_volume, provenance, patient, tmp_path, now):
    placed, out = gantry_volume.place("HFS", ORIGIN), tmp_path / "out"
    with pytest.raises(InputError, match="gantry frame"):
        write_series(gantry_volume, out, study=patient, provenance=provenance, now=now)
    with pytest.raises(InputError, match="time zone"):
        write_series(placed, out, study=patient, provenance=provenance, now=now.replace(tzinfo=None))
    with pytest.raises(InputError, match="'mr'"):
        write_series(placed, out, study=patient, provenance=provenance, now=now, kind="mr")
    small = dataclasses.replace(provenance.acquisition, CTDIPhantomDiameter=32.0)
    with pytest.raises(InputError, match="given in cm"):
        write_series(placed, out, study=patient, provenance=dataclasses.replace(provenance, acquisition=small), now=now)
    with pytest.raises(InputError, match="SliceThickness is 0"):
        dataclasses.replace(provenance, SliceThickness=0.0)
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_holds_something_is_left_alone(gantry_volume, provenance, patient, tmp_path, now):
    out = tmp_path / "out"
    out.mkdir()
    (out / "letter.txt").write_text("kept")
    with pytest.raises(InputError, match="not empty"):
        write_series(gantry_volume.place("HFS", ORIGIN), out, study=patient, provenance=provenance, now=now)
    assert [one.name for one in tmp_path.rglob("*")] == ["out", "letter.txt"]


def test_an_empty_folder_may_be_filled_and_missing_parents_are_made(gantry_volume, provenance, patient, tmp_path, now):
    (tmp_path / "out").mkdir()
    for place in (tmp_path / "out", tmp_path / "a" / "b"):
        files = write_series(gantry_volume.place("HFS", ORIGIN), place, study=patient, provenance=provenance, now=now)
        assert sorted(place.iterdir()) == list(files)


def test_a_full_disk_is_told_and_leaves_nothing(gantry_volume, provenance, patient, tmp_path, now):
    """The limit on the size of a file stands for the disk: the kernel refuses the write in the same call."""
    placed = gantry_volume.place("HFS", ORIGIN)
    ignored = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2000, hard))
    try:
        with pytest.raises(StorageError, match="File too large") as refusal:
            write_series(placed, tmp_path / "Geheim", study=patient, provenance=provenance, now=now)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, ignored)
    assert list(tmp_path.iterdir()) == []
    assert "Geheim" not in str(refusal.value)


def test_a_killed_write_leaves_no_series(tmp_path):
    """Killed after the second of three images: the series' place is empty, what was begun is hidden and marked."""
    script = """
import os, signal, sys
from datetime import UTC, datetime
import numpy as np
from lampyris.dicom import Provenance, write_series
from lampyris.model import Grid, Study, Volume
volume = Volume(np.zeros((3, 4, 5), np.float32), Grid.centred((3, 4, 5), (2, 1, 1)), "HU").place("HFS", (0, 0, 0))
def die(done):
    if done > 0.5:
        os.kill(os.getpid(), signal.SIGKILL)
write_series(volume, sys.argv[1], study=Study(), provenance=Provenance("scan"), now=datetime.now(UTC), progress=die)
"""
    done = subprocess.run([sys.executable, "-c", script, str(tmp_path / "out")], env=os.environ, check=False)
    assert done.returncode == -signal.SIGKILL
    assert not (tmp_path / "out").exists()
    (left,) = tmp_path.iterdir()
    assert left.name.startswith(".out.")
    assert left.name.endswith(".partial")
