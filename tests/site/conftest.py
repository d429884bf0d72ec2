"""A site in a temporary folder, a centre in memory, a scan to send and a series to bring home."""

import dataclasses
import io
import json
import random
import threading
from pathlib import Path

import numpy as np
import pydicom
import pytest
from fake_centre import FakeCentre
from pydicom.dataset import FileMetaDataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian

from lampyris import raw
from lampyris.model import Noise, RawScan
from lampyris.site import Agent, Config, Site, Surroundings, client, enrol
from lampyris.site.config import CentreLink, Folder, Keeping, Watch
from lampyris.transfer import limits

STUDY = {
    "PatientName": "张^三=Zhang^San",
    "PatientID": "4711-A",
    "PatientBirthDate": "19700623",
    "PatientSex": "M",
    "StudyDate": "20261121",
    "AccessionNumber": "ACC77",
    "StudyInstanceUID": "1.2.840.99.7",
}
SECRETS = ("张", "Zhang", "4711-A", "19700623", "ACC77", "1.2.840.99.7")


class Clock:
    """Seconds that pass when they are looked at, so that nobody waits in earnest."""

    def __init__(self, step: float) -> None:
        self.at, self.step, self._lock = 1.8e9, step, threading.Lock()

    def __call__(self) -> float:
        with self._lock:
            self.at += self.step
            return self.at


@pytest.fixture
def now():
    return Clock(0.0)


@pytest.fixture
def clock():
    return Clock(20.0)


@pytest.fixture
def centre(now):
    return FakeCentre(now)


@pytest.fixture
def small_chunks(monkeypatch):
    """Chunks of 7 kB, so that a small scan has several."""
    monkeypatch.setattr(limits, "CHUNK_BYTES", 7_013)


@pytest.fixture
def config(tmp_path) -> Config:
    (tmp_path / "scans").mkdir()
    return Config(
        tmp_path / "site",
        CentreLink("https://centre.example", poll_s=0.05),
        (Folder("archive", tmp_path / "archive"),),
        watch=Watch(tmp_path / "scans", poll_s=0.05),
        spool=Keeping(free_gb=0.0),
    )


@pytest.fixture
def site(config, centre, now) -> Site:
    centre.codes["0123456789ABCDEFGHJK"] = ""
    with client(config.centre, centre.transport()) as http:
        return enrol(http, config.folder, "01234-56789-abcde-fghjk", now=now)


@pytest.fixture
def agent_of(site, centre, now, clock):
    """An agent of the site, as after a start; `at` watches its steps."""

    def make(config: Config, at=lambda point: None) -> Agent:
        http = client(config.centre, centre.transport())
        found = Agent(config, site, http, Surroundings(now, clock, random.Random(7), at))
        found.spool.recover()
        return found

    return make


@pytest.fixture
def agent(agent_of, config) -> Agent:
    return agent_of(config)


@pytest.fixture
def scan(lopsided_helix, rng) -> RawScan:
    """97 views of 7 × 61 cells, some ten to a thousand quanta."""
    mean = np.geomspace(10, 1000, 61)
    counts = 5.3 * rng.poisson(np.broadcast_to(mean, lopsided_helix.shape)) + 111
    return RawScan(
        np.rint(counts).astype(np.uint16),
        lopsided_helix,
        rng.uniform(0.2, 0.4, 97),
        dark=rng.uniform(90, 111, (7, 61)),
        air=rng.uniform(6000, 8000, (2, 7, 61)),
        air_exposure_mas=0.28,
        noise=Noise(5.3, 8.1),
    )


@pytest.fixture
def drop(config, scan):
    """Put a scan and its order where the scanner puts them."""

    def put(name: str = "Zhang_San.lraw", scan: RawScan = scan, **order) -> Path:
        path = config.watch.folder / name
        raw.write(scan, path)
        path.with_name(f"{name}.json").write_text(json.dumps({"study": STUDY} | order), "utf-8")
        return path

    return put


def image(number: int, study_uid: str = "1.2.3", patient: str = "x") -> bytes:
    """A small CT image as a centre returns it, under pseudonyms."""
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = CTImageStorage, f"1.2.826.0.1.{number}"
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset = pydicom.Dataset()
    dataset.file_meta = meta
    dataset.SOPClassUID, dataset.SOPInstanceUID = CTImageStorage, f"1.2.826.0.1.{number}"
    dataset.PatientID, dataset.PatientName = patient, ""
    dataset.StudyInstanceUID, dataset.SeriesInstanceUID = study_uid, "1.2.826.0.1"
    reference = pydicom.Dataset()
    reference.StudyInstanceUID = study_uid
    dataset.StudiesContainingOtherReferencedInstancesSequence = [reference]
    dataset.Rows = dataset.Columns = 3
    dataset.BitsAllocated = dataset.BitsStored = 16
    dataset.HighBit, dataset.PixelRepresentation, dataset.SamplesPerPixel = 15, 1, 1
    dataset.PhotometricInterpretation = "MONOCHROME2"
    dataset.PixelData = np.arange(number, number + 9, dtype="<i2").tobytes()
    file = io.BytesIO()
    dataset.save_as(file, enforce_file_format=True)
    return file.getvalue()


@pytest.fixture
def series():
    """Files of a series for a scan that the centre holds."""

    def make(centre: FakeCentre, scan: str, images: int = 3) -> dict[str, bytes]:
        study = dict(centre.scans[scan]["skeleton"].study)
        uid, patient = study.get("StudyInstanceUID", "1.2.3"), study.get("PatientID", "")
        files = {f"ct_{number:05}.dcm": image(number, uid, patient) for number in range(1, images + 1)}
        return files | {"assessment.json": b'{"verdict": "pass"}'}

    return make


def rounds(agent: Agent, times: int, until=lambda: False) -> None:
    """Let an agent do its rounds, one after the other."""
    for _ in range(times):
        agent.take_in()
        agent.send()
        agent.fetch()
        agent.forward()
        if until():
            return


@pytest.fixture
def replaced():
    """A configuration with other values."""
    return dataclasses.replace
