"""The chain of what was done: whole, or where it is broken; who may read what of it; what leaves the centre."""

import asyncio
import csv
import io
import json
import subprocess
import sys
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import psycopg
import pytest

from lampyris.centre.audit import anchors
from lampyris.centre.audit.chain import Entry, Kind, note
from lampyris.centre.audit.export import export
from lampyris.centre.audit.search import Wanted, everything, search
from lampyris.centre.audit.verify import Anchor, verify
from lampyris.centre.jobs import retention
from lampyris.model import FormatError, InputError, ProgramError
from lampyris.transfer import SiteKey, enrolment_request

ENTRIES = (
    Entry(Kind.LOGIN, "zhang", address="10.0.0.7"),
    Entry(Kind.VIEW, "zhang", address="10.0.0.7", site="st-anna", object="1.2.826.0.1.3680043.8.498.1"),
    Entry(Kind.QUERY, "node:PACS", site="st-anna", detail={"count": 3, "share": 0.25, "filter": "㐀^*"}),
    Entry(Kind.GLASS, "li", "refused", site="other-site", detail={"reason": "trauma"}),
    Entry(Kind.CONFIGURE, "operator@root", detail={"what": "retention changed", "raw": 30.0}),
)


@pytest.fixture
def chain(inside):
    """Run something with a connection on a chain of five links."""

    def run(action):
        async def whole(centre):
            async with centre.pool.connection() as connection:
                cursor = await connection.execute("SELECT count(*) AS links FROM audit")
                if not (await cursor.fetchone())["links"]:
                    for each in ENTRIES:
                        await note(connection, each)
                return await action(connection)

        return inside(whole)

    return run


@pytest.fixture
def tamper(rows):
    """Change the audit as the owner of the database can."""

    def run(statement):
        rows("ALTER TABLE audit DISABLE TRIGGER audit_stays")
        rows(statement)

    return run


def test_a_chain_is_whole_whatever_the_size_of_the_batch(chain):
    for batch in (2, 5, 100):
        found = chain(lambda connection, batch=batch: verify(connection, batch=batch))
        assert (found.links, found.broken) == (5, None)


@pytest.mark.parametrize(
    ("statement", "first"),
    [
        ("UPDATE audit SET who = 'wang' WHERE number = 3", 3),
        ("UPDATE audit SET at = at + interval '1 microsecond' WHERE number = 1", 1),
        ("UPDATE audit SET detail = detail || '{\"count\": 4}' WHERE number = 3", 3),
        ("UPDATE audit SET site = NULL WHERE number = 4", 4),
        ("DELETE FROM audit WHERE number = 2", 2),
        ("UPDATE audit SET digest = repeat('0', 64) WHERE number = 5", 5),
        ("UPDATE audit SET kind = 'nothing' WHERE number = 2", 2),
    ],
)
def test_the_first_link_that_was_changed_is_named(chain, tamper, statement, first):
    chain(verify)
    tamper(statement)
    assert chain(verify).broken.number == first


def test_a_chain_whose_end_was_cut_off_is_whole_but_for_its_anchor(chain, tamper):
    whole = chain(verify)
    anchor = Anchor(5, whole.digest, datetime.now(UTC))
    tamper("DELETE FROM audit WHERE number > 3")
    assert chain(verify).broken is None
    assert chain(lambda connection: verify(connection, [anchor])).broken.number == 4


def test_a_chain_that_was_written_anew_is_not_the_anchored_one(chain):
    chain(verify)
    anchor = Anchor(2, "f" * 64, datetime.now(UTC))
    assert chain(lambda connection: verify(connection, [anchor])).broken.number == 2


def test_an_anchor_is_signed_and_another_key_s_is_refused(chain, tmp_path):
    key = anchors.key_of(tmp_path).public
    dropped = chain(lambda connection: anchors.drop(connection, tmp_path))
    assert (dropped.number, anchors.dropped(tmp_path / anchors.ANCHORS, key)) == (5, [dropped])
    assert chain(lambda connection: verify(connection, [dropped])).anchors == 1
    with pytest.raises(InputError):
        anchors.dropped(tmp_path / anchors.ANCHORS, SiteKey.generate().public)
    assert anchors.dropped(tmp_path / "none", key) == []


def test_processes_that_share_no_folder_sign_with_the_key_of_the_environment(chain, tmp_path, monkeypatch):
    key = SiteKey.generate()
    monkeypatch.setenv(anchors.VARIABLE, key.key.as_pem(private=True).decode())
    dropped = chain(lambda connection: anchors.drop(connection, tmp_path))
    assert anchors.dropped(tmp_path / anchors.ANCHORS, key.public) == [dropped]
    assert not (tmp_path / anchors.KEY).exists()
    monkeypatch.setenv(anchors.VARIABLE, "no key")
    with pytest.raises(FormatError, match="LAMPYRIS_AUDIT_KEY"):
        anchors.key_of(tmp_path)


def test_many_who_write_at_once_make_one_chain(inside):
    async def action(centre):
        async def one(name):
            async with centre.pool.connection() as connection:
                for _ in range(10):
                    await note(connection, Entry(Kind.VIEW, name))

        await asyncio.gather(*(one(f"person-{number}") for number in range(4)))
        async with centre.pool.connection() as connection:
            return await verify(connection)

    found = inside(action)
    assert (found.links, found.broken) == (40, None)


def test_an_entry_of_a_transaction_that_failed_is_none(inside, rows):
    async def action(centre):
        async with centre.pool.connection() as connection:
            async with connection.transaction(force_rollback=True):
                await note(connection, Entry(Kind.VIEW, "zhang"))
            return await note(connection, Entry(Kind.LOGOUT, "zhang"))

    assert inside(action) == 1
    with pytest.raises(psycopg.errors.RaiseException):
        rows("TRUNCATE audit")


def test_what_strangers_write_is_kept_printable_and_short(chain):
    async def action(connection):
        await note(connection, Entry(Kind.LOGIN, "a\0b" + "x" * 500, "refused", detail={"said": "\ud800\0张"}))
        return (await search(connection, ("centre",), Wanted(), count=1)).links[0].entry, await verify(connection)

    entry, found = chain(action)
    assert entry.who.startswith("a\ufffdb")
    assert (len(entry.who), entry.detail["said"], found.broken) == (256, "\ufffd\ufffd张", None)
    with pytest.raises(ProgramError):
        Entry(Kind.VIEW, "zhang", detail={"dose": float("nan")})


def test_an_auditor_sees_entries_about_the_own_tenants_alone(chain):
    def seen(*tenants, **wanted):
        page = chain(lambda connection: search(connection, tenants, Wanted(**wanted)))
        return [link.number for link in page.links]

    assert seen("centre", "st-anna", "other-site") == [5, 4, 3, 2, 1]
    assert seen("west", "st-anna") == [3, 2]
    assert seen("st-anna", site="other-site") == []
    assert seen("st-anna", who="li") == []
    assert seen() == []
    assert seen("centre", who="zhang") == [2, 1]
    assert seen("centre", kind=Kind.GLASS) == [4]
    assert seen("centre", outcome="refused") == [4]
    assert seen("centre", object="1.2.826.0.1.3680043.8.498.1") == [2]
    now = datetime.now(UTC)
    assert seen("centre", since=now + timedelta(hours=1)) == []
    assert seen("centre", until=now + timedelta(hours=1), since=now - timedelta(hours=1)) == [5, 4, 3, 2, 1]


def test_pages_follow_one_another_without_gap_or_repetition(chain):
    numbers, below = [], None
    for _ in range(3):
        page = chain(lambda connection, below=below: search(connection, ("centre",), Wanted(), below=below, count=2))
        numbers += [link.number for link in page.links]
        below = page.below
    assert (numbers, below) == ([5, 4, 3, 2, 1], None)


def exported(chain, form, tenants=("centre",)):
    async def action(connection):
        pieces = export(everything(connection, tenants, Wanted()), form, "https://centre.example")
        return b"".join([piece async for piece in pieces]).decode()

    return chain(action)


def test_an_export_proves_itself_without_the_centre(chain, tmp_path):
    """The lines of docs/audit.md, run as they stand there."""
    place = tmp_path / "audit.jsonl"
    place.write_text(exported(chain, "lines"), "utf-8")
    text = (Path(__file__).parents[2] / "docs" / "audit.md").read_text("utf-8")
    program = text.split("```python3\n", 1)[1].split("```", 1)[0]

    def checked():
        return subprocess.run([sys.executable, "-c", program, str(place)], capture_output=True, text=True, timeout=60)

    assert checked().stdout.strip() == "5 entries are as they were written, and follow one another"
    lines = place.read_text("utf-8").splitlines(keepends=True)
    place.write_text("".join(lines[:1] + lines[2:]), "utf-8")
    assert checked().returncode
    place.write_text("".join(lines).replace("zhang", "wang", 1), "utf-8")
    assert checked().returncode
    entry = json.loads(lines[2])
    assert entry["detail"]["filter"] == "㐀^*"
    assert entry["before"] == json.loads(lines[1])["digest"]


def test_a_spreadsheet_takes_no_cell_for_a_formula(chain):
    async def action(connection):
        await note(connection, Entry(Kind.LOGIN, "=cmd()", "refused"))

    chain(action)
    table = list(csv.DictReader(io.StringIO(exported(chain, "csv"))))
    assert [row["number"] for row in table] == ["1", "2", "3", "4", "5", "6"]
    assert table[5]["who"] == "'=cmd()"
    assert json.loads(table[2]["detail"])["share"] == 0.25
    assert [row["number"] for row in csv.DictReader(io.StringIO(exported(chain, "csv", ("st-anna",))))] == ["2", "3"]


def test_what_a_sweep_deletes_is_an_entry_and_an_idle_one_is_none(site, inside, rows):
    scan = site.send([b"piece"])
    rows("UPDATE scan SET state = 'failed', reason_code = 'X', finished = now() - interval '91 days' WHERE id = %s",
         scan.scan)  # fmt: skip

    async def action(centre):
        async with centre.pool.connection() as connection:
            for _ in range(2):
                await retention.sweep(connection, centre.store)

    inside(action)
    assert rows("SELECT who, object, detail FROM audit WHERE kind = 'delete'") == [
        ("policy", "retention", {"failed": 1})
    ]


def test_what_a_site_changes_of_itself_is_an_entry_and_so_is_a_code_that_was_refused(site, rows):
    key = SiteKey.generate()
    body = enrolment_request("0" * 20, key, now=int(time.time()))
    assert site.ask("POST", "/keys", kind="application/jose", content=body).status_code == 201
    assert site.ask("DELETE", f"/keys/{key.key_id}").status_code == 204
    assert site.enrol("7" * 20).status_code == 403
    spent = site.assertion()
    assert [site.show(spent).status_code for _ in range(2)] == [200, 401]
    found = rows("SELECT kind, who, outcome, site, detail ->> 'what' FROM audit ORDER BY number")
    assert found == [
        ("configure", "site:st-anna", "success", "st-anna", "enrolled"),
        ("configure", "site:st-anna", "success", "st-anna", "key added"),
        ("configure", "site:st-anna", "success", "st-anna", "key taken back"),
        ("configure", "site:?", "refused", None, "enrolled"),
        ("login", "site:st-anna", "refused", "st-anna", None),
    ]
