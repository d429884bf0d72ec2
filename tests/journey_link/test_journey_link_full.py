"""Disks are filled to the last byte, of the site and of the centre: it is told, nothing is lost, and it goes on."""

import contextlib
import json
import tempfile
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest
from house import House, delivered, drop, wait_for
from small_disk import Disk, small_disk

from lampyris.site.agent import HEARTBEAT

DISKS = {
    "site": ("site", 6),
    "database": ("centre", 160),
    "store": ("centre/objects", 6),
    "worker": ("centre/scratch", 3),
}
"""Name → folder and megabytes; the database's is made beside its place, so that what it lies on is its disk."""


@pytest.fixture(scope="module")
def small() -> Iterator[tuple[House, dict[str, Disk]]]:
    """A house in which every folder that is written to is a small disk of its own."""
    with contextlib.ExitStack() as all_of_it:
        place = Path(
            all_of_it.enter_context(tempfile.TemporaryDirectory(prefix="lampyris-", ignore_cleanup_errors=True))
        )
        disks = {name: all_of_it.enter_context(small_disk(place / path, size)) for name, (path, size) in DISKS.items()}
        house = House(place)
        all_of_it.callback(house.close)
        house.open()
        house.check(house.bring_home({"before": "routine"}))
        yield house, disks


def waiting(house: House) -> str:
    """What the agent says it waits for: what `lampyris site status` shows."""
    try:
        told = json.loads((house.config.folder / HEARTBEAT).read_bytes())
    except (FileNotFoundError, ValueError):
        return ""
    return json.dumps([told["waiting"], told["link"]["trouble"]])


def write_forever(connection: psycopg.Connection) -> None:
    """What goes into the database's log, and nowhere else."""
    while True:
        connection.execute("SELECT pg_logical_emit_message(false, 'filler', repeat('x', 1000000))")


@contextlib.contextmanager
def scanned(house: House, disk: Disk, name: str) -> Iterator[None]:
    """A scan meets a full disk for as long as this lasts; then it comes home by itself, as if nothing had been."""
    before = delivered(house.config)
    with house.scanning(house.port):
        with disk.full():
            drop(house.config, name, house.source, "routine")
            yield
            assert delivered(house.config) == before
        wait_for(lambda: len(delivered(house.config) - before) == 1 and not house.spool.entries(), house.told)
    house.check(delivered(house.config) - before)


def test_a_full_spool_leaves_the_scan_where_it_is_and_says_so(small):
    house, disks = small
    with scanned(house, disks["site"], "spool"):
        wait_for(lambda: "the disk is full: free some space" in house.site_log.read_text(), house.told)
        assert (house.config.watch.folder / "spool.lraw").exists()


def test_a_full_store_asks_the_site_to_wait(small):
    house, disks = small
    with scanned(house, disks["store"], "store"):
        wait_for(lambda: "away for the moment" in waiting(house), house.told)
        assert "is the disk full?" in house.log_text()


def test_a_full_disk_of_a_worker_costs_a_scan_no_try(small):
    """However often it is met: here more often than a scan has tries."""
    house, disks = small
    with scanned(house, disks["worker"], "worker"):
        wait_for(lambda: house.log_text().count("MACHINE_FULL") > 5, house.told)
        (row,) = house.ask("SELECT state, attempts FROM scan WHERE returned IS NULL")
        assert row in (("queued", 0), ("running", 1))


def test_a_database_without_space_comes_back_with_all_it_promised(small):
    """It is filled from within until it cannot write its log any more, and falls."""
    house, disks = small
    with scanned(house, disks["database"], "database"):
        told = len(house.log_text())
        with psycopg.connect(house.dsn, autocommit=True) as connection, pytest.raises(psycopg.OperationalError):
            write_forever(connection)
        for word in ("database down", "is the disk full?", '"status": 503'):
            wait_for(lambda word=word: word in house.log_text()[told:], house.log_text)
