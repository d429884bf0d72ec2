"""The page of scans on their way: who sees which, found how, told live, tried again."""

import re
import threading
import time
from html import unescape

import pytest
from centre_console import PAGE, scans_of

from lampyris import path
from lampyris.centre.console.journey import ADVICE
from lampyris.centre.jobs.hand import Made
from lampyris.centre.jobs.worker import work
from lampyris.centre.watching import journey
from lampyris.centre.watching.journey import Sought

TRIES = "SELECT who, site, object FROM audit WHERE kind = 'retry'"
ROW = re.compile(r'id="scan-(\d+)"')


@pytest.fixture
def sites(invite):
    for name in ("st-anna", "other-site"):
        invite(name)


@pytest.fixture
def operator(sites, signed_in):
    return signed_in(("operator", "centre"))


def shown(person, address: str = "/journey") -> str:
    answer = person.get(address, headers=PAGE)
    assert answer.status_code == 200, answer.text
    return answer.text


def test_people_see_the_scans_of_their_sites_and_no_others(sites, rows, signed_in):
    (own,), (foreign,) = scans_of(rows, "st-anna", first=1), scans_of(rows, "other-site", first=2)
    person = signed_in(("technologist", "st-anna"))
    text = shown(person)
    assert own[:10] in text
    assert foreign[:10] not in text
    assert "other-site" not in text
    assert person.get(f"/journey/other-site/{foreign}").status_code == 404
    assert person.get("/journey?site=other-site").text.count("scan-") == 0
    assert foreign not in person.get("/journey/scans.csv").text


def test_whoever_runs_systems_only_to_audit_sees_no_scans(sites, signed_in):
    assert signed_in(("auditor", "centre")).get("/journey").status_code == 403


def test_scans_are_found_by_state_recipe_age_and_beginning_of_their_id(operator, rows):
    scans_of(rows, "st-anna", first=1, state="failed", recipe="micro-lung")
    scans_of(rows, "other-site", first=200, state="done", recipe="model")
    for address, first in (
        ("state=failed", 1), ("state=done", 200), ("recipe=model", 200), ("hours=1", 1), ("text=000000c8", 200),
        ("text=000000C8", 200), ("site=st-anna", 1),
    ):  # fmt: skip
        text = shown(operator, f"/journey?{address}")
        assert [one for one in (1, 200) if f"{one:08x}ee" in text] == [first], address
    assert "No scan is like that" in shown(operator, "/journey?text=%25")
    assert operator.get("/journey?state=lost").status_code == 400


def test_pages_are_turned_by_key_and_lose_nothing(operator, rows):
    scans_of(rows, "st-anna", count=journey.PAGE + 7)
    found, address = [], "/journey"
    while address:
        text = shown(operator, address)
        found += ROW.findall(text)
        on = re.search(r'rel="next" href="([^"]+)"', text)
        address = on.group(1).replace("&amp;", "&") if on else ""
        scans_of(rows, "other-site", first=1000 + len(found))  # what arrives meanwhile moves nothing
    numbers = [int(one) for one in found]
    assert len(numbers) == len(set(numbers)) == journey.PAGE + 7
    assert numbers == sorted(numbers, reverse=True)


def test_counts_and_the_age_of_the_queue_are_on_top(operator, rows):
    scans_of(rows, "st-anna", first=90, priority="stat")
    scans_of(rows, "st-anna", count=3, first=5, state="failed")
    text = shown(operator)
    assert re.search(r'waiting</span> <span class="value">1</span> <small>oldest 1 hr 30 mins', text)
    assert re.search(r'failed</span> <span class="value">3</span>', text)
    assert "STAT</strong>" in text


def test_a_failed_scan_tells_its_story_and_is_tried_again(site, client, rows, inside, signed_in):
    scan = site.send([b"piece" * 100]).scan
    rows("UPDATE scan SET state = 'failed', finished = now(), reason_code = 'MACHINE_STORAGE', reason = 'no <disk>'")
    person = signed_in(("technologist", "st-anna"), login="li")
    text = shown(person, f"/journey/st-anna/{scan}")
    assert "no &lt;disk&gt;" in text
    assert "MACHINE_STORAGE" in text
    assert text.count("waiting") == 1
    retried = person.post(f"/journey/st-anna/{scan}/retry")
    assert (retried.status_code, retried.headers["hx-refresh"]) == (204, "true")
    assert rows("SELECT state, attempts FROM scan") == [("queued", 0)]
    assert rows(TRIES) == [("li", "st-anna", scan)]
    assert person.post(f"/journey/st-anna/{scan}/retry").status_code == 409
    assert len(rows(TRIES)) == 1


def test_only_those_who_may_try_a_scan_again(sites, rows, signed_in):
    (scan,) = scans_of(rows, "st-anna", state="failed")
    assert signed_in(("radiologist", "st-anna")).post(f"/journey/st-anna/{scan}/retry").status_code == 403
    assert signed_in(("technologist", "other-site")).post(f"/journey/st-anna/{scan}/retry").status_code == 404
    assert rows("SELECT state FROM scan") == [("failed",)]


def test_a_refused_scan_says_what_the_site_is_to_mend(operator, rows):
    for first, code in enumerate([*ADVICE, "INPUT_OF_TOMORROW"]):
        (scan,) = scans_of(rows, "st-anna", first=first, state="refused", code=code, reason="found <this>")
        text = unescape(shown(operator, f"/journey/st-anna/{scan}"))
        assert "found <this>" in text
        assert ADVICE.get(code, ADVICE["INPUT"]) in text


def test_the_list_is_saved_as_csv_and_that_is_audited(operator, rows):
    scans_of(rows, "st-anna", state="failed", reason="=HYPERLINK()")
    scans_of(rows, "st-anna", first=1, state="done")
    saved = operator.get("/journey/scans.csv?state=failed")
    head, line = saved.content.decode("utf-8-sig").splitlines()
    assert head.startswith("site,scan,state,priority,recipe,opened")
    assert line.endswith("MACHINE,'=HYPERLINK()")
    assert rows("SELECT object FROM audit WHERE kind = 'export'") == [("journey.csv",)]


def test_a_scan_is_watched_live_from_its_arrival_to_its_end(site, signed_in, inside):
    """Each row that the stream brings is the scan's as it is then; the first time it says that it is new."""
    person = signed_in(("technologist", "st-anna"))
    heard: list[str] = []
    done = threading.Event()

    def listen() -> None:
        with person.stream("GET", "/journey/events?newest=0", timeout=60) as answer:
            assert answer.headers["content-type"].startswith("text/event-stream")
            for line in answer.iter_lines():
                heard.append(line)
                if "home at the site" in line or "tone-good" in line:
                    done.set()
                    return

    def make(_work, _manifest, _folder, watch) -> Made:
        watch("reconstruct", 0.5)
        deadline = time.monotonic() + 60
        while not any('class="now" title="reconstruct"' in line for line in heard) and time.monotonic() < deadline:
            time.sleep(0.05)
        return [], "pass"

    reader = threading.Thread(target=listen)
    reader.start()
    site.send([b"piece" * 100], priority="stat")
    inside(lambda centre: work(centre, ("stat",), make=make, signals=False, wait=False))
    assert done.wait(60)
    reader.join()
    text = "\n".join(heard)
    assert text.count(" data-fresh") == 1
    assert 'class="now" title="reconstruct"' in text
    assert "STAT</strong>" in text
    assert "event: counts" in text


def test_a_stream_ends_with_its_session(sites, signed_in, rows):
    person = signed_in(("technologist", "st-anna"))
    with person.stream("GET", "/journey/events", timeout=60) as answer:
        lines = answer.iter_lines()
        assert next(lines) == ": here"
        rows("DELETE FROM session")
        rows("SELECT pg_notify('lampyris_scan', 'st-anna')")
        assert all("event: scan" not in line for line in lines)  # and there is a last one


def test_a_page_that_is_left_open_keeps_no_session_alive(sites, signed_in, rows):
    person = signed_in(("technologist", "st-anna"))
    rows("UPDATE session SET seen = now() - interval '20 minutes'")
    with person.stream("GET", "/journey/events", headers={"Accept": "text/event-stream"}, timeout=60) as answer:
        assert next(answer.iter_lines()) == ": here"
    assert rows("SELECT seen < now() - interval '19 minutes' FROM session") == [(True,)]
    shown(person)
    assert rows("SELECT seen < now() - interval '19 minutes' FROM session") == [(False,)]


def test_a_person_has_so_many_streams_and_no_more(sites, signed_in, app):
    person = signed_in(("technologist", "st-anna"))
    bell = app.state.bell
    with bell.heard("person 1", ()), bell.heard("person 1", ()), bell.heard("person 1", ()), bell.heard("person 1", ()):
        assert person.get("/journey/events").status_code == 429


class Explaining:
    """A connection that notes the plan of whatever is asked."""

    def __init__(self, connection) -> None:
        self.connection, self.plans = connection, []

    async def execute(self, query, values=None):
        text = query.decode() if isinstance(query, bytes) else query
        cursor = await self.connection.execute(f"EXPLAIN {text}", values)
        self.plans.append("\n".join(row["QUERY PLAN"] for row in await cursor.fetchall()))
        return await self.connection.execute(query, values)


def test_no_question_reads_every_scan(sites, rows, inside):
    """With many scans each question goes by an index: its cost does not grow with the archive."""
    for first, state, count in ((20_000, "done", 20_000), (100, "failed", 20), (200, "queued", 20)):
        scans_of(rows, "st-anna", count=count, first=first, state=state, recipe=f"for-{state}")
    rows("INSERT INTO event (scan, site, state) SELECT number, site, state FROM scan")
    rows("ANALYZE")

    async def ask(centre):
        async with centre.pool.connection() as connection:
            asked = Explaining(connection)
            for sought in (Sought(), Sought(state="failed"), Sought(recipe="for-queued"), Sought(text="00004e2")):
                await journey.find(asked, ("st-anna",), sought)
            await journey.find(asked, ("st-anna",), Sought(site="st-anna"), before=10_000)
            await journey.recipes(asked, ("st-anna",))
            await journey.changed(asked, ("st-anna",), await journey.mark(connection))
            await journey.one(asked, ("st-anna",), "st-anna", f"{20_000:08x}" + "e" * 24)
            await journey.story(asked, 1)
        return asked.plans

    for plan in inside(ask):
        assert "Seq Scan on scan" not in plan, plan
        assert "Seq Scan on event" not in plan, plan


def test_stations_are_those_of_the_path():
    named = [station.name for station in path.STATIONS if station.name != "simulate"]
    assert ("fetch", *named, "store") == journey.STATIONS
