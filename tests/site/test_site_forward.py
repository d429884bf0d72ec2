"""A returned series reaches the PACS once in the eyes of its user, by C-STORE, by STOW-RS or as files."""

import io
import json
import re
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pydicom
import pytest
from conftest import STUDY, image, rounds
from pynetdicom import AE, evt
from pynetdicom.sop_class import CTImageStorage

from lampyris.model import FormatError, InputError, StorageError, Study
from lampyris.site import Vault, status
from lampyris.site.config import Dicom, Folder, Stow
from lampyris.site.forward import Item, PacsError, deliver
from lampyris.site.identity import restored, study_in, study_of


def only(found):
    (one,) = found
    return one


class Archive:
    """A PACS on the loopback interface that speaks both ways and keeps what it is given; `answers` come first."""

    def __init__(self) -> None:
        self.held: dict[str, pydicom.Dataset] = {}
        self.told: list[str] = []
        self.answers: list[int] = []
        self.authorization = ""

    def keep(self, dataset: pydicom.Dataset) -> int:
        """The DICOM status of storing an instance."""
        self.told.append(str(dataset.SOPInstanceUID))
        status = self.answers.pop(0) if self.answers else 0
        if status in (0, 0xB000):
            self.held[str(dataset.SOPInstanceUID)] = dataset
        return status


@pytest.fixture
def archive():
    return Archive()


@pytest.fixture
def dimse(archive):
    """The archive as a C-STORE SCP."""

    def stored(event):
        dataset = event.dataset
        dataset.file_meta = event.file_meta
        return archive.keep(dataset)

    entity = AE(ae_title="PACS")
    entity.add_supported_context(CTImageStorage)
    server = entity.start_server(("127.0.0.1", 0), block=False, evt_handlers=[(evt.EVT_C_STORE, stored)])
    yield Dicom("main", "127.0.0.1", server.server_address[1], "PACS", timeout_s=5.0)
    server.shutdown()


@pytest.fixture
def web(archive):
    """The archive as a STOW-RS server."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            archive.authorization = self.headers.get("Authorization", "")
            body = self.rfile.read(int(self.headers["content-length"]))
            boundary = re.search(r"boundary=(\w+)", self.headers["content-type"])[1].encode()
            assert 'type="application/dicom"' in self.headers["content-type"]
            pieces = [each.partition(b"\r\n\r\n")[2].removesuffix(b"\r\n") for each in body.split(b"--" + boundary)]
            found = {"00081199": {"vr": "SQ", "Value": []}, "00081198": {"vr": "SQ", "Value": []}}
            for piece in filter(None, pieces[1:-1]):
                dataset = pydicom.dcmread(io.BytesIO(piece))
                status = archive.keep(dataset)
                one = {"00081155": {"vr": "UI", "Value": [str(dataset.SOPInstanceUID)]}}
                if status:
                    one["00081197"] = {"vr": "US", "Value": [status]}
                found["00081198" if status else "00081199"]["Value"].append(one)
            answer = json.dumps(found).encode()
            failed, stored = (len(found[tag]["Value"]) for tag in ("00081198", "00081199"))
            self.send_response(200 if not failed else 202 if stored else 409)
            self.send_header("Content-Length", str(len(answer)))
            self.end_headers()
            self.wfile.write(answer)

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    yield Stow("web", f"http://127.0.0.1:{server.server_port}/dicom-web")
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture(params=["dimse", "web"])
def pacs(request):
    return request.getfixturevalue(request.param)


@pytest.fixture
def home(agent_of, config, replaced, centre, drop, series, tmp_path):
    """Bring a series home to these PACS: agent and scan."""

    def bring(*pacs, images: int = 3, at=lambda point: None):
        agent = agent_of(replaced(config, pacs=pacs), at)
        drop()
        rounds(agent, 14)
        scan = only(centre.scans)
        centre.reconstruct(scan, series(centre, scan, images))
        return agent, scan

    return bring


def test_a_pacs_gets_every_image_under_the_patients_name(home, archive, pacs):
    agent, _ = home(pacs)
    rounds(agent, 8)
    assert sorted(archive.held) == [f"1.2.826.0.1.{number}" for number in (1, 2, 3)]
    assert archive.told == sorted(archive.held)
    found = archive.held["1.2.826.0.1.3"]
    assert {name: str(found[name].value) for name in STUDY} == STUDY
    assert found.SpecificCharacterSet == "ISO_IR 192"
    assert agent.spool.entries() == []


@pytest.mark.parametrize("answers", [[0xA700, 0xA700], [0, 0xC001], [0x0110, 0, 0x0122, 0x0110]])
def test_what_a_pacs_did_not_take_is_sent_again_and_the_rest_is_not(home, archive, pacs, answers, config):
    archive.answers = list(answers)
    agent, _ = home(pacs)
    rounds(agent, 1)
    agent.beat()
    why = status(config)["waiting"][f"pacs {pacs.name}"]
    assert why[0] == "MACHINE_PACS"
    assert "0x" in why[1]
    rounds(agent, 14)
    assert len(archive.held) == 3
    assert len(archive.told) == 3 + sum(answer != 0 for answer in answers)
    assert agent.spool.entries() == []


def test_an_instance_that_is_there_already_counts_as_stored(home, archive, pacs):
    archive.answers = [0x0111]
    agent, _ = home(pacs)
    rounds(agent, 8)
    assert len(archive.told) == 3
    assert agent.spool.entries() == []


def test_a_warning_counts_as_stored(home, archive, dimse):
    archive.answers = [0xB000]
    agent, _ = home(dimse)
    rounds(agent, 8)
    assert len(archive.told) == 3
    assert agent.spool.entries() == []


class Killed(BaseException):
    """The process ends here."""


def test_killed_before_it_was_written_down_an_image_is_sent_twice_and_held_once(
    home, agent_of, config, replaced, archive, pacs
):
    def at(point: str) -> None:
        if point == "sent":
            raise Killed

    agent, scan = home(pacs, at=at)
    with pytest.raises(Killed):
        rounds(agent, 8)
    assert agent.spool.sent(scan, pacs.name) == []
    rounds(agent_of(replaced(config, pacs=(pacs,))), 8)
    assert len(archive.told) == 6
    assert len(archive.held) == 3


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # pynetdicom leaves its socket open
def test_a_pacs_that_is_away_keeps_no_other_waiting_and_gets_it_later(
    home, archive, dimse, tmp_path, replaced, agent_of, config
):
    away = replaced(dimse, name="away", port=1)
    agent, scan = home(away, Folder("archive", tmp_path / "archive"), images=40)
    rounds(agent, 8)
    assert len(list((tmp_path / "archive" / scan).iterdir())) == 41
    assert archive.told == []
    assert agent.spool.having("returned")
    there = replaced(config, pacs=(replaced(dimse, name="away"), Folder("archive", tmp_path / "archive")))
    rounds(agent_of(there), 8)
    assert len(archive.held) == 40


def test_stow_shows_its_authorization_and_every_refusal_is_told(web, archive, tmp_path, replaced):
    (tmp_path / "token").write_text("Bearer abc\n")
    item = Item("ct.dcm", pydicom.dcmread(io.BytesIO(image(1))))
    deliver(replaced(web, authorization_file=tmp_path / "token"), "s", [item])
    assert archive.authorization == "Bearer abc"
    with pytest.raises(PacsError, match="authorization cannot be read"):
        deliver(replaced(web, authorization_file=tmp_path / "none"), "s", [item])
    with pytest.raises(PacsError, match="no answer to STOW-RS"):
        deliver(replaced(web, url="http://127.0.0.1:1"), "s", [item])


def test_a_pacs_that_does_not_know_the_sop_class_is_told(dimse):
    dataset = pydicom.dcmread(io.BytesIO(image(1)))
    dataset.SOPClassUID = dataset.file_meta.MediaStorageSOPClassUID = "1.2.840.10008.5.1.4.1.1.128"
    with pytest.raises(PacsError, match="no association"):
        deliver(dimse, "s", [Item("pet.dcm", dataset)])


def test_a_folder_that_cannot_be_made_is_the_operators(tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(StorageError, match="cannot be made"):
        deliver(Folder("archive", tmp_path / "file"), "s", [Item("x.json", None, b"{}")])


def test_a_file_that_changed_in_the_spool_is_not_forwarded(home, config, tmp_path):
    archive = Folder("archive", tmp_path / "archive")
    agent, scan = home(archive)
    for _ in range(8):
        agent.fetch()
    path = agent.spool.file(scan, "ct_00002.dcm")
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    rounds(agent, 5)
    assert not archive.folder.exists()
    agent.beat()
    assert "changed in the spool" in status(config)["waiting"]["pacs archive"][1]


@pytest.fixture
def vault(tmp_path):
    return Vault.open(tmp_path)


def test_identity_opens_for_its_own_scan_at_its_own_site_alone(vault, tmp_path):
    study = Study(PatientName="张^三", PatientID="1")
    sealed = vault.seal("a" * 32, study)
    assert vault.unseal("a" * 32, sealed) == study
    (tmp_path / "other").mkdir()
    for scan, text, found in (
        ("b" * 32, sealed, vault),
        ("a" * 32, sealed[:-4] + "AAAA", vault),
        ("a" * 32, "x.y.z", vault),
        ("a" * 32, sealed, Vault.open(tmp_path / "other")),
    ):
        with pytest.raises(FormatError):
            found.unseal(scan, text)
    with pytest.raises(InputError, match="cannot be sealed"):
        vault.seal("a" * 32, Study(PatientName="x" * 9000))


def test_keys_that_others_may_read_are_refused(vault, tmp_path):
    (tmp_path / "identity.key").chmod(0o644)
    with pytest.raises(StorageError, match="chmod 600"):
        Vault.open(tmp_path)
    (tmp_path / "identity.key").chmod(0o600)
    (tmp_path / "identity.key").write_bytes(b"short")
    with pytest.raises(FormatError, match="5 bytes"):
        Vault.open(tmp_path)


@pytest.mark.parametrize(
    ("given", "age"),
    [
        ({"PatientAge": "007M"}, "007M"),
        ({"PatientAge": "seven"}, None),
        ({"PatientBirthDate": "19701122", "StudyDate": "20261121"}, "055Y"),
        ({"PatientBirthDate": "19701121", "StudyDate": "20261121"}, "056Y"),
        ({"PatientBirthDate": "20991121", "StudyDate": "20261121"}, None),
        ({"PatientBirthDate": "1970", "StudyDate": "20261121"}, None),
    ],
)
def test_age_travels_in_years_and_the_day_of_birth_does_not(vault, given, age):
    found = dict(vault.pseudonyms(Study(**given)))
    assert found.get("PatientAge") == age
    assert not [value for value in found.values() if "1970" in value]


def test_one_number_of_two_hospitals_is_two_patients(vault):
    first, second, third = (
        dict(vault.pseudonyms(Study(PatientID="1", IssuerOfPatientID=issuer)))["PatientID"]
        for issuer in ("A", "B", "A")
    )
    assert first == third != second


def test_text_in_another_character_set_is_still_what_it_was():
    dataset = pydicom.dcmread(io.BytesIO(image(1)))
    dataset.SpecificCharacterSet = "GB18030"
    dataset.SeriesDescription = "胸部"
    file = io.BytesIO()
    dataset.save_as(file, enforce_file_format=True)
    found = restored(file.getvalue(), study_of({"PatientName": "张^三"}), ())
    again = io.BytesIO()
    found.save_as(again, enforce_file_format=True)
    read = pydicom.dcmread(io.BytesIO(again.getvalue()))
    assert (read.SeriesDescription, str(read.PatientName)) == ("胸部", "张^三")
    with pytest.raises(FormatError, match="no DICOM"):
        restored(b"not a DICOM file" * 20, Study(), ())


def test_the_study_is_found_in_a_dicom_scan(tmp_path):
    (tmp_path / "a.txt").write_text("x" * 200)
    (tmp_path / "b.dcm").write_bytes(image(1, patient="4711"))
    assert study_in(tmp_path).PatientID == "4711"
    assert study_in(tmp_path / "a.txt") == Study()
