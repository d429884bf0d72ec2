"""The operator's page says what is so: codes, settings, numbers and routes; and its back-up can be restored."""

import hashlib
import json
import os
import re
import secrets
import subprocess
from pathlib import Path

import psycopg
import pytest
from deployed import DEPLOY, PAGE, ROOT, blocks

from lampyris.centre import Settings, access
from lampyris.centre.jobs import retention, worker
from lampyris.centre.store import Store, raw_prefix, series_prefix
from lampyris.transfer import Chunk, Manifest, Part, SiteKey, limits, sign_manifest

TEXT = PAGE.read_text("utf-8")
CODE = "\n".join(path.read_text("utf-8") for path in sorted((ROOT / "src" / "lampyris").rglob("*.py")))


def test_every_code_on_the_page_is_one_that_a_program_says():
    table = TEXT.partition("## What to do when")[2]
    named = set(re.findall(r"`([A-Z]+(?:_[A-Z]+)*)`", table)) - {"STORE"}
    assert len(named) > 8
    for code in named:
        assert f'"{code}"' in CODE, code


def test_days_of_retention_are_those_of_a_new_centre(database):
    table = TEXT.partition("## Retention")[2].partition("## Scale")[0]
    with database() as connection:
        days = dict(connection.execute("SELECT what, days FROM retention").fetchall())
    rows = re.findall(r"^\|.*?\|(.*?)\| `--(\w+)` \|$", table, re.MULTILINE)
    assert {name for _, name in rows} == set(days) == set(retention.KINDS)
    for said, name in rows:
        assert f"{days[name]:g} days" in said
    assert worker._SWEEP_S == 3600
    assert "once an hour" in table


def test_numbers_on_the_page_are_those_of_the_code():
    settings = Settings(Path())
    most = settings.bodies + settings.bodies // 4
    assert f"{most} chunks of {limits.CHUNK_BYTES >> 20} MiB" in TEXT
    assert f"{settings.free_bytes >> 30} GiB free" in TEXT
    assert f"silent for {settings.heartbeat_s * worker.SILENT_HEARTBEATS:.0f} s" in TEXT
    assert f"up to {('', 'one', 'two', 'three', 'four')[access.KEYS_OF_A_SITE]} are valid together" in TEXT
    assert f"older than {access.CODE_HOURS} h" in TEXT
    assert settings.tries == 3
    assert "three times at most" in TEXT
    assert limits.TOKEN_SECONDS == 300
    assert "for their five minutes" in TEXT


def test_the_page_names_every_directory_and_file_of_deploy():
    for path in DEPLOY.iterdir():
        if not path.name.startswith(".") and "ignore" not in path.name:
            assert f"deploy/{path.name}" in TEXT, path.name


@pytest.fixture
def folder(tmp_path) -> Path:
    return tmp_path / "objects"


@pytest.fixture
def store(folder, tmp_path) -> Store:
    return Store(Settings(tmp_path, store=f"file://{folder}"))


@pytest.fixture
def filled(store, database) -> list[str]:
    """A centre with a committed, an open and a finished scan; the keys of its objects."""
    key, made = SiteKey.generate(), []

    def put(prefix: str, data: bytes) -> str:
        digest = hashlib.sha256(data).hexdigest()
        source = store.folder.parent / "piece"
        source.write_bytes(data)
        store.put_file(prefix, source)
        made.append(f"{prefix}/{digest[:2]}/{digest}")
        return digest

    with database() as connection:
        connection.execute("INSERT INTO site (id) VALUES ('st-anna')")
        for size in range(1, 5):  # lengths of the payload that end base64 in each way
            scan = secrets.token_hex(16)
            piece = b"chunk" * size
            put(raw_prefix("st-anna", scan), piece)
            parts = (Part("a/" * 2 + "x" * size, (Chunk.of(piece), Chunk.of(piece))),)
            manifest = Manifest(scan, "st-anna", "2026-11-21T08:15:02Z", "lraw", parts=parts)
            connection.execute(
                "INSERT INTO scan (site, id, state, priority, skeleton, signed)"
                " VALUES ('st-anna', %s, 'queued', 'stat', '{}', %s)",
                (scan, sign_manifest(manifest, key)),
            )
        opened, done = secrets.token_hex(16), secrets.token_hex(16)
        connection.execute(
            "INSERT INTO scan (site, id, state, priority, skeleton) VALUES ('st-anna', %s, 'open', 'stat', '{}')",
            (opened,),
        )
        connection.execute(
            "INSERT INTO scan (site, id, state, priority, skeleton, signed, finished, raw_deleted)"
            " VALUES ('st-anna', %s, 'done', 'stat', '{}', 'deleted', now(), now())", (done,),
        )  # fmt: skip
        chunk = put(raw_prefix("st-anna", opened), b"of an open scan")
        connection.execute(
            "INSERT INTO chunk (scan, digest, bytes) SELECT number, %s, 15 FROM scan WHERE id = %s", (chunk, opened)
        )
        file = put(series_prefix("st-anna", done), b"a slice")
        connection.execute(
            "INSERT INTO output (scan, name, bytes, sha256)"
            " SELECT number, 'ct/0001.dcm', 7, %s FROM scan WHERE id = %s",
            (file, done),
        )
    return sorted(made)


def test_every_object_that_the_database_names_is_listed(filled, dsn):
    assert psql(dsn, DEPLOY / "sql" / "objects.sql") == filled


def test_a_back_up_is_verified_as_the_page_says(filled, dsn, folder):
    """Its own line, in the folder: silent when all is well, and not when an object is changed or gone."""
    (line,) = [line for line in blocks(TEXT) if "sha256sum" in line]
    named = folder.parent / "named.txt"
    named.write_text("".join(f"{key}\n" for key in psql(dsn, DEPLOY / "sql" / "objects.sql")))
    command = line.replace("/backup/objects", str(folder)).replace("/backup/named.txt", str(named))

    def verify() -> tuple[int, str]:
        done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=False)
        return done.returncode, done.stdout

    assert verify() == (0, "")
    first, last = folder / filled[0], folder / filled[-1]
    first.write_bytes(b"another")
    last.unlink()
    code, said = verify()
    assert code != 0
    assert filled[0] in said
    assert filled[-1] in said


def test_a_database_is_dumped_and_restored_as_the_page_says(filled, dsn, server, tmp_path):
    """pg_dump and pg_restore with the page's options; the restored database names the same objects."""
    dump = tmp_path / "centre.dump"
    lines = blocks(TEXT)
    (dumping,) = [line for line in lines if "pg_dump" in line]
    restoring = next(line for line in lines if "pg_restore" in line and "lampyris_check" in line)
    with psycopg.connect(server, autocommit=True) as connection:
        connection.execute("CREATE DATABASE restored")
    restored = server.replace("/postgres?", "/restored?")
    try:
        for line, place in ((dumping, dsn), (restoring, restored)):
            command = line.replace("sudo -u lampyris ", "").replace("/backup/centre.dump", str(dump))
            command = re.sub(r"--dbname='[^']*'", f"--dbname='{place}'", command)
            subprocess.run(["bash", "-c", command], check=True, env=os.environ | {"PATH": programs(dsn)})
        assert psql(restored, DEPLOY / "sql" / "objects.sql") == filled
    finally:
        with psycopg.connect(server, autocommit=True) as connection:
            connection.execute("DROP DATABASE restored WITH (FORCE)")


def programs(dsn: str) -> str:
    """Where PostgreSQL's programs of the server's version are, before all others."""
    with psycopg.connect(dsn) as connection:
        ((found,),) = connection.execute("SELECT setting FROM pg_config WHERE name = 'BINDIR'").fetchall()
    return f"{found}:{os.environ['PATH']}"


def psql(dsn: str, file: Path) -> list[str]:
    """What the page's call of psql prints."""
    (line,) = [line for line in blocks(TEXT) if " psql " in line and "objects.sql" in line]
    options = re.findall(r"--(?:no-psqlrc|set=\S+|tuples-only|no-align)", line)
    command = ["psql", *options, f"--dbname={dsn}", "--file", str(file)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=os.environ | {"PATH": programs(dsn)})
    return done.stdout.split()


def test_a_manifest_lists_its_chunks_where_the_statement_looks_for_them():
    manifest = Manifest("0" * 32, "a", "2026-11-21T08:15:02Z", "lraw", parts=(Part("x", (Chunk.of(b"y"),)),))
    (part,) = json.loads(manifest.to_json())["parts"]
    assert part["chunks"] == [[hashlib.sha256(b"y").hexdigest(), 1]]
