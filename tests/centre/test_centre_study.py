"""The list of studies and the page of one: found, shown, saved, made again, shared; and nothing of another tenant's."""

import io
import zipfile
from datetime import UTC, datetime

import numpy as np
import pydicom
import pytest
from centre_console import PAGE
from centre_dicom import dataset, digest, encoded

from lampyris.centre.archive import index
from lampyris.centre.archive.entry import read_entry
from lampyris.centre.jobs.reconstruct import keep
from lampyris.centre.jobs.worker import work
from lampyris.centre.store import Store, dicom_prefix, remade_prefix, series_prefix
from lampyris.centre.study import story
from lampyris.dicom import MAPS, Provenance, write_map, write_series
from lampyris.dicom.ids import uid
from lampyris.model import Acquisition, Grid, Study, Volume
from lampyris.recipes import recipe as recipe_of

EVERY = ("stat", "routine", "batch")
STUDY = uid("5ca1", "study")
TOLD = """{"figures": [{"name": "noise", "value": %s, "unit": "HU", "origin": "computed", "settings": {}},
 {"name": "ctdivol", "value": 1.64, "unit": "mGy", "origin": "reported", "settings": {}}],
 "curves": [{"name": "nps", "x": [0.0, 0.5], "y": [2.0, 1.0], "x_unit": "1/mm", "y_unit": "HU² mm²", "settings": {}}],
 "verdict": "look", "reasons": ["noise 51.5 HU, expected at most 40"],
 "detections": [{"task": "rod", "tissue": "soft tissue", "size_mm": 3.0, "contrast_hu": 10.0, "noise_hu": 20.4,
 "detectability": 0.75, "met": false}],
 "provenance": {"scan": "5ca1", "software": "0.1.0", "recipe": {"name": "swift", "version": "1"},
 "recipe_digest": "abcd", "method": {"name": "auto"}, "corrections": [{"name": "log", "settings": {"keep": false}}],
 "derivation": "Reconstructed from the raw measurement.", "views": 720,
 "engine": "cuda on H200", "of a later version": 1},
 "acquisition": {"dose_fraction": 0.1, "BodyPartExamined": "CHEST"}}"""


def makes(settings):
    """A reconstruction of eight slices, with its noise map and its story, by the recipe that the try is of."""
    store = Store(settings)

    def make(work, manifest, folder, watch):
        watch("reconstruct", 0.5)
        name = work.recipe or "swift"
        grid = Grid.centred((8, 30, 36), (4.0, 3.0, 3.0), (0.0, 12.0, 0.0))
        values = np.random.default_rng(len(name)).normal(0.0, 30.0, grid.shape).astype(np.float32)
        acquisition = Acquisition(BodyPartExamined="CHEST")
        provenance = Provenance("5ca1", acquisition, recipe=recipe_of(name))
        volume = Volume(values, grid, "HU", "gantry").place("HFS", (0.0, 0.0, 0.0))
        about = {
            "study": Study(PatientID="7f1c22"),
            "provenance": provenance,
            "now": datetime(2026, 11, 22, tzinfo=UTC),
        }
        write_series(volume, folder / "series", **about)
        noise = Volume(np.abs(values), grid, "HU", "gantry").place("HFS", (0.0, 0.0, 0.0))
        write_map(noise, folder / "series" / "passport" / "noise", MAPS["noise"], **about)
        (folder / "series" / "assessment.json").write_text(TOLD % (14.8 if name == "swift" else 51.5), "utf-8")
        prefix_of = series_prefix if work.recipe is None else remade_prefix
        return keep(store, prefix_of(manifest.site, manifest.scan), folder / "series"), "look"

    return make


@pytest.fixture
def worked(inside, settings):
    def run():
        inside(lambda centre: work(centre, EVERY, makes(settings), signals=False, wait=False))

    return run


@pytest.fixture
def made(site, worked):
    """A study of st-anna with one reconstruction."""
    manifest = site.send([b"raw" * 1000], recipe="swift")
    worked()
    return manifest


@pytest.fixture
def reader(made, signed_in):
    return signed_in(("radiologist", "st-anna"))


def stored(inside, site, made):
    """Put a dataset into the archive, as STOW-RS does."""
    data = encoded(made)
    prefix = dicom_prefix(site, made.StudyInstanceUID, made.SeriesInstanceUID)

    async def action(centre):
        await centre.store.put(prefix, digest(data), [data])
        entry = read_entry(data, prefix, sha256=digest(data), size=len(data))
        async with centre.pool.connection() as connection:
            await index.register(connection, site, [entry])

    inside(action)


def series_of(rows, recipe="swift", role="image"):
    return rows("SELECT uid FROM series WHERE recipe = %s AND role = %s", recipe, role)[0][0]


def test_the_page_of_a_study_tells_all_that_is_known_of_it(reader, rows):
    shown = reader.get(f"/studies/{STUDY}", headers=PAGE)
    assert shown.status_code == 200
    for text in (
        "7f1c22", "A person must look before this image is used", "expected at most 40", "Key images", "14.8", "1.64",
        "Make the comparison with routine", "Filtered backprojection", "abcd", "logarithm", "Low-contrast tasks",
        f"/viewer/read?StudyInstanceUIDs={STUDY}", "not verified", "Another recipe", "Shared with", "10%",
        "Send to PACS", "cuda on H200",
    ):  # fmt: skip
        assert text in shown.text, text
    assert rows("SELECT count(*) FROM audit WHERE kind = 'view' AND object = %s", STUDY) == [(1,)]
    reader.get(f"/studies/{STUDY}", headers=PAGE)
    assert rows("SELECT count(*) FROM audit WHERE kind = 'view' AND object = %s", STUDY) == [(1,)]


@pytest.mark.parametrize("error", [KeyError("verdict"), TypeError("missing"), ValueError("no JSON")])
def test_a_story_that_cannot_be_read_costs_the_page_nothing_else(reader, monkeypatch, error):
    def unreadable(told):
        raise error

    monkeypatch.setattr(story, "read", unreadable)
    shown = reader.get(f"/studies/{STUDY}", headers=PAGE)
    assert shown.status_code == 200
    assert "Key images" in shown.text
    assert "14.8" not in shown.text


def test_the_page_speaks_chinese(reader):
    reader.post("/preferences", data={"language": "zh_CN"})
    shown = reader.get(f"/studies/{STUDY}", headers=PAGE).text
    for text in (
        "关键图像",
        "图像护照",
        "使用此图像前须由人员查看",
        "水射束硬化校正" if "water" in shown else "取对数",
    ):
        assert text in shown


def test_pictures_are_drawn_once_and_kept_by_the_browser_alone(reader, rows, settings):
    series = series_of(rows)
    for name in ("axial-lung", "coronal-bone", "sagittal-soft", "axial-soft"):
        found = reader.get(f"/studies/{STUDY}/series/{series}/{name}.png?slice=3")
        assert (found.status_code, found.headers["content-type"]) == (200, "image/png")
        assert found.headers["cache-control"].startswith("private")
        again = reader.get(
            f"/studies/{STUDY}/series/{series}/{name}.png?slice=3", headers={"If-None-Match": found.headers["etag"]}
        )
        assert (again.status_code, again.content) == (304, b"")
    noise = series_of(rows, role="noise")
    assert reader.get(f"/studies/{STUDY}/series/{noise}/axial-map.png").status_code == 200
    assert list((settings.folder / "objects" / "drawn" / "st-anna").rglob("*"))
    assert reader.get(f"/studies/{STUDY}/series/{series}/oblique-lung.png").status_code == 400
    assert reader.get(f"/studies/{STUDY}/series/{series}/axial-whole.png").status_code == 422
    assert reader.get(f"/studies/{STUDY}/series/{uid('none')}/axial-soft.png").status_code == 404


def test_another_recipe_is_asked_for_made_and_compared(reader, worked, rows):
    assert reader.post(f"/studies/{STUDY}/remake", data={"recipe": "none-such"}).status_code == 422
    assert reader.post(f"/studies/{STUDY}/remake", data={"recipe": "swift"}).status_code == 409
    assert reader.post(f"/studies/{STUDY}/remake", data={"recipe": "routine"}).headers["hx-refresh"] == "true"
    assert rows("SELECT who, detail ->> 'recipe' FROM audit WHERE kind = 'remake'") == [("person-0", "routine")]
    assert "waits until no scan does" in reader.get(f"/studies/{STUDY}", headers=PAGE).text
    with reader.stream("GET", f"/studies/{STUDY}/events") as events:
        lines = events.iter_lines()
        assert [line for line in (next(lines) for _ in range(3)) if line == "event: remakes"]
    worked()
    shown = reader.get(f"/studies/{STUDY}", headers=PAGE).text
    assert "on the left" in shown
    assert "51.5 → 14.8 HU" in shown
    swift, routine = series_of(rows), series_of(rows, "routine")
    laid = reader.get(f"/studies/{STUDY}/series/{routine}/axial-lung.png?slice=2&like={swift}")
    assert laid.content == reader.get(f"/studies/{STUDY}/series/{routine}/axial-lung.png?slice=2").content
    plot = reader.get(f"/studies/{STUDY}/series/{swift}/nps.svg?beside={routine}&language=zh_CN")
    assert plot.headers["content-type"].startswith("image/svg+xml")
    assert plot.text.count("<polyline") == 2
    assert "噪声功率谱" in plot.text
    other = reader.get(f"/studies/{STUDY}?series={routine}", headers=PAGE).text
    assert "14.8 → 51.5 HU" in other


@pytest.mark.parametrize(("name", "line"), [("figures", "noise,14.8,HU,computed"), ("tasks", "rod,soft tissue,3.0"),
                                            ("nps", "0.5,1.0"), ("corrections", "log,")])  # fmt: skip
def test_every_table_of_a_study_can_be_saved(reader, rows, name, line):
    found = reader.get(f"/studies/{STUDY}/series/{series_of(rows)}/{name}.csv")
    assert found.status_code == 200
    assert line in found.content.decode("utf-8-sig")
    assert reader.get(f"/studies/{STUDY}/series/{series_of(rows)}/nothing.csv").status_code == 404


def test_a_study_is_downloaded_whole_or_a_series_of_it_and_that_is_written_down(reader, rows, made):
    found = reader.get(f"/studies/{STUDY}/study.zip")
    archive = zipfile.ZipFile(io.BytesIO(found.content))
    assert archive.testzip() is None
    assert [name for name in archive.namelist() if name.endswith("1")] == ["DICOM/S001/I00001", "DICOM/S002/I00001"]
    assert len(archive.namelist()) == 16
    assert pydicom.dcmread(io.BytesIO(archive.read("DICOM/S001/I00003"))).StudyInstanceUID == STUDY
    one = reader.get(f"/studies/{STUDY}/study.zip?series={series_of(rows, role='noise')}")
    assert len(zipfile.ZipFile(io.BytesIO(one.content)).namelist()) == 8
    assert rows("SELECT detail ->> 'files' FROM audit WHERE kind = 'export' ORDER BY number") == [("16",), ("8",)]


def test_another_tenant_sees_it_when_it_is_shared_and_no_longer(reader, signed_in, invite, rows):
    invite("other-site")
    series = series_of(rows)
    addresses = [
        f"/studies/{STUDY}", f"/studies/{STUDY}/series/{series}/axial-soft.png", f"/studies/{STUDY}/study.zip",
        f"/studies/{STUDY}/series/{series}/nps.svg", f"/studies/{STUDY}/series/{series}/figures.csv",
        f"/studies/{STUDY}/events",
    ]  # fmt: skip
    guest = signed_in(("radiologist", "other-site"))
    assert [guest.get(each).status_code for each in addresses] == [404] * 6
    assert guest.post(f"/studies/{STUDY}/share", data={"tenant": "other-site"}).status_code == 404
    assert guest.post(f"/studies/{STUDY}/remake", data={"recipe": "routine"}).status_code == 404
    for until in ("yesterday", "2020-01-01", "2999-01-01"):
        assert reader.post(f"/studies/{STUDY}/share", data={"tenant": "other-site", "until": until}).status_code == 422
    assert reader.post(f"/studies/{STUDY}/share", data={"tenant": "nowhere"}).status_code == 404
    assert reader.post(f"/studies/{STUDY}/share", data={"tenant": "other-site"}).status_code == 204
    assert [guest.get(each).status_code for each in addresses[:5]] == [200] * 5
    assert guest.post(f"/studies/{STUDY}/share", data={"tenant": "other-site"}).status_code == 404
    assert "shared with you" in guest.get("/studies", headers=PAGE).text
    assert "until" in reader.get(f"/studies/{STUDY}", headers=PAGE).text
    assert reader.post(f"/studies/{STUDY}/unshare", data={"tenant": "other-site"}).status_code == 204
    assert reader.post(f"/studies/{STUDY}/unshare", data={"tenant": "other-site"}).status_code == 404
    assert guest.get(addresses[0]).status_code == 404
    assert rows("SELECT count(*) FROM audit WHERE kind = 'share' AND outcome = 'success'") == [(2,)]


def test_who_may_break_the_glass_is_told_how_and_nobody_else(made, signed_in, invite):
    invite("other-site")
    guest, technologist = signed_in(("radiologist", "other-site")), signed_in(("technologist", "other-site"))
    for study in (STUDY, uid("no such study")):
        shown = guest.get(f"/studies/{study}", headers=PAGE)
        assert (shown.status_code, "break the glass" in shown.text) == (404, True)
        assert "break the glass" not in technologist.get(f"/studies/{study}", headers=PAGE).text
    assert guest.post("/emergency", data={"study": STUDY, "reason": "stroke, on the table now"}).status_code == 204
    assert guest.get(f"/studies/{STUDY}", headers=PAGE).status_code == 200


def test_the_list_is_searched_and_turned_page_by_page(inside, made, reader, rows, monkeypatch):
    from lampyris.centre.console import studies

    names = ["Zhang^San=张^三", "𠮷^田", "Li^Si=李^四", "Wang^Wu"]
    for number, name in enumerate(names):
        stored(inside, "st-anna", dataset(f"s{number}", "ct", PatientName=name, StudyDate=f"2026112{number}",
                                          PatientID=f"100%_{number}"))  # fmt: skip
    stored(inside, "st-anna", dataset("s9", "ct", PatientID="1000"))

    def found(**search) -> list[str]:
        lines = reader.get("/studies/studies.csv", params=search).content.decode("utf-8-sig").splitlines()[1:]
        return [line.split(",")[2] for line in lines]

    assert found(patient="100%_") == ["100%_3", "100%_2", "100%_1", "100%_0"]
    assert found(patient="张^三") == found(patient="zhang^S") == ["7f1c22"] * 0 + ["1000", "100%_0"]
    assert found(patient="𠮷") == ["100%_1"]
    assert found(accession="A-s2") == ["100%_2"]
    assert found(first="2026-11-22", last="2026-11-22") == ["100%_2"]
    assert found(recipe="swift") == found(verdict="look") == ["7f1c22"]
    assert found(site="elsewhere") == found(verdict="stop") == []
    assert reader.get("/studies", params={"first": "last week"}).status_code == 422
    assert "No study is like that" in reader.get("/studies?patient=nobody", headers=PAGE).text
    monkeypatch.setattr(studies, "PAGE", 2)
    first = reader.get("/studies", headers=PAGE).text
    assert "𠮷 田" not in first
    (on,) = [part.split('"')[0] for part in first.split('rel="next" href="')[1:]]
    second = reader.get(on.replace("&amp;", "&"), headers=PAGE).text
    assert "Zhang San · 张 三" in second or "𠮷 田" in second
    kinds = rows("SELECT detail FROM audit WHERE kind IN ('query', 'export') AND detail ->> 'by' LIKE '%%patient%%'")
    assert kinds
    assert "nobody" not in str(kinds)


def test_a_list_without_studies_says_what_will_be_there(signed_in, site):
    assert "No study yet" in signed_in(("radiologist", "st-anna")).get("/studies", headers=PAGE).text


def test_a_study_from_elsewhere_is_shown_as_far_as_it_is_known(inside, site, signed_in):
    for number in (1, 2):
        stored(inside, "st-anna", dataset("x", "ct", number))
    shown = signed_in(("radiologist", "st-anna")).get(f"/studies/{uid('x')}", headers=PAGE)
    assert shown.status_code == 200
    assert "This series was not made here" in shown.text
    assert "Another recipe" not in shown.text
