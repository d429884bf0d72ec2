"""The index of doses: what reports tell, repeats, quartiles against reference levels, and whose rows they are."""

import csv
import io
import math
import statistics as reference
from datetime import UTC, datetime
from xml.etree import ElementTree

import pytest
import structlog
from centre_console import PAGE
from centre_dose import acquisition, encoded, fill, metadata, report

from lampyris.centre.archive.entry import read_entry
from lampyris.centre.archive.index import register
from lampyris.centre.dose import index, levels, statistics
from lampyris.centre.dose.statistics import Which

ALL = Which(("st-anna",))


@pytest.fixture
def anna(rows):
    for name in ("st-anna", "other-site"):
        rows("INSERT INTO site (id) VALUES (%s)", name)
    return "st-anna"


@pytest.fixture
def told(do, anna):
    def tell(*reports, site=anna):
        return do(lambda connection: index.record(connection, site, [metadata(one) for one in reports]))

    return tell


def test_a_scanner_s_report_becomes_a_row_and_no_row_says_whose_it_is(told, rows):
    assert told(report("1.9", acquisition("1.9.7"))) == 1
    (row,) = rows(
        "SELECT event, report, study_uid, at, scanner, examination, protocol, age_class, ctdivol, dlp, source,"
        " repeat_of FROM dose"
    )
    moment = datetime(2026, 11, 20, 10, 15, tzinfo=UTC)
    assert row == (
        "1.9.7", "1.9", "1.9.1", moment, "Testscan T1", "chest", "胸部低剂量", "adult", 7.25, 240.5,
        "Automated Data Collection", None,
    )  # fmt: skip
    (whole,) = rows("SELECT to_jsonb(dose)::text FROM dose")
    assert "G-1" not in whole[0]
    assert "三" not in whole[0]


def test_a_report_that_comes_again_is_counted_once_and_told_anew(told, rows):
    told(report("1.9", acquisition("1.9.7")))
    told(report("1.9", acquisition("1.9.7", ctdivol="7.5")))
    assert rows("SELECT ctdivol FROM dose") == [(7.5,)]


def test_localizers_and_other_documents_are_passed_by(told, rows):
    other = report("1.9", SOPClassUID="1.2.840.10008.5.1.4.1.1.88.33")
    other.ConceptNameCodeSequence[0].CodeValue = "126000"
    image = report("1.8", acquisition("1.8.1"), SOPClassUID="1.2.840.10008.5.1.4.1.1.2")
    localizer = report("1.7", acquisition("1.7.1", kind="Constant Angle Acquisition"))
    assert told(other, image, localizer) == 0
    assert rows("SELECT * FROM dose") == []


def test_a_damaged_report_is_left_out_and_said_so(told, rows):
    broken = report("1.9", acquisition("1.9.7"))
    del broken.ContentSequence[0].ContentSequence[3]
    with structlog.testing.capture_logs() as logs:
        assert told(broken, report("1.6", acquisition("1.6.1"))) == 1
    assert [(one["event"], one["reason"]) for one in logs] == [("dose report left out", "FormatError")]
    assert rows("SELECT event FROM dose") == [("1.6.1",)]


def test_a_repeat_is_another_study_of_the_same_body_part_within_a_day(told, rows):
    """In whatever order they arrive: the earliest last. Phases of one study are no repeats of each other."""

    def at(uid, moment, **changes):
        told(report(uid, acquisition(f"{uid}.7", started=moment, **changes)))

    at("1.3", "20261121080000")
    at("1.4", "20261122090000")
    at("1.5", "20261121090000", region="Head")
    told(report("1.6", acquisition("1.6.7", started="20261121100000"), patient="G-2"))
    told(report("1.2", acquisition("1.2.7", started="20261120081500"), acquisition("1.2.8", started="20261120082000")))
    found = rows("SELECT dose.event, first.event FROM dose JOIN dose AS first ON first.number = dose.repeat_of")
    assert found == [("1.3.7", "1.2.8")]


@pytest.mark.parametrize("ours_first", [True, False])
def test_an_irradiation_that_two_reports_tell_of_counts_once_and_is_no_repeat(do, told, rows, anna, ours_first):
    """The centre's report of a scan, and the scanner's of the two of that study: one of these is the scan's."""
    made = "INSERT INTO scan (site, id, priority, skeleton) VALUES (%s, 'a', 'stat', '{}') RETURNING number"
    ((scan,),) = rows(made, anna)
    ours = report("1.8", acquisition("1.8.7", started="20261120101600"), StudyInstanceUID="1.5")
    phases = [
        acquisition(f"1.9.{n}", started=f"202611201015{n}0", ctdivol=dose)
        for n, dose in ((1, "7.21"), (2, "7.25"), (3, "9.5"))
    ]
    steps = [
        lambda: do(lambda connection: index.record(connection, anna, [metadata(ours)], scan=scan)),
        lambda: told(report("1.9", *phases, StudyInstanceUID="1.5")),
    ]
    for step in steps if ours_first else reversed(steps):
        step()
    assert rows("SELECT event FROM dose WHERE told_in IS NOT NULL") == [("1.9.1",) if ours_first else ("1.9.2",)]
    whole = do(lambda connection: statistics.overview(connection, ALL))
    assert (whole.count, whole.groups[0].ctdivol.high) == (3, 8.375)
    told(report("1.9", *phases, StudyInstanceUID="1.5"))
    assert do(lambda connection: statistics.overview(connection, ALL)).count == 3
    assert rows("SELECT event FROM dose WHERE repeat_of IS NOT NULL") == []


@pytest.mark.parametrize(
    ("age", "born", "known"),
    [("056Y", "", "adult"), ("017Y", "19000101", "child"), ("011M", "", "child"), ("", "20081120", "adult"),
     ("", "20081121", "child"), ("", "", "")],
)  # fmt: skip
def test_an_age_class_is_of_the_day_of_the_scan(age, born, known):
    given = report("1.9", acquisition("1.9.7"), PatientAge=age, PatientBirthDate=born)
    assert index.age_class_of(given, datetime(2026, 11, 20, tzinfo=UTC)) == known


def test_a_moment_without_a_zone_is_utc_and_another_is_turned(told, rows):
    told(report("1.9", acquisition("1.9.7", started="20261120101500+0800")))
    told(report("1.8", acquisition("1.8.7", started="")))
    found = dict(rows("SELECT event, at FROM dose"))
    assert found["1.9.7"] == datetime(2026, 11, 20, 2, 15, tzinfo=UTC)
    assert found["1.8.7"] == datetime(2026, 11, 20, 10, 10, tzinfo=UTC)


def test_a_report_that_arrives_in_the_archive_is_told_and_the_index_can_be_made_anew(do, rows, anna, operate):
    content = encoded(report("1.9", acquisition("1.9.7")))
    entry = read_entry(content, "dicom/st-anna/x", sha256="a" * 64, size=len(content))

    async def arrive(connection):
        await register(connection, anna, [entry])

    do(arrive)
    assert rows("SELECT event, ctdivol FROM dose") == [("1.9.7", 7.25)]
    rows("UPDATE dose SET ctdivol = 1, examination = ''")
    code, said, _ = operate("centre", "dose", "rebuild", "--json")
    assert (code, said.replace(" ", "").replace("\n", "")) == (0, '{"reports":1,"irradiations":1}')
    assert rows("SELECT ctdivol, examination FROM dose") == [(7.25, "chest")]


def test_a_site_that_is_removed_takes_its_doses_with_it(told, rows, anna):
    told(report("1.9", acquisition("1.9.7")), report("1.8", acquisition("1.8.7", started="20261120101600")))
    told(report("1.9", acquisition("1.9.7")), site="other-site")
    assert rows("SELECT count(*) FROM dose WHERE repeat_of IS NOT NULL") == [(1,)]
    rows("DELETE FROM site WHERE id = %s", anna)
    assert rows("SELECT site, event FROM dose") == [("other-site", "1.9.7")]


def test_quartiles_are_those_of_the_textbook(do, rows, anna):
    """Against Python's own inclusive method (Hyndman & Fan 7)."""
    values = [(1 + n % 5, 4.0 + 0.37 * (n * 7 % 23), 100.0 + n) for n in range(23)]
    fill(rows, anna, values)
    fill(rows, anna, [(1, None, None)], protocol="empty")
    found = do(lambda connection: statistics.overview(connection, ALL))
    assert (found.count, found.unknown, found.repeats) == (24, 1, 0)
    empty, group = found.groups
    assert empty.ctdivol is None
    expected = reference.quantiles([one for _, one, _ in values], n=4, method="inclusive")
    assert (group.ctdivol.low, group.ctdivol.median, group.ctdivol.high) == pytest.approx(expected)
    assert group.ctdivol.count == 23


def test_a_group_is_judged_by_its_median_and_only_if_it_is_large_enough():
    def judged(median, count=30, examination="chest"):
        quartiles = statistics.Quartiles(count, median - 1, median, median + 1)
        return statistics.Group(examination, "p", "s", count, quartiles, None, None).judged("ctdivol")[0]

    chest = next(one for one in levels.levels_for("chest") if one.quantity == "ctdivol")
    assert judged(chest.high + 0.01) == "above"
    assert judged(chest.high) == judged(chest.low) == "within"
    assert judged(chest.low - 0.01) == "below"
    assert judged(99.0, count=levels.FEW - 1) == "few"
    assert judged(99.0, examination="") == ""
    assert statistics.Group("chest", "p", "s", 3, None, None, None).judged("ctdivol")[0] == ""


def test_every_level_has_its_source_and_falls_from_high_to_low():
    for one in levels.all_levels():
        known = [value for value in (one.high, one.typical, one.low) if value is not None]
        assert known == sorted(known, reverse=True), one
        assert one.source
        assert one.edition
        assert one.examination in levels.examinations()
    assert not any(one.verified for one in levels.all_levels() if one.authority.startswith("WS/T"))
    assert levels.levels_for("chest", "child") == ()


@pytest.mark.parametrize(
    ("told", "known"),
    [("CHEST", "chest"), ("Chest, Abdomen and Pelvis", "chest_abdomen_pelvis"), ("Paranasal sinus", "sinuses"),
     ("Entire body", ""), (None, ""), ("Abdomen and Pelvis", "abdomen_pelvis"), ("ABDOMENPELVIS", "abdomen_pelvis")],
)  # fmt: skip
def test_a_region_is_known_however_it_is_spelt(told, known):
    assert levels.examination_of(told) == known


def test_nobody_sees_doses_of_other_sites(do, rows, anna):
    fill(rows, anna, [(1, 5.0, 100.0)])
    fill(rows, "other-site", [(1, 9.0, 300.0), (2, 9.5, 310.0)], protocol="theirs")
    found = do(lambda connection: statistics.overview(connection, ALL))
    assert {one.site for one in found.groups} == {anna}
    asked = Which((anna,), site="other-site")
    assert do(lambda connection: statistics.overview(connection, asked)).count == 0
    assert do(lambda connection: statistics.trend(connection, asked, "ctdivol")) == ()

    assert {one[0] for one in do(lambda connection: statistics.every(connection, ALL))} == {anna}


def test_the_course_is_by_month_and_the_distribution_sums_to_all(do, rows, anna):
    fill(rows, anna, [(month, 4.0 + month + n, 100.0) for month in (2, 5) for n in range(3)])
    found = do(lambda connection: statistics.trend(connection, ALL, "ctdivol"))
    assert [(one.month.month, one.quartiles.count, one.quartiles.median) for one in found] == [
        (2, 3, 7.0),
        (5, 3, 10.0),
    ]
    width, counts = do(lambda connection: statistics.histogram(connection, ALL, "ctdivol"))
    assert sum(counts) == 6
    assert counts[math.floor(7.0 / width)] >= 1
    assert do(lambda connection: statistics.histogram(connection, Which(()), "dlp")) == (0.0, (0,) * statistics.BINS)
    within = Which((anna,), since=datetime(2026, 3, 1, tzinfo=UTC), until=datetime(2026, 6, 1, tzinfo=UTC))
    assert do(lambda connection: statistics.overview(connection, within)).count == 3


@pytest.fixture
def physicist(signed_in, anna, rows):
    """Somebody of st-anna alone, where 25 chests were above the level and 3 heads were irradiated; others elsewhere."""
    fill(rows, anna, [(1 + n % 3, 30.0 + n, 600.0 + n) for n in range(25)], protocol="胸部 <b>")
    fill(rows, anna, [(2, 45.0, 700.0)] * 3, examination="head")
    fill(rows, "other-site", [(1, 1.0, 10.0)] * 30, protocol="theirs")
    return signed_in(("physicist", anna))


def test_the_page_shows_groups_against_levels_and_says_what_levels_are_for(physicist):
    shown = physicist.get("/dose?period=", headers=PAGE)
    assert shown.status_code == 200
    assert "never a limit for one patient" in shown.text
    assert "胸部 &lt;b&gt;" in shown.text
    assert "above the level" in shown.text
    assert "too few" in shown.text
    assert "unverified" in shown.text
    assert "theirs" not in shown.text
    assert "other-site" not in shown.text


def test_nothing_to_show_is_said(physicist, signed_in, rows):
    assert "Nothing matches" in physicist.get("/dose?period=&examination=neck", headers=PAGE).text
    nowhere = signed_in(("physicist", "centre"), login="x")
    rows("DELETE FROM dose")
    assert "No doses yet" in nowhere.get("/dose", headers=PAGE).text


@pytest.mark.parametrize("name", ["course", "distribution"])
def test_a_figure_is_a_picture_in_the_reader_s_language(name, physicist):
    drawn = physicist.get(f"/dose/{name}.svg?period=&examination=chest&light=dark", headers={"Accept-Language": "zh"})
    assert drawn.headers["content-type"] == "image/svg+xml"
    root = ElementTree.fromstring(drawn.text)
    told = " ".join(one.text or "" for one in root.iter("{http://www.w3.org/2000/svg}text"))
    assert "胸部 · CTDIvol (mGy)" in told
    assert "WS/T 637-2018 (未核实)" in told
    empty = physicist.get(f"/dose/{name}.svg?period=&examination=neck")
    assert "Nothing to show" in empty.text


def test_files_hold_all_that_the_page_shows(physicist):
    every = list(csv.DictReader(io.StringIO(physicist.get("/dose/all.csv?period=").content.decode("utf-8-sig"))))
    assert len(every) == 28
    assert {one["site"] for one in every} == {"st-anna"}
    groups = list(csv.DictReader(io.StringIO(physicist.get("/dose/groups.csv?period=").content.decode("utf-8-sig"))))
    chest = next(one for one in groups if one["examination"] == "chest")
    assert (chest["ctdivol_50"], chest["ctdivol_is"], chest["ctdivol_verified"]) == ("42.0", "above", "false")
    assert "WS/T 637-2018" in physicist.get("/dose/levels.csv").text
    assert physicist.get("/dose/repeats.csv").text.count("\n") == 1


def test_who_may_not_read_doses_is_refused_and_reading_is_audited(physicist, signed_in, rows):
    physicist.get("/dose/all.csv?examination=chest&site=other-site")
    (noted,) = rows("SELECT kind, site, object, detail ->> 'examination' FROM audit ORDER BY number DESC LIMIT 1")
    assert noted == ("export", None, "dose", "chest")
    auditor = signed_in(("auditor", "centre"))
    for path in ("/dose", "/dose/all.csv", "/dose/groups.csv", "/dose/repeats.csv", "/dose/levels.csv",
                 "/dose/course.svg", "/dose/distribution.svg"):  # fmt: skip
        assert auditor.get(path).status_code == 403


@pytest.mark.parametrize("query", ["examination=x&age=y&period=z&quantity=dose", "site=%00", "light=pink"])
def test_a_choice_that_there_is_not_counts_as_none(query, physicist):
    assert physicist.get(f"/dose?{query}", headers=PAGE).status_code == 200
    assert physicist.get(f"/dose/course.svg?{query}").status_code == 200
