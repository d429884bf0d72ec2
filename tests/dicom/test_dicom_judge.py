"""An independent judge: David Clunie's dciodvfy finds no error in what we write, and dcmtk reads our names."""

import dataclasses
import subprocess

import numpy as np
import pytest

from lampyris.dicom import Provenance, write_series
from lampyris.model import PATIENT_POSITIONS, Acquisition, Study

pytestmark = pytest.mark.judge

# dciodvfy 2022-06-18 lets RescaleType in Enhanced CT be HU alone and says in its source that this is too strict;
# PS3.3 C.8.15.3.10 asks for HU only where the frame is ORIGINAL, ours are DERIVED.
TOO_STRICT = "RescaleType(0028,1054)[1]> - Unrecognized enumerated value = <US>"


def errors(verify, file) -> list[str]:
    told = subprocess.run([verify, "-new", str(file)], capture_output=True, text=True, check=False)
    lines = (told.stdout + told.stderr).splitlines()
    assert any(line in ("CTImage", "EnhancedCTImage") for line in lines), lines
    return [line for line in lines if line.startswith("Error")]


@pytest.mark.parametrize("quantity", ["HU", "1/mm"])
@pytest.mark.parametrize("kind", ["ct", "enhanced"])
@pytest.mark.parametrize("position", PATIENT_POSITIONS)
def test_dciodvfy_finds_no_error(
    position, kind, quantity, gantry_volume, provenance, patient, acquisition, tmp_path, now, program
):
    scale = 1.0 if quantity == "HU" else 1e-4
    values = (gantry_volume.values * scale).astype(np.float32)
    volume = dataclasses.replace(gantry_volume, values=values, quantity=quantity).place(position, (1.0, 2.0, 3.0))
    lying = dataclasses.replace(provenance, acquisition=dataclasses.replace(acquisition, PatientPosition=position))
    files = write_series(volume, tmp_path / "o", study=patient, provenance=lying, now=now, kind=kind)
    for file in files:
        found = errors(program("dciodvfy"), file)
        if (kind, quantity) == ("enhanced", "1/mm"):
            assert len(found) == 1
            assert found[0].endswith(TOO_STRICT)
        else:
            assert found == []


@pytest.mark.parametrize("kind", ["ct", "enhanced"])
@pytest.mark.parametrize("known", ["nothing", "position", "some", "padding"])
def test_dciodvfy_finds_no_error_where_little_is_known(known, kind, gantry_volume, provenance, tmp_path, now, program):
    acquisition = {
        "nothing": Acquisition(),
        "position": Acquisition(PatientPosition="FFDL"),
        "some": Acquisition(AcquisitionType="SEQUENCED", KVP=80.0, CTDIvol=1.0, TableFeedPerRotation=10.0),
        "padding": Acquisition(),
    }[known]
    volume = gantry_volume.place(acquisition.PatientPosition, (0.0, 0.0, 0.0))
    if known == "padding":
        volume = dataclasses.replace(volume, valid=volume.values > -100)
    made_by = Provenance("scan", acquisition, recipe=provenance.recipe if known == "some" else None)
    for file in write_series(volume, tmp_path / "o", study=Study(), provenance=made_by, now=now, kind=kind):
        assert errors(program("dciodvfy"), file) == []


def test_dcmtk_reads_the_name_and_the_place(gantry_volume, provenance, patient, tmp_path, now, program):
    placed = gantry_volume.place("HFS", (0.0, 0.0, 0.0))
    files = write_series(placed, tmp_path / "o", study=patient, provenance=provenance, now=now)
    told = subprocess.run([program("dcmdump"), str(files[0])], capture_output=True, check=True).stdout.decode()
    assert "張^𠮷三" in told
    first = placed.grid.first_voxel_mm
    assert f"DS [{first[0]:g}\\{first[1]:g}\\{first[2]:g}]" in told.replace(".0\\", "\\").replace(".0]", "]")
