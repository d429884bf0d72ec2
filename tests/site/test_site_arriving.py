"""A scan travels while the gantry turns; broken off, restarted or rewritten, what is committed is what was whole."""

import json

import pytest
from conftest import STUDY, rounds

from lampyris import raw
from lampyris.site import status
from lampyris.site.packing import IDLE_S


def only(found):
    (one,) = found
    return one


def parts(scan) -> list[bytes]:
    return [part.content for part in raw.pack(scan, raw.Decision("sigma/2", "the scanner's"), part_bytes=7_013)]


@pytest.fixture
def arriving(config):
    """A scan that the scanner appends to; its order is there from the start."""
    path = config.watch.folder / "x.lraw.arriving"
    (config.watch.folder / "x.lraw.json").write_text(json.dumps({"study": STUDY, "priority": "stat"}))
    return path


def append(path, pieces) -> None:
    with path.open("ab") as file:
        for piece in pieces:
            file.write(piece)


def test_a_scan_travels_while_it_arrives(agent, centre, scan, arriving, small_chunks, tmp_path):
    pieces = parts(scan)
    append(arriving, pieces[:-1])
    rounds(agent, 20)
    held = only(centre.scans.values())
    assert (held["state"], len(held["chunks"])) == ("open", len(pieces) - 1)
    append(arriving, pieces[-1:])
    rounds(agent, 4)
    assert held["state"] == "open"  # nobody said that it is whole
    arriving.rename(arriving.with_name("x.lraw"))
    rounds(agent, 30)
    assert centre.packed(only(centre.scans)) == b"".join(pieces)
    assert (held["state"], held["skeleton"].priority) == ("queued", "stat")
    assert dict(held["skeleton"].packing)["coding"] == "sigma/2"
    (tmp_path / "y.lraw").write_bytes(b"".join(pieces))
    assert held["manifest"].content == raw.info(tmp_path / "y.lraw").id


def test_a_restart_while_a_scan_arrives_goes_on_with_it(agent_of, config, centre, scan, arriving, small_chunks):
    pieces = parts(scan)
    append(arriving, pieces[:5])
    rounds(agent_of(config), 12)
    assert centre.put_bytes > 0
    append(arriving, pieces[5:])
    arriving.rename(arriving.with_name("x.lraw"))
    rounds(agent_of(config), 30)
    assert centre.packed(only(centre.scans)) == b"".join(pieces)
    assert centre.put_bytes == len(b"".join(pieces))


def test_a_scan_that_was_broken_off_is_withdrawn(agent, centre, scan, arriving, config, small_chunks):
    append(arriving, parts(scan)[:5])
    rounds(agent, 12)
    arriving.unlink()
    rounds(agent, 8)
    assert only(centre.scans.values())["reason"][0] == "WITHDRAWN"
    assert "deleted before it was whole" in only(status(config)["not_taken"])["reason"][1]
    append(arriving, parts(scan))
    rounds(agent, 8)
    assert len(centre.scans) == 2  # the next one of that name is another scan


def test_what_is_wrong_with_an_arriving_scan_is_told_when_it_is_whole(agent, centre, scan, arriving, config):
    append(arriving, [bytes(30_000)])
    rounds(agent, 3)
    assert agent.spool.records() == {}
    arriving.rename(arriving.with_name("x.lraw"))
    rounds(agent, 3)
    assert "INPUT_FORMAT" in only(status(config)["not_taken"])["reason"]


def test_a_scan_that_stopped_growing_is_given_up(agent, centre, scan, arriving, now, small_chunks):
    append(arriving, parts(scan)[:5])
    rounds(agent, 12)
    arriving.with_name("x.lraw.json").unlink()  # so that it is not taken for another
    now.at += IDLE_S + 1
    rounds(agent, 5)
    assert only(centre.scans.values())["state"] == "refused"


def test_a_writer_that_went_back_is_noticed(agent, centre, scan, arriving, small_chunks):
    """What is committed is the file as it is at its end, whatever was sent of it before."""
    pieces = parts(scan)
    append(arriving, pieces[:5])
    rounds(agent, 8)
    append(arriving, [bytes(len(pieces[5])), *pieces[6:]])
    rounds(agent, 8)
    assert len(only(centre.scans.values())["chunks"]) > 5
    arriving.write_bytes(b"".join(pieces))
    arriving.rename(arriving.with_name("x.lraw"))
    rounds(agent, 30)
    assert centre.packed(only(centre.scans)) == b"".join(pieces)
