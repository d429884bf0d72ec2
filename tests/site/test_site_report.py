"""What an agent tells the centre of itself: once a minute, and to a centre that does not listen once a day."""

import re

from conftest import SECRETS, rounds
from fake_centre import problem

from lampyris import __version__
from lampyris.site.report import report_of
from lampyris.transfer import SiteReport

STATUS = "POST /v1/status"


def test_a_site_tells_what_waits_and_since_when(agent, centre, drop, now, clock):
    centre.reports = []
    drop("waits.lraw")
    agent.take_in()
    now.at += 95.5
    agent.fetch()
    (report,) = [SiteReport.parse(body) for body in centre.reports]
    assert (report.spool_scans, report.oldest_s, report.version) == (1, 95.5, __version__)
    assert report.spool_bytes == agent.spool.stored_bytes(agent.spool.entries()[0].scan)
    clock.step = 1.0
    for _ in range(40):
        agent.fetch()
    assert 1 < len(centre.reports) < 40  # every minute, and not whenever it asks after its series


def test_a_calibration_scan_is_remembered_by_its_scanner(agent, config, drop):
    drop("air.lraw", purpose="calibration")
    agent.take_in()
    (name,) = report_of(agent.spool, config.folder).calibrations
    assert re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", name)
    drop("patient.lraw")
    agent.take_in()
    assert list(report_of(agent.spool, config.folder).calibrations) == [name]


def test_a_report_holds_no_identity(agent, config, drop):
    drop()
    agent.take_in()
    text = str(report_of(agent.spool, config.folder))
    assert not [secret for secret in SECRETS if secret in text]


def test_an_older_centre_is_left_in_peace_and_the_work_goes_on(agent, centre, drop):
    drop()
    rounds(agent, 30)
    assert [held["state"] for held in centre.scans.values()] == ["queued"]
    assert centre.asked.count(STATUS) == 1
    assert "report" not in agent._patience.reasons()
    assert agent.link.trouble is None


def test_a_line_that_fails_for_reports_fails_for_nothing_else(agent, centre, drop):
    centre.before.append(lambda request: problem(500, "PROGRAM") if request.url.path == "/v1/status" else None)
    drop()
    rounds(agent, 30)
    assert [held["state"] for held in centre.scans.values()] == ["queued"]
    assert "report" in agent._patience.reasons()
