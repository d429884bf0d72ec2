"""A modality asks for its worklist and tells what it performs, as dcmtk and pynetdicom do."""

import asyncio
import dataclasses

import pydicom
import pytest
from centre_node import answering, know, tool
from pydicom.dataset import Dataset
from pydicom.uid import ExplicitVRLittleEndian
from pynetdicom import AE

from lampyris.centre import opened
from lampyris.centre.dimse import orders
from lampyris.dicom.ids import uid
from lampyris.model import InputError

MPPS = "1.2.840.10008.3.1.2.3.3"
ORDER = orders.Order(
    "st-anna", "P-17", "Zhang^San=张^三", "20261122", "0930", station="CT1", description="胸部平扫",
    birth_date="19700102", sex="F", referring="Li^Si=李^四", accession="A-17", step="S-17",
    procedure="R-17", study_uid=uid("ordered"),
)  # fmt: skip


@pytest.fixture
def port(settings, invite, program):
    program("findscu")
    for site in ("st-anna", "other-site"):
        invite(site)
    know(settings, "CT1")
    know(settings, "CT2", "other-site")
    with answering(settings) as found:
        yield found


@pytest.fixture
def order(settings):
    def add(**changes) -> orders.Order:
        async def run() -> orders.Order:
            async with opened(settings, connections=1) as centre, centre.pool.connection() as connection:
                return await orders.add(connection, dataclasses.replace(ORDER, **changes), "operator@test")

        return asyncio.run(run())

    return add


def asked(port, folder, *keys, calling="CT1"):
    folder.mkdir(exist_ok=True)
    step = "ScheduledProcedureStepSequence[0]."
    wanted = ("PatientName", "PatientID", "AccessionNumber", "StudyInstanceUID", "RequestedProcedureDescription",
              f"{step}ScheduledProcedureStepStartDate", f"{step}ScheduledProcedureStepID")  # fmt: skip
    names = {key.partition("=")[0] for key in keys}
    words = [word for key in (*keys, *(one for one in wanted if one not in names)) for word in ("-k", key)]
    tool("findscu", "-W", "-X", "-od", folder, "-aet", calling, "-aec", "LAMPYRIS", "127.0.0.1", port, *words)
    found = [pydicom.dcmread(file, force=True) for file in sorted(folder.glob("rsp*.dcm"))]
    for file in folder.iterdir():
        file.unlink()
    return found


@pytest.mark.judge
@pytest.mark.parametrize("charset", ["ISO_IR 192", "GB18030"])
def test_a_modality_reads_its_worklist_in_its_character_set(port, order, rows, tmp_path, charset):
    rows("UPDATE node SET charset = %s", charset)
    names = {"S-0": "Zhang^San=张^三", "S-1": "𠮷^田", "S-2": "㐀^匼區"}
    for step, name in names.items():
        order(step=step, patient_name=name)
    found = asked(port, tmp_path / "f")
    read = {one.ScheduledProcedureStepSequence[0].ScheduledProcedureStepID: str(one.PatientName) for one in found}
    assert read == names
    assert {one.SpecificCharacterSet for one in found} == {charset}
    assert {one.RequestedProcedureDescription for one in found} == {"胸部平扫"}


@pytest.mark.judge
def test_a_worklist_is_matched_by_station_date_modality_and_patient(port, order, tmp_path):
    order()
    order(step="S-18", patient_id="P-18", patient_name="Li^Si", date="20261123", station="CT9", modality="MR")
    step = "ScheduledProcedureStepSequence[0]."
    for keys, expected in (
        ((), {"P-17", "P-18"}),
        ((f"{step}ScheduledStationAETitle=CT1",), {"P-17"}),
        ((f"{step}ScheduledProcedureStepStartDate=20261123-",), {"P-18"}),
        ((f"{step}Modality=CT", f"{step}ScheduledProcedureStepStartDate=20261122-20261123"), {"P-17"}),
        (("PatientName=LI*",), {"P-18"}),
        (("AccessionNumber=A-17", "PatientID=P-18"), {"P-18"}),
        (("PatientID=P-1",), set()),
    ):
        assert {one.PatientID for one in asked(port, tmp_path / "f", *keys)} == expected, keys
    assert asked(port, tmp_path / "f", calling="CT2") == []


@pytest.fixture
def modality(port):
    """An association of CT1 for MPPS."""
    entity = AE("CT1")
    entity.add_requested_context(MPPS, ExplicitVRLittleEndian)
    association = entity.associate("127.0.0.1", port, ae_title="LAMPYRIS")
    assert association.is_established
    yield association
    association.release()


def performed(state: str = "IN PROGRESS", **more) -> Dataset:
    made = Dataset()
    made.SpecificCharacterSet = "GB18030"
    made.PerformedProcedureStepStatus, made.PerformedProcedureStepID = state, "PPS-1"
    made.PatientName, made.Modality, made.PerformedStationAETitle = "Zhang^San=张^三", "CT", "CT1"
    scheduled = Dataset()
    scheduled.StudyInstanceUID, scheduled.ScheduledProcedureStepID = uid("ordered"), "S-17"
    made.ScheduledStepAttributesSequence = [scheduled]
    for name, value in more.items():
        setattr(made, name, value)
    return made


def ended(state: str) -> Dataset:
    made = Dataset()
    made.PerformedProcedureStepStatus = state
    made.PerformedProcedureStepEndDate, made.PerformedProcedureStepEndTime = "20261122", "094512"
    return made


def test_a_performed_step_is_kept_and_moves_its_order(modality, order, rows, port, tmp_path):
    order()
    one = uid("mpps", "1")
    status, _ = modality.send_n_create(performed(), MPPS, one)
    assert status.Status == 0
    assert rows("SELECT state FROM worklist") == [("in_progress",)]
    status, _ = modality.send_n_set(ended("COMPLETED"), MPPS, one)
    assert status.Status == 0
    assert rows("SELECT state FROM worklist") == [("completed",)]
    ((state, study, number, name),) = rows(
        "SELECT state, study_uid, worklist IS NOT NULL, json -> '00100010' #>> '{Value,0,Ideographic}' FROM performed"
    )
    assert (state, study, number, name) == ("COMPLETED", uid("ordered"), True, "张^三")


def test_a_step_that_has_ended_stays_as_it_is(modality, order, rows):
    order()
    one = uid("mpps", "1")
    modality.send_n_create(performed(), MPPS, one)
    modality.send_n_set(ended("DISCONTINUED"), MPPS, one)
    status, _ = modality.send_n_set(ended("COMPLETED"), MPPS, one)
    assert (status.Status, status.ErrorID) == (0x0110, 0xA710)
    assert rows("SELECT state FROM performed") == [("DISCONTINUED",)]


@pytest.mark.parametrize(
    ("made", "status"),
    [
        (performed("COMPLETED"), 0x0106),
        (performed(PerformedProcedureStepID=""), 0x0120),
    ],
)
def test_a_step_that_does_not_begin_is_refused(modality, made, status):
    found, _ = modality.send_n_create(made, MPPS, uid("mpps", "1"))
    assert found.Status == status


def test_a_step_is_created_once_and_told_of_by_its_own_node(modality, order, rows, port):
    order()
    one = uid("mpps", "1")
    assert modality.send_n_create(performed(), MPPS, one)[0].Status == 0
    assert modality.send_n_create(performed(), MPPS, one)[0].Status == 0x0111
    entity = AE("CT2")
    entity.add_requested_context(MPPS, ExplicitVRLittleEndian)
    other = entity.associate("127.0.0.1", port, ae_title="LAMPYRIS")
    assert other.send_n_set(ended("COMPLETED"), MPPS, one)[0].Status == 0x0112
    other.release()
    assert rows("SELECT state FROM performed") == [("IN PROGRESS",)]


@pytest.mark.parametrize(
    "wrong",
    [{"patient_name": "^"}, {"date": "2026-11-22"}, {"time": "25"}, {"sex": "X"}, {"step": "S" * 17},
     {"description": "a\\b"}, {"patient_name": "a" * 65}],
)  # fmt: skip
def test_an_order_that_dicom_cannot_hold_is_refused(wrong):
    with pytest.raises(InputError):
        dataclasses.replace(ORDER, **wrong)
