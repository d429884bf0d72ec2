"""DICOMweb by the letter of PS3.18: what is stored is found, comes back unchanged, and only to those who may see it."""

import io
import xml.etree.ElementTree as ET

import numpy as np
import pydicom
import pytest
from centre_dicom import COLUMNS, ROWS, dataset, encoded, parts, pixels, raw_text, stow
from PIL import Image
from pydicom.encaps import encapsulate
from pydicom.pixels import get_encoder
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ImplicitVRLittleEndian,
    JPEGLSLossless,
    SecondaryCaptureImageStorage,
)

from lampyris.centre.archive.dicomweb.parts import Splitter
from lampyris.dicom.ids import uid

STUDY = f"/dicomweb/studies/{uid('a')}"
SERIES = f"{STUDY}/series/{uid('a', 'lung')}"
INSTANCE = f"{SERIES}/instances/{uid('a', 'lung', '1')}"
PLAIN = "1.2.840.10008.1.2.1"
DICOM = 'multipart/related; type="application/dicom"'
OCTETS = 'multipart/related; type="application/octet-stream"'


def asked(client, path, accept="application/dicom+json", **query):
    return client.get(path, params=query, headers={"Accept": accept})


def uids(answer, tag="0020000D"):
    assert answer.status_code in (200, 204), answer.text
    return {one[tag]["Value"][0] for one in answer.json()} if answer.content else set()


# Searching


def test_a_study_is_told_with_all_that_the_standard_asks_for(reader):
    assert stow(reader, encoded(dataset("a", "lung")), encoded(dataset("a", "lung", 2))).status_code == 200
    (found,) = asked(reader, "/dicomweb/studies").json()
    assert found["00100010"]["Value"] == [{"Alphabetic": "Zhang^San", "Ideographic": "张^三"}]
    assert found["00080061"]["Value"] == ["CT"]
    assert (found["00201206"]["Value"], found["00201208"]["Value"]) == ([1], [2])
    assert found["00081190"]["Value"][0].endswith(STUDY)
    assert found["00081190"]["Value"][0].startswith(str(reader.base_url))
    assert found["00100030"] == {"vr": "DA"}
    assert list(found) == sorted(found)
    (series,) = asked(reader, f"{STUDY}/series").json()
    assert series["00201209"]["Value"] == [2]
    assert "00100010" not in series
    (series,) = asked(reader, "/dicomweb/series").json()
    assert series["00100020"]["Value"] == ["7f1c22"]
    first, second = asked(reader, f"{SERIES}/instances").json()
    assert (first["00280010"]["Value"], second["00200013"]["Value"]) == ([ROWS], [2])
    assert first["00080016"]["Value"] == ["1.2.840.10008.5.1.4.1.1.2"]


@pytest.fixture
def filled(reader):
    told = (
        {"PatientName": "Zhang^San=张^三", "StudyDate": "20261120", "StudyTime": "081502", "PatientID": "a_1"},
        {"PatientName": "Li^Si=李^四=リ^シ", "StudyDate": "20261121", "StudyTime": "1200", "PatientID": "ab1"},
        {"PatientName": "=𠮷^田", "StudyDate": "20261122", "StudyTime": "235959.5", "Modality": "MR"},
        {"PatientName": "MÜLLER^Jörg", "StudyDate": "", "StudyTime": "", "StudyDescription": "100% thorax"},
    )
    files = [encoded(dataset(f"s{number}", "lung", **each)) for number, each in enumerate(told)]
    assert stow(reader, *files).status_code == 200
    return reader


MATCHES = [
    ({"PatientName": "zhang^san"}, {0}),
    ({"00100010": "张^三"}, {0}),
    ({"PatientName": "*三"}, {0}),
    ({"PatientName": "リ*"}, {1}),
    ({"PatientName": "L?^S?"}, {1}),
    ({"PatientName": "Li^Si=李*"}, {1}),
    ({"PatientName": "Zhang^San=李*"}, set()),
    ({"PatientName": "𠮷^田"}, {2}),
    ({"PatientName": "müller*"}, {3}),
    ({"PatientName": "*"}, {0, 1, 2, 3}),
    ({"PatientID": "a_1"}, {0}),
    ({"PatientID": "a_*"}, {0}),
    ({"PatientID": "a?1"}, {0, 1}),
    ({"PatientID": "A_1"}, set()),
    ({"StudyDate": "20261121"}, {1}),
    ({"StudyDate": "20261121-"}, {1, 2}),
    ({"StudyDate": "-20261121"}, {0, 1}),
    ({"StudyDate": "20261120-20261121"}, {0, 1}),
    ({"StudyTime": "0800-1200"}, {0, 1}),
    ({"StudyTime": "12"}, {1}),
    ({"StudyTime": "235959.1-"}, {2}),
    ({"StudyDescription": "100%*"}, {3}),
    ({"StudyDescription": "%"}, set()),
    ({"ModalitiesInStudy": "MR,PT"}, {2}),
    ({"ModalitiesInStudy": "C?"}, {0, 1, 3}),
    ({"AccessionNumber": "A-s1"}, {1}),
    ({"StudyInstanceUID": f"{uid('s0')},{uid('s2')}"}, {0, 2}),
    ({"StudyInstanceUID": f"{uid('s0')}\\{uid('s2')}"}, {0, 2}),
    ({"ReferringPhysicianName": "li*", "PatientName": "li*"}, {1}),
    ({"NumberOfStudyRelatedInstances": "1"}, {0, 1, 2, 3}),
]


def test_studies_match(filled):
    for query, expected in MATCHES:
        found = uids(asked(filled, "/dicomweb/studies", **query))
        assert found == {uid(f"s{one}") for one in expected}, query


def test_attributes_without_a_column_match_in_the_metadata(reader):
    request = pydicom.Dataset()
    request.ScheduledProcedureStepID = "SPS-7"
    stow(
        reader,
        encoded(dataset("a", "lung", 1, ProtocolName="thorax", SliceLocation="-12.5")),
        encoded(dataset("a", "lung", 2, ProtocolName="thorax", SliceLocation="-11.5")),
        encoded(dataset("a", "bone", RequestAttributesSequence=[request], OperatorsName="Wang^Wu")),
    )
    series = f"{STUDY}/series"
    lung, bone = {uid("a", "lung")}, {uid("a", "bone")}
    assert uids(asked(reader, series, ProtocolName="tho*"), "0020000E") == lung
    assert uids(asked(reader, series, **{"RequestAttributesSequence.00400009": "SPS-7"}), "0020000E") == bone
    assert uids(asked(reader, series, OperatorsName="WANG^*"), "0020000E") == bone
    assert uids(asked(reader, series, SeriesNumber="3", Modality="CT"), "0020000E") == lung | bone
    instances = "/dicomweb/instances"
    assert uids(asked(reader, instances, SliceLocation="-11.5"), "00080018") == {uid("a", "lung", "2")}
    assert uids(asked(reader, instances, InstanceNumber="1", Modality="CT"), "0020000E") == lung | bone


def test_more_attributes_are_told_when_asked_for(reader):
    stow(reader, encoded(dataset("a", "lung", PatientAge="056Y", BodyPartExamined="CHEST", SliceLocation="1.5")))
    (found,) = asked(reader, "/dicomweb/studies", includefield="PatientAge,00180015").json()
    assert found["00101010"]["Value"] == ["056Y"]
    assert "00180015" not in found
    (found,) = asked(reader, "/dicomweb/series", includefield="all").json()
    assert found["00180015"]["Value"] == ["CHEST"]
    (found,) = asked(reader, f"{SERIES}/instances", includefield="all").json()
    assert found["00201041"]["Value"] == [1.5]


def test_pages_of_results_tell_that_there_are_more(filled):
    answer = asked(filled, "/dicomweb/studies", limit="3")
    assert len(answer.json()) == 3
    assert "additional results" in answer.headers["warning"]
    rest = asked(filled, "/dicomweb/studies", limit="3", offset="3")
    assert "warning" not in rest.headers
    assert uids(answer) | uids(rest) == {uid(f"s{one}") for one in range(4)}


def test_what_cannot_be_done_is_said(filled):
    answer = asked(filled, "/dicomweb/studies", fuzzymatching="true", PatientName="zhang san")
    assert (answer.status_code, answer.content) == (204, b"")
    assert "fuzzymatching" in answer.headers["warning"]
    for query in (
        {"StudyDate": "yesterday"}, {"Colour": "red"}, {"SeriesDescription": "x"}, {"StudyInstanceUID": "a"},
        {"limit": "-1"}, {"limit": "0"}, {"00400275": "x"}, {"PatientID": "x" * 5000},
    ):  # fmt: skip
        answer = asked(filled, "/dicomweb/studies", **query)
        assert (answer.status_code, answer.json()["code"]) == (400, "QUERY"), query
    assert (
        asked(filled, "/dicomweb/studies", accept='multipart/related; type="application/dicom+xml"').status_code == 406
    )


def test_a_query_is_noted_without_what_was_asked_for(filled, rows):
    asked(filled, "/dicomweb/studies", PatientName="Zhang*")
    ((detail,),) = rows("SELECT detail::text FROM audit WHERE kind = 'query'")
    assert '"00100010"' in detail
    assert "Zhang" not in detail


# Retrieving


def test_files_come_back_unchanged(reader):
    files = [encoded(dataset("a", "lung", number)) for number in (1, 2, 3)]
    stow(reader, *files)
    for path in (STUDY, SERIES):
        answer = asked(reader, path, DICOM)
        assert [content for _, content in parts(answer)] == files
        assert int(answer.headers["content-length"]) == len(answer.content)
        assert parts(answer)[0][0]["content-type"] == f"application/dicom; transfer-syntax={PLAIN}"
    ((_, content),) = parts(asked(reader, INSTANCE, "*/*"))
    assert content == files[0]
    again = reader.get(SERIES, headers={"Accept": DICOM, "If-None-Match": answer.headers["etag"]})
    assert (again.status_code, again.content) == (304, b"")


def test_one_instance_is_given_alone_and_in_ranges(reader):
    file = encoded(dataset("a", "lung"))
    stow(reader, file)
    answer = asked(reader, INSTANCE, "application/dicom")
    assert answer.content == file
    part = reader.get(INSTANCE, headers={"Accept": "application/dicom", "Range": "bytes=100-199"})
    assert (part.status_code, part.content) == (206, file[100:200])
    assert part.headers["content-range"] == f"bytes 100-199/{len(file)}"
    beyond = reader.get(INSTANCE, headers={"Accept": "application/dicom", "Range": f"bytes={len(file)}-"})
    assert beyond.status_code == 416


def test_metadata_are_those_of_the_file_with_addresses_of_bulk_data(reader):
    made = dataset("a", "lung", ImageComments="𠮷", EncapsulatedDocument=bytes(range(256)) * 8)
    stow(reader, encoded(made))
    for path in (STUDY, SERIES, INSTANCE):
        (found,) = asked(reader, f"{path}/metadata").json()
        assert found["00204000"]["Value"] == ["𠮷"]
        assert found["00083002"]["Value"] == [PLAIN]
        base = (
            f"{reader.base_url}{INSTANCE[1:]}" if str(reader.base_url).endswith("/") else f"{reader.base_url}{INSTANCE}"
        )
        assert found["7FE00010"] == {"vr": "OW", "BulkDataURI": f"{base}/bulkdata/7FE00010"}
    overlay = reader.get(found["00420011"]["BulkDataURI"], headers={"Accept": "application/octet-stream"})
    assert overlay.content == bytes(range(256)) * 8
    ((_, content),) = parts(reader.get(found["7FE00010"]["BulkDataURI"], headers={"Accept": OCTETS}))
    assert content == pixels().tobytes()


def many(frames, **more):
    """A secondary capture of several frames."""
    made = dataset("a", "lung", SOPClassUID=SecondaryCaptureImageStorage, NumberOfFrames=frames, **more)
    made.file_meta.MediaStorageSOPClassUID = SecondaryCaptureImageStorage
    made.PixelData = b"".join(pixels(each).tobytes() for each in range(frames))
    return made


def test_frames_are_given_in_the_order_that_is_asked_for(reader):
    stow(reader, encoded(many(4)))
    for accept in ("*/*", OCTETS, f"{OCTETS}; transfer-syntax={PLAIN}", f"{OCTETS}; transfer-syntax=*"):
        found = parts(asked(reader, f"{INSTANCE}/frames/3,1", accept))
        assert [content for _, content in found] == [pixels(2).tobytes(), pixels(0).tobytes()]
        assert found[0][0]["content-type"] == f"application/octet-stream; transfer-syntax={PLAIN}"
    alone = asked(reader, f"{INSTANCE}/frames/2", "application/octet-stream")
    assert alone.content == pixels(1).tobytes()
    assert asked(reader, f"{INSTANCE}/frames/5", OCTETS).status_code == 404
    for wrong in ("0", "1,x", "-1"):
        assert asked(reader, f"{INSTANCE}/frames/{wrong}", OCTETS).status_code in (400, 404)
    assert asked(reader, f"{INSTANCE}/frames/1", 'multipart/related; type="image/jp2"').status_code == 406


def compressed(frames=2):
    made = many(frames)
    encode = get_encoder(JPEGLSLossless).encode
    made.PixelData = encapsulate([encode(made, index=each) for each in range(frames)])
    made["PixelData"].VR = "OB"
    made.file_meta.TransferSyntaxUID = JPEGLSLossless
    return made


def test_compressed_pixels_are_given_as_they_are_or_decoded(reader):
    made = compressed()
    stow(reader, encoded(made))
    ((head, content),) = parts(asked(reader, INSTANCE, f"{DICOM}; transfer-syntax=*"))
    assert content == encoded(made)
    assert head["content-type"].endswith(JPEGLSLossless)
    ((head, content),) = parts(asked(reader, INSTANCE, DICOM))
    plain = pydicom.dcmread(io.BytesIO(content))
    assert plain.file_meta.TransferSyntaxUID == PLAIN
    assert plain.PixelData == many(2).PixelData
    assert plain.SOPInstanceUID == made.SOPInstanceUID
    ((head, content),) = parts(asked(reader, f"{INSTANCE}/frames/2", OCTETS))
    assert content == pixels(1).tobytes()
    ((head, content),) = parts(asked(reader, f"{INSTANCE}/frames/2", 'multipart/related; type="image/jls"'))
    assert head["content-type"] == f"image/jls; transfer-syntax={JPEGLSLossless}"
    assert content in made.PixelData
    ((head, _),) = parts(asked(reader, f"{INSTANCE}/frames/1", f"{OCTETS}; transfer-syntax=*"))
    assert head["content-type"].endswith(JPEGLSLossless)
    assert asked(reader, INSTANCE, f"{DICOM}; transfer-syntax=1.2.840.10008.1.2.4.90").status_code == 406


@pytest.mark.parametrize("syntax", [ImplicitVRLittleEndian, ExplicitVRBigEndian, DeflatedExplicitVRLittleEndian])
def test_other_native_syntaxes_are_read_and_given_plain(reader, syntax):
    made = many(2, PatientName="Zhang^San=张^三")
    made.file_meta.TransferSyntaxUID = syntax
    if syntax == ExplicitVRBigEndian:
        made.PixelData = b"".join(pixels(each).byteswap().tobytes() for each in range(2))
    assert stow(reader, encoded(made)).status_code == 200
    ((_, content),) = parts(asked(reader, INSTANCE, DICOM))
    plain = pydicom.dcmread(io.BytesIO(content))
    assert plain.PixelData == many(2).PixelData
    assert str(plain.PatientName) == "Zhang^San=张^三"
    ((_, content),) = parts(asked(reader, f"{INSTANCE}/frames/2", OCTETS))
    assert content == pixels(1).tobytes()


def test_pictures_follow_the_window_and_the_viewport(reader):
    stow(reader, encoded(dataset("a", "lung")))
    answer = asked(reader, f"{INSTANCE}/rendered", "image/png", window="50,101,linear")
    assert answer.headers["content-type"] == "image/png"
    found = np.asarray(Image.open(io.BytesIO(answer.content)), np.float64)
    values = pixels().astype(float) - 1024
    expected = np.clip(((values - 49.5) / 100 + 0.5) * 255, 0, 255)
    assert np.abs(found - expected).max() <= 0.5
    exact = asked(reader, f"{INSTANCE}/rendered", "image/png", window="50,100,sigmoid")
    found = np.asarray(Image.open(io.BytesIO(exact.content)), np.float64)
    assert np.abs(found - 255 / (1 + np.exp(-4 * (values - 50) / 100))).max() <= 0.5
    small = Image.open(io.BytesIO(asked(reader, f"{INSTANCE}/rendered", "image/jpeg", viewport="16,16").content))
    assert small.size == (16, 16 * ROWS // COLUMNS)
    part = Image.open(io.BytesIO(asked(reader, f"{INSTANCE}/rendered", "image/png", viewport="8,8,4,2,8,8").content))
    assert part.size == (8, 8)
    for wrong in (
        {"window": "1"},
        {"window": "1,2,cubic"},
        {"viewport": "0,3"},
        {"quality": "101"},
        {"window": "nan,1"},
    ):
        assert asked(reader, f"{INSTANCE}/rendered", "image/png", **wrong).status_code == 400
    assert asked(reader, f"{INSTANCE}/rendered", "image/tiff").status_code == 406
    for path in (STUDY, SERIES, INSTANCE):
        thumbnail = Image.open(io.BytesIO(asked(reader, f"{path}/thumbnail", "image/jpeg").content))
        assert max(thumbnail.size) == 128


def test_many_files_stream_whole(reader):
    """More than one block, so that blocks, heads and ends of files fall on each other in every way."""
    files = [encoded(dataset("a", "lung", number, EncapsulatedDocument=bytes(700_000))) for number in range(1, 20)]
    stow(reader, *files)
    assert [content for _, content in parts(asked(reader, STUDY, DICOM))] == files


# Storing


def test_each_file_that_is_refused_has_its_reason(reader, rows):
    good = encoded(dataset("a", "lung"))
    other = encoded(dataset("a", "lung", ImageComments="other"))
    named = uid("b", "lung", "1")
    wrong = encoded(dataset("b", "lung")).replace(named.encode(), named.replace("2.25", "2.26").encode(), 1)
    verification = dataset("c", "lung", SOPClassUID="1.2.840.10008.1.1")
    assert stow(reader, good).status_code == 200
    answer = stow(reader, good, other, wrong, encoded(verification), good[:-7], b"no DICOM")
    assert answer.status_code == 202
    told = answer.json()
    assert [one["00081155"]["Value"][0] for one in told["00081199"]["Value"]] == [uid("a", "lung", "1")]
    reasons = {one["00081155"]["Value"][0]: one["00081197"]["Value"][0] for one in told["00081198"]["Value"]}
    assert reasons == {
        uid("a", "lung", "1"): 0x0111, uid("b", "lung", "1"): 0xA900, uid("c", "lung", "1"): 0x0122,
    }  # fmt: skip
    assert [one["00081197"]["Value"][0] for one in told["0008119A"]["Value"]] == [0xC000, 0xC000]
    assert stow(reader, other).status_code == 409
    assert rows("SELECT count(*) FROM instance") == [(1,)]


def test_nothing_of_a_refused_file_stays_in_the_store(reader, settings):
    stow(reader, encoded(dataset("a", "lung")))
    stow(reader, encoded(dataset("a", "lung", ImageComments="other")))
    stow(reader, encoded(dataset("a", "lung")))
    assert len([one for one in (settings.folder / "objects" / "dicom").rglob("*") if one.is_file()]) == 1


def test_a_request_about_one_study_takes_no_other(reader):
    answer = stow(reader, encoded(dataset("a", "lung")), encoded(dataset("b", "lung")), path=STUDY)
    assert answer.status_code == 202
    assert answer.json()["00081198"]["Value"][0]["00081155"]["Value"] == [uid("b", "lung", "1")]


def test_one_file_is_stored_without_a_multipart(reader):
    file = encoded(dataset("a", "lung"))
    answer = reader.post("/dicomweb/studies", content=file, headers={"Content-Type": "application/dicom"})
    assert answer.status_code == 200
    assert asked(reader, INSTANCE, "application/dicom").content == file


def test_a_large_file_goes_by_way_of_the_disk(reader, settings):
    file = encoded(dataset("a", "lung", EncapsulatedDocument=bytes(9 << 20)))
    assert stow(reader, file).status_code == 200
    assert asked(reader, INSTANCE, "application/dicom").content == file
    assert not list((settings.folder / "scratch").iterdir())


MALFORMED = [
    ("application/json", b"{}", 415),
    ('multipart/related; type="application/dicom+json"; boundary=x', b"--x--", 415),
    ('multipart/related; type="application/dicom"', b"--x--", 415),
    ('multipart/related; type="application/dicom"; boundary=x', b"--x--", 400),
    ('multipart/related; type="application/dicom"; boundary=x', b"--x\r\n\r\nabc", 400),
    ('multipart/related; type="application/dicom"; boundary=x', b"nothing", 400),
    ('multipart/related; type="application/dicom"; boundary=x', b"--xy\r\n\r\nabc\r\n--x--", 400),
]


def test_a_malformed_body_is_refused(reader):
    for kind, body, status in MALFORMED:
        answer = reader.post("/dicomweb/studies", content=body, headers={"Content-Type": kind})
        assert answer.status_code == status, (kind, body)


def test_bodies_are_split_alike_wherever_they_break():
    body = b"preamble\r\n--x\r\nA: b\r\n\r\none\r\n--\r\n-x\r\n--x  \r\n\r\n\r\n--x\r\n\r\ntwo\r\n--x--epilogue"
    for size in range(1, len(body) + 1):
        splitter, found = Splitter("x"), []
        for at in range(0, len(body), size):
            for what, content in splitter.feed(body[at : at + size]):
                if what == "data":
                    found[-1] += content
                elif what == "header":
                    found.append(b"")
        assert (found, splitter.ended) == ([b"one\r\n--\r\n-x", b"", b"two"], True), size


MISLABELLED = [
    ("张^三".encode("gb18030"), "ISO_IR 100", "张^三"),
    ("㐀^诚".encode("gb18030"), None, "㐀^诚"),
    ("𠮷^田".encode("gb18030"), "ISO_IR 192", "𠮷^田"),
    ("张^三".encode(), "ISO_IR 100", "张^三"),
    ("𠮷^田".encode("gb18030"), "GB18030", "𠮷^田"),
    ("誠^乗".encode("gbk"), "GBK", "誠^乗"),
    ("誠^乗".encode("gb18030"), "GB18030", "誠^乗"),
    ("Müller^Jörg".encode("latin-1"), "ISO_IR 100", "Müller^Jörg"),
]


def test_names_are_found_as_they_were_meant_and_files_stay_as_they_were(reader):
    for number, (raw, charset, name) in enumerate(MISLABELLED):
        file = encoded(raw_text(dataset(f"n{number}", "lung"), "PatientName", raw, charset))
        assert raw in file
        stow(reader, file)
        (found,) = asked(reader, "/dicomweb/studies", PatientName=name, StudyInstanceUID=uid(f"n{number}")).json()
        assert found["00100010"]["Value"] == [{"Alphabetic": name}]
        ((_, content),) = parts(asked(reader, f"/dicomweb/studies/{uid(f'n{number}')}", DICOM))
        assert content == file


# Who may


def test_a_tenant_sees_nothing_of_another(reader, invite, signed_in, rows):
    invite("other-site")
    stranger = signed_in(("radiologist", "other-site"), ("operator", "other-site"))
    stow(reader, encoded(dataset("a", "lung")))
    assert asked(stranger, "/dicomweb/studies").status_code == 204
    for path, accept in (
        (STUDY, DICOM), (SERIES, DICOM), (INSTANCE, DICOM), (f"{INSTANCE}/frames/1", "*/*"),
        (f"{INSTANCE}/metadata", "*/*"), (f"{INSTANCE}/rendered", "*/*"), (f"{STUDY}/thumbnail", "*/*"),
        (f"{INSTANCE}/bulkdata/7FE00010", "*/*"),
    ):  # fmt: skip
        assert asked(stranger, path, accept).status_code == 404, path
    assert stranger.delete(STUDY).status_code == 404
    assert rows("SELECT count(*) FROM audit WHERE kind = 'view'") == [(0,)]


def test_the_same_study_at_two_sites_is_two_and_each_sees_its_own(reader, invite, signed_in):
    invite("other-site")
    other = signed_in(("radiologist", "other-site"))
    mine, theirs = encoded(dataset("a", "lung")), encoded(dataset("a", "lung", PatientName="Li^Si"))
    assert (stow(reader, mine).status_code, stow(other, theirs).status_code) == (200, 200)
    assert [content for _, content in parts(asked(reader, STUDY, DICOM))] == [mine]
    assert [content for _, content in parts(asked(other, STUDY, DICOM))] == [theirs]


def test_who_stores_for_several_sites_says_for_which(reader, invite, signed_in, rows):
    invite("other-site")
    both = signed_in(("technologist", "st-anna"), ("technologist", "other-site"))
    file = encoded(dataset("a", "lung"))
    assert stow(both, file).status_code == 409
    assert stow(both, file, path="/dicomweb/studies?site=third").status_code == 403
    assert stow(both, file, path="/dicomweb/studies?site=other-site").status_code == 200
    assert rows("SELECT site FROM study") == [("other-site",)]


def test_looking_is_noted_once(reader, rows):
    stow(reader, encoded(dataset("a", "lung")))
    for path in (STUDY, SERIES, INSTANCE):
        asked(reader, path, DICOM)
    ((site, study),) = rows("SELECT site, object FROM audit WHERE kind = 'view'")
    assert (site, study) == ("st-anna", uid("a"))


def test_a_study_is_deleted_with_its_files_and_noted(reader, signed_in, rows, settings):
    stow(reader, encoded(dataset("a", "lung")), encoded(dataset("b", "lung")))
    assert reader.delete(STUDY).status_code == 403
    assert signed_in(("operator", "st-anna")).delete(STUDY).status_code == 204
    assert uids(asked(reader, "/dicomweb/studies")) == {uid("b")}
    assert len([one for one in (settings.folder / "objects" / "dicom").rglob("*") if one.is_file()]) == 1
    assert rows("SELECT object FROM audit WHERE kind = 'delete'") == [(uid("a"),)]


def test_capabilities_name_every_route(reader):
    answer = reader.request("OPTIONS", "/dicomweb/", headers={"Accept": "application/vnd.sun.wadl+xml"})
    assert answer.status_code == 200, answer.text
    paths = {
        one.get("path") for one in ET.fromstring(answer.content).iter("{http://wadl.dev.java.net/2009/02}resource")
    }
    assert {"studies", "studies/{study}/series/{series}/instances/{instance}/frames/{numbers}"} <= paths
