"""How long a reader waits for the first image in the viewer: `python -m bench.viewer [--slices 500] [--matrix 256]`.

A centre of its own, one series in its archive, Debian's Chromium with WebGL drawn in software. The clock begins when
the address is opened and ends when the first image is drawn. First with an empty profile, whose browser fetches and
compiles the viewer; then files are there, which are kept for a year; from the third time on, as every day after,
Chromium has kept the compiled code too. Needs `cd web && npm ci`.
"""

import argparse
import asyncio
import os
import shutil
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

import numpy as np
from playwright.sync_api import BrowserContext, sync_playwright
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.filebase import DicomBytesIO
from pydicom.filewriter import dcmwrite
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian

from bench.running import await_answer, free_port, running
from lampyris.centre import Settings, access, opened
from lampyris.centre.archive.intake import take
from lampyris.centre.people import sessions
from lampyris.centre.viewer import prepare
from lampyris.dicom.ids import uid

PACKAGE = Path(__file__).resolve().parents[1] / "web" / "node_modules" / "@ohif" / "app"
SITE = "st-anna"
TRIES = 8
DRAWN = """() => {
  const canvas = document.querySelector('canvas.cornerstone-canvas');
  if (!canvas || !canvas.width) { return false; }
  const middle = canvas.getContext('2d').getImageData(canvas.width / 2 - 50, canvas.height / 2 - 50, 100, 100).data;
  return middle.some((value, at) => at % 4 === 0 && value > 40);
}"""


def slice_of(number: int, matrix: int) -> Dataset:
    """A slice of a cylinder of soft tissue in noise, 1 mm above the one before."""
    rows, columns = np.mgrid[:matrix, :matrix] - (matrix - 1) / 2
    inside = np.hypot(rows, columns) < 0.4 * matrix
    noise = np.random.default_rng(number).normal(0.0, 20.0, inside.shape)
    made = Dataset()
    made.SOPClassUID, made.SOPInstanceUID = CTImageStorage, uid("bench", "viewer", str(number))
    made.StudyInstanceUID, made.SeriesInstanceUID = uid("bench"), uid("bench", "viewer")
    made.FrameOfReferenceUID, made.Modality, made.SeriesDescription = uid("bench", "frame"), "CT", "micro body 1 mm"
    made.PatientID, made.PatientName, made.SeriesNumber, made.InstanceNumber = "bench", "", 1, number
    made.Rows = made.Columns = matrix
    made.SamplesPerPixel, made.PhotometricInterpretation, made.PixelRepresentation = 1, "MONOCHROME2", 1
    made.BitsAllocated, made.BitsStored, made.HighBit = 16, 16, 15
    made.PixelSpacing, made.SliceThickness = [400.0 / matrix] * 2, 1.0
    made.ImageOrientationPatient, made.ImagePositionPatient = [1, 0, 0, 0, 1, 0], [-200.0, -200.0, float(number)]
    made.RescaleIntercept, made.RescaleSlope, made.WindowCenter, made.WindowWidth = 0, 1, 40, 400
    made.PixelData = np.where(inside, 50.0 + noise, -1000.0).astype("<i2").tobytes()
    made.file_meta = FileMetaDataset()
    made.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    return made


def encoded(made: Dataset) -> bytes:
    """The bytes of a DICOM file."""
    file = DicomBytesIO()
    dcmwrite(file, made, enforce_file_format=True)
    return file.getvalue()


async def filled(settings: Settings, slices: int, matrix: int) -> sessions.Session:
    """An archive with the series, and the session of a radiologist."""
    async with opened(settings, connections=4) as centre:
        async with centre.pool.connection() as connection:
            await access.invite(connection, SITE)
        for number in range(1, slices + 1):
            await take(centre, SITE, encoded(slice_of(number, matrix)))
        async with centre.pool.connection() as connection:
            cursor = await connection.execute(
                "INSERT INTO person (login, name) VALUES ('li', 'Li Si') RETURNING number"
            )
            person = (await cursor.fetchone() or {})["number"]
            await connection.execute("INSERT INTO granted VALUES (%s, 'radiologist', 'centre')", (person,))
            return await sessions.begin(connection, person, "127.0.0.1")


def first_image_s(context: BrowserContext, url: str) -> float:
    """Seconds from opening the address to the first image."""
    page = context.new_page()
    began = time.perf_counter()
    page.goto(url, wait_until="commit")
    page.wait_for_function(DRAWN, polling="raf", timeout=120_000)
    took = time.perf_counter() - began
    page.close()
    return took


def main() -> None:
    arguments = argparse.ArgumentParser(prog="bench.viewer", description=__doc__)
    arguments.add_argument("--slices", type=int, default=500)
    arguments.add_argument("--matrix", type=int, default=256)
    chosen = arguments.parse_args()
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    flags = ["--use-angle=swiftshader", "--enable-unsafe-swiftshader", "--no-sandbox"]
    with tempfile.TemporaryDirectory(prefix="lampyris-") as folder, running(Path(folder), url) as centre:
        release = prepare(PACKAGE, centre.settings.viewer_folder)
        session = asyncio.run(filled(centre.settings, chosen.slices, chosen.matrix))
        centre.interface("127.0.0.1", port)
        await_answer(f"{url}/readyz")
        with sync_playwright() as playwright:
            context = playwright.chromium.launch_persistent_context(
                Path(folder) / "profile", executable_path=shutil.which("chromium"), args=flags,
                viewport={"width": 1280, "height": 800},
            )  # fmt: skip
            context.add_cookies([{"name": sessions.cookie_of(url), "value": session.cookie, "url": url}])
            took = [first_image_s(context, f"{url}/viewer/read?StudyInstanceUIDs={uid('bench')}") for _ in range(TRIES)]
            context.close()
    print(
        f"{chosen.slices} slices of {chosen.matrix}², @ohif/app {release.version}, {os.cpu_count()} processors, load"
        f" {os.getloadavg()[0]:.1f}: first image after {took[0]:.2f} s with an empty profile, {took[1]:.2f} s then,"
        f" {median(took[2:]):.2f} s from the third time on (median; {min(took[2:]):.2f} … {max(took[2:]):.2f})"
    )


if __name__ == "__main__":
    sys.exit(main())
