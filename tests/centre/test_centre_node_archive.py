"""dcmtk stores into the archive over the network, asks it, and fetches from it; names come back unharmed."""

import pydicom
import pytest
from centre_dicom import dataset, encoded, pixels
from centre_node import answering, know, storescp, tool
from centre_orthanc import free_port
from pydicom.uid import JPEGLSLossless, RLELossless

from lampyris.dicom.ids import uid

pytestmark = pytest.mark.judge

NAMES = ("Zhang^San=张^三", "𠮷^田", "㐀^匼區")
"""In both halves of GB18030, with four bytes, and with 0x5C and 0x5E as second bytes."""


@pytest.fixture
def port(settings, invite, program):
    program("storescu")
    invite("st-anna")
    invite("other-site")
    know(settings, "CT1", commits=False)
    with answering(settings) as found:
        yield found


@pytest.fixture
def sent(port, tmp_path):
    """Send files to the centre as CT1 does."""

    def send(*made, options=(), check=True):
        folder = tmp_path / "sent"
        folder.mkdir(exist_ok=True)
        files = []
        for number, one in enumerate(made):
            file = folder / f"{number}.dcm"
            file.write_bytes(encoded(one))
            files.append(file)
        return tool(
            "storescu", "-v", *options, "-aet", "CT1", "-aec", "LAMPYRIS", "127.0.0.1", port, *files, check=check
        )

    return send


def asked(port, tmp_path, *keys, level="STUDY", model="-S", calling="CT1"):
    """What findscu is answered, as datasets."""
    folder = tmp_path / "found"
    folder.mkdir()
    words = [word for key in (f"QueryRetrieveLevel={level}", *keys) for word in ("-k", key)]
    tool("findscu", model, "-X", "-od", folder, "-aet", calling, "-aec", "LAMPYRIS", "127.0.0.1", port, *words)
    found = [pydicom.dcmread(file, force=True) for file in sorted(folder.glob("rsp*.dcm"))]
    for file in folder.iterdir():
        file.unlink()
    folder.rmdir()
    return found


def test_what_is_stored_is_there_byte_for_byte_before_it_is_answered(sent, rows, settings):
    made = dataset("s", "a")
    sent(made)
    ((site, class_uid, syntax),) = rows(
        "SELECT site, class_uid, syntax_uid FROM instance JOIN study ON study.number = instance.study"
    )
    assert (site, class_uid, syntax) == ("st-anna", made.SOPClassUID, made.file_meta.TransferSyntaxUID)
    sent(made)
    assert rows("SELECT count(*) FROM instance") == [(1,)]


def test_another_object_under_a_uid_that_is_taken_is_refused(sent, rows):
    sent(dataset("s", "a"))
    other = dataset("s", "a", PatientID="another")
    found = sent(other, check=False)
    assert "0x111" in found.stderr
    assert rows("SELECT patient_id FROM study") == [("7f1c22",)]
    assert rows("SELECT outcome FROM audit WHERE kind = 'store' ORDER BY number DESC LIMIT 1") == [("refused",)]


def test_a_node_stores_no_more_in_a_day_than_its_quota(sent, rows, settings):
    size = len(encoded(dataset("s", "a")))
    object.__setattr__(settings, "stored_bytes", 2 * size + 100)
    found = sent(*(dataset("s", "a", number) for number in (1, 2, 3)), options=["--no-halt"], check=False)
    assert "OutOfResources" in found.stderr
    assert rows("SELECT count(*) FROM instance") == [(2,)]
    assert rows("SELECT who FROM stored") == [("node:CT1",)]
    assert rows("SELECT outcome FROM audit WHERE kind = 'store' ORDER BY number DESC LIMIT 1") == [("refused",)]


def test_a_node_that_may_not_store_stores_nothing(port, settings, sent, rows):
    rows("UPDATE node SET may = '{query,retrieve}'")
    sent(dataset("s", "a"), check=False)
    assert rows("SELECT count(*) FROM instance") == [(0,)]


@pytest.mark.parametrize("charset", ["ISO_IR 192", "GB18030"])
def test_chinese_names_are_found_and_come_back_unharmed(port, sent, tmp_path, rows, charset):
    rows("UPDATE node SET charset = %s", charset)
    studies = {uid(f"s{number}"): name for number, name in enumerate(NAMES)}
    sent(*(
        dataset(f"s{number}", "a", PatientName=name, SpecificCharacterSet=charset) for number, name in enumerate(NAMES)
    ))  # fmt: skip
    assert dict(rows("SELECT uid, patient_name FROM study")) == studies
    found = asked(port, tmp_path, "PatientName", "StudyInstanceUID", "NumberOfStudyRelatedInstances")
    assert {one.StudyInstanceUID: str(one.PatientName) for one in found} == studies
    assert {(one.SpecificCharacterSet, one.NumberOfStudyRelatedInstances) for one in found} == {(charset, 1)}
    got = fetched(port, tmp_path / "got", "StudyInstanceUID=" + "\\".join(studies))
    assert {one.StudyInstanceUID: str(one.PatientName) for one in got} == studies


def test_text_that_a_node_cannot_read_is_answered_in_a_wider_set(port, sent, tmp_path, rows):
    rows("UPDATE node SET charset = 'GBK'")
    sent(dataset("s", "a", PatientName="𠮷^田"))
    (found,) = asked(port, tmp_path, "PatientName")
    assert (str(found.PatientName), found.SpecificCharacterSet) == ("𠮷^田", "GB18030")


def test_queries_match_as_the_standard_says(port, sent, tmp_path):
    sent(
        dataset("s", "a", PatientName="ZHANG^SAN=张^三", StudyDate="20261121", StudyTime="081502"),
        dataset("t", "a", PatientName="Müller^Zoé", PatientID="77", StudyDate="20261001", Modality="SR"),
    )
    for keys, expected in (
        (("PatientName=zhang*",), {"s"}),
        (("PatientName=m?ller*",), {"t"}),
        (("StudyDate=20261101-",), {"s"}),
        (("StudyDate=-20261101",), {"t"}),
        (("StudyDate=20261001-20261121", "PatientID=77"), {"t"}),
        (("StudyTime=0800-0830", "StudyDate=20261121"), {"s"}),
        (("ModalitiesInStudy=SR",), {"t"}),
        ((rf"StudyInstanceUID={uid('s')}\{uid('t')}",), {"s", "t"}),
        (("AccessionNumber=A-?",), {"s", "t"}),
        (("AccessionNumber=A_s",), set()),
        (("PatientName=zhang%",), set()),
    ):
        wanted = keys if any(key.startswith("StudyInstanceUID") for key in keys) else (*keys, "StudyInstanceUID")
        found = asked(port, tmp_path, *wanted)
        assert {one.StudyInstanceUID for one in found} == {uid(one) for one in expected}, keys


def test_series_and_instances_are_found_below_their_study(port, sent, tmp_path):
    sent(dataset("s", "a"), dataset("s", "b", 2, SeriesNumber=9), dataset("s", "b", 3, SeriesNumber=9))
    study = f"StudyInstanceUID={uid('s')}"
    series = asked(port, tmp_path, study, "SeriesNumber=9", "NumberOfSeriesRelatedInstances", level="SERIES")
    assert [one.NumberOfSeriesRelatedInstances for one in series] == [2]
    images = asked(
        port, tmp_path, study, f"SeriesInstanceUID={uid('s', 'b')}", "SOPInstanceUID", "InstanceNumber", level="IMAGE"
    )
    assert sorted(one.InstanceNumber for one in images) == [2, 3]
    patients = asked(port, tmp_path, "PatientID", "PatientName", level="PATIENT", model="-P")
    assert [one.PatientID for one in patients] == ["7f1c22"]


def test_a_query_without_the_keys_above_its_level_is_refused(port, sent, tmp_path):
    sent(dataset("s", "a"))
    found = tool(
        "findscu", "-v", "-S", "-aet", "CT1", "-aec", "LAMPYRIS", "127.0.0.1", port, "-k", "QueryRetrieveLevel=SERIES",
        "-k", "SeriesInstanceUID", check=False,
    )  # fmt: skip
    assert "DataSetDoesNotMatchSOPClass" in found.stderr


def fetched(port, folder, *keys, level="STUDY", options=(), calling="CT1", check=True):
    """What getscu brings, as datasets."""
    folder.mkdir()
    words = [word for key in (f"QueryRetrieveLevel={level}", *keys) for word in ("-k", key)]
    tool(
        "getscu", "-S", *options, "-od", folder, "-aet", calling, "-aec", "LAMPYRIS", "127.0.0.1", port, *words,
        check=check,
    )  # fmt: skip
    return [pydicom.dcmread(file) for file in sorted(folder.iterdir())]


@pytest.mark.parametrize("key", ["StudyInstanceUID=everything", "StudyInstanceUID=*", "StudyInstanceUID"])
def test_a_key_that_means_nothing_fetches_nothing(port, sent, tmp_path, key):
    sent(dataset("s", "a"))
    assert fetched(port, tmp_path / "got", key, check=False) == []


def test_another_site_sees_nothing_and_gets_nothing(port, sent, tmp_path, settings):
    know(settings, "PACS2", "other-site")
    sent(dataset("s", "a"))
    assert asked(port, tmp_path, "StudyInstanceUID", calling="PACS2") == []
    assert fetched(port, tmp_path / "got", f"StudyInstanceUID={uid('s')}", calling="PACS2", check=False) == []


def test_a_study_moves_to_a_node_of_its_site_and_to_no_other(port, sent, tmp_path, settings, rows):
    here, strange = free_port(), free_port()
    know(settings, "WS1", port=here)
    know(settings, "PACS2", "other-site", port=strange)
    sent(dataset("s", "a"), dataset("s", "a", 2))
    folder = tmp_path / "moved"
    folder.mkdir()
    study = ("-k", "QueryRetrieveLevel=STUDY", "-k", f"StudyInstanceUID={uid('s')}")
    words = ("movescu", "-v", "-S", "-aet", "CT1", "-aec", "LAMPYRIS")
    refused = tool(*words, "-aem", "PACS2", "127.0.0.1", port, *study, check=False)
    assert "MoveDestinationUnknown" in refused.stderr
    with storescp(here, folder):
        tool(*words, "-aem", "WS1", "127.0.0.1", port, *study)
    assert len(list(folder.iterdir())) == 2
    sends = rows("SELECT object, detail->>'to', detail->>'instances' FROM audit WHERE kind = 'send'")
    assert sends == [(uid("s"), "WS1", "2")]


@pytest.mark.parametrize("syntax", [RLELossless, JPEGLSLossless])
def test_what_is_compressed_is_decompressed_for_whoever_takes_nothing_else(port, sent, tmp_path, syntax):
    made = dataset("s", "a")
    options = {RLELossless: "-xr", JPEGLSLossless: "-xt"}
    made.compress(syntax, generate_instance_uid=False)
    sent(made, options=(options[syntax],))
    (plain,) = fetched(port, tmp_path / "plain", f"StudyInstanceUID={uid('s')}")
    assert not plain.file_meta.TransferSyntaxUID.is_compressed
    assert (plain.pixel_array == pixels(1)).all()
    assert plain.SOPInstanceUID == made.SOPInstanceUID
