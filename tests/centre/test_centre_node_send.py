"""Studies go to nodes by C-STORE and STOW-RS, and both sides say what they keep; Orthanc and dcmtk are the peers."""

import asyncio
import time
from contextlib import contextmanager

import pydicom
import pytest
from centre_dicom import dataset, encoded
from centre_node import answering, know, storescp
from centre_orthanc import AET, free_port, orthanc
from pydicom.dataset import Dataset
from pydicom.uid import ExplicitVRLittleEndian
from pynetdicom import AE, evt

from lampyris.centre import opened
from lampyris.centre.archive.intake import take
from lampyris.centre.dimse.commitment import INSTANCE
from lampyris.centre.dimse.contexts import COMMITMENT
from lampyris.dicom.ids import uid

NAME = "Zhang^San=𠮷^三"


@pytest.fixture(scope="module")
def judge(program, tmp_path_factory):
    """One Orthanc for all tests of this file; each uses studies of its own."""
    with orthanc(program("Orthanc"), tmp_path_factory.mktemp("judge") / "orthanc") as found:
        yield found


@contextmanager
def peer(event, handler, classes=("1.2.840.10008.5.1.4.1.1.2",)):
    """The port of a listening node with one handler."""
    entity = AE("WS1")
    for each in classes:
        entity.add_supported_context(each, scu_role=True, scp_role=True)
    server = entity.start_server(("127.0.0.1", 0), block=False, evt_handlers=[(event, handler)])
    try:
        yield server.server_address[1]
    finally:
        server.shutdown()


@pytest.fixture
def kept(settings, invite):
    """Objects that are in the archive of a site."""
    invite("st-anna")

    def keep(*made: Dataset) -> None:
        async def run() -> None:
            async with opened(settings, connections=2) as centre:
                for one in made:
                    await take(centre, "st-anna", encoded(one))

        asyncio.run(run())

    return keep


@pytest.fixture
def radiologist(kept, signed_in):
    return signed_in(("radiologist", "st-anna"))


def until(radiologist, study, done):
    """The sendings of a study, as soon as they are so."""
    deadline = time.monotonic() + 120
    while not done(found := radiologist.get(f"/studies/{uid(study)}/sendings").json()):
        assert time.monotonic() < deadline, found
        time.sleep(0.1)
    return found


def ended(found):
    return all(one["state"] in ("done", "failed") for one in found)


def known_to(judge, port):
    judge.client.put(
        "/modalities/LAMPYRIS",
        json={"AET": "LAMPYRIS", "Host": "127.0.0.1", "Port": port, "AllowStorageCommitment": True, "Timeout": 60},
    ).raise_for_status()


@pytest.mark.judge
def test_a_study_goes_to_dcmtk_and_arrives_whole(settings, kept, radiologist, tmp_path, program, rows):
    program("storescp")
    kept(*(dataset("dcmtk", "a", number, PatientName=NAME) for number in (1, 2, 3)))
    port, folder = free_port(), tmp_path / "received"
    folder.mkdir()
    know(settings, "WS1", port=port)
    with storescp(port, folder), answering(settings):
        answer = radiologist.post(f"/studies/{uid('dcmtk')}/send", data={"node": "WS1"})
        assert answer.status_code == 202, answer.text
        (one,) = until(radiologist, "dcmtk", ended)
    assert (one["state"], one["way"], one["sent"], one["total"], one["commitment"]) == ("done", "c-store", 3, 3, "none")
    got = [pydicom.dcmread(file) for file in folder.iterdir()]
    assert {str(each.PatientName) for each in got} == {NAME}
    assert {each.SOPInstanceUID for each in got} == {uid("dcmtk", "a", str(number)) for number in (1, 2, 3)}
    states = rows("SELECT outcome, detail->>'to', detail->>'sent' FROM audit WHERE kind = 'send' ORDER BY number")
    assert states == [("success", "WS1", None), ("success", "WS1", "3")]


@pytest.mark.judge
@pytest.mark.parametrize("way", ["c-store", "stow"])
def test_a_study_goes_to_orthanc_which_commits_itself_to_it(way, judge, settings, kept, radiologist):
    study = f"orthanc-{way}"
    kept(dataset(study, "a", PatientName=NAME), dataset(study, "b", 2, PatientName=NAME))
    stow = f"{judge.dicomweb}/studies" if way == "stow" else None
    know(settings, AET, port=judge.dicom_port, stow=stow, commits=True)
    with answering(settings) as port:
        known_to(judge, port)
        radiologist.post(f"/studies/{uid(study)}/send", data={"node": AET})
        (one,) = until(radiologist, study, lambda found: found[0]["commitment"] in ("committed", "refused", "silent"))
    assert (one["state"], one["way"], one["sent"], one["commitment"]) == ("done", way, 2, "committed")
    (found,) = judge.ask("POST", "/tools/find", json={
        "Level": "Study", "Query": {"StudyInstanceUID": uid(study)}, "Expand": True
    })  # fmt: skip
    assert found["PatientMainDicomTags"]["PatientName"] == NAME
    assert len(found["Series"]) == 2


@pytest.mark.judge
def test_one_series_is_sent_alone(judge, settings, kept, radiologist):
    kept(dataset("one-series", "a"), dataset("one-series", "b", 2))
    know(settings, AET, port=judge.dicom_port)
    with answering(settings):
        form = {"node": AET, "series": uid("one-series", "b")}
        radiologist.post(f"/studies/{uid('one-series')}/send", data=form)
        (one,) = until(radiologist, "one-series", ended)
    assert (one["state"], one["total"], one["series_uid"]) == ("done", 1, uid("one-series", "b"))


@pytest.mark.judge
def test_orthanc_stores_asks_fetches_and_is_committed_to(judge, settings, invite, rows):
    invite("st-anna")
    know(settings, AET, port=judge.dicom_port)
    made = dataset("from-orthanc", "a", PatientName=NAME)
    instance = judge.ask("POST", "/instances", content=encoded(made))
    with answering(settings) as port:
        known_to(judge, port)
        judge.ask("POST", "/modalities/LAMPYRIS/echo", json={})
        judge.ask("POST", "/modalities/LAMPYRIS/store", json={
            "Resources": [instance["ID"]], "Synchronous": True, "StorageCommitment": False
        })  # fmt: skip
        assert rows("SELECT patient_name, site FROM study") == [(NAME, "st-anna")]
        asked = judge.ask("POST", "/modalities/LAMPYRIS/storage-commitment", json={"DicomInstances": [
            {"SOPClassUID": made.SOPClassUID, "SOPInstanceUID": made.SOPInstanceUID},
            {"SOPClassUID": made.SOPClassUID, "SOPInstanceUID": uid("nobody", "has", "this")},
        ]})  # fmt: skip
        judge.client.delete(f"/instances/{instance['ID']}").raise_for_status()
        query = judge.ask("POST", "/modalities/LAMPYRIS/query", json={
            "Level": "Study", "Query": {"PatientName": "*𠮷*", "StudyInstanceUID": ""}, "Normalize": False
        })  # fmt: skip
        (answer,) = judge.ask("GET", f"/queries/{query['ID']}/answers?expand&simplify")
        assert (answer["PatientName"], answer["StudyInstanceUID"]) == (NAME, uid("from-orthanc"))
        judge.ask("POST", f"/queries/{query['ID']}/retrieve", json={"TargetAet": AET, "Synchronous": True})
        deadline = time.monotonic() + 60
        while (told := judge.ask("GET", f"/storage-commitment/{asked['ID']}"))["Status"] == "Pending":
            assert time.monotonic() < deadline, told
            time.sleep(0.1)
    assert [one["SOPInstanceUID"] for one in told["Success"]] == [made.SOPInstanceUID]
    assert [one["SOPInstanceUID"] for one in told["Failures"]] == [uid("nobody", "has", "this")]
    back = judge.ask("GET", f"/instances/{instance['ID']}/simplified-tags")
    assert back["PatientName"] == NAME


def test_what_a_node_does_not_take_is_told_and_not_tried_again(settings, kept, radiologist):
    kept(*(dataset("refused", "a", number) for number in (1, 2, 3)))
    second = uid("refused", "a", "2")
    with peer(evt.EVT_C_STORE, lambda event: 0xA900 if event.request.AffectedSOPInstanceUID == second else 0) as port:
        know(settings, "WS1", port=port)
        with answering(settings):
            radiologist.post(f"/studies/{uid('refused')}/send", data={"node": "WS1"})
            (one,) = until(radiologist, "refused", ended)
    assert (one["state"], one["attempts"], one["reason_code"]) == ("failed", 1, "INPUT_NOT_TAKEN")
    assert "1 of 3: 1 × status A900" in one["reason"]


def test_what_is_lost_with_a_process_is_sent_by_the_next(settings, kept, radiologist, rows):
    """The row of a sending whose job is gone, as a killed process and its sweep leave it."""
    kept(dataset("lost", "a"))
    seen = []
    with peer(evt.EVT_C_STORE, lambda event: seen.append(event.request.AffectedSOPInstanceUID) or 0) as port:
        know(settings, "WS1", port=port)
        radiologist.post(f"/studies/{uid('lost')}/send", data={"node": "WS1"})
        rows("DELETE FROM procrastinate_jobs WHERE task_name = 'send'")
        rows("UPDATE sending SET state = 'running', attempts = 1")
        with answering(settings):
            (one,) = until(radiologist, "lost", ended)
    assert (one["state"], one["attempts"], len(seen)) == ("done", 2, 1)


def test_nobody_sends_what_they_do_not_see_nor_to_nodes_of_others(settings, kept, invite, signed_in):
    invite("other-site")
    kept(dataset("mine", "a"))
    know(settings, "WS1")
    know(settings, "WS2", "other-site")
    path = f"/studies/{uid('mine')}/send"
    mine, other = signed_in(("radiologist", "st-anna")), signed_in(("radiologist", "other-site"))
    assert mine.post(path, data={"node": "WS2"}).status_code == 404
    assert other.post(path, data={"node": "WS2"}).status_code == 404
    assert other.get(f"/studies/{uid('mine')}/sendings").status_code == 404
    assert signed_in(("technologist", "st-anna")).post(path, data={"node": "WS1"}).status_code == 403
    assert [one["node"] for one in mine.get("/nodes").json()] == ["WS1"]


def test_a_commitment_outlasts_the_process_that_promised_it(settings, kept, rows):
    """A node asks, the process ends, the next one tells the node: what is there and what is not."""
    made = dataset("promise", "a")
    kept(made)
    told = []

    def heard(event):
        told.append((event.event_type, event.event_information))
        return 0, None

    with peer(evt.EVT_N_EVENT_REPORT, heard, classes=(COMMITMENT,)) as port:
        know(settings, "WS1", port=port)
        rows("UPDATE node SET port = 1")
        wanted = Dataset()
        wanted.TransactionUID = uid("transaction")
        wanted.ReferencedSOPSequence = [Dataset(), Dataset()]
        for item, number in zip(wanted.ReferencedSOPSequence, ("1", "9"), strict=True):
            item.ReferencedSOPClassUID = made.SOPClassUID
            item.ReferencedSOPInstanceUID = uid("promise", "a", number)
        with answering(settings) as ours:
            entity = AE("WS1")
            entity.add_requested_context(COMMITMENT, ExplicitVRLittleEndian)
            association = entity.associate("127.0.0.1", ours, ae_title="LAMPYRIS")
            status, _ = association.send_n_action(wanted, 1, COMMITMENT, INSTANCE)
            assert status.Status == 0
            association.release()
        assert rows("SELECT state FROM commitment") == [("waiting",)]
        rows("UPDATE node SET port = %s", port)
        rows("UPDATE procrastinate_jobs SET scheduled_at = now() WHERE queue_name = 'dimse'")
        with answering(settings):
            deadline = time.monotonic() + 60
            while rows("SELECT state FROM commitment") != [("told",)]:
                assert time.monotonic() < deadline
                time.sleep(0.05)
    ((kind, report),) = told
    assert (kind, report.TransactionUID) == (2, uid("transaction"))
    assert [one.ReferencedSOPInstanceUID for one in report.ReferencedSOPSequence] == [made.SOPInstanceUID]
    assert [one.FailureReason for one in report.FailedSOPSequence] == [0x0112]
