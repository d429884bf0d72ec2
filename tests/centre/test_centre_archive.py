"""The index of DICOM objects: what enters it, who finds it there, and when it goes."""

import asyncio
import json

import pytest
from centre_dicom import dataset, digest, encoded
from pydicom.dataset import Dataset

from lampyris.centre.archive import index, queries
from lampyris.centre.archive.entry import read_entry
from lampyris.centre.archive.index import Filed
from lampyris.centre.archive.rebuild import Differences, rebuild
from lampyris.centre.jobs.reconstruct import keep
from lampyris.centre.jobs.worker import work
from lampyris.centre.people.callers import Caller
from lampyris.centre.people.rules import Action
from lampyris.centre.store import Store, dicom_prefix, series_prefix
from lampyris.dicom.ids import uid
from lampyris.model import FormatError


@pytest.fixture
def sites(invite):
    for name in ("st-anna", "other-site"):
        invite(name)


async def kept(centre, site, made):
    """Put a dataset into the store and register it; what became of it."""
    data = encoded(made)
    prefix = dicom_prefix(site, made.StudyInstanceUID, made.SeriesInstanceUID)
    await centre.store.put(prefix, digest(data), [data])
    entry = read_entry(data, prefix, sha256=digest(data), size=len(data))
    async with centre.pool.connection() as connection:
        return (await index.register(connection, site, [entry]))[0]


def caller(*sites, tenants=(), person=0):
    return Caller(person, "li", "Li", None, frozenset(), Action.STUDY_READ, (*sites, *tenants), sites, None, None, "")


async def seen(centre, who):
    """Studies, series and instances that somebody sees."""
    bounds = queries.visible(who)
    async with centre.pool.connection() as connection:
        return (
            await queries.find_studies(connection, bounds),
            await queries.find_series(connection, bounds),
            await queries.find_instances(connection, bounds),
        )


def test_a_file_is_found_with_all_that_it_says(sites, inside):
    made = dataset("a", "lung", 2, Manufacturer="Lampyris", SeriesDescription="lung 0.7")

    async def action(centre):
        assert await kept(centre, "st-anna", made) is Filed.NEW
        return await seen(centre, caller("st-anna"))

    (study,), (series,), (instance,) = inside(action)
    assert (study.patient_name, study.series_count, study.instance_count) == ("Zhang^San=张^三", 1, 1)
    assert (study.modalities, study.bytes, study.complete) == (("CT",), len(encoded(made)), True)
    assert (series.description, series.series_number, series.role) == ("lung 0.7", 3, "image")
    assert (instance.uid, instance.instance_number, instance.frames) == (made.SOPInstanceUID, 2, 1)
    assert instance.json["00080070"] == {"vr": "LO", "Value": ["Lampyris"]}
    data = encoded(made)
    assert data[instance.pixel_at :][: instance.pixel_bytes] == made.PixelData


def test_metadata_that_a_series_has_in_common_come_back_whole(sites, inside):
    first, second = dataset("a", "lung", 1, ImageComments="one"), dataset("a", "lung", 2, ProtocolName="thorax")

    async def action(centre):
        for made in (first, second):
            await kept(centre, "st-anna", made)
        return (await seen(centre, caller("st-anna")))[2]

    for made, found in zip((first, second), inside(action), strict=True):
        told = {tag: element for tag, element in made.to_json_dict().items() if tag != "7FE00010"}
        assert found.json == told


def test_registering_again_changes_nothing_and_another_content_is_not_taken(sites, inside, rows):
    async def action(centre):
        made = dataset("a", "lung")
        again, other = encoded(made), dataset("a", "lung", ImageComments="other")
        made.preamble = b"\1" * 128
        assert encoded(made) != again
        return [await kept(centre, "st-anna", each) for each in (dataset("a", "lung"), made, other)]

    assert inside(action) == [Filed.NEW, Filed.SAME, Filed.DIFFERS]
    assert rows("SELECT instance_count, series_count FROM study") == [(1, 1)]


def test_what_is_empty_is_filled_and_what_stands_there_stays(sites, inside):
    async def action(centre):
        await kept(centre, "st-anna", dataset("a", "lung", PatientName="", PatientID="pseudonym"))
        await kept(centre, "st-anna", dataset("a", "bone", PatientName="Li^Si", PatientID="other"))
        return (await seen(centre, caller("st-anna")))[0]

    (study,) = inside(action)
    assert (study.patient_name, study.patient_id, study.series_count) == ("Li^Si", "pseudonym", 2)


def test_a_study_is_seen_by_its_site_by_whom_it_is_shared_with_and_through_broken_glass(sites, inside, rows, signed_in):
    signed_in(login="wang")

    async def fill(centre):
        for series in ("lung", "bone"):
            await kept(centre, "st-anna", dataset("a", series))

    async def look(centre):
        return [len(each) for each in await seen(centre, caller("other-site"))]

    inside(fill)
    assert inside(look) == [0, 0, 0]
    rows("INSERT INTO shared (study, series, tenant) SELECT study, number, 'other-site' FROM series WHERE uid = %s",
         uid("a", "bone"))  # fmt: skip
    assert inside(look) == [1, 1, 1]
    (study,) = inside(lambda centre: seen(centre, caller("other-site")))[0]
    assert (study.series_count, study.instance_count, study.complete) == (1, 1, False)
    rows("UPDATE shared SET until = now() - interval '1 s'")
    assert inside(look) == [0, 0, 0]
    rows("INSERT INTO shared (study, tenant) SELECT number, 'other-site' FROM study")
    assert inside(look) == [1, 2, 2]
    rows("DELETE FROM shared")
    ((person,),) = rows("SELECT number FROM person")
    rows("INSERT INTO glass SELECT %s, number, 'emergency', now(), now() + interval '1 h' FROM study", person)
    assert len(inside(lambda centre: seen(centre, caller(person=person)))[2]) == 2
    assert inside(look) == [0, 0, 0]


def test_counts_follow_what_is_deleted_and_what_is_empty_goes(sites, inside, rows):
    async def fill(centre):
        for number in (1, 2):
            await kept(centre, "st-anna", dataset("a", "lung", number))
        await kept(centre, "st-anna", dataset("a", "dose", Modality="SR"))

    inside(fill)
    assert rows("SELECT series_count, instance_count, modalities FROM study") == [(2, 3, ["CT", "SR"])]
    rows("DELETE FROM instance WHERE uid = %s", uid("a", "dose", "1"))
    assert rows("SELECT series_count, instance_count, modalities FROM study") == [(1, 2, ["CT"])]
    rows("DELETE FROM series")
    assert rows("SELECT count(*) FROM study") == [(0,)]
    assert rows("SELECT count(*) FROM instance") == [(0,)]


def test_pages_go_on_behind_the_last_row(sites, inside):
    async def action(centre):
        for number in range(5):
            await kept(centre, "st-anna", dataset(f"s{number}", "lung", StudyDate=f"2026010{number % 3 + 1}"))
        bounds, found, after = queries.visible(caller("st-anna")), [], None
        async with centre.pool.connection() as connection:
            while page := await queries.find_studies(connection, bounds, after=after, limit=2):
                found += page
                after = queries.After(page[-1].study_date, page[-1].number)
        return found

    found = inside(action)
    assert [one.study_date[-1] for one in found] == ["3", "2", "2", "1", "1"]
    assert len({one.uid for one in found}) == 5


def test_the_index_is_made_anew_from_the_store(sites, inside, rows):
    async def fill(centre):
        for number in (1, 2, 3):
            await kept(centre, "st-anna", dataset("a", "lung", number))

    async def again(centre):
        async with centre.pool.connection() as connection:
            return await rebuild(connection, centre.store)

    inside(fill)
    assert inside(again) == Differences(files=3)
    before = rows("SELECT uid, own, pixel_at FROM instance ORDER BY uid")
    rows("DELETE FROM instance WHERE uid = %s", uid("a", "lung", "1"))
    rows("UPDATE instance SET pixel_at = 1 WHERE uid = %s", uid("a", "lung", "2"))
    rows("INSERT INTO instance (study, series, uid, class_uid, syntax_uid, prefix, bytes, sha256, content, own)"
         " SELECT study, series, '1.2', '', '', 'dicom/gone', 1, 'x', 'x', '{}' FROM instance LIMIT 1")  # fmt: skip
    assert inside(again) == Differences(files=3, added=1, changed=1, removed=1)
    assert rows("SELECT uid, own, pixel_at FROM instance ORDER BY uid") == before
    rows("DELETE FROM study")
    assert inside(again) == Differences(files=3, added=3)
    assert rows("SELECT instance_count FROM study") == [(3,)]


def test_a_file_that_is_cut_off_is_refused_and_another_is_left_alone():
    data = encoded(dataset("a", "lung"))
    assert read_entry(b"image", "x", sha256="", size=5) is None
    with pytest.raises(FormatError, match="cannot be read"):
        read_entry(data[:200], "x", sha256="", size=200)
    with pytest.raises(FormatError, match="no valid StudyInstanceUID"):
        read_entry(encoded(dataset("a", "lung", StudyInstanceUID="")), "x", sha256="", size=1)


def test_two_who_store_into_one_study_at_once_both_do(sites, inside, rows):
    async def action(centre):
        await asyncio.gather(*(kept(centre, "st-anna", dataset("a", f"s{each % 2}", each)) for each in range(8)))

    inside(action)
    assert rows("SELECT instance_count, series_count FROM study") == [(8, 2)]


def test_what_is_made_of_a_scan_is_in_the_index_until_it_is_deleted(site, inside, rows, settings, operate):
    recipe = f"Reconstruction from raw counts, recipe routine 3, SHA-256 {'a' * 64}, scan x."
    equipment = Dataset()
    equipment.ContributionDescription = recipe
    image = dataset("own", "image", ContributingEquipmentSequence=[equipment])
    noise = dataset("own", "noise", ImageType=["DERIVED", "SECONDARY", "AXIAL", "NOISE_SD"])
    dose = dataset("own", "dose", Modality="SR", SOPClassUID="1.2.840.10008.5.1.4.1.1.88.67")

    def make(_work, manifest, folder, watch):
        watch("reconstruct", 0.5)
        for name, made in (("ct", image), ("noise", noise), ("dose", dose)):
            (folder / f"{name}.dcm").write_bytes(encoded(made))
        (folder / "assessment.json").write_text("{}")
        return keep(Store(settings), series_prefix(manifest.site, manifest.scan), folder), "pass"

    manifest = site.send([b"raw" * 100])
    inside(lambda centre: work(centre, ("routine",), make=make, signals=False, wait=False))
    assert site.state(manifest.scan)["state"] == "done"
    held = rows(
        "SELECT role, series.recipe, id, instance_count FROM series JOIN scan ON scan.number = scan ORDER BY role"
    )
    assert held == [("dose", None, manifest.scan, 1), ("image", "routine", manifest.scan, 1),
                    ("noise", None, manifest.scan, 1)]  # fmt: skip
    rows("DELETE FROM study")
    code, out, said = operate("centre", "archive", "rebuild", "--json")
    assert (code, json.loads(out)["added"]) == (0, 3), said
    assert operate("centre", "forget", "st-anna", manifest.scan)[0] == 0
    assert rows("SELECT count(*) FROM study") == [(0,)]


def test_nothing_of_a_site_that_is_removed_stays(sites, inside, rows, settings, operate):
    inside(lambda centre: kept(centre, "st-anna", dataset("a", "lung")))
    assert operate("centre", "remove", "st-anna", "--anyway")[0] == 0
    assert rows("SELECT count(*) FROM instance") == [(0,)]
    assert not [one for one in (settings.folder / "objects").rglob("*") if one.is_file()]
