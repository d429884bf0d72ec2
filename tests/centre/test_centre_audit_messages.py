"""Audit messages of DICOM PS3.15 A.5: by the standard's own schema and codes, and over TLS to a repository."""

import asyncio
import base64
import ssl
import subprocess
from datetime import UTC, datetime, timedelta
from pathlib import Path
from xml.etree import ElementTree

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID
from pydicom.sr.codedict import codes

from lampyris.centre.audit.chain import START, Entry, Kind, Link, note
from lampyris.centre.audit.messages import EVENTS, message_of
from lampyris.centre.audit.syslog import Repository, RepositoryError, framed, line_of, send
from lampyris.model import InputError

STUDY = "1.2.826.0.1.3680043.8.498.7"
AT = datetime(2026, 11, 22, 8, 15, 2, 250_000, UTC)
SOURCE = "https://centre.example"


def link(kind, **more):
    said = {"address": "10.0.0.7", "site": "st-anna", "object": STUDY, "detail": {"what": "㐀 <&>", "count": 3}}
    return Link(7, AT, Entry(kind, "zhang", **(said | more)), START, "ab" * 32)


VARIANTS = [
    *(link(kind) for kind in Kind),
    link(Kind.VIEW, outcome="refused"),
    link(Kind.DELETE, object="0f3c" * 8, outcome="failed"),
    link(Kind.LOGIN, address=None, site=None, object=None, detail={}),
    link(Kind.CONFIGURE, site=None, object=None, address="host.example"),
    link(Kind.PEOPLE, object="wang"),
    link(Kind.APPLICATION, site=None, object="lampyris-api", detail={"what": "stop"}),
]


@pytest.mark.judge
def test_every_message_follows_the_schema_of_the_standard(program, tmp_path):
    xmllint = program("xmllint")
    schema = Path(__file__).with_name("dicom_audit.rng")
    for number, each in enumerate(VARIANTS):
        place = tmp_path / f"{number}.xml"
        place.write_text(message_of(each, SOURCE), "utf-8")
        found = subprocess.run([xmllint, "--noout", "--relaxng", schema, place], capture_output=True, text=True)
        assert found.returncode == 0, f"{each.entry.kind}: {found.stderr}"
    place.write_text(message_of(link(Kind.VIEW), SOURCE).replace('EventActionCode="R"', 'EventActionCode="X"'), "utf-8")
    assert subprocess.run([xmllint, "--noout", "--relaxng", schema, place], capture_output=True).returncode


@pytest.mark.parametrize("kind", list(Kind))
def test_codes_have_the_meanings_of_dicom(kind):
    """Held against the terms of PS3.16 annex D as pydicom has them."""
    known = {code.value: code.meaning for name in codes.DCM.dir() if (code := getattr(codes.DCM, name))}
    for element in ElementTree.fromstring(message_of(link(kind), SOURCE)).iter():
        if element.get("codeSystemName") == "DCM":
            assert known[element.attrib["csd-code"]] == element.attrib["originalText"]
    assert EVENTS[kind].code.value in known


def test_a_message_says_who_did_what_to_which_study_and_how_it_went():
    root = ElementTree.fromstring(message_of(link(Kind.VIEW, outcome="refused"), SOURCE))
    event = root.find("EventIdentification")
    assert (event.get("EventDateTime"), event.get("EventOutcomeIndicator")) == ("2026-11-22T08:15:02.250+00:00", "4")
    person, centre = root.findall("ActiveParticipant")
    assert (person.get("UserID"), person.get("NetworkAccessPointID"), person.get("NetworkAccessPointTypeCode")) == (
        "zhang", "10.0.0.7", "2",
    )  # fmt: skip
    assert (centre.get("UserID"), centre.get("UserIsRequestor")) == (SOURCE, "false")
    study = root.find("ParticipantObjectIdentification")
    assert study.get("ParticipantObjectID") == STUDY
    assert study.find(".//StudyIDs").get("UID") == STUDY
    details = {
        one.get("type"): base64.b64decode(one.get("value")).decode() for one in study.findall("ParticipantObjectDetail")
    }
    assert details == {"what": "㐀 <&>", "count": "3", "number": "7", "digest": "ab" * 32, "tenant": "st-anna"}


def test_a_syslog_message_is_framed_by_its_bytes():
    line = line_of(link(Kind.LOGIN), "https://centre.example")
    assert line.startswith(
        b"<85>1 2026-11-22T08:15:02.250Z https://centre.example lampyris - DICOM+RFC3881 - \xef\xbb\xbf<AuditMessage>"
    )
    assert line_of(link(Kind.LOGIN, outcome="refused"), "").startswith(b"<84>1 2026-11-22T08:15:02.250Z - ")
    assert framed("㐀".encode()) == b"3 \xe3\x90\x80"
    for url in ("syslog://host", "syslog-tls://", "https://host", "syslog-tls://user@host"):
        with pytest.raises(InputError):
            Repository.of(url)
    assert Repository.of("syslog-tls://audit.example").name == "syslog-tls://audit.example:6514"


@pytest.fixture
def certificate(tmp_path):
    """A certificate of 127.0.0.1 that signs itself, and its key, as PEM files."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "repository")])
    now = datetime.now(UTC)
    signed = (
        x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key.public_key())
        .serial_number(7).not_valid_before(now - timedelta(hours=1)).not_valid_after(now + timedelta(hours=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )  # fmt: skip
    (tmp_path / "cert.pem").write_bytes(signed.public_bytes(Encoding.PEM))
    pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    (tmp_path / "key.pem").write_bytes(pem)
    return tmp_path / "cert.pem", tmp_path / "key.pem"


def messages_in(data):
    """RFC 5425: the length in digits, a space, so many bytes."""
    found = []
    while data:
        length, _, rest = data.partition(b" ")
        found.append(rest[: int(length)])
        data = rest[int(length) :]
    return found


def test_a_repository_gets_every_message_once_and_in_order(inside, certificate):
    heard = bytearray()

    async def listen(reader, writer):
        heard.extend(await reader.read())
        writer.close()

    async def action(centre):
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(*certificate)
        async with centre.pool.connection() as connection:
            server = await asyncio.start_server(listen, "127.0.0.1", 0, ssl=context)
            port = server.sockets[0].getsockname()[1]
            repository = Repository.of(f"syslog-tls://localhost:{port}", authority=certificate[0])
            async with server:
                counts = [await send(connection, repository, SOURCE)]
                for who in ("zhang", "li"):
                    await note(connection, Entry(Kind.LOGIN, who))
                counts.append(await send(connection, repository, SOURCE))
                await note(connection, Entry(Kind.LOGIN, "wang"))
                counts.append(await send(connection, repository, SOURCE))
                stranger = Repository("127.0.0.1", port, certificate[0])
                with pytest.raises(RepositoryError):
                    await send(connection, stranger, SOURCE)
                while len(messages_in(bytes(heard))) < 3:
                    await asyncio.sleep(0.01)
            await note(connection, Entry(Kind.LOGIN, "late"))
            with pytest.raises(RepositoryError):
                await send(connection, repository, SOURCE)
        return counts

    assert inside(action) == [0, 2, 1]
    roots = [ElementTree.fromstring(one.split(b"\xef\xbb\xbf")[1]) for one in messages_in(bytes(heard))]
    assert [root.find("ActiveParticipant").get("UserID") for root in roots] == ["zhang", "li", "wang"]
