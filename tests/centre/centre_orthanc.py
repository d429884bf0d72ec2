"""An Orthanc of its own for tests: an independent archive on the loopback interface, with its DICOMweb plugin."""

import json
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

PLUGINS = Path("/usr/share/orthanc/plugins")
AET = "JUDGE"
_DEADLINE_S = 120.0


@dataclass(frozen=True, slots=True)
class Orthanc:
    """A running Orthanc: a client of its REST API, its ports on 127.0.0.1, and the folder of its worklist files."""

    client: httpx.Client
    http_port: int
    dicom_port: int
    worklists: Path

    @property
    def dicomweb(self) -> str:
        return f"http://127.0.0.1:{self.http_port}/dicom-web"

    def ask(self, method: str, path: str, **body: Any) -> Any:
        """The JSON that Orthanc answers with; fails aloud for any other answer than success."""
        answer = self.client.request(method, path, **body)
        assert answer.status_code == 200, f"{method} {path}: {answer.status_code} {answer.text[:500]}"
        return answer.json()


def free_port() -> int:
    """A port of the loopback interface that nobody listens on now."""
    with socket.create_server(("127.0.0.1", 0)) as found:
        port: int = found.getsockname()[1]
        return port


@contextmanager
def orthanc(program: str, folder: Path, **more: Any) -> Iterator[Orthanc]:
    """Start Orthanc with its data in a folder, and `more` in its configuration: DicomModalities, DicomWeb …

    Names are kept in UTF-8: its default, Latin-1, would lose 张^三.
    """
    worklists = folder / "worklists"
    worklists.mkdir(parents=True)
    http_port, dicom_port = free_port(), free_port()
    chosen = {
        "Name": "judge", "StorageDirectory": str(folder / "storage"), "IndexDirectory": str(folder / "storage"),
        "HttpPort": http_port, "DicomPort": dicom_port, "DicomAet": AET, "DefaultEncoding": "Utf8",
        "RemoteAccessAllowed": False, "AuthenticationEnabled": False, "HttpThreadsCount": 8, "ConcurrentJobs": 2,
        "DicomAlwaysAllowStore": True, "SaveJobs": False, "StorageAccessOnFind": "Always",
        "Plugins": [str(PLUGINS / "libOrthancDicomWeb.so"), str(PLUGINS / "libModalityWorklists.so")],
        "Worklists": {"Enable": True, "Database": str(worklists), "FilterIssuerAet": False},
    } | more  # fmt: skip
    chosen["DicomWeb"] = {"Enable": True, "Root": "/dicom-web/", "EnableWado": False} | more.get("DicomWeb", {})
    (folder / "orthanc.json").write_text(json.dumps(chosen), "utf-8")
    with (folder / "orthanc.log").open("wb") as log:
        process = subprocess.Popen([program, str(folder / "orthanc.json")], stdout=log, stderr=subprocess.STDOUT)
        try:
            with httpx.Client(base_url=f"http://127.0.0.1:{http_port}", trust_env=False, timeout=120.0) as client:
                _wait(process, client, folder / "orthanc.log")
                yield Orthanc(client, http_port, dicom_port, worklists)
        finally:
            process.terminate()
            try:
                process.wait(30)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def _wait(process: "subprocess.Popen[bytes]", client: httpx.Client, log: Path) -> None:
    deadline = time.monotonic() + _DEADLINE_S
    while True:
        assert process.poll() is None, f"Orthanc ended: {log.read_text('utf-8', 'replace')[-2000:]}"
        try:
            if client.get("/system").status_code == 200:
                return
        except httpx.TransportError:
            assert time.monotonic() < deadline, "Orthanc does not answer"
        time.sleep(0.05)
