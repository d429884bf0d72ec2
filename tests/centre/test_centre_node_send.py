"""Studies go to nodes by C-STORE and STOW-RS, and both sides say what they keep; Orthanc and dcmtk are the peers."""

import asyncio
import dataclasses
import json
import threading
import time
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

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
from lampyris.centre.dimse.nodes import Node, stow_key
from lampyris.dicom.ids import uid
from lampyris.model import MachineError

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


class Door(BaseHTTPRequestHandler):
    """A STOW-RS that opens to one key alone."""

    def do_POST(self):
        boundary = self.headers["Content-Type"].rpartition("boundary=")[2].encode()
        end = b"--" + boundary + b"--\r\n"
        body = b""
        while not body.endswith(end):  # chunks, whose sizes say nothing here
            body += self.rfile.read(int(self.rfile.readline(), 16))
            self.rfile.readline()
        self.rfile.readline(), self.rfile.readline()
        told = json.dumps({}).encode()
        self.send_response(200 if self.headers["Authorization"] == KEY else 401)
        self.send_header("Content-Type", "application/dicom+json")
        self.send_header("Content-Length", str(len(told)))
        self.end_headers()
        self.wfile.write(told)

    def log_message(self, *_):
        pass


KEY = "Bearer 5f1c0a"


@pytest.fixture
def door():
    """Its address."""
    with ThreadingHTTPServer(("127.0.0.1", 0), Door) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}/studies"
        server.shutdown()
        thread.join()


def test_a_node_that_asks_for_a_key_is_shown_the_one_that_is_its_own(door, settings, kept, radiologist, tmp_path):
    keys = tmp_path / "keys.toml"
    keys.write_text(f'OTHER = "Bearer other"\nDOOR = "{KEY}"\n')
    keys.chmod(0o600)
    kept(dataset("keyed", "a"))
    know(settings, "DOOR", stow=door)
    for stow_keys, expected in ((None, 0), (str(keys), 1)):
        object.__setattr__(settings, "stow_keys", stow_keys)
        with answering(settings):
            radiologist.post(f"/studies/{uid('keyed')}/send", data={"node": "DOOR"})
            one = until(radiologist, "keyed", ended)[0]
        assert (one["way"], one["sent"]) == ("stow", expected)


def test_a_key_travels_neither_in_clear_nor_from_a_file_that_others_read(settings, tmp_path):
    keys = tmp_path / "keys.toml"
    keys.write_text(f'DOOR = "{KEY}"\nBENT = 7\n')
    object.__setattr__(settings, "stow_keys", str(keys))
    node = Node("DOOR", "st-anna", "192.0.2.7", 104, ("store",), stow="http://192.0.2.7/studies")
    keys.chmod(0o640)
    with pytest.raises(MachineError, match="chmod 600"):
        stow_key(settings, node)
    keys.chmod(0o600)
    with pytest.raises(MachineError, match="in clear"):
        stow_key(settings, node)
    with pytest.raises(MachineError, match="BENT"):
        stow_key(settings, dataclasses.replace(node, aet="BENT"))
    assert stow_key(settings, dataclasses.replace(node, stow="https://pacs.example/studies")) == KEY
    assert stow_key(settings, dataclasses.replace(node, aet="NOBODY")) is None
    object.__setattr__(settings, "stow_keys", str(tmp_path / "none"))
    with pytest.raises(MachineError, match="cannot be read"):
        stow_key(settings, node)


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
