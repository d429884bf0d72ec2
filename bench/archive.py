"""An archive of a million instances → times of QIDO-RS, MB/s of WADO-RS and STOW-RS, beside Orthanc's of the same run.

    python -m bench.archive [--instances 1000000] [--slices 500] [--matrix 512] [--asked 60] [--write FILE]

The index is filled by COPY: 1000 sites whose shares fall as 1/rank, studies of five years with one to four series of
1 … 100 instances. Queries go through a real server (granian, one process) as a person with 1, 50 and 1000 sites; the
clock is the client's, the audit's entry is within it. Files are CT slices of noise.
Orthanc (separate program, DICOMweb plugin) holds the stored series alone, so that its queries are told with them
and not with a million. All of it shares the machine with its client.
"""

import argparse
import asyncio
import os
import platform
import secrets
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import httpx
import numpy as np
import psycopg
from psycopg.rows import dict_row
from psycopg.types.json import Jsonb

from lampyris.centre import Settings
from lampyris.centre.archive.index import keys_of
from lampyris.centre.database import dsn_of, migrate, stop
from lampyris.centre.people import tokens
from lampyris.centre.people.rules import Role
from lampyris.centre.people.tenants import MACHINE
from lampyris.centre.settings import VARIABLE
from lampyris.dicom.ids import uid

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests" / "centre"))
from centre_dicom import dataset, encoded
from centre_orthanc import Orthanc, free_port, orthanc

SITES = 1000
FAMILY = ("Zhang", "Wang", "Li", "Zhao", "Chen", "Liu", "Yang", "Huang", "Wu", "Zhou", "Xu", "Sun", "Ma", "Zhu", "Hu")
GIVEN = ("Wei", "Fang", "Na", "Min", "Jing", "Li", "Qiang", "Lei", "Jun", "Yang", "Yong", "Yan", "Jie", "Juan")
HAN = "张王李赵陈刘杨黄吴周徐孙马朱胡"
DICOM = 'multipart/related; type="application/dicom"'


@dataclass(frozen=True, slots=True)
class Filled:
    """The index: rows of each level, the seconds they took, and a series in the middle."""

    studies: int
    series: int
    instances: int
    seconds: float


def main() -> None:
    arguments = argparse.ArgumentParser(prog="bench.archive", description=__doc__)
    arguments.add_argument("--instances", type=int, default=1_000_000)
    arguments.add_argument("--slices", type=int, default=500)
    arguments.add_argument("--matrix", type=int, default=512)
    arguments.add_argument("--asked", type=int, default=60, help="times that each query is asked")
    arguments.add_argument("--write", type=Path, metavar="FILE", help="keep the page there as markdown")
    chosen = arguments.parse_args()
    lines = head(chosen)
    with ExitStack() as running:
        folder = Path(running.enter_context(tempfile.TemporaryDirectory(prefix="bench-", ignore_cleanup_errors=True)))
        settings = Settings(folder / "centre")
        running.callback(stop, settings)
        dsn = dsn_of(settings)
        migrate(dsn)
        filled = fill(dsn, chosen.instances)
        shown = {count: token_of(dsn, count) for count in (1, 50, SITES)}
        base = running.enter_context(served(settings))
        lines += queries(base, shown, filled, chosen.asked)
        print("\n".join(lines), flush=True)
        files = slices(chosen.slices, chosen.matrix)
        lines += streams(base, shown[1], files, running, folder)
    print("\n".join(lines))
    if chosen.write is not None:
        chosen.write.write_text("\n".join(lines) + "\n", "utf-8")


def head(chosen: argparse.Namespace) -> list[str]:
    commit = subprocess.run(["git", "rev-parse", "--short=12", "HEAD"], capture_output=True, text=True).stdout.strip()
    options = f"--instances {chosen.instances} --slices {chosen.slices} --matrix {chosen.matrix}"
    return [
        "# The archive", "",
        f"Written by `python -m bench.archive {options} --write docs/evidence/archive.md`; what is measured says the"
        " module's head.", "",
        f"Machine: {platform.machine()}, {os.cpu_count()} processors, load {os.getloadavg()[0]:.1f} when it began;"
        f" Python {platform.python_version()}. Commit: {commit or '?'}.", "",
    ]  # fmt: skip


def fill(dsn: str, wanted: int) -> Filled:
    """Studies, series and instances by COPY; counts are the database's own work."""
    rng, began = np.random.default_rng(5), time.perf_counter()
    share = 1.0 / np.arange(1, SITES + 1)
    share /= share.sum()
    studies, series, instances = [], [], []
    while len(instances) < wanted:
        number = len(studies) + 1
        studies.append(study_row(number, int(rng.choice(SITES, p=share)), rng))
        for each in range(int(rng.integers(1, 5))):
            series.append((len(series) + 1, number, each + 1))
            count = min(int(np.exp(rng.uniform(0.0, np.log(100.0)))), wanted - len(instances))
            instances += [(len(instances) + 1 + one, number, len(series), one + 1) for one in range(count)]
    with psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute("INSERT INTO site (id) SELECT 'site-' || n FROM generate_series(0, %s) AS n", (SITES - 1,))
        with connection.transaction(), connection.cursor() as cursor:
            copy_all(cursor, studies, series, instances)
        for table in ("study", "series", "instance"):
            connection.execute(
                f"SELECT setval(pg_get_serial_sequence('{table}', 'number'), (SELECT max(number) FROM {table}))"
            )
        connection.execute("VACUUM ANALYZE")
    return Filled(len(studies), len(series), len(instances), time.perf_counter() - began)


def study_row(number: int, site: int, rng: np.random.Generator) -> tuple[object, ...]:
    family, given = rng.integers(0, len(FAMILY)), rng.integers(0, len(GIVEN))
    name = f"{FAMILY[family]}^{GIVEN[given]}=" + HAN[family] + "^" + HAN[given]
    day = np.datetime64("2021-11-22") + int(rng.integers(0, 1826))
    date, patient, accession = str(day).replace("-", ""), f"P{rng.integers(0, 10**7):07d}", f"A{number:08d}"
    groups = name.split("=")
    json = {
        "00080020": {"vr": "DA", "Value": [date]}, "00080050": {"vr": "SH", "Value": [accession]},
        "00100010": {"vr": "PN", "Value": [{"Alphabetic": groups[0], "Ideographic": groups[1]}]},
        "00100020": {"vr": "LO", "Value": [patient]}, "0020000D": {"vr": "UI", "Value": [uid("bench", str(number))]},
    }  # fmt: skip
    return (
        number, f"site-{site}", uid("bench", str(number)), patient, name, keys_of(name), date, "081502", accession,
        Jsonb(json),
    )  # fmt: skip


def copy_all(
    cursor: psycopg.Cursor[tuple[object, ...]],
    studies: list[tuple[object, ...]],
    series: list[tuple[int, int, int]],
    instances: list[tuple[int, int, int, int]],
) -> None:
    columns = "number, site, uid, patient_id, patient_name, patient_keys, study_date, study_time, accession, json"
    with cursor.copy(f"COPY study ({columns}) FROM STDIN") as copy:
        for row in studies:
            copy.write_row(row)
    with cursor.copy("COPY series (number, study, uid, modality, series_number, json) FROM STDIN") as copy:
        for number, study, order in series:
            common = common_of(study, number, order)
            copy.write_row((number, study, uid("series", str(number)), "CT", order, Jsonb(common)))
    columns = (
        "number, study, series, uid, class_uid, syntax_uid, instance_number, prefix, bytes, sha256, content, pixel_at,"
        " pixel_bytes, own"
    )
    with cursor.copy(f"COPY instance ({columns}) FROM STDIN") as copy:
        for number, study, of_series, order in instances:
            name = f"2.25.{number}"
            own = {
                "00080018": {"vr": "UI", "Value": [name]}, "00200013": {"vr": "IS", "Value": [order]},
                "00200032": {"vr": "DS", "Value": [-170.5, -168.25, order * 0.75]},
                "00201041": {"vr": "DS", "Value": [order * 0.75]},
            }  # fmt: skip
            digest = f"{number:064x}"
            copy.write_row((
                number, study, of_series, name, "1.2.840.10008.5.1.4.1.1.2", "1.2.840.10008.1.2.1", order,
                "dicom/bench", 526_000, digest, digest, 1700, 524_288, Jsonb(own),
            ))  # fmt: skip


def common_of(study: int, number: int, order: int) -> dict[str, object]:
    """Metadata of a slice as our own writer makes it."""
    made = dataset(f"bench-{study}", f"series-{number}", 1, SeriesNumber=order, Manufacturer="Lampyris").to_json_dict()
    made.pop("7FE00010")
    made |= {f"0021{each:04X}": {"vr": "LO", "Value": [f"a value of some length, number {each}"]} for each in range(60)}
    return dict(sorted(made.items()))


def token_of(dsn: str, sites: int) -> str:
    """A token of a radiologist of the first `sites` sites, the largest among them."""

    async def whole() -> str:
        async with await psycopg.AsyncConnection.connect(dsn, autocommit=True, row_factory=dict_row) as connection:
            cursor = await connection.execute(
                "INSERT INTO person (login, name) VALUES (%s, 'Reader') RETURNING number", (f"reader-{sites}",)
            )
            person = (await cursor.fetchone() or {})["number"]
            tenants = ["centre"] if sites == SITES else [f"site-{one}" for one in range(sites)]
            for tenant in tenants:
                await connection.execute(
                    "INSERT INTO granted (person, role, tenant) VALUES (%s, %s, %s)", (person, Role.RADIOLOGIST, tenant)
                )
            return await tokens.issue(connection, MACHINE, person, "bench", 1)

    return asyncio.run(whole())


@contextmanager
def served(settings: Settings) -> Iterator[str]:
    """A server of one process, as `lampyris serve` starts it; its address."""
    port = free_port()
    command = [sys.executable, "-P", "-m", "lampyris.centre.api", "--host", "127.0.0.1", "--port", str(port)]
    chosen = Settings(settings.folder, requests_per_s=1e6)
    environment = os.environ | {VARIABLE: chosen.to_json()}
    log = subprocess.DEVNULL
    process = subprocess.Popen([*command, "--processes", "1"], env=environment, stdout=log, stderr=log)
    base = f"http://127.0.0.1:{port}"
    try:
        deadline = time.monotonic() + 120
        while True:
            try:
                if httpx.get(f"{base}/healthz", trust_env=False).status_code == 200:
                    break
            except httpx.TransportError:
                if time.monotonic() > deadline or process.poll() is not None:
                    raise SystemExit("the server does not answer") from None
            time.sleep(0.1)
        yield base
    finally:
        process.terminate()
        process.wait(60)


def queries(base: str, shown: dict[int, str], filled: Filled, asked: int) -> list[str]:
    """A table of milliseconds, median and 95th percentile, for callers with so many sites."""
    study = uid("bench", str(filled.studies // 2))
    kinds: tuple[tuple[str, str, dict[str, str]], ...] = (
        ("newest 101 studies", "/studies", {"limit": "101"}),
        ("studies of a week, CT", "/studies", {"StudyDate": "20261101-20261107", "limit": "101"}),
        ("name, prefix `Zhang^W*`", "/studies", {"PatientName": "Zhang^W*", "limit": "101"}),
        ("name, `*王*` anywhere", "/studies", {"PatientName": "*王*", "limit": "101"}),
        ("patient id", "/studies", {"PatientID": "P0012345"}),
        ("accession number", "/studies", {"AccessionNumber": "A00000017"}),
        ("study UID", "/studies", {"StudyInstanceUID": study}),
        ("page 20 of studies", "/studies", {"limit": "50", "offset": "1000"}),
        ("series of a study", f"/studies/{study}/series", {}),
        ("first 100 instances of a study", f"/studies/{study}/instances", {"limit": "100"}),
        ("instances of modality CT, any study", "/instances", {"Modality": "CT", "limit": "100"}),
    )
    lines = [
        f"## QIDO-RS over {filled.instances} instances",
        "",
        f"{filled.studies} studies, {filled.series} series, {SITES} sites; filled in {filled.seconds:.0f} s."
        f" Milliseconds, median / p95 of {asked}.",
        "",
        "| query | " + " | ".join(f"{count} site{'s' * (count > 1)}" for count in shown) + " | results |",
        "|---|" + "---|" * (len(shown) + 1),
    ]
    worst = 0.0
    for title, path, given in kinds:
        cells, found = [], 0
        for token in shown.values():
            with httpx.Client(headers={"Authorization": f"Bearer {token}"}, trust_env=False, timeout=120) as client:
                took, found = timed(partial(client.get, f"{base}/dicomweb{path}", params=given), asked)
            middle, late = np.percentile(took, [50, 95])
            worst = max(worst, float(late))
            cells.append(f"{middle:.0f} / {late:.0f}")
        lines.append(f"| {title} | {' | '.join(cells)} | {found} |")
    return [*lines, "", f"Largest p95: {worst:.0f} ms.", ""]


def timed(ask: Callable[[], httpx.Response], times: int) -> tuple[list[float], int]:
    """Milliseconds of each answer, after three that are not counted; and how many results it had."""
    took, found = [], 0
    for each in range(times + 3):
        began = time.perf_counter()
        answer = ask()
        if each >= 3:
            took.append(1000 * (time.perf_counter() - began))
        if answer.status_code not in (200, 204):
            raise SystemExit(f"{answer.status_code}: {answer.text[:300]}")
        found = len(answer.json()) if answer.content else 0
    return took, found


def slices(count: int, matrix: int) -> list[bytes]:
    """Files of a CT series of noise."""
    rng, made = np.random.default_rng(3), []
    for number in range(1, count + 1):
        one = dataset("stored", "series", number, Rows=matrix, Columns=matrix)
        one.PixelData = rng.normal(0.0, 30.0, (matrix, matrix)).astype("<i2").tobytes()
        made.append(encoded(one))
    return made


def streams(base: str, token: str, files: list[bytes], running: ExitStack, folder: Path) -> list[str]:
    """A table of MB/s of storing and retrieving one series, at ours and at Orthanc."""
    total = sum(map(len, files)) / 1e6
    lines = [
        f"## A series of {len(files)} slices, {total:.0f} MB",
        "",
        "| | STOW-RS MB/s | files/s | WADO-RS series MB/s, first | best of 5 | metadata s | QIDO series ms |",
        "|---|---|---|---|---|---|---|",
    ]
    with httpx.Client(headers={"Authorization": f"Bearer {token}"}, trust_env=False, timeout=600) as client:
        lines.append(peer("Lampyris", f"{base}/dicomweb", client, files, total))
    program = shutil.which("Orthanc")
    if program is None:
        return [*lines, "", "Orthanc is not installed here."]
    other: Orthanc = running.enter_context(orthanc(program, folder / "orthanc"))
    with httpx.Client(trust_env=False, timeout=600) as client:
        lines.append(peer("Orthanc", other.dicomweb, client, files, total))
    return lines


def peer(name: str, base: str, client: httpx.Client, files: list[bytes], total: float) -> str:
    """Store a series in one request, and get it back."""
    boundary = secrets.token_hex(16)
    part = f"\r\n--{boundary}\r\nContent-Type: application/dicom\r\n\r\n".encode()

    def body() -> Iterator[bytes]:
        for each in files:
            yield part + each
        yield f"\r\n--{boundary}--\r\n".encode()

    headers = {"Content-Type": f"{DICOM}; boundary={boundary}", "Accept": "application/dicom+json"}
    began = time.perf_counter()
    answer = client.post(f"{base}/studies", content=body(), headers=headers)
    stored_s = time.perf_counter() - began
    if answer.status_code != 200:
        raise SystemExit(f"{name}: STOW-RS was answered {answer.status_code}: {answer.text[:300]}")
    place = f"{base}/studies/{uid('stored')}/series/{uid('stored', 'series')}"
    rates = [retrieved(client, place, total) for _ in range(5)]
    began = time.perf_counter()
    client.get(f"{place}/metadata", headers={"Accept": "application/dicom+json"}).raise_for_status()
    metadata_s = time.perf_counter() - began
    took, _ = timed(lambda: client.get(f"{base}/studies/{uid('stored')}/series"), 20)
    return (
        f"| {name} | {total / stored_s:.0f} | {len(files) / stored_s:.0f} | {rates[0]:.0f} | {max(rates):.0f} |"
        f" {metadata_s:.2f} | {np.median(took):.0f} |"
    )


def retrieved(client: httpx.Client, place: str, total: float) -> float:
    """MB/s of one retrieval, whose bytes are counted and thrown away."""
    began, size = time.perf_counter(), 0
    with client.stream("GET", place, headers={"Accept": f"{DICOM}; transfer-syntax=*"}) as answer:
        answer.raise_for_status()
        for block in answer.iter_raw(4 << 20):
            size += len(block)
    if size < total * 1e6:
        raise SystemExit(f"{size} bytes came back of {total:.0f} MB")
    return total / (time.perf_counter() - began)


if __name__ == "__main__":
    main()
