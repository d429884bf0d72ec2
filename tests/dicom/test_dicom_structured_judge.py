"""Independent judges of the structured reports: dciodvfy finds no error, dcmtk's dsrdump reads the values."""

import subprocess

import pytest
from dicom_exposure import assessed, exposure
from dicom_of_others import SECRET

from lampyris.dicom import Irradiation, Occasion, Provenance, choose, upright, write_documents, write_series
from lampyris.model import Acquisition, Study

pytestmark = pytest.mark.judge

CLASSES = {
    "dose": "XRayRadiationDoseSR",
    "assessment": "ComprehensiveSR",
    "key_images": "KeyObjectSelectionDocument",
}


@pytest.fixture
def documents(recipe, gantry_volume, tmp_path, now):
    def write(acquisition, study, **how):
        projections = exposure(acquisition, **how)
        provenance = Provenance.of(projections, recipe, assessed())
        image = gantry_volume.place("HFS", (0.0, 0.0, 0.0))
        files = write_series(image, tmp_path / "o", study=study, provenance=provenance, now=now)
        return write_documents(
            tmp_path / "o" / "structured",
            Occasion(study, provenance, now),
            irradiation=Irradiation.of(projections, provenance, assessed(), "reported"),
            assessment=assessed(),
            images=files,
            keys=choose(upright(image), None),
        )

    return write


@pytest.mark.parametrize("known", [True, False])
def test_dciodvfy_finds_no_error_in_a_document(known, documents, acquisition, patient, program):
    made = documents(acquisition, patient) if known else documents(Acquisition(), Study(), known=False, moves=False)
    for file in made:
        told = subprocess.run([program("dciodvfy"), "-new", str(file)], capture_output=True, text=True, check=False)
        lines = (told.stdout + told.stderr).splitlines()
        assert CLASSES[file.stem] in lines, lines
        assert [line for line in lines if line.startswith("Error")] == []


def test_dsrdump_reads_the_dose(documents, acquisition, patient, program):
    dose = next(file for file in documents(acquisition, patient) if file.stem == "dose")
    told = subprocess.run([program("dsrdump"), "+Pl", str(dose)], capture_output=True, check=True).stdout.decode()
    assert SECRET in told
    for line in (
        '"X-Ray Radiation Dose Report")',
        '"Mean CTDIvol")="0.32" (mGy,UCUM,"mGy")',
        '"DLP")="4.38" (mGy.cm,UCUM,"mGy.cm")',
        '"CT Dose Length Product Total")="4.38"',
        '"Scanning Length")="60" (mm,UCUM,"mm")',
        '"Maximum X-Ray Tube Current")="34.56" (mA,UCUM,"mA")',
        '"Exposure Time")="1.25" (s,UCUM,"s")',
        '"Pitch Factor")="1.2" ({ratio},UCUM,"ratio")',
        '"Size Specific Dose Estimate")="0.91" (mGy,UCUM,"mGy")',
        '"Water Equivalent Diameter")="295" (mm,UCUM,"mm")',
        '"CTDIw Phantom Type")=(113691,DCM,"IEC Body Dosimetry Phantom")',
        '"CT Acquisition Type")=(116152004,SCT,"Spiral Acquisition")',
        '"Target Region")=(816094009,SCT,"Chest")',
    ):
        assert line in told
