"""Orthanc and we, both ways over DICOMweb: what one stores the other finds, with every name unharmed."""

import pytest
from centre_dicom import dataset, encoded, pixels, stow

from lampyris.dicom.ids import uid
from lampyris.site.config import Stow
from lampyris.site.forward import Item, deliver

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


@pytest.fixture
def judge(start_orthanc, client, reader_token):
    """Orthanc, which knows us as a DICOMweb server."""
    us = {"Url": str(client.base_url.join("/dicomweb/")), "Username": "judge", "Password": reader_token}
    return start_orthanc(DicomWeb={"Servers": {"lampyris": us}})


def names_at(judge):
    return {judge.ask("GET", f"/studies/{one}")["PatientMainDicomTags"]["PatientName"]
            for one in judge.ask("GET", "/studies")}  # fmt: skip


def test_orthanc_stores_at_us_and_fetches_back(judge, rows):
    for number, name in enumerate(NAMES):
        judge.ask("POST", "/instances", content=encoded(dataset(f"s{number}", "lung", PatientName=name)))
    resources = judge.ask("GET", "/studies")
    for _ in range(2):  # what it sends again is there already
        judge.ask("POST", "/dicom-web/servers/lampyris/stow", json={"Resources": resources, "Synchronous": True})
    assert {name for (name,) in rows("SELECT patient_name FROM study")} == set(NAMES)
    for each in resources:
        judge.client.delete(f"/studies/{each}")
    assert names_at(judge) == set()
    wanted = [{"Study": uid(f"s{number}")} for number in range(len(NAMES))]
    judge.ask("POST", "/dicom-web/servers/lampyris/retrieve", json={"Resources": wanted, "Synchronous": True})
    assert names_at(judge) == set(NAMES)
    for one in judge.ask("GET", "/instances"):
        frame = judge.client.get(f"/instances/{one}/frames/0/raw").content
        assert frame == pixels().tobytes()


def test_orthanc_searches_us(judge, reader):
    stow(reader, *(encoded(dataset(f"s{number}", "lung", PatientName=name)) for number, name in enumerate(NAMES)))
    for number, name in enumerate(NAMES):
        asked = {"Uri": "/studies", "Arguments": {"PatientName": name}}
        (found,) = judge.ask("POST", "/dicom-web/servers/lampyris/qido", json=asked)
        assert found["0020000D"]["Value"] == uid(f"s{number}")


def test_a_site_forwards_to_orthanc_as_to_any_pacs(start_orthanc):
    judge = start_orthanc()
    made = [dataset(f"s{number}", "lung", PatientName=name) for number, name in enumerate(NAMES)]
    items = [Item(f"{number}.dcm", one) for number, one in enumerate(made)]
    sent = deliver(Stow("judge", judge.dicomweb), "scan", items)
    assert sent.confirmed == ("0.dcm", "1.dcm", "2.dcm")
    assert names_at(judge) == set(NAMES)
