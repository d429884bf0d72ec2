"""Orthanc and we, both ways over DICOMweb: what one stores the other finds, with every name unharmed."""

import pytest
from centre_dicom import dataset, encoded

pytestmark = pytest.mark.judge
NAMES = ("Zhang^San=张^三", "Ji^Tian=𠮷^田", "=㐀^誠")


def test_the_judge_keeps_names_as_they_are(start_orthanc):
    """What is judged by it would otherwise fail for its sake."""
    judge = start_orthanc()
    for number, name in enumerate(NAMES):
        judge.ask("POST", "/instances", content=encoded(dataset(f"s{number}", "lung", PatientName=name)))
    found = {judge.ask("GET", f"/studies/{one}")["PatientMainDicomTags"]["PatientName"]
             for one in judge.ask("GET", "/studies")}  # fmt: skip
    assert found == set(NAMES)
