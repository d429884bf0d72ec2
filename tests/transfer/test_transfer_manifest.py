"""Manifests: what is written is read again, and nothing else that a stranger may send gets through."""

import contextlib
import json
import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lampyris.model import InputError
from lampyris.transfer import Chunk, Manifest, ManifestError, Part, PlannedImage, limits, parse_object

PAGE = Path(__file__).resolve().parents[2] / "docs" / "protocol.md"


def changed(manifest, **entries):
    """The manifest's JSON with some entries replaced; ... takes one away."""
    whole = json.loads(manifest.to_json()) | entries
    return json.dumps({name: value for name, value in whole.items() if value is not ...}).encode()


def test_a_manifest_survives_the_journey(manifest):
    again = Manifest.parse(manifest.to_json())
    assert again == manifest
    assert again.digest() == manifest.digest()


def test_only_the_content_counts_for_the_digest_of_a_manifest(manifest):
    loose = json.dumps(json.loads(manifest.to_json()), indent=3, sort_keys=False).encode()
    assert Manifest.parse(loose).to_json() == manifest.to_json()


def test_sizes_count_every_chunk_and_distinct_chunks_once(manifest):
    assert manifest.size == 21 + 20 + 20
    assert list(manifest.chunks().values()) == [21, 20]
    assert [at for _, at in manifest.parts[0].offsets()] == [0, 21]


def test_a_skeleton_has_neither_parts_nor_content(manifest):
    skeleton = manifest.skeleton()
    assert (skeleton.parts, skeleton.content) == ((), None)
    assert Manifest.parse(skeleton.to_json()) == skeleton


def test_a_file_is_cut_every_eight_mebibytes(tmp_path):
    data = bytes(range(251)) * 33_500
    assert len(data) > limits.CHUNK_BYTES
    (tmp_path / "x").write_bytes(data)
    part = Part.of_file("x", tmp_path / "x")
    pieces = [data[at : at + chunk.size] for chunk, at in part.offsets()]
    assert b"".join(pieces) == data
    assert [Chunk.of(piece) for piece in pieces] == list(part.chunks)
    assert part.chunks[0].size == 8 * 1024 * 1024


D = "0a" * 32
BAD = {
    "another protocol": {"protocol": "lampyris/2"},
    "no protocol": {"protocol": ...},
    "an unknown entry": {"PatientName": "x"},
    "a short scan id": {"scan": "ab"},
    "an upper-case scan id": {"scan": "AB" * 16},
    "a scan id that is a number": {"scan": 7},
    "a site with a slash": {"site": "a/b"},
    "no start": {"started": ...},
    "a local time": {"started": "2026-11-21T08:15:02+01:00"},
    "a line break after the time": {"started": "2026-11-21T08:15:02Z\n"},
    "an unknown priority": {"priority": "now"},
    "a recipe that is a path": {"recipe": "../routine"},
    "parts that are no list": {"parts": {}},
    "a part that leaves its folder": {"parts": [{"name": "../x", "chunks": [[D, 1]]}]},
    "an absolute part": {"parts": [{"name": "/x", "chunks": [[D, 1]]}]},
    "a part with a step up inside": {"parts": [{"name": "a/../b", "chunks": [[D, 1]]}]},
    "a part with a backslash": {"parts": [{"name": "a\\b", "chunks": [[D, 1]]}]},
    "a part with a null": {"parts": [{"name": "a\0", "chunks": [[D, 1]]}]},
    "a hidden part": {"parts": [{"name": ".x", "chunks": [[D, 1]]}]},
    "a part too deep": {"parts": [{"name": "a/b/c/d/e", "chunks": [[D, 1]]}]},
    "the same part twice": {"parts": [{"name": "a", "chunks": [[D, 1]]}] * 2},
    "a part below a part": {"parts": [{"name": "a/b", "chunks": [[D, 1]]}, {"name": "a", "chunks": [[D, 1]]}]},
    "an empty part": {"parts": [{"name": "a", "chunks": []}]},
    "an empty chunk": {"parts": [{"name": "a", "chunks": [[D, 0]]}]},
    "a chunk too large": {"parts": [{"name": "a", "chunks": [[D, limits.CHUNK_BYTES + 1]]}]},
    "a chunk of true bytes": {"parts": [{"name": "a", "chunks": [[D, True]]}]},
    "a chunk of half a byte": {"parts": [{"name": "a", "chunks": [[D, 1.5]]}]},
    "a chunk of two sizes": {"parts": [{"name": "a", "chunks": [[D, 1], [D, 2]]}]},
    "a chunk that is no digest": {"parts": [{"name": "a", "chunks": [["../../etc/passwd", 1]]}]},
    "too many chunks": {"parts": [{"name": "a", "chunks": [[D, 1]] * (limits.CHUNKS + 1)}]},
    "too many chunks together": {"parts": [{"name": n, "chunks": [[D, 1]] * (limits.CHUNKS // 2 + 1)} for n in "ab"]},
    "views before the first": {"parts": [{"name": "a", "chunks": [[D, 1]], "views": [-1, 2]}]},
    "views that are no pair": {"parts": [{"name": "a", "chunks": [[D, 1]], "views": [1]}]},
    "a name of a patient": {"study": {"PatientName": "x"}},
    "a pseudonym that is a name": {"study": {"PatientID": "Müller^Anna"}},
    "a sex that is a list": {"study": {"PatientSex": ["F"]}},
    "nested packing": {"packing": {"codec": {"a": 1}}},
    "too much packing": {"packing": {f"n{i}": i for i in range(33)}},
    "a long text in packing": {"packing": {"codec": "x" * 129}},
    "half a character in packing": {"packing": {"codec": "\ud800"}},
    "a null in packing": {"packing": {"codec": "a\0"}},
    "a huge number in packing": {"packing": {"step": 10**301}},
    "digits of another script": {"started": "２026-11-21T08:15:02Z"},
    "an age in another script": {"study": {"PatientAge": "05６Y"}},
    "half a character in a name": {"parts": [{"name": "a\udc00", "chunks": [[D, 1]]}]},
    "a long seal": {"sealed": "x" * (limits.SEALED_CHARACTERS + 1)},
    "a seal with a line break": {"sealed": "a\nb"},
    "content that is no digest": {"content": "ab"},
}


@pytest.mark.parametrize("entries", BAD.values(), ids=BAD.keys())
def test_what_the_page_forbids_is_refused(manifest, entries):
    with pytest.raises(ManifestError):
        Manifest.parse(changed(manifest, **entries))


@pytest.mark.parametrize(
    "data",
    [b"", b"[]", b"null", b"{", b"\xff\xfe{}", b'{"a":1,"a":2}', b'{"a":NaN}', b"{}{}", b"[" * 99999],
    ids=["empty", "list", "null", "cut", "utf-16", "repeated", "nan", "two", "deep"],
)
def test_what_is_no_object_is_refused(data):
    with pytest.raises(ManifestError):
        Manifest.parse(data)


def test_a_manifest_that_is_too_long_is_refused_unread():
    with pytest.raises(ManifestError, match="4194305 bytes, at most 4194304"):
        Manifest.parse(b"{" + b" " * limits.MANIFEST_BYTES)


def test_infinity_is_no_number_of_a_packing(manifest):
    data = changed(manifest).replace(b"0.25", b"1e999")
    with pytest.raises(ManifestError, match="packing"):
        Manifest.parse(data)


def test_no_message_holds_what_a_field_held(manifest):
    """A field may hold a name in the wrong place; a message ends in a log."""
    for name in ("scan", "site", "started", "format", "priority", "recipe", "content"):
        with pytest.raises(ManifestError) as caught:
            Manifest.parse(changed(manifest, **{name: "Anna^Müller"}))
        assert "Anna" not in str(caught.value)
    with pytest.raises(ManifestError) as caught:
        Manifest.parse(changed(manifest, study={"PatientID": "Anna^Müller"}))
    assert "Anna" not in str(caught.value)


PLAIN = st.none() | st.booleans() | st.integers() | st.floats() | st.text()
LISTS = st.lists(PLAIN | st.lists(PLAIN))


@given(PLAIN | LISTS | st.dictionaries(st.text(), PLAIN | LISTS))
def test_any_value_in_any_place_is_read_or_refused(value):
    whole = {"protocol": limits.PROTOCOL, "scan": "0" * 32, "site": "a", "started": "2026-01-01T00:00:00Z",
             "format": "lraw", "parts": []}  # fmt: skip
    for name in (*whole, "packing", "study", "sealed", "views", "recipe", "image"):
        try:
            found = Manifest.parse(json.dumps(whole | {name: value}).encode())
        except InputError:
            continue
        assert Manifest.parse(found.to_json()) == found


PLANNED = {"field_of_view_mm": 350, "centre_mm": [0.5, -12], "first_mm": -140.25, "last_mm": 160}


def test_a_planned_image_is_read_as_it_was_written_and_stays_in_the_skeleton(manifest):
    found = Manifest.parse(changed(manifest, image=PLANNED))
    assert found.image == PlannedImage(350.0, (0.5, -12.0), -140.25, 160.0)
    assert Manifest.parse(found.to_json()) == found
    assert found.skeleton().image == found.image
    assert Manifest.parse(changed(manifest, image=None)).image is None


@pytest.mark.parametrize(
    ("entry", "value"),
    [
        ("field_of_view_mm", 0.5),
        ("field_of_view_mm", 10**400),
        ("field_of_view_mm", True),
        ("centre_mm", [1.0]),
        ("centre_mm", [1.0, 2.0, 3.0]),
        ("centre_mm", [1.0, "2"]),
        ("first_mm", 161),
        ("last_mm", 10_001),
        ("last_mm", None),
        ("slices", 3),
    ],
)
def test_a_planned_image_is_whole_and_of_this_world(manifest, entry, value):
    with pytest.raises(ManifestError, match="image"):
        Manifest.parse(changed(manifest, image=PLANNED | {entry: value}))


@given(st.binary(max_size=200))
def test_any_bytes_are_an_object_or_refused(data):
    with contextlib.suppress(ManifestError):
        assert isinstance(parse_object(data, largest=100, what="it"), dict)


def test_the_limits_on_the_page_are_the_limits_in_the_code():
    rows = dict(re.findall(r"^\| `(\w+)` \| (\d+) \|", PAGE.read_text("utf-8"), re.MULTILINE))
    assert len(rows) == 11
    assert {name: int(value) for name, value in rows.items()} == {name: getattr(limits, name.upper()) for name in rows}
