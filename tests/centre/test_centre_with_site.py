"""Both halves of the protocol against each other: the site's agent, the centre's server, a worker between them."""

import asyncio
import json
import threading
import time

import pydicom
import pytest

from lampyris import raw, simulate
from lampyris.centre import opened
from lampyris.centre.jobs.reconstruct import reconstruct
from lampyris.centre.jobs.worker import work
from lampyris.centre.recipes.choice import Library
from lampyris.centre.store import Store
from lampyris.phantom import water_cylinder
from lampyris.site import Agent, Config
from lampyris.site import client as line
from lampyris.site import enrol as enrol_site
from lampyris.site.config import CentreLink, Folder, Keeping, Watch

LIBRARY = Library.of_package()

STUDY = {"PatientName": "张^三=Zhang^San", "PatientID": "4711-A", "PatientBirthDate": "19700623", "PatientSex": "M"}


@pytest.fixture
def config(tmp_path, client) -> Config:
    (tmp_path / "scans").mkdir()
    return Config(
        tmp_path / "site",
        CentreLink(str(client.base_url).rstrip("/"), poll_s=0.2),
        (Folder("archive", tmp_path / "archive"),),
        watch=Watch(tmp_path / "scans", poll_s=0.1),
        spool=Keeping(free_gb=0.0),
    )


def worked(settings, make, done: threading.Event) -> None:
    """A worker, until the event is set."""

    async def whole() -> None:
        async with opened(settings, connections=4) as centre:
            working = asyncio.create_task(work(centre, ("routine",), make, signals=False))
            while not done.is_set():
                await asyncio.sleep(0.05)
            working.cancel()
            await asyncio.gather(working, return_exceptions=True)

    asyncio.run(whole())


def test_a_scan_leaves_its_site_without_a_name_and_comes_home_with_it(client, config, invite, settings, rows, tmp_path):
    """Folder of the scanner → agent → centre → worker → agent → folder of the archive."""
    made = simulate.scan(
        water_cylinder(120.0), simulate.scanner("small"), simulate.Protocol(kind="axial", mas=50.0), seed=5
    )
    raw.write(made, config.watch.folder / "water.lraw")
    (config.watch.folder / "water.lraw.json").write_text(
        json.dumps({"study": STUDY, "recipe": "routine-head"}), "utf-8"
    )
    store, seen, done = Store(settings), [], threading.Event()

    def make(work, manifest, folder, watch):
        seen.append((dict(manifest.study), manifest.packing))
        return reconstruct(store, manifest, folder, library=LIBRARY, committed=work.committed, watch=watch)

    worker = threading.Thread(target=worked, args=(settings, make, done))
    worker.start()
    try:
        with line(config.centre) as http:
            site = enrol_site(http, config.folder, invite("st-anna"), now=time.time)
            agent = threading.Thread(target=Agent(config, site, http).run, args=(done,))
            agent.start()
            deadline = time.monotonic() + 400
            while not list(tmp_path.glob("archive/*/ct_00001.dcm")):
                assert time.monotonic() < deadline, rows("SELECT state, reason_code, reason FROM scan")
                time.sleep(0.2)
            done.set()
            agent.join()
    finally:
        done.set()
        worker.join()
    ((study, packing),) = seen
    assert set(study) <= {"PatientID", "PatientSex", "PatientAge", "StudyInstanceUID", "AccessionNumber"}
    assert study["PatientID"] != "4711-A"
    assert packing
    (home,) = (tmp_path / "archive").iterdir()
    image = pydicom.dcmread(home / "ct_00001.dcm")
    assert (image.PatientName, image.PatientID, image.PatientBirthDate) == (STUDY["PatientName"], "4711-A", "19700623")
    assert rows("SELECT state, attempts, returned IS NOT NULL FROM scan") == [("done", 1, True)]
