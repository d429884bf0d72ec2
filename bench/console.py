"""A centre with 100 000 studies → milliseconds that the server takes for each page of the console.

    python -m bench.console [--studies 100000] [--sites 200] [--tries 40] [--write FILE]

A PostgreSQL of its own holds sites of a province in cities and counties, their scans of the last weeks with their
events, a study, a dose and a view in the audit for each; one study has 500 slices and its story in the store. A real
server answers on the loopback interface; each page is asked for one time after the other, once to warm up, by somebody
who sees every site and by somebody who sees one. The clock runs from the request to the last byte of the answer. The
target is 300 ms (p95).
"""

import argparse
import asyncio
import hashlib
import logging
import os
import platform
import subprocess
import tempfile
import time
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from statistics import quantiles
from typing import Any

import httpx
import psycopg
import structlog

from bench.running import await_answer, free_port, running
from bench.viewer import encoded, slice_of
from lampyris.centre import Settings, opened
from lampyris.centre.archive.intake import take
from lampyris.centre.people.sessions import COOKIE, digest_of
from lampyris.centre.store import series_prefix
from lampyris.dicom.ids import uid
from lampyris.model.arrays import canonical_json

TARGET_MS = 300.0
SITE = "hospital-7"
_DONE = 0.996
"""Part of the scans that are done, and so have a study."""
_COOKIES = {"all": "bench-all", "one": "bench-one"}

SITES = """
    INSERT INTO site (id, seen)
        SELECT 'hospital-' || n, now() - n * interval '7 s' FROM generate_series(1, %(sites)s) n;
    INSERT INTO tenant (id, parent, kind, name) VALUES ('west', 'centre', 'province', '西省');
    INSERT INTO tenant (id, parent, kind, name)
        SELECT 'city-' || n, 'west', 'city', '第' || n || '市' FROM generate_series(1, 10) n;
    UPDATE tenant SET parent = 'city-' || 1 + substr(id, 10)::int %% 10, name = '第' || substr(id, 10) || '县人民医院'
        WHERE kind = 'site';
    INSERT INTO site_key (id, site, key) SELECT md5(id) || 'abcdefghijk', id, '{}' FROM site;
    INSERT INTO site_report (site, at, version, spool_scans, spool_bytes, oldest_s, calibrations)
        SELECT id, now() - interval '20 s', '0.1.0', 2, 1300000000, 95, '{"ct-1": 40000}' FROM site;
"""
SCANS = """
    INSERT INTO scan (site, id, priority, skeleton, state, signed, manifest, bytes, opened, updated, committed,
                      finished, attempts, station, progress, reason_code, reason, verdict, returned, cursor)
    SELECT site, md5(n::text), priority, json_build_object('recipe', recipe)::text, state, 'signed', md5(n::text),
           1220000000, at, at + interval '3 min',
           CASE WHEN state <> 'open' THEN at + interval '1 min' END,
           CASE WHEN state IN ('done', 'refused', 'failed') THEN at + interval '3 min' END, 1,
           CASE state WHEN 'running' THEN (ARRAY['fetch', 'correct', 'reconstruct', 'assess'])[1 + n %% 4] END,
           CASE state WHEN 'running' THEN (n %% 97) / 97.0 ELSE 0 END,
           CASE state WHEN 'failed' THEN 'MACHINE_STORAGE' WHEN 'refused' THEN 'INPUT_CALIBRATION' END,
           CASE state WHEN 'failed' THEN 'the disk gave an error while a slice was written (after 3 tries)'
                      WHEN 'refused' THEN 'air map is (16, 888), detector is (64, 888): another collimation?' END,
           CASE state WHEN 'done' THEN CASE n %% 50 WHEN 0 THEN 'stop' WHEN 1 THEN 'look' ELSE 'pass' END END,
           CASE WHEN state = 'done' AND n %% 3 > 0 THEN at + interval '4 min' END,
           CASE state WHEN 'done' THEN n END
    FROM (
        SELECT n, 'hospital-' || 1 + n %% %(sites)s AS site, now() - (%(scans)s - n) * interval '20 s' AS at,
               CASE WHEN n %% 40 = 0 THEN 'stat' WHEN n %% 40 = 1 THEN 'batch' ELSE 'routine' END AS priority,
               (ARRAY['routine-lung', 'micro-lung', 'swift-head', 'model', NULL])[1 + n %% 5] AS recipe,
               CASE WHEN n > %(scans)s - 6 THEN 'open' WHEN n > %(scans)s - 30 THEN 'queued'
                    WHEN n > %(scans)s - 34 THEN 'running' WHEN n %% 400 = 7 THEN 'refused'
                    WHEN n %% 900 = 8 THEN 'failed' ELSE 'done' END AS state
        FROM generate_series(1, %(scans)s) n
    ) AS made;
    INSERT INTO event (scan, site, at, state) SELECT number, site, opened, 'open' FROM scan ORDER BY number;
    INSERT INTO event (scan, site, at, state)
        SELECT number, site, committed, 'queued' FROM scan WHERE committed IS NOT NULL ORDER BY number;
    INSERT INTO event (scan, site, at, state, reason_code)
        SELECT number, site, finished, state, reason_code FROM scan WHERE finished IS NOT NULL ORDER BY number;
    INSERT INTO chunk (scan, digest, bytes) SELECT number, md5(n::text), 8388608 FROM scan, generate_series(1, 40) n
        WHERE state = 'open';
"""
STUDIES = """
    INSERT INTO study (site, uid, patient_id, patient_name, patient_keys, study_date, study_time, accession, modalities,
                       series_count, instance_count, json)
        SELECT site, '2.25.' || number, 'P' || number %% 70000, family || '^' || given,
               ARRAY[lower(family || '^' || given)], to_char(opened, 'YYYYMMDD'), to_char(opened, 'HH24MISS'),
               'A' || number, '{CT}', 1, 300, '{}'
        FROM (SELECT *, (ARRAY['Zhang', 'Wang', 'Li', 'Zhao', 'Chen'])[1 + number %% 5] AS family,
                     (ARRAY['Wei', 'Fang', 'Min', 'Qiang', 'Jun', 'Yan', 'Juan'])[1 + number %% 7] AS given
              FROM scan WHERE state = 'done') AS done;
    INSERT INTO series (study, scan, uid, modality, recipe, body_part, instance_count, json)
        SELECT study.number, scan.number, study.uid || '.1', 'CT', coalesce(scan.recipe, 'routine'),
               (ARRAY['CHEST', 'HEAD', 'ABDOMEN'])[1 + scan.number %% 3], 300, '{}'
        FROM study JOIN scan ON study.uid = '2.25.' || scan.number;
"""
DOSES = """
    INSERT INTO dose (site, event, report, study_uid, scan, patient, at, scanner, examination, protocol, age_class,
                      ctdivol, dlp, ssde, size_mm, level)
    SELECT site, '1.2.' || number, '1.3.' || number, '2.25.' || number, number, md5((number / 3)::text), opened,
           'Testscan T1', (ARRAY['chest', 'chest', 'head', 'abdomen_pelvis', 'abdomen'])[1 + number %% 5],
           (ARRAY['routine', 'low dose'])[1 + number %% 2], CASE number %% 11 WHEN 0 THEN 'child' ELSE 'adult' END,
           12 * exp(0.4 * sin(number * 79.19)), 400 * exp(0.5 * sin(number * 10.4729)),
           15 * exp(0.4 * sin(number * 79.19)), 240 + number %% 120, 0.1
    FROM scan WHERE state = 'done';
    UPDATE dose SET repeat_of = earlier.number FROM dose AS earlier
        WHERE dose.scan %% 50 = 0 AND earlier.scan = dose.scan - %(sites)s;
"""
VIEWS = """
    INSERT INTO audit (number, at, kind, who, outcome, address, site, object, detail, digest)
        SELECT n, now() - (%(scans)s - n) * interval '19 s', (ARRAY['view', 'query', 'export', 'login'])[1 + n %% 4],
               'person-' || n %% 300, CASE n %% 90 WHEN 0 THEN 'refused' ELSE 'success' END, '10.0.0.7',
               'hospital-' || 1 + n %% %(sites)s, '2.25.' || n, '{"what": "study"}', md5(n::text)
        FROM generate_series(1, %(scans)s) n;
"""
PEOPLE = """
    INSERT INTO person (login, name) VALUES ('all', '李 Operator'), ('one', '王 Technologist');
    INSERT INTO granted (person, role, tenant)
        SELECT number, role, 'west' FROM person,
               unnest(ARRAY['operator', 'radiologist', 'physicist', 'auditor', 'technologist']) role
        WHERE login = 'all';
    INSERT INTO granted (person, role, tenant) SELECT number, 'operator', 'centre' FROM person WHERE login = 'all';
    INSERT INTO granted (person, role, tenant) SELECT number, 'auditor', 'centre' FROM person WHERE login = 'all';
    INSERT INTO person (login, name) SELECT 'person-' || n, 'Person ' || n FROM generate_series(1, 300) n;
    INSERT INTO granted (person, role, tenant)
        SELECT number, 'radiologist', 'hospital-' || 1 + number %% %(sites)s FROM person WHERE login LIKE 'person-%%';
    INSERT INTO granted (person, role, tenant)
        SELECT number, role, 'hospital-7' FROM person, unnest(ARRAY['technologist', 'radiologist', 'site_admin']) role
        WHERE login = 'one';
"""


@dataclass(frozen=True, slots=True)
class Page:
    """A page of the console; `who` sees every site or one."""

    name: str
    path: str
    who: str = "all"


STUDY = uid("bench", "console")
SLICES = 500
_DAY = (datetime.now(UTC) - timedelta(days=7)).date().isoformat()
PAGES = (
    Page("Journey", "/journey"),
    Page("Journey, one site's people", "/journey", "one"),
    Page("Journey, failed", "/journey?state=failed"),
    Page("Journey, a recipe at a site", "/journey?recipe=micro-lung&site=hospital-20"),
    Page("Journey, last week, one site", "/journey?hours=168", "one"),
    Page("Journey, beginning of an id", "/journey?text=00ab"),
    Page("Journey, page 1000", "/journey?before=50000"),
    Page("Journey, nothing found", "/journey?recipe=model&state=refused&text=ffffffff"),
    Page("Sites", "/sites"),
    Page("Sites, one site's people", "/sites", "one"),
    Page("A site", "/sites/hospital-7"),
    Page("Studies", "/studies"),
    Page("Studies, one site's people", "/studies", "one"),
    Page("Studies, a name", "/studies?patient=Zhang^W"),
    Page("Studies, a recipe and a verdict", "/studies?recipe=micro-lung&verdict=stop"),
    Page("Studies, a day of one site", f"/studies?site=hospital-20&first={_DAY}&last={_DAY}"),
    Page("Studies, nothing found", "/studies?accession=Z&verdict=look"),
    Page("A study of 500 slices", f"/studies/{STUDY}"),
    Page("A study of 500 slices, one site's people", f"/studies/{STUDY}", "one"),
    Page("Dose", "/dose"),
    Page("Dose, one site's people", "/dose", "one"),
    Page("Dose, chest, all time", "/dose?examination=chest&period="),
    Page("Dose, course of chest", "/dose/course.svg?examination=chest&period="),
    Page("Dose, distribution of chest", "/dose/distribution.svg?examination=chest&period="),
    Page("People", "/administration/people"),
    Page("Tenants", "/administration/tenants"),
    Page("Recipes", "/administration/recipes"),
    Page("Retention", "/administration/retention"),
    Page("Audit", "/administration/audit"),
    Page("Audit, one person's refusals", "/administration/audit?who=person-90&outcome=refused"),
    Page("Audit, one study", "/administration/audit?object=2.25.4321"),
)


def fill(dsn: str, *, scans: int, sites: int) -> None:
    """Sites, scans, studies, doses, views, people and their sessions, made by the database itself."""
    with psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute("SET synchronous_commit = off")
        cursor = psycopg.ClientCursor(connection)
        for text in (SITES, SCANS, STUDIES, DOSES, VIEWS, PEOPLE):
            cursor.execute(text.encode(), {"scans": scans, "sites": sites})
        for who, cookie in _COOKIES.items():
            connection.execute(
                "INSERT INTO session (digest, person, csrf, address, expires)"
                " SELECT %s, number, 'csrf', '', now() + interval '1 day' FROM person WHERE login = %s",
                (digest_of(cookie), who),
            )


async def whole_study(settings: Settings) -> None:
    """A study of hospital-7 with every file and its story in the store, of a scan that is done."""
    said = canonical_json(story()).encode()
    digest = hashlib.sha256(said).hexdigest()
    async with opened(settings, connections=2) as centre:
        for number in range(1, SLICES + 1):
            made = slice_of(number, 64)
            made.StudyInstanceUID, made.SeriesInstanceUID = STUDY, f"{STUDY}.1"
            await take(centre, SITE, encoded(made))
        async with centre.pool.connection() as connection:
            cursor = await connection.execute(
                "SELECT number, id FROM scan WHERE site = %s AND state = 'done' ORDER BY number DESC LIMIT 1", (SITE,)
            )
            scan = await cursor.fetchone() or {}
            await connection.execute("DELETE FROM series WHERE scan = %s", (scan["number"],))
            await connection.execute(
                "UPDATE series SET scan = %s, recipe = 'micro' WHERE uid = %s", (scan["number"], f"{STUDY}.1")
            )
            await connection.execute(
                "INSERT INTO output (scan, name, bytes, sha256) VALUES (%s, 'assessment.json', %s, %s)",
                (scan["number"], len(said), digest),
            )
            await centre.store.put(series_prefix(SITE, scan["id"]), digest, [said])
            await connection.execute("VACUUM ANALYZE")


def story() -> dict[str, Any]:
    """An `assessment.json` of the size of a real one: 24 figures, 6 curves of 200 points, 18 tasks."""
    figure = {"unit": "HU", "origin": "computed", "settings": {"region": "a cylinder of 40 mm", "count": 12}}
    names = ["noise", "ctdivol", "dlp", "ssde", *(f"figure_{n}" for n in range(20))]
    curve = {"x": [n / 200 for n in range(200)], "y": [1.0 / (1 + n) for n in range(200)], "settings": {}}
    task = {"task": "rod", "tissue": "soft tissue", "contrast_hu": 10.0, "noise_hu": 20.4, "met": False}
    corrections = [{"name": name, "settings": {"digest": "0" * 64}} for name in ("offset", "air", "log", "water")]
    return {
        "figures": [{"name": name, "value": 3.25, **figure} for name in names],
        "curves": [
            {"name": name, "x_unit": "1/mm", "y_unit": "HU² mm²", **curve}
            for name in ("nps", "ttf", "noise_x", "noise_y", "bias_x", "bias_y")
        ],
        "detections": [{**task, "size_mm": n / 2, "detectability": n / 5} for n in range(1, 19)],
        "verdict": "look", "reasons": ["noise 51.5 HU, expected at most 40"],
        "provenance": {
            "scan": "bench", "software": "0", "recipe": {"name": "micro", "version": "1"}, "recipe_digest": "0" * 64,
            "method": {"name": "micro"}, "corrections": corrections, "derivation": "Made by a benchmark.", "views": 720,
        },
        "acquisition": {"dose_fraction": 0.1, "BodyPartExamined": "CHEST"},
    }  # fmt: skip


def timed(url: str, page: Page, tries: int) -> tuple[list[float], int]:
    """Milliseconds of each try, and bytes of the answer."""
    headers = {"Accept": "text/html"}
    with httpx.Client(
        base_url=url, cookies={COOKIE: _COOKIES[page.who]}, headers=headers, timeout=60, trust_env=False
    ) as client:
        took, size = [], 0
        for _ in range(tries + 1):
            began = time.perf_counter()
            answer = client.get(page.path)
            took.append((time.perf_counter() - began) * 1e3)
            if answer.status_code != 200:
                raise SystemExit(f"{page.path}: {answer.status_code}")
            size = len(answer.content)
    return took[1:], size


def main() -> None:
    arguments = argparse.ArgumentParser(prog="bench.console", description=__doc__)
    arguments.add_argument("--studies", type=int, default=100_000)
    arguments.add_argument("--sites", type=int, default=200)
    arguments.add_argument("--tries", type=int, default=40)
    arguments.add_argument("--write", type=Path, metavar="FILE", help="keep the table there as markdown")
    chosen = arguments.parse_args()
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.WARNING))
    with tempfile.TemporaryDirectory(prefix="lampyris-bench-") as folder:
        port = free_port()
        url = f"http://127.0.0.1:{port}"
        with running(Path(folder), url) as centre:
            centre.settings = replace(centre.settings, requests_per_s=1e6)
            fill(centre.dsn, scans=round(chosen.studies / _DONE), sites=chosen.sites)
            asyncio.run(whole_study(centre.settings))
            lines = [*_head(chosen, _count(centre.dsn)), "| page | p50, ms | p95, ms | kB |", "|---|---|---|---|"]
            centre.interface("127.0.0.1", port)
            await_answer(f"{url}/readyz")
            worst = 0.0
            for page in PAGES:
                took, size = timed(url, page, chosen.tries)
                cuts = quantiles(took, n=20)
                worst = max(worst, cuts[18])
                lines.append(f"| {page.name} | {cuts[9]:.0f} | {cuts[18]:.0f} | {size / 1e3:.0f} |")
    text = "\n".join([*lines, "", f"Largest p95: {worst:.0f} ms."]) + "\n"
    print(text)
    if chosen.write:
        chosen.write.write_text(text)


def _count(dsn: str) -> tuple[int, ...]:
    """Rows of scans, studies, doses and the audit."""
    with psycopg.connect(dsn) as connection:
        tables = ("scan", "study", "dose", "audit")
        return tuple((connection.execute(f"SELECT count(*) FROM {one}").fetchone() or (0,))[0] for one in tables)


def _head(chosen: argparse.Namespace, rows: tuple[int, ...]) -> list[str]:
    commit = subprocess.run(
        ["git", "rev-parse", "--short=12", "HEAD"], capture_output=True, text=True, check=False
    ).stdout.strip()
    load = os.getloadavg()[0]
    return [
        "# Server time of the console's pages",
        "",
        f"{rows[0]} scans of {chosen.sites} sites, {rows[1]} studies, {rows[2]} doses, {rows[3]} entries of the audit;"
        f" {chosen.tries} tries a page; commit {commit},"
        f" {os.cpu_count()} processors ({platform.machine()}), load {load:.1f} when it began."
        f" Target: p95 ≤ {TARGET_MS:.0f} ms.",
        "Printed by `python -m bench.console`.",
        "",
    ]


if __name__ == "__main__":
    main()
