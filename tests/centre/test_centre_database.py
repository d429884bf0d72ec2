"""The schema goes forward only, once, and older programs work on it; the store keeps what it was given."""

import asyncio
import hashlib
import os
import subprocess
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psycopg
import pytest

from lampyris.centre import Settings, database
from lampyris.centre.database import DatabaseError, migrate, migrations
from lampyris.centre.store import DamagedError, Store
from lampyris.model import InputError, ProgramError, StorageError

DATA = b"content" * 1000
DIGEST = hashlib.sha256(DATA).hexdigest()


def test_a_schema_is_made_once_by_whoever_comes_first(empty_dsn):
    with ThreadPoolExecutor(3) as pool:
        applied = list(pool.map(migrate, [empty_dsn] * 3))
    assert sorted(len(one) for one in applied)[:2] == [0, 0]
    assert max(applied, key=len) == [name for name, _ in migrations()]
    assert migrate(empty_dsn) == []


def test_a_database_whose_making_was_broken_off_is_made_anew():
    """What `initdb` had written by then looks like a database, and is none."""
    with tempfile.TemporaryDirectory(prefix="lampyris-", ignore_cleanup_errors=True) as found:
        settings = Settings(Path(found))
        begun = settings.folder / ".new-database"
        begun.mkdir()
        (begun / "PG_VERSION").write_text("18\n")
        (settings.folder / "database").mkdir()
        try:
            with psycopg.connect(database.dsn_of(settings)) as connection:
                assert connection.execute("SELECT 1").fetchone() == (1,)
        finally:
            database.stop(settings)
        assert not begun.exists()
        assert not (settings.folder / "database" / "postmaster.pid").exists()


def test_a_migration_that_was_changed_is_refused(empty_dsn, monkeypatch):
    migrate(empty_dsn)
    changed = [(name, text + "-- changed" if name == "centre/0001_first" else text) for name, text in migrations()]
    monkeypatch.setattr(database, "migrations", lambda: iter(changed))
    with pytest.raises(ProgramError, match="0001_first"):
        migrate(empty_dsn)


def test_a_migration_that_fails_leaves_nothing(empty_dsn, monkeypatch):
    monkeypatch.setattr(database, "migrations", lambda: iter([("x", "CREATE TABLE half (a int); SELECT 1/0")]))
    with pytest.raises(psycopg.Error):
        migrate(empty_dsn)
    with psycopg.connect(empty_dsn) as connection:
        assert connection.execute("SELECT to_regclass('half'), (SELECT count(*) FROM migration)").fetchone() == (
            None,
            0,
        )


def test_this_program_works_on_a_newer_schema(site, settings, monkeypatch, rows):
    """What a later version may do: columns with defaults, tables, indexes."""
    later = "ALTER TABLE scan ADD COLUMN later text NOT NULL DEFAULT 'x'; CREATE TABLE later (a int);"
    known = list(migrations())
    monkeypatch.setattr(database, "migrations", lambda: iter([*known, ("centre/9999_later", later)]))
    assert migrate(settings.dsn) == ["centre/9999_later"]
    monkeypatch.undo()
    assert migrate(settings.dsn) == []
    site.send([b"piece"])
    assert rows("SELECT later FROM scan") == [("x",)]


def test_our_own_database_lets_in_nobody_but_its_user(server, tmp_path_factory):
    """By the kernel's word, over its socket alone; run by root, PostgreSQL's own user is a stranger that is at hand."""
    with psycopg.connect(server, autocommit=True) as connection:
        ours = connection.execute(
            "SELECT type, database, user_name, auth_method, error FROM pg_hba_file_rules"
        ).fetchall()
        assert ours == [("local", ["all"], ["all"], "peer", None)]
        assert connection.execute("SHOW listen_addresses").fetchone() == ("",)
        folder = Path(connection.execute("SHOW data_directory").fetchone()[0])
        (programs,) = connection.execute("SELECT setting FROM pg_config WHERE name = 'BINDIR'").fetchone()
    assert folder.stat().st_mode & 0o777 == 0o700
    if os.geteuid() == 0:
        asked = [f"{programs}/psql", "--no-psqlrc", "--command=SELECT 1", server]
        told = subprocess.run(asked, user="pgserver", cwd="/", capture_output=True, text=True, check=False)
        assert told.returncode == 2
        assert "Peer authentication failed" in told.stderr


def test_a_database_that_trusted_everybody_is_shut_when_it_is_started_again():
    with tempfile.TemporaryDirectory(prefix="lampyris-", ignore_cleanup_errors=True) as place:
        settings = Settings(Path(place))
        dsn = database.dsn_of(settings)
        try:
            door = settings.folder / "database" / "pg_hba.conf"
            door.write_text("local all all trust\n", "utf-8")
            with psycopg.connect(dsn, autocommit=True) as connection:
                connection.execute("SELECT pg_reload_conf()")
                assert database.dsn_of(settings) == dsn
                deadline = time.monotonic() + 60
                rule = "SELECT auth_method FROM pg_hba_file_rules"
                while connection.execute(rule).fetchall() != [("peer",)]:
                    assert time.monotonic() < deadline
        finally:
            database.stop(settings)


def test_another_users_database_is_not_taken_over():
    if os.geteuid() != 0:
        pytest.skip("only root can make a folder that is another user's")
    with tempfile.TemporaryDirectory(prefix="lampyris-", ignore_cleanup_errors=True) as place:
        folder = Path(place) / "database"
        folder.mkdir()
        (folder / "PG_VERSION").write_text("18\n")
        os.chown(folder, 65534, 65534)
        with pytest.raises(DatabaseError, match="another user's"):
            database.dsn_of(Settings(Path(place)))
        assert folder.stat().st_uid == 65534


def test_a_database_that_does_not_answer_is_the_operators_matter():
    with pytest.raises(DatabaseError, match="does not answer"):
        migrate("postgresql://127.0.0.1:1/none")


def test_settings_travel_between_processes_and_are_checked(tmp_path):
    settings = Settings(tmp_path, recipe="swift", tries=5)
    assert Settings.from_json(settings.to_json()) == settings
    for text in ("", "{}", '{"folder":"x","unknown":1}'):
        with pytest.raises(InputError):
            Settings.from_json(text)
    with pytest.raises(InputError, match="> 0"):
        Settings(tmp_path, tries=0)


@pytest.fixture
def store(tmp_path) -> Store:
    return Store(Settings(tmp_path))


def test_what_is_put_comes_back(store, tmp_path):
    asyncio.run(store.put("raw/a/b", DIGEST, [DATA]))
    asyncio.run(store.put("raw/a/b", DIGEST, [DATA]))
    assert store.get("raw/a/b", DIGEST) == DATA
    (tmp_path / "x").write_bytes(DATA)
    assert store.put_file("series/a/b", tmp_path / "x") == (len(DATA), DIGEST)

    async def piece():
        return [each async for each in store.stream("series/a/b", DIGEST, 3, 9)]

    assert asyncio.run(piece()) == [DATA[3:10]]


def test_what_changed_or_is_gone_is_noticed(store, tmp_path):
    asyncio.run(store.put("raw/a/b", DIGEST, [DATA]))
    (tmp_path / "objects" / "raw/a/b" / DIGEST[:2] / DIGEST).write_bytes(DATA[:-1])
    with pytest.raises(DamagedError, match="not what was stored"):
        store.get("raw/a/b", DIGEST)
    with pytest.raises(DamagedError, match="gone"):
        store.get("raw/a/c", DIGEST)


def test_a_database_that_was_killed_while_it_started_starts_again():
    """Its postmaster.pid lacks the last line, and nobody has its number."""
    with tempfile.TemporaryDirectory(prefix="lampyris-", ignore_cleanup_errors=True) as folder:
        settings = Settings(Path(folder))
        database.dsn_of(settings)
        database.stop(settings)
        gone = subprocess.Popen(["true"])
        gone.wait()
        note = Path(folder) / "database" / "postmaster.pid"
        note.write_text(f"{gone.pid}\n{note.parent}\n1795299350\n5432\n\n\n  2760725    524319\n")
        try:
            with psycopg.connect(database.dsn_of(settings)) as connection:
                assert connection.execute("SELECT 1").fetchone() == (1,)
        finally:
            database.stop(settings)


def test_deleting_takes_one_scan_and_no_neighbour(store):
    for prefix in ("raw/a/b", "raw/a/bc", "raw/ab/b"):
        asyncio.run(store.put(prefix, DIGEST, [DATA]))
    assert [store.delete_all("raw/a/b") for _ in range(2)] == [1, 0]
    assert store.get("raw/a/bc", DIGEST) == store.get("raw/ab/b", DIGEST) == DATA


def test_what_is_being_laid_down_is_no_object_yet(store, tmp_path):
    """Half a chunk of a process that was killed is neither found nor counted."""
    asyncio.run(store.put("raw/a/b", DIGEST, [DATA]))
    (half,) = (tmp_path / "objects").rglob(DIGEST)
    half.rename(half.with_name(f"{DIGEST}#4711"))
    with pytest.raises(DamagedError, match="gone"):
        store.get("raw/a/b", DIGEST)
    assert store.delete_all("raw/a/b") == 0


def test_a_folder_that_cannot_be_is_the_operators_matter(tmp_path):
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(StorageError):
        Store(Settings(tmp_path, store=f"file://{tmp_path}/file/below"))


def test_a_bucket_needs_no_folder():
    """Any URL that obstore knows; memory stands for a bucket here."""
    store = Store(Settings(Path("nowhere"), store="memory:///"))
    asyncio.run(store.put("raw/a/b", DIGEST, [DATA]))
    assert (store.get("raw/a/b", DIGEST), store.free_bytes()) == (DATA, None)
