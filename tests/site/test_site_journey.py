"""A scan goes from a folder to the PACS by way of a centre: once, byte for byte, and nobody on the way learns whose."""

import json

import pydicom
import pytest
from conftest import SECRETS, STUDY, rounds

from lampyris import raw
from lampyris.site import status


def only(found):
    (one,) = found
    return one


def test_a_scan_in_the_folder_comes_home_as_a_named_series(
    agent, centre, drop, series, config, scan, small_chunks, tmp_path
):
    drop(recipe="routine-lung")
    rounds(agent, 30)
    sent = only(centre.scans)
    held = centre.scans[sent]
    assert (held["state"], held["commits"], held["manifest"].recipe) == ("queued", 1, "routine-lung")
    (tmp_path / "arrived.lraw").write_bytes(centre.packed(sent))
    raw.verify(tmp_path / "arrived.lraw")
    arrived = raw.read(tmp_path / "arrived.lraw")
    assert arrived.id == held["manifest"].content
    assert arrived.coding.source_id == scan.id
    assert len(held["chunks"]) > 6
    assert agent.spool.stored_bytes(sent) == len(centre.packed(sent))  # kept until the series is here
    files = series(centre, sent)
    centre.reconstruct(sent, files)
    rounds(agent, 12)
    assert centre.acknowledged[sent] == 1
    home = config.pacs[0].folder / sent
    assert {path.name for path in home.iterdir()} == set(files)
    found = pydicom.dcmread(home / "ct_00002.dcm")
    assert str(found.PatientName) == STUDY["PatientName"]
    assert {name: str(found[name].value) for name in STUDY} == STUDY
    assert found.StudiesContainingOtherReferencedInstancesSequence[0].StudyInstanceUID == STUDY["StudyInstanceUID"]
    assert found.SOPInstanceUID == "1.2.826.0.1.2"
    assert found.pixel_array[0, 0] == 2
    assert list(agent.spool.entries()) == []
    assert status(config)["finished"] == 1


@pytest.mark.parametrize("identity", ["local", "sealed"])
def test_identity_leaves_the_site_in_no_form_that_can_be_read(agent_of, centre, drop, config, identity, replaced):
    said = []
    centre.before.append(lambda request: said.append(bytes(request.url.raw_path) + request.read()))
    agent = agent_of(replaced(config, identity=identity))
    drop()
    rounds(agent, 20)
    skeleton = only(centre.scans.values())["skeleton"]
    assert (skeleton.sealed is not None) == (identity == "sealed")
    told = dict(skeleton.study)
    assert set(told) == {"PatientID", "PatientSex", "PatientAge", "AccessionNumber", "StudyInstanceUID"}
    assert (told["PatientSex"], told["PatientAge"]) == ("M", "056Y")
    whole = b"\n".join(said)
    assert len(whole) > 10_000
    assert not [secret for secret in SECRETS if secret.encode() in whole]
    spooled = [path for path in config.folder.rglob("*") if path.is_file()]
    written = b"\n".join(path.read_bytes() for path in spooled).replace(
        b"Zhang_San.lraw", b""
    )  # the name of its source
    assert not [secret for secret in SECRETS if secret.encode() in written]
    assert {path.stat().st_mode & 0o077 for path in spooled} == {0}


def test_a_patient_keeps_the_pseudonym_and_two_patients_have_two(agent, centre, drop, scan):
    first = drop("a.lraw")
    drop("b.lraw", recipe="other")
    drop("c.lraw", study=STUDY | {"PatientID": "4712"})
    rounds(agent, 30)
    named = sorted(dict(held["skeleton"].study)["PatientID"] for held in centre.scans.values())
    assert len(named) == 3
    assert len(set(named)) == 2
    assert first.exists()


def test_a_new_pc_with_the_old_keys_brings_sealed_series_home(agent_of, centre, drop, series, config, replaced):
    import shutil

    config = replaced(config, identity="sealed")
    drop()
    rounds(agent_of(config), 20)
    sent = only(centre.scans)
    centre.reconstruct(sent, series(centre, sent))
    shutil.rmtree(config.folder / "spool")
    for path in config.watch.folder.iterdir():
        path.unlink()
    rounds(agent_of(config), 12)
    found = pydicom.dcmread(config.pacs[0].folder / sent / "ct_00001.dcm")
    assert (found.PatientID, found.StudyInstanceUID) == (STUDY["PatientID"], STUDY["StudyInstanceUID"])


def test_a_series_of_nobody_we_know_is_left_at_the_centre_and_shown(agent_of, agent, centre, drop, series, config):
    import shutil

    drop()
    rounds(agent, 20)
    sent = only(centre.scans)
    centre.reconstruct(sent, series(centre, sent))
    shutil.rmtree(config.folder / "spool")
    for path in config.watch.folder.iterdir():
        path.unlink()
    other = agent_of(config)
    rounds(other, 12)
    other.beat()
    assert centre.acknowledged[sent] == 0
    assert "1 series" in status(config)["waiting"]["unclaimed"][1]


def test_what_the_gate_stops_is_held_and_not_forwarded(agent, centre, drop, series, config):
    drop()
    rounds(agent, 20)
    sent = only(centre.scans)
    centre.reconstruct(sent, series(centre, sent), verdict="stop")
    rounds(agent, 12)
    assert centre.acknowledged[sent] == 1
    assert not config.pacs[0].folder.exists()
    assert status(config)["queue"]["by_state"] == {"held": 1}


def test_a_refused_scan_is_kept_with_its_reason(agent, centre, drop, config, now):
    drop()
    rounds(agent, 20)
    sent = only(centre.scans)
    centre.scans[sent] |= {"state": "refused", "reason": ("INPUT_CALIBRATION", "no air scan")}
    rounds(agent, 5)
    told = only(status(config, now=now)["scans"])
    assert (told["state"], told["reason"]) == ("refused", ["INPUT_CALIBRATION", "no air scan"])
    assert told["bytes"] > 0
    now.at += 31 * 86400
    rounds(agent, 3)
    assert status(config)["scans"] == []
    assert only(status(config)["not_taken"])["reason"] == ("INPUT_CALIBRATION", "no air scan")


def test_a_scan_that_the_centre_lost_is_sent_again(agent, centre, drop, series):
    """Its disk was restored from a backup of yesterday."""
    drop()
    rounds(agent, 20)
    sent = only(centre.scans)
    packed = centre.packed(sent)
    centre.scans.clear()
    rounds(agent, 20)
    assert centre.packed(sent) == packed
    assert centre.scans[sent]["state"] == "queued"


def test_a_scan_that_failed_at_the_centre_is_kept_and_watched(agent, centre, drop, series, config):
    drop()
    rounds(agent, 20)
    sent = only(centre.scans)
    centre.scans[sent] |= {"state": "failed", "reason": ("MACHINE_MEMORY", "too little")}
    rounds(agent, 5)
    told = only(status(config)["scans"])
    assert (told["state"], told["centre"], told["reason"]) == ("committed", "failed", ["MACHINE_MEMORY", "too little"])
    centre.reconstruct(sent, series(centre, sent))
    rounds(agent, 12)
    assert centre.acknowledged[sent] == 1


def test_status_tells_queue_and_age_and_no_names_unless_asked(agent, centre, drop, config, now):
    drop()
    drop("b.lraw", priority="stat")
    rounds(agent, 20)
    agent.beat()
    now.at += 500
    told = status(config, now=now)
    assert told["queue"]["by_state"] == {"committed": 2}
    assert told["queue"]["oldest_s"] == 500
    assert [scan["priority"] for scan in told["scans"]] == ["stat", "routine"]
    assert told["agent"]["running"] is False
    assert told["link"]["sent_bytes"] > 10_000
    assert "Zhang" not in json.dumps(told, ensure_ascii=False)
    assert "Zhang" in json.dumps(status(config, now=now, names=True), ensure_ascii=False)
