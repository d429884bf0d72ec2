"""Answers of the centre: read again as written, with what a later version adds, and refused when dangerous."""

import hashlib
import json

import pytest

from lampyris.model import InputError, StorageError
from lampyris.transfer import Enrolment, ManifestError, Problem, ReturnedFile, ReturnedSeries, ScanStatus, SiteReport

SCAN = "0123456789abcdef0123456789abcdef"
STATUS = ScanStatus(
    SCAN, "running", "stat", "2026-11-21T08:16:40Z", 531, "ab" * 32, ("WAIT", "for a worker"), "correct", 0.25
)
FILES = (ReturnedFile("ct/1.dcm", 5, "ef" * 32), ReturnedFile("ct/2.dcm", 7, "cd" * 32))
SERIES = ReturnedSeries(SCAN, 812, "2026-11-21T08:17:55Z", "look",
                        (FILES[1], FILES[0]), "eyJ")  # fmt: skip


def test_a_status_is_read_as_it_was_written():
    assert ScanStatus.parse(json.dumps(STATUS.as_dict() | {"new": 1}).encode()) == STATUS
    assert not STATUS.terminal


@pytest.mark.parametrize("state", ["done", "refused", "failed"])
def test_terminal_states_are_three(state):
    assert ScanStatus(SCAN, state, "routine", "2026-11-21T08:16:40Z").terminal


@pytest.mark.parametrize("entries", [{"state": "lost"}, {"scan": "../x"}, {"received_bytes": -1}, {"updated": "now"}])
def test_a_status_that_breaks_the_page_is_refused(entries):
    with pytest.raises(ManifestError):
        ScanStatus.of(STATUS.as_dict() | entries)


def test_a_returned_series_is_read_as_it_was_written():
    assert ReturnedSeries.of(json.loads(json.dumps(SERIES.as_dict()))) == SERIES


def test_the_digest_of_a_series_is_that_of_the_page():
    """Section 9 of docs/protocol.md, written out."""
    text = f'["{SCAN}",[["ct/1.dcm",5,"{"ef" * 32}"],["ct/2.dcm",7,"{"cd" * 32}"]]]'
    assert SERIES.digest() == hashlib.sha256(text.encode()).hexdigest()


@pytest.mark.parametrize("name", ["../../etc/passwd", "/etc/passwd", "a/../../b", "..", "a\\..\\b", "A", ""])
def test_a_returned_file_never_leaves_its_folder(name):
    values = SERIES.as_dict()
    values["files"][0]["name"] = name
    with pytest.raises(ManifestError):
        ReturnedSeries.of(values)


def test_a_file_list_that_was_changed_is_noticed():
    values = SERIES.as_dict()
    values["files"][0]["bytes"] = 8
    with pytest.raises(ManifestError, match="digest"):
        ReturnedSeries.of(values)


def test_an_enrolment_is_read_as_it_was_written():
    enrolment = Enrolment("st-anna-ct2", "x" * 43, "https://centre.example")
    assert Enrolment.parse(json.dumps(enrolment.as_dict()).encode()) == enrolment


def test_a_refusal_is_read_as_it_was_written():
    problem = Problem(409, "CHUNKS_MISSING", "two are missing", True, ("ab" * 32, "cd" * 32))
    assert Problem.parse(409, json.dumps(problem.as_dict()).encode()) == problem


@pytest.mark.parametrize(("error", "retry"), [(InputError("x"), False), (StorageError("x"), True)])
def test_errors_say_whether_to_repeat(error, retry):
    assert Problem.of_error(error, 500).retry is retry


@pytest.mark.parametrize(("status", "retry"), [(502, True), (408, True), (429, True), (404, False), (413, False)])
def test_what_a_machine_in_between_says_has_a_meaning(status, retry):
    problem = Problem.parse(status, b"<html>Bad Gateway</html>")
    assert (problem.code, problem.retry) == (f"HTTP_{status}", retry)


def test_a_report_is_read_as_it_was_written():
    report = SiteReport("0.1.0+x", 2, 1 << 40, 95.5, {"ct-1": 40210.0})
    assert SiteReport.parse(json.dumps(report.as_dict()).encode()) == report
    less = {name: value for name, value in report.as_dict().items() if name != "calibrations"}
    assert SiteReport.parse(json.dumps(less).encode()).calibrations == {}
