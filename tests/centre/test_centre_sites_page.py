"""The page of sites: how each is, a new one in a minute, and what is done about one that should not come in."""

import json
import re
import threading

import pytest
from centre_console import PAGE, scans_of
from centre_site import Site

from lampyris.transfer import SiteReport

REPORT = SiteReport("0.1.0", 3, 1_300_000_000, 95.5, {"ct-1": 40_000.0})
CONFIGURED = """
    SELECT who, object, detail ->> 'what' FROM audit WHERE kind = 'configure' AND who IN ('li', 'wang') ORDER BY number
"""


@pytest.fixture
def admin(site, other, signed_in):
    """Somebody who manages one of two sites."""
    return signed_in(("site_admin", "st-anna"), login="li")


@pytest.fixture
def operator(rows, signed_in):
    rows("INSERT INTO tenant VALUES ('west', 'centre', 'province', '西省'), ('left', 'west', 'county', '左县')")
    return signed_in(("operator", "centre"), login="wang")


def shown(person, address: str = "/sites") -> str:
    answer = person.get(address, headers=PAGE)
    assert answer.status_code == 200, answer.text
    return answer.text


def tell(site: Site, report: SiteReport):
    return site.ask("POST", "/status", content=json.dumps(report.as_dict()))


def test_what_an_agent_tells_is_shown(site, admin, rows):
    assert tell(site, REPORT).status_code == 204
    assert tell(site, REPORT).status_code == 204
    text = shown(admin)
    for said in ("connected", "3 scans", "1.3 GB", "11 hrs", "0.1.0", "1 key"):
        assert said in text, said
    rows("UPDATE site_report SET calibrations = '{\"ct-1\": 5000000}'")
    rows("UPDATE site SET seen = now() - interval '4 minutes'")
    text = shown(admin)
    assert "silent" in text
    assert "57 days old" in text


def test_a_site_of_an_older_release_is_shown_without_what_it_does_not_tell(admin):
    """It gets itself a token every five minutes: that is how it is heard."""
    text = shown(admin)
    assert "connected" in text
    assert "Its agent does not tell" in text


@pytest.mark.parametrize(
    "change",
    [
        {"version": "<script>"}, {"spool_scans": -1}, {"spool_scans": 1 << 31}, {"spool_bytes": 1.5}, {"oldest_s": -1},
        {"oldest_s": 1e300}, {"calibrations": {"a b": 1}}, {"calibrations": {f"ct-{n}": 1 for n in range(33)}},
        {"calibrations": {"ct": "old"}}, {"more": 1},
    ],
)  # fmt: skip
def test_a_report_that_breaks_the_page_is_refused(site, rows, change):
    body = json.dumps(REPORT.as_dict() | change)
    assert site.ask("POST", "/status", content=body).status_code == 422
    assert rows("SELECT count(*) FROM site_report") == [(0,)]


def test_people_see_their_sites_and_no_others(admin, signed_in):
    assert "other-site" not in shown(admin)
    for address in ("/sites/other-site", "/sites/other-site/events", "/sites/never-was"):
        assert admin.get(address).status_code == 404
    for method, address in (
        ("POST", "/sites/other-site/code"), ("POST", "/sites/other-site/suspend"), ("POST", "/sites/other-site/admit"),
        ("DELETE", "/sites/other-site/keys"), ("DELETE", f"/sites/other-site/keys/{'a' * 43}"),
        ("POST", "/sites/other-site/tree/move"),
    ):  # fmt: skip
        body = {"data": {"place": "centre"}} if address.endswith("move") else {}
        assert admin.request(method, address, **body).status_code == 404, address
    assert "other-site" not in admin.get("/sites/sites.csv").text
    assert signed_in(("radiologist", "centre")).get("/sites").status_code == 403
    assert signed_in(("technologist", "st-anna")).post("/sites/st-anna/suspend").status_code == 403


def test_a_site_is_enrolled_in_a_minute(operator, client, rows):
    """The code is on the screen; that the site used it comes by itself."""
    form = {"site": "st-anna", "name": "圣安娜 CT 2", "place": "left"}
    text = operator.post("/sites/new", data=form).text
    code = re.search(r'<code id="code">([0-9A-Z-]{23})</code>', text).group(1)
    assert f"lampyris site enrol {code}" in text
    assert "Waiting for the site" in text
    heard: list[str] = []
    enrolled = threading.Event()

    def listen() -> None:
        with operator.stream("GET", "/sites/st-anna/events", timeout=60) as answer:
            for line in answer.iter_lines():
                heard.append(line)
                if "has enrolled" in line:
                    enrolled.set()
                    return

    reader = threading.Thread(target=listen)
    reader.start()
    Site(client, "st-anna", code)
    assert enrolled.wait(60), heard
    reader.join()
    assert rows("SELECT parent, name FROM tenant WHERE id = 'st-anna'") == [("left", "圣安娜 CT 2")]
    assert rows(CONFIGURED) == [("wang", "st-anna", "site.invite")]
    assert code not in str(rows("SELECT * FROM audit"))
    assert "圣安娜 CT 2" in shown(operator)


@pytest.mark.parametrize(("site", "said"), [("St Anna", "lower-case"), ("-x", "lower-case"), ("left", "taken")])
def test_an_id_that_cannot_be_is_told_beside_its_field(operator, rows, site, said):
    text = operator.post("/sites/new", data={"site": site, "place": "left"}).text
    assert said in text
    assert 'aria-invalid="true"' in text
    assert rows("SELECT count(*) FROM site") == [(0,)]


def test_a_site_is_put_under_nothing_that_is_not_the_caller_s(operator, admin, rows):
    assert admin.post("/sites/new", data={"site": "mine", "place": "centre"}).status_code == 404
    assert admin.post("/sites/new", data={"site": "mine", "place": "st-anna"}).status_code == 404
    assert "Nowhere to put it" in shown(admin, "/sites/new")
    assert rows("SELECT count(*) FROM site WHERE id = 'mine'") == [(0,)]


def test_a_site_is_shut_out_at_once_and_let_in_again(site, admin, rows):
    assert admin.post("/sites/st-anna/suspend").status_code == 204
    assert site.ask("GET", "/scans").status_code == 401
    assert "shut out" in shown(admin)
    assert admin.post("/sites/st-anna/code").status_code == 409
    assert admin.post("/sites/st-anna/admit").status_code == 204
    assert site.ask("GET", "/scans").status_code == 200
    assert [row[2] for row in rows(CONFIGURED)] == ["site.suspend", "site.admit"]


def test_a_key_is_taken_back_and_the_site_enrols_again(site, admin, rows):
    key = rows("SELECT id FROM site_key WHERE site = 'st-anna'")[0][0]
    assert admin.delete(f"/sites/st-anna/keys/{'a' * 43}").status_code == 404
    assert admin.delete(f"/sites/st-anna/keys/{key}").status_code == 204
    assert site.ask("GET", "/scans").status_code == 401
    text = shown(admin, "/sites/st-anna")
    assert "without a key" in text
    code = re.search(r'<code id="code">([^<]+)</code>', admin.post("/sites/st-anna/code").text).group(1)
    assert site.enrol(code).status_code == 201
    assert admin.delete("/sites/st-anna/keys").status_code == 204
    assert rows("SELECT count(*) FROM site_key WHERE site = 'st-anna'") == [(0,)]


def test_a_site_is_moved_in_the_tree_by_who_holds_both_places(site, operator, signed_in, rows):
    assert operator.post("/sites/st-anna/tree/move", data={"place": "left"}).status_code == 204
    assert rows("SELECT parent FROM tenant WHERE id = 'st-anna'") == [("left",)]
    below = signed_in(("operator", "left"))
    assert below.post("/sites/st-anna/tree/move", data={"place": "centre"}).status_code == 404
    assert rows("SELECT parent FROM tenant WHERE id = 'st-anna'") == [("left",)]


def test_sites_are_found_turned_and_saved(operator, invite, rows):
    for number in range(103):
        rows("INSERT INTO site (id) VALUES (%s)", f"ct-{number:03}")
    scans_of(rows, "ct-101", 2, state="failed")
    first = shown(operator)
    on = re.search(r'rel="next" href="([^"]+)"', first).group(1)
    second = shown(operator, on)
    assert "site-ct-099" in first
    assert "site-ct-100" not in first
    assert re.findall(r'id="site-(ct-\d+)"', second) == ["ct-100", "ct-101", "ct-102"]
    assert "2 failed" in second
    assert re.findall(r'id="site-(ct-\d+)"', shown(operator, "/sites?text=CT-05")) == [f"ct-05{n}" for n in range(10)]
    assert "No site is like that" in shown(operator, "/sites?text=%25")
    assert operator.get("/sites/sites.csv").text.count("\n") == 104


def test_a_centre_without_sites_says_how_one_is_made(operator):
    assert "No site yet" in shown(operator)
