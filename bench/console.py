"""A centre with 100 000 scans → seconds that the server takes for each page of the console: docs/evidence/console.md.

    python -m bench.console [--scans 100000] [--sites 200] [--tries 40] [--write FILE]

A PostgreSQL of its own holds sites of a province in cities and counties, their scans of the last weeks with their
events, and their studies. A real server answers on the loopback interface; each page is asked for one time after the
other, once to warm up, by somebody who sees every site and by somebody who sees one. The clock runs from the request to
the last byte of the answer. The target is 300 ms (p95).
"""

import argparse
import logging
import os
import platform
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import quantiles

import httpx
import psycopg
import structlog

from lampyris.centre import Settings
from lampyris.centre.database import dsn_of, migrate, stop
from lampyris.centre.people.sessions import COOKIE, digest_of

TARGET_MS = 300.0
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
    INSERT INTO study (site, uid, patient_id, study_date, modalities, series_count, instance_count, json)
        SELECT site, '2.25.' || number, 'p' || number %% 5000, to_char(opened, 'YYYYMMDD'), '{CT}', 1, 1, '{}' FROM scan
        WHERE state = 'done';
    INSERT INTO series (study, scan, uid, modality, recipe, instance_count, json)
        SELECT study.number, scan.number, study.uid || '.1', 'CT', coalesce(scan.recipe, 'routine'), 1, '{}'
        FROM study JOIN scan ON study.uid = '2.25.' || scan.number;
"""
PEOPLE = """
    INSERT INTO person (login, name) VALUES ('all', '李 Operator'), ('one', '王 Technologist');
    INSERT INTO granted (person, role, tenant)
        SELECT number, role, 'west' FROM person,
               unnest(ARRAY['operator', 'radiologist', 'physicist', 'auditor', 'technologist']) role
        WHERE login = 'all';
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
)


def fill(dsn: str, *, scans: int, sites: int) -> None:
    """Sites, scans, people and their sessions, made by the database itself."""
    with psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute("SET synchronous_commit = off")
        cursor = psycopg.ClientCursor(connection)
        for text in (SITES, SCANS, STUDIES, PEOPLE):
            cursor.execute(text.encode(), {"scans": scans, "sites": sites})
        for who, cookie in _COOKIES.items():
            connection.execute(
                "INSERT INTO session (digest, person, csrf, address, expires)"
                " SELECT %s, number, 'csrf', '', now() + interval '1 day' FROM person WHERE login = %s",
                (digest_of(cookie), who),
            )
        connection.execute("VACUUM ANALYZE")


@contextmanager
def served(settings: Settings) -> Iterator[str]:
    """URL of a server of this centre."""
    import threading

    import uvicorn

    from lampyris.centre.api import create

    server = uvicorn.Server(uvicorn.Config(create(settings), port=0, log_config=None, timeout_graceful_shutdown=1))
    thread = threading.Thread(target=server.run)
    thread.start()
    while not server.started:
        if not thread.is_alive():
            raise SystemExit("the server ended before it began")
        time.sleep(0.01)
    yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    server.should_exit = True
    thread.join()


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
    arguments.add_argument("--scans", type=int, default=100_000)
    arguments.add_argument("--sites", type=int, default=200)
    arguments.add_argument("--tries", type=int, default=40)
    arguments.add_argument("--write", type=Path, metavar="FILE", help="keep the table there as markdown")
    chosen = arguments.parse_args()
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.WARNING))
    with tempfile.TemporaryDirectory(prefix="lampyris-bench-") as folder:
        settings = Settings(Path(folder))
        migrate(dsn_of(settings))
        fill(dsn_of(settings), scans=chosen.scans, sites=chosen.sites)
        lines = [*_head(chosen), "| page | p50, ms | p95, ms | kB |", "|---|---|---|---|"]
        with served(settings) as url:
            for page in PAGES:
                took, size = timed(url, page, chosen.tries)
                cuts = quantiles(took, n=20)
                lines.append(f"| {page.name} | {cuts[9]:.0f} | {cuts[18]:.0f} | {size / 1e3:.0f} |")
        stop(settings)
    text = "\n".join(lines) + "\n"
    print(text)
    if chosen.write:
        chosen.write.write_text(text)


def _head(chosen: argparse.Namespace) -> list[str]:
    commit = subprocess.run(
        ["git", "rev-parse", "--short=12", "HEAD"], capture_output=True, text=True, check=False
    ).stdout.strip()
    load = os.getloadavg()[0]
    return [
        "# Server time of the console's pages",
        "",
        f"{chosen.scans} scans of {chosen.sites} sites, {chosen.tries} tries a page; commit {commit},"
        f" {os.cpu_count()} processors ({platform.machine()}), load {load:.1f} when it began."
        f" Target: p95 ≤ {TARGET_MS:.0f} ms.",
        "Printed by `python -m bench.console`.",
        "",
    ]


if __name__ == "__main__":
    main()
