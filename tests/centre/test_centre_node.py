"""Who is let in by the centre's DICOM node, and what a bad peer may cost it."""

import asyncio
import contextlib
import dataclasses
import datetime
import ipaddress
import os
import socket
import struct
import subprocess
import sys
import threading
import time

import pytest
from centre_dicom import dataset, encoded
from centre_node import answering, know, tool
from centre_orthanc import free_port
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from procrastinate.exceptions import ConnectorException
from pynetdicom import AE

from lampyris.centre.dimse import nodes
from lampyris.centre.dimse.service import serve
from lampyris.centre.settings import VARIABLE
from lampyris.dicom.source import unquoted

pytestmark = pytest.mark.judge


@pytest.fixture
def port(settings, invite, program):
    program("echoscu")
    invite("st-anna")
    with answering(settings) as found:
        yield found


@pytest.fixture
def certificates(tmp_path):
    """A folder as LAMPYRIS_DICOM_TLS names it: an authority, and a certificate of 127.0.0.1 by it."""
    folder, now = tmp_path / "tls", datetime.datetime.now(datetime.UTC)
    folder.mkdir()
    keys = [ec.generate_private_key(ec.SECP256R1()) for _ in range(2)]
    names = [x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)]) for name in ("authority", "node")]
    for name, key, subject in (("ca.pem", keys[0], names[0]), ("cert.pem", keys[1], names[1])):
        made = x509.CertificateBuilder().subject_name(subject).issuer_name(names[0]).public_key(key.public_key())
        made = made.serial_number(x509.random_serial_number())
        made = made.not_valid_before(now - datetime.timedelta(days=1)).not_valid_after(now + datetime.timedelta(days=1))
        made = made.add_extension(x509.BasicConstraints(ca=name == "ca.pem", path_length=None), critical=True)
        made = made.add_extension(
            x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), critical=False
        )
        (folder / name).write_bytes(made.sign(keys[0], hashes.SHA256()).public_bytes(serialization.Encoding.PEM))
    (folder / "key.pem").write_bytes(keys[1].private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    ))  # fmt: skip
    return folder


def echo(port, calling="CT1", called="LAMPYRIS"):
    return tool("echoscu", "-v", "-aet", calling, "-aec", called, "127.0.0.1", port, check=False)


def test_a_known_node_is_answered(port, settings):
    know(settings, "CT1")
    assert echo(port).returncode == 0


def test_an_unknown_title_is_refused_and_it_is_written_down(port, settings, rows):
    know(settings, "CT1")
    found = echo(port, calling="CT2")
    assert "Calling AE Title Not Recognized" in found.stdout + found.stderr
    assert rows("SELECT kind, who, outcome FROM audit ORDER BY number DESC LIMIT 1") == [("login", "node:?", "refused")]


def test_a_known_title_from_another_address_is_refused(port, settings):
    know(settings, "CT1", host="127.0.0.2")
    found = echo(port)
    assert "Calling AE Title Not Recognized" in found.stdout + found.stderr


def test_another_called_title_is_refused(port, settings):
    know(settings, "CT1")
    found = echo(port, called="OTHER")
    assert "Called AE Title Not Recognized" in found.stdout + found.stderr


def test_a_node_of_a_suspended_site_is_refused(port, settings, rows):
    know(settings, "CT1")
    rows("UPDATE site SET suspended = true")
    assert echo(port).returncode != 0


def spoken(port, data: bytes) -> None:
    """Say this to the port and hang up when it does, or after a moment."""
    with socket.create_connection(("127.0.0.1", port), timeout=30) as one:
        one.sendall(data)
        one.settimeout(0.2)
        try:
            while one.recv(4096):
                pass
        except OSError:
            pass


def request_pdu(calling: str = "CT1") -> bytes:
    """An A-ASSOCIATE-RQ of CT1 for verification, as pynetdicom encodes it."""
    entity = AE(calling)
    entity.add_requested_context("1.2.840.10008.1.1")
    sent = []
    listening = socket.create_server(("127.0.0.1", 0))
    with listening:
        entity.acse_timeout = 1

        def read() -> None:
            with listening.accept()[0] as one:
                sent.append(one.recv(65536))

        reader = threading.Thread(target=read)
        reader.start()
        entity.associate("127.0.0.1", listening.getsockname()[1], ae_title="LAMPYRIS").abort()
        reader.join()
    return sent[0]


def test_garbage_on_the_port_harms_nobody(port, settings, rng):
    know(settings, "CT1")
    whole = request_pdu()
    said = [
        b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(500),
        struct.pack(">BBL", 1, 0, 0xFFFFFFFF) + bytes(4096),
        struct.pack(">BBL", 4, 0, 100) + bytes(100),
        whole[: len(whole) // 2],
        whole + rng.bytes(2000),
        whole + struct.pack(">BBL", 4, 0, 0xFFFFFFF0) + bytes(1000),
        whole + struct.pack(">BBLLBB", 4, 0, 6, 2, 1, 3),
    ]
    for _ in range(12):
        broken = bytearray(whole)
        for place in rng.integers(0, len(broken), 8):
            broken[place] = rng.integers(0, 256)
        said.append(bytes(broken))
        said.append(rng.bytes(int(rng.integers(1, 300))))
    for each in said:
        spoken(port, each)
    assert echo(port).returncode == 0


def test_slow_peers_hold_nobody_else(port, settings):
    know(settings, "CT1")
    held = [socket.create_connection(("127.0.0.1", port), timeout=30) for _ in range(12)]
    for number, one in enumerate(held):
        one.sendall(b"\x01\x00\x00\x00"[: 1 + number % 4])
    assert echo(port).returncode == 0
    for one in held:
        one.close()


def test_connections_beyond_what_is_held_are_closed(port, settings, monkeypatch):
    monkeypatch.setattr("lampyris.centre.dimse.scp.server._Server.most", 3)
    held = [socket.create_connection(("127.0.0.1", port), timeout=30) for _ in range(3)]
    deadline = time.monotonic() + 60
    while True:
        with socket.create_connection(("127.0.0.1", port), timeout=30) as one:
            one.settimeout(0.2)
            try:
                if one.recv(1) == b"":
                    break
            except TimeoutError:
                pass
        assert time.monotonic() < deadline
    for one in held:
        one.close()


async def ends(centre, begun):
    """Begin a node and end it, once that has begun."""

    async def node():
        async with serve(centre, ("127.0.0.1", 0)):
            await begun.wait()

    await asyncio.wait_for(node(), 60)


def test_a_node_ends_though_its_database_went_first(inside):
    """A queue whose connections were closed meets the cancellation with an error of its own."""

    async def action(centre):
        begun = asyncio.Event()

        async def gone(**_options):
            begun.set()
            try:
                await asyncio.sleep(600)
            except asyncio.CancelledError:
                raise ConnectorException("the pool is closed") from None

        centre.jobs.run_worker_async = gone
        await ends(centre, begun)

    inside(action)


def test_what_beats_beside_the_node_ends_though_its_wait_swallowed_that(inside, monkeypatch):
    async def action(centre):
        looked = asyncio.Event()

        async def looks(*_args, **_options):
            looked.set()
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.sleep(600)

        monkeypatch.setattr("lampyris.centre.dimse.work.recover", looks)
        await ends(centre, looked)

    inside(action)


def associated(port, calling):
    entity = AE(calling)
    entity.add_requested_context("1.2.840.10008.1.1")
    return entity.associate("127.0.0.1", port, ae_title="LAMPYRIS")


def test_one_node_cannot_take_the_place_of_all(port, settings, monkeypatch):
    monkeypatch.setattr("lampyris.centre.dimse.scp.server.PER_NODE", 2)
    know(settings, "CT1")
    know(settings, "CT2")
    held = [associated(port, "CT1") for _ in range(3)]
    assert [one.is_established for one in held] == [True, True, False]
    assert held[2].acceptor.primitive.result_source == 0x03
    assert echo(port, calling="CT2").returncode == 0
    for one in held[:2]:
        one.release()
    assert echo(port, calling="CT1").returncode == 0


def test_a_node_is_offered_what_it_may_do_and_nothing_else(port, settings):
    know(settings, "CT1", may=("store",))
    entity = AE("CT1")
    ct, find, mpps = "1.2.840.10008.5.1.4.1.1.2", "1.2.840.10008.5.1.4.1.2.2.1", "1.2.840.10008.3.1.2.3.3"
    for each in (ct, find, mpps):
        entity.add_requested_context(each)
    association = entity.associate("127.0.0.1", port, ae_title="LAMPYRIS")
    assert {one.abstract_syntax for one in association.accepted_contexts} == {ct}
    association.release()


def test_it_ends_while_an_association_is_open(settings, invite):
    invite("st-anna")
    know(settings, "CT1")
    with answering(settings) as port:
        association = associated(port, "CT1")
        assert association.is_established
        began = time.monotonic()
    assert time.monotonic() - began < 10, "nothing was in hand"
    deadline = time.monotonic() + 30
    while association.is_established:
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_over_tls_both_sides_show_who_they_are(settings, invite, certificates, program):
    program("echoscu")
    invite("st-anna")
    own = dataclasses.replace(settings, dicom_tls=str(certificates))
    know(own, "CT1", tls=True)
    files = certificates / "key.pem", certificates / "cert.pem"
    words = ("-v", "-aet", "CT1", "-aec", "LAMPYRIS", "127.0.0.1")
    with answering(own, tls=True) as port:
        assert tool("echoscu", "+tls", *files, "+cf", certificates / "ca.pem", *words, port).returncode == 0
        assert tool("echoscu", "+tla", "-ic", *words, port, check=False).returncode != 0
        assert tool("echoscu", *words, port, check=False).returncode != 0
    with answering(own) as port:
        assert tool("echoscu", *words, port, check=False).returncode != 0


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
# pynetdicom 3.0.4 drops the socket of a connection that was refused without closing it; the interpreter does.
def test_an_echo_of_ours_tells_what_is_wrong(settings, invite, inside):
    invite("st-anna")
    node = know(settings, "CT1", port=1)
    found = inside(lambda centre: nodes.echo(centre.settings, node))
    assert not found.answered
    with answering(settings) as port:
        other = dataclasses.replace(node, aet="OTHER", port=port)
        assert "rejects" in inside(lambda centre: nodes.echo(centre.settings, other)).detail


def test_the_process_writes_nothing_of_what_it_is_sent(settings, invite, tmp_path, program):
    """A name and a value that libraries complain of; the log has the UID of nobody and the name of nobody."""
    program("storescu")
    invite("st-anna")
    know(settings, "CT1")
    with unquoted():
        made = dataset("s", "a", PatientName="Secret^Name", PatientBirthDate="SECRETDATE", StudyDate="SECRETDATE")
        (tmp_path / "one.dcm").write_bytes(encoded(made))
    port = free_port()
    command = [sys.executable, "-m", "lampyris.centre.dimse", "--host", "127.0.0.1", "--port", str(port)]
    log = tmp_path / "log"
    with log.open("wb") as words:
        process = subprocess.Popen(command, stderr=words, stdout=words, env=os.environ | {VARIABLE: settings.to_json()})
    try:
        deadline = time.monotonic() + 120
        while b"node ready" not in log.read_bytes():
            assert process.poll() is None, log.read_text("utf-8")
            assert time.monotonic() < deadline
            time.sleep(0.05)
        tool("storescu", "-aet", "CT1", "-aec", "LAMPYRIS", "127.0.0.1", port, tmp_path / "one.dcm", check=False)
        words = ("-k", "QueryRetrieveLevel=STUDY", "-k", "PatientName=SECRET*", "-k", "PatientBirthDate=SECRETDATE")
        tool("findscu", "-S", "-aet", "CT1", "-aec", "LAMPYRIS", "127.0.0.1", port, *words, check=False)
    finally:
        process.terminate()
        assert process.wait(60) == 0
    assert "secret" not in log.read_text("utf-8").lower()
